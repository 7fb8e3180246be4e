/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The requests that ended last, see recent.h.  Runs on the loop.
 */
#include "router/recent.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <string.h>

static const char *const span_names[MED_RECENT_SPANS] = {
#define X(id, name) name,
    MED_RECENT_SPAN_MAP(X)
#undef X
};

const char *med_recent_span_name(enum med_recent_span span)
{
    return span_names[span];
}

int med_recent_init(struct med_recent *recent)
{
    *recent = (struct med_recent){.rows = med_calloc(MED_RECENT_ROWS, sizeof(*recent->rows))};
    return recent->rows != NULL ? 0 : MED_E_NOMEM;
}

void med_recent_release(struct med_recent *recent)
{
    med_free(recent->rows);
    *recent = (struct med_recent){0};
}

/* The choice that ended last. */
static const struct med_req *longest_choice(const struct med_query *query)
{
    const struct med_req *longest = &query->choices[0];
    for (uint32_t i = 1; i < query->choice_count; i++) {
        if (query->choices[i].ended_ns > longest->ended_ns)
            longest = &query->choices[i];
    }
    return longest;
}

/* Ends a span at `at_ns`, unless that never happened: then it is empty. */
static void span_end(struct med_recent_row *row, enum med_recent_span span, int64_t *from_ns,
                     int64_t at_ns)
{
    if (at_ns <= *from_ns)
        return;
    row->spans_ns[span] = at_ns - *from_ns;
    *from_ns = at_ns;
}

void med_recent_add(struct med_recent *recent, const struct med_query *query, int64_t received_ns,
                    int64_t now_ns)
{
    const struct med_req *req = longest_choice(query);
    struct med_recent_row *row = &recent->rows[recent->count++ % MED_RECENT_ROWS];
    *row = (struct med_recent_row){
        .outcome = req->outcome,
        .prompt_tokens = query->prompt_count,
        .choices = query->choice_count,
        .freed_ns = now_ns,
        .ttft_ns = req->first_token_ns > 0 ? req->first_token_ns - received_ns : -1,
    };
    memcpy(row->request_id, query->request_id, sizeof(row->request_id));
    memcpy(row->worker_id, req->worker_id, sizeof(row->worker_id));
    memcpy(row->worker_type, req->worker_type, sizeof(row->worker_type));
    for (uint32_t i = 0; i < query->choice_count; i++) {
        row->output_tokens += query->choices[i].output_count;
        if (query->choices[i].attempts > row->attempts)
            row->attempts = query->choices[i].attempts;
    }
    int64_t at_ns = received_ns;
    span_end(row, MED_SPAN_PARSE, &at_ns, query->arrived_ns);
    span_end(row, MED_SPAN_ENCODE, &at_ns, query->admitted_ns);
    span_end(row, MED_SPAN_QUEUE, &at_ns,
             req->first_sent_ns > 0 ? req->first_sent_ns : req->ended_ns);
    /* One that was taken from a worker after its first token goes on elsewhere: that is in tokens. */
    if (req->first_token_ns == 0 || req->sent_ns <= req->first_token_ns)
        span_end(row, MED_SPAN_REROUTE, &at_ns, req->sent_ns);
    span_end(row, MED_SPAN_FIRST, &at_ns,
             req->first_token_ns > 0 ? req->first_token_ns : req->ended_ns);
    span_end(row, MED_SPAN_TOKENS, &at_ns, req->ended_ns);
    span_end(row, MED_SPAN_WRITE, &at_ns, now_ns);
    row->total_ns = at_ns > received_ns ? at_ns - received_ns : 0;
}

size_t med_recent_slowest(const struct med_recent *recent, bool by_ttft,
                          const struct med_recent_row **ret_rows, size_t max)
{
    uint64_t rows = recent->count < MED_RECENT_ROWS ? recent->count : MED_RECENT_ROWS;
    size_t count = 0;
    for (uint64_t i = 0; i < rows; i++) {
        const struct med_recent_row *row = &recent->rows[i];
        int64_t ns = by_ttft ? row->ttft_ns : row->total_ns;
        size_t at = count;
        while (at > 0 && (by_ttft ? ret_rows[at - 1]->ttft_ns : ret_rows[at - 1]->total_ns) < ns)
            at--;
        if (at == max)
            continue;
        if (count < max)
            count++;
        for (size_t j = count - 1; j > at; j--)
            ret_rows[j] = ret_rows[j - 1];
        ret_rows[at] = row;
    }
    return count;
}
