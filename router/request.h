/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request, from the door that took it to the outcome that ends it.
 *
 * Everything that belongs to a request hangs from one struct med_req.  The door makes it, fills what
 * the client asked for, and gives it to the router with submit.  From an accepted submit until
 * on_end the router borrows it; the door owns it all the time and frees it, at one place, when the
 * answer has been written or dropped.
 *
 * The prompt is kept for sending it to another worker; all output tokens are kept too, so that a
 * door needs no queue of its own: it remembers how many it has passed on.
 * thread: loop.
 */
#ifndef MED_ROUTER_REQUEST_H
#define MED_ROUTER_REQUEST_H

#include "base/err.h"
#include "base/limits.h"
#include "router/dispatch/dispatch.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct med_req;

/* What the router tells a door. Neither may call back into the router. */
struct med_door_ops {
    /* req->output has grown.  < 0: the client lags too far; the request is then cancelled, and ends
     * with this code. */
    int (*on_tokens)(struct med_req *req);
    /* Exactly once per accepted request; req->outcome, end_code and end_text say how it ended. */
    void (*on_end)(struct med_req *req);
};

struct med_req_sampling {
    bool has_temperature, has_top_p, has_top_k, has_seed;
    float temperature; /* [0, 2] */
    float top_p;       /* (0, 1] */
    uint32_t top_k;    /* 0: off */
    uint64_t seed;
    bool ignore_eos;
};

struct med_req {
    /* What the client asked for; the door fills it. */
    char request_id[MED_LIMIT_REQUEST_ID_BYTES + 1]; /* "" until submit makes one */
    char *model;                                     /* owned; NULL or "": the one that is served */
    uint32_t *prompt;                                /* owned */
    size_t prompt_count;
    uint32_t tokens_max; /* 0: MED_REQ_TOKENS_MAX_DEFAULT, set by check */
    struct med_req_sampling sampling;
    uint32_t emulated_output_tokens; /* passed on, never looked at */
    int64_t deadline_ns;             /* fleet time; 0: none */
    const struct med_door_ops *door;
    void *door_call; /* the door's own */

    /* The router's. */
    uint64_t id; /* dispatch's name for it; 0: not submitted or ended */
    int64_t arrived_ns, sent_ns, first_token_ns, last_token_ns;
    uint32_t *output; /* owned; position i is output token i */
    size_t output_count, output_capacity;
    char worker_type[MED_LIMIT_NAME_BYTES + 1]; /* of the worker it was last sent to */
    char worker_id[MED_LIMIT_NAME_BYTES + 1];
    size_t type;                                  /* index of worker_type */
    int64_t predicted_ttft_ns, predicted_tpot_ns; /* 0: not known */
    uint32_t attempts;

    /* How it ended, or why submit refused it. */
    bool ended;
    enum med_outcome outcome;
    int end_code;       /* 0 for stop and length */
    int abort_code;     /* why it was ended early: the client lags, or the drain's time is over */
    char end_text[256]; /* a sentence when end_code < 0 */
    uint32_t retry_after_ms; /* real time; 0: no hint */
};

enum {
    MED_REQ_TOKENS_MAX_DEFAULT = 16
};

struct med_req *med_req_new(void);
void med_req_free(struct med_req *req);

/* Checks every field that the client set and puts defaults in; the sentence names field, value and
 * what was expected.  vocab_tokens: of the model, ids are below it; 1 to 2^31.  Does not look at
 * model or deadline. */
int med_req_check(struct med_req *req, int64_t vocab_tokens, struct med_err *err) MED_MUST_CHECK;

/* Adds ids to the output. */
int med_req_append_output(struct med_req *req, const uint32_t *ids, size_t count) MED_MUST_CHECK;

#endif
