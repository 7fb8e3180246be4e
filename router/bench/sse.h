/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Server-sent events out of bytes that come in any pieces: the data of each event, lines joined.
 * Comments and other fields are passed over; lines end in LF, CRLF or CR.
 * errors: MED_E_LIMIT an event is over the limit, MED_E_NOMEM.
 * source: WHATWG HTML, "Interpreting an event stream".
 * thread: any; pure. owns: what has come of an event.
 */
#ifndef MED_ROUTER_BENCH_SSE_H
#define MED_ROUTER_BENCH_SSE_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>

struct med_sse {
    struct med_buf line, data;
    bool has_data, after_cr;
};

/* Data is lent for the call. < 0 stops the reading and is handed on. */
typedef int med_sse_on_data(void *arg, const char *data, size_t bytes);

void med_sse_init(struct med_sse *sse, size_t event_max_bytes);
void med_sse_release(struct med_sse *sse);
void med_sse_clear(struct med_sse *sse); /* for another stream */
int med_sse_feed(struct med_sse *sse, const char *bytes, size_t count, med_sse_on_data *on_data,
                 void *arg) MED_MUST_CHECK;

#endif
