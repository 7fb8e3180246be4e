#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# clang-tidy over every C file that the build in $1 compiles and that is ours; any finding fails.
# A file that has not changed since it was last clean under the same configuration is not read
# again: the stamp is keyed by the preprocessed text of the file.  Tests are spared the analyzer of paths, which takes
# nearly all of the time: they run under sanitizers as they are.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$1
stamps=$build/tidy
mkdir -p "$stamps"
config=$(cat .clang-tidy; clang-tidy --version)
export build stamps config

tidy_one() {
    local file=$1 key stamp out checks=()
    [[ $file != tests/* ]] || checks=('--checks=-clang-analyzer-*')
    key=$({ printf '%s' "$config"
            clang -E -std=c17 -D_POSIX_C_SOURCE=200809L -D_GNU_SOURCE -I. -isystem "$build/gen" "$file" 2>/dev/null
            cat "$file"; } | sha256sum | cut -d' ' -f1)
    stamp=$stamps/$key
    [ -e "$stamp" ] && return 0
    if out=$(clang-tidy --quiet --extra-arg=-Wno-unknown-warning-option "${checks[@]}" -p "$build" "$file" 2>/dev/null) && [ -z "$out" ]; then
        : >"$stamp"
    else
        printf '%s\n' "$out"
        return 1
    fi
}
export -f tidy_one

python3 - "$build" <<'PY' | xargs -0 -P "$(nproc)" -n 1 bash -c 'tidy_one "$0"' || exit 1
import json, os, sys
root = os.getcwd() + "/"
files = {e["file"] for e in json.load(open(os.path.join(sys.argv[1], "compile_commands.json")))}
ours = sorted(f for f in files if f.startswith(root) and "/build/" not in f and "/gen/" not in f)
if not ours:
    sys.exit("no file of ours is compiled in " + sys.argv[1])
sys.stdout.write("\0".join(os.path.relpath(f, root) for f in ours))
PY
echo "clang-tidy is clean"
