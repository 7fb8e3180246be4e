/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The admin view's pages and actions, see admin.h.
 *
 * An action is a POST with a JSON object; it answers {"ok":true} or an error of the conventions' form
 * with a sentence, and is logged.  Runs on the loop.  Who may ask is admin_guard.c's; what the state
 * says is admin_state.c's.
 */
#include "router/admin.h"

#include "base/json.h"
#include "base/log.h"
#include "base/utf8.h"
#include "router/router_internal.h"

#include <string.h>

enum {
    DRAIN_SECONDS_MAX = 7 * 86400
};

static const char json_type[] = "application/json";

static int say_ok(struct med_admin_answer *answer)
{
    return med_buf_append_str(answer->body, "{\"ok\": true}\n");
}

static int say_error(struct med_admin_answer *answer, int status, const char *message)
{
    struct med_json_writer w;
    answer->status = status;
    answer->content_type = json_type;
    med_buf_clear(answer->body);
    med_json_writer_init(&w, answer->body, false);
    med_json_begin_object(&w, NULL);
    med_json_begin_object(&w, "error");
    med_json_put_string(&w, "message", message);
    med_json_put_string(&w, "type", status < 500 ? "invalid_request_error" : "server_error");
    med_json_put_null(&w, "param");
    med_json_put_integer(&w, "code", status);
    med_json_end_object(&w);
    med_json_end_object(&w);
    return med_json_writer_finish(&w);
}

/* ---- actions; each reads its object ---- */

static int set_log_level(struct med_router *router, const struct med_json_at *body,
                         struct med_err *err)
{
    static const char *const keys[] = {"level", NULL};
    const char *name = "";
    (void)router;
    int rc = med_json_keys(body, keys, err);
    if (rc == 0)
        rc = med_json_string(body, "level", 16, &name, err);
    if (rc < 0)
        return rc;
    int level = MED_LOG_DEBUG;
    while (level <= MED_LOG_ERROR &&
           strcmp(med_log_level_name((enum med_log_level)level), name) != 0)
        level++;
    if (level > MED_LOG_ERROR) {
        return med_json_fail(body, "level", err,
                             "found \"%s\", expected debug, info, warn or error", name);
    }
    med_log_set_level(MED_LOG_INFO); // so that the change is always said
    MED_INFO("admin: the log level is %s now", name);
    med_log_set_level((enum med_log_level)level);
    return 0;
}

static int drain_worker(struct med_router *router, const struct med_json_at *body,
                        struct med_err *err)
{
    static const char *const keys[] = {"worker", "timeout_s", NULL};
    const char *worker = "";
    double timeout_s = -1;
    int rc = med_json_keys(body, keys, err);
    if (rc == 0)
        rc = med_json_string(body, "worker", MED_LIMIT_NAME_BYTES, &worker, err);
    if (rc == 0 && med_json_has(body, "timeout_s"))
        rc = med_json_number(body, "timeout_s", 0, DRAIN_SECONDS_MAX, &timeout_s, err);
    if (rc < 0)
        return rc;
    int64_t timeout_ns = timeout_s < 0 ? -1 : (int64_t)(timeout_s * (double)MED_NS_PER_S);
    return med_router_drain_worker(router, worker, timeout_ns, err);
}

static int reload(struct med_router *router, const struct med_json_at *body, struct med_err *err)
{
    static const char *const keys[] = {NULL};
    int rc = med_json_keys(body, keys, err);
    if (rc < 0)
        return rc;
    MED_INFO("admin: reload");
    return med_router_reload(router, err);
}

static const struct {
    const char *path;
    int (*run)(struct med_router *router, const struct med_json_at *body, struct med_err *err);
} actions[] = {
    {"/admin/log-level", set_log_level},
    {"/admin/drain", drain_worker},
    {"/admin/reload", reload},
};

static int act(struct med_router *router, size_t action, const struct med_admin_request *request,
               struct med_admin_answer *answer)
{
    struct med_json_doc doc;
    struct med_err err = {0};
    bool empty = request->body_bytes == 0;
    int rc = med_json_parse(empty ? "{}" : request->body, empty ? 2 : request->body_bytes, "body",
                            &doc, &err);
    if (rc == 0) {
        struct med_json_at root = med_json_root(&doc);
        rc = actions[action].run(router, &root, &err);
        med_json_free(&doc);
    }
    if (rc == 0)
        return say_ok(answer);
    MED_INFO("admin: %s refused: %s", actions[action].path, err.text);
    return say_error(answer,
                     rc == MED_E_FORMAT || rc == MED_E_INVALID ? 400 : med_err_http_status(rc),
                     err.text[0] != '\0' ? err.text : med_err_text(rc));
}

int med_admin_serve(struct med_router *router, const struct med_admin_request *request,
                    struct med_admin_answer *answer)
{
    bool is_get = strcmp(request->method, "GET") == 0 || strcmp(request->method, "HEAD") == 0;
    bool is_page = strcmp(request->path, "/admin") == 0;
    bool is_state = strcmp(request->path, "/admin/state") == 0;
    size_t action = 0;
    while (action < sizeof(actions) / sizeof(actions[0]) &&
           strcmp(actions[action].path, request->path) != 0)
        action++;
    bool is_action = action < sizeof(actions) / sizeof(actions[0]);
    const char *refusal = med_admin_refusal(request);
    answer->status = 200;
    answer->content_type = json_type;
    if (refusal != NULL)
        return say_error(answer, 403, refusal);
    if (!is_page && !is_state && !is_action)
        return say_error(answer, 404, "the admin view has no such path");
    if (is_action != (strcmp(request->method, "POST") == 0) || (!is_action && !is_get))
        return say_error(answer, 405, is_action ? "expected POST" : "expected GET");
    if (is_action)
        return act(router, action, request, answer);
    if (is_state)
        return med_router_admin_state(router, answer->body);
    answer->content_type = "text/html; charset=utf-8";
    return med_buf_append(answer->body, MED_ADMIN_PAGE_DATA, MED_ADMIN_PAGE_BYTES);
}
