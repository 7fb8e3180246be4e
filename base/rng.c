/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seeded random numbers: PCG-XSH-RR 64/32 and the few distributions that Medley draws from.
 *
 * Source: M. O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms
 * for Random Number Generation", 2014; gamma: G. Marsaglia and W. W. Tsang, "A Simple Method for
 * Generating Gamma Variables", ACM TOMS 26(3), 2000.  The integers are the same everywhere; the
 * distributions are as equal as the machine's log, cos and pow.  Not for secrets.
 * thread: the owner's.
 */
#include "base/rng.h"

#include "base/assert.h"

#include <math.h>

void med_rng_init(struct med_rng *rng, uint64_t seed, uint64_t stream)
{
    rng->state = 0;
    rng->stream = (stream << 1) | 1; // the increment must be odd
    (void)med_rng_u32(rng);
    rng->state += seed;
    (void)med_rng_u32(rng);
}

uint32_t med_rng_u32(struct med_rng *rng)
{
    uint64_t old = rng->state;
    rng->state = old * UINT64_C(6364136223846793005) + rng->stream;
    uint32_t mixed = (uint32_t)(((old >> 18) ^ old) >> 27);
    uint32_t turn = (uint32_t)(old >> 59);
    return (mixed >> turn) | (mixed << ((32 - turn) & 31));
}

double med_rng_uniform(struct med_rng *rng)
{
    uint64_t high = med_rng_u32(rng) >> 5; // 27 bits
    uint64_t low = med_rng_u32(rng) >> 6;  // 26 bits
    return (double)((high << 26) | low) * 0x1p-53;
}

uint32_t med_rng_below(struct med_rng *rng, uint32_t bound)
{
    MED_ASSERT(bound > 0);
    /* Values under 2^32 mod bound would make the first results likelier. */
    uint32_t threshold = (UINT32_MAX - bound + 1) % bound;
    uint32_t value = med_rng_u32(rng);
    while (value < threshold)
        value = med_rng_u32(rng);
    return value % bound;
}

double med_rng_exponential(struct med_rng *rng, double mean)
{
    return -mean * log1p(-med_rng_uniform(rng)); // the argument lies in (-1, 0]
}

double med_rng_normal(struct med_rng *rng)
{
    /* Box and Muller; the second value of the pair is not kept, so that the state stays one word.
     */
    const double two_pi = 6.283185307179586476925286766559;
    double radius = sqrt(-2 * log1p(-med_rng_uniform(rng)));
    return radius * cos(two_pi * med_rng_uniform(rng));
}

double med_rng_gamma(struct med_rng *rng, double shape, double scale)
{
    MED_ASSERT(shape > 0);
    MED_ASSERT(scale >= 0);
    double boost = 1;
    if (shape < 1) {
        /* gamma(a) = gamma(a + 1) * U^(1/a), U in (0, 1] */
        boost = pow(1 - med_rng_uniform(rng), 1 / shape);
        shape += 1;
    }
    const double d = shape - 1.0 / 3.0;
    const double c = 1 / sqrt(9 * d);
    for (;;) {
        double x = med_rng_normal(rng);
        double v = 1 + c * x;
        if (v <= 0)
            continue;
        v = v * v * v;
        double u = 1 - med_rng_uniform(rng);
        if (log(u) < 0.5 * x * x + d - d * v + d * log(v))
            return d * v * boost * scale;
    }
}
