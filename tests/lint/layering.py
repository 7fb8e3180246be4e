#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that includes follow the architecture.

programs -> modules -> base -> libc.  Each part lists the parts it may include, and each third-party
header the files that may include it.  A violation is printed as file:line with the rule; the exit
status is 1 then.  `--self-test` plants violations and expects each of them to be found.
"""
import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

# part (longest matching prefix wins) -> parts that its files may include besides themselves
PARTS = {
    "base": set(),
    "proto": {"base"},
    "profiles": {"base"},
    "profiles/profiler": {"base", "proto", "profiles", "allocator", "allocator/formats", "router",
                          "worker/engine", "http"},
    "worker/engine": {"base", "profiles"},
    "worker/emulated": {"base", "profiles", "worker/engine", "worker"},
    "worker/model": {"base"},
    "worker/cpu": {"base", "profiles", "worker/engine", "worker/model", "worker"},
    "worker/cuda": {"base", "profiles", "worker/engine", "worker/model", "worker"},
    "worker/bench": {"base", "profiles", "worker/engine", "worker/model", "worker/cpu", "worker"},
    "worker": {"base", "proto", "profiles", "worker/engine", "worker/emulated", "worker/cuda",
               "worker/cpu", "worker/model",
               "allocator/formats", "http"},
    "router/dispatch": {"base", "profiles"},
    "router/tokenizer": {"base"},
    "router/openai": {"base", "http", "router", "router/dispatch", "router/tokenizer"},
    "allocator/formats": {"base", "profiles"},
    "allocator": {"base", "profiles", "allocator/formats", "worker/engine", "router/dispatch"},
    "http": {"base"},
    "router": {"base", "proto", "profiles", "allocator", "allocator/formats", "router/dispatch",
               "router/openai", "router/tokenizer", "http"},
    "cli": {"base"},
}

# Files that belong to another part than their folder says.
FILE_PARTS = {
    "allocator/formats": [r"allocator/(grid|slo|request_log|workload[a-z_]*|plan(_read|_write)?)\.[ch]$"],
    "http": [r"router/(http_server[a-z_]*|net|prometheus|stream|tls|keys)\.[ch]$"],
}

# third-party header -> the only files that may include it
THIRD_PARTY = {
    r"glpk\.h": [r"allocator/solve_glpk\.c"],
    r"gmp\.h": [r"allocator/[a-z_]+\.c"],
    r"cjson/cJSON\.h|cJSON\.h": [r"base/json[a-z_]*\.[ch]"],
    r"grpc/.*": [r"router/grpc_[a-z_]+\.[ch]"],
    r"pcre2\.h": [r"router/tokenizer/regex\.c"],
    r"utf8proc\.h": [r"router/tokenizer/unicode\.c"],
    r"uv\.h": [r"profiles/profiler/.*", r"router/(?!dispatch/|tokenizer/).*", r"worker/(?!engine/|emulated/|cuda/).*"],
    r"openssl/.*": [r"router/tls\.c"],
    r"http_parser\.h": [r"router/http_server[a-z_]*\.[ch]", r"router/bench/reply\.[ch]"],
    r"(link|inference|status)\.pb-c\.h|grpc/(health|reflection)/.*pb-c\.h":
        [r"proto/.*", r"router/(link|grpc)_[a-z_]+\.[ch]", r"worker/link_[a-z_]+\.[ch]",
                       r"profiles/profiler/link_[a-z_]+\.[ch]"],
    r"protobuf-c/.*": [r"proto/.*", r"router/(link|grpc)_[a-z_]+\.[ch]",
                       r"worker/link_[a-z_]+\.[ch]",
                       r"profiles/profiler/link_[a-z_]+\.[ch]"],
    r"cblas\.h": [r"worker/cpu/(matmul|limits)\.c"],
    r"immintrin\.h": [r"worker/cpu/kernels_avx[a-z0-9]*\.c"],
    r"cuda.*\.h|cublas.*\.h|nccl\.h": [r"worker/cuda/.*"],
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
# What libc and the kernel offer; anything else in <> must be in THIRD_PARTY.
LIBC = re.compile(
    r"^(sys/|linux/|netinet/|arpa/)|^(assert|ctype|dirent|errno|fcntl|float|getopt|inttypes|limits|"
    r"dlfcn|locale|malloc|math|netdb|poll|pthread|sched|setjmp|signal|stdalign|stdarg|stdatomic|stdbool|"
    r"stddef|stdint|stdio|stdlib|string|strings|time|unistd|spawn|termios|wchar)\.h$")


def part_of(path):
    for part, patterns in FILE_PARTS.items():
        if any(re.match(p, path) for p in patterns):
            return part
    best = None
    for part in PARTS:
        if path.startswith(part + "/") and (best is None or len(part) > len(best)):
            best = part
    return best


def check_include(path, kind, target):
    """None, or the sentence that says which rule is broken."""
    for header, files in THIRD_PARTY.items():
        if re.fullmatch(header, target):
            if any(re.fullmatch(f, path) for f in files):
                return None
            return f"only {' or '.join(files)} may include <{target}>"
    own = part_of(path)
    other = part_of(target)
    if kind == "<":
        return None if LIBC.match(target) else f"<{target}> is not a header this part may use"
    if other is None:
        return f'"{target}" is named from the root of the tree in no known part'
    if other == own or other in PARTS[own]:
        return None
    return f"{own} may not include {other}"


def scan(root, paths):
    problems = []
    for path in paths:
        if part_of(path) is None:
            problems.append(f"{path}:1: belongs to no part of the architecture")
            continue
        for number, line in enumerate((root / path).read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            if match:
                problem = check_include(path, match.group(1), match.group(2))
                if problem:
                    problems.append(f"{path}:{number}: {problem}")
    return problems


def sources(root):
    listed = subprocess.run(["git", "-C", root, "ls-files", "*.c", "*.h", "*.cu", "*.cuh"],
                            check=True, capture_output=True, text=True).stdout.split()
    return [p for p in listed if not p.startswith("tests/") and (root / p).is_file()]


def self_test():
    planted = {
        "base/a.c": ['#include "router/dispatch/dispatch.h"', "#include <uv.h>"],
        "worker/engine/a.c": ["#include <uv.h>", '#include "proto/frame.h"'],
        "allocator/planner.c": ["#include <glpk.h>"],
        "allocator/plan.c": ['#include "router/dispatch/dispatch.h"'],
        "router/policy.c": ["#include <grpc/grpc.h>"],
        "router/dispatch/a.c": ['#include "router/router.h"', "#include <cjson/cJSON.h>"],
        "profiles/a.c": ['#include "allocator/plan.h"', "#include <curl/curl.h>"],
        "stray/a.c": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        expected = 0
        for path, lines in planted.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text("\n".join(["#include <stdio.h>"] + lines))
            expected += max(1, len(lines))
        found = scan(root, planted)
    if len(found) != expected:
        print("\n".join(found))
        print(f"self-test: expected {expected} violations, found {len(found)}")
        return 1
    return 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    root = pathlib.Path(__file__).resolve().parents[2]
    paths = sources(root)
    problems = scan(root, paths)
    print("\n".join(problems) if problems else f"{len(paths)} files follow the architecture")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
