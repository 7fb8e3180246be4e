/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One safetensors file, mapped read-only: names, dtypes, shapes, and where the numbers lie.
 *
 * The header is checked whole before anything of it is believed: its length against the file and
 * MED_LIMIT_SAFETENSORS_HEADER_BYTES, shapes without overflow, offsets inside the file, in agreement
 * with dtype x shape, without overlap and without holes.  Tensors of dtypes that Medley cannot
 * compute with are listed (dtype -1), so that whoever asks for one by name can refuse it by name.
 *
 * owns: mapping and names; tensors lend pointers until close. thread: immutable after opening.
 * errors: MED_E_FORMAT (what is wrong, at which tensor), MED_E_LIMIT, med_err_input_code.
 * source: the format's description in the safetensors project's README.
 */
#ifndef MED_WORKER_MODEL_SAFETENSORS_H
#define MED_WORKER_MODEL_SAFETENSORS_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

enum {
    MED_TENSOR_DIMS_MAX = 8
};

struct med_tensor {
    const char *name;
    int dtype;              /* enum med_dtype, or -1 */
    const char *dtype_name; /* as in the file: "BF16" */
    int dims;
    int64_t shape[MED_TENSOR_DIMS_MAX]; /* row-major */
    int64_t elements;
    const void *data; /* in the mapping; aligned to the dtype or refused */
    size_t bytes;
};

struct med_safetensors {
    char *path;
    void *mapping;
    size_t mapping_bytes;
    struct med_tensor *tensors; // [count], sorted by name
    size_t count;
    char *names; /* all of them */
};

int med_safetensors_open(const char *path, struct med_safetensors *ret_file,
                         struct med_err *err) MED_MUST_CHECK;
/* The same checks on bytes in memory (for tests and fuzzing); `bytes` must outlive the result. */
int med_safetensors_parse(const void *bytes, size_t count, const char *name,
                          struct med_safetensors *ret_file, struct med_err *err) MED_MUST_CHECK;
/* Accepts a zeroed struct. */
void med_safetensors_close(struct med_safetensors *file);
/* NULL: no such tensor. O(log count). */
const struct med_tensor *med_safetensors_find(const struct med_safetensors *file, const char *name);

#endif
