# SPDX-License-Identifier: Apache-2.0
"""medley replay --mix as a user runs it: other fleets for the same demand, side by side with the plan."""
import json
import pathlib
import tempfile
import unittest

from planning import run, write_plan

FIGURES = ("requests", "attainment", "ttft_ms", "tpot_ms", "utilization", "usd_per_hour")


class Mixes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.plan = pathlib.Path(cls.folder.name) / "plan.json"
        write_plan(cls.plan, 6)
        cls.whole = json.loads(cls.plan.read_text())

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def replay(self, *arguments, status=0):
        return run("medley-replay", self.plan, "--duration", "5m", *arguments, status=status)

    def runs(self, *arguments):
        return json.loads(self.replay(*arguments, "--json"))["runs"]

    def test_the_plans_own_mix_gives_the_plans_figures(self):
        own = "+".join(f"{i['instance']}={i['count']}" for i in self.whole["instances"])
        plan, mix = self.runs("--mix", own)
        self.assertEqual(mix["plan"], own)
        self.assertEqual([plan[k] for k in FIGURES], [mix[k] for k in FIGURES])

    def test_more_costs_more_and_less_attains_less(self):
        kind, count = self.whole["instances"][0]["instance"], self.whole["instances"][0]["count"]
        plan, more, less = self.runs("--mix", f"{kind}={count + 2}", "--mix", f"{kind}=1")
        self.assertGreater(more["usd_per_hour"], plan["usd_per_hour"])
        self.assertLess(more["tpot_ms"]["mean"], plan["tpot_ms"]["mean"])
        self.assertLess(less["usd_per_hour"], plan["usd_per_hour"])
        self.assertLess(less["attainment"], plan["attainment"])
        self.assertEqual({r["requests"] for r in (plan, more, less)}, {plan["requests"]})

    def test_names_stand_for_their_cheapest_instance(self):
        prices = {}
        with open("profiles/catalogues/cloud-2026.json", encoding="utf-8") as file:
            for i in json.load(file)["instances"]:
                prices.setdefault(i["gpu"], []).append(i["price_usd_per_hour"])
        _, gpu, worker, both = self.runs("--mix", "H100=2", "--mix", "h100-llama-2-7b-fp16=2",
                                         "--mix", "H100=1,A100-80GB=1")
        self.assertEqual(gpu, worker)
        self.assertAlmostEqual(gpu["usd_per_hour"], 2 * min(prices["H100"]))
        self.assertAlmostEqual(both["usd_per_hour"], min(prices["H100"]) + min(prices["A100-80GB"]))

    def test_single_is_each_gpu_alone_as_the_planner_counts_it(self):
        baselines = {f"{b['instance']}={b['count']}": b["cost_per_hour"] for b in self.whole["baselines"]}
        singles = self.runs("--mix", "single")[1:]
        self.assertGreater(len(singles), 1)
        for single in singles:
            self.assertIn(single["plan"], baselines)
            self.assertAlmostEqual(single["usd_per_hour"], baselines[single["plan"]])
            self.assertGreater(single["attainment"], 0.9)
        self.assertEqual(len(singles), len({s["plan"] for s in singles}))

    def test_text_policies_and_faults_go_along(self):
        text = self.replay("--mix", "H100=2", "--mix", "single")
        self.assertIn("$/h", text)
        self.assertEqual(len(self.runs("--mix", "H100=2", "--compare")), 12)
        calm, broken = self.runs("--mix", "H100=2"), self.runs("--mix", "H100=2", "--faults", "crash@1m:all,for=1m")
        for before, after in zip(calm, broken):
            self.assertLess(after["attainment"], before["attainment"])

    def test_what_is_wrong_is_said(self):
        for mix, status, sentence in (
                ("boom=1", 2, 'found "boom", expected NAME=N'),
                ("H100", 2, 'found "H100", expected NAME=N'),
                ("H100=0", 2, 'found "0", expected a whole number from 1'),
                ("", 2, 'found "", expected NAME=N'),
                ("L4=1", 3, "no worker of the mix serves requests of")):
            with self.subTest(mix):
                self.assertIn(sentence, self.replay("--mix", mix, status=status))
        dear = json.loads(self.plan.read_text())
        dear["instances"][0]["price_per_hour"] += 100
        dear["cost_per_hour"] += 100 * dear["instances"][0]["count"]
        other = self.plan.with_name("dear.json")
        other.write_text(json.dumps(dear))
        self.assertIn("the catalogue cloud-2026 does not; expected --catalogue to name the one that the plan was made with",
                      run("medley-replay", other, "--mix", "H100=2", status=2))
        many = [part for n in range(1, 9) for part in ("--mix", f"H100={n}")]
        self.assertIn("at most 8 plans and mixes", self.replay(*many, status=2))
        self.assertIn("nothing-here", self.replay("--mix", "H100=1", "--catalogue", "nothing-here", status=2))


if __name__ == "__main__":
    unittest.main()
