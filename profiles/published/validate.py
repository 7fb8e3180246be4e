# SPDX-License-Identifier: Apache-2.0
"""Errors of the step models against measurements that were left out of the fit.

They come from other engines, so two errors are stated: as it is, and after one scale factor for the
engine, the same on all its GPUs, which leaves the error of the shape: how time grows with batch,
context, prompt and from GPU to GPU.

  SageMaker  Llama-2-7B fp16 on one A10G, closed loop of 1 to 20 users, 50 output tokens.  Its
             prompts are ShareGPT's; the first 25 of its sample file have 146 tokens on average, which
             is taken for all.  In a closed loop, a token takes one iteration of all users, and each
             user's prefill once per 50 tokens stops the others.
  ANL        static batches on one A100-40GB or H100, input = output = 128 to 2048: latency is the
             prefill of the batch in chunks of the budget, then output - 1 iterations.  Batches that do
             not fit the KV capacity ran in several waves there and are left out.
"""

import csv
import json
import os
import statistics

from hardware import BATCHED_TOKENS_MAX

SAGEMAKER_PROMPT = 146
ANL_GPU = {"A100-40GB": "A100-40GB", "H100": "H100-80GB"}
ANL_ENGINE = {"anl-vllm": "vLLM", "anl-trtllm": "TensorRT-LLM"}
_sets = {}


def load(folder):
    path = os.path.join(folder, "sagemaker_llama2", "sagemaker_compact.csv")
    with open(path, newline="", encoding="utf-8") as file:
        _sets["sagemaker"] = [
            r for r in csv.DictReader(file)
            if r["model"] == "meta-llama/Llama-2-7b-hf" and r["instance"] == "ml.g5.2xlarge"]
    path = os.path.join(folder, "anl_inference_bench", "llama7b_8b_1gpu.csv")
    with open(path, newline="", encoding="utf-8") as file:
        _sets["anl"] = [r for r in csv.DictReader(file)
                        if r["model"] == "meta-llama/Llama-2-7b-hf"]


def _row(p=0, c=0, s=0, d=0):
    return {"prefill_tokens": p, "prefill_context": c, "decode_sequences": s,
            "decode_context_tokens": d}


def sagemaker_pairs(model):
    """(users, model ms per token, measured ms per token)"""
    from derive import step_ms
    out = []
    for r in _sets["sagemaker"]:
        users, tokens = int(r["concurrency"]), int(r["output_tokens"])
        context = SAGEMAKER_PROMPT + tokens / 2
        decode = step_ms(model, _row(s=users, d=users * context))
        prefill = step_ms(model, _row(p=SAGEMAKER_PROMPT))
        out.append((users, decode + users * prefill / tokens, float(r["ms_per_token_p50"])))
    return out


def anl_pairs(gpu, against, model, limits):
    """(tokens in = out, batch, model seconds, measured seconds), and how many did not fit"""
    from derive import step_ms
    out, skipped = [], 0
    for r in _sets["anl"]:
        if r["gpu"] != ANL_GPU[gpu] or r["framework"] != ANL_ENGINE[against]:
            continue
        i, o, batch = int(r["input_tokens"]), int(r["output_tokens"]), int(r["batch"])
        if batch * (i + o) > limits["kv_tokens"]:
            skipped += 1
            continue
        seconds, left = 0.0, batch * i
        pairs_each = i * (i + 1) / 2
        per_token = pairs_each / i  # mean attention pairs of a prompt token
        while left > 0:
            chunk = min(BATCHED_TOKENS_MAX, left)
            left -= chunk
            row = _row(p=chunk, c=per_token - (chunk + 1) / 2)  # the pairs of several short prompts
            seconds += step_ms(model, row) / 1e3
        seconds += (o - 1) * step_ms(model, _row(s=batch, d=batch * (i + o / 2))) / 1e3
        out.append((i, batch, seconds, float(r["latency_s"])))
    return out, skipped


def scale_of(pairs):
    return statistics.geometric_mean(measured / model for model, measured in pairs)


def pairs_of(models, limits):
    """against -> gpu -> (model, measured), and against -> gpu -> rows left out"""
    pairs = {"sagemaker": {"A10G": [(m, t) for _, m, t in sagemaker_pairs(models["A10G"])]}}
    left_out = {"sagemaker": {"A10G": 0}}
    for against in ANL_ENGINE:
        for gpu in ANL_GPU:
            rows, skipped = anl_pairs(gpu, against, models[gpu], limits[gpu])
            pairs.setdefault(against, {})[gpu] = [(m, t) for _, _, m, t in rows]
            left_out.setdefault(against, {})[gpu] = skipped
    return pairs, left_out


def left_out_rows(models, limits):
    """Every measurement that the fits left out: dicts of set, gpu, load and both times in ms."""
    rows = [{"set": "sagemaker", "gpu": "A10G", "batch": users, "tokens": SAGEMAKER_PROMPT,
             "model_ms": model, "measured_ms": measured}
            for users, model, measured in sagemaker_pairs(models["A10G"])]
    for against in ANL_ENGINE:
        for gpu in ANL_GPU:
            for tokens, batch, model, measured in anl_pairs(gpu, against, models[gpu],
                                                            limits[gpu])[0]:
                rows.append({"set": against, "gpu": gpu, "batch": batch, "tokens": tokens,
                             "model_ms": 1e3 * model, "measured_ms": 1e3 * measured})
    return rows


def recorded_rows(model, name):
    """Steps of a profile that `medley profile` recorded, and what the published model says of each."""
    from derive import step_ms
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "..", "recorded", name + ".json"), encoding="utf-8") as file:
        profile = json.load(file)
    rows = []
    for r in profile["steps"]:
        s, p = r["decode_sequences"], r["prefill_tokens"]
        kind = "prefill beside decodes" if s and p else "prefill" if p else (
            "decode, 1 to 16 sequences" if s <= 16 else "decode, 17 to 256 sequences")
        rows.append({"kind": kind, "model_ms": step_ms(model, r), "measured_ms": r["ms_p50"]})
    return rows


def scale_by_set(rows):
    return {name: scale_of([(r["model_ms"], r["measured_ms"]) for r in rows if r["set"] == name])
            for name in dict.fromkeys(r["set"] for r in rows)}


def tied_validation(spread):
    """AccelMark's ratios that did not make the model, for a GPU that was tied by two others."""
    return {"against": "accelmark", "error_mean": float(f"{statistics.mean(spread):.4g}"),
            "error_max": float(f"{max(spread):.4g}"), "rows": len(spread),
            "text": "ratios to the A100-40GB that the tie left out: TTFT p50, p90 and p99 of one "
                    "request at a time; as it is. Nothing of this GPU under load was left out"}


def validations(gpu, models, limits):
    pairs, left_out = pairs_of(models, limits)
    out = []
    for against, by_gpu in pairs.items():
        if gpu not in by_gpu:
            continue
        scale = scale_of([pair for each in by_gpu.values() for pair in each])
        if against == "sagemaker":
            text = (f"time per token by users, ShareGPT prompts taken as {SAGEMAKER_PROMPT} tokens "
                    "each")
        else:
            text = ("latency of static batches, input = output = 128 to 2048 tokens, batch 1 to 64; "
                    f"{left_out[against][gpu]} rows that do not fit the KV capacity left out")
        for kind, factor in (("as it is", 1.0),
                             (f"after one scale factor of {scale:.3f} for that engine", scale)):
            errors = [abs(factor * model / measured - 1) for model, measured in by_gpu[gpu]]
            out.append({"against": against, "error_mean": float(f"{statistics.mean(errors):.4g}"),
                        "error_max": float(f"{max(errors):.4g}"), "rows": len(errors),
                        "text": f"{text}; {kind}"})
    return out
