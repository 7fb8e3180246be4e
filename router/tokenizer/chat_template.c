/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chat templates: where a model keeps them, and what they are given.
 *
 * chat_template.jinja comes before the chat_template of tokenizer_config.json, as transformers has it.
 * A template sees messages (each with role and content), add_generation_prompt, bos_token and
 * eos_token where the model has them, and tools and documents, which are none.  The messages are not
 * copied; a value in the render points at them.
 *
 * thread: load: the caller's; render: any number at a time.
 */
#include "router/tokenizer/chat_template.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/limits.h"
#include "router/tokenizer/jinja.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct med_chat_template {
    struct med_jinja_program program;
    char *bos_token, *eos_token; /* NULL: the model has none */
};

enum {
    PATH_BYTES = 4096
};

void med_chat_template_free(struct med_chat_template *chat_template)
{
    if (!chat_template) {
        return;
    }
    med_jinja_program_release(&chat_template->program);
    med_free(chat_template->bos_token);
    med_free(chat_template->eos_token);
    med_free(chat_template);
}

int med_chat_template_parse(const char *text, size_t bytes, const char *name, const char *bos_token,
                            const char *eos_token, struct med_chat_template **ret_template,
                            struct med_err *err)
{
    struct med_chat_template *made = med_calloc(1, sizeof(*made));
    if (!made) {
        goto no_memory;
    }
    made->bos_token = bos_token ? med_strdup(bos_token) : NULL;
    made->eos_token = eos_token ? med_strdup(eos_token) : NULL;
    if ((bos_token && !made->bos_token) || (eos_token && !made->eos_token)) {
        goto no_memory;
    }
    int rc = med_jinja_parse(text, bytes, name, &made->program, err);
    if (rc < 0) {
        med_chat_template_free(made);
        return rc;
    }
    *ret_template = made;
    return 0;
no_memory:
    med_chat_template_free(made);
    return med_err_set(err, MED_E_NOMEM, "%s: %s", name, med_err_text(MED_E_NOMEM));
}

/* ---- loading ---- */

/* What a model's directory says. */
struct source {
    struct med_buf text; /* of chat_template.jinja */
    struct med_json_doc config;
    bool has_config, has_file;
    const char *config_template, *bos_token, *eos_token; /* in config */
};

static int join_path(const char *dir, const char *file, char path[PATH_BYTES], struct med_err *err)
{
    size_t dir_bytes = strlen(dir);
    size_t file_bytes = strlen(file);
    if (dir_bytes + file_bytes + 2 > PATH_BYTES) {
        return med_err_set(err, MED_E_INVALID, "the path of %s is longer than %d bytes", file,
                           PATH_BYTES - 1);
    }
    (void)snprintf(path, PATH_BYTES, "%s/%s", dir, file);
    return 0;
}

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0 || errno != ENOENT;
}

/* A token is a string, null, or an object whose "content" is the string. */
static int read_token(const struct med_json_at *root, const char *key, const char **ret_token,
                      struct med_err *err)
{
    *ret_token = NULL;
    if (!med_json_has(root, key)) {
        return 0;
    }
    struct med_json_at object;
    if (med_json_object(root, key, &object, NULL) == 0) {
        return med_json_string(&object, "content", -MED_LIMIT_TOKEN_BYTES, ret_token, err);
    }
    return med_json_string(root, key, -MED_LIMIT_TOKEN_BYTES, ret_token, err);
}

/* The template is a string, or the one named "default" of a list. */
static int read_config_template(const struct med_json_at *root, const char **ret_text,
                                struct med_err *err)
{
    struct med_json_at list;
    struct med_json_at item = {0};
    size_t index = 0;
    *ret_text = NULL;
    if (!med_json_has(root, "chat_template")) {
        return 0;
    }
    if (med_json_array(root, "chat_template", &list, NULL) < 0) {
        return med_json_string(root, "chat_template", -MED_LIMIT_CHAT_TEMPLATE_BYTES, ret_text,
                               err);
    }
    while (med_json_next(&list, &index, &item, NULL)) {
        const char *name;
        int rc = med_json_string(&item, "name", MED_LIMIT_NAME_BYTES, &name, err);
        if (rc == 0 && strcmp(name, "default") == 0) {
            return med_json_string(&item, "template", -MED_LIMIT_CHAT_TEMPLATE_BYTES, ret_text,
                                   err);
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int read_config(struct source *source, const char *path, struct med_err *err)
{
    int rc = med_json_parse_file(path, &source->config, err);
    if (rc < 0) {
        return rc;
    }
    source->has_config = true;
    struct med_json_at root = med_json_root(&source->config);
    if (!med_json_is_object(&root)) {
        return med_json_fail(&root, NULL, err, "expected an object");
    }
    rc = read_token(&root, "bos_token", &source->bos_token, err);
    rc = rc < 0 ? rc : read_token(&root, "eos_token", &source->eos_token, err);
    return rc < 0 ? rc : read_config_template(&root, &source->config_template, err);
}

static int parse_source(const struct source *source, const char *file_path, const char *config_path,
                        struct med_chat_template **ret_template, struct med_err *err)
{
    const char *text = source->config_template;
    const char *name = config_path;
    size_t bytes = text ? strlen(text) : 0;
    if (source->has_file) {
        text = source->text.data ? source->text.data : "";
        bytes = source->text.length;
        name = file_path;
    }
    *ret_template = NULL;
    if (!text) {
        return 0;
    }
    return med_chat_template_parse(text, bytes, name, source->bos_token, source->eos_token,
                                   ret_template, err);
}

int med_chat_template_load(const char *dir, struct med_chat_template **ret_template,
                           struct med_err *err)
{
    char file_path[PATH_BYTES];
    char config_path[PATH_BYTES];
    struct source source = {.has_config = false};
    med_buf_init(&source.text, MED_LIMIT_CHAT_TEMPLATE_BYTES);
    int rc = join_path(dir, "chat_template.jinja", file_path, err);
    rc = rc < 0 ? rc : join_path(dir, "tokenizer_config.json", config_path, err);
    if (rc == 0 && is_there(file_path)) {
        rc = med_buf_read_file(&source.text, file_path, err);
        source.has_file = true;
    }
    if (rc == 0 && is_there(config_path)) {
        rc = read_config(&source, config_path, err);
    }
    rc = rc < 0 ? rc : parse_source(&source, file_path, config_path, ret_template, err);
    if (source.has_config) {
        med_json_free(&source.config);
    }
    med_buf_release(&source.text);
    return rc;
}

/* ---- rendering ---- */

static int make_messages(struct med_jinja_eval *eval, const struct med_chat_input *input,
                         struct med_jinja_value *ret_list)
{
    struct med_jinja_value list;
    struct med_jinja_value role_key = med_jinja_string("role", 4);
    struct med_jinja_value content_key = med_jinja_string("content", 7);
    int rc = med_jinja_sequence_new(eval, MED_JINJA_LIST, input->count, &list);
    for (size_t i = 0; rc == 0 && i < input->count; i++) {
        const struct med_chat_message *message = &input->messages[i];
        struct med_jinja_value role = med_jinja_string(message->role, strlen(message->role));
        struct med_jinja_value content = med_jinja_string(message->content, message->content_bytes);
        struct med_jinja_value dict;
        rc = med_jinja_dict_new(eval, 2, &dict);
        rc = rc < 0 ? rc : med_jinja_dict_set(eval, dict.as.dict, &role_key, &role);
        rc = rc < 0 ? rc : med_jinja_dict_set(eval, dict.as.dict, &content_key, &content);
        rc = rc < 0 ? rc : med_jinja_sequence_add(eval, list.as.sequence, &dict);
    }
    if (rc == 0) {
        *ret_list = list;
    }
    return rc;
}

static int bind_token(struct med_jinja_eval *eval, const char *name, const char *token)
{
    if (!token) {
        return 0;
    }
    return med_jinja_bind(eval, med_jinja_text(name), med_jinja_string(token, strlen(token)));
}

static int bind_variables(struct med_jinja_eval *eval,
                          const struct med_chat_template *chat_template,
                          const struct med_chat_input *input)
{
    struct med_jinja_value messages = med_jinja_none();
    int rc = make_messages(eval, input, &messages);
    rc = rc < 0 ? rc : med_jinja_bind(eval, med_jinja_text("messages"), messages);
    rc = rc < 0 ? rc : med_jinja_bind(eval, med_jinja_text("tools"), med_jinja_none());
    rc = rc < 0 ? rc : med_jinja_bind(eval, med_jinja_text("documents"), med_jinja_none());
    rc = rc < 0 ? rc
                : med_jinja_bind(eval, med_jinja_text("add_generation_prompt"),
                                 med_jinja_bool(input->add_generation_prompt));
    rc = rc < 0 ? rc : bind_token(eval, "bos_token", chat_template->bos_token);
    return rc < 0 ? rc : bind_token(eval, "eos_token", chat_template->eos_token);
}

int med_chat_template_render(const struct med_chat_template *chat_template,
                             const struct med_chat_input *input, struct med_buf *out,
                             struct med_err *err)
{
    if (input->count > MED_LIMIT_CHAT_MESSAGES) {
        return med_err_set(err, MED_E_LIMIT, "a chat of %zu messages, expected at most %d",
                           input->count, MED_LIMIT_CHAT_MESSAGES);
    }
    struct med_err why = {0};
    struct med_buf prompt;
    struct med_jinja_eval eval;
    med_buf_init(&prompt, MED_LIMIT_PROMPT_BYTES);
    int rc = med_jinja_eval_init(&eval, &chat_template->program, &prompt, &why);
    eval.unix_s = input->unix_s;
    rc = rc < 0 ? rc : bind_variables(&eval, chat_template, input);
    rc = rc < 0 ? rc : med_jinja_run(&eval);
    rc = rc < 0 ? rc : med_buf_append(out, prompt.data, prompt.length);
    if (rc < 0) {
        /* A buffer's own failure has no sentence yet. */
        (void)med_err_set(err, rc, "%s", why.code == rc ? why.text : med_err_text(rc));
    }
    med_jinja_eval_release(&eval);
    med_buf_release(&prompt);
    return rc;
}
