#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Streams over the HTTP door: events per second, the delay of a token, and memory.

    tests/load/streams.py [--bin build/release/bin] [--rounds 7] [--seconds 6] [--streams 1000] [--idle 10000]

stream_probe is the worker and the clients at once (one process, one clock); the router stands between.
In each round: tokens as fast as the router takes them, one event each; then half of TARGET on as many
streams, for the delay from the worker's write to the client's read; that again behind --idle keep-alive
connections that say nothing, for the router's memory; and gRPC streams, which medley bench reads while
stream_probe is the worker alone.  Printed are medians over the rounds, the smallest and the largest.
"""
import argparse
import contextlib
import json
import os
import pathlib
import resource
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import front_door  # noqa: E402  pylint: disable=wrong-import-position

TARGET = 80000
GRPC_RATE = 150000  # what the worker says, if the router takes it
TOKENS = 500
TOKEN = "\u0120the"  # " the", as byte-level vocabularies spell it
TEXT_BYTES = 4


def token_id():
    """The id of a token that is a whole word."""
    vocabulary = json.loads((front_door.MODEL / "tokenizer.json").read_text())["model"]["vocab"]
    return vocabulary[TOKEN]


def resident_mb(pid):
    """The most resident memory that a process has had."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM")


def probe(ready, streams, rate, seconds):
    """One run of stream_probe."""
    import harness  # pylint: disable=import-outside-toplevel
    done = subprocess.run(
        [str(harness.BIN.parent / "tests" / "stream_probe"), ready["link"].split(":")[1], ready["http"].split(":")[1],
         front_door.WORKER_TYPE, str(streams), str(TOKENS), str(rate), str(seconds), str(token_id()), str(TEXT_BYTES)],
        capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def grpc_tokens_per_s(folder, ready, streams):
    """Tokens per second over gRPC, of as many streams at once, each of TOKENS tokens."""
    import harness  # pylint: disable=import-outside-toplevel
    log = folder / "requests.csv"
    log.write_text("arrival_s,input_tokens,output_tokens\n" +
                   "".join(f"{i * 1e-6:.6f},4,{TOKENS}\n" for i in range(streams)))
    worker = subprocess.Popen(
        [str(harness.BIN.parent / "tests" / "stream_probe"), ready["link"].split(":")[1], "0", front_door.WORKER_TYPE,
         str(streams), str(TOKENS), str(GRPC_RATE), "600", str(token_id()), str(TEXT_BYTES)], stdout=subprocess.DEVNULL)
    try:
        harness.wait_until(lambda: harness.http_get(ready["http"], "/health")[0] == 200, "a ready worker")
        status, out, err = harness.run(
            "medley-bench", "--target", ready["grpc"], "--trace", log, "--requests", streams, "--max-tokens", TOKENS,
            "--no-predict", "--no-progress", "--arrival", "all-at-once", "--max-concurrency", streams, "--json")
    finally:
        worker.terminate()
        worker.wait(10)
    report = json.loads(out) if status == 0 else {}
    if report.get("completed") != streams:
        sys.exit(f"gRPC streams failed: {err}")
    return report["output_throughput"]


@contextlib.contextmanager
def idle_connections(address, count):
    """Connections that have had one answer each and keep quiet."""
    host, port = address.rsplit(":", 1)
    held = []
    try:
        for _ in range(count):
            one = socket.create_connection((host, int(port)))
            one.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            held.append(one)
        for one in held:
            if not one.recv(4096).startswith(b"HTTP/1.1 200"):
                sys.exit("an idle connection was refused")
        yield
    finally:
        for one in held:
            one.close()


def measure(folder, options):
    """{name: one value per round}"""
    import harness  # pylint: disable=import-outside-toplevel
    import plans  # pylint: disable=import-outside-toplevel
    plan = plans.write(folder / "plan.json", {front_door.WORKER_TYPE: 1})
    rows = {}

    def keep(**values):
        for name, value in values.items():
            rows.setdefault(name, []).append(value)
        print(values, file=sys.stderr)
    for _ in range(options.rounds):
        with harness.Process("medley-router", plan, "--model", front_door.MODEL, "--grpc-listen", "127.0.0.1:0",
                             "--http-listen", "127.0.0.1:0", "--link-listen", "127.0.0.1:0", "--admission", "queue") as router:
            ready = router.wait_ready()
            full = probe(ready, options.streams, 0, options.seconds)
            half = probe(ready, options.streams, TARGET / 2, options.seconds)
            keep(events_per_s=full["events_per_s"], delay_p50_ms=half["delay_p50_ms"],
                 delay_p99_ms=half["delay_p99_ms"], delay_max_ms=half["delay_max_ms"],
                 half_events_per_s=half["events_per_s"])
            with idle_connections(ready["http"], options.idle):
                with_idle = probe(ready, options.streams, TARGET / 2, options.seconds)
                keep(idle_delay_p99_ms=with_idle["delay_p99_ms"], resident_mb=resident_mb(router.pid))
            keep(grpc_tokens_per_s=grpc_tokens_per_s(folder, ready, options.streams))
            router.stop()
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", default=front_door.ROOT / "build" / "release" / "bin", type=pathlib.Path)
    parser.add_argument("--rounds", default=7, type=int)
    parser.add_argument("--seconds", default=6, type=float)
    parser.add_argument("--streams", default=1000, type=int)
    parser.add_argument("--idle", default=10000, type=int)
    options = parser.parse_args()
    os.environ["MEDLEY_BIN"] = str(options.bin.resolve())
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with tempfile.TemporaryDirectory(prefix="medley-load-") as folder:
        rows = measure(pathlib.Path(folder), options)
    for name, values in rows.items():
        print(f"{name}: {front_door.spread(values) if min(values) > 10 else front_door.spread_fine(values)}")


if __name__ == "__main__":
    main()
