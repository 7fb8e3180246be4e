#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""medley-engine-bench on a tiny shape: every figure is there, every wrong option is named."""
import json
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

PROGRAM = sys.argv[1]
PLOT = pathlib.Path(__file__).resolve().parents[3] / "worker" / "bench" / "plot.py"


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

# Several steps a measurement.
done = run("--batches", "2", "--contexts", "40", "--prefills", "32", "--mixed", "none", "--steps", "3",
           "--repeats", "1", "--json")
assert done.returncode == 0, done.stderr
assert [i["steps"] for i in json.loads(done.stdout)["iterations"]] == [3, 3]

# A mixed step of its own, a curve; and the pictures of it.
done = run("--batches", "1", "--contexts", "8", "--prefills", "32", "--mixed", "3+32", "--curve",
           "--repeats", "1", "--json")
assert done.returncode == 0, done.stderr
result = json.loads(done.stdout)
kinds = [(i["decode_sequences"], i["prefill_tokens"], i["curve"]) for i in result["iterations"]]
assert kinds == [(1, 0, False), (0, 32, False), (3, 32, False)] + [
    (n, 0, True) for n in (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)], kinds
assert result["backend"] == "cpu" and result["iterations_that_did_not_fit"] == 0
for iteration in result["iterations"]:
    assert iteration["steps"] == 1, iteration
    assert iteration["bytes"] == iteration["weight_bytes"] + iteration["kv_bytes"], iteration
    tokens = iteration["decode_sequences"] + iteration["prefill_tokens"]
    rate = 1e3 * tokens / iteration["ms"]["median"]
    assert abs(iteration["tokens_per_s"] / rate - 1) < 1e-9, iteration
with tempfile.TemporaryDirectory() as folder:
    bench, roof, curve = (pathlib.Path(folder, name) for name in ("b.json", "r.svg", "c.svg"))
    # Twice, the second with what a GPU's report has besides.
    for i in result["iterations"]:
        i["floor_ms"] = i["ms"]["median"] / 2
    limits = {"read_bytes_per_s": 3e12, "flops_per_s": 6e14}
    for more in ({}, {"limits": limits}):
        bench.write_text(json.dumps({**result, **more}))
        subprocess.run([sys.executable, PLOT, bench, bench, "--roofline", roof, "--curve", curve],
                       check=True, stdout=subprocess.DEVNULL)
        for path, marks in ((roof, 2 * 14), (curve, 2 * 13)):
            tree = xml.etree.ElementTree.parse(path)
            circles = tree.findall("{http://www.w3.org/2000/svg}circle")
            assert len(circles) == marks, (path, len(circles))
            for circle in circles:
                assert 70 <= float(circle.get("cx")) <= 530 and 24 <= float(circle.get("cy")) <= 388

done = run("--batching", "all", "--requests", "6", "--output-max", "8", "--json")
assert done.returncode == 0, done.stderr
mixed = json.loads(done.stdout)["mixed"]
assert [m["batching"] for m in mixed] == ["continuous", "dynamic", "static"], mixed
assert len({m["output_tokens"] for m in mixed}) == 1, mixed  # one load for all
assert 6 <= mixed[0]["output_tokens"] <= 48, mixed

for wrong, word in ((("--batches", "1,x"), "--batches"), (("--contexts", "5000"), "positions"),
                    (("--shape", "gpt"), "--shape"), (("--mixed", "64"), "--mixed"),
                    (("--mixed", "0+64"), "--mixed"), (("--dtype", "float16", "--contexts", "16"), "float16")):
    done = run(*wrong)
    assert done.returncode == 2 and word in done.stderr, (wrong, done)
print("ok")
