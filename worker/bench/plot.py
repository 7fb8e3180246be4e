#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws what medley engine-bench --json measured: a roofline, and throughput over latency.

    plot.py BENCH.json [BENCH.json ...] [--roofline FILE.svg] [--curve FILE.svg]

The roofline has every iteration at its operations per byte and the rate that it reached, under the two
roofs that were measured in the same run (a CPU's: reading alone).  The curve has decode batches of one
context: milliseconds per token against tokens per second, beside the floor.  Several files are several
colours.  Needs nothing but Python.
"""
import argparse
import html
import json
import math
import pathlib

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 230, 24, 52
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2")


class Axis:
    """Logarithmic, from data to pixels."""

    def __init__(self, low, high, begin, end):
        self.low, self.high = math.floor(math.log10(low) * 2) / 2, math.ceil(math.log10(high) * 2) / 2
        self.begin, self.end = begin, end

    def at(self, value):
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 2)

    def ticks(self):
        for power in range(math.floor(self.low), math.ceil(self.high) + 1):
            for step in (1, 2, 5):
                value = step * 10.0 ** power
                if self.low - 1e-9 <= math.log10(value) <= self.high + 1e-9:
                    yield value


def number(value):
    for scale, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")):
        if value >= scale:
            return f"{value / scale:g}{unit}"
    return f"{value:g}"


class Plot:
    def __init__(self, title, x_title, y_title, xs, ys):
        self.x = Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
        self.y = Axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP)
        self.parts, self.legend = [], []
        for value in self.x.ticks():
            self.line([(self.x.at(value), TOP), (self.x.at(value), HEIGHT - BOTTOM)], "#e0e0e0", 1)
            self.text(self.x.at(value), HEIGHT - BOTTOM + 16, number(value), "middle")
        for value in self.y.ticks():
            self.line([(LEFT, self.y.at(value)), (WIDTH - RIGHT, self.y.at(value))], "#e0e0e0", 1)
            self.text(LEFT - 6, self.y.at(value) + 4, number(value), "end")
        self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_title, "middle")
        self.text(LEFT, TOP - 8, y_title, "start")
        self.title = title

    def text(self, x, y, text, anchor="start", colour="#333"):
        self.parts.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{colour}">'
                          f'{html.escape(text)}</text>')

    def line(self, points, colour, width, dash=""):
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" '
                          f'stroke-width="{width}"{dash}/>')

    def curve(self, points, colour, width=1.5, dash=""):
        self.line([(self.x.at(x), self.y.at(y)) for x, y in points], colour, width, dash)

    def mark(self, x, y, colour, label="", shape="circle"):
        px, py = self.x.at(x), self.y.at(y)
        if shape == "circle":
            self.parts.append(f'<circle cx="{px:g}" cy="{py:g}" r="3.5" fill="{colour}"/>')
        else:
            self.parts.append(f'<rect x="{px - 3:g}" y="{py - 3:g}" width="6" height="6" '
                              f'fill="{"none" if shape == "empty" else colour}" stroke="{colour}"/>')
        if label:
            self.text(px + 6, py + 11, label)

    def note(self, text, colour):
        self.legend.append((text, colour))

    def svg(self):
        rows = []
        for i, (text, colour) in enumerate(self.legend):
            rows.append(f'<text x="{WIDTH - RIGHT + 12}" y="{TOP + 12 + 16 * i}" fill="{colour}">'
                        f'{html.escape(text)}</text>')
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" font-family="sans-serif" font-size="11">',
            f"<title>{html.escape(self.title)}</title>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *self.parts, *rows, "</svg>", ""])


def name_of(bench):
    return f"{pathlib.PurePath(bench['model']).name}, {bench['dtype']}"


def rate_of(bench):
    """Bytes and operations per second that the device was seen to reach; the second may be None."""
    if "limits" in bench:
        return bench["limits"]["read_bytes_per_s"], bench["limits"]["flops_per_s"]
    return bench["read_bytes_per_s"]["median"], None


def kind_of(case):
    if case["prefill_tokens"] == 0:
        return f"{case['decode_sequences']}", "circle"
    if case["decode_sequences"] == 0:
        return f"prefill {case['prefill_tokens']}", "square"
    return f"{case['decode_sequences']}+{case['prefill_tokens']}", "empty"


def roofline(benches):
    """Operations per byte against operations per second."""
    points = [(c["flops"] / c["bytes"], c["flops"] / c["ms"]["median"] * 1e3)
              for b in benches for c in b["iterations"]]
    roofs = [rate_of(b) for b in benches]
    low, high = min(x for x, _ in points) / 2, max(x for x, _ in points) * 4
    tops = [min(r * high, f or math.inf) for r, f in roofs]
    plot = Plot("roofline", "operations per byte", "operations per second", [low, high],
                [y for _, y in points] + [min(r for r, _ in roofs) * low] + tops)
    for bench, (read, flops), colour in zip(benches, roofs, COLOURS):
        corner = flops / read if flops else high
        roof = [(low, read * low), (min(corner, high), read * min(corner, high))]
        if corner < high:
            roof.append((high, flops))
        plot.curve(roof, colour, 1.2, "5,3")
        plot.note(name_of(bench), colour)
        plot.note(f"read {number(round(read / 1e9) * 1e9)}B/s", "#333")
        if flops:
            plot.note(f"products {number(round(flops / 1e12) * 1e12)}FLOP/s", "#333")
        for case in bench["iterations"]:
            label, shape = kind_of(case)
            plot.mark(case["flops"] / case["bytes"], case["flops"] / case["ms"]["median"] * 1e3,
                      colour, label, shape)
    plot.note("round: decode batch", "#333")
    plot.note("filled: prefill tokens", "#333")
    plot.note("hollow: decodes + prefill", "#333")
    return plot.svg()


def curve_cases(bench):
    """Decodes of one context by batch: those of --curve, or of the first context."""
    decodes = [c for c in bench["iterations"] if c["prefill_tokens"] == 0]
    decodes = [c for c in decodes if c["curve"]] or decodes
    context = decodes[0]["decode_context"] if decodes else 0
    decodes = [c for c in decodes if c["decode_context"] == context]
    return sorted({c["decode_sequences"]: c for c in decodes}.items()), context


def curve(benches):
    """Milliseconds per token against tokens per second, by batch."""
    found = [(b, *curve_cases(b)) for b in benches]
    if not all(cases for _, cases, _ in found):
        raise SystemExit("plot.py: a file has no decodes, of which a curve is made")
    every = [c for _, cases, _ in found for _, c in cases]
    times = [c["ms"]["median"] for c in every] + [c["floor_ms"] for c in every if "floor_ms" in c]
    rates = [c["tokens_per_s"] for c in every]
    rates += [1e3 * c["decode_sequences"] / c["floor_ms"] for c in every if "floor_ms" in c]
    plot = Plot("throughput over latency", "ms per token", "tokens per second", times, rates)
    for (bench, cases, context), colour in zip(found, COLOURS):
        plot.note(f"{name_of(bench)}, context {context}", colour)
        floors = [(c["floor_ms"], 1e3 * batch / c["floor_ms"]) for batch, c in cases if "floor_ms" in c]
        if floors:
            plot.curve(floors, colour, 1, "4,3")
        plot.curve([(c["ms"]["median"], c["tokens_per_s"]) for _, c in cases], colour)
        for batch, c in cases:
            plot.mark(c["ms"]["median"], c["tokens_per_s"], colour, str(batch))
    plot.note("dashed: floor", "#333")
    plot.note("at the marks: batch", "#333")
    return plot.svg()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bench", type=pathlib.Path, nargs="+")
    parser.add_argument("--roofline", type=pathlib.Path)
    parser.add_argument("--curve", type=pathlib.Path)
    arguments = parser.parse_args()
    benches = [json.loads(path.read_text()) for path in arguments.bench]
    for path, draw in ((arguments.roofline, roofline), (arguments.curve, curve)):
        if path:
            path.write_text(draw(benches))
            print(path)


if __name__ == "__main__":
    main()
