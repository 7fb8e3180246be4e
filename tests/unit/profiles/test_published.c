/* SPDX-License-Identifier: Apache-2.0 */
/* The shipped step models, asked over the whole grid of loads and beyond: what they say is covered lies
 * under a published row, what the engine cannot hold is outside, and times are finite and rise. */
#include "profiles/latency.h"

#include "profiles/profile.h"
#include "tests/check.h"

static const char *const names[] = {"l4", "a10g", "a100-40gb", "a100-80gb", "h100"};

static struct med_profile shipped(const char *name)
{
    char path[128];
    struct med_profile profile;
    struct med_err err = {0};
    (void)snprintf(path, sizeof path, "profiles/published/%s-llama-2-7b-fp16.json", name);
    if (med_profile_read_file(path, &profile, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.text);
        REQUIRE(false);
    }
    return profile;
}

/* Some published row decodes at least as many sequences of at least this context. */
static bool decode_published(const struct med_profile *p, int64_t sequences, int64_t context)
{
    for (size_t n = 0; n < p->step_count; n++) {
        const struct med_step_row *row = &p->steps[n];
        if (p->sources[row->source].kind == MED_SOURCE_PUBLISHED &&
            row->decode_sequences >= sequences &&
            row->decode_context_tokens >= context * row->decode_sequences)
            return true;
    }
    return false;
}

static bool prefill_published(const struct med_profile *p, int64_t tokens)
{
    for (size_t n = 0; n < p->step_count; n++) {
        if (p->sources[p->steps[n].source].kind == MED_SOURCE_PUBLISHED &&
            p->steps[n].prefill_tokens >= tokens)
            return true;
    }
    return tokens == 0;
}

static bool fits(const struct med_engine_limits *limits, int64_t sequences, int64_t context,
                 int64_t prefill)
{
    return sequences <= limits->sequences_max && context <= limits->model_len_max &&
           sequences + prefill <= limits->batched_tokens_max &&
           sequences * context <= limits->kv_tokens;
}

static const int64_t sequences[] = {0,  1,  2,  3,   6,   12,  13,  25,
                                    48, 49, 64, 128, 255, 256, 257, 1000};
static const int64_t contexts[] = {1,    25,   100,  250,   500,   754,   946,   1000, 2000,
                                   4000, 8000, 8001, 12000, 16000, 18432, 18433, 40000};
static const int64_t prefills[] = {0, 1, 100, 250, 500, 874, 875, 1000, 2000, 2048, 2049, 16000};
enum {
    SEQUENCES = sizeof sequences / sizeof sequences[0],
    CONTEXTS = sizeof contexts / sizeof contexts[0],
    PREFILLS = sizeof prefills / sizeof prefills[0]
};

static void ask_everywhere(const struct med_profile *p, int64_t counts[3])
{
    struct med_latency l;
    REQUIRE(med_latency_init(&l, p, NULL) == 0);
    for (int s = 0; s < SEQUENCES; s++) {
        for (int c = 0; c < CONTEXTS; c++) {
            double before = 0;
            for (int n = 0; n < PREFILLS; n++) {
                enum med_coverage coverage =
                    med_latency_coverage(&l, sequences[s], contexts[c], prefills[n]);
                bool published =
                    prefill_published(p, prefills[n]) &&
                    (sequences[s] == 0 || decode_published(p, sequences[s], contexts[c]));
                bool inside = fits(&p->limits, sequences[s], contexts[c], prefills[n]);
                CHECK_INT(coverage, !inside     ? MED_COVERAGE_OUTSIDE
                                    : published ? MED_COVERAGE_MEASURED
                                                : MED_COVERAGE_MODELLED);
                if (sequences[s] > 0 || prefills[n] > 0)
                    counts[coverage]++;
                struct med_step_load load = {prefills[n], med_step_pairs(prefills[n], contexts[c]),
                                             sequences[s], sequences[s] * contexts[c]};
                double ms = med_latency_step_ms(&l, &load);
                CHECK(isfinite(ms) && ms >= before);
                before = ms;
            }
        }
    }
}

static void test_coverage_when_asked_everywhere_then_nothing_is_extrapolated_silently(void)
{
    for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) {
        struct med_profile p = shipped(names[n]);
        int64_t counts[3] = {0};
        ask_everywhere(&p, counts);
        bool tied = strcmp(names[n], "l4") == 0 || strcmp(names[n], "a100-80gb") == 0;
        bool prefills_too = strcmp(names[n], "a100-40gb") == 0 || strcmp(names[n], "h100") == 0;
        CHECK(counts[MED_COVERAGE_MODELLED] > 0 && counts[MED_COVERAGE_OUTSIDE] > 0);
        CHECK(counts[MED_COVERAGE_MEASURED] > (prefills_too ? 100 : tied ? -1 : 10));
        CHECK(!tied || counts[MED_COVERAGE_MEASURED] == 0);
        med_profile_release(&p);
    }
}

/* What a plan says of a modelled cell names what was left out of the fit. */
static void test_errors_when_said_then_name_the_sets_that_were_left_out(void)
{
    static const char *const against[] = {"accelmark", "sagemaker", "anl-vllm", "accelmark",
                                          "anl-trtllm"};
    for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) {
        struct med_profile p = shipped(names[n]);
        char said[1024];
        med_profile_say_errors(&p, MED_STEP_REGIONS_ALL, said, sizeof said);
        CHECK_CONTAINS(said, against[n]);
        med_profile_release(&p);
    }
}

/* A recorded profile gives back what was measured. */
static void test_recorded_when_asked_at_its_points_then_measured(void)
{
    struct med_profile p;
    struct med_latency latency;
    struct med_err err = {0};
    int alone = 0;
    REQUIRE(med_profile_read_file("profiles/recorded/h100-llama-2-7b-bf16.json", &p, &err) == 0);
    REQUIRE(med_latency_init(&latency, &p, &err) == 0);
    for (size_t n = 0; n < p.step_count; n++) {
        const struct med_step_row *row = &p.steps[n];
        struct med_step_load load = {.prefill_tokens = row->prefill_tokens,
                                     .prefill_pairs =
                                         med_step_pairs(row->prefill_tokens, row->prefill_context),
                                     .decode_sequences = row->decode_sequences,
                                     .decode_context_tokens = row->decode_context_tokens};
        if (row->prefill_tokens > 0 && row->decode_sequences > 0)
            continue;
        double ms = med_latency_step_ms(&latency, &load);
        CHECK(ms > 0.999 * row->ms_p50 && ms < 1.001 * row->ms_p50);
        alone++;
    }
    CHECK(alone > 40);
    med_profile_release(&p);
}

int main(void)
{
    RUN(test_coverage_when_asked_everywhere_then_nothing_is_extrapolated_silently);
    RUN(test_errors_when_said_then_name_the_sets_that_were_left_out);
    RUN(test_recorded_when_asked_at_its_points_then_measured);
    return check_finish();
}
