/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inner loops for AVX2, FMA and F16C (this file is compiled with them; nothing of it runs where
 * usable() says no).  thread: any.
 */
#include "worker/cpu/kernels.h"

#include <immintrin.h>

static int usable(void)
{
    /* Every processor with AVX2 has F16C, which not every compiler can ask for. */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

#define LANES        8
#define FMA(a, b, c) ((vec)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define LOAD_F16(p)  ((vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p))))
#define ROW_TILE     4
#define OUT_TILE     3
#define NAME         "AVX2"
#define USABLE       usable
#define TABLE        med_cpu_kernels_avx2
#include "worker/cpu/kernels.inc"
