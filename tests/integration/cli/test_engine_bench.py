#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""medley-engine-bench on a tiny shape: every figure is there, every wrong option is named."""
import json
import subprocess
import sys

PROGRAM = sys.argv[1]


def run(*arguments):
    return subprocess.run([PROGRAM, "--shape", "tiny", *arguments], capture_output=True, text=True)


done = run("--batches", "1,2", "--contexts", "16", "--prefills", "32", "--repeats", "1", "--json")
assert done.returncode == 0, done.stderr
result = json.loads(done.stdout)
kinds = [(i["decode_sequences"], i["prefill_tokens"]) for i in result["iterations"]]
assert kinds == [(1, 0), (2, 0), (0, 32), (2, 32)], kinds
for iteration in result["iterations"]:
    assert iteration["ms"]["median"] > 0 and iteration["flops"] > 0, iteration
    assert ("blas_part" in iteration) == (iteration["decode_sequences"] == 0), iteration
one, two = result["iterations"][:2]
# The weights are read once, the cache once per sequence.
assert one["bytes"] < two["bytes"] < 1.1 * one["bytes"], (one["bytes"], two["bytes"])
assert two["flops"] == 2 * one["flops"]

done = run("--batching", "all", "--requests", "6", "--output-max", "8", "--json")
assert done.returncode == 0, done.stderr
mixed = json.loads(done.stdout)["mixed"]
assert [m["batching"] for m in mixed] == ["continuous", "dynamic", "static"], mixed
assert len({m["output_tokens"] for m in mixed}) == 1, mixed  # one load for all
assert 6 <= mixed[0]["output_tokens"] <= 48, mixed

for wrong, word in ((("--batches", "1,x"), "--batches"), (("--contexts", "5000"), "positions"),
                    (("--shape", "gpt"), "--shape")):
    done = run(*wrong)
    assert done.returncode == 2 and word in done.stderr, (wrong, done)
print("ok")
