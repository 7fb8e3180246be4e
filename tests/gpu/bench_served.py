#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What one GPU serves: router, worker and bench on this machine, requests of one size.

    bench_served.py BIN MODEL [--backend cuda] [--input 512] [--output 128] [--concurrency 1,64]

BIN: the folder of the programs.  MODEL: a model directory of the shape of Llama 2 7B (random_model.py).
For each concurrency, a closed loop of that many users through `medley bench` over gRPC; prints one line
each and, with --json, everything.  The plan is only there to tell the router of one H100 worker.
"""
import argparse
import json
import pathlib
import sys
import tempfile

import one_worker
from one_worker import ROOT, harness

PROFILE = ROOT / "profiles" / "published" / "h100-llama-2-7b-fp16.json"


def measure(folder, plan, log, address, concurrency, arguments):
    requests = max(min(arguments.requests, concurrency * arguments.rounds), 8)
    return one_worker.bench(folder / f"bench-{concurrency}.json", "--target", address, "--plan", plan, "--trace", log,
                            "--arrival", "all-at-once", "--max-concurrency", concurrency, "--requests", requests,
                            "--max-tokens", arguments.output)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bin", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--input", type=int, default=512)
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--concurrency", default="1,64")
    parser.add_argument("--requests", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=8, help="requests per user")
    parser.add_argument("--worker-argument", action="append", default=[])
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    one_worker.use(arguments.bin)
    results = {}
    with tempfile.TemporaryDirectory() as top:
        folder = pathlib.Path(top)
        log = folder / "log.csv"
        one_worker.write_log(log, [(i * 0.1, arguments.input, arguments.output) for i in range(arguments.requests)])
        plan = one_worker.make_plan(folder, log, PROFILE, "melange-paper")
        model = ["--model", arguments.model] if arguments.backend != "emulated" else []
        with one_worker.serving(plan, arguments.backend, [*model, *arguments.worker_argument]) as (address, ready, took):
            print(f"READY after {took:.2f} s: " + " ".join(f"{k}={v}" for k, v in ready.items()), flush=True)
            for concurrency in map(int, arguments.concurrency.split(",")):
                report = measure(folder, plan, log, address, concurrency, arguments)
                results[concurrency] = report
                print(f"concurrency {concurrency}: {summary(report)}", flush=True)
            results["metrics"] = harness.metrics(ready["metrics"])
    if arguments.json:
        arguments.json.write_text(json.dumps(results))
    return 0


def summary(r):
    times = " ".join(f"{key}_{name}={r[f'{key}_{name}_ms']:.2f}ms" for name in ("ttft", "tpot", "itl")
                     for key in ("mean", "median", "p99"))
    return (f"completed={r['completed']} failed={r['failed']} other_length={r['other_length']} "
            f"output_tokens_per_s={r['output_throughput']:.0f} {times}")


if __name__ == "__main__":
    sys.exit(main())
