# SPDX-License-Identifier: Apache-2.0
"""The conversation trace's workload, planned and served at 80 % load: what the plan promises holds.

Slow by its nature (some 100 s), and it measures time, so it runs alone and on release builds.
"""
import json
import os
import signal
import unittest

import harness
from harness import run, wait_until
from test_up import Fleet

REQUESTS = 2100
SCALE = 3


class Conversation(Fleet):
    plan_text = None

    @classmethod
    def make_plan(cls):
        status, out, err = run("medley-plan", "azure-conversation", "--data-dir", harness.ROOT,
                               "--model", "llama-2-7b", "--catalogue", "melange-paper",
                               "--slo", "tpot.mean=120ms,ttft.mean=2s", "--json")
        assert status == 0, err
        return out


class Azure(unittest.TestCase):
    def test_served_mix_does_what_was_predicted(self):
        with Conversation(scale=SCALE) as fleet:
            fleet.wait_ready()
            plan = json.loads(fleet.plan.read_text())
            self.assertGreaterEqual(len(plan["workers"]), 2, "a mix")
            for worker in plan["workers"]:
                self.assertLessEqual(worker["utilization"], 0.8 + 1e-9)
            report = fleet.bench("--requests", REQUESTS)
            print(json.dumps({k: report[k] for k in ("prediction", "objectives", "slo_attainment",
                                                     "cost_per_million_output_tokens",
                                                     "mean_lateness_ms")}, indent=1))
            self.assertEqual(report["sent"], REQUESTS)
            self.assertEqual(report["completed"], REQUESTS, report["errors"])
            self.assertEqual((report["tokens_lost"], report["tokens_duplicated"]), (0, 0))
            self.assertEqual(sum(fleet.outcomes().values()), REQUESTS)
            for objective in report["objectives"]:
                self.assertTrue(objective["met"], objective)
            prediction = report["prediction"]
            self.assertLess(abs(prediction["tpot_difference"]), 0.15, prediction)
            self.assertLess(abs(prediction["ttft_difference"]), 0.15, prediction)
            fleet.up.stop()

    def test_killed_worker_at_full_load_costs_no_request(self):
        with Conversation(scale=SCALE) as fleet:
            fleet.wait_ready()
            bench = fleet.bench("--requests", REQUESTS // 3, wait=False)
            wait_until(lambda: sum(fleet.outcomes().values()) > REQUESTS // 9, "a third of them")
            victim = max(fleet.state()["workers"],
                         key=lambda w: w["worker_type"].startswith("a100"))
            os.kill(victim["pid"], signal.SIGKILL)
            report = fleet.report(bench)
            self.assertEqual(report["completed"], REQUESTS // 3, report["errors"])
            self.assertEqual((report["tokens_lost"], report["tokens_duplicated"]), (0, 0))
            samples = harness.metrics(fleet.state()["http"])
            self.assertGreater(samples["medley_router_resumes_total"], 0, "it was busy")
            outcomes = fleet.outcomes()
            self.assertEqual(sum(outcomes.values()), report["sent"])
            self.assertEqual(outcomes["worker_lost"], 0)
            fleet.up.stop()


if __name__ == "__main__":
    unittest.main()
