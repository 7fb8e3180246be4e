#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every C and CUDA file of the tree is as clang-format writes it.
set -euo pipefail
cd "$(dirname "$0")/../.."
git ls-files -z '*.c' '*.h' '*.cu' '*.cuh' | xargs -0 clang-format --dry-run -Werror
echo "$(git ls-files '*.c' '*.h' '*.cu' '*.cuh' | wc -l) files are formatted"
