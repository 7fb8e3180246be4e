# SPDX-License-Identifier: Apache-2.0
"""Worker types that ship as serving points alone: facts of their own, for plans only.

No step model is fitted to them: each set has its own engine, and a plan that set one engine's GPU
against another's would choose the engine.  They are facts about quantized and tensor-parallel Llama 2
that nothing else here covers.
"""

import csv
import os
import statistics

from hardware import GPUS, MIB, limits

SHAPES = {
    "7b": dict(parameters=6738415616, layers=32, hidden=4096, heads=32, kv_heads=32, head_dim=128,
               intermediate=11008, vocab=32000),
    "13b": dict(parameters=13015864320, layers=40, hidden=5120, heads=40, kv_heads=40, head_dim=128,
                intermediate=13824, vocab=32000),
    "70b": dict(parameters=68976648192, layers=80, hidden=8192, heads=64, kv_heads=8, head_dim=128,
                intermediate=28672, vocab=32000),
}
# GPTQ: 4 bits a weight, one 16-bit scale and one 4-bit zero per group of 128; embeddings stay 16 bit.
GPTQ_BYTES = (4 + 20 / 128) / 8

# set's model, size, dtype, instance, GPU, GPUs
SAGEMAKER = (
    ("TheBloke/Llama-2-7B-GPTQ", "7b", "gptq-int4", "ml.g5.2xlarge", "A10G", 1),
    ("TheBloke/Llama-2-13B-GPTQ", "13b", "gptq-int4", "ml.g5.2xlarge", "A10G", 1),
    ("TheBloke/Llama-2-70B-GPTQ", "70b", "gptq-int4", "ml.g5.12xlarge", "A10G", 4),
    ("meta-llama/Llama-2-13b-hf", "13b", "float16", "ml.g5.12xlarge", "A10G", 4),
    ("meta-llama/Llama-2-70b-hf", "70b", "float16", "ml.g5.48xlarge", "A10G", 8),
    ("meta-llama/Llama-2-70b-hf", "70b", "float16", "ml.p4d.24xlarge", "A100-40GB", 8),
)
SAGEMAKER_PROMPT = 146  # see validate.py
SAGEMAKER_TEXT = (
    "philschmid/text-generation-inference-tests: {model} on {instance}, TGI 1.0.3, closed loop, "
    "ShareGPT prompts (taken as 146 tokens, the mean of the first 25), 50 output tokens; tpot is the "
    "set's inference time over tokens, prefill included, so a little above TPOT; no failures recorded")
SPLITWISE = (("a100-80gb", "A100-80GB", 2), ("a100-80gb", "A100-80GB", 4),
             ("a100-80gb", "A100-80GB", 8), ("h100-80gb", "H100", 2), ("h100-80gb", "H100", 4),
             ("h100-80gb", "H100", 8))
SPLITWISE_TEXT = (
    "Patel et al., Splitwise, ISCA'24, Mutinifni/splitwise-sim: Llama2-70B, tensor parallel {gpus}; "
    "static batches written as closed loops of as many users, throughput = batch / e2e; medians over "
    "repeats; batch 64 of tensor parallel 2 left out (its prompt times are implausible)")
SPLITWISE_OUTPUT = "128"


def shape(size, dtype):
    model = {"name": f"llama-2-{size}", **SHAPES[size]}
    embedding = 2 * model["vocab"] * model["hidden"]
    linear = model["parameters"] - embedding
    per_weight = GPTQ_BYTES if dtype == "gptq-int4" else 2
    model["weight_bytes"] = round(linear * per_weight + embedding * 2)
    model["kv_bytes_per_token"] = 4 * model["layers"] * model["kv_heads"] * model["head_dim"]
    return model


def profile(gpu, gpus, size, dtype, engine, source, model_len, rows):
    model = shape(size, dtype)
    many = f"-x{gpus}" if gpus > 1 else ""
    kind = {"gptq-int4": "gptq", "float16": "fp16"}[dtype]
    return {
        "format": "medley-profile/1", "worker_type": f"{gpu.lower()}{many}-{model['name']}-{kind}",
        "gpu": gpu, "gpus_per_worker": gpus, "dtype": dtype, "engine": engine, "model": model,
        "hardware": {"memory_bytes": GPUS[gpu]["memory"] * MIB,
                     "bandwidth_bytes_per_s": GPUS[gpu]["bandwidth"],
                     "matrix_flops_per_s": GPUS[gpu]["matrix"], "source": "spec"},
        "limits": limits(gpu, model_len, gpus, model, batched_tokens=4096, sequences=128),
        "sources": [{"id": "spec", "kind": "published", "text": GPUS[gpu]["text"]}, source],
        "serving": rows,
    }


def sagemaker(folder):
    path = os.path.join(folder, "sagemaker_llama2", "sagemaker_compact.csv")
    with open(path, newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    for name, size, dtype, instance, gpu, gpus in SAGEMAKER:
        rows = [{
            "input_tokens": SAGEMAKER_PROMPT, "output_tokens": int(r["output_tokens"]),
            "arrival": "closed", "concurrency": int(r["concurrency"]),
            "throughput_per_s": float(f"{float(r['throughput_tok_s']) / int(r['output_tokens']):.6g}"),
            "tpot_ms": {"p50": float(r["ms_per_token_p50"]), "p90": float(r["ms_per_token_p90"])},
            "e2e_ms": {"p50": float(r["request_ms_p50"])}, "failures": 0, "source": "sagemaker",
        } for r in table if r["model"] == name and r["instance"] == instance]
        rows.sort(key=lambda row: row["concurrency"])
        source = {"id": "sagemaker", "kind": "published", "licence": "Apache-2.0",
                  "text": SAGEMAKER_TEXT.format(model=name, instance=instance)}
        yield profile(gpu, gpus, size, dtype, "tgi-1.0.3", source, 2048, rows)


def splitwise(folder):
    found = {}
    path = os.path.join(folder, "splitwise", "perf_model.csv")
    with open(path, newline="", encoding="utf-8") as file:
        for r in csv.DictReader(file):
            if r["model"] == "llama2-70b" and r["token_size"] == SPLITWISE_OUTPUT:
                key = r["hardware"], int(r["tensor_parallel"]), int(r["prompt_size"]), \
                    int(r["batch_size"])
                found.setdefault(key, []).append(
                    tuple(float(r[c]) for c in ("prompt_time", "token_time", "e2e_time")))
    for hardware, gpu, gpus in SPLITWISE:
        rows = []
        for (name, parallel, prompt, batch), times in sorted(found.items()):
            if name != hardware or parallel != gpus or (gpus == 2 and batch == 64):
                continue
            ttft, tpot, e2e = (float(f"{statistics.median(column):.6g}") for column in zip(*times))
            rows.append({
                "input_tokens": prompt, "output_tokens": int(SPLITWISE_OUTPUT), "arrival": "closed",
                "concurrency": batch, "throughput_per_s": float(f"{batch / e2e * 1e3:.6g}"),
                "ttft_ms": {"p50": ttft}, "tpot_ms": {"p50": tpot}, "e2e_ms": {"p50": e2e},
                "failures": 0, "source": "splitwise"})
        source = {"id": "splitwise", "kind": "published", "licence": "MIT",
                  "text": SPLITWISE_TEXT.format(gpus=gpus)}
        yield profile(gpu, gpus, "70b", "float16", "splitwise-2023", source, 8320, rows)


def profiles(folder):
    return [*sagemaker(folder), *splitwise(folder)]
