/* SPDX-License-Identifier: Apache-2.0 */
/* The latency model where nothing but the form is known: its terms one by one, pairs over chunks, what
 * published rows cover. test_latency_table is about measured rows. */
#include "profiles/latency.h"

#include "profiles/profile.h"
#include "tests/check.h"

/* Round numbers: weights 10 ms, matrix 1 ms per token, KV 0.001 ms per token, pairs 1e-4 ms. */
static struct med_source sources[] = {{.id = (char[]){"m"}, .kind = MED_SOURCE_PUBLISHED},
                                      {.id = (char[]){"f"}, .kind = MED_SOURCE_MODELLED}};
static struct med_step_row steps[] = {
    {.decode_sequences = 8, .decode_context_tokens = 8000, .ms_p50 = 20, .source = 0},
    {.decode_sequences = 1, .decode_context_tokens = 3000, .ms_p50 = 15, .source = 0},
    {.prefill_tokens = 512, .prefill_context = 4000, .ms_p50 = 500, .source = 0},
    {.decode_sequences = 60, .decode_context_tokens = 60, .ms_p50 = 30, .source = 1},
};

static char worker_type[] = "w";

static struct med_profile profile(void)
{
    return (struct med_profile){
        .worker_type = worker_type,
        .model = {.parameters = 5e6,
                  .layers = 10,
                  .heads = 5,
                  .head_dim = 50,
                  .weight_bytes = 1e6,
                  .kv_bytes_per_token = 100},
        .limits = {.model_len_max = 4096,
                   .sequences_max = 64,
                   .batched_tokens_max = 1024,
                   .block_tokens = 16,
                   .kv_tokens = 65536},
        .has_step_model = true,
        .step_model = {.fixed_ms = 2,
                       .sequence_us = 500,
                       .bandwidth_bytes_per_s = 1e8,
                       .matrix_flops_per_s = 1e10,
                       .kv_bandwidth_bytes_per_s = 1e8,
                       .attention_flops_per_s = 1e11},
        .sources = sources,
        .source_count = 2,
        .steps = steps,
        .step_count = sizeof steps / sizeof steps[0],
    };
}

static struct med_latency latency(void)
{
    struct med_profile p = profile();
    struct med_latency l;
    REQUIRE(med_latency_init(&l, &p, NULL) == 0);
    return l;
}

static double step_ms(int64_t prefill, int64_t pairs, int64_t sequences, int64_t context)
{
    struct med_latency l = latency();
    struct med_step_load load = {prefill, pairs, sequences, context};
    return med_latency_step_ms(&l, &load);
}

static void test_step_when_computed_then_follows_the_formula(void)
{
    CHECK_DOUBLE(step_ms(0, 0, 0, 0), 0, 0);
    /* fixed + one sequence + weights */
    CHECK_DOUBLE(step_ms(0, 0, 1, 0), 2 + 0.5 + 10, 1e-9);
    /* the KV term */
    CHECK_DOUBLE(step_ms(0, 0, 4, 5000), 2 + 2 + 10 + 5, 1e-9);
    /* up to 10 tokens the weights hide the matrix work, beyond it they do not */
    CHECK_DOUBLE(step_ms(10, 0, 0, 0), 2 + 10, 1e-9);
    CHECK_DOUBLE(step_ms(11, 0, 0, 0), 2 + 11, 1e-9);
    CHECK_DOUBLE(step_ms(100, 0, 20, 0), 2 + 10 + 120, 1e-9);
    /* a decode that goes on grows by its keys and values, for ever */
    struct med_latency l = latency();
    struct med_latency_run run = med_latency_decode_run(&l, 4, 5000);
    CHECK_DOUBLE(run.first_ms, 2 + 2 + 10 + 5, 1e-9);
    CHECK_DOUBLE(run.growth_ms, 4e-3, 1e-12);
    CHECK_INT(run.count, INT64_MAX);
    /* 4 * 10 * 5 * 50 = 1e4 operations per pair */
    CHECK_DOUBLE(step_ms(100, 5050, 0, 0), 2 + 100 + 5050 * 1e-4, 1e-9);
}

static void test_corner_when_rounded_then_between_maximum_and_sum(void)
{
    struct med_profile p = profile();
    struct med_latency l;
    p.step_model.corner = 0.5;
    REQUIRE(med_latency_init(&l, &p, NULL) == 0);
    struct med_step_load equal = {.prefill_tokens = 10}; /* 10 ms of weights, 10 of products */
    struct med_step_load few = {.prefill_tokens = 1};
    CHECK_DOUBLE(med_latency_step_ms(&l, &equal), 2 + 15, 1e-9);
    CHECK_DOUBLE(med_latency_step_ms(&l, &few), 2 + 0.5 * (11 + sqrt(81 + 10)), 1e-9);
    p.step_model.corner = 1;
    REQUIRE(med_latency_init(&l, &p, NULL) == 0);
    CHECK_DOUBLE(med_latency_step_ms(&l, &equal), 2 + 20, 1e-9);
}

static void test_step_when_any_load_grows_then_time_does_not_fall(void)
{
    double before = 0;
    for (int64_t i = 1; i < 2000; i += 7) {
        double now = step_ms(i, med_step_pairs(i, i), i, i * i);
        CHECK(now >= before);
        before = now;
    }
}

static void test_pairs_when_prompt_is_cut_then_the_chunks_sum_up(void)
{
    CHECK_INT(med_step_pairs(0, 100), 0);
    CHECK_INT(med_step_pairs(1, 0), 1);
    CHECK_INT(med_step_pairs(4, 0), 10);
    CHECK_INT(med_step_pairs(3, 5), 15 + 6);
    const int64_t whole = med_step_pairs(1000, 0);
    for (int64_t chunk = 1; chunk <= 1000; chunk += 37) {
        int64_t sum = 0;
        for (int64_t done = 0; done < 1000; done += chunk) {
            int64_t tokens = 1000 - done < chunk ? 1000 - done : chunk;
            sum += med_step_pairs(tokens, done);
        }
        CHECK_INT(sum, whole);
    }
}

static void test_coverage_when_asked_then_only_published_rows_count(void)
{
    struct med_latency l = latency();
    CHECK_INT(l.covered_sequences, 8);
    CHECK_INT(l.covered_context, 3000);
    CHECK_INT(l.covered_prefill_tokens, 512);
    CHECK_INT(med_latency_coverage(&l, 8, 1000, 0), MED_COVERAGE_MEASURED);
    CHECK_INT(med_latency_coverage(&l, 8, 1000, 512), MED_COVERAGE_MEASURED);
    CHECK_INT(med_latency_coverage(&l, 0, 4000, 512), MED_COVERAGE_MEASURED);
    CHECK_INT(med_latency_coverage(&l, 9, 1000, 0), MED_COVERAGE_MODELLED);
    /* No row has both eight sequences and more than 1,000 tokens each. */
    CHECK_INT(med_latency_coverage(&l, 8, 1001, 0), MED_COVERAGE_MODELLED);
    CHECK_INT(med_latency_coverage(&l, 2, 3000, 0), MED_COVERAGE_MODELLED);
    CHECK_INT(med_latency_coverage(&l, 1, 3001, 0), MED_COVERAGE_MODELLED);
    CHECK_INT(med_latency_coverage(&l, 1, 100, 513), MED_COVERAGE_MODELLED);
    CHECK_INT(med_latency_coverage(&l, 64, 100, 0), MED_COVERAGE_MODELLED);
}

static void test_coverage_when_beyond_the_engine_then_outside(void)
{
    struct med_latency l = latency();
    CHECK_INT(med_latency_coverage(&l, 65, 100, 0), MED_COVERAGE_OUTSIDE);
    CHECK_INT(med_latency_coverage(&l, 1, 4097, 0), MED_COVERAGE_OUTSIDE);
    CHECK_INT(med_latency_coverage(&l, 0, 0, 1025), MED_COVERAGE_OUTSIDE);
    CHECK_INT(med_latency_coverage(&l, 24, 100, 1001), MED_COVERAGE_OUTSIDE);
    CHECK_INT(med_latency_coverage(&l, 64, 1025, 0), MED_COVERAGE_OUTSIDE); /* KV tokens */
    CHECK_INT(med_latency_coverage(&l, -1, 100, 0), MED_COVERAGE_OUTSIDE);
    CHECK_INT(med_latency_coverage(&l, 1, -1, 0), MED_COVERAGE_OUTSIDE);
    CHECK_INT(med_latency_coverage(&l, 1, 1, -1), MED_COVERAGE_OUTSIDE);
    CHECK_INT(med_latency_coverage(&l, INT64_MAX, INT64_MAX, INT64_MAX), MED_COVERAGE_OUTSIDE);
}

static void test_profile_without_steps_when_compiled_then_uncovered(void)
{
    struct med_profile p = profile();
    struct med_latency l;
    struct med_err err = {0};
    p.has_step_model = false;
    CHECK_INT(med_latency_init(&l, &p, &err), MED_E_UNCOVERED);
    CHECK_STR(err.text, "the profile of worker type w has serving points but no step model, so its "
                        "iteration times are not known");
}

int main(void)
{
    RUN(test_step_when_computed_then_follows_the_formula);
    RUN(test_corner_when_rounded_then_between_maximum_and_sum);
    RUN(test_step_when_any_load_grows_then_time_does_not_fall);
    RUN(test_pairs_when_prompt_is_cut_then_the_chunks_sum_up);
    RUN(test_coverage_when_asked_then_only_published_rows_count);
    RUN(test_coverage_when_beyond_the_engine_then_outside);
    RUN(test_profile_without_steps_when_compiled_then_uncovered);
    return check_finish();
}
