#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Live streams while workers die, leave and hang: nothing may be truncated, lost or said twice.

    tests/soak/streams.py                       1,000 streams, build/release
    tests/soak/streams.py --streams 40 --quick  the small one that ./check runs
    tests/soak/streams.py --resume off          a killed worker's streams must fail within a second
    tests/soak/streams.py --take-over           the router is restarted under them, nothing else

Emulated workers say tokens that are a function of (seed, place), so every token that a client gets is
compared with the one that must stand there.  When every stream has begun to speak, one worker is killed
(SIGKILL), one is told to stop (SIGTERM) with less time than its streams need, one is drained by an
operator (POST /admin/drain), another plan is put in force (SIGHUP), and one worker is stopped (SIGSTOP) until its streams have gone on
elsewhere, and continued (SIGCONT).  At the end each stream must have all its tokens and status OK, and
the router's counters must add up.

What comes out is one line of JSON; the exit status is 0 if all of it held.
"""
import argparse
import asyncio
import json
import os
import pathlib
import signal
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))
os.environ.setdefault("MEDLEY_BIN", str(ROOT / "build" / "release" / "bin"))

import grpc.aio  # noqa: E402

import harness  # noqa: E402
import plans  # noqa: E402
from harness import Process  # noqa: E402

api = harness.proto_module("inference")
TYPE = "h100-llama-2-7b-fp16"
OTHER_TYPE = "l4-llama-2-7b-fp16"
VOCAB = 32000
MASK = (1 << 64) - 1
CHANNELS = 8


def token(seed, place):
    """What an emulated worker says there: worker/emulated/emulated.c."""
    x = (seed + 0x9e3779b97f4a7c15 * (place + 1)) & MASK
    x = ((x ^ (x >> 30)) * 0xbf58476d1ce4e5b9) & MASK
    x = ((x ^ (x >> 27)) * 0x94d049bb133111eb) & MASK
    return (x ^ (x >> 31)) % VOCAB


class Failed(Exception):
    """A call ended otherwise than well: (code, sentence)."""


class Stream:
    """One client: what it has got, and how it ended."""

    def __init__(self, number, tokens):
        self.seed = 1000 + number
        self.prompt = [(number * 7 + i) % VOCAB for i in range(8 + number % 50)]
        # Some end by themselves, the others by their length.
        self.total = tokens - number % 7
        self.stops = number % 3 == 0
        self.got, self.code, self.details = 0, None, ""
        self.wrong = 0
        self.finish, self.ended_at = None, None

    def limit(self):
        return self.total + (50 if self.stops else 0)

    def got_tokens(self, position, ids):
        self.wrong += len(ids) > 0 and position != self.got
        for given in ids:
            self.wrong += given != token(self.seed, len(self.prompt) + self.got)
            self.got += 1

    async def run(self, door):
        try:
            await door.take(self)
            self.code = "OK"
        except Failed as error:
            self.code, self.details = error.args
        self.ended_at = time.monotonic()

    def is_whole(self):
        return (self.code == "OK" and self.got == self.total and self.wrong == 0
                and self.finish == ("stop" if self.stops else "length"))


class HttpDoor:
    """POST /v1/completions, streamed, each on a connection of its own."""

    def __init__(self, address):
        self.host, self.port = address.rsplit(":", 1)

    @staticmethod
    async def events(reader):
        """The data of server-sent events out of a chunked body."""
        text = b""
        while True:
            size = int((await reader.readline()).split(b";")[0], 16)
            text += await reader.readexactly(size)
            await reader.readexactly(2)
            while b"\n\n" in text:
                event, text = text.split(b"\n\n", 1)
                if event.startswith(b"data: "):
                    yield event[6:]
            if size == 0:
                return

    async def take(self, stream):
        reader, writer = await asyncio.open_connection(self.host, self.port)
        body = json.dumps({
            "model": plans.MODEL, "prompt": stream.prompt, "stream": True, "seed": stream.seed,
            "max_tokens": stream.limit(), "return_token_ids": True,
            **({"emulated_output_tokens": stream.total} if stream.stops else {})}).encode()
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json"
                     b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise Failed(head.split(b"\r\n")[0].decode(), "")
            done = False
            async for event in self.events(reader):
                assert not done, "an event after [DONE]"
                if event == b"[DONE]":
                    done = True
                    continue
                chunk = json.loads(event)
                if "error" in chunk:
                    raise Failed(f"error {chunk['error']['code']}", chunk["error"]["message"])
                for choice in chunk["choices"]:
                    stream.got_tokens(stream.got, choice.get("token_ids") or [])
                    stream.finish = choice["finish_reason"] or stream.finish
            if not done:
                raise Failed("no [DONE]", "")
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            raise Failed("the connection ended", repr(error)) from None
        finally:
            writer.close()

    async def close(self):
        pass


class GrpcDoor:
    """medley.v1.Inference over a few channels."""
    REASONS = {api.FINISH_REASON_STOP: "stop", api.FINISH_REASON_LENGTH: "length"}

    def __init__(self, address):
        self.channels = [grpc.aio.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(CHANNELS)]
        self.calls = [c.unary_stream("/medley.v1.Inference/GenerateStream",
                                     api.GenerateRequest.SerializeToString,
                                     api.GenerateChunk.FromString) for c in self.channels]

    async def take(self, stream):
        request = api.GenerateRequest(
            tokens=api.TokenIds(ids=stream.prompt), max_tokens=stream.limit(),
            emulated_output_tokens=stream.total if stream.stops else 0)
        request.sampling.seed = stream.seed
        try:
            async for chunk in self.calls[stream.seed % CHANNELS](request):
                stream.got_tokens(chunk.position, chunk.tokens.ids)
                stream.finish = self.REASONS.get(chunk.finish_reason, stream.finish)
        except grpc.aio.AioRpcError as error:
            raise Failed(error.code().name, error.details()) from None

    async def close(self):
        for channel in self.channels:
            await channel.close()


class Fleet:
    """A router and its workers, in processes of their own."""

    def __init__(self, args, folder):
        self.args = args
        self.plan = plans.write(pathlib.Path(folder) / "plan.json", {TYPE: args.workers})
        self.options = ["--time-scale", args.time_scale, "--resume", args.resume,
                        "--queue-wait", "1h", "--control-socket", f"{folder}/control",
                        *args.router_option]
        self.router = self.start(*["127.0.0.1:0"] * 3)
        ready = self.router.wait_ready()
        self.grpc, self.http, self.link = ready["grpc"], ready["http"], ready["link"]
        self.workers = {}
        for i in range(args.workers):
            self.add(f"w{i}")

    def start(self, grpc_address, http_address, link_address, *more):
        return Process("medley-router", self.plan, "--grpc-listen", grpc_address, "--http-listen",
                       http_address, "--link-listen", link_address, *self.options, *more)

    def add(self, name):
        self.workers[name] = Process("medley-worker", "--profile",
                                     ROOT / "profiles" / "published" / f"{TYPE}.json",
                                     "--router", self.link, "--worker-id", name,
                                     "--time-scale", self.args.time_scale,
                                     "--drain-timeout", "1s")

    def state(self):
        status, text = harness.http_get(self.http, "/admin/state")
        assert status == 200, (status, text)
        return json.loads(text)

    def worker(self, name):
        """What the router says of a worker that is connected; None: it is not."""
        return next((w for w in self.state()["workers"] if w["worker"] == name), None)

    def departed(self, name):
        return next((w for w in self.state()["departed"] if w["worker"] == name), None)

    def stop(self):
        for worker in self.workers.values():
            worker.kill()
        self.router.stop()

    def kill(self):
        for worker in self.workers.values():
            worker.kill()
        self.router.kill()


async def until(condition, what, patience_s=120):
    """Polls without holding up the clients."""
    end = time.monotonic() + patience_s
    loop = asyncio.get_running_loop()
    while not (value := await loop.run_in_executor(None, condition)):
        assert time.monotonic() < end, f"waited {patience_s} s for {what}"
        await asyncio.sleep(0.05)
    return value


class Run:
    def __init__(self, fleet, args):
        self.fleet, self.args = fleet, args
        self.streams = [Stream(i, args.tokens) for i in range(args.streams)]
        self.report, self.began = {}, time.monotonic()

    async def all_speak(self):
        await until(lambda: all(s.got > 2 or s.code for s in self.streams), "every stream to speak")

    def on(self, name):
        worker = self.fleet.worker(name)
        return worker["in_flight"] if worker else 0

    def say(self, what):
        print(f"{time.monotonic() - self.began:7.2f} s: {what}", file=sys.stderr, flush=True)

    async def kill(self, name):
        self.report["killed_with"] = self.on(name)
        began = time.monotonic()
        self.fleet.workers[name].popen.kill()
        await until(lambda: self.fleet.departed(name), f"{name} to be gone")
        if self.args.resume == "off":
            await until(lambda: sum(1 for s in self.streams if s.code not in (None, "OK"))
                        >= self.report["killed_with"], "the streams of the killed worker to fail")
            failed = [s.ended_at - began for s in self.streams if s.code not in (None, "OK")]
            self.report["failed_within_s"] = round(max(failed), 3)

    async def terminate(self, name):
        self.report["terminated_with"] = self.on(name)
        process = self.fleet.workers[name]
        process.send_signal(signal.SIGTERM)
        await until(lambda: not process.is_running(), f"{name} to end")
        assert process.wait() == 0, process.output()
        await until(lambda: self.fleet.departed(name), f"{name} to have left")

    async def drain(self, name):
        self.report["drained_with"] = self.on(name)
        process = self.fleet.workers[name]
        ask = urllib.request.Request(
            f"http://{self.fleet.http}/admin/drain",
            data=json.dumps({"worker": name, "timeout_s": 1}).encode(),
            headers={"content-type": "application/json"})
        loop = asyncio.get_running_loop()
        with await loop.run_in_executor(None, urllib.request.urlopen, ask) as answer:
            assert answer.status == 200, answer.read()
        row = await until(lambda: self.fleet.departed(name), f"{name} to have left")
        assert row["drained"], row
        await until(lambda: not process.is_running(), f"{name} to end by itself")
        assert process.wait() == 0, process.output()

    async def hang(self, name):
        self.report["hung_with"] = self.on(name)
        process = self.fleet.workers[name]
        began = time.monotonic()
        process.popen.send_signal(signal.SIGSTOP)
        await until(lambda: self.fleet.worker(name)["state"] not in ("ready", "draining"),
                    f"{name} to leave rotation")
        self.report["hang_seen_after_s"] = round(time.monotonic() - began, 2)
        await until(lambda: self.on(name) == 0, "its streams to go on elsewhere")
        self.report["hang_left_after_s"] = round(time.monotonic() - began, 2)
        await asyncio.sleep(1)
        process.popen.send_signal(signal.SIGCONT)
        await until(lambda: self.fleet.worker(name)["state"] == "ready", f"{name} to come back")

    async def reload(self):
        """Another plan is put in force: one more type of worker, other counts."""
        plans.write(self.fleet.plan, {TYPE: self.args.workers - 2, OTHER_TYPE: 1})
        self.fleet.router.send_signal(signal.SIGHUP)
        await until(lambda: harness.metrics(self.fleet.http)[
            'medley_plan_reloads_total{result="done"}'] == 1, "the new plan")

    async def restart(self):
        """Another router process takes over; this one's streams end in it, and then it does."""
        self.report["restarted_with"] = self.fleet.state()["in_flight"]
        fleet, old = self.fleet, self.fleet.router
        fleet.router = fleet.start(fleet.grpc, fleet.http, fleet.link, "--take-over")
        await until(lambda: any("READY" in line for line in fleet.router.stderr), "the new router")
        self.report["alive_after_events"] = sum(1 for s in self.streams if s.code is None)
        await until(lambda: not old.is_running(), "the old router to end")
        assert old.wait() == 0, old.output()
        old.check_clean()
        await until(lambda: sum(w["state"] == "ready" for w in fleet.state()["workers"])
                    == self.args.workers, "the workers at the new router")

    async def events(self):
        self.say("waiting for all to speak")
        await self.all_speak()
        if self.args.take_over:
            self.say("another router takes over")
            await self.restart()
            return
        self.say("SIGKILL w0")
        await self.kill("w0")
        if self.args.resume == "off":
            return
        await asyncio.sleep(self.args.pause)
        self.say("SIGTERM w1")
        await self.terminate("w1")
        await asyncio.sleep(self.args.pause)
        self.say("an operator drains w2")
        await self.drain("w2")
        await asyncio.sleep(self.args.pause)
        self.say("SIGHUP: another plan")
        await self.reload()
        await asyncio.sleep(self.args.pause)
        self.say("SIGSTOP w3")
        await self.hang("w3")
        self.say("events are over")
        self.report["alive_after_events"] = sum(1 for s in self.streams if s.code is None)

    async def run(self):
        doors = {"grpc": [GrpcDoor(self.fleet.grpc)], "http": [HttpDoor(self.fleet.http)]}
        doors = doors.get(self.args.door) or doors["grpc"] + doors["http"]
        await until(lambda: sum(w["state"] == "ready" for w in self.fleet.state()["workers"])
                    == self.args.workers, "the workers")
        tasks = [asyncio.create_task(s.run(doors[i % len(doors)]))
                 for i, s in enumerate(self.streams)]
        try:
            await self.events()
            await asyncio.wait_for(asyncio.gather(*tasks), 600)
        finally:
            for task in tasks:
                task.cancel()
            for door in doors:
                await door.close()

    def check(self):
        """Fills the report; returns what did not hold."""
        samples = harness.metrics(self.fleet.http)
        if self.args.take_over:  # all were the old process's, whose counters went with it
            self.report["new_router_accepted"] = int(samples["medley_router_accepted_total"])
        whole = sum(s.is_whole() for s in self.streams)
        outcomes = {k.split('"')[1]: int(v) for k, v in samples.items()
                    if k.startswith("medley_router_requests_total{")}
        broken = [s for s in self.streams if not s.is_whole()]
        self.report.update(
            streams=len(self.streams), whole=whole,
            failed=sum(s.code != "OK" for s in self.streams),
            truncated=sum(s.code == "OK" and s.got < s.total for s in self.streams),
            wrong_tokens=sum(s.wrong for s in self.streams),
            tokens=sum(s.got for s in self.streams), outcomes=outcomes,
            resumes=int(sum(v for k, v in samples.items()
                            if k.startswith("medley_router_resumes_total"))),
            stale=int(samples["medley_router_stale_messages_total"]))
        wrong = []
        if samples["medley_router_accepted_total"] != sum(outcomes.values()):
            wrong.append("outcomes do not add up to what was accepted")
        if samples["medley_router_in_flight"] or samples["medley_router_queue_depth"]:
            wrong.append("requests are left in flight or queued")
        told = self.report["tokens"] if self.args.take_over else sum(v for k, v in samples.items()
                   if k.startswith("medley_router_output_tokens_total{"))
        if told != self.report["tokens"]:
            wrong.append(f"the router counted {told} tokens, clients got {self.report['tokens']}")
        if samples["medley_router_links_broken_total"]:
            wrong.append("a worker broke the protocol")
        if self.args.resume == "on":
            wrong += [f"stream {s.seed}: {s.code} {s.details}, {s.got} of {s.total}, "
                      f"{s.wrong} wrong" for s in broken[:5]]
            if self.report["resumes"] < self.report.get("killed_with", 0):
                wrong.append("fewer answers were resumed than the killed worker had")
            if self.report["alive_after_events"] == 0:
                wrong.append("the streams were too short to see all events")
        else:
            wrong += [f"stream {s.seed}: {s.code} {s.details}" for s in broken
                      if s.code not in ("UNAVAILABLE", "error worker_lost")][:5]
            if len(broken) != self.report["killed_with"]:
                wrong.append(f"{len(broken)} streams failed")
            if not self.args.quick and self.report["failed_within_s"] > 1:
                wrong.append("an error took longer than a second")
        return wrong


def options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=0, help="per stream; default by size")
    parser.add_argument("--time-scale", default=None)
    parser.add_argument("--resume", choices=("on", "off"), default="on")
    parser.add_argument("--pause", type=float, default=None, help="seconds between events")
    parser.add_argument("--take-over", action="store_true",
                        help="the event is that another router process takes over")
    parser.add_argument("--door", choices=("grpc", "http", "both"), default="both")
    parser.add_argument("--quick", action="store_true", help="sizes for ./check")
    parser.add_argument("--router-option", action="append", default=[],
                        help="one word more for the router's command line")
    args = parser.parse_args()
    args.workers = min(args.workers, 6) if args.quick else args.workers
    args.tokens = args.tokens or (140 if args.quick else 240)
    args.time_scale = args.time_scale or ("0.2" if args.quick else "0.5")
    if args.quick:
        # A busy machine may make any worker look silent: that costs an attempt, not a stream.
        args.router_option += ["--gone-after", "4s", "--attempts-max", "20"]
    if args.take_over:
        args.router_option += ["--grpc-age-max", "1s"]
    if args.pause is None:
        args.pause = 0.2 if args.quick else 2
    return args


def main():
    args = options()
    with tempfile.TemporaryDirectory(prefix="medley-streams-") as folder:
        fleet = Fleet(args, folder)
        run = Run(fleet, args)
        began = time.monotonic()
        try:
            asyncio.run(run.run())
            wrong = run.check()
            fleet.stop()
        finally:
            fleet.kill()
    run.report["seconds"] = round(time.monotonic() - began, 1)
    run.report["wrong"] = wrong
    print(json.dumps(run.report))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
