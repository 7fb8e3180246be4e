# SPDX-License-Identifier: Apache-2.0
"""Hostile requests against the real router: each file of the corpus gets the answers its name says.

tests/fuzz/corpus/http_request/STATUS[+STATUS...]-open|closed-WHAT.http holds the bytes of one connection.
STATUS are the statuses of the answers, in order; open: the connection serves another request
afterwards; closed: the router has closed it.  How the bytes are cut must make no difference.  The same
files are the seeds of the fuzz target http_request.
"""
import pathlib
import random
import re
import socket
import tempfile
import time
import unittest

import plans
from harness import PATIENCE_S, ROOT, Process, http_get

CORPUS = ROOT / "tests" / "fuzz" / "corpus" / "http_request"
NAME = re.compile(r"(\d{3}(?:\+\d{3})*)-(open|closed)-[\w.-]+\.http")
GET = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
SMALL = "a10g-llama-2-7b-fp16"


class Client:
    """A TCP connection that reads answers as they are framed."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.sock = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""

    def send(self, data, cut=None):
        """cut: bytes per piece; None: all at once.  A router that has closed already is no error."""
        try:
            for at in range(0, len(data), cut or max(1, len(data))):
                self.sock.sendall(data[at:at + (cut or len(data))])
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _fill(self):
        try:
            more = self.sock.recv(1 << 16)
        except ConnectionResetError:
            more = b""
        self.data += more
        return bool(more)

    def status(self):
        """Of the next answer, its body skipped; None: the router has closed."""
        while b"\r\n\r\n" not in self.data:
            if not self._fill():
                assert not self.data, f"a cut answer: {self.data[:200]}"
                return None
        head, self.data = self.data.split(b"\r\n\r\n", 1)
        length = int(re.search(rb"(?i)\r\ncontent-length: (\d+)", head).group(1))
        while len(self.data) < length:
            assert self._fill(), "a cut body"
        self.data = self.data[length:]
        return int(re.match(rb"HTTP/1\.1 (\d{3}) ", head).group(1))

    def close(self):
        self.sock.close()


class Hostile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="medley-test-")
        plan = plans.write(pathlib.Path(cls.folder.name) / "plan.json", {SMALL: 2})
        doors = [a for door in ("grpc", "http", "link") for a in (f"--{door}-listen", "127.0.0.1:0")]
        cls.router = Process("medley-router", plan, *doors)
        cls.http = cls.router.wait_ready()["http"]

    @classmethod
    def tearDownClass(cls):
        try:
            cls.router.stop()
        finally:
            cls.router.kill()
            cls.folder.cleanup()

    def connect(self):
        client = Client(self.http)
        self.addCleanup(client.close)
        return client

    def judge(self, data, statuses, stays_open, cut):
        client = self.connect()
        client.send(data, cut)
        got = [client.status() for _ in statuses]
        self.assertEqual(got, statuses)
        if stays_open:
            client.send(GET)
            self.assertEqual(client.status(), 200)
        else:
            self.assertIsNone(client.status())
        client.close()

    def test_each_file_gets_the_answers_of_its_name(self):
        rng = random.Random(1)
        count = 0
        for path in sorted(CORPUS.glob("*.http")):
            found = NAME.fullmatch(path.name)
            self.assertIsNotNone(found, path.name)
            statuses = [int(status) for status in found.group(1).split("+")]
            data = path.read_bytes()
            for cut in (None, 1 if len(data) < 1000 else 997, rng.randint(2, 40 + len(data) // 100)):
                with self.subTest(path.name, cut=cut):
                    self.judge(data, statuses, found.group(2) == "open", cut)
            count += 1
        self.assertGreater(count, 100)

    def test_random_changes_never_hurt_the_router(self):
        """Any answer will do, or none: but the router lives, and serves others."""
        rng = random.Random(2)
        files = [path.read_bytes() for path in sorted(CORPUS.glob("*.http"))]
        for _ in range(300):
            data = bytearray(rng.choice(files)[:3000])
            for _ in range(rng.randint(1, 8)):
                at = rng.randrange(len(data))
                if rng.random() < 0.5:
                    data[at] = rng.choice(b"\0\r\n :;0aA,\x7f\xff\t")
                else:
                    data[at:at + rng.randint(0, 3)] = rng.choice((b"\r\n", b"", b"\r\n\r\n", b"0", bytes(data[:30])))
            client = self.connect()
            client.send(bytes(data))
            client.sock.shutdown(socket.SHUT_WR)
            while client._fill():  # pylint: disable=protected-access
                pass
            for head in re.findall(rb"(?m)^HTTP/1\.1 (\d{3}) ", client.data):
                self.assertIn(int(head), (200, 100, 400, 404, 405, 408, 413, 414, 417, 431, 501, 505))
            client.close()
        self.assertEqual(http_get(self.http, "/version")[0], 200)

    def test_slow_heads_and_bodies_end_while_others_are_served(self):
        slow = []
        for begin, drip in ((GET[:10], b"a"), (GET[:-2] + b"A: ", b"a"),
                            (b"POST /version HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", b"a"),
                            (b"POST /version HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n")):
            for _ in range(20):
                client = self.connect()
                client.send(begin)
                slow.append((client, drip))
        open_clients, statuses = list(slow), []
        end = time.monotonic() + PATIENCE_S
        while open_clients:
            self.assertLess(time.monotonic(), end, "a slow client is kept for ever")
            self.assertEqual(http_get(self.http, "/version")[0], 200)
            still = []
            for client, drip in open_clients:
                client.sock.setblocking(False)
                try:
                    seen = client.sock.recv(1 << 16)
                    client.data += seen
                    statuses.append(client.data[9:12])
                except BlockingIOError:
                    client.sock.setblocking(True)
                    client.send(drip)
                    still.append((client, drip))
            open_clients = still
            time.sleep(0.5)
        self.assertEqual(statuses, [b"408"] * len(slow))


if __name__ == "__main__":
    unittest.main(verbosity=2)
