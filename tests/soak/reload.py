#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Live streams while the plan is reloaded and the router is replaced, twice each: nobody may notice.

    tests/soak/reload.py                        1,000 streams over gRPC and HTTP, build/release
    tests/soak/reload.py --streams 40 --tokens 80    a small one

A part of the streams begins before each event and lives through it.  Emulated workers say tokens that are
a function of (seed, place), so every token is compared.  At the end each stream must have all its tokens, every
process that was replaced must have ended by itself, and no answer may have needed another worker.

What comes out is one line of JSON; the exit status is 0 if all of it held.
"""
import argparse
import asyncio
import json
import pathlib
import signal
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from streams import (OTHER_TYPE, ROOT, TYPE, GrpcDoor, HttpDoor, Stream, harness, plans,  # noqa: E402
                     until)
from harness import Process  # noqa: E402


class Fleet:
    def __init__(self, args, folder):
        self.args, self.control = args, pathlib.Path(folder) / "control"
        self.plan = plans.write(pathlib.Path(folder) / "plan.json", {TYPE: args.workers})
        self.addresses = {door: "127.0.0.1:0" for door in ("grpc", "http", "link")}
        self.routers = [self.start_router()]
        ready = self.routers[0].wait_ready()
        self.addresses = {door: ready[door] for door in self.addresses}
        self.workers = [self.start_worker(f"w{i}", TYPE) for i in range(args.workers)]

    def start_router(self, *options):
        return Process("medley-router", self.plan, "--control-socket", self.control, *options,
                       "--time-scale", self.args.time_scale, "--queue-wait", "1h", "--grpc-age-max", "5s",
                       *(x for door, a in self.addresses.items() for x in (f"--{door}-listen", a)))

    def start_worker(self, name, worker_type):
        return Process("medley-worker", "--profile",
                       ROOT / "profiles" / "published" / f"{worker_type}.json", "--router",
                       self.addresses["link"], "--worker-id", name, "--time-scale", self.args.time_scale)

    def metrics(self):
        return harness.metrics(self.addresses["http"])

    def ready(self):
        status, text = harness.http_get(self.addresses["http"], "/health")
        return sum(t["ready"] for t in json.loads(text)["worker_types"]) if status == 200 else 0

    def reload(self, workers):
        plans.write(self.plan, workers)
        done = 'medley_plan_reloads_total{result="done"}'
        before = self.metrics()[done]
        self.routers[-1].send_signal(signal.SIGHUP)
        harness.wait_until(lambda: self.metrics()[done] == before + 1, "the reload")

    def take_over(self):
        began = time.monotonic()
        self.routers.append(self.start_router("--take-over"))
        self.routers[-1].wait_ready()
        return round(time.monotonic() - began, 2)

    def kill(self):
        for process in [*self.routers, *self.workers]:
            process.kill()


class Run:
    def __init__(self, fleet, args):
        self.fleet, self.args = fleet, args
        self.streams = [Stream(i, args.tokens) for i in range(args.streams)]
        self.tasks, self.doors, self.report = [], [], {"take_over_s": []}
        self.began = time.monotonic()

    async def begin(self, part, parts):
        """Some more streams, on connections of their own; returns when all have begun to speak."""
        mine = self.streams[len(self.streams) * part // parts:len(self.streams) * (part + 1) // parts]
        doors = [GrpcDoor(self.fleet.addresses["grpc"]), HttpDoor(self.fleet.addresses["http"])]
        self.doors += doors
        self.tasks += [asyncio.create_task(s.run(doors[i % 2])) for i, s in enumerate(mine)]
        await until(lambda: all(s.got > 2 or s.code for s in mine), "the streams to speak")

    async def away(self, what, call, *args):
        print(f"{time.monotonic() - self.began:7.2f} s: {what}", file=sys.stderr, flush=True)
        return await asyncio.get_running_loop().run_in_executor(None, call, *args)

    async def run(self):
        fleet, n = self.fleet, self.args.workers
        await until(lambda: fleet.ready() == n, "the workers")
        await self.begin(0, 5)
        await self.away("another plan", fleet.reload, {TYPE: n - 1, OTHER_TYPE: 1})
        await self.begin(1, 5)
        self.report["take_over_s"].append(await self.away("another router", fleet.take_over))
        await self.begin(2, 5)
        fleet.workers.append(fleet.start_worker("other", OTHER_TYPE))
        await until(lambda: fleet.ready() == n + 1, "a worker of the new type")
        self.report["take_over_s"].append(await self.away("another router", fleet.take_over))
        await self.begin(3, 5)
        await self.away("another plan", fleet.reload, {OTHER_TYPE: 1, TYPE: n})
        await self.begin(4, 5)
        self.report["alive_after_events"] = sum(s.code is None for s in self.streams)
        await asyncio.wait_for(asyncio.gather(*self.tasks), 600)
        for door in self.doors:
            await door.close()

    def check(self):
        broken = [s for s in self.streams if not s.is_whole()]
        wrong = [f"stream {s.seed}: {s.code} {s.details}, {s.got} of {s.total}, {s.wrong} wrong"
                 for s in broken[:5]]
        self.report.update(streams=len(self.streams), whole=len(self.streams) - len(broken),
                           failed=sum(s.code != "OK" for s in self.streams),
                           truncated=sum(s.code == "OK" and s.got < s.total for s in self.streams),
                           wrong_tokens=sum(s.wrong for s in self.streams))
        for old in self.fleet.routers[:-1]:
            if old.wait() != 0 or "retired: the last request has ended" not in old.output():
                wrong.append(f"a router that was replaced: {old.output()[-300:]}")
        samples = self.fleet.metrics()
        if samples["medley_router_in_flight"] or samples["medley_router_links_broken_total"]:
            wrong.append("requests are left, or a link was broken")
        if self.report["alive_after_events"] < len(self.streams) / 2:
            wrong.append("the streams were too short to see all events")
        return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--time-scale", default="0.3")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medley-reload-") as folder:
        fleet = Fleet(args, folder)
        run = Run(fleet, args)
        try:
            asyncio.run(run.run())
            wrong = run.check()
            for worker in fleet.workers:
                worker.stop()
            fleet.routers[-1].stop()
        finally:
            fleet.kill()
    run.report["seconds"] = round(time.monotonic() - run.began, 1)
    run.report["wrong"] = wrong
    print(json.dumps(run.report))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
