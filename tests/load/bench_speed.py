#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How much `medley bench` can take over HTTP, on one core: so that what it measures is the server.

    tests/load/bench_speed.py [--bin build/release/bin] [--rounds 5] [--seconds 3] [--json FILE]

Needs nginx and wrk (Debian: nginx-light wrk).  nginx gives every request the same answer, so the client is what
is measured.  In each round, one after the other and on loopback, 64 connections:

    wrk       whole answers
    whole     medley bench: whole answers, each parsed and recorded
    streams   medley bench: answers of 256 events, each parsed and timed
    open      medley bench: whole answers at half the rate of `whole`, Poisson: how late requests were sent, and how
              many waited for a connection

Printed are the medians over the rounds, and the smallest and the largest.
"""
import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from front_door import ROOT, completion, request_script, start, wrk  # noqa: E402

CONNECTIONS, EVENTS = 64, 256
NGINX = """
worker_processes 1; worker_rlimit_nofile 16384; pid {folder}/nginx.pid; error_log {folder}/nginx.err warn; daemon off;
events {{ worker_connections 16000; }}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    keepalive_requests 100000000; open_file_cache max=8;
    server {{
        listen 127.0.0.1:{port};
        location /v1/ {{ default_type application/json; return 200 '{completion}'; }}
        location /streams/ {{
            default_type text/event-stream; root {folder}; error_page 405 =200 $uri;
        }}
    }}
}}
"""


def stream():
    """The bytes of a streamed completion."""
    lines = []
    for i in range(EVENTS):
        reason = "length" if i + 1 == EVENTS else None
        lines.append("data: " + json.dumps({
            "id": "cmpl-0123456789abcdef", "object": "text_completion", "created": 1700000000, "model": "llama-2-7b",
            "choices": [{"index": 0, "text": " word", "logprobs": None, "finish_reason": reason}], "usage": None},
            separators=(",", ":")))
    return "\n\n".join([*lines, "data: [DONE]", ""])


def start_server(stack, folder):
    import harness  # pylint: disable=import-outside-toplevel
    port = harness.free_port()
    answers = folder / "streams" / "v1"
    answers.mkdir(parents=True)
    (answers / "completions").write_text(stream())
    folder.chmod(0o755)
    path = folder / "nginx.conf"
    path.write_text(NGINX.format(folder=folder, port=port, completion=completion()))
    start(stack, ["nginx", "-p", str(folder), "-c", str(path), "-e", str(folder / "nginx.err")], port)
    return f"127.0.0.1:{port}"


def bench(address, seconds, *options, prefix=""):
    import harness  # pylint: disable=import-outside-toplevel
    done = subprocess.run(
        [str(harness.BIN / "medley-bench"), "--api", "openai", "--url", f"http://{address}{prefix}", "--input-tokens", "20",
         "--output-tokens", "1", "--duration", f"{seconds}s", "--no-progress", "--json", *map(str, options)],
        capture_output=True, text=True, check=False)
    report = json.loads(done.stdout) if done.stdout else {}
    if done.returncode != 0 or report["failed"]:
        sys.exit(f"medley bench ended with {done.returncode}: {done.stderr}{done.stdout[-500:]}")
    return report


def measure(folder, rounds, seconds):
    rows = {"wrk": [], "whole": [], "streams": [], "late_mean_ms": [], "late_p99_ms": [], "open_rate": [], "waited": []}
    with contextlib.ExitStack() as stack:
        address = start_server(stack, folder)
        script = request_script(folder)
        for turn in range(rounds):
            rows["wrk"].append(wrk(address, script, CONNECTIONS, seconds)["per_s"])
            whole = bench(address, seconds, "--concurrency", CONNECTIONS, "--no-stream")
            rows["whole"].append(whole["request_throughput"])
            got = bench(address, seconds, "--concurrency", CONNECTIONS, prefix="/streams")
            rows["streams"].append(got["request_throughput"] * EVENTS)
            late = bench(address, seconds, "--rate", whole["request_throughput"] / 2, "--no-stream")
            rows["open_rate"].append(late["request_throughput"])
            rows["waited"].append((late["waited_for_opening"] + late["waited_for_connection_limit"]) / late["sent"])
            rows["late_mean_ms"].append(late["mean_lateness_ms"])
            rows["late_p99_ms"].append(late["p99_lateness_ms"])
            print(f"round {turn + 1}: " + ", ".join(f"{k} {v[-1]:.2f}" for k, v in rows.items()), file=sys.stderr)
    return rows


def spread(values, digits=0):
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} .. {max(values):,.{digits}f})"


def report(rows):
    ratio = [b / w for b, w in zip(rows["whole"], rows["wrk"])]
    return "\n".join([
        f"| {CONNECTIONS} connections | median (smallest .. largest) |", "|---|---|",
        f"| wrk, whole answers, requests/s | {spread(rows['wrk'])} |",
        f"| medley bench, whole answers, requests/s | {spread(rows['whole'])} |",
        f"| of wrk's, within a round | {spread(ratio, 2)} |",
        f"| medley bench, streams of {EVENTS} events, events/s | {spread(rows['streams'])} |",
        f"| open loop, requests/s | {spread(rows['open_rate'])} |",
        f"| sent late, mean | {spread(rows['late_mean_ms'], 3)} ms |",
        f"| sent late, p99 | {spread(rows['late_p99_ms'], 3)} ms |",
        f"| waited for a connection, of those sent | {spread(rows['waited'], 4)} |"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", default=ROOT / "build" / "release" / "bin", type=pathlib.Path)
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--seconds", default=3, type=int)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    os.environ["MEDLEY_BIN"] = str(options.bin.resolve())
    with tempfile.TemporaryDirectory(prefix="medley-load-") as folder:
        rows = measure(pathlib.Path(folder), options.rounds, options.seconds)
    if options.json:
        options.json.write_text(json.dumps(rows))
    print(report(rows))


if __name__ == "__main__":
    main()
