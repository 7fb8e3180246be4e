# SPDX-License-Identifier: Apache-2.0
"""The worker link in Python: frames over sockets, and a router that a test plays by hand."""
import socket
import struct

from harness import PATIENCE_S, proto_module

pb = proto_module("link")


class Closed(Exception):
    """The peer has closed the connection."""


class Link:
    """One connection: frames in and out. Every wait ends after PATIENCE_S."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(PATIENCE_S)
        self.data = b""

    def send(self, **body):
        message = pb.Frame(**body).SerializeToString()
        self.sock.sendall(struct.pack(">I", len(message)) + message)

    def send_raw(self, data):
        self.sock.sendall(data)

    def _fill(self, count):
        while len(self.data) < count:
            try:
                more = self.sock.recv(1 << 16)
            except ConnectionResetError:
                more = b""
            if not more:
                raise Closed()
            self.data += more

    def receive(self):
        """The next frame."""
        self._fill(4)
        (length,) = struct.unpack(">I", self.data[:4])
        self._fill(4 + length)
        frame = pb.Frame.FromString(self.data[4:4 + length])
        self.data = self.data[4 + length:]
        return frame

    def receive_body(self, kind):
        """The next frame of that kind; Stats in between are passed over, others are an error."""
        while True:
            frame = self.receive()
            got = frame.WhichOneof("body")
            if got == kind:
                return getattr(frame, kind)
            assert got == "stats", f"got {got}, expected {kind}: {frame}"

    def wait_closed(self):
        """Reads on until the peer closes; returns the frames on the way."""
        frames = []
        try:
            while True:
                frames.append(self.receive())
        except Closed:
            return frames

    def collect(self, requests):
        """Reads until each of the requests has its Finish: {request: ([ids], Finish)}.

        Checks what the protocol promises: positions without gap or repeat, nothing after the
        Finish, no request but these."""
        ids = {r: [] for r in requests}
        finishes = {}
        while len(finishes) < len(ids):
            frame = self.receive()
            kind = frame.WhichOneof("body")
            if kind == "tokens":
                assert frame.tokens.request not in finishes, frame
                assert frame.tokens.position == len(ids[frame.tokens.request]), frame
                assert frame.tokens.ids, frame
                ids[frame.tokens.request].extend(frame.tokens.ids)
            elif kind == "finish":
                assert frame.finish.request in ids, frame
                assert frame.finish.request not in finishes, frame
                finishes[frame.finish.request] = frame.finish
            else:
                assert kind == "stats", frame
        return {r: (ids[r], finishes[r]) for r in ids}

    def close(self):
        self.sock.close()


class Router:
    """Listens as a router does; the test answers by hand."""

    def __init__(self, path=None, port=0):
        if path:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(path)
            self.address = f"unix:{path}"
        else:
            self.listener = socket.socket()
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind(("127.0.0.1", port))
            self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.listener.listen(16)
        self.listener.settimeout(PATIENCE_S)
        self.links = []

    def accept(self):
        """A connection that has said nothing yet."""
        link = Link(self.listener.accept()[0])
        self.links.append(link)
        return link

    def welcome(self, **changes):
        """Accepts, reads Hello, answers Welcome: (link, hello)."""
        link = self.accept()
        hello = link.receive_body("hello")
        link.send(welcome=pb.Welcome(**{"version": 1, "accepted": True, "stats_interval_ms": 1000,
                                        **changes}))
        return link, hello

    def close(self):
        self.listener.close()
        for link in self.links:
            link.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()
