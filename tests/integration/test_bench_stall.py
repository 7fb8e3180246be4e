# SPDX-License-Identifier: Apache-2.0
"""medley bench at servers that stall: an open loop goes on, and its connections stay within the bound."""
import asyncio
import json
import resource
import signal
import socket
import subprocess
import threading
import time
import unittest

import harness
from harness import wait_until

BODY = json.dumps({"choices": [{"index": 0, "text": "word", "finish_reason": "stop"}],
                   "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}}).encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
FILES = 96  # descriptors that bench may have
OF_ITS_OWN = 32
SIZES = ("--input-tokens", 5, "--output-tokens", 1, "--no-stream")


class Server:
    """Accepts once `accepting` is set, answers once `answering` is; counts connections and requests."""

    def __init__(self, backlog):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.open = self.most = self.requests = 0
        self.tasks = set()  # the loop itself does not hold them
        self.loop = asyncio.new_event_loop()
        self.accepting, self.answering, self.stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self.accept(),))
        self.thread.start()

    async def accept(self):
        await asyncio.wait([self.loop.create_task(self.serve()), self.loop.create_task(self.stopped.wait())],
                           return_when=asyncio.FIRST_COMPLETED)
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        self.listener.close()

    async def serve(self):
        await self.accepting.wait()
        while True:
            conn, _ = await self.loop.sock_accept(self.listener)
            conn.setblocking(False)
            self.tasks.add(self.loop.create_task(self.answer(conn)))

    async def answer(self, conn):
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            reader, writer = await asyncio.open_connection(sock=conn)
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                    await reader.readexactly(int(length.split(b":")[1]))
                    self.requests += 1
                    await self.answering.wait()
                    writer.write(ANSWER)
                    await writer.drain()
            finally:
                writer.close()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1

    def go(self, event):
        self.loop.call_soon_threadsafe(event.set)

    def stop(self):
        self.go(self.stopped)
        self.thread.join()
        self.loop.close()


class Stall(unittest.TestCase):
    def serve(self, backlog=1024):
        server = Server(backlog)
        self.addCleanup(server.stop)
        if backlog > 1:
            server.go(server.accepting)
        return server

    def start(self, server, *options, files=FILES):
        """bench, with few descriptors."""
        return subprocess.Popen(
            [str(harness.BIN / "medley-bench"), "--api", "openai", "--url", server.url, "--json", "--no-progress",
             *map(str, (*SIZES, *options))],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files // 2, files)))

    def end(self, bench):
        out, err = bench.communicate(timeout=harness.PATIENCE_S)
        self.assertIsNone(harness.SANITIZER.search(err), err)
        self.assertTrue(out, err)
        return json.loads(out)

    def test_a_server_that_does_not_answer_for_a_while(self):
        server = self.serve()
        bench = self.start(server, "--rate", 1000, "--requests", 600)
        # All that the limit allows are open, and each has sent its one request.
        wait_until(lambda: server.requests == FILES - OF_ITS_OWN, "all connections")
        server.go(server.answering)
        report = self.end(bench)
        self.assertEqual((report["completed"], report["failed"]), (600, 0), report)
        self.assertEqual(server.most, FILES - OF_ITS_OWN)
        self.assertGreater(report["waited_for_connection_limit"], 0)
        self.assertEqual(server.requests, 600)

    def test_connections_that_open_slowly_hold_up_no_request(self):
        # The kernel takes a few connections and lets the rest try again, after 1 s, 3 s, 7 s.
        server = self.serve(backlog=1)
        bench = self.start(server, "--rate", 1000, "--requests", 300, files=1024)
        time.sleep(1.5)  # so long does it not accept
        server.go(server.accepting)
        server.go(server.answering)
        report = self.end(bench)
        self.assertEqual((report["completed"], report["failed"]), (300, 0), report)
        self.assertEqual(server.requests, 300)
        self.assertGreater(report["waited_for_opening"], 0)

    def test_connections_are_not_opened_all_at_once(self):
        server = self.serve()
        server.go(server.answering)
        report = self.end(self.start(server, "--concurrency", 200, "--requests", 400, files=1024))
        self.assertEqual((report["completed"], report["failed"]), (400, 0), report)
        # All 200 are due at once: those beyond the 64 that are opened at a time wait.
        self.assertGreaterEqual(report["waited_for_opening"], 200 - 64)
        self.assertEqual(report["waited_for_connection_limit"], 0)

    def test_deadlines_pass_while_calls_wait(self):
        server = self.serve()
        report = self.end(self.start(server, "--rate", 1000, "--requests", 300, "--timeout", "500ms"))
        self.assertEqual((report["completed"], report["failed"]), (0, 300), report)
        self.assertEqual(report["statuses"], {"DEADLINE_EXCEEDED": 300})
        self.assertGreater(report["waited_for_connection_limit"], 0)

    def test_a_signal_cancels_those_that_wait(self):
        server = self.serve()
        bench = self.start(server, "--concurrency", 200, "--requests", 300)
        wait_until(lambda: server.requests == FILES - OF_ITS_OWN, "all connections")
        bench.send_signal(signal.SIGINT)
        report = self.end(bench)
        self.assertTrue(report["interrupted"])
        self.assertEqual((report["sent"], report["statuses"]), (200, {"CANCELLED": 200}), report)
        self.assertEqual(report["waited_for_opening"] + report["waited_for_connection_limit"], 200 - 64)


if __name__ == "__main__":
    unittest.main()
