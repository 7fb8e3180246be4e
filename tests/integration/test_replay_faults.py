# SPDX-License-Identifier: Apache-2.0
"""medley replay --faults as a user runs it: what breaks, what it costs, and sentences for what is wrong."""
import json
import pathlib
import tempfile
import unittest

from planning import run, write_plan

TYPE = "a100-80gb-llama-2-7b-fp16"


class Faults(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.top = pathlib.Path(cls.folder.name)
        for name, rate in (("plan", 6), ("larger", 12), ("smaller", 3)):
            write_plan(cls.top / f"{name}.json", rate, "--instances", "A100 SXM Community")
        cls.workers = json.loads((cls.top / "plan.json").read_text())["workers"][0]["count"]

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def text(self, faults, *arguments, status=0):
        return run("medley-replay", self.top / "plan.json", "--duration", "10m", "--faults", faults, *arguments,
                   status=status)

    def replay(self, faults, *arguments):
        return json.loads(self.text(faults, *arguments, "--json"))

    def test_the_same_seed_gives_the_same_bytes(self):
        seven = self.text("random,every=20s", "--fault-seed", 7, "--json")
        self.assertEqual(seven, self.text("random,every=20s", "--fault-seed", 7, "--json"))
        self.assertNotEqual(seven, self.text("random,every=20s", "--fault-seed", 8, "--json"))
        strikes = json.loads(seven)["faults"]["strikes"]
        self.assertGreater(len(strikes), 5)
        self.assertEqual(strikes, sorted(strikes, key=lambda s: s["at_s"]))

    def test_a_fleet_that_dies_is_missed_until_it_is_back(self):
        whole = self.replay("crash@200s:all,for=60s")
        faults = whole["faults"]
        strike, = faults["strikes"]
        self.assertEqual((strike["at_s"], strike["for_s"], strike["fault"], strike["target"], strike["workers"]),
                         (200, 60, "crash", "all", self.workers))
        self.assertGreater(strike["before"]["attainment"], 0.9)
        self.assertLess(strike["during"]["attainment"], 0.2)
        self.assertGreater(strike["without"]["attainment"], 0.9)
        self.assertEqual(strike["during"]["requests"], strike["without"]["requests"])
        self.assertTrue(strike["fell"])
        self.assertGreaterEqual(strike["back_after_s"], 60)
        self.assertGreater(faults["attainment_without"], faults["attainment"])
        self.assertEqual(faults["attainment"], whole["all"]["attainment"])
        self.assertEqual(faults["lost"], whole["ends"]["worker_lost"])
        self.assertEqual(strike["gone_s"], 200)

    def test_one_worker_lost_moves_its_requests(self):
        strike, = self.replay(f"crash@200s:{TYPE}-0,for=1m")["faults"]["strikes"]
        self.assertEqual(strike["workers"], 1)
        self.assertGreater(strike["retried"], 0)
        self.assertGreater(strike["resumed"], 0)
        off, = self.replay(f"crash@200s:{TYPE}-0,for=1m", "--resume", "off")["faults"]["strikes"]
        self.assertEqual(off["resumed"], 0)
        self.assertGreater(off["lost"], strike["lost"])

    def test_silence_is_found_as_the_router_would(self):
        strike, = self.replay(f"hang@200s:{TYPE}-0,for=1m")["faults"]["strikes"]
        self.assertTrue(202 <= strike["suspect_s"] <= 204, strike["suspect_s"])
        self.assertTrue(210 <= strike["gone_s"] <= 212, strike["gone_s"])
        later, = self.replay(f"hang@200s:{TYPE}-0,for=1m", "--suspect-after", "5s", "--gone-after", "20s"
                             )["faults"]["strikes"]
        self.assertTrue(205 <= later["suspect_s"] <= 207, later["suspect_s"])
        self.assertTrue(220 <= later["gone_s"] <= 222, later["gone_s"])
        short, = self.replay(f"partition@200s:{TYPE}-0,for=1s")["faults"]["strikes"]
        self.assertIsNone(short["suspect_s"])
        self.assertIsNone(short["gone_s"])

    def test_slow_late_and_stalled_workers_cost_time(self):
        calm = json.loads(run("medley-replay", self.top / "plan.json", "--duration", "10m", "--json"))["all"]
        for faults in ("slow@10s:all,factor=2", "delay@10s:all,by=1s", "stall@10s:all,for=5s"):
            with self.subTest(faults):
                found = self.replay(faults)
                self.assertGreater(found["all"]["ttft_ms"]["p99"], calm["ttft_ms"]["p99"])
                self.assertEqual(found["faults"]["attainment_without"], calm["attainment"])

    def test_every_kind_runs_to_its_end(self):
        for kind in ("crash", "hang", "slow", "lie", "drop", "delay", "partition", "drain"):
            for length in ("", ",for=30s"):
                with self.subTest(kind + length):
                    found = self.replay(f"{kind}@100s:{TYPE}-1{length}")
                    ends = found["ends"]
                    self.assertEqual(sum(ends[k] for k in ("finished", "refused_overload", "refused_invalid", "rejected",
                                                           "worker_lost", "failed")), found["arrivals"]["count"])
                    self.assertEqual(found["faults"]["strikes"][0]["for_s"], 30 if length else None)

    def test_a_drain_loses_nothing(self):
        found = self.replay(f"drain@100s:{TYPE}-0,for=60s")
        self.assertEqual(found["faults"]["lost"], 0)
        self.assertEqual(found["faults"]["retried"], 0)

    def test_another_plan_comes_into_force(self):
        larger = self.replay(f"plan@100s:{self.top / 'larger.json'},start=30s", "--speed", 1.6)
        alone = json.loads(run("medley-replay", self.top / "plan.json", "--duration", "10m", "--speed", 1.6, "--json"))
        self.assertEqual(larger["faults"]["lost"], 0)
        self.assertLess(larger["all"]["e2e_ms"]["p99"], alone["all"]["e2e_ms"]["p99"])
        self.assertEqual(larger["plan"], alone["plan"])
        smaller = self.replay(f"plan@100s:{self.top / 'smaller.json'}")
        self.assertEqual(smaller["faults"]["lost"], 0)
        busy = smaller["worker_types"][0]["utilization"]
        self.assertLess(busy["min"], busy["max"] / 2)

    def test_text_and_several_runs(self):
        text = self.text(f"slow@1m:{TYPE},for=30s;crash@5m:{TYPE}-0,for=1m")
        self.assertIn("Faults", text)
        self.assertLess(text.index("slow "), text.index("crash "))
        both = self.replay("crash@1m:all,for=1m", "--compare")
        self.assertEqual(both["format"], "medley-replay-comparison/1")
        self.assertTrue(all(r["attainment"] < 0.95 for r in both["runs"]))

    def test_what_is_wrong_is_said(self):
        for faults, sentence in (
                ("", 'fault 1: found "", expected KIND@TIME:TARGET or random'),
                ("crash@1m:all;boom@1m:all", 'fault 2: found "boom", expected crash, hang'),
                ("crash@1:all", 'fault 1: time: found "1", expected a duration with its unit'),
                ("crash@1m", 'fault 1: found "1m", expected KIND@TIME:TARGET'),
                ("crash@1m:all,factor=2", 'fault 1: found "factor", expected for=TIME'),
                ("crash@1m:all,for", 'fault 1: found "for", expected KEY=VALUE'),
                ("slow@1m:all,factor=0.5", 'fault 1: factor: found "0.5", expected a number from 1'),
                ("stall@1m:all", "fault 1: found stall without an end, expected for=TIME"),
                ("crash@1m:h900-1", f'crash: found "h900-1", expected a worker of the plan such as {TYPE}-0'),
                ("crash@20m:all", "crash at 1200 s, expected no later than the last arrival"),
                ("random,every=0s", 'fault 1: every: found "0s"'),
                ("random,kinds=crash+plan", 'fault 1: found "plan", expected kinds that strike one worker'),
                ("random;random", 'fault 2: found "random", expected it once'),
                ("plan@1m:none.json", "none.json")):
            with self.subTest(faults):
                self.assertIn(sentence, self.text(faults, status=2))
        self.assertIn("--gone-after", self.text("crash@1m:all", "--gone-after", "1s", status=2))


if __name__ == "__main__":
    unittest.main()
