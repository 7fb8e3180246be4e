# SPDX-License-Identifier: Apache-2.0
"""medley bench over HTTP, against servers that this test plays: what it sends, counts and notices."""
import json
import pathlib
import socket
import tempfile
import threading
import time
import unittest
import xml.dom.minidom

from harness import run


def event(text="x", **more):
    choice = {"index": 0, "text": text, "finish_reason": None, **more}
    return ("data: " + json.dumps({"id": "cmpl-1", "choices": [choice]}) + "\n\n").encode()


def usage(prompt, completion):
    return ("data: " + json.dumps({"choices": [], "usage": {
        "prompt_tokens": prompt, "completion_tokens": completion}}) + "\n\n").encode()


DONE = b"data: [DONE]\n\n"
HEAD = (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n")


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST = b"0\r\n\r\n"


def stream(*events):
    return HEAD + b"".join(chunk(e) for e in events) + LAST


def whole(body, status=b"200 OK", more=b""):
    body = json.dumps(body).encode() if not isinstance(body, bytes) else body
    return (b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nContent-Length: " +
            str(len(body)).encode() + b"\r\n" + more + b"\r\n" + body)


class Request:
    def __init__(self, line, headers, body):
        self.line, self.headers, self.body = line, headers, json.loads(body)
        self.at = time.monotonic()
        self.id = headers["x-request-id"]


class Server:
    """Takes connections; answer(index, request, send) sends what it likes; False closes."""

    def __init__(self, answer):
        self.answer = answer
        self.requests, self.connections = [], 0
        self.in_flight = self.peak = 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self.open = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        file = connection.makefile("rb")
        first = True
        try:
            while line := file.readline():
                headers = {}
                while (header := file.readline().strip()):
                    name, _, value = header.decode().partition(":")
                    headers[name.lower()] = value.strip()
                request = Request(line.decode().strip(), headers,
                                  file.read(int(headers["content-length"])))
                with self.lock:
                    index = len(self.requests)
                    self.requests.append(request)
                    self.connections += first
                    self.in_flight += 1
                    self.peak = max(self.peak, self.in_flight)
                first = False
                keep = self.answer(index, request, connection.sendall)
                with self.lock:
                    self.in_flight -= 1
                if keep is False:
                    break
        except OSError:
            pass
        finally:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        for connection in self.open:
            connection.close()


def bench(server, *args, status=0, api="openai", sizes=("--input-tokens", 8, "--output-tokens", 3)):
    got, out, err = run("medley-bench", "--api", api, "--url", f"http://127.0.0.1:{server.port}",
                        *sizes, "--json", *args)
    assert got == status, (got, out, err)
    return json.loads(out) if out else err


def three(_, __, send):
    send(stream(event("a"), event("b"), event("c"), event("", finish_reason="length"),
                usage(8, 3), DONE))


class Sending(unittest.TestCase):
    def test_request_carries_ids_sizes_and_seed(self):
        with Server(three) as server:
            report = bench(server, "--requests", 4, "--concurrency", 2, "--model", "m",
                           "--api-key-file", self.key())
            self.assertEqual(len(server.requests), 4)
            self.assertEqual(server.connections, 2)
        for r in server.requests:
            self.assertEqual(r.line, "POST /v1/completions HTTP/1.1")
            self.assertEqual(len(r.body["prompt"]), 8)
            self.assertEqual(r.body["max_tokens"], 3)
            self.assertTrue(r.body["stream"] and r.body["ignore_eos"])
            self.assertEqual(r.body["stream_options"], {"include_usage": True})
            self.assertEqual(r.body["model"], "m")
            self.assertEqual(r.headers["authorization"], "Bearer 0123456789abcdef")
        self.assertEqual((report["completed"], report["failed"]), (4, 0))
        self.assertEqual(report["total_output_tokens"], 12)
        self.assertEqual(report["total_input_tokens"], 32)
        self.assertEqual(report["max_concurrent_requests"], 2)
        self.assertLessEqual(server.peak, 2)

    def key(self):
        folder = tempfile.mkdtemp(prefix="medley-bench-")
        path = pathlib.Path(folder) / "key"
        path.write_text("0123456789abcdef\n")
        path.chmod(0o600)
        self.addCleanup(lambda: (path.unlink(), pathlib.Path(folder).rmdir()))
        return path

    def test_chat_sends_words_and_counts_content(self):
        def chat(_, __, send):
            deltas = [{"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"}]
            send(stream(*[b"data: " + json.dumps({"choices": [
                {"index": 0, "delta": d, "finish_reason": None}]}).encode() + b"\n\n"
                          for d in deltas], DONE))
        with Server(chat) as server:
            report = bench(server, "--requests", 2, "--concurrency", 1, api="openai-chat")
        body = server.requests[0].body
        self.assertEqual(server.requests[0].line, "POST /v1/chat/completions HTTP/1.1")
        self.assertEqual(len(body["messages"][0]["content"].split()), 8)
        self.assertEqual(report["total_output_tokens"], 4)    # no usage: events that carry text

    def test_turns_go_on_from_one_another(self):
        with Server(three) as server:
            report = bench(server, "--requests", 6, "--concurrency", 2, "--turns", 3,
                           "--think-time", "20ms", "--prefix-tokens", 5)
        self.assertEqual(report["completed"], 6)
        by_id = {r.id: r for r in server.requests}
        for conversation in (0, 3):
            turns = [by_id[f"bench-{conversation + i}"] for i in range(3)]
            prompts = [t.body["prompt"] for t in turns]
            self.assertEqual([len(p) for p in prompts], [13, 24, 35])
            for a, b in zip(prompts, prompts[1:]):
                self.assertEqual(b[:len(a)], a)
            self.assertGreater(turns[1].at - turns[0].at, 0.015)
        first = [by_id[f"bench-{i}"].body["prompt"] for i in (0, 3)]
        self.assertEqual(first[0][:5], first[1][:5])
        self.assertNotEqual(first[0][5:], first[1][5:])

    def test_a_failed_turn_ends_its_conversation(self):
        def answer(_, request, send):
            if request.id == "bench-1":
                send(whole({"error": {"message": "no"}}, b"500 Oops"))
            else:
                three(0, request, send)
        with Server(answer) as server:
            report = bench(server, "--requests", 6, "--concurrency", 1, "--turns", 3)
        self.assertEqual((report["sent"], report["completed"], report["failed"]), (5, 4, 1))
        self.assertEqual(report["statuses"], {"OK": 4, "INTERNAL": 1})


class Counting(unittest.TestCase):
    def test_every_way_to_fail_is_one_end(self):
        def answer(_, request, send):
            kind = int(request.id.removeprefix("bench-"))
            part = chunk(event("a"))
            if kind == 0:
                send(HEAD + part + LAST)                       # neither [DONE] nor a reason
            elif kind == 1:
                send(HEAD + part + chunk(event("b"))[:10])     # closed within an event
                return False
            elif kind == 2:
                send(whole({"error": {"message": "slow down", "code": None}}, b"429 Busy",
                           b"Retry-After: 1\r\n"))
            elif kind == 3:
                send(HEAD + part + chunk(b'data: {"error":{"message":"lost","code":503}}\n\n'))
                return False
            elif kind == 4:
                send(stream(event("a"), b"data: {nonsense\n\n", DONE))
            elif kind == 5:
                send(b"SSH-2.0-OpenSSH\r\n")
            elif kind == 6:
                send(whole(b"<html>", b"502 Bad Gateway"))
            elif kind == 7:
                send(whole({"detail": "Not Found"}, b"404 Not Found"))
            elif kind == 8:
                send(stream(DONE))                             # an answer without a token
            elif kind == 9:
                send(HEAD + b"zz\r\n")
            else:
                three(0, request, send)
            return True
        with Server(answer) as server:
            report = bench(server, "--requests", 14, "--concurrency", 1, "--output-tokens", 3)
        self.assertEqual((report["sent"], report["completed"], report["failed"]), (14, 4, 10))
        self.assertEqual(report["not_ended"], 0)
        self.assertEqual(report["statuses"], {
            "OK": 5, "DATA_LOSS": 2, "RESOURCE_EXHAUSTED": 1, "UNAVAILABLE": 2, "INTERNAL": 3,
            "NOT_FOUND": 1})
        self.assertEqual(report["errors"]["RESOURCE_EXHAUSTED"], "HTTP 429: slow down")
        self.assertEqual(report["failed_after_first_token"], 4)

    def test_a_kept_connection_that_closes_is_tried_once_more(self):
        def answer(index, request, send):
            if index == 1:
                return False    # the second request of a kept connection: no byte comes back
            three(0, request, send)
            return True
        with Server(answer) as server:
            report = bench(server, "--requests", 3, "--concurrency", 1)
        self.assertEqual((report["completed"], report["reconnects"]), (3, 1))
        self.assertEqual(server.requests[1].id, server.requests[2].id)

    def test_a_fresh_connection_that_closes_is_a_failure(self):
        with Server(lambda *_: False) as server:
            report = bench(server, "--requests", 2, "--concurrency", 1, status=1)
        self.assertEqual(report["statuses"], {"UNAVAILABLE": 2})
        self.assertEqual(len(server.requests), 2)

    def test_timeout_ends_a_silent_request(self):
        over = threading.Event()

        def answer(index, request, send):
            if index == 0:
                send(HEAD + chunk(event("a")))
                over.wait(60)
            else:
                three(0, request, send)
        with Server(answer) as server:
            report = bench(server, "--requests", 2, "--concurrency", 1, "--timeout", "3s")
            over.set()
        self.assertEqual(report["statuses"], {"OK": 1, "DEADLINE_EXCEEDED": 1})

    def test_answers_in_any_pieces_count_the_same(self):
        def answer(_, __, send):
            data = stream(b": ping\n\n", event("a"), event("b").replace(b"\n", b"\r\n"),
                          event("c", token_ids=[1, 2]), DONE)
            for i in range(0, len(data), 7):
                send(data[i:i + 7])
        with Server(answer) as server:
            report = bench(server, "--requests", 2, "--concurrency", 2)
        self.assertEqual(report["total_output_tokens"], 8)

    def test_whole_answers_have_no_time_between_tokens(self):
        def answer(_, __, send):
            send(whole({"choices": [{"text": "abc", "finish_reason": "length"}],
                        "usage": {"prompt_tokens": 8, "completion_tokens": 3}}))
        with Server(answer) as server:
            report = bench(server, "--requests", 2, "--concurrency", 1, "--no-stream")
        self.assertNotIn("stream", server.requests[0].body)
        self.assertEqual(report["total_output_tokens"], 6)
        self.assertIsNone(report["mean_tpot_ms"])

    def test_goodput_counts_requests_within_their_limits(self):
        def answer(_, request, send):
            if request.id == "bench-0":
                time.sleep(4)
            three(0, request, send)
        with Server(answer) as server:
            report = bench(server, "--requests", 4, "--concurrency", 1, "--goodput",
                           "ttft:3s e2e:100s")
        share = report["request_goodput"] / report["request_throughput"]
        self.assertAlmostEqual(share, 0.75)

    def test_saved_lines_are_one_for_each_request(self):
        with tempfile.TemporaryDirectory() as folder, Server(three) as server:
            path = pathlib.Path(folder) / "requests.jsonl"
            bench(server, "--requests", 5, "--concurrency", 2, "--save", path)
            lines = [json.loads(line) for line in path.read_text().splitlines()]
        self.assertEqual([line["tokens"] for line in lines], [3] * 5)
        self.assertEqual({line["status"] for line in lines}, {"OK"})


class Sweeping(unittest.TestCase):
    def test_each_load_is_a_run_a_row_and_a_point(self):
        with tempfile.TemporaryDirectory() as folder, Server(three) as server:
            plot, output = pathlib.Path(folder) / "s.svg", pathlib.Path(folder) / "s.json"
            args = ("--api", "openai", "--url", f"http://127.0.0.1:{server.port}", "--requests", 6,
                    "--input-tokens", 8, "--output-tokens", 3, "--warm-up", 2)
            status, table, err = run("medley-bench", *args, "--sweep", "concurrency=1..3x2",
                                     "--plot", plot, "--output", output)
            self.assertEqual(status, 0, err)
            points = json.loads(output.read_text())
            picture = xml.dom.minidom.parse(str(plot)).documentElement
            self.assertEqual(len(server.requests), 20)
            self.assertLessEqual(server.peak, 3)
            status, out, err = run("medley-bench", *args, "--sweep", "rate=200,400", "--json")
            self.assertEqual(status, 0, err)
        self.assertEqual([p["max_concurrency"] for p in points], [1, 2, 3])
        self.assertEqual([p["completed"] for p in points], [6] * 3)
        self.assertEqual(len(table.splitlines()), 4)
        self.assertEqual(picture.tagName, "svg")
        self.assertEqual(len(picture.getElementsByTagName("polyline")), 8)
        self.assertEqual([p["request_rate"] for p in json.loads(out)], [200, 400])


class Refusing(unittest.TestCase):
    def test_what_cannot_be_done_is_said(self):
        for args, words in (
                (("--sweep", "speed=1..4x2"), "expected concurrency= or rate="),
                (("--plot", "x.svg"), "none is asked for"),
                (("--url", "127.0.0.1:1"), "expected http://HOST:PORT"),
                (("--input-tokens", 4), "go together"),
                (("--goodput", "speed:3"), "expected ttft, tpot or e2e")):
            with Server(three) as server:
                got, _, err = run("medley-bench", "--api", "openai", "--url",
                                  f"http://127.0.0.1:{server.port}", "--requests", 1,
                                  *(() if "--input-tokens" in args else
                                    ("--input-tokens", 8, "--output-tokens", 3)),
                                  "--rate", 1, *args)
                self.assertEqual(got, 2, err)
                self.assertIn(words, err)

    def test_nobody_listens(self):
        got, _, err = run("medley-bench", "--api", "openai", "--url", "http://127.0.0.1:1",
                          "--input-tokens", 8, "--output-tokens", 3, "--concurrency", 1,
                          "--connect-timeout", "200ms")
        self.assertEqual(got, 1)
        self.assertIn("no connection within 0.2 s", err)


if __name__ == "__main__":
    unittest.main()
