#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The dispatcher: what it lists, runs and refuses. Usage: test_medley.py PATH-OF-MEDLEY"""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

MEDLEY = sys.argv.pop(1)


class Dispatcher(unittest.TestCase):
    def setUp(self):
        """A copy of medley with two verbs beside it: one prints its arguments, one cannot run."""
        self.dir = tempfile.mkdtemp(prefix="medley-cli-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.medley = os.path.join(self.dir, "medley")
        shutil.copy(MEDLEY, self.medley)
        self.script("medley-plan", '#!/bin/sh\nprintf "<%s>" "$@"\nexit 3\n', 0o755)
        self.script("medley-bench", "#!/bin/sh\n", 0o755)
        self.script("medley-worker", "#!/nonexistent/interpreter\n", 0o644)

    def script(self, name, text, mode):
        path = os.path.join(self.dir, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)

    def run_medley(self, *args, **kwargs):
        done = subprocess.run([self.medley, *args], capture_output=True, text=True, timeout=60,
                              check=False, **kwargs)
        return done.returncode, done.stdout, done.stderr

    def test_verb_gets_its_arguments_and_its_status_comes_back(self):
        status, out, err = self.run_medley("plan", "a b", "--json", "")
        self.assertEqual((status, out, err), (3, "<a b><--json><>", ""))

    def test_works_from_any_directory_and_through_a_link(self):
        with tempfile.TemporaryDirectory() as other:
            link = os.path.join(other, "m")
            os.symlink(self.medley, link)
            done = subprocess.run([link, "plan", "x"], capture_output=True, text=True, cwd="/",
                                  check=False, timeout=60)
        self.assertEqual((done.returncode, done.stdout), (3, "<x>"))

    def test_help_lists_only_what_can_run(self):
        for words in (["--help"], ["-h"], ["help"]):
            status, out, err = self.run_medley(*words)
            self.assertEqual((status, err), (0, ""))
            self.assertRegex(out, r"(?m)^  plan +find the cheapest")
            self.assertRegex(out, r"(?m)^  bench +generate load")
            self.assertNotRegex(out, r"(?m)^  (worker|router|deploy) ")
            self.assertLessEqual(max(map(len, out.splitlines())), 100)

    def test_help_of_a_verb(self):
        self.assertEqual(self.run_medley("help", "plan"), (3, "<--help>", ""))

    def test_version(self):
        status, out, err = self.run_medley("--version")
        self.assertRegex(out, r"^medley \d+\.\d+\.\d+\n$")
        self.assertEqual((status, err), (0, ""))

    def test_refusals_are_one_line_and_status_2(self):
        cases = {
            (): "medley: a verb is missing; see medley --help\n",
            ("paln",): 'medley: unknown verb "paln"; did you mean "plan"?\n',
            ("xyzzy",): 'medley: unknown verb "xyzzy"; see medley --help\n',
            ("../plan",): 'medley: unknown verb "../plan"; see medley --help\n',
            ("a\nb",): 'medley: unknown verb "a\\nb"; see medley --help\n',
            ("--jsn",): "medley: unknown option --jsn; options of a verb follow the verb\n",
            ("help", "wrker"): 'medley: unknown verb "wrker"; see medley --help\n',
        }
        for args, sentence in cases.items():
            self.assertEqual(self.run_medley(*args), (2, "", sentence), args)
        status, out, err = self.run_medley("deploy")
        self.assertEqual((status, out), (2, ""))
        self.assertEqual(err, 'medley: the verb "deploy" is not part of this installation '
                              f"(no {self.dir}/medley-deploy)\n")

    def test_program_that_cannot_be_run(self):
        status, out, err = self.run_medley("worker")
        self.assertEqual((status, out), (1, ""))
        self.assertEqual(err, f"medley: {self.dir}/medley-worker cannot be run: Permission denied\n")

    def test_full_standard_output(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([self.medley, "--help"], stdout=full, stderr=subprocess.PIPE,
                                  text=True, check=False, timeout=60)
        self.assertEqual((done.returncode, done.stderr),
                         (1, "medley: standard output cannot be written\n"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
