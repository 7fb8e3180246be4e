/* SPDX-License-Identifier: Apache-2.0 */
/* Number formats: known values, every 16-bit pattern there and back, and rounding against arithmetic
 * in double. */
#include "worker/model/dtype.h"

#include "tests/check.h"

#include <float.h>

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void test_names_when_looked_up_then_both_spellings_are_found(void)
{
    static const struct {
        const char *name;
        int want;
    } rows[] = {{"float32", MED_DTYPE_F32},
                {"F32", MED_DTYPE_F32},
                {"bfloat16", MED_DTYPE_BF16},
                {"BF16", MED_DTYPE_BF16},
                {"F16", MED_DTYPE_F16},
                {"float16", MED_DTYPE_F16},
                {"f16", -1},
                {"", -1},
                {"F8_E4M3", -1},
                {"float64", -1}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        CHECK_INT(med_dtype_find(rows[i].name), rows[i].want);
    CHECK_STR(med_dtype_name(MED_DTYPE_BF16), "bfloat16");
    CHECK_UINT(med_dtype_bytes(MED_DTYPE_F32), 4);
    CHECK_UINT(med_dtype_bytes(MED_DTYPE_BF16), 2);
    CHECK_UINT(med_dtype_bytes(MED_DTYPE_F16), 2);
}

static void test_known_values_when_converted_then_bits_are_right(void)
{
    static const struct {
        float value;
        uint16_t bf16, f16;
    } rows[] = {
        {0.0F, 0x0000, 0x0000},
        {-0.0F, 0x8000, 0x8000},
        {1.0F, 0x3f80, 0x3c00},
        {-2.0F, 0xc000, 0xc000},
        {1.0F + 1.0F / 256, 0x3f80, 0x3c04},  /* a tie in bf16: to the even one below */
        {1.0F + 3.0F / 256, 0x3f82, 0x3c0c},  /* a tie: to the even one above */
        {1.0F + 1.0F / 2048, 0x3f80, 0x3c00}, /* a tie in f16, to even */
        {1.0F + 3.0F / 2048, 0x3f80, 0x3c02},
        {65504.0F, 0x4780, 0x7bff}, /* f16's largest */
        {65519.996F, 0x4780, 0x7bff},
        {65520.0F, 0x4780, 0x7c00}, /* rounds beyond it */
        {0x1p-14F, 0x3880, 0x0400}, /* f16's least normal */
        {0x1p-24F, 0x3380, 0x0001}, /* its least subnormal */
        {0x1p-25F, 0x3300, 0x0000}, /* half of that: to even */
        {0x1.8p-25F, 0x3340, 0x0001},
        {0x1.ff8p-15F, 0x3880, 0x03ff},
        {0x1.ffcp-15F, 0x3880, 0x0400}, /* a tie that carries into the normals */
        {FLT_MAX, 0x7f80, 0x7c00},
        {INFINITY, 0x7f80, 0x7c00},
        {-INFINITY, 0xff80, 0xfc00},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        CHECK_UINT(med_bf16_from_float(rows[i].value), rows[i].bf16);
        CHECK_UINT(med_f16_from_float(rows[i].value), rows[i].f16);
    }
}

static void test_every_pattern_when_widened_and_narrowed_then_it_is_itself(void)
{
    for (uint32_t bits = 0; bits <= 0xffff; bits++) {
        float a = med_bf16_to_float((uint16_t)bits);
        float b = med_f16_to_float((uint16_t)bits);
        uint16_t a_again = med_bf16_from_float(a);
        uint16_t b_again = med_f16_from_float(b);
        bool ok = (isnan(a) ? isnan(med_bf16_to_float(a_again)) : a_again == bits) &&
                  (isnan(b) ? isnan(med_f16_to_float(b_again)) : b_again == bits);
        if (!ok) {
            CHECK_UINT(a_again, bits);
            CHECK_UINT(b_again, bits);
        }
    }
    CHECK_DOUBLE(med_f16_to_float(0x0001), 0x1p-24, 0);
    CHECK_DOUBLE(med_f16_to_float(0x83ff), -1023 * 0x1p-24, 0);
    CHECK_DOUBLE(med_f16_to_float(0x3555), 0.333251953125, 0);
    CHECK(isinf(med_f16_to_float(0x7c00)));
}

/* The nearest f16 of a finite value, by arithmetic: a multiple of a power of two. */
static double nearest_f16(double value)
{
    int exponent;
    (void)frexp(value, &exponent);
    double step = ldexp(1, exponent - 11 < -24 ? -24 : exponent - 11);
    double rounded = nearbyint(value / step) * step; /* nearbyint: ties to even */
    return fabs(rounded) > 65504 ? copysign(INFINITY, value) : rounded;
}

static void test_random_values_when_narrowed_then_nearest_even(void)
{
    uint64_t state = check_seed();
    int wrong = 0;
    for (int i = 0; i < 300000; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        float value = float_of((uint32_t)(state >> 32));
        if (isnan(value) || isinf(value))
            continue;
        if (i % 2) /* half of them in f16's own range */
            value = ldexpf(value, 0) == 0 ? 0 : ldexpf(frexpf(value, &(int){0}), i % 45 - 27);
        float narrow = med_f16_to_float(med_f16_from_float(value));
        wrong += (double)narrow != nearest_f16((double)value);
    }
    CHECK_INT(wrong, 0);
}

static void test_nan_when_narrowed_then_stays_nan(void)
{
    static const uint32_t patterns[] = {0x7f800001, 0x7fc00000, 0xff800001, 0x7fffffff, 0xffc12345};
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++) {
        CHECK(isnan(med_bf16_to_float(med_bf16_from_float(float_of(patterns[i])))));
        CHECK(isnan(med_f16_to_float(med_f16_from_float(float_of(patterns[i])))));
    }
}

static void test_get_when_each_dtype_then_element(void)
{
    const float f32[] = {1, -3.5F};
    const uint16_t bf16[] = {0x3f80, 0xc060};
    const uint16_t f16[] = {0x3c00, 0xc300};
    for (size_t i = 0; i < 2; i++) {
        CHECK_DOUBLE(med_dtype_get(MED_DTYPE_F32, f32, i), f32[i], 0);
        CHECK_DOUBLE(med_dtype_get(MED_DTYPE_BF16, bf16, i), f32[i], 0);
        CHECK_DOUBLE(med_dtype_get(MED_DTYPE_F16, f16, i), f32[i], 0);
    }
}

int main(void)
{
    RUN(test_names_when_looked_up_then_both_spellings_are_found);
    RUN(test_known_values_when_converted_then_bits_are_right);
    RUN(test_every_pattern_when_widened_and_narrowed_then_it_is_itself);
    RUN(test_random_values_when_narrowed_then_nearest_even);
    RUN(test_nan_when_narrowed_then_stays_nan);
    RUN(test_get_when_each_dtype_then_element);
    return check_finish();
}
