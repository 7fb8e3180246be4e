# SPDX-License-Identifier: Apache-2.0
"""Derives the shipped figures again from the measurements, which are not part of the repository.

usage: test_rederive.py [FOLDER WITH PROGRAMS]

The measurements lie in the folder that $MEDLEY_TEST_DATA names.  Exit 77
(skipped) where they are absent.  Workloads and catalogues need the standard library alone; profiles
are derived again where numpy and scipy are installed.  `medley workload` of the same build must
state the same figures for the traces as the script does.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = os.environ.get("MEDLEY_TEST_DATA", "")
PROGRAMS = None
TRACES = {"azure-conversation": "azure2023_conv.csv", "azure-code": "azure2023_code.csv"}


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def differences(a, b, tolerance, path=""):
    """Where two documents differ; numbers by relative tolerance."""
    if isinstance(a, dict) and isinstance(b, dict):
        out = [f"{path}: keys {sorted(set(a) ^ set(b))}"] if set(a) != set(b) else []
        for key in set(a) & set(b):
            out += differences(a[key], b[key], tolerance, f"{path}.{key}")
        return out
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return [f"{path}: {len(a)} and {len(b)} items"]
        return [d for i, (x, y) in enumerate(zip(a, b))
                for d in differences(x, y, tolerance, f"{path}[{i}]")]
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return [] if math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-12) else [f"{path}: {a} {b}"]
    return [] if a == b else [f"{path}: {a!r} {b!r}"]


class Rederive(unittest.TestCase):
    def derive(self, *parts):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        script = os.path.join(ROOT, *parts, "derive.py")
        subprocess.run([sys.executable, "-B", script, "--data", DATA, "--out", folder.name],
                       check=True, timeout=100)
        return folder.name

    def compare(self, folder, tolerance, *parts):
        shipped = os.path.join(ROOT, *parts)
        names = {n for n in os.listdir(shipped) if n.endswith(".json")}
        self.assertEqual(names, set(os.listdir(folder)))
        for name in sorted(names):
            found = differences(load(os.path.join(shipped, name)),
                                load(os.path.join(folder, name)), tolerance)
            self.assertEqual(found, [], name)

    def test_workloads(self):
        self.compare(self.derive("allocator", "workloads"), 1e-9, "allocator", "workloads")

    def test_catalogues(self):
        self.compare(self.derive("profiles", "catalogues"), 0, "profiles", "catalogues")

    def test_profiles(self):
        for module in ("numpy", "scipy"):
            if importlib.util.find_spec(module) is None:
                self.skipTest(f"{module} is not installed: profiles are not derived again")
        # The last digits of a fit are the solver's own.
        self.compare(self.derive("profiles", "published"), 2e-3, "profiles", "published")

    def test_medley_workload_states_the_same(self):
        program = os.path.join(PROGRAMS or "", "medley-workload")
        if not os.path.exists(program):
            self.skipTest("medley-workload was not built: its figures are not compared")
        for name, file in TRACES.items():
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "out.json")
                subprocess.run([program, os.path.join(DATA, "traces", file), "--name", name,
                                "--output", path], check=True, timeout=60,
                               stdout=subprocess.DEVNULL)
                made, shipped = load(path), load(
                    os.path.join(ROOT, "allocator", "workloads", name + ".json"))
            for document in (made, shipped):
                del document["source"]
            self.assertEqual(differences(shipped, made, 1e-9), [], name)


if __name__ == "__main__":
    if not os.path.isdir(os.path.join(DATA, "traces")):
        print("skipped: $MEDLEY_TEST_DATA names no folder; the measurements do not ship")
        sys.exit(77)
    PROGRAMS = sys.argv.pop(1) if len(sys.argv) > 1 and os.path.isdir(sys.argv[1]) else None
    unittest.main()
