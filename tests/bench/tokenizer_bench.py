#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Encoding speed of one thread, Medley's and the tokenizers package's, on the same texts.

    .venv/bin/python tests/bench/tokenizer_bench.py build/release/tests/tokenizer_bench

The texts are this repository's documents and sources, in parts of about 4 KiB cut at line ends, three
times over.  What is printed is megabytes per second of processor time: median, lowest and highest of
the rounds, the first of which also fills the caches of both.  The ids are compared too.
"""
import argparse
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer  # noqa: E402: the environment has to be set before

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "tokenizers"


def texts(patterns):
    names = subprocess.run(["git", "-C", ROOT, "ls-files", *patterns], check=True,
                           capture_output=True, text=True).stdout.split()
    parts, part = [], ""
    for name in names:
        if not (ROOT / name).is_file():
            continue
        for line in (ROOT / name).read_text().splitlines(keepends=True):
            part += line
            if len(part) >= 4096:
                parts.append(part)
                part = ""
    return (parts + [part]) * 3


def sum_of(all_ids):
    total = 0
    for ids in all_ids:
        for i in ids:
            total = (total * 31 + i) & 0xffffffffffffffff
    return total


def rates(seconds, size):
    values = [size / s / 1e6 for s in seconds]
    return f"{statistics.median(values):6.1f}  ({min(values):.1f} to {max(values):.1f})"


def bench(program, folder, parts, rounds):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    size = sum(len(p.encode()) for p in parts)
    theirs, ids = [], []
    for _ in range(rounds):
        start = time.process_time()
        ids = [tokenizer.encode(p, add_special_tokens=False).ids for p in parts]
        theirs.append(time.process_time() - start)
    with tempfile.NamedTemporaryFile() as file:
        for part in parts:
            data = part.encode()
            file.write(struct.pack("=I", len(data)) + data)
        file.flush()
        lines = subprocess.run([program, folder, file.name, str(rounds)], check=True,
                               capture_output=True, text=True).stdout.splitlines()
    ours = [float(line.split()[0]) for line in lines]
    same = lines[-1].split()[1:] == [str(sum(map(len, ids))), str(sum_of(ids))]
    print(f"{folder.name:10} {size / 1e6:6.2f}  {rates(ours, size):26} {rates(theirs, size):26} "
          f"{'same' if same else 'DIFFERENT'}")
    return same


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("folder", nargs="*", type=pathlib.Path)
    arguments = parser.parse_args()
    folders = arguments.folder or [DATA / n for n in ("gpt2", "llama3", "qwen2", "llama2", "mistral")]
    same = True
    for label, patterns in (("English", ["*.md"]), ("code", ["*.c", "*.h"])):
        parts = texts(patterns)
        print(f"{label}\n{'':10} {'MB':>6}  {'Medley, MB/s':26} {'tokenizers, MB/s':26} ids")
        for folder in folders:
            same &= bench(arguments.program, folder, parts, arguments.rounds)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
