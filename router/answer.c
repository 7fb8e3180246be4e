/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text of a growing choice, see answer.h.
 *
 * Tokens go through the detokenizer one at a time, so that it is known which of them completed a
 * character or a stop string.  Each waiting token keeps the place in the decoded text where its own
 * ends; it has come out when as much text has.  Runs on the loop. It knows nothing of links or doors.
 */
#include "router/answer.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/limits.h"

#include <string.h>

enum {
    WAITING_MIN = 16,
    /* A token's bytes, each of them invalid and so spelled with three. */
    PIECE_BYTES = 3 * MED_LIMIT_TOKEN_BYTES + 64
};

int med_answer_init(struct med_answer *answer, const struct med_answer_options *options)
{
    *answer = (struct med_answer){.options = *options, .stop = -1};
    med_buf_init(&answer->piece, PIECE_BYTES);
    med_buf_init(&answer->text, MED_LIMIT_ANSWER_BYTES);
    MED_ASSERT(options->tokenizer != NULL || options->stop_count == 0);
    int rc = 0;
    if (options->tokenizer != NULL)
        med_detokenizer_init(&answer->detokenizer, options->tokenizer, options->skip_special, true);
    if (options->stop_count > 0) {
        rc = med_stops_init(&answer->stops, options->stops, options->stop_count,
                            options->include_stop);
    }
    if (rc == 0 && options->echo != NULL)
        rc = med_buf_append(&answer->text, options->echo, options->echo_bytes);
    answer->options.echo = NULL; // it need not outlive this call
    return rc;
}

void med_answer_release(struct med_answer *answer)
{
    med_stops_release(&answer->stops);
    med_buf_release(&answer->piece);
    med_buf_release(&answer->text);
    med_free(answer->ends);
    answer->ends = NULL;
}

/* ---- tokens that wait ---- */

static int wait_push(struct med_answer *answer, uint64_t end)
{
    if (answer->waiting == answer->capacity) {
        size_t capacity = answer->capacity < WAITING_MIN ? WAITING_MIN : answer->capacity * 2;
        uint64_t *grown = med_realloc_array(answer->ends, capacity, sizeof(*grown));
        if (grown == NULL)
            return MED_E_NOMEM;
        answer->ends = grown;
        answer->capacity = capacity;
    }
    answer->ends[answer->waiting++] = end;
    return 0;
}

/* Those whose text ended with half a character that is whole now. */
static void wait_settle(struct med_answer *answer)
{
    for (size_t i = answer->waiting; i > 0 && answer->ends[i - 1] == UINT64_MAX; i--)
        answer->ends[i - 1] = answer->decoded;
}

static void wait_let_out(struct med_answer *answer)
{
    size_t out = 0;
    while (out < answer->waiting && answer->ends[out] <= answer->let_out)
        out++;
    if (out == 0)
        return;
    answer->waiting -= out;
    memmove(answer->ends, answer->ends + out, answer->waiting * sizeof(*answer->ends));
}

/* ---- tokens in ---- */

static bool is_among(const uint32_t *ids, size_t count, uint32_t id)
{
    for (size_t i = 0; i < count; i++) {
        if (ids[i] == id)
            return true;
    }
    return false;
}

static bool is_stop_id(const struct med_answer *answer, uint32_t id)
{
    const struct med_answer_options *o = &answer->options;
    return is_among(o->stop_ids, o->stop_id_count, id) || is_among(o->eos_ids, o->eos_count, id);
}

static void finish(struct med_answer *answer)
{
    answer->ended = true;
    answer->waiting = 0;
    answer->let_out = answer->decoded;
}

/* `guarded`: a stop string may end it now. */
static int add_one(struct med_answer *answer, uint32_t id, bool guarded)
{
    bool silent = guarded && !answer->options.include_stop && is_stop_id(answer, id);
    int rc = 0;
    med_buf_clear(&answer->piece);
    if (!silent)
        rc = med_detokenizer_add(&answer->detokenizer, &id, 1, &answer->piece);
    if (rc < 0)
        return rc;
    size_t bytes = answer->piece.length;
    bool whole = answer->detokenizer.pending_count == 0;
    answer->decoded += bytes;
    if (bytes > 0 || whole)
        wait_settle(answer);
    rc = wait_push(answer, whole ? answer->decoded : UINT64_MAX);
    if (rc < 0 || bytes == 0)
        return rc;
    if (guarded && answer->options.stop_count > 0) {
        return med_stops_add(&answer->stops, answer->piece.data, bytes, &answer->text,
                             &answer->stop);
    }
    return med_buf_append(&answer->text, answer->piece.data, bytes);
}

int med_answer_add(struct med_answer *answer, const uint32_t *ids, size_t count, size_t *ret_taken)
{
    MED_ASSERT(!answer->ended);
    size_t taken = 0;
    int rc = 0;
    if (answer->options.tokenizer == NULL) {
        answer->tokens += count;
        taken = count;
    }
    while (taken < count && rc == 0 && answer->stop < 0) {
        rc = add_one(answer, ids[taken], answer->tokens >= answer->options.min_tokens);
        answer->tokens++;
        taken++;
    }
    if (rc < 0)
        return rc;
    *ret_taken = taken;
    if (taken > 0) {
        answer->at_stop =
            answer->tokens > answer->options.min_tokens && is_stop_id(answer, ids[taken - 1]);
    }
    if (answer->stop >= 0) {
        finish(answer);
        return 0;
    }
    answer->let_out = answer->decoded - answer->stops.held.length;
    wait_let_out(answer);
    return 0;
}

int med_answer_end(struct med_answer *answer)
{
    if (answer->ended)
        return 0;
    int rc = 0;
    if (answer->options.stop_count > 0)
        rc = med_stops_end(&answer->stops, &answer->text);
    if (rc == 0 && answer->options.tokenizer != NULL)
        rc = med_detokenizer_end(&answer->detokenizer, &answer->text);
    finish(answer);
    return rc;
}

size_t med_answer_tokens_out(const struct med_answer *answer)
{
    return answer->tokens - answer->waiting;
}

const char *med_answer_stop(const struct med_answer *answer)
{
    return answer->stop < 0 ? NULL : answer->options.stops[answer->stop];
}
