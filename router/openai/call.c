/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls and their errors, see call.h.
 *
 * The sentences of the router name the fields of a query ("sampling.temperature: found 3, expected
 * ..."), those of the JSON edge paths of the body ("body: $.stop[1]: found ...").  Both are turned
 * into the names that the client used, and the first of them is the error's param.
 * Thread: any; pure.
 */
#include "router/openai/call.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "router/openai/read.h"

#include <stdio.h>
#include <string.h>

void med_openai_call_release(struct med_openai_call *call)
{
    for (size_t i = 0; i < call->query_count; i++)
        med_query_free(call->queries[i]);
    med_free(call->queries);
    *call = (struct med_openai_call){0};
}

uint32_t med_openai_call_choices(const struct med_openai_call *call)
{
    uint32_t choices = call->query_count > 0 ? call->queries[0]->choice_count : 0;
    return choices == 0 ? 1 : choices;
}

/* ---- names ---- */

/* A query's name of a field -> the body's; what follows it stays. */
struct renamed {
    const char *from, *to;
};

static const struct renamed *find_name(const char *at)
{
    static const struct renamed names[] = {
        {"sampling.include_stop", "include_stop_str_in_output"},
        {"sampling.", ""},
        {"tokens.ids", "prompt"},
        {"text", "prompt"},
        {"chat.messages", "messages"},
        {"chat", "messages"},
        {"input", "prompt"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strncmp(at, names[i].from, strlen(names[i].from)) == 0)
            return &names[i];
    }
    return NULL;
}

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c != '\0' && strchr("_.[]", c));
}

/* The length of the list of names ("a.b[3], c") that a sentence begins with; 0: it begins with none. */
static size_t names_length(const char *text)
{
    size_t n = 0;
    for (;;) {
        size_t first = n;
        while (is_name_byte(text[n]))
            n++;
        if (n == first)
            return 0;
        if (strncmp(text + n, ": ", 2) == 0)
            return n;
        if (strncmp(text + n, ", ", 2) != 0)
            return 0;
        n += 2;
    }
}

/* The client's sentence of the router's. */
static void rename_fields(struct med_openai_error *error, const char *text)
{
    size_t end = names_length(text);
    size_t used = 0;
    size_t at = 0;
    bool param_set = end == 0;
    while (at < end) {
        const struct renamed *name = find_name(text + at);
        size_t length = strcspn(text + at, ",:");
        size_t skip = name != NULL ? strlen(name->from) : 0;
        char field[MED_OPENAI_PARAM_BYTES];
        (void)snprintf(field, sizeof(field), "%s%.*s", name != NULL ? name->to : "",
                       (int)(length - skip), text + at + skip);
        if (!param_set)
            memcpy(error->param, field, sizeof(field));
        param_set = true;
        int written = snprintf(error->message + used, sizeof(error->message) - used, "%s%s",
                               at > 0 ? ", " : "", field);
        used += written > 0 ? (size_t)written : 0;
        at += length + (at + length < end ? 2 : 0);
    }
    MED_ASSERT(used < sizeof(error->message));
    (void)snprintf(error->message + used, sizeof(error->message) - used, "%s", text + end);
}

/* The length of a path: up to ": " outside of the quotes of a key. */
static size_t path_length(const char *path)
{
    bool quoted = false;
    size_t n = 0;
    for (; path[n] != '\0'; n++) {
        if (path[n] == '\\' && path[n + 1] != '\0') {
            n++;
        } else if (path[n] == '"') {
            quoted = !quoted;
        } else if (!quoted && strncmp(path + n, ": ", 2) == 0) {
            break;
        }
    }
    return n;
}

/* Of the JSON edge's "body: $.field: sentence" or "body: line 1, column 2: sentence". */
static void read_path(struct med_openai_error *error, const char *text)
{
    const char *rest = text + strlen(MED_OPENAI_BODY ": ");
    if (strncmp(rest, "$.", 2) != 0 && strncmp(rest, "$[", 2) != 0) {
        bool root = strncmp(rest, "$: ", 3) == 0;
        (void)snprintf(error->message, sizeof(error->message), "%s%s",
                       root ? "the body: " : "the body is not JSON: ", root ? rest + 3 : rest);
        return;
    }
    const char *path = rest + (rest[1] == '.' ? 2 : 1);
    (void)snprintf(error->param, sizeof(error->param), "%.*s", (int)path_length(path), path);
    (void)snprintf(error->message, sizeof(error->message), "%s", path);
}

/* ---- errors ---- */

static void classify(struct med_openai_error *error, const struct med_query *query)
{
    error->status = med_err_http_status(error->code);
    error->name = med_err_label(error->code);
    error->type = error->status >= 500 || error->status == 499 ? "server_error"
                  : error->status == 429                       ? "rate_limit_error"
                                                               : "invalid_request_error";
    switch (error->code) {
    case MED_E_NOT_FOUND:
        error->name = "model_not_found";
        break;
    case MED_E_FORMAT:
    case MED_E_INVALID:
        error->name =
            query != NULL && query->too_long ? "context_length_exceeded" : "invalid_value";
        break;
    case MED_E_OVERLOAD:
    case MED_E_AGAIN:
        error->name = "rate_limit_exceeded";
        break;
    default:
        break;
    }
}

void med_openai_error_set(struct med_openai_error *error, int code, const char *text,
                          const struct med_query *query)
{
    *error = (struct med_openai_error){.code = code};
    if (text == NULL || text[0] == '\0')
        text = med_err_text(code);
    if (query != NULL)
        error->retry_after_ms = query->retry_after_ms;
    classify(error, query);
    if (strncmp(text, MED_OPENAI_BODY ": ", strlen(MED_OPENAI_BODY ": ")) == 0) {
        read_path(error, text);
    } else if (error->status == 400 || error->status == 404 || error->status == 413) {
        rename_fields(error, text);
    } else {
        (void)snprintf(error->message, sizeof(error->message), "%s", text);
    }
}
