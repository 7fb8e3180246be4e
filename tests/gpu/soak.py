#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Random load on one worker for some minutes: nothing fails, nothing leaks.

    soak.py BIN MODEL [--minutes 10] [--backend cuda] [--in-flight 96] [--kv-tokens 24576]

The test plays the router of one worker with a KV cache too small for what is asked of it, so that
sequences are preempted: requests of random sizes, a third with a shared prefix, with all kinds of
sampling; one in eight is cancelled at a random moment.  Checked at the end and on the way: every request
ends exactly once, with an ending that it may have, as many tokens as it must and none out of place; the
worker's memory and the GPU's do not grow after the first quarter; counters add up; a last drain
leaves status 0.  Prints one line per case.  Needs grpcio-tools and protobuf.
"""
import argparse
import pathlib
import random
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))
import harness  # noqa: E402
from link import Router, pb  # noqa: E402

PROMPT_MAX = 1500
OUTPUT_MAX = 200
SUFFIX = 20  # tokens behind a shared prefix
GROWTH = 0.01  # of memory, after the first quarter
failed = 0


def report(name, ok, detail):
    global failed
    failed += not ok
    print(f"{'pass' if ok else 'FAIL'} {name} {detail}", flush=True)


def resident_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def gpu_bytes():
    """In use on the first GPU; 0 without one."""
    try:
        out = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                             capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    return int(out.split()[0]) << 20


class Load:
    def __init__(self, link, hello, rng):
        self.link, self.vocab, self.rng = link, hello.vocab_tokens, rng
        self.prompt_max = min(PROMPT_MAX, hello.max_model_len - OUTPUT_MAX - SUFFIX)
        self.prefix = [rng.randrange(self.vocab) for _ in range(self.prompt_max)]
        self.open = {}  # request: [fields, tokens so far, cancelled, cancel at]
        self.endings = {}
        self.sent = self.tokens = self.computed = 0

    def send(self):
        rng = self.rng
        prompt = [rng.randrange(self.vocab) for _ in range(rng.randint(1, self.prompt_max))]
        if rng.random() < 1 / 3:
            prompt = self.prefix[:rng.randint(1, self.prompt_max)] + prompt[:SUFFIX]
        fields = {"max_tokens": rng.randint(1, OUTPUT_MAX), "ignore_eos": rng.random() < 0.5,
                  "temperature": rng.choice((0, 0.7, 1)), "seed": rng.randrange(1 << 32)}
        if rng.random() < 0.3:
            fields |= {"top_p": 0.9, "top_k": rng.choice((0, 40))}
        if rng.random() < 0.1:
            fields |= {"repetition_penalty": 1.2, "presence_penalty": 0.5}
        if rng.random() < 0.1:
            fields["logprobs"] = rng.choice((0, 5))
        self.sent += 1
        cancel_at = rng.randint(0, fields["max_tokens"]) if rng.random() < 1 / 8 else None
        self.open[self.sent] = [fields, 0, False, cancel_at]
        self.link.send(generate=pb.Generate(request=self.sent, attempt=1, prompt=prompt,
                                            request_id=f"r-{self.sent}", **fields))
        if cancel_at == 0:
            self.cancel(self.sent)

    def cancel(self, request):
        self.open[request][2] = True
        self.link.send(cancel=pb.Cancel(request=request, attempt=1))

    def take(self):
        frame = self.link.receive()
        kind = frame.WhichOneof("body")
        if kind == "tokens":
            entry = self.open[frame.tokens.request]
            assert frame.tokens.position == entry[1], frame
            assert all(i < self.vocab for i in frame.tokens.ids), frame
            entry[1] += len(frame.tokens.ids)
            self.tokens += len(frame.tokens.ids)
            if entry[3] is not None and not entry[2] and entry[1] >= entry[3]:
                self.cancel(frame.tokens.request)
        elif kind == "finish":
            fields, count, cancelled, _ = self.open.pop(frame.finish.request)
            ending = frame.finish.ending
            name = pb.Ending.Name(ending)
            self.endings[name] = self.endings.get(name, 0) + 1
            allowed = {pb.ENDING_LENGTH} | ({pb.ENDING_CANCELLED} if cancelled else set()) | (
                set() if fields["ignore_eos"] else {pb.ENDING_STOP})
            assert ending in allowed, (frame, fields)
            assert ending != pb.ENDING_LENGTH or count == fields["max_tokens"], (count, fields)
        else:
            assert kind == "stats", frame


def watch(load, process, seconds, in_flight):
    """Keeps so many requests open; [(seconds, resident bytes, bytes on the GPU)]."""
    begin, samples = time.monotonic(), []
    while True:
        now = time.monotonic() - begin
        while len(load.open) < in_flight and now < seconds:
            load.send()
        if not load.open:
            return samples
        load.take()
        if now >= len(samples) * seconds / 40 and now < seconds:
            samples.append((now, resident_bytes(process.pid), gpu_bytes()))


def check_memory(name, values):
    quarter = len(values) // 4
    early, late = max(values[:quarter + 1]), max(values[quarter + 1:])
    report(f"soak.{name}", late <= early * (1 + GROWTH),
           f"{early / 1e6:.0f} MB at most in the first quarter, {late / 1e6:.0f} MB after it")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bin", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--in-flight", type=int, default=96)
    parser.add_argument("--kv-tokens", type=int, default=24576)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    harness.BIN = arguments.bin.resolve()
    print(f"seed {arguments.seed}")
    with Router() as router, harness.Process(
            "medley-worker", "--model", arguments.model, "--backend", arguments.backend, "--kv-tokens",
            arguments.kv_tokens, "--router", router.address, "--metrics-listen", "127.0.0.1:0") as process:
        ready = process.wait_ready()
        link, hello = router.welcome(stats_interval_ms=1000)
        load = Load(link, hello, random.Random(arguments.seed))
        samples = watch(load, process, arguments.minutes * 60, arguments.in_flight)
        metrics = {k.split("{")[0]: v for k, v in harness.metrics(ready["metrics"]).items()}
        report("soak.ends", sum(load.endings.values()) == load.sent,
               f"{load.sent} requests, {load.tokens} tokens: {load.endings}")
        report("soak.preempts", metrics["vllm:num_preemptions_total"] > 0,
               f"{metrics['vllm:num_preemptions_total']:.0f} preemptions, "
               f"{metrics['vllm:prefix_cache_hits_total']:.0f} prompt tokens from the cache")
        report("soak.idle", metrics["vllm:num_requests_running"] == 0
               and metrics["vllm:num_requests_waiting"] == 0, "nothing runs or waits")
        check_memory("process_memory", [s[1] for s in samples])
        if samples[0][2]:
            check_memory("gpu_memory", [s[2] for s in samples])
        process.stop()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
