# SPDX-License-Identifier: Apache-2.0
"""medley plan and what takes its plans, run with the data that ships."""
import harness

SLO = "tpot.mean=120ms,ttft.mean=2s"


def run(program, *arguments, status=0):
    """What it prints, or with another status than 0 what it says on standard error."""
    got, out, err = harness.run(program, "--data-dir", harness.ROOT, *arguments)
    if got != status:
        raise AssertionError(f"exit {got}, expected {status}: {err}")
    return out if status == 0 else err


def write_plan(path, rate, *options):
    """Of Azure's conversation sizes; returns the path."""
    path.write_text(run("medley-plan", "azure-conversation", "--rate", rate, "--model", "llama-2-7b", "--slo", SLO,
                        *options, "--json"))
    return path
