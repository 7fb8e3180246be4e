/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tokenizer, chat template and end-of-sequence tokens of the served model, see model.h.
 *
 * A thread that encodes takes a scratch from a free list and puts it back, so that there are as many
 * as threads encode at once, whichever threads these are.  Runs on the loop and in libuv's pool. Of the
 * model's configuration it reads eos_token_id alone: the worker acts on it, the router leaves its text out.
 */
#include "router/model.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

enum {
    PATH_BYTES = 4096
};

bool med_router_model_is_there(const char *dir)
{
    char path[PATH_BYTES];
    int length = snprintf(path, sizeof(path), "%s/tokenizer.json", dir);
    return length > 0 && (size_t)length < sizeof(path) && access(path, R_OK) == 0;
}

/* ---- tokens that end a sequence ---- */

static int add_eos(struct med_router_model *model, const struct med_json_at *root, int64_t id,
                   struct med_err *err)
{
    if (id < 0)
        return 0; // some publishers write none so
    if (model->eos_count == MED_ROUTER_MODEL_EOS_MAX) {
        return med_json_fail(root, "eos_token_id", err, "expected at most %d ids",
                             MED_ROUTER_MODEL_EOS_MAX);
    }
    model->eos_ids[model->eos_count++] = (uint32_t)id;
    return 0;
}

static int read_eos(struct med_router_model *model, const struct med_json_at *root,
                    struct med_err *err)
{
    int64_t id;
    int rc;
    struct med_json_at list;
    struct med_json_at item = {0};
    size_t index;
    if (!med_json_has(root, "eos_token_id"))
        return 0;
    model->eos_count = 0;
    if (med_json_array(root, "eos_token_id", &list, NULL) < 0) {
        rc = med_json_integer(root, "eos_token_id", -1, UINT32_MAX, &id, err);
        return rc < 0 ? rc : add_eos(model, root, id, err);
    }
    rc = 0;
    while (rc == 0 && med_json_next(&list, &index, &item, NULL)) {
        rc = med_json_integer_here(&item, -1, UINT32_MAX, &id, err);
        if (rc == 0)
            rc = add_eos(model, root, id, err);
    }
    return rc;
}

/* Of config.json, and of generation_config.json, which comes first; a folder may have neither. */
static int load_eos(struct med_router_model *model, const char *dir, struct med_err *err)
{
    static const char *const names[] = {"config.json", "generation_config.json"};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof(names) / sizeof(names[0]); i++) {
        char path[PATH_BYTES];
        struct med_json_doc doc;
        int length = snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        if (length < 0 || (size_t)length >= sizeof(path))
            return med_err_set(err, MED_E_LIMIT, "%s: the path is too long", dir);
        if (access(path, F_OK) != 0)
            continue;
        rc = med_json_parse_file(path, &doc, err);
        if (rc < 0)
            return rc;
        struct med_json_at root = med_json_root(&doc);
        rc = med_json_is_object(&root) ? read_eos(model, &root, err)
                                       : med_json_fail(&root, NULL, err, "expected an object");
        med_json_free(&doc);
    }
    return rc;
}

/* ---- loading ---- */

int med_router_model_load(const char *dir, struct med_router_model **ret_model, struct med_err *err)
{
    struct med_router_model *model = med_calloc(1, sizeof(*model));
    if (model == NULL)
        return med_err_set(err, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM));
    int locked = pthread_mutex_init(&model->lock, NULL);
    MED_ASSERT(locked == 0); // fails on Linux for wrong attributes only
    int rc = med_tokenizer_load(dir, &model->tokenizer, err);
    if (rc == 0)
        rc = med_chat_template_load(dir, &model->chat_template, err);
    if (rc == 0)
        rc = load_eos(model, dir, err);
    if (rc < 0) {
        med_router_model_free(model);
        return rc;
    }
    *ret_model = model;
    return 0;
}

void med_router_model_free(struct med_router_model *model)
{
    if (model == NULL)
        return;
    for (size_t i = 0; i < model->free_count; i++)
        med_tokenizer_scratch_free(model->free_scratches[i]);
    med_chat_template_free(model->chat_template);
    med_tokenizer_free(model->tokenizer);
    (void)pthread_mutex_destroy(&model->lock); // nobody holds it
    med_free(model);
}

/* ---- scratch ---- */

static int scratch_take(struct med_router_model *model, struct med_tokenizer_scratch **ret_scratch)
{
    struct med_tokenizer_scratch *scratch = NULL;
    (void)pthread_mutex_lock(&model->lock);
    if (model->free_count > 0)
        scratch = model->free_scratches[--model->free_count];
    (void)pthread_mutex_unlock(&model->lock);
    if (scratch == NULL)
        return med_tokenizer_scratch_new(model->tokenizer, ret_scratch);
    *ret_scratch = scratch;
    return 0;
}

static void scratch_give(struct med_router_model *model, struct med_tokenizer_scratch *scratch)
{
    (void)pthread_mutex_lock(&model->lock);
    if (model->free_count < MED_ROUTER_MODEL_SCRATCHES) {
        model->free_scratches[model->free_count++] = scratch;
        scratch = NULL;
    }
    (void)pthread_mutex_unlock(&model->lock);
    med_tokenizer_scratch_free(scratch);
}

/* ---- encoding ---- */

static int check_text(const char *text, size_t bytes, const char *field, struct med_err *err)
{
    long at = med_utf8_check(text, bytes);
    if (at < 0)
        return 0;
    return med_err_set(err, MED_E_INVALID, "%s: found byte 0x%02x at position %ld, expected UTF-8",
                       field, (unsigned char)text[at], at);
}

static int encode_text(struct med_router_model *model, const char *text, size_t bytes,
                       const struct med_encode_options *options, struct med_token_ids *ids,
                       struct med_err *err)
{
    struct med_tokenizer_scratch *scratch;
    int rc = scratch_take(model, &scratch);
    if (rc < 0)
        return med_err_set(err, rc, "%s", med_err_text(rc));
    rc = med_tokenizer_encode(model->tokenizer, scratch, text, bytes, options, ids, err);
    scratch_give(model, scratch);
    return rc;
}

static int encode_chat(struct med_router_model *model, const struct med_input *input,
                       struct med_token_ids *ids, struct med_err *err)
{
    for (size_t i = 0; i < input->message_count; i++) {
        char field[64];
        (void)snprintf(field, sizeof(field), "chat.messages[%zu].content", i);
        int rc =
            check_text(input->messages[i].content, input->messages[i].content_bytes, field, err);
        if (rc < 0)
            return rc;
    }
    const struct med_chat_input chat = {
        .messages = input->messages,
        .count = input->message_count,
        .add_generation_prompt = input->add_generation_prompt,
        .unix_s = med_clock_unix_ns() / MED_NS_PER_S,
    };
    /* The template writes the special tokens, the one that begins a sequence too. */
    const struct med_encode_options options = {.parse_special = true};
    struct med_buf text;
    med_buf_init(&text, MED_LIMIT_PROMPT_BYTES);
    int rc = med_chat_template_render(model->chat_template, &chat, &text, err);
    if (rc < 0) {
        (void)med_err_prefix(err, "chat");
    } else {
        rc =
            encode_text(model, text.data != NULL ? text.data : "", text.length, &options, ids, err);
        if (rc < 0)
            (void)med_err_prefix(err, "chat");
    }
    med_buf_release(&text);
    return rc;
}

int med_router_model_encode(struct med_router_model *model, const struct med_input *input,
                            struct med_token_ids *ids, struct med_err *err)
{
    MED_ASSERT(input->kind == MED_INPUT_TEXT || input->kind == MED_INPUT_CHAT);
    int rc;
    if (input->kind == MED_INPUT_CHAT) {
        rc = encode_chat(model, input, ids, err);
    } else {
        const struct med_encode_options options = {.add_special = !input->without_special,
                                                   .parse_special = true};
        rc = check_text(input->text, input->text_bytes, "text", err);
        if (rc == 0) {
            rc = encode_text(model, input->text, input->text_bytes, &options, ids, err);
            if (rc < 0)
                (void)med_err_prefix(err, "text");
        }
    }
    /* A prompt that is too long, or that the template refuses, is the client's to correct. */
    if (rc == MED_E_LIMIT && err != NULL)
        err->code = MED_E_INVALID;
    return rc == MED_E_LIMIT ? MED_E_INVALID : rc;
}
