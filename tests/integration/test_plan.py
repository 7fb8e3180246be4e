# SPDX-License-Identifier: Apache-2.0
"""medley plan as a user runs it: results, exit statuses, sentences for what is wrong."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

BINARY = os.path.join(os.environ["MEDLEY_BIN"], "medley-plan")
SLO = ["--slo", "tpot.mean=120ms,ttft.mean=2s"]
PAPER = ["--catalogue", "melange-paper", "--model", "llama-2-7b"]


def plan(*arguments, env=None):
    # Shipped names are looked up above the program, or here when the build is elsewhere.
    command = [BINARY, "--data-dir", os.getcwd(), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120,
                          env=dict(os.environ, **(env or {})))


class Melange(unittest.TestCase):
    def cost(self, *arguments):
        done = plan("--json", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        answer = json.loads(done.stdout)
        self.assertEqual(answer["status"], "optimal")
        self.assertEqual(answer["lower_bound_per_hour"], answer["cost_per_hour"])
        return answer["cost_per_hour"], {i["instance"]: i["count"] for i in answer["instances"]}

    def test_published_cases(self):
        example = ("--melange", "tests/data/melange_example.json")
        self.assertEqual(self.cost(*example), (4.68, {"A10G": 1, "A100-80GB": 1}))
        self.assertEqual(self.cost(*example, "--slices", "1")[0], 6.70)
        self.assertEqual(self.cost(*example, "--slices", "3")[0], 4.68)
        self.assertEqual(self.cost(*example, "--slices", "8")[0], 5.69)
        figure = ("--melange", "tests/data/melange_figure9.json")
        self.assertEqual(self.cost(*figure), (8.35, {"A100": 2, "A10G": 1}))

    def test_lines(self):
        with open("tests/data/melange_example.json", encoding="utf-8") as file:
            line = json.dumps(json.load(file))
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.write(line + "\n" + line + "\n")
            file.flush()
            done = plan("--json", "--melange", file.name)
            self.assertEqual(done.returncode, 0, done.stderr)
            costs = [json.loads(answer)["cost_per_hour"] for answer in done.stdout.splitlines()]
            self.assertEqual(costs, [4.68, 4.68])
            file.write("{\n")
            file.flush()
            done = plan("--json", "--melange", file.name)
            self.assertEqual(done.returncode, 2)
            self.assertIn(":3", done.stderr)

    def test_infeasible(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"gpu_info": {"A": {"cost": 1, "tputs": [[0]]}},
                       "workload_distribution": [[1]], "total_request_rate": 1}, file)
            file.flush()
            done = plan("--melange", file.name)
            self.assertEqual(done.returncode, 3)
            self.assertIn("row 1, column 1", done.stdout)


class Plan(unittest.TestCase):
    def test_shipped_names(self):
        done = plan("azure-conversation", *SLO, *PAPER, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        answer = json.loads(done.stdout)
        self.assertEqual(answer["format"], "medley-plan/1")
        self.assertEqual(answer["status"], "optimal")
        self.assertEqual(done.stderr, "")
        total = sum(i["count"] * i["price_per_hour"] for i in answer["instances"])
        self.assertAlmostEqual(total, answer["cost_per_hour"], places=9)
        for row in answer["assignment"]:
            self.assertAlmostEqual(sum(row["shares"].values()), 1.0, places=9)
        for baseline in answer["baselines"]:
            self.assertGreaterEqual(baseline["cost_per_hour"], answer["cost_per_hour"])

    def test_same_answer_twice(self):
        answers = []
        for _ in range(2):
            answer = json.loads(plan("azure-code", *SLO, *PAPER, "--json").stdout)
            del answer["solve_seconds"]
            answers.append(answer)
        self.assertEqual(answers[0], answers[1])

    def test_table_and_output_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "plan.json")
            done = plan("azure-conversation", *SLO, *PAPER, "--output", path)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(path, encoding="utf-8") as file:
                answer = json.load(file)
            self.assertIn("%.3f $/h" % answer["cost_per_hour"], done.stdout)
            self.assertIn("one kind alone", done.stdout)
            self.assertNotIn("\033", done.stdout)

    def test_environment_twin(self):
        done = plan("azure-conversation", *PAPER, "--json",
                    env={"MEDLEY_SLO": "tpot.mean=120ms,ttft.mean=2s"})
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_caps(self):
        done = plan("azure-conversation", *SLO, *PAPER, "--cap", "a100-80gb=1,h100=0", "--cap",
                    "l4=2", "--cap", "a10g=2")
        self.assertEqual(done.returncode, 3)
        self.assertIn("raise its cap from 1 to 2", done.stdout)
        done = plan("azure-conversation", *SLO, *PAPER, "--cap", "a100-80gb=2,h100=0", "--cap",
                    "l4=2", "--cap", "a10g=2")
        self.assertEqual(done.returncode, 0, "the named change is not enough: " + done.stdout)

    def test_impossible_objective(self):
        done = plan("azure-conversation", "--slo", "tpot.mean=3ms", *PAPER)
        self.assertEqual(done.returncode, 3)
        self.assertIn("tpot.mean needs >=", done.stdout)
        self.assertIn("smallest change: tpot.mean of at least", done.stdout)

    def test_spot_is_not_dearer(self):
        costs = []
        for spot in ([], ["--spot"]):
            done = plan("azure-conversation", *SLO, "--model", "llama-2-7b", "--json", *spot)
            costs.append(json.loads(done.stdout)["cost_per_hour"])
        self.assertLessEqual(costs[1], costs[0])

    def test_wrong_usage(self):
        cases = (
            (["azure-conversation", *PAPER], "--slo"),
            ([*SLO], "expected a WORKLOAD"),
            (["no-such-workload", *SLO], "no-such-workload: there is no such file"),
            (["azure-code", *SLO, "--catalogue", "no-such"], "no catalogue of that name"),
            (["azure-code", *SLO, "--profiles", "no-such"], "no profile or folder"),
            (["azure-code", *SLO], "expected --model to choose one"),
            (["azure-code", *SLO, "--model", "gpt-9"], "no profile is for model gpt-9"),
            (["azure-code", *SLO, *PAPER, "--profiles", "a10g-llama-2-13b-gptq"],
             "the profile is for model llama-2-13b"),
            (["azure-code", *SLO, *PAPER, "--cap", "zx=1"], "--cap"),
            (["azure-code", *SLO, *PAPER, "--instances", "zx"], "--instances"),
            (["azure-code", *SLO, *PAPER, "--rate", "-1"], "--rate"),
            (["azure-code", *SLO, *PAPER, "--rate", "nan"], "--rate"),
            (["azure-code", *SLO, *PAPER, "--max-utilization", "1.5"], "--max-utilization"),
            (["azure-code", "--slo", "tpot.p99=3ms", *PAPER], "p99"),
            (["azure-code", *SLO, *PAPER, "--slices", "3"], "--slices"),
            (["azure-code", "--melange", "tests/data/melange_example.json"], "expected one"),
            (["profiles/catalogues/melange-paper.json", *SLO, *PAPER], "medley-workload/1"),
        )
        for arguments, sentence in cases:
            with self.subTest(arguments=arguments):
                done = plan(*arguments)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(sentence, done.stderr)
                self.assertEqual(done.stdout, "")
                self.assertEqual(done.stderr.count("\n"), 1)

    def test_unwritable_output(self):
        done = plan("azure-conversation", *SLO, *PAPER, "--output", "/no/such/folder/plan.json")
        self.assertEqual(done.returncode, 1)
        self.assertIn("/no/such/folder/plan.json: cannot create it", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=1, argv=[sys.argv[0]])
