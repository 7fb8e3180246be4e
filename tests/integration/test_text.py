# SPDX-License-Identifier: Apache-2.0
"""Text, chats and choices through the router's gRPC door, against workers that a test scripts.

The tokenizer is that of tests/data/tokenizers/qwen2 (byte level) or llama2 (SentencePiece style); what
it should make of a text is asked of the tokenizers package."""
import json
import pathlib
import shutil
import signal
import subprocess
import unittest
import urllib.request

import grpc
import tokenizers

import harness
import http2
from fake_worker import FakeWorker, dial, hello, logprob_of
from harness import Process, metrics, wait_until
from link import pb as link_pb
from test_grpc import CODES, LARGE, SMALL, RouterTest, api, outcomes

TOKENIZERS = harness.ROOT / "tests/data/tokenizers"
TEMPLATE = ("{% for m in messages %}{% if m['role'] == 'poet' %}{{ raise_exception('no poets') }}{% endif %}"
            "<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}")
Sampling = api.Sampling


def text_request(text, max_tokens=0, **fields):
    sampling = fields.pop("sampling", None)
    return api.GenerateRequest(text=text, max_tokens=max_tokens, sampling=sampling, **fields)


def chat_request(*messages, max_tokens=0, **fields):
    generation = fields.pop("add_generation_prompt", None)
    chat = api.Chat(messages=[api.ChatMessage(role=r, content=c) for r, c in messages])
    if generation is not None:
        chat.add_generation_prompt = generation
    return api.GenerateRequest(chat=chat, max_tokens=max_tokens, **fields)


class TextTest(RouterTest):
    STYLE = "qwen2"

    def start_text(self, *options, template=TEMPLATE, files=None):
        self.tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZERS / self.STYLE / "tokenizer.json"))
        folder = harness.tempfile.TemporaryDirectory(prefix="medley-model-")
        self.addCleanup(folder.cleanup)
        self.model = pathlib.Path(folder.name)
        shutil.copy(TOKENIZERS / self.STYLE / "tokenizer.json", self.model)
        (self.model / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
        for name, content in (files or {}).items():
            (self.model / name).write_text(json.dumps(content))
        return self.start("--model", str(self.model), *options)

    def ids(self, text, special=False):
        return self.tokenizer.encode(text, add_special_tokens=special).ids

    def stream(self, message):
        """Chunks joined by choice: [{text, ids, reason, stop, logprobs}], and the last usage."""
        choices, usage = {}, None
        for chunk in self.client.stream(message):
            self.assertIsNone(usage, "a chunk after the last one")
            c = choices.setdefault(chunk.index, {"text": "", "ids": [], "reason": 0, "stop": "",
                                                 "logprobs": []})
            self.assertEqual(c["reason"], 0, "a chunk after the choice's last one")
            self.assertEqual(chunk.position, len(c["ids"]))
            self.assertNotIn("\N{REPLACEMENT CHARACTER}", chunk.text)
            c["text"] += chunk.text
            c["ids"] += chunk.tokens.ids
            c["logprobs"] += chunk.logprobs
            c["reason"], c["stop"] = chunk.finish_reason, chunk.stop
            usage = chunk.usage if chunk.HasField("usage") else None
        return [choices[i] for i in sorted(choices)], usage

    def check_same(self, message):
        """The stream says what the one answer says; returns its choices."""
        answer = self.client.generate(message)
        choices, usage = self.stream(message)
        self.assertEqual([c.index for c in answer.choices], list(range(len(choices))))
        for whole, parts in zip(answer.choices, choices):
            self.assertEqual((whole.text, list(whole.tokens.ids), whole.finish_reason, whole.stop),
                             (parts["text"], parts["ids"], parts["reason"], parts["stop"]))
            self.assertEqual(list(whole.logprobs), parts["logprobs"])
        self.assertEqual(answer.usage, usage)
        return answer.choices, answer.usage


class Answers(TextTest):
    TEXTS = ["Hello, world", "It is a truth universally acknowledged\n\n",
             "caf\u00e9 \U0001f600 \u4f60\u597d \U0001f468\u200d\U0001f469\u200d\U0001f467 done", " x"]

    def test_text_in_and_out(self):
        self.start_text()
        for per_frame in (1, 3):
            for text in self.TEXTS:
                with FakeWorker(self.link, f"w{per_frame}", SMALL, script=self.ids(text),
                                per_frame=per_frame) as worker:
                    choices, usage = self.check_same(text_request(text, 100))
                    prompt = self.tokenizer.encode(text).ids
                    self.assertEqual([list(g.prompt) for g in worker.taken], [prompt] * 2)
                    self.assertEqual(choices[0].text, text)
                    self.assertEqual(list(choices[0].tokens.ids), self.ids(text))
                    self.assertEqual(choices[0].finish_reason, api.FINISH_REASON_STOP)
                    self.assertEqual((usage.prompt_tokens, usage.completion_tokens),
                                     (len(prompt), len(self.ids(text))))
                wait_until(lambda: '"connected": 0' in harness.http_get(self.http, "/health")[1], "it")
        self.stop()

    def test_chat_goes_through_the_template(self):
        self.start_text()
        worker = self.worker(script=self.ids("ok"))
        messages = [("system", "Be <|brief|>."), ("user", "Hi \U0001f600")]
        text = "<|system|>Be <|brief|>.\n<|user|>Hi \U0001f600\n"
        self.client.generate(chat_request(*messages))
        self.client.generate(chat_request(*messages, add_generation_prompt=False))
        self.assertEqual([list(g.prompt) for g in worker.taken],
                         [self.ids(text + "<|assistant|>"), self.ids(text)])
        # Without max_tokens a chat has the rest of the context; text has 16.
        self.assertEqual([g.max_tokens for g in worker.taken],
                         [16384 - len(g.prompt) for g in worker.taken])
        self.client.generate(text_request("a"))
        self.assertEqual(worker.taken[-1].max_tokens, 16)
        self.assert_status(CODES.INVALID_ARGUMENT,
                           lambda: self.client.generate(chat_request(("poet", "Hi"))), "no poets")
        self.stop()

    def test_special_tokens_in_texts(self):
        self.start_text()
        special = [t for t in ("<|im_end|>", "<|endoftext|>") if self.tokenizer.token_to_id(t)]
        text = "".join(special) * 500 + " end"
        worker = self.worker(script=self.ids("a" + special[0] + "b"))
        choices, _ = self.check_same(text_request(text, 50))
        self.assertEqual(list(worker.taken[0].prompt), self.tokenizer.encode(text).ids)
        self.assertEqual(choices[0].text, "ab")
        choices, _ = self.check_same(text_request(text, 50,
                                                  sampling=Sampling(skip_special_tokens=False)))
        self.assertEqual(choices[0].text, "a" + special[0] + "b")
        self.stop()

    def test_the_end_of_sequence_token_has_no_text(self):
        self.tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZERS / self.STYLE / "tokenizer.json"))
        name = next(t for t in ("<|im_end|>", "<|endoftext|>", "</s>") if self.tokenizer.token_to_id(t))
        eos = self.tokenizer.token_to_id(name)
        kept = Sampling(skip_special_tokens=False)
        # What generation_config.json says comes first.
        for config, generation, text in (
                ({"eos_token_id": eos}, {"eos_token_id": None}, "a"), ({}, {"eos_token_id": [eos, -1]}, "a"),
                ({"eos_token_id": eos}, {"eos_token_id": []}, "a" + name), ({}, {}, "a" + name)):
            self.start_text(files={"config.json": config, "generation_config.json": generation})
            self.worker(script=self.ids("a") + [eos])
            choices, _ = self.check_same(text_request("x", 50, sampling=kept))
            self.assertEqual(choices[0].text, text)
            self.assertEqual(choices[0].tokens.ids[-1], eos)
            for shown in (Sampling(skip_special_tokens=False, include_stop=True),
                          Sampling(skip_special_tokens=False, ignore_eos=True)):
                choices, _ = self.check_same(text_request("x", 50, sampling=shown))
                self.assertEqual(choices[0].text, "a" + name)
            self.stop()

    def test_stop_strings_at_every_split(self):
        self.start_text()
        text = "one two, three \U0001f600 four; five"
        ids = self.ids(text)
        for per_frame in (1, len(ids)):
            worker = self.worker(f"w{per_frame}", script=ids, per_frame=per_frame)
            for at in range(1, len(text)):
                stop = text[at:at + 1 + at % 7]
                end = text.index(stop)
                choices, usage = self.check_same(
                    text_request("x", 50, sampling=Sampling(stop=["never", stop])))
                choice = choices[0]
                self.assertEqual((choice.text, choice.stop, choice.finish_reason),
                                 (text[:end], stop, api.FINISH_REASON_STOP))
                # The last token is the one that completed it.
                taken = list(choice.tokens.ids)
                self.assertEqual(taken, ids[:len(taken)])
                self.assertIn(stop, self.tokenizer.decode(taken))
                self.assertNotIn(stop, self.tokenizer.decode(taken[:-1]))
                self.assertEqual(usage.completion_tokens, len(taken))
            worker.close()
            wait_until(lambda: '"connected": 0' in harness.http_get(self.http, "/health")[1], "it")
        found = outcomes(self.http)
        self.assertEqual(sum(found.values()), found["stop"])
        self.stop()

    def test_stop_variants(self):
        self.start_text()
        ids = self.ids("a b a b a b")
        self.worker(script=ids)
        for sampling, text, stop in (
                (Sampling(stop=["b"], include_stop=True), "a b", "b"),
                (Sampling(stop=["b"], min_tokens=3), "a b a ", "b"),
                (Sampling(stop=["zzz"]), "a b a b a b", ""),
                (Sampling(stop=["b a b a b c"]), "a b a b a b", ""),
                (Sampling(stop_token_ids=[ids[-1]], min_tokens=len(ids) - 1), "a b a b a", "")):
            choices, _ = self.check_same(text_request("x", 50, sampling=sampling))
            self.assertEqual((choices[0].text, choices[0].stop), (text, stop), sampling)
        self.stop()

    def test_a_stop_string_stops_the_worker(self):
        self.start_text()
        worker = self.worker()
        call = self.client.generate.future(text_request("x", 50, sampling=Sampling(stop=["two"])))
        generate = worker.next_generate()
        worker.tokens(generate, 0, self.ids("one two three"))
        self.assertEqual(call.result().choices[0].text, "one ")
        self.assertEqual(worker.next_cancel().request, generate.request)
        worker.finish(generate, link_pb.ENDING_CANCELLED)
        wait_until(lambda: metrics(self.http)["medley_router_stale_messages_total"] == 1, "stale")
        self.assertEqual(outcomes(self.http)["stop"], 1)
        self.stop()

    def test_echo(self):
        self.start_text()
        self.worker(script=self.ids(" after"))
        for prompt in ("before", "caf\u00e9 \U0001f600"):
            choices, _ = self.check_same(text_request(prompt, 50, echo=True, n=2))
            self.assertEqual([c.text for c in choices], [prompt + " after"] * 2)
        tokens = api.GenerateRequest(tokens=api.TokenIds(ids=self.ids("before")), max_tokens=9, echo=True)
        self.assertEqual(self.check_same(tokens)[0][0].text, "before after")
        choices, _ = self.stream(text_request("\u00e9x" * 5000, 9, echo=True))
        self.assertEqual(choices[0]["text"], "\u00e9x" * 5000 + " after")
        self.stop()

    def test_choices(self):
        self.start_text()
        worker = self.worker(script=self.ids("one two"), cached_tokens=1)
        choices, usage = self.check_same(text_request("x y", 50, n=3, sampling=Sampling(seed=7)))
        self.assertEqual([c.text for c in choices], ["one two"] * 3)
        self.assertEqual(usage.completion_tokens, 3 * len(self.ids("one two")))
        self.assertEqual(usage.cached_tokens, 1)
        seeds = [g.seed for g in worker.taken]
        self.assertEqual(len(set(seeds)), 3)  # alike in both answers
        self.assertIn(7, seeds)
        self.assertEqual(outcomes(self.http)["stop"], 6)
        self.stop()

    def test_chunks_of_choices_come_between_each_other(self):
        self.start_text()
        worker = self.worker()
        call = self.client.stream(text_request("x", 9, n=2))
        first, second = worker.next_generate(), worker.next_generate()
        order = []
        for position, generate in ((0, first), (0, second), (1, first), (1, second)):
            worker.tokens(generate, position, self.ids("a"))
            order.append((next(call).index, position))
        self.assertEqual(order, [(0, 0), (1, 0), (0, 1), (1, 1)])
        worker.finish(first)
        chunk = next(call)
        self.assertEqual((chunk.index, chunk.finish_reason), (0, api.FINISH_REASON_STOP))
        self.assertFalse(chunk.HasField("usage"))
        worker.finish(second)
        chunk = next(call)
        self.assertEqual((chunk.index, chunk.usage.completion_tokens), (1, 4))
        self.assertEqual(list(call), [])
        self.stop()

    def test_logprobs(self):
        self.start_text()
        text = "a \U0001f600"
        ids = self.ids(text)
        self.worker(script=ids, per_frame=2)
        for count in (0, 3):
            choices, _ = self.check_same(text_request("x", 50, sampling=Sampling(logprobs=count)))
            rows = choices[0].logprobs
            self.assertEqual([r.chosen.id for r in rows], ids)
            self.assertEqual(b"".join(r.chosen.token for r in rows), text.encode())
            for row, token in zip(rows, ids):
                want = logprob_of(token, count)
                self.assertEqual(row.chosen.logprob, want.logprob)
                self.assertEqual([t.id for t in row.top], list(want.top_ids))
                self.assertEqual([t.logprob for t in row.top], list(want.top_logprobs))
        self.assertEqual(len(self.check_same(text_request("x", 50))[0][0].logprobs), 0)
        # A stop string drops the tokens behind it, with their logprobs.
        choices, _ = self.check_same(text_request("x", 50, sampling=Sampling(logprobs=1, stop=["a"])))
        self.assertEqual(len(choices[0].logprobs), len(choices[0].tokens.ids))
        self.stop()

    def test_a_character_that_is_never_whole(self):
        self.start_text()
        ids = self.ids("a\U0001f600")[:-1]
        self.worker(script=ids)
        answer = self.client.generate(text_request("x", 50))
        self.assertEqual(answer.choices[0].text, "a\N{REPLACEMENT CHARACTER}")
        self.assertEqual(list(answer.choices[0].tokens.ids), ids)
        self.stop()


class SentencePiece(Answers):
    STYLE = "llama2"
    TEXTS = ["Hello, world", "caf\u00e9 \U0001f600 \u4f60\u597d done"]

    # These say what byte-level tokenizers do.
    test_chat_goes_through_the_template = test_special_tokens_in_texts = None
    test_text_in_and_out = test_a_character_that_is_never_whole = test_echo = None
    test_stop_variants = test_logprobs = None

    def ids(self, text, special=False):
        """Of a text that goes on: without the space that is put before the first one."""
        start = len(self.tokenizer.encode("\n", add_special_tokens=special).ids)
        return self.tokenizer.encode("\n" + text, add_special_tokens=special).ids[start:]

    def test_round_trip(self):
        self.start_text()
        for text in self.TEXTS:
            prompt = self.tokenizer.encode(text).ids
            with FakeWorker(self.link, "w", SMALL, script=self.ids(text)) as worker:
                choices, _ = self.check_same(text_request(text, 100))
                self.assertEqual(list(worker.taken[0].prompt), prompt)
                self.assertEqual(choices[0].text, text)
            wait_until(lambda: '"connected": 0' in harness.http_get(self.http, "/health")[1], "it")
        self.stop()


class Refusals(TextTest):
    def test_bad_text_is_named(self):
        self.start_text()
        self.worker(script=[1])
        S = Sampling
        nan = float("nan")
        table = [
            (text_request(""), "text: found none"),
            (b"\x1a\x03a\xffb", "text: found byte 0xff at position 1, expected UTF-8"),
            (b"\x1a\x03\x61\x00\x62", "text: found a zero byte at position 1"),
            (b"\x22\x09\x0a\x07\x0a\x01u\x12\x02a\xff",
             "chat.messages[0].content: found byte 0xff at position 1"),
            (b"\x1a\x01a\x32\x03\x62\x01\xff", "sampling.stop[0]: found byte 0xff"),
            (text_request("x" * ((4 << 20) + 1)), "text: found 4194305 bytes"),
            (text_request("x", 20000), "expected at most 18432 together"),
            (text_request("x y " * 12000, 16), "text, max_tokens: found a prompt of"),
            (chat_request(), "chat.messages: found 0, expected 1 to 16384"),
            (chat_request(*[("user", "hello")] * 16385), "chat.messages: found 16385"),
            (chat_request(("", "a")), "chat.messages[0].role: found 0 bytes"),
            (text_request("x", n=129), "n: found 129, expected 1 to 128"),
            (text_request("x", sampling=S(min_p=1.5)), "sampling.min_p: found 1.5"),
            (text_request("x", sampling=S(min_p=nan)), "sampling.min_p: found"),
            (text_request("x", sampling=S(repetition_penalty=0)), "sampling.repetition_penalty: found 0"),
            (text_request("x", sampling=S(presence_penalty=3)), "sampling.presence_penalty: found 3"),
            (text_request("x", sampling=S(frequency_penalty=nan)), "sampling.frequency_penalty: found"),
            (text_request("x", sampling=S(logit_bias=[api.LogitBias(id=32000, bias=1)])),
             "sampling.logit_bias[0].id: found 32000, expected 0 to 31999"),
            (text_request("x", sampling=S(logit_bias=[api.LogitBias(id=1, bias=nan)])),
             "sampling.logit_bias[0].bias"),
            (text_request("x", sampling=S(stop=[""])), "sampling.stop[0]: found 0 bytes"),
            (text_request("x", sampling=S(stop=["a" * 1025])), "sampling.stop[0]: found 1025 bytes"),
            (text_request("x", sampling=S(stop=["a"] * 17)), "sampling.stop: found 17 strings"),
            (text_request("x", sampling=S(stop_token_ids=[1] * 257)), "sampling.stop_token_ids: found 257"),
            (text_request("x", sampling=S(logprobs=21)), "sampling.logprobs: found 21"),
            (text_request("x", 10000, n=128, sampling=S(logprobs=20)),
             "n, max_tokens, sampling.logprobs: found 128 choices of at most 10000 output tokens with "
             "1 + 20 logprobs each, expected at most 3120 output tokens"),
            (text_request("x", 4, sampling=S(min_tokens=5)), "sampling.min_tokens: found 5"),
        ]
        raw = self.client.channel.unary_unary("/medley.v1.Inference/Generate")
        for message, words in table:
            data = message if isinstance(message, bytes) else message.SerializeToString()
            with self.subTest(words):
                self.assert_status(CODES.INVALID_ARGUMENT, lambda d=data: raw(d), words)
        self.assertEqual(metrics(self.http)["medley_router_accepted_total"], 0)
        # All but the message that is no message.
        self.assertEqual(metrics(self.http)['medley_router_refused_total{reason="invalid"}'],
                         len(table) - 1)
        self.stop()

    def test_without_a_model_it_says_how_to_get_one(self):
        self.start()
        self.worker(auto=True)
        for message in (text_request("x"), chat_request(("user", "x"))):
            self.assert_status(CODES.INVALID_ARGUMENT, lambda m=message: self.client.generate(m),
                               "this router has no tokenizer", "--model DIR")
        tokens = api.GenerateRequest(tokens=api.TokenIds(ids=[1]), sampling=Sampling(logprobs=1))
        answer = self.client.generate(tokens)
        self.assertEqual(answer.choices[0].text, "")
        self.assertEqual([r.chosen.token for r in answer.choices[0].logprobs], [b""] * 16)
        self.stop()

    def test_a_model_without_a_template(self):
        self.start_text()
        (self.model / "tokenizer_config.json").unlink()
        self.router.stop()
        self.start("--model", str(self.model))
        self.worker(auto=True)
        self.assert_status(CODES.INVALID_ARGUMENT,
                           lambda: self.client.generate(chat_request(("user", "x"))),
                           "has no chat template")
        self.stop()

    def test_a_bad_model_folder_ends_the_start(self):
        self.start_text()
        broken = self.folder / "broken"
        broken.mkdir()
        for words, write in (("tokenizer.json", None), ("tokenizer.json", b"{"),
                             ("tokenizer.json", b"\xff" * 100)):
            if write is not None:
                (broken / "tokenizer.json").write_bytes(write)
            status, out, err = harness.run("medley-router", self.plan, "--model", broken)
            self.assertEqual((status, out), (2, ""), err)
            self.assertIn(words, err)
            self.assertIn("--model", err)
        shutil.copy(self.model / "tokenizer.json", broken)
        (broken / "chat_template.jinja").write_text("{% frob %}")
        status, _, err = harness.run("medley-router", self.plan, "--model", broken)
        self.assertEqual(status, 2, err)
        self.assertIn("frob", err)
        self.stop()

    def test_vocabularies_that_do_not_fit(self):
        self.start_text()
        link = dial(self.link)
        welcome = hello(link, "small", SMALL, vocab_tokens=100)
        self.assertFalse(welcome.accepted)
        self.assertIn("of different models", welcome.reason)
        link.close()
        FakeWorker(self.link, "large", SMALL, vocab_tokens=32000).close()
        plan = json.loads(self.plan.read_text())
        for profile in plan["profiles"]:
            profile["model"]["vocab"] = 100
        other = self.folder / "other.json"
        other.write_text(json.dumps(plan))
        status, _, err = harness.run("medley-router", other, "--model", self.model)
        self.assertEqual(status, 2)
        self.assertIn("of different models", err)
        self.stop()

    def test_workers_that_lie_about_logprobs(self):
        self.start_text("--resume", "off")
        good = logprob_of(5, 2)
        nan = link_pb.TokenLogprobs(logprob=float("nan"))
        odd = link_pb.TokenLogprobs(logprob=-1, top_ids=[1, 2], top_logprobs=[-1])
        for logprobs, words in (([good] * 2, "more or fewer logprobs"),
                                ([nan], "not finite"), ([odd], "not finite, or too many")):
            worker = self.worker("liar")
            call = self.client.generate.future(text_request("x", 1, sampling=Sampling(logprobs=2)))
            generate = worker.next_generate()
            worker.tokens(generate, 0, [5], logprobs=logprobs)
            worker.wait_closed()
            self.router.wait_line(words)
            call.cancel()
            wait_until(lambda: metrics(self.http)["medley_router_queue_depth"] == 0, "the cancel")
        worker = self.worker("fickle")
        call = self.client.generate.future(text_request("x", 3, sampling=Sampling(logprobs=2)))
        generate = worker.next_generate()
        worker.tokens(generate, 0, [5])
        worker.tokens(generate, 1, [5], logprobs=[])
        worker.wait_closed()
        self.router.wait_line("some tokens with logprobs and some without")
        self.assert_status(CODES.UNAVAILABLE, call.result)
        # An emulated worker knows none: the answer comes without.
        worker = self.worker("emulated")
        call = self.client.generate.future(text_request("x", 3, sampling=Sampling(logprobs=2)))
        generate = worker.next_generate()
        worker.tokens(generate, 0, [5], logprobs=[])
        worker.tokens(generate, 1, [5], logprobs=[])
        worker.finish(generate)
        self.assertEqual(len(call.result().choices[0].logprobs), 0)
        worker.close()
        worker = self.worker("boaster")
        call = self.client.generate.future(text_request("x", 2))
        generate = worker.next_generate()
        worker.tokens(generate, 0, [5])
        worker.finish(generate, cached_tokens=99)
        worker.wait_closed()
        self.assert_status(CODES.UNAVAILABLE, call.result)
        self.stop()


class Trouble(TextTest):
    LONG = "It is a truth universally acknowledged, that a single man. " * 5000  # 300 KB

    def test_one_choice_that_fails_ends_the_others(self):
        self.start_text("--attempts-max", "1")
        worker = self.worker()
        call = self.client.generate.future(text_request("x", 9, n=3))
        generates = [worker.next_generate() for _ in range(3)]
        worker.tokens(generates[0], 0, self.ids("a"))
        worker.finish(generates[1], link_pb.ENDING_ERROR, "no luck")
        self.assert_status(CODES.INTERNAL, call.result, "no luck")
        self.assertEqual({worker.next_cancel().request for _ in range(2)},
                         {generates[0].request, generates[2].request})
        self.assertEqual(outcomes(self.http)["error"], 3)
        self.stop()

    def test_a_cancel_ends_every_choice(self):
        self.start_text()
        worker = self.worker()
        call = self.client.stream(text_request("x", 9, n=4))
        generates = [worker.next_generate() for _ in range(4)]
        call.cancel()
        self.assertEqual({worker.next_cancel().request for _ in range(4)},
                         {g.request for g in generates})
        self.assertEqual(outcomes(self.http)["abort_client"], 4)
        self.stop()

    def test_many_short_messages_are_rendered_beside_the_loop(self):
        self.start_text()
        self.worker("large", LARGE, auto=True, max_model_len=1 << 20)
        body = {"messages": [{"role": "user", "content": ""}] * 4000, "max_tokens": 1}
        with urllib.request.urlopen(urllib.request.Request(
                f"http://{self.http}/v1/chat/completions", json.dumps(body).encode(),
                {"Content-Type": "application/json"}), timeout=120) as answer:
            self.assertEqual(len(json.load(answer)["choices"]), 1)
        self.assertEqual(metrics(self.http)['medley_router_loop_jobs_total{job="encoded"}'], 1)
        self.stop()

    def test_choices_that_do_not_all_find_a_place(self):
        self.start_text("--queue-max", "2")
        link = dial(self.link)
        self.assertTrue(hello(link, "w", SMALL, max_num_seqs=1).accepted)
        self.assert_status(CODES.RESOURCE_EXHAUSTED,
                           lambda: self.client.generate(text_request("x", 9, n=8)), "wait already")
        samples = metrics(self.http)
        self.assertEqual((samples["medley_router_in_flight"], samples["medley_router_queue_depth"]),
                         (0, 0))
        self.assertEqual(outcomes(self.http)["error"], 0)  # nobody failed
        self.assertGreater(outcomes(self.http)["rejected"], 0)
        link.close()
        self.stop()

    def test_many_large_prompts_at_once(self):
        self.start_text("--admission", "queue")
        worker = self.worker("large", LARGE, script=self.ids("ok"), max_model_len=1 << 20)
        text = self.LONG[:60 << 10]
        want = self.tokenizer.encode(text).ids
        calls = [self.client.generate.future(text_request(text, 4)) for _ in range(64)]
        done = [c.exception() or c.result() for c in calls]
        ok = [a for a in done if isinstance(a, api.GenerateResponse)]
        self.assertEqual(len(ok), 64, done[:2])
        self.assertEqual({a.choices[0].text for a in ok}, {"ok"})
        self.assertTrue(all(list(g.prompt) == want for g in worker.taken))
        self.stop()

    def test_cancels_and_deadlines_while_prompts_are_encoded(self):
        self.start_text()
        worker = self.worker("large", LARGE, script=self.ids("ok"), max_model_len=1 << 20)
        text = self.LONG * 10
        calls = [self.client.generate.future(text_request(text, 4), timeout=0.05 if i % 2 else None)
                 for i in range(12)]
        for call in calls[::2]:
            call.cancel()
        for call in calls:
            self.assertIn(call.code(), (CODES.CANCELLED, CODES.DEADLINE_EXCEEDED,
                                        CODES.INVALID_ARGUMENT), call.details())
        wait_until(lambda: '"encoding_bytes": 0' in harness.http_get(self.http, "/admin/state")[1],
                   "the pool to be done")
        self.assertEqual(self.client.generate(text_request("x", 4)).choices[0].text, "ok")
        self.assertEqual(worker.seen, 1)
        self.stop()

    def test_a_drain_waits_for_prompts_being_encoded(self):
        self.start_text()
        self.worker("large", LARGE, script=self.ids("ok"), max_model_len=1 << 20)
        text = self.LONG[:60 << 10]
        calls = [self.client.generate.future(text_request(text, 4)) for _ in range(8)]
        wait_until(lambda: '"encoding_bytes": 0,' not in harness.http_get(self.http, "/admin/state")[1]
                   or any(c.done() for c in calls), "some to be encoded")
        wait_until(lambda: metrics(self.http)["medley_router_grpc_calls"] == 8
                   or any(c.done() for c in calls), "all calls to be there")
        self.router.send_signal(signal.SIGTERM)
        for call in calls:
            self.assertEqual(call.result().choices[0].text, "ok")
        self.assertEqual(self.router.wait(), 0)
        self.router.check_clean()

    def test_the_end_of_a_drain_ends_prompts_being_encoded(self):
        self.start_text("--drain-timeout", "0s")
        self.worker("large", LARGE, max_model_len=1 << 20)
        calls = [self.client.generate.future(text_request(self.LONG * 10, 4)) for _ in range(8)]
        wait_until(lambda: metrics(self.http)["medley_router_grpc_calls"] == 8
                   or any(c.done() for c in calls), "all calls to be there")
        self.router.send_signal(signal.SIGTERM)
        for call in calls:
            self.assertIn(call.code(), (CODES.UNAVAILABLE, CODES.INVALID_ARGUMENT), call.details())
        self.assertEqual(self.router.wait(), 0)
        self.router.check_clean()

    def test_a_slow_reader_of_text_is_ended(self):
        self.start_text()
        worker = self.worker("w1", LARGE, max_model_len=1 << 20)
        slow = http2.StalledCall(self.grpc, "/medley.v1.Inference/GenerateStream",
                                 text_request("x", 1 << 19).SerializeToString())
        self.addCleanup(slow.close)
        generate = worker.next_generate()
        ids = (self.ids("slow ") * 4096)[:4096]
        position = 0
        while worker.cancels.empty() and position < 1 << 19:
            worker.tokens(generate, position, ids)
            position += len(ids)
        self.assertEqual(worker.next_cancel().request, generate.request)
        self.assertEqual(slow.wait_status(), CODES.RESOURCE_EXHAUSTED.value[0])
        self.stop()


class Ask(TextTest):
    def ask(self, *args, data=None):
        done = subprocess.run([str(harness.BIN / "medley-ask"), "--target", self.grpc, *args],
                              input=data, capture_output=True, text=True, check=False,
                              timeout=harness.PATIENCE_S)
        self.assertIsNone(harness.SANITIZER.search(done.stderr), done.stderr)
        return done.returncode, done.stdout, done.stderr

    def test_answers(self):
        self.start_text()
        worker = self.worker(script=self.ids("caf\u00e9 \x1b[1m done"))
        self.assertEqual(self.ask("Who?"), (0, "caf\u00e9 \x1b[1m done\n", ""))
        self.assertEqual(list(worker.taken[-1].prompt), self.ids("<|user|>Who?\n<|assistant|>"))
        self.ask("--system", "S", "-", data="Who?")
        self.assertEqual(list(worker.taken[-1].prompt),
                         self.ids("<|system|>S\n<|user|>Who?\n<|assistant|>"))
        status, out, err = self.ask("--raw", "--echo", "--stats", "--seed", "5", "--temperature", "0.5",
                                    "--top-p", "0.25", "--max-tokens", "50", "--stop", "\x1b", "A ")
        self.assertEqual((status, out), (0, "A caf\u00e9 \n"))
        self.assertIn("ended by a stop string", err)
        got = worker.taken[-1]
        self.assertEqual((got.seed, got.temperature, got.top_p, got.max_tokens), (5, 0.5, 0.25, 50))
        status, out, err = self.ask("--json", "--raw", "--request-id", "mine", "A")
        found = json.loads(out)
        self.assertEqual((status, found["text"], found["request_id"], found["finish_reason"]),
                         (0, "caf\u00e9 \x1b[1m done", "mine", "stop"))
        self.stop()

    def test_exit_status(self):
        self.start_text()
        self.assertEqual(self.ask("x")[0], 1)  # no worker
        self.worker(script=self.ids("a"))
        for status, words, args in (
                (2, "found none", [""]), (2, "goes with --raw", ["--echo", "x"]),
                (2, "not with --raw", ["--raw", "--system", "s", "x"]),
                (2, "NOT_FOUND: model", ["--target-model", "m", "x"]),
                (2, "INVALID_ARGUMENT: text, max_tokens", ["--raw", "--max-tokens", "1000000", "x"]),
                (2, "--temperature", ["--temperature", "3", "x"]),
                # Refused: it does not wait for the hour to pass.
                (1, "127.0.0.1:1: no connection; is a router listening there?",
                 ["--target", "127.0.0.1:1", "--connect-timeout", "3600s", "x"])):
            got, out, err = self.ask(*args)
            self.assertEqual((got, out), (status, ""), err)
            self.assertIn(words, err)
        self.stop()

    def test_an_interrupt_stops_the_worker(self):
        self.start_text()
        worker = self.worker()
        asker = Process("medley-ask", "--target", self.grpc, "x")
        self.addCleanup(asker.kill)
        generate = worker.next_generate()
        worker.tokens(generate, 0, self.ids("half\n"))
        asker.wait_line("half")
        asker.send_signal(signal.SIGINT)
        self.assertEqual(worker.next_cancel().request, generate.request)
        self.assertEqual(asker.wait(), 1)
        self.assertIn("cancelled after", asker.output())
        self.assertEqual(outcomes(self.http)["abort_client"], 1)
        self.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2)
