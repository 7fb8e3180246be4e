/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One HTTP GET of /health.
 *
 * The connection is asked to close after the answer, so the answer ends where the connection does,
 * and nothing of HTTP needs to be understood but where the body begins.  A router that answers 503
 * (no worker yet) still says its numbers.  thread: loop. It sets no timer: its owner has one.
 */
#include "router/up/probe.h"

#include "base/assert.h"
#include "base/json.h"

#include <string.h>

enum {
    ANSWER_MAX_BYTES = 1 << 20
};

static const char request_text[] =
    "GET /health HTTP/1.1\r\nHost: router\r\nConnection: close\r\n\r\n";

static int64_t sum_ready(const struct med_json_at *root)
{
    struct med_json_at types, type = {0};
    int64_t sum = 0;
    size_t index = 0;
    if (med_json_array(root, "worker_types", &types, NULL) < 0)
        return -1;
    while (med_json_next(&types, &index, &type, NULL)) {
        int64_t ready;
        if (med_json_integer(&type, "ready", 0, INT64_C(1) << 32, &ready, NULL) < 0)
            return -1;
        sum += ready;
    }
    return sum;
}

int64_t med_probe_count_ready(const char *answer, size_t length)
{
    static const char end_of_head[] = "\r\n\r\n";
    const char *body = length ? strstr(answer, end_of_head) : NULL;
    struct med_json_doc doc;
    if (!body)
        return -1;
    body += strlen(end_of_head);
    if (med_json_parse(body, length - (size_t)(body - answer), "/health", &doc, NULL) < 0)
        return -1;
    struct med_json_at root = med_json_root(&doc);
    int64_t ready = med_json_is_object(&root) ? sum_ready(&root) : -1;
    med_json_free(&doc);
    return ready;
}

static void on_closed(uv_handle_t *handle)
{
    struct med_probe *probe = handle->data;
    probe->runs = false;
    med_buf_release(&probe->answer);
    probe->on_answer(probe, probe->workers_ready);
}

static void finish(struct med_probe *probe)
{
    if (!uv_is_closing((uv_handle_t *)&probe->tcp))
        uv_close((uv_handle_t *)&probe->tcp, on_closed);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    struct med_probe *probe = handle->data;
    *buf = uv_buf_init(probe->chunk, sizeof(probe->chunk));
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buf)
{
    struct med_probe *probe = stream->data;
    if (count == UV_EOF)
        probe->workers_ready = med_probe_count_ready(probe->answer.data, probe->answer.length);
    if (count < 0 || med_buf_append(&probe->answer, buf->base, (size_t)count) < 0)
        finish(probe);
}

static void on_written(uv_write_t *write, int status)
{
    if (status < 0)
        finish(write->data);
}

static void on_connected(uv_connect_t *connect, int status)
{
    struct med_probe *probe = connect->data;
    uv_buf_t request = uv_buf_init((char *)request_text, sizeof(request_text) - 1);
    if (status < 0 ||
        uv_write(&probe->write, (uv_stream_t *)&probe->tcp, &request, 1, on_written) < 0 ||
        uv_read_start((uv_stream_t *)&probe->tcp, on_alloc, on_read) < 0)
        finish(probe);
}

void med_probe_start(struct med_probe *probe, uv_loop_t *loop,
                     const struct sockaddr_storage *address)
{
    MED_ASSERT(!probe->runs);
    probe->runs = true;
    probe->workers_ready = -1;
    med_buf_init(&probe->answer, ANSWER_MAX_BYTES);
    MED_ASSERT(uv_tcp_init(loop, &probe->tcp) == 0);
    probe->tcp.data = probe;
    probe->connect.data = probe;
    probe->write.data = probe;
    if (uv_tcp_connect(&probe->connect, &probe->tcp, (const struct sockaddr *)address,
                       on_connected) < 0)
        finish(probe);
}
