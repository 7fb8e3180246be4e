/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chat messages to the text of a prompt, by the model's own template.
 *
 * A template is Jinja; Medley runs the part of the language that the templates of Llama 2, Llama 3
 * and 3.1, Mistral, Qwen 2, 2.5 and 3, and ChatML are made of.  A construct, filter, test or function
 * outside it is refused by name and line when the template is loaded, not when a user calls.
 * Output, steps and depth are bounded; a template can read only what it is given.
 *
 * owns: its program. thread: immutable after load; render may run on any number of threads.
 * errors: load: MED_E_FORMAT with file, line and the construct; render: MED_E_INVALID when the
 * template itself refuses the messages (raise_exception, with its text), MED_E_LIMIT.
 * source: the Jinja documentation; Hugging Face transformers' chat templating (trim_blocks and
 * lstrip_blocks on; bos_token, eos_token, messages, add_generation_prompt, strftime_now,
 * raise_exception).
 */
#ifndef MED_ROUTER_TOKENIZER_CHAT_TEMPLATE_H
#define MED_ROUTER_TOKENIZER_CHAT_TEMPLATE_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct med_chat_template;

struct med_chat_message {
    const char *role;
    const char *content; /* UTF-8 */
    size_t content_bytes;
};

struct med_chat_input {
    const struct med_chat_message *messages;
    size_t count;
    bool add_generation_prompt;
    int64_t unix_s; /* for strftime_now */
};

/* Reads DIR/chat_template.jinja, or the chat_template of DIR/tokenizer_config.json (a string, or the
 * one named "default" of a list), and bos_token and eos_token there.  *ret_template NULL and 0: the
 * model has none. */
int med_chat_template_load(const char *dir, struct med_chat_template **ret_template,
                           struct med_err *err) MED_MUST_CHECK;
int med_chat_template_parse(const char *text, size_t bytes, const char *name, const char *bos_token,
                            const char *eos_token, struct med_chat_template **ret_template,
                            struct med_err *err) MED_MUST_CHECK;
void med_chat_template_free(struct med_chat_template *chat_template);

/* Appends the prompt's text to `out`; special tokens are in it as text (encode with parse_special,
 * and without add_special). */
int med_chat_template_render(const struct med_chat_template *chat_template,
                             const struct med_chat_input *input, struct med_buf *out,
                             struct med_err *err) MED_MUST_CHECK;

#endif
