# SPDX-License-Identifier: Apache-2.0
"""The shipped profiles, looked at as a sceptic would: standard library only.

The step model is computed here anew from its description in profiles/profile.h, not imported.
"""

import glob
import json
import os
import subprocess
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PUBLISHED = os.path.join(ROOT, "profiles", "published")
REPORT = os.path.join(ROOT, "profiles", "form_report.py")
CONTEXT_MEASURED = 946   # longest context of the measurements that the models were fitted to
MEMORY_GB = {"A10G": 24, "L4": 24, "A100-40GB": 40, "A100-80GB": 80, "H100": 80}
WANTED = {"A10G", "L4", "A100-40GB", "A100-80GB", "H100"}
SHARE_OF_PEAK_MAX = 0.90


def load():
    out = {}
    for path in sorted(glob.glob(os.path.join(PUBLISHED, "*.json"))):
        with open(path, encoding="utf-8") as file:
            out[os.path.basename(path)] = json.load(
                file, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))
    return out


PROFILES = load()
STEPPED = {p["gpu"]: p for p in PROFILES.values() if "step_model" in p}
SERVING = {name: p for name, p in PROFILES.items() if "step_model" not in p}


def step_ms(profile, p=0, c=0, s=0, d=0):
    """Milliseconds of one iteration: p prefill tokens after c cached ones, s decoding, d context."""
    model, step = profile["model"], profile["step_model"]
    weights_s = model["weight_bytes"] / step["bandwidth_bytes_per_s"]
    linear_s = 2 * model["parameters"] * (p + s) / step["matrix_flops_per_s"]
    kv_s = model["kv_bytes_per_token"] * d / step["kv_bandwidth_bytes_per_s"]
    pairs = p * c + p * (p + 1) / 2
    per_pair = 4 * model["layers"] * model["heads"] * model["head_dim"]
    attention_s = per_pair * pairs / step["attention_flops_per_s"]
    return (step["fixed_ms"] + step["sequence_us"] * s / 1000
            + 1000 * (max(weights_s, linear_s) + kv_s + attention_s))


def row_ms(profile, row):
    return step_ms(profile, row["prefill_tokens"], row["prefill_context"],
                   row["decode_sequences"], row["decode_context_tokens"])


def kind_of(profile, row):
    return {s["id"]: s["kind"] for s in profile["sources"]}[row["source"]]


class EveryProfile(unittest.TestCase):
    def test_the_wanted_gpus_are_there(self):
        self.assertEqual(set(STEPPED), WANTED)

    def test_worker_types_are_unique_and_name_their_files(self):
        for name, p in PROFILES.items():
            self.assertEqual(name, p["worker_type"] + ".json")

    def test_format_is_the_first_key(self):
        for name, p in PROFILES.items():
            self.assertEqual(next(iter(p)), "format", name)
            self.assertEqual(p["format"], "medley-profile/1", name)

    def test_every_source_named_exists_and_says_something(self):
        for name, p in PROFILES.items():
            ids = [s["id"] for s in p["sources"]]
            self.assertEqual(len(ids), len(set(ids)), name)
            for s in p["sources"]:
                self.assertIn(s["kind"], ("measured", "published", "modelled"), name)
                self.assertGreater(len(s["text"]), 20, name)
            named = [p["hardware"]["source"]] + [r["source"] for r in p["serving"]]
            named += [r["source"] for r in p.get("steps", [])]
            named += [v["against"] for v in p.get("validations", [])]
            if "step_model" in p:
                named.append(p["step_model"]["source"])
            self.assertLessEqual(set(named), set(ids), name)

    def test_no_private_path_or_measurement_table_is_shipped(self):
        for folder, _, files in os.walk(PUBLISHED):
            for file in files:
                self.assertFalse(file.endswith((".csv", ".gz", ".pyc")), os.path.join(folder, file))

    def test_kv_capacity_follows_from_memory(self):
        for name, p in PROFILES.items():
            m, limits = p["model"], p["limits"]
            memory = p["hardware"]["memory_bytes"] * p["gpus_per_worker"]
            used = m["weight_bytes"] + limits["kv_tokens"] * m["kv_bytes_per_token"]
            self.assertLess(used, 0.90 * memory, name)
            self.assertGreater(used, 0.84 * memory, name)
            self.assertEqual(limits["kv_tokens"] % limits["block_tokens"], 0, name)
            self.assertGreaterEqual(limits["kv_tokens"], limits["max_model_len"], name)
            per_token = 4 * m["layers"] * m["kv_heads"] * m["head_dim"]
            self.assertEqual(m["kv_bytes_per_token"], per_token, name)

    def test_parameters_follow_from_the_shape(self):
        for name, p in PROFILES.items():
            m = p["model"]
            kv = m["kv_heads"] * m["head_dim"]
            layer = (2 * m["hidden"] * m["hidden"] + 2 * m["hidden"] * kv
                     + 3 * m["hidden"] * m["intermediate"] + 2 * m["hidden"])
            counted = m["layers"] * layer + 2 * m["vocab"] * m["hidden"] + m["hidden"]
            self.assertEqual(m["parameters"], counted, name)


class StepModels(unittest.TestCase):
    def test_longest_request_is_18432_where_the_memory_holds_it(self):
        for gpu, p in STEPPED.items():
            limits = p["limits"]
            self.assertEqual(limits["max_model_len"], min(18432, limits["kv_tokens"]), gpu)
            self.assertEqual(limits["max_model_len"] == 18432, MEMORY_GB[gpu] >= 40, gpu)

    def test_effective_rates_are_below_the_data_sheet(self):
        for gpu, p in STEPPED.items():
            step, sheet = p["step_model"], p["hardware"]
            for key in ("bandwidth_bytes_per_s", "matrix_flops_per_s"):
                self.assertGreater(step[key], 0.25 * sheet[key], f"{gpu} {key}")
                self.assertLessEqual(step[key], SHARE_OF_PEAK_MAX * sheet[key], f"{gpu} {key}")
            self.assertLessEqual(step["kv_bandwidth_bytes_per_s"],
                                 SHARE_OF_PEAK_MAX * sheet["bandwidth_bytes_per_s"], gpu)
            self.assertLessEqual(step["attention_flops_per_s"],
                                 SHARE_OF_PEAK_MAX * sheet["matrix_flops_per_s"], gpu)

    def test_gpus_are_ordered_as_their_bandwidths(self):
        order = ["H100", "A100-80GB", "A100-40GB", "A10G", "L4"]
        for key, above in (("bandwidth_bytes_per_s", 1), ("kv_bandwidth_bytes_per_s", 1),
                           ("sequence_us", -1)):
            values = [above * STEPPED[gpu]["step_model"][key] for gpu in order]
            self.assertEqual(values, sorted(values, reverse=True), key)
        rates = {gpu: STEPPED[gpu]["step_model"]["matrix_flops_per_s"] for gpu in order}
        self.assertGreater(rates["H100"], rates["A100-80GB"])
        self.assertAlmostEqual(rates["A100-80GB"] / rates["A100-40GB"], 1, delta=0.05)
        self.assertGreater(rates["A100-40GB"], rates["A10G"])
        self.assertGreater(rates["A10G"], rates["L4"])

    def test_time_grows_with_each_load(self):
        for gpu, p in STEPPED.items():
            base = dict(p=256, c=512, s=8, d=8 * 512)
            for key in base:
                times = [step_ms(p, **{**base, key: base[key] * k}) for k in (0, 1, 2, 4, 8)]
                self.assertEqual(times, sorted(times), f"{gpu} {key}")
                self.assertGreater(times[-1], times[0], f"{gpu} {key}")

    def test_one_sequence_cannot_beat_the_memory(self):
        for gpu, p in STEPPED.items():
            floor = 1000 * p["model"]["weight_bytes"] / p["hardware"]["bandwidth_bytes_per_s"]
            self.assertGreater(step_ms(p, s=1, d=1), floor, gpu)

    def test_published_rows_are_within_the_stated_fit_error(self):
        for gpu, p in STEPPED.items():
            rows = [r for r in p["steps"] if kind_of(p, r) == "published"]
            if gpu in ("L4", "A100-80GB"):
                self.assertEqual(rows, [], f"{gpu} is tied by ratios, nothing of it was measured")
                continue
            self.assertGreaterEqual(len(rows), 8, gpu)
            errors = [abs(row_ms(p, r) / r["ms_p50"] - 1) for r in rows]
            step = p["step_model"]
            self.assertAlmostEqual(sum(errors) / len(errors), step["fit_error"], delta=1e-3)
            self.assertAlmostEqual(max(errors), step["fit_error_max"], delta=1e-3)
            self.assertLess(step["fit_error"], 0.10, gpu)

    def test_published_rows_end_where_the_measurements_do(self):
        for gpu, p in STEPPED.items():
            longest_modelled = 0
            for r in p["steps"]:
                sequences = max(1, r["decode_sequences"])
                longest = max(r["decode_context_tokens"] / sequences,
                              r["prefill_tokens"] + r["prefill_context"])
                if kind_of(p, r) == "published":
                    self.assertLessEqual(longest, CONTEXT_MEASURED, f"{gpu} {r}")
                else:
                    self.assertEqual(kind_of(p, r), "modelled")
                    longest_modelled = max(longest_modelled, longest)
            self.assertEqual(longest_modelled, p["limits"]["max_model_len"], gpu)

    def test_modelled_rows_are_what_the_model_says(self):
        for gpu, p in STEPPED.items():
            for r in p["steps"]:
                if kind_of(p, r) == "modelled":
                    self.assertAlmostEqual(row_ms(p, r) / r["ms_p50"], 1, delta=1e-4, msg=gpu)

    def test_left_out_measurements_are_stated(self):
        against = {gpu: {v["against"] for v in p["validations"]} for gpu, p in STEPPED.items()}
        self.assertEqual(against["A10G"], {"sagemaker"})
        self.assertEqual(against["A100-40GB"], {"anl-vllm", "anl-trtllm"})
        self.assertEqual(against["H100"], {"anl-vllm", "anl-trtllm"})
        for p in STEPPED.values():
            for v in p["validations"]:
                self.assertGreaterEqual(v["error_max"], v["error_mean"])
                self.assertGreater(v["rows"], 0)

    def test_validation_is_not_also_the_source_of_rows(self):
        for gpu, p in STEPPED.items():
            against = {v["against"] for v in p["validations"]}
            self.assertFalse(against & {r["source"] for r in p["steps"]}, gpu)


class ServingPoints(unittest.TestCase):
    def test_there_are_quantized_and_tensor_parallel_ones(self):
        self.assertTrue(any(p["dtype"] == "gptq-int4" and p["gpus_per_worker"] == 1
                            for p in SERVING.values()))
        self.assertTrue(any(p["model"]["name"] == "llama-2-70b" and p["gpus_per_worker"] == 8
                            for p in SERVING.values()))

    def test_they_claim_no_iteration_times(self):
        for name, p in SERVING.items():
            self.assertFalse(p.get("steps"), name)
            self.assertGreater(len(p["serving"]), 3, name)

    def test_rows_agree_with_themselves(self):
        for name, p in SERVING.items():
            for r in p["serving"]:
                tokens = r["input_tokens"] + r["output_tokens"]
                self.assertLessEqual(tokens, p["limits"]["max_model_len"], name)
                # A closed loop cannot finish requests faster than its users can send them; e2e is a
                # median and some answers end early, hence the margin.
                bound = r["concurrency"] / (r["e2e_ms"]["p50"] / 1000)
                self.assertLess(r["throughput_per_s"], 1.35 * bound, name)
                self.assertGreater(r["throughput_per_s"], 0.5 * bound, name)
                if "ttft_ms" in r:
                    parts = r["ttft_ms"]["p50"] + (r["output_tokens"] - 1) * r["tpot_ms"]["p50"]
                    self.assertLess(parts, 1.05 * r["e2e_ms"]["p50"], name)


class FormReport(unittest.TestCase):
    """profiles/form_report.py on the one measured profile of the tree."""

    def test_it_says_the_error_that_the_profile_says(self):
        path = os.path.join(ROOT, "models", "medley-austen", "profile.json")
        with open(path, encoding="utf-8") as file:
            profile = json.load(file)
        rows = [r for r in profile["steps"] if kind_of(profile, r) == "measured"]
        errors = [abs(row_ms(profile, r) / r["ms_p50"] - 1) for r in rows]
        said = subprocess.run([sys.executable, "-B", REPORT, path], check=True, text=True,
                              capture_output=True).stdout
        line = next(line for line in said.splitlines() if line.startswith("  all "))
        self.assertEqual(int(line.split()[1]), len(rows))
        self.assertAlmostEqual(float(line.split()[3]), 100 * sum(errors) / len(errors), delta=0.06)
        self.assertAlmostEqual(float(line.split()[4]), 100 * max(errors), delta=0.06)
        table = said[said.index("one more term"):said.index("what the published")].splitlines()[1:]
        left = [float(line[52:].split()[0]) for line in table if line.strip()]
        self.assertEqual(left, sorted(left))
        self.assertLessEqual(left[-1], float(line.split()[3]))

    def test_it_refuses_what_was_not_measured(self):
        path = os.path.join(PUBLISHED, STEPPED["H100"]["worker_type"] + ".json")
        done = subprocess.run([sys.executable, "-B", REPORT, path], text=True, capture_output=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("expected steps of a measured source", done.stderr)


if __name__ == "__main__":
    unittest.main()
