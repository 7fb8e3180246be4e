#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A million requests that misbehave, workers that die, and then the accounts.

    tests/soak/soak.py [--bin build/release/bin] [--requests 1000000] [--doors grpc,http] [--json FILE]

A router, workers that emulate GPUs a thousand times too fast, and soak_client at each door: most requests
run to their end, some are cancelled or cut off, miss a deadline, or are wrong (soak_client.c).  Meanwhile
workers are killed with SIGKILL and started again, and now and then one is stopped (SIGSTOP).  At the end:

- every request that was sent has ended, and every answer that says it is whole is whole;
- plain requests all ended well;
- the router's counters add up, and are the clients';
- nothing is in flight or waiting; descriptors, heap and resident memory are where they were.

Exit status 0 when all of that holds.  With --bin build/dev/bin and --requests 30000 it is a soak under
AddressSanitizer: what leaks is reported at the router's end (resident memory is not compared there).
"""
import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))

TYPES = {"h100-llama-2-7b-fp16": 2, "a100-80gb-llama-2-7b-fp16": 2}
MODEL = ROOT / "models" / "medley-austen"
FAILED = []


def check(holds, sentence):
    print(f"{'ok  ' if holds else 'FAIL'} {sentence}", flush=True)
    if not holds:
        FAILED.append(sentence)


class Fleet:
    """The router and its workers; one worker at a time is unwell."""

    def __init__(self, folder, seed):
        import harness  # pylint: disable=import-outside-toplevel
        import plans  # pylint: disable=import-outside-toplevel
        self.harness, self.random = harness, random.Random(seed)
        self.plan = plans.write(folder / "plan.json", TYPES)
        self.router = harness.Process(
            "medley-router", "--model", MODEL, "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
            "--link-listen", "127.0.0.1:0", "--log-level", "error", self.plan)
        self.ready = self.router.wait_ready()
        self.names = [(t, f"{t.split('-')[0]}-{i}") for t, n in TYPES.items() for i in range(n)]
        self.workers = [self.start(i) for i in range(len(self.names))]
        self.kills = self.stops = 0
        self.over = threading.Event()
        self.thread = None
        harness.wait_until(lambda: self.state()["worker_types"][0]["ready"] + self.state()["worker_types"][1]["ready"]
                           == len(self.names), "the workers")

    def start(self, index):
        worker_type, name = self.names[index]
        return self.harness.Process(
            "medley-worker", "--router", self.ready["link"], "--plan", self.plan, "--worker-type", worker_type,
            "--worker-id", name, "--emulated-bias", "0.001", "--log-level", "error")

    def state(self):
        return json.loads(self.harness.http_get(self.ready["http"], "/admin/state")[1])

    def trouble(self, every_s):
        """Kills and stops workers until `over`."""
        while not self.over.wait(every_s * self.random.uniform(0.5, 1.5)):
            index = self.random.randrange(len(self.workers))
            if self.random.random() < 0.15:
                self.stops += 1
                self.workers[index].send_signal(signal.SIGSTOP)
                self.over.wait(self.random.uniform(0.1, 5))
                self.workers[index].send_signal(signal.SIGCONT)
            else:
                self.kills += 1
                self.workers[index].kill()
                self.over.wait(self.random.uniform(0, 1))
                self.workers[index] = self.start(index)

    def make_trouble(self, every_s):
        self.thread = threading.Thread(target=self.trouble, args=(every_s,), daemon=True)
        self.thread.start()

    def end_trouble(self):
        self.over.set()
        self.thread.join()

    def stop(self):
        self.router.stop()
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            worker.wait()
            worker.check_clean()

    def kill(self):
        self.over.set()
        for process in [self.router, *self.workers]:
            process.kill()


def client(binary, door, address, requests, concurrency, seed):
    return subprocess.Popen([str(binary), door, address, str(requests), str(concurrency), str(seed)],
                            stdout=subprocess.PIPE, text=True)


def clients(fleet, options, requests, seed):
    """{door: what its client says}, after they have ended."""
    binary = options.bin.parent / "tests" / "soak_client"
    started = {door: client(binary, door, fleet.ready[door], requests // len(options.doors), options.concurrency,
                            seed + i) for i, door in enumerate(options.doors)}
    found = {}
    for door, popen in started.items():
        out, _ = popen.communicate()
        if not out:
            sys.exit(f"the client at the {door} door gave up: status {popen.returncode}")
        found[door] = json.loads(out)
    return found


def abandon(fleet, options):
    """Clients that die: whatever they had open must end too."""
    binary = options.bin.parent / "tests" / "soak_client"
    for turn in range(6):
        for door in options.doors:
            popen = client(binary, door, fleet.ready[door], 10**9, options.concurrency, 1000 + turn)
            time.sleep(0.7)
            popen.kill()
            popen.communicate()


def usage(fleet):
    """What the router holds when nothing is asked of it."""
    fleet.harness.wait_until(lambda: fleet.state()["in_flight"] + fleet.state()["queued"] == 0, "an idle router")
    pid = fleet.router.pid
    now, same = None, 0
    while same < 8:  # connections linger for a second after their clients have gone
        time.sleep(0.3)
        last, now = now, len(os.listdir(f"/proc/{pid}/fd"))
        same = same + 1 if now == last else 0
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return {"descriptors": now, "rss_mib": rss / 1024, "heap_kib": fleet.state()["heap_bytes"] / 1024}


def total(found, name, **labels):
    return sum(v for k, v in found.items() if k.split("{")[0] == name and
               all(f'{label}="{value}"' in k for label, value in labels.items()))


def judge_clients(said):
    for door, got in said.items():
        kinds = got["kinds"]
        print(f"     {door}: " + "; ".join(f"{k}: " + ", ".join(f"{n} {v}" for v, n in ends.items())
                                           for k, ends in kinds.items()))
        good = "OK" if door == "grpc" else "200"
        check(got["sent"] == got["ended"], f"{door}: {got['sent']} requests were sent, {got['ended']} have ended")
        check(got["wrong_answers"] == 0, f"{door}: {got['wrong_answers']} answers were not whole, or repeated tokens")
        plain = sum(kinds["plain"].values())
        check(kinds["plain"].get(good, 0) == plain,
              f"{door}: {kinds['plain'].get(good, 0)} of {plain} plain requests ended well")
        refused = {"grpc": "INVALID_ARGUMENT", "http": "400"}[door]
        wrong = sum(kinds["wrong"].values())
        check(kinds["wrong"].get(refused, 0) == wrong, f"{door}: {wrong} wrong requests were refused as wrong")


def judge_counters(found, said):
    accepted = total(found, "medley_router_accepted_total")
    ends = total(found, "medley_router_requests_total")
    check(accepted == ends, f"accepted {accepted:.0f} = ended {ends:.0f}")
    for name in ("in_flight", "queue_depth", "grpc_calls"):
        check(total(found, f"medley_router_{name}") == 0, f"{name} is {total(found, f'medley_router_{name}'):.0f}")
    whole = sum(total(found, "medley_router_requests_total", outcome=o) for o in ("stop", "length"))
    seen = disturbed = sent = 0
    for door, got in said.items():
        sent += got["sent"]
        good = "OK" if door == "grpc" else "200"
        seen += sum(ends.get(good, 0) for ends in got["kinds"].values())
        disturbed += sum(n for kind in ("cancel_early", "cancel_late", "deadline")
                         for end, n in got["kinds"][kind].items() if end != good)
    # The HTTP door refuses what it can read to be wrong before the router sees it.
    wrong = {door: sum(got["kinds"]["wrong"].values()) for door, got in said.items()}
    # One that its client gave up may have ended well at the router before it heard of that.
    check(seen <= whole <= seen + disturbed, f"whole at the clients {seen}, at the router {whole:.0f}, "
          f"given up by clients {disturbed}")
    refused = total(found, "medley_router_refused_total")
    bad = total(found, "medley_router_http_requests_total", path="/v1/completions", status="400")
    refused += bad
    check(sent - disturbed <= accepted + refused <= sent,
          f"accepted {accepted:.0f} + refused {refused:.0f} of {sent} sent, {disturbed} given up")
    invalid = total(found, "medley_router_refused_total", reason="invalid")
    check(invalid == wrong.get("grpc", 0) and bad == wrong.get("http", 0),
          f"refused as wrong: {invalid:.0f} by gRPC, {bad:.0f} over HTTP, of {wrong}")
    tokens = sum(got["tokens"] for got in said.values())
    check(total(found, "medley_router_output_tokens_total") >= tokens,
          f"output tokens: {tokens} at the clients, {total(found, 'medley_router_output_tokens_total'):.0f} passed on")
    if "grpc" in said:
        ok = total(found, "medley_router_grpc_calls_total", method="medley.v1.Inference/GenerateStream", code="OK")
        mine = sum(ends.get("OK", 0) for ends in said["grpc"]["kinds"].values())
        check(mine <= ok <= mine + disturbed, f"gRPC calls that ended OK: {mine} at the client, {ok:.0f} at the router")
    print("     sent again: " + ", ".join(f"{k.split(chr(34))[1]} {v:.0f}" for k, v in found.items()
                                          if k.startswith("medley_router_reroutes_total")) +
          f"; resumed {total(found, 'medley_router_resumes_total'):.0f}; stale messages "
          f"{total(found, 'medley_router_stale_messages_total'):.0f}")


def judge_usage(before, after, is_release):
    print("     before " + json.dumps(before) + "\n     after  " + json.dumps(after))
    check(after["descriptors"] <= before["descriptors"],
          f"descriptors: {before['descriptors']} before, {after['descriptors']} after")
    # Four links, whose buffers keep the largest size that they have had: docs/internals/soak.md says what was seen.
    check(after["heap_kib"] <= before["heap_kib"] + 256,
          f"heap: {before['heap_kib']:.0f} KiB before, {after['heap_kib']:.0f} KiB after")
    if is_release:
        check(after["rss_mib"] <= before["rss_mib"] + 16,
              f"resident memory: {before['rss_mib']:.0f} MiB before, {after['rss_mib']:.0f} MiB after")


def soak(fleet, options):
    warm = max(2000, options.requests // 20)
    print(f"     {warm} requests to warm up", flush=True)
    clients(fleet, options, warm, options.seed + 100)
    abandon(fleet, options)
    before, base = usage(fleet), fleet.harness.metrics(fleet.ready["http"])
    fleet.make_trouble(options.trouble)
    began = time.monotonic()
    said = clients(fleet, options, options.requests, options.seed)
    took = time.monotonic() - began
    fleet.end_trouble()
    sent = sum(got["sent"] for got in said.values())
    print(f"     {sent} requests in {took:.0f} s ({sent / took:.0f}/s); {fleet.kills} workers killed, "
          f"{fleet.stops} stopped for a while", flush=True)
    fleet.harness.wait_until(lambda: fleet.state()["in_flight"] + fleet.state()["queued"] == 0, "an idle router")
    now = fleet.harness.metrics(fleet.ready["http"])
    found = {k: v - (base.get(k, 0) if "_total" in k else 0) for k, v in now.items()}
    judge_clients(said)
    judge_counters(found, said)
    abandon(fleet, options)
    after = usage(fleet)
    found = fleet.harness.metrics(fleet.ready["http"])
    check(total(found, "medley_router_accepted_total") == total(found, "medley_router_requests_total"),
          "after clients that died too, accepted = ended")
    judge_usage(before, after, "release" in str(options.bin))
    return {"requests": sent, "seconds": took, "kills": fleet.kills, "stops": fleet.stops, "clients": said,
            "before": before, "after": after, "failed": FAILED}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", default=ROOT / "build" / "release" / "bin", type=pathlib.Path)
    parser.add_argument("--requests", default=1000000, type=int)
    parser.add_argument("--doors", default="grpc,http", type=lambda text: text.split(","))
    parser.add_argument("--concurrency", default=128, type=int)
    parser.add_argument("--trouble", default=4, type=float, metavar="SECONDS", help="mean time between crashes")
    parser.add_argument("--seed", default=1, type=int)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    options.bin = options.bin.resolve()
    os.environ["MEDLEY_BIN"] = str(options.bin)
    with tempfile.TemporaryDirectory(prefix="medley-soak-") as folder:
        fleet = Fleet(pathlib.Path(folder), options.seed)
        try:
            result = soak(fleet, options)
            fleet.stop()
            check(True, "router and workers ended clean")
        finally:
            fleet.kill()
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    print(f"{len(FAILED)} checks failed" if FAILED else "all of it holds")
    return 1 if FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
