# SPDX-License-Identifier: Apache-2.0
"""medley replay as a user runs it: figures, the same bytes for the same input, and sentences for what is wrong."""
import csv
import json
import math
import pathlib
import tempfile
import unittest

from planning import run, write_plan


class Replay(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.top = pathlib.Path(cls.folder.name)
        cls.plan = cls.top / "plan.json"
        write_plan(cls.plan, 6)
        cls.log = cls.top / "log.csv"
        cls.log.write_text("arrival_s,input_tokens,output_tokens\n" +
                           "".join(f"{100 + i / 5},{200 + i},{20 + i % 7}\n" for i in range(300)))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def replay(self, *arguments):
        return json.loads(run("medley-replay", self.plan, "--json", *arguments))

    def test_the_same_input_gives_the_same_bytes(self):
        arguments = (self.plan, "--json", "--requests", 1500, "--arrival", "gamma", "--burstiness", 0.5)
        first = run("medley-replay", *arguments, "--seed", 7)
        self.assertEqual(first, run("medley-replay", *arguments, "--seed", 7))
        self.assertNotEqual(first, run("medley-replay", *arguments, "--seed", 8))

    def test_figures_are_those_of_the_rows(self):
        rows_file = self.top / "rows.csv"
        r = self.replay("--trace", self.log, "--rows", rows_file)
        with open(rows_file, newline="") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual((r["format"], r["arrivals"]["process"], len(rows)), ("medley-replay/1", "trace", 300))
        self.assertEqual(r["all"]["requests"], 300)
        self.assertEqual([int(row["input_tokens"]) for row in rows], [200 + i for i in range(300)])
        self.assertAlmostEqual(float(rows[-1]["arrival_s"]), 299 / 5, places=6)
        for metric in "ttft", "e2e", "tpot":
            values = sorted(float(row[f"{metric}_ms"]) for row in rows)
            self.assertAlmostEqual(r["all"][f"{metric}_ms"]["mean"], math.fsum(values) / 300, places=4)
            self.assertTrue(values[296] <= r["all"][f"{metric}_ms"]["p99"] <= values[297])
        self.assertEqual(sum(b["requests"] for b in r["buckets"]), 300)
        self.assertEqual(sum(t["requests"] for t in r["worker_types"]), 300)
        self.assertEqual(r["ends"]["finished"], 300)
        plan = json.loads(self.plan.read_text())
        self.assertAlmostEqual(r["cost"]["usd_per_hour"], plan["cost_per_hour"])

    def test_a_window_of_a_log_and_another_speed(self):
        r = self.replay("--trace", self.log, "--from", "10s", "--duration", "20s", "--warm-up", "5s")
        self.assertEqual((r["arrivals"]["count"], r["arrivals"]["warm_up_count"]), (100, 25))
        twice = self.replay("--trace", self.log, "--speed", 2)
        self.assertAlmostEqual(twice["arrivals"]["rate_per_s"] / 5, 2, delta=0.05)

    def test_what_comes_at_one_moment_has_no_rate(self):
        arguments = (self.plan, "--requests", 20, "--arrival", "all-at-once")
        for more in ((), ("--compare",)):
            text = run("medley-replay", *arguments, *more)
            self.assertIn("all-at-once arrivals", text)
            self.assertNotRegex(text, "nan|requests/s")
        self.assertIsNone(self.replay(*arguments[1:])["arrivals"]["rate_per_s"])

    def test_overload_is_told(self):
        r = self.replay("--requests", 2000, "--speed", 6)
        self.assertGreater(r["ends"]["refused_overload"], 100)
        self.assertEqual(r["ends"]["refused_overload"] + r["ends"]["rejected"] + r["ends"]["finished"], 2000)
        self.assertLess(r["all"]["attainment"], 0.9)
        calm = self.replay("--requests", 2000)
        self.assertEqual(calm["ends"]["finished"], 2000)
        self.assertGreater(calm["all"]["attainment"], 0.99)

    def test_policies_and_plans_side_by_side(self):
        other = write_plan(self.top / "other.json", 6, "--instances", "8x H100 SXM")
        r = json.loads(run("medley-replay", self.plan, other, "--compare", "--requests", 800, "--json"))
        runs = r["runs"]
        self.assertEqual(len(runs), 12)
        self.assertEqual(len({x["policy"] for x in runs}), 6)
        costs = {x["plan"]: x["usd_per_hour"] for x in runs}
        self.assertGreater(costs[str(other)], costs[str(self.plan)])
        alone = self.replay("--requests", 800, "--policy", "random")
        same = [x for x in runs if x["policy"] == "random" and x["plan"] == str(self.plan)][0]
        self.assertEqual(same["ttft_ms"]["p99"], alone["all"]["ttft_ms"]["p99"])
        text = run("medley-replay", self.plan, "--compare", "--requests", 200)
        self.assertIn("least-outstanding", text)

    def test_what_is_wrong_is_said(self):
        for arguments, status, said in (
                (["/nowhere.json"], 2, "/nowhere.json"),
                ([self.log], 2, "log.csv"),
                ([self.plan, "--trace", self.log, "--workload", "azure-code"], 2, "expected one of them"),
                ([self.plan, "--trace", self.log, "--from", "1h"], 2, "behind the log's last request"),
                ([self.plan, "--from", "1s"], 2, "--from applies to a request log"),
                ([self.plan, "--requests", "10", "--warm-up", "1h"], 2, "warm-up"),
                ([self.plan, "--compare", "--rows", self.top / "r.csv"], 2, "--rows"),
                ([self.plan, "--policy", "best"], 2, "token-load"),
                ([self.plan, "--slo", "tpot=120"], 2, "tpot")):
            with self.subTest(arguments=arguments):
                self.assertIn(said, run("medley-replay", *arguments, status=status))

    def test_an_infeasible_plan_has_no_fleet(self):
        none = self.top / "none.json"
        run("medley-plan", "azure-conversation", "--model", "llama-2-7b", "--slo", "tpot.mean=1ms", "--output", none,
            status=3)
        self.assertIn("infeasible", run("medley-replay", none, status=3))


if __name__ == "__main__":
    unittest.main()
