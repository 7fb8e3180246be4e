#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the shipped profiles (medley-profile/1) from published measurements.

usage: derive.py --data DIR [--out DIR] [--page FILE]

DIR holds measurements/ with the sets named in README.md, which are not part of this repository;
only derived figures are written.  Needs numpy and scipy (and matplotlib for --page).  The same
data give the same files.  The method is docs/internals/profiles.md; what came out, with errors and
plots, is docs/benchmarks/published-profiles.md.

  hardware.py   model shape, data sheets, KV capacity
  llm_pilot.py  the fit of the reference engine on A10, A100-40GB, H100
  ties.py       ratios that tie L4 and A100-80GB to it, attention rates
  validate.py   errors against measurements left out
  serving.py    worker types that are serving points alone
  replay.py     LLM-Pilot's closed loops on the step model
  page.py       tables and plots of the benchmark page
"""

import argparse
import json
import os
import statistics

import numpy as np

import hardware
import llm_pilot
import serving
import ties
import validate
from hardware import GPUS, MODEL

MBU_MAX = 0.90
MFU_MAX = 0.90
SOURCES = {
    "llm-pilot": {
        "kind": "published", "licence": "CDLA-Permissive-2.0",
        "text": "LLM-Pilot (Lazuka et al., SC'24), IBM/LLM-performance-prediction: llama-7b, fp16, "
                "TGIS, one GPU, closed loop of 1 to 128 users, 120 s each; contexts up to 946"},
    "accelmark": {
        "kind": "published", "licence": "Apache-2.0",
        "text": "FreedomIntelligence/AccelMark: Llama-3-8B, bf16, vLLM 0.7.3, interactive runs; "
                "used as ratios between GPUs alone"},
    "kernel-times": {
        "kind": "published", "licence": "Apache-2.0",
        "text": "ai-dynamo/aiconfigurator: bf16 matrix and attention kernel times"},
    "sagemaker": {
        "kind": "published", "licence": "Apache-2.0",
        "text": "philschmid/text-generation-inference-tests: Llama-2-7B fp16 on ml.g5.2xlarge "
                "(A10G), TGI, 1 to 20 users, 50 output tokens"},
    "anl-vllm": {
        "kind": "published", "licence": "BSD-3-Clause",
        "text": "argonne-lcf/LLM-Inference-Bench: Llama-2-7B, vLLM, static batches"},
    "anl-trtllm": {
        "kind": "published", "licence": "BSD-3-Clause",
        "text": "argonne-lcf/LLM-Inference-Bench: Llama-2-7B, TensorRT-LLM, static batches"},
}
DECODE_BINS = (1, 100, 200, 400, 600, 946)
PREFILL_BINS = (200, 300, 400, 600, 874)
BIN_ROWS_MIN = 3


def significant(value, digits=6):
    return float(f"{value:.{digits}g}")


def step_ms(model, row):
    """The form roofline/1; an independent copy of it is in tests/data/test_published.py."""
    p, c = row["prefill_tokens"], row["prefill_context"]
    s, d = row["decode_sequences"], row["decode_context_tokens"]
    weights = MODEL["weight_bytes"] / model["bandwidth_bytes_per_s"]
    linear = 2 * MODEL["parameters"] * (p + s) / model["matrix_flops_per_s"]
    kv = MODEL["kv_bytes_per_token"] * d / model["kv_bandwidth_bytes_per_s"]
    pairs = p * c + p * (p + 1) / 2
    per_pair = 4 * MODEL["layers"] * MODEL["heads"] * MODEL["head_dim"]
    attention = per_pair * pairs / model["attention_flops_per_s"]
    return (model["fixed_ms"] + model["sequence_us"] * s / 1e3
            + 1e3 * (max(weights, linear) + kv + attention))


def row_of(p, c, s, d, ms, source, p99=None):
    row = {"prefill_tokens": int(p), "prefill_context": int(c), "decode_sequences": int(s),
           "decode_context_tokens": int(d), "ms_p50": significant(ms)}
    if p99 is not None:
        row["ms_p99"] = significant(p99)
    row["source"] = source
    return row


# ---- measured operating points ----------------------------------------------------------------

def published_decode(points, summary, gpu):
    """One user by context; then each number of users at its mean decoding sequences and context."""
    rows = []
    alone = points[gpu, 1]
    keep = (alone.output >= llm_pilot.WINDOW_OUTPUT_MIN) & (alone.start > 5e3)
    context = (alone.input + alone.output / 2)[keep]
    gap = alone.gap[keep]
    for low, high in zip(DECODE_BINS, DECODE_BINS[1:]):
        inside = (context >= low) & (context < high)
        if inside.sum() >= BIN_ROWS_MIN:
            rows.append(row_of(0, 0, 1, round(float(np.median(context[inside]))),
                               float(np.median(gap[inside])), "llm-pilot-decode"))
    for (name, users), point in points.items():
        if name == gpu and users > 1:
            sequences, mean = point.decoding()
            count = max(1, round(sequences))
            figures = summary[gpu, users]
            rows.append(row_of(0, 0, count, round(count * mean), figures["itl_ms_p50"],
                               "llm-pilot-decode", figures["itl_ms_p99"]))
    return rows


def published_prefill(points, gpu, request_ms):
    alone = points[gpu, 1]
    keep = (alone.start > 5e3) & (alone.ttft > alone.ack)
    tokens, ms = alone.input[keep], (alone.ttft - alone.ack)[keep] - request_ms
    rows = []
    for low, high in zip(PREFILL_BINS, PREFILL_BINS[1:]):
        inside = (tokens > low) & (tokens <= high)
        if inside.sum() >= BIN_ROWS_MIN:
            rows.append(row_of(round(float(np.median(tokens[inside]))), 0, 0, 0,
                               float(np.median(ms[inside])), "llm-pilot-prefill"))
    return rows


def modelled_rows(model, limits):
    """A grid to the engine's limits, so that a reader sees what the model says beyond the data."""
    rows = []
    longest = limits["max_model_len"]
    contexts = sorted({c for c in (1024, 2048, 4096, 8192, 12288, 16384) if c < longest} | {longest})
    for sequences in (1, 4, 16, 64):
        for context in contexts:
            if sequences * context <= limits["kv_tokens"]:
                rows.append(row_of(0, 0, sequences, sequences * context, 1, "model"))
    for tokens in (128, 512, 1024, 2048):
        for context in (0, 4096, 8192, longest - tokens):
            if context + tokens <= longest:
                rows.append(row_of(tokens, context, 0, 0, 1, "model"))
    for row in rows:
        row["ms_p50"] = significant(step_ms(model, row))
    return rows


# ---- the step models --------------------------------------------------------------------------

def model_of(fixed_ms, step, sequence_ms, prefill_ms_per_token, attention_share):
    bandwidth = MODEL["weight_bytes"] / (step - fixed_ms) * 1e3
    matrix = 2 * MODEL["parameters"] / prefill_ms_per_token * 1e3
    return {
        "form": "roofline/1", "fixed_ms": significant(fixed_ms),
        "sequence_us": significant(sequence_ms * 1e3),
        "bandwidth_bytes_per_s": significant(bandwidth),
        "matrix_flops_per_s": significant(matrix),
        "kv_bandwidth_bytes_per_s": significant(bandwidth),
        "attention_flops_per_s": significant(matrix * attention_share),
    }


def sequence_law(fits, fixed_ms):
    """sequence = host + bytes / bandwidth: what the three fits have in common, for tied GPUs."""
    inverse = np.array([f.step_ms - fixed_ms for f in fits.values()]) / MODEL["weight_bytes"]
    cost = np.array([f.sequence_ms for f in fits.values()])
    # Relative least squares: each GPU counts the same.
    matrix = np.stack([np.ones_like(inverse), inverse], axis=1) / cost[:, None]
    host, extra_bytes = np.linalg.lstsq(matrix, np.ones_like(cost), rcond=None)[0]
    return float(host), float(extra_bytes)


def step_models(folder, points):
    """GPU -> step model, and the figures that the page of the fit shows."""
    kernels = os.path.join(folder, "kernel_times")
    share = {"ampere": ties.attention_share(kernels, "a100_sxm"),
             "hopper": ties.attention_share(kernels, "h100_sxm"),
             "ada": ties.attention_share(kernels, "l40s")}
    per_pair = 4 * MODEL["layers"] * MODEL["heads"] * MODEL["head_dim"]
    pair = {name: per_pair / (2 * MODEL["parameters"] * share[family])
            for name, family in (("A10", "ampere"), ("A100", "ampere"), ("H100", "hopper"))}
    fixed, mbu, fits, data = llm_pilot.fit_all(
        points, {"A10": GPUS["A10"]["bandwidth"], "A100": GPUS["A100-40GB"]["bandwidth"],
                 "H100": GPUS["H100"]["bandwidth"]},
        pair, MODEL["weight_bytes"], MODEL["kv_bytes_per_token"], MBU_MAX)
    runs = ties.read_interactive(os.path.join(folder, "accelmark"))
    host, extra = sequence_law(fits, fixed)

    def tied(gpu, anchor, anchor_fit):
        step = anchor_fit.step_ms * ties.decode_ratio(runs, gpu, anchor)
        sequence = host + extra * (step - fixed) / MODEL["weight_bytes"]
        return step, sequence, anchor_fit.prefill_ms_per_token * ties.prefill_ratio(runs, gpu, anchor)

    own = {gpu: (f.step_ms, f.sequence_ms, f.prefill_ms_per_token) for gpu, f in fits.items()}
    models = {
        "A10G": model_of(fixed, *own["A10"], share["ampere"]),
        "L4": model_of(fixed, *tied("L4", "A100-40GB", fits["A100"]), share["ada"]),
        "A100-40GB": model_of(fixed, *own["A100"], share["ampere"]),
        "A100-80GB": model_of(fixed, *tied("A100-80GB", "A100-40GB", fits["A100"]),
                              share["ampere"]),
        "H100": model_of(fixed, *own["H100"], share["hopper"]),
    }
    for gpu, model in models.items():
        if (model["bandwidth_bytes_per_s"] > MBU_MAX * GPUS[gpu]["bandwidth"]
                or model["matrix_flops_per_s"] > MFU_MAX * GPUS[gpu]["matrix"]):
            raise SystemExit(f"{gpu}: beyond {MBU_MAX} of the data sheet; look at the fit")
    return models, {"fixed_ms": fixed, "mbu": mbu, "fits": fits, "data": data, "runs": runs,
                    "sequence_host_ms": host, "sequence_extra_bytes": extra, "share": share}


HOW = {
    "A10G": "fitted to LLM-Pilot's A10, which decodes as the A10G does (31 ms per token, both). The "
            "matrix rate is the A10's too: its data sheet says 125 TFLOP/s to the A10G's 70, but "
            "within 150 W it reached {mfu_a10:.0f}, which is {share:.2f} of the A10G's; AccelMark's "
            "RTX 3090, the same chip with the same 71 TFLOP/s, is {rtx:.0f} by its ratio to the A100",
    "L4": "tied to A100-40GB by AccelMark's ratios: iteration of one sequence x{decode:.3f}, prefill "
          "time per token x{prefill:.3f}; cost per sequence from the law of the three fitted GPUs",
    "A100-40GB": "fitted to LLM-Pilot's A100 40 GB",
    "A100-80GB": "tied to A100-40GB by AccelMark's ratios (A100-80GB and A800-80GB): iteration of "
                 "one sequence x{decode:.3f}, prefill time per token x{prefill:.3f}; cost per "
                 "sequence from the law of the three fitted GPUs",
    "H100": "fitted to LLM-Pilot's H100",
}
PILOT_NAME = {"A10G": "A10", "A100-40GB": "A100", "H100": "H100"}
PILOT_TEXT = {
    "decode": ": gaps between tokens, by users, at the mean number of decoding sequences and their "
              "mean context, both inferred from the requests' times (whole milliseconds; the p99 "
              "holds the prefills of others); one user by context",
    "prefill": ": one user, medians by prompt length; TTFT less the time to the acknowledgement, less "
               "{request:.1f} ms that the engine spends on a request besides the iteration "
               "(estimated from short prompts)",
}


def how(gpu, model, info):
    runs = info["runs"]
    if gpu == "A10G":
        a100 = 2 * MODEL["parameters"] / info["fits"]["A100"].prefill_ms_per_token / 1e9
        return HOW[gpu].format(mfu_a10=model["matrix_flops_per_s"] / 1e12,
                               share=model["matrix_flops_per_s"] / GPUS[gpu]["matrix"],
                               rtx=a100 / ties.prefill_ratio(runs, "RTX3090", "A100-40GB"))
    if gpu in PILOT_NAME:
        return HOW[gpu]
    return HOW[gpu].format(decode=ties.decode_ratio(runs, gpu, "A100-40GB"),
                           prefill=ties.prefill_ratio(runs, gpu, "A100-40GB"))


def fit_errors(model, rows):
    errors = [abs(step_ms(model, row) / row["ms_p50"] - 1) for row in rows]
    return statistics.mean(errors), max(errors)


def profile_of(gpu, models, points, summary, info, anchor_error):
    model, limits = models[gpu], hardware.limits(gpu)
    rows, request_ms = [], 0.0
    if gpu in PILOT_NAME:
        request_ms = info["fits"][PILOT_NAME[gpu]].request_ms
        rows = published_decode(points, summary, PILOT_NAME[gpu])
        if gpu != "A10G":
            rows += published_prefill(points, PILOT_NAME[gpu], request_ms)
        error, error_max = fit_errors(model, rows)
        error_text = "fit_error is over this file's published rows"
    else:
        spread = ties.ratio_errors(info["runs"], gpu, "A100-40GB")
        error = anchor_error[0] + statistics.mean(spread)
        error_max = anchor_error[1] + max(spread)
        error_text = ("fit_error is the A100-40GB's own plus how far AccelMark's other ratios are "
                      "from the two used")
    text = how(gpu, model, info)
    model = dict(model, fit_error=significant(error, 4), fit_error_max=significant(error_max, 4),
                 source="model")
    pilot = SOURCES["llm-pilot"]
    sources = [dict(id="spec", kind="published", text=GPUS[gpu]["text"]),
               dict(id="model", kind="modelled",
                    text=f"roofline/1, reference engine: {text}; method in "
                         f"docs/internals/profiles.md; {error_text}",
                    fit_error=model["fit_error"])]
    named = {row["source"] for row in rows}
    for part, more in PILOT_TEXT.items():
        if f"llm-pilot-{part}" in named:
            text = pilot["text"] + more.format(request=request_ms)
            if gpu == "A10G":
                text += "; measured on an A10 24 GB, not an A10G"
            sources.append(dict(pilot, id=f"llm-pilot-{part}", text=text))
    validations = validate.validations(gpu, models, {g: hardware.limits(g) for g in models})
    if gpu not in PILOT_NAME:
        validations.append(validate.tied_validation(
            ties.ratio_errors(info["runs"], gpu, "A100-40GB")))
    for against in dict.fromkeys(v["against"] for v in validations):
        sources.append(dict(SOURCES[against], id=against))
    sources.append(dict(SOURCES["kernel-times"], id="kernel-times"))
    order = ("id", "kind", "text", "licence", "date", "fit_error")
    return {
        "format": "medley-profile/1", "worker_type": f"{gpu.lower()}-{MODEL['name']}-fp16",
        "gpu": gpu, "gpus_per_worker": 1, "dtype": "float16", "engine": "reference",
        "model": MODEL,
        "hardware": {"memory_bytes": GPUS[gpu]["memory"] * hardware.MIB,
                     "bandwidth_bytes_per_s": GPUS[gpu]["bandwidth"],
                     "matrix_flops_per_s": GPUS[gpu]["matrix"], "source": "spec"},
        "limits": limits, "step_model": model,
        "sources": [{k: s[k] for k in order if k in s} for s in sources],
        "validations": validations, "steps": rows + modelled_rows(model, limits), "serving": [],
    }


def write(folder, profile):
    """One row of steps, serving, sources and validations a line."""
    parts = []
    for key, value in profile.items():
        if isinstance(value, list) and value:
            lines = ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in value)
            parts.append(f' "{key}": [\n  {lines}\n ]')
        else:
            parts.append(f' "{key}": {json.dumps(value, ensure_ascii=False)}')
    path = os.path.join(folder, profile["worker_type"] + ".json")
    with open(path, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(parts) + "\n}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder that holds measurements/")
    parser.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)))
    parser.add_argument("--page", help="benchmark page whose tables and plots are written anew")
    args = parser.parse_args()
    folder = os.path.join(args.data, "measurements")
    pilot = os.path.join(folder, "llm_pilot")
    points, summary = llm_pilot.read_points(pilot), llm_pilot.read_summary(pilot)
    models, info = step_models(folder, points)
    validate.load(folder)
    profiles, anchor = {}, None
    for gpu in ("A100-40GB", "A10G", "L4", "A100-80GB", "H100"):
        profiles[gpu] = profile_of(gpu, models, points, summary, info, anchor)
        if gpu == "A100-40GB":
            fitted = profiles[gpu]["step_model"]
            anchor = fitted["fit_error"], fitted["fit_error_max"]
        write(args.out, profiles[gpu])
    for profile in serving.profiles(folder):
        write(args.out, profile)
    if args.page:
        import page
        page.write(args.page, profiles, models, points, info)


if __name__ == "__main__":
    main()
