#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every header compiles alone. $1: the build directory, whose generated headers some need.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$1
failed=0
count=0
while IFS= read -r header; do
    count=$((count + 1))
    if ! printf '#include "%s"\n' "$header" | cc -std=c17 -D_POSIX_C_SOURCE=200809L -I. -isystem "$build/gen" \
        -Wall -Wextra -Werror -fsyntax-only -x c -; then
        echo "$header does not compile alone" >&2
        failed=1
    fi
done < <(git ls-files '*.h' | grep -v '^worker/cuda/')
[ "$count" -gt 0 ] || { echo "no header was found" >&2; exit 1; }
echo "$count headers compiled alone"
exit "$failed"
