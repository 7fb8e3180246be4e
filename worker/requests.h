/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The requests that a worker holds, found by (link, request, attempt) in O(1).
 *
 * Intrusive: a request carries its own links, so the table never allocates after init.  A request
 * whose link was lost is detached: it is found no more, and lives until its end comes from the
 * engine.
 * thread: loop. owns: the buckets; requests from med_request_new until med_request_free.
 */
#ifndef MED_WORKER_REQUESTS_H
#define MED_WORKER_REQUESTS_H

#include "base/limits.h"
#include "worker/engine_thread.h"
#include "worker/link_client.h"

struct med_request {
    struct med_engine_request engine; /* first */
    struct med_uplink *link;          /* NULL: nobody to answer to */
    uint64_t request;
    uint32_t attempt;
    size_t bytes;                    /* of memory, all in all */
    int64_t sent;                    /* tokens that the router has; at first those it came with */
    bool stopped_by_us;              /* cancelled because this worker stops */
    struct med_request *same;        /* next in its bucket */
    struct med_request *next, *prev; /* all that are held */
    char request_id[MED_LIMIT_REQUEST_ID_BYTES + 1];
};

struct med_requests {
    struct med_request **buckets; // [mask + 1]
    uint64_t mask;
    struct med_request *first;
    int64_t count;
    size_t bytes; /* of those that are held */
};

int med_requests_init(struct med_requests *table, int64_t count_max) MED_MUST_CHECK;
void med_requests_release(struct med_requests *table); /* must be empty */

/* What a worker can serve, and what holds when a request is silent. */
struct med_request_rules {
    int64_t tokens_max;           /* of prompt and output */
    int64_t vocab_tokens;         /* ids are below it */
    struct med_sampling sampling; /* without arrays */
    const uint32_t *eos_ids;      /* borrowed; what ends an answer besides its own stop ids */
    size_t eos_count;
    bool emulated;    /* an answer ends by its emulated_output_tokens, not by any id */
    bool logprobs;    /* the backend knows them; else nobody gets any */
    size_t bytes_max; /* of all requests that are held; 0: no maximum */
};

/* Bytes of a request with so many tokens of prompt and output, `top` logprobs on each of the output
 * (-1: none), and so many logit biases and stop ids. */
size_t med_request_bytes(int64_t prompt_tokens, int64_t output_tokens, int32_t top, size_t biases,
                         size_t stops);

/* How an answer that others began has ended already, if it has: its worker was lost between the last
 * token and the Finish.  0: it goes on; else MED_UPLINK_STOP or MED_UPLINK_LENGTH. */
int med_request_ending(const struct med_uplink_generate *generate,
                       const struct med_request_rules *rules);

/* A request with room for prompt and output, not in the table yet.  bytes_left: what it may take.
 * errors: MED_E_INVALID with a sentence, it can never be served; MED_E_NOMEM, MED_E_AGAIN over
 * bytes_left. */
int med_request_new(const struct med_uplink_generate *generate,
                    const struct med_request_rules *rules, size_t bytes_left,
                    struct med_request **ret_request, struct med_err *err) MED_MUST_CHECK;
void med_request_free(struct med_request *request);

struct med_request *med_requests_find(const struct med_requests *table,
                                      const struct med_uplink *link, uint64_t request,
                                      uint32_t attempt);
void med_requests_add(struct med_requests *table, struct med_request *request);
/* Makes it unfindable; it stays held. */
void med_requests_detach(struct med_requests *table, struct med_request *request);
void med_requests_remove(struct med_requests *table, struct med_request *request);

#endif
