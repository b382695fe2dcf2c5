#!/usr/bin/env python3
"""Checks which crate may use which: the arrows of this house.

Reads `cargo metadata`; needs nothing but Python. Exits 1 and names each arrow that must not be.
"""

import json
import subprocess
import sys

# What each of our crates may depend on, in its code and in its tests. A crate that is not here is
# not known, and that is an error: decide its arrows first.
CRATES = {
    "domain": set(),
    "protocol": {"domain"},
    "edge": {"domain", "protocol"},
    "cluster": {"domain", "protocol"},
    "actors": {"domain", "protocol", "cluster"},
    # Arrow, apart because it takes a minute to compile.
    "columnar": {"domain"},
    "api": {"domain", "protocol", "cluster", "actors", "columnar"},
    # Adapters implement ports of the crates they serve, and know no other adapter.
    "mqtt": {"protocol"},
    "sqlite": {"domain", "cluster", "actors"},
    "highs": {"domain"},
    "redis": {"domain", "cluster", "actors"},
    "cql": {"domain", "cluster", "actors"},
}

# Only binaries assemble. The drill judges from outside: it shares no code with what it judges.
BINARIES = {
    "chargeplane": set(CRATES),
    "fleet": {"domain", "protocol", "edge", "mqtt"},
    "drill": set(),
    "bench": {"domain", "protocol", "edge", "cluster", "actors", "api", "mqtt", "sqlite", "highs", "redis", "cql"},
    "fuzz": {"domain", "protocol", "edge"},
}

# Foreign crates, by the beginning of their name, and who alone may have them anywhere below:
# through whatever chain of dependencies, features included.
CONFINED = {
    "highs": {"highs", "chargeplane", "bench"},
    "rumqtt": {"mqtt", "chargeplane", "fleet", "bench"},
    "rusqlite": {"sqlite", "chargeplane", "drill", "bench"},
    "libsqlite3": {"sqlite", "chargeplane", "drill", "bench"},
    "redis": {"redis", "chargeplane", "drill", "bench"},
    "scylla": {"cql", "chargeplane", "drill", "bench"},
    "utoipa": {"api", "chargeplane", "bench"},
    "ractor": {"actors", "api", "sqlite", "cql", "chargeplane", "bench"},
    "arrow": {"columnar", "api", "chargeplane", "bench"},
    "tokio": (set(CRATES) | set(BINARIES)) - {"domain", "protocol", "highs", "columnar"},
}

PREFIX = "chargeplane-"


def short(name):
    return name.removeprefix(PREFIX)


def load():
    host = next(
        line.split(": ")[1]
        for line in run("rustc", "-vV").splitlines()
        if line.startswith("host: ")
    )
    return json.loads(run("cargo", "metadata", "--format-version=1", "--locked", "--filter-platform", host))


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def wrong_arrows(metadata):
    """Yields a sentence for every arrow between our crates that is not allowed."""
    allowed = CRATES | BINARIES
    ours = {package["name"]: package for package in metadata["packages"] if package["source"] is None}
    for name, package in sorted(ours.items()):
        if short(name) not in allowed:
            yield f"{name}: not known to {sys.argv[0]}; decide what it may depend on"
            continue
        for dependency in package["dependencies"]:
            target = dependency["name"]
            # A crate may name itself: so its own tests get its feature `testing`.
            if target in ours and target != name and short(target) not in allowed[short(name)]:
                yield f"{name} -> {target}: not an arrow of this house"


def strays(metadata):
    """Yields a sentence for every foreign crate that is found where it must not be."""
    names = {package["id"]: package["name"] for package in metadata["packages"]}
    below = {
        node["id"]: [
            dependency["pkg"]
            for dependency in node["deps"]
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"])
        ]
        for node in metadata["resolve"]["nodes"]
    }
    for member in metadata["workspace_members"]:
        name = names[member]
        paths = {member: (name,)}
        queue = [member]
        while queue:
            current = queue.pop()
            for dependency in below[current]:
                if dependency not in paths:
                    paths[dependency] = paths[current] + (names[dependency],)
                    queue.append(dependency)
        for path in paths.values():
            for foreign, allowed in CONFINED.items():
                is_it = path[-1].startswith(foreign) and not path[-1].startswith(PREFIX)
                # A chain is reported once, where it enters.
                enters = not any(step.startswith(foreign) for step in path[1:-1])
                if is_it and enters and short(name) not in allowed:
                    yield f"{name} must not have {path[-1]}: {' -> '.join(path)}"


def main():
    metadata = load()
    wrong = sorted(set(wrong_arrows(metadata)) | set(strays(metadata)))
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
