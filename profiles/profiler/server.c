/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server under measurement, see server.h.
 *
 * What a server takes is found by asking it: token ids, ignore_eos; each refusal (an HTTP status of
 * the client's own fault) takes one liberty away, until a small request is answered.  Two prompts of
 * letters then say what a letter costs.  A count that no tokenizer could give is not believed.
 * thread: the owner's.
 */
#include "profiles/profiler/server.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "profiles/profiler/serving.h"
#include "router/grpc_client.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    STATUS_INVALID_ARGUMENT = 3,
    STATUS_INTERNAL = 13,
    PROBE_SMALL = 64,
    PROBE_LARGE = 192,
    PROBE_BESIDES_MAX = 16,
    IN_FLIGHT_MAX = 4096 /* a server that has so many does not keep up */
};
static const double letter_tokens_min = 0.2, letter_tokens_max = 4.5;

struct med_server {
    struct med_server_config config;
    struct med_server_facts facts;
    struct med_bench_client *client;
    uint64_t prompt_seed; /* of this moment: servers remember prompts of the run before */
    uint64_t prompts;     /* runs made so far: each has its own */
};

const struct med_server_facts *med_server_facts(const struct med_server *server)
{
    return &server->facts;
}

/* ---- the connection ---- */

static void disconnect(struct med_server *s)
{
    if (s->client)
        s->client->ops->free(s->client);
    s->client = NULL;
}

static int reconnect(struct med_server *s, struct med_err *err)
{
    disconnect(s);
    if (s->config.grpc_target) {
        const struct med_grpc_client_security security = {.tls_ca = s->config.tls_ca,
                                                          .api_key_file = s->config.api_key_file};
        const struct med_bench_grpc_config grpc = {
            .target = s->config.grpc_target,
            .security = &security,
            .ignore_eos = true,
            .connect_timeout_real_ns = s->config.http.connect_timeout_real_ns,
        };
        return med_bench_grpc_client_new(&grpc, s->config.clock, &s->client, err);
    }
    struct med_bench_http_config http = s->config.http;
    http.stream = true;
    http.letters = s->facts.letters;
    http.ignore_eos = s->facts.ignores_eos;
    return med_bench_http_client_new(&http, s->config.clock, &s->client, err);
}

/* ---- what it takes ---- */

struct probe {
    struct med_bench_record record;
    char details[MED_BENCH_DETAILS_MAX];
};

/* One small request.  errors: MED_E_CANCELLED, MED_E_NOMEM; what the server said is in the probe. */
static int send_probe(struct med_server *s, int64_t units, int64_t output, struct probe *ret_probe,
                      struct med_err *err)
{
    const struct med_sim_arrival arrival = {
        .input_tokens = units, .output_tokens = output, .output_tokens_max = output};
    const struct med_bench_run_config config = {
        .client = s->client,
        .clock = s->config.clock,
        .arrivals = &arrival,
        .count = 1,
        .vocabulary = s->config.vocabulary,
        .seed = s->prompt_seed ^ (++s->prompts << 40),
        .stall_real_ns = s->config.stall_real_ns,
        .stop = s->config.stop,
    };
    struct med_bench_run run;
    int rc = med_bench_run(&config, &run, err);
    if (rc < 0)
        return rc;
    ret_probe->record = run.records[0];
    int status = run.records[0].status;
    (void)snprintf(ret_probe->details, sizeof(ret_probe->details), "%s",
                   run.stalled  ? "no answer came in time"
                   : status > 0 ? run.details[status]
                                : "");
    bool interrupted = run.interrupted;
    med_bench_run_release(&run);
    return interrupted ? med_err_set(err, MED_E_CANCELLED, "stopped") : 0;
}

static bool is_refused(const struct probe *probe)
{
    return probe->record.status == STATUS_INVALID_ARGUMENT ||
           probe->record.status == STATUS_INTERNAL;
}

/* Takes one liberty away. false: there is none left. */
static bool ask_for_less(struct med_server *s)
{
    if (s->config.grpc_target)
        return false;
    if (!s->facts.letters && s->config.prompt == MED_SERVER_PROMPT_AUTO) {
        s->facts.letters = true;
        return true;
    }
    if (s->facts.ignores_eos) {
        s->facts.ignores_eos = false;
        return true;
    }
    return false;
}

static int find_what_it_takes(struct med_server *s, struct probe *ret_probe, struct med_err *err)
{
    for (;;) {
        int rc = reconnect(s, err);
        if (rc >= 0)
            rc = send_probe(s, PROBE_SMALL, 2, ret_probe, err);
        if (rc < 0)
            return rc;
        if (med_bench_record_completed(&ret_probe->record))
            return 0;
        if (is_refused(ret_probe) && ask_for_less(s))
            continue;
        return med_err_set(err, is_refused(ret_probe) ? MED_E_INVALID : MED_E_IO,
                           "the server does not answer a request of %d tokens: %s", PROBE_SMALL,
                           ret_probe->details[0] ? ret_probe->details : "no token came");
    }
}

/* Two prompts of known length: what an id or a letter costs. */
static int find_prices(struct med_server *s, const struct probe *small, struct med_err *err)
{
    s->facts.tokens_per_letter = 1;
    struct probe large;
    int rc = send_probe(s, PROBE_LARGE, 2, &large, err);
    if (rc < 0)
        return rc;
    int64_t few = small->record.prompt_tokens, many = large.record.prompt_tokens;
    s->facts.usage_told = few > 0 && many > 0;
    if (!s->facts.usage_told)
        return 0;
    double each = (double)(many - few) / (PROBE_LARGE - PROBE_SMALL);
    double besides = (double)few - PROBE_SMALL * each;
    s->facts.usage_sane = s->facts.letters
                              ? each >= letter_tokens_min && each <= letter_tokens_max
                              : fabs(each - 1) < 0.1 && fabs(besides) <= PROBE_BESIDES_MAX;
    if (!s->facts.usage_sane)
        return 0;
    s->facts.tokens_per_letter = each;
    s->facts.tokens_besides = besides;
    return 0;
}

int med_server_new(const struct med_server_config *config, struct med_server **ret_server,
                   struct med_err *err)
{
    struct med_server *s = med_calloc(1, sizeof(*s));
    if (!s)
        return med_err_set(err, MED_E_NOMEM, "memory is exhausted");
    s->config = *config;
    s->prompt_seed = config->seed ^ (uint64_t)med_clock_unix_ns();
    s->facts.letters =
        !config->grpc_target && (config->http.chat || config->prompt == MED_SERVER_PROMPT_TEXT);
    s->facts.ignores_eos = !config->grpc_target;
    struct probe small;
    int rc = find_what_it_takes(s, &small, err);
    if (rc >= 0)
        rc = find_prices(s, &small, err);
    if (rc < 0) {
        med_server_free(s);
        return rc;
    }
    *ret_server = s;
    return 0;
}

void med_server_free(struct med_server *server)
{
    if (!server)
        return;
    disconnect(server);
    med_free(server);
}

/* ---- a point ---- */

struct watched {
    struct med_server *server;
    struct med_point_watch watch;
    volatile sig_atomic_t stop;
};

static bool on_request_end(void *arg, const struct med_bench_run *run, size_t index)
{
    struct watched *w = arg;
    return med_point_watch_take(&w->watch, &run->records[index], index);
}

static void on_progress(void *arg, const struct med_bench_progress *progress)
{
    struct watched *w = arg;
    const struct med_server_config *c = &w->server->config;
    if ((c->stop && *c->stop) || progress->in_flight > IN_FLIGHT_MAX)
        w->stop = 1;
    if (c->on_progress)
        c->on_progress(c->progress_arg, progress);
}

static int64_t units_for(const struct med_server *s, double tokens)
{
    double units = (tokens - s->facts.tokens_besides) / s->facts.tokens_per_letter;
    return units < 1 ? 1 : llround(units);
}

static int drive(struct med_server *s, const struct med_point_load *load,
                 const struct med_arrivals *arrivals, struct watched *watched,
                 struct med_bench_run *ret_run, struct med_err *err)
{
    bool alone = load->rate_per_s == 0;
    const struct med_point_window *window = &watched->watch.window;
    struct med_bench_run_config config = {
        .client = s->client,
        .clock = s->config.clock,
        .arrivals = arrivals->items,
        .count = arrivals->count,
        .closed_loop = alone,
        .max_concurrency = alone ? 1 : 0,
        .vocabulary = s->config.vocabulary,
        .seed = s->prompt_seed ^ (++s->prompts << 40),
        .stall_real_ns = s->config.stall_real_ns,
        .stop = &watched->stop,
        .gaps_from_ns = alone ? 0 : window->from_ns,
        .gaps_until_ns = alone ? 0 : window->until_ns,
        .on_request_end = alone ? NULL : on_request_end,
        .request_end_arg = watched,
        .on_progress = on_progress,
        .progress_arg = watched,
    };
    int32_t *groups = NULL;
    if (s->config.same_prompts) {
        groups = med_calloc(arrivals->count, sizeof(*groups)); /* all in group 0 */
        if (!groups)
            return med_err_set(err, MED_E_NOMEM, "memory is exhausted");
        config.prefix_groups = groups;
        config.prefix_tokens = load->prompt_units;
        config.seed = s->config.seed;
    }
    int rc = med_bench_run(&config, ret_run, err);
    med_free(groups);
    return rc;
}

/* An answer longer than was asked for is a count that cannot be believed. */
static int check_lengths(const struct med_point *point, const struct med_point_load *load,
                         struct med_err *err)
{
    if (point->row.output_tokens > 1.02 * (double)load->output_tokens + 1) {
        return med_err_set(err, MED_E_PROTO,
                           "the server says that its answers have %.1f tokens, of %" PRId64
                           " at most that were asked for: its count cannot be used",
                           point->row.output_tokens, load->output_tokens);
    }
    return 0;
}

int med_server_measure(void *arg, const struct med_serving_ask *ask, struct med_point *ret_point,
                       struct med_err *err)
{
    struct med_server *s = arg;
    struct med_point_load load = {
        .input_tokens = (int64_t)ask->input_tokens,
        .output_tokens = (int64_t)ask->output_tokens,
        .prompt_units = units_for(s, ask->input_tokens),
        .rate_per_s = ask->rate_per_s,
        .requests = ask->requests,
        .warm_s = ask->warm_s,
        .cool_s = ask->cool_s,
        .seed = s->config.seed + ask->size,
    };
    struct med_arrivals arrivals;
    struct watched watched = {.server = s};
    int rc = med_point_schedule(&load, &arrivals, &watched.watch.window, err);
    if (rc < 0)
        return rc;
    struct med_point_window window = watched.watch.window;
    med_point_watch_init(&watched.watch, ask->objectives, &window);
    struct med_bench_run run;
    rc = drive(s, &load, &arrivals, &watched, &run, err);
    med_arrivals_release(&arrivals);
    if (rc < 0)
        return rc;
    if (s->config.stop && *s->config.stop) {
        rc = med_err_set(err, MED_E_CANCELLED, "stopped");
    } else {
        rc = med_point_from_run(&run, &load, &window, ret_point);
        if (rc < 0)
            (void)med_err_set(err, rc, "memory for the figures is exhausted");
    }
    if (rc >= 0 && !s->facts.usage_sane)
        ret_point->row.input_tokens = ask->input_tokens;
    if (rc >= 0)
        rc = check_lengths(ret_point, &load, err);
    med_bench_run_release(&run);
    return rc;
}
