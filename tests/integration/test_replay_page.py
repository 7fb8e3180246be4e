# SPDX-License-Identifier: Apache-2.0
"""The page of medley replay, as a file and in a browser."""
import html.parser
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import plans
from harness import PATIENCE_S, run

WORKERS = {"a10g-llama-2-7b-fp16": 2, "a100-80gb-llama-2-7b-fp16": 1}
BROWSER = shutil.which("chromium")
LOG = "arrival_s,input_tokens,output_tokens\n" + "".join(
    f"{0.05 * i:.2f},{100 + 7 * i % 900},{1 + 11 * i % 60}\n" for i in range(600))


class Markup(html.parser.HTMLParser):
    """What a page loads, and the text of its script."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.script, self.inside = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.inside = tag == "script"
        self.loads += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        self.script += data if self.inside else ""


class Page(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="medley-page-")))
        self.plan = plans.write(self.folder / "plan.json", WORKERS)
        self.log = self.folder / "log.csv"
        self.log.write_text(LOG)

    def replay(self, *args, plan=None, status=0):
        page = self.folder / "report.html"
        got, out, err = run("medley-replay", plan or self.plan, "--trace", self.log, "--json", "--html", page, *args)
        self.assertEqual(got, status, err)
        return (json.loads(out), page) if status == 0 else err

    def browse(self, page):
        """What the script has made of the document."""
        profile = self.folder / "profile"
        done = subprocess.run(
            [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
             "--v=0", f"--user-data-dir={profile}", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()],
            capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        self.assertNotRegex(done.stderr, "Uncaught|Refused to|CONSOLE")
        return done.stdout.split("<script>")[0]

    def test_it_has_all_in_it_and_the_figures_of_the_json(self):
        report, page = self.replay()
        text = page.read_text()
        markup = Markup(text)
        self.assertEqual(markup.loads, ["data:,"])
        found = re.search(r"^const report = (\{.*?\n\})\n?;$", markup.script, re.S | re.M)
        self.assertEqual(json.loads(found[1]), report)
        self.assertEqual(set(re.findall(r"https?://[^\s\"]+", text)), {"http://www.w3.org/2000/svg"})
        self.replay()
        self.assertEqual(page.read_text(), text)

    def test_columns_add_up_to_the_report(self):
        report, _ = self.replay("--warm-up", "0s")
        line = report["timeline"]
        self.assertEqual(sum(line["arrivals"]), report["all"]["requests"])
        self.assertEqual(sum(line["finished"]), report["all"]["finished"])
        self.assertEqual(sum(line["within"]), round(report["all"]["attainment"] * report["all"]["requests"]))
        self.assertEqual(sum(sum(t["tokens"]) for t in line["worker_types"]), report["all"]["output_tokens"])
        lengths = {len(v) for v in line.values() if isinstance(v, list) and not isinstance(v[0], dict)}
        self.assertEqual(len(lengths), 1)
        self.assertLessEqual(lengths.pop(), 240)
        curve = report["percentiles"]["ttft_ms"]
        self.assertEqual(curve, sorted(curve))
        self.assertEqual((len(curve), curve[50], curve[100]),
                         (101, report["all"]["ttft_ms"]["p50"], report["all"]["ttft_ms"]["max"]))

    def test_names_from_outside_are_text(self):
        name = "</script><img src=x onerror=alert(1)>&amp;.json"
        hostile = plans.write(self.folder / name.replace("/", ":"), WORKERS)
        report, page = self.replay(plan=hostile)
        self.assertIn("<img src=x", report["plan"]["file"])
        text = page.read_text()
        self.assertNotIn("<img", text)
        self.assertEqual(text.count("</script>"), 1)

    def test_a_page_that_cannot_be_written_is_an_error(self):
        err = self.replay("--html", self.folder / "none" / "page.html", status=1)
        self.assertIn("none/page.html", err)
        self.assertIn("No such file", err)

    @unittest.skipUnless(BROWSER, "no chromium here; ./check installs it")
    def test_a_browser_draws_it(self):
        report, page = self.replay()
        dom = self.browse(page)
        self.assertEqual(dom.count("<figure"), 12)
        for objective in report["objectives"]:
            self.assertIn(objective["objective"] + (" is met" if objective["met"] else " is not met"), dom)
        self.assertIn(f"{report['all']['requests']} requests over", dom)
        for worker_type in report["worker_types"]:
            self.assertIn(worker_type["worker_type"], dom)
        self.assertNotRegex(dom, r"NaN|undefined|Infinity|\[object")

    @unittest.skipUnless(BROWSER, "no chromium here; ./check installs it")
    def test_a_browser_draws_several_runs_and_faults(self):
        report, page = self.replay("--compare")
        dom = self.browse(page)
        self.assertEqual(report["format"], "medley-replay-comparison/1")
        self.assertEqual(dom.count("<circle"), len(report["runs"]))
        self.assertIn("token-load", dom)
        self.assertNotRegex(dom, r"NaN|undefined|Infinity|\[object")
        report, page = self.replay("--faults", "random,every=5s", "--fault-seed", 3)
        dom = self.browse(page)
        self.assertGreater(len(report["faults"]["strikes"]), 0)
        self.assertIn('class="mark"', dom)
        self.assertNotRegex(dom, r"NaN|undefined|Infinity|\[object")


if __name__ == "__main__":
    unittest.main(verbosity=2)
