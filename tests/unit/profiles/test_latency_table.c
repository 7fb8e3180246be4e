/* SPDX-License-Identifier: Apache-2.0 */
/* The latency model over measured steps: exact at them, rising, continuous and honest about what they
 * cover, over random tables. The seed is MEDLEY_TEST_SEED. */
#include "profiles/latency.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "profiles/profile.h"
#include "tests/check.h"

#include <math.h>

enum {
    STEPS_MAX = 1024,
    TABLES = 60,
    PROBES = 200
};

static struct med_source sources[] = {{.id = (char[]){"m"}, .kind = MED_SOURCE_MEASURED}};
static struct med_step_row steps[STEPS_MAX];
static char worker_type[] = "w";

static struct med_profile empty_profile(void)
{
    return (struct med_profile){
        .worker_type = worker_type,
        .model = {.parameters = 5e9,
                  .layers = 32,
                  .heads = 32,
                  .head_dim = 128,
                  .weight_bytes = 1e10,
                  .kv_bytes_per_token = 5e5},
        .limits = {.model_len_max = 8192,
                   .sequences_max = 512,
                   .batched_tokens_max = 8192,
                   .block_tokens = 16,
                   .kv_tokens = 262144},
        .has_step_model = true,
        .step_model = {.corner = 0.4,
                       .fixed_ms = 0.5,
                       .sequence_us = 10,
                       .bandwidth_bytes_per_s = 2e12,
                       .matrix_flops_per_s = 5e14,
                       .kv_bandwidth_bytes_per_s = 2e12,
                       .attention_flops_per_s = 2e14},
        .sources = sources,
        .source_count = 1,
        .steps = steps,
    };
}

static void add_step(struct med_profile *p, int64_t prefill, int64_t prefix, int64_t sequences,
                     int64_t context, double ms)
{
    REQUIRE(p->step_count < STEPS_MAX);
    steps[p->step_count++] = (struct med_step_row){.prefill_tokens = prefill,
                                                   .prefill_context = prefix,
                                                   .decode_sequences = sequences,
                                                   .decode_context_tokens = sequences * context,
                                                   .ms_p50 = ms,
                                                   .ms_p99 = (double)NAN};
}

static struct med_latency compiled(const struct med_profile *p)
{
    struct med_latency l;
    REQUIRE(med_latency_init(&l, p, NULL) == 0);
    return l;
}

static double load_ms(const struct med_latency *l, int64_t prefill, int64_t prefix,
                      int64_t sequences, int64_t context)
{
    struct med_step_load load = {.prefill_tokens = prefill,
                                 .prefill_pairs = med_step_pairs(prefill, prefix),
                                 .decode_sequences = sequences,
                                 .decode_context_tokens = sequences * context};
    return med_latency_step_ms(l, &load);
}

static const int64_t sequence_knots[] = {1, 2, 4, 8, 9, 16, 32, 64, 128, 200, 256};
static const int64_t context_knots[] = {16, 100, 128, 512, 1000, 2048, 4096};
static const int64_t prefill_knots[] = {8, 16, 64, 100, 256, 512, 1024, 2048, 4096};
static const int64_t prefix_knots[] = {0, 128, 1024, 4000};
enum {
    SEQUENCE_KNOTS = 11,
    CONTEXT_KNOTS = 7,
    PREFILL_KNOTS = 9,
    PREFIX_KNOTS = 4
};

/* Some cells of a grid, with times that rise along both axes by random amounts; every row has one. */
static void draw_part(struct med_rng *rng, struct med_profile *p, const int64_t *rows,
                      int row_count, const int64_t *columns, int column_count, bool decodes)
{
    double ms[16][16] = {{0}};
    for (int i = 0; i < row_count; i++) {
        bool keep_row = med_rng_below(rng, 4) != 0;
        for (int j = 0; j < column_count; j++) {
            double before = fmax(i > 0 ? ms[i - 1][j] : 2.0, j > 0 ? ms[i][j - 1] : 2.0);
            ms[i][j] = before + (med_rng_below(rng, 5) == 0 ? 0 : med_rng_exponential(rng, 1.0));
            if (!keep_row || med_rng_below(rng, 3) == 0)
                continue;
            add_step(p, decodes ? 0 : rows[i], decodes ? 0 : columns[j], decodes ? rows[i] : 0,
                     decodes ? columns[j] : 0, ms[i][j]);
        }
    }
}

static struct med_profile draw(struct med_rng *rng)
{
    struct med_profile p = empty_profile();
    draw_part(rng, &p, sequence_knots, SEQUENCE_KNOTS, context_knots, CONTEXT_KNOTS, true);
    draw_part(rng, &p, prefill_knots, PREFILL_KNOTS, prefix_knots, PREFIX_KNOTS, false);
    for (int n = 0; n < 5; n++) {
        add_step(&p, 1 + med_rng_below(rng, 2000), 0, 1 + med_rng_below(rng, 256), 300,
                 5 + med_rng_exponential(rng, 20));
    }
    return p;
}

static void test_time_when_measured_then_exactly_that(void)
{
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 1);
    for (int table = 0; table < TABLES; table++) {
        struct med_profile p = draw(&rng);
        struct med_latency l = compiled(&p);
        for (size_t n = 0; n < p.step_count; n++) {
            const struct med_step_row *row = &p.steps[n];
            if (row->prefill_tokens > 0 && row->decode_sequences > 0)
                continue;
            struct med_step_load load = {row->prefill_tokens,
                                         med_step_pairs(row->prefill_tokens, row->prefill_context),
                                         row->decode_sequences, row->decode_context_tokens};
            CHECK_DOUBLE(med_latency_step_ms(&l, &load), row->ms_p50, 1e-9 * row->ms_p50);
        }
    }
}

static void test_time_when_load_grows_then_does_not_fall(void)
{
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 2);
    for (int table = 0; table < TABLES; table++) {
        struct med_profile p = draw(&rng);
        for (size_t n = 0; n < p.step_count; n++) /* and with noise that breaks the order */
            steps[n].ms_p50 *= 1 + 0.1 * (table % 2) * med_rng_uniform(&rng);
        struct med_latency l = compiled(&p);
        for (int probe = 0; probe < PROBES; probe++) {
            int64_t prefill = med_rng_below(&rng, 3) == 0 ? 0 : med_rng_below(&rng, 8000);
            int64_t prefix = med_rng_below(&rng, 8000);
            int64_t sequences = 1 + med_rng_below(&rng, 400);
            int64_t context = med_rng_below(&rng, 6000);
            int64_t more = 1 + med_rng_below(&rng, 300);
            double ms = load_ms(&l, prefill, prefix, sequences, context);
            double least = ms * (1 - 1e-12);
            CHECK(ms > 0);
            CHECK(load_ms(&l, prefill + more, prefix, sequences, context) >= least);
            CHECK(load_ms(&l, prefill, prefix + more, sequences, context) >= least);
            CHECK(load_ms(&l, prefill, prefix, sequences + more, context) >= least);
            CHECK(load_ms(&l, prefill, prefix, sequences, context + more) >= least);
            if (prefill > 0) {
                CHECK(ms >= load_ms(&l, 0, 0, sequences, context) * (1 - 1e-12));
                CHECK(ms >= load_ms(&l, prefill, prefix, 0, 0) * (1 - 1e-12));
            }
        }
    }
}

/* From one token to the next, times move by no more than a neighbouring pair of knots allows. */
static void test_time_when_one_token_more_then_no_jump(void)
{
    struct med_profile p = empty_profile();
    for (int i = 0; i < SEQUENCE_KNOTS; i++) {
        for (int j = 0; j < CONTEXT_KNOTS; j++) {
            double ms = 5 + 0.05 * (double)sequence_knots[i];
            ms += 1e-4 * (double)(sequence_knots[i] * context_knots[j]);
            add_step(&p, 0, 0, sequence_knots[i], context_knots[j], ms);
        }
    }
    for (int i = 0; i < PREFILL_KNOTS; i++)
        add_step(&p, prefill_knots[i], 0, 0, 0, 5 + 0.02 * (double)prefill_knots[i]);
    struct med_latency l = compiled(&p);
    for (int64_t context = 0; context < 8000; context += 1) { /* over the edge at 4,096 */
        double ms = load_ms(&l, 0, 0, 40, context);
        double next = load_ms(&l, 0, 0, 40, context + 1);
        CHECK(next >= ms && next - ms < 0.012);
    }
    for (int64_t sequences = 1; sequences < 400; sequences++) { /* at 256 */
        double ms = load_ms(&l, 0, 0, sequences, 700);
        double next = load_ms(&l, 0, 0, sequences + 1, 700);
        CHECK(next >= ms && next - ms < 0.25);
    }
    for (int64_t tokens = 1; tokens < 8000; tokens++) { /* at 4,096 */
        double alone = load_ms(&l, tokens + 1, 0, 0, 0) - load_ms(&l, tokens, 0, 0, 0);
        double beside = load_ms(&l, tokens + 1, 0, 64, 500) - load_ms(&l, tokens, 0, 64, 500);
        CHECK(alone >= 0 && alone < 0.05);
        CHECK(beside >= 0 && beside < 0.05);
    }
}

static void test_time_between_when_surface_is_physical_then_exact(void)
{
    /* a + b S + c D: what reading weights, keys and values costs. */
    struct med_profile p = empty_profile();
    for (int i = 0; i < SEQUENCE_KNOTS; i++) {
        for (int j = 0; j < CONTEXT_KNOTS; j += 1 + i % 3) {
            double ms = 4 + 0.03 * (double)sequence_knots[i];
            ms += 2.5e-4 * (double)(sequence_knots[i] * context_knots[j]);
            add_step(&p, 0, 0, sequence_knots[i], context_knots[j], ms);
        }
    }
    struct med_latency l = compiled(&p);
    for (int64_t sequences = 1; sequences <= 256; sequences += 5) {
        for (int64_t context = 16; context <= 4096; context += 97) {
            double want = 4 + 0.03 * (double)sequences + 2.5e-4 * (double)(sequences * context);
            if (med_latency_coverage(&l, sequences, context, 0) == MED_COVERAGE_MEASURED)
                CHECK_DOUBLE(load_ms(&l, 0, 0, sequences, context), want, 1e-9 * want);
        }
    }
    CHECK_INT(med_latency_coverage(&l, 60, 2000, 0), MED_COVERAGE_MEASURED);
}

static void test_run_when_decodes_go_on_then_every_step_is_the_predicted_one(void)
{
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 3);
    for (int table = 0; table < TABLES; table++) {
        struct med_profile p = draw(&rng);
        struct med_latency l = compiled(&p);
        int64_t sequences = 1 + med_rng_below(&rng, 300);
        int64_t tokens = sequences + med_rng_below(&rng, 100000);
        for (int part = 0; part < 12; part++) {
            struct med_latency_run run = med_latency_decode_run(&l, sequences, tokens);
            CHECK(run.count >= 1 && run.growth_ms >= 0);
            int64_t count = run.count < 500 ? run.count : 500;
            for (int64_t k = 0; k < count; k += 1 + count / 20) {
                struct med_step_load load = {.decode_sequences = sequences,
                                             .decode_context_tokens = tokens + k * sequences};
                double ms = med_latency_step_ms(&l, &load);
                CHECK_DOUBLE(run.first_ms + (double)k * run.growth_ms, ms, 1e-9 * ms);
            }
            tokens += count * sequences;
        }
    }
}

static void test_coverage_when_between_measured_then_measured_and_beyond_then_not(void)
{
    struct med_profile p = empty_profile();
    add_step(&p, 0, 0, 1, 128, 5);
    add_step(&p, 0, 0, 1, 4000, 6);
    add_step(&p, 0, 0, 64, 128, 8);
    add_step(&p, 0, 0, 64, 1000, 14);
    add_step(&p, 0, 0, 16, 300, 7); /* one context alone */
    add_step(&p, 128, 0, 0, 0, 8);
    add_step(&p, 1024, 0, 0, 0, 30);
    add_step(&p, 512, 0, 32, 500, 21);
    struct med_latency l = compiled(&p);
    CHECK_INT(med_latency_coverage(&l, 1, 4000, 0), MED_COVERAGE_MEASURED);
    CHECK_INT(med_latency_coverage(&l, 1, 4001, 0), MED_COVERAGE_MODELLED);
    CHECK_INT(med_latency_coverage(&l, 1, 10, 0), MED_COVERAGE_MEASURED); /* near nothing */
    CHECK_INT(med_latency_coverage(&l, 64, 1000, 0), MED_COVERAGE_MEASURED);
    CHECK_INT(med_latency_coverage(&l, 65, 100, 0), MED_COVERAGE_MODELLED);
    CHECK_INT(med_latency_coverage(&l, 40, 300, 0), MED_COVERAGE_MEASURED);
    CHECK_INT(med_latency_coverage(&l, 40, 301, 0), MED_COVERAGE_MODELLED);
    CHECK_INT(med_latency_coverage(&l, 40, 299, 0), MED_COVERAGE_MODELLED); /* 16 have 300 alone */
    CHECK_INT(med_latency_coverage(&l, 2, 300, 0), MED_COVERAGE_MEASURED);
    CHECK_INT(med_latency_coverage(&l, 0, 0, 1024), MED_COVERAGE_MEASURED);
    CHECK_INT(med_latency_coverage(&l, 0, 0, 3), MED_COVERAGE_MEASURED);
    CHECK_INT(med_latency_coverage(&l, 0, 0, 1025), MED_COVERAGE_MODELLED);
    CHECK_INT(med_latency_coverage(&l, 16, 300, 512), MED_COVERAGE_MEASURED);
    CHECK_INT(med_latency_coverage(&l, 16, 300, 513), MED_COVERAGE_MODELLED);
    CHECK_INT(med_latency_coverage(&l, 64, 128, 512), MED_COVERAGE_MODELLED);
    CHECK_INT(med_latency_coverage(&l, 1, 8193, 0), MED_COVERAGE_OUTSIDE);
    /* Never a batch smaller than any that was measured. */
    p.step_count = 0;
    add_step(&p, 0, 0, 64, 128, 8);
    l = compiled(&p);
    CHECK_INT(med_latency_coverage(&l, 64, 128, 0), MED_COVERAGE_MEASURED);
    CHECK_INT(med_latency_coverage(&l, 63, 128, 0), MED_COVERAGE_MODELLED);
}

/* With no row of its own, every kind of load is the form's. */
static void test_time_when_nothing_of_a_kind_was_measured_then_the_form(void)
{
    struct med_profile p = empty_profile();
    struct med_latency form = compiled(&p);
    for (int64_t tokens = 16; tokens <= 4096; tokens *= 2)
        add_step(&p, tokens, 0, 0, 0, load_ms(&form, tokens, 0, 0, 0));
    struct med_latency l = compiled(&p);
    CHECK_DOUBLE(load_ms(&l, 0, 0, 33, 700), load_ms(&form, 0, 0, 33, 700), 1e-9);
    CHECK_DOUBLE(load_ms(&l, 512, 0, 33, 700), load_ms(&form, 512, 0, 33, 700), 1e-9);
}

/* Costs of a sequence as of our engine, and as of one that spends most of a step on them. */
static void check_mixed(double sequence_us)
{
    /* The form's own times, but prefill beside decodes takes 2 ms more. */
    struct med_profile p = empty_profile();
    p.step_model.sequence_us = sequence_us;
    struct med_latency form = compiled(&p);
    for (int64_t s = 1; s <= 256; s *= 2) {
        for (int64_t c = 128; c <= 4096; c *= 2)
            add_step(&p, 0, 0, s, c, load_ms(&form, 0, 0, s, c));
    }
    for (int64_t tokens = 16; tokens <= 4096; tokens *= 2)
        add_step(&p, tokens, 0, 0, 0, load_ms(&form, tokens, 0, 0, 0));
    struct med_latency without = compiled(&p);
    CHECK_DOUBLE(load_ms(&without, 512, 0, 32, 512), load_ms(&form, 512, 0, 32, 512), 0.1);
    for (int64_t tokens = 64; tokens <= 1024; tokens *= 4) {
        for (int64_t s = 8; s <= 128; s *= 4)
            add_step(&p, tokens, 0, s, 512, 2 + load_ms(&form, tokens, 0, s, 512));
    }
    struct med_latency l = compiled(&p);
    for (size_t n = 0; n < p.step_count; n++) {
        const struct med_step_row *row = &steps[n];
        if (row->prefill_tokens > 0 && row->decode_sequences > 0) {
            double ms = load_ms(&l, row->prefill_tokens, 0, row->decode_sequences, 512);
            CHECK_DOUBLE(ms / row->ms_p50, 1, 0.02);
        }
    }
    double want = 2 + load_ms(&form, 256, 0, 64, 1024);
    CHECK_DOUBLE(load_ms(&l, 256, 0, 64, 1024), want, 0.03 * want);
    /* Where no mixed step was measured, prefills and what the measured ones take more. */
    want = 2 + load_ms(&form, 4096, 0, 64, 1024);
    CHECK_DOUBLE(load_ms(&l, 4096, 0, 64, 1024), want, 0.03 * want);
    want = 2 + load_ms(&form, 16, 0, 4, 1024);
    CHECK_DOUBLE(load_ms(&l, 16, 0, 4, 1024), want, 0.05 * want);
}

static void test_mixed_when_measured_then_met_and_used_between(void)
{
    check_mixed(10);
    check_mixed(600);
}

static void test_several_prompts_when_in_one_step_then_less_than_one_long(void)
{
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 5);
    struct med_profile p = draw(&rng);
    struct med_latency l = compiled(&p);
    struct med_step_load one = {.prefill_tokens = 2048, .prefill_pairs = med_step_pairs(2048, 0)};
    struct med_step_load four = {.prefill_tokens = 2048,
                                 .prefill_pairs = 4 * med_step_pairs(512, 0)};
    CHECK(med_latency_step_ms(&l, &four) < med_latency_step_ms(&l, &one));
    CHECK(med_latency_step_ms(&l, &four) > 0);
}

static void test_rows_when_each_has_contexts_of_its_own_then_all_are_met(void)
{
    /* As a profiler measures: up to what the KV cache holds for that many, off by some tokens. */
    struct med_profile p = empty_profile();
    int64_t at = 0;
    for (int64_t s = 1; s <= 256; s *= 2) {
        for (int64_t c = 64; c <= 200000 / s; c *= 2) {
            at++;
            add_step(&p, 0, 0, s, c + at, 4 + 0.03 * (double)s + 2.5e-4 * (double)(s * (c + at)));
        }
        at++;
        int64_t longest = 210000 / s;
        add_step(&p, 0, 0, s, longest, 4 + 0.03 * (double)s + 2.5e-4 * (double)(s * longest));
    }
    struct med_latency l = compiled(&p);
    for (size_t n = 0; n < p.step_count; n++) {
        struct med_step_load load = {.decode_sequences = steps[n].decode_sequences,
                                     .decode_context_tokens = steps[n].decode_context_tokens};
        CHECK_DOUBLE(med_latency_step_ms(&l, &load), steps[n].ms_p50, 1e-9);
    }
    /* And no row needs the others' knots. */
    CHECK(l.decode.begin[l.decode.row_count] <= (int64_t)p.step_count + 2 * l.decode.row_count);
}

static void test_rows_when_too_many_for_a_table_then_ends_stay_and_times_rise(void)
{
    struct med_profile p = empty_profile();
    for (int64_t s = 1; s <= 200; s++) {
        for (int64_t c = 0; c < 4; c++)
            add_step(&p, 0, 0, s, 500 * c, 5 + (double)(s + c));
    }
    for (int64_t c = 0; c < 60; c++) /* the only ones with so many contexts */
        add_step(&p, 0, 0, 201, 100 + 31 * c, 210 + (double)c / 20);
    struct med_latency l = compiled(&p);
    CHECK_INT(l.decode.row_count, MED_LATENCY_ROWS - 1);
    CHECK_DOUBLE(l.decode.rows[0], 1, 0);
    CHECK_DOUBLE(l.decode.rows[MED_LATENCY_ROWS - 2], 201, 0);
    double before = 0;
    for (int64_t s = 1; s <= 195; s++) {
        double ms = load_ms(&l, 0, 0, s, 1500);
        CHECK(ms >= before);
        CHECK_DOUBLE(ms, 5 + (double)s + 3, 2.5);
        before = ms;
    }
    /* Points without order, each at a context of its own: as many as there is room for. */
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 7);
    p.step_count = 0;
    for (int n = 0; n < STEPS_MAX; n++) {
        add_step(&p, 0, 0, 1 + med_rng_below(&rng, 256), med_rng_below(&rng, 8000),
                 1 + med_rng_exponential(&rng, 5));
    }
    l = compiled(&p);
    CHECK(l.decode.begin[l.decode.row_count] <= MED_LATENCY_KNOTS);
    CHECK(load_ms(&l, 0, 0, 200, 4000) >= load_ms(&l, 0, 0, 100, 2000));
}

static void test_memory_when_none_then_said(void)
{
    struct med_profile p = empty_profile();
    struct med_latency l;
    struct med_err err = {0};
    add_step(&p, 0, 0, 1, 128, 5);
    int64_t live = med_alloc_bytes_live();
    for (uint64_t n = 1; n <= 17; n++) {
        (void)med_alloc_fail_nth(n);
        CHECK_INT(med_latency_init(&l, &p, &err), MED_E_NOMEM);
        (void)med_alloc_fail_nth(0);
        CHECK_STR(err.text, "no memory for the latency model of worker type w");
        CHECK_INT(med_alloc_bytes_live(), live);
    }
    CHECK_INT(med_latency_init(&l, &p, &err), 0);
}

int main(void)
{
    RUN(test_time_when_measured_then_exactly_that);
    RUN(test_time_when_load_grows_then_does_not_fall);
    RUN(test_time_when_one_token_more_then_no_jump);
    RUN(test_time_between_when_surface_is_physical_then_exact);
    RUN(test_run_when_decodes_go_on_then_every_step_is_the_predicted_one);
    RUN(test_coverage_when_between_measured_then_measured_and_beyond_then_not);
    RUN(test_time_when_nothing_of_a_kind_was_measured_then_the_form);
    RUN(test_mixed_when_measured_then_met_and_used_between);
    RUN(test_several_prompts_when_in_one_step_then_less_than_one_long);
    RUN(test_rows_when_each_has_contexts_of_its_own_then_all_are_met);
    RUN(test_rows_when_too_many_for_a_table_then_ends_stay_and_times_rise);
    RUN(test_memory_when_none_then_said);
    return check_finish();
}
