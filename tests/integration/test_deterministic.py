# SPDX-License-Identifier: Apache-2.0
"""--deterministic: what a request says does not depend on what is served beside it.

200 mixed requests (lengths, sampling values, seeds, penalties, biases, stops, shared prefixes) go to
one worker all at once, over a KV cache so small that sequences are preempted and a prefix cache that
hits, and one after another to a second worker without either.  Tokens, endings and logprobs must be
equal, bit for bit.
"""
import random
import tempfile
import unittest

import harness
import tiny_model
from harness import Process
from link import Router, pb

REQUESTS = 200
SEED = 20251123


def make_requests(rng):
    """Generate frames by name; every third begins as another one does."""
    prefixes = [[rng.randrange(tiny_model.VOCAB) for _ in range(n)] for n in (16, 40, 72, 120)]
    requests = {}
    for name in range(REQUESTS):
        prompt = [rng.randrange(tiny_model.VOCAB) for _ in range(rng.choice((1, 2, 7, 15, 30, 90)))]
        if name % 3 == 0:
            prompt = rng.choice(prefixes) + prompt[:rng.randint(1, 12)]
        fields = {}
        if rng.random() < 0.3:
            fields["temperature"] = 0
        else:
            fields["temperature"] = rng.choice((0.3, 1, 1.7))
            fields["seed"] = rng.randrange(1 << 64)
        for field, values in (("top_p", (0.5, 0.9, 1)), ("top_k", (0, 1, 3, 40)),
                              ("min_p", (0, 0.02, 0.3)), ("repetition_penalty", (0.8, 1, 1.4)),
                              ("presence_penalty", (-1, 0.5, 2)),
                              ("frequency_penalty", (-0.5, 0.25, 1)),
                              ("ignore_eos", (True, False)), ("min_tokens", (0, 3)),
                              ("logprobs", (0, 1, 5))):
            if rng.random() < 0.4:
                fields[field] = rng.choice(values)
        if rng.random() < 0.2:
            fields["bias_ids"] = rng.sample(range(tiny_model.VOCAB), 4)
            fields["biases"] = [rng.uniform(-20, 5) for _ in range(4)]
        if rng.random() < 0.2:
            fields["stop_token_ids"] = rng.sample(range(tiny_model.VOCAB), 6)
        requests[name] = pb.Generate(request=name, attempt=1, prompt=prompt,
                                     max_tokens=rng.choice((3, 8, 20, 45)), request_id=f"r{name}",
                                     **fields)
    return requests


class Answers:
    """Tokens, logprobs and endings by request, as they come."""

    def __init__(self):
        self.tokens, self.logprobs, self.endings, self.cached = {}, {}, {}, 0

    def take(self, link, count):
        while len(self.endings) < count:
            frame = link.receive()
            kind = frame.WhichOneof("body")
            if kind == "tokens":
                t = frame.tokens
                self.tokens.setdefault(t.request, []).extend(t.ids)
                self.logprobs.setdefault(t.request, []).extend(
                    (p.logprob, p.rank, tuple(p.top_ids), tuple(p.top_logprobs))
                    for p in t.logprobs)
            elif kind == "finish":
                self.endings[frame.finish.request] = frame.finish.ending
                self.cached += frame.finish.cached_tokens


class Deterministic(unittest.TestCase):
    def worker(self, router, *more):
        return Process("medley-worker", "--model", self.dir, "--deterministic", "--seed", 3,
                       *harness.BACKEND, "--router", router.address, "--metrics-listen",
                       "127.0.0.1:0", *more)

    def compare(self, dtype):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = tiny_model.write(f"{folder.name}/tiny", torch_dtype=dtype)
        requests = make_requests(random.Random(SEED))
        together, alone = Answers(), Answers()
        with Router() as router, \
                self.worker(router, "--kv-tokens", 768, "--max-num-seqs", 24,
                            "--max-num-batched-tokens", 96) as process:
            ready = process.wait_ready()
            self.assertEqual(ready["deterministic"], "yes")
            link, _ = router.welcome(stats_interval_ms=0)
            for request in requests.values():
                link.send(generate=request)
            together.take(link, REQUESTS)
            samples = harness.metrics(ready["metrics"])
            label = '{model_name="tiny"}'
            self.assertGreater(samples["vllm:num_preemptions_total" + label], 0)
            self.assertGreater(samples["vllm:prefix_cache_hits_total" + label], 0)
            self.assertGreater(together.cached, 0)
            process.stop()
        with Router() as router, self.worker(router, "--no-prefix-cache") as process:
            link, _ = router.welcome(stats_interval_ms=0)
            for count, request in enumerate(requests.values(), 1):
                link.send(generate=request)
                alone.take(link, count)
            self.assertEqual(alone.cached, 0)
            process.stop()
        ends = set(alone.endings.values())
        self.assertEqual(ends, {pb.ENDING_STOP, pb.ENDING_LENGTH})
        for name in requests:
            self.assertEqual(together.endings[name], alone.endings[name], requests[name])
            self.assertEqual(together.tokens[name], alone.tokens[name], requests[name])
            self.assertEqual(together.logprobs[name], alone.logprobs[name], requests[name])

    def test_two_hundred_together_equal_the_same_alone_in_float32(self):
        self.compare("float32")

    def test_two_hundred_together_equal_the_same_alone_in_bfloat16(self):
        self.compare("bfloat16")


if __name__ == "__main__":
    unittest.main(verbosity=2)
