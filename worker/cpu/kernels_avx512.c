/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inner loops for AVX-512 (F, BW, DQ, VL; this file is compiled with them; nothing of it runs
 * where usable() says no).  thread: any.
 */
#include "worker/cpu/kernels.h"

#include <immintrin.h>

static int usable(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

#define LANES        16
#define FMA(a, b, c) ((vec)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define LOAD_F16(p)  ((vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p))))
#define ROW_TILE     4
#define OUT_TILE     4
#define NAME         "AVX-512"
#define USABLE       usable
#define TABLE        med_cpu_kernels_avx512
#include "worker/cpu/kernels.inc"
