#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""medley profile against emulated workers, whose times are known, and against broken ones.

What is measured of an emulated worker without noise is its model's time to the bit of a nanosecond;
with a bias it is the bias.  A run that is killed goes on to the same profile.  Nothing here depends on how
fast this machine is."""
import json
import pathlib
import signal
import socket
import statistics
import tempfile
import unittest

from certificates import Authority
from fake_worker import dial, hello
from harness import PATIENCE_S, ROOT, Process, run, wait_until
from link import Closed, Link, pb

PUBLISHED = ROOT / "profiles" / "published" / "a10g-llama-2-7b-fp16.json"
FAST = ["--time-scale", "1000", "--repeats", "8", "--minutes", "5"]


def load(path):
    return json.loads(pathlib.Path(path).read_text())


def step_ms(profile, row):
    """The physical form as docs/internals/profiles.md has it; a profile without a corner."""
    m, s = profile["model"], profile["step_model"]
    p, c = row["prefill_tokens"], row["prefill_context"]
    n, d = row["decode_sequences"], row["decode_context_tokens"]
    pairs = p * c + p * (p + 1) / 2
    weights = 1e3 * m["weight_bytes"] / s["bandwidth_bytes_per_s"]
    linear = 1e3 * 2 * m["parameters"] * (p + n) / s["matrix_flops_per_s"]
    k = s.get("corner", 0)
    corner = (weights + linear + ((weights - linear) ** 2 + 4 * k * k * weights * linear) ** 0.5) / 2
    return (s["fixed_ms"] + s["sequence_us"] * n / 1e3 + corner +
            1e3 * m["kv_bytes_per_token"] * d / s["kv_bandwidth_bytes_per_s"] +
            1e3 * 4 * m["layers"] * m["heads"] * m["head_dim"] * pairs / s["attention_flops_per_s"])


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="medley-profile-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.output = self.folder / "p.json"
        # A form without tables, so that the truth is the formula above.
        self.truth = load(PUBLISHED)
        self.truth["steps"] = []
        for key in ("step_errors", "validations"):
            self.truth.pop(key, None)
        self.truth_file = self.folder / "truth.json"
        self.truth_file.write_text(json.dumps(self.truth))

    def profile(self, *args, expected=0):
        status, out, err = run("medley-profile", "-o", self.output, *args)
        self.assertEqual(status, expected, err)
        return out, err

    def emulated(self, *args, worker=(), expected=0):
        return self.profile("--profile", self.truth_file, *FAST, *args, "--", *worker,
                            expected=expected)

    def journal(self):
        lines = pathlib.Path(f"{self.output}.journal").read_text().splitlines()
        return [json.loads(line) for line in lines]


class Truth(Case):
    def test_without_noise_the_profile_has_the_models_times(self):
        out, _ = self.emulated("--points", "60")
        made = load(self.output)
        self.assertEqual(len(made["steps"]), 60)
        for row in made["steps"]:
            self.assertAlmostEqual(row["ms_p50"] / step_ms(self.truth, row), 1, delta=1e-6, msg=row)
        kinds = {(r["prefill_tokens"] > 0, r["decode_sequences"] > 0) for r in made["steps"]}
        self.assertEqual(kinds, {(True, False), (False, True), (True, True)})
        self.assertLess(made["step_model"]["fit_error"], 0.01)
        self.assertEqual(made["model"], self.truth["model"])
        for key in ("max_num_seqs", "max_num_batched_tokens", "block_tokens", "kv_tokens"):
            self.assertEqual(made["limits"][key], self.truth["limits"][key])
        self.assertIn("memory use", out)
        text = made["sources"][0]["text"]
        self.assertIn("power limit unknown", text)
        self.assertIn("command: medley profile", text)

    def test_bias_and_noise_show(self):
        self.emulated("--points", "12", "--repeats", "64", "--precision", "0.001",
                      worker=["--emulated-bias", "1.2", "--emulated-noise", "0.05"])
        ratios = [row["ms_p50"] / step_ms(self.truth, row) for row in load(self.output)["steps"]]
        self.assertAlmostEqual(statistics.median(ratios), 1.2, delta=0.02)
        for row in load(self.output)["steps"]:
            # 64 draws of a deviation of 5 %: the largest is far above the middle one.
            self.assertGreater(row["ms_p99"], 1.03 * row["ms_p50"])

    def test_plan_and_emulated_worker_take_the_profile(self):
        self.emulated("--points", "40", "--name", "measured-a10g")
        status, out, err = run("medley-plan", "--profiles", self.output, "--slo", "tpot.mean=200ms",
                               "--rate", "1", "--json", "azure-conversation")
        self.assertEqual(status, 0, err)
        self.assertIn("measured-a10g", out)
        status, out, err = run("medley-worker", "--profile", self.output, "--dry-run")
        self.assertEqual(status, 0, err)
        self.assertIn("measured-a10g", out)

    def test_json_tells_what_was_done(self):
        out, _ = self.emulated("--points", "5", "--json")
        told = json.loads(out)
        self.assertEqual(told["points"], 5)
        self.assertFalse(told["interrupted"])
        self.assertEqual(told["profile"]["steps"], load(self.output)["steps"])
        self.assertTrue(0 < told["mbu"] < 1 and 0 < told["mfu"] < 1, told)

    def test_remote_worker_dials_over_a_socket(self):
        address = f"unix:{self.folder}/link"
        with Process("medley-profile", "--listen", address, *FAST[2:], "--points", "4", "-o",
                     self.output) as profiler:
            profiler.wait_line("waiting for a worker")
            with Process("medley-worker", "--profile", self.truth_file, "--time-scale", "1000",
                         "--router", address):
                wait_until(lambda: profiler.popen.poll() is not None, "the profiler's end")
            self.assertEqual(profiler.popen.returncode, 0, profiler.output())
        self.assertEqual(len(load(self.output)["steps"]), 4)

    def secure_listener(self):
        """(the profiler, its address, what a worker needs for it)."""
        authority = Authority(self.folder)
        certificate, key = authority.server("profiler")
        token = self.folder / "token"
        token.write_text("token-alpha-0123456789\n")
        token.chmod(0o600)
        profiler = self.enterContext(Process(
            "medley-profile", "--listen", "127.0.0.1:0", "--link-tls-certificate", certificate, "--link-tls-key", key,
            "--link-token-file", token, *FAST[2:], "--points", "4", "-o", self.output))
        address = profiler.wait_line("waiting for a worker").rsplit(" ", 1)[1]
        return profiler, address, ("--router-ca", authority.pem), ("--link-token-file", token)

    def dialling(self, address, *args):
        return Process("medley-worker", "--profile", self.truth_file, "--time-scale", "1000", "--router", address, *args)

    def test_remote_worker_dials_over_tls_with_a_token(self):
        profiler, address, trust, token = self.secure_listener()
        with self.dialling(address, *trust, *token):
            wait_until(lambda: profiler.popen.poll() is not None, "the profiler's end")
        self.assertEqual(profiler.popen.returncode, 0, profiler.output())
        self.assertNotIn("anybody on this network", profiler.output())
        self.assertEqual(len(load(self.output)["steps"]), 4)

    def test_remote_worker_without_the_token_is_refused(self):
        profiler, address, trust, _ = self.secure_listener()
        with self.dialling(address, *trust) as worker:
            wait_until(lambda: profiler.popen.poll() is not None, "the profiler's end")
            worker.wait_line("the token is not one that this profiler takes")
        self.assertEqual(profiler.popen.returncode, 1, profiler.output())
        self.assertIn("no token that --link-token-file has", profiler.output())
        self.assertFalse(self.output.exists())


class Resume(Case):
    def test_killed_in_the_middle_it_goes_on_to_the_same_profile(self):
        self.emulated("--points", "50")
        whole = load(self.output)
        for path in self.folder.glob("p.json*"):
            path.unlink()
        with Process("medley-profile", "--profile", self.truth_file, *FAST, "--points", "50", "-o",
                     self.output) as profiler:
            journal = pathlib.Path(f"{self.output}.journal")
            wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 10,
                       "ten points")
            profiler.popen.send_signal(signal.SIGKILL)
            profiler.popen.wait(PATIENCE_S)
        kept = journal.read_bytes().count(b"\n") - 1
        with journal.open("ab") as file:
            file.write(b'{"prefill_tokens": 1, "pre')  # what a crash in the middle of a line leaves
        _, err = self.emulated("--points", "50")
        if kept < 50:
            self.assertIn(f"going on with {kept} points", err)
        again = load(self.output)
        self.assertEqual(again["steps"], whole["steps"])
        self.assertEqual(again["step_model"], whole["step_model"])

    def test_foreign_journals_are_refused(self):
        self.emulated("--points", "3")
        header, *points = pathlib.Path(f"{self.output}.journal").read_text().splitlines()
        for key, value in {"gpu": "H200", "driver": "999.1", "clock_max_mhz": 1980,
                           "power_limit_w": 300, "model": "other", "version": "9.9"}.items():
            changed = json.loads(header)
            changed["facts"][key] = value
            pathlib.Path(f"{self.output}.journal").write_text(
                "\n".join([json.dumps(changed), *points]) + "\n")
            _, err = self.emulated("--points", "4", expected=2)
            self.assertIn(f"another {key}", err)
            self.assertIn("never mixes", err)
        _, err = self.emulated("--points", "2", "--fresh")
        self.assertEqual(len(self.journal()), 3)

    def test_what_is_no_journal_is_refused(self):
        journal = pathlib.Path(f"{self.output}.journal")
        journal.write_text("hello\n")
        _, err = self.emulated("--points", "2", expected=2)
        self.assertIn("p.json.journal", err)
        self.assertEqual(journal.read_text(), "hello\n")

    def test_interrupt_keeps_what_was_measured(self):
        with Process("medley-profile", "--profile", self.truth_file, "--time-scale", "100",
                     "--minutes", "5", "-o", self.output) as profiler:
            journal = pathlib.Path(f"{self.output}.journal")
            wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 3, "points")
            profiler.popen.send_signal(signal.SIGINT)
            profiler.popen.wait(PATIENCE_S)
            self.assertEqual(profiler.popen.returncode, 1, profiler.output())
        self.assertEqual(len(load(self.output)["steps"]), len(self.journal()) - 1)

    def test_budget_is_kept(self):
        out, err = self.profile("--profile", self.truth_file, "--time-scale", "20", "--minutes",
                                "0.05", "--json")
        told = json.loads(out)
        self.assertTrue(told["out_of_time"], told)
        self.assertGreater(told["points"], 0)
        self.assertIn("too short for all", err)
        # Points are not begun for which there is no time: a slow machine is late by little.
        self.assertLess(told["seconds"], 30)


class Listener:
    """A profiler that waits, and a worker in Python that dials it."""

    def __init__(self, case):
        self.address = f"unix:{case.folder}/link"
        self.process = Process("medley-profile", "--listen", self.address, "--minutes", "1",
                               "--points", "3", "-o", case.output)

    def __enter__(self):
        self.process.__enter__()
        self.process.wait_line("waiting for a worker")
        self.link = dial(self.address)
        return self

    def __exit__(self, *args):
        self.link.sock.close()
        return self.process.__exit__(*args)

    def end(self):
        wait_until(lambda: self.process.popen.poll() is not None, "the profiler's end")
        wait_until(lambda: "medley profile:" in "\n".join(self.process.stderr), "a sentence")
        return self.process.popen.returncode, "\n".join(self.process.stderr)


DESCRIPTION = {"version": 1, "device": "fake", "gpu": "NVIDIA H100 80GB HBM3", "dtype": "bfloat16",
               "kv_dtype": "bfloat16", "gpus": 1, "memory_bytes": 8e10, "peak_bytes_per_s": 3e12,
               "peak_flops_per_s": 9e14, "parameters": 7e9, "weight_bytes": 1.4e10,
               "kv_bytes_per_token": 5e5, "layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 32,
               "head_dim": 128, "intermediate": 11008, "vocab": 32000,
               "max_num_batched_tokens": 2048, "block_tokens": 16, "time_scale": 1}


class Broken(Case):
    def greet(self, listener, **changes):
        welcome = hello(listener.link, "w", "t")
        self.assertTrue(welcome.accepted and welcome.profiler)
        listener.link.receive_body("describe")
        listener.link.send(description=pb.Description(**{**DESCRIPTION, **changes}))

    def answer(self, listener, **changes):
        m = listener.link.receive_body("measure")
        fields = {"version": 1, "id": m.id, "prefill_tokens": m.prefill_tokens,
                  "prefill_context": m.prefill_context, "decode_sequences": m.decode_sequences,
                  "step_ns": [10 ** 7] * m.repeats,
                  "decode_context_tokens": [m.decode_context_tokens] * m.repeats, **changes}
        listener.link.send(measured=pb.Measured(**fields))

    def test_a_good_one_makes_a_profile(self):
        with Listener(self) as listener:
            self.greet(listener)
            try:
                while True:
                    frame = listener.link.receive()
                    if frame.WhichOneof("body") == "describe":
                        listener.link.send(description=pb.Description(**DESCRIPTION))
                        continue
                    m = frame.measure
                    listener.link.send(measured=pb.Measured(
                        version=1, id=m.id, prefill_tokens=m.prefill_tokens,
                        prefill_context=m.prefill_context, decode_sequences=m.decode_sequences,
                        step_ns=[10 ** 7] * m.repeats,
                        decode_context_tokens=[m.decode_context_tokens] * m.repeats))
            except Closed:
                pass
            wait_until(lambda: listener.process.popen.poll() is not None, "the profiler's end")
            self.assertEqual(listener.process.popen.returncode, 0, listener.process.output())
        made = load(self.output)
        self.assertEqual([row["ms_p50"] for row in made["steps"]], [10] * 3)
        self.assertEqual(made["gpu"], "H100")

    def test_nonsense_is_an_error_with_a_sentence(self):
        for name, text, change in [
                ("other steps", "other steps", {"decode_sequences": 77}),
                ("fewer repeats", "other steps", {"step_ns": [1]}),
                ("a zero", "took no time", None),
                ("another id", "not asked for", {"id": 12345}),
                ("another version", "another version", {"version": 2})]:
            with self.subTest(name), Listener(self) as listener:
                self.greet(listener)
                if change is None:
                    m = listener.link.receive_body("measure")
                    listener.link.send(measured=pb.Measured(
                        version=1, id=m.id, prefill_tokens=m.prefill_tokens,
                        prefill_context=m.prefill_context, decode_sequences=m.decode_sequences,
                        step_ns=[0] * m.repeats, decode_context_tokens=[1] * m.repeats))
                else:
                    self.answer(listener, **change)
                status, err = listener.end()
                self.assertEqual(status, 1)
                self.assertIn(text, err)
            self.assertFalse(self.output.exists())

    def test_descriptions_that_make_no_sense(self):
        for change, text in [({"layers": 0}, "layers is 0"), ({"version": 7}, "another version"),
                             ({"peak_flops_per_s": float("nan")}, "no number"),
                             ({"weight_bytes": -1.0}, "sizes of model"),
                             ({"time_scale": 0.0}, "sizes of model")]:
            with self.subTest(text), Listener(self) as listener:
                self.greet(listener, **change)
                status, err = listener.end()
                self.assertEqual(status, 1)
                self.assertIn(text, err)

    def test_a_worker_that_is_lost_in_the_middle(self):
        with Listener(self) as listener:
            self.greet(listener)
            self.answer(listener)
            listener.link.receive_body("measure")
            listener.link.sock.close()
            status, err = listener.end()
            self.assertEqual(status, 1)
            self.assertIn("closed its connection", err)
        self.assertEqual(len(self.journal()), 2)
        self.assertEqual(len(load(self.output)["steps"]), 1)

    def test_a_spawned_worker_that_fails(self):
        _, err = self.emulated("--points", "40", worker=["--emulated-fail-after", "100"], expected=1)
        self.assertIn("the device failed", err)
        self.assertGreater(len(self.journal()), 1)
        self.assertFalse([p for p in self.journal() if "impossible" in p])

    def test_a_spawned_worker_that_does_not_start(self):
        _, err = self.profile("--profile", self.folder / "none.json", expected=1)
        self.assertIn("none.json", err)
        self.assertIn("the worker ended", err)


class Worker(Case):
    """Measure frames at a worker, sent by hand."""

    def serve(self, profiler=True, kind=""):
        path = f"{self.folder}/hand-{kind}"  # a worker of before dials its own
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(path)
        listener.listen()
        listener.settimeout(PATIENCE_S)
        worker = Process("medley-worker", "--profile", self.truth_file, "--time-scale", "1000",
                         "--router", f"unix:{path}")
        worker.__enter__()
        self.addCleanup(worker.__exit__, None, None, None)
        link = Link(listener.accept()[0])
        self.addCleanup(link.sock.close)
        link.receive_body("hello")
        link.send(welcome=pb.Welcome(version=1, accepted=True, profiler=profiler))
        return worker, link

    def test_routers_may_not_measure(self):
        for kind, body in [("measure", pb.Measure(version=1, repeats=1, decode_sequences=1)),
                           ("describe", pb.Describe())]:
            with self.subTest(kind):
                worker, link = self.serve(profiler=False, kind=kind)
                link.send(**{kind: body})
                link.wait_closed()
                worker.wait_line("does not say that it is a profiler")

    def test_sizes_that_cannot_run_are_answered(self):
        _, link = self.serve()
        for number, (text, fields) in enumerate([
                ("nothing to repeat", {"repeats": 4}),
                ("nothing to repeat", {"decode_sequences": 1}),
                ("decode_sequences is 100000", {"decode_sequences": 100000, "repeats": 1}),
                ("prefill_tokens is 5000", {"prefill_tokens": 5000, "repeats": 1}),
                ("prefill_context", {"prefill_tokens": 5, "prefill_context": 20000, "repeats": 1}),
                ("without prefill_tokens", {"prefill_context": 5, "decode_sequences": 1,
                                            "repeats": 1}),
                ("repeats is 1000000", {"decode_sequences": 1, "repeats": 1000000}),
                ("blocks of the KV cache", {"decode_sequences": 100,
                                            "decode_context_tokens": 100000, "repeats": 1})]):
            link.send(measure=pb.Measure(version=1, id=number, **fields))
            measured = link.receive_body("measured")
            self.assertEqual(measured.id, number)
            self.assertIn(text, measured.error)
            self.assertTrue(measured.cannot)
        link.send(measure=pb.Measure(version=1, id=99, decode_sequences=3,
                                     decode_context_tokens=3000, warmup=2, repeats=5))
        measured = link.receive_body("measured")
        self.assertEqual((measured.error, len(measured.step_ns)), ("", 5))
        self.assertEqual(measured.decode_context_tokens[2], 3000)
        self.assertEqual(measured.decode_context_tokens[1], 2997)

    def test_with_work_it_is_refused_and_measuring_refuses_work(self):
        _, link = self.serve()
        link.send(generate=pb.Generate(request=1, prompt=[1, 2, 3], max_tokens=4000,
                                       ignore_eos=True))
        link.receive_body("tokens")
        link.send(measure=pb.Measure(version=1, id=1, decode_sequences=1, repeats=1))
        frame = link.receive()
        while frame.WhichOneof("body") != "measured":
            frame = link.receive()
        self.assertIn("has work", frame.measured.error)
        link.send(cancel=pb.Cancel(request=1))
        while frame.WhichOneof("body") != "finish":
            frame = link.receive()
        link.send(measure=pb.Measure(version=1, id=2, decode_sequences=1, repeats=4000))
        link.send(generate=pb.Generate(request=2, prompt=[1], max_tokens=1))
        link.send(measure=pb.Measure(version=1, id=3, decode_sequences=1, repeats=1))
        kinds = {}
        while len(kinds) < 3:
            frame = link.receive()
            kind = frame.WhichOneof("body")
            if kind == "finish":
                kinds["finish"] = frame.finish
            elif kind == "measured":
                kinds[frame.measured.id] = frame.measured
        self.assertEqual(kinds["finish"].ending, pb.ENDING_REFUSED)
        self.assertIn("being measured", kinds["finish"].message)
        self.assertIn("has work", kinds[3].error)
        self.assertEqual(len(kinds[2].step_ns), 4000)
        # And afterwards it serves.
        link.send(generate=pb.Generate(request=3, prompt=[1], max_tokens=2))
        while frame.WhichOneof("body") != "finish" or frame.finish.request != 3:
            frame = link.receive()
        self.assertEqual(frame.finish.ending, pb.ENDING_LENGTH)

    def test_a_profiler_that_leaves_does_not_keep_the_worker(self):
        worker, link = self.serve()
        link.send(measure=pb.Measure(version=1, id=1, decode_sequences=1, warmup=1000, repeats=4000))
        link.sock.close()
        worker.stop()


class Cpu(Case):
    def test_a_real_model(self):
        self.profile("--model", ROOT / "models" / "medley-austen", "--backend", "cpu", "--points",
                     "3", "--repeats", "8", "--minutes", "2", "--", "--max-num-seqs", "4",
                     "--threads", "2", "--max-model-len", "512")
        made = load(self.output)
        self.assertEqual(len(made["steps"]), 3)
        self.assertEqual(made["sources"][1]["kind"], "measured")
        self.assertTrue(all(row["ms_p50"] > 0 for row in made["steps"]))

    def test_a_shape(self):
        self.profile("--shape", "tiny", "--backend", "cpu", "--points", "1", "--repeats", "4",
                     "--minutes", "2", "--", "--max-num-seqs", "2", "--threads", "1")
        self.assertEqual(load(self.output)["model"]["name"], "tiny")


if __name__ == "__main__":
    unittest.main(verbosity=2)
