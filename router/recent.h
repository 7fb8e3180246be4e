/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The requests that ended last, and where their time went: what the admin view picks the slow ones
 * from.
 *
 * A ring of MED_RECENT_ROWS; a row is written when the door has let go of the query, so that the time
 * for writing the answer is in it.  Nothing is allocated per request.
 * thread: loop.  owns: the ring; names are copied.
 */
#ifndef MED_ROUTER_RECENT_H
#define MED_ROUTER_RECENT_H

#include "router/request.h"

enum {
    MED_RECENT_ROWS = 1024
};

/* Consecutive spans of a request's time, of its choice that took longest.  Names are the labels. */
// clang-format off
#define MED_RECENT_SPAN_MAP(X) \
    X(PARSE, "parse")       /* from the door's first sight to submit */ \
    X(ENCODE, "encode")     /* text to tokens, and the checks */ \
    X(QUEUE, "queue")       /* until a worker took it */ \
    X(REROUTE, "reroute")   /* on workers that it was taken from */ \
    X(FIRST, "first_token") /* on the last one, until its first token; 0 for what it resumed */ \
    X(TOKENS, "tokens")     /* first token to end */ \
    X(WRITE, "write")       /* end to the last byte with the client */
// clang-format on

enum med_recent_span {
#define X(id, name) MED_SPAN_##id,
    MED_RECENT_SPAN_MAP(X)
#undef X
    MED_RECENT_SPANS
};
const char *med_recent_span_name(enum med_recent_span span);

struct med_recent_row {
    char request_id[MED_LIMIT_REQUEST_ID_BYTES + 1];
    char worker_id[MED_LIMIT_NAME_BYTES + 1]; /* the last one; "": none had it */
    char worker_type[MED_LIMIT_NAME_BYTES + 1];
    enum med_outcome outcome;
    size_t prompt_tokens, output_tokens; /* output of all choices */
    uint32_t choices, attempts;          /* the most attempts of a choice */
    int64_t freed_ns;                    /* fleet time; when it was written */
    int64_t total_ns;                    /* fleet time, the sum of the spans */
    int64_t ttft_ns;                     /* from the first sight; -1: it got no token */
    int64_t spans_ns[MED_RECENT_SPANS];
};

struct med_recent {
    struct med_recent_row *rows; /* [MED_RECENT_ROWS] */
    uint64_t count;              /* that ever were */
};

int med_recent_init(struct med_recent *recent) MED_MUST_CHECK;
void med_recent_release(struct med_recent *recent);
/* The query was accepted, has ended and is written or dropped.  received_ns: fleet time of
 * query->received_ns. */
void med_recent_add(struct med_recent *recent, const struct med_query *query, int64_t received_ns,
                    int64_t now_ns);
/* The at most `max` rows with the longest total, or time to first token, longest first. */
size_t med_recent_slowest(const struct med_recent *recent, bool by_ttft,
                          const struct med_recent_row **ret_rows, size_t max);

#endif
