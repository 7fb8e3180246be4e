#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A model directory of a known shape with random bfloat16 weights, for load and serving measurements.

    random_model.py SHAPE FOLDER        SHAPE: llama-2-7b, llama-3-8b, llama-3.2-1b

Speed does not depend on what the weights are, only that they are not zero: every tensor is a window into
one block of random numbers.  There is no tokenizer: requests bring token ids.  Needs numpy.
"""
import argparse
import json
import pathlib

import numpy as np

SHAPES = {
    "llama-2-7b": dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
                       num_attention_heads=32, num_key_value_heads=32, vocab_size=32000,
                       max_position_embeddings=4096, rope_theta=10000.0, tie_word_embeddings=False),
    "llama-3-8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                       num_attention_heads=32, num_key_value_heads=8, vocab_size=128256,
                       max_position_embeddings=8192, rope_theta=500000.0, tie_word_embeddings=False),
    "llama-3.2-1b": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                         num_attention_heads=32, num_key_value_heads=8, head_dim=64,
                         vocab_size=128256, max_position_embeddings=16384, rope_theta=500000.0,
                         tie_word_embeddings=True),
}
BLOCK = 1 << 27  # numbers
SHARD_BYTES = 5 << 30


def tensors(c):
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    head = c.get("head_dim", hidden // c["num_attention_heads"])
    q, kv = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    yield "model.embed_tokens.weight", (c["vocab_size"], hidden)
    for layer in range(c["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        yield name + "input_layernorm.weight", (hidden,)
        yield name + "self_attn.q_proj.weight", (q, hidden)
        yield name + "self_attn.k_proj.weight", (kv, hidden)
        yield name + "self_attn.v_proj.weight", (kv, hidden)
        yield name + "self_attn.o_proj.weight", (hidden, q)
        yield name + "post_attention_layernorm.weight", (hidden,)
        yield name + "mlp.gate_proj.weight", (inner, hidden)
        yield name + "mlp.up_proj.weight", (inner, hidden)
        yield name + "mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (c["vocab_size"], hidden)


def random_block(seed):
    """bfloat16 bits of numbers with deviation 0.02."""
    numbers = np.random.default_rng(seed).standard_normal(BLOCK, dtype=np.float32) * np.float32(0.02)
    return (numbers.view(np.uint32) >> 16).astype(np.uint16)


def shards(items):
    """Lists of (name, shape) of at most SHARD_BYTES each."""
    part, size = [], 0
    for name, shape in items:
        count = int(np.prod(shape)) * 2
        if part and size + count > SHARD_BYTES:
            yield part
            part, size = [], 0
        part.append((name, shape))
        size += count
    yield part


def write_shard(path, part, block, ones, place):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in part:
        size = int(np.prod(shape)) * 2
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape in part:
            left = int(np.prod(shape))
            if len(shape) == 1:
                file.write(ones[:left])
                continue
            while left:
                count = min(left, BLOCK - place)
                file.write(block[place:place + count])
                left -= count
                place = (place + count) % BLOCK
    return place


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    config = SHAPES[arguments.shape]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    about = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
             "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
             **config}
    (arguments.folder / "config.json").write_text(json.dumps(about, indent=2) + "\n")
    block, ones = random_block(1), np.full(1 << 20, 0x3F80, np.uint16)
    parts = list(shards(tensors(config)))
    place, weights, total = 0, {}, 0
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        place = write_shard(arguments.folder / name, part, block, ones, place)
        weights.update({tensor: name for tensor, _ in part})
        total += sum(int(np.prod(shape)) * 2 for _, shape in part)
    index = {"metadata": {"total_size": total}, "weight_map": weights}
    (arguments.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    print(f"{arguments.folder}: {total} bytes in {len(parts)} files")


if __name__ == "__main__":
    main()
