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
  rate          (requests - 1) / (last arrival - first arrival): gaps per second.
  percentiles   nearest rank: the smallest value with at least p percent of values at or below it.
  rate_over_time  requests per interval of 60 s from the first arrival, over 60; the last
                interval is divided by the part of it that the log covers.
  burstiness    1 / CV^2 of ALL gaps between arrivals.  One number for short bursts and slow
                trend together: it is not corrected for the trend, because an answer that is too
                bursty plans too much and one that is too smooth plans too little.
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
WORKLOADS = (
    ("azure-conversation", "azure2023_conv.csv"),
    ("azure-code", "azure2023_code.csv"),
)
LICENCE = "CC-BY-4.0"
TEXT = ("Azure LLM inference trace 2023, {file}: Azure/AzurePublicDataset; cite Patel et al., "
        "Splitwise: Efficient Generative LLM Inference Using Phase Splitting, ISCA 2024")
METHOD = ("allocator/workloads/derive.py: counts and means on Melange's grid; nearest-rank "
          "percentiles; rate per 60 s; burstiness = 1/CV^2 of all gaps, trend included")


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
    def rank(p):
        return ordered[max(0, math.ceil(p / 100 * len(ordered)) - 1)]
    return {"mean": sum(ordered) / len(ordered), "p50": rank(50), "p90": rank(90),
            "p99": rank(99), "max": ordered[-1]}


def burstiness(arrivals):
    gaps = [b - a for a, b in zip(arrivals, arrivals[1:])]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    return mean * mean / variance


def rates(arrivals):
    last = arrivals[-1]
    counts = [0] * (int(last // INTERVAL_S) + 1)
    for arrival in arrivals:
        counts[int(arrival // INTERVAL_S)] += 1
    lengths = [INTERVAL_S] * len(counts)
    tail = last - INTERVAL_S * (len(counts) - 1)
    if tail > 0:
        lengths[-1] = tail
    return [count / length for count, length in zip(counts, lengths)]


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
        "rate_per_s": (len(rows) - 1) / arrivals[-1],
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
