# SPDX-License-Identifier: Apache-2.0
"""The model shape, the GPUs' data sheets and what follows from them: KV capacity and limits."""

PARAMETERS = 6738415616  # Llama-2-7B, counted from its shape
MODEL = {
    "name": "llama-2-7b", "parameters": PARAMETERS, "layers": 32, "hidden": 4096, "heads": 32,
    "kv_heads": 32, "head_dim": 128, "intermediate": 11008, "vocab": 32000,
    "weight_bytes": 2 * PARAMETERS,
    "kv_bytes_per_token": 2 * 32 * 32 * 128 * 2,  # K and V, layers, heads, head_dim, 2 bytes
}
MIB = 1 << 20

# memory: what the driver reports (MiB), bandwidth and dense fp16 matrix rate: data sheets.
GPUS = {
    "A10": {"memory": 23028, "bandwidth": 600e9, "matrix": 125e12,
            "text": "NVIDIA A10 data sheet: 600 GB/s, 125 TFLOP/s fp16 dense, 150 W"},
    "A10G": {"memory": 23028, "bandwidth": 600e9, "matrix": 70e12,
             "text": "NVIDIA A10G (AWS G5): 600 GB/s, 70 TFLOP/s fp16 dense; as compared with the "
                     "A10 in Baseten, 'NVIDIA A10 vs A10G for ML model inference', 2023"},
    "L4": {"memory": 23034, "bandwidth": 300e9, "matrix": 121e12,
           "text": "NVIDIA L4 data sheet: 300 GB/s, 121 TFLOP/s fp16 dense (242 with sparsity), 72 W"},
    "A100-40GB": {"memory": 40960, "bandwidth": 1555e9, "matrix": 312e12,
                  "text": "NVIDIA A100 40 GB data sheet: 1555 GB/s, 312 TFLOP/s fp16 dense"},
    "A100-80GB": {"memory": 81920, "bandwidth": 2039e9, "matrix": 312e12,
                  "text": "NVIDIA A100 SXM 80 GB data sheet: 2039 GB/s, 312 TFLOP/s fp16 dense"},
    "H100": {"memory": 81559, "bandwidth": 3350e9, "matrix": 989.4e12,
             "text": "NVIDIA H100 SXM data sheet: 3.35 TB/s, 989 TFLOP/s fp16 dense"},
}

MODEL_LEN_WANTED = 18432
MEMORY_SHARE = 0.90            # as vLLM's gpu_memory_utilization by default
BATCHED_TOKENS_MAX = 2048
SEQUENCES_MAX = 256
BLOCK_TOKENS = 16


def activation_bytes(model, batched_tokens, sequences):
    """Of one iteration: the MLP's two halves, hidden states, queries, keys and values in 16 bit, and
    the logits of the sequences in 32 bit; twice, for workspaces and the allocator's slack."""
    per_token = 2 * (2 * model["intermediate"] + 6 * model["hidden"])
    return 2 * (batched_tokens * per_token + sequences * model["vocab"] * 4)


def kv_tokens(gpu, gpus=1, model=None, batched_tokens=BATCHED_TOKENS_MAX, sequences=SEQUENCES_MAX):
    """What is left of the memory share after weights and activations, in whole blocks."""
    model = model or MODEL
    free = (MEMORY_SHARE * gpus * GPUS[gpu]["memory"] * MIB - model["weight_bytes"]
            - activation_bytes(model, batched_tokens, sequences))
    return int(free // model["kv_bytes_per_token"]) // BLOCK_TOKENS * BLOCK_TOKENS


def limits(gpu, model_len=MODEL_LEN_WANTED, gpus=1, model=None,
           batched_tokens=BATCHED_TOKENS_MAX, sequences=SEQUENCES_MAX):
    tokens = kv_tokens(gpu, gpus, model, batched_tokens, sequences)
    return {
        # A request longer than the KV capacity could never run: the engine is started with less.
        "max_model_len": min(model_len, tokens), "max_num_seqs": sequences,
        "max_num_batched_tokens": batched_tokens, "block_tokens": BLOCK_TOKENS,
        "kv_tokens": tokens,
    }
