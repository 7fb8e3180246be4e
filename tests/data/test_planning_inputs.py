# SPDX-License-Identifier: Apache-2.0
"""The shipped catalogues and workloads: standard library only."""

import json
import os
import re
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
INPUT_EDGES = [25, 100, 250, 500, 1000, 2000, 4000, 8000, 12000, 16000]
OUTPUT_EDGES = [25, 100, 250, 500, 1000, 2000]


def load(*parts):
    with open(os.path.join(ROOT, *parts), encoding="utf-8") as file:
        return json.load(file)


class Catalogues(unittest.TestCase):
    def test_melange_prices_are_the_papers(self):
        catalogue = load("profiles", "catalogues", "melange-paper.json")
        prices = {i["gpu"]: i["price_usd_per_hour"] for i in catalogue["instances"]}
        self.assertEqual(prices, {"L4": 0.70, "A10G": 1.01, "A100-80GB": 3.67, "H100": 7.516})
        self.assertTrue(all(i["gpus"] == 1 for i in catalogue["instances"]))

    def test_rows_are_unique_dated_and_priced(self):
        catalogue = load("profiles", "catalogues", "cloud-2026.json")
        keys = [(i["cloud"], i["instance"], i["region"]) for i in catalogue["instances"]]
        self.assertEqual(len(keys), len(set(keys)))
        for i in catalogue["instances"]:
            self.assertRegex(i["date"], r"^20\d\d-\d\d-\d\d$")
            self.assertGreater(len(i["source"]), 10)
            self.assertGreater(i["gpus"], 0)
            # Outside these bounds per GPU a row is a slip of the decimal point.
            self.assertGreater(i["price_usd_per_hour"] / i["gpus"], 0.2, i["instance"])
            self.assertLess(i["price_usd_per_hour"] / i["gpus"], 15, i["instance"])
            self.assertLessEqual(i.get("spot_usd_per_hour", 0), i["price_usd_per_hour"])
        self.assertEqual(catalogue["date"], max(i["date"] for i in catalogue["instances"]))

    def test_every_stepped_gpu_can_be_rented(self):
        folder = os.path.join(ROOT, "profiles", "published")
        gpus = {load("profiles", "published", name)["gpu"]
                for name in os.listdir(folder) if name.endswith(".json")}
        catalogue = load("profiles", "catalogues", "cloud-2026.json")
        self.assertLessEqual(gpus, {i["gpu"] for i in catalogue["instances"]})


class Workloads(unittest.TestCase):
    # Known figures of the traces: requests, rate, input p50 and p99, output p50.
    KNOWN = {"azure-conversation": (19366, 5.53, 1020, 4142, 129),
             "azure-code": (8819, 2.57, 1469, 7436, 13)}

    def test_known_figures(self):
        for name, (requests, rate, p50, p99, out) in self.KNOWN.items():
            w = load("allocator", "workloads", name + ".json")
            self.assertEqual(w["name"], name)
            self.assertEqual(w["requests"], requests)
            self.assertAlmostEqual(w["rate_per_s"], rate, delta=0.005)
            self.assertAlmostEqual(w["input_tokens"]["p50"], p50, delta=1)
            self.assertAlmostEqual(w["input_tokens"]["p99"], p99, delta=1)
            self.assertAlmostEqual(w["output_tokens"]["p50"], out, delta=1)

    def test_buckets_hold_their_means_and_sum_to_one(self):
        for name in self.KNOWN:
            w = load("allocator", "workloads", name + ".json")
            self.assertEqual(w["input_edges"], INPUT_EDGES)
            self.assertEqual(w["output_edges"], OUTPUT_EDGES)
            self.assertAlmostEqual(sum(b["share"] for b in w["buckets"]), 1, delta=1e-9)
            for b in w["buckets"]:
                for edges, edge, mean in ((INPUT_EDGES, b["input"], b["input_mean"]),
                                          (OUTPUT_EDGES, b["output"], b["output_mean"])):
                    index = edges.index(edge)
                    self.assertLessEqual(mean, edge)
                    self.assertGreater(mean, edges[index - 1] if index else 0)
            for key in ("input", "output"):
                mean = sum(b["share"] * b[key + "_mean"] for b in w["buckets"])
                self.assertAlmostEqual(mean / w[key + "_tokens"]["mean"], 1, delta=1e-9)

    def test_rate_over_time_agrees_with_the_rate(self):
        for name in self.KNOWN:
            w = load("allocator", "workloads", name + ".json")
            over = w["rate_over_time"]
            mean = sum(over["rate_per_s"]) / len(over["rate_per_s"])
            self.assertAlmostEqual(mean / w["rate_per_s"], 1, delta=0.03)
            self.assertGreater(w["arrival"]["burstiness"], 0)
            self.assertLess(w["arrival"]["burstiness"], 1)

    def test_the_licence_is_named(self):
        for name in self.KNOWN:
            source = load("allocator", "workloads", name + ".json")["source"]
            self.assertEqual(source["licence"], "CC-BY-4.0")
            self.assertTrue(re.search("Splitwise", source["text"]))


if __name__ == "__main__":
    unittest.main()
