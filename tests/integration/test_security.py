# SPDX-License-Identifier: Apache-2.0
"""TLS and keys: the gRPC door with grpcio, the worker link with real workers and bare sockets."""
import http.client
import json
import pathlib
import shutil
import signal
import socket
import ssl
import sys
import time
import unittest
import warnings

import grpc
from grpc_health.v1 import health_pb2

import harness
import plans
from certificates import Authority
from fake_worker import hello
from harness import Process, wait_until
from link import Closed, Link, pb as link_pb
from test_grpc import CODES, SMALL, Client, RouterTest, api, request

KEY_A, KEY_B = "sk-alpha-0123456789abcdef", "sk-beta-0123456789abcdef"
TOKEN_A, TOKEN_B = "token-alpha-0123456789", "token-beta-0123456789"


class SecureClient(Client):
    """As Client, over TLS, with a key."""

    def __init__(self, address, ca, key=None):
        super().__init__(address, grpc.ssl_channel_credentials(ca.read_bytes()))
        self.metadata = [("authorization", f"Bearer {key}")] if key else None

    def ask(self, **fields):
        return self.generate(request([10, 20], 2, **fields), metadata=self.metadata, timeout=60)


def subject(address, ca):
    """The common name of the certificate that a server presents, verified."""
    context = ssl.create_default_context(cafile=ca)
    host, port = address.rsplit(":", 1)
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, int(port)), timeout=60) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as tls:
            return dict(pair[0] for pair in tls.getpeercert()["subject"])["commonName"]


class SecurityTest(RouterTest):
    def files(self):
        """A folder with an authority; called before start."""
        import tempfile  # pylint: disable=import-outside-toplevel
        folder = tempfile.TemporaryDirectory(prefix="medley-tls-")
        self.addCleanup(folder.cleanup)
        self.secrets = pathlib.Path(folder.name)
        self.authority = Authority(self.secrets)
        return self.secrets

    def install(self, pair, name="server"):
        """Puts a certificate and its key where the router's options say; returns the paths."""
        paths = self.secrets / f"{name}-in-use.pem", self.secrets / f"{name}-in-use.key"
        for source, target in zip(pair, paths):
            shutil.copy(source, target)
        return paths

    def secret_file(self, name, *lines):
        path = self.secrets / name
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)
        return path

    def reload(self, expected):
        """SIGHUP, and the line that it must leave; counted, for a test may reload twice."""
        seen = sum(expected in line for line in self.router.stderr)
        self.router.send_signal(signal.SIGHUP)
        wait_until(lambda: sum(expected in line for line in self.router.stderr) > seen, expected)

    def assert_silent_about(self, *secrets):
        for line in [*self.router.stdout, *self.router.stderr]:
            for secret in secrets:
                self.assertNotIn(secret, line)


class GrpcTls(SecurityTest):
    def start_tls(self, *options, auto=True):
        self.files()
        certificate, key = self.install(self.authority.server("first"))
        self.start("--tls-certificate", certificate, "--tls-key", key, *options)
        self.only_worker = self.worker(auto=auto)
        client = SecureClient(self.grpc, self.authority.pem)
        self.addCleanup(client.close)
        return client

    def test_new_connections_get_the_new_certificate_and_open_ones_stay(self):
        client = self.start_tls(auto=False)
        call = client.stream(request([1], 2), timeout=120)
        generate = self.only_worker.next_generate()
        self.assertEqual(subject(self.grpc, self.authority.pem), "first")
        self.install(self.authority.server("second"))
        self.reload("the doors' certificate is in force")
        self.assertEqual(subject(self.grpc, self.authority.pem), "second")
        self.only_worker.tokens(generate, 0, [1, 2])
        self.only_worker.finish(generate, link_pb.ENDING_LENGTH)
        self.assertEqual([t for c in call for t in c.tokens.ids], [1, 2])
        # What is broken is refused, with a line that says what, and the old one stays.
        for name, text in (("server-in-use.pem", "garbage"), ("server-in-use.key", "garbage")):
            good = (self.secrets / name).read_text()
            (self.secrets / name).write_text(text)
            self.reload(f"{name}")
            (self.secrets / name).write_text(good)
            self.assertEqual(subject(self.grpc, self.authority.pem), "second")
        shutil.copy(self.secrets / "first.key", self.secrets / "server-in-use.key")
        self.reload("the old one stays in force")
        self.assertEqual(subject(self.grpc, self.authority.pem), "second")
        self.router.stop()  # its metrics are behind TLS too

    def test_a_client_without_tls_gets_nowhere_and_hurts_nobody(self):
        client = self.start_tls()
        self.assert_status(CODES.UNAVAILABLE, lambda: self.client.generate(request(), timeout=60))
        host, port = self.grpc.rsplit(":", 1)
        for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 64, b"\x00"):
            with socket.create_connection((host, int(port)), timeout=60) as plain:
                plain.sendall(junk)
        self.assertEqual(len(client.ask().choices), 1)
        self.router.stop()  # its metrics are behind TLS too

    def test_old_protocol_versions_are_refused(self):
        self.start_tls()
        context = ssl.create_default_context(cafile=self.authority.pem)
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        host, port = self.grpc.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=60) as plain:
            with self.assertRaises((ssl.SSLError, ConnectionError)):
                context.wrap_socket(plain, server_hostname="localhost")


class HttpTls(SecurityTest):
    def start_tls(self, *options):
        self.files()
        certificate, key = self.install(self.authority.server("first"))
        self.start("--tls-certificate", certificate, "--tls-key", key, *options)
        self.context = ssl.create_default_context(cafile=self.authority.pem)

    def dial(self):
        host, port = self.http.rsplit(":", 1)
        plain = socket.create_connection((host, int(port)), timeout=60)
        self.addCleanup(plain.close)
        return plain

    def connect(self, session=None):
        tls = self.context.wrap_socket(self.dial(), server_hostname="localhost", session=session)
        self.addCleanup(tls.close)
        return tls

    @staticmethod
    def answers(tls, count=1):
        """Reads so many answers with a Content-Length; (status, body) of each."""
        found, data = [], b""
        while len(found) < count:
            head, split, rest = data.partition(b"\r\n\r\n")
            length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n")
                           if line.lower().startswith(b"content-length:")), 0)
            if split and len(rest) >= length:
                found.append((int(head.split()[1]), rest[:length]))
                data = rest[length:]
                continue
            more = tls.recv(1 << 16)
            assert more, f"the connection ended after {data!r}"
            data += more
        return found

    GET = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def test_pages_over_tls_whatever_the_records(self):
        self.start_tls()
        tls = self.connect()
        self.assertIn(tls.version(), ("TLSv1.2", "TLSv1.3"))
        for byte in self.GET:  # a record each
            tls.sendall(bytes([byte]))
        self.assertEqual(self.answers(tls)[0][0], 200)
        tls.sendall(self.GET * 50)  # pipelined
        self.assertEqual([status for status, _ in self.answers(tls, 50)], [200] * 50)
        tls.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        self.assertIn(b"medley_router_accepted_total", self.answers(tls)[0][1])
        self.assertEqual(tls.recv(1), b"")  # with TLS's goodbye, or this would raise
        again = self.connect(tls.session)
        self.assertTrue(again.session_reused)
        again.sendall(self.GET)
        self.assertEqual(self.answers(again)[0][0], 200)
        # A body of many records, larger than what is read ahead.
        again.sendall(b"POST /version HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\n"
                      + b"x" * 400000 + self.GET)
        self.assertEqual([status for status, _ in self.answers(again, 2)], [405, 200])
        self.stop_tls()

    def stop_tls(self):
        self.router.stop()

    def test_reload_serves_old_connections_on_and_new_ones_with_the_new(self):
        self.start_tls()
        tls = self.connect()
        self.install(self.authority.server("second"))
        self.reload("the doors' certificate is in force")
        tls.sendall(self.GET)
        self.assertEqual(self.answers(tls)[0][0], 200)
        names = [dict(pair[0] for pair in c.getpeercert()["subject"])["commonName"]
                 for c in (tls, self.connect())]
        self.assertEqual(names, ["first", "second"])
        self.stop_tls()

    def test_protocols_that_are_not_spoken_are_refused(self):
        self.start_tls()
        self.context.set_alpn_protocols(["h2"])
        self.assertRaises(ssl.SSLError, self.connect)
        self.context.set_alpn_protocols(["h2", "http/1.1"])
        self.assertEqual(self.connect().selected_alpn_protocol(), "http/1.1")
        old = ssl.create_default_context(cafile=self.authority.pem)
        old.set_ciphers("DEFAULT@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with self.assertRaises((ssl.SSLError, ConnectionError)):
            old.wrap_socket(self.dial(), server_hostname="localhost")
        self.stop_tls()

    def test_garbage_half_handshakes_and_cuts_hurt_nobody(self):
        self.start_tls()
        recorded = ssl.MemoryBIO()
        half = self.context.wrap_bio(ssl.MemoryBIO(), recorded, server_hostname="localhost")
        self.assertRaises(ssl.SSLWantReadError, half.do_handshake)
        client_hello = recorded.read()
        for junk in (self.GET, b"\x16\x03\x01\xff\xff", client_hello[:40], client_hello,
                     client_hello + b"junk" * 100, b"\x15\x03\x03\x00\x02\x02\x28"):
            self.dial().sendall(junk)
        cut = self.connect()
        cut.sendall(self.GET[:20])
        cut.shutdown(socket.SHUT_RDWR)  # the TCP connection, under TLS
        slow = self.dial()
        for i in range(0, len(client_hello), 7):
            slow.sendall(client_hello[i:i + 7])
        self.assertEqual(slow.recv(1), b"\x16")  # it answers: a handshake record
        tls = self.connect()
        tls.sendall(self.GET)
        self.assertEqual(self.answers(tls)[0][0], 200)
        self.stop_tls()


class HttpKeys(SecurityTest):
    def get(self, path, *headers):
        connection = http.client.HTTPConnection(self.http, timeout=60)
        self.addCleanup(connection.close)
        connection.request("GET", path, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()

    def test_keys_are_asked_for_but_by_pages_for_machines(self):
        self.files()
        self.start("--api-key-file", self.secret_file("keys", KEY_A))
        for path in ("/metrics", "/version", "/admin"):
            self.assertEqual(self.get(path)[0], 200, path)
        self.assertEqual(self.get("/health")[0], 503)
        for wrong in ((), (("Authorization", f"Bearer {KEY_B}"),), (("Authorization", KEY_A),),
                      (("X-Api-Key", KEY_A),)):
            status, headers, body = self.get("/v1/anything", *wrong)
            self.assertEqual((status, headers["WWW-Authenticate"]), (401, "Bearer"))
            error = json.loads(body)["error"]
            self.assertEqual((error["type"], error["code"], error["param"]),
                             ("invalid_request_error", "invalid_api_key", None))
            self.assertIn("Authorization: Bearer", error["message"])
        self.assertEqual(self.get("/v1/anything", ("Authorization", f"Bearer {KEY_A}"))[0], 404)
        self.secret_file("keys", KEY_B)
        self.reload("--api-key-file: 1 in force")
        self.assertEqual(self.get("/v1/anything", ("Authorization", f"Bearer {KEY_A}"))[0], 401)
        self.stop()
        self.assert_silent_about(KEY_A, KEY_B)


class GrpcKeys(SecurityTest):
    def with_key(self, key, **fields):
        metadata = [("authorization", key)] if key else None
        return self.client.generate(request([10, 20], 2, **fields), metadata=metadata, timeout=60)

    def test_keys_are_asked_for_and_reloaded_and_never_logged(self):
        self.files()
        path = self.secret_file("keys", "# ours", KEY_A)
        self.start("--api-key-file", path, "--grpc-listen", "127.0.0.1:0")
        self.worker(auto=True)
        self.assertEqual(len(self.with_key(f"Bearer {KEY_A}").choices), 1)
        for wrong in (None, f"Bearer {KEY_B}", f"Bearer {KEY_A}x", f"Bearer {KEY_A[:-1]}", KEY_A,
                      "Bearer ", f"Basic {KEY_A}"):
            self.assert_status(CODES.UNAUTHENTICATED, lambda key=wrong: self.with_key(key),
                               "Authorization: Bearer")
        self.assert_status(CODES.UNAUTHENTICATED,
                           lambda: self.client.stream(request([1], 1), timeout=60))
        # Health and metrics need none.
        wait_until(lambda: self.client.health.Check(health_pb2.HealthCheckRequest()).status
                   == health_pb2.HealthCheckResponse.SERVING, "the router to be healthy")
        self.assertIn('code="UNAUTHENTICATED"', harness.http_get(self.http, "/metrics")[1])
        # Rotation: both, then the new one alone.
        self.secret_file("keys", KEY_A, KEY_B)
        self.reload("--api-key-file: 2 in force")
        for key in (KEY_A, KEY_B):
            self.assertEqual(len(self.with_key(f"Bearer {key}").choices), 1)
        self.secret_file("keys", KEY_B)
        self.reload("--api-key-file: 1 in force")
        self.assert_status(CODES.UNAUTHENTICATED, lambda: self.with_key(f"Bearer {KEY_A}"))
        self.assertEqual(len(self.with_key(f"Bearer {KEY_B}").choices), 1)
        self.secret_file("keys", "short")
        self.reload("line 1: found 5 characters, expected 16 to 256; the old ones stay")
        self.assertEqual(len(self.with_key(f"Bearer {KEY_B}").choices), 1)
        path.write_text(KEY_B + "\n")
        path.chmod(0o644)
        self.reload("every user of this machine may read the file")
        self.stop()
        self.assert_silent_about(KEY_A, KEY_B)


class WorkerLink(SecurityTest):
    """The router's link with TLS and a token; workers are the real program."""

    def start_link(self, *options):
        self.files()
        certificate, key = self.install(self.authority.server("router"), "link")
        self.token = self.secret_file("token", TOKEN_A)
        self.start("--link-tls-certificate", certificate, "--link-tls-key", key,
                   "--link-token-file", self.token, *options)

    def real_worker(self, *options, address=None):
        worker = Process("medley-worker", "--plan", self.plan, "--worker-type", SMALL, "--router",
                         address or self.link, "--worker-id", "real", *options)
        self.addCleanup(worker.kill)
        return worker

    def tls_link(self):
        context = ssl.create_default_context(cafile=self.authority.pem)
        host, port = self.link.rsplit(":", 1)
        plain = socket.create_connection((host, int(port)), timeout=60)
        self.addCleanup(plain.close)
        link = Link(context.wrap_socket(plain, server_hostname="localhost"))
        self.addCleanup(link.sock.close)
        return link

    def generate(self, prompt=(10, 20), tokens=40):
        return self.client.generate(request(list(prompt), tokens), timeout=120)

    def test_a_worker_serves_over_tls_and_survives_a_reload(self):
        self.start_link()
        worker = self.real_worker("--router-ca", self.authority.pem, "--link-token-file", self.token)
        worker.wait_line("connected")
        self.assertEqual(len(self.generate().choices[0].tokens.ids), 40)
        # A prompt of several records, and a new certificate while the link is up.
        self.install(self.authority.server("renewed"), "link")
        self.reload("the link's certificate is in force")
        worker.send_signal(signal.SIGHUP)
        worker.wait_line("SIGHUP")
        answer = self.generate([i % 31000 for i in range(12000)], 3)
        self.assertEqual(len(answer.choices[0].tokens.ids), 3)
        self.assertEqual(sum("connected" in line for line in worker.stderr), 1)
        worker.stop()
        self.stop()
        self.assert_silent_about(TOKEN_A)

    def test_workers_that_do_not_fit_are_refused_with_the_reason(self):
        self.start_link()
        other = Authority(self.secrets, "other")
        wrong = self.secret_file("wrong", TOKEN_B)
        cases = (
            (("--router-ca", other.pem, "--link-token-file", self.token), None,
             "certificate is refused"),
            (("--link-token-file", self.token), None, "closed the connection|reset"),
            (("--router-ca", self.authority.pem), None, "wants a token"),
            (("--router-ca", self.authority.pem, "--link-token-file", wrong), None,
             "token is not one of"),
        )
        for options, address, line in cases:
            with self.real_worker(*options, address=address) as worker:
                worker.wait_line(line)
                worker.stop()
        self.router.wait_line("refused: its token is not one of this router's")
        self.assert_silent_about(TOKEN_A, TOKEN_B)
        self.stop()

    def test_a_certificate_for_another_name_is_refused(self):
        self.files()
        certificate, key = self.authority.server("elsewhere", "DNS:elsewhere.example")
        self.start("--link-tls-certificate", certificate, "--link-tls-key", key)
        with self.real_worker("--router-ca", self.authority.pem) as worker:
            worker.wait_line("certificate is refused: .*IP address mismatch")
            worker.stop()
        self.stop()

    def test_a_unix_socket_needs_no_tls_but_the_token(self):
        path = pathlib.Path(f"/tmp/medley-sec-{self.id().rsplit('.', 1)[1][:20]}-{time.time_ns()}")
        self.start_link("--link-socket", path)
        with self.real_worker("--router-ca", self.authority.pem, "--link-token-file", self.token,
                              address=f"unix:{path}") as worker:
            worker.wait_line("connected")
            self.assertEqual(len(self.generate(tokens=5).choices[0].tokens.ids), 5)
            worker.stop()
        self.stop()

    def test_hello_in_single_bytes_and_a_cut_connection(self):
        self.start_link()
        link = self.tls_link()
        frame = link_pb.Frame(hello=link_pb.Hello(
            version=1, worker_id="bytes", incarnation=1, worker_type=SMALL, model="llama-2-7b",
            max_model_len=16384, max_num_seqs=64, kv_tokens=1 << 20, program_version="x",
            backend="fake", token=TOKEN_A.encode())).SerializeToString()
        for byte in len(frame).to_bytes(4, "big") + frame:
            link.send_raw(bytes([byte]))  # a record each
        self.assertTrue(link.receive_body("welcome").accepted)
        self.router.wait_line("worker bytes")
        # Without TLS's goodbye: the TCP connection ends under it.
        link.sock.shutdown(socket.SHUT_RDWR)
        self.router.wait_line("ended without TLS's goodbye")
        self.stop()

    def test_tokens_that_are_nearly_right_are_refused(self):
        self.start_link()
        for wrong in (b"", TOKEN_A[:-1].encode(), TOKEN_A.encode() + b"\0", TOKEN_A.encode() + b"x",
                      b"x" * 5000, TOKEN_B.encode()):
            link = self.tls_link()
            welcome = hello(link, "w", SMALL, token=wrong)
            self.assertFalse(welcome.accepted)
            self.assertIn("token", welcome.reason)
            self.assertRaises(Closed, link.receive)
        self.secret_file("token", TOKEN_A, TOKEN_B)
        self.reload("--link-token-file: 2 in force")
        link = self.tls_link()
        self.assertTrue(hello(link, "w", SMALL, token=TOKEN_B.encode()).accepted)
        self.stop()

    def test_garbage_and_silence_before_the_handshake(self):
        self.start_link()
        host, port = self.link.rsplit(":", 1)
        idle = socket.create_connection((host, int(port)), timeout=60)
        self.addCleanup(idle.close)
        for junk in (b"\0\0\0\4junk", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00" + b"\0" * 512):
            with socket.create_connection((host, int(port)), timeout=60) as plain:
                plain.sendall(junk)
                plain.settimeout(60)
                try:
                    while plain.recv(4096):
                        pass
                except ConnectionResetError:
                    pass
        self.router.wait_line("closed before it was opened: TLS: ")
        self.assertTrue(hello(self.tls_link(), "w", SMALL, token=TOKEN_A.encode()).accepted)
        self.stop()


class Clients(SecurityTest):
    """medley ask and medley bench, over TLS and with a key."""

    def run_tool(self, program, *options):
        return harness.run(program, "--target", self.grpc, *options)

    def test_tools_speak_tls_and_present_a_key(self):
        self.files()
        certificate, key = self.authority.server("door")
        path = self.secret_file("keys", KEY_A)
        self.start("--tls-certificate", certificate, "--tls-key", key, "--api-key-file", path)
        self.worker(auto=True)
        bench = ("medley-bench", "--plan", self.plan, "--requests", 5, "--max-tokens", 4, "--arrival", "all-at-once")
        right = ("--tls-ca", self.authority.pem, "--api-key-file", path)
        status, text, messages = self.run_tool(*bench, *right)
        self.assertEqual(status, 0, messages)
        self.assertRegex(text, r"Successful requests:\s+5\b")
        # ask sends text, which this router cannot encode: but it got that far.
        status, _, messages = self.run_tool("medley-ask", *right, "--raw", "hello")
        self.assertEqual(status, 2, messages)
        self.assertIn("INVALID_ARGUMENT", messages)
        wrong = self.secret_file("wrong", KEY_B)
        other = Authority(self.secrets, "other")
        for options, line in (
                (("--tls-ca", self.authority.pem), "UNAUTHENTICATED"),
                (("--tls-ca", self.authority.pem, "--api-key-file", wrong), "UNAUTHENTICATED"),
                (("--tls-ca", other.pem, "--api-key-file", path), "no connection"),
                (("--tls-ca", self.secrets / "none.pem"), "--tls-ca"),
                (("--tls-ca", path), "expected PEM certificates"),
                (("--api-key-file", self.secrets / "none"), "--api-key-file")):
            status, _, messages = self.run_tool("medley-ask", *options, "--raw", "hello",
                                                "--connect-timeout", "2s")
            self.assertIn(status, (1, 2), messages)
            self.assertIn(line, messages)
            self.assertNotIn(KEY_B, messages)
        self.stop_secure()

    def stop_secure(self):
        self.router.stop()
        self.assert_silent_about(KEY_A, KEY_B)


class Usage(SecurityTest):
    def test_what_is_wrong_is_said_in_one_line(self):
        folder = self.files()
        certificate, key = self.authority.server("good")
        other = self.authority.server("other")[1]
        plan = plans.write(folder / "plan.json", self.WORKERS)
        encrypted = folder / "encrypted.key"
        encrypted.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n"
                             "-----END ENCRYPTED PRIVATE KEY-----\n")
        cases = (
            (("--tls-certificate", certificate), "expected both or neither"),
            (("--link-tls-key", key), "expected both or neither"),
            (("--tls-certificate", certificate, "--tls-key", other), f"--tls-key {other}"),
            (("--tls-certificate", key, "--tls-key", key), f"--tls-certificate {key}"),
            (("--tls-certificate", certificate, "--tls-key", encrypted), f"--tls-key {encrypted}"),
            (("--tls-certificate", folder / "none.pem", "--tls-key", key), "none.pem"),
            (("--api-key-file", folder / "none"), "--api-key-file"),
            (("--link-token-file", self.secret_file("short", "x")), "line 1: found 1 characters"),
        )
        for options, line in cases:
            status, _, text = harness.run("medley-router", plan, *options)
            self.assertEqual((status, text.count("\n")), (2, 1), text)
            self.assertIn(line, text)
        status, _, text = harness.run("medley-worker", "--plan", plan, "--worker-type", SMALL,
                                      "--router", "127.0.0.1:1", "--router-ca", folder / "none.pem")
        self.assertEqual(status, 2, text)
        self.assertIn("--router-ca", text)


if __name__ == "__main__":
    sys.exit(unittest.main(verbosity=2))
