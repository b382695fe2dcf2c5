#!/usr/bin/env python3
"""Works the hours of telemetry out from exported readings, and compares them with those that a node serves.

An independent reader: it knows the CSV of `chargeplane telemetry export` and the JSON of `chargeplane telemetry hourly
-o json`, and nothing of chunks. Integers only, so equal means equal to the last one. Needs nothing but Python.

    chargeplane telemetry export --station S --from A --to B --format csv --out raw.csv
    chargeplane telemetry hourly --station S --from A --to B -o json > hours.json
    scripts/recompute_hours.py raw.csv hours.json

A and B must be full hours. Exits 0 when all hours are equal, 1 with the first differences, 2 when a file is not what
it should be.
"""

import csv
import json
import sys

COLUMNS = ("voltage_dv", "current_da", "temperature_dc", "soc_permille", "power_w")

SHOWN = 10


def hours_of(path):
    """{(charger, hour): document} out of readings, each of which must be there once."""
    hours = {}
    seen = set()
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = (row["charger"], int(row["incarnation"]), int(row["number"]))
            if key in seen:
                raise ValueError(f"reading {key} is there twice")
            seen.add(key)
            # 2026-01-05T08:15:30.100Z is in the hour 2026-01-05T08.
            hour = hours.setdefault((row["charger"], row["at"][:13]), {"samples": 0, "register": []})
            hour["samples"] += 1
            hour["register"].append(int(row["register_wh"]))
            for name in COLUMNS:
                hour.setdefault(name, []).append(int(row[name]))
    return {key: folded(hour) for key, hour in hours.items()}, len(seen)


def folded(hour):
    register = hour["register"]
    document = {"samples": hour["samples"], "energy_wh": max(register) - min(register)}
    for name in COLUMNS:
        values = hour[name]
        total = sum(values)
        # Python's // rounds down, also below zero.
        document[name] = {"min": min(values), "max": max(values), "sum": total, "mean": total // len(values)}
    return document


def served(path):
    with open(path, encoding="utf-8") as file:
        items = json.load(file)
    names = ("samples", "energy_wh") + COLUMNS
    fields = ("min", "max", "sum", "mean")

    def value(item, name):
        return {field: item[name][field] for field in fields} if name in COLUMNS else item[name]

    return {(item["charger"], item["hour"][:13]): {name: value(item, name) for name in names} for item in items}


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        ours, readings = hours_of(sys.argv[1])
        theirs = served(sys.argv[2])
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"cannot compare: {error!r}", file=sys.stderr)
        return 2
    different = []
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            different.append(f"{key[0]} {key[1]}h:\n  from readings {ours.get(key)}\n  served        {theirs.get(key)}")
    for what in different[:SHOWN]:
        print(what)
    if different:
        print(f"{len(different)} of {len(ours | theirs)} hours differ")
        return 1
    if not ours:
        print("no readings and no hours: nothing was compared", file=sys.stderr)
        return 2
    print(f"{len(ours)} hours of {readings} readings: equal to the last integer")
    return 0


if __name__ == "__main__":
    sys.exit(main())
