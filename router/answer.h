/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text of a growing choice: tokens in, text out, ended by a stop string.
 *
 * Tokens come with the text that they are spelled with: a token whose text waits (half a character,
 * what may become a stop string) waits too.  A token's text may come out before the token, in part;
 * never after it.  Without a tokenizer tokens pass at once and text is empty.
 *
 * A stop string counts when it begins in the text after the first min_tokens tokens.  What was held
 * back when the sequence ends comes out then, and matches nothing any more.
 * owns: its text. thread: loop. The tokenizer and the options outlive it.
 */
#ifndef MED_ROUTER_ANSWER_H
#define MED_ROUTER_ANSWER_H

#include "base/buf.h"
#include "base/err.h"
#include "router/tokenizer/stops.h"
#include "router/tokenizer/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct med_answer_options {
    const struct med_tokenizer *tokenizer; /* NULL: no text */
    bool skip_special;
    bool include_stop; /* the text of a stop string or token is part of the answer */
    uint32_t min_tokens;
    const char *const *stops;
    size_t stop_count;
    const uint32_t *stop_ids; /* tokens that end the sequence: the worker's business, but their text
                               * is left out */
    size_t stop_id_count;
    const uint32_t *eos_ids; /* the same of the model's own; none if the request ignores them */
    size_t eos_count;
    const char *echo; /* text to begin with; NULL: none */
    size_t echo_bytes;
};

struct med_answer {
    struct med_answer_options options; /* strings borrowed */
    struct med_detokenizer detokenizer;
    struct med_stops stops;
    struct med_buf piece; /* the text of one token */
    struct med_buf text;  /* came out, and was not taken yet */
    uint64_t decoded;     /* bytes that the detokenizer gave */
    uint64_t let_out;     /* ... of which so many came out; all when it has ended */
    uint64_t *ends; /* owned; of tokens that wait: `decoded` after their text; UINT64_MAX while
                           * that is half a character */
    size_t waiting, capacity;
    size_t tokens; /* taken */
    bool at_stop;  /* the last one ends the sequence: the worker ends it there */
    int stop;      /* index of the stop string that matched; -1 */
    bool ended;
};

int med_answer_init(struct med_answer *answer,
                    const struct med_answer_options *options) MED_MUST_CHECK;
void med_answer_release(struct med_answer *answer); /* accepts a zeroed struct */

/* Takes tokens.  *ret_taken: how many belong to the answer; fewer than count when a stop string
 * ended it, the last one being the token that completed it. */
int med_answer_add(struct med_answer *answer, const uint32_t *ids, size_t count,
                   size_t *ret_taken) MED_MUST_CHECK;
/* The sequence is over: all comes out. Does nothing when it has ended. */
int med_answer_end(struct med_answer *answer) MED_MUST_CHECK;

/* Tokens that have come out. */
size_t med_answer_tokens_out(const struct med_answer *answer);
/* The stop string that ended it; NULL: none did. */
const char *med_answer_stop(const struct med_answer *answer);

#endif
