/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prompts and messages of bodies, see read.h.
 *
 * "prompt" is a string, a list of strings, a list of token ids, or a list of such lists.  The content of
 * a message is a string or a list of text parts, which are joined by line feeds.
 * Thread: any; pure.
 */
#include "base/alloc.h"
#include "base/buf.h"
#include "router/openai/read.h"

#include <string.h>

int med_openai_no_memory(struct med_err *err)
{
    return med_err_set(err, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM));
}

int med_openai_call_make(struct med_openai_call *call, size_t query_count)
{
    call->queries = med_calloc(query_count, sizeof(struct med_query *));
    if (call->queries == NULL)
        return MED_E_NOMEM;
    for (; call->query_count < query_count; call->query_count++) {
        call->queries[call->query_count] = med_query_new();
        if (call->queries[call->query_count] == NULL)
            return MED_E_NOMEM;
    }
    return 0;
}

/* ---- prompts ---- */

static int read_text(const struct med_json_at *at, struct med_query *query, struct med_err *err)
{
    const char *text;
    int rc = med_json_string_here(at, MED_LIMIT_PROMPT_BYTES, &text, err);
    if (rc < 0)
        return rc;
    query->input.kind = MED_INPUT_TEXT;
    query->input.text = med_strdup(text);
    if (query->input.text == NULL)
        return med_openai_no_memory(err);
    query->input.text_bytes = strlen(text);
    return 0;
}

static int read_ids(const struct med_json_at *at, struct med_query *query, struct med_err *err)
{
    query->input.kind = MED_INPUT_TOKENS;
    int rc = med_json_ids(at, 0, UINT32_MAX, &query->prompt, &query->prompt_count, err);
    if (rc == 0 && query->prompt_count == 0)
        return med_json_fail(at, NULL, err, "found an empty array, expected token ids");
    return rc;
}

static int read_list(const struct med_json_at *list, struct med_openai_call *call,
                     struct med_err *err)
{
    struct med_json_at item = {0};
    size_t index;
    size_t count = med_json_count(list);
    if (count == 0) {
        return med_json_fail(list, NULL, err,
                             "found an empty array, expected strings, token ids, or lists of ids");
    }
    if (!med_json_next(list, &index, &item, NULL))
        return MED_E_FORMAT; // it has elements
    if (med_json_is_number(&item)) {
        int rc = med_openai_call_make(call, 1);
        return rc < 0 ? med_openai_no_memory(err) : read_ids(list, call->queries[0], err);
    }
    if (count > MED_LIMIT_PROMPTS) {
        return med_json_fail(list, NULL, err, "found %zu prompts, expected at most %d", count,
                             MED_LIMIT_PROMPTS);
    }
    if (med_openai_call_make(call, count) < 0)
        return med_openai_no_memory(err);
    bool text = med_json_is_string(&item);
    int rc = 0;
    do {
        if (text) {
            rc = read_text(&item, call->queries[index], err);
        } else if (med_json_is_array(&item)) {
            rc = read_ids(&item, call->queries[index], err);
        } else {
            rc = med_json_fail(&item, NULL, err,
                               "expected a string, a token id, or a list of ids, and all alike");
        }
    } while (rc == 0 && med_json_next(list, &index, &item, NULL));
    return rc;
}

int med_openai_read_prompts(const struct med_json_at *root, struct med_openai_call *call,
                            struct med_err *err)
{
    struct med_json_at at;
    int rc = med_json_member(root, "prompt", &at, err);
    if (rc < 0)
        return rc;
    if (med_json_is_array(&at))
        return read_list(&at, call, err);
    if (!med_json_is_string(&at)) {
        return med_json_fail(&at, NULL, err,
                             "expected a string, a list of strings, a list of token ids, or a list "
                             "of such lists");
    }
    if (med_openai_call_make(call, 1) < 0)
        return med_openai_no_memory(err);
    return read_text(&at, call->queries[0], err);
}

/* ---- messages ---- */

/* One part of a content: {"type": "text", "text": "..."}. */
static int read_part(const struct med_json_at *part, struct med_buf *text, struct med_err *err)
{
    const char *type;
    const char *piece;
    int rc = med_json_string(part, "type", MED_LIMIT_NAME_BYTES, &type, err);
    if (rc < 0)
        return rc;
    if (strcmp(type, "text") != 0) {
        return med_json_fail(part, "type", err,
                             "expected \"text\": this server takes text alone, no images, sound "
                             "or files");
    }
    rc = med_json_string(part, "text", -(long)MED_LIMIT_PROMPT_BYTES, &piece, err);
    if (rc == 0 && text->length > 0)
        rc = med_buf_append(text, "\n", 1);
    if (rc == 0)
        rc = med_buf_append(text, piece, strlen(piece));
    if (rc == MED_E_LIMIT) {
        return med_json_fail(part, "text", err, "expected at most %d bytes of text in a message",
                             MED_LIMIT_PROMPT_BYTES);
    }
    return rc;
}

static int read_content(const struct med_json_at *message, struct med_buf *text,
                        struct med_err *err)
{
    struct med_json_at content;
    struct med_json_at part = {0};
    size_t index;
    const char *whole;
    int rc = med_json_member(message, "content", &content, err);
    if (rc < 0)
        return rc;
    if (med_json_is_string(&content)) {
        rc = med_json_string_here(&content, -(long)MED_LIMIT_PROMPT_BYTES, &whole, err);
        return rc < 0 ? rc : med_buf_append(text, whole, strlen(whole));
    }
    if (!med_json_is_array(&content))
        return med_json_fail(&content, NULL, err, "expected a string or a list of text parts");
    while (rc == 0 && med_json_next(&content, &index, &part, NULL))
        rc = read_part(&part, text, err);
    return rc;
}

static int read_message(const struct med_json_at *at, struct med_chat_message *message,
                        struct med_err *err)
{
    const char *role;
    struct med_buf text;
    int rc = med_json_string(at, "role", MED_LIMIT_NAME_BYTES, &role, err);
    if (rc < 0)
        return rc;
    if (med_json_has(at, "tool_calls") || med_json_has(at, "function_call")) {
        return med_json_fail(at, med_json_has(at, "tool_calls") ? "tool_calls" : "function_call",
                             err,
                             "tools are not supported: expected messages without calls of them");
    }
    message->role = med_strdup(role);
    med_buf_init(&text, MED_LIMIT_PROMPT_BYTES);
    /* An assistant's turn may have none. */
    if (med_json_has(at, "content") || strcmp(role, "assistant") != 0)
        rc = read_content(at, &text, err);
    message->content_bytes = text.length;
    message->content = rc == 0 ? med_buf_take(&text) : NULL;
    med_buf_release(&text);
    if (rc == MED_E_NOMEM || (rc == 0 && (message->role == NULL || message->content == NULL)))
        return med_openai_no_memory(err);
    return rc;
}

int med_openai_read_messages(const struct med_json_at *root, struct med_input *input,
                             struct med_err *err)
{
    struct med_json_at list;
    struct med_json_at item = {0};
    size_t index;
    int rc = med_json_array(root, "messages", &list, err);
    if (rc < 0)
        return rc;
    size_t count = med_json_count(&list);
    if (count == 0 || count > MED_LIMIT_CHAT_MESSAGES) {
        return med_json_fail(&list, NULL, err, "found %zu messages, expected 1 to %d", count,
                             MED_LIMIT_CHAT_MESSAGES);
    }
    input->kind = MED_INPUT_CHAT;
    input->add_generation_prompt = true;
    input->messages = med_calloc(count, sizeof(*input->messages));
    if (input->messages == NULL)
        return med_openai_no_memory(err);
    while (rc == 0 && med_json_next(&list, &index, &item, NULL)) {
        rc = read_message(&item, &input->messages[input->message_count], err);
        input->message_count++; // what there is of it is freed with the rest
    }
    return rc;
}
