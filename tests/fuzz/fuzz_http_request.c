/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection's bytes as the HTTP server frames them: head, body, head, body, until one is refused or
 * the bytes end.  What is seen must not depend on where the bytes were cut, nothing may be taken that
 * has not come, and a body holds what its framing says.  thread: main.
 */
#include "base/assert.h"
#include "base/buf.h"
#include "router/http_server_body.h"
#include "router/http_server_head.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

enum {
    BODY_BYTES_MAX = 1 << 16,
    REQUESTS_MAX = 64
};

/* What became of a connection's bytes. */
struct seen {
    size_t requests; // whole ones
    int64_t status;  // of the refusal that ended it; 0: the bytes ended
    size_t used[REQUESTS_MAX];
    uint64_t digest[REQUESTS_MAX]; // of the bodies
};

static uint64_t digest_of(const struct med_buf *content)
{
    uint64_t digest = 1469598103934665603U;
    for (size_t i = 0; i < content->length; i++)
        digest = (digest ^ (unsigned char)content->data[i]) * 1099511628211U;
    return digest ^ content->length;
}

/* Reads a body that comes in pieces of `step` bytes; *ret_used: of all pieces. 1, 0, < 0 as the reader's. */
static int read_body(struct med_http_body_reader *reader, const char *bytes, size_t count,
                     size_t step, struct med_buf *content, size_t *ret_used)
{
    int rc = 0;
    size_t at = 0;
    do {
        size_t part = count - at < step ? count - at : step, used = 0;
        rc = med_http_body_read(reader, bytes + at, part, content, &used);
        MED_ASSERT(used <= part);
        MED_ASSERT(rc != 0 || used == part);
        at += used;
    } while (rc == 0 && at < count);
    *ret_used = at;
    return rc;
}

/* false: no more can be taken. */
static bool take(const char *bytes, size_t count, size_t step, struct seen *seen, size_t *ret_used)
{
    struct med_http_head head;
    struct med_http_body_reader reader;
    struct med_buf content;
    size_t head_bytes = 0, searched = 0, body_bytes = 0;
    while (head_bytes == 0 && searched < count) {
        size_t came = count - searched < step ? count : searched + step;
        head_bytes = med_http_head_bytes(bytes, came, searched);
        searched = came;
    }
    MED_ASSERT(head_bytes <= count);
    if (head_bytes == 0)
        return false;
    med_http_head_parse(bytes, head_bytes, &head);
    seen->status = head.status;
    if (head.status != 0)
        return false;
    MED_ASSERT(memchr(bytes, '\0', head_bytes) == NULL);
    med_http_body_reader_init(&reader, &head, BODY_BYTES_MAX);
    seen->status = reader.status;
    if (reader.status != 0)
        return false;
    med_buf_init(&content, BODY_BYTES_MAX);
    int rc =
        read_body(&reader, bytes + head_bytes, count - head_bytes, step, &content, &body_bytes);
    MED_ASSERT(content.length <= BODY_BYTES_MAX);
    MED_ASSERT(content.length <= body_bytes);
    if (rc == 1) {
        MED_ASSERT(head.framing != MED_HTTP_LENGTH || content.length == head.body_bytes);
        MED_ASSERT(head.framing != MED_HTTP_NO_BODY || body_bytes == 0);
        *ret_used = head_bytes + body_bytes;
        seen->used[seen->requests] = *ret_used;
        seen->digest[seen->requests++] = digest_of(&content);
    } else if (rc == MED_E_PROTO) {
        MED_ASSERT(reader.status == 400 || reader.status == 413);
        MED_ASSERT(reader.why[0] != '\0');
        seen->status = reader.status;
    } else {
        MED_ASSERT(rc == 0 || rc == MED_E_NOMEM);
    }
    med_buf_release(&content);
    return rc == 1;
}

static void read_all(const char *bytes, size_t count, size_t step, struct seen *ret_seen)
{
    size_t at = 0, used = 0;
    memset(ret_seen, 0, sizeof *ret_seen);
    while (at < count && ret_seen->requests < REQUESTS_MAX &&
           take(bytes + at, count - at, step, ret_seen, &used))
        at += used;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t steps[] = {1, 2, 7, 64};
    struct seen whole, cut;
    if (size > 1 << 15)
        return 0;
    read_all((const char *)data, size, SIZE_MAX, &whole);
    MED_ASSERT(whole.status == 0 || (whole.status >= 400 && whole.status < 600));
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        read_all((const char *)data, size, steps[i], &cut);
        MED_ASSERT(memcmp(&whole, &cut, sizeof whole) == 0);
    }
    return 0;
}
