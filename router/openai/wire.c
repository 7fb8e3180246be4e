/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP server's side of the door: which requests are its own, their heads, and how answers go out.
 * The only file that calls the HTTP server.
 * Runs on the loop.
 */
#include "router/openai/door_internal.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/log.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    HEADERS_BYTES = 512,
    MORE_BYTES = 128,
    TIMEOUT_MS_MAX = 24 * 60 * 60 * 1000
};

/* ---- headers out ---- */

/* Of every answer; `more` is what this one has besides, each line ended. */
static void put_headers(const struct med_openai_exchange *x, const char *more,
                        char out[HEADERS_BYTES])
{
    static_assert(sizeof("X-Request-Id: \r\ntraceparent: \r\n") + sizeof(x->id) +
                          sizeof(x->traceparent) + MORE_BYTES <=
                      HEADERS_BYTES,
                  "the headers fit");
    MED_ASSERT(strlen(more) < MORE_BYTES);
    char *at = stpcpy(stpcpy(stpcpy(out, "X-Request-Id: "), x->id), "\r\n");
    if (x->traceparent[0] != '\0')
        at = stpcpy(stpcpy(stpcpy(at, "traceparent: "), x->traceparent), "\r\n");
    (void)stpcpy(at, more);
}

static void respond(struct med_openai_exchange *x, int status, const char *more)
{
    char headers[HEADERS_BYTES];
    struct med_http_answer answer;
    struct med_buf *scratch = &x->door->scratch;
    put_headers(x, more, headers);
    med_http_answer_init(&answer);
    answer.status = status;
    answer.headers = headers;
    answer.body = *scratch;
    med_buf_init(scratch, answer.body.max_bytes);
    struct med_http_exchange *http = x->http;
    x->http = NULL;
    med_http_respond(http, &answer);
    med_openai_bury(x);
}

void med_openai_answer(struct med_openai_exchange *x, int status)
{
    respond(x, status, "");
}

void med_openai_answer_error(struct med_openai_exchange *x, const struct med_openai_error *error)
{
    char more[MORE_BYTES] = "";
    if (error->retry_after_ms > 0) {
        (void)snprintf(more, sizeof(more),
                       "Retry-After: %" PRIu32 "\r\nRetry-After-Ms: %" PRIu32 "\r\n",
                       (error->retry_after_ms + 999) / 1000, error->retry_after_ms);
    } else if (error->status == 429) {
        (void)snprintf(more, sizeof(more), "Retry-After: 1\r\n");
    }
    med_buf_clear(&x->door->scratch);
    int rc = med_openai_write_error(error, false, &x->door->scratch);
    if (rc < 0)
        med_buf_clear(&x->door->scratch); // the status alone says the most of it
    respond(x, error->status, more);
}

/* ---- streams ---- */

int med_openai_stream_write(struct med_openai_exchange *x)
{
    const struct med_buf *scratch = &x->door->scratch;
    if (!x->started) {
        char headers[HEADERS_BYTES];
        put_headers(x, "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n", headers);
        med_http_start(x->http, 200, "text/event-stream; charset=utf-8", headers);
        x->started = true;
    }
    int rc = med_http_write(x->http, scratch->data, scratch->length);
    if (rc == MED_E_LIMIT && med_http_unsent(x->http) > 0)
        return MED_E_AGAIN;
    if (rc == 0)
        x->written_ms = uv_now(x->door->loop);
    return rc;
}

void med_openai_stream_end(struct med_openai_exchange *x)
{
    struct med_http_exchange *http = x->http;
    x->http = NULL;
    med_http_end(http);
    med_openai_bury(x);
}

void med_openai_stream_abort(struct med_openai_exchange *x)
{
    struct med_http_exchange *http = x->http;
    x->http = NULL;
    med_http_abort(http);
    med_openai_bury(x);
}

/* ---- headers in ---- */

static bool is_request_id(const char *text)
{
    size_t n = 0;
    for (; text[n] != '\0'; n++) {
        unsigned char c = (unsigned char)text[n];
        if (c < 0x21 || c > 0x7e)
            return false;
    }
    return n > 0 && n <= MED_LIMIT_REQUEST_ID_BYTES;
}

/* version "-" trace id "-" parent id "-" flags, all lower-case hexadecimal.
 * source: W3C Trace Context, section 3.2. */
static bool is_traceparent(const char *text)
{
    if (strlen(text) != MED_LIMIT_TRACEPARENT_BYTES)
        return false;
    for (size_t i = 0; i < MED_LIMIT_TRACEPARENT_BYTES; i++) {
        bool dash = i == 2 || i == 35 || i == 52;
        bool hex = (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f');
        if (dash ? text[i] != '-' : !hex)
            return false;
    }
    return true;
}

static int read_timeout(struct med_openai_exchange *x, const char *text, struct med_err *err)
{
    int64_t ms = 0;
    size_t digits = strspn(text, "0123456789");
    for (size_t i = 0; i < digits && ms <= TIMEOUT_MS_MAX; i++)
        ms = ms * 10 + (text[i] - '0');
    if (digits == 0 || text[digits] != '\0' || ms == 0 || ms > TIMEOUT_MS_MAX) {
        return med_err_set(err, MED_E_INVALID,
                           "x-request-timeout-ms: found another value than whole milliseconds from "
                           "1 to %d",
                           TIMEOUT_MS_MAX);
    }
    const struct med_clock *clock = x->door->clock;
    x->deadline_ns =
        med_clock_now_ns(clock) + (int64_t)((double)ms * (double)MED_NS_PER_MS * clock->scale);
    return 0;
}

static int read_headers(struct med_openai_exchange *x, struct med_err *err)
{
    const char *id = med_http_header(x->http, "x-request-id");
    const char *trace = med_http_header(x->http, "traceparent");
    const char *timeout = med_http_header(x->http, "x-request-timeout-ms");
    if (id != NULL && is_request_id(id)) {
        (void)snprintf(x->id, sizeof(x->id), "%s", id);
    } else {
        (void)snprintf(x->id, sizeof(x->id), "h%08" PRIx32 "-%" PRIu64, x->door->boot,
                       ++x->door->counter);
    }
    if (trace != NULL && is_traceparent(trace)) {
        (void)snprintf(x->traceparent, sizeof(x->traceparent), "%s", trace);
        med_log(MED_LOG_INFO, x->id, "traceparent %s", x->traceparent);
    }
    return timeout != NULL ? read_timeout(x, timeout, err) : 0;
}

/* ---- routes ---- */

static const char models_prefix[] = "/v1/models/";

static enum med_openai_route find_route(const char *path)
{
    static const struct {
        const char *path;
        enum med_openai_route route;
    } routes[] = {
        {"/v1/completions", MED_OPENAI_ROUTE_COMPLETIONS},
        {"/v1/chat/completions", MED_OPENAI_ROUTE_CHAT},
        {"/tokenize", MED_OPENAI_ROUTE_TOKENIZE},
        {"/detokenize", MED_OPENAI_ROUTE_DETOKENIZE},
        {"/v1/models", MED_OPENAI_ROUTE_MODELS},
    };
    for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
        if (strcmp(path, routes[i].path) == 0)
            return routes[i].route;
    }
    if (strncmp(path, models_prefix, strlen(models_prefix)) == 0)
        return MED_OPENAI_ROUTE_MODEL;
    /* The rest of the API is not there; that it says so is this door's business too. */
    return strncmp(path, "/v1/", 4) == 0 ? MED_OPENAI_ROUTE_UNKNOWN : MED_OPENAI_ROUTE_NONE;
}

/* Answers 404 or 405 if the path or its method is not served. */
static bool refuse_route(struct med_openai_exchange *x)
{
    enum med_http_method method = med_http_method(x->http);
    bool unknown = x->route == MED_OPENAI_ROUTE_UNKNOWN;
    bool reads = x->route == MED_OPENAI_ROUTE_MODELS || x->route == MED_OPENAI_ROUTE_MODEL;
    if (!unknown &&
        (reads ? method == MED_HTTP_GET || method == MED_HTTP_HEAD : method == MED_HTTP_POST))
        return false;
    struct med_openai_error error = {.code = MED_E_INVALID,
                                     .status = unknown ? 404 : 405,
                                     .type = "invalid_request_error",
                                     .name = unknown ? "not_found" : "method_not_allowed"};
    (void)snprintf(error.message, sizeof(error.message), "%s",
                   unknown ? "this part of the API is not served here"
                   : reads ? "expected the method GET"
                           : "expected the method POST");
    med_buf_clear(&x->door->scratch);
    if (med_openai_write_error(&error, false, &x->door->scratch) < 0)
        med_buf_clear(&x->door->scratch);
    respond(x, error.status, unknown ? "" : reads ? "Allow: GET, HEAD\r\n" : "Allow: POST\r\n");
    return true;
}

static void serve(struct med_openai_exchange *x)
{
    struct med_err err = {0};
    size_t count;
    const char *body = med_http_body(x->http, &count);
    int rc = read_headers(x, &err);
    if (refuse_route(x))
        return;
    if (rc < 0) {
        med_openai_refuse(x, rc, err.text, NULL);
    } else if (x->route == MED_OPENAI_ROUTE_MODELS) {
        med_openai_models(x);
    } else if (x->route == MED_OPENAI_ROUTE_MODEL) {
        med_openai_model(x, med_http_path(x->http) + strlen(models_prefix));
    } else {
        med_openai_body(x, body, count);
    }
}

bool med_openai_door_take(struct med_openai_door *door, struct med_http_exchange *http)
{
    enum med_openai_route route = find_route(med_http_path(http));
    if (route == MED_OPENAI_ROUTE_NONE)
        return false;
    struct med_openai_exchange *x = med_calloc(1, sizeof(*x));
    if (x == NULL) {
        med_http_respond_error(http, 500, med_err_text(MED_E_NOMEM));
        return true;
    }
    x->door = door;
    x->http = http;
    x->route = route;
    x->received_ns = med_clock_now_ns(&door->real);
    x->next = door->first;
    if (x->next != NULL)
        x->next->prev = x;
    door->first = x;
    door->exchange_count++;
    med_http_set_user(http, x);
    serve(x);
    return true;
}

void med_openai_door_gone(struct med_http_exchange *http)
{
    med_openai_gone(med_http_user(http));
}

void med_openai_door_drained(struct med_http_exchange *http)
{
    med_openai_drained(med_http_user(http));
}
