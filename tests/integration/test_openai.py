# SPDX-License-Identifier: Apache-2.0
"""The OpenAI-compatible door: the unmodified `openai` package, curl and raw sockets, against workers that
a test scripts (test_text.py has the tokenizer)."""
import http.client
import json
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import unittest

import openai

import harness
from certificates import Authority
from harness import PATIENCE_S, metric, wait_until
from link import pb as link_pb
from test_grpc import LARGE, SMALL, outcomes
from test_text import TextTest

MODEL = "llama-2-7b"
HI = [{"role": "user", "content": "Hi \U0001f600"}]


class OpenAITest(TextTest):
    def start_door(self, *options, **kwargs):
        self.start_text(*options, **kwargs)
        self.connect_client()

    def connect_client(self):
        self.api = openai.OpenAI(base_url=f"http://{self.http}/v1", api_key="none",
                                 max_retries=0, timeout=PATIENCE_S)
        self.addCleanup(self.api.close)

    def post(self, path, body, headers=None):
        """(status, headers, body) of one request; the body may be bytes."""
        host, port = self.http.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
        try:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request("POST", path, data,
                               {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def events(self, path, body, headers=None):
        """Status, headers and the data of the events of a stream; comments are left out."""
        status, heads, text = self.post(path, {**body, "stream": True}, headers)
        events = [e for e in text.decode().split("\n\n") if e and not e.startswith(":")]
        for event in events:
            self.assertTrue(event.startswith("data: "), event)
        return status, heads, [e[len("data: "):] for e in events]

    def open_stream(self, body, path="/v1/completions"):
        """A socket on which a request was sent; nothing is read."""
        host, port = self.http.rsplit(":", 1)
        sock = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self.addCleanup(sock.close)
        data = json.dumps(body).encode()
        sock.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        return sock

    @staticmethod
    def read_until(sock, word):
        data = b""
        while word not in data:
            more = sock.recv(1 << 16)
            assert more, (word, data)
            data += more
        return data

    def error(self, kind, call):
        with self.assertRaises(kind) as caught:
            call()
        return caught.exception


class Answers(OpenAITest):
    TEXT = "caf\u00e9 \U0001f600 \"quoted\"\n\tdone"

    def test_completions_whole_and_streamed(self):
        self.start_door()
        for per_frame in (1, 4):
            worker = self.worker(f"w{per_frame}", script=self.ids(self.TEXT), per_frame=per_frame,
                                 cached_tokens=1)
            prompt = self.tokenizer.encode("Hello there").ids
            answer = self.api.completions.create(model=MODEL, prompt="Hello there", max_tokens=100)
            self.assertEqual((answer.object, answer.model, answer.choices[0].index),
                             ("text_completion", MODEL, 0))
            self.assertTrue(answer.id.startswith("cmpl-"))
            self.assertLess(abs(answer.created - time.time()), 3600)
            self.assertEqual(answer.choices[0].text, self.TEXT)
            self.assertEqual(answer.choices[0].finish_reason, "stop")
            self.assertEqual((answer.usage.prompt_tokens, answer.usage.completion_tokens),
                             (len(prompt), len(self.ids(self.TEXT))))
            self.assertEqual(answer.usage.total_tokens,
                             answer.usage.prompt_tokens + answer.usage.completion_tokens)
            self.assertEqual(answer.usage.prompt_tokens_details.cached_tokens, 1)
            self.assertEqual(list(worker.taken[0].prompt), prompt)
            self.assertEqual(worker.taken[0].max_tokens, 100)

            chunks = list(self.api.completions.create(
                model=MODEL, prompt="Hello there", max_tokens=5, stream=True,
                stream_options={"include_usage": True}))
            self.assertEqual("".join(c.choices[0].text for c in chunks[:-1]),
                             self.tokenizer.decode(self.ids(self.TEXT)[:5]))
            self.assertEqual([c.choices[0].finish_reason for c in chunks[:-2]],
                             [None] * (len(chunks) - 2))
            self.assertEqual(chunks[-2].choices[0].finish_reason, "length")
            self.assertEqual((chunks[-1].choices, chunks[-1].usage.completion_tokens), ([], 5))
            self.assertEqual({c.usage for c in chunks[:-1]}, {None})
            self.assertEqual({c.id for c in chunks}, {chunks[0].id})
            # Without max_tokens a completion has 16.
            self.api.completions.create(model=MODEL, prompt="x")
            self.assertEqual(worker.taken[-1].max_tokens, 16)
            worker.close()
            wait_until(lambda: '"connected": 0' in harness.http_get(self.http, "/health")[1], "it")
        self.stop()

    def test_chat_whole_and_streamed(self):
        self.start_door()
        worker = self.worker(script=self.ids(self.TEXT))
        messages = [{"role": "system", "content": "Be brief."},
                    {"role": "user", "content": [{"type": "text", "text": "Hi"},
                                                 {"type": "text", "text": "there"}]}]
        answer = self.api.chat.completions.create(model=MODEL, messages=messages)
        prompt = self.ids("<|system|>Be brief.\n<|user|>Hi\nthere\n<|assistant|>")
        self.assertEqual(list(worker.taken[0].prompt), prompt)
        self.assertEqual(worker.taken[0].max_tokens, 16384 - len(prompt))
        self.assertEqual((answer.object, answer.choices[0].message.role), ("chat.completion", "assistant"))
        self.assertEqual(answer.choices[0].message.content, self.TEXT)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        chunks = list(self.api.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=3, max_completion_tokens=100, stream=True))
        self.assertEqual(worker.taken[1].max_tokens, 100)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual([c.choices[0].delta.role for c in chunks[1:]], [None] * (len(chunks) - 1))
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in chunks), self.TEXT)
        self.assertEqual(chunks[-1].choices[0].finish_reason, "stop")
        # One event per token, apart from those that are part of a character.
        self.assertGreater(len(chunks), len(self.ids(self.TEXT)) - 8)
        self.stop()

    def test_stream_on_the_wire(self):
        self.start_door()
        worker = self.worker(script=self.ids("a b"))
        status, heads, events = self.events("/v1/chat/completions", {
            "messages": HI, "stream_options": {"include_usage": True}},
            {"X-Request-Id": "mine-1", "Traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"})
        self.assertEqual(status, 200)
        self.assertTrue(heads["content-type"].startswith("text/event-stream"))
        self.assertEqual((heads["cache-control"], heads["x-accel-buffering"]), ("no-cache", "no"))
        self.assertEqual(heads["x-request-id"], "mine-1")
        self.assertEqual(heads["traceparent"], "00-" + "a" * 32 + "-" + "b" * 16 + "-01")
        self.assertEqual(worker.taken[0].traceparent, heads["traceparent"])
        self.assertEqual(events[-1], "[DONE]")
        chunks = [json.loads(e) for e in events[:-1]]
        self.assertEqual({c["id"] for c in chunks}, {"chatcmpl-mine-1"})
        self.assertEqual(chunks[0]["choices"][0]["delta"], {"role": "assistant", "content": "a"})
        self.assertEqual(chunks[1]["choices"][0]["delta"], {"content": " b"})
        self.assertEqual(chunks[-2]["choices"][0]["delta"], {})
        self.assertEqual(chunks[-2]["choices"][0]["finish_reason"], "stop")
        self.assertEqual(chunks[-1]["choices"], [])
        self.assertEqual(chunks[-1]["usage"]["completion_tokens"], 2)
        _, _, events = self.events("/v1/completions", {
            "prompt": "x", "stream_options": {"continuous_usage_stats": True}})
        self.assertEqual([json.loads(e)["usage"]["completion_tokens"] for e in events[:-1]], [1, 2, 2])
        # An id of its own when the client has none, or none that can be used.
        for given in ({}, {"X-Request-Id": "not one id"}, {"X-Request-Id": "x" * 200}):
            _, heads, _ = self.post("/v1/completions", {"prompt": "x"}, given)
            self.assertRegex(heads["x-request-id"], r"^h[0-9a-f]{8}-\d+$")
        self.stop()

    def test_several_prompts_and_choices(self):
        self.start_door()
        worker = self.worker(auto=True)
        answer = self.api.completions.create(model=MODEL, prompt=[[1, 2], [3]], n=2, max_tokens=2,
                                             extra_body={"return_token_ids": True})
        self.assertEqual([c.index for c in answer.choices], [0, 1, 2, 3])
        self.assertEqual([c.token_ids for c in answer.choices], [[2, 3], [2, 3], [4, 4], [4, 4]])
        self.assertEqual((answer.usage.prompt_tokens, answer.usage.completion_tokens), (3, 8))
        ids = {}
        for chunk in self.api.completions.create(model=MODEL, prompt=["a", "b", "c"], max_tokens=3,
                                                 n=2, stream=True,
                                                 extra_body={"return_token_ids": True}):
            c = chunk.choices[0]
            ids.setdefault(c.index, []).extend(c.token_ids)
        prompts = [list(self.tokenizer.encode(t).ids) for t in "aabbcc"]
        self.assertEqual([ids[i] for i in range(6)], [[p[k % len(p)] + 1 for k in range(3)] for p in prompts])
        answer = self.api.completions.create(model=MODEL, prompt=[5, 6, 7], max_tokens=3)
        self.assertEqual(list(worker.taken[-1].prompt), [5, 6, 7])
        answer = self.api.chat.completions.create(model=MODEL, messages=HI, n=3, max_tokens=1)
        self.assertEqual([c.index for c in answer.choices], [0, 1, 2])
        self.stop()

    def test_every_parameter_reaches_the_worker(self):
        self.start_door()
        worker = self.worker(script=self.ids("a"))
        self.api.completions.create(
            model=MODEL, prompt="one two three four", max_tokens=9, temperature=0, top_p=0.5, seed=7,
            presence_penalty=-1, frequency_penalty=0.5, logit_bias={"3": -100}, logprobs=2, user="u",
            extra_body={"ignore_eos": True, "min_tokens": 2, "top_k": 5, "min_p": 0.25,
                        "repetition_penalty": 1.5, "stop_token_ids": [5, 6], "truncate_prompt_tokens": 2,
                        "emulated_output_tokens": 4, "nobody_knows": {"this": 1}})
        got = worker.taken[0]
        self.assertEqual(list(got.prompt), self.tokenizer.encode("one two three four").ids[-2:])
        self.assertEqual((got.max_tokens, got.temperature, got.top_p, got.seed), (9, 0, 0.5, 7))
        self.assertEqual((got.presence_penalty, got.frequency_penalty), (-1, 0.5))
        self.assertEqual((list(got.bias_ids), list(got.biases)), ([3], [-100]))
        self.assertEqual((got.ignore_eos, got.min_tokens, got.top_k, got.min_p), (True, 2, 5, 0.25))
        self.assertEqual((got.repetition_penalty, list(got.stop_token_ids)), (1.5, [5, 6]))
        self.assertEqual((got.logprobs, got.emulated_output_tokens), (2, 4))
        self.api.chat.completions.create(model=MODEL, messages=HI, logprobs=True, top_logprobs=3)
        self.assertEqual(worker.taken[1].logprobs, 3)
        self.assertFalse(worker.taken[1].WhichOneof("temperature_value"))
        self.stop()

    def test_stop_strings_and_echo(self):
        self.start_door()
        text = "one two, three four"
        self.worker(script=self.ids(text))
        for fields, expected in (({"stop": ", th"}, "one two"), ({"stop": ["x", "four"]}, "one two, three "),
                                 ({"stop": " two", "extra_body": {"include_stop_str_in_output": True}},
                                  "one two"), ({"echo": True}, "Say: " + text), ({}, text)):
            answer = self.api.completions.create(model=MODEL, prompt="Say: ", max_tokens=50, **fields)
            chunks = list(self.api.completions.create(model=MODEL, prompt="Say: ", max_tokens=50,
                                                      stream=True, **fields))
            self.assertEqual(answer.choices[0].text, expected)
            self.assertEqual("".join(c.choices[0].text for c in chunks), expected)
            self.assertEqual([answer.choices[0].finish_reason, chunks[-1].choices[0].finish_reason],
                             ["stop"] * 2)
        self.stop()

    def test_logprobs(self):
        self.start_door()
        text = "one caf\u00e9"
        ids = self.ids(text)
        self.worker(script=ids)
        found = self.api.completions.create(model=MODEL, prompt="x", logprobs=1,
                                            max_tokens=50).choices[0].logprobs
        self.assertEqual(found.token_logprobs, [round(-i / 1024, 6) for i in ids])
        self.assertEqual(found.tokens[0], "one")
        self.assertEqual(found.text_offset[:2], [0, 3])
        self.assertEqual(len(found.top_logprobs), len(ids))
        self.assertEqual(found.top_logprobs[0]["one"], found.token_logprobs[0])
        whole = self.api.chat.completions.create(model=MODEL, messages=HI, logprobs=True,
                                                 top_logprobs=2).choices[0].logprobs.content
        self.assertEqual(bytes(b for t in whole for b in t.bytes).decode(), text)
        self.assertEqual([round(t.logprob, 6) for t in whole], [round(-i / 1024, 6) for i in ids])
        self.assertEqual({len(t.top_logprobs) for t in whole}, {2})
        parts, offsets = [], []
        for chunk in self.api.chat.completions.create(model=MODEL, messages=HI, logprobs=True,
                                                      top_logprobs=2, stream=True):
            if chunk.choices[0].logprobs:
                parts += chunk.choices[0].logprobs.content
        self.assertEqual(parts, whole)
        for chunk in self.api.completions.create(model=MODEL, prompt="x", logprobs=0, max_tokens=50,
                                                 stream=True):
            if chunk.choices[0].logprobs:
                offsets += chunk.choices[0].logprobs.text_offset
        self.assertEqual(offsets, found.text_offset)
        self.stop()

    def test_long_prompts_and_many_at_once(self):
        self.start_door()
        worker = self.worker(script=self.ids("ok"))
        text = "word " * 8000
        answers = []

        def ask(i):
            answers.append(self.api.completions.create(model=MODEL, prompt=f"{i} {text}", max_tokens=5))
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([a.choices[0].text for a in answers], ["ok"] * 8)
        self.assertEqual({len(g.prompt) for g in worker.taken},
                         {len(self.tokenizer.encode(f"1 {text}").ids)})
        answer = self.api.completions.create(model=MODEL, prompt=[3] * 16000, max_tokens=5)
        self.assertEqual(answer.usage.prompt_tokens, 16000)
        self.stop()

    def test_more_than_fits_at_once(self):
        """A frame whose events pass what the HTTP server holds; then a client that reads late."""
        self.start_door()
        text = "one two, three four. " * 600
        ids = self.ids(text)
        self.worker(script=ids, per_frame=len(ids))
        body = {"prompt": "x", "max_tokens": 10000, "logprobs": 20, "stream": True}
        status, _, events = self.events("/v1/completions", body)
        self.assertEqual((status, events[-1]), (200, "[DONE]"))
        self.assertGreater(sum(map(len, events)), 3 << 19)
        choices = [json.loads(e)["choices"][0] for e in events[:-1]]
        self.assertEqual("".join(c["text"] for c in choices), text)
        self.assertEqual([t for c in choices if c["logprobs"] for t in c["logprobs"]["token_logprobs"]],
                         [round(-i / 1024, 6) for i in ids])
        offsets = [o for c in choices if c["logprobs"] for o in c["logprobs"]["text_offset"]]
        self.assertEqual(offsets, sorted(offsets))
        sock = self.open_stream({**body, "stream_options": {"include_usage": True}})
        self.read_until(sock, b"data: ")
        time.sleep(0.5)
        rest = self.read_until(sock, b"[DONE]")
        self.assertIn(f'"completion_tokens":{len(ids)}'.encode(), rest)
        self.stop()

    def test_without_a_tokenizer(self):
        self.start()
        self.connect_client()
        self.worker(auto=True)
        chunks = list(self.api.completions.create(model=MODEL, prompt=[1, 2], max_tokens=4, stream=True,
                                                  extra_body={"return_token_ids": True}))
        self.assertEqual([i for c in chunks for i in c.choices[0].token_ids], [2, 3, 2, 3])
        # One event per token, although there is no text.
        self.assertEqual([len(c.choices[0].token_ids) for c in chunks], [1, 1, 1, 1, 0])
        found = self.api.completions.create(model=MODEL, prompt=[1, 2], max_tokens=1, logprobs=0)
        self.assertEqual(found.choices[0].logprobs.tokens, ["token_id:2"])
        for call in (lambda: self.api.completions.create(model=MODEL, prompt="x"),
                     lambda: self.api.chat.completions.create(model=MODEL, messages=HI)):
            self.assertIn("--model DIR", self.error(openai.BadRequestError, call).message)
        self.assertEqual(self.post("/tokenize", {"prompt": "x"})[0], 400)
        self.stop()


class Others(OpenAITest):
    def test_models(self):
        self.start_door()
        listed = self.api.models.list().data
        self.assertEqual([m.id for m in listed], [MODEL])
        self.assertEqual(self.api.models.retrieve(MODEL).to_dict(), listed[0].to_dict())
        self.assertEqual((listed[0].object, listed[0].owned_by), ("model", "medley"))
        self.assertGreater(listed[0].max_model_len, 0)
        self.assertEqual(harness.http_get(self.http, "/v1/models/llama%2D2-7b")[0], 200)
        error = self.error(openai.NotFoundError, lambda: self.api.models.retrieve("gpt-4"))
        self.assertEqual(error.code, "model_not_found")
        self.stop()

    def test_tokenize_and_detokenize(self):
        self.start_door()
        text = "It is a truth \U0001f600 " * 3
        for body, ids in (({"prompt": text}, self.tokenizer.encode(text).ids),
                          ({"prompt": text, "add_special_tokens": False}, self.ids(text)),
                          ({"prompt": ""}, self.tokenizer.encode("").ids),
                          ({"prompt": text * 2000}, self.tokenizer.encode(text * 2000).ids),
                          ({"messages": HI}, self.ids("<|user|>Hi \U0001f600\n<|assistant|>")),
                          ({"messages": HI, "add_generation_prompt": False},
                           self.ids("<|user|>Hi \U0001f600\n"))):
            status, _, answer = self.post("/tokenize", {"model": MODEL, **body})
            found = json.loads(answer)
            self.assertEqual((status, found["tokens"], found["count"]), (200, ids, len(ids)))
            self.assertGreater(found["max_model_len"], 0)
        found = json.loads(self.post("/tokenize", {"prompt": "one two", "return_token_strs": True})[2])
        self.assertEqual("".join(found["token_strs"]), "one two")
        for ids in (self.ids(text), self.ids(text) * 3000, []):
            status, _, answer = self.post("/detokenize", {"model": MODEL, "tokens": ids})
            self.assertEqual((status, json.loads(answer)["prompt"]), (200, self.tokenizer.decode(ids)))
        for path, body, status, param in (
                ("/tokenize", {}, 400, "prompt"), ("/tokenize", {"prompt": 3}, 400, "prompt"),
                ("/tokenize", {"prompt": "x", "model": "gpt-4"}, 404, "model"),
                ("/tokenize", {"messages": [{"role": "poet", "content": "x"}]}, 400, "messages"),
                ("/detokenize", {"tokens": [1 << 30]}, 400, "tokens[0]"),
                ("/detokenize", {"tokens": "x"}, 400, "tokens")):
            got, _, answer = self.post(path, body)
            self.assertEqual((got, json.loads(answer)["error"]["param"]), (status, param), answer)
        self.stop()

    def test_health_and_version(self):
        self.start_door()
        self.assertEqual(harness.http_get(self.http, "/health")[0], 503)
        worker = self.worker(script=self.ids("a"))
        wait_until(lambda: harness.http_get(self.http, "/health")[0] == 200, "the worker")
        self.assertIn("version", json.loads(harness.http_get(self.http, "/version")[1]))
        worker.close()
        wait_until(lambda: harness.http_get(self.http, "/health")[0] == 503, "its loss")
        self.stop()

    @unittest.skipUnless(shutil.which("curl"), "no curl here")
    def test_curl(self):
        self.start_door()
        self.worker(script=self.ids("a b"))
        done = subprocess.run(
            ["curl", "-sS", "-N", "-i", f"http://{self.http}/v1/completions", "-H",
             "Content-Type: application/json", "-d", '{"prompt": "x", "stream": true}'],
            capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        self.assertIn("200 OK", done.stdout)
        self.assertTrue(done.stdout.rstrip().endswith("data: [DONE]"), done.stdout)
        # A large body makes curl ask first (Expect: 100-continue).
        done = subprocess.run(
            ["curl", "-sS", f"http://{self.http}/v1/completions", "-d", "@-"],
            input=json.dumps({"prompt": [3] * 16000, "max_tokens": 2}), capture_output=True, text=True,
            timeout=PATIENCE_S, check=True)
        self.assertEqual(json.loads(done.stdout)["usage"]["prompt_tokens"], 16000)
        self.stop()


class Failures(OpenAITest):
    def test_bad_requests(self):
        self.start_door()
        worker = self.worker(script=self.ids("a"))
        create, chat = self.api.completions.create, self.api.chat.completions.create
        for call, param, code, words in (
                (lambda: create(model=MODEL, prompt="x", temperature=3), "temperature", "invalid_value",
                 "found 3, expected a number from 0 to 2"),
                (lambda: create(model=MODEL, prompt="x", n="many"), "n", "invalid_value", "found \"many\""),
                (lambda: create(model=MODEL, prompt=[1, 99999]), "prompt[1]", "invalid_value", "found 99999"),
                (lambda: create(model=MODEL, prompt="x", max_tokens=100000), "prompt",
                 "context_length_exceeded", "prompt, max_tokens: found a prompt of"),
                (lambda: create(model=MODEL, prompt="x " * 20000), "prompt", "context_length_exceeded", ""),
                (lambda: create(model=MODEL, prompt="x", suffix="y"), "suffix", "invalid_value", ""),
                (lambda: create(model=MODEL, prompt="x", best_of=2), "best_of", "invalid_value", ""),
                (lambda: chat(model=MODEL, messages=[]), "messages", "invalid_value", ""),
                (lambda: chat(model=MODEL, messages=[{"role": "poet", "content": "x"}]), "messages",
                 "invalid_value", "no poets"),
                (lambda: chat(model=MODEL, messages=HI, tools=[{"type": "function", "function": {"name": "f"}}]),
                 "tools", "invalid_value", "tools are not supported"),
                (lambda: chat(model=MODEL, messages=HI, response_format={"type": "json_object"}),
                 "response_format.type", "invalid_value", "structured output is not supported")):
            error = self.error(openai.BadRequestError, call)
            self.assertEqual((error.param, error.code, error.type), (param, code, "invalid_request_error"))
            self.assertIn(words, error.message)
        # So is a stream, before its status line.
        error = self.error(openai.BadRequestError,
                           lambda: create(model=MODEL, prompt="x", stream=True, top_p=7))
        self.assertEqual(error.param, "top_p")
        error = self.error(openai.NotFoundError, lambda: create(model="gpt-4", prompt="x"))
        self.assertEqual((error.code, error.param), ("model_not_found", "model"))
        self.assertEqual(worker.taken, [])
        self.assertEqual(sum(outcomes(self.http).values()), 0)
        self.stop()

    def test_keys(self):
        keys = harness.tempfile.NamedTemporaryFile("w", suffix=".keys")
        self.addCleanup(keys.close)
        keys.write("a-key-of-sufficient-length-1\n")
        keys.flush()
        self.start_door("--api-key-file", keys.name)
        self.worker(script=self.ids("ok"))
        self.error(openai.AuthenticationError,
                   lambda: self.api.completions.create(model=MODEL, prompt="x"))
        known = self.api.with_options(api_key="a-key-of-sufficient-length-1")
        self.assertEqual(known.completions.create(model=MODEL, prompt="x").choices[0].text, "ok")
        self.stop()

    def test_hostile_bodies(self):
        self.start_door()
        for body in (b"", b"{", b"[" * 100000, b"\xff\xfe", b'{"prompt":"\xc3"}', b'{"prompt":"x"}{}',
                     b'{"prompt":"x","prompt":"y"}', b"null", b'{"prompt":' + b"9" * 5000 + b"}",
                     b'{"prompt":"\\ud800"}', b'{"prompt":["' + b'a","' * 100000 + b'"]}'):
            for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
                status, heads, answer = self.post(path, body)
                self.assertEqual(status, 400, (path, body[:40], answer))
                error = json.loads(answer)["error"]
                self.assertEqual(set(error), {"message", "type", "param", "code"})
                self.assertTrue(error["message"])
                self.assertIn("x-request-id", heads)
        self.assertEqual(harness.http_get(self.http, "/v1/completions")[0], 405)
        self.assertEqual(self.post("/v1/models", {})[0], 405)
        self.assertEqual(self.post("/v1/nothing", {})[0], 404)
        self.stop()

    def test_no_worker_is_503_and_overload_429(self):
        self.start_door("--queue-max", "2", "--queue-wait", "60s", "--admission", "queue")
        error = self.error(openai.InternalServerError,
                           lambda: self.api.completions.create(model=MODEL, prompt="x"))
        self.assertEqual((error.status_code, error.code), (503, "no_worker"))
        worker = self.worker(max_num_seqs=1)
        streams = []
        for _ in range(40):
            streams.append(self.open_stream({"prompt": "x", "stream": True}))
            if metric(self.http, "medley_router_queue_depth") == 2:
                break
        wait_until(lambda: metric(self.http, "medley_router_queue_depth") == 2, "a full queue")
        for stream in (False, True):
            error = self.error(openai.RateLimitError, lambda s=stream: self.api.completions.create(
                model=MODEL, prompt="x", stream=s))
            self.assertEqual((error.code, error.type), ("rate_limit_exceeded", "rate_limit_error"))
            self.assertGreaterEqual(int(error.response.headers["retry-after"]), 1)
            self.assertGreater(int(error.response.headers["retry-after-ms"]), 0)
        # Of two prompts neither stays when one is refused.
        before = metric(self.http, "medley_router_in_flight")
        self.error(openai.RateLimitError, lambda: self.api.completions.create(model=MODEL, prompt=["x", "y"]))
        self.assertEqual(metric(self.http, "medley_router_in_flight"), before)
        for sock in streams:
            sock.close()
        wait_until(lambda: outcomes(self.http).get("abort_client", 0) >= len(streams), "all to be given up")
        worker.close()
        self.stop()

    def test_a_client_that_goes_stops_its_worker(self):
        self.start_door()
        worker = self.worker()
        for stream in (True, False):
            for spoken in (True, False):
                sock = self.open_stream({"prompt": ["x", "y"], "stream": stream, "max_tokens": 50})
                generates = [worker.next_generate(), worker.next_generate()]
                if spoken:
                    worker.tokens(generates[0], 0, self.ids("one"))
                if spoken and stream:
                    self.read_until(sock, b"one")
                sock.close()
                cancels = {worker.next_cancel().request, worker.next_cancel().request}
                self.assertEqual(cancels, {g.request for g in generates})
                for generate in generates:
                    worker.finish(generate, link_pb.ENDING_CANCELLED)
        self.assertEqual(outcomes(self.http)["abort_client"], 8)
        # In the middle of a body, and while a long one is read.
        for cut in (100, 0):
            for _ in range(10):
                data = json.dumps({"prompt": "x " * 100000}).encode()
                host, port = self.http.rsplit(":", 1)
                with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as sock:
                    sock.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: "
                                 f"{len(data)}\r\n\r\n".encode() + data[:len(data) - cut])
        wait_until(lambda: metric(self.http, "medley_router_in_flight") == 0, "all to end")
        self.stop()

    def test_timeouts(self):
        self.start_door()
        worker = self.worker()
        patient = self.api.with_options(timeout=0.3)
        self.error(openai.APITimeoutError, lambda: patient.completions.create(model=MODEL, prompt="x"))
        self.assertEqual(worker.next_cancel().request, worker.next_generate().request)
        self.assertEqual(outcomes(self.http)["abort_client"], 1)
        for stream in (False, True):
            error = self.error(openai.InternalServerError, lambda s=stream: self.api.completions.create(
                model=MODEL, prompt="x", stream=s, extra_headers={"X-Request-Timeout-Ms": "200"}))
            self.assertEqual((error.status_code, error.code), (504, "deadline"))
            self.assertEqual(worker.next_cancel().request, worker.next_generate().request)
        self.assertEqual(outcomes(self.http)["abort_deadline"], 2)
        for wrong in ("0", "-1", "soon", "1e3", "999999999999"):
            error = self.error(openai.BadRequestError, lambda w=wrong: self.api.completions.create(
                model=MODEL, prompt="x", extra_headers={"X-Request-Timeout-Ms": w}))
            self.assertIn("x-request-timeout-ms: found", error.message)
        self.stop()

    def test_pings_while_nothing_comes(self):
        self.start_door("--ping-interval", "50ms")
        worker = self.worker()
        sock = self.open_stream({"prompt": "x", "stream": True, "max_tokens": 50})
        generate = worker.next_generate()
        data = self.read_until(sock, b": ping\n\n")
        self.assertTrue(data.startswith(b"HTTP/1.1 200"))
        worker.tokens(generate, 0, self.ids("one"))
        self.read_until(sock, b"one")
        self.read_until(sock, b": ping\n\n")
        worker.finish(generate)
        self.read_until(sock, b"[DONE]")
        # The client of the package does not see them.
        chunks = []

        def ask():
            chunks.extend(self.api.completions.create(model=MODEL, prompt="x", stream=True))
        thread = threading.Thread(target=ask)
        thread.start()
        generate = worker.next_generate()
        time.sleep(0.2)
        worker.tokens(generate, 0, self.ids("a b"))
        worker.finish(generate)
        thread.join()
        self.assertEqual("".join(c.choices[0].text for c in chunks), "a b")
        self.stop()

    def test_what_fails_before_the_first_token_has_a_status(self):
        self.start_door()
        worker = self.worker()
        for stream in (True, False):
            sock = self.open_stream({"prompt": ["x", "y"], "stream": stream})
            generates = [worker.next_generate(), worker.next_generate()]
            worker.finish(generates[1], link_pb.ENDING_FAILED, "it cannot be computed")
            data = self.read_until(sock, b"}\n")
            self.assertTrue(data.startswith(b"HTTP/1.1 500"), data)
            self.assertIn(b"it cannot be computed", data)
            # The other one is stopped.
            while worker.next_cancel().request != generates[0].request:
                pass
            worker.finish(generates[0], link_pb.ENDING_CANCELLED)
        self.stop()

    def test_a_drain_lets_streams_end(self):
        self.start_door()
        worker = self.worker()
        sock = self.open_stream({"prompt": "x", "stream": True, "max_tokens": 50})
        generate = worker.next_generate()
        worker.tokens(generate, 0, self.ids("one"))
        self.read_until(sock, b"one")
        self.router.send_signal(signal.SIGTERM)
        self.router.wait_line("draining")
        worker.tokens(generate, 1, self.ids(" two"))
        worker.finish(generate)
        self.assertIn(b" two", self.read_until(sock, b"[DONE]"))
        self.assertEqual(self.router.wait(), 0)
        self.router.check_clean()

    def test_failure_in_mid_stream(self):
        self.start_door("--attempts-max", "1")
        worker = self.worker()
        sock = self.open_stream({"prompt": "x", "stream": True, "max_tokens": 50})
        generate = worker.next_generate()
        worker.tokens(generate, 0, self.ids("one two"))
        head = self.read_until(sock, b" two")
        self.assertTrue(head.startswith(b"HTTP/1.1 200"))
        worker.finish(generate, link_pb.ENDING_FAILED, "it cannot be computed")
        rest = self.read_until(sock, b'"error"') + b""
        self.assertIn(b"it cannot be computed", rest)
        self.assertNotIn(b"[DONE]", rest)
        self.stop()


class Slow(OpenAITest):
    """Clients that read slowly or not at all, without TLS and with it."""

    def start_slow(self, tls):
        self.context, options = None, ()
        if tls:
            folder = harness.tempfile.TemporaryDirectory(prefix="medley-tls-")
            self.addCleanup(folder.cleanup)
            authority = Authority(pathlib.Path(folder.name))
            certificate, key = authority.server("doors")
            options = ("--tls-certificate", certificate, "--tls-key", key)
            self.context = ssl.create_default_context(cafile=authority.pem)
        self.start_text(*options)

    def dial(self):
        """A connection whose system takes little that is not read."""
        host, port = self.http.rsplit(":", 1)
        sock = socket.socket()
        self.addCleanup(sock.close)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.settimeout(PATIENCE_S)
        sock.connect((host, int(port)))
        if self.context is None:
            return sock
        secure = self.context.wrap_socket(sock, server_hostname="localhost")
        self.addCleanup(secure.close)
        return secure

    @staticmethod
    def message(path, body=None, close=False):
        data = b"" if body is None else json.dumps(body).encode()
        return (f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}"
                f"\r\n{'Connection: close' if close else 'A: b'}\r\n\r\n".encode() + data)

    def ask(self, path, body=None):
        """The whole answer to one request on a connection of its own."""
        sock = self.dial()
        sock.sendall(self.message(path, body, close=True))
        answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 "), answer[:200])
        return answer.partition(b"\r\n\r\n")[2].decode()

    def count(self, name):
        return next((float(line.rsplit(" ", 1)[1]) for line in self.ask("/metrics").splitlines()
                     if line.startswith(name + " ")), 0)

    def both(self, check):
        for tls in (False, True):
            with self.subTest(tls=tls):
                self.start_slow(tls)
                check()
                self.router.stop()

    def test_one_that_reads_byte_by_byte_gets_all(self):
        self.both(self.reads_byte_by_byte)

    def reads_byte_by_byte(self):
        worker = self.worker("w1", LARGE)
        sock = self.dial()
        sock.sendall(self.message("/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 500}))
        generate = worker.next_generate()
        ids = (self.ids("slow ") * 500)[:500]
        for at in range(0, 500, 50):
            worker.tokens(generate, at, ids[at:at + 50])
        worker.finish(generate, link_pb.ENDING_LENGTH)
        data = b""
        while b"\r\n0\r\n\r\n" not in data[-8:]:
            byte = sock.recv(1)
            self.assertTrue(byte, data[-200:])
            data += byte
        text = "".join(json.loads(line[len("data: "):])["choices"][0]["text"]
                       for line in data.decode().splitlines()
                       if line.startswith("data: {"))
        self.assertEqual(text, self.tokenizer.decode(ids))
        worker.close()

    def test_one_that_stops_reading_is_cut_and_disturbs_nobody(self):
        self.both(self.stops_reading)

    def stops_reading(self):
        worker = self.worker("w1", LARGE, max_model_len=1 << 20)
        slow = self.dial()
        slow.sendall(self.message("/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 1 << 19,
                                                         "return_token_ids": True}))
        generate = worker.next_generate()
        ids = (self.ids("slow ") * 4096)[:4096]
        position = 0
        while worker.cancels.empty() and position < 1 << 19:
            worker.tokens(generate, position, ids)
            position += len(ids)
            if position == 1 << 15:  # its bytes stand; another's pass
                other = self.dial()
                other.sendall(self.message("/v1/completions", {"prompt": "y", "max_tokens": 1}, close=True))
                second = worker.next_generate()
                worker.tokens(second, 0, ids[:1])
                worker.finish(second, link_pb.ENDING_LENGTH)
                self.read_until(other, b'"finish_reason":"length"')
        self.assertEqual(worker.next_cancel().request, generate.request)
        worker.finish(generate, link_pb.ENDING_CANCELLED)
        ended = 'medley_router_requests_total{outcome="%s"}'
        wait_until(lambda: self.count(ended % "abort_client") == 1, "the cut to be counted")
        self.assertEqual(self.count(ended % "length"), 1)
        self.assertEqual(self.count("medley_router_in_flight"), 0)
        # What was sent is an answer without its end.
        data = b""
        try:
            for part in iter(lambda: slow.recv(1 << 16), b""):
                data += part
        except OSError:
            pass  # cut, as TLS sees it
        self.assertNotIn(b"[DONE]", data)
        self.assertFalse(data.endswith(b"0\r\n\r\n"))
        worker.close()

    def test_a_call_behind_an_answer_that_waits(self):
        self.both(self.behind_an_answer)

    def behind_an_answer(self):
        """The first answer's bytes are on their way when the body of the second is read in the pool."""
        worker = self.worker("w1", LARGE, script=self.ids("ok"))
        for stream in (False, True):
            sock = self.dial()
            call = {"prompt": "x", "user": "u", "stream": stream, "ignored": "i" * 100000}
            sock.sendall(self.message("/metrics") + self.message("/version")
                         + self.message("/v1/completions", call, close=True))
            data = b"".join(iter(lambda: sock.recv(1 << 16), b"")).decode()
            self.assertEqual(data.count("HTTP/1.1 200 OK"), 3, data[-2000:])
            self.assertIn('"text":"ok"', data)
            self.assertEqual("data: [DONE]" in data, stream)
        worker.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
