/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One call of the OpenAI-compatible door: what its body asks for, as queries of the router.
 *
 * A body may hold several prompts; each of them is a query, and the choices of all are numbered
 * through: choice c of prompt p has index p * n + c.
 * owns: its queries, until med_openai_call_release.  thread: one at a time; reading may run in a
 * thread of the pool.
 */
#ifndef MED_ROUTER_OPENAI_CALL_H
#define MED_ROUTER_OPENAI_CALL_H

#include "base/err.h"
#include "router/request.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum med_openai_kind {
    MED_OPENAI_COMPLETIONS,
    MED_OPENAI_CHAT
};

enum {
    MED_OPENAI_PARAM_BYTES = 256
};

struct med_openai_call {
    enum med_openai_kind kind;
    struct med_query **queries; /* owned; each too */
    size_t query_count;
    bool stream;
    bool usage;        /* stream_options.include_usage: one more chunk */
    bool usage_always; /* stream_options.continuous_usage_stats: in every chunk */
    bool token_ids;    /* return_token_ids */
    bool as_ids;       /* return_tokens_as_token_ids: logprobs name tokens by id */
};

void med_openai_call_release(struct med_openai_call *call); /* accepts a zeroed struct */
/* Of each query. */
uint32_t med_openai_call_choices(const struct med_openai_call *call);

/* Why a call is refused or has failed, as its client reads it. */
struct med_openai_error {
    int code;                           /* of base/err.h */
    int status;                         /* HTTP */
    const char *type;                   /* static */
    const char *name;                   /* static; the object's "code" */
    char param[MED_OPENAI_PARAM_BYTES]; /* ""; null */
    char message[MED_ERR_TEXT_MAX];
    uint32_t retry_after_ms; /* 0: no hint */
};

/* From what reading a body said, or from what the router said of a query (NULL: there is none yet): its
 * sentences name fields as the query knows them, this one as the client wrote them. */
void med_openai_error_set(struct med_openai_error *error, int code, const char *text,
                          const struct med_query *query);

#endif
