/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a load test wants to know of an OpenAI-style answer or event, read in one pass without a
 * tree: a hundred thousand of them come per second.
 * thread: any; pure. owns: nothing.
 */
#ifndef MED_ROUTER_BENCH_FACTS_H
#define MED_ROUTER_BENCH_FACTS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MED_BENCH_FACTS_TEXT_MAX = 200
};

struct med_bench_facts {
    bool has_choice;
    bool has_text;                            /* a choice carries text, reasoning or a tool call */
    bool has_role;                            /* the first chunk of a chat names who speaks */
    bool has_finish;                          /* a choice says why it ended */
    int64_t token_ids;                        /* -1: none listed */
    int64_t prompt_tokens, completion_tokens; /* -1: not told */
    bool has_error;
    int error_code;                       /* an HTTP status, if it says one; else 0 */
    char error[MED_BENCH_FACTS_TEXT_MAX]; /* its message, cut */
};

/* errors: MED_E_FORMAT: it is not one JSON object. */
int med_bench_facts_read(const char *json, size_t bytes,
                         struct med_bench_facts *ret_facts) MED_MUST_CHECK;

#endif
