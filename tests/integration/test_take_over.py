# SPDX-License-Identifier: Apache-2.0
"""One router process follows another: no stream breaks, no connection is refused, none comes twice."""
import json
import os
import pathlib
import signal
import socket
import ssl
import stat
import subprocess
import tempfile
import threading
import unittest

import grpc

import plans
from certificates import Authority
from harness import BIN, PATIENCE_S, Process, http_get, metrics, wait_until
from steady import Steady
from test_grpc import LARGE, SMALL, Client, RouterTest, request


class TakeOver(RouterTest):
    OPTIONS = ("--grpc-age-max", "1s")

    def router_process(self, *options, addresses=None):
        addresses = addresses or {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "link": "127.0.0.1:0"}
        router = Process("medley-router", self.plan, *(x for door, a in addresses.items()
                                                       for x in (f"--{door}-listen", a)),
                         "--control-socket", self.control, *self.OPTIONS, *options)
        self.addCleanup(router.kill)
        return router

    def start(self, *options):
        folder = self.enterContext(tempfile.TemporaryDirectory(prefix="medley-test-"))
        self.folder = pathlib.Path(folder)
        self.plan = plans.write(self.folder / "plan.json", self.WORKERS)
        self.control = str(self.folder / "control")
        self.router = self.router_process(*options)
        self.addresses = {k: v for k, v in self.router.wait_ready().items()
                          if k in ("grpc", "http", "link")}
        self.grpc, self.http, self.link = (self.addresses[k] for k in ("grpc", "http", "link"))

    def worker_process(self, name, worker_type=SMALL):
        worker = Process("medley-worker", "--plan", self.plan, "--worker-type", worker_type,
                         "--worker-id", name, "--router", self.link, "--metrics-listen", "127.0.0.1:0",
                         "--time-scale", "1")
        self.addCleanup(worker.kill)
        return worker

    def start_workers(self):
        self.workers = [self.worker_process("w1", SMALL), self.worker_process("w2", LARGE)]
        wait_until(lambda: self.ready() == 2, "both workers")

    def ready(self):
        status, body = http_get(self.http, "/health")
        return sum(t["ready"] for t in json.loads(body)["worker_types"]) if status == 200 else 0

    def take_over(self):
        """Replaces the router; returns the one before, which goes on with what it has."""
        before, self.router = self.router, self.router_process("--take-over", addresses=self.addresses)
        self.assertEqual({k: v for k, v in self.router.wait_ready().items() if k in self.addresses},
                         self.addresses)
        return before

    def stop_all(self):
        for worker in self.workers:
            worker.stop()
        self.router.stop()

    def get(self, path):
        return http_get(self.http, path)

    def http_load(self):
        """GETs of /health, a connection each: (how many so far, faults, stop)."""
        stopping, seen, faults = threading.Event(), [0], []

        def run():
            while not stopping.is_set():
                try:
                    status, _ = self.get("/health")
                    if status != 200:
                        faults.append(status)
                except OSError as error:
                    faults.append(repr(error))
                seen[0] += 1
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return seen, faults, lambda: (stopping.set(), thread.join())

    def test_twice_under_load_and_nobody_notices(self):
        self.start()
        self.start_workers()
        self.assertEqual(stat.S_IMODE(os.stat(self.control).st_mode), 0o600)
        seen, faults, stop_http = self.http_load()
        olds = []
        with Steady(Client, request, self.grpc, clients=4, prompts=(3, 1500), tokens=8) as kept, \
                Steady(Client, request, self.grpc, clients=2, fresh=True, tokens=3) as fresh:
            for _ in range(2):
                kept.wait_for(8)
                fresh.wait_for(8)
                olds.append(self.take_over())
                kept.wait_for(8)
                fresh.wait_for(8)
            # Clients leave the one that goes when their connection is of age, while they work.
            for old in olds:
                old.wait_line("retired: the last request has ended")
                self.assertEqual(old.wait(), 0, old.output())
        stop_http()
        kept.check(self, 20)
        fresh.check(self, 20)
        self.assertEqual(faults, [])
        self.assertGreater(seen[0], 10)
        self.assertEqual(self.ready(), 2)
        self.assertGreater(metrics(self.http)["medley_router_accepted_total"], 0)
        self.stop_all()

    def test_a_live_stream_ends_in_the_process_that_took_it(self):
        self.start()
        self.start_workers()
        client = Client(self.grpc)
        call = client.stream(request([1, 2, 3], 120, emulated_output_tokens=120))
        ids = list(next(call).tokens.ids)
        old = self.take_over()
        other = Client(self.grpc)
        other.generate(request([1, 2], 3))
        self.assertEqual(metrics(self.http)["medley_router_accepted_total"], 1)
        for chunk in call:
            self.assertEqual(chunk.position, len(ids))
            ids += chunk.tokens.ids
        self.assertEqual(len(ids), 120)
        client.close()
        old.wait_line("retired")
        self.assertEqual(old.wait(), 0, old.output())
        # Workers keep one link, to the one that serves.
        wait_until(lambda: all(len([x for x in w.stderr if "another process takes over" in x]) == 1
                               for w in self.workers), "one redial each")
        self.assertEqual(self.ready(), 2)
        other.generate(request([1, 2], 3))
        other.close()
        self.stop_all()

    def test_when_the_new_one_fails_the_old_one_goes_on(self):
        self.start()
        self.start_workers()
        bad = self.folder / "bad.json"
        bad.write_text("{}")
        with Steady(Client, request, self.grpc, clients=2, tokens=4) as load:
            load.wait_for(3)
            # Wrong input, another address, killed half-way: none is noticed.
            status = subprocess.run([BIN / "medley-router", bad, "--control-socket", self.control,
                                     "--take-over"], capture_output=True, check=False).returncode
            self.assertEqual(status, 2)
            moved = self.router_process("--take-over", addresses={**self.addresses, "http": "127.0.0.1:9"})
            self.assertEqual(moved.wait(), 2)
            self.assertIn("addresses stay in a take-over", moved.output())
            load.wait_for(3)
            with socket.socket(socket.AF_UNIX) as half:
                half.connect(self.control)
                half.sendall(b"MEDLEY-TAKE-OVER 1\n")
                line, fds, _, _ = socket.recv_fds(half, 512, 8)
                self.assertIn(b"LISTENERS 1 workers=2 ", line)
                links = socket.socket(fileno=fds[0])
                half.sendall(b"DIAL\n")
                # The workers come here now; nobody answers them.
                links.setblocking(True)
                links.accept()[0].close()
            for fd in fds:
                os.close(fd)
            links.detach()
            self.router.wait_line("take-over: given up, this process goes on: the other process has gone")
            load.wait_for(3)
            for worker in self.workers:
                worker.wait_line("nobody has taken over, staying")
            third = self.worker_process("w3")
            wait_until(lambda: self.ready() == 3, "a new worker")
            old = self.take_over()
            load.wait_for(3)
        load.check(self, 10)
        old.wait_line("retired")
        self.assertEqual(old.wait(), 0, old.output())
        self.assertEqual(self.ready(), 3)
        self.workers.append(third)
        self.stop_all()

    def test_when_the_new_one_is_gone_when_it_is_its_turn_the_old_one_goes_on(self):
        self.start()
        self.start_workers()
        with socket.socket(socket.AF_UNIX) as half:
            half.connect(self.control)
            half.sendall(b"MEDLEY-TAKE-OVER 1\n")
            line, fds, _, _ = socket.recv_fds(half, 512, 8)
            self.assertIn(b"LISTENERS 1 workers=2 ", line)
            half.sendall(b"DIAL\n")
            self.router.wait_line("another process has asked for the listeners")
            # Killed with its last word on the way.
            self.router.send_signal(signal.SIGSTOP)
            half.sendall(b"READY\n")
        for fd in fds:
            os.close(fd)
        self.router.send_signal(signal.SIGCONT)
        self.router.wait_line("take-over: given up, this process goes on: the other process has gone")
        client = Client(self.grpc)
        self.assertEqual(len(client.generate(request([1, 2, 3], 4)).choices[0].tokens.ids), 4)
        client.close()
        old = self.take_over()
        old.wait_line("retired")
        self.assertEqual(old.wait(), 0, old.output())
        wait_until(lambda: self.ready() == 2, "both workers")
        self.stop_all()

    def test_without_take_over_a_second_router_is_refused(self):
        self.start()
        second = self.router_process(addresses={"grpc": self.grpc, "http": "127.0.0.1:0",
                                                "link": "127.0.0.1:0"})
        self.assertEqual(second.wait(), 1)
        self.assertIn("cannot listen", second.output())
        plain = Process("medley-router", self.plan, "--grpc-listen", self.grpc, "--http-listen",
                        "127.0.0.1:0", "--link-listen", "127.0.0.1:0")
        self.addCleanup(plain.kill)
        self.assertEqual(plain.wait(), 1)
        self.router.stop()
        self.assertFalse(os.path.exists(self.control))

    def test_take_over_of_nobody_starts_as_usual(self):
        self.start("--take-over")
        self.router.wait_line("nobody listens on .*control: starting as usual")
        self.router.send_signal(signal.SIGKILL)
        self.router.popen.wait()
        # A socket that a killed process left is no obstacle.
        self.router = self.router_process("--take-over", addresses=self.addresses)
        self.router.wait_ready()
        self.router.stop()


class TakeOverWithTls(TakeOver):
    """All doors and the link under TLS: the successor reads the certificates for itself, and the streams
    that are open end where their keys are."""
    # Those of the base are about what TLS does not touch.
    test_twice_under_load_and_nobody_notices = None
    test_a_live_stream_ends_in_the_process_that_took_it = None
    test_when_the_new_one_fails_the_old_one_goes_on = None
    test_when_the_new_one_is_gone_when_it_is_its_turn_the_old_one_goes_on = None
    test_without_take_over_a_second_router_is_refused = None
    test_take_over_of_nobody_starts_as_usual = None

    def worker_process(self, name, worker_type=SMALL):
        worker = Process("medley-worker", "--plan", self.plan, "--worker-type", worker_type,
                         "--worker-id", name, "--router", self.link, "--router-ca", self.authority.pem,
                         "--metrics-listen", "127.0.0.1:0", "--time-scale", "1")
        self.addCleanup(worker.kill)
        return worker

    def ready(self):
        status, body = self.get("/health")
        return sum(t["ready"] for t in json.loads(body)["worker_types"]) if status == 200 else 0

    def dial(self):
        host, port = self.http.rsplit(":", 1)
        plain = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        tls = self.context.wrap_socket(plain, server_hostname="localhost")
        self.addCleanup(tls.close)
        return tls

    def get(self, path):
        with self.dial() as tls:
            tls.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            head, _, body = b"".join(iter(lambda: tls.recv(1 << 16), b"")).partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()

    def accepted(self):
        return next(float(line.split()[1]) for line in self.get("/metrics")[1].splitlines()
                    if line.startswith("medley_router_accepted_total "))

    def secure_client(self, address):
        return Client(address, grpc.ssl_channel_credentials(self.authority.pem.read_bytes()))

    def test_live_streams_end_in_the_old_one_and_nothing_is_refused(self):
        secrets = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="medley-tls-")))
        self.authority = Authority(secrets)
        self.context = ssl.create_default_context(cafile=self.authority.pem)
        certificate, key = self.authority.server("doors")
        self.OPTIONS = (*TakeOver.OPTIONS, "--tls-certificate", certificate, "--tls-key", key,
                        "--link-tls-certificate", certificate, "--link-tls-key", key)
        self.start()
        self.start_workers()
        # One stream of each door is open, and has begun.
        body = json.dumps({"prompt": [1, 2, 3], "stream": True, "max_tokens": 120,
                           "return_token_ids": True, "emulated_output_tokens": 120})
        over_http = self.dial()
        over_http.sendall((f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                           f"Content-Length: {len(body)}\r\n\r\n{body}").encode())
        data = over_http.recv(1 << 16)
        client = self.secure_client(self.grpc)
        call = client.stream(request([1, 2, 3], 120, emulated_output_tokens=120))
        ids = list(next(call).tokens.ids)
        seen, faults, stop_http = self.http_load()
        with Steady(self.secure_client, request, self.grpc, clients=2, fresh=True, tokens=3) as fresh:
            fresh.wait_for(4)
            old = self.take_over()
            before = self.accepted()
            fresh.wait_for(4)
            self.assertGreater(self.accepted(), before)  # the new one's own
            for chunk in call:
                self.assertEqual(chunk.position, len(ids))
                ids += chunk.tokens.ids
            for part in iter(lambda: over_http.recv(1 << 16), b""):
                data += part
            client.close()
            old.wait_line("retired: the last request has ended")
            self.assertEqual(old.wait(), 0, old.output())
        stop_http()
        fresh.check(self, 8)
        self.assertEqual(faults, [])
        self.assertGreater(seen[0], 4)
        self.assertEqual(len(ids), 120)
        events = [json.loads(line[len("data: "):]) for line in data.decode().splitlines()
                  if line.startswith("data: {")]
        self.assertEqual(sum(len(e["choices"][0].get("token_ids") or []) for e in events), 120)
        self.assertIn(b"data: [DONE]", data)
        self.assertEqual(self.ready(), 2)
        self.stop_all()


if __name__ == "__main__":
    unittest.main(verbosity=2)
