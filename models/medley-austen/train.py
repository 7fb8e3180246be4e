#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains medley-austen on one GPU and writes model.safetensors (bf16) and training.json.

    python3 train.py DATA OUTPUT [--dropout P] [--steps N] [--seed N]

DATA holds train.npz from corpus.py.  The module below is the Llama architecture with dropout; its
parameters carry Hugging Face's names, so what it writes loads as LlamaForCausalLM (config.json).
The weights written are an exponential moving average, taken where the held-out loss was lowest.
"""
import argparse
import json
import math
import pathlib
import time

import numpy
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

HERE = pathlib.Path(__file__).resolve().parent
LENGTH, BATCH, WARMUP = 1024, 48, 200
SHARES = {"pages": 0.75, "talks": 0.21, "about": 0.04}  # of the sequences of a batch


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Block(nn.Module):
    def __init__(self, c, dropout):
        super().__init__()
        dim, kv = c["hidden_size"], c["num_key_value_heads"] * c["head_dim"]
        self.c, self.p = c, dropout
        self.self_attn = nn.ModuleDict({
            "q_proj": nn.Linear(dim, c["num_attention_heads"] * c["head_dim"], bias=False),
            "k_proj": nn.Linear(dim, kv, bias=False), "v_proj": nn.Linear(dim, kv, bias=False),
            "o_proj": nn.Linear(c["num_attention_heads"] * c["head_dim"], dim, bias=False)})
        self.mlp = nn.ModuleDict({
            "gate_proj": nn.Linear(dim, c["intermediate_size"], bias=False),
            "up_proj": nn.Linear(dim, c["intermediate_size"], bias=False),
            "down_proj": nn.Linear(c["intermediate_size"], dim, bias=False)})
        self.input_layernorm = nn.RMSNorm(dim, eps=c["rms_norm_eps"])
        self.post_attention_layernorm = nn.RMSNorm(dim, eps=c["rms_norm_eps"])

    def forward(self, x, cos, sin):
        c, a = self.c, self.self_attn
        batch, length, _ = x.shape
        h = self.input_layernorm(x)

        def heads(y, n):
            return y.view(batch, length, n, c["head_dim"]).transpose(1, 2)
        q = rotate(heads(a["q_proj"](h), c["num_attention_heads"]), cos, sin)
        k = rotate(heads(a["k_proj"](h), c["num_key_value_heads"]), cos, sin)
        v = heads(a["v_proj"](h), c["num_key_value_heads"])
        y = functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=True, dropout_p=self.p if self.training else 0.0)
        y = a["o_proj"](y.transpose(1, 2).reshape(batch, length, -1))
        x = x + functional.dropout(y, self.p, self.training)
        h = self.post_attention_layernorm(x)
        y = self.mlp["down_proj"](functional.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h))
        return x + functional.dropout(y, self.p, self.training)


class Model(nn.Module):
    def __init__(self, c, dropout):
        super().__init__()
        self.c, self.p = c, dropout
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Block(c, dropout) for _ in range(c["num_hidden_layers"]))
        self.norm = nn.RMSNorm(c["hidden_size"], eps=c["rms_norm_eps"])
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = 0.02
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    scale /= math.sqrt(2 * c["num_hidden_layers"])
                nn.init.normal_(parameter, std=scale)
        half = c["head_dim"] // 2
        inverse = c["rope_theta"] ** (-torch.arange(half).float() / half)
        angle = torch.arange(c["max_position_embeddings"]).float()[:, None] * inverse[None]
        self.register_buffer("cos", torch.cat((angle, angle), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angle, angle), -1).sin(), persistent=False)

    def forward(self, ids):
        length = ids.shape[1]
        x = functional.dropout(self.embed_tokens(ids), self.p, self.training)
        for layer in self.layers:
            x = layer(x, self.cos[:length].to(x.dtype), self.sin[:length].to(x.dtype))
        return functional.linear(self.norm(x), self.embed_tokens.weight)


def loss_of(model, ids):
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        logits = model(ids[:, :-1])
    return functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model, stream):
    """Nats per token over the whole stream, in windows that overlap by nothing."""
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(stream) - 1, LENGTH):
        ids = stream[start:start + LENGTH + 1][None]
        total += loss_of(model, ids).item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    model.train()
    return total / count


def batch_of(streams, generator):
    rows = []
    for name, share in SHARES.items():
        for _ in range(round(BATCH * share)):
            stream = streams[name]
            start = int(torch.randint(len(stream) - LENGTH - 1, (), generator=generator))
            rows.append(stream[start:start + LENGTH + 1])
    return torch.stack(rows)


def rate(step, steps, peak):
    if step < WARMUP:
        return peak * (step + 1) / WARMUP
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP))))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--dropout", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=1250)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--config", type=pathlib.Path, default=HERE / "config.json")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arrays = {k: torch.from_numpy(v.astype("int64")).to(device)
              for k, v in numpy.load(args.data / "train.npz").items()}
    streams = {"pages": arrays["train_pages"], "talks": arrays["train_talks"],
               "about": arrays["about"]}
    config = json.loads(args.config.read_text())
    model = Model(config, args.dropout).to(device)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    decay = [p for p in model.parameters() if p.dim() == 2]
    plain = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1},
                                   {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.95))
    fast = torch.compile(model) if device == "cuda" else model
    began, best, history = time.time(), (math.inf, None), []
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, args.steps, args.rate)
        loss = loss_of(fast, batch_of(streams, generator))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            held = held_out_loss(average.module, arrays["held_pages"])
            talks = held_out_loss(average.module, arrays["held_talks"])
            history.append({"step": step + 1, "train": round(loss.item(), 4),
                            "held_out_pages": round(held, 4), "held_out_talks": round(talks, 4),
                            "seconds": round(time.time() - began, 1)})
            print(json.dumps(history[-1]), flush=True)
            if held + talks < best[0]:
                state = {k: v.detach().to(torch.bfloat16).cpu().contiguous().clone()
                         for k, v in average.module.state_dict().items()}
                best = (held + talks, state, history[-1])
    args.output.mkdir(parents=True, exist_ok=True)
    save_file({f"model.{k}": v for k, v in best[1].items()},
              str(args.output / "model.safetensors"), metadata={"format": "pt"})
    record = {"parameters": sum(v.numel() for v in best[1].values()), "best": best[2],
              "history": history, "dropout": args.dropout, "steps": args.steps,
              "rate": args.rate, "seed": args.seed, "sequence_length": LENGTH,
              "sequences_per_step": BATCH, "torch": torch.__version__,
              "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    (args.output / "training.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
