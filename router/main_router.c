/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medley-router: the front door of a fleet.
 *
 * Reads the plan and the model's text files, starts the router on one libuv loop, prints where it listens, and runs until a
 * signal.  The first SIGTERM or SIGINT drains; a second one ends the drain.  The order of shutdown:
 * the router closes its doors, links and timers (router.c), the signal handles go, the loop returns,
 * and is closed empty.
 */
#include "base/log.h"
#include "base/options.h"
#include "base/os.h"
#include "base/thread.h"
#include "router/model.h"
#include "router/router.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

/* thread: main, which is the loop's */
struct options {
    const char *grpc_listen, *http_listen, *link_listen, *link_socket;
    const char *model, *admin;
    int64_t http_connections_max;
    int64_t queue_max, queue_wait_ns;
    double time_scale;
    int64_t suspect_after_ns, gone_after_ns, drain_timeout_ns, ping_interval_ns;
    int64_t attempts_max, breaker_faults, policy_seed;
    const char *policy, *admission, *predict_by, *prefix_affinity;
    bool drain_unplanned;
    const char *control_socket;
    bool take_over;
    int64_t retire_timeout_ns;
    const char *resume;
    const char *tls_certificate, *tls_key, *api_key_file;
    const char *link_tls_certificate, *link_tls_key, *link_token_file;
    int64_t grpc_keepalive_ns, grpc_idle_ns, grpc_age_ns, grpc_streams_max;
};

enum {
    USERS_MAX = 65536 // 3 MB
};

#define FIELD(name) offsetof(struct options, name)

// clang-format off
static const struct med_option option_table[] = {
    {.name = "grpc-listen", .type = MED_OPT_STRING, .offset = FIELD(grpc_listen), .unit = "HOST:PORT",
     .default_text = "127.0.0.1:7070", .group = "Doors",
     .help = "Where clients call medley.v1.Inference; port 0 lets the system choose."},
    {.name = "http-listen", .type = MED_OPT_STRING, .offset = FIELD(http_listen), .unit = "HOST:PORT",
     .default_text = "127.0.0.1:7071",
     .help = "Where the OpenAI-compatible API, /metrics, /health and /version are."},
    {.name = "ping-interval", .type = MED_OPT_DURATION, .offset = FIELD(ping_interval_ns), .unit = "TIME",
     .default_text = "15s", .min = 0.01, .max = 3600,
     .help = "How long (real time) an HTTP stream may be silent, in a long prefill say, before a comment is "
             "sent that keeps proxies from closing it."},
    {.name = "http-connections", .type = MED_OPT_INTEGER, .offset = FIELD(http_connections_max), .unit = "COUNT",
     .default_text = "16384", .min = 1, .max = MED_LIMIT_HTTP_CONNECTIONS,
     .help = "Most connections of HTTP clients; more are closed at once."},
    {.name = "link-listen", .type = MED_OPT_STRING, .offset = FIELD(link_listen), .unit = "HOST:PORT",
     .default_text = "127.0.0.1:7072", .help = "Where workers dial in."},
    {.name = "link-socket", .type = MED_OPT_STRING, .offset = FIELD(link_socket), .unit = "PATH",
     .help = "A Unix socket on which workers may dial in too."},
    {.name = "admin", .type = MED_OPT_STRING, .offset = FIELD(admin), .unit = "auto|off|HOST:PORT",
     .default_text = "auto",
     .help = "Where the admin view /admin is, loopback only; auto: with --http-listen, if that is on "
             "a loopback address."},
    {.name = "grpc-keepalive", .type = MED_OPT_DURATION, .offset = FIELD(grpc_keepalive_ns),
     .unit = "TIME", .default_text = "60s", .min = 1, .max = 86400,
     .help = "A silent gRPC connection is pinged so often; one that does not answer in 20 s is closed."},
    {.name = "grpc-idle-max", .type = MED_OPT_DURATION, .offset = FIELD(grpc_idle_ns), .unit = "TIME",
     .default_text = "10m", .min = 0, .max = 86400,
     .help = "A gRPC connection without a call is closed after this time; 0: never."},
    {.name = "grpc-age-max", .type = MED_OPT_DURATION, .offset = FIELD(grpc_age_ns), .unit = "TIME",
     .default_text = "0", .min = 0, .max = 2000000,
     .help = "A gRPC connection gets a GOAWAY at this age, so that clients spread anew; its calls go on. "
             "0: never."},
    {.name = "grpc-streams-max", .type = MED_OPT_INTEGER, .offset = FIELD(grpc_streams_max),
     .unit = "COUNT", .default_text = "4096", .min = 1, .max = 16384,
     .help = "Calls at a time of one gRPC connection; its client keeps further ones back."},
    {.name = "tls-certificate", .type = MED_OPT_STRING, .offset = FIELD(tls_certificate), .unit = "FILE",
     .group = "Security",
     .help = "PEM chain, leaf first, with which --grpc-listen and --http-listen speak TLS. Files of "
             "this group are read again on SIGHUP."},
    {.name = "tls-key", .type = MED_OPT_STRING, .offset = FIELD(tls_key), .unit = "FILE",
     .help = "PEM key of --tls-certificate, without a passphrase."},
    {.name = "api-key-file", .type = MED_OPT_STRING, .offset = FIELD(api_key_file), .unit = "FILE",
     .help = "API keys, one per line; clients then need one (Authorization: Bearer), but for metrics, "
             "health and version. Default: none is asked for."},
    {.name = "link-tls-certificate", .type = MED_OPT_STRING, .offset = FIELD(link_tls_certificate),
     .unit = "FILE", .help = "PEM chain, leaf first, with which --link-listen speaks TLS."},
    {.name = "link-tls-key", .type = MED_OPT_STRING, .offset = FIELD(link_tls_key), .unit = "FILE",
     .help = "PEM key of --link-tls-certificate."},
    {.name = "link-token-file", .type = MED_OPT_STRING, .offset = FIELD(link_token_file),
     .unit = "FILE",
     .help = "Tokens, one per line; a worker must present one. Default: none is asked for."},
    {.name = "model", .type = MED_OPT_STRING, .offset = FIELD(model), .unit = "DIR", .group = "Text",
     .help = "The model's folder as its publisher left it; tokenizer.json and the chat template are "
             "read. Default: the plan's model path, if a tokenizer.json is there."},
    {.name = "queue-max", .type = MED_OPT_INTEGER, .offset = FIELD(queue_max), .unit = "REQUESTS",
     .default_text = "4096", .min = 0, .max = 16384, .group = "Queue",
     .help = "Most requests that wait for a worker; more are refused with RESOURCE_EXHAUSTED."},
    {.name = "queue-wait", .type = MED_OPT_DURATION, .offset = FIELD(queue_wait_ns), .unit = "TIME",
     .default_text = "30s", .min = 0.001, .max = 86400,
     .help = "Longest wait of a request without a deadline, in fleet time."},
    {.name = "admission", .type = MED_OPT_CHOICE, .offset = FIELD(admission),
     .default_text = "objective", .choices = "objective|queue",
     .help = "objective: a worker takes no more than its objectives allow, and a request that would wait "
             "beyond them (a quarter of the TTFT objective, or without one most of --queue-wait) is "
             "refused at once, with a hint when to retry; queue: it waits, up to --queue-wait."},
    {.name = "policy", .type = MED_OPT_CHOICE, .offset = FIELD(policy), .default_text = "plan",
     .choices = "plan|round-robin|random|least-outstanding|throughput|token-load", .group = "Policy",
     .help = "plan: the plan's shares by size of request, then the worker with the least predicted "
             "finish. The others are for comparison: throughput is random, weighted by the profiled "
             "throughput for the size; token-load the least outstanding tokens over that throughput."},
    {.name = "policy-seed", .type = MED_OPT_INTEGER, .offset = FIELD(policy_seed), .unit = "NUMBER",
     .default_text = "0", .min = 0, .max = 9007199254740992.0,
     .help = "Seed of the policies that draw."},
    {.name = "predict-by", .type = MED_OPT_CHOICE, .offset = FIELD(predict_by),
     .default_text = "bucket", .choices = "bucket|user",
     .help = "What the length of an answer is predicted from: the size of the prompt, or also how much "
             "longer than others' the answers of the request's user have been."},
    {.name = "prefix-affinity", .type = MED_OPT_CHOICE, .offset = FIELD(prefix_affinity),
     .default_text = "on", .choices = "on|off",
     .help = "Whether a worker that was sent the beginning of a prompt before is preferred where that "
             "saves more than it costs."},
    {.name = "attempts-max", .type = MED_OPT_INTEGER, .offset = FIELD(attempts_max), .unit = "COUNT",
     .default_text = "3", .min = 1, .max = 100, .group = "Workers",
     .help = "How often a request is sent to a worker, the first time included; a worker that drains "
             "does not count."},
    {.name = "breaker-faults", .type = MED_OPT_INTEGER, .offset = FIELD(breaker_faults),
     .unit = "COUNT", .default_text = "3", .min = 0, .max = 1000000,
     .help = "A worker that fails so many requests, those it serves well taking half of one back, gets "
             "none for a second, then a trial; each failed trial doubles the time, up to a minute. 0: "
             "never."},
    {.name = "resume", .type = MED_OPT_CHOICE, .offset = FIELD(resume), .default_text = "on",
     .choices = "on|off",
     .help = "Whether an answer that has begun goes on at another worker when its own is lost, hangs or "
             "leaves; off: it ends with an error."},
    {.name = "suspect-after", .type = MED_OPT_DURATION, .offset = FIELD(suspect_after_ns),
     .unit = "TIME",     .default_text = "2s", .min = 0.6, .max = 3600,
     .help = "A worker whose engine is silent this long (real time), and longer than 4 of its predicted "
             "iterations, gets no new requests; those it has go elsewhere if somebody can take them."},
    {.name = "gone-after", .type = MED_OPT_DURATION, .offset = FIELD(gone_after_ns), .unit = "TIME",
     .default_text = "10s", .min = 0.6, .max = 3600,
     .help = "A worker whose engine is silent this long (real time) is lost: its requests go elsewhere."},
    {.name = "drain-unplanned", .type = MED_OPT_FLAG, .offset = FIELD(drain_unplanned),
     .help = "After a reload, drain workers of types that the new plan lacks, as soon as all workers "
             "that it wants are ready. Default: they stay connected, without requests."},
    {.name = "time-scale", .type = MED_OPT_NUMBER, .offset = FIELD(time_scale), .unit = "FACTOR",
     .default_text = "1", .min = 0.001, .max = 1000, .group = "Run",
     .help = "Fleet seconds per real second; the same for router, workers and load generator."},
    {.name = "drain-timeout", .type = MED_OPT_DURATION, .offset = FIELD(drain_timeout_ns),
     .unit = "TIME", .default_text = "30s", .min = 0, .max = 86400,
     .help = "How long (real time) requests may go on after SIGTERM; a second signal ends it."},
    {.name = "control-socket", .type = MED_OPT_STRING, .offset = FIELD(control_socket), .unit = "PATH",
     .group = "Replacement",
     .help = "A Unix socket (mode 0600) on which another router process may take this one's place "
             "without a request lost. The gRPC port is then opened so that both can listen, and "
             "--grpc-age-max 0 means 60s: one that is replaced ends when its clients have left."},
    {.name = "take-over", .type = MED_OPT_FLAG, .offset = FIELD(take_over),
     .help = "Take the place of the router that listens on --control-socket: its listeners, its "
             "workers, then its clients. It ends when its last request has. Without one, start as usual."},
    {.name = "retire-timeout", .type = MED_OPT_DURATION, .offset = FIELD(retire_timeout_ns),
     .unit = "TIME", .default_text = "15m", .min = 1, .max = 604800,
     .help = "How long requests may go on in a process that has been replaced."},
    {0},
};
// clang-format on

static const struct med_program program = {
    .name = "medley router",
    .synopsis = "[options] PLAN",
    .summary = "Takes requests and sends each to the worker type that the plan chose for its size.",
    .details =
        "PLAN is the file that `medley plan --json` wrote. When the doors are open, one line on "
        "standard error says where:\n"
        "    READY grpc=127.0.0.1:7070 http=127.0.0.1:7071 link=127.0.0.1:7072\n"
        "With a model's folder, clients may send text and chats and get text; without, token ids "
        "alone.\n"
        "Workers dial in at any time; until one has, requests get UNAVAILABLE and /health says "
        "503.\n\n"
        "SIGHUP reads PLAN again and puts it in force; requests go on, and a plan that is wrong, "
        "or "
        "of another model, changes nothing.\n"
        "It reads certificates, keys and tokens again too; connections that are open stay as they "
        "are.\n"
        "SIGTERM and SIGINT drain: new requests get UNAVAILABLE, those that were accepted go on.\n"
        "Exit status: 0 after a signal, 1 failed, 2 wrong usage, a bad plan or a bad model "
        "folder,\n"
        "3 the plan is infeasible.",
    .options = option_table,
    .positional_min = 1,
    .positional_max = 1,
};

enum {
    SIGNALS = 3
};

struct signals {
    struct med_router *router;
    uv_signal_t handles[SIGNALS];
};

static void on_signal(uv_signal_t *handle, int number)
{
    struct signals *signals = handle->data;
    if (number == SIGHUP) {
        MED_INFO("SIGHUP received");
        struct med_err err = {0};
        if (med_router_reload(signals->router, &err) < 0)
            MED_WARN("the plan is not read again: %s", err.text);
        return;
    }
    MED_INFO("%s received", number == SIGTERM ? "SIGTERM" : "SIGINT");
    med_router_drain(signals->router);
}

/* The handles do not keep the loop running: the router does. */
static int signals_start(uv_loop_t *loop, struct signals *signals)
{
    static const int numbers[SIGNALS] = {SIGTERM, SIGINT, SIGHUP};
    for (size_t i = 0; i < SIGNALS; i++) {
        int rc = uv_signal_init(loop, &signals->handles[i]);
        if (rc < 0)
            return rc;
        signals->handles[i].data = signals;
        uv_unref((uv_handle_t *)&signals->handles[i]);
        rc = uv_signal_start(&signals->handles[i], on_signal, numbers[i]);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void signals_close(struct signals *signals)
{
    for (size_t i = 0; i < SIGNALS; i++) {
        if (signals->handles[i].loop != NULL)
            uv_close((uv_handle_t *)&signals->handles[i], NULL);
    }
}

static void print_ready(const struct med_router_addresses *a, const struct options *o)
{
    (void)fprintf(stderr, "READY grpc=%s http=%s link=%s%s%s%s%s\n", a->grpc, a->http, a->link,
                  o->link_socket != NULL ? " link_socket=" : "",
                  o->link_socket != NULL ? o->link_socket : "",
                  a->admin[0] != '\0' ? " admin=" : "", a->admin);
}

/* Returns when everything has closed. */
static int serve(uv_loop_t *loop, const struct options *o, const char *path,
                 const struct med_plan *plan, struct med_router_model *model, struct med_err *err)
{
    enum med_dispatch_policy policy = MED_POLICY_PLAN;
    bool known = med_dispatch_policy_parse(o->policy, &policy);
    MED_ASSERT(known); // the option table has the same names
    const struct med_router_config config = {
        .plan = plan,
        .plan_path = path,
        .drain_unplanned = o->drain_unplanned,
        .control_socket = o->control_socket,
        .take_over = o->take_over,
        .retire_timeout_ns = o->retire_timeout_ns,
        .model = model,
        .grpc_listen = o->grpc_listen,
        .http_listen = o->http_listen,
        .link_listen = o->link_listen,
        .link_socket = o->link_socket,
        .admin = o->admin,
        .time_scale = o->time_scale,
        .http_connections_max = o->http_connections_max,
        .queue_max = o->queue_max,
        .queue_wait_ns = o->queue_wait_ns,
        .suspect_after_ns = o->suspect_after_ns,
        .gone_after_ns = o->gone_after_ns,
        .attempts_max = o->attempts_max,
        .policy = policy,
        .policy_seed = (uint64_t)o->policy_seed,
        .admission = strcmp(o->admission, "objective") == 0,
        .breaker_faults = o->breaker_faults,
        .users_max = strcmp(o->predict_by, "user") == 0 ? USERS_MAX : 0,
        .prefix_affinity = strcmp(o->prefix_affinity, "on") == 0,
        .resume = strcmp(o->resume, "on") == 0,
        .security = {.tls_certificate = o->tls_certificate,
                     .tls_key = o->tls_key,
                     .api_key_file = o->api_key_file,
                     .link_tls_certificate = o->link_tls_certificate,
                     .link_tls_key = o->link_tls_key,
                     .link_token_file = o->link_token_file},
        .grpc_keepalive_ns = o->grpc_keepalive_ns,
        .grpc_idle_ns = o->grpc_idle_ns,
        .grpc_age_ns = o->grpc_age_ns,
        .grpc_streams_max = o->grpc_streams_max,
        .drain_timeout_ns = o->drain_timeout_ns,
        .ping_interval_ns = o->ping_interval_ns,
    };
    struct signals signals = {0};
    struct med_router_addresses addresses;
    int rc = med_router_new(loop, &config, &signals.router, err);
    if (rc < 0)
        return rc;
    rc = signals_start(loop, &signals);
    if (rc < 0) {
        (void)med_err_set(err, rc, "cannot listen for signals: %s", uv_strerror(rc));
    } else {
        rc = med_router_start(signals.router, &addresses, err);
    }
    if (rc == 0) {
        print_ready(&addresses, o);
    } else {
        med_router_stop(signals.router);
    }
    (void)uv_run(loop, UV_RUN_DEFAULT);
    signals_close(&signals);
    (void)uv_run(loop, UV_RUN_DEFAULT);
    med_router_free(signals.router);
    return rc;
}

/* *ret_model NULL and 0: there is none, and the user named none. */
static int load_model(const struct options *o, const struct med_plan *plan,
                      struct med_router_model **ret_model, struct med_err *err)
{
    const char *dir = o->model;
    if (dir == NULL && plan->model_path != NULL && med_router_model_is_there(plan->model_path))
        dir = plan->model_path;
    if (dir == NULL)
        return 0;
    int rc = med_router_model_load(dir, ret_model, err);
    if (rc < 0) {
        (void)med_err_prefix(err, "--model %s", dir);
        return rc == MED_E_NOMEM ? rc : MED_E_INVALID;
    }
    MED_INFO("model %s: %" PRId64 " token ids, %s", dir,
             med_tokenizer_vocab((*ret_model)->tokenizer),
             (*ret_model)->chat_template != NULL ? "with a chat template" : "no chat template");
    return 0;
}

static int run(const struct options *o, const char *path, struct med_err *err)
{
    struct med_plan plan = {0};
    struct med_router_model *model = NULL;
    uv_loop_t loop;
    if (o->take_over && o->control_socket == NULL) {
        return med_err_set(err, MED_E_USAGE,
                           "--take-over: expected --control-socket too, where the other router is");
    }
    if (o->gone_after_ns < o->suspect_after_ns) {
        return med_err_set(err, MED_E_USAGE,
                           "--gone-after: found %.3g s, expected at least --suspect-after, %.3g s",
                           (double)o->gone_after_ns / 1e9, (double)o->suspect_after_ns / 1e9);
    }
    int rc = med_plan_read_file(path, &plan, err);
    if (rc < 0)
        return rc;
    rc = load_model(o, &plan, &model, err);
    if (rc == 0) {
        rc = uv_loop_init(&loop);
        if (rc < 0)
            (void)med_err_set(err, rc, "cannot make an event loop: %s", uv_strerror(rc));
    }
    if (rc < 0) {
        med_router_model_free(model);
        med_plan_release(&plan);
        return rc;
    }
    rc = serve(&loop, o, path, &plan, model, err);
    int closed = uv_loop_close(&loop);
    MED_ASSERT(closed == 0);
    med_router_model_free(model);
    med_plan_release(&plan);
    return rc;
}

int main(int argc, char **argv)
{
    struct options values = {0};
    struct med_options options;
    struct med_err err = {0};
    int status = 0;
    (void)signal(SIGPIPE, SIG_IGN); // a lost peer is an error code, not a signal
    (void)med_os_files_raise();     // a connection is a file
    if (med_options_main(&program, argc, argv, &values, &options, &status) == MED_OPTIONS_DONE)
        return status;
    int rc = run(&values, options.positional[0], &err);
    if (rc < 0) {
        (void)fprintf(stderr, "medley router: %s\n", err.text);
        status = med_err_exit_status(rc);
    }
    med_options_release(&options);
    return status;
}
