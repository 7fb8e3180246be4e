# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What ./quickstart and ./check share: packages, builds, the tests' Python environment.
#
#   source tools/setup.sh          the caller has set -euo pipefail
#   install_packages LIST...       installs the missing packages of the lists: build, check
#   build_preset PRESET [TARGET..] configures and builds build/PRESET, with progress
#   make_venv                      .venv from tests/requirements.txt; quick when nothing changed
#   get_promtool                   build/tools/usr/bin/promtool, on PATH, without installing a service
#
# Quiet on success: what the tools say goes to build/logs/NAME.log, and its end is shown when a step
# fails.  Nothing here starts a service or writes outside the repository, other than the packages.

MED_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
MED_LOGS=$MED_ROOT/build/logs

# What the programs are built from.
MED_PACKAGES_build=(
    build-essential cmake ninja-build pkg-config
    libuv1-dev libssl-dev libgrpc-dev libprotobuf-c-dev protobuf-c-compiler protobuf-compiler grpc-proto
    libglpk-dev libgmp-dev libcjson-dev libhttp-parser-dev libopenblas-dev
    libpcre2-dev libutf8proc-dev
    python3 python3-venv
)
# What the tests need besides.
MED_PACKAGES_check=(
    git clang clang-tidy clang-format libclang-rt-14-dev openssl chromium
)

# say TEXT: one line of progress.
say() {
    printf '\033[1m==>\033[0m %s\n' "$*"
}

# is_terminal: is standard output a terminal that can rewrite a line?
is_terminal() {
    [[ -t 1 && ${TERM:-dumb} != dumb ]]
}

if ! is_terminal; then
    say() { printf '==> %s\n' "$*"; }
fi

# run_step NAME COMMAND...: runs it with its output in a log; on failure shows the log's end.
run_step() {
    local name=$1 log rc=0
    shift
    mkdir -p "$MED_LOGS"
    log=$MED_LOGS/$name.log
    "$@" >"$log" 2>&1 </dev/null || rc=$?
    if ((rc != 0)); then
        printf '%s failed with status %d: %s\nThe last lines of %s:\n' "$name" "$rc" "$*" "$log" >&2
        tail -n 40 "$log" >&2
    fi
    return "$rc"
}

# as_root COMMAND...: as it is for root, through sudo for others.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        printf 'These packages must be installed by root, and sudo is not here. As root, run:\n  %s\n' \
            "$*" >&2
        return 1
    fi
}

is_installed() {
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# install_packages LIST...: apt-get is not touched when nothing is missing.
install_packages() {
    local list package missing=()
    if ! command -v apt-get >/dev/null; then
        printf 'Medley builds on Debian 12 and its relatives; apt-get is not here.\n' >&2
        printf 'Install what tools/setup.sh lists by hand, then build with cmake --preset release.\n' >&2
        return 1
    fi
    for list in "$@"; do
        local -n packages="MED_PACKAGES_$list"
        for package in "${packages[@]}"; do
            is_installed "$package" || missing+=("$package")
        done
        unset -n packages
    done
    if ((${#missing[@]} == 0)); then
        say "packages: all installed"
        return 0
    fi
    say "packages: installing ${#missing[@]}: ${missing[*]}"
    run_step apt-update as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update
    run_step apt-install as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
        -o Dpkg::Use-Pty=0 --no-install-recommends install "${missing[@]}"
}

# show_ninja: turns ninja's "[12/80] ..." lines into one rewriting line, or one line in ten seconds.
show_ninja() {
    local label=$1 line count next=0
    while IFS= read -r line; do
        if [[ $line =~ ^\[([0-9]+/[0-9]+)\] ]]; then
            count=${BASH_REMATCH[1]}
            if is_terminal; then
                printf '\r    %s %s  ' "$label" "$count"
            elif ((SECONDS >= next)); then
                printf '    %s %s\n' "$label" "$count"
                next=$((SECONDS + 10))
            fi
        fi
    done
    if is_terminal; then
        printf '\r\033[K'
    fi
}

# build_preset PRESET [TARGET...]: programs land in build/PRESET/bin.
build_preset() {
    local preset=$1 log rc=0 start=$SECONDS
    shift
    say "build: $preset"
    run_step "configure-$preset" cmake -S "$MED_ROOT" --preset "$preset"
    log=$MED_LOGS/build-$preset.log
    # The status of cmake counts, not that of the progress display.
    set +e
    cmake --build "$MED_ROOT/build/$preset" --parallel "$(nproc)" ${1+--target "$@"} 2>&1 </dev/null |
        tee "$log" | show_ninja "$preset"
    rc=${PIPESTATUS[0]}
    set -e
    if ((rc != 0)); then
        printf 'the build of %s failed. The first errors of %s:\n' "$preset" "$log" >&2
        grep -n -A12 -m4 -E '^FAILED|error:' "$log" >&2 || tail -n 40 "$log" >&2
        return "$rc"
    fi
    say "build: $preset done in $((SECONDS - start)) s"
}

# make_venv: the tests' Python packages in .venv; the stamp holds what it was made from.
make_venv() {
    local venv=$MED_ROOT/.venv requirements=$MED_ROOT/tests/requirements.txt want
    want=$(python3 --version && sha256sum <"$requirements")
    if [[ -x $venv/bin/python && -f $venv/stamp && $(<"$venv/stamp") == "$want" ]]; then
        say "python environment: up to date"
        return 0
    fi
    say "python environment: making .venv"
    rm -rf "$venv"
    run_step venv python3 -m venv "$venv"
    run_step pip "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --requirement "$requirements"
    printf '%s\n' "$want" >"$venv/stamp"
}

# get_promtool: only the program out of Debian's package. Installing that would start a server.
get_promtool() {
    local tools=$MED_ROOT/build/tools
    if command -v promtool >/dev/null; then
        return 0
    fi
    if [[ ! -x $tools/usr/bin/promtool ]]; then
        say "promtool: unpacking"
        mkdir -p "$tools"
        if ! run_step promtool-download download_package "$tools" prometheus; then
            run_step apt-update as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update
            run_step promtool-download download_package "$tools" prometheus
        fi
    fi
    PATH=$tools/usr/bin:$PATH
    export PATH
}

download_package() {
    (
        cd "$1" || exit
        rm -f "$2"_*.deb
        apt-get -q download "$2" && dpkg-deb -x "$2"_*.deb . && rm -f "$2"_*.deb
    )
}
