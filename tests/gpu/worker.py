#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The worker on a GPU, through medley up and ask: memory plan, refusals, dtypes, metrics, failures.

    worker.py BIN [MODEL [CASE ...]]

BIN: the folder of the programs.  MODEL: a directory, the model that ships by default.  Prints one line
per case, of all or of those named.  Needs nothing but Python and the programs, which are the clients too.
"""
import json
import pathlib
import re
import signal
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))
import harness  # noqa: E402
import plans  # noqa: E402

PROMPT = "She was not a woman of many words; for"
LOOPBACK = ("--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--link-listen", "127.0.0.1:0")
failed = 0


def report(name, ok, detail=""):
    global failed
    failed += not ok
    detail = " ".join(str(detail).split())[:300]
    print(f"{'pass' if ok else 'FAIL'} {name} {detail}", flush=True)


def case(function):
    """An exception is a failure of that case alone."""
    name = function.__name__.removeprefix("case_")
    try:
        report(name, True, function() or "")
    except Exception as error:  # noqa: BLE001
        report(name, False, f"{type(error).__name__}: {error}")


def expect(condition, *what):
    if not condition:
        raise AssertionError(" ".join(map(str, what)))


def dry(*args):
    status, out, err = harness.run("medley-worker", "--backend", "cuda", "--model", MODEL, "--dry-run",
                                   "--json", *args)
    expect(status == 0 and err == "", status, err)
    return json.loads(out)


def refused(words, *args, status=2):
    got, out, err = harness.run("medley-worker", "--backend", "cuda", "--model", MODEL, "--dry-run", *args)
    expect(got == status and out == "" and words in err, f"status {got}:", err)
    return err.strip().splitlines()[-1]


class Served:
    """medley up with one worker that computes."""

    def __init__(self, *worker, backend="cuda"):
        self.folder = tempfile.TemporaryDirectory()
        plan = plans.plan({"a10g-llama-2-7b-fp16": 1})
        plan["model"]["name"] = "medley-austen"
        for profile in plan["profiles"]:
            profile["model"].update(name="medley-austen", vocab=3072)
        path = pathlib.Path(self.folder.name) / "plan.json"
        path.write_text(json.dumps(plan))
        self.ready_file = pathlib.Path(self.folder.name) / "ready.json"
        self.port = harness.free_port()
        arguments = [f"--worker-argument={a}" for a in
                     (*worker, f"--metrics-listen=127.0.0.1:{self.port}")]
        self.up = harness.Process("medley-up", path, "--backend", backend, "--model", MODEL, "--ready-file",
                                  self.ready_file, *LOOPBACK, *arguments)

    def __enter__(self):
        self.up.__enter__()
        line = self.up.wait_line("^READY ")
        self.grpc = re.search(r"grpc=(\S+)", line)[1]
        return self

    def __exit__(self, *error):
        self.up.__exit__(*error)
        self.folder.cleanup()

    def ask(self, prompt=PROMPT, tokens=24, *args):
        status, out, err = harness.run("medley-ask", "--target", self.grpc, "--temperature", "0", "--raw",
                                       "--max-tokens", tokens, "--json", *args, prompt)
        expect(status == 0, err)
        return json.loads(out)["text"]

    def words(self):
        """Of the worker's READY line, which up passes on."""
        return dict(re.findall(r"(\w+)=(\S+)", self.up.wait_line(r"READY worker_id=")))

    def resident_gb(self):
        """Of the worker's memory, what is not a file's."""
        pid = json.loads(self.ready_file.read_text())["workers"][0]["pid"]
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024 / 1e9

    def metrics(self):
        return harness.metrics(f"127.0.0.1:{self.port}")


def value(metrics, name):
    return metrics[f'medley_worker_{name}{{model_name="medley-austen"}}']


def case_plan_adds_up():
    plan = dry()
    gpu, machine = plan["gpu"]["bytes"], plan["bytes"]
    expect(gpu["total"] == sum(gpu[k] for k in ("weights", "workspace", "reserve", "kv_cache")), gpu)
    expect(gpu["total"] <= gpu["budget"] <= min(gpu["free"], 0.9 * gpu["memory"]), gpu)
    expect(gpu["weights"] >= plan["parameters"] * 2, gpu)
    expect(gpu["kv_cache"] == plan["kv_tokens"] * machine["kv_per_token"], plan)
    parts = ("weights", "workspace", "kv_cache", "scheduler", "requests", "process", "staging")
    expect(machine["total"] == sum(machine[k] for k in parts), machine)
    expect(machine["weights"] == machine["workspace"] == machine["kv_cache"] == 0, machine)
    expect((plan["max_num_seqs"], plan["max_num_batched_tokens"]) == (256, 2048), plan)
    return f"{plan['device']}: {gpu['total'] / 1e9:.2f} of {gpu['budget'] / 1e9:.2f} GB"


def case_plan_follows_the_share():
    small, large = dry("--gpu-memory-utilization", 0.2), dry("--gpu-memory-utilization", 0.8)
    expect(small["gpu"]["bytes"]["budget"] <= 0.2 * small["gpu"]["bytes"]["memory"])
    expect(large["gpu"]["bytes"]["budget"] <= 0.8 * large["gpu"]["bytes"]["memory"])
    expect(small["gpu"]["bytes"]["budget"] < large["gpu"]["bytes"]["budget"])


def case_refuses_a_gpu_that_is_not_there():
    return refused("999", "--gpu", 999)


def case_refuses_a_cache_that_does_not_fit_and_names_one_that_does():
    err = refused("would fit", "--kv-tokens", "900M")
    fits = int(re.findall(r"--kv-tokens (\d+) would fit", err)[0])
    expect(dry("--kv-tokens", fits)["kv_tokens"] > 0.99 * (fits - 16), err)
    return err


def case_refuses_a_share_that_is_too_small():
    return refused("--gpu-memory-utilization", "--gpu-memory-utilization", 0.002)


def case_refuses_options_of_the_cpu():
    return refused("--threads goes with --backend cpu", "--threads", 2)


def case_serves_the_model_that_ships():
    with tempfile.TemporaryDirectory() as cache, Served(f"--cache-dir={cache}") as served:
        first, again = served.ask(), served.ask()
        expect(first == again and first.strip(), first, again)
        words = served.words()
        metrics, resident = served.metrics(), served.resident_gb()
        expect(resident <= float(words["memory_gb"]), f"{resident} GB are resident:", words)
        expect(words["dtype"] == "bfloat16" and words["backend"] == "cuda", words)
        expect(int(words["graph_capture"]) > 0, words)
        expect(float(words["gpu_taken_gb"]) <= float(words["gpu_memory_gb"]), words)
        expect(value(metrics, "steps_replayed_total") > 20, "no replays")
        expect(0 < value(metrics, "memory_bandwidth_utilization") <= 1.2)
        expect(value(metrics, "step_time_seconds_count") >= 24)
        expect(value(metrics, "device_busy_seconds_total") > 0)
        planned = sum(v for k, v in metrics.items() if "memory_plan_bytes" in k and 'memory="gpu"' in k
                      and 'part="budget"' not in k)
        expect(abs(planned / 1e9 - float(words["gpu_memory_gb"])) < 0.01, planned, words)
        _, text = harness.http_get(f"127.0.0.1:{served.port}", "/metrics")
        documented = [row for row in sum(harness.documented_metrics(), []) if "_emulation_" not in row[0]]
        expect(harness.announced_metrics(text) == documented, "metrics are not as documented")
        served.up.stop()
    return (f"READY in {words['seconds']} s, {words['graph_capture']} graphs, planned "
            f"{words['gpu_memory_gb']} GB, took {words['gpu_taken_gb']} GB; of the machine's {words['memory_gb']} "
            f"GB, took {resident:.3f} GB, pinned {words['pinned_gb']} GB")


def case_second_start_finds_what_was_timed():
    with tempfile.TemporaryDirectory() as cache:
        seen = []
        for _ in range(2):
            with Served(f"--cache-dir={cache}") as served:
                seen.append(served.words())
                served.up.stop()
    first, second = seen
    expect(int(second["tuned"]) == 0, second)
    expect(int(second["tuned_before"]) == int(first["tuned"]) + int(first["tuned_before"]), seen)
    return f"{first['tuned']} timed in {first['tune_seconds']} s; then {second['tune_seconds']} s"


def case_dtypes_say_what_the_cpu_says():
    texts = {}
    with Served("--dtype=float32", backend="cpu") as served:
        texts["cpu float32"] = served.ask()
        served.up.stop()
    for dtype in ("float32", "float16", "bfloat16"):
        with Served(f"--dtype={dtype}", "--cache-dir=none") as served:
            texts[dtype] = served.ask()
            expect(served.words()["dtype"] == dtype)
            served.up.stop()
    expect(texts["float32"] == texts["cpu float32"], texts)
    # Sixteen bits may part at a near-tie, after which everything differs.
    same = {d: common(texts[d], texts["float32"]) for d in ("float16", "bfloat16")}
    expect(all(n >= 5 for n in same.values()), texts)
    return f"characters in common with float32: {same}"


def common(a, b):
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return count


def case_deterministic_answers_alone_and_in_company():
    with Served("--deterministic", "--cache-dir=none") as served:
        alone = served.ask(tokens=64)
        asks = [harness.Process("medley-ask", "--target", served.grpc, "--temperature", "0", "--raw",
                                "--max-tokens", 64 + i, "--json", PROMPT if i % 2 else f"{i} {PROMPT}")
                for i in range(12)]
        for process in asks:
            expect(process.wait() == 0, process.output())
        for i in range(1, 12, 2):
            text = json.loads("\n".join(asks[i].stdout))["text"]
            expect(text.startswith(alone), f"{i}:", text, "|", alone)
        served.up.stop()


def case_a_step_that_takes_too_long_is_a_failure_with_status_4():
    status, _, err = harness.run("medley-worker", "--backend", "cuda", "--model", MODEL, "--router",
                                 f"127.0.0.1:{harness.free_port()}", "--step-timeout", "1us",
                                 "--cache-dir", "none")
    expect(status == 4, f"status {status}:", err)
    return err.strip().splitlines()[-1]


def case_up_starts_a_failed_worker_again():
    served = Served("--step-timeout=1us", "--cache-dir=none")
    with served.folder, served.up as up:
        up.wait_line(r"ended: exit status 4; starting it again")
        up.send_signal(signal.SIGTERM)
        up.wait()


def case_bench_measures_floors_and_limits():
    status, out, err = harness.run("medley-engine-bench", "--backend", "cuda", "--shape", "tiny", "--batches",
                                   "1,8", "--contexts", "64", "--prefills", "64", "--mixed", "4+32",
                                   "--repeats", "2", "--steps", "8", "--json")
    expect(status == 0, err)
    result = json.loads(out)
    limits = result["limits"]
    expect(limits["read_bytes_per_s"] > 1e11 and limits["flops_per_s"] > 1e13, limits)
    expect([(i["decode_sequences"], i["prefill_tokens"]) for i in result["iterations"]]
           == [(1, 0), (8, 0), (0, 64), (4, 32)])
    for i in result["iterations"]:
        expect(i["ms"]["median"] > 0 and 0 < i["floor_ms"] and 0 < i["of_read"] < 1.5, i)
    expect(result["runs_replayed"] > 0, result["runs_replayed"])
    return (f"read {limits['read_bytes_per_s'] / 1e9:.0f} GB/s, products "
            f"{limits['flops_per_s'] / 1e12:.0f} TFLOP/s, tiny at batch 1 "
            f"{result['iterations'][0]['ms']['median']:.3f} ms")


def main():
    global MODEL
    harness.BIN = pathlib.Path(sys.argv[1]).resolve()
    MODEL = pathlib.Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else ROOT / "models/medley-austen"
    for name, function in list(globals().items()):
        if name.startswith("case_") and (not sys.argv[3:] or name.removeprefix("case_") in sys.argv[3:]):
            case(function)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
