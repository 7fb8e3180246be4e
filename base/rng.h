/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seeded random numbers, the same on every machine: PCG-XSH-RR 64/32 (O'Neill 2014).
 * thread: the owner's.
 */
#ifndef MED_BASE_RNG_H
#define MED_BASE_RNG_H

#include <stdint.h>

struct med_rng {
    uint64_t state;
    uint64_t stream;
};

void med_rng_init(struct med_rng *rng, uint64_t seed, uint64_t stream);
uint32_t med_rng_u32(struct med_rng *rng);
double med_rng_uniform(struct med_rng *rng);                 /* [0, 1) */
uint32_t med_rng_below(struct med_rng *rng, uint32_t bound); /* [0, bound), bound > 0, unbiased */
double med_rng_exponential(struct med_rng *rng, double mean);
double med_rng_normal(struct med_rng *rng); /* mean 0, deviation 1 */
double med_rng_gamma(struct med_rng *rng, double shape,
                     double scale); /* Marsaglia and Tsang 2000 */

#endif
