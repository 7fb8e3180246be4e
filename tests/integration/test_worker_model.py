# SPDX-License-Identifier: Apache-2.0
"""A real medley-worker with a real (tiny) model against a router that the test plays."""
import json
import math
import pathlib
import signal
import tempfile
import unittest

import harness
import plans
import tiny_model
from harness import Process, wait_until
from link import Router, pb
from tiny_model import EOS, POSITIONS, VOCAB

PROMPT = [3, 14, 15, 92, 65, 35]


def setUpModule():
    global FOLDER, MODEL
    FOLDER = tempfile.TemporaryDirectory()
    MODEL = tiny_model.write(f"{FOLDER.name}/tiny")


def tearDownModule():
    FOLDER.cleanup()


def worker(router, *args, model=None):
    return Process("medley-worker", "--model", model or MODEL, "--metrics-listen", "127.0.0.1:0",
                   "--worker-id", "w-1", "--router", router.address, "--threads", 2, *args)


def generate(request, prompt=None, tokens=12, **more):
    return pb.Generate(request=request, attempt=1, prompt=PROMPT if prompt is None else prompt,
                       max_tokens=tokens, request_id=f"r-{request}",
                       **{"temperature": 0, "ignore_eos": True, **more})


def answers(link, *requests):
    """Sends, and waits for all: {request: (ids, Finish)}."""
    for request in requests:
        link.send(generate=request)
    return link.collect([r.request for r in requests])


def ids(link, request):
    return answers(link, request)[request.request][0]


class Served(unittest.TestCase):
    """One worker for many tests."""

    @classmethod
    def setUpClass(cls):
        cls.router = Router()
        cls.process = worker(cls.router, "--deterministic", "--seed", 7)
        cls.ready = cls.process.wait_ready()
        cls.link, cls.hello = cls.router.welcome(stats_interval_ms=0)
        cls.greedy = ids(cls.link, generate(1, tokens=40))

    @classmethod
    def tearDownClass(cls):
        cls.process.stop()
        cls.router.close()

    def test_hello_and_ready_say_what_it_is(self):
        h, r = self.hello, self.ready
        self.assertEqual((h.worker_type, h.model, h.backend), ("cpu-tiny", "tiny", "cpu"))
        self.assertEqual((h.max_model_len, h.vocab_tokens), (POSITIONS, VOCAB))
        self.assertGreaterEqual(h.kv_tokens, POSITIONS)
        self.assertEqual(h.kv_tokens, int(r["kv_tokens"]))
        self.assertEqual((r["dtype"], r["kv_cache_dtype"], r["threads"], r["prefix_cache"]),
                         ("float32", "float32", "2", "on"))
        self.assertTrue(r["device"])
        parts = [float(r[f"{part}_seconds"]) for part in ("load", "memory", "warmup")]
        self.assertTrue(all(p >= 0 for p in parts))
        self.assertLessEqual(sum(parts), float(r["seconds"]) + 0.01)
        self.assertAlmostEqual(float(r["max_concurrency"]), h.kv_tokens / POSITIONS, places=2)

    def test_greedy_is_the_same_again_and_goes_on_from_its_own_output(self):
        self.assertEqual(len(self.greedy), 40)
        self.assertGreater(len(set(self.greedy)), 3)
        self.assertEqual(ids(self.link, generate(2, tokens=40)), self.greedy)
        rest = ids(self.link, generate(3, prompt=PROMPT + self.greedy[:15], tokens=25))
        self.assertEqual(rest, self.greedy[15:])

    def test_sampled_is_a_function_of_the_seed(self):
        more = dict(temperature=1.5, tokens=30)
        first = ids(self.link, generate(1, seed=11, **more))
        self.assertEqual(ids(self.link, generate(2, seed=11, **more)), first)
        self.assertNotEqual(ids(self.link, generate(3, seed=12, **more)), first)
        # Without a seed each request has its own.
        silent = answers(self.link, generate(4, **more), generate(5, **more))
        self.assertNotEqual(silent[4][0], silent[5][0])

    def test_top_k_of_one_and_narrow_filters_are_greedy(self):
        for request, more in enumerate((dict(top_k=1), dict(top_p=1e-6), dict(min_p=1)), 1):
            self.assertEqual(ids(self.link, generate(request, tokens=20, temperature=1, **more)),
                             self.greedy[:20])

    def test_logprobs_are_those_of_the_model(self):
        self.link.send(generate=generate(1, tokens=20, logprobs=VOCAB if VOCAB < 20 else 20))
        got, tops = [], []
        while len(got) < 20:
            tokens = self.link.receive_body("tokens")
            self.assertEqual(len(tokens.logprobs), len(tokens.ids))
            got.extend(tokens.ids)
            tops.extend(tokens.logprobs)
        self.link.receive_body("finish")
        self.assertEqual(got, self.greedy[:20])
        for token, said in zip(got, tops):
            self.assertEqual((said.rank, len(said.top_ids), said.top_ids[0]), (1, 20, token))
            self.assertEqual(said.logprob, said.top_logprobs[0])
            self.assertEqual(list(said.top_logprobs), sorted(said.top_logprobs, reverse=True))
            self.assertLessEqual(sum(math.exp(p) for p in said.top_logprobs), 1 + 1e-5)
            self.assertEqual(len(set(said.top_ids)), 20)

    def test_logprobs_of_the_token_alone_and_of_none(self):
        for request, more, count, tops in ((1, dict(logprobs=0), 5, 0), (2, {}, 0, 0)):
            self.link.send(generate=generate(request, tokens=5, **more))
            frames = []
            while True:
                frame = self.link.receive()
                if frame.WhichOneof("body") == "finish":
                    break
                frames.append(frame.tokens)
            said = [p for f in frames for p in f.logprobs]
            self.assertEqual(len(said), count)
            self.assertTrue(all(len(p.top_ids) == tops and p.logprob <= 0 for p in said))

    def test_many_tokens_with_logprobs_come_complete(self):
        self.link.send(generate=generate(1, tokens=300, logprobs=20))
        count = 0
        while True:
            frame = self.link.receive()
            if frame.WhichOneof("body") == "finish":
                break
            self.assertEqual(len(frame.tokens.ids), len(frame.tokens.logprobs))
            self.assertEqual(frame.tokens.position, count)
            count += len(frame.tokens.ids)
        self.assertEqual(count, 300)

    def test_stop_ids_end_it_whatever_ignore_eos_says(self):
        stop = self.greedy[9]
        at = self.greedy.index(stop)
        got, finish = answers(self.link, generate(1, tokens=40, stop_token_ids=[stop]))[1]
        self.assertEqual((got, finish.ending), (self.greedy[:at + 1], pb.ENDING_STOP))
        # Not before min_tokens.
        got, _ = answers(self.link, generate(2, tokens=40, stop_token_ids=[stop],
                                             min_tokens=at + 5))[2]
        self.assertGreaterEqual(len(got), at + 5)

    def test_end_of_sequence_ids_end_it_unless_ignored(self):
        pull = dict(bias_ids=[EOS[0]], biases=[100.0], tokens=10)
        got, finish = answers(self.link, generate(1, ignore_eos=False, **pull))[1]
        self.assertEqual((got, finish.ending), ([EOS[0]], pb.ENDING_STOP))
        got, finish = answers(self.link, generate(2, ignore_eos=True, **pull))[2]
        self.assertEqual((got, finish.ending), ([EOS[0]] * 10, pb.ENDING_LENGTH))
        got, finish = answers(self.link, generate(3, ignore_eos=False, min_tokens=4, **pull))[3]
        self.assertEqual((len(got), got[4], finish.ending), (5, EOS[0], pb.ENDING_STOP))
        self.assertNotIn(EOS[0], got[:4])

    def test_logit_bias_bends_the_choice(self):
        self.assertEqual(ids(self.link, generate(1, bias_ids=[77, 9], biases=[-100, 100])), [9] * 12)
        banned = self.greedy[0]
        self.assertNotIn(banned, ids(self.link, generate(2, bias_ids=[banned], biases=[-100])))

    def test_penalties_stop_a_repetition(self):
        repeated = ids(self.link, generate(1, tokens=100, frequency_penalty=2, presence_penalty=2))
        self.assertGreater(len(set(repeated)), len(set(self.greedy)))

    def test_bad_requests_are_answered_and_disturb_nobody(self):
        nan = math.nan
        bad = {
            10: (dict(prompt=[]), "at least 1"),
            11: (dict(tokens=0), "max_tokens"),
            12: (dict(prompt=[1] * POSITIONS), f"{POSITIONS} tokens"),
            13: (dict(tokens=0xFFFFFFFF), "exceed"),
            14: (dict(prompt=[1, VOCAB]), f"prompt[1]: is {VOCAB}"),
            15: (dict(temperature=nan), "temperature"),
            16: (dict(temperature=2.5), "temperature"),
            17: (dict(top_p=0), "top_p"),
            18: (dict(min_p=1.5), "min_p"),
            19: (dict(repetition_penalty=0), "repetition_penalty"),
            20: (dict(presence_penalty=nan), "presence_penalty"),
            21: (dict(frequency_penalty=-3), "frequency_penalty"),
            22: (dict(bias_ids=[1, 2], biases=[1]), "2 ids and 1 biases"),
            23: (dict(bias_ids=[VOCAB], biases=[1]), "logit_bias[0]"),
            24: (dict(bias_ids=[1], biases=[nan]), "logit_bias[0]"),
            25: (dict(bias_ids=[1] * 1025, biases=[0] * 1025), "at most 1024"),
            26: (dict(stop_token_ids=[VOCAB]), "stop_token_ids[0]"),
            27: (dict(stop_token_ids=[1] * 257), "at most 256"),
            28: (dict(logprobs=21), "logprobs"),
            29: (dict(min_tokens=13), "min_tokens"),
            30: (dict(emulated_output_tokens=0xFFFFFFFF), "emulated_output_tokens"),
        }
        for request, (fields, _) in bad.items():
            self.link.send(generate=generate(request, **fields))
        self.link.send(generate=generate(1, tokens=40))
        done = self.link.collect([1, *bad])
        self.assertEqual(done[1][0], self.greedy)
        for request, (_, text) in bad.items():
            self.assertEqual(done[request][1].ending, pb.ENDING_ERROR)
            self.assertIn(text, done[request][1].message)
            self.assertEqual(done[request][0], [])

    def test_cancel_in_the_middle(self):
        self.link.send(generate=generate(1, tokens=450))
        self.link.send(generate=generate(2, tokens=40))
        while self.link.receive_body("tokens").request != 1:
            pass
        self.link.send(cancel=pb.Cancel(request=1, attempt=1))
        ends = {}
        while len(ends) < 2:
            frame = self.link.receive()
            if frame.WhichOneof("body") == "finish":
                ends[frame.finish.request] = frame.finish.ending
        self.assertEqual(ends, {1: pb.ENDING_CANCELLED, 2: pb.ENDING_LENGTH})

    def test_longest_request_that_can_be(self):
        done = answers(self.link, generate(1, prompt=[1] * 500, tokens=POSITIONS - 500),
                       generate(2, prompt=[2], tokens=POSITIONS - 1))
        self.assertEqual([len(done[r][0]) for r in (1, 2)], [12, POSITIONS - 1])

    def test_cached_tokens_are_told(self):
        prompt = [100 + i % 20 for i in range(70)]
        first = answers(self.link, generate(1, prompt=prompt))[1]
        again = answers(self.link, generate(2, prompt=prompt))[2]
        self.assertEqual(again[0], first[0])
        self.assertEqual((first[1].cached_tokens, again[1].cached_tokens), (0, 64))
        self.link.send(stats=pb.Stats())
        stats = self.link.receive_body("stats")
        while stats.prefix_hits < 64:
            self.link.send(stats=pb.Stats())
            stats = self.link.receive_body("stats")
        self.assertGreaterEqual(stats.prefix_queries, 140)

    def test_metrics_tell_of_model_and_cache(self):
        _, text = harness.http_get(self.ready["metrics"], "/metrics")
        self.assertIn('medley_worker_info{worker_id="w-1",worker_type="cpu-tiny",model="tiny",'
                      'backend="cpu",dtype="float32"} 1', text)
        self.assertIn('enable_prefix_caching="True"', text)
        self.assertRegex(text, r'vllm:prefix_cache_queries_total\{model_name="tiny"\} \d')
        self.assertRegex(text, r'medley_worker_request_bytes\{model_name="tiny"\} 0\n')


    def test_steps_are_counted_with_what_they_moved_and_computed(self):
        _, before = harness.http_get(self.ready["metrics"], "/metrics")
        documented = [row for row in sum(harness.documented_metrics(), []) if "_emulation_" not in row[0]]
        self.assertEqual(documented, harness.announced_metrics(before))
        before = harness.metrics(self.ready["metrics"])
        ids(self.link, generate(1, prompt=PROMPT, tokens=20))
        label = '{model_name="tiny"}'
        names = [f"medley_worker_{name}{label}" for name in
                 ("step_time_seconds_count", "step_tokens_sum", "step_sequences_sum",
                  "step_time_seconds_sum", "device_busy_seconds_total", "device_bytes_total",
                  "device_flops_total", "steps_replayed_total")]
        wait_until(lambda: harness.metrics(self.ready["metrics"])[names[0]] - before[names[0]] >= 20,
                   "the last step")
        after = harness.metrics(self.ready["metrics"])
        steps, tokens, sequences, step_s, busy_s, moved, flops, replayed = [
            after[n] - before[n] for n in names]
        self.assertEqual((steps, sequences, replayed), (20, 20, 0))
        self.assertIn(tokens, (20, 25))  # the prompt may be in the prefix cache
        self.assertAlmostEqual(step_s, busy_s, places=9)
        weights = after['medley_worker_memory_plan_bytes{model_name="tiny",memory="machine",part="weights"}']
        embedding = 4 * VOCAB * 32
        self.assertGreater(moved, 20 * (weights - embedding) * 0.9)
        self.assertLess(moved, 20 * weights * 1.5)
        self.assertGreater(flops, 20 * 2 * (weights - embedding) / 4 * 0.9)
        self.assertNotIn(f"medley_worker_memory_bandwidth_utilization{label}", after)


class Defaults(unittest.TestCase):
    def test_generation_config_says_what_a_silent_request_gets(self):
        with tempfile.TemporaryDirectory() as folder:
            tiny_model.write(f"{folder}/m", generation={"temperature": 0.6, "top_k": 1,
                                                        "eos_token_id": 9})
            with Router() as router, worker(router, model=f"{folder}/m") as process:
                link, hello = router.welcome()
                self.assertEqual(hello.model, "m")
                silent = pb.Generate(request=1, attempt=1, prompt=PROMPT, max_tokens=20,
                                     ignore_eos=True)
                self.assertEqual(ids(link, silent), ids(link, generate(2, tokens=20)))
                got, finish = answers(link, generate(3, ignore_eos=False, bias_ids=[9],
                                                     biases=[100]))[3]
                self.assertEqual((got, finish.ending), ([9], pb.ENDING_STOP))
                process.stop()

    def test_dtypes(self):
        for dtype, options, expected in (
                ("bfloat16", (), ("bfloat16", "bfloat16")),
                ("float16", (), ("float32", "float32")),
                ("bfloat16", ("--dtype", "float32", "--kv-cache-dtype", "bfloat16"),
                 ("float32", "bfloat16")),
                ("float32", ("--dtype", "bfloat16", "--kv-cache-dtype", "float16"),
                 ("bfloat16", "float16"))):
            with tempfile.TemporaryDirectory() as folder:
                model = tiny_model.write(f"{folder}/m", torch_dtype=dtype)
                with Router() as router, worker(router, *options, model=model) as process:
                    ready = process.wait_ready()
                    self.assertEqual((ready["dtype"], ready["kv_cache_dtype"]), expected)
                    link, _ = router.welcome()
                    self.assertEqual(len(ids(link, generate(1))), 12)
                    process.stop()

    def test_plan_gives_the_type_and_the_objectives(self):
        with tempfile.TemporaryDirectory() as folder:
            plan = pathlib.Path(folder, "plan.json")
            plans.write(plan, {"a10g-llama-2-7b-fp16": 1}, objectives=("ttft.mean=2345ms",))
            with Router() as router, worker(router, "--plan", plan, "--served-model-name",
                                            "tiny-one") as process:
                ready = process.wait_ready()
                _, hello = router.welcome()
                self.assertEqual((hello.worker_type, hello.model, hello.backend),
                                 ("a10g-llama-2-7b-fp16", "tiny-one", "cpu"))
                self.assertEqual(hello.max_model_len, POSITIONS)
                _, text = harness.http_get(ready["metrics"], "/metrics")
                self.assertRegex(text, r'time_to_first_token_seconds_bucket{[^}]*le="2.345"} 0\n')
                process.stop()


class Batching(unittest.TestCase):
    def test_all_modes_serve_and_say_the_same(self):
        texts = []
        for mode in ("continuous", "dynamic", "static"):
            with Router() as router, worker(router, "--batching", mode, "--batch-wait", "20ms",
                                            "--deterministic", "--max-num-seqs", 3) as process:
                self.assertEqual(process.wait_ready()["batching"], mode)
                link, _ = router.welcome()
                done = answers(link, *[generate(r, prompt=PROMPT[:1 + r % 5], tokens=4 + r)
                                       for r in range(8)])
                texts.append([done[r][0] for r in range(8)])
                self.assertEqual([len(t) for t in texts[-1]], [4 + r for r in range(8)])
                process.stop()
        self.assertEqual(texts[0], texts[1])
        self.assertEqual(texts[0], texts[2])


class Stopping(unittest.TestCase):
    def test_sigterm_drains(self):
        with Router() as router, worker(router) as process:
            link, _ = router.welcome(stats_interval_ms=0)
            link.send(generate=generate(1, tokens=200))
            link.receive_body("tokens")
            process.send_signal(signal.SIGTERM)
            frames = link.wait_closed()
            kinds = [f.WhichOneof("body") for f in frames]
            self.assertIn("drain", kinds)
            self.assertEqual(kinds[-1], "finish")
            self.assertEqual(frames[-1].finish.ending, pb.ENDING_LENGTH)
            self.assertEqual(process.wait(), 0)

    def test_more_requests_than_memory_for_them_are_refused_not_started(self):
        with Router() as router, worker(router, "--max-num-seqs", 1) as process:
            process.wait_ready()
            link, _ = router.welcome(stats_interval_ms=0)
            # 20 logprobs on 500 tokens are 86 kB; the plan holds 17 MB.
            count = 400
            for request in range(count):
                link.send(generate=generate(request, tokens=500, logprobs=20))
            refused = 0
            while refused == 0:
                frame = link.receive()
                if frame.WhichOneof("body") == "finish":
                    self.assertEqual(frame.finish.ending, pb.ENDING_REFUSED)
                    self.assertIn("as many requests as it can", frame.finish.message)
                    refused += 1
            link.close()
            metrics = process.wait_ready()["metrics"]
            wait_until(lambda: harness.metric(metrics, "medley_worker_request_bytes") == 0,
                       "freed requests")
            process.stop()


class CommandLine(unittest.TestCase):
    def run_worker(self, *args):
        return harness.run("medley-worker", *args)

    def refused(self, text, *args):
        code, out, err = self.run_worker(*args)
        self.assertEqual(code, 2, err)
        self.assertIn(text, err)
        self.assertEqual(out, "")
        self.assertEqual(len(err.strip().splitlines()), 1, err)
        return err

    def test_dry_run_prints_a_table(self):
        code, out, err = self.run_worker("--model", MODEL, "--dry-run", "--threads", 1)
        self.assertEqual((code, err), (0, ""))
        for text in ("cpu-tiny", "LlamaForCausalLM", "weights", "intermediate results", "KV cache",
                     "maximum concurrency", "1 threads", "max-model-len                512"):
            self.assertIn(text, out)

    def dry(self, *args):
        code, out, err = self.run_worker("--model", MODEL, "--dry-run", "--json", *args)
        self.assertEqual((code, err), (0, ""))
        return json.loads(out)

    def test_dry_run_as_json_adds_up(self):
        plan = self.dry("--memory-utilization", 0.5)
        b = plan["bytes"]
        self.assertEqual(b["total"], sum(b[k] for k in ("weights", "workspace", "scheduler",
                                                        "requests", "process", "kv_cache")))
        self.assertLessEqual(b["total"], b["budget"])
        self.assertLessEqual(b["budget"], b["machine"] * 0.5)
        self.assertEqual(plan["kv_tokens"], plan["kv_blocks"] * plan["block_tokens"])
        self.assertEqual(b["kv_cache"], plan["kv_tokens"] * b["kv_per_token"])
        self.assertEqual(b["kv_per_token"], 2 * 2 * 2 * 8 * 4)
        self.assertEqual(b["weights"], 4 * plan["parameters"])

    def test_what_is_given_is_kept_and_the_rest_fitted_to_it(self):
        plan = self.dry("--max-model-len", 100, "--max-num-seqs", 3, "--kv-tokens", "1k",
                        "--block-size", 8, "--max-num-batched-tokens", 32)
        self.assertEqual([plan[k] for k in ("max_model_len", "max_num_seqs", "kv_tokens",
                                            "block_tokens", "max_num_batched_tokens")],
                         [100, 3, 1000, 8, 32])
        self.assertEqual(self.dry("--kv-tokens", 200)["max_model_len"], 192)
        # No more cache than can be used: 3 sequences of 13 blocks, and half as much for prefixes.
        few = self.dry("--max-model-len", 100, "--max-num-seqs", 3, "--block-size", 8)
        self.assertEqual(few["kv_blocks"], 3 * 13 + 19)
        few = self.dry("--max-model-len", 100, "--max-num-seqs", 3, "--block-size", 8,
                       "--no-prefix-cache")
        self.assertEqual(few["kv_blocks"], 3 * 13)

    def test_what_cannot_fit_is_refused_with_what_would(self):
        base = ("--model", MODEL, "--dry-run")
        err = self.refused("would fit", *base, "--kv-tokens", "1000M")
        fits = int(err.split("--kv-tokens ")[2].split()[0])
        code, _, _ = self.run_worker(*base, "--kv-tokens", fits // 2)
        self.assertEqual(code, 0)
        self.refused("--memory-utilization 0.0", *base, "--kv-tokens", "1M",
                     "--memory-utilization", 0.01)
        self.refused("512 positions", *base, "--max-model-len", 513)
        self.refused("--kv-tokens", *base, "--max-model-len", 512, "--kv-tokens", 100)
        self.refused("at least one block of 16", *base, "--kv-tokens", 15)
        self.refused("could not decode", *base, "--max-num-seqs", 33, "--max-num-batched-tokens", 32)

    def test_wrong_usage_is_one_sentence(self):
        base = ("--model", MODEL, "--dry-run")
        self.refused("expected --model DIR", "--dry-run")
        self.refused("expected --model DIR", "--dry-run", "--backend", "cpu")
        self.refused("--model goes with --backend cpu", *base, "--backend", "emulated",
                     "--profile",
                     harness.ROOT / "profiles" / "published" / "a10g-llama-2-7b-fp16.json")
        self.refused("--emulated-noise goes with --backend emulated", *base, "--emulated-noise", 0.1)
        for cores in ("x", "", "0-", "3-1", "0,,1", "0 1", "99999999999999999999", "-1"):
            self.refused("--cpu-cores", *base, f"--cpu-cores={cores}")
        self.refused("is not one that this process may use", *base, "--cpu-cores", "0,60000")
        self.refused("--dtype", *base, "--dtype", "int8")
        self.refused("--served-model-name", *base, "--served-model-name", "two words")
        self.refused("expected --router", "--model", MODEL)

    def test_pinned_threads_serve(self):
        with Router() as router, \
                Process("medley-worker", "--model", MODEL, "--cpu-cores", "0", "--router",
                        router.address) as process:
            self.assertEqual(process.wait_ready()["threads"], "1")
            link, _ = router.welcome()
            self.assertEqual(len(ids(link, generate(1))), 12)
            process.stop()

    def test_a_directory_that_is_no_model_is_one_sentence_before_ready(self):
        for start in (("--dry-run",), ("--router", "127.0.0.1:1")):
            with tempfile.TemporaryDirectory() as folder:
                self.refused("config.json", "--model", folder, *start)
                self.refused("config.json", "--model", f"{folder}/nowhere", *start)
                model = tiny_model.write(f"{folder}/m")
                config = json.loads((model / "config.json").read_text())
                (model / "config.json").write_text(json.dumps({**config, "hidden_size": 64,
                                                               "head_dim": 8}))
                self.refused("model.embed_tokens.weight", "--model", model, *start)
                (model / "config.json").write_text(json.dumps({**config, "architectures":
                                                               ["GPT2LMHeadModel"]}))
                self.refused("GPT2LMHeadModel", "--model", model, *start)
                tiny_model.write(model, generation={"temperature": 7})
                self.refused("temperature", "--model", model, *start)
                (model / "model.safetensors").unlink()
                (model / "generation_config.json").unlink()
                self.refused("model.safetensors", "--model", model, *start)

    def test_weights_that_yield_no_number_are_found_before_ready(self):
        with tempfile.TemporaryDirectory() as folder:
            model = tiny_model.write(f"{folder}/m")
            data = bytearray((model / "model.safetensors").read_bytes())
            data[-4 * 32 * VOCAB:] = b"\xff" * (4 * 32 * VOCAB)  # the head: NaN
            (model / "model.safetensors").write_bytes(data)
            code, out, err = self.run_worker("--model", model, "--router", "127.0.0.1:1")
            self.assertEqual((code, out), (1, ""))
            self.assertIn("no logit is a finite number", err)
            self.assertNotIn("READY", err)

    def test_a_prompt_that_yields_no_number_fails_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            model = tiny_model.write(f"{folder}/m")
            data = bytearray((model / "model.safetensors").read_bytes())
            header = int.from_bytes(data[:8], "little")
            begin = json.loads(data[8:8 + header])["model.embed_tokens.weight"]["data_offsets"][0]
            bad = VOCAB - 1  # beyond what the warm-up computes
            at = 8 + header + begin + bad * 32 * 4
            data[at:at + 32 * 4] = b"\xff" * (32 * 4)
            (model / "model.safetensors").write_bytes(data)
            router = Router()
            process = worker(router, "--max-num-batched-tokens", 64, model=model)
            process.wait_ready()
            link, _ = router.welcome(stats_interval_ms=0)
            # Two chunks, the bad one in the middle of the first: what is in front of it, and stays in the
            # prefix cache, must be untouched.
            shared = [7, 9] * 10
            self.assertEqual(answers(link, generate(7, shared + [bad] + [3] * 80))[7][1].ending,
                             pb.ENDING_FAILED)
            got = answers(link, generate(8, shared + [4]), generate(9, shared + [6]))
            self.assertEqual([len(got[r][0]) for r in (8, 9)], [12, 12])
            prefix = [5] * 40
            before = ids(link, generate(1, prefix + [6]))
            got = answers(link, generate(2, prefix + [bad]), generate(3, prefix + [6]),
                          generate(4, prefix + [bad, 8]))
            for request in (2, 4):
                self.assertEqual(got[request][0], [])
                self.assertEqual(got[request][1].ending, pb.ENDING_FAILED)
                self.assertIn("finite", got[request][1].message)
            self.assertEqual(got[3][0], before)
            self.assertEqual(ids(link, generate(5, prefix + [6])), before)
            self.assertEqual(answers(link, generate(6, prefix + [bad]))[6][1].ending,
                             pb.ENDING_FAILED)
            process.stop()
            router.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
