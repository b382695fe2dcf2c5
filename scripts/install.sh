# shellcheck shell=bash
# Sourced by ./dev: finds out what the machine lacks for a command and installs it.

say() { echo "dev: $*" >&2; }

fail() {
    echo "dev: $*" >&2
    exit 1
}

# The toolchain must be there: it is the one thing that ./dev asks for, with git.
need_rust() {
    command -v cargo >/dev/null || fail "cargo is not installed; get Rust from https://rustup.rs"
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    found=$(rustc --version | cut -d' ' -f2)
    [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -1) == "$wanted" ]] ||
        fail "Rust $wanted or newer is needed, this is $found; update it, for example with: rustup update stable"
}

need_rustfmt() {
    need_rust
    cargo fmt --version >/dev/null 2>&1 || add_component rustfmt
}

need_clippy() {
    need_rust
    cargo clippy --version >/dev/null 2>&1 || add_component clippy
}

add_component() {
    command -v rustup >/dev/null || fail "$1 is not installed; add it to your Rust toolchain"
    say "installing the Rust component $1"
    rustup --quiet component add "$1"
}

# HiGHS is C++ built with cmake; its bindings are made by libclang. SQLite is C.
need_build() {
    need_rust
    local missing=()
    command -v cmake >/dev/null || missing+=(cmake)
    command -v g++ >/dev/null || missing+=(g++)
    command -v make >/dev/null || missing+=(make)
    command -v pkg-config >/dev/null || missing+=(pkg-config)
    has_libclang || missing+=(libclang-dev)
    install_packages "${missing[@]}"
}

has_libclang() {
    local library
    for library in "${LIBCLANG_PATH:-/nowhere}"/libclang*.so* /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so*; do
        [[ -e $library ]] && return 0
    done
    return 1
}

# The tests start brokers of their own from this program.
need_mosquitto() {
    [[ -x /usr/sbin/mosquitto ]] || install_packages mosquitto
}

# The tests of the journal on Redis and the ledger's benchmark start servers of their own from this program.
need_redis() {
    command -v redis-server >/dev/null || install_packages redis-server
}

# The tests make the certificates of a server that speaks TLS.
need_openssl() {
    command -v openssl >/dev/null || install_packages openssl
}

need_python() {
    command -v python3 >/dev/null || install_packages python3
}

# A Python of its own for `./dev bench acn`, with the packages that its script runs on.
need_acn() {
    local venv="$CACHE/acn" wanted=scripts/acn/requirements.txt
    need_python
    if ! cmp -s "$wanted" "$venv/requirements.txt"; then
        rm -rf "$venv"
        python3 -m venv "$venv" >/dev/null 2>&1 || { rm -rf "$venv" && install_packages python3-venv && python3 -m venv "$venv"; }
        say "installing acnportal and SciPy into $venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted"
        cp "$wanted" "$venv/requirements.txt"
    fi
    export CHARGEPLANE_ACN_PYTHON="$venv/bin/python"
}

# need_python_packages FILE: a Python of our own in the cache with the packages of FILE, made again when FILE changes.
# Its interpreter is in $CHARGEPLANE_PYTHON.
need_python_packages() {
    local wanted="$1" home="$CACHE/python"
    export CHARGEPLANE_PYTHON="$home/bin/python"
    cmp -s "$wanted" "$home/requirements.txt" && return
    need_python
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
    say "installing the Python packages of $wanted"
    rm -rf "$home"
    python3 -m venv "$home"
    "$home/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted"
    cp "$wanted" "$home/requirements.txt"
}

install_packages() {
    [[ $# -gt 0 ]] || return 0
    command -v apt-get >/dev/null || fail "please install: $* (only Debian's apt-get is known here)"
    say "installing from Debian: $*"
    local log
    log=$(mktemp)
    if ! { as_root apt-get update -qq && without_services apt_install "$@"; } >"$log" 2>&1; then
        tail -20 "$log" >&2
        rm -f "$log"
        fail "the installation failed; install by hand: $*"
    fi
    rm -f "$log"
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    else
        command -v sudo >/dev/null || fail "root is needed for: $* (no sudo here)"
        sudo "$@"
    fi
}

# Debian starts a service as soon as its package is there, and at every boot. Nobody asked for a
# broker on port 1883.
without_services() {
    local policy=/usr/sbin/policy-rc.d ours=false status=0
    if [[ ! -e $policy ]]; then
        ours=true
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    "$@" || status=$?
    if $ours; then as_root rm -f "$policy"; fi
    local package
    if [[ $status -eq 0 ]] && command -v systemctl >/dev/null; then
        for package in mosquitto redis-server; do
            [[ " $* " != *" $package "* ]] || as_root systemctl disable "$package" || true
        done
    fi
    return $status
}

# cargo-fuzz, and a nightly toolchain for its sanitizers and coverage: this one, or one of that name that is there.
readonly FUZZ_NIGHTLY=nightly-2026-05-20
need_fuzzer() {
    need_build
    need_tool cargo-fuzz 0.13.2
    FUZZ_TOOLCHAIN=$FUZZ_NIGHTLY
    rustc "+$FUZZ_NIGHTLY" --version >/dev/null 2>&1 && return
    if [[ $(rustc +nightly --version 2>/dev/null) == *"$(date -d "${FUZZ_NIGHTLY#nightly-} - 1 day" +%F)"* ]]; then
        FUZZ_TOOLCHAIN=nightly
        return
    fi
    command -v rustup >/dev/null || fail "fuzzing needs $FUZZ_NIGHTLY, by rustup"
    say "installing $FUZZ_NIGHTLY"
    rustup --quiet toolchain install "$FUZZ_NIGHTLY" --profile minimal
}

# need_tool NAME VERSION: a cargo subcommand of exactly this version, in the cache. Built without
# optimisation and at low priority: it runs for seconds.
need_tool() {
    local name="$1" version="$2" tools="$CACHE/tools" began=$SECONDS
    [[ $("$tools/bin/$name" --version 2>/dev/null | awk '{ print $NF }') == "$version" ]] && return
    say "building $name $version, once"
    CARGO_TARGET_DIR="$tools/build" nice cargo install --quiet --locked --debug --root "$tools" \
        --version "$version" "$name"
    rm -rf "$tools/build"
    say "built $name in $((SECONDS - began)) s"
}
