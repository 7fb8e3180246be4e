/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sampler: its definitions against a naive reference that sorts, statistics of many draws,
 * hard cases, refusals, allocation failures.
 *
 * The reference follows sampling.h word by word, in doubles and with the C library's exp.  Where two
 * ids or a border lie within 1e-9 of each other, rounding decides; such cases are counted and may
 * differ in those ids alone.
 */
#include "worker/engine/sampling.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "tests/check.h"

#include <float.h>

enum {
    VOCAB_MAX = 3000
};

static struct med_sampling greedy(void)
{
    struct med_sampling s = med_sampling_default();
    s.temperature = 0;
    return s;
}

static struct med_sampler *new_sampler(int64_t vocab)
{
    struct med_sampler *sampler = NULL;
    REQUIRE(med_sampler_new(vocab, &sampler) == 0);
    return sampler;
}

/* One draw; the logits are copied, so the caller's stay. */
static int draw(struct med_sampler *sampler, const float *logits, struct med_draw_input in,
                struct med_draw *ret_draw)
{
    static float row[VOCAB_MAX];
    memcpy(row, logits, (size_t)in.vocab * sizeof row[0]);
    in.logits = row;
    return med_sampler_draw(sampler, &in, ret_draw);
}

/* ---- the reference ---- */

struct reference {
    double l[VOCAB_MAX];       /* after bias, masks, penalties */
    double p[VOCAB_MAX];       /* of what can be drawn, sums to 1; 0: cannot */
    double logprob[VOCAB_MAX]; /* of the raw logits */
    int order[VOCAB_MAX];      /* by raw logit, then id */
    int largest;
    bool may_stop;
    double slack; /* distance of the nearest border to a value, relative */
};

static const double *sort_by;

static int compare(const void *a, const void *b)
{
    int i = *(const int *)a, k = *(const int *)b;
    if (sort_by[i] != sort_by[k])
        return sort_by[i] > sort_by[k] ? -1 : 1;
    return i - k;
}

static void sort_ids(int *ids, int count, const double *by)
{
    for (int i = 0; i < count; i++)
        ids[i] = i;
    sort_by = by;
    qsort(ids, (size_t)count, sizeof ids[0], compare);
}

static void reference_mask(struct reference *r, const struct med_draw_input *in)
{
    static double before[VOCAB_MAX];
    int n = (int)in->vocab;
    memcpy(before, r->l, (size_t)n * sizeof before[0]);
    bool any = false;
    for (int i = 0; i < n; i++) {
        for (size_t k = 0; k < in->sampling->stop_count; k++)
            r->l[i] = in->sampling->stop_ids[k] == (uint32_t)i ? -INFINITY : r->l[i];
        for (size_t k = 0; k < in->eos_count && !in->sampling->ignore_eos; k++)
            r->l[i] = in->eos_ids[k] == (uint32_t)i ? -INFINITY : r->l[i];
        any = any || isfinite(r->l[i]);
    }
    if (!any)
        memcpy(r->l, before, (size_t)n * sizeof before[0]);
}

static void reference_penalize(struct reference *r, const struct med_draw_input *in)
{
    const struct med_sampling *s = in->sampling;
    for (int i = 0; i < (int)in->vocab; i++) {
        int seen = 0, generated = 0;
        for (int64_t t = 0; t < in->count; t++) {
            seen += in->tokens[t] == (uint32_t)i;
            generated += in->tokens[t] == (uint32_t)i && t >= in->prompt_tokens;
        }
        float l = (float)r->l[i];
        if (seen > 0)
            l = l > 0 ? l / s->repetition_penalty : l * s->repetition_penalty;
        l -= s->frequency_penalty * (float)generated;
        l -= generated > 0 ? s->presence_penalty : 0;
        r->l[i] = (double)l;
    }
}

static void note_slack(struct reference *r, double a, double b)
{
    double distance = fabs(a - b) / (fabs(a) + fabs(b) + 1e-300);
    r->slack = distance < r->slack ? distance : r->slack;
}

static void reference_filter(struct reference *r, const struct med_draw_input *in)
{
    const struct med_sampling *s = in->sampling;
    static int order[VOCAB_MAX];
    static double w[VOCAB_MAX];
    int n = (int)in->vocab;
    sort_ids(order, n, r->l);
    double top = r->l[order[0]];
    int k = s->top_k > 0 && s->top_k < (uint32_t)n ? (int)s->top_k : n;
    double least = r->l[order[k - 1]];
    double sum = 0;
    for (int i = 0; i < n; i++) {
        w[i] = exp((r->l[i] - top) / (double)s->temperature);
        if (s->min_p > 0)
            note_slack(r, w[i], (double)s->min_p);
        if (w[i] < (double)s->min_p || r->l[i] < least)
            w[i] = 0;
        sum += w[i];
    }
    double reached = 0;
    for (int i = 0; i < n; i++) {
        bool stays = s->top_p >= 1 || reached < (double)s->top_p * sum;
        if (s->top_p < 1)
            note_slack(r, reached, (double)s->top_p * sum);
        reached += w[order[i]];
        r->p[order[i]] = stays ? w[order[i]] : 0;
    }
    double kept = 0;
    for (int i = 0; i < n; i++)
        kept += r->p[i];
    for (int i = 0; i < n; i++)
        r->p[i] /= kept;
}

static void reference_run(struct reference *r, const float *logits, const struct med_draw_input *in)
{
    const struct med_sampling *s = in->sampling;
    int n = (int)in->vocab;
    r->slack = 1;
    double sum = 0, top = -INFINITY;
    for (int i = 0; i < n; i++) {
        r->l[i] = (double)logits[i];
        top = r->l[i] > top ? r->l[i] : top;
    }
    for (int i = 0; i < n; i++)
        sum += exp(r->l[i] - top);
    for (int i = 0; i < n; i++)
        r->logprob[i] = r->l[i] - top - log(sum);
    sort_ids(r->order, n, r->l);
    for (size_t i = 0; i < s->bias_count; i++)
        r->l[s->biases[i].id] = (double)((float)r->l[s->biases[i].id] + s->biases[i].bias);
    r->may_stop = in->count - in->prompt_tokens >= s->tokens_min;
    if (!r->may_stop)
        reference_mask(r, in);
    reference_penalize(r, in);
    r->largest = 0;
    for (int i = 1; i < n; i++)
        r->largest = r->l[i] > r->l[r->largest] ? i : r->largest;
    if (s->temperature > 0)
        reference_filter(r, in);
}

/* The uniform number of (seed, place), from the definition in docs/internals/sampling.md. */
static uint64_t reference_mix(uint64_t x)
{
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static double reference_uniform(uint64_t seed, uint64_t place)
{
    uint64_t golden = UINT64_C(0x9e3779b97f4a7c15);
    uint64_t bits = reference_mix(reference_mix(seed + golden) + (place + 1) * golden);
    return (double)(bits >> 11) * 0x1p-53;
}

static bool among(const uint32_t *ids, size_t count, uint32_t id)
{
    for (size_t i = 0; i < count; i++) {
        if (ids[i] == id)
            return true;
    }
    return false;
}

static void check_logprobs(const struct reference *r, const struct med_draw_input *in,
                           const struct med_draw *got)
{
    const struct med_token_logprobs *lp = &got->logprobs;
    CHECK_DOUBLE(lp->logprob, r->logprob[got->id], 1e-5 + 1e-6 * fabs(r->logprob[got->id]));
    REQUIRE(lp->rank >= 1 && lp->rank <= (uint32_t)in->vocab);
    CHECK_INT(r->order[lp->rank - 1], got->id);
    int top = 0;
    while (top < in->sampling->top_logprobs && top < in->vocab &&
           isfinite(r->logprob[r->order[top]]))
        top++;
    CHECK_INT(lp->top_count, top);
    for (int i = 0; i < top; i++) {
        CHECK_INT(lp->top_ids[i], r->order[i]);
        CHECK_DOUBLE(lp->top_logprobs[i], r->logprob[r->order[i]],
                     1e-5 + 1e-6 * fabs(r->logprob[r->order[i]]));
    }
}

/* Draws and compares everything with the reference.  Returns whether rounding decided. */
static bool check_draw(struct med_sampler *sampler, const float *logits,
                       const struct med_draw_input *in)
{
    static struct reference r;
    reference_run(&r, logits, in);
    struct med_draw got = {0};
    REQUIRE(draw(sampler, logits, *in, &got) == 0);
    REQUIRE(got.id < (uint32_t)in->vocab);
    const struct med_sampling *s = in->sampling;
    bool ends = among(s->stop_ids, s->stop_count, got.id) ||
                (!s->ignore_eos && among(in->eos_ids, in->eos_count, got.id));
    CHECK_INT(got.stop, r.may_stop && ends);
    if (s->top_logprobs >= 0)
        check_logprobs(&r, in, &got);
    if (s->temperature == 0) {
        CHECK_INT(got.id, r.largest);
        return false;
    }
    if (r.slack < 1e-9)
        return true;
    double u = reference_uniform(s->seed, (uint64_t)in->count), below = 0;
    for (uint32_t i = 0; i < got.id; i++)
        below += r.p[i];
    CHECK(r.p[got.id] > 0);
    /* Weights are rounded to 2^-51 of the largest, or less finely for a large vocabulary. */
    if (!(u > below - 1e-9 && u < below + r.p[got.id] + 1e-9))
        CHECK_DOUBLE(u, below, r.p[got.id]);
    return false;
}

/* ---- random cases ---- */

struct scenario {
    float logits[VOCAB_MAX];
    uint32_t tokens[200], eos[3], stops[8];
    struct med_logit_bias biases[10];
    struct med_sampling sampling;
    struct med_draw_input in;
};

static uint32_t any_id(struct med_rng *rng, const struct scenario *c)
{
    return med_rng_below(rng, (uint32_t)c->in.vocab);
}

static void random_logits(struct med_rng *rng, struct scenario *c)
{
    uint32_t kind = med_rng_below(rng, 6);
    double width = kind == 0 ? 0.01 : kind == 1 ? 1 : kind == 2 ? 20 : 4;
    for (int i = 0; i < (int)c->in.vocab; i++) {
        double l = med_rng_normal(rng) * width;
        if (kind == 3) /* many ties */
            l = floor(l);
        if (kind == 4) /* many bans, never all */
            l = i > 0 && med_rng_below(rng, 3) == 0 ? -INFINITY : l;
        c->logits[i] = (float)l;
    }
    if (kind == 5) /* one far above the rest */
        c->logits[any_id(rng, c)] = 60;
}

static void random_sampling(struct med_rng *rng, struct scenario *c)
{
    struct med_sampling *s = &c->sampling;
    *s = med_sampling_default();
    s->seed = (uint64_t)med_rng_u32(rng) << 32 | med_rng_u32(rng);
    s->temperature = (float)(med_rng_below(rng, 5) == 0 ? 0 : 0.05 + 1.95 * med_rng_uniform(rng));
    uint32_t mask = med_rng_u32(rng); /* every combination of the rest comes up */
    if (mask & 1)
        s->top_p = (float)(0.001 + 0.998 * med_rng_uniform(rng));
    if (mask & 2)
        s->min_p = (float)pow(10, -4 * med_rng_uniform(rng));
    if (mask & 4)
        s->top_k = 1 + med_rng_below(rng, (uint32_t)(c->in.vocab * 5 / 4));
    if (mask & 8)
        s->repetition_penalty = (float)(0.05 + 1.95 * med_rng_uniform(rng));
    if (mask & 16)
        s->presence_penalty = (float)(4 * med_rng_uniform(rng) - 2);
    if (mask & 32)
        s->frequency_penalty = (float)(4 * med_rng_uniform(rng) - 2);
    s->ignore_eos = mask & 64;
    if (mask & 128)
        s->tokens_min = (int64_t)med_rng_below(rng, 120);
    if (mask & 256)
        s->top_logprobs = (int32_t)med_rng_below(rng, MED_LIMIT_TOP_LOGPROBS + 1);
    for (size_t i = 0; (mask & 512) && i < med_rng_below(rng, 11); i++) {
        c->biases[i] = (struct med_logit_bias){.id = any_id(rng, c),
                                               .bias = (float)(200 * med_rng_uniform(rng) - 100)};
        s->bias_count = i + 1;
    }
    for (size_t i = 0; (mask & 1024) && i < med_rng_below(rng, 9); i++) {
        c->stops[i] = any_id(rng, c);
        s->stop_count = i + 1;
    }
    s->biases = c->biases;
    s->stop_ids = c->stops;
}

static void random_scenario(struct med_rng *rng, struct scenario *c, int64_t vocab)
{
    c->in = (struct med_draw_input){.vocab = vocab, .sampling = &c->sampling, .tokens = c->tokens};
    random_logits(rng, c);
    random_sampling(rng, c);
    c->in.count = med_rng_below(rng, 200);
    c->in.prompt_tokens = med_rng_below(rng, (uint32_t)c->in.count + 1);
    for (int64_t i = 0; i < c->in.count; i++)
        c->tokens[i] = med_rng_below(rng, 4) == 0 ? any_id(rng, c) : any_id(rng, c) / 8;
    c->in.eos_count = med_rng_below(rng, 4);
    for (size_t i = 0; i < c->in.eos_count; i++)
        c->eos[i] = any_id(rng, c);
    c->in.eos_ids = c->eos;
}

static void test_draw_when_random_then_as_the_reference(void)
{
    static const int64_t vocabs[] = {1, 2, 3, 7, 31, 64, 257, 300, VOCAB_MAX};
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 1);
    static struct scenario c;
    int cases = 0, rounded = 0;
    for (size_t v = 0; v < sizeof vocabs / sizeof vocabs[0]; v++) {
        /* One sampler for all: a draw leaves nothing behind for the next. */
        struct med_sampler *sampler = new_sampler(vocabs[v]);
        int count = vocabs[v] > 1000 ? 100 : vocabs[v] > 100 ? 2000 : 4000;
        for (int i = 0; i < count && check_failures < 20; i++) {
            random_scenario(&rng, &c, vocabs[v]);
            int failures = check_failures;
            rounded += check_draw(sampler, c.logits, &c.in);
            cases++;
            if (check_failures != failures)
                (void)fprintf(stderr, "case %d of vocabulary %" PRId64 "\n", i, vocabs[v]);
        }
        med_sampler_free(sampler);
    }
    printf("%d random cases, %d of them decided by rounding\n", cases, rounded);
    CHECK(rounded * 10 < cases); /* a slack that swallows everything would prove nothing */
}

/* ---- statistics ---- */

/* Wilson and Hilferty's approximation of the value that a chi-squared number of `freedom` degrees
 * exceeds with probability 1e-6 (4.7534 standard deviations). */
static double critical(int freedom)
{
    double a = 2.0 / (9.0 * freedom), cube = 1 - a + 4.7534 * sqrt(a);
    return freedom * cube * cube * cube;
}

/* Draws `draws` times at ascending places; chi-squared against the reference's probabilities, cells
 * of fewer than 10 expected draws joined.  bias: probability mass moved from the likeliest to the
 * least likely cell of the expectation, to see the test fail. */
static double chi_squared(const struct scenario *c, int draws, double bias, int *ret_freedom)
{
    static struct reference r;
    static int counts[VOCAB_MAX];
    int n = (int)c->in.vocab;
    reference_run(&r, c->logits, &c->in);
    memset(counts, 0, sizeof counts);
    struct med_sampler *sampler = new_sampler(n);
    for (int i = 0; i < draws; i++) {
        struct med_draw_input in = c->in;
        in.prompt_tokens = in.count = i; /* no penalties here, so that tokens are not looked at */
        struct med_draw got;
        REQUIRE(draw(sampler, c->logits, in, &got) == 0);
        counts[got.id]++;
    }
    med_sampler_free(sampler);
    int likeliest = 0, least = -1;
    for (int i = 0; i < n; i++) {
        likeliest = r.p[i] > r.p[likeliest] ? i : likeliest;
        if (r.p[i] > 0 && (least < 0 || r.p[i] <= r.p[least]))
            least = i;
        if (r.p[i] == 0)
            CHECK_INT(counts[i], 0);
    }
    r.p[likeliest] -= bias;
    r.p[least] += bias;
    double sum = 0, joined_expected = 0, joined = 0;
    int cells = 0;
    for (int i = 0; i < n; i++) {
        double expected = r.p[i] * draws;
        if (expected < 10) {
            joined_expected += expected;
            joined += counts[i];
            continue;
        }
        sum += (counts[i] - expected) * (counts[i] - expected) / expected;
        cells++;
    }
    if (joined_expected >= 10) {
        sum += (joined - joined_expected) * (joined - joined_expected) / joined_expected;
        cells++;
    }
    *ret_freedom = cells - 1;
    return sum;
}

static void chi_scenario(struct scenario *c, int which)
{
    struct med_rng rng;
    med_rng_init(&rng, 7, (uint64_t)which);
    c->in = (struct med_draw_input){.sampling = &c->sampling};
    c->sampling = med_sampling_default();
    c->sampling.seed = 1000 + (uint64_t)which;
    c->in.vocab = which % 3 == 0 ? 2 : which % 3 == 1 ? 10 : 100;
    for (int i = 0; i < (int)c->in.vocab; i++)
        c->logits[i] = (float)(which == 0 ? 0 : med_rng_normal(&rng) * which);
}

static void test_draws_when_many_then_chi_squared_fits(void)
{
    static struct scenario c;
    enum {
        DRAWS = 100000
    };
    for (int which = 0; which < 5; which++) {
        for (int filter = 0; filter < 6; filter++) {
            chi_scenario(&c, which);
            struct med_sampling *s = &c.sampling;
            s->temperature = filter == 1 ? 0.6F : filter == 2 ? 1.7F : 1;
            s->top_p = filter == 3 || filter == 5 ? 0.8F : 1;
            s->top_k = filter == 4 || filter == 5 ? 20 : 0;
            s->min_p = filter == 2 || filter == 5 ? 0.05F : 0;
            int freedom;
            double value = chi_squared(&c, DRAWS, 0, &freedom);
            if (freedom == 0)
                continue;
            if (value > critical(freedom)) {
                (void)fprintf(stderr, "distribution %d, filter %d, %d degrees\n", which, filter,
                              freedom);
            }
            CHECK_DOUBLE(value, 0, critical(freedom));
        }
    }
}

static void test_chi_squared_when_expectation_is_biased_then_exceeds(void)
{
    static struct scenario c;
    for (int which = 0; which < 3; which++) {
        chi_scenario(&c, which); /* 2, 10 and 100 ids */
        int freedom;
        double value = chi_squared(&c, 100000, 0.02, &freedom);
        CHECK(value > critical(freedom));
    }
}

static double uniform_of(struct med_sampler *sampler, uint64_t seed, int64_t place)
{
    /* Equal logits: the id is the uniform number's place among 64 cells. */
    static const float logits[64];
    struct med_sampling s = med_sampling_default();
    s.seed = seed;
    struct med_draw got;
    struct med_draw_input in = {
        .vocab = 64, .sampling = &s, .count = place, .prompt_tokens = place};
    REQUIRE(draw(sampler, logits, in, &got) == 0);
    return ((double)got.id + 0.5) / 64 - 0.5;
}

static void test_draws_when_keys_differ_then_uncorrelated(void)
{
    enum {
        COUNT = 20000
    };
    struct med_sampler *sampler = new_sampler(64);
    double next = 0, neighbour = 0, mean = 0, square = 0;
    for (int i = 0; i < COUNT; i++) {
        double u = uniform_of(sampler, 5, i);
        mean += u;
        square += u * u;
        next += u * uniform_of(sampler, 5, i + 1);  /* the next place */
        neighbour += u * uniform_of(sampler, 6, i); /* the next seed */
        CHECK(u == uniform_of(sampler, 5, i));
    }
    med_sampler_free(sampler);
    /* Five standard deviations: of a mean 0.2887, of a product 1/12. */
    CHECK_DOUBLE(mean / COUNT, 0, 5 * 0.2887 / sqrt(COUNT));
    CHECK_DOUBLE(square / COUNT, 1.0 / 12, 5 * 0.0745 / sqrt(COUNT));
    CHECK_DOUBLE(next / COUNT, 0, 5 / 12.0 / sqrt(COUNT));
    CHECK_DOUBLE(neighbour / COUNT, 0, 5 / 12.0 / sqrt(COUNT));
}

/* ---- single cases ---- */

static void test_greedy_when_tied_then_smaller_id(void)
{
    struct med_sampler *sampler = new_sampler(5);
    struct med_sampling s = greedy();
    const float logits[] = {-1, 2, 2, -INFINITY, 2};
    struct med_draw got;
    REQUIRE(draw(sampler, logits, (struct med_draw_input){.vocab = 5, .sampling = &s}, &got) == 0);
    CHECK_INT(got.id, 1);
    const float zeros[] = {-1, -0.0F, 0, -INFINITY, -2};
    REQUIRE(draw(sampler, zeros, (struct med_draw_input){.vocab = 5, .sampling = &s}, &got) == 0);
    CHECK_INT(got.id, 1);
    med_sampler_free(sampler);
}

/* A set of the ids (bit i: id i) that 2000 places draw. */
static unsigned drawn_set(const float *logits, int64_t vocab, const struct med_sampling *s)
{
    struct med_sampler *sampler = new_sampler(vocab);
    unsigned set = 0;
    for (int64_t place = 0; place < 2000; place++) {
        struct med_draw got;
        REQUIRE(draw(sampler, logits,
                     (struct med_draw_input){
                         .vocab = vocab, .sampling = s, .count = place, .prompt_tokens = place},
                     &got) == 0);
        set |= 1U << got.id;
    }
    med_sampler_free(sampler);
    return set;
}

static void test_filters_when_ties_at_the_border_then_as_documented(void)
{
    const float logits[] = {1, 2, 1, 3, 1, -INFINITY};
    struct med_sampling s = med_sampling_default();
    CHECK_UINT(drawn_set(logits, 6, &s), 0x1f);
    s.top_k = 2;
    CHECK_UINT(drawn_set(logits, 6, &s), 0x0a);
    s.top_k = 3; /* ids 0, 2 and 4 tie: all stay */
    CHECK_UINT(drawn_set(logits, 6, &s), 0x1f);
    s.top_k = 100;
    CHECK_UINT(drawn_set(logits, 6, &s), 0x1f);
    s.top_k = 0;
    /* exp: 20.09, 7.39 and three of 2.72, of 35.63: 0.5637, 0.2074, 0.0763 each. */
    s.top_p = 0.5F;
    CHECK_UINT(drawn_set(logits, 6, &s), 0x08);
    s.top_p = 0.8F; /* 0.7711 is too little: the smallest of the tied ids */
    CHECK_UINT(drawn_set(logits, 6, &s), 0x0b);
    s.top_p = 0.9F;
    CHECK_UINT(drawn_set(logits, 6, &s), 0x0f);
    s.top_k = 2; /* of 0.7711 now: 0.7311 is reached by id 3 alone */
    s.top_p = 0.73F;
    CHECK_UINT(drawn_set(logits, 6, &s), 0x08);
    s.top_k = 0;
    s.top_p = 1;
    s.min_p = 0.3F; /* of the largest: 0.368 stays, 0.135 goes */
    CHECK_UINT(drawn_set(logits, 6, &s), 0x0a);
    s.min_p = 1;
    CHECK_UINT(drawn_set(logits, 6, &s), 0x08);
    s.min_p = 0;
    s.top_p = FLT_MIN;
    CHECK_UINT(drawn_set(logits, 6, &s), 0x08);
    s.top_p = 1;
    s.temperature = FLT_MIN; /* colder than any difference */
    CHECK_UINT(drawn_set(logits, 6, &s), 0x08);
}

static void test_draw_when_logits_are_extreme_then_no_nan(void)
{
    const float logits[] = {FLT_MAX, -FLT_MAX, FLT_MAX, 0};
    const uint32_t tokens[] = {0, 1, 2, 3};
    struct med_sampling s = med_sampling_default();
    s.repetition_penalty = 1e-30F; /* overflows: held at the largest float */
    s.frequency_penalty = -2;
    struct med_sampler *sampler = new_sampler(4);
    struct med_draw got;
    for (int64_t i = 0; i < 50; i++) {
        s.seed = (uint64_t)i;
        REQUIRE(
            draw(sampler, logits,
                 (struct med_draw_input){.vocab = 4, .sampling = &s, .tokens = tokens, .count = 4},
                 &got) == 0);
        CHECK(got.id == 0 || got.id == 2);
    }
    med_sampler_free(sampler);
}

static void test_draw_when_logits_are_broken_then_internal_error(void)
{
    const float broken[][3] = {{0, NAN, 1},
                               {NAN, 0, 0},
                               {0, 1, INFINITY},
                               {0, 1, -NAN},
                               {-INFINITY, -INFINITY, -INFINITY}};
    struct med_sampler *sampler = new_sampler(3);
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        for (int cold = 0; cold < 2; cold++) {
            struct med_sampling s = cold ? greedy() : med_sampling_default();
            struct med_draw got = {.id = 77};
            struct med_draw_input in = {.vocab = 3, .sampling = &s};
            CHECK_INT(draw(sampler, broken[i], in, &got), MED_E_INTERNAL);
            CHECK_INT(got.id, 77);
        }
    }
    med_sampler_free(sampler);
}

static void test_draw_when_vocabulary_is_one_then_that_id(void)
{
    const float logits[] = {-3};
    const uint32_t eos[] = {0};
    struct med_sampling s = med_sampling_default();
    s.top_k = 5;
    s.top_p = 0.1F;
    s.top_logprobs = 20;
    s.tokens_min = 2;
    struct med_sampler *sampler = new_sampler(1);
    struct med_draw got;
    struct med_draw_input in = {.vocab = 1, .sampling = &s, .eos_ids = eos, .eos_count = 1};
    REQUIRE(draw(sampler, logits, in, &got) == 0);
    CHECK_INT(got.id, 0);
    CHECK(!got.stop); /* nothing else can be drawn, but it is too early to end */
    CHECK_DOUBLE(got.logprobs.logprob, 0, 1e-7);
    CHECK_INT(got.logprobs.rank, 1);
    CHECK_INT(got.logprobs.top_count, 1);
    const uint32_t tokens[] = {0, 0};
    in.tokens = tokens;
    in.count = 2;
    REQUIRE(draw(sampler, logits, in, &got) == 0);
    CHECK(got.stop);
    med_sampler_free(sampler);
}

static uint32_t greedy_id(const float *logits, int64_t vocab, struct med_draw_input in)
{
    struct med_sampler *sampler = new_sampler(vocab);
    struct med_draw got;
    in.vocab = vocab;
    REQUIRE(draw(sampler, logits, in, &got) == 0);
    med_sampler_free(sampler);
    return got.id;
}

static void test_bias_when_minus_100_then_never_drawn(void)
{
    const float logits[] = {5, 4, -INFINITY};
    const struct med_logit_bias biases[] = {{0, -100}, {2, 100}};
    struct med_sampling s = med_sampling_default();
    s.biases = biases;
    s.bias_count = 2;
    CHECK_UINT(drawn_set(logits, 3, &s), 0x2); /* what the model banned stays banned */
    const struct med_logit_bias lift[] = {{1, 1.5F}};
    s = greedy();
    s.biases = lift;
    s.bias_count = 1;
    CHECK_INT(greedy_id(logits, 3, (struct med_draw_input){.sampling = &s}), 1);
}

static void test_penalties_when_in_prompt_or_output_then_counted_apart(void)
{
    const uint32_t tokens[] = {0, 0, 1, 1, 1}; /* prompt 0 0, output 1 1 1 */
    const float logits[] = {2, 2.5F, 1};
    struct med_sampling s = greedy();
    struct med_draw_input in = {.sampling = &s, .tokens = tokens, .prompt_tokens = 2, .count = 5};
    CHECK_INT(greedy_id(logits, 3, in), 1);
    s.presence_penalty = 1; /* 2, 1.5, 1: once, however often */
    CHECK_INT(greedy_id(logits, 3, in), 0);
    s.presence_penalty = 0.4F;
    CHECK_INT(greedy_id(logits, 3, in), 1);
    s.presence_penalty = 0;
    s.frequency_penalty = 0.2F; /* three times: 1.9 */
    CHECK_INT(greedy_id(logits, 3, in), 0);
    s.frequency_penalty = 2; /* output alone: the prompt's tokens stay */
    CHECK_INT(greedy_id(logits, 3, in), 0);
    s.frequency_penalty = 0;
    s.repetition_penalty = 2; /* 1, 1.25, 1 */
    CHECK_INT(greedy_id(logits, 3, in), 1);
    const float negative[] = {-2, -2.5F, -3}; /* -4, -5, -3 */
    CHECK_INT(greedy_id(negative, 3, in), 2);
}

static void test_stop_when_too_few_tokens_then_masked(void)
{
    const float logits[] = {9, 8, 1};
    const uint32_t eos[] = {0}, stops[] = {1}, tokens[] = {2, 2, 2};
    struct med_sampler *sampler = new_sampler(3);
    struct med_draw got;
    for (int ignore = 0; ignore < 2; ignore++) {
        for (int64_t generated = 0; generated < 3; generated++) {
            struct med_sampling s = greedy();
            s.ignore_eos = ignore;
            s.tokens_min = 2;
            s.stop_ids = stops;
            s.stop_count = 1;
            struct med_draw_input in = {.vocab = 3,
                                        .sampling = &s,
                                        .tokens = tokens,
                                        .count = generated,
                                        .eos_ids = eos,
                                        .eos_count = 1};
            REQUIRE(draw(sampler, logits, in, &got) == 0);
            CHECK_INT(got.id, ignore || generated == 2 ? 0 : 2);
            CHECK_INT(got.stop, !ignore && generated == 2);
            const struct med_logit_bias no_eos[] = {{0, -100}};
            s.biases = no_eos;
            s.bias_count = 1;
            REQUIRE(draw(sampler, logits, in, &got) == 0);
            CHECK_INT(got.id, generated == 2 ? 1 : 2);
            CHECK_INT(got.stop, generated == 2); /* stop ids end it whatever ignore_eos says */
        }
    }
    med_sampler_free(sampler);
}

static void test_logprobs_when_filtered_then_of_the_raw_logits(void)
{
    const float logits[] = {0, 1, 1, -INFINITY};
    const struct med_logit_bias biases[] = {{0, 50}};
    struct med_sampling s = greedy();
    s.biases = biases;
    s.bias_count = 1;
    s.top_logprobs = 4;
    struct med_sampler *sampler = new_sampler(4);
    struct med_draw got;
    REQUIRE(draw(sampler, logits, (struct med_draw_input){.vocab = 4, .sampling = &s}, &got) == 0);
    double norm = log(1 + 2 * exp(1));
    CHECK_INT(got.id, 0);
    CHECK_DOUBLE(got.logprobs.logprob, -norm, 1e-6);
    CHECK_INT(got.logprobs.rank, 3);
    CHECK_INT(got.logprobs.top_count, 3); /* an impossible id has no logarithm to print */
    CHECK_INT(got.logprobs.top_ids[0], 1);
    CHECK_INT(got.logprobs.top_ids[1], 2);
    CHECK_INT(got.logprobs.top_ids[2], 0);
    CHECK_DOUBLE(got.logprobs.top_logprobs[0], 1 - norm, 1e-6);
    med_sampler_free(sampler);
}

/* ---- med_sampling_check ---- */

static void refuse(const struct med_sampling *s, const char *sentence)
{
    struct med_err err = {0};
    CHECK_INT(med_sampling_check(s, 100, &err), MED_E_INVALID);
    CHECK_STR(err.text, sentence);
}

static void test_check_when_default_then_fine(void)
{
    struct med_sampling s = med_sampling_default();
    CHECK_INT(med_sampling_check(&s, 100, NULL), 0);
    const struct med_logit_bias biases[] = {{0, 100}, {99, -100}};
    const uint32_t stops[] = {0, 99};
    s = (struct med_sampling){.temperature = 2,
                              .top_p = FLT_MIN,
                              .min_p = 1,
                              .top_k = UINT32_MAX,
                              .repetition_penalty = 2,
                              .presence_penalty = -2,
                              .frequency_penalty = 2,
                              .biases = biases,
                              .bias_count = 2,
                              .stop_ids = stops,
                              .stop_count = 2,
                              .tokens_min = MED_LIMIT_OUTPUT_TOKENS,
                              .top_logprobs = MED_LIMIT_TOP_LOGPROBS};
    CHECK_INT(med_sampling_check(&s, 100, NULL), 0);
}

static void test_check_when_a_number_is_out_of_range_then_says_which(void)
{
    static const struct {
        size_t offset;
        float value;
        const char *sentence;
    } cases[] = {
#define AT(field) offsetof(struct med_sampling, field)
        {AT(temperature), -1, "sampling.temperature: found -1, expected a number from 0 to 2"},
        {AT(temperature), 2.5F, "sampling.temperature: found 2.5, expected a number from 0 to 2"},
        {AT(temperature), NAN, "sampling.temperature: found nan, expected a number from 0 to 2"},
        {AT(top_p), 0, "sampling.top_p: found 0, expected a number above 0 and at most 1"},
        {AT(top_p), NAN, "sampling.top_p: found nan, expected a number above 0 and at most 1"},
        {AT(min_p), 1.5F, "sampling.min_p: found 1.5, expected a number from 0 to 1"},
        {AT(min_p), NAN, "sampling.min_p: found nan, expected a number from 0 to 1"},
        {AT(repetition_penalty), 0,
         "sampling.repetition_penalty: found 0, expected a number above 0 and at most 2"},
        {AT(repetition_penalty), INFINITY,
         "sampling.repetition_penalty: found inf, expected a number above 0 and at most 2"},
        {AT(presence_penalty), -INFINITY,
         "sampling.presence_penalty: found -inf, expected a number from -2 to 2"},
        {AT(frequency_penalty), NAN,
         "sampling.frequency_penalty: found nan, expected a number from -2 to 2"},
#undef AT
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct med_sampling s = med_sampling_default();
        memcpy((char *)&s + cases[i].offset, &cases[i].value, sizeof cases[i].value);
        refuse(&s, cases[i].sentence);
    }
}

static void test_check_when_ids_or_counts_are_out_of_range_then_says_which(void)
{
    const struct med_logit_bias biases[] = {{1, 0}, {100, 0}}, nan_bias[] = {{4, NAN}};
    const uint32_t stops[] = {5, 4294967295U};
    struct med_sampling s = med_sampling_default();
    s.biases = biases;
    s.bias_count = 2;
    refuse(&s, "sampling.logit_bias[1]: found token id 100, expected one below the vocabulary's "
               "size 100");
    s.biases = nan_bias;
    s.bias_count = 1;
    refuse(&s, "sampling.logit_bias[0]: found bias nan for token id 4, expected a number from -100 "
               "to 100");
    s.bias_count = MED_LIMIT_LOGIT_BIAS + 1;
    refuse(&s, "sampling.logit_bias: found 1025 entries, expected at most 1024");
    s.bias_count = 0;
    s.stop_ids = stops;
    s.stop_count = 2;
    refuse(&s, "sampling.stop_token_ids[1]: found token id 4294967295, expected one below the "
               "vocabulary's size 100");
    s.stop_count = MED_LIMIT_STOP_TOKENS + 1;
    refuse(&s, "sampling.stop_token_ids: found 257 ids, expected at most 256");
    s.stop_count = 0;
    s.tokens_min = -1;
    refuse(&s, "sampling.min_tokens: found -1, expected 0 to 1048576");
    s.tokens_min = 0;
    s.top_logprobs = 21;
    refuse(&s, "sampling.top_logprobs: found 21, expected 0 to 20, or -1 for none");
    s.top_logprobs = -1;
    s.emulated_output_tokens = -5;
    refuse(&s, "sampling.emulated_output_tokens: found -5, expected 0 to 1048576");
}

static void test_new_when_the_nth_allocation_fails_then_no_memory_and_no_leak(void)
{
    int64_t live = med_alloc_bytes_live();
    int failures = 0;
    for (uint64_t n = 1; n < 20; n++) {
        struct med_sampler *sampler = NULL;
        (void)med_alloc_fail_nth(n);
        int rc = med_sampler_new(50, &sampler);
        (void)med_alloc_fail_nth(0);
        CHECK(rc == 0 ? sampler != NULL : sampler == NULL);
        if (rc != 0)
            CHECK_INT(rc, MED_E_NOMEM);
        failures += rc != 0;
        med_sampler_free(sampler);
        CHECK_INT(med_alloc_bytes_live(), live);
    }
    CHECK_INT(failures, 7);
}

static void test_draw_when_running_then_allocates_nothing(void)
{
    static struct scenario c;
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 2);
    struct med_sampler *sampler = new_sampler(300);
    (void)med_alloc_fail_nth(0);
    for (int i = 0; i < 100; i++) {
        random_scenario(&rng, &c, 300);
        struct med_draw got;
        REQUIRE(draw(sampler, c.logits, c.in, &got) == 0);
    }
    CHECK_UINT(med_alloc_fail_nth(0), 0);
    med_sampler_free(sampler);
}

int main(void)
{
    RUN(test_greedy_when_tied_then_smaller_id);
    RUN(test_filters_when_ties_at_the_border_then_as_documented);
    RUN(test_draw_when_logits_are_extreme_then_no_nan);
    RUN(test_draw_when_logits_are_broken_then_internal_error);
    RUN(test_draw_when_vocabulary_is_one_then_that_id);
    RUN(test_bias_when_minus_100_then_never_drawn);
    RUN(test_penalties_when_in_prompt_or_output_then_counted_apart);
    RUN(test_stop_when_too_few_tokens_then_masked);
    RUN(test_logprobs_when_filtered_then_of_the_raw_logits);
    RUN(test_check_when_default_then_fine);
    RUN(test_check_when_a_number_is_out_of_range_then_says_which);
    RUN(test_check_when_ids_or_counts_are_out_of_range_then_says_which);
    RUN(test_new_when_the_nth_allocation_fails_then_no_memory_and_no_leak);
    RUN(test_draw_when_running_then_allocates_nothing);
    RUN(test_draw_when_random_then_as_the_reference);
    RUN(test_draws_when_keys_differ_then_uncorrelated);
    RUN(test_draws_when_many_then_chi_squared_fits);
    RUN(test_chi_squared_when_expectation_is_biased_then_exceeds);
    return check_finish();
}
