# SPDX-License-Identifier: Apache-2.0
"""Streams that go on when their worker dies, returns them or falls silent, and workers that leave.

Workers are played by the test, so that they die, lie and come back at a chosen token.  What happens to
hundreds of live streams with real workers is tests/soak/streams.py's business."""
import json
import signal
import tempfile
import time
import unittest
import urllib.error
import urllib.request

import harness
import tiny_model
from fake_worker import FakeWorker, dial, hello
from harness import Process, metrics, wait_until
from link import pb as link_pb
from test_grpc import CODES, LARGE, SMALL, RouterTest, api, outcomes, request
from test_text import Sampling, TextTest, text_request


def ids_of(call):
    return [t for chunk in call for t in chunk.tokens.ids]


SILENT = ("--suspect-after", "700ms", "--gone-after", "1s")


class ResumeTest(RouterTest):
    def counted(self, name):
        return sum(v for k, v in metrics(self.http).items() if k.split("{")[0] == name)

    def begin(self, worker, message, tokens):
        """A stream whose first tokens have come: (call, the worker's Generate)."""
        call = self.client.stream(message)
        generate = worker.next_generate()
        worker.tokens(generate, 0, tokens)
        got = []
        while len(got) < len(tokens):
            got += next(call).tokens.ids
        self.assertEqual(got, tokens)
        return call, generate


class Resume(ResumeTest):
    def test_a_lost_worker_s_stream_goes_on_at_another(self):
        self.start()
        first = self.worker("w1")
        sampling = api.Sampling(temperature=0.5, seed=77, min_tokens=3, presence_penalty=1.5,
                                stop_token_ids=[9], logit_bias=[api.LogitBias(id=4, bias=2.5)])
        call, generate = self.begin(first, request([5, 6], 6, sampling=sampling), [7, 8])
        self.assertEqual(list(generate.output), [])
        second = self.worker("w2", LARGE)
        first.close()
        again = second.next_generate()
        self.assertEqual((again.request, again.attempt), (generate.request, generate.attempt + 1))
        self.assertEqual(list(again.output), [7, 8])
        # Apart from that it is what the first one got: limits count from the beginning.
        again.attempt = generate.attempt
        del again.output[:]
        self.assertEqual(again, generate)
        again.attempt += 1
        second.tokens(again, 2, [10, 11])
        second.tokens(again, 4, [12, 13])
        second.finish(again, link_pb.ENDING_LENGTH)
        chunks = list(call)
        self.assertEqual([t for c in chunks for t in c.tokens.ids], [10, 11, 12, 13])
        self.assertEqual(chunks[-1].usage.completion_tokens, 6)
        self.assertEqual(call.code(), CODES.OK)
        self.assertEqual(outcomes(self.http)["length"], 1)
        self.assertEqual(self.counted("medley_router_resumes_total"), 1)
        self.assertEqual(self.counted("medley_router_output_tokens_total"), 6)
        self.stop()

    def test_a_stream_may_outlive_any_number_of_workers_that_leave(self):
        self.start("--attempts-max", "2")
        worker = self.worker("w0")
        call, generate = self.begin(worker, request([5], 8), [1])
        for i in range(1, 6):
            after = self.worker(f"w{i}")
            worker.send(drain=link_pb.Drain())
            if i % 2:
                worker.finish(generate, link_pb.ENDING_RETURNED, "the worker is stopping")
            else:
                worker.close()
            worker, generate = after, after.next_generate()
            self.assertEqual(list(generate.output), list(range(1, i + 1)))
            worker.tokens(generate, i, [i + 1])
            self.assertEqual(list(next(call).tokens.ids), [i + 1])
        worker.tokens(generate, 6, [7, 8])
        worker.finish(generate, link_pb.ENDING_LENGTH)
        self.assertEqual(ids_of(call), [7, 8])
        self.assertEqual(self.counted("medley_router_resumes_total"), 5)
        self.stop()

    def test_a_stream_whose_workers_keep_dying_is_given_up(self):
        self.start("--attempts-max", "2")
        first = self.worker("w1")
        call, _ = self.begin(first, request([5], 8), [1])
        second = self.worker("w2")
        first.close()
        second.tokens(second.next_generate(), 1, [2])
        self.assertEqual(list(next(call).tokens.ids), [2])
        third = self.worker("w3")
        second.close()
        self.assert_status(CODES.UNAVAILABLE, lambda: call, "worker w2 was lost after 2")
        self.assertEqual(third.seen, 0)
        self.stop()

    def test_every_choice_goes_on_with_its_own_seed(self):
        self.start()
        first = self.worker("w1")
        call = self.client.stream(request([5], 4, n=3, sampling=api.Sampling(seed=5)))
        generates = [first.next_generate() for _ in range(3)]
        for i, generate in enumerate(generates):
            first.tokens(generate, 0, [100 + i] * (i + 1))
        got = {i: [] for i in range(3)}
        while sum(map(len, got.values())) < 6:
            chunk = next(call)
            got[chunk.index] += chunk.tokens.ids
        second = self.worker("w2", LARGE)
        first.close()
        again = {g.seed: g for g in (second.next_generate() for _ in range(3))}
        for i, generate in enumerate(generates):
            resumed = again[generate.seed]
            self.assertEqual(list(resumed.output), [100 + i] * (i + 1))
            second.tokens(resumed, i + 1, [200 + i] * (3 - i))
            second.finish(resumed, link_pb.ENDING_LENGTH)
        for chunk in call:
            got[chunk.index] += chunk.tokens.ids
        self.assertEqual(got, {i: [100 + i] * (i + 1) + [200 + i] * (3 - i) for i in range(3)})
        self.assertEqual(outcomes(self.http)["length"], 3)
        self.stop()

    def test_a_request_that_is_whole_but_for_its_finish_needs_no_worker(self):
        self.start()
        worker = self.worker("w1")
        call, _ = self.begin(worker, request([5], 2), [1, 2])
        worker.close()
        self.assertEqual(ids_of(call), [])
        self.assertEqual(call.code(), CODES.OK)
        self.assertEqual(outcomes(self.http)["length"], 1)
        self.stop()

    def test_a_stop_token_ends_a_stream_whose_worker_is_lost_before_it_says_so(self):
        self.start()
        first, sampling = self.worker("w1"), api.Sampling(stop_token_ids=[9], min_tokens=2)
        call, generate = self.begin(first, request([5], 8, sampling=sampling), [9, 1])  # too early
        first.tokens(generate, 2, [9])
        self.assertEqual(list(next(call).tokens.ids), [9])
        second = self.worker("w2")
        first.close()
        chunks = list(call)
        self.assertEqual([t for c in chunks for t in c.tokens.ids], [])
        self.assertEqual(chunks[-1].finish_reason, api.FINISH_REASON_STOP)
        self.assertEqual(chunks[-1].usage.completion_tokens, 3)
        self.assertEqual((second.seen, outcomes(self.http)["stop"]), (0, 1))
        self.stop()

    def test_what_a_stopping_worker_returns_goes_on_elsewhere(self):
        self.start()
        first = self.worker("w1")
        call, generate = self.begin(first, request([5], 4), [1, 2])
        second = self.worker("w2", LARGE)
        first.send(drain=link_pb.Drain())
        first.finish(generate, link_pb.ENDING_RETURNED, "the worker is stopping")
        again = second.next_generate()
        self.assertEqual(list(again.output), [1, 2])
        second.tokens(again, 2, [3])
        second.finish(again)
        self.assertEqual(ids_of(call), [3])
        self.assertEqual(outcomes(self.http)["stop"], 1)
        self.stop()

    def test_a_silent_worker_s_stream_goes_on_and_what_it_says_later_is_stale(self):
        self.start(*SILENT)
        first = self.worker("w1")
        call, generate = self.begin(first, request([5], 6), [1, 2])
        second = self.worker("w2", LARGE)
        first.beating = False  # its socket still answers
        again = second.next_generate()
        self.assertEqual(list(again.output), [1, 2])
        cancel = first.next_cancel()
        self.assertEqual((cancel.request, cancel.attempt), (generate.request, generate.attempt))
        # It wakes up, and says what it had computed.
        first.tokens(generate, 2, [3, 4])
        first.finish(generate, link_pb.ENDING_CANCELLED)
        first.beating = True
        second.tokens(again, 2, [30, 40])
        second.tokens(again, 4, [50, 60])
        second.finish(again, link_pb.ENDING_LENGTH)
        self.assertEqual(ids_of(call), [30, 40, 50, 60])
        wait_until(lambda: self.counted("medley_router_stale_messages_total") == 2, "both to be stale")
        wait_until(lambda: metrics(self.http)[
            f'medley_router_workers{{worker_type="{SMALL}",state="ready"}}'] == 1, "w1 to be back")
        # It serves again.
        call = self.client.stream(request([5], 1))
        worker = wait_until(lambda: next((w for w in (first, second) if not w.generates.empty()),
                                         None), "either to be asked")
        generate = worker.next_generate()
        worker.tokens(generate, 0, [9])
        worker.finish(generate, link_pb.ENDING_LENGTH)
        self.assertEqual(ids_of(call), [9])
        self.assertEqual(metrics(self.http)["medley_router_links_broken_total"], 0)
        self.stop()

    def test_a_router_that_stood_still_blames_no_worker(self):
        self.start(*SILENT)
        first = self.worker("w1")
        call, generate = self.begin(first, request([5], 4), [1, 2])
        second = self.worker("w2", LARGE)
        for _ in range(2):
            self.router.send_signal(signal.SIGSTOP)
            time.sleep(1.5)  # longer than any worker may be silent
            self.router.send_signal(signal.SIGCONT)
            time.sleep(0.3)  # in which it would find them silent
        first.tokens(generate, 2, [3, 4])
        first.finish(generate, link_pb.ENDING_LENGTH)
        self.assertEqual(ids_of(call), [3, 4])
        self.assertEqual(self.counted("medley_router_resumes_total"), 0)
        self.assertEqual(self.counted("medley_router_worker_faults_total"), 0)
        self.assertEqual((first.seen, second.seen), (1, 0))
        self.stop()

    def test_a_new_process_takes_the_place_of_a_silent_one(self):
        self.start(*SILENT)
        self.worker("w1", beat=False)
        wait_until(lambda: metrics(self.http)[
            f'medley_router_workers{{worker_type="{SMALL}",state="gone"}}'] == 1, "w1 to be gone")
        link = dial(self.link)
        welcome = hello(link, "w1", SMALL, incarnation=2)
        self.assertFalse(welcome.accepted)
        self.assertIn("dial again", welcome.reason)
        self.assertEqual(link.wait_closed(), [])
        link.close()
        self.router.wait_line("w1 is gone.*another process")
        self.worker("w1", auto=True, incarnation=2)
        self.assertEqual(list(self.client.generate(request([3], 2)).choices[0].tokens.ids), [4, 4])
        self.stop()

    def test_off_means_an_error_at_once(self):
        self.start("--resume", "off")
        first = self.worker("w1")
        call, _ = self.begin(first, request([5], 4), [1, 2])
        waiting = self.client.generate.future(request([6], 1))
        first.next_generate()
        self.worker("w2", LARGE, auto=True)
        first.close()
        self.assert_status(CODES.UNAVAILABLE, lambda: call, "worker w1 was lost after 2")
        # Without a token it is as if it had never been sent.
        self.assertEqual(list(waiting.result().choices[0].tokens.ids), [7])
        self.assertEqual(outcomes(self.http)["worker_lost"], 1)
        self.assertEqual(self.counted("medley_router_resumes_total"), 0)
        self.stop()

    def test_a_client_that_goes_while_its_stream_waits_for_a_worker(self):
        self.start()
        worker = self.worker("w1")
        call, _ = self.begin(worker, request([5], 4), [1, 2])
        worker.close()
        wait_until(lambda: metrics(self.http)["medley_router_queue_depth"] == 1, "it to wait")
        call.cancel()
        wait_until(lambda: outcomes(self.http)["abort_client"] == 1, "its end")
        self.stop()


class Text(TextTest):
    def test_text_stop_strings_and_logprobs_go_on_across_the_cut(self):
        self.start_text()
        text = "caf\u00e9 \U0001f600 \u4f60\u597d and STOP more"
        ids = self.ids(text)
        want = text[:text.index("STOP")]
        sampling = Sampling(stop=["STOP"], logprobs=2)
        whole = None
        for cut in range(1, len(ids)):
            first = FakeWorker(self.link, "w1", SMALL)
            call = self.client.stream(text_request("x", 100, sampling=sampling))
            generate = first.next_generate()
            first.tokens(generate, 0, ids[:cut])
            if self.tokenizer.decode(ids[:cut]).find("STOP") < 0:
                # Only once they have come: what the router has not read is lost with the link.
                wait_until(lambda: self.tokens_seen() == cut, "the tokens")
                first.close()
                second = FakeWorker(self.link, "w2", SMALL, script=None)
                again = second.next_generate()
                self.assertEqual(list(again.output), ids[:cut])
                second.tokens(again, cut, ids[cut:])
                second.finish(again)
            else:
                second = None
            chunks = list(call)
            answer = ("".join(c.text for c in chunks), [t for c in chunks for t in c.tokens.ids],
                      [p.chosen.logprob for c in chunks for p in c.logprobs])
            self.assertEqual(answer[0], want, cut)
            whole = whole or answer
            self.assertEqual(answer, whole, cut)
            self.assertEqual(chunks[-1].finish_reason, api.FINISH_REASON_STOP)
            for worker in (first, second):
                if worker:
                    worker.close()
            wait_until(lambda: '"connected": 0' in harness.http_get(self.http, "/health")[1], "it")
        self.stop()

    def tokens_seen(self):
        """Output tokens of the one request that is in flight."""
        state = harness.http_get(self.http, "/admin/state")[1]
        rows = json.loads(state)["oldest_requests"]
        return rows[0]["output_tokens"] if rows else -1

    def test_a_worker_without_logprobs_cannot_go_on_with_them(self):
        self.start_text()
        ids = self.ids("Hello, world")
        first = self.worker("w1")
        call = self.client.stream(text_request("x", 100, sampling=Sampling(logprobs=1)))
        first.tokens(first.next_generate(), 0, ids[:1])
        wait_until(lambda: self.tokens_seen() == 1, "the token")
        second = self.worker("w2")
        first.close()
        again = second.next_generate()
        second.send(tokens=link_pb.Tokens(request=again.request, attempt=again.attempt, position=1,
                                          ids=ids[1:2]))
        self.assert_status(CODES.INTERNAL, lambda: call, "w2", "logprobs")
        # It has broken nothing, and stays.
        self.assertEqual(metrics(self.http)["medley_router_links_broken_total"], 0)
        self.stop()


class RealModel(ResumeTest):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="medley-tiny-")
        self.addCleanup(folder.cleanup)
        # Large enough that a worker can be killed in the middle of an answer.
        self.model = tiny_model.write(f"{folder.name}/tiny", hidden_size=64, num_hidden_layers=8,
                                      intermediate_size=128)

    def real(self, name):
        process = Process("medley-worker", "--model", self.model, "--deterministic",
                          *harness.BACKEND, "--plan", self.plan, "--worker-type", SMALL,
                          "--worker-id", name, "--router", self.link)
        self.addCleanup(process.kill)
        process.wait_ready()
        return process

    def listen(self, message, on_token=lambda: None):
        """{choice: ([ids], [logprobs], reason)}; on_token is called once, with the first of them."""
        got = {}
        for chunk in self.client.stream(message, timeout=harness.PATIENCE_S):
            row = got.setdefault(chunk.index, ([], [], []))
            self.assertEqual(chunk.position, len(row[0]))
            row[0].extend(chunk.tokens.ids)
            row[1].extend((p.chosen.logprob, [t.logprob for t in p.top]) for p in chunk.logprobs)
            if chunk.finish_reason:
                row[2].append(chunk.finish_reason)
            if chunk.tokens.ids and on_token:
                on_token()
                on_token = None
        return got

    def wait_workers(self, count):
        wait_until(lambda: metrics(self.http)[
            f'medley_router_workers{{worker_type="{SMALL}",state="ready"}}'] == count, f"{count} workers")

    def test_a_killed_worker_changes_nothing_in_what_is_said(self):
        # A slow machine's steps are no silence: what is looked at here is the lost connection.
        self.start("--suspect-after", "1h", "--gone-after", "1h")
        fields = {"temperature": 1.2, "top_p": 0.95, "seed": 41, "ignore_eos": True,
                  "repetition_penalty": 1.2, "presence_penalty": 0.4, "frequency_penalty": 0.3,
                  "min_tokens": 30, "logprobs": 2,
                  "logit_bias": [api.LogitBias(id=17, bias=1.5)], "stop_token_ids": [5]}
        messages = [request(range(1, 40), 400, n=3, sampling=api.Sampling(**fields)),
                    request(range(60, 90), 400, sampling=api.Sampling(temperature=0,
                                                                      ignore_eos=True))]
        workers = {"spare": self.real("spare")}
        self.wait_workers(1)
        whole = [self.listen(m) for m in messages]
        for turn, message in enumerate(messages):
            workers = {n: w for n, w in workers.items() if w.is_running()}
            workers[f"w{turn}"] = self.real(f"w{turn}")
            self.wait_workers(2)
            before = self.counted("medley_router_resumes_total")

            def kill():
                for worker in workers.values():
                    worker.send_signal(signal.SIGSTOP)
                state = json.loads(harness.http_get(self.http, "/admin/state")[1])
                open_rows = [r for r in state["oldest_requests"] if 0 < r["output_tokens"] < 390]
                for row in open_rows[:1]:
                    workers[row["worker"]].kill()
                for worker in workers.values():
                    worker.send_signal(signal.SIGCONT)
            for _ in range(100):  # on a fast machine it may be over before it can be broken
                if not all(w.is_running() for w in workers.values()):
                    break
                self.assertEqual(self.listen(message, kill), whole[turn])
            self.assertGreater(self.counted("medley_router_resumes_total"), before)
        self.stop()


class Leaving(ResumeTest):
    def state(self, worker_id):
        state = json.loads(harness.http_get(self.http, "/admin/state")[1])
        return next((w for w in [*state["workers"], *state["departed"]]
                     if w["worker"] == worker_id), None)

    def test_a_worker_that_drains_is_safe_to_delete_when_its_last_request_has_ended(self):
        self.start()
        worker = self.worker("w1")
        call, generate = self.begin(worker, request([5], 4), [1])
        self.assertFalse(self.state("w1")["drained"])
        worker.send(drain=link_pb.Drain())
        self.router.wait_line("w1 drains")
        self.assertEqual((self.state("w1")["state"], self.state("w1")["drained"]), ("draining", False))
        worker.tokens(generate, 1, [2, 3, 4])
        worker.finish(generate, link_pb.ENDING_LENGTH)
        self.assertEqual(ids_of(call), [2, 3, 4])
        self.router.wait_line("w1 is drained: safe to delete")
        self.assertTrue(self.state("w1")["drained"])
        worker.close()
        self.router.wait_line("w1 has left after draining")
        departed = self.state("w1")
        self.assertEqual((departed["drained"], departed["requests_left"]), (True, 0))
        self.assertEqual(
            metrics(self.http)['medley_router_workers_departed_total{how="drained"}'], 1)
        self.stop()

    def drain(self, worker_id, **fields):
        """What POST /admin/drain answers: (status, body)."""
        ask = urllib.request.Request(f"http://{self.http}/admin/drain",
                                     data=json.dumps({"worker": worker_id, **fields}).encode(),
                                     headers={"content-type": "application/json"})
        try:
            with urllib.request.urlopen(ask, timeout=harness.PATIENCE_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def test_an_operator_drains_a_worker_that_may_finish(self):
        self.start()
        worker = self.worker("w1")
        call, generate = self.begin(worker, request([5], 3), [1])
        self.assertEqual(self.drain("nobody")[0], 404)
        self.assertEqual(self.drain("w1")[0], 200)
        wait_until(lambda: worker.drains, "the Drain frame")
        spare = self.worker("w2", LARGE, auto=True)
        self.assertEqual(self.client.generate(request([3], 1)).worker_type, LARGE)
        self.assertFalse(self.state("w1")["drained"])
        worker.tokens(generate, 1, [2, 3])
        worker.finish(generate, link_pb.ENDING_LENGTH)
        self.assertEqual(ids_of(call), [2, 3])
        wait_until(lambda: self.state("w1")["drained"], "it to be drained")
        self.assertEqual(spare.seen, 1)
        worker.close()
        self.router.wait_line("w1 has left after draining: safe to delete; 0 requests")
        self.stop()

    def test_what_an_operator_does_not_wait_for_goes_on_elsewhere(self):
        self.start()
        worker = self.worker("w1")
        call, _ = self.begin(worker, request([5], 3), [1])
        spare = self.worker("w2", LARGE)
        self.assertEqual(self.drain("w1", timeout_s=3600)[0], 200)
        self.assertEqual(self.drain("w1", timeout_s=0)[0], 200)  # the newer time counts
        again = spare.next_generate()
        self.assertEqual(list(again.output), [1])
        worker.wait_closed()
        spare.tokens(again, 1, [2, 3])
        spare.finish(again, link_pb.ENDING_LENGTH)
        self.assertEqual(ids_of(call), [2, 3])
        self.assertEqual((self.state("w1")["drained"], self.state("w1")["requests_left"]), (True, 1))
        self.assertEqual(outcomes(self.http)["length"], 1)
        self.stop()

    def test_a_router_that_is_killed_and_started_again_finds_its_workers(self):
        port = harness.free_port()
        self.start()
        options = (self.plan, "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
                   "--link-listen", f"127.0.0.1:{port}")
        worker = Process("medley-worker", "--profile",
                         harness.ROOT / f"profiles/published/{SMALL}.json", "--worker-id", "real",
                         "--router", f"127.0.0.1:{port}", "--metrics-listen", "127.0.0.1:0")
        self.addCleanup(worker.kill)
        page = worker.wait_ready()["metrics"]
        for _ in range(2):
            router = Process("medley-router", *options)
            self.addCleanup(router.kill)
            ready = router.wait_ready()
            router.wait_line("worker real joined")
            client = type(self.client)(ready["grpc"])
            self.addCleanup(client.close)
            calls = [client.stream(request([i + 1], 2000)) for i in range(8)]
            for call in calls:
                next(call)
            self.assertEqual(harness.metric(page, "vllm:num_requests_running"), 8)
            router.kill()
            # Nobody would read what it says: it computes nothing for a router that is gone.
            wait_until(lambda: harness.metric(page, "vllm:num_requests_running") == 0, "the cancels")
            samples = metrics(page)
            free = next(v for k, v in samples.items() if k.startswith("vllm:kv_cache_usage_perc"))
            self.assertEqual(free, 0)
        worker.stop(signal.SIGTERM)
        self.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2)
