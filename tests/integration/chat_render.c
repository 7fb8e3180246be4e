/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Renders chat templates for a test script: each line of standard input is a JSON object with
 * template, messages, add_generation_prompt, unix_s and perhaps bos_token and eos_token; each line of
 * standard output one with code ("ok", or the label of the error) and text.  thread: main.
 */
#include "base/assert.h"
#include "base/json.h"
#include "base/limits.h"
#include "router/tokenizer/chat_template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MESSAGES_MAX = 512,
    LINE_MAX_BYTES = 4 << 20,
};

static const char *string_of(const struct med_json_at *at, const char *key)
{
    const char *text = NULL;
    if (med_json_has(at, key)) {
        MED_ASSERT(med_json_string(at, key, -LINE_MAX_BYTES, &text, NULL) == 0);
    }
    return text;
}

static size_t read_messages(const struct med_json_at *root, struct med_chat_message *messages)
{
    struct med_json_at list;
    struct med_json_at item = {0};
    size_t index = 0;
    size_t count = 0;
    MED_ASSERT(med_json_array(root, "messages", &list, NULL) == 0);
    while (med_json_next(&list, &index, &item, NULL)) {
        MED_ASSERT(count < MESSAGES_MAX);
        struct med_chat_message *message = &messages[count++];
        message->role = string_of(&item, "role");
        message->content = string_of(&item, "content");
        message->content_bytes = strlen(message->content);
    }
    return count;
}

static int render(const struct med_json_at *root, struct med_buf *out, struct med_err *err)
{
    static struct med_chat_message messages[MESSAGES_MAX];
    struct med_chat_input input = {.messages = messages};
    struct med_chat_template *chat_template;
    const char *text = string_of(root, "template");
    int rc = med_chat_template_parse(text, strlen(text), "template", string_of(root, "bos_token"),
                                     string_of(root, "eos_token"), &chat_template, err);
    if (rc < 0) {
        return rc;
    }
    input.count = read_messages(root, messages);
    MED_ASSERT(med_json_bool(root, "add_generation_prompt", &input.add_generation_prompt, NULL) ==
               0);
    MED_ASSERT(med_json_integer(root, "unix_s", 0, INT64_C(1) << 40, &input.unix_s, NULL) == 0);
    rc = med_chat_template_render(chat_template, &input, out, err);
    med_chat_template_free(chat_template);
    return rc;
}

static void answer(const char *line, size_t bytes)
{
    struct med_json_doc doc;
    struct med_json_writer w;
    struct med_err err = {0};
    struct med_buf out;
    struct med_buf reply;
    MED_ASSERT(med_json_parse(line, bytes, "input", &doc, &err) == 0);
    struct med_json_at root = med_json_root(&doc);
    med_buf_init(&out, MED_LIMIT_PROMPT_BYTES);
    med_buf_init(&reply, MED_LIMIT_JSON_BYTES);
    int rc = render(&root, &out, &err);
    med_json_writer_init(&w, &reply, false);
    med_json_begin_object(&w, NULL);
    med_json_put_string(&w, "code", rc == 0 ? "ok" : med_err_label(rc));
    med_json_put_string(&w, "text", rc < 0 ? err.text : out.data ? out.data : "");
    med_json_end_object(&w);
    MED_ASSERT(med_json_writer_finish(&w) == 0);
    (void)fwrite(reply.data, 1, reply.length, stdout);
    (void)fflush(stdout);
    med_buf_release(&out);
    med_buf_release(&reply);
    med_json_free(&doc);
}

int main(void)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t bytes;
    while ((bytes = getline(&line, &capacity, stdin)) > 0) {
        answer(line, (size_t)bytes);
    }
    free(line);
    return 0;
}
