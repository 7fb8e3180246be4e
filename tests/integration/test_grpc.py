# SPDX-License-Identifier: Apache-2.0
"""The router through its gRPC door, with grpcio's own clients."""
import concurrent.futures
import json
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase)

import harness
import http2
import plans
from fake_worker import FakeWorker, dial, hello
from harness import Process, metrics, wait_until
from link import pb as link_pb

api = harness.proto_module("inference")
status_pb = harness.proto_module("status")
SMALL, LARGE = "a10g-llama-2-7b-fp16", "a100-80gb-llama-2-7b-fp16"
CODES = grpc.StatusCode


class Client:
    """medley.v1.Inference over one channel and a connection of its own: gRPC core shares them otherwise."""

    def __init__(self, address, credentials=None):
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = (grpc.secure_channel(address, credentials, options) if credentials
                        else grpc.insecure_channel(address, options))
        self.generate = self.channel.unary_unary(
            "/medley.v1.Inference/Generate", api.GenerateRequest.SerializeToString,
            api.GenerateResponse.FromString)
        self.stream = self.channel.unary_stream(
            "/medley.v1.Inference/GenerateStream", api.GenerateRequest.SerializeToString,
            api.GenerateChunk.FromString)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def close(self):
        self.channel.close()


def request(prompt=(1, 2, 3), max_tokens=8, **fields):
    return api.GenerateRequest(tokens=api.TokenIds(ids=prompt), max_tokens=max_tokens, **fields)


def outcomes(address):
    found = metrics(address)
    return {k.split('"')[1]: v for k, v in found.items()
            if k.startswith("medley_router_requests_total{")}


class RouterTest(unittest.TestCase):
    """One router per test; nothing is shared."""
    WORKERS = {SMALL: 1, LARGE: 1}

    def start(self, *options):
        folder = tempfile.TemporaryDirectory(prefix="medley-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.plan = plans.write(self.folder / "plan.json", self.WORKERS)
        self.router = Process("medley-router", self.plan, "--grpc-listen", "127.0.0.1:0",
                              "--http-listen", "127.0.0.1:0", "--link-listen", "127.0.0.1:0",
                              *options)
        self.addCleanup(self.router.kill)
        ready = self.router.wait_ready()
        self.grpc, self.http, self.link = ready["grpc"], ready["http"], ready["link"]
        self.client = Client(self.grpc)
        self.addCleanup(self.client.close)
        return self.router

    def worker(self, worker_id="w1", worker_type=SMALL, **kwargs):
        worker = FakeWorker(self.link, worker_id, worker_type, **kwargs)
        self.addCleanup(worker.close)
        return worker

    def stop(self):
        """Every accepted request is in the counters, and the process ends clean."""
        samples = metrics(self.http)
        ended = sum(outcomes(self.http).values())
        self.assertEqual(samples["medley_router_accepted_total"],
                         ended + samples["medley_router_in_flight"]
                         + samples["medley_router_queue_depth"])
        self.router.stop()

    def assert_status(self, code, call, *words):
        with self.assertRaises(grpc.RpcError) as caught:
            answer = call()
            if hasattr(answer, "__iter__"):
                list(answer)
        error = caught.exception
        self.assertEqual(error.code(), code, error.details())
        for word in words:
            self.assertIn(word, error.details())
        return error


class Answers(RouterTest):
    def test_unary_answer(self):
        self.start()
        self.worker(auto=True)
        answer = self.client.generate(request([10, 20], 5, request_id="mine"))
        self.assertEqual(list(answer.choices[0].tokens.ids), [11, 21, 11, 21, 11])
        self.assertEqual(answer.request_id, "mine")
        self.assertEqual(answer.choices[0].finish_reason, api.FINISH_REASON_LENGTH)
        self.assertEqual((answer.usage.prompt_tokens, answer.usage.completion_tokens), (2, 5))
        self.assertEqual(answer.worker_type, SMALL)
        self.assertEqual(outcomes(self.http)["length"], 1)
        self.stop()

    def test_stream_has_every_token_once_and_in_order(self):
        self.start()
        self.worker(auto=True)
        chunks = list(self.client.stream(request(range(100), 100, emulated_output_tokens=60)))
        ids = []
        for chunk in chunks:
            self.assertEqual(chunk.position, len(ids))
            ids.extend(chunk.tokens.ids)
        self.assertEqual(ids, [i + 1 for i in range(60)])
        self.assertEqual([c.finish_reason for c in chunks[:-1]], [0] * (len(chunks) - 1))
        self.assertEqual(chunks[-1].finish_reason, api.FINISH_REASON_STOP)
        self.assertEqual(chunks[-1].usage.completion_tokens, 60)
        self.stop()

    def test_everything_that_was_asked_reaches_the_worker(self):
        self.start()
        worker = self.worker()
        sampling = api.Sampling(temperature=0, top_p=0.5, top_k=7, seed=1 << 60, ignore_eos=True)
        call = self.client.generate.future(request([5], 3, sampling=sampling,
                                                   emulated_output_tokens=2, request_id="id-1"))
        got = worker.next_generate()
        self.assertEqual(list(got.prompt), [5])
        self.assertEqual((got.max_tokens, got.emulated_output_tokens), (3, 2))
        self.assertEqual(got.WhichOneof("temperature_value"), "temperature")
        self.assertEqual((got.temperature, got.top_p, got.top_k, got.seed),
                         (0, 0.5, 7, 1 << 60))
        self.assertTrue(got.ignore_eos)
        self.assertEqual(got.request_id, "id-1")
        worker.tokens(got, 0, [1, 2])
        worker.finish(got)
        self.assertEqual(list(call.result().choices[0].tokens.ids), [1, 2])
        # What is not set stays unset: 0 would be greedy.
        call = self.client.generate.future(request([5]))
        got = worker.next_generate()
        self.assertIsNone(got.WhichOneof("temperature_value"))
        self.assertEqual(got.WhichOneof("seed_value"), "seed")  # drawn here
        worker.tokens(got, 0, [1])
        worker.finish(got)
        self.assertTrue(call.result().request_id)
        self.stop()

    def test_requests_go_to_the_type_that_the_plan_chose(self):
        self.start()
        self.worker("small", SMALL, auto=True)
        self.worker("large", LARGE, auto=True)
        for size, served in ((10, SMALL), (900, SMALL), (3000, LARGE)):
            answer = self.client.generate(request([1] * size, 4))
            self.assertEqual(answer.worker_type, served, size)
        samples = metrics(self.http)
        self.assertEqual(sum(v for k, v in samples.items()
                             if k.startswith("medley_router_picks_total") and LARGE in k), 1)
        self.stop()

    def test_a_thousand_streams_at_once(self):
        self.start("--admission", "queue")  # they may wait
        self.worker("small", SMALL, auto=True)
        count, ids = 1000, []
        calls = [self.client.stream(request([i], 5)) for i in range(count)]
        for i, call in enumerate(calls):
            got = [t for chunk in call for t in chunk.tokens.ids]
            self.assertEqual(got, [i + 1] * 5)
            ids.append(call.code())
        self.assertEqual(ids, [CODES.OK] * count)
        self.assertEqual(outcomes(self.http)["length"], count)
        self.stop()


class Refusals(RouterTest):
    def test_last_token_id_of_the_vocabulary_is_taken(self):
        self.start()
        worker = self.worker()
        call = self.client.generate.future(request([0, 31999], 1))
        generate = worker.next_generate()
        self.assertEqual(list(generate.prompt), [0, 31999])
        worker.tokens(generate, 0, [7])
        worker.finish(generate, link_pb.ENDING_LENGTH)
        self.assertEqual(list(call.result().choices[0].tokens.ids), [7])
        self.stop()

    def test_wrong_input_is_named(self):
        self.start()
        self.worker(auto=True)
        table = [
            (api.GenerateRequest(), "input: found none"),
            (request([]), "tokens.ids: found none"),
            (request([1 << 31]), "tokens.ids[0]: found 2147483648"),
            (request([1, 31999, 32000]), "tokens.ids[2]: found 32000, expected 0 to 31999"),
            (request([0xFFFFFFFF]), "tokens.ids[0]: found 4294967295, expected 0 to 31999"),
            (request(max_tokens=(1 << 20) + 1), "max_tokens: found 1048577"),
            (request(max_tokens=20000), "expected at most 18432 together"),
            (request([1] * 20000), "found a prompt of 20000"),
            (request(emulated_output_tokens=1 << 21), "emulated_output_tokens: found 2097152"),
            (request(request_id="a b"), "request_id: found byte 0x20"),
            (request(request_id="a\nb"), "request_id: found byte 0x0a"),
            (request(request_id="\u00e9"), "request_id: found byte 0xc3"),
            (request(request_id="x" * 129), "request_id: found 129 bytes"),
            (request(sampling=api.Sampling(temperature=2.5)), "sampling.temperature: found 2.5"),
            (request(sampling=api.Sampling(temperature=float("nan"))), "sampling.temperature"),
            (request(sampling=api.Sampling(top_p=0)), "sampling.top_p: found 0"),
            (request(sampling=api.Sampling(top_p=float("inf"))), "sampling.top_p"),
            (request(sampling=api.Sampling(top_k=1 << 31)), "sampling.top_k"),
        ]
        for message, words in table:
            with self.subTest(words):
                self.assert_status(CODES.INVALID_ARGUMENT,
                                   lambda m=message: self.client.generate(m), words)
                self.assert_status(CODES.INVALID_ARGUMENT,
                                   lambda m=message: self.client.stream(m), words)
        raw = self.client.channel.unary_unary("/medley.v1.Inference/Generate")
        self.assert_status(CODES.INVALID_ARGUMENT, lambda: raw(b"\xff\xff"),
                           "not a medley.v1.GenerateRequest")
        self.assert_status(CODES.NOT_FOUND,
                           lambda: self.client.generate(request(model="gpt-\"9")), "gpt-",
                           plans.MODEL)
        self.assert_status(CODES.NOT_FOUND,
                           lambda: self.client.generate(request(model="\u00e9\n" * 500)), "model")
        unknown = self.client.channel.unary_unary("/medley.v1.Inference/Nothing")
        self.assert_status(CODES.UNIMPLEMENTED, lambda: unknown(b""), "Nothing")
        self.assertEqual(metrics(self.http)["medley_router_accepted_total"], 0)
        self.assertEqual(self.client.generate(request(model=plans.MODEL)).choices[0].finish_reason,
                         api.FINISH_REASON_LENGTH)
        self.stop()

    def test_message_over_the_limit(self):
        self.start()
        self.worker(auto=True)
        raw = self.client.channel.unary_unary("/medley.v1.Inference/Generate")
        self.assert_status(CODES.RESOURCE_EXHAUSTED, lambda: raw(b"\0" * ((8 << 20) + 1)))
        self.stop()

    def test_without_a_worker(self):
        self.start()
        self.assert_status(CODES.UNAVAILABLE, lambda: self.client.generate(request()),
                           "no worker that serves llama-2-7b")
        self.assertEqual(metrics(self.http)['medley_router_refused_total{reason="no_worker"}'], 1)
        self.stop()

    def test_overload_is_refused_with_a_hint(self):
        self.start("--queue-max", "2", "--admission", "queue")
        worker = FakeWorker(self.link, "w1", SMALL)
        worker.close()
        link = dial(self.link)
        wait_until(lambda: '"connected": 0' in harness.http_get(self.http, "/health")[1],
                   "the first worker to be gone")
        self.assertTrue(hello(link, "w2", SMALL, max_num_seqs=1).accepted)
        calls = [self.client.generate.future(request(), timeout=60) for _ in range(3)]
        wait_until(lambda: metrics(self.http)["medley_router_queue_depth"] == 2, "two to wait")
        error = self.assert_status(CODES.RESOURCE_EXHAUSTED,
                                   lambda: self.client.generate(request()), "2 wait already")
        trailers = dict(error.trailing_metadata())
        hint = int(trailers["retry-after-ms"])
        self.assertGreaterEqual(hint, 100)
        # google.rpc.Status with a RetryInfo, which says the same.
        status = status_pb.Status.FromString(trailers["grpc-status-details-bin"])
        self.assertEqual((status.code, status.message),
                         (CODES.RESOURCE_EXHAUSTED.value[0], error.details()))
        self.assertEqual([d.type_url for d in status.details],
                         ["type.googleapis.com/google.rpc.RetryInfo"])
        delay = status_pb.RetryInfo.FromString(status.details[0].value).retry_delay
        self.assertEqual(delay.seconds * 1000 + delay.nanos // 1000000, hint)
        for call in calls:
            call.cancel()
        wait_until(lambda: outcomes(self.http)["abort_client"] == 3, "the cancels to count")
        link.close()
        self.stop()

    def test_a_wait_that_is_too_long_is_rejected(self):
        self.start("--queue-wait", "300ms")
        link = dial(self.link)
        self.assertTrue(hello(link, "w1", SMALL, max_num_seqs=1).accepted)
        first = self.client.generate.future(request())
        wait_until(lambda: metrics(self.http)["medley_router_in_flight"] == 1, "one in flight")
        error = self.assert_status(CODES.RESOURCE_EXHAUSTED,
                                   lambda: self.client.generate(request()), "in time")
        self.assertIn("retry-after-ms", dict(error.trailing_metadata()))
        self.assertEqual(outcomes(self.http)["rejected"], 1)
        first.cancel()
        wait_until(lambda: outcomes(self.http)["abort_client"] == 1, "the cancel to count")
        link.close()
        self.stop()


class Limits(RouterTest):
    def connection(self):
        connection = http2.Connection(self.grpc)
        self.addCleanup(connection.close)
        return connection

    def test_streams_of_a_connection(self):
        self.start("--grpc-streams-max", "2")
        settings = self.connection().wait(http2.SETTINGS)
        found = dict(struct.unpack(">HI", settings[i:i + 6]) for i in range(0, len(settings), 6))
        self.assertEqual(found[http2.MAX_CONCURRENT_STREAMS], 2)
        worker = self.worker()
        calls = [self.client.stream(request([i], 1), timeout=120) for i in (1, 2, 3)]
        first, second = worker.next_generate(), worker.next_generate()
        self.assertEqual(metrics(self.http)["medley_router_in_flight"], 2)
        for generate in (first, second):  # the third comes when another has ended
            worker.tokens(generate, 0, [7])
            worker.finish(generate, link_pb.ENDING_LENGTH)
        third = worker.next_generate()
        worker.tokens(third, 0, [7])
        worker.finish(third, link_pb.ENDING_LENGTH)
        self.assertEqual([[t for c in call for t in c.tokens.ids] for call in calls], [[7]] * 3)
        self.stop()

    def test_an_idle_connection_is_asked_to_leave(self):
        self.start("--grpc-idle-max", "300ms")
        self.connection().wait(http2.GOAWAY)
        self.stop()

    def test_an_old_connection_is_asked_to_leave_and_its_call_goes_on(self):
        self.start("--grpc-age-max", "300ms")
        worker = self.worker()
        call = self.client.stream(request([1], 2), timeout=120)
        generate = worker.next_generate()
        self.connection().wait(http2.GOAWAY)  # younger than the client's
        worker.tokens(generate, 0, [1, 2])
        worker.finish(generate, link_pb.ENDING_LENGTH)
        self.assertEqual([t for c in call for t in c.tokens.ids], [1, 2])
        self.stop()

    def test_a_silent_connection_is_pinged_and_one_that_pings_too_much_is_closed(self):
        self.start("--grpc-keepalive", "1s")
        self.assertEqual(len(self.connection().wait(http2.PING)), 8)
        noisy = self.connection()
        for _ in range(8):
            noisy.ping()
        self.assertIn(b"too_many_pings", noisy.wait(http2.GOAWAY))
        self.worker(auto=True)
        self.assertEqual(len(self.client.generate(request(), timeout=60).choices), 1)
        self.stop()

    def test_metadata(self):
        self.start()
        self.worker(auto=True)
        self.assertEqual(len(self.client.generate(
            request(), metadata=[("x-large", "x" * (8 << 10))], timeout=60).choices), 1)
        self.assert_status(CODES.RESOURCE_EXHAUSTED, lambda: self.client.generate(
            request(), metadata=[("x-large", "x" * (20 << 10))], timeout=60))
        self.stop()

    def test_calls_without_a_message_end(self):
        """Cancelled ones count as that; those that only wait give their place back."""
        self.start()
        counted = lambda code: metrics(self.http).get(  # noqa: E731
            'medley_router_grpc_calls_total{method="medley.v1.Inference/Generate",code="%s"}' % code, 0)
        generate = self.client.channel.stream_unary("/medley.v1.Inference/Generate")
        never = threading.Event()
        self.addCleanup(never.set)

        def silence():
            never.wait()
            yield from ()
        calls = [generate.future(silence()) for _ in range(20)]
        wait_until(lambda: metrics(self.http)["medley_router_grpc_calls"] == 20, "the calls to arrive")
        for call in calls:
            call.cancel()
        waiting = generate.future(silence())
        self.worker(auto=True)
        self.assertEqual(len(self.client.generate(request(), timeout=60).choices), 1)
        wait_until(lambda: (counted("CANCELLED"), counted("OK")) == (20, 1), "the calls to end", 20)
        self.assertEqual(counted("INVALID_ARGUMENT"), 0)
        error = waiting.exception(timeout=harness.PATIENCE_S)
        self.assertEqual((error.code(), error.details()),
                         (CODES.RESOURCE_EXHAUSTED, "the client has sent no message for 30 s"))
        wait_until(lambda: counted("RESOURCE_EXHAUSTED") == 1, "it to be counted")
        self.stop()

    def test_health_cannot_take_every_place(self):
        self.start()
        self.worker(auto=True)
        watches = [self.client.health.Watch(health_pb2.HealthCheckRequest()) for _ in range(1025)]
        found = []
        for watch in watches:
            try:
                found.append(next(watch).status)
            except grpc.RpcError as error:
                found.append(error.code())
        self.assertEqual((len(found), found.count(CODES.RESOURCE_EXHAUSTED)), (1025, 1))
        self.assertEqual(len(self.client.generate(request(), timeout=60).choices), 1)
        for watch in watches:
            watch.cancel()
        # Their places are free again.
        check = lambda: self.client.health.Check(health_pb2.HealthCheckRequest())  # noqa: E731

        def is_answered():
            try:
                return check().status == health_pb2.HealthCheckResponse.SERVING
            except grpc.RpcError:
                return False
        wait_until(is_answered, "a place")
        self.stop()

    def test_priority_and_user(self):
        self.start()
        self.assert_status(CODES.INVALID_ARGUMENT,
                           lambda: self.client.generate(request(user="u" * 513)), "user", "513")
        worker = self.worker(max_num_seqs=1)
        calls = [self.client.generate.future(request([1], 1, user="one"), timeout=120)]
        running = worker.next_generate()
        for number, (prompt, priority) in enumerate(((2, 5), (3, 0), (4, -5)), 1):
            calls.append(self.client.generate.future(request([prompt], 1, priority=priority),
                                                     timeout=120))
            wait_until(lambda n=number: metrics(self.http)["medley_router_queue_depth"] == n, "it")
        order = []
        for _ in range(4):
            order.append(running.prompt[0])
            worker.tokens(running, 0, [9])
            worker.finish(running, link_pb.ENDING_LENGTH)
            running = worker.next_generate() if len(order) < 4 else None
        self.assertEqual(order, [1, 4, 3, 2])
        for call in calls:
            self.assertEqual(list(call.result().choices[0].tokens.ids), [9])
        self.stop()


class Leaving(RouterTest):
    def test_cancel_reaches_the_worker(self):
        self.start()
        worker = self.worker()
        call = self.client.stream(request())
        generate = worker.next_generate()
        worker.tokens(generate, 0, [1])
        self.assertEqual(list(next(call).tokens.ids), [1])
        call.cancel()
        cancel = worker.next_cancel()
        self.assertEqual((cancel.request, cancel.attempt), (generate.request, generate.attempt))
        # The worker did not know yet: what it says now is stale, and harms nobody.
        worker.tokens(generate, 1, [2])
        worker.finish(generate, link_pb.ENDING_CANCELLED)
        wait_until(lambda: metrics(self.http)["medley_router_stale_messages_total"] == 2, "both")
        self.assertEqual(outcomes(self.http)["abort_client"], 1)
        self.stop()

    def test_deadline(self):
        self.start()
        worker = self.worker()
        call = self.client.generate.future(request(), timeout=0.5)
        generate = worker.next_generate()
        self.assert_status(CODES.DEADLINE_EXCEEDED, call.result)
        self.assertEqual(worker.next_cancel().request, generate.request)
        self.assertEqual(outcomes(self.http)["abort_deadline"], 1)
        self.stop()

    def test_a_client_that_disconnects(self):
        self.start()
        worker = self.worker()
        other = Client(self.grpc)
        calls = [other.stream(request()) for _ in range(5)]
        generates = [worker.next_generate() for _ in calls]
        other.close()
        self.assertEqual({worker.next_cancel().request for _ in calls},
                         {g.request for g in generates})
        self.assertEqual(outcomes(self.http)["abort_client"], 5)
        self.stop()

    def test_a_slow_reader_is_ended_and_disturbs_nobody(self):
        self.start()
        worker = self.worker("w1", LARGE, max_model_len=1 << 20)
        # A client that takes nothing beyond its first window: it speaks HTTP/2 by hand.
        slow = http2.StalledCall(self.grpc, "/medley.v1.Inference/GenerateStream",
                                 request([1], 1 << 19).SerializeToString())
        self.addCleanup(slow.close)
        generate = worker.next_generate()
        position, step = 0, 4096
        while worker.cancels.empty() and position < 1 << 19:
            worker.tokens(generate, position, [1 << 30] * step)
            position += step
            time.sleep(0.005)
        self.assertEqual(worker.next_cancel().request, generate.request)
        self.assertGreater(position, 65536)
        self.router.wait_line("lags more than 65536 tokens")
        self.assertEqual(slow.wait_status(), CODES.RESOURCE_EXHAUSTED.value[0])
        worker.auto = True
        self.assertEqual(list(self.client.generate(request([1], 2)).choices[0].tokens.ids), [2, 2])
        self.assertEqual(outcomes(self.http)["abort_client"], 1)
        self.stop()


class LostWorkers(RouterTest):
    def test_before_the_first_token_it_costs_nothing(self):
        self.start()
        first = self.worker("w1")
        calls = [self.client.generate.future(request([i], 3)) for i in range(20)]
        for _ in calls:
            first.next_generate()
        self.worker("w2", auto=True)
        first.close()
        for i, call in enumerate(calls):
            self.assertEqual(list(call.result(timeout=60).choices[0].tokens.ids), [i + 1] * 3)
        samples = metrics(self.http)
        self.assertEqual(samples['medley_router_reroutes_total{reason="worker_lost"}'], 20)
        self.assertEqual(outcomes(self.http)["length"], 20)
        self.stop()

    def test_after_the_first_token_it_ends_with_unavailable_if_nothing_is_resumed(self):
        self.start("--resume", "off")
        worker = self.worker("w1")
        call = self.client.stream(request())
        generate = worker.next_generate()
        worker.tokens(generate, 0, [7, 8])
        self.assertEqual(list(next(call).tokens.ids), [7, 8])
        worker.close()
        error = self.assert_status(CODES.UNAVAILABLE, lambda: call, "worker w1 was lost after 2")
        self.assertTrue(dict(error.trailing_metadata())["x-request-id"])
        self.assertEqual(outcomes(self.http)["worker_lost"], 1)
        self.stop()

    def test_a_worker_that_refuses_is_passed_by(self):
        self.start()
        refuser = self.worker("w1")
        call = self.client.generate.future(request([1], 2))
        generate = refuser.next_generate()
        self.worker("w2", LARGE, auto=True)
        refuser.finish(generate, link_pb.ENDING_REFUSED, "full")
        self.assertEqual(call.result().worker_type, LARGE)
        self.assertEqual(
            metrics(self.http)['medley_router_reroutes_total{reason="worker_error"}'], 1)
        self.stop()

    def test_a_request_that_every_worker_fails(self):
        self.start("--attempts-max", "2")
        workers = [self.worker("w1"), self.worker("w2", LARGE)]
        call = self.client.generate.future(request())
        for worker in workers:
            worker.finish(worker.next_generate(), link_pb.ENDING_ERROR, 'no "luck"\n')
        self.assert_status(CODES.INTERNAL, call.result, "w2", "luck")
        self.assertEqual(outcomes(self.http)["error"], 1)
        self.stop()

    def test_a_request_that_cannot_be_computed_is_not_passed_on(self):
        self.start()
        first = self.worker("w1")
        call = self.client.generate.future(request([1], 2))
        generate = first.next_generate()
        self.worker("w2", LARGE, auto=True)
        first.finish(generate, link_pb.ENDING_FAILED, "no finite logit")
        self.assert_status(CODES.INTERNAL, call.result, "w1", "no finite logit")
        self.assertEqual(outcomes(self.http)["error"], 1)
        self.assertEqual(
            metrics(self.http)['medley_router_reroutes_total{reason="worker_error"}'], 0)
        self.stop()

    def test_a_silent_engine_is_lost(self):
        self.start("--suspect-after", "700ms", "--gone-after", "1s")
        silent = self.worker("w1", beat=False)
        call = self.client.generate.future(request([3], 2))
        silent.next_generate()
        wait_until(lambda: metrics(self.http).get(
            f'medley_router_workers{{worker_type="{SMALL}",state="gone"}}') == 1, "w1 to be gone")
        self.assertEqual(harness.http_get(self.http, "/health")[0], 503)
        self.worker("w2", auto=True)
        self.assertEqual(list(call.result().choices[0].tokens.ids), [4, 4])
        self.stop()


class BadWorkers(RouterTest):
    def refused(self, words, **changes):
        link = dial(self.link)
        fields = {"worker_id": "bad", "worker_type": SMALL, **changes}
        welcome = hello(link, fields.pop("worker_id"), fields.pop("worker_type"), **fields)
        self.assertFalse(welcome.accepted)
        self.assertIn(words, welcome.reason)
        self.assertEqual(link.wait_closed(), [])
        link.close()

    def test_hello_is_judged(self):
        self.start()
        good = self.worker("good", auto=True)
        self.refused("protocol version 2", version=2)
        self.refused(f'worker type is "h9000", but the plan names {SMALL}, {LARGE}',
                     worker_type="h9000")
        self.refused('model is "other", but the plan names "llama-2-7b"', model="other")
        self.refused("good is connected already", worker_id="good")
        self.refused("worker_id has 0 bytes", worker_id="")
        self.refused("worker_id has 200 bytes", worker_id="x" * 200)
        self.refused("printable ASCII", worker_id="a\nb")
        self.refused("expected at least 1", max_num_seqs=0)
        self.assertEqual(metrics(self.http)["medley_router_links_refused_total"], 8)
        self.assertEqual(list(self.client.generate(request([1], 1)).choices[0].tokens.ids), [2])
        good.close()
        wait_until(lambda: harness.http_get(self.http, "/health")[0] == 503, "good to be gone")
        self.worker("good", auto=True)  # a name is free again when its worker is gone
        self.stop()

    def test_what_is_not_a_frame_ends_the_link(self):
        self.start()
        self.worker("good", auto=True)
        rubbish = [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x04junk",
                   link_pb.Frame(ping=link_pb.Ping()).SerializeToString()]
        rubbish[-1] = len(rubbish[-1]).to_bytes(4, "big") + rubbish[-1]
        for data in rubbish:
            link = dial(self.link)
            link.send_raw(data)
            self.assertEqual(link.wait_closed(), [], data)
            link.close()
        half = dial(self.link)
        half.send_raw(b"\0\0\0\x40half")
        half.close()
        wait_until(lambda: metrics(self.http)["medley_router_links_broken_total"] == 6, "all six")
        self.assertEqual(list(self.client.generate(request([1], 1)).choices[0].tokens.ids), [2])
        self.stop()

    def broken(self, act, words):
        """A worker that breaks the protocol loses its link, and its requests go elsewhere."""
        worker = self.worker("liar")
        call = self.client.generate.future(request([1], 3))
        generate = worker.next_generate()
        other = self.worker("honest", auto=True)
        act(worker, generate)
        worker.wait_closed()
        self.assertEqual(list(call.result().choices[0].tokens.ids), [2, 2, 2])
        self.router.wait_line(words)
        other.close()
        wait_until(lambda: '"connected": 1' not in harness.http_get(self.http, "/health")[1],
                   "both to be gone")

    def test_a_worker_that_lies(self):
        self.start()
        self.broken(lambda w, g: w.tokens(g, 1, [1]), "position that is not the next")
        self.broken(lambda w, g: w.tokens(g, 0, [1] * 4), "more than asked")
        self.broken(lambda w, g: w.tokens(g, 0, []), "without tokens")
        self.broken(lambda w, g: w.finish(g, 0), "an ending that")
        self.broken(lambda w, g: w.send(generate=g), "only a router sends")
        self.broken(lambda w, g: w.link.send_raw(b"\xff" * 8), "a frame of 4294967295 bytes")
        g2 = link_pb.Generate(request=1 << 40, attempt=1)
        self.broken(lambda w, g: (w.tokens(g2, 0, [1]), w.link.send_raw(b"\0\0\0\0")),
                    "an empty frame")
        self.stop()

    def test_unix_socket(self):
        folder = tempfile.TemporaryDirectory(prefix="medley-link-")
        self.addCleanup(folder.cleanup)
        path = pathlib.Path(folder.name) / "link"
        self.start("--link-socket", path)
        worker = FakeWorker(f"unix:{path}", "w1", SMALL, auto=True)
        self.addCleanup(worker.close)
        self.assertEqual(list(self.client.generate(request([1], 1)).choices[0].tokens.ids), [2])
        self.stop()
        self.assertFalse(path.exists())


class Services(RouterTest):
    def test_health_check_and_watch(self):
        self.start()
        check = lambda name: self.client.health.Check(  # noqa: E731
            health_pb2.HealthCheckRequest(service=name)).status
        not_serving, serving = (health_pb2.HealthCheckResponse.NOT_SERVING,
                                health_pb2.HealthCheckResponse.SERVING)
        watch = self.client.health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        unknown = self.client.health.Watch(health_pb2.HealthCheckRequest(service="no"), timeout=60)
        self.assertEqual(next(watch).status, not_serving)
        self.assertEqual(next(unknown).status, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        self.assertEqual(check(""), not_serving)
        self.assert_status(CODES.NOT_FOUND, lambda: check("no"), "medley.v1.Inference")
        worker = self.worker()
        self.assertEqual(next(watch).status, serving)
        self.assertEqual(check("medley.v1.Inference"), serving)
        self.assertEqual(harness.http_get(self.http, "/health")[0], 200)
        worker.close()
        self.assertEqual(next(watch).status, not_serving)
        status, text = harness.http_get(self.http, "/health")
        self.assertEqual(status, 503)
        self.assertIn('"no_worker"', text)
        watch.cancel()
        unknown.cancel()
        self.stop()

    def test_reflection_describes_every_service(self):
        self.start()
        database = ProtoReflectionDescriptorDatabase(self.client.channel)
        services = set(database.get_services())
        self.assertEqual(services, {
            "medley.v1.Inference", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection"})
        pool = DescriptorPool(database)
        method = pool.FindServiceByName("medley.v1.Inference").FindMethodByName("GenerateStream")
        self.assertEqual(method.output_type.full_name, "medley.v1.GenerateChunk")
        request_type = pool.FindMessageTypeByName("medley.v1.GenerateRequest")
        self.assertEqual([f.name for f in request_type.fields],
                         [f.name for f in api.GenerateRequest.DESCRIPTOR.fields])
        with self.assertRaises(KeyError):
            pool.FindMessageTypeByName("medley.v1.Nothing")
        self.assertEqual(list(database.FindAllExtensionNumbers("medley.v1.Usage")), [])
        # Version 1 has the same messages under another name.
        v1 = self.client.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        # file_containing_symbol (field 4) of a method
        name = b"medley.v1.Inference.Generate"
        answers = list(v1(iter([b"\x22" + bytes([len(name)]) + name, b"\xff"[:0]])))
        self.assertEqual(len(answers), 2)
        self.assertIn(b"inference.proto", answers[0])
        self.stop()

    def test_pages(self):
        self.start()
        self.worker(auto=True)
        list(self.client.stream(request([1] * 30, 20)))
        status, text = harness.http_get(self.http, "/metrics")
        self.assertEqual(status, 200)
        for name in ("medley_router_time_to_first_token_seconds_bucket{le=\"2\"} 1",
                     "medley_plan_cost_usd_per_hour 2", "medley_router_in_flight 0",
                     'medley_router_worker_state{worker="w1",worker_type="%s",state="ready"} 1'
                     % SMALL):
            self.assertIn(name + "\n", text)
        if shutil.which("promtool"):
            subprocess.run(["promtool", "check", "metrics"], input=text, text=True, check=True)
        self.assertIn('"version"', harness.http_get(self.http, "/version")[1])
        self.assertIn('"w1"', harness.http_get(self.http, "/admin/state")[1])
        self.assertEqual(harness.http_get(self.http, "/x")[0], 404)
        self.stop()


class Draining(RouterTest):
    def test_what_was_accepted_is_finished(self):
        self.start()
        worker = self.worker()
        call = self.client.stream(request([1], 2))
        generate = worker.next_generate()
        watch = self.client.health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        while next(watch).status != health_pb2.HealthCheckResponse.SERVING:
            pass
        self.router.send_signal(signal.SIGTERM)
        self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.NOT_SERVING)
        self.assert_status(CODES.UNAVAILABLE, lambda: self.client.generate(request()), "draining")
        worker.tokens(generate, 0, [1, 2])
        worker.finish(generate, link_pb.ENDING_LENGTH)
        self.assertEqual([t for c in call for t in c.tokens.ids], [1, 2])
        self.assertEqual(call.code(), CODES.OK)
        self.assertEqual(self.router.wait(), 0)
        self.router.check_clean()

    def test_connections_get_a_goaway_and_their_streams_end_whole(self):
        self.start()
        worker = self.worker()
        idle = http2.Connection(self.grpc)
        self.addCleanup(idle.close)
        idle.wait(http2.SETTINGS)
        call = self.client.stream(request([1], 3), timeout=120)
        generate = worker.next_generate()
        worker.tokens(generate, 0, [1])
        self.router.send_signal(signal.SIGTERM)
        idle.wait(http2.GOAWAY)
        fresh = Client(self.grpc)
        self.addCleanup(fresh.close)
        self.assert_status(CODES.UNAVAILABLE, lambda: fresh.generate(request(), timeout=60))
        # The old connection may not have read its GOAWAY: gRPC core cancels what crosses it.
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.generate(request(), timeout=60)
        self.assertIn(caught.exception.code(), (CODES.UNAVAILABLE, CODES.CANCELLED))
        worker.tokens(generate, 1, [2, 3])
        worker.finish(generate, link_pb.ENDING_LENGTH)
        self.assertEqual([t for c in call for t in c.tokens.ids], [1, 2, 3])
        self.assertEqual(call.code(), CODES.OK)
        self.assertEqual(self.router.wait(), 0)
        self.router.check_clean()

    def test_a_worker_that_leaves_after_draining_is_no_warning(self):
        self.start()
        worker = self.worker("w1", auto=True)
        self.client.generate(request())
        worker.send(drain=link_pb.Drain())
        self.router.wait_line("w1 drains")
        worker.close()
        self.assertRegex(self.router.wait_line("w1 has left after draining"), r"(?i)\binfo\b")
        self.assertNotIn("is gone", self.router.output())
        self.stop()

    def test_a_worker_that_leaves_while_it_drains_is_a_warning(self):
        self.start("--resume", "off")
        worker = self.worker("w1")
        call = self.client.stream(request())
        worker.tokens(worker.next_generate(), 0, [1])
        next(call)
        worker.send(drain=link_pb.Drain())
        self.router.wait_line("w1 drains")
        worker.close()
        self.assert_status(CODES.UNAVAILABLE, lambda: call)
        self.assertRegex(self.router.wait_line("w1 is gone"), r"(?i)\bwarn")
        self.stop()

    def test_the_drain_has_an_end(self):
        self.start("--drain-timeout", "300ms")
        worker = self.worker()
        call = self.client.stream(request())
        worker.next_generate()
        self.router.send_signal(signal.SIGTERM)
        self.assert_status(CODES.UNAVAILABLE, lambda: call)
        self.assertEqual(self.router.wait(), 0)
        self.router.check_clean()

    def test_a_second_signal_ends_it(self):
        self.start()
        worker = self.worker()
        call = self.client.generate.future(request())
        worker.next_generate()
        self.router.send_signal(signal.SIGTERM)
        self.router.wait_line("draining")
        self.router.send_signal(signal.SIGTERM)
        self.assert_status(CODES.UNAVAILABLE, call.result)
        self.assertEqual(self.router.wait(), 0)
        self.router.check_clean()


class Programs(RouterTest):
    def test_a_bad_start_says_why(self):
        self.start()
        taken = ["--http-listen", "127.0.0.1:0", "--link-listen", "127.0.0.1:0"]
        infeasible = plans.plan({SMALL: 1})
        infeasible.update(status="infeasible", instances=[], workers=[], assignment=[],
                          cost_per_hour=None, lower_bound_per_hour=None, reasons=["too slow"])
        bad = self.folder / "infeasible.json"
        bad.write_text(json.dumps(infeasible))
        for words, status, args in (
                ("expected HOST:PORT", 2, [self.plan, "--grpc-listen", "nowhere", *taken]),
                ("cannot listen", 1, [self.plan, "--grpc-listen", self.grpc, *taken]),
                ("address already in use", 1, [self.plan, "--grpc-listen", "127.0.0.1:0",
                                               "--http-listen", self.http,
                                               "--link-listen", "127.0.0.1:0"]),
                ("infeasible", 3, [bad]),
                ("--gone-after", 2, [self.plan, "--gone-after", "1s", "--suspect-after", "2s"]),
                ("none.json", 2, [self.folder / "none.json"])):
            with self.subTest(words):
                got, out, err = harness.run("medley-router", *args)
                self.assertIn(words, err)
                self.assertEqual((got, out), (status, ""))
        self.stop()


class RealWorkers(RouterTest):
    """Against medley-worker, the emulated one."""
    WORKERS = {SMALL: 2}

    def start_workers(self, count, scale):
        workers = []
        for i in range(count):
            worker = Process("medley-worker", "--plan", self.plan, "--worker-type", SMALL,
                             "--router", self.link, "--worker-id", f"w{i}", "--time-scale", scale)
            self.addCleanup(worker.kill)
            workers.append(worker)
        wait_until(lambda: f'"connected": {count}' in harness.http_get(self.http, "/health")[1],
                   "the workers to connect")
        return workers

    def test_kill_in_mid_stream(self):
        # Heartbeats must not help: what ends the calls is the lost connection, at once.
        # Admission must not either: a slow machine would be seen as an overload.
        self.start("--time-scale", "10", "--suspect-after", "1h", "--gone-after", "1h",
                   "--resume", "off", "--admission", "queue")
        workers = self.start_workers(2, 10)
        first, ended, lock = {}, {}, threading.Lock()

        def one(i):
            try:
                for chunk in self.client.stream(request([1] * 50, 400), timeout=120):
                    with lock:
                        first.setdefault(i, time.monotonic())
                        del chunk
                code = CODES.OK
            except grpc.RpcError as error:
                code = error.code()
            with lock:
                ended[i] = (code, time.monotonic())

        threads = [threading.Thread(target=one, args=(i,)) for i in range(60)]
        for thread in threads[:30]:
            thread.start()
        wait_until(lambda: len(first) >= 20, "first tokens")
        for thread in threads[30:]:
            thread.start()
        with lock:
            killed = time.monotonic()
            workers[0].popen.kill()
            with_token = set(first)
        for thread in threads:
            thread.join()
        counts = outcomes(self.http)
        failed = {i for i, (code, _) in ended.items() if code != CODES.OK}
        self.assertTrue(failed, "the kill came too late to matter")
        self.assertEqual({ended[i][0] for i in failed}, {CODES.UNAVAILABLE})
        # A request is lost only if it had a token before the router knew of the kill.
        self.assertLessEqual(failed, {i for i in first})
        slowest = max(ended[i][1] for i in failed) - killed
        print(f"{len(failed)} of 60 streams lost, the last ended {slowest * 1000:.0f} ms after kill -9",
              file=sys.stderr)
        self.assertEqual(counts["worker_lost"], len(failed))
        self.assertEqual(counts["length"], 60 - len(failed))
        self.assertEqual(sum(counts.values()), 60)
        self.assertGreaterEqual(len(with_token), 20)
        self.stop()

    def test_a_thousand_streams(self):
        self.start("--time-scale", "100", "--queue-wait", "1h", "--admission", "queue")
        self.start_workers(2, 100)
        calls = [self.client.stream(request([i + 1], 20)) for i in range(1000)]
        # All are read at once: a stream that its client leaves unread is ended, as it should be.
        with concurrent.futures.ThreadPoolExecutor(len(calls)) as readers:
            counts = list(readers.map(lambda call: sum(len(c.tokens.ids) for c in call), calls))
        self.assertEqual(counts, [20] * len(calls))
        self.assertEqual(outcomes(self.http)["length"], 1000)
        self.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2)
