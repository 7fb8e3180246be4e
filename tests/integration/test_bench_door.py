# SPDX-License-Identifier: Apache-2.0
"""medley bench over HTTP at the router's own door: what one counts is what the other counts."""
import json
import pathlib
import tempfile
import unittest
import xml.dom.minidom

import harness
from certificates import Authority
from harness import Process, metrics, wait_until
from test_grpc import SMALL, outcomes
from test_text import TextTest

KEY, OTHER_KEY = "sk-bench-0123456789abcdef", "sk-other-0123456789abcdef"
SIZES = ("--input-tokens", 20, "--output-tokens", 5)


class Door(TextTest):
    WORKERS = {SMALL: 1}

    def start_fleet(self, *options):
        self.start_text("--queue-wait", "1h", "--admission", "queue", *options)
        self.worker = Process("medley-worker", "--plan", self.plan, "--worker-type", SMALL, "--router", self.link, "--worker-id", "w1",
                              "--emulated-bias", "0.01", "--metrics-listen", "127.0.0.1:0")
        self.addCleanup(self.worker.kill)
        wait_until(lambda: any("worker w1 joined" in line for line in self.router.stderr), "the worker")
        self.url = f"http://{self.http}"

    def bench(self, *options, status=0, json_too=True):
        got, out, err = harness.run("medley-bench", "--api", "openai", "--url", self.url, "--model", "llama-2-7b",
                                    *(("--json",) if json_too else ()), *options)
        self.assertEqual(got, status, f"{out}\n{err}")
        return json.loads(out) if json_too and out else out + err

    def assert_counted(self, count):
        """The router ended as many requests as bench sent, all of them at their length."""
        ended = outcomes(self.http)
        self.assertEqual(sum(ended.values()), count, ended)
        self.assertEqual(ended["length"] + ended["stop"], count, ended)

    def test_closed_loop(self):
        self.start_fleet()
        report = self.bench(*SIZES, "--requests", 40, "--concurrency", 4)
        self.assertEqual((report["completed"], report["failed"]), (40, 0), report)
        self.assertEqual(report["total_output_tokens"], 200)
        self.assertEqual(report["total_input_tokens"], 800)
        self.assert_counted(40)
        report = self.bench(*SIZES, "--requests", 10, "--concurrency", 2, "--no-stream")
        self.assertEqual((report["completed"], report["total_output_tokens"]), (10, 50), report)
        text = self.bench(*SIZES, "--requests", 3, "--concurrency", 1, "--plan", self.plan, json_too=False)
        self.assertIn("no prediction: a closed loop", text)
        self.assert_counted(53)
        self.worker.stop()
        self.stop()

    def test_open_loop_of_the_plans_workload(self):
        self.start_fleet()
        report = self.bench("--plan", self.plan, "--requests", 40, "--rate", 100)
        self.assertEqual((report["completed"], report["failed"]), (40, 0), report)
        self.assertGreater(report["prediction"]["predicted"]["completed"], 0)
        self.assertEqual(report["prediction"]["observed"]["completed"], 40)
        self.assert_counted(40)
        said = sum(v for k, v in metrics(self.http).items() if k.startswith("medley_router_output_tokens_total"))
        self.assertEqual(said, report["total_output_tokens"])
        self.stop()

    def test_conversations_with_a_shared_beginning(self):
        self.start_fleet()
        rows = self.folder / "rows.jsonl"
        report = self.bench(*SIZES, "--requests", 12, "--turns", 3, "--prefix-tokens", 16, "--concurrency", 2,
                            "--save", rows)
        self.assertEqual((report["completed"], report["failed"]), (12, 0), report)
        rows = [json.loads(line) for line in rows.read_text().splitlines()]
        self.assertEqual([r["status"] for r in rows], ["OK"] * 12)
        # Each turn has the one before it, its answer, and 20 tokens more.
        self.assertEqual([r["input_tokens"] for r in rows[:3]], [36, 36 + 25, 36 + 50])
        self.assert_counted(12)
        self.stop()

    def test_sweep(self):
        self.start_fleet()
        plot, out = self.folder / "sweep.svg", self.folder / "sweep.json"
        self.bench(*SIZES, "--requests", 12, "--sweep", "concurrency=1..4x2", "--warm-up", 2, "--plot", plot, "-o", out)
        points = json.loads(out.read_text())
        self.assertEqual([p["completed"] for p in points], [12] * 3, points)
        xml.dom.minidom.parse(str(plot))
        self.assert_counted(38)
        self.stop()

    def test_over_tls_with_a_key(self):
        folder = tempfile.TemporaryDirectory(prefix="medley-tls-")
        self.addCleanup(folder.cleanup)
        secrets = pathlib.Path(folder.name)
        authority, other = Authority(secrets), Authority(secrets, "other")
        certificate, key = authority.server("door")
        keys, wrong = secrets / "keys", secrets / "wrong"
        for path, value in ((keys, KEY), (wrong, OTHER_KEY)):
            path.write_text(value + "\n")
            path.chmod(0o600)
        self.start_fleet("--tls-certificate", certificate, "--tls-key", key, "--api-key-file", keys)
        self.url = f"https://{self.http}"
        right = ("--tls-ca", authority.pem, "--api-key-file", keys)
        report = self.bench(*SIZES, "--requests", 12, "--concurrency", 3, *right)
        self.assertEqual((report["completed"], report["failed"]), (12, 0), report)
        for options, words in (((*right[:2], "--api-key-file", wrong), "UNAUTHENTICATED"),
                               (right[:2], "UNAUTHENTICATED"),
                               (("--tls-ca", other.pem, *right[2:]), "certificate")):
            text = self.bench(*SIZES, "--requests", 2, "--concurrency", 1, "--connect-timeout", "2s", *options, status=1,
                              json_too=False)
            self.assertIn(words, text)
            self.assertNotIn(OTHER_KEY, text)
        self.router.stop()


if __name__ == "__main__":
    unittest.main()
