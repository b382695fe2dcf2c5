#!/usr/bin/env python3
"""Checks `chargeplane allocate` on random problems against linear programmes solved by SciPy.

    python3 -m venv /tmp/scipy && /tmp/scipy/bin/pip install scipy
    /tmp/scipy/bin/python scripts/check_allocate.py PATH/TO/chargeplane [--count 200] [--seed 1]

Every rule of docs/reference/allocate.md is computed here anew: limits to the watt, nothing or the minimum, steps,
ramps, and the exact shares of `fair`, `needs` and `strict` by max-min programming (a sequence of programmes, no
filling). Exits 1 at the first answer that breaks one and prints the file that was asked.
"""

import argparse
import json
import random
import subprocess
import sys

import numpy
from scipy.optimize import linprog

STEP = 10


def problem(dice, policy):
    nodes = [{"id": "n0", "parent": None, "limit_w": dice.randint(20_000, 200_000), "base_w": 0}]
    for at in range(1, dice.randint(1, 6)):
        parent = dice.choice(nodes)
        base = dice.choice([0, 0, dice.randint(0, 2_000)])
        nodes.append({"id": f"n{at}", "parent": parent["id"], "limit_w": dice.randint(0, parent["limit_w"]), "base_w": base})
    for node in nodes:
        if dice.random() < 0.3:
            node["phase_limit_w"] = dice.randint(0, node["limit_w"])
    connectors = []
    for at in range(dice.randint(1, 9)):
        low = dice.choice([0, 0, dice.randint(0, 6_000)])
        connector = {
            "id": f"c{at}",
            "parent": dice.choice(nodes)["id"],
            "min_w": low,
            "max_w": low + dice.randint(0, 60_000),
            "step_w": STEP,
            "weight": dice.choice([1, 1, 2, 0.5]),
        }
        if dice.random() < 0.3:
            connector["phases"] = dice.choice(["L1", "L2", "L3"])
        if dice.random() < 0.2:
            connector["prev_w"] = dice.randint(0, connector["max_w"])
            connector["ramp_w_per_s"] = dice.randint(0, 20_000)
        if dice.random() < 0.5:
            connector["need_wh"], connector["departs_s"] = dice.randint(0, 30_000), dice.randint(0, 7_200)
        connectors.append(connector)
    caps = []
    for at in range(dice.randint(0, 2)):
        under = [connector["id"] for connector in connectors if dice.random() < 0.5]
        caps.append({"id": f"k{at}", "limit_w": dice.randint(0, 120_000), "connectors": under})
    dice.shuffle(nodes)
    return {"policy": policy, "dt_s": 1, "nodes": nodes, "connectors": connectors, "caps": caps}


def limits(asked):
    """Every limit as (part of each connector's watts, room)."""
    nodes = {node["id"]: node for node in asked["nodes"]}
    connectors = asked["connectors"]

    def under(name, node):
        while name is not None and name != node:
            name = nodes[name]["parent"]
        return name == node

    lines = []
    for name, node in nodes.items():
        inside = numpy.array([float(under(c["parent"], name)) for c in connectors])
        base = sum(other["base_w"] for other in nodes.values() if under(other["id"], name))
        lines.append((inside, node["limit_w"] - base))
        if "phase_limit_w" in node:
            for phase in ("L1", "L2", "L3"):
                own = [{None: 1 / 3, phase: 1.0}.get(c.get("phases"), 0.0) for c in connectors]
                lines.append((inside * numpy.array(own), node["phase_limit_w"] - base / 3))
    for cap in asked["caps"]:
        lines.append((numpy.array([float(c["id"] in cap["connectors"]) for c in connectors]), cap["limit_w"]))
    return lines


def most(connector):
    ramp = connector.get("ramp_w_per_s")
    return connector["max_w"] if ramp is None else min(connector["max_w"], connector.get("prev_w", 0) + ramp)


def max_min(lines, low, high, weight):
    """Weighted max-min between low and high: raise the least level as far as it goes, fix who cannot go on."""
    low, high = numpy.array(low, float), numpy.array(high, float)
    n = len(low)
    fixed = {at: low[at] for at in range(n) if high[at] <= low[at]}
    rows = numpy.array([parts for parts, _ in lines])
    rooms = numpy.array([room for _, room in lines], float)
    while len(fixed) < n:
        free = [at for at in range(n) if at not in fixed]
        bounds = [(fixed[at], fixed[at]) if at in fixed else (low[at], high[at]) for at in range(n)]
        above = numpy.zeros((len(free), n + 1))
        for row, at in enumerate(free):
            above[row, at], above[row, n] = -1.0, weight[at]
        table = numpy.vstack([numpy.hstack([rows, numpy.zeros((len(rows), 1))]), above])
        limit = min(high[at] / weight[at] for at in free)
        aim = numpy.zeros(n + 1)
        aim[n] = -1.0
        right = numpy.concatenate([rooms + 1e-7, numpy.zeros(len(free))])
        best = linprog(aim, A_ub=table, b_ub=right, bounds=bounds + [(0, limit)])
        assert best.status == 0, best.message
        level = best.x[n]
        least = [max(low[at], weight[at] * level) for at in range(n)]
        before = len(fixed)
        for at in free:
            if least[at] >= high[at] - 1e-6:
                fixed[at] = high[at]
                continue
            aim = numpy.zeros(n)
            aim[at] = -1.0
            held = [(fixed[o], fixed[o]) if o in fixed else (min(least[o], high[o]), high[o]) for o in range(n)]
            # A hair of room, as the level is known to a hair.
            far = linprog(aim, A_ub=rows, b_ub=rooms + 1e-4, bounds=held)
            assert far.status == 0, far.message
            if far.x[at] <= least[at] + 1e-2:
                fixed[at] = least[at]
        assert len(fixed) > before, "nobody is fixed"
    return numpy.array([fixed[at] for at in range(n)])


def exact(asked, on):
    """Exact shares of those who are on; none for the others."""
    lines = limits(asked)
    connectors = asked["connectors"]
    low = [-(-c["min_w"] // STEP) * STEP if c["id"] in on else 0 for c in connectors]
    high = [most(c) // STEP * STEP if c["id"] in on else 0 for c in connectors]
    weight = [c["weight"] for c in connectors]
    if asked["policy"] == "fair":
        return max_min(lines, low, high, weight)
    need = []
    for at, c in enumerate(connectors):
        full = c["need_wh"] * 3600 / max(c["departs_s"], asked["dt_s"]) if "need_wh" in c else 0
        need.append(min(max(-(-full // 1), low[at]), high[at]))
    first = max_min(lines, low, need, weight)
    left = [(parts, room - float(parts @ first)) for parts, room in lines]
    more = max_min(left, [0] * len(low), [h - f for h, f in zip(high, first)], weight)
    return first + more


def judge(asked, answer):
    grants = numpy.array([float(grant["w"]) for grant in answer["grants"]])
    assert [grant["id"] for grant in answer["grants"]] == [c["id"] for c in asked["connectors"]], "ids"
    assert all(answer["checks"].values()), "its own checks"
    lines = limits(asked)
    for parts, room in lines:
        assert parts @ grants <= room + 1e-6 or parts @ grants == 0, f"over a limit: {parts} {room}"
    for connector, watts in zip(asked["connectors"], grants):
        assert watts == 0 or connector["min_w"] <= watts <= most(connector), f"bounds of {connector}"
        assert watts % STEP == 0, f"step of {connector}"
        assert (watts == 0) == (connector["id"] in answer["paused"]), f"paused {connector}"

    def fits(raised):
        return all(parts @ raised <= room + 1e-6 for parts, room in lines)

    for at, connector in enumerate(asked["connectors"]):
        raised = grants.copy()
        raised[at] += STEP
        could = grants[at] > 0 and raised[at] <= most(connector) and fits(raised)
        assert not could, f"{connector['id']} could have a step more"
    if asked["policy"] in ("fair", "needs"):
        # Who has no minimum and less than a step is on and paused at once: exact shares tell.
        on = {g["id"] for g, c in zip(answer["grants"], asked["connectors"]) if g["w"] > 0 or c["min_w"] == 0}
        on -= {c["id"] for c in asked["connectors"] if most(c) // STEP * STEP == 0}
        over = any(room < 0 for _, room in lines)
        if not over:
            shares = exact(asked, on)
            steps = len(grants) + 1
            for connector, watts, share in zip(asked["connectors"], grants, shares):
                # Down by less than a step; up by what the others were rounded down by, at most.
                assert share - STEP - 0.1 < watts < share + steps * STEP, f"{connector['id']}: {watts}, exact {share}"
            return float(max(abs(grants - shares), default=0.0))
    return 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    furthest, solvers = 0.0, {}
    for seed in range(options.seed, options.seed + options.count):
        dice = random.Random(seed)
        asked = problem(dice, ["fair", "needs", "strict", "proportional"][seed % 4])
        run = subprocess.run([options.binary, "allocate", "-"], input=json.dumps(asked), capture_output=True, text=True)
        try:
            assert run.returncode == 0, run.stderr
            answer = json.loads(run.stdout)
            furthest = max(furthest, judge(asked, answer))
            solvers[answer["solver"]] = solvers.get(answer["solver"], 0) + 1
        except AssertionError as error:
            print(json.dumps(asked), run.stdout, f"seed {seed}: {error}", sep="\n")
            return 1
    print(f"{options.count} answers keep every rule; {solvers}; furthest from its exact share: {furthest:.1f} W")
    return 0


if __name__ == "__main__":
    sys.exit(main())
