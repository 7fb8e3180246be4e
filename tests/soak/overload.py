#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Three times what a fleet can do, for two minutes.

    tests/soak/overload.py [--bin build/release/bin] [--seconds 120] [--factor 3] [--time-scale 4] [--json FILE]

Plans Azure's conversation traffic, runs the plan with emulated workers, and looks for the fleet's capacity:
the greatest goodput (requests served per second while mean TTFT and mean TPOT kept the objectives, which are on
means as the plan's are) over open-loop runs at rising rates.
Then it sends `factor` times that rate and claims:

- goodput is at least 90 % of the capacity;
- what was accepted kept the objectives (mean TTFT and mean TPOT, as planned);
- the rest was refused at once: RESOURCE_EXHAUSTED, in less than a tenth of the TTFT objective (or 100 ms), with
  a hint when to try again;
- the router's memory is flat: resident memory in the last quarter is within 16 MiB of the first quarter's.

Times are fleet time but for refusals, which are the router's own work.  Exit status 0 when all hold.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))

OBJECTIVES = {"ttft": 1.0, "tpot": 0.08}
FAILED = []


def check(holds, sentence):
    print(f"{'ok  ' if holds else 'FAIL'} {sentence}", flush=True)
    if not holds:
        FAILED.append(sentence)


class Fleet:
    def __init__(self, stack_dir, options):
        import harness  # pylint: disable=import-outside-toplevel
        self.harness, self.options, self.folder = harness, options, stack_dir
        self.plan = stack_dir / "plan.json"
        status, _, said = harness.run(
            "medley-plan", "azure-conversation", "--model", "llama-2-7b", "--catalogue", "melange-paper", "--slo",
            f"tpot.mean={1000 * OBJECTIVES['tpot']:.0f}ms,ttft.mean={1000 * OBJECTIVES['ttft']:.0f}ms", "-o", self.plan)
        assert status == 0, said
        self.rate = json.loads(self.plan.read_text())["workload"]["rate_per_s"]
        ready = stack_dir / "ready.json"
        self.up = harness.Process(
            "medley-up", self.plan, "--time-scale", options.time_scale, "--grpc-listen", "127.0.0.1:0",
            "--http-listen", "127.0.0.1:0", "--link-listen", "127.0.0.1:0", "--ready-file", ready)
        harness.wait_until(lambda: ready.exists() and ready.stat().st_size > 0, "the fleet")
        self.ready = json.loads(ready.read_text())

    def bench(self, rate, seconds):
        """The requests of an open-loop run, after all have ended; seconds of real time."""
        rows = self.folder / "rows.jsonl"
        scale = self.options.time_scale
        done = subprocess.run(
            [str(self.harness.BIN / "medley-bench"), "--target", self.ready["grpc"], "--plan", str(self.plan),
             "--time-scale", str(scale), "--duration", f"{seconds * scale}s", "--rate", str(rate), "--no-predict",
             "--no-progress", "--save", str(rows), "--seed", str(self.options.seed)],
            capture_output=True, text=True, check=False)
        assert rows.exists(), done.stderr
        return [json.loads(line) for line in rows.read_text().splitlines()]

    def rss_mib(self):
        status = pathlib.Path(f"/proc/{self.ready['router']['pid']}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def ttft(row):
    return row["first_token_s"] - row["sent_s"]


def tpot(row):
    return (row["last_token_s"] - row["first_token_s"]) / (row["output_tokens"] - 1) if row["output_tokens"] > 1 else None


def is_good(row):
    return (row["status"] == "OK" and ttft(row) <= OBJECTIVES["ttft"] and
            (tpot(row) is None or tpot(row) <= OBJECTIVES["tpot"]))


def means(rows):
    """(mean TTFT, mean TPOT) of those that were served."""
    served = [r for r in rows if r["status"] == "OK"]
    gaps = [t for t in map(tpot, served) if t is not None]
    return (statistics.mean(map(ttft, served)) if served else 0, statistics.mean(gaps) if gaps else 0)


def goodput(rows, seconds):
    """Requests per second that were served while the objectives, which are on means as the plan's are, held; 0 when
    they did not.  Of the second half of the sending: a fleet that is still filling up is not taken for one that can
    do more."""
    late = [r for r in rows if seconds / 2 <= r["sent_s"] < seconds]
    first, gap = means(late)
    if first > OBJECTIVES["ttft"] or gap > OBJECTIVES["tpot"]:
        return 0
    return sum(r["status"] == "OK" for r in late) / (seconds / 2)


def find_capacity(fleet, options):
    best = 0
    for factor in (1.0, 1.15, 1.3, 1.45, 1.6):
        rows = fleet.bench(fleet.rate * factor, options.search)
        got = goodput(rows, options.search * options.time_scale)
        print(f"     {fleet.rate * factor:.2f} requests/s asked: goodput {got:.2f}/s, "
              f"{sum(r['status'] != 'OK' for r in rows)} of {len(rows)} refused", flush=True)
        best = max(best, got)
        if got < 0.7 * best:
            break
    return best


class Prober(threading.Thread):
    """Asks ten times a second, and looks at refusals: how soon, and is there a hint."""

    def __init__(self, fleet):
        super().__init__(daemon=True)
        self.api = fleet.harness.proto_module("inference")
        self.channel = grpc.insecure_channel(fleet.ready["grpc"])
        self.call = self.channel.unary_stream(
            "/medley.v1.Inference/GenerateStream", self.api.GenerateRequest.SerializeToString,
            self.api.GenerateChunk.FromString)
        self.over = threading.Event()
        self.accepted, self.refusals, self.other = 0, [], []

    def run(self):
        while not self.over.wait(0.1):
            began = time.monotonic()
            call = self.call(self.api.GenerateRequest(tokens=self.api.TokenIds(ids=[5] * 200), max_tokens=1,
                                                      emulated_output_tokens=1))
            try:
                next(call)
                self.accepted += 1
                call.cancel()
            except grpc.RpcError as error:
                took = time.monotonic() - began
                hint = dict(error.trailing_metadata() or ()).get("retry-after-ms")
                if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                    self.refusals.append((took, hint))
                else:
                    self.other.append(f"{error.code().name}: {error.details()}")

    def stop(self):
        self.over.set()
        self.join()
        self.channel.close()


def watch_memory(fleet, over, samples):
    while not over.wait(1):
        samples.append(fleet.rss_mib())


def overload(fleet, options, capacity):
    over, memory, prober = threading.Event(), [], Prober(fleet)
    watcher = threading.Thread(target=watch_memory, args=(fleet, over, memory), daemon=True)
    prober.start()
    watcher.start()
    rows = fleet.bench(options.factor * capacity, options.seconds)
    over.set()
    watcher.join()
    prober.stop()
    return rows, memory, prober


def judge(options, capacity, rows, memory, prober):
    scale = options.time_scale
    good = goodput(rows, options.seconds * scale)
    served = [r for r in rows if r["status"] == "OK"]
    refused = [r for r in rows if r["status"] == "RESOURCE_EXHAUSTED"]
    print(f"     {len(rows)} requests: {len(served)} served, {len(refused)} refused")
    check(good >= 0.9 * capacity, f"goodput {good:.2f}/s is {100 * good / capacity:.0f} % of the capacity, {capacity:.2f}/s")
    check(len(served) + len(refused) == len(rows), "every request was served or refused as overload")
    if served:
        mean_ttft, mean_tpot = means(rows)
        check(mean_ttft <= OBJECTIVES["ttft"], f"accepted requests: mean TTFT {mean_ttft:.3f} s of {OBJECTIVES['ttft']} s")
        check(mean_tpot <= OBJECTIVES["tpot"],
              f"accepted requests: mean TPOT {1e3 * mean_tpot:.1f} ms of {1e3 * OBJECTIVES['tpot']:.0f} ms")
        within = sum(map(is_good, served)) / len(served)
        print(f"     {100 * within:.1f} % of the accepted ones kept both on their own")
    limit = max(0.1, OBJECTIVES["ttft"] / scale / 10)
    late = sorted((r["end_s"] - r["sent_s"]) / scale for r in refused)
    if late:
        at = late[int(0.99 * (len(late) - 1))]
        check(at <= limit, f"refusals: p99 after {1e3 * at:.1f} ms of real time, at most {1e3 * limit:.0f} ms")
    check(all(hint is not None and int(hint) > 0 for _, hint in prober.refusals) and prober.refusals,
          f"{len(prober.refusals)} probes were refused, all with a hint (median "
          f"{statistics.median(int(h or 0) for _, h in prober.refusals) if prober.refusals else 0:.0f} ms)")
    check(not prober.other, f"no probe ended otherwise {prober.other[:3]}")
    quarter = max(1, len(memory) // 4)
    first, last = statistics.mean(memory[quarter // 2:quarter]), statistics.mean(memory[-quarter:])
    check(last <= first + 16, f"router's resident memory: {first:.0f} MiB at first, {last:.0f} MiB at last")
    return {"capacity_per_s": capacity, "goodput_per_s": good, "requests": len(rows), "served": len(served),
            "refused": len(refused), "rss_first_mib": first, "rss_last_mib": last, "failed": FAILED}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", default=ROOT / "build" / "release" / "bin", type=pathlib.Path)
    parser.add_argument("--seconds", default=120, type=int, help="of overload, real time")
    parser.add_argument("--search", default=30, type=int, metavar="SECONDS", help="of each run that looks for the capacity")
    parser.add_argument("--factor", default=3, type=float)
    parser.add_argument("--time-scale", default=4, type=float)
    parser.add_argument("--seed", default=1, type=int)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    os.environ["MEDLEY_BIN"] = str(options.bin.resolve())
    with tempfile.TemporaryDirectory(prefix="medley-overload-") as folder:
        fleet = Fleet(pathlib.Path(folder), options)
        try:
            capacity = find_capacity(fleet, options)
            print(f"     capacity: {capacity:.2f} good requests/s", flush=True)
            result = judge(options, capacity, *overload(fleet, options, capacity))
            fleet.up.stop()
        finally:
            fleet.up.kill()
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    print(f"{len(FAILED)} checks failed" if FAILED else "all of it holds")
    return 1 if FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
