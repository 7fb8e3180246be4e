#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the router adds to a small request, beside what nginx and haproxy add to one.

    tests/load/front_door.py [--bin build/release/bin] [--rounds 7] [--seconds 3] [--json FILE]

Needs nginx, haproxy and wrk (Debian: nginx-light haproxy wrk).  In each round, one after the other and
on loopback:

    direct    wrk -> an HTTP server that answers with a fixed completion (nginx)
    nginx     wrk -> nginx as a proxy -> the same server
    haproxy   wrk -> haproxy -> the same server
    link      link_probe -> worker: the worker link without a router
    medley    wrk -> medley router -> worker: parsed, tokenised, routed, detokenised

with one connection and with 64.  The worker emulates a GPU that takes microseconds.  What is added is
nginx - direct, haproxy - direct, medley - link, at the median and the 99th percentile, within the round;
printed are the medians over the rounds, and the smallest and the largest.
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))

MODEL = ROOT / "models" / "medley-austen"
WORKER_TYPE = "h100-llama-2-7b-fp16"
PROMPT = "It is a truth universally acknowledged, that a single man in possession of a good fortune"
CONNECTIONS = (1, 64)
UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6}

NGINX = """
worker_processes 1; pid {folder}/{name}.pid; error_log {folder}/{name}.err warn; daemon off;
events {{ worker_connections 4096; }}
http {{
    access_log off; client_body_temp_path {folder}/{name}-body; proxy_temp_path {folder}/{name}-proxy;
    fastcgi_temp_path {folder}/{name}-f; uwsgi_temp_path {folder}/{name}-u; scgi_temp_path {folder}/{name}-s;
    keepalive_requests 100000000;
    upstream up {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; }}
    server {{ listen 127.0.0.1:{port}; default_type application/json; location / {{ {action} }} }}
}}
"""
HAPROXY = """
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen door
    bind 127.0.0.1:{port}
    http-reuse always
    server up 127.0.0.1:{upstream}
"""


def completion():
    """An answer such as the router gives."""
    return json.dumps({"id": "cmpl-0123456789abcdef", "object": "text_completion", "created": 1700000000,
                       "model": "llama-2-7b", "choices": [{"index": 0, "text": " must", "logprobs": None,
                                                           "finish_reason": "length"}],
                       "usage": {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21}},
                      separators=(",", ":"))


def request_script(folder):
    """wrk's request: the same for all."""
    body = json.dumps({"model": "llama-2-7b", "prompt": PROMPT, "max_tokens": 1, "temperature": 0})
    path = folder / "request.lua"
    path.write_text(f"wrk.method = 'POST'\nwrk.path = '/v1/completions'\nwrk.body = [[{body}]]\n"
                    "wrk.headers['Content-Type'] = 'application/json'\n")
    return path


def wrk(address, script, connections, seconds):
    """{"per_s", "p50_us", "p99_us"}; a status other than 200 ends the run."""
    done = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script),
                           f"http://{address}"], capture_output=True, text=True, check=True)
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        sys.exit(f"{address}: {done.stdout}")
    found = {q: float(n) * UNITS[unit]
             for q, n, unit in re.findall(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s)$", done.stdout, re.M)}
    per_s = float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout).group(1))
    return {"per_s": per_s, "p50_us": found["50"], "p99_us": found["99"]}


def start(stack, command, port):
    """A server of ours on a port; ended by its own process id."""
    import harness  # pylint: disable=import-outside-toplevel
    popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def end():
        popen.terminate()
        popen.wait(10)
    stack.callback(end)

    def listens():
        import socket  # pylint: disable=import-outside-toplevel
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        if popen.poll() is not None:
            sys.exit(f"{command[0]} ended with {popen.returncode}")
        return False
    harness.wait_until(listens, f"{command[0]} to listen")


def start_proxies(stack, folder):
    """{"direct", "nginx", "haproxy"}: addresses."""
    import harness  # pylint: disable=import-outside-toplevel
    ports = {name: harness.free_port() for name in ("direct", "nginx", "haproxy")}
    actions = {"direct": f"return 200 '{completion()}';",
               "nginx": "proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection '';"}
    for name, action in actions.items():
        path = folder / f"{name}.conf"
        path.write_text(NGINX.format(folder=folder, name=name, upstream=ports["direct"], port=ports[name],
                                     action=action))
        start(stack, ["nginx", "-p", str(folder), "-c", str(path), "-e", str(folder / f"{name}.err")], ports[name])
    path = folder / "haproxy.cfg"
    path.write_text(HAPROXY.format(upstream=ports["direct"], port=ports["haproxy"]))
    start(stack, ["haproxy", "-f", str(path)], ports["haproxy"])
    return {name: f"127.0.0.1:{port}" for name, port in ports.items()}


def worker(plan, address):
    import harness  # pylint: disable=import-outside-toplevel
    return harness.Process("medley-worker", "--plan", plan, "--worker-type", WORKER_TYPE, "--router", address,
                           "--emulated-bias", "0.001", "--metrics-listen", "127.0.0.1:0")


def start_router(stack, plan):
    import harness  # pylint: disable=import-outside-toplevel
    router = stack.enter_context(harness.Process(
        "medley-router", plan, "--model", MODEL, "--grpc-listen", "127.0.0.1:0", "--http-listen",
        "127.0.0.1:0", "--link-listen", "127.0.0.1:0"))
    ready = router.wait_ready()
    stack.enter_context(worker(plan, ready["link"])).wait_ready()
    harness.wait_until(lambda: harness.http_get(ready["http"], "/health")[0] == 200, "a ready worker")
    return ready["http"]


def probe_link(plan, connections, seconds, prompt_tokens):
    import harness  # pylint: disable=import-outside-toplevel
    popen = subprocess.Popen([str(harness.BIN.parent / "tests" / "link_probe"), str(prompt_tokens), "1",
                              str(connections), str(seconds)], stdout=subprocess.PIPE, text=True)
    address = popen.stdout.readline().strip().partition("=")[2]
    with worker(plan, address):
        out, _ = popen.communicate(timeout=seconds + 30)
    return json.loads(out)


def measure(folder, rounds, seconds):
    """rows[connections][name]: one measurement per round."""
    import harness  # pylint: disable=import-outside-toplevel
    import plans  # pylint: disable=import-outside-toplevel
    plan = plans.write(folder / "plan.json", {WORKER_TYPE: 1})
    script = request_script(folder)
    rows = {c: {} for c in CONNECTIONS}
    with contextlib.ExitStack() as stack:
        addresses = start_proxies(stack, folder)
        addresses["medley"] = start_router(stack, plan)
        _, text = harness.run("medley-router", "--version")[:2]
        print(text.strip(), file=sys.stderr)
        for turn in range(rounds):
            for c in CONNECTIONS:
                for name in ("direct", "nginx", "haproxy", "link", "medley"):
                    got = (probe_link(plan, c, seconds, 20) if name == "link"
                           else wrk(addresses[name], script, c, seconds))
                    rows[c].setdefault(name, []).append(got)
                    print(f"round {turn + 1} connections {c} {name}: {got['per_s']:.0f}/s p50 {got['p50_us']:.0f} us "
                          f"p99 {got['p99_us']:.0f} us", file=sys.stderr)
    return rows


def spread(values):
    return f"{statistics.median(values):.0f} ({min(values):.0f} .. {max(values):.0f})"


def spread_fine(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} .. {max(values):.2f})"


def report(rows):
    """The tables, as Markdown."""
    lines = []
    for c, by_name in rows.items():
        lines += [f"{c} connection{'s' if c > 1 else ''}", "",
                  "| | requests/s | p50 us | p99 us | added p50 us | added p99 us |", "|---|---|---|---|---|---|"]
        for name, got in by_name.items():
            base = by_name["link" if name == "medley" else "direct"]
            added = {q: [a[q] - b[q] for a, b in zip(got, base)] for q in ("p50_us", "p99_us")}
            plain = name in ("direct", "link")
            lines.append(f"| {name} | {spread([g['per_s'] for g in got])} | {spread([g['p50_us'] for g in got])} | "
                         f"{spread([g['p99_us'] for g in got])} | {'' if plain else spread(added['p50_us'])} | "
                         f"{'' if plain else spread(added['p99_us'])} |")
        lines.append("")
    ratios = {
        "added p50, 1 connection, medley / nginx": ("p50_us", 1),
        "added p99, 1 connection, medley / nginx": ("p99_us", 1)}
    for text, (q, c) in ratios.items():
        got = [(m[q] - link[q]) / (n[q] - d[q]) for m, link, n, d in
               zip(*(rows[c][k] for k in ("medley", "link", "nginx", "direct")))]
        lines.append(f"{text}: {statistics.median(got):.2f} ({min(got):.2f} .. {max(got):.2f})")
    got = [m["per_s"] / n["per_s"] for m, n in zip(rows[64]["medley"], rows[64]["nginx"])]
    lines.append(f"requests/s, 64 connections, medley / nginx: {statistics.median(got):.2f} "
                 f"({min(got):.2f} .. {max(got):.2f})")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", default=ROOT / "build" / "release" / "bin", type=pathlib.Path)
    parser.add_argument("--rounds", default=7, type=int)
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
