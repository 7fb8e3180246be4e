/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Number formats of weights, activations and the KV cache.
 *
 * bf16 is the upper half of an IEEE 754 binary32, f16 is binary16.  Rounding to either is to nearest,
 * ties to even; NaN stays NaN; what is too large for f16 becomes infinite.
 * thread: any (no state). Valid C17 and C++, so that CUDA code shares it.
 */
#ifndef MED_WORKER_MODEL_DTYPE_H
#define MED_WORKER_MODEL_DTYPE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum med_dtype {
    MED_DTYPE_F32,
    MED_DTYPE_BF16,
    MED_DTYPE_F16,
    MED_DTYPE_COUNT
};

size_t med_dtype_bytes(enum med_dtype dtype);
/* "float32", "bfloat16", "float16": what config.json and --dtype say. */
const char *med_dtype_name(enum med_dtype dtype);
/* From such a name, or "F32", "BF16", "F16" of a safetensors header; < 0: none of these. */
int med_dtype_find(const char *name);

float med_bf16_to_float(uint16_t bits);
uint16_t med_bf16_from_float(float value);
float med_f16_to_float(uint16_t bits);
uint16_t med_f16_from_float(float value);
/* Element `index` of an array of that dtype. For tests and cold paths. */
float med_dtype_get(enum med_dtype dtype, const void *data, size_t index);

#ifdef __cplusplus
}
#endif

#endif
