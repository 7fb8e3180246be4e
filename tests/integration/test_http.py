# SPDX-License-Identifier: Apache-2.0
"""The router's HTTP door, byte by byte: keep-alive, pipelining, limits, and what is refused."""
import json
import pathlib
import signal
import socket
import tempfile
import time
import unittest

import harness
import plans
from harness import PATIENCE_S, Process, wait_until

SMALL = "a10g-llama-2-7b-fp16"
CONNECTIONS_MAX = 200
GET = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"


class Connection:
    """One TCP connection that reads whole answers."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.sock = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self.data = b""

    def send(self, data):
        self.sock.sendall(data)
        return self

    def _fill(self):
        try:
            more = self.sock.recv(1 << 16)
        except ConnectionResetError:
            more = b""
        self.data += more
        return bool(more)

    def answer(self, head_only=False):
        """(status, headers, body) of the next answer; None when the server closes first."""
        while b"\r\n\r\n" not in self.data:
            if not self._fill():
                return None
        head, self.data = self.data.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = 0 if head_only else int(headers["content-length"])
        while len(self.data) < length:
            assert self._fill(), "the body is cut"
        body, self.data = self.data[:length], self.data[length:]
        return int(lines[0].split()[1]), headers, body

    def closed(self):
        while self._fill():
            pass
        return self.data == b""

    def close(self):
        self.sock.close()


class Http(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="medley-test-")
        plan = plans.write(pathlib.Path(cls.folder.name) / "plan.json", {SMALL: 2})
        doors = [a for door in ("grpc", "http", "link") for a in (f"--{door}-listen", "127.0.0.1:0")]
        cls.router = Process("medley-router", plan, *doors, "--http-connections", CONNECTIONS_MAX)
        cls.http = cls.router.wait_ready()["http"]

    @classmethod
    def tearDownClass(cls):
        try:
            cls.router.stop()
        finally:
            cls.router.kill()
            cls.folder.cleanup()

    def connect(self):
        connection = Connection(self.http)
        self.addCleanup(connection.close)
        return connection

    def test_a_router_that_stood_still_blames_no_client(self):
        slow = self.connect().send(GET[:10])
        self.assertEqual(self.connect().send(GET).answer()[0], 200)  # it has read the other one's beginning
        self.router.send_signal(signal.SIGSTOP)
        try:
            time.sleep(11)  # a head has 10 s
            slow.send(GET[10:])
        finally:
            self.router.send_signal(signal.SIGCONT)
        self.assertEqual(slow.answer()[0], 200)

    def test_keep_alive_and_pipelining(self):
        connection = self.connect()
        for _ in range(3):
            status, headers, body = connection.send(GET).answer()
            self.assertEqual((status, headers["connection"]), (200, "keep-alive"))
            self.assertEqual(json.loads(body)["program"], "medley router")
        connection.send(GET * 20)
        self.assertEqual([connection.answer()[0] for _ in range(20)], [200] * 20)

    def test_one_byte_at_a_time(self):
        connection = self.connect()
        for byte in GET:
            connection.send(bytes([byte]))
        self.assertEqual(connection.answer()[0], 200)

    def test_head_has_the_length_and_no_body(self):
        connection = self.connect()
        status, headers, _ = connection.send(
            b"HEAD /version HTTP/1.1\r\nHost: x\r\n\r\n").answer(head_only=True)
        self.assertEqual(status, 200)
        self.assertGreater(int(headers["content-length"]), 0)
        self.assertEqual(connection.send(GET).answer()[0], 200)

    def test_connection_close_is_kept(self):
        for request in (b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                        b"GET /version HTTP/1.0\r\n\r\n"):
            connection = self.connect()
            status, headers, _ = connection.send(request).answer()
            self.assertEqual((status, headers["connection"]), (200, "close"))
            self.assertTrue(connection.closed())

    def test_what_is_refused(self):
        table = [
            (b"GET /version HTTP/1.1\r\nHost : x\r\n\r\n", 400),
            (b"GET /version HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
            (b"GET /version HTTP/1.1\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
            (b"GET /version HTTP/3.0\r\nHost: x\r\n\r\n", 505),
            (b"GET /version HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20000, 431),
            (b"a" * 20000, 431),
        ]
        for request, expected in table:
            with self.subTest(request[:60]):
                connection = self.connect()
                status, headers, body = connection.send(request).answer()
                self.assertEqual((status, headers["connection"]), (expected, "close"))
                error = json.loads(body)["error"]
                self.assertEqual(error["code"], expected)
                self.assertTrue(error["message"])
                self.assertTrue(connection.closed())

    def test_pages_are_got_and_a_body_is_passed_over(self):
        connection = self.connect()
        for framing in (b"Content-Length: 3\r\n\r\nabc",
                        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"):
            status, headers, _ = connection.send(b"POST /metrics HTTP/1.1\r\nHost: x\r\n" + framing).answer()
            self.assertEqual((status, headers["allow"], headers["connection"]),
                             (405, "get, head", "keep-alive"))
        self.assertEqual(connection.send(GET).answer()[0], 200)

    def test_unknown_paths_are_404_and_the_connection_stays(self):
        connection = self.connect()
        for path in (b"/", b"/metricsx", b"//metrics", b"/../metrics"):
            status, _, _ = connection.send(
                b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n").answer()
            self.assertEqual(status, 404, path)

    def test_clients_that_vanish_leave_nothing(self):
        for _ in range(50):
            connection = self.connect()
            connection.send(GET[:20])
            connection.close()
            connection = self.connect()
            connection.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
            connection.close()
        self.assertEqual(harness.http_get(self.http, "/version")[0], 200)

    def test_connections_have_a_maximum(self):
        taken = []
        try:
            for _ in range(CONNECTIONS_MAX + 30):
                taken.append(Connection(self.http))
            refused = wait_until(lambda: next((c for c in reversed(taken) if self.is_closed(c)),
                                              None), "one to be closed")
            self.assertIn(refused, taken)
            self.assertEqual(taken[0].send(GET).answer()[0], 200)
        finally:
            for connection in taken:
                connection.close()
        wait_until(lambda: self.answers(), "the door to answer again")

    @staticmethod
    def is_closed(connection):
        connection.sock.setblocking(False)
        try:
            return connection.sock.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        finally:
            connection.sock.settimeout(PATIENCE_S)

    def answers(self):
        connection = Connection(self.http)
        try:
            connection.send(GET)
            answer = connection.answer()
            return answer is not None and answer[0] == 200
        except OSError:
            return False
        finally:
            connection.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
