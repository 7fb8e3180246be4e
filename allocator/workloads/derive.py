#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the shipped workloads (medley-workload/1) from the Azure LLM inference traces of 2023.

  azure-conversation.json, azure-code.json

usage: derive.py --data DIR [--out DIR]

DIR holds traces/azure2023_conv.csv and traces/azure2023_code.csv (arrival_s,input_tokens,
output_tokens).  This is also the independent check of `medley workload`: both state the same
figures for the same log.  Standard library only.

Definitions
  buckets       Melange's edges; a cell holds lower edge < size <= upper edge; means inside it.
  rate          requests / (last arrival - first arrival).
  percentiles   interpolate linearly between the ranks of the sorted sizes.
  rate_over_time  requests in each whole window of 60 s from the first arrival, over 60; the part
                window at the end is left out.
  burstiness    1 / CV^2 of the gaps between arrivals, each gap over the mean gap of its window of
                60 s (by the time of its earlier request), so that a rate that drifts over minutes
                does not count as bursts: that is what rate_over_time holds.  Windows with fewer
                than 20 gaps have no say.  Without that division the conversation trace would read
                0.84, and the code trace, which stops for minutes, 0.006.
"""

import argparse
import csv
import json
import math
import os
from collections import defaultdict

INPUT_EDGES = [25, 100, 250, 500, 1000, 2000, 4000, 8000, 12000, 16000]
OUTPUT_EDGES = [25, 100, 250, 500, 1000, 2000]
INTERVAL_S = 60
WINDOW_GAPS_MIN = 20
WORKLOADS = (
    ("azure-conversation", "azure2023_conv.csv"),
    ("azure-code", "azure2023_code.csv"),
)
LICENCE = "CC-BY-4.0"
TEXT = ("Azure LLM inference trace 2023, {file}: Azure/AzurePublicDataset; cite Patel et al., "
        "Splitwise: Efficient Generative LLM Inference Using Phase Splitting, ISCA 2024")
METHOD = ("allocator/workloads/derive.py: rate = requests / (last arrival - first arrival); "
          "percentiles interpolate linearly; burstiness = 1/CV^2 of the gaps between arrivals, each "
          "divided by the mean gap of its window of 60 s")


def read_log(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = [(float(r["arrival_s"]), int(r["input_tokens"]), int(r["output_tokens"]))
                for r in csv.DictReader(file)]
    rows.sort(key=lambda row: row[0])
    return [(arrival - rows[0][0], i, o) for arrival, i, o in rows]


def edge_of(edges, size):
    for edge in edges:
        if size <= edge:
            return edge
    raise SystemExit(f"{size} tokens is beyond the last edge {edges[-1]}")


def summary(values):
    ordered = sorted(values)

    def quantile(p):
        place = p * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    return {"mean": sum(ordered) / len(ordered), "p50": quantile(0.5), "p90": quantile(0.9),
            "p99": quantile(0.99), "max": ordered[-1]}


def burstiness(arrivals):
    windows = defaultdict(list)
    for earlier, later in zip(arrivals, arrivals[1:]):
        windows[int(earlier // INTERVAL_S)].append(later - earlier)
    squares = []
    for gaps in windows.values():
        if len(gaps) >= WINDOW_GAPS_MIN:
            mean = sum(gaps) / len(gaps)
            squares.extend((gap / mean - 1) ** 2 for gap in gaps)
    return len(squares) / sum(squares)


def rates(arrivals):
    counts = [0] * int(arrivals[-1] // INTERVAL_S)
    for arrival in arrivals:
        window = int(arrival // INTERVAL_S)
        if window < len(counts):
            counts[window] += 1
    return [count / INTERVAL_S for count in counts]


def workload(name, text, rows):
    arrivals = [row[0] for row in rows]
    cells = defaultdict(list)
    for _, i, o in rows:
        cells[edge_of(INPUT_EDGES, i), edge_of(OUTPUT_EDGES, o)].append((i, o))
    return {
        "format": "medley-workload/1",
        "name": name,
        "source": {"text": text, "licence": LICENCE, "method": METHOD},
        "requests": len(rows),
        "rate_per_s": len(rows) / arrivals[-1],
        "arrival": {"process": "gamma", "burstiness": burstiness(arrivals)},
        "rate_over_time": {"interval_s": INTERVAL_S, "rate_per_s": rates(arrivals)},
        "input_edges": INPUT_EDGES,
        "output_edges": OUTPUT_EDGES,
        "input_tokens": summary([row[1] for row in rows]),
        "output_tokens": summary([row[2] for row in rows]),
        "buckets": [
            {"input": cell[0], "output": cell[1], "share": len(sizes) / len(rows),
             "input_mean": sum(s[0] for s in sizes) / len(sizes),
             "output_mean": sum(s[1] for s in sizes) / len(sizes)}
            for cell, sizes in sorted(cells.items())],
    }


def rounded(value):
    """12 significant digits: more than the data hold, and the same on every machine."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder that holds traces/")
    parser.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)))
    args = parser.parse_args()
    for name, file in WORKLOADS:
        rows = read_log(os.path.join(args.data, "traces", file))
        result = rounded(workload(name, TEXT.format(file=file), rows))
        with open(os.path.join(args.out, name + ".json"), "w", encoding="utf-8") as out:
            json.dump(result, out, indent=1, ensure_ascii=False)
            out.write("\n")


if __name__ == "__main__":
    main()
