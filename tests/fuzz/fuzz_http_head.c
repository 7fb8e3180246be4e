/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Heads of HTTP requests: any bytes are measured and judged; a head that is taken has a path that
 * begins with '/', and nothing in it that RFC 9112 forbids.  thread: main.
 */
#include "base/assert.h"
#include "router/http_server_head.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *bytes = (const char *)data;
    struct med_http_head head;
    size_t count = med_http_head_bytes(bytes, size, 0);
    MED_ASSERT(count <= size);
    if (count == 0)
        return 0;
    med_http_head_parse(bytes, count, &head);
    if (head.status != 0) {
        MED_ASSERT(head.status >= 400 && head.status < 600);
        MED_ASSERT(head.why[0] != '\0');
        return 0;
    }
    MED_ASSERT(head.path[0] == '/' || (head.method == MED_HTTP_OPTIONS && head.path[0] == '*'));
    MED_ASSERT(memchr(bytes, '\0', count) == NULL);
    return 0;
}
