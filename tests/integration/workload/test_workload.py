#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""medley workload as a user runs it. Usage: test_workload.py PATH-OF-MEDLEY-WORKLOAD"""
import json
import os
import pty
import random
import subprocess
import sys
import tempfile
import unittest

PROGRAM = sys.argv.pop(1)
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.path.insert(0, os.path.join(ROOT, "allocator", "workloads"))
import derive  # noqa: E402  (the independent derivation of the shipped workloads)

HEADER = "arrival_s,input_tokens,output_tokens\n"


class Workload(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="medley-workload-")
        self.addCleanup(folder.cleanup)
        self.dir = folder.name

    def file(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def run_program(self, *args, **kwargs):
        done = subprocess.run([PROGRAM, *args], capture_output=True, text=True, timeout=60,
                              check=False, **kwargs)
        return done.returncode, done.stdout, done.stderr

    def log(self):
        draw = random.Random(11)
        now, lines = 0.0, [HEADER]
        for i in range(3000):
            now += draw.gammavariate(0.5, 0.6 if i < 1500 else 0.2)
            lines.append(f"{now:.6f},{draw.randint(1, 16000)},{draw.randint(1, 2000)}\n")
        return self.file("my.chat.csv", "".join(lines))

    def test_log_becomes_the_workload_that_python_derives(self):
        path = self.log()
        status, out, err = self.run_program(path, "--json", "--source", "here", "--licence", "CC0")
        self.assertEqual((status, err), (0, ""))
        got = json.loads(out)
        want = derive.workload("my.chat", "here", derive.read_log(path))
        want["source"] = {"text": "here", "licence": "CC0", "method": got["source"]["method"]}
        self.compare(got, want, "$")

    def compare(self, got, want, path):
        if isinstance(want, dict):
            self.assertEqual(list(got), list(want), path)
            for key in want:
                self.compare(got[key], want[key], f"{path}.{key}")
        elif isinstance(want, list):
            self.assertEqual(len(got), len(want), path)
            for i, item in enumerate(want):
                self.compare(got[i], item, f"{path}[{i}]")
        elif isinstance(want, (int, float)):
            self.assertAlmostEqual(got, want, delta=1e-9 * max(1, abs(want)), msg=path)
        else:
            self.assertEqual(got, want, path)

    def test_output_is_written_and_reads_back(self):
        target = os.path.join(self.dir, "out.json")
        status, shape, err = self.run_program(self.log(), "--output", target, "--name", "chat")
        self.assertEqual((status, err), (0, ""))
        self.assertIn("Workload chat\n", shape)
        with open(target, encoding="utf-8") as file:
            written = file.read()
        self.assertEqual(self.run_program(target, "--json"), (0, written, ""))
        self.assertEqual(self.run_program(target), (0, shape, ""))
        self.assertEqual(self.run_program("-", "--json", input=written), (0, written, ""))

    def test_log_from_a_pipe(self):
        status, out, err = self.run_program("-", "--json", input=HEADER + "0,1,1\n10,2,2\n")
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(json.loads(out)["rate_per_s"], 0.2)

    def test_edges(self):
        path = self.file("a.csv", HEADER + "0,1,1\n10,3000,2\n")
        status, out, err = self.run_program(path, "--json", "--input-edges", "1k,4k",
                                            "--output-edges=10")
        self.assertEqual((status, err), (0, ""))
        got = json.loads(out)
        self.assertEqual((got["input_edges"], got["output_edges"]), ([1000, 4000], [10]))
        self.assertEqual([b["input"] for b in got["buckets"]], [1000, 4000])
        edges = ",".join(str(i) for i in range(100, 6500, 100))
        status, out, err = self.run_program(path, "--output-edges", edges)
        self.assertEqual((status, err), (0, ""))
        self.assertLessEqual(max(map(len, out.splitlines())), 100)

    def test_lone_request_needs_a_rate(self):
        path = self.file("a.csv", HEADER + "5,1,1\n")
        status, out, err = self.run_program(path)
        self.assertEqual((status, out), (2, ""))
        self.assertEqual(err, f"medley workload: {path}: found a single request, from which no rate "
                         "follows, expected requests at different times, or a rate (--rate)\n")
        status, out, err = self.run_program(path, "--rate", "2.5")
        self.assertEqual((status, err), (0, ""))
        self.assertIn("  rate      2.5 requests/s\n", out)
        self.assertIn("  arrivals  Poisson\n", out)

    def test_colour_is_for_terminals_without_no_color(self):
        path = self.file("a.csv", HEADER + "0,1,1\n10,2,2\n")

        def on_terminal(**variables):
            master, slave = pty.openpty()
            environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
            environment.update(TERM="xterm", **variables)
            subprocess.run([PROGRAM, path], stdout=slave, check=True, timeout=60, env=environment)
            os.close(slave)
            text = b""
            try:
                while chunk := os.read(master, 65536):
                    text += chunk
            except OSError:  # the end of a terminal
                pass
            os.close(master)
            return text
        self.assertIn(b"\x1b[38;5;", on_terminal())
        self.assertNotIn(b"\x1b", on_terminal(NO_COLOR="1"))
        self.assertNotIn("\x1b", self.run_program(path)[1])

    def test_name_of_one_that_ships_is_found(self):
        file = os.path.join(ROOT, "allocator", "workloads", "azure-code.json")
        shape = self.run_program(file)
        self.assertEqual(shape[0], 0)
        self.assertEqual(self.run_program("azure-code", "--data-dir", ROOT), shape)
        status, out, err = self.run_program("azure-none", "--data-dir", ROOT)
        self.assertEqual((status, out), (2, ""))
        self.assertIn("no workload of that name ships", err)

    def test_wrong_use_gets_one_line(self):
        log = self.file("a.csv", HEADER + "0,1,1\n10,20000,2\n")
        shipped = os.path.join(ROOT, "allocator", "workloads", "azure-code.json")
        cases = [
            ((log,), 2, "found 1 of 2 requests outside the grid"),
            ((log, "--input-edges", "10,5"), 2, "--input-edges: found 5 after 10"),
            ((log, "--name", ""), 2, "name"),
            ((log, "--name", "a\nb"), 2, "--name: found the control character 0x0a"),
            ((log, "--name", "n" * 129), 2, "--name: found 129 bytes, expected 1 to 128"),
            ((log, "--rate", "0"), 2, "rate"),
            ((log, "--rate", "nan"), 2, "rate"),
            ((shipped, "--rate", "3"), 2, "--rate applies to request logs"),
            ((os.path.join(self.dir, "none.csv"),), 2,
             "none.csv: there is no such file, and no workload of that name ships"),
            ((self.dir,), 2, "cannot read it"),
            ((self.file("b.csv", "x\n"),), 2, "b.csv:1: found \"x\", expected the header"),
            ((self.file("e.csv", ""),), 2, "e.csv: found no requests"),
            ((self.file("w.json", '{"format": "medley-workload/1"'),), 2, "w.json: "),
            ((self.file("p.json", '{"format": "medley-plan/1"}'),), 2, '"medley-workload/1"'),
            ((shipped, "-o", os.path.join(self.dir, "no", "dir.json")), 1, "cannot create it"),
            ((), 2, ""),
        ]
        for args, wanted, sentence in cases:
            status, out, err = self.run_program(*args)
            self.assertEqual((status, out), (wanted, ""), args)
            self.assertTrue(err.startswith("medley workload: "), err)
            self.assertEqual(err.count("\n"), 1, err)
            self.assertIn(sentence, err)

    def test_full_disk_is_a_failure(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([PROGRAM, self.file("a.csv", HEADER + "0,1,1\n1,1,1\n")],
                                  stdout=full, stderr=subprocess.PIPE, text=True, check=False,
                                  timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("standard output: cannot write it: No space left", done.stderr)


if __name__ == "__main__":
    unittest.main()
