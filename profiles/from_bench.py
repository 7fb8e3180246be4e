#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the profile of a worker from what the worker and the engine bench say of a model.

    medley worker --model DIR --dry-run --json > memory.json
    medley engine-bench --model DIR --batches 1,4,16,64 --contexts 64,256,768 \\
        --prefills 16,64,256,512 --repeats 25 --json > bench.json
    python3 profiles/from_bench.py DIR memory.json bench.json --machine "2-core x86-64 (AMD EPYC)" \\
        --output profile.json

For a GPU: --backend cuda for both, and --gpu as the catalogue calls the card.

Each row is a measured median; the step model is fitted to them by relative least squares (the form
roofline/1 of docs/internals/profiles.md, rates kept positive).  Needs numpy.
"""
import argparse
import datetime
import itertools
import json
import pathlib

import numpy


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


def fit(rows, config, parameters, sizes):
    ms = numpy.array([r["ms_p50"] for r in rows])
    best = (numpy.inf,)
    # No step reads the weights faster than they are read, nor computes a token slower than a prefill.
    linear_max = min(r["ms_p50"] / r["prefill_tokens"] for r in rows if r["prefill_tokens"])
    for weights_ms in numpy.geomspace(ms.min() / 50, ms.min() * 1.2, 60):
        for linear_ms in numpy.geomspace(linear_max / 50, linear_max * 1.2, 60):
            unknown, known = columns(rows, weights_ms, linear_ms)
            error, x = non_negative(unknown / ms[:, None], (ms - known) / ms)
            if error < best[0]:
                best = (error, weights_ms, linear_ms, x, (unknown @ x + known) / ms - 1)
    _, weights_ms, linear_ms, (fixed, sequence, context, pair), errors = best
    pair_flops = 4 * config["num_hidden_layers"] * config["num_attention_heads"] * head_dim(config)

    def rate(amount, ms_each):  # a cost that the fit finds none of: fast beyond notice
        return float(f"{amount / max(ms_each, 1e-9) * 1e3:.6g}")
    return {"form": "roofline/1", "fixed_ms": round(fixed, 5),
            "sequence_us": round(sequence * 1e3, 3),
            "bandwidth_bytes_per_s": rate(sizes["weights"], weights_ms),
            "matrix_flops_per_s": rate(2 * parameters, linear_ms),
            "kv_bandwidth_bytes_per_s": rate(sizes["kv_per_token"], context),
            "attention_flops_per_s": rate(pair_flops, pair),
            "fit_error": round(float(abs(errors).mean()), 4),
            "fit_error_max": round(float(abs(errors).max()), 4), "source": "fit"}


def sizes_of(memory):
    """Bytes of the memory that is computed in: the GPU's where there is one."""
    if "gpu" not in memory:
        return memory["bytes"]
    gpu = memory["gpu"]["bytes"]
    return {**memory["bytes"], **gpu, "machine": gpu["memory"]}


def limits_of(bench):
    """Bytes and operations per second that were measured beside the iterations."""
    if "limits" in bench:
        return bench["limits"]["read_bytes_per_s"], bench["limits"]["flops_per_s"]
    return (bench["read_bytes_per_s"]["median"],
            max(c["blas_flops_per_s"]["median"] for c in bench["iterations"] if "blas_flops_per_s" in c))


def head_dim(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, help="the model's directory")
    parser.add_argument("memory", type=pathlib.Path, help="of medley worker --dry-run --json")
    parser.add_argument("bench", type=pathlib.Path, help="of medley engine-bench --json")
    parser.add_argument("--machine", required=True, help="what it was measured on, in words")
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    parser.add_argument("--gpu", default="CPU", help="as the catalogue calls the machine's part")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    bench, memory = json.loads(args.bench.read_text()), json.loads(args.memory.read_text())
    config = json.loads((args.model / "config.json").read_text())
    rows, sizes = list(measured(bench)), sizes_of(memory)
    step_model = fit(rows, config, bench["parameters"], sizes)
    read, matrix = limits_of(bench)
    heads = config["num_attention_heads"]
    profile = {
        "format": "medley-profile/1", "worker_type": memory["worker_type"], "gpu": args.gpu,
        "gpus_per_worker": 1, "dtype": memory["dtype"], "engine": "medley-0.1.0",
        "model": {"name": memory["model"], "parameters": memory["parameters"],
                  "layers": config["num_hidden_layers"], "hidden": config["hidden_size"],
                  "heads": heads, "kv_heads": config.get("num_key_value_heads") or heads,
                  "head_dim": head_dim(config), "intermediate": config["intermediate_size"],
                  "vocab": config["vocab_size"], "weight_bytes": sizes["weights"],
                  "kv_bytes_per_token": sizes["kv_per_token"]},
        "hardware": {"memory_bytes": sizes["machine"],
                     "bandwidth_bytes_per_s": round(read),
                     "matrix_flops_per_s": round(matrix), "source": "run"},
        "limits": {key: memory[key] for key in ("max_model_len", "max_num_seqs",
                                                "max_num_batched_tokens", "block_tokens",
                                                "kv_tokens")},
        "step_model": step_model,
        "sources": [
            {"id": "run", "kind": "measured", "date": args.date,
             "text": f"{args.machine}, {bench['device']}, {bench['threads']} threads: medley "
                     "engine-bench --model, medians"},
            {"id": "fit", "kind": "modelled", "fit_error": step_model["fit_error"],
             "text": "roofline/1 fitted to the measured rows by relative least squares, "
                     "profiles/from_bench.py"}],
        "validations": [], "steps": rows, "serving": []}
    args.output.write_text(json.dumps(profile, indent=1) + "\n")
    print(f"{args.output}: fitted within {step_model['fit_error']:.1%} on average, "
          f"{step_model['fit_error_max']:.1%} at most")


if __name__ == "__main__":
    main()
