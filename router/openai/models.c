/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /v1/models and /v1/models/NAME: the one model that is served.
 * Runs on the loop.
 */
#include "router/openai/door_internal.h"

#include <inttypes.h>
#include <string.h>

static int put_model(struct med_openai_door *door, struct med_buf *out)
{
    int64_t context = door->host.context_tokens(door->host.self);
    int rc = med_buf_append_str(out, "{\"id\":");
    if (rc == 0)
        rc = med_openai_write_string(out, door->model_name, strlen(door->model_name));
    if (rc == 0) {
        rc = med_buf_printf(out,
                            ",\"object\":\"model\",\"created\":%" PRId64
                            ",\"owned_by\":\"medley\",\"max_model_len\":",
                            door->started_s);
    }
    if (rc == 0) {
        rc = context > 0 ? med_buf_printf(out, "%" PRId64, context)
                         : med_buf_append_str(out, "null");
    }
    return rc == 0 ? med_buf_append_str(out, "}") : rc;
}

static void answer(struct med_openai_exchange *x, bool list)
{
    struct med_buf *out = &x->door->scratch;
    med_buf_clear(out);
    int rc = list ? med_buf_append_str(out, "{\"object\":\"list\",\"data\":[") : 0;
    if (rc == 0)
        rc = put_model(x->door, out);
    if (rc == 0)
        rc = med_buf_append_str(out, list ? "]}\n" : "\n");
    if (rc < 0) {
        med_openai_refuse(x, rc, NULL, NULL);
    } else {
        med_openai_answer(x, 200);
    }
}

void med_openai_models(struct med_openai_exchange *x)
{
    answer(x, true);
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* Whether a percent-encoded text says `name`. */
static bool says(const char *text, const char *name)
{
    while (*text != '\0') {
        int c = (unsigned char)*text++;
        if (c == '%' && hex(text[0]) >= 0 && hex(text[1]) >= 0) {
            c = hex(text[0]) * 16 + hex(text[1]);
            text += 2;
        }
        if (c == 0 || c != (unsigned char)*name++)
            return false;
    }
    return *name == '\0';
}

void med_openai_model(struct med_openai_exchange *x, const char *name)
{
    if (says(name, x->door->model_name)) {
        answer(x, false);
        return;
    }
    struct med_err err = {0};
    (void)med_err_set(&err, MED_E_NOT_FOUND,
                      "model: found another name than \"%s\", which is "
                      "served here",
                      x->door->model_name);
    med_openai_refuse(x, MED_E_NOT_FOUND, err.text, NULL);
}
