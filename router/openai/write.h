/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers, chunks and errors as the OpenAI API prints them.
 *
 * Text goes straight into a buffer; no tree is built.  What all chunks of a stream share is made once
 * (med_openai_style_init), so that a chunk costs its text and some copying.
 * owns: a style owns its head.  errors: MED_E_NOMEM, MED_E_LIMIT of the buffer; what was written
 * before the failure stays.  thread: loop; pure.
 */
#ifndef MED_ROUTER_OPENAI_WRITE_H
#define MED_ROUTER_OPENAI_WRITE_H

#include "base/buf.h"
#include "router/openai/call.h"

/* What the answers to one call share. */
struct med_openai_style {
    const struct med_openai_call *call; /* borrowed, as all here */
    const char *id; /* the request's; the answer's is "chatcmpl-ID" or "cmpl-ID" */
    const char *model;
    int64_t created_s;
    struct med_buf head; /* of a chunk, up to the index of its choice */
};
int med_openai_style_init(struct med_openai_style *style) MED_MUST_CHECK; /* makes head */
void med_openai_style_release(struct med_openai_style *style);

/* The whole answer; every choice has ended well. */
int med_openai_write_answer(const struct med_openai_style *style,
                            struct med_buf *out) MED_MUST_CHECK;

/* What a choice has that its client does not. */
struct med_openai_chunk {
    struct med_req *req;
    uint32_t index;  /* of the choice, through all prompts */
    size_t from, to; /* output tokens; their logprobs are written */
    const char *text;
    size_t text_bytes;
    bool role; /* the first one of a chat: says whose turn it is */
    bool ends; /* carries finish_reason */
};
/* One event: "data: {...}\n\n". Advances req->chars_told. */
int med_openai_write_chunk(const struct med_openai_style *style,
                           const struct med_openai_chunk *chunk,
                           struct med_buf *out) MED_MUST_CHECK;
/* The usage of the whole call as an event without choices. */
int med_openai_write_usage(const struct med_openai_style *style,
                           struct med_buf *out) MED_MUST_CHECK;
/* {"error": ...}; as_event: as an event of a stream. */
int med_openai_write_error(const struct med_openai_error *error, bool as_event,
                           struct med_buf *out) MED_MUST_CHECK;

/* In quotes; invalid UTF-8 becomes U+FFFD. */
int med_openai_write_string(struct med_buf *out, const char *bytes, size_t count) MED_MUST_CHECK;

/* write_logprobs.c: the value of "logprobs" for output tokens from..to-1, "null" if there are none. */
int med_openai_write_logprobs(const struct med_openai_call *call, struct med_req *req, size_t from,
                              size_t to, struct med_buf *out) MED_MUST_CHECK;

#endif
