# SPDX-License-Identifier: Apache-2.0
"""Another plan while requests are in flight: none is lost, none is sent to who should not have it."""
import json
import pathlib
import signal
import tempfile
import unittest

import plans
from fake_worker import dial, hello
from harness import Process, http_get, metrics, wait_until
from steady import Steady
from test_grpc import LARGE, SMALL, Client, RouterTest, request

LITTLE = "l4-llama-2-7b-fp16"


class PlanTest(RouterTest):
    def write(self, workers, **changes):
        self.plan.write_text(json.dumps({**plans.plan(workers), **changes}))

    def reload(self):
        """Tells the router; returns once it has said how that went."""
        before = metrics(self.http)
        self.router.send_signal(signal.SIGHUP)

        def told():
            now = metrics(self.http)
            results = {r: now[f'medley_plan_reloads_total{{result="{r}"}}'] -
                       before[f'medley_plan_reloads_total{{result="{r}"}}'] for r in ("done", "refused")}
            return results if sum(results.values()) else None
        return wait_until(told, "the reload")

    def types(self):
        found = json.loads(http_get(self.http, "/health")[1])["worker_types"]
        return {t["worker_type"]: (t["in_plan"], t["planned"], t["connected"]) for t in found}

    def state(self):
        return json.loads(http_get(self.http, "/admin/state")[1])

    def load(self, **kwargs):
        return Steady(Client, request, self.grpc, **kwargs)


class Reload(PlanTest):
    def test_types_come_and_go_under_load_and_nothing_is_lost(self):
        self.start()
        self.worker("w1", SMALL, auto=True, token_s=0.005)
        self.worker("w2", LARGE, auto=True, token_s=0.005)
        with self.load(clients=6, prompts=(3, 1500)) as load:
            load.wait_for(20)
            self.write({SMALL: 1, LITTLE: 1})
            self.assertEqual(self.reload(), {"done": 1, "refused": 0})
            # Make before break: the new type is not there yet, and the one that left goes on to help.
            self.assertEqual(self.types(), {SMALL: (True, 1, 1), LITTLE: (True, 1, 0),
                                            LARGE: (False, 0, 1)})
            load.wait_for(20)
            third = self.worker("w3", LITTLE, auto=True, token_s=0.005)
            load.wait_for(20)
            self.assertGreater(third.seen, 0)
            before = metrics(self.http)
            load.wait_for(20)
            self.write({LARGE: 1})
            self.reload()
            load.wait_for(20)
        load.check(self, 100)
        after = metrics(self.http)
        # When its replacements were there, the type that had left got nothing more.
        name = 'medley_router_output_tokens_total{worker_type="%s"}'
        self.assertGreater(after[name % LARGE], before[name % LARGE])
        self.assertEqual(after["medley_plan_generation"], 3)
        self.assertEqual(self.state()["plan"]["generation"], 3)
        self.assertEqual(sum(v for k, v in after.items() if k.startswith("medley_router_refused_total")), 0)
        self.stop()

    def test_a_type_that_left_gets_nothing_once_the_new_plan_is_complete(self):
        self.start()
        small = self.worker("w1", SMALL, auto=True)
        large = self.worker("w2", LARGE, auto=True)
        self.client.generate(request([1] * 1500, 5))
        self.assertEqual((small.seen, large.seen), (0, 1))
        self.write({SMALL: 1})
        self.reload()
        for _ in range(5):
            self.client.generate(request([1] * 1500, 5))
        self.assertEqual((small.seen, large.seen), (5, 1))
        self.assertEqual(self.types()[LARGE], (False, 0, 1))
        large.close()
        wait_until(lambda: LARGE not in self.types(), "the worker's leave")
        # Nobody needs it any more.
        link = dial(self.link)
        self.addCleanup(link.close)
        welcome = hello(link, "w2", LARGE)
        self.assertIn("which the plan does not use", welcome.reason)
        self.stop()

    def test_requests_in_flight_and_in_the_queue_go_on(self):
        self.start()
        worker = self.worker("w2", LARGE, max_num_seqs=1)
        first = self.client.stream(request([1] * 1500, 3))
        generate = worker.next_generate()
        worker.tokens(generate, 0, [7])
        waiting = self.client.generate.future(request([1] * 1500, 2))
        wait_until(lambda: self.state()["queued"] == 1, "the second request to wait")
        self.write({SMALL: 1})
        self.reload()
        self.worker("w1", SMALL, auto=True)
        self.assertEqual(waiting.result().worker_type, SMALL)  # to whom the new plan gives it
        worker.tokens(generate, 1, [8, 9])
        worker.finish(generate)
        self.assertEqual([t for c in first for t in c.tokens.ids], [7, 8, 9])
        self.stop()

    def test_other_edges_of_the_buckets(self):
        self.start()
        self.worker("w1", SMALL, auto=True, token_s=0.003)
        self.worker("w2", LARGE, auto=True, token_s=0.003)
        plan = plans.plan(self.WORKERS)
        edges = [50, 1000, 16000]
        plan["workload"]["input_edges"] = edges
        plan["assignment"] = [{"input": i, "output": 2000, "input_mean": i - 10, "output_mean": 1500,
                               "rate": 0.1, "shares": {SMALL: 0.5, LARGE: 0.5}} for i in edges]
        with self.load(clients=6, prompts=(3, 200, 1500)) as load:
            load.wait_for(30)
            self.plan.write_text(json.dumps(plan))
            self.assertEqual(self.reload()["done"], 1, self.state()["plan"])
            load.wait_for(30)
            self.write(self.WORKERS)
            self.assertEqual(self.reload()["done"], 1)
            load.wait_for(30)
        load.check(self, 90)
        self.stop()

    def test_a_plan_that_is_wrong_changes_nothing(self):
        self.start()
        self.worker("w1", SMALL, auto=True)
        good = plans.plan(self.WORKERS)
        wrong = {"garbage": "{", "empty": "", "infeasible": {**good, "status": "infeasible"},
                 "another model": {**good, "model": {"name": "llama-2-70b"}},
                 "unknown type": {**good, "workers": [{"worker_type": "x", "count": 1, "utilization": 0}]}}
        for name, plan in wrong.items():
            with self.subTest(name):
                self.plan.write_text(plan if isinstance(plan, str) else json.dumps(plan))
                self.assertEqual(self.reload(), {"done": 0, "refused": 1})
                error = self.state()["plan"]["reload_error"]
                self.assertTrue(error)
                self.router.wait_line("the plan is not reloaded, the one before stays in force")
                self.assertEqual(self.types(), {SMALL: (True, 1, 1), LARGE: (True, 1, 0)})
                self.client.generate(request([1, 2], 3))
        self.plan.unlink()
        self.assertEqual(self.reload(), {"done": 0, "refused": 1})
        self.write(self.WORKERS)
        self.assertEqual(self.reload(), {"done": 1, "refused": 0})
        self.assertEqual(self.state()["plan"]["reload_error"], "")
        self.stop()

    def test_drain_unplanned_lets_workers_go_when_all_others_are_there(self):
        self.start("--drain-unplanned")
        small, large = self.worker("w1", SMALL, auto=True), self.worker("w2", LARGE, auto=True)
        self.write({SMALL: 1, LITTLE: 1})
        self.reload()
        self.worker("w3", LITTLE, auto=True)
        wait_until(lambda: large.drains == 1, "the Drain")
        self.assertEqual(small.drains, 0)
        large.close()
        self.assertIsNotNone(self.router.wait_line("w2 has left after draining: safe to delete"))
        self.stop()


class Up(unittest.TestCase):
    """medley up runs another plan: first the new workers, then the old ones' leave."""

    def test_workers_are_added_before_others_leave_and_no_stream_breaks(self):
        with tempfile.TemporaryDirectory(prefix="medley-test-") as folder:
            path = pathlib.Path(folder)
            plan = plans.write(path / "plan.json", {SMALL: 2, LARGE: 1})
            listen = [x for door in ("grpc", "http", "link") for x in (f"--{door}-listen", "127.0.0.1:0")]
            up = Process("medley-up", plan, "--ready-file", path / "ready.json", *listen)
            self.addCleanup(up.kill)
            up.wait_line("^READY ")

            def state():
                return json.loads((path / "ready.json").read_text())

            def names(leaving=False):
                return sorted(w["worker_id"] for w in state()["workers"] if w["leaving"] == leaving)
            self.assertEqual(names(), [f"{LARGE}-000", f"{SMALL}-000", f"{SMALL}-001"])
            stays = {w["worker_id"]: w["pid"] for w in state()["workers"]}[f"{SMALL}-000"]
            with Steady(Client, request, state()["grpc"], clients=3, prompts=(3, 1500), tokens=6) as load:
                load.wait_for(6)
                plan.write_text("{}")
                up.send_signal(signal.SIGHUP)
                up.wait_line("the plan is not reloaded, the fleet stays as it is")
                plans.write(plan, {SMALL: 1, LITTLE: 2})
                up.send_signal(signal.SIGHUP)
                up.wait_line("2 workers started, 2 to leave when they serve")
                up.wait_line("2 that it has no place for are drained")
                wait_until(lambda: names(True) == [], "the leave of two")
                load.wait_for(6)
            load.check(self, 12)
            self.assertEqual(names(), [f"{SMALL}-000", f"{LITTLE}-000", f"{LITTLE}-001"])
            self.assertIn(stays, [w["pid"] for w in state()["workers"]])
            found = json.loads(http_get(state()["http"], "/health")[1])["worker_types"]
            self.assertEqual({t["worker_type"]: t["ready"] for t in found}, {SMALL: 1, LITTLE: 2})
            up.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2)
