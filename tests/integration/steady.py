# SPDX-License-Identifier: Apache-2.0
"""A steady load of gRPC streams, each checked to its last token: none may fail, break off or repeat.

    with Steady(address, clients=4) as load:
        ...                    # whatever is not to be noticed
    load.check(test)           # every stream was whole
"""
import threading
import time

import grpc


class Steady:
    """`clients` threads, a channel each, one stream after the other; `fresh`: a channel per stream."""

    def __init__(self, make_client, request, address, clients=4, fresh=False, tokens=12, prompts=(3,)):
        self.make_client, self.request, self.address = make_client, request, address
        self.tokens, self.prompts, self.fresh = tokens, prompts, fresh
        self.lock = threading.Lock()
        self.done, self.faults = 0, []
        self.by_type = {}
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._client, args=(n,), daemon=True)
                        for n in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def wait_for(self, more, patience_s=60):
        """Until so many more streams have ended."""
        end = time.monotonic() + patience_s
        goal = self.done + more
        while self.done < goal:
            assert time.monotonic() < end, f"{self.done} streams, expected {goal}: {self.faults[:3]}"
            time.sleep(0.01)

    def _client(self, number):
        client = self.make_client(self.address)
        turn = number
        while not self.stopping.is_set():
            if self.fresh:
                client.close()
                client = self.make_client(self.address)
            prompt = list(range(1, 1 + self.prompts[turn % len(self.prompts)]))
            turn += 1
            self._one(client, prompt)
        client.close()

    def _one(self, client, prompt):
        ids, kind, fault, last = [], "", None, None
        try:
            for chunk in client.stream(self.request(prompt, self.tokens,
                                                    emulated_output_tokens=self.tokens)):
                if chunk.tokens.ids and chunk.position != len(ids):
                    fault = f"position {chunk.position} after {len(ids)} tokens"
                ids.extend(chunk.tokens.ids)
                kind = chunk.worker_type or kind
                last = chunk
            if fault is None and len(ids) != self.tokens:
                fault = f"{len(ids)} of {self.tokens} tokens"
            elif fault is None and not last.finish_reason:
                fault = "no finish reason"
        except grpc.RpcError as error:
            fault = f"{error.code()} after {len(ids)} tokens: {error.details()}"
        with self.lock:
            self.done += 1
            self.by_type[kind] = self.by_type.get(kind, 0) + 1
            if fault:
                self.faults.append(fault)

    def check(self, test, at_least=1):
        test.assertEqual(self.faults, [])
        test.assertGreaterEqual(self.done, at_least)
