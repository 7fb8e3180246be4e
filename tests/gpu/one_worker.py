# SPDX-License-Identifier: Apache-2.0
"""A router and one worker on this machine, for what is measured through them."""
import contextlib
import json
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))
import harness  # noqa: E402

PATIENCE_S = 300
# Whoever measures a worker's limits wants none of the router's.
UNLIMITED = ("--queue-max", 16384, "--queue-wait", "24h", "--admission", "queue")


def use(bin_folder):
    harness.BIN = bin_folder.resolve()
    harness.PATIENCE_S = PATIENCE_S


def run(*arguments):
    """A program's output; what it says if it fails ends this one."""
    status, out, err = harness.run(*arguments)
    if status != 0:
        sys.exit(f"{arguments[0]} ended with {status}: {err}")
    return out


def write_log(path, rows):
    """rows: (arrival in s, input tokens, output tokens)."""
    path.write_text("arrival_s,input_tokens,output_tokens\n"
                    + "".join(f"{t:.6f},{i},{o}\n" for t, i, o in rows))


def make_plan(folder, log, profile, catalogue="cloud-2026"):
    """A plan of one worker of the profile's type for the sizes of the log; objectives that never bind."""
    plan = folder / f"{log.stem}-plan.json"
    run("medley-workload", log, "--output", folder / f"{log.stem}.json")
    run("medley-plan", folder / f"{log.stem}.json", "--data-dir", ROOT, "--profiles", profile, "--slo",
        "tpot.mean=10s,ttft.mean=100s", "--catalogue", catalogue, "--rate", 0.01, "--output", plan)
    return plan


def bench(out, *arguments):
    """What `medley bench` reports of a load; its report stays in the file."""
    with harness.Process("medley-bench", *arguments, "--no-predict", "--no-progress", "--json", "--output", out) as it:
        it.popen.wait(harness.PATIENCE_S)
        if it.wait() != 0:
            sys.exit(it.output())
    return json.loads(out.read_text())


@contextlib.contextmanager
def serving(plan, backend, worker_arguments=(), router_arguments=()):
    """Yields (address of the gRPC door, what the worker said when it was ready, seconds until then)."""
    begin = time.monotonic()
    with harness.Process("medley-router", plan, "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
                         "--link-listen", "127.0.0.1:0", *router_arguments) as router:
        doors = router.wait_ready()
        with harness.Process("medley-worker", "--backend", backend, "--plan", plan, "--router", doors["link"],
                             "--metrics-listen", "127.0.0.1:0", *worker_arguments) as worker:
            ready = worker.wait_ready()
            yield doors["grpc"], ready, time.monotonic() - begin
            worker.stop()
        router.stop()
