# SPDX-License-Identifier: Apache-2.0
"""Answers that go on where a worker left them: what a worker makes of the output so far.

An unbroken answer is cut at many places; prompt and output so far go to a worker anew, and what it says
must be the rest, token for token and bit for bit, whatever the sampling asks for.
"""
import random
import tempfile
import unittest

import harness
import tiny_model
from harness import Process
from link import Router, pb
from test_deterministic import Answers, make_requests

PROFILE = harness.ROOT / "profiles" / "published" / "a10g-llama-2-7b-fp16.json"
SEED = 20261123


def resumed(request, name, output):
    """The same request, sent to another worker after it has said `output`."""
    again = pb.Generate()
    again.CopyFrom(request)
    again.request, again.attempt = name, 2
    again.output.extend(output)
    return again


class RealModel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.model = tiny_model.write(f"{cls.folder.name}/tiny")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def worker(self, router, *more):
        return Process("medley-worker", "--model", self.model, "--deterministic", "--seed", 3,
                       *harness.BACKEND, "--router", router.address, "--metrics-listen",
                       "127.0.0.1:0", *more)

    def test_cut_anywhere_then_the_rest_is_the_unbroken_one_bit_for_bit(self):
        rng = random.Random(SEED)
        requests = {n: r for n, r in make_requests(rng).items() if n < 80}
        whole, rests = Answers(), Answers()
        with Router() as router, self.worker(router) as process:
            link, _ = router.welcome(stats_interval_ms=0)
            for request in requests.values():
                link.send(generate=request)
            whole.take(link, len(requests))
            process.stop()
        cuts = {}
        with Router() as router, \
                self.worker(router, "--kv-tokens", 256, "--max-num-seqs", 24,
                            "--max-num-batched-tokens", 96) as process:
            ready = process.wait_ready()
            link, _ = router.welcome(stats_interval_ms=0)
            for name, request in requests.items():
                length = len(whole.tokens[name])
                # All of it too: its worker was lost before it could say that this was the end.
                for cut in {1, length // 2, length - 1, length} - {0}:
                    again = resumed(request, 1000 + len(cuts), whole.tokens[name][:cut])
                    cuts[again.request] = name, cut
                    link.send(generate=again)
            rests.take(link, len(cuts))
            samples = harness.metrics(ready["metrics"])
            self.assertGreater(samples['vllm:num_preemptions_total{model_name="tiny"}'], 0)
            process.stop()
        for key, (name, cut) in cuts.items():
            asked = (cut, requests[name])
            self.assertEqual(rests.tokens.get(key, []), whole.tokens[name][cut:], asked)
            self.assertEqual(rests.logprobs.get(key, []), whole.logprobs[name][cut:], asked)
            self.assertEqual(rests.endings[key], whole.endings[name], asked)
        self.assertEqual(set(rests.endings.values()), {pb.ENDING_STOP, pb.ENDING_LENGTH})
        self.assertGreater(len(cuts), 200)

    def test_positions_go_on_and_usage_counts_the_prompt_alone(self):
        prompt = [i % tiny_model.VOCAB for i in range(40)]
        ask = pb.Generate(request=1, attempt=1, prompt=prompt, max_tokens=60, temperature=0,
                          ignore_eos=True)
        with Router() as router, self.worker(router) as process:
            link, _ = router.welcome(stats_interval_ms=0)
            link.send(generate=ask)
            whole = link.collect([1])[1][0]
            link.send(generate=resumed(ask, 2, whole[:35]))
            position, ids = 35, []
            while True:
                frame = link.receive()
                kind = frame.WhichOneof("body")
                if kind == "finish":
                    break
                self.assertEqual((kind, frame.tokens.position), ("tokens", position + len(ids)))
                ids.extend(frame.tokens.ids)
            self.assertEqual(ids, whole[35:])
            self.assertEqual(frame.finish.ending, pb.ENDING_LENGTH)
            # The prefix cache had more of it than the prompt.
            self.assertEqual(frame.finish.cached_tokens, len(prompt))
            process.stop()

    def test_wrong_output_is_refused_with_a_sentence_and_disturbs_nobody(self):
        ask = pb.Generate(request=1, attempt=1, prompt=[1, 2, 3], max_tokens=4, temperature=0)
        cases = [([1, tiny_model.VOCAB], "output[1]: is 128, expected 0 to 127"),
                 ([1] * 5, "output: has 5 tokens, expected fewer than max_tokens (4)")]
        with Router() as router, self.worker(router) as process:
            link, _ = router.welcome(stats_interval_ms=0)
            for number, (output, sentence) in enumerate(cases, 10):
                link.send(generate=resumed(ask, number, output))
                ids, finish = link.collect([number])[number]
                self.assertEqual((ids, finish.ending), ([], pb.ENDING_ERROR))
                self.assertIn(sentence, finish.message)
            link.send(generate=ask)
            self.assertEqual(len(link.collect([1])[1][0]), 4)
            process.stop()


class Emulated(unittest.TestCase):
    def test_cut_anywhere_then_the_rest_and_the_total_are_the_same(self):
        with Router() as router, \
                Process("medley-worker", "--profile", PROFILE, "--time-scale", "200",
                        "--router", router.address) as process:
            link, _ = router.welcome(stats_interval_ms=0)
            ask = pb.Generate(request=1, attempt=1, prompt=range(1, 20), max_tokens=50, seed=9,
                              emulated_output_tokens=30, stop_token_ids=[3])
            link.send(generate=ask)
            whole, finish = link.collect([1])[1]
            self.assertEqual((len(whole), finish.ending), (30, pb.ENDING_STOP))
            for number, cut in enumerate((1, 7, 29, 30), 2):
                link.send(generate=resumed(ask, number, whole[:cut]))
                ids, finish = self.rest(link, number, cut)
                self.assertEqual((ids, finish.ending), (whole[cut:], pb.ENDING_STOP), cut)
            ask.emulated_output_tokens = 0
            link.send(generate=resumed(ask, 10, whole))
            ids, finish = self.rest(link, 10, 30)
            self.assertEqual((len(ids), finish.ending), (20, pb.ENDING_LENGTH))
            link.send(generate=resumed(ask, 11, whole + ids))
            self.assertEqual(self.rest(link, 11, 50)[1].ending, pb.ENDING_LENGTH)
            process.stop()

    def rest(self, link, request, position):
        """What comes of a request that goes on at that position: (ids, Finish)."""
        ids = []
        while True:
            frame = link.receive()
            kind = frame.WhichOneof("body")
            self.assertEqual(getattr(frame, kind).request, request)
            if kind == "finish":
                return ids, frame.finish
            self.assertEqual(frame.tokens.position, position + len(ids))
            ids.extend(frame.tokens.ids)

    def test_a_worker_that_must_stop_returns_what_it_could_not_finish(self):
        with Router() as router, \
                Process("medley-worker", "--profile", PROFILE, "--drain-timeout", "300ms",
                        "--router", router.address) as process:
            link, _ = router.welcome(stats_interval_ms=0)
            ask = pb.Generate(request=1, attempt=1, prompt=range(1, 20), max_tokens=2000, seed=9)
            link.send(generate=ask)
            link.send(generate=resumed(ask, 2, [7] * 5))
            started = set()
            while len(started) < 2:
                frame = link.receive()
                if frame.WhichOneof("body") == "tokens":
                    started.add(frame.tokens.request)
            process.send_signal(15)
            frames = link.wait_closed()
            ends = {f.finish.request: f.finish for f in frames if f.WhichOneof("body") == "finish"}
            self.assertEqual(set(ends), {1, 2})
            for finish in ends.values():
                self.assertEqual(finish.ending, pb.ENDING_RETURNED)
                self.assertIn("stopping", finish.message)
            self.assertEqual(process.wait(), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
