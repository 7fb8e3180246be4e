#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every architecture on the CPU backend against transformers' logits (tests/golden/README.md).

    test_golden.py PROGRAM [NAME ...] [--long]

PROGRAM is golden_logits.  For each model of tests/golden/models.py, or those named, which may be a
folder of models/ too:
  - float32: the logits of the kept rows differ by at most 1e-4, where a row's difference is its
    largest, divided by the largest of the reference's row;
  - 200 steps of greedy decoding give transformers' tokens; the golden tokens are fed, one per step, and
    where the choice differs the reference's two largest logits must be nearer than 1e-4 (counted);
  - bfloat16: the error against float32 is at most BF16_FACTOR times that of transformers in bfloat16.
--long adds the prompts of 4,096 tokens.  Chunks are of 96 tokens, so windows, blocks and chunks end at
different places; all sequences of a model share their batches.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
sys.path.insert(0, str(GOLDEN))
import models  # noqa: E402

CHUNK = 96
TOLERANCE = 1e-4
NEAR_TIE = 1e-4
BF16_FACTOR = 1.5
LONG = 1000
SHIPPED = ["medley-austen"]


def run(program, folder, dtype, sequences, vocab, chunk=CHUNK, more=()):
    """The logits of each (tokens, rows)."""
    text = "".join(f"{len(t)} {' '.join(map(str, t))} {len(r)} {' '.join(map(str, r))}\n"
                   for t, r in sequences)
    done = subprocess.run([program, folder, dtype, dtype, str(chunk), *more], input=text.encode(),
                          stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(f"{folder.name}: golden_logits ended with {done.returncode}")
    values = np.frombuffer(done.stdout, np.float32).reshape(-1, vocab)
    ends = np.cumsum([len(r) for _, r in sequences])
    assert len(values) == ends[-1], f"{len(values)} rows, expected {ends[-1]}"
    return np.split(values, ends[:-1])


def relative(a, b):
    return float(np.max(np.abs(a - b).max(axis=-1) / np.abs(b).max(axis=-1)))


def rms(a, b):
    return float(np.sqrt(np.mean((a - b).astype(np.float64) ** 2)))


class Failures(list):
    def expect(self, ok, text):
        if not ok:
            self.append(text)


def check_float32(program, folder, golden, numbers, failures):
    vocab = golden["logits_0"].shape[1]
    sequences = [(golden[f"prompt_{n}"].tolist(), golden[f"rows_{n}"].tolist()) for n in numbers]
    start = golden["prompt_1"].tolist()
    greedy = golden["greedy"].tolist()
    sequences.append((start + greedy[:-1], range(len(start) - 1, len(start) + len(greedy) - 1)))
    *rows, steps = run(program, folder, "float32", sequences, vocab)
    worst = 0.0
    for number, row in zip(numbers, rows):
        difference = relative(row, golden[f"logits_{number}"])
        worst = max(worst, difference)
        failures.expect(difference <= TOLERANCE,
                        f"{folder.name}: prompt {number}: logits differ by {difference:.2e}, "
                        f"expected at most {TOLERANCE:g}")
    ties = 0
    for step, (chosen, want) in enumerate(zip(steps.argmax(axis=1).tolist(), greedy)):
        if chosen == want:
            continue
        ties += 1
        failures.expect(golden["margin"][step] < NEAR_TIE,
                        f"{folder.name}: step {step} chose {chosen}, expected {want}; the margin is "
                        f"{golden['margin'][step]:.2e}")
    return worst, ties


def check_bfloat16(program, folder, golden, numbers, failures):
    vocab = golden["logits_0"].shape[1]
    numbers = [n for n in numbers if f"bf16_{n}" in golden]
    sequences = [(golden[f"prompt_{n}"].tolist(), golden[f"rows_{n}"].tolist()) for n in numbers]
    ours = np.concatenate(run(program, folder, "bfloat16", sequences, vocab))
    theirs = np.concatenate([golden[f"bf16_{n}"] for n in numbers])
    exact = np.concatenate([golden[f"logits_{n}"] for n in numbers])
    error, reference = rms(ours, exact), rms(theirs, exact)
    failures.expect(0 < error <= BF16_FACTOR * reference,
                    f"{folder.name}: in bfloat16 the error is {error:.3e}, expected at most "
                    f"{BF16_FACTOR} x transformers' {reference:.3e}")
    return error / reference


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("names", nargs="*", default=list(models.MODELS))
    parser.add_argument("--long", action="store_true")
    arguments = parser.parse_args()
    failures = Failures()
    with tempfile.TemporaryDirectory() as top:
        for name in arguments.names or [*models.MODELS, *SHIPPED]:
            folder = pathlib.Path(top) / name
            if name in models.MODELS:
                models.write_model(folder, name)
            else:
                folder = ROOT / "models" / name
            golden = dict(np.load(GOLDEN / f"{name}.npz"))
            numbers = [n for n in range(10) if f"prompt_{n}" in golden
                       and (arguments.long or len(golden[f"prompt_{n}"]) < LONG)]
            worst, ties = check_float32(arguments.program, folder, golden, numbers, failures)
            ratio = check_bfloat16(arguments.program, folder, golden, numbers, failures)
            print(f"{name}: float32 differs by {worst:.1e}, {len(golden['greedy'])} greedy steps, "
                  f"{ties} near-ties excepted; bfloat16 error {ratio:.2f} of transformers'",
                  flush=True)
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
