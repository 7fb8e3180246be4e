/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load test's client on the gRPC door: events of router/grpc_client become calls of the sink.
 * thread: the owner's; gRPC's events come from the client's own thread through its mailbox.
 */
#include "router/bench/client.h"

#include "base/alloc.h"
#include "router/grpc_client.h"

struct grpc_bench {
    struct med_bench_client base; /* first */
    struct med_grpc_client *client;
    bool ignore_eos;
};

static struct grpc_bench *of(struct med_bench_client *client)
{
    return (struct grpc_bench *)client;
}

static int start(struct med_bench_client *client, const struct med_bench_request *request,
                 void *user, void **ret_call)
{
    struct med_grpc_client_request message = {
        .prompt = request->prompt,
        .prompt_count = request->prompt_count,
        .max_tokens = request->max_tokens,
        .emulated_output_tokens = request->output_tokens,
        .request_id = request->id,
        .has_seed = true,
        .seed = request->seed,
        .ignore_eos = of(client)->ignore_eos,
    };
    struct med_grpc_call *call;
    int rc = med_grpc_client_start(of(client)->client, &message, user, &call);
    if (rc >= 0)
        *ret_call = call;
    return rc;
}

static void cancel(struct med_bench_client *client, void *call)
{
    (void)client;
    med_grpc_call_cancel(call);
}

static void hand_over_end(struct med_bench_client *client, const struct med_grpc_event *event)
{
    struct med_grpc_call *call = event->call;
    struct med_grpc_call_end told;
    med_grpc_call_get_end(call, &told);
    struct med_bench_end end = {
        .at_ns = event->at_ns,
        .status = told.status,
        .details = told.details,
        .worker_type = told.worker_type,
        .completion_tokens = told.completion_tokens ? (int64_t)told.completion_tokens : -1,
        .prompt_tokens = told.prompt_tokens ? (int64_t)told.prompt_tokens : -1,
        .has_positions = true,
    };
    client->sink.on_end(client->sink.arg, med_grpc_call_user(call), &end);
    med_grpc_call_free(call);
}

/* Takes every event: none may be left behind. */
static bool wait_events(struct med_bench_client *client, int64_t real_deadline_ns)
{
    struct med_grpc_event *event = med_grpc_client_wait(of(client)->client, real_deadline_ns);
    bool any = event != NULL;
    while (event) {
        struct med_grpc_event *next = med_grpc_event_next(event);
        if (event->end) {
            hand_over_end(client, event);
        } else {
            client->sink.on_tokens(client->sink.arg, med_grpc_call_user(event->call), event->at_ns,
                                   event->position, event->count);
            med_grpc_event_free(event);
        }
        event = next;
    }
    return any;
}

static void free_client(struct med_bench_client *client)
{
    if (!client)
        return;
    med_grpc_client_free(of(client)->client);
    med_free(client);
}

static const struct med_bench_client_ops ops = {start, cancel, wait_events, free_client};

int med_bench_grpc_client_new(const struct med_bench_grpc_config *config,
                              const struct med_clock *clock, struct med_bench_client **ret_client,
                              struct med_err *err)
{
    struct grpc_bench *bench = med_calloc(1, sizeof(*bench));
    if (!bench)
        return med_err_set(err, MED_E_NOMEM, "memory is exhausted");
    int rc = med_grpc_client_new(config->target, clock, config->connect_timeout_real_ns, true,
                                 config->security, &bench->client, err);
    if (rc < 0) {
        med_free(bench);
        return rc;
    }
    bench->base.ops = &ops;
    bench->ignore_eos = config->ignore_eos;
    *ret_client = &bench->base;
    return 0;
}
