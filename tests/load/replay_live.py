#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""medley replay beside the live emulated fleet: the same plan, the same arrivals.

    replay_live.py BIN [--rate 5] [--requests 10000] [--time-scale 8] [--bias 1] [--noise 0]

Plans Azure's conversation traffic, draws a schedule, replays it, and sends it to `medley up` with emulated
workers on a clock that runs --time-scale times as fast.  Prints mean and 99th percentile of TTFT and
TPOT of both; exits with 1 where means differ by more than 3 % or 99th percentiles by more than 8 %.
With --bias 1.2 the workers take a fifth longer than their profiles say, and the comparison must tell.
Everything listens on loopback.
"""
import argparse
import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
MEAN, P99 = 0.03, 0.08


def percentile(values, share):
    values = sorted(values)
    place = share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def latencies(record):
    """Milliseconds of a request of the live fleet, from when it was sent; None: it has none."""
    if record["status"] != "OK":
        return {}
    first, last, tokens = record["first_token_s"], record["last_token_s"], record["tokens"]
    return {"ttft_ms": 1e3 * (first - record["sent_s"]),
            "tpot_ms": 1e3 * (last - first) / (tokens - 1) if tokens > 1 else None}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bin", type=pathlib.Path)
    parser.add_argument("--rate", type=float, default=5)
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--time-scale", type=float, default=8)
    parser.add_argument("--bias", type=float, default=1)
    parser.add_argument("--noise", type=float, default=0)
    given = parser.parse_args()
    os.environ["MEDLEY_BIN"] = str(given.bin.resolve())
    sys.path.insert(0, str(ROOT / "tests" / "integration"))
    import harness

    def run(program, *arguments):
        done = subprocess.run([given.bin / program, *map(str, arguments)], capture_output=True, text=True,
                              timeout=3600)
        if done.returncode != 0:
            sys.exit(f"{program}: exit {done.returncode}: {done.stderr}")
        return done.stdout

    with tempfile.TemporaryDirectory(prefix="medley-replay-") as top:
        folder = pathlib.Path(top)
        plan, log, rows, live = folder / "plan.json", folder / "log.csv", folder / "rows.csv", folder / "live.jsonl"
        run("medley-plan", "azure-conversation", "--data-dir", ROOT, "--rate", given.rate, "--model", "llama-2-7b",
            "--catalogue", "melange-paper", "--slo", "tpot.mean=120ms,ttft.mean=2s", "--output", plan)
        log.write_text(run("medley-bench", "--plan", plan, "--requests", given.requests, "--rate", given.rate,
                           "--arrival", "poisson", "--dry-run"))
        replayed = json.loads(run("medley-replay", plan, "--trace", log, "--rows", rows, "--json"))
        ready = folder / "ready.json"
        environment = {"MEDLEY_EMULATED_BIAS": str(given.bias), "MEDLEY_EMULATED_NOISE": str(given.noise)}
        os.environ.update(environment)
        with harness.Process("medley-up", plan, "--time-scale", given.time_scale, "--grpc-listen", "127.0.0.1:0",
                             "--http-listen", "127.0.0.1:0", "--link-listen", "127.0.0.1:0", "--ready-file",
                             ready) as up:
            up.wait_line("^READY ")
            target = json.loads(ready.read_text())["grpc"]
            for name in environment:
                del os.environ[name]
            report = json.loads(run("medley-bench", "--plan", plan, "--target", target, "--time-scale",
                                    given.time_scale, "--trace", log, "--requests", given.requests, "--save", live,
                                    "--no-predict", "--no-progress", "--json"))
        with open(rows, newline="") as file:
            simulated = [row for row in csv.DictReader(file) if row["e2e_ms"]]
        measured = [latencies(json.loads(line)) for line in live.read_text().splitlines()]
        print(f"{len(simulated)} of {given.requests} requests finished in the replay, {report['completed']} live; "
              f"busy {100 * max(t['utilization']['mean'] for t in replayed['worker_types']):.0f} %, "
              f"workers {replayed['plan']['workers']}, time scale {given.time_scale:g}, bias {given.bias:g}")
        beyond = 0
        for metric in "ttft", "tpot":
            a = [float(row[f"{metric}_ms"]) for row in simulated if row[f"{metric}_ms"]]
            b = [row[f"{metric}_ms"] for row in measured if row.get(f"{metric}_ms") is not None]
            for name, x, y, limit in (("mean", sum(a) / len(a), sum(b) / len(b), MEAN),
                                      ("p99", percentile(a, 0.99), percentile(b, 0.99), P99)):
                far = abs(y / x - 1) > limit
                beyond += far
                print(f"{metric} {name:4}  replay {x:9.2f} ms  live {y:9.2f} ms  {100 * (y / x - 1):+6.1f} %"
                      f"{'  beyond ' + format(limit, '.0%') if far else ''}")
        return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
