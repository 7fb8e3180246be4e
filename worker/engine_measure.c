/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A measurement in the engine's turns (see engine_measure.h).
 *
 * Contexts of decodes grow by a token with each iteration: they begin so much below what was asked for
 * that the mean over the repeats is it, as far as the model's length allows; what was really run
 * is said with each repeat.  All sequences read one array of random ids, each from another place on,
 * and what they draw is written there: it means nothing.
 * thread: see the header.  Knows no links, and no backend.
 */
#include "worker/engine_measure.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/rng.h"

#include <inttypes.h>

#define SERIAL_FIRST (UINT64_C(1) << 63) /* no request of the loop gets there */

enum {
    SLACK = 8,        /* tokens that a decode may run beyond what is needed */
    SPREAD = 64,      /* places at which sequences begin to read the ids */
    TOKENS_STREAM = 6 /* of the generator; any number */
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t blocks_of(int64_t tokens, int64_t block_tokens)
{
    return (tokens + block_tokens - 1) / block_tokens;
}

/* ---- sizes ---------------------------------------------------------------------------------- */

/* Iterations that decodes live through: with a prefill beside them, a backend that queues puts one of
 * decodes alone between two of both. */
static int64_t turns_of(const struct med_measure_sizes *s)
{
    int64_t counted = s->warmup + s->repeats;
    return (s->prefill_tokens > 0 ? 2 * counted : counted) + SLACK;
}

/* Sequences that can run at a time. */
static int64_t lanes_of(const struct med_scheduler_config *c)
{
    return min64(c->sequences_max, c->table_max);
}

static int check_sizes(const struct med_measure_sizes *s, const struct med_scheduler_config *c,
                       struct med_err *err)
{
    const struct {
        const char *name;
        int64_t value, max;
    } fields[] = {
        {"decode_sequences", s->decode_sequences, lanes_of(c) - (s->prefill_tokens > 0)},
        {"prefill_tokens", s->prefill_tokens, c->batched_tokens_max - s->decode_sequences},
        {"prefill_context", s->prefill_context, c->model_len_max - s->prefill_tokens - 1},
        {"decode_context_tokens", s->decode_context_tokens, s->decode_sequences * c->model_len_max},
        {"warmup", s->warmup, MED_MEASURE_WARMUP_MAX},
        {"repeats", s->repeats, MED_MEASURE_REPEATS_MAX},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (fields[i].value >= 0 && fields[i].value <= fields[i].max)
            continue;
        return med_err_set(err, MED_E_INVALID, "Measure: %s is %" PRId64 ", expected 0 to %" PRId64,
                           fields[i].name, fields[i].value, max64(fields[i].max, 0));
    }
    if (s->prefill_tokens == 0 && s->prefill_context > 0)
        return med_err_set(err, MED_E_INVALID, "Measure: a prefill_context without prefill_tokens");
    if (s->repeats < 1 || s->prefill_tokens + s->decode_sequences < 1)
        return med_err_set(err, MED_E_INVALID, "Measure: there is nothing to repeat");
    if (s->decode_sequences > 0 && turns_of(s) + 1 > c->model_len_max) {
        return med_err_set(err, MED_E_INVALID,
                           "Measure: %" PRId64 " iterations of decodes, and a sequence has %" PRId64
                           " tokens at most",
                           turns_of(s), c->model_len_max);
    }
    return 0;
}

/* Sizes of decode i. */
static void shape_decode(struct med_measure *m, const struct med_scheduler_config *c, int64_t i)
{
    const struct med_measure_sizes *s = &m->sizes;
    const int64_t turns = turns_of(s);
    int64_t share = s->decode_context_tokens / s->decode_sequences +
                    (i < s->decode_context_tokens % s->decode_sequences);
    /* Its k-th decode has a context of cached + k. */
    int64_t middle = s->warmup + (s->repeats + 1) / 2;
    if (s->prefill_tokens > 0)
        middle *= 2;
    int64_t cached = min64(max64(share - middle, 0), c->model_len_max - turns - 1);
    struct med_engine_request *r = &m->decodes[i];
    r->sequence.prompt_tokens = cached + 1;
    r->measured_cached = cached;
    r->output_tokens_max = turns;
}

/* Long sequences that fill the cache; each decodes until all of them are there. */
static void shape_fill(struct med_measure *m, const struct med_scheduler_config *c)
{
    int64_t room = c->kv_tokens / c->block_tokens * c->block_tokens;
    int64_t turns = 2 * blocks_of(room, c->batched_tokens_max) + m->decode_count + SLACK;
    int64_t longest = min64(room, c->model_len_max);
    turns = min64(turns, longest / 2);
    int64_t each = (room / m->decode_count / c->block_tokens - 1) * c->block_tokens;
    int64_t prompt = max64(min64(each, longest) - turns, 1);
    for (int64_t i = 0; i < m->decode_count; i++) {
        m->decodes[i].sequence.prompt_tokens = prompt;
        m->decodes[i].output_tokens_max = turns;
    }
}

static int check_cache(const struct med_measure *m, const struct med_scheduler_config *c,
                       struct med_err *err)
{
    const struct med_measure_sizes *s = &m->sizes;
    int64_t total = c->kv_tokens / c->block_tokens, blocks = 0;
    if (s->prefill_tokens > 0)
        blocks = blocks_of(s->prefill_context + s->prefill_tokens, c->block_tokens) + 1;
    for (int64_t i = 0; i < m->decode_count; i++) {
        const struct med_engine_request *r = &m->decodes[i];
        blocks += blocks_of(r->sequence.prompt_tokens + r->output_tokens_max, c->block_tokens) + 1;
    }
    if (s->fill || blocks <= total)
        return 0;
    return med_err_set(err, MED_E_INVALID,
                       "Measure: it takes %" PRId64 " blocks of the KV cache, which has %" PRId64,
                       blocks, total);
}

/* ---- life ----------------------------------------------------------------------------------- */

static void init_request(struct med_measure *m, struct med_engine_request *r,
                         const struct med_sampling *sampling, int64_t at)
{
    r->measure = m;
    r->tokens = m->tokens + at % SPREAD;
    r->sequence.tokens = r->tokens;
    r->sequence.sampling = *sampling;
    r->sequence.sampling.seed = sampling->seed + (uint64_t)at;
    r->sequence.sampling.ignore_eos = true;
}

static int allocate(struct med_measure *m, const struct med_scheduler_config *c,
                    const struct med_sampling *sampling, int64_t vocab)
{
    const struct med_measure_sizes *s = &m->sizes;
    size_t tokens = (size_t)c->model_len_max + SPREAD + SLACK;
    m->step_ns = med_calloc((size_t)s->repeats + 1, sizeof m->step_ns[0]);
    m->decode_context_tokens =
        med_calloc((size_t)s->repeats + 1, sizeof m->decode_context_tokens[0]);
    m->decodes = med_calloc((size_t)m->decode_count + 1, sizeof m->decodes[0]);
    m->tokens = med_calloc(tokens, sizeof m->tokens[0]);
    if (!m->step_ns || !m->decode_context_tokens || !m->decodes || !m->tokens)
        return MED_E_NOMEM;
    struct med_rng rng;
    med_rng_init(&rng, sampling->seed, TOKENS_STREAM);
    for (size_t i = 0; i < tokens; i++)
        m->tokens[i] = med_rng_below(&rng, (uint32_t)vocab);
    for (int64_t i = 0; i < m->decode_count; i++)
        init_request(m, &m->decodes[i], sampling, i);
    init_request(m, &m->prefill, sampling, m->decode_count);
    m->prefill.sequence.prompt_tokens = s->prefill_context + s->prefill_tokens;
    m->prefill.measured_cached = s->prefill_context;
    m->prefill.output_tokens_max = 1;
    return 0;
}

static int64_t fill_sequences(const struct med_scheduler_config *c)
{
    int64_t wanted = min64(blocks_of(c->kv_tokens, c->model_len_max), lanes_of(c));
    return max64(min64(wanted, c->kv_tokens / c->block_tokens / 2), 1);
}

int med_measure_new(const struct med_measure_sizes *sizes,
                    const struct med_scheduler_config *scheduler,
                    const struct med_sampling *sampling, int64_t vocab,
                    struct med_measure **ret_measure, struct med_err *err)
{
    int rc = 0;
    if (!sizes->fill) {
        rc = check_sizes(sizes, scheduler, err);
    } else if (min64(scheduler->model_len_max, scheduler->kv_tokens) < 2) {
        rc = med_err_set(err, MED_E_INVALID, "Measure: the KV cache is too small to be filled");
    }
    if (rc < 0)
        return rc;
    struct med_measure *m = med_calloc(1, sizeof *m);
    if (!m)
        return med_err_set(err, MED_E_NOMEM, "no memory for a measurement");
    if (sizes->fill) {
        m->sizes = (struct med_measure_sizes){.fill = true};
        m->decode_count = fill_sequences(scheduler);
    } else {
        m->sizes = *sizes;
        m->decode_count = sizes->decode_sequences;
    }
    m->left = m->sizes.warmup;
    m->serial = SERIAL_FIRST;
    atomic_init(&m->shared.cancelled, false);
    rc = allocate(m, scheduler, sampling, vocab);
    if (rc < 0) {
        med_measure_free(m);
        return med_err_set(err, rc, "no memory for a measurement of %" PRId64 " sequences",
                           sizes->decode_sequences);
    }
    if (sizes->fill) {
        shape_fill(m, scheduler);
        m->patience = 8 * (m->decodes[0].output_tokens_max + m->decode_count) +
                      4 * blocks_of(scheduler->kv_tokens, scheduler->batched_tokens_max);
    } else {
        for (int64_t i = 0; i < m->decode_count; i++)
            shape_decode(m, scheduler, i);
        m->patience = 4 * turns_of(&m->sizes) + m->decode_count;
    }
    rc = check_cache(m, scheduler, err);
    if (rc < 0) {
        med_measure_free(m);
        return rc;
    }
    *ret_measure = m;
    return 0;
}

void med_measure_free(struct med_measure *measure)
{
    if (!measure)
        return;
    med_free(measure->step_ns);
    med_free(measure->decode_context_tokens);
    med_free(measure->decodes);
    med_free(measure->tokens);
    med_free(measure);
}

void med_measure_cancel(struct med_measure *measure)
{
    atomic_store_explicit(&measure->shared.cancelled, true, memory_order_relaxed);
}

/* ---- in the engine's turns ------------------------------------------------------------------ */

static void add(struct med_measure *m, struct med_scheduler *scheduler,
                struct med_engine_request *r)
{
    r->serial = ++m->serial;
    r->generated = 0;
    r->end = MED_ENGINE_GOES_ON;
    r->failing = false;
    const struct med_sequence_spec spec = {.id = r->serial,
                                           .prompt_tokens = r->sequence.prompt_tokens,
                                           .output_tokens_max = r->output_tokens_max,
                                           .cached_tokens = r->measured_cached,
                                           .user = r};
    int rc = med_scheduler_add(scheduler, &spec);
    MED_ASSERT(rc == 0); /* its size was checked, and nothing else is held */
}

/* Not there: it is ending by its length. */
static void cancel(struct med_scheduler *scheduler, const struct med_engine_request *r)
{
    int rc = med_scheduler_cancel(scheduler, r->serial);
    MED_ASSERT(rc == 0 || rc == MED_E_NOT_FOUND);
}

static void end(struct med_measure *m, struct med_scheduler *scheduler)
{
    m->ending = true;
    for (int64_t i = 0; m->begun && i < m->decode_count; i++) {
        if (m->decodes[i].end == MED_ENGINE_GOES_ON)
            cancel(scheduler, &m->decodes[i]);
    }
    if (m->prefill_is_held && m->prefill.end == MED_ENGINE_GOES_ON)
        cancel(scheduler, &m->prefill);
}

static void give_up(struct med_measure *m, int code, const char *why)
{
    if (m->failure.code == 0)
        (void)med_err_set(&m->failure, code, "%s", why);
}

/* All sequences of a fill have been prefilled. */
static bool is_filled(const struct med_measure *m)
{
    for (int64_t i = 0; i < m->decode_count; i++) {
        if (m->decodes[i].generated == 0)
            return false;
    }
    return true;
}

/* Whether no more iterations are wanted; says why if they are not all there. */
static bool is_over(struct med_measure *m)
{
    if (m->sizes.fill ? is_filled(m) : m->count == m->sizes.repeats)
        return true;
    if (atomic_load_explicit(&m->shared.cancelled, memory_order_relaxed))
        give_up(m, MED_E_CANCELLED, "the measurement was cancelled");
    if (m->patience-- <= 0)
        give_up(m, MED_E_INTERNAL, "the iterations that were asked for did not come about");
    for (int64_t i = 0; !m->sizes.fill && i < m->decode_count; i++) {
        if (m->decodes[i].end == MED_ENGINE_FAILED) {
            give_up(m, MED_E_INTERNAL, "the model has no finite logit for random tokens");
        } else if (m->decodes[i].end != MED_ENGINE_GOES_ON) {
            give_up(m, MED_E_INTERNAL, "a sequence ended before the measurement did");
        }
    }
    return m->failure.code != 0;
}

bool med_measure_feed(struct med_measure *m, struct med_scheduler *scheduler)
{
    if (!m->begun) {
        med_scheduler_scatter(scheduler, SERIAL_FIRST);
        for (int64_t i = 0; i < m->decode_count; i++)
            add(m, scheduler, &m->decodes[i]);
        m->begun = true;
    }
    if (!m->ending && is_over(m))
        end(m, scheduler);
    if (m->ending)
        return !med_scheduler_has_work(scheduler);
    bool decodes_run = m->decode_count == 0 || m->decodes[m->decode_count - 1].generated > 0;
    if (m->sizes.prefill_tokens > 0 && !m->prefill_is_held && decodes_run) {
        add(m, scheduler, &m->prefill);
        m->prefill_is_held = true;
    }
    return false;
}

void med_measure_step(struct med_measure *m, const struct med_step_load *load, int64_t ended_ns)
{
    int64_t passed_ns = ended_ns - m->since_ns;
    bool is_first = m->since_ns == 0;
    m->since_ns = ended_ns;
    const struct med_measure_sizes *s = &m->sizes;
    if (is_first || !m->begun || m->ending || s->fill || m->count == s->repeats ||
        load->prefill_tokens != s->prefill_tokens || load->decode_sequences != s->decode_sequences)
        return;
    if (m->left > 0) {
        m->left--;
        return;
    }
    m->step_ns[m->count] = passed_ns > 0 ? (uint64_t)passed_ns : 0;
    m->decode_context_tokens[m->count++] = (uint64_t)load->decode_context_tokens;
}

void med_measure_event(const struct med_sequence_event *event)
{
    struct med_engine_request *r = event->user;
    if (event->position >= 0)
        r->generated++;
    if (event->end == MED_END_NONE)
        return;
    r->end = r->failing ? MED_ENGINE_FAILED : MED_ENGINE_LENGTH;
    if (r == &r->measure->prefill)
        r->measure->prefill_is_held = false;
}

void med_measure_fail(struct med_measure *m, const struct med_err *err)
{
    m->failure = *err;
    m->ending = true;
}
