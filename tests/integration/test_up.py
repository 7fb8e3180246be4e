# SPDX-License-Identifier: Apache-2.0
"""medley up with real processes: it starts, serves, survives what dies, and leaves nothing behind."""
import json
import os
import pathlib
import re
import signal
import socket
import tempfile
import unittest
import unittest.mock

import harness
import plans
from harness import Process, metrics, run, wait_until

SCALE = 10


def is_alive(pid):
    """Runs still: neither gone nor a zombie that waits for its parent."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class Fleet:
    """A plan of Azure's conversation traffic at a few requests a second, run by medley up."""

    plan_text = None

    def __init__(self, *args, scale=SCALE):
        self.folder = tempfile.TemporaryDirectory(prefix="medley-up-")
        self.path = pathlib.Path(self.folder.name)
        self.plan = self.path / "plan.json"
        self.plan.write_text(self.make_plan())
        self.ready_file = self.path / "ready.json"
        self.scale = scale
        self.up = Process("medley-up", self.plan, "--time-scale", scale,
                          "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
                          "--link-listen", "127.0.0.1:0", "--ready-file", self.ready_file, *args)

    @classmethod
    def make_plan(cls):
        if cls.plan_text is None:
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder) / "plan.json"
                status, _, err = run(
                    "medley-plan", "azure-conversation", "--data-dir", harness.ROOT, "--rate", 3,
                    "--model", "llama-2-7b", "--catalogue", "melange-paper",
                    "--slo", "tpot.mean=120ms,ttft.mean=2s", "--output", path)
                assert status == 0, err
                cls.plan_text = path.read_text()
        return cls.plan_text

    def wait_ready(self):
        self.up.wait_line("^READY ")
        return self.state()

    def state(self):
        return json.loads(self.ready_file.read_text())

    def pids(self):
        state = self.state()
        return [state["router"]["pid"], *[w["pid"] for w in state["workers"]]]

    def bench(self, *args, wait=True):
        process = Process("medley-bench", "--plan", self.plan, "--target", self.state()["grpc"],
                          "--time-scale", self.scale, "--json", "--no-progress",
                          "--save", self.path / "requests.jsonl", *args)
        return self.report(process) if wait else process

    def report(self, bench, status=0):
        wait_until(lambda: not bench.is_running(), "bench to end", patience_s=600)
        got = bench.wait()
        assert got == status, (got, bench.output(), self.up.output())
        bench.check_clean()
        return json.loads("\n".join(bench.stdout))

    def outcomes(self):
        """{outcome: count} as the router counts its requests."""
        found = {}
        for name, value in metrics(self.state()["http"]).items():
            match = re.fullmatch(r'medley_router_requests_total\{.*outcome="(\w+)".*\}', name)
            if match:
                found[match[1]] = int(value)
        return found

    def __enter__(self):
        self.up.__enter__()
        return self

    def __exit__(self, *exception):
        self.up.__exit__(*exception)
        self.folder.cleanup()


class Life(unittest.TestCase):
    def test_serves_and_stops_in_order_with_nothing_left(self):
        with Fleet() as fleet:
            state = fleet.wait_ready()
            planned = json.loads(fleet.plan.read_text())["workers"]
            types = [w["worker_type"] for w in planned for _ in range(w["count"])]
            self.assertGreater(len(set(types)), 1)
            self.assertEqual(sorted(w["worker_type"] for w in state["workers"]), sorted(types))
            pids = fleet.pids()
            self.assertTrue(all(is_alive(pid) for pid in pids))
            report = fleet.bench("--requests", 150)
            self.assertEqual(report["sent"], 150)
            self.assertEqual(report["completed"], 150)
            self.assertEqual(report["other_length"], 0)
            self.assertEqual(sum(fleet.outcomes().values()), 150)
            self.assertEqual({t["worker_type"] for t in report["worker_types"]},
                             {w["worker_type"] for w in state["workers"]})
            self.assertGreater(report["cost"], 0)
            fleet.up.stop()
            self.assertFalse(any(is_alive(pid) for pid in pids))
            self.assertFalse(fleet.ready_file.exists())
            text = fleet.up.output()
            self.assertRegex(text, r"\[router\] .*READY")
            for worker in state["workers"]:
                self.assertRegex(text, rf"\[{worker['worker_id']}\] .*READY")

    def test_running_requests_finish_after_a_signal(self):
        with Fleet() as fleet:
            fleet.wait_ready()
            bench = fleet.bench("--requests", 8, "--arrival", "all-at-once", wait=False)
            http = fleet.state()["http"]
            wait_until(lambda: harness.metric(http, "medley_router_in_flight") >= 8,
                       "the requests to be with workers")
            fleet.up.stop()
            report = fleet.report(bench)
            self.assertEqual(report["completed"], 8)

    def test_second_signal_does_not_wait(self):
        # At this scale the requests would take hours.
        with Fleet(scale=0.001) as fleet:
            fleet.wait_ready()
            pids = fleet.pids()
            bench = fleet.bench("--requests", 4, "--arrival", "all-at-once", wait=False)
            http = fleet.state()["http"]
            wait_until(lambda: harness.metric(http, "medley_router_in_flight") >= 4,
                       "the requests to be with workers")
            fleet.up.send_signal(signal.SIGTERM)
            fleet.up.wait_line("signal 15: stopping")
            fleet.up.stop()
            self.assertFalse(any(is_alive(pid) for pid in pids))
            report = fleet.report(bench, status=1)
            self.assertEqual(report["failed"], 4)

    def test_killed_supervisor_leaves_nothing_running(self):
        with Fleet() as fleet:
            fleet.wait_ready()
            pids = fleet.pids()
            os.kill(fleet.up.pid, signal.SIGKILL)
            fleet.up.wait()
            wait_until(lambda: not any(is_alive(pid) for pid in pids), "the children to go")


class Faults(unittest.TestCase):
    @unittest.mock.patch.dict(os.environ, {"MEDLEY_ADMISSION": "queue"})  # what is left may be slow
    def test_killed_worker_costs_no_request(self):
        with Fleet() as fleet:
            fleet.wait_ready()
            bench = fleet.bench("--requests", 250, wait=False)
            wait_until(lambda: sum(fleet.outcomes().values()) > 60, "sixty requests")
            victim = fleet.state()["workers"][0]
            os.kill(victim["pid"], signal.SIGKILL)
            report = fleet.report(bench)
            self.assertEqual(report["sent"], 250)
            self.assertEqual(report["completed"], 250, report["errors"])
            self.assertEqual((report["tokens_lost"], report["tokens_duplicated"]), (0, 0))
            self.assertEqual(report["not_ended"], 0)
            outcomes = fleet.outcomes()
            self.assertEqual(sum(outcomes.values()), 250)
            self.assertEqual(outcomes["stop"] + outcomes["length"], report["completed"])
            # It comes back under its name, and serves.
            fleet.up.wait_line(rf"{victim['worker_id']} ended: signal 9 .*starting it again")
            fleet.up.wait_line(rf"{victim['worker_id']} is ready again")
            back = wait_until(lambda: next(w for w in fleet.state()["workers"]
                                           if w["worker_id"] == victim["worker_id"]
                                           and w["starts"] == 2 and w["ready"]), "the new process")
            self.assertNotEqual(back["pid"], victim["pid"])
            self.assertEqual(fleet.bench("--requests", 50)["completed"], 50)
            fleet.up.stop()

    def test_worker_whose_device_failed_comes_back(self):
        with Fleet("--worker-argument=--emulated-fail-after=200") as fleet:
            fleet.wait_ready()
            bench = fleet.bench("--requests", 100, wait=False)
            fleet.up.wait_line(r"ended: exit status 4; starting it again")
            fleet.up.wait_line(r" is ready again")
            report = fleet.report(bench)
            self.assertEqual(report["completed"] + report["failed"], 100)
            self.assertEqual(report["not_ended"], 0)
            fleet.up.stop()

    def test_killed_router_comes_back_at_its_addresses(self):
        with Fleet() as fleet:
            before = fleet.wait_ready()
            os.kill(before["router"]["pid"], signal.SIGKILL)
            fleet.up.wait_line(r"router ended: signal 9 .*starting it again")
            wait_until(lambda: fleet.state()["router"]["starts"] == 2
                       and fleet.state()["router"]["ready"], "the router")
            after = fleet.state()
            for key in ("grpc", "http", "link"):
                self.assertEqual(after[key], before[key])

            def joined():
                health = json.loads(harness.http_get(after["http"], "/health")[1])
                return all(t["ready"] == t["planned"] for t in health["worker_types"])
            wait_until(joined, "the workers to dial again")
            self.assertEqual(fleet.bench("--requests", 50)["completed"], 50)
            # The workers are the same processes.
            self.assertEqual([w["pid"] for w in fleet.state()["workers"]],
                             [w["pid"] for w in before["workers"]])
            fleet.up.stop()

    def test_worker_that_cannot_start_is_tried_again_and_named(self):
        with Fleet("--worker-program", "/bin/false", "--start-timeout", "12s") as fleet:
            self.assertEqual(fleet.up.wait(), 1)
            text = fleet.up.output()
            self.assertRegex(text, r"a10g-llama-2-7b-fp16-000 ended: exit status 1; "
                                   r"starting it again in 0\.25 s")
            self.assertRegex(text, r"starting it again in 0\.50 s")
            self.assertRegex(text, r"medley up: \d+ of \d+ processes are not ready after 12\.0 s: "
                                   r".*a10g-llama-2-7b-fp16-000 \(exit status 1, started \d+ times\)")
            self.assertNotRegex(text, "(?m)^READY ")

    def test_address_in_use_ends_the_start_at_once(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = "127.0.0.1:%d" % taken.getsockname()[1]
            for option in ("--grpc-listen", "--http-listen", "--link-listen"):
                with self.subTest(option), Fleet(option, address, "--start-timeout", "1h") as fleet:
                    self.assertEqual(fleet.up.wait(), 1)
                    text = fleet.up.output()
                    self.assertRegex(text, rf"\[router\] medley router: {option}.* cannot listen")
                    self.assertIn(address, text)
                    self.assertIn("medley up: the router ended before it was ready "
                                  "(exit status 1); its last line above says why", text)
                    self.assertNotIn("starting it again", text)
                    self.assertFalse(fleet.ready_file.exists())

    def test_router_that_is_killed_before_it_is_ready_is_tried_again(self):
        with tempfile.TemporaryDirectory() as folder:
            program = pathlib.Path(folder) / "router"
            program.write_text("#!/bin/sh\nkill -9 $$\n")
            program.chmod(0o755)
            with Fleet("--router-program", program, "--start-timeout", "3s") as fleet:
                self.assertEqual(fleet.up.wait(), 1)
                self.assertRegex(fleet.up.output(),
                                 r"router ended: signal 9 .*starting it again in 0\.50 s")

    def test_router_that_refuses_its_input_ends_the_start_at_once(self):
        with Fleet("--router-argument=--no-such-option") as fleet:
            self.assertEqual(fleet.up.wait(), 2)
            self.assertIn("router refuses its input (exit status 2)", fleet.up.output())

    def test_worker_that_refuses_its_input_ends_the_start_at_once(self):
        with Fleet("--worker-argument=--no-such-option") as fleet:
            self.assertEqual(fleet.up.wait(), 2)
            self.assertRegex(fleet.up.output(),
                             r"medley up: \S+-000 refuses its input \(exit status 2\)")


class Refused(unittest.TestCase):
    def refused(self, text, status, sentence):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "plan.json"
            path.write_text(text)
            got, out, err = run("medley-up", path)
        self.assertEqual((got, out), (status, ""), err)
        self.assertEqual(len(err.strip().splitlines()), 1, err)
        self.assertIn(sentence, err)

    def test_broken_plan_is_one_sentence(self):
        good = Fleet.make_plan()
        self.refused(good[:1000], 2, "plan.json")
        self.refused("{}", 2, "medley-plan/1")
        self.refused(good.replace('"status": "optimal"', '"status": "perfect"'), 2, "perfect")

    def test_infeasible_plan_is_status_3(self):
        status, plan, _ = run("medley-plan", "azure-conversation", "--data-dir", harness.ROOT,
                              "--model", "llama-2-7b", "--slo", "tpot.mean=1ms", "--json")
        self.assertEqual(status, 3)
        self.refused(plan, 3, "an infeasible plan has no fleet to run")

    def test_plan_without_workers_or_step_model_is_one_sentence(self):
        plan = json.loads(Fleet.make_plan())
        for profile in plan["profiles"]:
            profile.pop("step_model", None)
            profile.pop("steps", None)
        self.refused(json.dumps(plan), 2, "")

    def test_missing_program_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "plan.json"
            path.write_text(Fleet.make_plan())
            status, _, err = run("medley-up", path, "--worker-program", "/nonexistent/worker")
        self.assertEqual(status, 2)
        self.assertIn("/nonexistent/worker cannot be run: No such file or directory", err)


class Computing(unittest.TestCase):
    """Workers that compute the model that ships, on this machine's CPU."""
    MODEL = harness.ROOT / "models/medley-austen"

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="medley-up-")
        self.addCleanup(self.folder.cleanup)
        plan = plans.plan({"a10g-llama-2-7b-fp16": 1})
        plan["model"]["name"] = "medley-austen"
        for profile in plan["profiles"]:
            profile["model"].update(name="medley-austen", vocab=3072)
        self.plan = pathlib.Path(self.folder.name) / "plan.json"
        self.plan.write_text(json.dumps(plan))
        self.listen = ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
                       "--link-listen", "127.0.0.1:0"]

    def test_it_is_asked_something(self):
        with Process("medley-up", self.plan, "--backend", "cpu", "--model", self.MODEL,
                     *self.listen) as up:
            grpc = up.wait_ready()["grpc"]
            up.wait_line("Ask it: .*medley ask --target")
            for args in (["Who are you?"], ["--raw", "She was not a woman of many words; for"]):
                answers = [run("medley-ask", "--target", grpc, "--temperature", "0", "--max-tokens",
                               "12", "--json", *args) for _ in range(2)]
                texts = [json.loads(out)["text"] for _, out, _ in answers]
                self.assertEqual([status for status, _, _ in answers], [0, 0], answers)
                self.assertEqual(texts[0], texts[1])
                self.assertTrue(texts[0].strip())
            status, out, err = run("medley-ask", "--target", grpc, "--raw", "--max-tokens", "5000", "x")
            self.assertEqual((status, out), (2, ""))
            self.assertIn("expected at most 1024 together", err)
            up.stop()

    def test_what_does_not_go_together_is_refused(self):
        for words, args in (("expected --model DIR", ["--backend", "cpu"]),
                            ("expected 1 with --backend cpu",
                             ["--backend", "cpu", "--model", self.MODEL, "--time-scale", "2"]),
                            ("expected --model DIR", ["--backend", "cuda"]),
                            ("--backend", ["--backend", "tpu"]),
                            ("refuses its input",
                             ["--backend", "cuda", "--model", self.MODEL,
                              "--worker-argument=--gpu-memory-utilization=2"])):
            status, out, err = run("medley-up", self.plan, *args, *self.listen)
            self.assertEqual((status, out), (2, ""), err)
            self.assertIn(words, err)

    def test_a_worker_of_several_gpus_is_refused(self):
        plan = json.loads(self.plan.read_text())
        plan["profiles"][0]["gpus_per_worker"] = 2
        self.plan.write_text(json.dumps(plan))
        status, out, err = run("medley-up", self.plan, "--backend", "cuda", "--model", self.MODEL,
                               *self.listen)
        self.assertEqual((status, out), (2, ""), err)
        self.assertIn("has 2 GPUs, expected 1", err)


if __name__ == "__main__":
    unittest.main()
