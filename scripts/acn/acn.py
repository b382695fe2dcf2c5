"""The other side of `./dev bench acn`: the site, the reference algorithms, the offline optimum and the judge.

Everything here is acnportal's (BSD-3-Clause, from PyPI) or SciPy's; nothing is shared with the allocator that
is judged. Prints one JSON document on standard output; sessions are the project's CSV.

    acn.py SESSIONS site                 the site: stations, phases, constraint rows, limits per capacity
    acn.py SESSIONS optimum CAP...       the most energy that anybody could have delivered, who knows everything
    acn.py SESSIONS judge CAP < grants   acnportal's simulator runs the grants: energy, and currents over a limit
    acn.py SESSIONS peer NAME CAP        acnportal's own algorithm: edf, llf or rr
"""

import csv
import json
import os
import sys
import time
import warnings
from datetime import datetime

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
import pytz
import scipy.sparse as sparse
from acnportal import acnsim, algorithms
from acnportal.acnsim import analysis
from scipy.optimize import linprog

PERIOD_MIN = 5
VOLTAGE = 208
MOST_KW = 6.6
START = pytz.timezone("America/Los_Angeles").localize(datetime(2019, 3, 1))
# A tangent every five degrees: the polygon around a circle reaches at most 0.1 % beyond it.
TANGENTS = 72


class Session:
    """A line of the file: steps of five minutes, energy in kWh."""

    def __init__(self, number, row):
        self.name = f"session-{number}"
        self.arrival = int(row["arrival_min"]) // PERIOD_MIN
        self.departure = int(row["departure_min"]) // PERIOD_MIN
        self.kwh = float(row["requested_kwh"])
        self.station = row["connector"]


def read_sessions(path):
    with open(path, newline="") as file:
        return [Session(number, row) for number, row in enumerate(csv.DictReader(file))]


def site(cap):
    return acnsim.sites.caltech_acn(basic_evse=True, voltage=VOLTAGE, transformer_cap=cap)


def events(sessions):
    def car(s):
        return acnsim.EV(s.arrival, s.departure, s.kwh, s.station, s.name, acnsim.Battery(s.kwh, 0, MOST_KW))

    return acnsim.EventQueue([acnsim.PluginEvent(s.arrival, car(s)) for s in sessions])


def simulate(sessions, cap, algorithm):
    simulator = acnsim.Simulator(
        site(cap), algorithm, events(sessions), START, period=PERIOD_MIN, verbose=False, signals={}
    )
    began = time.monotonic()
    simulator.run()
    return simulator, time.monotonic() - began


def outcome(simulator, seconds):
    """What acnportal says of a run; its battery decides what a car took of its pilot signal."""
    network = simulator.network
    rates, pilots = simulator.charging_rates, simulator.pilot_signals
    over = [worst_over(network, currents) for currents in (rates, pilots)]
    return {
        "energy_percent": float(analysis.proportion_of_energy_delivered(simulator)) * 100,
        "peak_kw": float(np.max(analysis.aggregate_power(simulator))),
        "feasible": bool(network.is_feasible(pilots)),
        "worst_over_a_drawn": over[0],
        "worst_over_a_granted": over[1],
        "seconds": seconds,
    }


def worst_over(network, currents):
    """Amperes by which the worst constraint is exceeded in the worst step; below zero when there is room."""
    magnitudes = np.abs(network.constraint_current(currents))
    return float(np.max(magnitudes - network.magnitudes[:, None]))


class Recorded(algorithms.BaseAlgorithm):
    """Plays grants back: watts of (step, station)."""

    def __init__(self, grants, sessions):
        super().__init__()
        self.grants = grants
        self.steps = sorted({s.arrival for s in sessions} | {s.departure for s in sessions})

    def schedule(self, active_evs):
        now = self.interface.current_time
        until = next((step for step in self.steps if step > now), now + 1)
        stations = {s.station_id for s in self.interface.active_sessions()}
        return {
            station: [self.grants.get((step, station), 0) / VOLTAGE for step in range(now, until)]
            for station in stations
        }


def judge(sessions, cap):
    """Grants come as {"stations": [...], "grants": [[step, station index, watts], ...]}."""
    answer = json.load(sys.stdin)
    names = answer["stations"]
    grants = {(step, names[station]): watts for step, station, watts in answer["grants"]}
    return outcome(*simulate(sessions, cap, Recorded(grants, sessions)))


PEERS = {
    "edf": lambda: algorithms.SortedSchedulingAlgo(algorithms.earliest_deadline_first),
    "llf": lambda: algorithms.SortedSchedulingAlgo(algorithms.least_laxity_first),
    "rr": lambda: algorithms.RoundRobin(algorithms.first_come_first_served),
}


def describe(sessions):
    network = site(1)
    larger = site(2)
    return {
        "period_s": PERIOD_MIN * 60,
        "voltage": VOLTAGE,
        "most_w": MOST_KW * 1000,
        "stations": network.station_ids,
        "phase_degrees": network._phase_angles.tolist(),
        "constraints": [
            {
                "name": name,
                "row": network.constraint_matrix[at].tolist(),
                # The limit in amperes is `fixed + per_kw x capacity of the transformer`.
                "per_kw": float(larger.magnitudes[at] - network.magnitudes[at]),
                "fixed": float(2 * network.magnitudes[at] - larger.magnitudes[at]),
            }
            for at, name in enumerate(network.constraint_index)
        ],
        "sessions": [
            [network.station_ids.index(s.station), s.arrival, s.departure, s.kwh * 1000] for s in sessions
        ],
    }


class Offline:
    """Maximum energy with all arrivals known: a linear programme for each stretch of time without a gap.

    Between two events nothing changes, so constant power there is as good as any. Each limit on a magnitude
    is the polygon of its tangents around the circle, so the optimum is an upper bound (or the polygon within,
    for a lower one). Written over the sums of stations with equal columns in acnportal's matrix.
    """

    def __init__(self, sessions, cap, inner=False):
        network = site(cap)
        phasors = network.constraint_matrix * np.exp(1j * np.deg2rad(network._phase_angles))
        columns, group_of = np.unique(np.round(phasors.T, 9), axis=0, return_inverse=True)
        self.groups = columns.T  # constraints x groups
        self.group = {name: int(g) for name, g in zip(network.station_ids, np.ravel(group_of))}
        self.limits = network.magnitudes * VOLTAGE
        angle = 2 * np.pi / TANGENTS
        directions = np.exp(-1j * angle * np.arange(TANGENTS))
        rows = [np.real(directions[:, None] * row) for row in self.groups]
        self.rows = np.concatenate(rows)
        self.room = np.repeat(self.limits * (np.cos(angle / 2) if inner else 1), TANGENTS)
        useful = [at for at in range(len(self.rows)) if not self.implied(at)]
        self.rows, self.room = self.rows[useful], self.room[useful]
        self.sessions = sessions

    def implied(self, at):
        """True when another tangent of the same circle asks at least as much of every group."""
        first = at // TANGENTS * TANGENTS
        others = self.rows[first : first + TANGENTS]
        above = (others >= self.rows[at] - 1e-9).all(axis=1)
        same = (np.abs(others - self.rows[at]) <= 1e-9).all(axis=1)
        return bool((above & (~same | (np.arange(TANGENTS) < at - first))).any())

    def stretches(self):
        found, end = [], -1
        for session in sorted(self.sessions, key=lambda s: s.arrival):
            if session.arrival >= end:
                found.append([])
            found[-1].append(session)
            end = max(end, session.departure)
        return found

    def everybody(self, stretch):
        """Energy when all charge at their most from arrival on, if no limit minds (W x steps)."""
        first = min(s.arrival for s in stretch)
        load = np.zeros((self.groups.shape[1], max(s.departure for s in stretch) - first))
        total = 0.0
        for s in stretch:
            left = s.kwh * 1000 * 60 / PERIOD_MIN
            for step in range(s.arrival, s.departure):
                power = min(left, MOST_KW * 1000)
                load[self.group[s.station], step - first] += power
                left -= power
                total += power
        return total if (np.abs(self.groups @ load) <= self.limits[:, None]).all() else None

    def most(self, stretch):
        free = self.everybody(stretch)
        if free is not None:
            return free
        steps = sorted({s.arrival for s in stretch} | {s.departure for s in stretch})
        cells = list(zip(steps, steps[1:]))
        groups = self.groups.shape[1]
        parts = [
            (at, k, to - since)
            for at, s in enumerate(stretch)
            for k, (since, to) in enumerate(cells)
            if s.arrival <= since and to <= s.departure
        ]
        powers, sums = len(parts), len(cells) * groups
        of = np.array([at for at, _, _ in parts])
        length = np.array([steps for _, _, steps in parts], dtype=float)
        place = np.array([k * groups + self.group[stretch[at].station] for at, k, _ in parts])
        column = np.arange(powers)
        need = sparse.csr_matrix((length, (of, column)), shape=(len(stretch), powers + sums))
        limits = sparse.hstack(
            [
                sparse.csr_matrix((len(cells) * len(self.room), powers)),
                sparse.kron(sparse.identity(len(cells)), sparse.csr_matrix(self.rows)),
            ]
        )
        adds = sparse.hstack(
            [sparse.csr_matrix((np.ones(powers), (place, column)), shape=(sums, powers)), -sparse.identity(sums)]
        )
        result = linprog(
            np.concatenate([-length, np.zeros(sums)]),
            A_ub=sparse.vstack([need, limits]).tocsr(),
            b_ub=np.concatenate(
                [[s.kwh * 1000 * 60 / PERIOD_MIN for s in stretch], np.tile(self.room, len(cells))]
            ),
            A_eq=adds.tocsr(),
            b_eq=np.zeros(sums),
            bounds=[(0, MOST_KW * 1000)] * powers + [(0, None)] * sums,
            method="highs",
        )
        if result.status != 0:
            raise SystemExit(f"the offline optimum was not found: {result.message}")
        return -result.fun

    def percent(self):
        wanted = sum(s.kwh for s in self.sessions) * 1000 * 60 / PERIOD_MIN
        return sum(self.most(stretch) for stretch in self.stretches()) / wanted * 100


def optimum(sessions, caps):
    answers = {}
    for cap in caps:
        began = time.monotonic()
        answers[cap] = {"energy_percent": Offline(sessions, float(cap)).percent()}
        if cap == caps[0]:
            answers[cap]["lower_bound_percent"] = Offline(sessions, float(cap), inner=True).percent()
        answers[cap]["seconds"] = time.monotonic() - began
        print(f"offline optimum at {cap} kW: {answers[cap]['energy_percent']:.4f} %", file=sys.stderr, flush=True)
    return answers


def main(arguments):
    warnings.simplefilter("ignore")
    sessions = read_sessions(arguments[0])
    match arguments[1:]:
        case ["site"]:
            answer = describe(sessions)
        case ["optimum", *caps] if caps:
            answer = optimum(sessions, caps)
        case ["judge", cap]:
            answer = judge(sessions, float(cap))
        case ["peer", name, cap] if name in PEERS:
            answer = outcome(*simulate(sessions, float(cap), PEERS[name]()))
        case _:
            raise SystemExit(__doc__)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
