# SPDX-License-Identifier: Apache-2.0
"""A real medley-worker against a router that the test plays: the protocol, and what breaks it."""
import json
import math
import os
import pathlib
import random
import re
import signal
import socket
import struct
import tempfile
import time
import unittest

import harness
import plans
from harness import Process, metric, wait_until
from link import Closed, Router, pb

PROFILE = harness.ROOT / "profiles" / "published" / "a10g-llama-2-7b-fp16.json"
FAST = ("--time-scale", "200")


def worker(router, *args, profile=PROFILE):
    routers = router if isinstance(router, (list, tuple)) else [router]
    dial = [word for r in routers for word in ("--router", r.address)]
    return Process("medley-worker", "--profile", profile, "--metrics-listen", "127.0.0.1:0",
                   "--worker-id", "w-1", *dial, *args)


def generate(request, prompt=8, tokens=5, attempt=1, ids=None, **more):
    return pb.Generate(request=request, attempt=attempt, prompt=ids or range(1, prompt + 1),
                       max_tokens=tokens, request_id=f"r-{request}", **more)


class Protocol(unittest.TestCase):
    def test_hello_says_who_it_is_and_what_it_can_hold(self):
        limits = json.loads(PROFILE.read_text())["limits"]
        incarnations = set()
        for _ in range(2):
            with Router() as router, worker(router) as process:
                ready = process.wait_ready()
                _, hello = router.welcome()
                self.assertEqual(hello.version, 1)
                self.assertEqual(hello.worker_id, "w-1")
                self.assertEqual(hello.worker_type, "a10g-llama-2-7b-fp16")
                self.assertEqual(hello.model, "llama-2-7b")
                self.assertEqual(hello.backend, "emulated")
                self.assertEqual(hello.max_model_len, limits["max_model_len"])
                self.assertEqual(hello.max_num_seqs, limits["max_num_seqs"])
                self.assertEqual(hello.kv_tokens, limits["kv_tokens"])
                self.assertTrue(hello.program_version)
                self.assertEqual(ready["worker_id"], "w-1")
                incarnations.add(hello.incarnation)
                process.stop()
        self.assertEqual(len(incarnations), 2)

    def test_generate_brings_tokens_in_order_and_one_finish(self):
        with Router() as router, worker(router, *FAST) as process:
            link, _ = router.welcome()
            link.send(generate=generate(7, tokens=20, seed=3))
            link.send(generate=generate(8, tokens=20, seed=3))
            link.send(generate=generate(9, tokens=20, seed=4))
            link.send(generate=generate(10, tokens=20, emulated_output_tokens=6))
            link.send(generate=generate(11, tokens=4, emulated_output_tokens=6))
            done = link.collect([7, 8, 9, 10, 11])
            self.assertEqual([len(done[r][0]) for r in (7, 8, 9, 10, 11)], [20, 20, 20, 6, 4])
            self.assertEqual([done[r][1].ending for r in (7, 8, 9, 10, 11)],
                             [pb.ENDING_LENGTH] * 3 + [pb.ENDING_STOP, pb.ENDING_LENGTH])
            self.assertEqual(done[7][0], done[8][0])
            self.assertNotEqual(done[7][0], done[9][0])
            self.assertTrue(all(0 <= i < 32000 for i in done[7][0]))
            # Prompt and output so far, sent anew, go on as the first would have.
            link.send(generate=pb.Generate(request=12, attempt=2, max_tokens=15, seed=3,
                                           prompt=[*range(1, 9), *done[7][0][:5]]))
            self.assertEqual(link.collect([12])[12][0], done[7][0][5:])
            process.stop()

    def test_stats_come_at_once_on_demand_and_at_the_interval(self):
        with Router() as router, worker(router, *FAST) as process:
            link, _ = router.welcome(stats_interval_ms=60000)
            first = link.receive_body("stats")
            self.assertEqual((first.running, first.waiting, first.iterations), (0, 0, 0))
            self.assertEqual(first.kv_blocks_free, first.kv_blocks_total)
            self.assertGreater(first.kv_blocks_total, 0)
            link.send(generate=generate(1, prompt=33, tokens=9))
            link.collect([1])
            link.send(stats=pb.Stats())
            asked = link.receive_body("stats")
            while asked.generated_tokens < 9:  # one that came of the interval, or of the first ask
                link.send(stats=pb.Stats())
                asked = link.receive_body("stats")
            self.assertEqual((asked.prompt_tokens, asked.generated_tokens, asked.finished,
                              asked.iterations), (33, 9, 1, 9))
            self.assertEqual(asked.kv_blocks_free, asked.kv_blocks_total)
            process.stop()
        with Router() as router, worker(router, *FAST) as process:
            link, _ = router.welcome(stats_interval_ms=500)
            beats = [link.receive_body("stats").heartbeat_ns for _ in range(8)]
            self.assertEqual(beats, sorted(beats))
            self.assertGreater(beats[-1], beats[0])  # the idle engine beats too
            process.stop()

    def test_prefix_cache_is_off_unless_told_and_counts_then(self):
        for options, cached in (((), 0), (("--prefix-cache",), 48)):
            with Router() as router, worker(router, *FAST, *options) as process:
                ready = process.wait_ready()
                link, _ = router.welcome(stats_interval_ms=60000)
                for request in (1, 2):
                    link.send(generate=generate(request, prompt=50, tokens=3))
                    _, finish = link.collect([request])[request]
                self.assertEqual(finish.cached_tokens, cached)
                self.assertEqual(metric(ready["metrics"], "vllm:prefix_cache_hits_total"), cached)
                process.stop()

    def test_logprobs_of_an_emulated_worker_are_none(self):
        with Router() as router, worker(router, *FAST) as process:
            link, _ = router.welcome(stats_interval_ms=60000)
            link.send(generate=generate(1, tokens=3, logprobs=5))
            self.assertEqual(len(link.receive_body("tokens").logprobs), 0)
            process.stop()

    def test_ping_is_answered(self):
        with Router() as router, worker(router) as process:
            link, _ = router.welcome()
            link.send(ping=pb.Ping(nonce=0xDEADBEEF))
            pong = link.receive_body("ping")
            self.assertEqual((pong.nonce, pong.reply), (0xDEADBEEF, True))
            process.stop()

    def test_cancel_ends_it_without_another_token_and_frees_its_blocks(self):
        with Router() as router, worker(router, *FAST) as process:
            link, _ = router.welcome(stats_interval_ms=60000)
            link.send(generate=generate(1, prompt=100, tokens=10000))
            link.send(generate=generate(2, prompt=100, tokens=30))
            while link.receive_body("tokens").request != 1:
                pass
            link.send(cancel=pb.Cancel(request=1, attempt=2))  # another attempt: not this one
            link.send(cancel=pb.Cancel(request=1, attempt=1))
            link.send(cancel=pb.Cancel(request=1, attempt=1))
            link.send(cancel=pb.Cancel(request=99, attempt=1))
            finishes = {}
            while len(finishes) < 2:
                frame = link.receive()
                if frame.WhichOneof("body") == "tokens":
                    self.assertNotIn(frame.tokens.request, finishes)
                elif frame.WhichOneof("body") == "finish":
                    finishes[frame.finish.request] = frame.finish.ending
            self.assertEqual(finishes, {1: pb.ENDING_CANCELLED, 2: pb.ENDING_LENGTH})
            link.send(stats=pb.Stats())
            stats = link.receive_body("stats")
            self.assertEqual(stats.kv_blocks_free, stats.kv_blocks_total)
            self.assertEqual((stats.running, stats.waiting, stats.finished), (0, 0, 2))
            process.stop()

    def test_invalid_requests_are_answered_and_disturb_nobody(self):
        with Router() as router, worker(router, *FAST) as process:
            ready = process.wait_ready()
            link, hello = router.welcome()
            link.send(generate=generate(1, tokens=50))
            bad = {
                10: (dict(prompt=0), "at least 1"),
                11: (dict(tokens=0), "max_tokens"),
                12: (dict(prompt=hello.max_model_len), "exceed"),
                13: (dict(tokens=0xFFFFFFFF), "exceed"),
                14: (dict(temperature=math.nan), "temperature"),
                15: (dict(temperature=-1), "temperature"),
                16: (dict(top_p=1.5), "top_p"),
                17: (dict(ids=[1, 32000]), "prompt[1]: is 32000, expected 0 to 31999"),
                18: (dict(ids=[0xFFFFFFFF]), "prompt[0]: is 4294967295"),
            }
            for request, (fields, _) in bad.items():
                link.send(generate=generate(request, **fields))
            done = link.collect([1, *bad])
            self.assertEqual(done[1][1].ending, pb.ENDING_LENGTH)
            for request, (_, text) in bad.items():
                self.assertEqual(done[request][1].ending, pb.ENDING_ERROR)
                self.assertIn(text, done[request][1].message)
            self.assertEqual(metric(ready["metrics"], "medley_worker_requests_invalid_total"),
                             len(bad))
            process.stop()

    def test_same_request_under_two_attempts_is_two_requests(self):
        with Router() as router, worker(router, *FAST) as process:
            link, _ = router.welcome()
            link.send(generate=generate(5, attempt=1, tokens=4000))
            link.send(cancel=pb.Cancel(request=5, attempt=1))
            link.send(generate=generate(5, attempt=2, tokens=3))
            ends = {}
            while len(ends) < 2:
                frame = link.receive()
                if frame.WhichOneof("body") == "finish":
                    ends[frame.finish.attempt] = frame.finish.ending
            self.assertEqual(ends, {1: pb.ENDING_CANCELLED, 2: pb.ENDING_LENGTH})
            process.stop()

    def test_hundreds_with_cancels_on_a_small_cache_end_once_each(self):
        rng = random.Random(20240917)
        with Router() as router, worker(router, *FAST, "--kv-tokens", 1600, "--max-num-seqs", 24,
                                        "--max-num-batched-tokens", 128) as process:
            ready = process.wait_ready()
            link, _ = router.welcome()
            requests = {}
            for request in range(300):
                requests[request] = rng.randint(1, 300)
                link.send(generate=generate(request, prompt=rng.randint(1, 400),
                                            tokens=requests[request]))
                if request % 7 == 3:
                    link.send(cancel=pb.Cancel(request=request - 2, attempt=1))
            cancelled = 0
            for request, (ids, finish) in link.collect(requests).items():
                if finish.ending == pb.ENDING_CANCELLED:
                    self.assertEqual(request % 7, 1)
                    cancelled += 1
                else:
                    self.assertEqual(finish.ending, pb.ENDING_LENGTH)
                    self.assertEqual(len(ids), requests[request])
            self.assertGreater(cancelled, 0)
            self.assertGreater(metric(ready["metrics"], "vllm:num_preemptions_total"), 0)
            self.assertEqual(metric(ready["metrics"], "vllm:request_success_total"), 300)
            self.assertEqual(metric(ready["metrics"], "vllm:kv_cache_usage_perc"), 0)
            process.stop()

    def test_unix_socket_and_two_routers(self):
        with tempfile.TemporaryDirectory() as folder, \
                Router(path=os.path.join(folder, "r.sock")) as one, Router() as two, \
                worker([one, two], *FAST) as process:
            first, _ = one.welcome()
            second, _ = two.welcome()
            first.send(generate=generate(1, tokens=10))
            second.send(generate=generate(1, tokens=12))  # the same name on another link
            self.assertEqual(len(first.collect([1])[1][0]), 10)
            self.assertEqual(len(second.collect([1])[1][0]), 12)
            process.stop()


class Faults(unittest.TestCase):
    """After each the worker has cancelled what ran, dialled again, and serves."""

    def broken_by(self, breaks, log):
        with Router() as router, Router() as other, worker([router, other], *FAST) as process:
            ready = process.wait_ready()
            bystander, _ = other.welcome()
            bystander.send(generate=generate(77, tokens=2000))
            link, _ = router.welcome()
            link.send(generate=generate(1, tokens=14000))
            link.receive_body("tokens")
            breaks(link)
            link.wait_closed()
            link.close()
            again, _ = router.welcome()
            self.assertIn(log, process.wait_line(f"router {router.address}: .*{log}"))
            again.send(generate=generate(1, tokens=5))  # the name is free again
            self.assertEqual(len(again.collect([1])[1][0]), 5)
            self.assertEqual(len(bystander.collect([77])[77][0]), 2000)
            wait_until(lambda: metric(ready["metrics"], "vllm:num_requests_running") == 0, "idle")
            aborted = harness.metrics(ready["metrics"])[
                'vllm:request_success_total{model_name="llama-2-7b",finished_reason="abort"}']
            self.assertEqual(aborted, 1)
            process.stop()

    def test_garbage(self):
        self.broken_by(lambda link: link.send_raw(struct.pack(">I", 20) + bytes(range(236, 256))),
                       "not a medley.link.Frame")

    def test_oversized_frame(self):
        self.broken_by(lambda link: link.send_raw(struct.pack(">I", (8 << 20) + 1)),
                       "8388609 bytes")

    def test_empty_frame(self):
        self.broken_by(lambda link: link.send_raw(bytes(4)), "empty frame")

    def test_frame_without_a_body_that_we_know(self):
        # Field 12 of Frame, reserved for later versions' bodies.
        self.broken_by(lambda link: link.send_raw(struct.pack(">I", 2) + b"\x7a\x00"),
                       "without a body")

    def test_half_a_frame_and_then_the_end(self):
        def half(link):
            message = pb.Frame(generate=generate(2)).SerializeToString()
            link.send_raw(struct.pack(">I", len(message)) + message[:len(message) // 2])
            link.sock.shutdown(socket.SHUT_WR)  # a close with unread bytes would be a reset
        self.broken_by(half, "closed the connection")

    def test_frame_that_a_router_does_not_send(self):
        self.broken_by(lambda link: link.send(finish=pb.Finish(request=1)), "does not send")

    def test_second_welcome(self):
        self.broken_by(lambda link: link.send(welcome=pb.Welcome(version=1, accepted=True)),
                       "does not send")

    def test_two_generates_with_the_same_name(self):
        self.broken_by(lambda link: link.send(generate=generate(1)), "running already")

    def test_greetings_that_are_wrong(self):
        cases = ((dict(welcome=pb.Welcome(version=2, accepted=True)), "version 2"),
                 (dict(welcome=pb.Welcome(version=1, reason="no such type")), "no such type"),
                 (dict(welcome=pb.Welcome(version=1, accepted=True, stats_interval_ms=1 << 31)),
                  "stats_interval_ms"),
                 (dict(generate=generate(1)), "expected Welcome"))
        with Router() as router, worker(router, *FAST) as process:
            for body, text in cases:
                link = router.accept()
                link.receive_body("hello")
                link.send(**body)
                self.assertEqual(link.wait_closed(), [])
                process.wait_line(text)
            link, _ = router.welcome()
            link.send(generate=generate(1))
            self.assertEqual(len(link.collect([1])[1][0]), 5)
            process.stop()

    def test_router_that_comes_late_and_comes_back(self):
        port = harness.free_port()
        with Router(port=port) as placeholder:
            address = placeholder.address
        process = Process("medley-worker", "--profile", PROFILE, *FAST, "--router", address)
        with process:
            process.wait_line("dialling again")
            for _ in range(2):
                with Router(port=port) as router:
                    link, _ = router.welcome()
                    link.send(generate=generate(1))
                    link.collect([1])
            # One line per outage and cause, not one per attempt.
            self.assertLess(len(process.stderr), 20)
            process.stop()

    def test_router_that_does_not_read_is_cut_off_and_others_are_served(self):
        with tempfile.TemporaryDirectory() as folder, \
                Router(path=os.path.join(folder, "r.sock")) as stuck, Router() as other, \
                worker([stuck, other], "--time-scale", 1000, "--max-model-len", 64) as process:
            link, _ = stuck.welcome()
            bystander, _ = other.welcome()
            # Answers of 200 bytes to requests of 40: the buffer fills without the link's Generate
            # frames ever being held up.
            frame = pb.Frame(generate=generate(1, prompt=1, tokens=0)).SerializeToString()
            burst = (struct.pack(">I", len(frame)) + frame) * 500
            try:
                while True:
                    link.send_raw(burst)
            except (BrokenPipeError, ConnectionResetError):
                pass
            process.wait_line("does not read")
            bystander.send(generate=generate(1))
            self.assertEqual(len(bystander.collect([1])[1][0]), 5)
            link, _ = stuck.welcome()
            link.send(generate=generate(1))
            self.assertEqual(len(link.collect([1])[1][0]), 5)
            process.stop()


class Stopping(unittest.TestCase):
    def test_drain_finishes_what_runs_and_the_process_ends(self):
        with Router() as router, worker(router, *FAST) as process:
            link, _ = router.welcome()
            link.send(generate=generate(1, tokens=3000))
            link.receive_body("tokens")
            link.send(drain=pb.Drain())
            link.send(generate=generate(2))
            endings, last = {}, 0
            try:
                while True:
                    frame = link.receive()
                    if frame.WhichOneof("body") == "finish":
                        endings[frame.finish.request] = frame.finish.ending
                    elif frame.WhichOneof("body") == "tokens":
                        last = frame.tokens.position + len(frame.tokens.ids)
            except Closed:
                pass
            self.assertEqual(endings, {2: pb.ENDING_REFUSED, 1: pb.ENDING_LENGTH})
            self.assertEqual(last, 3000)
            self.assertEqual(process.wait(), 0)

    def test_drain_by_one_of_two_routers_keeps_the_other(self):
        with Router() as one, Router() as two, worker([one, two], *FAST) as process:
            first, _ = one.welcome()
            second, _ = two.welcome()
            first.send(drain=pb.Drain())
            first.wait_closed()
            second.send(generate=generate(1))
            self.assertEqual(len(second.collect([1])[1][0]), 5)
            process.stop()

    def test_sigterm_drains(self):
        with Router() as router, worker(router, *FAST, "--drain-timeout", "1h") as process:
            ready = process.wait_ready()
            link, _ = router.welcome()
            self.assertEqual(harness.http_get(ready["metrics"], "/health")[0], 200)
            link.send(generate=generate(1, tokens=6000))
            link.receive_body("tokens")
            process.send_signal(signal.SIGTERM)
            while link.receive().WhichOneof("body") != "drain":
                pass
            status, body = harness.http_get(ready["metrics"], "/health")
            self.assertEqual((status, json.loads(body)["status"]), (503, "draining"))
            link.send(generate=generate(2))
            endings = [f.finish for f in link.wait_closed() if f.WhichOneof("body") == "finish"]
            self.assertEqual([(f.request, f.ending) for f in endings],
                             [(2, pb.ENDING_REFUSED), (1, pb.ENDING_LENGTH)])
            self.assertEqual(process.wait(), 0)

    def cut_short(self, args, signals):
        """Two running requests, one with tokens and one without, when the worker must go."""
        with Router() as router, worker(router, *FAST, "--max-num-seqs", 1, *args) as process:
            link, _ = router.welcome()
            link.send(generate=generate(1, tokens=14000))
            link.receive_body("tokens")
            link.send(generate=generate(2))  # waits: the batch has one place
            link.send(ping=pb.Ping(nonce=1))
            while link.receive().WhichOneof("body") != "ping":
                pass
            process.send_signal(signals[0])
            while link.receive().WhichOneof("body") != "drain":
                pass
            for number in signals[1:]:
                process.send_signal(number)
            endings = {f.finish.request: f.finish.ending for f in link.wait_closed()
                       if f.WhichOneof("body") == "finish"}
            self.assertEqual(endings, {1: pb.ENDING_RETURNED, 2: pb.ENDING_REFUSED})
            self.assertEqual(process.wait(), 0)

    def test_deadline_of_the_drain_cancels_the_rest(self):
        self.cut_short(("--drain-timeout", "20ms"), [signal.SIGTERM])

    def test_second_signal_cancels_the_rest(self):
        self.cut_short(("--drain-timeout", "24h"), [signal.SIGINT, signal.SIGTERM])

    def test_sigterm_without_any_router(self):
        address = "127.0.0.1:%d" % harness.free_port()
        with Process("medley-worker", "--profile", PROFILE, "--router", address) as process:
            process.wait_ready()
            process.stop()


class DeviceFails(unittest.TestCase):
    """An emulated device that fails as a GPU does."""

    def ended(self, link, requests, words):
        ends = {}
        while len(ends) < len(requests):
            frame = link.receive()
            if frame.WhichOneof("body") == "finish":
                self.assertEqual(frame.finish.ending, pb.ENDING_ERROR)
                self.assertIn(words, frame.finish.message)
                ends[frame.finish.request] = True
        self.assertEqual(sorted(ends), sorted(requests))

    def left(self, process, words):
        self.assertEqual(process.wait(), 4, process.output())
        self.assertIn(words, process.output())

    def test_a_failed_step_ends_requests_and_the_process_with_status_4(self):
        with Router() as router, worker(router, *FAST, "--emulated-fail-after", 900) as process:
            link, _ = router.welcome(stats_interval_ms=0)
            for request in range(6):
                link.send(generate=generate(request, tokens=1000))
            self.ended(link, range(6), "the device failed after 900 steps")
            self.left(process, "the device failed after 900 steps")

    def test_a_step_that_does_not_come_back_does_so_too(self):
        with Router() as router, worker(router, *FAST, "--emulated-hang-after", 900,
                                        "--step-timeout", "1s") as process:
            link, _ = router.welcome(stats_interval_ms=0)
            for request in range(6):
                link.send(generate=generate(request, tokens=1000))
            self.ended(link, range(6), "has not come back from its device")
            self.left(process, "has not come back from its device")

    def test_a_drain_does_not_wait_for_it(self):
        with Router() as router, worker(router, *FAST, "--emulated-hang-after", 2,
                                        "--step-timeout", "2s") as process:
            link, _ = router.welcome(stats_interval_ms=0)
            link.send(generate=generate(1, tokens=1000))
            link.receive_body("tokens")
            process.send_signal(signal.SIGTERM)
            self.left(process, "has not come back from its device")

    def test_an_idle_engine_is_not_given_up(self):
        with Router() as router, worker(router, *FAST, "--step-timeout", "1s") as process:
            process.wait_ready()
            link, _ = router.welcome(stats_interval_ms=0)
            until = time.monotonic() + 3
            wait_until(lambda: time.monotonic() > until, "three seconds")
            link.send(generate=generate(1))
            self.assertEqual(len(link.collect([1])[1][0]), 5)
            process.stop()


class Metrics(unittest.TestCase):
    def test_reference_page_lists_what_is_served(self):
        documented, _ = harness.documented_metrics()
        with Router() as router, worker(router) as process:
            _, text = harness.http_get(process.wait_ready()["metrics"], "/metrics")
        self.assertEqual(documented, harness.announced_metrics(text))

    def test_counters_and_histograms_agree(self):
        with Router() as router, worker(router, *FAST) as process:
            ready = process.wait_ready()
            link, _ = router.welcome()
            for request in range(20):
                link.send(generate=generate(request, prompt=50, tokens=request + 1))
            link.collect(range(20))
            samples = harness.metrics(ready["metrics"])
            label = 'model_name="llama-2-7b"'
            self.assertEqual(samples[f"vllm:prompt_tokens_total{{{label}}}"], 1000)
            self.assertEqual(samples[f"vllm:generation_tokens_total{{{label}}}"], 210)
            for name, count in (("time_to_first_token", 20), ("inter_token_latency", 190),
                                ("e2e_request_latency", 20), ("request_queue_time", 20),
                                ("request_time_per_output_token", 19)):
                self.assertEqual(samples[f"vllm:{name}_seconds_count{{{label}}}"], count, name)
                infinite = f'vllm:{name}_seconds_bucket{{{label},le="+Inf"}}'
                self.assertEqual(samples[infinite], count, name)
                self.assertGreaterEqual(samples[f"vllm:{name}_seconds_sum{{{label}}}"], 0, name)
            self.assertEqual(samples[f'medley_worker_link_up{{router="{router.address}"}}'], 1)
            self.assertEqual(harness.http_get(ready["metrics"], "/nothing")[0], 404)
            process.stop()


class Plan(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / "plan.json"
        plans.write(self.path, {"a10g-llama-2-7b-fp16": 2, "h100-llama-2-7b-fp16": 1},
                    objectives=("tpot.mean=123ms", "ttft.mean=2345ms"))

    def test_worker_is_the_type_that_it_is_told_and_knows_the_objectives(self):
        with Router() as router, \
                Process("medley-worker", "--plan", self.path, "--worker-type",
                        "h100-llama-2-7b-fp16", "--router", router.address, "--metrics-listen",
                        "127.0.0.1:0", "--served-model-name", "llama", "--max-model-len", 4096,
                        "--max-num-seqs", 12, "--kv-tokens", "8k") as process:
            ready = process.wait_ready()
            _, hello = router.welcome()
            self.assertEqual((hello.worker_type, hello.model), ("h100-llama-2-7b-fp16", "llama"))
            self.assertEqual((hello.max_model_len, hello.max_num_seqs, hello.kv_tokens),
                             (4096, 12, 8000))
            _, text = harness.http_get(ready["metrics"], "/metrics")
            for name, bound in (("time_to_first_token", "2.345"), ("inter_token_latency", "0.123"),
                                ("request_time_per_output_token", "0.123")):
                self.assertRegex(text, rf'vllm:{name}_seconds_bucket{{[^}}]*le="{bound}"}} 0\n')
            process.stop()

    def test_unknown_or_missing_type_is_one_sentence(self):
        for more, text in (((), "expected --worker-type"),
                           (("--worker-type", "t4"), "no profile of that name")):
            code, _, err = harness.run("medley-worker", "--plan", self.path, "--router",
                                       "127.0.0.1:1", *more)
            self.assertEqual(code, 2)
            self.assertIn(text, err)


class CommandLine(unittest.TestCase):
    def refused(self, text, *args, status=2):
        code, out, err = harness.run("medley-worker", *args)
        self.assertEqual(code, status, err)
        self.assertIn(text, err)
        self.assertEqual(out, "")
        self.assertEqual(len(err.strip().splitlines()), 1, err)

    def test_dry_run_prints_the_memory_plan(self):
        code, out, _ = harness.run("medley-worker", "--profile", PROFILE, "--dry-run")
        self.assertEqual(code, 0)
        for text in ("13.48 GB", "14880 tokens", "maximum concurrency", "24.15 GB"):
            self.assertIn(text, out)

    def test_wrong_usage_is_one_sentence_and_status_2(self):
        there = ("--profile", PROFILE)
        dial = ("--router", "127.0.0.1:1")
        self.refused("--router", *there)
        self.refused("either --plan", *dial)
        self.refused("either --plan", *dial, *there, "--plan", PROFILE)
        self.refused("--worker-type", *dial, *there, "--worker-type", "x")
        for address in ("nowhere", "host:", ":80", "host:0", "host:70000", "::1:80", "[::1]80",
                        "unix:", "unix:/" + 110 * "x", "host:80x"):
            self.refused("expected HOST:PORT", *there, "--router", address)
        self.refused("exceed the 24.15 GB", *dial, *there, "--kv-tokens", "40k")
        self.refused("at least one block", *dial, *there, "--kv-tokens", "15")
        self.refused("--max-num-seqs", *dial, *there, "--max-num-batched-tokens", "100")
        self.refused("--worker-id", *dial, *there, "--worker-id", "two words")
        self.refused("--served-model-name", *dial, *there, "--served-model-name", "")
        self.refused("--metrics-listen", *dial, *there, "--metrics-listen", "nonsense")
        self.refused("emulated-noise", *dial, *there, "--emulated-noise", "nan")
        self.refused("time-scale", *dial, *there, "--time-scale", "0")

    def test_profile_without_steps_cannot_be_emulated(self):
        profile = PROFILE.with_name("a10g-llama-2-7b-gptq.json")
        self.refused("no step model", "--router", "127.0.0.1:1", "--profile", profile)


if __name__ == "__main__":
    unittest.main(verbosity=2)
