#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tiny random models, the same bits on every machine: one per architecture and dtype.

    models.py FOLDER [NAME ...]      writes FOLDER/NAME/{config.json,*.safetensors}

A weight is mean + scale * u in float32, where u in [-1, 1) comes from the weight's place alone:
splitmix64 of a counter, its upper 24 bits.  Nothing of numpy's own generators is used, so any version
gives the same.  Matrices are scaled so that a normalised input gives outputs of deviation `GAIN`:
attention is then neither flat nor on one token, and logits spread over some units.
"""
import json
import pathlib
import sys

import numpy as np

GAIN = 2.0

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 512}


def llama(**more):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **more}


def mistral(**more):
    return {"architectures": ["MistralForCausalLM"], "model_type": "mistral", **more}


def qwen2(**more):
    return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **more}


def qwen3(**more):
    return {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **more}


def sizes(layers, hidden, heads, kv_heads, intermediate, vocab, head_dim=None):
    out = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
           "num_key_value_heads": kv_heads, "intermediate_size": intermediate,
           "vocab_size": vocab, "max_position_embeddings": 8192, "hidden_act": "silu",
           "rms_norm_eps": 1e-5}
    if head_dim:
        out["head_dim"] = head_dim
    return out


# name -> config.json.  `torch_dtype` is also how the weights are stored.
MODELS = {
    # head_dim implied (14), odd intermediate and vocabulary, untied, the default rope.
    "llama-float32": llama(**sizes(3, 84, 6, 2, 131, 257), torch_dtype="float32",
                           rope_theta=10000.0, tie_word_embeddings=False),
    "llama-bfloat16": llama(**sizes(3, 64, 4, 1, 160, 300, 16), torch_dtype="bfloat16",
                            rope_theta=500000.0, rope_scaling=LLAMA3, tie_word_embeddings=True,
                            attention_bias=True, mlp_bias=True),
    # In three shards.
    "llama-float16": llama(**sizes(2, 96, 4, 4, 200, 320, 24), torch_dtype="float16",
                           rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 4.0},
                           tie_word_embeddings=False, attention_bias=False, mlp_bias=True),
    "mistral-float32": mistral(**sizes(2, 80, 5, 5, 144, 260), torch_dtype="float32",
                               rope_theta=10000.0, sliding_window=None,
                               tie_word_embeddings=True),
    "mistral-bfloat16": mistral(**sizes(3, 64, 4, 2, 128, 288, 24), torch_dtype="bfloat16",
                                rope_theta=1000000.0, sliding_window=64,
                                tie_word_embeddings=False),
    "mistral-float16": mistral(**sizes(2, 72, 6, 3, 136, 271), torch_dtype="float16",
                               rope_theta=10000.0, sliding_window=129,
                               tie_word_embeddings=False),
    "qwen2-float32": qwen2(**sizes(2, 112, 7, 1, 150, 310), torch_dtype="float32",
                           rope_theta=1000000.0, tie_word_embeddings=False,
                           use_sliding_window=False, sliding_window=32, max_window_layers=0,
                           rope_scaling={"rope_type": "linear", "factor": 2.0}),
    "qwen2-bfloat16": qwen2(**sizes(4, 64, 4, 2, 172, 512), torch_dtype="bfloat16",
                            rope_theta=1000000.0, tie_word_embeddings=True,
                            use_sliding_window=True, sliding_window=128, max_window_layers=2),
    "qwen2-float16": qwen2(**sizes(2, 64, 2, 2, 99, 401), torch_dtype="float16",
                           rope_theta=1000000.0, tie_word_embeddings=False,
                           use_sliding_window=True, sliding_window=17, max_window_layers=1),
    # The newer keys: dtype, rope_parameters, layer_types.
    "qwen3-float32": qwen3(**sizes(3, 96, 4, 2, 192, 288, 32), dtype="float32",
                           rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
                           tie_word_embeddings=False, attention_bias=True,
                           use_sliding_window=True, sliding_window=48,
                           layer_types=["sliding_attention", "full_attention",
                                        "sliding_attention"]),
    "qwen3-bfloat16": qwen3(**sizes(3, 64, 4, 2, 192, 384, 32), torch_dtype="bfloat16",
                            rope_theta=1000000.0, tie_word_embeddings=True,
                            attention_bias=False),
    "qwen3-float16": qwen3(**sizes(2, 80, 3, 1, 110, 259, 40), dtype="float16",
                           rope_parameters={**LLAMA3, "rope_theta": 10000.0},
                           tie_word_embeddings=False, attention_bias=False),
}
SHARDS = {"llama-float16": 3, "qwen2-bfloat16": 2}


def uniform(counter, count):
    """float32 in [-1, 1): splitmix64 of counter, counter + 1, ..."""
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(counter)
        z *= np.uint64(0x9e3779b97f4a7c15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xbf58476d1ce4e5b9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94d049bb133111eb)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)


def tokens(seed, count, vocab):
    """Token ids of a prompt."""
    u = (uniform(seed << 40, count).astype(np.float64) + 1) / 2
    return np.minimum((u * vocab).astype(np.int64), vocab - 1).tolist()


def tensors(config):
    """(name, shape) of every weight, in the order in which they are drawn."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    kind = config["model_type"]
    bias = kind == "qwen2" or (kind in ("llama", "qwen3") and config.get("attention_bias"))
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", (hidden,)
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            yield f"{at}self_attn.{name}_proj.weight", (rows, hidden)
            if bias:
                yield f"{at}self_attn.{name}_proj.bias", (rows,)
        yield at + "self_attn.o_proj.weight", (hidden, q)
        if bias and kind != "qwen2":
            yield at + "self_attn.o_proj.bias", (hidden,)
        if kind == "qwen3":
            yield at + "self_attn.q_norm.weight", (head_dim,)
            yield at + "self_attn.k_norm.weight", (head_dim,)
        yield at + "post_attention_layernorm.weight", (hidden,)
        for name, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)),
                            ("down", (hidden, inner))):
            yield f"{at}mlp.{name}_proj.weight", shape
            if kind == "llama" and config.get("mlp_bias"):
                yield f"{at}mlp.{name}_proj.bias", (shape[0],)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def weight(name, shape, number):
    count = int(np.prod(shape))
    if "norm" in name:
        mean, scale = 1.0, 0.25
    elif name.endswith("bias"):
        mean, scale = 0.0, 0.5
    elif "embed" in name:
        mean, scale = 0.0, GAIN * (3 / shape[1]) ** 0.5  # it may be the head as well
    else:
        mean, scale = 0.0, GAIN * (3 / shape[1]) ** 0.5
    u = uniform((number + 1) << 32, count)
    return (np.float32(mean) + np.float32(scale) * u).reshape(shape)


def stored(values, dtype):
    """Bytes as the file has them: rounded to nearest, ties to even."""
    if dtype == "float32":
        return values.astype("<f4").tobytes()
    if dtype == "float16":
        return values.astype("<f2").tobytes()
    bits = values.astype("<f4").view("<u4")
    bits = (bits + np.uint32(0x7fff) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return bits.astype("<u2").tobytes()


def write_safetensors(path, items, dtype):
    short = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[dtype]
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, data in items:
        header[name] = {"dtype": short, "shape": list(shape),
                        "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, _, data in items:
            f.write(data)


def write_model(folder, name):
    config = MODELS[name]
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = config.get("torch_dtype") or config["dtype"]
    number = list(MODELS).index(name) << 12
    items = [(tensor, shape, stored(weight(tensor, shape, number + i), dtype))
             for i, (tensor, shape) in enumerate(tensors(config))]
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": None}, indent=1))
    shards = SHARDS.get(name, 1)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", items, dtype)
        return
    index = {"metadata": {"total_size": sum(len(d) for _, _, d in items)}, "weight_map": {}}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = items[shard::shards]
        write_safetensors(folder / file, part, dtype)
        index["weight_map"].update({tensor: file for tensor, _, _ in part})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for name in sys.argv[2:] or MODELS:
        write_model(pathlib.Path(sys.argv[1]) / name, name)


if __name__ == "__main__":
    main()
