/* SPDX-License-Identifier: Apache-2.0 */
/* soak_client at the gRPC door: GenerateStream with med_grpc_client, over a few connections. */
#include "base/clock.h"
#include "router/grpc_client.h"
#include "tests/soak/soak_client.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    POLL_NS = 2000000,
    STALL_S = 120 /* without any event */
};

struct call {
    struct soak *soak;
    struct soak_request request;
    struct med_grpc_call *call;
    uint32_t got;
    bool cancelled;
};

static int start(struct soak *soak, struct med_grpc_client *client)
{
    uint32_t prompt[SOAK_PROMPT_MAX];
    struct call *call = calloc(1, sizeof(*call));
    if (call == NULL)
        return -1;
    call->soak = soak;
    soak_draw(soak, &call->request);
    for (uint32_t i = 0; i < call->request.prompt_count; i++)
        prompt[i] = med_rng_below(&soak->rng, SOAK_VOCABULARY);
    if (call->request.kind == SOAK_WRONG)
        prompt[0] = UINT32_MAX;
    const struct med_grpc_client_request request = {
        .prompt = prompt,
        .prompt_count = call->request.prompt_count,
        .max_tokens = 1000,
        .emulated_output_tokens = call->request.tokens,
        .timeout_real_ns = call->request.kind == SOAK_DEADLINE ? call->request.timeout_ns : 0,
    };
    if (med_grpc_client_start(client, &request, call, &call->call) < 0) {
        free(call);
        return -1;
    }
    if (call->request.kind == SOAK_CANCEL_EARLY) {
        call->cancelled = true;
        med_grpc_call_cancel(call->call);
    }
    return 0;
}

static void on_tokens(struct call *call, const struct med_grpc_event *event)
{
    if (event->position != call->got)
        soak_complain(call->soak, "a gap or a repeat", "position");
    call->got += event->count;
    call->soak->tokens += event->count;
    if (call->request.kind == SOAK_CANCEL_LATE && !call->cancelled &&
        call->got >= call->request.cancel_at) {
        call->cancelled = true;
        med_grpc_call_cancel(call->call);
    }
}

static void on_end(struct call *call)
{
    struct med_grpc_call_end end;
    med_grpc_call_get_end(call->call, &end);
    if (end.status == 0 &&
        (call->got != call->request.tokens || end.completion_tokens != call->got)) {
        char text[96];
        (void)snprintf(text, sizeof(text), "%u tokens came, %u were to, %u are said", call->got,
                       call->request.tokens, end.completion_tokens);
        soak_complain(call->soak, "an answer is not whole", text);
    }
    if (call->request.kind == SOAK_PLAIN && end.status != 0) {
        (void)fprintf(stderr, "plain request failed: %s: %s\n", med_grpc_status_name(end.status),
                      end.details);
    }
    soak_end(call->soak, &call->request, med_grpc_status_name(end.status));
    med_grpc_call_free(call->call);
    free(call);
}

/* How many calls have ended. */
static uint32_t take_events(struct med_grpc_client *client, int64_t until_ns)
{
    uint32_t ended = 0;
    struct med_grpc_event *event = med_grpc_client_wait(client, until_ns);
    while (event != NULL) {
        struct med_grpc_event *next = med_grpc_event_next(event);
        struct call *call = med_grpc_call_user(event->call);
        if (event->end) {
            on_end(call);
            ended++;
        } else {
            on_tokens(call, event);
            med_grpc_event_free(event);
        }
        event = next;
    }
    return ended;
}

int soak_run_grpc(struct soak *soak)
{
    struct med_grpc_client *client = NULL;
    struct med_clock clock;
    struct med_err err = {0};
    med_clock_init_real(&clock, 1);
    const struct med_grpc_client_security open_door = {0};
    if (med_grpc_client_new(soak->address, &clock, INT64_C(10000000000), true, &open_door, &client,
                            &err) < 0) {
        (void)fprintf(stderr, "soak_client: %s\n", err.text);
        return -1;
    }
    uint32_t open = 0;
    int64_t moved_ns = med_clock_now_ns(&clock);
    while (soak->ended < soak->requests) {
        int64_t now_ns = med_clock_now_ns(&clock);
        while (open < soak->concurrency && soak->sent < soak->requests) {
            if (start(soak, client) < 0) {
                (void)fprintf(stderr, "soak_client: a call cannot be started\n");
                exit(1); // calls are open: nothing can be freed in order
            }
            open++;
        }
        uint32_t ended = take_events(client, now_ns + POLL_NS);
        open -= ended;
        if (ended > 0)
            moved_ns = now_ns;
        if (now_ns - moved_ns > STALL_S * MED_NS_PER_S) {
            (void)fprintf(stderr, "soak_client: %u calls have not ended for %d s\n", open, STALL_S);
            exit(1);
        }
    }
    med_grpc_client_free(client);
    return 0;
}
