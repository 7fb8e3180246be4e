#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the golden files: what transformers computes with the models of models.py.

    make.py                      tests/golden/NAME.npz for every model of models.py
    make.py MODEL_DIR ...        the same for model directories, named after them
    make.py --only NAME ...      some of models.py's
    make.py --mutate             prints what deliberate mistakes change, as a table

Needs torch and transformers, which the tests do not: run it where they are, and commit the files.
The weights are those of the files, widened; arithmetic is float32 (`logits`, `greedy`) and bfloat16
(`bf16`); attention is transformers' eager one, which writes the scores out.

A file holds, with P the prompts and R the rows that are kept:
    prompt_N [tokens]; rows_N [R] positions; logits_N [R][vocab] float32; bf16_N the same, computed
    in bfloat16 (of prompts up to BF16_MAX tokens); greedy [200] ids after prompt_1; margin [200],
    the difference of the two largest logits; about: versions and the largest difference between
    float32 and float64 arithmetic, as JSON
"""
import argparse
import json
import pathlib
import tempfile

import numpy as np
import torch
import transformers

import models

HERE = pathlib.Path(__file__).resolve().parent
GREEDY = 200
BF16_MAX = 600
# Tokens of a prompt, and the positions whose logits are kept.
PROMPTS = [(1, [0]),
           (37, [0, 16, 36]),
           (600, [63, 64, 128, 129, 255, 256, 511, 512, 599]),
           (4096, [2047, 4095])]


def load(folder, dtype):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager")
    return model.eval()


@torch.no_grad()
def logits(model, ids, rows):
    # The logits of the kept rows only: the whole of a large vocabulary would not fit in memory.
    out = model(torch.tensor([ids]), use_cache=False, logits_to_keep=torch.tensor(rows))
    return out.logits[0].float().numpy()


@torch.no_grad()
def greedy(model, ids):
    out, margins, cache, given = [], [], None, ids
    for _ in range(GREEDY):
        step = model(torch.tensor([given]), past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        top = torch.topk(step.logits[0, -1], 2)
        out.append(int(top.indices[0]))
        margins.append(float(top.values[0] - top.values[1]))
        given = out[-1:]
    return out, margins


def relative(a, b):
    """The largest difference of a row, by the largest of the reference's row."""
    return float(np.max(np.abs(a - b).max(axis=-1) / np.abs(b).max(axis=-1)))


def make(folder, path):
    full, double = load(folder, torch.float32), load(folder, torch.float64)
    half = load(folder, torch.bfloat16)
    vocab = full.config.vocab_size
    room = full.config.max_position_embeddings
    arrays, worst, worst_half = {}, 0.0, 0.0
    prompts = [p for p in PROMPTS if p[0] <= room]
    for number, (count, rows) in enumerate(prompts):
        ids = models.tokens(number + 1, count, vocab)
        arrays[f"prompt_{number}"] = np.array(ids, np.uint32)
        arrays[f"rows_{number}"] = np.array(rows, np.uint32)
        arrays[f"logits_{number}"] = reference = logits(full, ids, rows)
        worst = max(worst, relative(logits(double, ids, rows), reference))
        if count <= BF16_MAX:
            arrays[f"bf16_{number}"] = logits(half, ids, rows)
            worst_half = max(worst_half, relative(arrays[f"bf16_{number}"], reference))
    out, margins = greedy(full, arrays["prompt_1"].tolist())
    arrays["greedy"] = np.array(out, np.uint32)
    arrays["margin"] = np.array(margins, np.float32)
    spread = float(arrays["logits_1"].std())
    about = {"torch": torch.__version__, "transformers": transformers.__version__,
             "float64_difference": worst, "bf16_difference": worst_half, "deviation": spread}
    arrays["about"] = np.array(json.dumps(about))
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {path.stat().st_size} bytes, logits deviate by {spread:.2f}, float64 differs "
          f"by {worst:.1e}, bf16 by {worst_half:.1e}, {len(set(out))} different tokens of {GREEDY}, "
          f"least margin {min(margins):.1e}, {sum(m < 1e-4 for m in margins)} near-ties", flush=True)


# ---- deliberate mistakes ----

def scaled_rope(model, change):
    rope = model.model.rotary_emb
    rope.inv_freq = change(rope.inv_freq.clone(), rope)
    return True


def next_frequency(f, _):
    return torch.cat([f[1:], f[-1:] * f[-1:] / f[-2:-1]])


def rotate_pairs(x):
    return torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)


def interleaved_rope(model):
    """Pairs (2i, 2i + 1) instead of (i, i + half)."""
    module = __import__(type(model).__module__, fromlist=["x"])
    old = module.apply_rotary_pos_emb

    def apply(q, k, cos, sin, *_, **__):
        half = cos.shape[-1] // 2
        cos = cos[..., :half].repeat_interleave(2, dim=-1)[:, None]
        sin = sin[..., :half].repeat_interleave(2, dim=-1)[:, None]
        return q * cos + rotate_pairs(q) * sin, k * cos + rotate_pairs(k) * sin

    module.apply_rotary_pos_emb = apply
    return lambda: setattr(module, "apply_rotary_pos_emb", old)


def no_bias(part):
    def change(model):
        found = [p for n, p in model.named_parameters() if n.endswith(f"{part}.bias")]
        for p in found:
            p.data.zero_()
        return bool(found)
    return change


def plain_norm(part):
    def change(model):
        found = [p for n, p in model.named_parameters() if n.endswith(f"{part}.weight")]
        for p in found:
            p.data.fill_(1)
        return bool(found)
    return change


def no_qk_norm(model):
    if model.config.model_type != "qwen3":
        return False
    for layer in model.model.layers:
        layer.self_attn.q_norm = layer.self_attn.k_norm = torch.nn.Identity()
    return True


def kv_heads_shifted(model):
    """Query heads read the next key-value head."""
    c = model.config
    if c.num_key_value_heads in (1,):
        return False
    for layer in model.model.layers:
        for p in list(layer.self_attn.k_proj.parameters()) + list(layer.self_attn.v_proj.parameters()):
            split = p.data.view(c.num_key_value_heads, -1)
            p.data = split.roll(1, 0).reshape(p.shape)
    return True


def gelu(model):
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.GELU()
    return True


def epsilon(model):
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 1e-6
    return True


def window(step):
    def change(model):
        c = model.config
        size = getattr(c, "sliding_window", None)
        if not size or (c.model_type == "qwen2" and not any(
                t == "sliding_attention" for t in c.layer_types)):
            return False
        c.sliding_window = size + step if step else 1 << 20
        for layer in model.model.layers:
            if getattr(layer.self_attn, "sliding_window", None):
                layer.self_attn.sliding_window = c.sliding_window
        return True
    return change


def window_from_next_layer(model):
    c = model.config
    types = list(getattr(c, "layer_types", None) or [])
    if "sliding_attention" not in types:
        return False
    types[types.index("sliding_attention")] = "full_attention"
    c.layer_types = types
    for layer, kind in zip(model.model.layers, types):
        for part in (layer, layer.self_attn):
            for name in ("attention_type", "layer_type"):
                if hasattr(part, name):
                    setattr(part, name, kind)
    return True


def mask_blind_to_self(model):
    """The mask ends one place early (the first token keeps itself)."""
    module = __import__(type(model).__module__, fromlist=["x"])
    old = module.eager_attention_forward

    def forward(self, query, key, value, attention_mask, *args, **kwargs):
        n = query.shape[2]
        mask = attention_mask.clone()
        index = torch.arange(1, n)
        mask[..., index, index] = torch.finfo(mask.dtype).min
        return old(self, query, key, value, mask, *args, **kwargs)

    module.eager_attention_forward = forward
    return lambda: setattr(module, "eager_attention_forward", old)


MUTATIONS = {
    "rope: frequencies one place on": lambda m: scaled_rope(m, next_frequency),
    "rope: theta 1% larger": lambda m: scaled_rope(
        m, lambda f, r: f * 1.01 ** -torch.linspace(0, 1, len(f))),
    "rope: no scaling": lambda m: m.config.rope_parameters["rope_type"] != "default" and scaled_rope(
        m, lambda f, r: r.compute_default_rope_parameters(m.config)[0]),
    "rope: neighbours are pairs": interleaved_rope,
    "window one larger": window(1),
    "window one smaller": window(-1),
    "no window": window(0),
    "window from one layer later": window_from_next_layer,
    "a token does not see itself": mask_blind_to_self,
    "key-value heads shifted": kv_heads_shifted,
    "no bias of q": no_bias("q_proj"),
    "no bias of k": no_bias("k_proj"),
    "no bias of v": no_bias("v_proj"),
    "no bias of the output": no_bias("o_proj"),
    "no bias of gate": no_bias("gate_proj"),
    "no bias of down": no_bias("down_proj"),
    "no norm of q and k": no_qk_norm,
    "last norm's weight 1": plain_norm("model.norm"),
    "input norm's weight 1": plain_norm("input_layernorm"),
    "norm epsilon 1e-6": epsilon,
    "gelu for silu": gelu,
}


def mutate():
    """Per mistake: on which models it can be made, and the least and largest change there."""
    count, rows = PROMPTS[2]
    changes = {name: [] for name in MUTATIONS}
    with tempfile.TemporaryDirectory() as folder:
        for model_name in models.MODELS:
            models.write_model(pathlib.Path(folder) / model_name, model_name)
            path = pathlib.Path(folder) / model_name
            model = load(path, torch.float32)
            ids = models.tokens(3, count, model.config.vocab_size)
            reference = logits(model, ids, rows)
            for name, change in MUTATIONS.items():
                model = load(path, torch.float32)
                undo = change(model)
                if not undo:
                    continue
                changes[name].append((relative(logits(model, ids, rows), reference), model_name))
                if callable(undo):
                    undo()
    print("| Mistake | Models | Least change | Largest change |\n|---|---|---|---|")
    for name, found in changes.items():
        if found:
            print(f"| {name} | {len(found)} | {min(found)[0]:.1e} ({min(found)[1]}) "
                  f"| {max(found)[0]:.1e} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directories", nargs="*", type=pathlib.Path)
    parser.add_argument("--only", nargs="*", default=list(models.MODELS))
    parser.add_argument("--mutate", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.mutate:
        mutate()
        return
    for folder in arguments.directories:
        make(folder, HERE / f"{folder.resolve().name}.npz")
    if arguments.directories:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            models.write_model(pathlib.Path(folder) / name, name)
            make(pathlib.Path(folder) / name, HERE / f"{name}.npz")


if __name__ == "__main__":
    main()
