/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conversions between float32 and the two 16-bit formats, bit by bit.
 *
 * Both directions work on the bits of the float alone, so that they give the same on every machine:
 * nothing depends on the rounding mode or on instructions that a processor may lack.  Slow; kernels
 * have their own.  thread: any.
 */
#include "worker/model/dtype.h"

#include "base/assert.h"

#include <string.h>

static const struct {
    const char *name, *short_name;
    size_t bytes;
} dtypes[MED_DTYPE_COUNT] = {
    [MED_DTYPE_F32] = {"float32", "F32", 4},
    [MED_DTYPE_BF16] = {"bfloat16", "BF16", 2},
    [MED_DTYPE_F16] = {"float16", "F16", 2},
};

size_t med_dtype_bytes(enum med_dtype dtype)
{
    MED_ASSERT((unsigned)dtype < MED_DTYPE_COUNT);
    return dtypes[dtype].bytes;
}

const char *med_dtype_name(enum med_dtype dtype)
{
    MED_ASSERT((unsigned)dtype < MED_DTYPE_COUNT);
    return dtypes[dtype].name;
}

int med_dtype_find(const char *name)
{
    for (int i = 0; i < MED_DTYPE_COUNT; i++) {
        if (strcmp(name, dtypes[i].name) == 0 || strcmp(name, dtypes[i].short_name) == 0)
            return i;
    }
    return -1;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* value / 2^shift, to nearest, ties to even; 1 <= shift <= 31. */
static uint32_t shift_round(uint32_t value, unsigned shift)
{
    uint32_t half = (uint32_t)1 << (shift - 1);
    uint32_t rest = value & (((uint32_t)1 << shift) - 1);
    uint32_t kept = value >> shift;
    return kept + (rest > half || (rest == half && (kept & 1)) ? 1 : 0);
}

float med_bf16_to_float(uint16_t bits)
{
    return float_of((uint32_t)bits << 16);
}

uint16_t med_bf16_from_float(float value)
{
    uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) // NaN: keep sign and payload's top, and make it quiet
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)shift_round(bits, 16);
}

float med_f16_to_float(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t exponent = (bits >> 10) & 0x1fu;
    uint32_t fraction = bits & 0x3ffu;
    if (exponent == 0x1f)
        return float_of(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0)
        return float_of(sign | (exponent + 112) << 23 | fraction << 13);
    if (fraction == 0)
        return float_of(sign);
    exponent = 113; // subnormal: fraction * 2^-24; move its first one to where it is implied
    while (!(fraction & 0x400u)) {
        fraction <<= 1;
        exponent--;
    }
    return float_of(sign | exponent << 23 | (fraction & 0x3ffu) << 13);
}

uint16_t med_f16_from_float(float value)
{
    uint32_t bits = bits_of(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu));
    if (magnitude >= 0x477ff000u) // from 65520 on it rounds to 2^16, which f16 has not
        return (uint16_t)(sign | 0x7c00u);
    uint32_t exponent = magnitude >> 23;
    if (exponent >= 113) // a carry out of the fraction moves the exponent up, as it should
        return (uint16_t)(sign | (shift_round(magnitude, 13) - (112u << 10)));
    if (exponent < 102) // under 2^-25: half of the least subnormal
        return (uint16_t)sign;
    uint32_t fraction = (magnitude & 0x7fffffu) | 0x800000u;
    return (uint16_t)(sign | shift_round(fraction, 126 - exponent));
}

float med_dtype_get(enum med_dtype dtype, const void *data, size_t index)
{
    MED_ASSERT((unsigned)dtype < MED_DTYPE_COUNT);
    if (dtype == MED_DTYPE_F32)
        return ((const float *)data)[index];
    uint16_t bits = ((const uint16_t *)data)[index];
    return dtype == MED_DTYPE_BF16 ? med_bf16_to_float(bits) : med_f16_to_float(bits);
}
