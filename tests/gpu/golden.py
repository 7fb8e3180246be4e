#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every architecture on the GPU against transformers, the CPU backend, and itself.

    golden.py BIN [NAME ...]        BIN: the folder of golden_logits

Prints one line per case. For each model of tests/golden/models.py and the shipped one:
  - float32: logits within 1e-4 of the committed ones of transformers, 200 greedy steps alike, as
    tests/integration/test_golden.py asks of the CPU;
  - cpu: the same sequences on the CPU backend: logits within 1e-4, choices alike but for near-ties;
  - bfloat16, float16: the error against float32 at most 1.5 times that of transformers in the same dtype
    on this GPU, or, where torch is not installed, of the committed bfloat16 ones;
  - deterministic: bfloat16 logits of all sequences together are bit for bit those of each alone, in chunks
    of another length;
and for one model of 16,384 positions, float32 and bfloat16 at the end of a context that long.
Needs numpy; torch and transformers are used where they are.
"""
import argparse
import json
import pathlib
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "golden"))
sys.path.insert(0, str(ROOT / "tests" / "integration"))
import models  # noqa: E402
import test_golden  # noqa: E402

try:
    import torch
    import transformers
except ImportError:
    torch = None

CUDA = ["cuda"]
ALONE_CHUNK = 37
LONG_POSITIONS = 16384
LONG_MODEL = "llama-float32"
failed = 0


def report(name, ok, detail):
    global failed
    failed += not ok
    print(f"{'pass' if ok else 'FAIL'} {name} {detail}", flush=True)


def reference(folder, dtype):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="eager")
    return model.eval().to("cuda")


def reference_logits(model, ids, rows):
    with torch.no_grad():
        out = model(torch.tensor([ids], device="cuda"), use_cache=False,
                    logits_to_keep=torch.tensor(list(rows), device="cuda"))
    return out.logits[0].float().cpu().numpy()


def sequences_of(golden, numbers):
    return [(golden[f"prompt_{n}"].tolist(), golden[f"rows_{n}"].tolist()) for n in numbers]


def float32_case(program, name, folder, golden, numbers):
    failures = test_golden.Failures()
    more = test_golden.run

    def run(*arguments):
        return more(*arguments, more=CUDA)
    test_golden.run = run
    try:
        worst, ties = test_golden.check_float32(program, folder, golden, numbers, failures)
    finally:
        test_golden.run = more
    report(f"{name}.float32", not failures,
           "; ".join(failures) or f"differs by {worst:.1e}, {ties} near-ties excepted in "
           f"{len(golden['greedy'])} steps")


def cpu_case(program, name, folder, golden):
    vocab = golden["logits_0"].shape[1]
    start, greedy = golden["prompt_1"].tolist(), golden["greedy"].tolist()
    steps = [(start + greedy[:-1], range(len(start) - 1, len(start) + len(greedy) - 1))]
    ours = test_golden.run(program, folder, "float32", steps, vocab, more=CUDA)[0]
    theirs = test_golden.run(program, folder, "float32", steps, vocab, more=["cpu"])[0]
    difference = test_golden.relative(ours, theirs)
    other = np.flatnonzero(ours.argmax(axis=1) != theirs.argmax(axis=1))
    top = np.sort(theirs[other], axis=1)
    margins = top[:, -1] - top[:, -2]
    ok = difference <= test_golden.TOLERANCE and bool(np.all(margins < test_golden.NEAR_TIE))
    report(f"{name}.cpu", ok, f"differs by {difference:.1e}, {len(other)} other choices, "
           f"largest margin of them {margins.max() if len(other) else 0:.1e}")


def half_case(program, name, folder, golden, numbers, dtype):
    vocab = golden["logits_0"].shape[1]
    numbers = [n for n in numbers if f"bf16_{n}" in golden]
    sequences = sequences_of(golden, numbers)
    exact = np.concatenate([golden[f"logits_{n}"] for n in numbers])
    if torch:
        model = reference(folder, dtype)
        theirs = np.concatenate([reference_logits(model, *s) for s in sequences])
        of = "on this GPU"
    elif dtype == "bfloat16":
        theirs = np.concatenate([golden[f"bf16_{n}"] for n in numbers])
        of = "as committed"
    else:
        print(f"skip {name}.{dtype} torch is not installed")
        return
    ours = np.concatenate(test_golden.run(program, folder, dtype, sequences, vocab, more=CUDA))
    error, other = test_golden.rms(ours, exact), test_golden.rms(theirs, exact)
    report(f"{name}.{dtype}", 0 < error <= test_golden.BF16_FACTOR * other,
           f"error {error:.2e}, {error / other:.2f} of transformers' {of}")


def deterministic_case(program, name, folder, golden, numbers):
    vocab = golden["logits_0"].shape[1]
    sequences = sequences_of(golden, numbers)
    more = ["cuda", "deterministic"]
    together = test_golden.run(program, folder, "bfloat16", sequences, vocab, more=more)
    different = 0
    for sequence, rows in zip(sequences, together):
        alone = test_golden.run(program, folder, "bfloat16", [sequence], vocab, ALONE_CHUNK, more)[0]
        different += int(np.count_nonzero(rows.view(np.uint32) != alone.view(np.uint32)))
    report(f"{name}.deterministic", different == 0,
           f"{different} of {sum(r.size for r in together)} logits differ from those alone")


def long_case(program, top):
    if not torch:
        print("skip long torch is not installed")
        return
    folder = top / "long"
    models.write_model(folder, LONG_MODEL)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = LONG_POSITIONS
    (folder / "config.json").write_text(json.dumps(config))
    ids = models.tokens(77, LONG_POSITIONS, config["vocab_size"])
    rows = [0, 4095, 8191, 12288, LONG_POSITIONS - 2, LONG_POSITIONS - 1]
    exact = reference_logits(reference(folder, "float32"), ids, rows)
    ours = test_golden.run(program, folder, "float32", [(ids, rows)], config["vocab_size"], 2048, CUDA)[0]
    difference = test_golden.relative(ours, exact)
    report("long.float32", difference <= test_golden.TOLERANCE,
           f"at {LONG_POSITIONS} tokens differs by {difference:.1e}")
    theirs = reference_logits(reference(folder, "bfloat16"), ids, rows)
    ours = test_golden.run(program, folder, "bfloat16", [(ids, rows)], config["vocab_size"], 2048, CUDA)[0]
    error, other = test_golden.rms(ours, exact), test_golden.rms(theirs, exact)
    report("long.bfloat16", 0 < error <= test_golden.BF16_FACTOR * other,
           f"error {error:.2e}, {error / other:.2f} of transformers'")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bin", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    program = arguments.bin / "golden_logits"
    with tempfile.TemporaryDirectory() as top:
        for name in arguments.names or [*models.MODELS, *test_golden.SHIPPED]:
            folder = pathlib.Path(top) / name
            if name in models.MODELS:
                models.write_model(folder, name)
            else:
                folder = ROOT / "models" / name
            golden = dict(np.load(test_golden.GOLDEN / f"{name}.npz"))
            numbers = [n for n in range(10) if f"prompt_{n}" in golden]
            float32_case(program, name, folder, golden, numbers)
            cpu_case(program, name, folder, golden)
            half_case(program, name, folder, golden, numbers, "bfloat16")
            half_case(program, name, folder, golden, numbers, "float16")
            short = [n for n in numbers if len(golden[f"prompt_{n}"]) < test_golden.LONG]
            deterministic_case(program, name, folder, golden, short)
        if not arguments.names:
            long_case(program, pathlib.Path(top))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
