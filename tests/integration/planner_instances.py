# SPDX-License-Identifier: Apache-2.0
"""Random planning problems in Melange's input format, the same for the same seed.

Each instance is of one family, chosen by its number, so that every family is met often:
  plain      lognormal shares, throughputs that fall with size, prices that rise with speed
  tails      shares down to 1e-9 of the rate, so that loads reach 1e-12
  forbidden  big requests only on some GPUs, small GPUs cheapest elsewhere
  ties       equal prices, equal throughputs, loads that fill whole GPUs exactly
  caps       availability caps around what is needed: some feasible, some not
  orphan     a bucket that nobody can serve, in half of the cases
"""
import math
import random

FAMILIES = ("plain", "tails", "forbidden", "ties", "caps", "orphan")


def shape_of(rng):
    rows, columns = rng.choice(((10, 6), (8, 8), (12, 6), (10, 10), (12, 12)))
    return rows, columns


def shares_of(rng, family, rows, columns):
    shares = []
    for row in range(rows):
        line = []
        for column in range(columns):
            if family == "tails":
                share = 10.0 ** rng.uniform(-9.0, 0.0)
            elif family == "ties":
                share = rng.choice((1.0, 2.0, 4.0))
            else:
                share = math.exp(rng.gauss(0.0, 2.0))
            if family != "ties" and rng.random() < 0.1:
                share = 0.0
            line.append(share)
        shares.append(line)
    shares[0][0] = max(shares[0][0], 1e-3)
    total = sum(map(sum, shares))
    if family == "ties":
        return [[value / 1024.0 for value in line] for line in shares]
    return [[value / total for value in line] for line in shares]


def throughputs_of(rng, family, speed, rows, columns):
    """One GPU's rates: large where requests are small."""
    steep_in = rng.uniform(0.3, 1.1)
    steep_out = rng.uniform(0.3, 1.1)
    reach = rows * columns
    if family == "forbidden":
        reach = rng.uniform(0.3, 1.2) * (rows + columns)
    table = []
    for row in range(rows):
        line = []
        for column in range(columns):
            if family == "ties":
                line.append(rng.choice((1.0, 2.0, 4.0, 8.0)))
                continue
            rate = speed * 40.0 / ((1 + row) ** steep_in * (1 + column) ** steep_out)
            rate *= math.exp(rng.gauss(0.0, 0.15))
            if row + column > reach or (family != "plain" and rng.random() < 0.05):
                rate = 0.0
            line.append(rate)
        table.append(line)
    return table


def cover(rng, gpus, rows, columns):
    """Every bucket gets at least one GPU that can."""
    names = list(gpus)
    for row in range(rows):
        for column in range(columns):
            if all(gpus[name]["tputs"][row][column] <= 0.0 for name in names):
                gpus[rng.choice(names)]["tputs"][row][column] = rng.uniform(0.2, 5.0)


def cap(rng, gpus, shares):
    """Caps most GPUs (all of them every other time) and returns a rate around what they carry."""
    every = rng.random() < 0.5
    carried = 0.0
    for gpu in gpus.values():
        if every or rng.random() < 0.7:
            gpu["max_count"] = rng.choice((0, 1, 1, 2, 3, 5, 8))
        seconds = served = 0.0
        for line, rates in zip(shares, gpu["tputs"]):
            for share, rate in zip(line, rates):
                if rate > 0.0:
                    seconds += share / rate
                    served += share
        if seconds > 0.0:
            carried += gpu.get("max_count", 3) * served / seconds
    return max(0.1, carried * rng.uniform(0.3, 1.4))


def instance(number, seed=20240414):
    rng = random.Random(seed * 1000003 + number)
    family = FAMILIES[number % len(FAMILIES)]
    rows, columns = shape_of(rng)
    count = rng.randint(3, 12)
    gpus = {}
    for index in range(count):
        speed = 2.0 ** rng.uniform(-2.0, 3.0)
        price = round(0.4 * speed ** rng.uniform(0.7, 1.3) * math.exp(rng.gauss(0, 0.2)) + 0.2, 4)
        if family == "ties":
            price = rng.choice((1.0, 1.0, 2.0, 3.0))
        gpus["gpu-%d" % index] = {
            "cost": price,
            "tputs": throughputs_of(rng, family, speed, rows, columns),
        }
    cover(rng, gpus, rows, columns)
    shares = shares_of(rng, family, rows, columns)
    rate = 10.0 ** rng.uniform(-0.5, 3.5)
    if family == "ties":
        rate = float(rng.choice((64, 256, 512, 1024)))
    if family == "caps":
        rate = cap(rng, gpus, shares)
    if family == "orphan" and rng.random() < 0.5:
        row, column = rng.randrange(rows), rng.randrange(columns)
        shares[row][column] = max(shares[row][column], 1e-6)
        for gpu in gpus.values():
            gpu["tputs"][row][column] = 0.0
    return {
        "gpu_info": gpus,
        "workload_distribution": shares,
        "total_request_rate": rate,
        "slice_factor": 1,
    }
