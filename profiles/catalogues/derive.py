#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the shipped catalogues (medley-catalogue/1).

  melange-paper.json  the four instances and prices of the Melange paper
  cloud-2026.json     on-demand and spot prices per instance, from a table of dated price rows

usage: derive.py --data DIR [--out DIR]

DIR holds prices/gpu_prices.csv (cloud,instance,gpu,gpu_count,gpu_mem_gib,price_usd_per_hour,
spot_usd_per_hour,source).  Prices are facts; each row keeps the source that the table names, and
the date is read out of that source.  Rows are left out where they are not an offer that can be
rented today (the paper's own prices, shares of a larger instance, prices of 2023), where a second
row names the same instance (the dated one, then the newer one wins), and where no date is known.
Standard library only.
"""

import argparse
import csv
import json
import os
import re

MELANGE = {
    "format": "medley-catalogue/1",
    "name": "melange-paper",
    "date": "2024-04-22",
    "source": "Griggs et al., Melange: Cost Efficient Large Language Model Serving by Exploiting "
              "GPU Heterogeneity, arXiv 2404.14527, section 6 (on-demand prices per GPU and hour)",
    "instances": [
        {"cloud": "melange", "instance": gpu.lower(), "region": "paper", "gpu": gpu, "gpus": 1,
         "price_usd_per_hour": price}
        for gpu, price in (("L4", 0.70), ("A10G", 1.01), ("A100-80GB", 3.67), ("H100", 7.516))
    ],
}

REGION = {"AWS": "us-east-1", "GCP": "us-central1", "Azure": "eastus"}
LEFT_OUT_CLOUDS = ("AWS-2023", "Melange-paper")  # not offers of today
DATE = re.compile(r"(\d{4})-(\d{2})(?:-(\d{2}))?")


def date_of(source):
    """The last date that the source names; a month without a day counts as its first day."""
    found = DATE.findall(source)
    if not found:
        return None
    year, month, day = found[-1]
    return f"{year}-{month}-{day or '01'}"


def cloud_rows(path):
    best = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            date = date_of(row["source"])
            if row["cloud"] in LEFT_OUT_CLOUDS or date is None:
                continue
            region = REGION.get(row["cloud"], "global")
            key = (row["cloud"], row["instance"], region)
            out = {"cloud": row["cloud"], "instance": row["instance"], "region": region,
                   "gpu": row["gpu"], "gpus": int(row["gpu_count"]),
                   "price_usd_per_hour": float(row["price_usd_per_hour"])}
            if row["spot_usd_per_hour"]:
                out["spot_usd_per_hour"] = float(row["spot_usd_per_hour"])
            out["date"] = date
            out["source"] = (row["source"]
                             .replace(" (seen as search excerpt; licence unknown)",
                                      " (read second-hand; check before relying on it)")
                             .replace(" (partial read)", " (not every zone was read)"))
            if key not in best or best[key]["date"] < date:
                best[key] = out
    return [best[key] for key in sorted(best)]


def write(path, catalogue):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(catalogue, file, indent=1, ensure_ascii=False)
        file.write("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder that holds prices/gpu_prices.csv")
    parser.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)))
    args = parser.parse_args()
    rows = cloud_rows(os.path.join(args.data, "prices", "gpu_prices.csv"))
    write(os.path.join(args.out, "melange-paper.json"), MELANGE)
    write(os.path.join(args.out, "cloud-2026.json"), {
        "format": "medley-catalogue/1",
        "name": "cloud-2026",
        "date": max(row["date"] for row in rows),
        "source": "prices per instance and hour, in US dollars, without tax; each row names where "
                  "and when its price was read; collected in 2026, not offers: look before you rent",
        "instances": rows,
    })


if __name__ == "__main__":
    main()
