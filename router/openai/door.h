/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The OpenAI-compatible door: /v1/completions, /v1/chat/completions, /v1/models, /tokenize and
 * /detokenize on the HTTP server.
 *
 * Life: new, then the HTTP server gives it requests (med_openai_door_take), close.  After close on_closed
 * comes once, from the loop, when every exchange has ended and the pool has no job of it left; the door
 * is gone then.  The HTTP server must be closed too, or exchanges do not end.
 * thread: loop, all of it. owns: its exchanges with their queries.
 */
#ifndef MED_ROUTER_OPENAI_DOOR_H
#define MED_ROUTER_OPENAI_DOOR_H

#include "base/clock.h"
#include "base/err.h"
#include "router/http_server.h"
#include "router/model.h"
#include "router/request.h"

#include <stdbool.h>
#include <uv.h>

/* What the door needs of the router; submit and cancel as gRPC's door has them. */
struct med_openai_host {
    int (*submit)(void *self, struct med_query *query, struct med_err *err);
    void (*cancel)(void *self, struct med_query *query, enum med_outcome outcome);
    /* Most tokens of prompt and answer together; 0: not known. */
    int64_t (*context_tokens)(void *self);
    void *self;
};

struct med_openai_config {
    const char *model_name;         /* copied */
    struct med_router_model *model; /* borrowed; NULL: token ids only */
    uint32_t ping_interval_ms;      /* real time without an event until a comment is sent */
};

struct med_openai_door;

int med_openai_door_new(uv_loop_t *loop, const struct med_clock *clock,
                        const struct med_openai_host *host, const struct med_openai_config *config,
                        struct med_openai_door **ret_door) MED_MUST_CHECK;
/* Its timers; from then on close is to be called, not free. */
void med_openai_door_start(struct med_openai_door *door);
/* One that was never started; accepts NULL. */
void med_openai_door_free(struct med_openai_door *door);
/* A request of the HTTP server; false: it is not for this door, and was not touched. */
bool med_openai_door_take(struct med_openai_door *door, struct med_http_exchange *http);
/* What the HTTP server says of an exchange that was taken. */
void med_openai_door_gone(struct med_http_exchange *http);
void med_openai_door_drained(struct med_http_exchange *http);
/* Requests whose answer has not been given whole to the HTTP server. */
size_t med_openai_door_requests(const struct med_openai_door *door);
/* NULL door: nothing, on_closed is not called. */
void med_openai_door_close(struct med_openai_door *door, void (*on_closed)(void *arg), void *arg);

#endif
