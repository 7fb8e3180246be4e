# SPDX-License-Identifier: Apache-2.0
"""A worker in Python, for tests of the router: it dials in, and the test says what it answers.

    with FakeWorker(link_address, "w1", "a10g-llama-2-7b-fp16") as worker:
        generate = worker.next_generate()
        worker.tokens(generate, 0, [1, 2, 3])
        worker.finish(generate)

`script=ids` answers every request by itself with those ids, `per_frame` in a frame, logprobs if they are
asked for, and LENGTH or STOP at the end; it obeys cancels.  `auto=True` answers by itself, as echo: token i is prompt[i % len(prompt)] + 1, and as many tokens as
emulated_output_tokens says (all of max_tokens without it)."""
import queue
import socket
import threading
import time

from harness import PATIENCE_S
from link import Closed, Link, pb

LIMITS = {"max_model_len": 16384, "max_num_seqs": 1024, "kv_tokens": 1 << 24}


def dial(address):
    """An open connection: HOST:PORT or unix:/path."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address[5:])
    else:
        host, port = address.rsplit(":", 1)
        sock = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
    return Link(sock)


def hello(link, worker_id, worker_type, **changes):
    """Says Hello and, when it is welcome, how it is; returns the Welcome."""
    fields = {"version": 1, "worker_id": worker_id, "incarnation": 1, "worker_type": worker_type,
              "model": "llama-2-7b", "program_version": "fake", "backend": "fake", **LIMITS,
              **changes}
    link.send(hello=pb.Hello(**fields))
    welcome = link.receive_body("welcome")
    if welcome.accepted:
        link.send(stats=pb.Stats(kv_blocks_total=100, kv_blocks_free=100))
    return welcome


def logprob_of(token, count):
    """Logprobs that can be told apart: the token's own, and of the `count` ids behind it."""
    top = list(range(token + 1, token + 1 + count))
    return pb.TokenLogprobs(logprob=-token / 1024, rank=1, top_ids=top,
                            top_logprobs=[-i / 512 for i in top])


class FakeWorker:
    """One link and a thread that reads it; another beats for it."""

    def __init__(self, address, worker_id, worker_type, auto=False, token_s=0.0, beat=True,
                 script=None, per_frame=1, cached_tokens=0, **changes):
        self.link = dial(address)
        self.lock = threading.Lock()
        welcome = hello(self.link, worker_id, worker_type, **changes)
        assert welcome.accepted, welcome.reason
        self.worker_id, self.worker_type = worker_id, worker_type
        self.auto, self.token_s, self.beating = auto, token_s, beat
        self.script, self.per_frame, self.cached_tokens = script, per_frame, cached_tokens
        self.taken = []
        self.generates, self.cancels = queue.Queue(), queue.Queue()
        self.cancelled = set()
        self.seen = self.drains = 0
        self.open = True
        self.threads = [threading.Thread(target=t, daemon=True) for t in (self._read, self._beat)]
        for thread in self.threads:
            thread.start()

    def send(self, **body):
        with self.lock:
            self.link.send(**body)

    def _beat(self):
        beat = 0
        while self.open:
            if self.beating:
                beat += 1
                try:
                    self.send(stats=pb.Stats(heartbeat_ns=beat, kv_blocks_total=100,
                                             kv_blocks_free=100))
                except OSError:
                    return
            time.sleep(0.2)

    def _read(self):
        try:
            while True:
                frame = self.link.receive()
                kind = frame.WhichOneof("body")
                if kind == "generate":
                    self.seen += 1
                    self.taken.append(frame.generate)
                    if self.script is not None:
                        threading.Thread(target=self._play, args=(frame.generate,),
                                         daemon=True).start()
                    elif self.auto:
                        threading.Thread(target=self._answer, args=(frame.generate,),
                                         daemon=True).start()
                    else:
                        self.generates.put(frame.generate)
                elif kind == "cancel":
                    self.cancelled.add((frame.cancel.request, frame.cancel.attempt))
                    self.cancels.put(frame.cancel)
                elif kind == "drain":
                    self.drains += 1
                elif kind == "ping" and not frame.ping.reply:
                    self.send(ping=pb.Ping(nonce=frame.ping.nonce, reply=True))
        except (Closed, OSError):
            self.open = False
            self.generates.put(None)
            self.cancels.put(None)

    def _answer(self, generate):
        count = generate.emulated_output_tokens or generate.max_tokens
        try:
            for i in range(min(count, generate.max_tokens)):
                if (generate.request, generate.attempt) in self.cancelled:
                    self.finish(generate, pb.ENDING_CANCELLED)
                    return
                self.tokens(generate, i, [generate.prompt[i % len(generate.prompt)] + 1])
                if self.token_s:
                    time.sleep(self.token_s)
            self.finish(generate, pb.ENDING_LENGTH if count >= generate.max_tokens
                        else pb.ENDING_STOP)
        except OSError:
            pass

    def _play(self, generate):
        ids = list(self.script)[:generate.max_tokens]
        try:
            for i in range(0, len(ids), self.per_frame):
                if (generate.request, generate.attempt) in self.cancelled:
                    self.finish(generate, pb.ENDING_CANCELLED)
                    return
                self.tokens(generate, i, ids[i:i + self.per_frame])
                if self.token_s:
                    time.sleep(self.token_s)
            self.finish(generate, pb.ENDING_LENGTH if len(ids) == generate.max_tokens
                        else pb.ENDING_STOP, cached_tokens=self.cached_tokens)
        except OSError:
            pass

    def next_generate(self):
        generate = self.generates.get(timeout=PATIENCE_S)
        assert generate is not None, "the router closed the link"
        return generate

    def next_cancel(self):
        cancel = self.cancels.get(timeout=PATIENCE_S)
        assert cancel is not None, "the router closed the link"
        return cancel

    def tokens(self, generate, position, ids, logprobs=None):
        """logprobs: as they are sent; None: of each token, if the request asks for them."""
        if logprobs is None:
            logprobs = []
            if generate.WhichOneof("logprobs_value"):
                logprobs = [logprob_of(i, generate.logprobs) for i in ids]
        self.send(tokens=pb.Tokens(request=generate.request, attempt=generate.attempt,
                                   position=position, ids=ids, logprobs=logprobs))

    def finish(self, generate, ending=pb.ENDING_STOP, message="", cached_tokens=0):
        self.send(finish=pb.Finish(request=generate.request, attempt=generate.attempt,
                                   ending=ending, message=message, cached_tokens=cached_tokens))

    def wait_closed(self):
        self.threads[0].join(PATIENCE_S)
        assert not self.open

    def close(self):
        """As a crash does: no goodbye."""
        self.open = False
        try:
            self.link.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.link.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()
