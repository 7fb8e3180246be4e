#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The reference pages of the options are those that the programs print.
# reference.sh BIN: checks; reference.sh BIN --write: writes them.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=$1
failed=0
count=0
for program in "$bin"/medley-*; do
    verb=$(basename "$program")
    verb=${verb#medley-}
    page=docs/reference/$verb.md
    if [ "${2:-}" = --write ]; then
        "$program" --help-markdown >"$page"
    elif ! "$program" --help-markdown | diff -u "$page" - >&2; then
        echo "$page is not current: tests/lint/reference.sh $bin --write" >&2
        failed=1
    fi
    count=$((count + 1))
done
[ "$count" -gt 0 ] || { echo "no program in $bin" >&2; exit 1; }
echo "$count reference pages"
exit "$failed"
