/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random numbers: the reference output of PCG32, ranges, and moments of the distributions.
 *
 * The moment tests accept six standard errors of the estimate: with a fixed seed they are
 * deterministic, and another seed fails one in about 10^8 times.  thread: main.
 */
#include "base/rng.h"
#include "tests/check.h"

static void test_reference_output(void)
{
    /* pcg32-demo of the reference implementation, seed 42, stream 54, round 1. */
    static const uint32_t want[] = {0xa15c02b7, 0x7b47f409, 0xba1d3330,
                                    0x83d2f293, 0xbfa4784b, 0xcbed606e};
    struct med_rng rng;
    med_rng_init(&rng, 42, 54);
    for (size_t i = 0; i < 6; i++)
        CHECK_UINT(med_rng_u32(&rng), want[i]);
}

static void test_streams_and_seeds_differ(void)
{
    struct med_rng a;
    struct med_rng b;
    struct med_rng c;
    struct med_rng again;
    med_rng_init(&a, 1, 0);
    med_rng_init(&b, 1, 1);
    med_rng_init(&c, 2, 0);
    med_rng_init(&again, 1, 0);
    int same_stream = 0;
    int same_seed = 0;
    for (int i = 0; i < 1000; i++) {
        uint32_t value = med_rng_u32(&a);
        same_stream += value == med_rng_u32(&b);
        same_seed += value == med_rng_u32(&c);
        CHECK_UINT(med_rng_u32(&again), value);
    }
    CHECK(same_stream < 5);
    CHECK(same_seed < 5);
}

static void test_uniform_and_below_stay_in_range(void)
{
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 0);
    for (int i = 0; i < 100000; i++) {
        double u = med_rng_uniform(&rng);
        CHECK(u >= 0 && u < 1);
        CHECK(med_rng_below(&rng, 3) < 3);
        CHECK_UINT(med_rng_below(&rng, 1), 0);
        CHECK(med_rng_below(&rng, UINT32_MAX) < UINT32_MAX);
        CHECK(med_rng_exponential(&rng, 2) >= 0);
        CHECK(isfinite(med_rng_normal(&rng)));
        CHECK(med_rng_gamma(&rng, 0.1, 1) >= 0);
    }
}

static void test_below_is_even(void)
{
    enum {
        SIDES = 6,
        ROLLS = 60000
    };
    int seen[SIDES] = {0};
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 1);
    for (int i = 0; i < ROLLS; i++)
        seen[med_rng_below(&rng, SIDES)]++;
    double deviation = sqrt((double)ROLLS / SIDES * (1 - 1.0 / SIDES));
    for (int i = 0; i < SIDES; i++)
        CHECK_DOUBLE(seen[i], (double)ROLLS / SIDES, 6 * deviation);
}

/* 2^32 is no multiple of 3 * 2^30: without rejection the lowest third would come half of the time. */
static void test_below_is_even_for_a_large_bound(void)
{
    enum {
        DRAWS_LARGE = 60000
    };
    int low = 0;
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 3);
    for (int i = 0; i < DRAWS_LARGE; i++)
        low += med_rng_below(&rng, UINT32_C(3) << 30) < UINT32_C(1) << 30;
    CHECK_DOUBLE(low, DRAWS_LARGE / 3.0, 6 * sqrt(DRAWS_LARGE * 2.0 / 9));
}

struct moments {
    double mean;
    double variance;
};

enum {
    DRAWS = 200000
};

static struct moments draw(int kind, double shape, double scale)
{
    struct med_rng rng;
    double sum = 0;
    double squares = 0;
    med_rng_init(&rng, check_seed(), 2);
    for (int i = 0; i < DRAWS; i++) {
        double x = kind == 0   ? med_rng_uniform(&rng)
                   : kind == 1 ? med_rng_exponential(&rng, scale)
                   : kind == 2 ? med_rng_normal(&rng)
                               : med_rng_gamma(&rng, shape, scale);
        sum += x;
        squares += x * x;
    }
    double mean = sum / DRAWS;
    return (struct moments){mean, squares / DRAWS - mean * mean};
}

static void check_moments(struct moments got, double mean, double variance, double kurtosis)
{
    CHECK_DOUBLE(got.mean, mean, 6 * sqrt(variance / DRAWS));
    CHECK_DOUBLE(got.variance, variance, 6 * variance * sqrt((kurtosis - 1) / DRAWS));
}

static void test_moments(void)
{
    check_moments(draw(0, 0, 0), 0.5, 1.0 / 12, 1.8);
    check_moments(draw(1, 0, 3), 3, 9, 9);
    check_moments(draw(2, 0, 0), 0, 1, 3);
    static const double shapes[] = {0.25, 0.5, 1, 4, 40};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        check_moments(draw(3, shapes[i], 2), shapes[i] * 2, shapes[i] * 4, 3 + 6 / shapes[i]);
}

int main(void)
{
    RUN(test_reference_output);
    RUN(test_streams_and_seeds_differ);
    RUN(test_uniform_and_below_stay_in_range);
    RUN(test_below_is_even);
    RUN(test_below_is_even_for_a_large_bound);
    RUN(test_moments);
    return check_finish();
}
