/* SPDX-License-Identifier: Apache-2.0 */
/* What libFuzzer and replay.c call in each fuzz target. */
#ifndef MED_TESTS_FUZZ_FUZZ_H
#define MED_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size); // NOLINT: libFuzzer's name

#endif
