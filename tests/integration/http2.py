# SPDX-License-Identifier: Apache-2.0
"""A gRPC call over HTTP/2 by hand (RFC 9113), for a client that a library would not play: it sends
one request and never gives the server a byte of window beyond the first 65,535.

Header blocks are written as literals without indexing (RFC 7541, 6.2.2), and of what comes back only
the end is looked for: the trailers' grpc-status as a literal, or the stream's reset."""
import re
import socket
import struct

from harness import PATIENCE_S

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
MAX_CONCURRENT_STREAMS = 3
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def literal(name, value):
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(
        ">I", stream) + payload


class Connection:
    """A connection without a call; `frames` yields (kind, flags, payload) until the server closes."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.sock = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self.sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))

    def ping(self):
        self.sock.sendall(frame(PING, 0, 0, b"ping" * 2))

    def frames(self):
        data = b""
        while True:
            while len(data) < 9 or len(data) < 9 + int.from_bytes(data[:3], "big"):
                try:
                    more = self.sock.recv(1 << 16)
                except ConnectionResetError:
                    more = b""
                if not more:
                    return
                data += more
            end = 9 + int.from_bytes(data[:3], "big")
            yield data[3], data[4], data[9:end]
            data = data[end:]

    def wait(self, kind, flags=0):
        """The payload of the next frame of that kind."""
        for got, got_flags, payload in self.frames():
            if (got, got_flags) == (kind, flags):
                return payload
        raise AssertionError(f"the server closed without a frame of kind {kind}")

    def close(self):
        self.sock.close()


class StalledCall:
    """One call on stream 1 whose answer is never given room."""

    def __init__(self, address, path, message):
        host, port = address.rsplit(":", 1)
        self.sock = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        headers = b"".join(literal(*h) for h in (
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", address),
            ("te", "trailers"), ("content-type", "application/grpc")))
        body = b"\0" + struct.pack(">I", len(message)) + message
        self.sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")
                          + frame(HEADERS, END_HEADERS, 1, headers)
                          + frame(DATA, END_STREAM, 1, body))
        self.data = b""

    def _take(self, count):
        while len(self.data) < count:
            more = self.sock.recv(1 << 16)
            assert more, "the server closed the connection"
            self.data += more
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def wait_status(self):
        """Reads until the trailers: the grpc-status in them. Frames of data are dropped unread."""
        while True:
            head = self._take(9)
            length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            payload = self._take(length)
            if kind == SETTINGS and not flags & ACK:
                self.sock.sendall(frame(SETTINGS, ACK, 0, b""))
            elif kind == PING and not flags & ACK:
                self.sock.sendall(frame(PING, ACK, 0, payload))
            elif kind == HEADERS and flags & END_STREAM or kind == HEADERS and b"grpc-status" in payload:
                found = re.search(rb"grpc-status[\x01\x02](\d+)", payload)
                assert found, payload
                return int(found.group(1))
            elif kind == RST_STREAM:
                raise AssertionError(f"reset without a status: {payload!r}")

    def close(self):
        self.sock.close()
