# SPDX-License-Identifier: Apache-2.0
"""Ratios within one protocol: AccelMark's interactive runs and kernel times.

AccelMark ran Llama-3-8B in bf16 on many GPUs with the same engine (vLLM 0.7.3) and the same
requests.  Its absolute numbers belong to that engine; the ratio between two GPUs is taken as the
ratio between the same GPUs under the reference engine.  Only its `interactive` runs (one request at
a time) are used: the concurrency of the others is not known (their concurrency column changes
nothing), and they rank machines rather than GPUs (an H200 slower than an H100 by 2.3 at 25/s).
"""

import csv
import gzip
import os
import statistics

ENGINE = "0.7.3"
# Our name -> the set's names; an A800-80GB differs from an A100-80GB in NVLink alone.
NAMES = {
    "L4": ("NVIDIA L4",),
    "A100-40GB": ("NVIDIA A100-SXM4-40GB",),
    "A100-80GB": ("NVIDIA A100-SXM4-80GB", "NVIDIA A800-SXM4-80GB"),
    "H100": ("NVIDIA H100 80GB HBM3",),
    "H200": ("NVIDIA H200",),
    "RTX3090": ("NVIDIA GeForce RTX 3090",),
}
COLUMNS = ("ttft_ms_p50", "ttft_ms_p90", "ttft_ms_p99", "tpot_ms_p50")


def read_interactive(folder):
    """(gpu, suite) -> {column: geometric mean over the machines of that GPU}."""
    found = {}
    with open(os.path.join(folder, "interactive.csv"), newline="", encoding="utf-8") as file:
        for r in csv.DictReader(file):
            if r["engine_version"] != ENGINE or r["precision"] != "BF16" or "8B" not in r["model"]:
                continue
            if int(r["gpu_count"]) != 1:
                continue
            for gpu, names in NAMES.items():
                if r["gpu"] in names:
                    found.setdefault((gpu, r["suite"]), []).append(r)
    return {key: {c: statistics.geometric_mean(float(r[c]) for r in rows) for c in COLUMNS}
            for key, rows in sorted(found.items())}


def decode_ratio(runs, gpu, anchor):
    """Time of a batch-1 iteration on `gpu` over that on `anchor`, short contexts."""
    return runs[gpu, "suite_A"]["tpot_ms_p50"] / runs[anchor, "suite_A"]["tpot_ms_p50"]


def prefill_ratio(runs, gpu, anchor):
    """Prefill time per token on `gpu` over that on `anchor`.

    Long prompts (suite D) where both ran them.  Else from suite A the difference of the p99 and p50
    of TTFT, in which a constant overhead per request cancels.
    """
    if (gpu, "suite_D") in runs and (anchor, "suite_D") in runs:
        return runs[gpu, "suite_D"]["ttft_ms_p50"] / runs[anchor, "suite_D"]["ttft_ms_p50"]
    spread = [runs[g, "suite_A"]["ttft_ms_p99"] - runs[g, "suite_A"]["ttft_ms_p50"]
              for g in (gpu, anchor)]
    return spread[0] / spread[1]


def ratio_errors(runs, gpu, anchor):
    """How far the set's other ratios are from the two that were used: relative, absolute values."""
    prefill, a, b = prefill_ratio(runs, gpu, anchor), runs[gpu, "suite_A"], runs[anchor, "suite_A"]
    return [abs(prefill * b[c] / a[c] - 1) for c in ("ttft_ms_p50", "ttft_ms_p90", "ttft_ms_p99")]


def read_kernels(folder, prefix, kind):
    path = os.path.join(folder, f"{prefix}.{kind}_perf.bf16.csv.gz")
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def attention_share(folder, prefix):
    """Rate of the prefill attention kernel over the rate of a matrix product, same set and GPU.

    Attention over one prompt of 2048 to 16384 tokens, 32 heads of 128; products of 2048 to 8192
    rows by 4096 by 4096 (a Llama-2-7B projection).  Medians.
    """
    attention = [
        2 * 32 * 128 * int(r["isl"]) ** 2 / float(r["latency_ms"])
        for r in read_kernels(folder, prefix, "context_attention")
        if r["batch_size"] == "1" and r["num_heads"] == "32" and r["num_key_value_heads"] == "32"
        and r["head_dim"] == "128" and 2048 <= int(r["isl"]) <= 16384]
    product = [
        2 * int(r["m"]) * 4096 * 4096 / float(r["latency_ms"])
        for r in read_kernels(folder, prefix, "gemm")
        if r["n"] == "4096" and r["k"] == "4096" and 2048 <= int(r["m"]) <= 8192]
    return statistics.median(attention) / statistics.median(product)
