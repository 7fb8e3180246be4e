/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the router knows of the served model's text: its tokenizer, its chat template, and the tokens
 * that end a sequence.
 *
 * owns: both, and the scratch memory of the threads that encode.
 * thread: load and free: main; encode: any number of threads at once; the rest is immutable.
 * errors: load: MED_E_FORMAT and the like with file and place; encode: MED_E_INVALID with a sentence
 * for the client that names the field, MED_E_NOMEM.
 */
#ifndef MED_ROUTER_MODEL_H
#define MED_ROUTER_MODEL_H

#include "base/err.h"
#include "router/request.h"
#include "router/tokenizer/chat_template.h"
#include "router/tokenizer/tokenizer.h"

#include <pthread.h>
#include <stdbool.h>

enum {
    /* At most so many scratches are kept: the loop's and those of the pool's threads. */
    MED_ROUTER_MODEL_SCRATCHES = 64,
    MED_ROUTER_MODEL_EOS_MAX = 16 /* as many as a worker takes */
};

struct med_router_model {
    struct med_tokenizer *tokenizer;
    struct med_chat_template *chat_template; // NULL: the model has none
    uint32_t eos_ids[MED_ROUTER_MODEL_EOS_MAX];
    size_t eos_count;
    pthread_mutex_t lock; // of what follows
    struct med_tokenizer_scratch *free_scratches[MED_ROUTER_MODEL_SCRATCHES];
    size_t free_count;
};

/* True if the folder has a tokenizer.json. */
bool med_router_model_is_there(const char *dir);
int med_router_model_load(const char *dir, struct med_router_model **ret_model,
                          struct med_err *err) MED_MUST_CHECK;
void med_router_model_free(struct med_router_model *model); /* nobody encodes; accepts NULL */

/* The tokens of a prompt: text with what the tokenizer adds, a chat through the template.  Checks that
 * the text is UTF-8. */
int med_router_model_encode(struct med_router_model *model, const struct med_input *input,
                            struct med_token_ids *ids, struct med_err *err) MED_MUST_CHECK;

#endif
