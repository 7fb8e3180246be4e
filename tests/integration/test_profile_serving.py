# SPDX-License-Identifier: Apache-2.0
"""medley profile over serving points: our own router with an emulated worker, whose truth is known, and
servers that this test plays, which refuse, fail, hang, close and lie."""
import json
import pathlib
import signal
import tempfile
import threading
import time
import unittest

import harness
import plans
from harness import Process, run
from test_bench_http import DONE, Server, event, stream, usage, whole

LIKE = harness.ROOT / "profiles/published/a10g-llama-2-7b-fp16.json"
ALONE_MS = 16   # an iteration, without its sequences
EACH_MS = 2.5   # each of them


def slow_profile():
    """An iteration takes 16 ms and 2.5 ms for each sequence: ten times what this machine adds."""
    profile = json.loads(LIKE.read_text())
    model = profile["model"]
    profile["worker_type"] = "slow"
    profile["step_model"].update(
        form="roofline/1", fixed_ms=4, sequence_us=1000 * EACH_MS,
        bandwidth_bytes_per_s=model["weight_bytes"] / 0.012,
        matrix_flops_per_s=2 * model["parameters"] / 1e-5,
        kv_bandwidth_bytes_per_s=model["kv_bytes_per_token"] / 1e-7,
        attention_flops_per_s=1e15)
    profile["step_model"].pop("corner", None)
    profile["limits"].update(max_model_len=2048, max_num_seqs=32, max_num_batched_tokens=512,
                             block_tokens=16, kv_tokens=16384)
    profile["steps"], profile["validations"] = [], []
    profile.pop("step_errors", None)
    return profile


class Fleet:
    """A router and one emulated worker."""

    def __init__(self, folder):
        profile = slow_profile()
        (folder / "slow.json").write_text(json.dumps(profile))
        plan = plans.plan({"a10g-llama-2-7b-fp16": 1}, objectives=("tpot.mean=10s", "ttft.mean=100s"))
        text = json.dumps(plan).replace("a10g-llama-2-7b-fp16", "slow")
        plan = json.loads(text)
        plan["profiles"] = [profile]
        (folder / "plan.json").write_text(json.dumps(plan))
        self.router = Process("medley-router", folder / "plan.json", "--grpc-listen", "127.0.0.1:0",
                              "--http-listen", "127.0.0.1:0", "--link-listen", "127.0.0.1:0")
        line = self.router.wait_ready()
        self.grpc, self.http, link = (line[k] for k in ("grpc", "http", "link"))
        self.worker = Process("medley-worker", "--router", link, "--profile", folder / "slow.json")
        self.worker.wait_ready()
        self.router.wait_line("joined")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.worker.stop()
        self.router.stop()


class Case(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.folder = pathlib.Path(self.temporary.name)
        self.out = self.folder / "out.json"

    def profile(self, *args, status=0, sizes="8x3"):
        got, out, err = run("medley-profile", "--like", LIKE, "--name", "measured", "--sizes", sizes,
                            "-o", self.out, "--json", *args)
        self.assertEqual(got, status, (out, err))
        return (json.loads(out) if out else None), err

    def rows(self):
        return json.loads(self.out.read_text())["serving"]


class Truth(Case):
    def test_capacity_is_the_schedulers(self):
        """TPOT at k sequences is 16 + 2.5 k ms: an objective of 31 ms is kept by 6 sequences in the mean."""
        with Fleet(self.folder) as fleet:
            report, err = self.profile(
                "--api", "openai", "--url", f"http://{fleet.http}", "--slo", "tpot.mean=31ms",
                "--requests", 50, "--precision", 0.3, sizes="20x6")
            again, _ = self.profile(
                "--api", "openai", "--url", f"http://{fleet.http}", "--slo", "tpot.mean=31ms",
                "--requests", 50, "--precision", 0.3, sizes="20x6")
            other, _ = self.profile(
                "--api", "grpc", "--target", fleet.grpc, "--slo", "tpot.p95=1s", "--requests", 10,
                "--points", 1, "-o", self.folder / "grpc.json", sizes="20x4")
        self.assertIn("token ids", err)
        for size in report["sizes"]:
            self.assertEqual(size["state"], "measured", report)
            self.assertGreater(size["alone_tpot_ms"], 0.9 * (ALONE_MS + EACH_MS))
            # Little: sequences = rate * residence. 6 sequences at 31 ms a token, the prefill besides.
            residence_s = size["output_tokens"] * 0.031
            self.assertLess(size["keeps_per_s"], 1.5 * 6 / residence_s)
            self.assertGreater(size["breaks_per_s"], 0.4 * 6 / residence_s)
        # A second run has nothing left to do.
        self.assertEqual(again["rows"], report["rows"])
        self.assertEqual(again["rows_resumed"], report["rows"])
        self.assertEqual([s["keeps_per_s"] for s in again["sizes"]],
                         [s["keeps_per_s"] for s in report["sizes"]])
        rows = self.rows()
        self.assertEqual({r["arrival"] for r in rows}, {"closed", "poisson"})
        for row in rows:
            self.assertEqual(row["failures"], 0)
            self.assertEqual((row["input_tokens"], row["output_tokens"]), (20, 6))
            for key in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"):
                stats = [row[key][k] for k in ("p50", "p90", "p95", "p99")]
                self.assertEqual(stats, sorted(stats))
        self.assertEqual(other["sizes"][0]["points"], 1)
        self.plan(report)

    def plan(self, report):
        """medley plan takes what was measured, at the rate that was measured."""
        workload = {
            "format": "medley-workload/1", "name": "w", "source": {"text": "test"}, "requests": 100,
            "rate_per_s": 1, "arrival": {"process": "poisson"}, "input_edges": [30, 100],
            "output_edges": [10], "buckets": [{"input": 30, "output": 10, "share": 1,
                                               "input_mean": 20, "output_mean": 6}]}
        (self.folder / "workload.json").write_text(json.dumps(workload))
        size = next(s for s in report["sizes"] if s["input_tokens"] == 20)
        status, out, err = run(
            "medley-plan", self.folder / "workload.json", "--profiles", self.out,
            "--rate", 3 * size["keeps_per_s"], "--slo", "tpot.mean=31ms", "--max-utilization", 0.8,
            "--json")
        self.assertEqual(status, 0, err)
        plan = json.loads(out)
        self.assertEqual([(w["worker_type"], w["count"]) for w in plan["workers"]], [("measured", 4)])


def answer_with(prompt_tokens=8, completion_tokens=3, delay_s=0.0, count=3):
    def answer(_, request, send):
        time.sleep(delay_s)
        told = prompt_tokens(request) if callable(prompt_tokens) else prompt_tokens
        send(stream(*[event("a")] * count, event("", finish_reason="length"),
                    usage(told, completion_tokens), DONE))
    return answer


def refusal(send, status=b"400 Bad Request", text="no"):
    send(whole({"error": {"message": text, "type": "invalid_request_error"}}, status))


class Servers(Case):
    def against(self, answer, *args, status=0, **more):
        with Server(answer) as server:
            report, err = self.profile("--api", "openai", "--url", f"http://127.0.0.1:{server.port}", "--requests", 20,
                                       "--points", 2, *args, status=status, **more)
            return report, err, list(server.requests)

    def test_server_of_text_alone_is_calibrated(self):
        def answer(_, request, send):
            prompt = request.body["prompt"]
            if not isinstance(prompt, str) or "ignore_eos" in request.body:
                refusal(send, text="unknown argument")
                return
            # Two tokens a letter, and one to begin with: as bytes would be.
            send(stream(event("a"), event("b"), event("", finish_reason="length"),
                        usage(1 + len(prompt), 2), DONE))
        report, err, requests = self.against(answer, "--slo", "ttft.mean=10s", "--points", 1,
                                             sizes="101x2")
        self.assertIn("prompts of text (2 tokens a letter, +1), and refuses ignore_eos", err)
        last = [r.body["prompt"] for r in requests[-10:]]
        self.assertEqual({len(p) for p in last}, {100})
        self.assertEqual(len(set(last)), len(last), "no two prompts are alike")
        self.assertEqual({r["input_tokens"] for r in self.rows()}, {101})
        # Whether this server keeps up at the one rate that is tried is a matter of the machine.
        self.assertIn(report["sizes"][0]["state"], ("at least", "below"))

    def test_prompts_are_new_in_every_run(self):
        answer = answer_with(lambda r: len(r.body["prompt"]))
        seen = []
        for _ in range(2):
            _, _, requests = self.against(answer, "--slo", "ttft.mean=10s", "--points", 1, "--fresh")
            seen += [str(r.body["prompt"]) for r in requests]
        self.assertEqual(len(set(seen)), len(seen))

    def test_prompts_are_alike_when_asked_for(self):
        answer = answer_with(lambda r: len(r.body["prompt"]))
        _, _, requests = self.against(answer, "--slo", "ttft.mean=10s", "--same-prompts", "--points", 1)
        self.assertEqual(len({str(r.body["prompt"]) for r in requests[-10:]}), 1)

    def test_count_of_prompts_that_cannot_be_is_not_used(self):
        _, err, _ = self.against(answer_with(prompt_tokens=123456), "--slo", "ttft.mean=10s",
                                 "--points", 1)
        self.assertIn("not one that a tokenizer gives", err)
        self.assertEqual({r["input_tokens"] for r in self.rows()}, {8})

    def test_count_of_answers_that_cannot_be_ends_it(self):
        _, err, _ = self.against(answer_with(lambda r: len(r.body["prompt"]), 500), status=1)
        self.assertIn("of 3 at most that were asked for", err)

    def test_short_answers_are_told(self):
        _, err, _ = self.against(answer_with(lambda r: len(r.body["prompt"]), 2, count=2), "--slo",
                                 "ttft.mean=10s", "--points", 1)
        self.assertIn("answers ended after 2.0 of 3 tokens", err)
        self.assertEqual({r["output_tokens"] for r in self.rows()}, {2})

    def test_refusals_under_load_bound_the_rate(self):
        lock = threading.Lock()
        busy = [0]

        def answer(_, request, send):
            with lock:
                refused = busy[0] >= 3
                busy[0] += not refused
            if refused:
                refusal(send, b"429 Too Many Requests", "queue is full")
                return
            time.sleep(0.03)
            with lock:
                busy[0] -= 1
            answer_with(lambda r: len(r.body["prompt"]))(_, request, send)
        report, err, _ = self.against(answer, "--slo", "ttft.mean=10s", "--points", 4)
        self.assertIn("HTTP 429: queue is full", err)
        size = report["sizes"][0]
        self.assertLess(size["breaks_per_s"], 300)  # 100 a second would do without any chance
        self.assertTrue(all(r["failures"] > 0 or not (r.get("rate_per_s", 0) >= size["breaks_per_s"])
                            for r in self.rows()))

    def test_queue_that_grows_is_saturation(self):
        turn = threading.Lock()

        def answer(_, request, send):
            with turn:  # one at a time
                time.sleep(0.01)
            answer_with(lambda r: len(r.body["prompt"]))(_, request, send)
        report, _, _ = self.against(answer, "--slo", "ttft.p99=1000s", "--requests", 60, "--points",
                                    3)
        size = report["sizes"][0]
        self.assertIsNotNone(size["full_per_s"], report)
        self.assertLess(size["full_per_s"], 110)  # 100 a second, whatever this machine adds
        full = [r for r in self.rows() if r.get("saturated")]
        self.assertTrue(full)
        self.assertTrue(all(r["throughput_per_s"] < r["rate_per_s"] for r in full))

    def test_server_that_wants_a_key_says_so(self):
        def answer(_, __, send):
            refusal(send, b"401 Unauthorized", "no key")
        _, err, _ = self.against(answer, status=1)
        self.assertIn("HTTP 401: no key", err)

    def test_server_that_fails_later_ends_it(self):
        def answer(index, request, send):
            if index < 2:
                answer_with(lambda r: len(r.body["prompt"]))(index, request, send)
                return None
            if index % 2:
                return False  # closes
            refusal(send, b"500 Internal Server Error", "broken")
            return None
        _, err, _ = self.against(answer, status=1, sizes="8x3,20x3,40x3,60x3")
        self.assertIn("the server answered none of the requests of 3 points in a row", err)
        self.assertFalse(self.out.exists())

    def test_server_that_hangs_is_given_up(self):
        over = threading.Event()
        self.addCleanup(over.set)

        def answer(index, request, send):
            if index >= 2:
                over.wait()
            answer_with(lambda r: len(r.body["prompt"]))(index, request, send)
        _, err, _ = self.against(answer, "--stall-timeout", "0.3s", status=1, sizes="8x3,20x3,40x3")
        self.assertIn("the server answered none", err)

    def test_interrupt_keeps_what_there_is_and_the_same_command_goes_on(self):
        answer = answer_with(lambda r: len(r.body["prompt"]), delay_s=0.02)
        with Server(answer) as server:
            args = ["--api", "openai", "--url", f"http://127.0.0.1:{server.port}", "--like", LIKE,
                    "--name", "measured", "--sizes", "8x3,50x3", "--slo", "ttft.mean=10s",
                    "--points", 1, "-o", self.out, "--json"]
            with Process("medley-profile", *args, "--requests", 100000) as process:
                harness.wait_until(self.out.exists, "a first row")
                process.send_signal(signal.SIGINT)
                self.assertEqual(process.wait(), 1)
                report = json.loads("\n".join(process.stdout))
            self.assertTrue(report["interrupted"])
            kept = self.rows()
            self.assertEqual(len(kept), report["rows"])
            again, _ = self.profile(*args[:4], "--slo", "ttft.mean=10s", "--points", 1, "--requests",
                                    20, sizes="8x3,50x3")
        self.assertEqual(again["rows_resumed"], len(kept))
        self.assertEqual(again["rows"], 4)  # each alone, and at one rate
        self.assertEqual(self.rows()[:len(kept)], kept)

    def test_time_that_is_spent_ends_it(self):
        answer = answer_with(lambda r: len(r.body["prompt"]), delay_s=0.02)
        report, err, _ = self.against(answer, "--slo", "ttft.mean=10s", "--requests", 5000,
                                      "--minutes", 0.02, sizes="8x3,50x3")
        self.assertTrue(report["out_of_time"])
        self.assertIn("the same command goes on", err)
        self.assertEqual({r["arrival"] for r in self.rows()}, {"closed"})  # 5,000 would take longer

    def test_profile_of_another_server_is_not_gone_on_with(self):
        answer = answer_with(lambda r: len(r.body["prompt"]))
        self.against(answer, "--slo", "ttft.mean=10s", "--points", 1)
        before = self.out.read_text()
        _, err, _ = self.against(answer, "--slo", "ttft.mean=10s", status=2)
        self.assertIn("one profile is of one server and machine", err)
        self.assertEqual(self.out.read_text(), before)
        self.against(answer, "--slo", "ttft.mean=10s", "--points", 1, "--fresh")

    def test_words_that_are_wrong(self):
        for args, says in ((("--sizes", "8by3"), "--sizes 8by3: expected sizes such as"),
                           (("--slo", "ttft.p42=1s"), "expected mean, p50, p90, p95 or p99"),
                           (("--like", "/nowhere.json"), "/nowhere.json"),
                           (("--url", "ftp://x"), "expected http")):
            _, err = self.profile("--api", "openai", *args, status=2)
            self.assertIn(says, err)


if __name__ == "__main__":
    unittest.main()
