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


def activation_bytes():
    """Of one iteration of BATCHED_TOKENS_MAX tokens: the MLP's two halves, hidden states and
    queries, keys, values in 16 bit, logits of SEQUENCES_MAX sequences in 32 bit; twice, for
    workspaces and the allocator's slack."""
    per_token = 2 * (2 * MODEL["intermediate"] + 6 * MODEL["hidden"])
    return 2 * (BATCHED_TOKENS_MAX * per_token + SEQUENCES_MAX * MODEL["vocab"] * 4)


def kv_tokens(gpu):
    free = (MEMORY_SHARE * GPUS[gpu]["memory"] * MIB - MODEL["weight_bytes"] - activation_bytes())
    tokens = int(free // MODEL["kv_bytes_per_token"])
    return tokens // BLOCK_TOKENS * BLOCK_TOKENS


def limits(gpu):
    tokens = kv_tokens(gpu)
    return {
        "max_model_len": min(MODEL_LEN_WANTED, tokens), "max_num_seqs": SEQUENCES_MAX,
        "max_num_batched_tokens": BATCHED_TOKENS_MAX, "block_tokens": BLOCK_TOKENS,
        "kv_tokens": tokens,
    }
