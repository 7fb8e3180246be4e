/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scripted shell around dispatch: records what it is told, answers as the test says, and checks
 * every invariant after each step.
 */
#ifndef MED_TESTS_DISPATCH_FIXTURE_H
#define MED_TESTS_DISPATCH_FIXTURE_H

#include "base/clock.h"
#include "router/dispatch/dispatch.h"
#include "tests/check.h"

enum {
    SHELL_REQUESTS = 65536,
    SHELL_WORKERS = 64,
    SHELL_SENDS = 1 << 20
};

struct shell_send {
    uint64_t request;
    uint32_t attempt, worker;
};

struct shell {
    struct med_dispatch *d;
    int64_t now_ns;
    struct med_dispatch_config config;
    struct med_dispatch_type types[4];
    double input_edges[3], output_edges[3];
    struct med_dispatch_bucket buckets[9];
    struct shell_send *sends;
    size_t send_count, cancel_count, end_count;
    struct shell_send last_cancel;
    int32_t priority;            /* of what is submitted next */
    bool refuses[SHELL_WORKERS]; /* send fails */
    struct {
        int ends;
        enum med_outcome outcome;
        int code;
    } requests[SHELL_REQUESTS];
};

static int shell_on_send(void *arg, uint64_t request, uint32_t attempt, uint32_t worker)
{
    struct shell *s = arg;
    if (s->refuses[worker])
        return MED_E_AGAIN;
    REQUIRE(s->send_count < SHELL_SENDS);
    s->sends[s->send_count++] = (struct shell_send){request, attempt, worker};
    return 0;
}

static void shell_on_cancel(void *arg, uint64_t request, uint32_t attempt, uint32_t worker)
{
    struct shell *s = arg;
    s->cancel_count++;
    s->last_cancel = (struct shell_send){request, attempt, worker};
}

static void shell_on_end(void *arg, uint64_t request, enum med_outcome outcome, int code)
{
    struct shell *s = arg;
    REQUIRE(request < SHELL_REQUESTS);
    s->requests[request].ends++;
    s->requests[request].outcome = outcome;
    s->requests[request].code = code;
    s->end_count++;
}

/* speed 1: 12 ms an iteration, 0.1 ms per prefill token beyond 100. */
CHECK_UNUSED static struct med_latency shell_latency(double speed)
{
    return (struct med_latency){.fixed_ms = 2 / speed,
                                .sequence_ms = 0.05 / speed,
                                .weights_ms = 10 / speed,
                                .linear_ms_per_token = 0.1 / speed,
                                .kv_ms_per_token = 1e-4 / speed,
                                .pair_ms = 1e-6 / speed,
                                .model_len_max = 4096,
                                .sequences_max = 16,
                                .batched_tokens_max = 512,
                                .block_tokens = 16,
                                .kv_tokens = 16384};
}

/* Types a, b, c, d of speed 1 to 4; edges 100, 1000, 4000 by 10, 100, 1000; no bucket yet. */
CHECK_UNUSED static struct shell *shell_new(size_t type_count)
{
    struct shell *s = calloc(1, sizeof *s);
    REQUIRE(s != NULL);
    s->sends = calloc(SHELL_SENDS, sizeof *s->sends);
    REQUIRE(s->sends != NULL);
    static const double inputs[] = {100, 1000, 4000};
    static const double outputs[] = {10, 100, 1000};
    memcpy(s->input_edges, inputs, sizeof inputs);
    memcpy(s->output_edges, outputs, sizeof outputs);
    for (size_t t = 0; t < type_count; t++) {
        s->types[t].name[0] = (char)('a' + t);
        s->types[t].has_latency = true;
        s->types[t].latency = shell_latency(1 + (double)t);
    }
    s->config = (struct med_dispatch_config){.types = s->types,
                                             .type_count = type_count,
                                             .input_edges = s->input_edges,
                                             .input_edge_count = 3,
                                             .output_edges = s->output_edges,
                                             .output_edge_count = 3,
                                             .buckets = s->buckets,
                                             .queue_wait_ns = 10 * MED_NS_PER_S,
                                             .queue_max = 100,
                                             .requests_max = 1000,
                                             .workers_max = SHELL_WORKERS,
                                             .suspect_after_ns = 3 * MED_NS_PER_S,
                                             .gone_after_ns = 10 * MED_NS_PER_S,
                                             .attempts_max = 3};
    s->now_ns = MED_NS_PER_S;
    return s;
}

CHECK_UNUSED static void shell_bucket(struct shell *s, int input_row, int output_row,
                                      double rate_per_s, double a, double b)
{
    static const double inputs[] = {50, 500, 2000};
    static const double outputs[] = {5, 50, 400};
    s->buckets[s->config.bucket_count++] =
        (struct med_dispatch_bucket){.input_row = input_row,
                                     .output_row = output_row,
                                     .input_mean = inputs[input_row],
                                     .output_mean = outputs[output_row],
                                     .rate_per_s = rate_per_s,
                                     .shares = {a, b, 1 - a - b}};
}

CHECK_UNUSED static void shell_start(struct shell *s)
{
    struct med_dispatch_ops ops = {shell_on_send, shell_on_cancel, shell_on_end, s};
    struct med_err err;
    int rc = med_dispatch_new(&s->config, &ops, &s->d, &err);
    if (rc < 0)
        (void)fprintf(stderr, "%s\n", err.text);
    REQUIRE(rc == 0);
}

CHECK_UNUSED static void shell_free(struct shell *s)
{
    if (s->d)
        med_dispatch_check(s->d);
    med_dispatch_free(s->d);
    free(s->sends);
    free(s);
}

CHECK_UNUSED static int shell_try_join(struct shell *s, const char *type, const char *id,
                                       uint32_t *ret_worker, struct med_err *err)
{
    struct med_dispatch_worker_hello hello = {.type_name = type,
                                              .worker_id = id,
                                              .incarnation = 1,
                                              .model_len_max = 4096,
                                              .sequences_max = 16,
                                              .kv_tokens = 16384};
    int rc = med_dispatch_worker_join(s->d, s->now_ns, &hello, ret_worker, err);
    med_dispatch_check(s->d);
    return rc;
}

CHECK_UNUSED static void shell_beat(struct shell *s, uint32_t worker)
{
    struct med_dispatch_worker_stats stats = {.heartbeat_ns = s->now_ns};
    med_dispatch_worker_stats(s->d, s->now_ns, worker, &stats);
    med_dispatch_check(s->d);
}

/* It joins and is ready. */
CHECK_UNUSED static uint32_t shell_join(struct shell *s, const char *type, const char *id)
{
    uint32_t worker = UINT32_MAX;
    REQUIRE(shell_try_join(s, type, id, &worker, NULL) == 0);
    shell_beat(s, worker);
    return worker;
}

CHECK_UNUSED static int shell_submit(struct shell *s, uint64_t request, int64_t prompt,
                                     int64_t output_max, int64_t deadline_ns)
{
    struct med_dispatch_request r = {.request = request,
                                     .prompt_tokens = prompt,
                                     .output_tokens_max = output_max,
                                     .deadline_ns = deadline_ns,
                                     .priority = s->priority};
    int rc = med_dispatch_submit(s->d, s->now_ns, &r);
    med_dispatch_check(s->d);
    return rc;
}

CHECK_UNUSED static int shell_tokens(struct shell *s, struct shell_send at, int64_t position,
                                     int64_t count)
{
    int rc =
        med_dispatch_tokens(s->d, s->now_ns, at.worker, at.request, at.attempt, position, count);
    med_dispatch_check(s->d);
    return rc;
}

CHECK_UNUSED static int shell_finish(struct shell *s, struct shell_send at,
                                     enum med_outcome outcome)
{
    int rc = med_dispatch_finish(s->d, s->now_ns, at.worker, at.request, at.attempt, outcome);
    med_dispatch_check(s->d);
    return rc;
}

CHECK_UNUSED static void shell_tick(struct shell *s, int64_t now_ns)
{
    s->now_ns = now_ns;
    med_dispatch_tick(s->d, now_ns);
    med_dispatch_check(s->d);
}

CHECK_UNUSED static void shell_gone(struct shell *s, uint32_t worker)
{
    med_dispatch_worker_gone(s->d, s->now_ns, worker);
    med_dispatch_check(s->d);
}

CHECK_UNUSED static struct shell_send shell_last(const struct shell *s)
{
    REQUIRE(s->send_count > 0);
    return s->sends[s->send_count - 1];
}

CHECK_UNUSED static enum med_worker_state shell_state(const struct shell *s, uint32_t worker)
{
    struct med_dispatch_worker_view view;
    REQUIRE(med_dispatch_get_worker(s->d, worker, &view));
    return view.state;
}

CHECK_UNUSED static struct med_dispatch_totals shell_totals(const struct shell *s)
{
    struct med_dispatch_totals totals;
    med_dispatch_get_totals(s->d, &totals);
    return totals;
}

#endif
