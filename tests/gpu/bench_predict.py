#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Predicted against measured: one worker under load, beside a replay of the same arrivals.

    bench_predict.py BIN PROFILE WORKLOAD... [--shape llama-2-7b] [--backend cuda] [--loads 0.4,0.75,0.9]
                     [--requests 3000] [--busy-requests N] [--capacity-requests 1500] [--json FILE]
                     [--keep FOLDER | --measured FOLDER]

BIN: the folder of the programs.  PROFILE: what `medley profile` measured on this very machine.  A WORKLOAD is
512x128 (mean tokens of prompts and answers, each even from half to one and a half of that; Poisson arrivals)
or NAME=LOG, a request log, whose own pattern of arrivals is stretched to each load.

For each workload: capacity, predicted and measured, is finished requests per second with all of --capacity-requests
there from the beginning.  Then at each load, a share of the predicted capacity, --requests arrivals go to `medley
replay` and through router and worker, and their TTFT and TPOT are set side by side: mean and p95, and p50 and
p99 in the JSON.  A line per figure with its error; those beyond the limits end in MISS.  Limits: mean 7 %, p95
12 %; above a load of 0.8 TPOT 10 % and TTFT is only reported; capacity 5 %.
--keep leaves logs and what was measured in a folder; --measured, with the same workloads and counts, predicts
those again, with no GPU.
Latencies are the client's: from sending a request to its tokens' coming.  A replay knows no client, doors and
links: what they take is measured first, with one request after the other (median TTFT less what the replay says),
printed, and given to every replay as half of it each way.
"""
import argparse
import csv
import json
import math
import pathlib
import random
import shutil
import sys
import tempfile
import time

import one_worker
from one_worker import harness, run

MEAN, P95, BUSY_TPOT, CAPACITY, BUSY = 0.07, 0.12, 0.10, 0.05, 0.8
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
SEED = 20251
LENGTH_MAX = 4096  # of prompt and answer, unless the profile says less
PATIENCE_S = 3600
DOOR_REQUESTS, DOOR_INPUT, DOOR_OUTPUT = 100, 16, 2


def read_log(path, count, length_max):
    """The first rows that the worker can hold: arrivals in s from 0, tokens."""
    with open(path, newline="") as file:
        rows = [(float(r["arrival_s"]), int(r["input_tokens"]), int(r["output_tokens"])) for r in csv.DictReader(file)]
    rows = [r for r in sorted(rows) if r[2] > 0 and r[1] + r[2] <= length_max][:count]
    if len(rows) < count:
        sys.exit(f"{path}: {len(rows)} requests of up to {length_max} tokens, {count} are asked for")
    return [(t - rows[0][0], i, o) for t, i, o in rows]


def draw(mean_input, mean_output, count):
    rng = random.Random(SEED)
    at, rows = 0.0, []
    for _ in range(count):
        at += rng.expovariate(1)
        rows.append((at, *(rng.randint(max(1, mean // 2), mean + mean // 2) for mean in (mean_input, mean_output))))
    return rows


def rows_of(workload, count, length_max):
    """(name, rows)."""
    if "=" in workload:
        name, path = workload.split("=", 1)
        return name, read_log(path, count, length_max)
    try:
        mean_input, mean_output = map(int, workload.split("x"))
    except ValueError:
        sys.exit(f"{workload}: expected INPUTxOUTPUT or NAME=LOG")
    return workload, draw(mean_input, mean_output, count)


def figures(values):
    values = sorted(values)
    if not values:
        return {name: math.nan for name in ("mean", *SHARES)}
    result = {"mean": sum(values) / len(values)}
    for name, share in SHARES.items():
        place = share * (len(values) - 1)
        low = int(place)
        high = min(low + 1, len(values) - 1)
        result[name] = values[low] + (values[high] - values[low]) * (place - low)
    return result


def result_of(requests, finished_s):
    """requests: (TTFT in ms, TPOT in ms or None) of those that finished; finished_s: since the first was sent."""
    return {"finished": len(requests), "per_s": len(requests) / finished_s if finished_s > 0 else math.nan,
            "ttft": figures([r[0] for r in requests]),
            "tpot": figures([r[1] for r in requests if r[1] is not None])}


class Bench:
    """A plan of one worker, and the router before it; address None: there is none, all was measured before."""

    def __init__(self, folder, plan, address):
        self.folder, self.plan, self.address = folder, plan, address
        self.door_ms = 0

    def log_of(self, name, rows):
        """The log of that name: written, or the one that was sent when it was measured."""
        log = self.folder / f"{name}.csv"
        if self.address:
            one_worker.write_log(log, rows)
        elif not log.exists():
            sys.exit(f"{log.name}: not among what was measured; expected the workloads and loads of then")
        elif sum(1 for _ in open(log)) - 1 != len(rows):
            sys.exit(f"{log.name}: not of {len(rows)} requests; expected the numbers of requests of then")
        return log

    def predict(self, log, arrival):
        rows = log.with_suffix(".rows.csv")
        run("medley-replay", self.plan, "--trace", log, "--arrival", arrival, "--max-tokens", 1, "--rows", rows,
            "--json", "--in-flight-max", 100000, "--link-delay", f"{self.door_ms / 2:.6f}ms", *one_worker.UNLIMITED)
        with open(rows, newline="") as file:
            done = [r for r in csv.DictReader(file) if r["e2e_ms"]]
        ends = [float(r["arrival_s"]) + float(r["e2e_ms"]) / 1e3 for r in done]
        return result_of([(float(r["ttft_ms"]), float(r["tpot_ms"]) if r["tpot_ms"] else None) for r in done],
                         max(ends, default=0))

    def measure(self, log, arrival, *more):
        saved, summary = log.with_suffix(".live.jsonl"), log.with_suffix(".bench.json")
        if self.address:
            one_worker.bench(summary, "--target", self.address, "--plan", self.plan, "--trace", log, "--arrival",
                             arrival, "--requests", sum(1 for _ in open(log)) - 1, "--ignore-eos", "--save", saved,
                             *more)
        elif not summary.exists():
            sys.exit(f"{log.name}: its measurement did not end")
        report = json.loads(summary.read_text())
        requests, last = [], 0
        for line in saved.read_text().splitlines():
            r = json.loads(line)
            if r["status"] == "OK" and r["tokens"] > 0:
                first_s, last_s, tokens = r["first_token_s"], r["last_token_s"], r["tokens"]
                requests.append((1e3 * (first_s - r["sent_s"]),
                                 1e3 * (last_s - first_s) / (tokens - 1) if tokens > 1 else None))
                last = max(last, last_s)
        return {**result_of(requests, last), "failed": report["failed"], "other_length": report["other_length"]}

    def measure_door(self):
        """Milliseconds from client to engine and back, beside the step itself."""
        log = self.log_of("door", [(i, DOOR_INPUT, DOOR_OUTPUT) for i in range(DOOR_REQUESTS)])
        predicted = self.predict(log, "trace")
        measured = self.measure(log, "all-at-once", "--max-concurrency", 1)
        self.door_ms = max(0, measured["ttft"]["p50"] - predicted["ttft"]["p50"])
        print(f"door: {self.door_ms:.3f} ms of {measured['ttft']['p50']:.3f} ms to the first token of one request "
              "alone")


class Table:
    def __init__(self):
        self.rows, self.misses = [], 0

    def add(self, workload, load, metric, name, predicted, measured, limit):
        error = predicted / measured - 1
        miss = limit is not None and not abs(error) <= limit
        self.misses += miss
        self.rows.append({"workload": workload, "load": load, "metric": metric, "figure": name,
                          "predicted": predicted, "measured": measured, "limit": limit})
        allowed = f"(limit {100 * limit:.0f} %)" if limit is not None else ""
        print(f"{workload:22} {load:>8} {metric:8} {name:4} predicted {predicted:10.3f} measured {measured:10.3f} "
              f"{100 * error:+7.1f} % {allowed}{' MISS' if miss else ''}", flush=True)


def limit_of(metric, figure, load):
    if figure not in ("mean", "p95"):
        return None
    if load > BUSY:
        return BUSY_TPOT if metric == "tpot" else None
    return MEAN if figure == "mean" else P95


def compare_capacity(bench, table, name, rows, is_measured):
    """Returns the predicted one."""
    log = bench.log_of(f"{name}-all", [(0, i, o) for _, i, o in rows])
    predicted = bench.predict(log, "all-at-once")
    if is_measured:
        measured = bench.measure(log, "all-at-once")
        table.add(name, "all", "req/s", "", predicted["per_s"], measured["per_s"], CAPACITY)
        table.rows[-1] |= {"predicted_all": predicted, "measured_all": measured}
    return predicted["per_s"]


def compare(bench, table, name, rows, load, capacity):
    stretch = len(rows) / rows[-1][0] / (load * capacity)
    log = bench.log_of(f"{name}-{load:g}", [(t * stretch, i, o) for t, i, o in rows])
    begin = time.monotonic()
    predicted, measured = bench.predict(log, "trace"), bench.measure(log, "trace")
    if measured["finished"] != len(rows) or predicted["finished"] != len(rows):
        print(f"{name}: of {len(rows)} requests {measured['finished']} finished, predicted {predicted['finished']}")
        table.misses += 1
    for metric in "ttft", "tpot":
        for figure in "mean", "p95":
            table.add(name, f"{load:.0%}", metric, figure, predicted[metric][figure], measured[metric][figure],
                      limit_of(metric, figure, load))
            table.rows[-1] |= {"predicted_all": predicted, "measured_all": measured,
                               "took_s": time.monotonic() - begin}


def compare_all(bench, table, workloads, given):
    bench.measure_door()
    table.rows.append({"door_ms": bench.door_ms})
    for name, rows in workloads:
        capacity = compare_capacity(bench, table, name, rows[:given.capacity_requests or None],
                                    given.capacity_requests > 0)
        for load in given.loads:
            count = given.busy_requests if load > BUSY and given.busy_requests else given.requests
            compare(bench, table, name, rows[:count], load, capacity)
            if given.json:
                given.json.write_text(json.dumps(table.rows, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin", type=pathlib.Path)
    parser.add_argument("profile", type=pathlib.Path)
    parser.add_argument("workloads", nargs="+", metavar="WORKLOAD")
    parser.add_argument("--shape", default="llama-2-7b")
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--loads", default="0.4,0.75,0.9")
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--busy-requests", type=int, help="at loads above 0.8; as many by default")
    parser.add_argument("--capacity-requests", type=int, default=1500, help="0: capacity is predicted alone")
    parser.add_argument("--worker-argument", action="append", default=[])
    parser.add_argument("--json", type=pathlib.Path)
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument("--keep", type=pathlib.Path, metavar="FOLDER")
    kept.add_argument("--measured", type=pathlib.Path, metavar="FOLDER")
    given = parser.parse_args()
    one_worker.use(given.bin)
    harness.PATIENCE_S = PATIENCE_S
    given.loads = [float(load) for load in given.loads.split(",") if load]
    limits = json.loads(given.profile.read_text())["limits"]
    length_max = min(limits["max_model_len"], limits["kv_tokens"], LENGTH_MAX)
    workloads = [rows_of(w, max(given.requests, given.capacity_requests, 1), length_max) for w in given.workloads]
    table = Table()
    with tempfile.TemporaryDirectory() as top:
        folder = given.keep or pathlib.Path(top)
        folder.mkdir(parents=True, exist_ok=True)
        if given.measured:
            shutil.copytree(given.measured, folder, dirs_exist_ok=True)
        everything = folder / "all.csv"
        one_worker.write_log(everything, [row for _, rows in workloads for row in rows])
        plan = one_worker.make_plan(folder, everything, given.profile)
        if given.measured:
            compare_all(Bench(folder, plan, None), table, workloads, given)
        else:
            model = ["--shape", given.shape] if given.backend != "emulated" else []
            with one_worker.serving(plan, given.backend, [*model, *given.worker_argument],
                                    one_worker.UNLIMITED) as (address, ready, took):
                print(f"READY after {took:.2f} s: " + " ".join(f"{k}={v}" for k, v in ready.items()), flush=True)
                compare_all(Bench(folder, plan, address), table, workloads, given)
                (folder / "worker-metrics.json").write_text(json.dumps(harness.metrics(ready["metrics"])))
    print(f"{table.misses} beyond the limits")
    return 1 if table.misses else 0


if __name__ == "__main__":
    sys.exit(main())
