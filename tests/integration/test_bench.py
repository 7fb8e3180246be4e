# SPDX-License-Identifier: Apache-2.0
"""medley bench against a gRPC server that this test plays: what it counts, and what it notices."""
import concurrent.futures
import json
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
import unittest

import grpc
from grpc_tools import protoc

import harness
from harness import Process, run

WORKLOAD = harness.ROOT / "allocator" / "workloads" / "azure-conversation.json"


def _generate():
    folder = tempfile.mkdtemp(prefix="medley-inference-")
    status = protoc.main(["protoc", f"-I{harness.ROOT / 'proto'}", f"--python_out={folder}",
                          "inference.proto"])
    assert status == 0, status
    sys.path.insert(0, folder)
    import inference_pb2  # pylint: disable=import-error,import-outside-toplevel
    for file in pathlib.Path(folder).rglob("*"):
        if file.is_file():
            file.unlink()
    return inference_pb2


pb = _generate()


class Server:
    """A medley.v1.Inference whose stream is `answer(index, request, context)`."""

    def __init__(self, answer, workers=64):
        self.requests = []
        self.lock = threading.Lock()
        self.answer = answer
        handler = grpc.unary_stream_rpc_method_handler(
            self._stream, request_deserializer=pb.GenerateRequest.FromString,
            response_serializer=pb.GenerateChunk.SerializeToString)
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(workers))
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(
            "medley.v1.Inference", {"GenerateStream": handler}),))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def _stream(self, request, context):
        with self.lock:
            self.requests.append((time.monotonic(), request))
        index = int(request.request_id.removeprefix("bench-"))
        yield from self.answer(index, request, context)

    @property
    def target(self):
        return f"127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop(None).wait()


def chunk(position, count=1, **more):
    return pb.GenerateChunk(position=position, tokens=pb.TokenIds(ids=range(1, count + 1)),
                            worker_type="small", **more)


def last(tokens, counted=None):
    return pb.GenerateChunk(finish_reason=pb.FINISH_REASON_LENGTH, worker_type="small",
                            usage=pb.Usage(prompt_tokens=1, completion_tokens=counted or tokens))


def whole(_, request, __):
    """Every token that the request recorded, in chunks of up to 50."""
    tokens = request.emulated_output_tokens
    for position in range(0, tokens, 50):
        yield chunk(position, min(50, tokens - position))
    yield last(tokens)


def bench(server, *args, workload=WORKLOAD, status=0):
    got, out, err = run("medley-bench", "--target", server.target, "--workload", workload,
                        "--json", *args)
    assert got == status, (got, out, err)
    return json.loads(out)


class Counting(unittest.TestCase):
    def test_every_request_arrives_once_with_the_sizes_of_the_schedule(self):
        args = ("--requests", 200, "--rate", 2000, "--seed", 5)
        with Server(whole) as server:
            report = bench(server, *args)
            requests = {r.request_id: r for _, r in server.requests}
            self.assertEqual(len(server.requests), 200)
        status, schedule, _ = run("medley-bench", "--workload", WORKLOAD, *args, "--dry-run")
        self.assertEqual(status, 0)
        rows = [line.split(",") for line in schedule.splitlines()[1:]]
        self.assertEqual(len(rows), 200)
        for i, (_, prompt, output) in enumerate(rows):
            request = requests[f"bench-{i}"]
            self.assertEqual(len(request.tokens.ids), int(prompt))
            self.assertEqual(request.emulated_output_tokens, int(output))
            self.assertGreaterEqual(request.max_tokens, 2000)
            self.assertFalse(request.sampling.ignore_eos)
            self.assertLess(max(request.tokens.ids), 32000)
        self.assertEqual(report["completed"], 200)
        self.assertEqual(report["failed"], 0)
        self.assertEqual(report["total_input_tokens"], sum(int(r[1]) for r in rows))
        self.assertEqual(report["total_output_tokens"], sum(int(r[2]) for r in rows))
        self.assertEqual(report["other_length"], 0)
        self.assertLessEqual(report["mean_ttft_ms"], report["mean_e2el_ms"])

    def test_lengths_are_the_schedule_s_where_end_of_sequence_is_ignored(self):
        """Real workers know no recorded lengths: each request asks for its own."""
        sizes = ("--input-tokens", 4, "--output-tokens", 20, "--range-ratio", 0.5)
        with Server(whole) as server:
            for args, least in ((sizes, 0), (("--ignore-eos", *sizes), 0), (("--ignore-eos",), 0),
                                (("--ignore-eos", "--max-tokens", 25, *sizes), 25)):
                server.requests.clear()
                bench(server, "--requests", 40, "--rate", 2000, *args)
                got = [r for _, r in server.requests]
                self.assertEqual({r.sampling.ignore_eos for r in got}, {True})
                self.assertEqual([r.max_tokens for r in got],
                                 [max(least, r.emulated_output_tokens) for r in got])
                self.assertGreater(len({r.max_tokens for r in got}), 3)

    def test_report_is_written_to_a_file_as_well(self):
        for name in ("-o", "--output"):
            with tempfile.TemporaryDirectory() as folder, Server(whole) as server:
                path = pathlib.Path(folder) / "report.json"
                report = bench(server, "--requests", 3, "--arrival", "all-at-once", name, path)
                self.assertEqual(json.loads(path.read_text()), report)

    def test_same_seed_sends_the_same_prompts(self):
        seen = []
        for seed in (1, 1, 2):
            with Server(whole) as server:
                bench(server, "--requests", 5, "--rate", 1000, "--seed", seed)
                seen.append({r.request_id: list(r.tokens.ids) for _, r in server.requests})
        self.assertEqual(seen[0], seen[1])
        self.assertNotEqual(seen[0], seen[2])

    def test_lost_and_repeated_tokens_are_noticed_and_fail_the_run(self):
        def answer(index, *_):
            if index == 0:     # 1 and 2 never come
                yield from (chunk(0), chunk(3), last(4))
            elif index == 1:   # 0 comes twice
                yield from (chunk(0), chunk(0), chunk(1), last(2))
            elif index == 2:   # the end counts two more
                yield from (chunk(0), last(1, counted=3))
            elif index == 3:   # an answer without a token
                yield last(0)
            else:
                yield from (chunk(0), chunk(1, 2), last(3))
        with Server(answer) as server:
            report = bench(server, "--requests", 10, "--rate", 1000, status=1)
        self.assertEqual(report["sent"], 10)
        self.assertEqual(report["completed"], 6)
        self.assertEqual(report["failed"], 4)
        self.assertEqual(report["tokens_lost"], 4)
        self.assertEqual(report["tokens_duplicated"], 1)

    def test_errors_are_counted_by_status_with_their_sentence(self):
        def answer(index, request, context):
            if index % 3 == 0:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
            if index % 3 == 1:
                yield chunk(0)
                context.abort(grpc.StatusCode.UNAVAILABLE, "the worker was lost")
            yield from whole(index, request, context)
        with Server(answer) as server:
            report = bench(server, "--requests", 30, "--rate", 1000)
        self.assertEqual(report["completed"], 10)
        self.assertEqual(report["failed"], 20)
        self.assertEqual(report["failed_before_first_token"], 10)
        self.assertEqual(report["failed_after_first_token"], 10)
        self.assertEqual(report["statuses"],
                         {"OK": 10, "RESOURCE_EXHAUSTED": 10, "UNAVAILABLE": 10})
        self.assertEqual(report["errors"]["UNAVAILABLE"], "the worker was lost")
        self.assertEqual(report["sent"], report["completed"] + report["failed"])

    def test_garbage_is_an_error_and_not_a_crash(self):
        handler = grpc.unary_stream_rpc_method_handler(
            lambda *_: iter([b"\xff\xff\xff\xff garbage"]))
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(
            "medley.v1.Inference", {"GenerateStream": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        status, out, _ = run("medley-bench", "--target", f"127.0.0.1:{port}", "--workload",
                             WORKLOAD, "--requests", 5, "--rate", 1000, "--json")
        server.stop(None).wait()
        self.assertEqual(status, 1)
        report = json.loads(out)
        self.assertEqual(report["failed"], 5)
        self.assertIn("not a medley.v1.GenerateChunk", report["errors"]["INTERNAL"])

    def test_closed_loop_never_has_more_requests_open_than_users(self):
        open_now, most = [0], [0]
        lock = threading.Lock()

        def answer(index, request, context):
            with lock:
                open_now[0] += 1
                most[0] = max(most[0], open_now[0])
            time.sleep(0.01)
            with lock:
                open_now[0] -= 1
            yield from whole(index, request, context)
        with Server(answer) as server:
            report = bench(server, "--requests", 60, "--arrival", "all-at-once",
                           "--max-concurrency", 4)
        self.assertEqual(report["completed"], 60)
        self.assertEqual(report["max_concurrent_requests"], 4)
        self.assertLessEqual(most[0], 4)

    def test_trace_is_replayed_row_by_row(self):
        with tempfile.TemporaryDirectory() as folder, Server(whole) as server:
            log = pathlib.Path(folder) / "log.csv"
            log.write_text("arrival_s,input_tokens,output_tokens\n"
                           "0,5,1\n0.05,6,2\n0.1,7,3\n")
            status, out, err = run("medley-bench", "--target", server.target, "--trace", log,
                                   "--requests", 3, "--json", "--save",
                                   pathlib.Path(folder) / "requests.jsonl")
            self.assertEqual(status, 0, err)
            rows = [json.loads(line) for line in
                    (pathlib.Path(folder) / "requests.jsonl").read_text().splitlines()]
        self.assertEqual([r["input_tokens"] for r in rows], [5, 6, 7])
        self.assertEqual([r["tokens"] for r in rows], [1, 2, 3])
        self.assertEqual([r["due_s"] for r in rows], [0, 0.05, 0.1])
        report = json.loads(out)
        self.assertEqual(report["arrival"], "trace")
        self.assertEqual(report["total_output_tokens"], 6)


class Trouble(unittest.TestCase):
    def test_a_server_that_goes_silent_is_given_up(self):
        release = threading.Event()

        def answer(index, *_):
            yield chunk(0)
            if index == 0:
                release.wait(harness.PATIENCE_S)
            yield last(1)
        with Server(answer) as server:
            report = bench(server, "--requests", 3, "--rate", 1000, "--stall-timeout", "1s")
            release.set()
        self.assertTrue(report["stalled"])
        self.assertEqual(report["completed"], 2)
        self.assertEqual(report["statuses"]["CANCELLED"], 1)

    def test_first_signal_reports_what_was_seen(self):
        with Server(whole) as server, \
                Process("medley-bench", "--target", server.target, "--workload", WORKLOAD,
                        "--requests", 100000, "--rate", 50, "--json") as process:
            harness.wait_until(lambda: len(server.requests) > 5, "some requests")
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(), 0)
            report = json.loads("\n".join(process.stdout))
        self.assertTrue(report["interrupted"])
        self.assertGreater(report["completed"], 0)
        self.assertEqual(report["sent"], report["completed"] + report["failed"])
        self.assertLess(report["sent"], report["planned"])

    def test_nobody_listens(self):
        status, out, err = run("medley-bench", "--target", f"127.0.0.1:{harness.free_port()}",
                               "--workload", WORKLOAD, "--requests", 1, "--connect-timeout",
                               "300ms")
        self.assertEqual((status, out), (1, ""))
        self.assertRegex(err, r"no connection within 0\.3 s; is a router listening there\?")

    def test_shipped_workloads_are_found_in_the_data_folder(self):
        sent = run("medley-bench", "--workload", WORKLOAD, "--requests", 20, "--dry-run")
        self.assertEqual((sent[0], sent[1].count("\n")), (0, 21), sent)
        named = ["--workload", "azure-conversation", "--requests", 20, "--dry-run"]
        self.assertEqual(run("medley-bench", *named, "--data-dir", harness.ROOT), sent)
        env = {**os.environ, "MEDLEY_DATA_DIR": str(harness.ROOT)}
        self.assertEqual(run("medley-bench", *named, env=env), sent)
        with tempfile.TemporaryDirectory() as folder:
            status, out, err = run("medley-bench", *named, "--data-dir", folder)
        self.assertEqual((status, out), (2, ""))
        self.assertIn(folder, err)

    def test_infeasible_plan_is_status_3(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "plan.json"
            status, _, err = run("medley-plan", "azure-conversation", "--data-dir", harness.ROOT,
                                 "--model", "llama-2-7b", "--slo", "tpot.mean=1ms", "-o", path)
            self.assertEqual(status, 3, err)
            status, out, err = run("medley-bench", "--plan", path)
        self.assertEqual((status, out), (3, ""))
        self.assertIn("an infeasible plan has no fleet to drive", err)

    def test_wrong_input_is_one_sentence_and_status_2(self):
        cases = [
            ([], "give --plan, --workload, --trace, or"),
            (["--workload", "/nonexistent.json"], "/nonexistent.json"),
            (["--workload", WORKLOAD, "--arrival", "gamma", "--burstiness", "0"], "burstiness"),
            (["--workload", WORKLOAD, "--arrival", "trace"], "request log"),
            (["--workload", WORKLOAD, "--slo", "tpot.p99=1ms"], "--slo"),
            (["--workload", WORKLOAD, "--rate", "0"], "rate of 0"),
            (["--plan", WORKLOAD], "medley-plan/1"),
        ]
        for args, sentence in cases:
            status, out, err = run("medley-bench", *args)
            self.assertEqual((status, out), (2, ""), args)
            self.assertEqual(len(err.strip().splitlines()), 1, err)
            self.assertIn(sentence, err)


if __name__ == "__main__":
    unittest.main()
