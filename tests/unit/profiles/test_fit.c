/* SPDX-License-Identifier: Apache-2.0 */
/* The fit of step models: known truths with noise and outliers, rows that leave much open, errors
 * that are validated by rows that were left out. */
#include "profiles/fit.h"

#include "base/rng.h"
#include "profiles/latency.h"
#include "tests/check.h"

#include <math.h>

enum {
    ROWS_MAX = 256
};

static const struct med_model_shape shape = {.parameters = 6738415616,
                                             .layers = 32,
                                             .hidden = 4096,
                                             .heads = 32,
                                             .kv_heads = 32,
                                             .head_dim = 128,
                                             .intermediate = 11008,
                                             .vocab = 32000,
                                             .weight_bytes = 13476831232,
                                             .kv_bytes_per_token = 524288};
static const struct med_hardware hardware = {
    .memory_bytes = 80e9, .bandwidth_bytes_per_s = 3.35e12, .matrix_flops_per_s = 989e12};
static const struct med_engine_limits limits = {.model_len_max = 4096,
                                                .sequences_max = 256,
                                                .batched_tokens_max = 4096,
                                                .block_tokens = 16,
                                                .kv_tokens = 120000};
static const struct med_step_model truth = {.corner = 0.3,
                                            .fixed_ms = 0.4,
                                            .sequence_us = 9,
                                            .bandwidth_bytes_per_s = 3e12,
                                            .matrix_flops_per_s = 620e12,
                                            .kv_bandwidth_bytes_per_s = 2.8e12,
                                            .attention_flops_per_s = 300e12};

struct rows {
    struct med_step_row of[ROWS_MAX];
    size_t count;
};

static void add_row(struct rows *rows, const struct med_step_model *model, int64_t prefill,
                    int64_t prefix, int64_t sequences, int64_t context)
{
    REQUIRE(rows->count < ROWS_MAX);
    struct med_step_row *row = &rows->of[rows->count++];
    *row = (struct med_step_row){.prefill_tokens = prefill,
                                 .prefill_context = prefix,
                                 .decode_sequences = sequences,
                                 .decode_context_tokens = sequences * context,
                                 .ms_p99 = (double)NAN};
    row->ms_p50 = med_step_model_ms(model, &shape, row);
}

/* What a profiler measures: decodes, prefills, some of both. */
static struct rows grid_of(const struct med_step_model *model)
{
    static const int64_t sequences[] = {1, 2, 4, 8, 16, 32, 64, 128, 256};
    static const int64_t contexts[] = {128, 512, 1024, 2048, 4000};
    static const int64_t prefills[] = {16, 64, 128, 256, 512, 1024, 2048, 4096};
    struct rows rows = {.count = 0};
    for (size_t s = 0; s < 9; s++) {
        for (size_t c = 0; c < 5; c++) {
            if (sequences[s] * contexts[c] <= limits.kv_tokens)
                add_row(&rows, model, 0, 0, sequences[s], contexts[c]);
        }
    }
    for (size_t p = 0; p < 8; p++) {
        add_row(&rows, model, prefills[p], 0, 0, 0);
        add_row(&rows, model, prefills[p], 2048, 0, 0);
    }
    for (size_t p = 1; p < 7; p += 2) {
        for (size_t s = 3; s < 8; s += 2)
            add_row(&rows, model, prefills[p], 0, sequences[s], 512);
    }
    return rows;
}

static int fit_rows(const struct rows *rows, struct med_fit *fit, struct med_err *err)
{
    struct med_fit_input input = {.rows = rows->of,
                                  .row_count = rows->count,
                                  .model = &shape,
                                  .hardware = &hardware,
                                  .gpus_per_worker = 1,
                                  .limits = &limits};
    return med_fit_steps(&input, fit, err);
}

static struct med_fit fitted(const struct rows *rows)
{
    struct med_fit fit;
    struct med_err err = {0};
    if (fit_rows(rows, &fit, &err) != 0) {
        (void)fprintf(stderr, "%s\n", err.text);
        REQUIRE(false);
    }
    return fit;
}

/* The mean relative difference from the truth over a dense set of loads. */
static double distance(const struct med_step_model *model, const struct med_step_model *from)
{
    struct rows rows = grid_of(from);
    double sum = 0;
    for (size_t n = 0; n < rows.count; n++)
        sum += fabs(med_step_model_ms(model, &shape, &rows.of[n]) / rows.of[n].ms_p50 - 1);
    return sum / (double)rows.count;
}

static void check_near(double got, double want, double share)
{
    CHECK_DOUBLE(got / want, 1, share);
}

static void test_fit_when_rows_are_the_form_then_finds_it(void)
{
    for (int corner = 0; corner < 2; corner++) {
        struct med_step_model model = truth;
        model.corner = corner == 0 ? 0 : truth.corner;
        struct rows rows = grid_of(&model);
        struct med_fit fit = fitted(&rows);
        CHECK_INT(fit.unknown, 0);
        CHECK(fit.model.fit_error < 0.002);
        CHECK(fit.model.fit_error_max < 0.01);
        CHECK_DOUBLE(fit.model.corner, model.corner, 0.051);
        check_near(fit.model.bandwidth_bytes_per_s, model.bandwidth_bytes_per_s, 0.02);
        check_near(fit.model.matrix_flops_per_s, model.matrix_flops_per_s, 0.02);
        check_near(fit.model.kv_bandwidth_bytes_per_s, model.kv_bandwidth_bytes_per_s, 0.01);
        check_near(fit.model.attention_flops_per_s, model.attention_flops_per_s, 0.05);
        CHECK_DOUBLE(fit.model.fixed_ms, model.fixed_ms, 0.1);
        CHECK_DOUBLE(fit.model.sequence_us, model.sequence_us, 1);
    }
}

static void test_fit_when_rows_are_noisy_with_outliers_then_stays_near(void)
{
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 3);
    for (int round = 0; round < 3; round++) {
        struct rows rows = grid_of(&truth);
        for (size_t n = 0; n < rows.count; n++) {
            rows.of[n].ms_p50 *= 1 + 0.01 * med_rng_normal(&rng);
        }
        struct med_fit clean = fitted(&rows);
        CHECK(distance(&clean.model, &truth) < 0.01);
        for (int n = 0; n < 5; n++) /* one row in fourteen took three times as long */
            rows.of[med_rng_below(&rng, (uint32_t)rows.count)].ms_p50 *= 3;
        struct med_fit fit = fitted(&rows);
        CHECK(distance(&fit.model, &truth) < 0.015);
        CHECK(fit.model.fit_error_max > 0.5); /* and does not hide them */
    }
}

static void test_fit_when_rows_come_in_another_order_then_the_same_bits(void)
{
    struct rows rows = grid_of(&truth);
    struct rows turned = {.count = rows.count};
    for (size_t n = 0; n < rows.count; n++) {
        rows.of[n].ms_p50 *= n % 3 == 0 ? 1.02 : 0.99;
        turned.of[rows.count - 1 - n] = rows.of[n];
    }
    struct med_fit a = fitted(&rows);
    struct med_fit b = fitted(&turned);
    CHECK_DOUBLE(a.model.corner, b.model.corner, 0);
    CHECK_DOUBLE(a.model.fixed_ms, b.model.fixed_ms, 0);
    CHECK_DOUBLE(a.model.sequence_us, b.model.sequence_us, 0);
    CHECK_DOUBLE(a.model.bandwidth_bytes_per_s, b.model.bandwidth_bytes_per_s, 0);
    CHECK_DOUBLE(a.model.matrix_flops_per_s, b.model.matrix_flops_per_s, 0);
    CHECK_DOUBLE(a.model.kv_bandwidth_bytes_per_s, b.model.kv_bandwidth_bytes_per_s, 0);
    CHECK_DOUBLE(a.model.attention_flops_per_s, b.model.attention_flops_per_s, 0);
    CHECK_INT(a.error_count, b.error_count);
    for (size_t n = 0; n < a.error_count && n < b.error_count; n++)
        CHECK_DOUBLE(a.errors[n].form_mean, b.errors[n].form_mean, 0);
}

static void test_fit_when_one_row_then_hardware_says_the_rest(void)
{
    struct rows rows = {.count = 0};
    add_row(&rows, &truth, 0, 0, 1, 512);
    struct med_fit fit = fitted(&rows);
    CHECK_INT(fit.unknown, MED_FIT_NO_PREFILL | MED_FIT_NO_ATTENTION | MED_FIT_NO_MIXED);
    CHECK_INT(fit.error_count, 0);
    CHECK(fit.model.fit_error < 0.01);
    check_near(fit.model.matrix_flops_per_s, hardware.matrix_flops_per_s, 1e-3);
    check_near(fit.model.attention_flops_per_s, hardware.matrix_flops_per_s, 1e-6);
    CHECK(fit.model.bandwidth_bytes_per_s > 0.5 * hardware.bandwidth_bytes_per_s);
}

static void test_fit_when_rows_are_collinear_then_still_predicts_them(void)
{
    /* One context: the cost of a sequence and of its keys and values cannot be told apart. */
    struct rows rows = {.count = 0};
    for (int64_t s = 1; s <= 64; s *= 2)
        add_row(&rows, &truth, 0, 0, s, 576);
    struct med_fit fit = fitted(&rows);
    CHECK(fit.unknown & MED_FIT_NO_PREFILL);
    CHECK(fit.model.fit_error < 0.01);
    for (size_t n = 0; n < rows.count; n++)
        check_near(med_step_model_ms(&fit.model, &shape, &rows.of[n]), rows.of[n].ms_p50, 0.02);
}

static void test_fit_when_only_prefills_then_says_what_is_unknown(void)
{
    struct rows rows = {.count = 0};
    for (int64_t p = 64; p <= 4096; p *= 2)
        add_row(&rows, &truth, p, 0, 0, 0);
    struct med_fit fit = fitted(&rows);
    CHECK_INT(fit.unknown & (MED_FIT_NO_DECODE | MED_FIT_NO_MIXED),
              MED_FIT_NO_DECODE | MED_FIT_NO_MIXED);
    check_near(fit.model.kv_bandwidth_bytes_per_s, hardware.bandwidth_bytes_per_s, 1e-6);
    CHECK(fit.model.fit_error < 0.01);
}

static void test_rows_when_not_measurements_then_refused(void)
{
    struct med_fit fit;
    struct med_err err = {0};
    struct rows rows = {.count = 0};
    CHECK_INT(fit_rows(&rows, &fit, &err), MED_E_INVALID);
    CHECK_STR(err.text, "there are no measured steps to fit a model to");
    static const double bad_ms[] = {0, -1, (double)NAN, (double)INFINITY};
    for (size_t n = 0; n < 4; n++) {
        rows.count = 0;
        err = (struct med_err){0};
        add_row(&rows, &truth, 0, 0, 8, 100);
        rows.of[0].ms_p50 = bad_ms[n];
        CHECK_INT(fit_rows(&rows, &fit, &err), MED_E_INVALID);
        CHECK_CONTAINS(err.text, "expected some of either and a time > 0");
    }
    rows.of[0] = (struct med_step_row){.ms_p50 = 1};
    CHECK_INT(fit_rows(&rows, &fit, &err), MED_E_INVALID);
}

static const struct med_step_error *error_of(const struct med_fit *fit, enum med_step_region region)
{
    for (size_t n = 0; n < fit->error_count; n++) {
        if (fit->errors[n].region == region)
            return &fit->errors[n];
    }
    return NULL;
}

/* An engine that the form misses: another kernel from 9 sequences on. */
static void bend_large_batches(struct rows *rows)
{
    for (size_t n = 0; n < rows->count; n++) {
        if (rows->of[n].decode_sequences > 8)
            rows->of[n].ms_p50 += 1.2;
    }
}

static void test_errors_when_form_misses_then_say_where_and_tables_miss_less(void)
{
    struct rows rows = grid_of(&truth);
    bend_large_batches(&rows);
    struct med_fit fit = fitted(&rows);
    CHECK_INT(fit.error_count, MED_STEP_REGION_COUNT);
    int64_t count = 0;
    for (size_t n = 0; n < fit.error_count; n++) {
        const struct med_step_error *error = &fit.errors[n];
        CHECK_INT(error->region, (int)n);
        CHECK(error->form_max >= error->form_mean);
        CHECK(error->table_rows <= error->rows);
        count += error->rows;
    }
    CHECK_INT(count, (int64_t)rows.count);
    const struct med_step_error *large = error_of(&fit, MED_STEP_DECODE_LARGE_SHORT);
    REQUIRE(large && large->table_rows > 0);
    CHECK(large->table_mean < 0.05);
    /* Rows that nobody's neighbours surround: the ends are not in the table's error. */
    const struct med_step_error *small = error_of(&fit, MED_STEP_DECODE_SMALL_SHORT);
    REQUIRE(small != NULL);
    CHECK(small->table_rows < small->rows);
}

/* Both ends of a step: neither is predicted by the other step, so neither counts for the table. */
static void test_errors_when_prefills_are_ends_of_steps_then_tables_are_not_asked(void)
{
    static const int64_t tokens[] = {256, 257, 320, 321, 384, 385};
    struct rows rows = grid_of(&truth);
    struct med_fit before = fitted(&rows);
    for (size_t n = 0; n < sizeof tokens / sizeof tokens[0]; n++) {
        add_row(&rows, &truth, tokens[n], 0, 0, 0);
        rows.of[rows.count - 1].ms_p50 *= n % 2 == 0 ? 1 : 1.4;
    }
    struct med_fit fit = fitted(&rows);
    const struct med_step_error *was = error_of(&before, MED_STEP_PREFILL_SHORT);
    const struct med_step_error *is = error_of(&fit, MED_STEP_PREFILL_SHORT);
    REQUIRE(was && is);
    CHECK_INT(is->rows, was->rows + 5); /* 256 was there */
    CHECK_INT(is->table_rows, was->table_rows);
    CHECK(is->form_max > 0.2);
}

static void test_errors_when_one_row_is_wrong_then_leaving_it_out_finds_it(void)
{
    struct rows rows = grid_of(&truth);
    struct med_fit before = fitted(&rows);
    for (size_t n = 0; n < rows.count; n++) {
        if (rows.of[n].decode_sequences == 8 && rows.of[n].decode_context_tokens == 4096)
            rows.of[n].ms_p50 *= 1.3;
    }
    struct med_fit fit = fitted(&rows);
    const struct med_step_error *was = error_of(&before, MED_STEP_DECODE_SMALL_SHORT);
    const struct med_step_error *is = error_of(&fit, MED_STEP_DECODE_SMALL_SHORT);
    REQUIRE(was && is);
    CHECK(was->form_max < 0.01);
    CHECK(is->form_max > 0.2);
    CHECK(is->table_max > 0.1);
    CHECK(error_of(&fit, MED_STEP_PREFILL_LONG)->form_max < 0.02);
}

static void test_repeats_when_given_then_are_one_row(void)
{
    struct rows rows = grid_of(&truth);
    size_t distinct = rows.count;
    for (size_t n = 0; n < 8; n++) {
        rows.of[rows.count] = rows.of[n];
        rows.of[n].ms_p50 *= 0.99;
        rows.of[rows.count++].ms_p50 *= 1.01;
    }
    struct med_fit fit = fitted(&rows);
    int64_t count = 0;
    for (size_t n = 0; n < fit.error_count; n++)
        count += fit.errors[n].rows;
    CHECK_INT(count, (int64_t)distinct);
    CHECK(fit.model.fit_error < 0.002);
}

int main(void)
{
    RUN(test_fit_when_rows_are_the_form_then_finds_it);
    RUN(test_fit_when_rows_are_noisy_with_outliers_then_stays_near);
    RUN(test_fit_when_rows_come_in_another_order_then_the_same_bits);
    RUN(test_fit_when_one_row_then_hardware_says_the_rest);
    RUN(test_fit_when_rows_are_collinear_then_still_predicts_them);
    RUN(test_fit_when_only_prefills_then_says_what_is_unknown);
    RUN(test_rows_when_not_measurements_then_refused);
    RUN(test_errors_when_form_misses_then_say_where_and_tables_miss_less);
    RUN(test_errors_when_prefills_are_ends_of_steps_then_tables_are_not_asked);
    RUN(test_errors_when_one_row_is_wrong_then_leaving_it_out_finds_it);
    RUN(test_repeats_when_given_then_are_one_row);
    return check_finish();
}
