/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The processes of a plan.
 *
 * A phase says what is being waited for; every event of a child looks at the phase and moves it on.
 * While the fleet is starting, a child that ends with status 2 (its input is wrong) ends the whole:
 * starting it again could not help.  So does a router that exits by itself before it was ever ready:
 * an address in use stays in use.  Any other end is answered with a pause and another start, until
 * the start's time is up.  One timer guards starting and, later, stopping.
 * thread: loop. It carries no requests.
 */
#include "router/up/fleet.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "router/net.h"
#include "router/up/ready.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum {
    ARGS_ROOM = 64,
    PROBE_PAUSE_MS = 20,
    STATUS_WRONG_INPUT = 2
};

bool med_fleet_is_emulated(const struct med_fleet_options *options)
{
    return options->backend == NULL || strcmp(options->backend, "emulated") == 0;
}

static bool has_gpus(const struct med_fleet_options *options)
{
    return options->backend != NULL && strcmp(options->backend, "cuda") == 0;
}

/* Every worker of the plan computes on one GPU. */
static int check_gpus(const struct med_plan *plan, struct med_err *err)
{
    for (size_t i = 0; i < plan->worker_count; i++) {
        const struct med_profile *profile = &plan->profiles[plan->workers[i].worker_type];
        if (profile->gpus_per_worker > 1) {
            return med_err_set(err, MED_E_USAGE,
                               "--backend cuda: worker type %s has %" PRId64
                               " GPUs, expected 1: a model is not divided among several yet",
                               profile->worker_type, profile->gpus_per_worker);
        }
    }
    return 0;
}

static int check_computing(const struct med_plan *plan, const struct med_fleet_options *options,
                           struct med_err *err)
{
    if (options->model == NULL && plan->model_path == NULL) {
        return med_err_set(err, MED_E_USAGE,
                           "--backend %s: expected --model DIR, the folder of the model, since %s "
                           "does not say where it is",
                           options->backend, options->plan_path);
    }
    if (options->time_scale != 1) {
        return med_err_set(err, MED_E_USAGE,
                           "--time-scale: found %g, expected 1 with --backend %s, which takes the "
                           "time that it takes",
                           options->time_scale, options->backend);
    }
    return has_gpus(options) ? check_gpus(plan, err) : 0;
}

int med_fleet_check(const struct med_plan *plan, const struct med_fleet_options *options,
                    struct med_err *err)
{
    const char *plan_path = options->plan_path;
    const bool emulated = med_fleet_is_emulated(options);
    if (plan->status == MED_PLAN_INFEASIBLE) {
        return med_err_set(err, MED_E_INFEASIBLE, "%s: an infeasible plan has no fleet to run",
                           plan_path);
    }
    int64_t workers = 0;
    for (size_t i = 0; i < plan->worker_count; i++) {
        const struct med_profile *profile = &plan->profiles[plan->workers[i].worker_type];
        if (emulated && !profile->has_step_model) {
            return med_err_set(
                err, MED_E_INVALID,
                "%s: worker type %s has serving points alone and cannot be emulated; "
                "expected a profile with a step_model",
                plan_path, profile->worker_type);
        }
        if (plan->workers[i].count > MED_FLEET_WORKERS_MAX - workers) {
            return med_err_set(err, MED_E_INVALID,
                               "%s: the plan has more than %d workers, too many processes for one "
                               "machine",
                               plan_path, MED_FLEET_WORKERS_MAX);
        }
        workers += plan->workers[i].count;
    }
    if (workers == 0)
        return med_err_set(err, MED_E_INVALID, "%s: the plan has no workers to run", plan_path);
    return emulated ? 0 : check_computing(plan, options, err);
}

/* ---- arguments ---- */

struct args {
    const char *items[ARGS_ROOM];
    size_t count;
};

static void push(struct args *args, const char *name, const char *value)
{
    MED_ASSERT(args->count + 3 < ARGS_ROOM);
    args->items[args->count++] = name;
    if (value)
        args->items[args->count++] = value;
    args->items[args->count] = NULL;
}

static void push_list(struct args *args, const struct med_option_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        push(args, list->values[i], NULL);
}

static int set_router_args(struct med_fleet *fleet)
{
    const struct med_fleet_options *o = fleet->options;
    char scale[32];
    (void)snprintf(scale, sizeof(scale), "%.17g", o->time_scale);
    struct args args = {0};
    push(&args, o->router_program, NULL);
    push(&args, o->plan_path, NULL);
    push(&args, "--time-scale", scale);
    /* After the first start the addresses are those that it was bound to. */
    push(&args, "--grpc-listen", fleet->grpc);
    push(&args, "--http-listen", fleet->http);
    push(&args, "--link-listen", fleet->link);
    if (o->model)
        push(&args, "--model", o->model);
    push_list(&args, &o->router_arguments);
    return med_child_set_args(&fleet->router, args.items);
}

static int set_worker_args(struct med_fleet *fleet, struct med_fleet_worker *worker)
{
    const struct med_fleet_options *o = fleet->options;
    char scale[32], gpu[32];
    (void)snprintf(scale, sizeof(scale), "%.17g", o->time_scale);
    (void)snprintf(gpu, sizeof(gpu), "%td", worker - fleet->workers);
    struct args args = {0};
    push(&args, o->worker_program, NULL);
    push(&args, "--plan", o->plan_path);
    push(&args, "--worker-type", worker->worker_type);
    push(&args, "--worker-id", worker->child.name);
    push(&args, "--router", fleet->link);
    push(&args, "--time-scale", scale);
    if (o->backend)
        push(&args, "--backend", o->backend);
    /* An emulated worker has no use for it. */
    if (o->model && !med_fleet_is_emulated(o))
        push(&args, "--model", o->model);
    if (has_gpus(o)) /* a --gpu among worker_arguments comes later and holds */
        push(&args, "--gpu", gpu);
    push_list(&args, &o->worker_arguments);
    return med_child_set_args(&worker->child, args.items);
}

/* ---- stopping ---- */

static bool any_worker_runs(const struct med_fleet *fleet)
{
    for (size_t i = 0; i < fleet->worker_count; i++) {
        if (med_child_runs(&fleet->workers[i].child))
            return true;
    }
    return false;
}

static void close_all(struct med_fleet *fleet)
{
    fleet->phase = MED_FLEET_STOPPED;
    uv_close((uv_handle_t *)&fleet->limit, NULL);
    uv_close((uv_handle_t *)&fleet->probe_pause, NULL);
    for (size_t i = 0; i < fleet->worker_count; i++)
        med_child_close(&fleet->workers[i].child);
    med_child_close(&fleet->router);
}

/* Goes on with stopping as far as what has ended allows. */
static void stop_further(struct med_fleet *fleet)
{
    if (fleet->phase == MED_FLEET_STOPPING_WORKERS && !any_worker_runs(fleet)) {
        fleet->phase = MED_FLEET_STOPPING_ROUTER;
        med_child_stop(&fleet->router, SIGTERM);
    }
    if (fleet->phase == MED_FLEET_STOPPING_ROUTER && !med_child_runs(&fleet->router))
        close_all(fleet);
}

static void kill_all(struct med_fleet *fleet)
{
    for (size_t i = 0; i < fleet->worker_count; i++)
        med_child_stop(&fleet->workers[i].child, SIGKILL);
    med_child_stop(&fleet->router, SIGKILL);
}

static void on_stop_limit(uv_timer_t *timer)
{
    struct med_fleet *fleet = timer->data;
    MED_WARN("not everything stopped within %.1f s: killing what still runs",
             (double)fleet->options->stop_timeout_ns / 1e9);
    kill_all(fleet);
}

static void start_limit(struct med_fleet *fleet, uv_timer_cb callback, int64_t real_ns)
{
    MED_ASSERT(uv_timer_start(&fleet->limit, callback, (uint64_t)(real_ns / MED_NS_PER_MS), 0) ==
               0);
}

void med_fleet_stop(struct med_fleet *fleet)
{
    if (fleet->phase == MED_FLEET_STOPPED)
        return;
    if (fleet->phase >= MED_FLEET_STOPPING_WORKERS) {
        kill_all(fleet);
        return;
    }
    fleet->phase = MED_FLEET_STOPPING_WORKERS;
    start_limit(fleet, on_stop_limit, fleet->options->stop_timeout_ns);
    /* The router must not be started again while its workers leave. */
    fleet->router.wanted = false;
    (void)uv_timer_stop(&fleet->router.restart);
    for (size_t i = 0; i < fleet->worker_count; i++)
        med_child_stop(&fleet->workers[i].child, SIGTERM);
    stop_further(fleet);
}

static void fail(struct med_fleet *fleet, int code, const char *sentence)
{
    if (fleet->failure.code == 0)
        (void)med_err_set(&fleet->failure, code, "%s", sentence);
    med_fleet_stop(fleet);
}

/* ---- starting ---- */

/* "2 of 5 processes are not ready after 60.0 s: a10g-000 (exit status 1, started 7 times), ..." */
static void on_start_limit(uv_timer_t *timer)
{
    struct med_fleet *fleet = timer->data;
    char list[512];
    size_t used = 0, missing = 0;
    list[0] = '\0';
    for (size_t i = 0; i <= fleet->worker_count; i++) {
        const struct med_child *child = i == 0 ? &fleet->router : &fleet->workers[i - 1].child;
        if (child->ready)
            continue;
        missing++;
        if (used + 1 >= sizeof(list) || child->starts == 0)
            continue;
        int n = snprintf(list + used, sizeof(list) - used, "%s%s (%s, started %d time%s)",
                         used ? ", " : "", child->name,
                         child->end[0] ? child->end : "runs, but is silent", child->starts,
                         child->starts == 1 ? "" : "s");
        used += n > 0 ? (size_t)n : 0;
    }
    char sentence[1024];
    if (missing > 0) {
        (void)snprintf(
            sentence, sizeof(sentence), "%zu of %zu processes are not ready after %.1f s: %s",
            missing, fleet->worker_count + 1, (double)fleet->options->start_timeout_ns / 1e9, list);
    } else {
        (void)snprintf(sentence, sizeof(sentence),
                       "%lld of %zu workers have joined the router after %.1f s; its log says why "
                       "it refused others",
                       (long long)fleet->workers_joined, fleet->worker_count,
                       (double)fleet->options->start_timeout_ns / 1e9);
    }
    fail(fleet, MED_E_NO_WORKER, sentence);
}

static void on_probe_answer(struct med_probe *probe, int64_t workers_ready);

static void start_workers(struct med_fleet *fleet)
{
    fleet->phase = MED_FLEET_STARTING_WORKERS;
    for (size_t i = 0; i < fleet->worker_count; i++) {
        if (set_worker_args(fleet, &fleet->workers[i]) < 0) {
            fail(fleet, MED_E_NOMEM, med_err_text(MED_E_NOMEM));
            return;
        }
        med_child_start(&fleet->workers[i].child);
    }
}

static void on_router_ready(struct med_child *child, const char *after_ready)
{
    struct med_fleet *fleet = child->user;
    bool known = med_ready_value(after_ready, "grpc", fleet->grpc, sizeof(fleet->grpc)) &&
                 med_ready_value(after_ready, "http", fleet->http, sizeof(fleet->http)) &&
                 med_ready_value(after_ready, "link", fleet->link, sizeof(fleet->link));
    if (!known || set_router_args(fleet) < 0 ||
        med_net_parse(fleet->http, "http=", &fleet->http_address, NULL) < 0) {
        fail(fleet, MED_E_PROTO,
             "the router's READY line does not say grpc=, http= and link=: another version?");
        return;
    }
    if (fleet->phase == MED_FLEET_STARTING_ROUTER) {
        start_workers(fleet);
    } else if (fleet->phase == MED_FLEET_RUNNING && fleet->on_change) {
        fleet->on_change(fleet);
    }
}

static bool all_workers_ready(const struct med_fleet *fleet)
{
    for (size_t i = 0; i < fleet->worker_count; i++) {
        if (fleet->workers[i].row == MED_FLEET_WANTED && !fleet->workers[i].child.ready)
            return false;
    }
    return true;
}

static bool awaits_joins(const struct med_fleet *fleet)
{
    return fleet->phase == MED_FLEET_JOINING ||
           (fleet->phase == MED_FLEET_RUNNING && fleet->reloading);
}

/* What the router's /health must count before all that are wanted have joined: those that are to leave are
 * there still. */
static int64_t workers_to_join(const struct med_fleet *fleet)
{
    int64_t count = 0;
    for (size_t i = 0; i < fleet->worker_count; i++) {
        const struct med_fleet_worker *worker = &fleet->workers[i];
        count += worker->row == MED_FLEET_WANTED ||
                 (worker->row == MED_FLEET_LEAVING && worker->child.ready);
    }
    return count;
}

/* Their replacements serve: those that the plan has no place for may go. */
static void drain_leaving(struct med_fleet *fleet)
{
    size_t count = 0;
    fleet->reloading = false;
    for (size_t i = 0; i < fleet->worker_count; i++) {
        struct med_fleet_worker *worker = &fleet->workers[i];
        if (worker->row != MED_FLEET_LEAVING)
            continue;
        count++;
        worker->row = med_child_runs(&worker->child) ? MED_FLEET_DRAINING : MED_FLEET_IDLE;
        med_child_stop(&worker->child, SIGTERM);
    }
    MED_INFO("the plan's workers have joined; %zu that it has no place for are drained", count);
    if (fleet->on_change)
        fleet->on_change(fleet);
}

static void on_probe_pause(uv_timer_t *timer)
{
    struct med_fleet *fleet = timer->data;
    if (awaits_joins(fleet) && !fleet->probe.runs)
        med_probe_start(&fleet->probe, fleet->loop, &fleet->http_address);
}

static void on_probe_answer(struct med_probe *probe, int64_t workers_ready)
{
    struct med_fleet *fleet = probe->user;
    if (!awaits_joins(fleet))
        return;
    fleet->workers_joined = workers_ready > 0 ? workers_ready : 0;
    if (workers_ready < workers_to_join(fleet) || !all_workers_ready(fleet)) {
        MED_ASSERT(uv_timer_start(&fleet->probe_pause, on_probe_pause, PROBE_PAUSE_MS, 0) == 0);
        return;
    }
    if (fleet->reloading) {
        drain_leaving(fleet);
        return;
    }
    fleet->phase = MED_FLEET_RUNNING;
    (void)uv_timer_stop(&fleet->limit);
    if (fleet->on_change)
        fleet->on_change(fleet);
}

static void on_worker_ready(struct med_child *child, const char *after_ready)
{
    (void)after_ready;
    struct med_fleet *fleet = child->user;
    if (fleet->phase == MED_FLEET_STARTING_WORKERS && all_workers_ready(fleet)) {
        fleet->phase = MED_FLEET_JOINING;
        on_probe_pause(&fleet->probe_pause);
    } else if (fleet->phase == MED_FLEET_RUNNING) {
        if (fleet->reloading)
            on_probe_pause(&fleet->probe_pause);
        MED_INFO("%s is ready%s", child->name, child->starts > 1 ? " again" : "");
        if (fleet->on_change)
            fleet->on_change(fleet);
    }
}

static void on_child_end(struct med_child *child, int64_t pause_ms)
{
    struct med_fleet *fleet = child->user;
    if (child != &fleet->router) {
        struct med_fleet_worker *worker = (struct med_fleet_worker *)child;
        if (worker->row == MED_FLEET_DRAINING) {
            worker->row = MED_FLEET_IDLE;
            MED_INFO("%s has left: %s", child->name, child->end);
            if (fleet->phase == MED_FLEET_RUNNING && fleet->on_change)
                fleet->on_change(fleet);
            if (fleet->phase < MED_FLEET_STOPPING_WORKERS)
                return;
        }
    }
    if (fleet->phase >= MED_FLEET_STOPPING_WORKERS) {
        if (pause_ms >= 0)
            (void)uv_timer_stop(&child->restart);
        stop_further(fleet);
        return;
    }
    bool starting = fleet->phase < MED_FLEET_RUNNING;
    if (starting && child->exit_status == STATUS_WRONG_INPUT) {
        char sentence[MED_CHILD_NAME_MAX + 96];
        (void)snprintf(sentence, sizeof(sentence),
                       "%s refuses its input (exit status 2); its last line above says why",
                       child->name);
        fail(fleet, MED_E_INVALID, sentence);
        return;
    }
    if (child == &fleet->router && fleet->phase == MED_FLEET_STARTING_ROUTER &&
        child->exit_status >= 0) {
        char sentence[MED_CHILD_END_MAX + 96];
        (void)snprintf(sentence, sizeof(sentence),
                       "the router ended before it was ready (%s); its last line above says why",
                       child->end);
        fail(fleet, MED_E_IO, sentence);
        return;
    }
    MED_WARN("%s ended: %s; starting it again in %.2f s", child->name, child->end,
             (double)pause_ms / 1e3);
}

static const struct med_child_ops router_ops = {.on_ready = on_router_ready,
                                                .on_end = on_child_end};
static const struct med_child_ops worker_ops = {.on_ready = on_worker_ready,
                                                .on_end = on_child_end};

/* "a10g-000": the lowest number that no other worker of the type has. */
static void name_worker(const struct med_fleet *fleet, const char *type,
                        char name[MED_CHILD_NAME_MAX])
{
    for (size_t k = 0;; k++) {
        size_t i = 0;
        (void)snprintf(name, MED_CHILD_NAME_MAX, "%s-%03zu", type, k);
        while (i < fleet->worker_count && (fleet->workers[i].row == MED_FLEET_IDLE ||
                                           strcmp(fleet->workers[i].child.name, name) != 0))
            i++;
        if (i == fleet->worker_count)
            return;
    }
}

/* A row for one more worker; its process is not started. */
static int add_worker(struct med_fleet *fleet, const char *type,
                      struct med_fleet_worker **ret_worker)
{
    char name[MED_CHILD_NAME_MAX];
    size_t i = 0;
    int rc = 0;
    name_worker(fleet, type, name);
    while (i < fleet->worker_count && fleet->workers[i].row != MED_FLEET_IDLE)
        i++;
    if (i == MED_FLEET_WORKERS_MAX)
        return MED_E_LIMIT;
    struct med_fleet_worker *worker = &fleet->workers[i];
    if (i < fleet->worker_count) {
        med_child_reuse(&worker->child, name);
    } else {
        rc = med_child_init(&worker->child, fleet->loop, name, &worker_ops, fleet);
        fleet->worker_count++;
    }
    worker->row = MED_FLEET_WANTED;
    (void)snprintf(worker->worker_type, sizeof(worker->worker_type), "%s", type);
    *ret_worker = worker;
    return rc;
}

static const char *type_of(const struct med_plan *plan, size_t i)
{
    return plan->profiles[plan->workers[i].worker_type].worker_type;
}

static int add_workers(struct med_fleet *fleet)
{
    const struct med_plan *plan = fleet->plan;
    fleet->workers = med_calloc(MED_FLEET_WORKERS_MAX, sizeof(*fleet->workers));
    if (!fleet->workers)
        return MED_E_NOMEM;
    for (size_t i = 0; i < plan->worker_count; i++) {
        for (int64_t k = 0; k < plan->workers[i].count; k++) {
            struct med_fleet_worker *worker;
            int rc = add_worker(fleet, type_of(plan, i), &worker);
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}

/* ---- another plan ---- */

static int64_t wanted_of(const struct med_plan *plan, const char *type)
{
    int64_t count = 0;
    for (size_t i = 0; i < plan->worker_count; i++) {
        if (strcmp(type_of(plan, i), type) == 0)
            count += plan->workers[i].count;
    }
    return count;
}

static int64_t have_of(const struct med_fleet *fleet, const char *type)
{
    int64_t count = 0;
    for (size_t i = 0; i < fleet->worker_count; i++) {
        const struct med_fleet_worker *worker = &fleet->workers[i];
        count += worker->row == MED_FLEET_WANTED && strcmp(worker->worker_type, type) == 0;
    }
    return count;
}

/* Those that were to leave may stay after all; those beyond the plan's count are to leave. */
static void mark_rows(struct med_fleet *fleet, const struct med_plan *plan)
{
    for (size_t i = 0; i < fleet->worker_count; i++) {
        if (fleet->workers[i].row == MED_FLEET_LEAVING)
            fleet->workers[i].row = MED_FLEET_WANTED;
    }
    for (size_t i = fleet->worker_count; i-- > 0;) {
        struct med_fleet_worker *worker = &fleet->workers[i];
        if (worker->row == MED_FLEET_WANTED &&
            have_of(fleet, worker->worker_type) > wanted_of(plan, worker->worker_type))
            worker->row = MED_FLEET_LEAVING;
    }
}

static int start_missing(struct med_fleet *fleet, const struct med_plan *plan, size_t *ret_started)
{
    for (size_t i = 0; i < plan->worker_count; i++) {
        while (have_of(fleet, type_of(plan, i)) < wanted_of(plan, type_of(plan, i))) {
            struct med_fleet_worker *worker = NULL;
            int rc = add_worker(fleet, type_of(plan, i), &worker);
            if (rc == 0)
                rc = set_worker_args(fleet, worker);
            if (rc < 0) {
                if (worker)
                    worker->row = MED_FLEET_IDLE;
                return rc;
            }
            med_child_start(&worker->child);
            (*ret_started)++;
        }
    }
    return 0;
}

int med_fleet_reload(struct med_fleet *fleet, const struct med_plan *plan, struct med_err *err)
{
    if (fleet->phase != MED_FLEET_RUNNING) {
        return med_err_set(err, MED_E_AGAIN, "the fleet %s",
                           fleet->phase < MED_FLEET_RUNNING ? "is not ready yet" : "stops");
    }
    /* The router first: it refuses workers of types that its plan lacks. */
    if (med_child_runs(&fleet->router))
        (void)uv_kill(med_child_pid(&fleet->router), SIGHUP);
    mark_rows(fleet, plan);
    fleet->plan = plan;
    fleet->reloading = true;
    size_t started = 0;
    size_t leaving = 0;
    int rc = start_missing(fleet, plan, &started);
    for (size_t i = 0; i < fleet->worker_count; i++)
        leaving += fleet->workers[i].row == MED_FLEET_LEAVING;
    MED_INFO("plan %s: %zu worker%s started, %zu to leave when they serve",
             fleet->options->plan_path, started, started == 1 ? "" : "s", leaving);
    if (rc < 0)
        MED_ERROR("not all of the plan's workers can be started: %s", med_err_text(rc));
    on_probe_pause(&fleet->probe_pause);
    return 0;
}

int med_fleet_init(struct med_fleet *fleet, uv_loop_t *loop, const struct med_plan *plan,
                   const struct med_fleet_options *options, struct med_err *err)
{
    *fleet = (struct med_fleet){.loop = loop, .plan = plan, .options = options};
    (void)snprintf(fleet->grpc, sizeof(fleet->grpc), "%s", options->grpc_listen);
    (void)snprintf(fleet->http, sizeof(fleet->http), "%s", options->http_listen);
    (void)snprintf(fleet->link, sizeof(fleet->link), "%s", options->link_listen);
    MED_ASSERT(uv_timer_init(loop, &fleet->limit) == 0);
    fleet->limit.data = fleet;
    MED_ASSERT(uv_timer_init(loop, &fleet->probe_pause) == 0);
    fleet->probe_pause.data = fleet;
    fleet->probe.on_answer = on_probe_answer;
    fleet->probe.user = fleet;
    int rc = med_child_init(&fleet->router, loop, "router", &router_ops, fleet);
    if (rc >= 0)
        rc = set_router_args(fleet);
    if (rc >= 0)
        rc = add_workers(fleet);
    if (rc < 0) {
        (void)med_err_set(err, rc, "the processes could not be prepared: %s", med_err_text(rc));
        close_all(fleet);
    }
    return rc;
}

void med_fleet_start(struct med_fleet *fleet)
{
    uv_update_time(fleet->loop);
    fleet->begun_ms = (int64_t)uv_now(fleet->loop);
    fleet->phase = MED_FLEET_STARTING_ROUTER;
    start_limit(fleet, on_start_limit, fleet->options->start_timeout_ns);
    med_child_start(&fleet->router);
}

void med_fleet_release(struct med_fleet *fleet)
{
    med_free(fleet->workers);
    fleet->workers = NULL;
    fleet->worker_count = 0;
}

double med_fleet_age_s(const struct med_fleet *fleet)
{
    return (double)((int64_t)uv_now(fleet->loop) - fleet->begun_ms) / 1e3;
}
