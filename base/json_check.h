/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Internal to the JSON edge: the grammar check that runs before the tree is built.
 */
#ifndef MED_BASE_JSON_CHECK_H
#define MED_BASE_JSON_CHECK_H

#include "base/err.h"

#include <stddef.h>

/* 0 if the bytes are one JSON value (RFC 8259) that the edge accepts; else MED_E_FORMAT, and err
 * names file, line and column (1-based, in characters). */
int med_json_check(const char *bytes, size_t count, const char *file,
                   struct med_err *err) MED_MUST_CHECK;

#endif
