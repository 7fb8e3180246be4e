# SPDX-License-Identifier: Apache-2.0
"""Small plans for tests, made of published profiles."""
import json

import harness

INPUT_EDGES = [25, 100, 250, 500, 1000, 2000, 4000, 8000]
OUTPUT_EDGES = [25, 100, 250, 500, 1000, 2000]
MODEL = "llama-2-7b"


def profile(worker_type):
    return json.loads((harness.ROOT / "profiles/published" / f"{worker_type}.json").read_text())


def plan(workers, objectives=("tpot.mean=120ms", "ttft.mean=2s")):
    """workers: {worker_type: count}. Requests of up to 1000 input tokens belong to the first type,
    longer ones to the last."""
    types = list(workers)
    assignment = []
    for i, edge in enumerate(INPUT_EDGES):
        for o, out in enumerate(OUTPUT_EDGES):
            owner = types[0] if edge <= 1000 else types[-1]
            low_in = INPUT_EDGES[i - 1] if i else 0
            low_out = OUTPUT_EDGES[o - 1] if o else 0
            assignment.append({"input": edge, "output": out, "input_mean": (low_in + 1 + edge) / 2,
                               "output_mean": (low_out + 1 + out) / 2, "rate": 0.1,
                               "shares": {owner: 1}})
    return {
        "format": "medley-plan/1", "status": "optimal", "cost_per_hour": float(sum(workers.values())),
        "lower_bound_per_hour": float(sum(workers.values())), "solve_seconds": 0.01, "model": {"name": MODEL},
        "objectives": list(objectives), "utilization_max": 0.8,
        "workload": {"name": "test", "rate_per_s": 0.1 * len(assignment),
                     "arrival": {"process": "poisson"}, "input_edges": INPUT_EDGES,
                     "output_edges": OUTPUT_EDGES},
        "instances": [{"instance": f"box-{t}", "cloud": "cloud", "region": "r1", "count": n,
                       "price_per_hour": 1.0, "workers": [{"worker_type": t, "count": n}]}
                      for t, n in workers.items()],
        "workers": [{"worker_type": t, "count": n, "utilization": 0.5}
                    for t, n in workers.items()],
        "assignment": assignment, "baselines": [], "reasons": [], "warnings": [],
        "profiles": [profile(t) for t in types],
    }


def write(path, workers, **kwargs):
    path.write_text(json.dumps(plan(workers, **kwargs)))
    return path
