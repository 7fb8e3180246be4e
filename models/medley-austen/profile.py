#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes profile.json, what a CPU worker's iterations take, from a run of medley engine-bench.

    medley engine-bench --model models/medley-austen --batches 1,4,16,64 --contexts 64,256,768 \\
        --prefills 16,64,256,512 --repeats 15 --json > bench.json
    python3 models/medley-austen/profile.py bench.json "2-core x86-64 (AMD EPYC)" DATE COMMIT

Each row is a measured median; the step model is fitted to them by relative least squares (the form
roofline/1 of docs/internals/profiles.md, rates kept positive).  Needs numpy.
"""
import itertools
import json
import pathlib
import sys

import numpy

HERE = pathlib.Path(__file__).resolve().parent
WEIGHT_BYTES, KV_BYTES = 6345600, 6 * 2 * 2 * 32 * 2
LIMITS = {"max_model_len": 1024, "max_num_seqs": 64, "max_num_batched_tokens": 512,
          "block_tokens": 16, "kv_tokens": 65536}


def measured(bench):
    for case in bench["iterations"]:
        sequences, prefill = case["decode_sequences"], case["prefill_tokens"]
        yield {"prefill_tokens": prefill, "prefill_context": 0, "decode_sequences": sequences,
               "decode_context_tokens": sequences * case["decode_context"],
               "ms_p50": round(case["ms"]["median"], 4), "source": "run"}


def columns(rows, weights_ms, linear_ms):
    """What each unknown is multiplied by, and the part that is fixed by weights_ms and linear_ms."""
    tokens = numpy.array([r["prefill_tokens"] + r["decode_sequences"] for r in rows], float)
    pairs = numpy.array([r["prefill_tokens"] * (r["prefill_tokens"] + 1) / 2 for r in rows])
    unknown = numpy.stack([numpy.ones(len(rows)),
                           numpy.array([float(r["decode_sequences"]) for r in rows]),
                           numpy.array([float(r["decode_context_tokens"]) for r in rows]),
                           pairs], axis=1)
    return unknown, numpy.maximum(weights_ms, linear_ms * tokens)


def non_negative(matrix, target):
    """Least squares over x >= 0, by trying every set of columns: there are four."""
    best = (numpy.inf, None)
    for count in range(matrix.shape[1] + 1):
        for chosen in itertools.combinations(range(matrix.shape[1]), count):
            x = numpy.zeros(matrix.shape[1])
            if chosen:
                x[list(chosen)] = numpy.linalg.lstsq(matrix[:, chosen], target, rcond=None)[0]
            error = numpy.sum((matrix @ x - target) ** 2)
            if (x >= 0).all() and error < best[0]:
                best = (error, x)
    return best


def fit(rows, config, parameters):
    ms = numpy.array([r["ms_p50"] for r in rows])
    best = (numpy.inf,)
    for weights_ms in numpy.geomspace(0.02, 5, 40):
        for linear_ms in numpy.geomspace(0.002, 0.5, 60):
            unknown, known = columns(rows, weights_ms, linear_ms)
            error, x = non_negative(unknown / ms[:, None], (ms - known) / ms)
            if error < best[0]:
                best = (error, weights_ms, linear_ms, x, (unknown @ x + known) / ms - 1)
    _, weights_ms, linear_ms, (fixed, sequence, context, pair), errors = best
    pair_flops = 4 * config["num_hidden_layers"] * config["num_attention_heads"] * config["head_dim"]

    def rate(amount, ms_each):  # a cost that the fit finds none of: fast beyond notice
        return float(f"{amount / max(ms_each, 1e-9) * 1e3:.6g}")
    return {"form": "roofline/1", "fixed_ms": round(fixed, 5),
            "sequence_us": round(sequence * 1e3, 3),
            "bandwidth_bytes_per_s": rate(WEIGHT_BYTES, weights_ms),
            "matrix_flops_per_s": rate(2 * parameters, linear_ms),
            "kv_bandwidth_bytes_per_s": rate(KV_BYTES, context),
            "attention_flops_per_s": rate(pair_flops, pair),
            "fit_error": round(float(abs(errors).mean()), 4),
            "fit_error_max": round(float(abs(errors).max()), 4), "source": "fit"}


def main():
    path, machine, date, commit = sys.argv[1:]
    bench = json.loads(pathlib.Path(path).read_text())
    config = json.loads((HERE / "config.json").read_text())
    rows = list(measured(bench))
    step_model = fit(rows, config, bench["parameters"])
    matrix = max(c["blas_flops_per_s"]["median"] for c in bench["iterations"]
                 if "blas_flops_per_s" in c)
    profile = {
        "format": "medley-profile/1", "worker_type": "cpu-medley-austen", "gpu": "CPU",
        "gpus_per_worker": 1, "dtype": "bfloat16", "engine": "medley-0.1.0",
        "model": {"name": "medley-austen", "parameters": bench["parameters"],
                  "layers": config["num_hidden_layers"], "hidden": config["hidden_size"],
                  "heads": config["num_attention_heads"],
                  "kv_heads": config["num_key_value_heads"], "head_dim": config["head_dim"],
                  "intermediate": config["intermediate_size"], "vocab": config["vocab_size"],
                  "weight_bytes": WEIGHT_BYTES, "kv_bytes_per_token": KV_BYTES},
        "hardware": {"memory_bytes": 25276 * 10**6,
                     "bandwidth_bytes_per_s": round(bench["read_bytes_per_s"]["median"]),
                     "matrix_flops_per_s": round(matrix), "source": "run"},
        "limits": LIMITS, "step_model": step_model,
        "sources": [
            {"id": "run", "kind": "measured", "date": date,
             "text": f"{machine}, {bench['device']}, {bench['threads']} threads, commit {commit}: "
                     "medley engine-bench --model models/medley-austen, command in profile.py; "
                     "medians"},
            {"id": "fit", "kind": "modelled", "fit_error": step_model["fit_error"],
             "text": "roofline/1 fitted to the measured rows by relative least squares, "
                     "models/medley-austen/profile.py"}],
        "validations": [], "steps": rows, "serving": []}
    text = json.dumps(profile, indent=1)
    (HERE / "profile.json").write_text(text + "\n")
    print(json.dumps(step_model, indent=1))


if __name__ == "__main__":
    main()
