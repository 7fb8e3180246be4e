#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The reference pages of options and errors are those that the programs print.
# reference.sh BIN: checks; reference.sh BIN --write: writes them.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=$1
failed=0
count=0

# page MODE NAME COMMAND...
page() {
    local mode=$1 page=docs/reference/$2.md
    shift 2
    if [ "$mode" = --write ]; then
        "$@" >"$page"
    elif ! "$@" | diff -u "$page" - >&2; then
        echo "$page is not current: tests/lint/reference.sh $bin --write" >&2
        failed=1
    fi
    count=$((count + 1))
}

for program in "$bin"/medley-*; do
    verb=$(basename "$program")
    page "${2:-}" "${verb#medley-}" "$program" --help-markdown
done
[ "$count" -gt 0 ] || { echo "no program in $bin" >&2; exit 1; }
page "${2:-}" errors "$bin/medley" --errors-markdown
echo "$count reference pages"
exit "$failed"
