# SPDX-License-Identifier: Apache-2.0
"""The admin view and the metrics, asked for as browsers and Prometheus ask."""
import http.client
import json
import pathlib
import shutil
import socket
import subprocess
import tempfile
import unittest
import urllib.parse

import grpc

import harness
import link
import plans
from fake_worker import FakeWorker
from harness import Process, http_get, metric, metrics, wait_until

api = harness.proto_module("inference")
SMALL, LARGE = "a10g-llama-2-7b-fp16", "a100-80gb-llama-2-7b-fp16"


class AdminTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="medley-admin-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.plan = plans.write(self.folder / "plan.json", {SMALL: 2, LARGE: 1})

    def start(self, *options, http="127.0.0.1:0"):
        self.router = Process("medley-router", "--grpc-listen", "127.0.0.1:0", "--http-listen", http,
                              "--link-listen", "127.0.0.1:0", *options, self.plan)
        self.addCleanup(self.router.kill)
        self.ready = self.router.wait_ready()
        self.http = self.ready["http"]

    def worker(self, name, worker_type=SMALL, **kwargs):
        worker = FakeWorker(self.ready["link"], name, worker_type, **kwargs)
        self.addCleanup(worker.close)
        return worker

    def stream(self, prompt, tokens, **kwargs):
        if not hasattr(self, "channel"):
            self.channel = grpc.insecure_channel(self.ready["grpc"])
            self.addCleanup(self.channel.close)
        return self.channel.unary_stream(
            "/medley.v1.Inference/GenerateStream", api.GenerateRequest.SerializeToString,
            api.GenerateChunk.FromString)(
                api.GenerateRequest(tokens=api.TokenIds(ids=prompt), max_tokens=tokens), **kwargs)

    def state(self):
        status, text = http_get(self.http, "/admin/state")
        self.assertEqual(status, 200, text)
        return json.loads(text)

    def traffic(self):
        """Requests of every kind of end; what clients saw: {outcome: count}."""
        for _ in range(20):
            list(self.stream([1] * 30, 40))
        call = self.stream([1] * 30, 2000)
        next(call)
        call.cancel()
        with self.assertRaises(grpc.RpcError):
            list(self.stream([1] * 9, 5, timeout=1e-9))  # refused, late, or cut: never accepted twice
        with self.assertRaises(grpc.RpcError):
            list(self.stream([1] * 20000, 5))
        wait_until(lambda: metric(self.http, "medley_router_in_flight") == 0, "the cancel")


class View(AdminTest):
    def test_what_the_state_says(self):
        self.start("--time-scale", "10")
        real = Process("medley-worker", "--router", self.ready["link"], "--plan", self.plan,
                       "--worker-type", SMALL, "--worker-id", "w-1", "--time-scale", "10")
        self.addCleanup(real.kill)
        wait_until(lambda: self.state()["workers"], "the worker")
        self.traffic()
        state = self.state()
        self.assertEqual(state["status"], "serving")
        self.assertEqual(state["workers"][0]["worker"], "w-1")
        self.assertEqual(state["accepted"], sum(state["outcomes"].values()))
        self.assertEqual(state["outcomes"]["length"] + state["outcomes"]["stop"], 20)
        types = {t["worker_type"]: t for t in state["worker_types"]}
        self.assertEqual((types[SMALL]["planned"], types[SMALL]["connected"]), (2, 1))
        self.assertEqual((types[LARGE]["planned"], types[LARGE]["connected"]), (1, 0))
        self.assertEqual(types[SMALL]["usd_per_hour_each"], 1)
        slow = state["slow_requests"]
        self.assertGreaterEqual(len(slow), 20)
        for row in slow:
            self.assertAlmostEqual(sum(row["spans"].values()), row["total_s"], places=6)
        self.assertEqual(slow, sorted(slow, key=lambda r: -r["total_s"]))
        self.assertGreater(slow[0]["spans"]["tokens"], 0)
        self.assertGreaterEqual(len(state["decisions"]), 20)
        for decision in state["decisions"]:
            self.assertEqual(decision["worker"], "w-1")
            self.assertIn("by the plan's shares", decision["why"])
            self.assertIn("w-1 was best", decision["why"])
            self.assertEqual([c["chosen"] for c in decision["candidates"]], [True])
        jobs = {j["job"]: j for j in state["loop"]["jobs"]}
        self.assertGreater(jobs["tokens"]["runs"], 20)
        self.assertGreater(jobs["submit"]["runs"], 20)
        self.assertIn(state["loop"]["longest"]["job"], jobs)
        # One whose deadline has passed when it comes was asked for all the same.
        self.assertEqual(sum(b["demand"] for b in state["plan"]["buckets"]),
                         state["accepted"] + state["overload"]["late"])
        real.stop()
        self.router.stop()

    def test_the_page_needs_nothing_else(self):
        self.start()
        status, text = http_get(self.http, "/admin")
        self.assertEqual(status, 200)
        self.assertEqual(text, (harness.ROOT / "router/admin/index.html").read_text())
        self.assertNotRegex(text, r"(?i)(src|href)\s*=\s*[\"']?(https?:)?//")
        self.router.stop()

    def test_a_door_that_others_reach_does_not_show_it(self):
        self.start(http="0.0.0.0:0")
        port = self.http.rsplit(":", 1)[1]
        self.assertNotIn("admin", self.ready)
        for path in ("/admin", "/admin/state"):
            self.assertEqual(http_get(f"127.0.0.1:{port}", path)[0], 404)
        self.assertEqual(http_get(f"127.0.0.1:{port}", "/version")[0], 200)
        self.router.stop()

    def test_a_listener_of_its_own(self):
        self.start("--admin", "127.0.0.1:0", http="0.0.0.0:0")
        port = self.http.rsplit(":", 1)[1]
        self.assertEqual(http_get(f"127.0.0.1:{port}", "/admin")[0], 404)
        self.assertEqual(http_get(self.ready["admin"], "/admin")[0], 200)
        self.assertEqual(http_get(self.ready["admin"], "/admin/state")[0], 200)
        self.assertEqual(http_get(self.ready["admin"], "/metrics")[0], 404)
        self.router.stop()

    def test_off(self):
        self.start("--admin", "off")
        self.assertNotIn("admin", self.ready)
        self.assertEqual(http_get(self.http, "/admin")[0], 404)
        self.router.stop()

    def test_an_address_that_others_reach_is_refused(self):
        status, _, stderr = harness.run("medley-router", "--admin", "0.0.0.0:0", "--http-listen",
                                        "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0",
                                        "--link-listen", "127.0.0.1:0", self.plan)
        self.assertEqual(status, 2, stderr)
        self.assertIn("--admin: found 0.0.0.0:0, expected auto, off or an address of loopback",
                      stderr)


class Actions(AdminTest):
    def post(self, path, body, **headers):
        """(status, object) of a POST as the page makes it, but for these headers; None takes one away."""
        host, port = self.http.rsplit(":", 1)
        sent = {"Host": self.http, "Content-Type": "application/json", "Origin": f"http://{self.http}",
                "Sec-Fetch-Site": "same-origin", **{k.replace("_", "-"): v for k, v in headers.items()}}
        connection = http.client.HTTPConnection(host, int(port), timeout=harness.PATIENCE_S)
        connection.putrequest("POST", path, skip_host=True)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text)

    def test_log_level(self):
        self.start()
        self.assertEqual(self.state()["log_level"], "info")
        self.assertEqual(self.post("/admin/log-level", {"level": "debug"}), (200, {"ok": True}))
        self.assertEqual(self.state()["log_level"], "debug")
        self.router.wait_line("the log level is debug now")
        for body, sentence in (({"level": "loud"}, 'found "loud", expected debug, info, warn or error'),
                               ({}, "level"), ({"level": 3}, "level"), ({"levels": "info"}, "levels"),
                               (b"{", "body"), (b"[]", "object")):
            status, said = self.post("/admin/log-level", body)
            self.assertEqual(status, 400, (body, said))
            self.assertIn(sentence, said["error"]["message"])
        self.assertEqual(self.state()["log_level"], "debug")
        self.router.stop()

    def test_drain(self):
        self.start()
        worker = self.worker("w-1", auto=True)
        list(self.stream([1] * 30, 20))
        self.assertEqual(self.post("/admin/drain", {"worker": "w-2"})[0], 404)
        self.assertEqual(self.post("/admin/drain", {"worker": "w-1", "timeout_s": -1})[0], 400)
        self.assertEqual(self.post("/admin/drain", {"worker": "w-1"})[0], 200)
        self.router.wait_line("w-1 is drained: safe to delete")
        self.assertTrue(self.state()["workers"][0]["drained"])
        worker.close()
        wait_until(lambda: not self.state()["workers"], "the worker to leave")
        self.assertTrue(self.state()["departed"][0]["drained"])
        self.router.stop()

    def test_reload(self):
        self.start()
        self.assertEqual(self.state()["plan"]["generation"], 1)
        plans.write(self.plan, {SMALL: 3, LARGE: 1})
        self.assertEqual(self.post("/admin/reload", {})[0], 200)
        wait_until(lambda: self.state()["plan"]["generation"] == 2, "the new plan")
        state = self.state()
        self.assertEqual({t["worker_type"]: t["planned"] for t in state["worker_types"]}[SMALL], 3)
        self.plan.write_text("{}")
        status, said = self.post("/admin/reload", {})
        self.assertEqual(status, 200, said)  # it has begun
        wait_until(lambda: self.state()["plan"]["reload_error"], "what is wrong with it")
        self.assertEqual(self.state()["plan"]["generation"], 2)
        self.router.stop()

    def test_other_sites_are_refused(self):
        self.start()
        level = {"level": "debug"}
        port = self.http.rsplit(":", 1)[1]
        for headers in ({"Host": "evil.example"}, {"Host": f"evil.example:{port}", "Origin": None},
                        {"Origin": "http://evil.example"}, {"Origin": "null"},
                        {"Sec_Fetch_Site": "cross-site", "Origin": None}, {"Sec_Fetch_Site": "same-site"},
                        {"Content_Type": "text/plain"}, {"Content_Type": None},
                        {"Content_Type": "application/x-www-form-urlencoded"}):
            status, said = self.post("/admin/log-level", level, **headers)
            self.assertEqual(status, 403, (headers, said))
        self.assertEqual(self.state()["log_level"], "info")
        # Scripts send neither Origin nor fetch metadata.
        self.assertEqual(self.post("/admin/log-level", level, Origin=None, Sec_Fetch_Site=None)[0], 200)
        self.assertEqual(self.state()["log_level"], "debug")
        self.assertEqual(self.post("/admin/state", {})[0], 405)
        self.assertEqual(self.post("/admin/nothing", {})[0], 404)
        self.assertEqual(http_get(self.http, "/admin/drain")[0], 405)
        counted = metrics(self.http)
        self.assertEqual(counted['medley_router_http_requests_total{path="/admin",status="403"}'], 9)
        self.assertEqual(counted['medley_router_http_requests_total{path="/admin",status="405"}'], 2)
        self.router.stop()


class Keys(AdminTest):
    def test_what_needs_a_key(self):
        keys = self.folder / "keys"
        keys.write_text("sesame-0123456789abcdef\n")
        keys.chmod(0o600)
        self.start("--api-key-file", keys)

        def status(path, key=None):
            connection = http.client.HTTPConnection(self.http, timeout=harness.PATIENCE_S)
            connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
            answer = connection.getresponse()
            answer.read()
            connection.close()
            return answer.status
        for path in ("/metrics", "/version", "/admin", "/admin/state"):
            self.assertEqual(status(path), 200, path)
        self.assertEqual(status("/health"), 503)  # no worker
        for path in ("/v1/models", "/v1/completions", "/tokenize", "/nothing"):
            self.assertEqual(status(path), 401, path)
            self.assertEqual(status(path, "sesame-0123456789abcdee"), 401, path)
        self.assertEqual(status("/v1/models", "sesame-0123456789abcdef"), 200)
        self.assertEqual(status("/nothing", "sesame-0123456789abcdef"), 404)
        self.router.stop()


class Numbers(AdminTest):
    def test_counters_add_up_after_mixed_ends(self):
        self.start("--time-scale", "10")
        workers = [Process("medley-worker", "--router", self.ready["link"], "--plan", self.plan,
                           "--worker-type", SMALL, "--worker-id", f"w-{i}", "--time-scale", "10")
                   for i in range(2)]
        for worker in workers:
            self.addCleanup(worker.kill)
        wait_until(lambda: len(self.state()["workers"]) == 2, "the workers")
        self.traffic()
        calls = [self.stream([1] * 30, 400) for _ in range(20)]
        for call in calls:
            next(call)
        workers[0].kill()
        ended = {"OK": 0}
        for call in calls:
            try:
                list(call)
                ended["OK"] += 1
            except grpc.RpcError as error:
                name = error.code().name
                ended[name] = ended.get(name, 0) + 1
        found = metrics(self.http)
        of = lambda name, **labels: sum(  # noqa: E731
            v for k, v in found.items() if k.split("{")[0] == name and
            all(f'{label}="{value}"' in k for label, value in labels.items()))
        accepted = of("medley_router_accepted_total")
        self.assertEqual(of("medley_router_requests_total"), accepted)
        self.assertEqual(of("medley_router_demand_requests_total"),
                         accepted + of("medley_router_overload_refused_total", cause="late"))
        whole = sum(of("medley_router_requests_total", outcome=o) for o in ("stop", "length"))
        self.assertEqual(whole, 20 + ended["OK"])
        self.assertEqual(of("medley_router_completed_requests_total"), whole)
        self.assertEqual(of("medley_router_output_compared_requests_total"), whole)
        self.assertEqual(of("medley_router_e2e_latency_seconds_count"), whole)
        self.assertEqual(of("medley_router_objective_requests_total", objective="ttft"), whole)
        self.assertEqual(of("medley_router_broken_streams_total", outcome="worker_lost"),
                         of("medley_router_requests_total", outcome="worker_lost"))
        self.assertEqual(of("medley_router_picks_total"), accepted + sum(
            of("medley_router_reroutes_total", reason=r)
            for r in ("worker_lost", "worker_error", "resumed")))
        self.assertEqual(of("medley_router_grpc_calls_total", code="OK"), whole)
        self.assertEqual(of("medley_router_in_flight"), 0)
        self.assertEqual(of("medley_router_queue_depth"), 0)
        for name in ("ttft", "tpot"):
            ratio = of(f"medley_router_{name}_observed_seconds_total") / of(
                f"medley_router_{name}_predicted_seconds_total")
            self.assertGreater(ratio, 0)
        workers[1].stop()
        self.router.stop()

    def series(self, name, **labels):
        """The sum of the samples with these labels; there must be one."""
        found = [v for k, v in metrics(self.http).items() if k.split("{")[0] == f"medley_router_{name}" and
                 all(f'{label}="{value}"' in k for label, value in labels.items())]
        self.assertTrue(found, f"{name} {labels}")
        return sum(found)

    def test_a_broken_worker_and_why(self):
        self.start("--breaker-faults", "2", "--attempts-max", "1")
        worker = self.worker("w-1")
        self.assertEqual(self.series("breaker_opened_total", worker_type=SMALL), 0)
        self.assertEqual(self.series("breakers", worker_type=SMALL, state="closed"), 1)
        for _ in range(2):
            call = self.stream([1] * 30, 20)
            worker.finish(worker.next_generate(), link.pb.ENDING_ERROR, "out of luck")
            with self.assertRaises(grpc.RpcError):
                list(call)
        self.assertEqual(self.series("breaker_opened_total", worker_type=SMALL), 1)
        self.assertEqual(self.series("breaker_opened_total", worker_type=LARGE), 0)
        self.assertEqual(self.series("worker_faults_total", worker_type=SMALL, cause="error"), 2)
        self.assertEqual(self.series("worker_faults_total"), 2)
        self.assertEqual(self.series("breakers", state="closed"), 0)
        self.assertEqual(self.series("worker_breaker_open", worker="w-1"), 1)
        said = self.state()["workers"][0]
        self.assertRegex(said["breaker"], "breaker (open|probing)")
        self.assertEqual((said["faults"], said["last_fault"], said["breaker_opened"]), (2, "error", 1))
        # The probe is the next request; its first token closes the breaker.
        call = self.stream([1] * 30, 2)
        probe = worker.next_generate()
        self.assertEqual(self.series("breakers", worker_type=SMALL, state="probing"), 1)
        self.assertEqual(self.state()["workers"][0]["breaker"], "breaker probing")
        worker.tokens(probe, 0, [5])
        wait_until(lambda: self.series("breakers", state="closed") == 1, "the breaker to close")
        self.assertNotIn("breaker", self.state()["workers"][0])
        worker.tokens(probe, 1, [5])
        worker.finish(probe, link.pb.ENDING_LENGTH)
        list(call)
        types = {t["worker_type"]: t for t in self.state()["worker_types"]}
        self.assertEqual(types[SMALL]["faults"], {"silence": 0, "link": 0, "error": 2})
        # A link that breaks under a request is a fault too.
        call = self.stream([1] * 30, 2)
        worker.next_generate()
        worker.close()
        with self.assertRaises(grpc.RpcError):
            list(call)
        self.assertEqual(self.series("worker_faults_total", worker_type=SMALL, cause="link"), 1)
        self.router.stop()

    def test_prefixes_that_were_found(self):
        self.start()
        self.worker("w-1", script=[7] * 4, cached_tokens=16)
        prompt = list(range(1, 601))  # two full blocks
        for _ in range(3):
            list(self.stream(prompt, 4))
        list(self.stream([1] * 30, 4))  # has none
        self.assertEqual(self.series("prefix_prompts_total", worker_type=SMALL), 3)
        self.assertEqual(self.series("prefix_picks_total", worker_type=SMALL), 2)
        self.assertEqual(self.series("prefix_expected_tokens_total", worker_type=SMALL), 1024)
        self.assertEqual(self.series("prefix_cached_tokens_total", worker_type=SMALL), 4 * 16)
        self.assertEqual(self.series("prefix_distrusted_workers", worker_type=SMALL), 0)
        self.assertEqual(self.series("table_entries", table="prefixes"), 2)
        self.assertGreater(self.series("table_entries_max", table="prefixes"), 2)
        # Four answers of four tokens, by the size of their prompts.
        self.assertEqual(self.series("length_compared_requests_total", input="1000"), 3)
        self.assertEqual(self.series("length_observed_tokens_total", input="1000"), 12)
        self.assertEqual(self.series("length_compared_requests_total", input="100"), 1)
        self.assertGreaterEqual(self.series("length_error_tokens_total"), abs(
            self.series("length_observed_tokens_total") - self.series("length_predicted_tokens_total")))
        prefixes = self.state()["worker_types"][0]["prefixes"]
        self.assertEqual(prefixes, {"prompts": 3, "picks": 2, "expected_tokens": 1024, "cached_tokens": 64})
        self.router.stop()

    def test_why_it_was_refused(self):
        self.start("--queue-max", "2", "--admission", "queue")
        worker = self.worker("w-1", max_num_seqs=1)
        calls = [self.stream([1] * 30, 2)]
        first = worker.next_generate()
        calls += [self.stream([1] * 30, 2) for _ in range(2)]
        wait_until(lambda: self.series("queue_depth") == 2, "the queue")
        self.assertEqual(self.series("admission_queued", worker_type=SMALL), 2)
        with self.assertRaises(grpc.RpcError) as raised:
            list(self.stream([1] * 30, 2))
        self.assertEqual(raised.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(self.series("overload_refused_total", cause="queue"), 1)
        self.assertEqual(self.series("overload_refused_total"), self.series("refused_total", reason="overload"))
        self.assertEqual(self.state()["overload"],
                         {"wait": 0, "queue": 1, "requests": 0, "late": 0, "door": 0})
        worker.finish(first, link.pb.ENDING_STOP)
        for _ in range(2):
            worker.finish(worker.next_generate(), link.pb.ENDING_STOP)
        for call in calls:
            list(call)
        self.router.stop()

    def test_refused_because_of_the_wait(self):
        self.start("--queue-wait", "30s")
        worker = self.worker("w-1", max_num_seqs=1)
        calls = [self.stream([1] * 30, 2)]
        worker.next_generate()
        refused = 0
        for _ in range(2000):  # more than may wait at the plan's rate
            call = self.stream([1] * 30, 2)
            calls.append(call)
            if len(calls) % 50 == 0:
                refused = self.series("overload_refused_total", cause="wait")
                if refused:
                    break
        refused = wait_until(lambda: self.series("overload_refused_total", cause="wait"), "a refusal")
        self.assertGreater(refused, 0)
        self.assertGreater(self.series("admission_refused_total", worker_type=SMALL), 0)
        self.assertEqual(self.series("overload_refused_total"), self.series("refused_total", reason="overload"))
        self.assertGreater(self.series("admission_rate_requests_per_second", worker_type=SMALL), 0)
        self.assertGreater(self.series("admission_cap_requests", worker_type=SMALL), 0)
        self.assertGreater(self.series("admission_wait_seconds", worker_type=SMALL),
                           self.series("admission_wait_max_seconds"))
        admission = self.state()["worker_types"][0]["admission"]
        self.assertGreater(admission["refused"], 0)
        self.assertGreater(admission["wait_s"], admission["wait_max_s"])
        for call in calls:
            call.cancel()
        wait_until(lambda: self.series("in_flight") + self.series("queue_depth") == 0, "the cancels")
        self.router.stop()

    @unittest.skipUnless(shutil.which("promtool"), "no promtool here; ./check brings it")
    def test_the_guide_s_alerts_are_rules(self):
        guide = (harness.ROOT / "docs/guide/metrics.md").read_text()
        rules = self.folder / "rules.yml"
        rules.write_text(guide.split("```yaml\n")[1].split("```")[0])
        done = subprocess.run(["promtool", "check", "rules", rules], capture_output=True, text=True,
                              check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("9 rules found", done.stdout)

    @unittest.skipUnless(shutil.which("prometheus"), "no prometheus here; ./check brings it")
    def test_prometheus_scrapes_it(self):
        self.start()
        self.worker("w-1", auto=True)
        for _ in range(5):
            list(self.stream([1] * 30, 20))
        metrics(self.http)  # counts itself from the second time on
        want = metrics(self.http)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            listen = f"127.0.0.1:{s.getsockname()[1]}"
        config = self.folder / "prometheus.yml"
        config.write_text(json.dumps({
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [{"job_name": "router",
                                "static_configs": [{"targets": [self.http]}]}]}))
        log = (self.folder / "prometheus.log").open("w+")
        self.addCleanup(log.close)
        prometheus = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--web.listen-address={listen}",
             f"--storage.tsdb.path={self.folder / 'data'}"], stdout=log, stderr=log)
        self.addCleanup(prometheus.wait)
        self.addCleanup(prometheus.kill)

        def query(text):
            try:
                status, answer = http_get(
                    listen, "/api/v1/query?query=" + urllib.parse.quote(text))
            except OSError:
                return []
            return json.loads(answer)["data"]["result"] if status == 200 else []
        found = wait_until(lambda: query("medley_router_accepted_total"), "a scrape")
        self.assertEqual(float(found[0]["value"][1]), 5)
        # Every sample of the page has come, and no more than those and Prometheus' own of a target.
        series = query('count({job="router",__name__=~"medley_.*"})')
        self.assertEqual(int(series[0]["value"][1]), len(want))
        attained = query('sum(medley_router_objective_met_total{objective="ttft"})'
                         ' / sum(medley_router_objective_requests_total{objective="ttft"})')
        self.assertEqual(float(attained[0]["value"][1]), 1)
        # The guide's queries and alerts are what people paste.
        guide = (harness.ROOT / "docs/guide/metrics.md").read_text()
        queries = [part.split("\n```")[0].strip()
                   for part in guide.split("```promql\n")[1:]]
        self.assertGreater(len(queries), 8)
        for text in queries:
            status, answer = http_get(listen, "/api/v1/query?query=" + urllib.parse.quote(text))
            self.assertEqual(status, 200, f"{text}\n{answer}")
            for name in set(part for part in text.replace("{", " ").replace("(", " ").replace(
                    "[", " ").replace(")", " ").split() if part.startswith("medley_")):
                self.assertTrue(any(k.split("{")[0] == name or
                                    k.split("{")[0].startswith(name) for k in want),
                                f"{name} is not on the page")
        self.router.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2)
