#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the physical form misses of measured profiles, and what the published models could learn.

usage: form_report.py PROFILE...

PROFILE: medley-profile/1 with a step model and steps of a measured source, as `medley profile`
writes them.  Prints, for each, the form's error by region, sequences and prompt tokens; how much of
it one more term would remove, fitted to the residuals alone; and the ratios on which the published
models rest (docs/internals/profiles.md): share of bandwidth and matrix rate reached, keys and
values against weights, attention against products, cost of a sequence, roundness of the corner.
A term that removes much on several machines belongs into the form; a ratio that measured
machines agree on belongs into profiles/published/derive.py.  Standard library only; invents nothing.
"""

import json
import math
import statistics
import sys

SMALL_BATCH, SHORT_CONTEXT, SHORT_PREFILL = 16, 1024, 512  # as in profiles/profile.h


def load(path):
    with open(path, encoding="utf-8") as file:
        profile = json.load(file)
    if profile.get("format") != "medley-profile/1" or "step_model" not in profile:
        raise SystemExit(f"{path}: expected a medley-profile/1 with a step_model")
    kinds = {s["id"]: s["kind"] for s in profile["sources"]}
    rows = [r for r in profile.get("steps", []) if kinds[r["source"]] == "measured"]
    if not rows:
        raise SystemExit(f"{path}: expected steps of a measured source, found none")
    return profile, rows


def form_ms(profile, row):
    model, step = profile["model"], profile["step_model"]
    p, c = row["prefill_tokens"], row["prefill_context"]
    s, d = row["decode_sequences"], row["decode_context_tokens"]
    weights = 1e3 * model["weight_bytes"] / step["bandwidth_bytes_per_s"]
    linear = 2e3 * model["parameters"] * (p + s) / step["matrix_flops_per_s"]
    corner = step.get("corner", 0.0)
    matrix = (weights + linear
              + math.sqrt((weights - linear) ** 2 + 4 * corner ** 2 * weights * linear)) / 2
    kv = 1e3 * model["kv_bytes_per_token"] * d / step["kv_bandwidth_bytes_per_s"]
    per_pair = 4e3 * model["layers"] * model["heads"] * model["head_dim"]
    pairs = p * c + p * (p + 1) / 2
    return (step["fixed_ms"] + step["sequence_us"] * s / 1e3 + matrix + kv
            + per_pair * pairs / step["attention_flops_per_s"])


def region_of(row):
    s, p = row["decode_sequences"], row["prefill_tokens"]
    if p > 0:
        return "mixed" if s > 0 else "prefill-short" if p <= SHORT_PREFILL else "prefill-long"
    return (("decode-small-" if s <= SMALL_BATCH else "decode-large-")
            + ("short" if row["decode_context_tokens"] <= SHORT_CONTEXT * s else "long"))


# One more term each: name, and how much of it a row has.
CANDIDATES = (
    ("another kernel from 9 rows on",
     lambda r: float(r["prefill_tokens"] + r["decode_sequences"] > 8)),
    ("decodes padded to multiples of 8", lambda r: float(-r["decode_sequences"] % 8)
     if r["prefill_tokens"] == 0 else 0.0),
    ("more host time where there is prefill", lambda r: float(r["prefill_tokens"] > 0)),
    ("more host time where prefill stands beside decodes",
     lambda r: float(r["prefill_tokens"] > 0 and r["decode_sequences"] > 0)),
    ("long contexts of single sequences", lambda r: r["decode_context_tokens"]
     / r["decode_sequences"] if r["decode_sequences"] else 0.0),
    ("prefill behind cached tokens", lambda r: float(r["prefill_tokens"] > 0)
     * r["prefill_context"]),
)


def weighted_median(pairs):
    """pairs: (value, weight); the value with half of the weight below it."""
    pairs = sorted(pairs)
    half, total = sum(w for _, w in pairs) / 2, 0.0
    for value, weight in pairs:
        total += weight
        if total >= half:
            return value
    return 0.0


def term_of(profile, rows, amount):
    """The term's cost that leaves the least mean |relative error|, and that error."""
    pairs = []
    for row in rows:
        much = amount(row)
        if much > 0:
            pairs.append(((row["ms_p50"] - form_ms(profile, row)) / much, much / row["ms_p50"]))
    cost = weighted_median(pairs) if pairs else 0.0
    left = [abs((form_ms(profile, row) + cost * amount(row)) / row["ms_p50"] - 1) for row in rows]
    return cost, statistics.mean(left), len(pairs)


def grouped(rows, key):
    groups = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def print_errors(profile, title, groups):
    print(f"\n  {title:<22} rows   bias %   mean |error| %   greatest %")
    for name, rows in groups:
        errors = [form_ms(profile, r) / r["ms_p50"] - 1 for r in rows]
        print(f"  {name!s:<22} {len(rows):4d} {100 * statistics.mean(errors):+8.1f} "
              f"{100 * statistics.mean(map(abs, errors)):16.1f} {100 * max(map(abs, errors)):12.1f}")


def print_ratios(profile):
    step, sheet, model = profile["step_model"], profile["hardware"], profile["model"]
    gpus = profile["gpus_per_worker"]
    print("\n  what the published models assume or scale, as measured here")
    for name, value in (
            ("share of bandwidth, weights",
             step["bandwidth_bytes_per_s"] / (gpus * sheet["bandwidth_bytes_per_s"])),
            ("bandwidth of keys and values / of weights",
             step["kv_bandwidth_bytes_per_s"] / step["bandwidth_bytes_per_s"]),
            ("share of matrix rate",
             step["matrix_flops_per_s"] / (gpus * sheet["matrix_flops_per_s"])),
            ("rate of attention / of products",
             step["attention_flops_per_s"] / step["matrix_flops_per_s"]),
            ("fixed, ms", step["fixed_ms"]),
            ("a sequence, ms", step["sequence_us"] / 1e3),
            ("a sequence / reading the weights",
             step["sequence_us"] / 1e6 * step["bandwidth_bytes_per_s"] / model["weight_bytes"]),
            ("roundness of the corner", step.get("corner", 0.0))):
        print(f"  {name:<42} {value:8.3f}")


def report(path):
    profile, rows = load(path)
    print(f"{profile['worker_type']}: {len(rows)} measured steps, form {profile['step_model']['form']}")
    whole = statistics.mean(abs(form_ms(profile, r) / r["ms_p50"] - 1) for r in rows)
    print_errors(profile, "region", [("all", rows)] + sorted(grouped(rows, region_of).items()))
    decodes = [r for r in rows if r["prefill_tokens"] == 0]
    prefills = [r for r in rows if r["decode_sequences"] == 0]
    print_errors(profile, "decodes, sequences",
                 sorted(grouped(decodes, lambda r: r["decode_sequences"]).items()))
    print_errors(profile, "prefills, tokens",
                 sorted(grouped(prefills, lambda r: r["prefill_tokens"]).items()))
    print(f"\n  one more term                                       mean |error| %, {100 * whole:.1f} without")
    found = [(name, *term_of(profile, rows, amount)) for name, amount in CANDIDATES]
    for name, cost, left, count in sorted(found, key=lambda f: f[2]):
        print(f"  {name:<50} {100 * left:5.1f}  ({1e3 * cost:+.3f} us each, {count} rows)")
    print_ratios(profile)


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        raise SystemExit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    for number, path in enumerate(sys.argv[1:]):
        if number:
            print()
        report(path)


if __name__ == "__main__":
    main()
