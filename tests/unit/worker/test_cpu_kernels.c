/* SPDX-License-Identifier: Apache-2.0 */
/* The inner loops, of every instruction set that this machine has, against double precision. */
#include "tests/unit/worker/cpu_reference.h"
#include "worker/cpu/kernels.h"

#include <float.h>

static const int64_t lengths[] = {1, 7, 8, 15, 16, 31, 33, 64, 127, 200, 1030, 2100};
enum {
    LENGTHS = sizeof lengths / sizeof *lengths,
    LENGTH_MAX = 2100
};

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

typedef void table_test(const struct med_cpu_kernels *k);

static void each_table(table_test *test)
{
    static const struct med_cpu_kernels *const tables[3] = {&med_cpu_kernels_portable,
#ifdef __x86_64__
                                                            &med_cpu_kernels_avx2,
                                                            &med_cpu_kernels_avx512
#endif
    };
    for (int i = 0; i < 3 && tables[i]; i++) {
        if (tables[i]->usable()) {
            test(tables[i]);
        } else {
            (void)printf("%s: this machine does not have it\n", tables[i]->name);
        }
    }
}

enum {
    ROWS = 27,
    OUTS = 63
};

struct dots_case {
    const struct med_cpu_kernels *k;
    enum med_dtype dtype;
    int64_t n;
    const float *x;
    struct med_weight w;
    struct ref_sum want[ROWS][OUTS];
    float alone[ROWS][OUTS]; /* each element computed by itself */
};

static void dots_references(struct dots_case *c)
{
    double row[LENGTH_MAX] = {0};
    for (int64_t r = 0; r < ROWS; r++) {
        ref_row(MED_DTYPE_F32, c->x, r, c->n, row);
        for (int64_t o = 0; o < OUTS; o++) {
            c->want[r][o] = ref_dot(row, &c->w, NULL, o);
            const char *weight =
                (const char *)c->w.data + (size_t)(o * c->n) * med_dtype_bytes(c->dtype);
            struct med_cpu_dots one = {
                1, 1, c->n, c->x + r * c->n, c->n, weight, c->n, &c->alone[r][o], 1, NULL};
            c->k->dots[c->dtype](&one);
        }
    }
}

static void check_dots(struct dots_case *c, struct ref_worst *worst, int64_t rows, int64_t outs)
{
    static float wide[MED_CPU_DOTS_GROUP * MED_CPU_DOTS_BLOCK];
    static float y[ROWS][OUTS + 1];
    for (int64_t r = 0; r < ROWS; r++) {
        for (int64_t o = 0; o <= OUTS; o++)
            y[r][o] = 1e30f;
    }
    struct med_cpu_dots all = {rows,      outs, c->n,     c->x,     c->n,
                               c->w.data, c->n, &y[0][0], OUTS + 1, outs % 2 ? wide : NULL};
    c->k->dots[c->dtype](&all);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t o = 0; o < outs; o++) {
            /* The errors of a running sum grow with its length. */
            double eps = 8e-7 * (1 + (double)c->n / 1000);
            ref_compare(worst, (double)y[r][o], c->want[r][o].value, eps * c->want[r][o].scale);
            CHECK_UINT(bits_of(c->alone[r][o]), bits_of(y[r][o]));
        }
        CHECK(y[r][outs] == 1e30f);
    }
}

static void check_dots_of_length(const struct med_cpu_kernels *k, struct ref_worst *worst,
                                 enum med_dtype dtype, int64_t n)
{
    struct med_rng rng;
    med_rng_init(&rng, check_seed() + (uint64_t)n, dtype);
    float *x = ref_random(&rng, MED_DTYPE_F32, ROWS * n, 0, 1);
    static struct dots_case c;
    c = (struct dots_case){
        .k = k, .dtype = dtype, .n = n, .x = x, .w = ref_weight(&rng, dtype, OUTS, n)};
    dots_references(&c);
    for (int64_t rows = 1; rows <= ROWS; rows += rows < 9 ? 1 : 6) {
        for (int64_t outs = 1; outs <= OUTS; outs += 1 + outs / 3)
            check_dots(&c, worst, rows, outs);
    }
    free(x);
    ref_free(&c.w);
}

static void dots_are_right(const struct med_cpu_kernels *k)
{
    for (int dtype = 0; dtype < MED_DTYPE_COUNT; dtype++) {
        char what[64];
        (void)snprintf(what, sizeof what, "dots, %s, %s", k->name,
                       med_dtype_name((enum med_dtype)dtype));
        struct ref_worst worst = {.what = what};
        for (size_t i = 0; i < LENGTHS; i++)
            check_dots_of_length(k, &worst, (enum med_dtype)dtype, lengths[i]);
        ref_report(&worst);
    }
}

static void test_dots_of_every_shape_and_dtype_have_one_order(void)
{
    each_table(dots_are_right);
}

static void check_mix(const struct med_cpu_kernels *k, struct ref_worst *worst,
                      enum med_dtype dtype, int64_t n)
{
    struct med_rng rng;
    med_rng_init(&rng, check_seed() + (uint64_t)n, 77 + dtype);
    enum {
        MIX_ROWS = 7,
        KEYS = 19
    };
    float *p = ref_random(&rng, MED_DTYPE_F32, (int64_t)MIX_ROWS * KEYS, 0.5, 0.2);
    void *v = ref_random(&rng, dtype, KEYS * n, 0, 1);
    float *acc = ref_random(&rng, MED_DTYPE_F32, MIX_ROWS * n, 0, 1);
    float *whole = ref_alloc((size_t)(MIX_ROWS * n) * sizeof(float));
    float *parts = ref_alloc((size_t)(MIX_ROWS * n) * sizeof(float));
    memcpy(whole, acc, (size_t)(MIX_ROWS * n) * sizeof(float));
    memcpy(parts, acc, (size_t)(MIX_ROWS * n) * sizeof(float));
    struct med_cpu_mix mix = {MIX_ROWS, KEYS, n, p, KEYS, v, n, whole, n};
    k->mix[dtype](&mix);
    for (int64_t r = 0; r < MIX_ROWS; r++) {
        for (int64_t i = 0; i < n; i++) {
            double sum = (double)acc[r * n + i], squares = sum * sum;
            for (int64_t key = 0; key < KEYS; key++) {
                double term = (double)p[r * KEYS + key] * ref_get(dtype, v, key * n + i);
                sum += term;
                squares += term * term;
            }
            ref_compare(worst, (double)whole[r * n + i], sum, 8e-7 * (fabs(sum) + sqrt(squares)));
        }
    }
    /* The same bits row by row, and with the keys in two parts. */
    for (int64_t r = 0; r < MIX_ROWS; r++) {
        const char *rest = (const char *)v + (size_t)(5 * n) * med_dtype_bytes(dtype);
        struct med_cpu_mix first = {1, 5, n, p + r * KEYS, KEYS, v, n, parts + r * n, n};
        struct med_cpu_mix second = {1, KEYS - 5,      n, p + r * KEYS + 5, KEYS, rest,
                                     n, parts + r * n, n};
        k->mix[dtype](&first);
        k->mix[dtype](&second);
    }
    CHECK(memcmp(whole, parts, (size_t)(MIX_ROWS * n) * sizeof(float)) == 0);
    free(p);
    free(v);
    free(acc);
    free(whole);
    free(parts);
}

static void mix_is_right(const struct med_cpu_kernels *k)
{
    for (int dtype = 0; dtype < MED_DTYPE_COUNT; dtype++) {
        char what[64];
        (void)snprintf(what, sizeof what, "mix, %s, %s", k->name,
                       med_dtype_name((enum med_dtype)dtype));
        struct ref_worst worst = {.what = what};
        for (size_t i = 0; i < LENGTHS; i++)
            check_mix(k, &worst, (enum med_dtype)dtype, lengths[i]);
        ref_report(&worst);
    }
}

static void test_mix_of_every_shape_and_dtype_goes_by_key(void)
{
    each_table(mix_is_right);
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void bf16_rounds(const struct med_cpu_kernels *k)
{
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 3);
    enum {
        COUNT = 4099
    };
    static const uint32_t special[] = {0,          0x80000000, 0x7f800000, 0xff800000, 0x7f7fffff,
                                       0x3f808000, 0x3f818000, 0x3f808001, 0x00000001, 0x7fc00000,
                                       0x7f800001, 0xff800001, 0x7fffffff, 0xffffffff};
    float *from = ref_alloc(COUNT * sizeof *from);
    uint16_t *to = ref_alloc(COUNT * sizeof *to);
    for (size_t i = 0; i < COUNT; i++) {
        bool is_special = i < sizeof special / sizeof *special;
        from[i] = float_of(is_special ? special[i] : med_rng_u32(&rng));
    }
    k->narrow[MED_DTYPE_BF16](from, to, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        if (isnan(from[i])) {
            CHECK(isnan(med_bf16_to_float(to[i])));
        } else {
            CHECK_UINT(to[i], med_bf16_from_float(from[i]));
        }
    }
    float *rounded = ref_alloc(COUNT * sizeof *rounded), *wide = ref_alloc(COUNT * sizeof *wide);
    memcpy(rounded, from, COUNT * sizeof *rounded);
    k->round_bf16(rounded, COUNT);
    k->widen[MED_DTYPE_BF16](to, wide, COUNT);
    for (size_t i = 0; i < COUNT; i++)
        CHECK_UINT(bits_of(rounded[i]), bits_of(wide[i]));
    free(from);
    free(to);
    free(rounded);
    free(wide);
}

static void test_bf16_rounds_as_the_cold_path_does(void)
{
    each_table(bf16_rounds);
}

/* All 65536 halves, and halves from floats around every border. */
static void f16_is_exact(const struct med_cpu_kernels *k)
{
    enum {
        COUNT = 65536
    };
    uint16_t *halves = ref_alloc(COUNT * sizeof *halves), *back = ref_alloc(COUNT * sizeof *back);
    float *wide = ref_alloc(COUNT * sizeof *wide);
    for (int i = 0; i < COUNT; i++)
        halves[i] = (uint16_t)i;
    k->widen[MED_DTYPE_F16](halves, wide, COUNT);
    k->narrow[MED_DTYPE_F16](wide, back, COUNT);
    int wrong = 0;
    for (int i = 0; i < COUNT; i++) {
        float want = med_f16_to_float((uint16_t)i);
        if (isnan(want)) {
            wrong += !isnan(wide[i]) || !isnan(med_f16_to_float(back[i]));
        } else {
            wrong += bits_of(wide[i]) != bits_of(want) || back[i] != halves[i];
        }
    }
    CHECK_INT(wrong, 0);
    free(halves);
    free(back);
    free(wide);
}

static void test_f16_is_the_same_both_ways(void)
{
    each_table(f16_is_exact);
}

static void exp_is_right(const struct med_cpu_kernels *k)
{
    enum {
        COUNT = 20001
    };
    float *x = ref_alloc(COUNT * sizeof *x), *from = ref_alloc(COUNT * sizeof *from);
    for (int i = 0; i < COUNT; i++)
        from[i] = x[i] = -87.0f + (float)i * (175.0f / COUNT);
    (void)k->exp_sum(x, COUNT, 0);
    double worst = 0;
    for (int i = 0; i < COUNT; i++) {
        double want = exp((double)from[i]);
        worst = fmax(worst, fabs((double)x[i] - want) / want);
    }
    CHECK(worst < 2 * FLT_EPSILON);
    (void)printf("exp, %s: worst relative error %.3g\n", k->name, worst);
    float edges[] = {-INFINITY, -200, -87.4f, 0, 89, INFINITY};
    (void)k->exp_sum(edges, 6, 0);
    CHECK(edges[0] == 0 && edges[1] == 0 && edges[2] == 0);
    CHECK(edges[3] == 1 && edges[4] == INFINITY && edges[5] == INFINITY);
    for (int64_t n = 1; n < 40; n++) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++) {
            x[i] = (float)(i % 7) - 3;
            sum += exp((double)x[i] - 2.5);
        }
        CHECK_DOUBLE((double)k->exp_sum(x, n, 2.5f), sum, sum * 1e-6);
    }
    free(x);
    free(from);
}

static void test_exp_is_within_two_ulp(void)
{
    each_table(exp_is_right);
}

static void small_ones_are_right(const struct med_cpu_kernels *k)
{
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 9);
    struct ref_worst silu = {.what = "silu"};
    for (size_t l = 0; l < LENGTHS; l++) {
        int64_t n = lengths[l];
        float *a = ref_random(&rng, MED_DTYPE_F32, n, 0, 4);
        float *b = ref_random(&rng, MED_DTYPE_F32, n, 0, 1);
        double sum = 0, squares = 0, top = -INFINITY;
        for (int64_t i = 0; i < n; i++) {
            sum += (double)a[i] * (double)b[i];
            squares += (double)a[i] * (double)b[i] * (double)a[i] * (double)b[i];
            top = fmax(top, (double)a[i]);
        }
        CHECK_DOUBLE((double)k->dot(a, b, n), sum, 8e-7 * (fabs(sum) + sqrt(squares)));
        CHECK_DOUBLE((double)k->largest(a, n), top, 0);
        float *gate = ref_alloc((size_t)n * sizeof *gate);
        memcpy(gate, a, (size_t)n * sizeof *gate);
        k->silu_mul(gate, b, n);
        for (int64_t i = 0; i < n; i++) {
            double g = (double)a[i], want = g / (1 + exp(-g)) * (double)b[i];
            ref_compare(&silu, (double)gate[i], want, 1e-6 * fabs(want) + 1e-30);
        }
        k->scale(a, n, 0.25f);
        CHECK_DOUBLE((double)k->largest(a, n), top / 4, 0);
        free(a);
        free(b);
        free(gate);
    }
    /* Far out: silu of a large negative number is -0, of a large positive one itself. */
    float far[] = {-1000, 1000, -89, 89}, ones[] = {1, 1, 1, 1};
    k->silu_mul(far, ones, 4);
    CHECK(far[0] == 0 && far[1] == 1000 && fabsf(far[2]) < 1e-30f && far[3] == 89);
    ref_report(&silu);
}

static void test_dot_largest_silu_and_scale(void)
{
    each_table(small_ones_are_right);
}

int main(void)
{
    RUN(test_dots_of_every_shape_and_dtype_have_one_order);
    RUN(test_mix_of_every_shape_and_dtype_goes_by_key);
    RUN(test_bf16_rounds_as_the_cold_path_does);
    RUN(test_f16_is_the_same_both_ways);
    RUN(test_exp_is_within_two_ulp);
    RUN(test_dot_largest_silu_and_scale);
    return check_finish();
}
