/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A replay as a page: page.html with the JSON report put where it says so.
 *
 * The page has everything in it and asks for nothing.  Whatever could end a script element or begin
 * markup is a character of a JSON string, and is written as an escape.
 * thread: any.
 */
#include "allocator/replay/report/page.h"
#include "allocator/replay/report/report.h"
#include "base/assert.h"

#include <string.h>

#define PLACE "/*REPORT*/null"

static int put_json(struct med_buf *out, const struct med_buf *json)
{
    int rc = 0;
    size_t from = 0;
    for (size_t i = 0; rc >= 0 && i < json->length; i++) {
        char c = json->data[i];
        if (c != '<' && c != '>' && c != '&')
            continue;
        rc = med_buf_append(out, json->data + from, i - from);
        if (rc >= 0)
            rc = med_buf_printf(out, "\\u%04x", (unsigned)c);
        from = i + 1;
    }
    return rc < 0 ? rc : med_buf_append(out, json->data + from, json->length - from);
}

int med_replay_report_html(struct med_buf *out, const struct med_buf *json)
{
    const char *page = (const char *)MED_REPLAY_PAGE_DATA;
    size_t bytes = MED_REPLAY_PAGE_BYTES;
    size_t at = 0;
    while (at + strlen(PLACE) <= bytes && memcmp(page + at, PLACE, strlen(PLACE)) != 0)
        at++;
    MED_ASSERT(at + strlen(PLACE) <= bytes);
    int rc = med_buf_append(out, page, at);
    if (rc >= 0)
        rc = put_json(out, json);
    at += strlen(PLACE);
    return rc < 0 ? rc : med_buf_append(out, page + at, bytes - at);
}
