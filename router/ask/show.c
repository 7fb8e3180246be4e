/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a terminal may be shown, see show.h.  Pure. thread: main.
 */
#include "router/ask/show.h"

#include <stdbool.h>

/* Bytes of the control character at p; 0: it is none. */
static size_t control_bytes(const unsigned char *p, size_t left)
{
    if ((p[0] < 0x20 && p[0] != '\n' && p[0] != '\t') || p[0] == 0x7f)
        return 1;
    return p[0] == 0xc2 && left > 1 && p[1] >= 0x80 && p[1] <= 0x9f ? 2 : 0;
}

int med_ask_make_harmless(const char *text, size_t bytes, struct med_buf *out)
{
    const unsigned char *p = (const unsigned char *)text;
    int rc = 0;
    for (size_t at = 0, from = 0; rc == 0 && from < bytes;) {
        size_t control = at < bytes ? control_bytes(p + at, bytes - at) : 0;
        if (at < bytes && control == 0) {
            at++;
            continue;
        }
        rc = med_buf_append(out, text + from, at - from);
        if (rc == 0 && control > 0)
            rc = med_buf_append(out, "?", 1);
        at += control;
        from = at;
    }
    return rc;
}
