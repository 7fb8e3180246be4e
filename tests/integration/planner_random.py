# SPDX-License-Identifier: Apache-2.0
"""medley plan against an independent solver on random instances.

    planner_random.py [--count N] [--first N] [--seed N] [--verbose]

For every instance of planner_instances.py:
  - the planner's mix is checked in exact rational arithmetic from its printed counts and shares:
    shares sum to 1, every load is at most count * (1 + 1e-9), caps hold, the cost adds up;
  - HiGHS solves its own model of the same program; its counts are believed only if they are feasible
    in exact arithmetic too (else they are cut off and it solves again);
  - status and cost must agree to 1e-6 relative, and the planner's bound may not be above the
    cheapest exactly feasible cost that either of them found.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction

import highspy
import numpy as np

import planner_instances

TOLERANCE = Fraction(1, 10**9)
AGREE = 1e-6
ROUNDS_MAX = 60


class Program:
    """The instance as loads, exactly as the planner computes them (share * rate / throughput)."""

    def __init__(self, instance):
        rate = instance["total_request_rate"]
        self.names = list(instance["gpu_info"])
        self.costs = [instance["gpu_info"][name]["cost"] for name in self.names]
        self.caps = [instance["gpu_info"][name].get("max_count") for name in self.names]
        self.buckets = []  # (row, column)
        self.loads = []  # per bucket: {type: load}
        for row, line in enumerate(instance["workload_distribution"]):
            for column, share in enumerate(line):
                if share * rate <= 0.0:
                    continue
                loads = {}
                for index, name in enumerate(self.names):
                    throughput = instance["gpu_info"][name]["tputs"][row][column]
                    if throughput > 0.0:
                        loads[index] = share * rate / throughput
                self.buckets.append((row, column))
                self.loads.append(loads)

    def cost(self, counts):
        return float(sum(Fraction(c) * n for c, n in zip(self.costs, counts)))


def carries(program, counts, shares):
    """Exact: do these shares (per bucket {type: share}) stay within the counts?"""
    sums = [Fraction(0)] * len(counts)
    for loads, parts in zip(program.loads, shares):
        parts = {t: Fraction(s) for t, s in parts.items() if s > 0.0}
        if not parts or any(t not in loads or counts[t] <= 0 for t in parts):
            return False
        largest = max(parts, key=lambda t: parts[t])
        parts[largest] = 1 - sum(s for t, s in parts.items() if t != largest)
        if parts[largest] < 0:
            return False
        for t, share in parts.items():
            sums[t] += share * Fraction(loads[t])
    return all(total <= count * (1 + TOLERANCE) for total, count in zip(sums, counts))


def refutes(program, counts, prices):
    """Exact: do these prices prove that no shares stay within the counts?"""
    prices = [Fraction(p) for p in prices]
    supply = sum(p * c * (1 + TOLERANCE) for p, c in zip(prices, counts))
    demand = Fraction(0)
    for loads in program.loads:
        options = [prices[t] * Fraction(load) for t, load in loads.items() if counts[t] > 0]
        if not options:
            return True
        demand += min(options)
    return demand > supply


def solver():
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    return highs


class Model:
    """Rows and columns for HiGHS."""

    def __init__(self):
        self.cost, self.low, self.high, self.integer = [], [], [], []
        self.rows = []  # ({column: coefficient}, low, high)

    def column(self, cost, low, high, integer=False):
        self.cost.append(cost)
        self.low.append(low)
        self.high.append(high)
        self.integer.append(integer)
        return len(self.cost) - 1

    def row(self, coefficients, low, high):
        self.rows.append((coefficients, low, high))

    def solve(self, options=()):
        lp = highspy.HighsLp()
        lp.num_col_ = len(self.cost)
        lp.num_row_ = len(self.rows)
        lp.col_cost_ = np.array(self.cost, dtype=float)
        lp.col_lower_ = np.array(self.low, dtype=float)
        lp.col_upper_ = np.array(self.high, dtype=float)
        lp.row_lower_ = np.array([r[1] for r in self.rows], dtype=float)
        lp.row_upper_ = np.array([r[2] for r in self.rows], dtype=float)
        starts, index, value = [0], [], []
        for coefficients, _, _ in self.rows:
            index.extend(coefficients.keys())
            value.extend(coefficients.values())
            starts.append(len(index))
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.array(starts)
        lp.a_matrix_.index_ = np.array(index)
        lp.a_matrix_.value_ = np.array(value, dtype=float)
        if any(self.integer):
            kinds = highspy.HighsVarType
            lp.integrality_ = [kinds.kInteger if i else kinds.kContinuous for i in self.integer]
        highs = solver()
        for name, setting in options:
            highs.setOptionValue(name, setting)
        highs.passModel(lp)
        highs.run()
        return highs


def balance(program, counts):
    """Spreads the load evenly over the counts: (shares, prices), or None if a bucket has no GPU."""
    model = Model()
    theta = model.column(1.0, 0.0, highspy.kHighsInf)
    type_rows = {t: {theta: -1.0} for t, count in enumerate(counts) if count > 0}
    columns = []
    for loads in program.loads:
        mine = {t: model.column(0.0, 0.0, 1.0) for t in loads if counts[t] > 0}
        if not mine:
            return None
        columns.append(mine)
        model.row({c: 1.0 for c in mine.values()}, 1.0, 1.0)
        for t, column in mine.items():
            type_rows[t][column] = loads[t] / counts[t]
    first = len(model.rows)
    for row in type_rows.values():
        model.row(row, -highspy.kHighsInf, 0.0)
    options = [("primal_feasibility_tolerance", 1e-10), ("dual_feasibility_tolerance", 1e-10)]
    solution = model.solve(options).getSolution()
    value, dual = solution.col_value, solution.row_dual
    shares = [{t: min(1.0, max(0.0, value[c])) for t, c in mine.items()} for mine in columns]
    prices = [0.0] * len(counts)
    for offset, t in enumerate(type_rows):
        prices[t] = max(0.0, -dual[first + offset]) / counts[t]
    return shares, prices


def decide(program, counts):
    """(feasible, prices) in exact arithmetic; raises if neither can be proved."""
    found = balance(program, counts)
    if found is None:
        return False, None
    shares, prices = found
    if carries(program, counts, shares):
        return True, None
    if refutes(program, counts, prices):
        return False, prices
    raise RuntimeError("undecided counts %s" % counts)


def build(program):
    model = Model()
    inf = highspy.kHighsInf
    counts = [model.column(cost, 0.0, inf if cap is None else cap, integer=True)
              for cost, cap in zip(program.costs, program.caps)]
    type_rows = [{counts[t]: -1.0} for t in range(len(counts))]
    for loads in program.loads:
        mine = {t: model.column(0.0, 0.0, 1.0) for t in loads}
        model.row({c: 1.0 for c in mine.values()}, 1.0, 1.0)
        for t, column in mine.items():
            type_rows[t][column] = loads[t]
            if loads[t] < 0.02:  # else the load slips under the integrality tolerance
                model.row({column: 1.0, counts[t]: -1.0}, -inf, 0.0)
    for row in type_rows:
        model.row(row, -inf, 0.0)
    return model


def exclude(model, program, counts, prices):
    """Counts that exact arithmetic refuted: some type needs one more."""
    flags = []
    for t, count in enumerate(counts):
        if program.caps[t] is not None and program.caps[t] <= count:
            continue
        flag = model.column(0.0, 0.0, 1.0, integer=True)
        model.row({t: 1.0, flag: -(count + 1.0)}, 0.0, highspy.kHighsInf)
        flags.append(flag)
    if not flags:
        return False
    model.row({flag: 1.0 for flag in flags}, 1.0, highspy.kHighsInf)
    return True


def independent(program):
    """HiGHS's cheapest exactly feasible counts, or None for infeasible."""
    if any(not loads for loads in program.loads):
        return None
    model = build(program)
    options = [("mip_rel_gap", 0.0), ("mip_abs_gap", 0.0), ("mip_feasibility_tolerance", 1e-9)]
    for _ in range(ROUNDS_MAX):
        highs = model.solve(options)
        status = highs.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible:
            return None
        if status != highspy.HighsModelStatus.kOptimal:
            raise RuntimeError("HiGHS ended with %s" % status)
        value = highs.getSolution().col_value
        counts = [int(round(value[t])) for t in range(len(program.costs))]
        feasible, prices = decide(program, counts)
        if feasible:
            return counts
        if not exclude(model, program, counts, prices):
            return None
    raise RuntimeError("HiGHS found no exactly feasible counts in %d rounds" % ROUNDS_MAX)


def planner_counts(program, answer):
    index = {name: t for t, name in enumerate(program.names)}
    counts = [0] * len(program.names)
    for instance in answer["instances"]:
        counts[index[instance["instance"]]] = instance["count"]
    return counts


def planner_shares(program, answer):
    index = {name: t for t, name in enumerate(program.names)}
    rows = {(a["input"] - 1, a["output"] - 1): a["shares"] for a in answer["assignment"]}
    return [{index[name]: share for name, share in rows.get(bucket, {}).items()}
            for bucket in program.buckets]


def check_mix(program, answer):
    """What is wrong with a feasible answer taken for itself; None: nothing."""
    counts = planner_counts(program, answer)
    if any(cap is not None and count > cap for count, cap in zip(counts, program.caps)):
        return "a cap is exceeded: %s" % counts
    if abs(program.cost(counts) - answer["cost_per_hour"]) > 1e-9 * program.cost(counts):
        return "the cost does not add up"
    shares = planner_shares(program, answer)
    if any(abs(sum(parts.values()) - 1.0) > 1e-9 for parts in shares):
        return "shares do not sum to 1"
    if not carries(program, counts, shares):
        return "the mix does not carry the load"
    return None


def all_capped(program):
    """Counts at the caps, plenty where there is none."""
    plenty = math.ceil(sum(max(loads.values(), default=0.0) for loads in program.loads)) + 1
    return [plenty if cap is None else cap for cap in program.caps]


def compare(program, answer, tally):
    """A sentence if the two disagree, None if they agree."""
    if answer["status"] == "infeasible":
        if not answer["reasons"]:
            return "infeasible without a reason"
        if any(not loads for loads in program.loads):
            return None
        feasible, _ = decide(program, all_capped(program))
        return "called infeasible, but the caps suffice" if feasible else None
    wrong = check_mix(program, answer)
    if wrong is not None:
        return wrong
    if answer["status"] != "optimal":
        return "not proved: %s" % answer["status"]
    other = independent(program)
    if other is None:
        # Exact arithmetic has just confirmed the planner's mix, so HiGHS is wrong here.
        tally["disputes"] += 1
        other = planner_counts(program, answer)
    best = min(program.cost(other), answer["cost_per_hour"])
    if program.cost(other) > answer["cost_per_hour"] * (1.0 + AGREE):
        tally["disputes"] += 1
    if answer["cost_per_hour"] > best * (1.0 + AGREE):
        return "costs %.9g, but %s costs %.9g" % (answer["cost_per_hour"], other, best)
    if answer["lower_bound_per_hour"] > best * (1.0 + 1e-12):
        return "its bound %.17g is above %.17g" % (answer["lower_bound_per_hour"], best)
    return None


def plan_all(instances):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        for instance in instances:
            file.write(json.dumps(instance) + "\n")
        file.flush()
        binary = os.path.join(os.environ["MEDLEY_BIN"], "medley-plan")
        done = subprocess.run([binary, "--melange", file.name, "--json"], check=True,
                              stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=504)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=20240414)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.count)
    instances = [planner_instances.instance(n, options.seed) for n in numbers]
    started = time.monotonic()
    answers = plan_all(instances)
    planned = time.monotonic() - started
    assert len(answers) == len(instances), "%d answers" % len(answers)
    failures = 0
    tally = {"optimal": 0, "infeasible": 0, "feasible": 0, "disputes": 0}
    for number, instance, answer in zip(numbers, instances, answers):
        program = Program(instance)
        begun = time.monotonic()
        wrong = compare(program, answer, tally)
        tally[answer["status"]] += 1
        if wrong is not None:
            failures += 1
            print("instance %d (%s): %s" % (number, planner_instances.FAMILIES[
                number % len(planner_instances.FAMILIES)], wrong))
        elif options.verbose:
            print(number, answer["status"], answer.get("cost_per_hour"),
                  "%.2f s, HiGHS %.2f s" % (answer["solve_seconds"], time.monotonic() - begun))
    print("seed %d: %d instances, %d optimal, %d infeasible, %d failures; %d times HiGHS was the one "
          "in the wrong; planner %.1f s, all %.1f s"
          % (options.seed, len(instances), tally["optimal"], tally["infeasible"], failures,
             tally["disputes"], planned, time.monotonic() - started))
    enough = options.count < 100 or (tally["infeasible"] > 0 and tally["optimal"] > 0)
    return 0 if failures == 0 and enough else 1


if __name__ == "__main__":
    sys.exit(main())
