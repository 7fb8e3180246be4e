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
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))
import harness  # noqa: E402

PROFILE = ROOT / "profiles" / "published" / "h100-llama-2-7b-fp16.json"
PATIENCE_S = 300


def run(*arguments):
    status, out, err = harness.run(*arguments)
    if status != 0:
        sys.exit(f"{arguments[0]} ended with {status}: {err}")
    return out


def make_plan(folder, arguments):
    log = folder / "log.csv"
    lines = [f"{i * 0.1:.1f},{arguments.input},{arguments.output}" for i in range(arguments.requests)]
    log.write_text("arrival_s,input_tokens,output_tokens\n" + "\n".join(lines) + "\n")
    run("medley-workload", log, "--output", folder / "workload.json")
    run("medley-plan", folder / "workload.json", "--data-dir", ROOT, "--profiles", PROFILE,
        "--model", "llama-2-7b", "--slo", "tpot.mean=200ms,ttft.mean=30s", "--instances", "h100",
        "--catalogue", "melange-paper", "--rate", 1, "--output", folder / "plan.json")
    return folder / "plan.json", log


def measure(folder, plan, log, address, concurrency, arguments):
    requests = max(min(arguments.requests, concurrency * arguments.rounds), 8)
    out = folder / f"bench-{concurrency}.json"
    bench = harness.Process("medley-bench", "--target", address, "--plan", plan, "--trace", log,
                            "--arrival", "all-at-once", "--max-concurrency", concurrency,
                            "--requests", requests, "--max-tokens", arguments.output, "--no-predict",
                            "--no-progress", "--json", "--output", out)
    bench.popen.wait(PATIENCE_S)
    if bench.wait() != 0:
        sys.exit(bench.output())
    return json.loads(out.read_text())


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
    harness.BIN = arguments.bin.resolve()
    harness.PATIENCE_S = PATIENCE_S
    results = {}
    with tempfile.TemporaryDirectory() as top:
        folder = pathlib.Path(top)
        plan, log = make_plan(folder, arguments)
        with harness.Process("medley-router", plan, "--grpc-listen", "127.0.0.1:0", "--http-listen",
                             "127.0.0.1:0", "--link-listen", "127.0.0.1:0") as router:
            doors = router.wait_ready()
            address, link = doors["grpc"], doors["link"]
            begin = time.monotonic()
            model = ["--model", arguments.model] if arguments.backend != "emulated" else []
            with harness.Process("medley-worker", "--backend", arguments.backend, "--plan", plan,
                                 "--router", link, "--metrics-listen", "127.0.0.1:0", *model,
                                 *arguments.worker_argument) as worker:
                ready = worker.wait_ready()
                print(f"READY after {time.monotonic() - begin:.2f} s: "
                      + " ".join(f"{k}={v}" for k, v in ready.items()), flush=True)
                for concurrency in map(int, arguments.concurrency.split(",")):
                    report = measure(folder, plan, log, address, concurrency, arguments)
                    results[concurrency] = report
                    print(f"concurrency {concurrency}: {summary(report)}", flush=True)
                results["metrics"] = harness.metrics(ready["metrics"])
                worker.stop()
            router.stop()
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
