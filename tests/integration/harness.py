# SPDX-License-Identifier: Apache-2.0
"""What the integration tests share: real processes on loopback ports, never a fixed port or name.

    with Process("medley-worker", "--router", address, ...) as worker:
        ready = worker.wait_ready()        # {"worker_id": ..., "metrics": "127.0.0.1:41234", ...}
        ...
        worker.stop()                      # SIGTERM; checks status 0 and sanitizer reports

Processes are started from MEDLEY_BIN and stopped by their own process id.  Whatever still runs at the
end of the with block is killed; leaving it without an exception also checks that no sanitizer has
reported anything.
"""
import importlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("MEDLEY_BIN", ROOT / "build" / "dev" / "bin"))
# The options of workers that compute; tests/gpu/run says "--backend cuda".
BACKEND = os.environ.get("MEDLEY_BACKEND", "--backend cpu --threads 2").split()
# How long anything may take before the test is given up: generous, since machines are slow and
# sanitizers slower.  Nothing waits this long when it works.
PATIENCE_S = 60
SANITIZER = re.compile(r"ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error:"
                       r"|MED_ASSERT|assertion", re.IGNORECASE)


class Timeout(AssertionError):
    pass


def proto_module(name):
    """The Python module of proto/<name>.proto, generated for this process alone."""
    from grpc_tools import protoc  # pylint: disable=import-outside-toplevel
    with tempfile.TemporaryDirectory(prefix="medley-proto-") as folder:
        status = protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"--python_out={folder}",
                              f"{name}.proto"])
        assert status == 0, f"protoc: status {status} for {name}.proto"
        sys.path.insert(0, folder)
        try:
            return importlib.import_module(f"{name}_pb2")
        finally:
            sys.path.remove(folder)


def wait_until(condition, what, patience_s=PATIENCE_S):
    """Polls until condition() is true; returns what it returned."""
    end = time.monotonic() + patience_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Timeout(f"waited {patience_s} s for {what}")
        time.sleep(0.005)


def free_port():
    """A loopback port that was free a moment ago. Prefer port 0 where the program tells its port."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def http_get(address, path):
    """(status, body as text) of http://address/path."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metrics(address):
    """The samples of http://address/metrics: {'name{labels}': value}."""
    status, text = http_get(address, "/metrics")
    assert status == 200, (status, text)
    samples = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            assert name not in samples, f"{name} twice"
            samples[name] = float(value)
    return samples


def metric(address, name):
    """The sum over all label sets of one metric."""
    found = [v for k, v in metrics(address).items() if k == name or k.startswith(name + "{")]
    assert found, f"no metric {name}"
    return sum(found)


def documented_metrics():
    """(name, type, help) of the worker's reference page: of any worker, and of one that computes."""
    page = pathlib.Path(ROOT, "docs/reference/worker-metrics.md").read_text()
    return [re.findall(r"^\| `([^`]+)` \| (\w+) \| [^|]* \| (.*) \|$", part, re.M)
            for part in page.split("## A worker that computes")]


def announced_metrics(text):
    """(name, type, help) of a page of metrics."""
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.M))
    return [(name, kind, helps[name]) for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", text, re.M)]


def run(program, *args, env=None):
    """Runs a program to its end: (status, stdout, stderr)."""
    done = subprocess.run([str(BIN / program), *map(str, args)], capture_output=True, text=True,
                          timeout=PATIENCE_S, env={**os.environ, **(env or {})}, check=False)
    assert not SANITIZER.search(done.stderr), done.stderr
    return done.returncode, done.stdout, done.stderr


class Process:
    """One running program; its output is collected line by line."""

    def __init__(self, program, *args, env=None):
        self.name = program
        self.stdout, self.stderr = [], []
        self.popen = subprocess.Popen(
            [str(BIN / program), *map(str, args)], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            env={**os.environ, **(env or {})})
        self.threads = [threading.Thread(target=self._collect, args=pair, daemon=True)
                        for pair in ((self.popen.stdout, self.stdout),
                                     (self.popen.stderr, self.stderr))]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def _collect(pipe, lines):
        with pipe:
            for line in pipe:
                lines.append(line.rstrip("\n"))

    @property
    def pid(self):
        return self.popen.pid

    def output(self):
        return "\n".join([f"--- {self.name}: stdout", *self.stdout, "--- stderr", *self.stderr])

    def is_running(self):
        return self.popen.poll() is None

    def wait_line(self, pattern, what=None):
        """The first line, on either stream, in which the pattern is found."""
        regex = re.compile(pattern)

        def find():
            alive = self.is_running()
            if not alive:
                for thread in self.threads:
                    thread.join()
            for line in [*self.stdout, *self.stderr]:
                if regex.search(line):
                    return line
            if not alive:
                raise AssertionError(f"{self.name} ended without {pattern!r}\n{self.output()}")
            return None
        try:
            return wait_until(find, what or f"{self.name} to print {pattern!r}")
        except Timeout as error:
            raise Timeout(f"{error}\n{self.output()}") from None

    def wait_ready(self):
        """Waits for the READY line; returns its key=value pairs."""
        line = self.wait_line(r"\bREADY\b", "READY")
        return dict(word.split("=", 1) for word in line.split() if "=" in word)

    def send_signal(self, number):
        if self.is_running():
            self.popen.send_signal(number)

    def wait(self):
        """Waits for its end; returns the exit status."""
        try:
            status = self.popen.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise Timeout(f"{self.name} did not end in {PATIENCE_S} s\n{self.output()}") from None
        for thread in self.threads:
            thread.join()
        return status

    def stop(self, number=signal.SIGTERM, status=0):
        """Sends the signal, waits, checks exit status and sanitizer reports."""
        self.send_signal(number)
        got = self.wait()
        assert got == status, f"{self.name} ended with {got}, expected {status}\n{self.output()}"
        self.check_clean()

    def kill(self):
        if self.is_running():
            self.popen.kill()
        self.wait()

    def check_clean(self):
        for line in list(self.stderr):
            assert not SANITIZER.search(line), self.output()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.kill()
        if kind is None:
            self.check_clean()
