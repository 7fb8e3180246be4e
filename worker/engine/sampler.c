/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Draws one token from a row of logits; the definitions are sampling.h's, docs/internals/sampling.md
 * says how they differ from other engines'.
 *
 * A greedy draw without penalties is one pass.  Otherwise the ids that can be drawn are gathered
 * once (those that min_p and top_k keep), each gets its weight exp((l - max) / temperature) as an
 * integer, and everything after that is integer arithmetic: sums do not depend on their order, so
 * the set that top_p keeps and the token that is drawn are the same however a selection goes about
 * it, here or on a GPU.  Nothing is sorted: the k-th largest logit and top_p's border are found by
 * refining a histogram of the floats' bits in three steps (11, 11 and 10 bits).
 *
 * thread: the owner's.  Allocates in new alone; scratch that is indexed by token is cleaned by the
 * list of the tokens that touched it.  Does not detokenise and knows no stop strings.
 */
#include "base/alloc.h"
#include "base/assert.h"
#include "worker/engine/sampling.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum {
    BINS = 2048,
    SEEN = 1 << 30, /* in a count: the prompt has the token; output counts stay far below */
};

struct med_sampler {
    int64_t vocab;
    int weight_bits; /* the likeliest id's weight is 2^weight_bits; vocab of them fit 64 bits */

    float *raw;        // [vocab] the logits as the model gave them, where they are needed later
    uint32_t *counts;  // [vocab] all zero between draws: output count | SEEN
    uint32_t *touched; // [vocab] ids whose count is not zero

    /* Ids that can be drawn, ascending. */
    uint32_t *ids;     // [vocab]
    uint32_t *keys;    // [vocab] order_key of their logits
    uint64_t *weights; // [vocab]
    int64_t candidates;

    uint64_t bins[BINS];
};

int med_sampling_weight_bits(int64_t vocab)
{
    int bits = 51;
    while (bits > 0 && (uint64_t)vocab > UINT64_C(1) << (63 - bits))
        bits--;
    return bits;
}

int med_sampler_new(int64_t vocab, struct med_sampler **ret_sampler)
{
    MED_ASSERT(vocab > 0);
    MED_ASSERT(vocab <= MED_LIMIT_VOCAB);
    struct med_sampler *s = med_calloc(1, sizeof *s);
    if (!s)
        return MED_E_NOMEM;
    size_t n = (size_t)vocab;
    s->vocab = vocab;
    s->weight_bits = med_sampling_weight_bits(vocab);
    s->raw = med_calloc(n, sizeof s->raw[0]);
    s->counts = med_calloc(n, sizeof s->counts[0]);
    s->touched = med_calloc(n, sizeof s->touched[0]);
    s->ids = med_calloc(n, sizeof s->ids[0]);
    s->keys = med_calloc(n, sizeof s->keys[0]);
    s->weights = med_calloc(n, sizeof s->weights[0]);
    if (!s->raw || !s->counts || !s->touched || !s->ids || !s->keys || !s->weights) {
        med_sampler_free(s);
        return MED_E_NOMEM;
    }
    *ret_sampler = s;
    return 0;
}

void med_sampler_free(struct med_sampler *sampler)
{
    if (!sampler)
        return;
    med_free(sampler->raw);
    med_free(sampler->counts);
    med_free(sampler->touched);
    med_free(sampler->ids);
    med_free(sampler->keys);
    med_free(sampler->weights);
    med_free(sampler);
}

/* ---- numbers ---- */

/* High 64 bits of a * b, and the low ones. */
static uint64_t multiply(uint64_t a, uint64_t b, uint64_t *ret_low)
{
    uint64_t a0 = a & UINT32_MAX, a1 = a >> 32, b0 = b & UINT32_MAX, b1 = b >> 32;
    uint64_t low = a0 * b0;
    uint64_t middle = a1 * b0 + (low >> 32);
    uint64_t other = a0 * b1 + (middle & UINT32_MAX);
    *ret_low = (other << 32) | (low & UINT32_MAX);
    return a1 * b1 + (middle >> 32) + (other >> 32);
}

/* The finalizer of SplitMix64 (Steele, Lea and Flood 2014; constants of Stafford's variant 13). */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* 53 bits: the place-th number of a SplitMix64 stream of its own per seed. The seed is mixed before, so that neighbouring seeds have no stretch of a stream in common. */
uint64_t med_sampling_random(uint64_t seed, uint64_t place)
{
    const uint64_t golden = UINT64_C(0x9e3779b97f4a7c15);
    return mix(mix(seed + golden) + (place + 1) * golden) >> 11 << 11;
}

/*
 * exp(x) for x in [-64, 0]: x = n ln 2 + r, |r| <= ln 2 / 2, Taylor to degree 13 (its error there is
 * below 1e-17), times 2^n.  Our own, so that a draw does not depend on the machine's libm; within
 * 2 ulp of the true value, exp(0) is 1.  Branch-free: compilers vectorise its loop.
 */
static inline double exp_small(double x)
{
    const double shift = 0x1.8p52; /* adding it rounds to an integer in the low bits */
    double shifted = x * 0x1.71547652b82fep0 + shift;
    double n = shifted - shift;
    double r = x - n * 0x1.62e42fee00000p-1;
    r -= n * 0x1.a39ef35793c76p-33;
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    uint64_t power = (bits + 1023) << 52; /* what is above the exponent falls off */
    double scale;
    memcpy(&scale, &power, sizeof scale);
    return p * scale;
}

/* Orders as the floats do, -0 and +0 alike. */
static inline uint32_t order_key(float value)
{
    float positive_zero = value + 0.0F;
    uint32_t bits;
    memcpy(&bits, &positive_zero, sizeof bits);
    return bits & UINT32_C(0x80000000) ? ~bits : bits | UINT32_C(0x80000000);
}

/* ---- one pass over a row ---- */

/* The largest logit, the smaller id on a tie.  errors: MED_E_INTERNAL a logit is NaN or +inf, or all
 * are -inf. */
static int find_largest(const float *logits, int64_t count, int64_t *ret_id)
{
    enum {
        BLOCK = 256
    };
    float largest = -INFINITY;
    int64_t place = -1; /* of the first block that has it */
    for (int64_t at = 0; at < count; at += BLOCK) {
        int64_t end = at + BLOCK < count ? at + BLOCK : count;
        float block = -INFINITY;
        int wrong = 0;
        for (int64_t i = at; i < end; i++) {
            float l = logits[i];
            wrong |= !(l <= FLT_MAX);
            block = l > block ? l : block;
        }
        if (wrong)
            return MED_E_INTERNAL;
        if (block > largest) {
            largest = block;
            place = at;
        }
    }
    if (place < 0)
        return MED_E_INTERNAL;
    while (logits[place] != largest)
        place++;
    *ret_id = place;
    return 0;
}

/* ---- steps 2 and 3: bias, masks, penalties ---- */

static float clamp_finite(float value)
{
    return value > FLT_MAX ? FLT_MAX : value < -FLT_MAX ? -FLT_MAX : value;
}

static bool is_among(const uint32_t *ids, size_t count, uint32_t id)
{
    for (size_t i = 0; i < count; i++) {
        if (ids[i] == id)
            return true;
    }
    return false;
}

static void touch(struct med_sampler *s, uint32_t id, uint32_t add, int64_t *touched)
{
    if ((int64_t)id >= s->vocab)
        return;
    if (s->counts[id] == 0)
        s->touched[(*touched)++] = id;
    s->counts[id] = add == SEEN ? s->counts[id] | SEEN : s->counts[id] + add;
}

static void penalize(struct med_sampler *s, const struct med_draw_input *in)
{
    const struct med_sampling *want = in->sampling;
    int64_t touched = 0;
    /* The prompt's tokens matter to the repetition penalty alone. */
    int64_t first = want->repetition_penalty != 1 ? 0 : in->prompt_tokens;
    for (int64_t i = first; i < in->count; i++)
        touch(s, in->tokens[i], i < in->prompt_tokens ? SEEN : 1, &touched);
    for (int64_t i = 0; i < touched; i++) {
        uint32_t id = s->touched[i];
        uint32_t count = s->counts[id] & ~(uint32_t)SEEN;
        s->counts[id] = 0;
        float l = in->logits[id];
        if (l == -INFINITY)
            continue;
        l = l > 0 ? l / want->repetition_penalty : l * want->repetition_penalty;
        l -= want->frequency_penalty * (float)count;
        l -= count > 0 ? want->presence_penalty : 0;
        in->logits[id] = clamp_finite(l);
    }
}

/* Masks what may not be drawn yet; where nothing else is left, the mask does not hold: a sequence
 * cannot stand still. */
static void mask_stops(struct med_sampler *s, const struct med_draw_input *in)
{
    const struct med_sampling *want = in->sampling;
    const uint32_t *lists[] = {in->eos_ids, want->stop_ids};
    const size_t counts[] = {want->ignore_eos ? 0 : in->eos_count, want->stop_count};
    int64_t masked = 0; /* ids and keys are free here: they hold what the mask overwrites */
    for (int list = 0; list < 2; list++) {
        for (size_t i = 0; i < counts[list]; i++) {
            uint32_t id = lists[list][i];
            if ((int64_t)id >= s->vocab || in->logits[id] == -INFINITY)
                continue;
            s->ids[masked] = id;
            memcpy(&s->keys[masked++], &in->logits[id], sizeof(float));
            in->logits[id] = -INFINITY;
        }
    }
    int64_t largest;
    if (find_largest(in->logits, s->vocab, &largest) == 0)
        return;
    for (int64_t i = 0; i < masked; i++)
        memcpy(&in->logits[s->ids[i]], &s->keys[i], sizeof(float));
}

/* ---- step 4: who can be drawn ---- */

/*
 * The largest key K such that the amounts of entries with a key of at least K sum to `need` or more;
 * *ret_above is the sum of those above K.  amounts NULL: 1 each.  0 < need <= the sum of all.
 */
static uint32_t find_border(struct med_sampler *s, const uint64_t *amounts, int64_t count,
                            uint64_t need, uint64_t *ret_above)
{
    static const struct {
        int shift, bits;
    } steps[] = {{21, 11}, {10, 11}, {0, 10}};
    uint32_t prefix = 0;
    uint64_t above = 0;
    for (int step = 0; step < 3; step++) {
        const int shift = steps[step].shift, bits = steps[step].bits;
        const uint32_t low = (UINT32_C(1) << bits) - 1;
        memset(s->bins, 0, sizeof s->bins);
        for (int64_t i = 0; i < count; i++) {
            uint32_t key = s->keys[i] >> shift;
            if (step == 0 || key >> bits == prefix)
                s->bins[key & low] += amounts ? amounts[i] : 1;
        }
        uint32_t bin = low;
        while (above + s->bins[bin] < need) {
            MED_ASSERT(bin > 0);
            above += s->bins[bin--];
        }
        prefix = prefix << bits | bin;
    }
    *ret_above = above;
    return prefix;
}

/* Lists the ids that top_k keeps, all of them if it is off. */
static void gather(struct med_sampler *s, const float *logits, uint32_t top_k)
{
    for (int64_t i = 0; i < s->vocab; i++)
        s->keys[i] = order_key(logits[i]);
    uint32_t border = 0;
    if (top_k > 0 && (int64_t)top_k < s->vocab) {
        uint64_t above = 0;
        border = find_border(s, NULL, s->vocab, top_k, &above);
    }
    int64_t kept = 0;
    for (int64_t i = 0; i < s->vocab; i++) {
        uint32_t key = s->keys[i];
        s->ids[kept] = (uint32_t)i;
        s->keys[kept] = key;
        kept += key >= border;
    }
    s->candidates = kept;
}

/* Weights of the candidates: 0 for those that min_p or their own smallness excludes.  Returns their
 * sum. */
static uint64_t weigh(struct med_sampler *s, const float *logits, double largest,
                      const struct med_sampling *want)
{
    const double inverse = 1 / (double)want->temperature;
    const double one = (double)(UINT64_C(1) << s->weight_bits);
    const double min_p = (double)want->min_p;
    const double shift = 0x1p52; /* adding it leaves the nearest integer in the low bits */
    uint64_t sum = 0;
    for (int64_t i = 0; i < s->candidates; i++) {
        double x = ((double)logits[s->ids[i]] - largest) * inverse;
        double p = exp_small(x > -64 ? x : -64);
        double shifted = (p >= min_p ? p * one : 0) + shift;
        uint64_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        s->weights[i] = bits & ((UINT64_C(1) << 52) - 1);
        sum += s->weights[i];
    }
    return sum;
}

/* ---- step 5 ---- */

static uint32_t draw(struct med_sampler *s, const struct med_draw_input *in, uint64_t sum)
{
    const struct med_sampling *want = in->sampling;
    uint32_t border = 0;        /* key of the smallest logit that top_p keeps, */
    uint64_t ties = UINT64_MAX; /* and how many ids of that key, from the smallest id */
    if (want->top_p < 1) {
        uint64_t low, above;
        uint64_t need = multiply((uint64_t)((double)want->top_p * 0x1p64), sum, &low);
        need += low > 0 || need == 0;
        border = find_border(s, s->weights, s->candidates, need, &above);
        int64_t tie = 0;
        while (s->keys[tie] != border)
            tie++;
        ties = (need - above + s->weights[tie] - 1) / s->weights[tie];
        sum = above + ties * s->weights[tie];
    }
    uint64_t low;
    uint64_t target = multiply(med_sampling_random(want->seed, (uint64_t)in->count), sum, &low);
    for (int64_t i = 0; i < s->candidates; i++) {
        if (s->keys[i] < border)
            continue;
        if (s->keys[i] == border) {
            if (ties == 0)
                continue;
            ties--;
        }
        if (target < s->weights[i])
            return s->ids[i];
        target -= s->weights[i];
    }
    MED_ASSERT(false); /* the weights sum to more than target */
    return 0;
}

/* ---- step 1 ---- */

/* Logarithm of the sum of exp(logit - largest). */
static double log_sum(const float *logits, int64_t count, double largest)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        double x = (double)logits[i] - largest;
        sum += exp_small(x > -64 ? x : -64);
    }
    return log(sum);
}

/* rank and top_ids order by logit, then by id. */
static void fill_logprobs(const float *raw, int64_t vocab, int32_t top, uint32_t id,
                          struct med_token_logprobs *out)
{
    int64_t likeliest = 0;
    for (int64_t i = 1; i < vocab; i++)
        likeliest = raw[i] > raw[likeliest] ? i : likeliest;
    const double largest = (double)raw[likeliest];
    const double norm = largest + log_sum(raw, vocab, largest);
    const float own = raw[id];
    uint32_t rank = 1;
    for (int64_t i = 0; i < vocab; i++)
        rank += raw[i] > own || (raw[i] == own && i < (int64_t)id);
    out->logprob = (float)((double)own - norm);
    out->rank = rank;

    /* A sorted list of at most MED_LIMIT_TOP_LOGPROBS; ids come in ascending order, so an equal
     * logit stays behind. */
    uint32_t count = 0;
    const uint32_t wanted = (uint32_t)top;
    for (int64_t i = 0; i < vocab && wanted > 0; i++) {
        if (raw[i] == -INFINITY || (count == wanted && raw[i] <= raw[out->top_ids[count - 1]]))
            continue;
        uint32_t at = count < wanted ? count++ : count - 1;
        for (; at > 0 && raw[i] > raw[out->top_ids[at - 1]]; at--)
            out->top_ids[at] = out->top_ids[at - 1];
        out->top_ids[at] = (uint32_t)i;
    }
    out->top_count = count;
    for (uint32_t i = 0; i < count; i++)
        out->top_logprobs[i] = (float)((double)raw[out->top_ids[i]] - norm);
}

int med_sampler_draw(struct med_sampler *sampler, const struct med_draw_input *input,
                     struct med_draw *ret_draw)
{
    struct med_sampler *s = sampler;
    const struct med_sampling *want = input->sampling;
    MED_ASSERT(input->vocab == s->vocab);
    MED_ASSERT(input->prompt_tokens >= 0);
    MED_ASSERT(input->count >= input->prompt_tokens);
    MED_ASSERT(want->top_logprobs <= MED_LIMIT_TOP_LOGPROBS);
    float *logits = input->logits;
    int64_t largest = 0;
    int rc = find_largest(logits, s->vocab, &largest);
    if (rc != 0)
        return rc;

    if (want->top_logprobs >= 0)
        memcpy(s->raw, logits, (size_t)s->vocab * sizeof logits[0]);
    for (size_t i = 0; i < want->bias_count; i++) {
        uint32_t id = want->biases[i].id;
        if ((int64_t)id < s->vocab && logits[id] != -INFINITY)
            logits[id] = clamp_finite(logits[id] + want->biases[i].bias);
    }
    bool may_stop = input->count - input->prompt_tokens >= want->tokens_min;
    if (!may_stop)
        mask_stops(s, input);
    if (med_sampling_has_penalties(want))
        penalize(s, input);
    if (want->bias_count > 0 || !may_stop || med_sampling_has_penalties(want))
        rc = find_largest(logits, s->vocab, &largest);
    MED_ASSERT(rc == 0); /* none of the above makes NaN or infinity, or takes all */

    uint32_t id = (uint32_t)largest;
    if (want->temperature > 0) {
        gather(s, logits, want->top_k);
        id = draw(s, input, weigh(s, logits, (double)logits[largest], want));
    }
    ret_draw->id = id;
    ret_draw->stop =
        may_stop && (is_among(want->stop_ids, want->stop_count, id) ||
                     (!want->ignore_eos && is_among(input->eos_ids, input->eos_count, id)));
    if (want->top_logprobs >= 0)
        fill_logprobs(s->raw, s->vocab, want->top_logprobs, id, &ret_draw->logprobs);
    return 0;
}
