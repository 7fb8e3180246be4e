/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON bodies to calls.
 *
 * Every field that is known has its type checked here and its range here or by med_query_check;
 * null counts as absent; what is not known is ignored.  What is known and not built (tools,
 * structured output, suffix) is refused, since an answer without it would look like one with it.
 *
 * errors: MED_E_FORMAT, MED_E_INVALID or MED_E_LIMIT with a sentence that begins "body: $.field: "
 * (med_openai_error_set makes the client's of it), MED_E_NOMEM.  On failure *ret is to be released.
 * thread: any; pure.
 */
#ifndef MED_ROUTER_OPENAI_READ_H
#define MED_ROUTER_OPENAI_READ_H

#include "base/json.h"
#include "router/openai/call.h"

/* What messages and errors call the body. */
#define MED_OPENAI_BODY "body"

int med_openai_read(enum med_openai_kind kind, const char *bytes, size_t count,
                    struct med_openai_call *ret_call, struct med_err *err) MED_MUST_CHECK;

/* Bodies of /tokenize and /detokenize. */
struct med_openai_text {
    struct med_input input; /* of /tokenize */
    uint32_t *ids;          /* owned; of /detokenize */
    size_t id_count;
    char *model;  /* owned; NULL: none */
    bool strings; /* return_token_strs */
    bool keep_special;
};
void med_openai_text_release(struct med_openai_text *text); /* accepts a zeroed struct */
int med_openai_read_tokenize(const char *bytes, size_t count, struct med_openai_text *ret_text,
                             struct med_err *err) MED_MUST_CHECK;
int med_openai_read_detokenize(const char *bytes, size_t count, struct med_openai_text *ret_text,
                               struct med_err *err) MED_MUST_CHECK;

/* read_input.c: the parts that both kinds of bodies share */
/* "messages" of the object. */
int med_openai_read_messages(const struct med_json_at *root, struct med_input *input,
                             struct med_err *err) MED_MUST_CHECK;
/* Makes the call's queries, one for each prompt of "prompt". */
int med_openai_read_prompts(const struct med_json_at *root, struct med_openai_call *call,
                            struct med_err *err) MED_MUST_CHECK;
/* Room for so many queries. */
int med_openai_call_make(struct med_openai_call *call, size_t query_count) MED_MUST_CHECK;
int med_openai_no_memory(struct med_err *err) MED_MUST_CHECK;

#endif
