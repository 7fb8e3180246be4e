/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medley up: runs a plan on this machine.
 *
 * Reads the plan, starts its router and workers, tells the addresses when all are ready (a table on
 * standard output, a file if asked), keeps them running, and stops them on SIGINT or SIGTERM; a
 * second signal kills.  If this program itself is killed, the kernel kills its children (become.h).
 * Shut-down order: workers, router, timers and signals, loop, plan.
 * thread: main, which is the loop.
 */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/json.h"
#include "base/log.h"
#include "base/os.h"
#include "router/up/become.h"
#include "router/up/fleet.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define AT(field) offsetof(struct up_options, field)

enum {
    PATH_BYTES = 4096,
    READY_FILE_MAX_BYTES = 4 << 20
};

struct up_options {
    double time_scale;
    const char *grpc_listen, *http_listen, *link_listen;
    const char *backend, *model;
    const char *ready_file;
    const char *router_program, *worker_program;
    struct med_option_list router_arguments, worker_arguments;
    int64_t start_timeout_ns, stop_timeout_ns;
};

/* thread: loop */
struct up {
    const struct up_options *options;
    struct med_plan *plan; /* owned; another one after a reload */
    const char *plan_path;
    bool has_terminal; /* standard input was one at the start */
    struct med_fleet_options fleet_options;
    struct med_fleet fleet;
    uv_loop_t loop;
    uv_signal_t interrupt, terminate, hang_up;
    char router_program[PATH_BYTES], worker_program[PATH_BYTES];
    bool shown;
};

static const struct med_option option_table[] = {
    {.name = "time-scale",
     .type = MED_OPT_NUMBER,
     .offset = AT(time_scale),
     .unit = "K",
     .default_text = "1",
     .min = 0.001,
     .max = 1000,
     .help = "Fleet seconds per real second, for router, workers and, given again there, bench.",
     .group = "Fleet"},
    {.name = "backend",
     .type = MED_OPT_CHOICE,
     .offset = AT(backend),
     .choices = "emulated|cpu|cuda",
     .default_text = "emulated",
     .help = "What workers do: take the time that the plan's profiles say, or compute the model on "
             "this machine's CPU, or on its GPUs: one each, in their order."},
    {.name = "model",
     .type = MED_OPT_STRING,
     .offset = AT(model),
     .unit = "DIR",
     .help = "The model's folder: its tokenizer for the router, its weights for workers that "
             "compute. Default: the plan's model path."},
    {.name = "grpc-listen",
     .type = MED_OPT_STRING,
     .offset = AT(grpc_listen),
     .unit = "HOST:PORT",
     .default_text = "127.0.0.1:7070",
     .help = "The router's gRPC door; port 0 lets the system choose."},
    {.name = "http-listen",
     .type = MED_OPT_STRING,
     .offset = AT(http_listen),
     .unit = "HOST:PORT",
     .default_text = "127.0.0.1:7071",
     .help = "The router's metrics and health; port 0 lets the system choose."},
    {.name = "link-listen",
     .type = MED_OPT_STRING,
     .offset = AT(link_listen),
     .unit = "HOST:PORT",
     .default_text = "127.0.0.1:7072",
     .help = "Where workers dial the router; port 0 lets the system choose."},
    {.name = "ready-file",
     .type = MED_OPT_STRING,
     .offset = AT(ready_file),
     .unit = "FILE",
     .help =
         "Written when all is ready and after each restart, as JSON: addresses and process ids. "
         "Removed at the end."},
    {.name = "router-argument",
     .type = MED_OPT_LIST,
     .offset = AT(router_arguments),
     .unit = "ARGUMENT",
     .help = "Passed on to the router, for example --router-argument=--queue-max=100.",
     .group = "Processes"},
    {.name = "worker-argument",
     .type = MED_OPT_LIST,
     .offset = AT(worker_arguments),
     .unit = "ARGUMENT",
     .help = "Passed on to every worker."},
    {.name = "router-program",
     .type = MED_OPT_STRING,
     .offset = AT(router_program),
     .unit = "FILE",
     .help = "Runs this as the router. Default: medley-router beside this program."},
    {.name = "worker-program",
     .type = MED_OPT_STRING,
     .offset = AT(worker_program),
     .unit = "FILE",
     .help = "Runs this as the worker. Default: medley-worker beside this program."},
    {.name = "start-timeout",
     .type = MED_OPT_DURATION,
     .offset = AT(start_timeout_ns),
     .unit = "TIME",
     .default_text = "60s",
     .min = 0.1,
     .max = 86400,
     .help = "Real time within which all must be ready; else all is stopped."},
    {.name = "stop-timeout",
     .type = MED_OPT_DURATION,
     .offset = AT(stop_timeout_ns),
     .unit = "TIME",
     .default_text = "30s",
     .min = 0.1,
     .max = 86400,
     .help =
         "Real time to finish running requests after a signal; then what still runs is killed."},
    {.name = NULL},
};

static const struct med_program program = {
    .name = "medley up",
    .synopsis = "[options] PLAN",
    .summary = "Runs the router and the workers of a plan on this machine.",
    .details =
        "Workers are emulated, unless --backend says otherwise: they take the time that the\n"
        "plan's profiles say. With --model the router takes and gives text. A process that\n"
        "ends is started again, after a pause that doubles from 0.25 s to 10 s.\n"
        "SIGINT or SIGTERM lets running requests finish; a second one kills.\n"
        "SIGHUP reads PLAN again: workers that it adds are started, and when they serve, those\n"
        "that it has no place for finish what they have and end.\n"
        "\n"
        "Exit status: 0 stopped by a signal, 1 the fleet could not be started, 2 wrong usage\n"
        "or bad input, 3 the plan is infeasible.\n"
        "\n"
        "Example:\n"
        "  medley up plan.json --time-scale 10\n"
        "  medley up plan.json --backend cpu --model models/medley-austen\n",
    .options = option_table,
    .positional_min = 1,
    .positional_max = 1,
};

static int fail(const struct med_err *err)
{
    (void)fprintf(stderr, "medley up: %s\n", err->text);
    return med_err_exit_status(err->code);
}

/* ---- what is told ---- */

static void write_child(struct med_json_writer *w, const struct med_child *child)
{
    med_json_put_integer(w, "pid", med_child_pid(child));
    med_json_put_integer(w, "starts", child->starts);
    med_json_put_bool(w, "ready", child->ready);
}

static int format_ready(struct med_buf *buf, const struct med_fleet *fleet)
{
    struct med_json_writer w;
    med_json_writer_init(&w, buf, true);
    med_json_begin_object(&w, NULL);
    med_json_put_string(&w, "plan", fleet->options->plan_path);
    med_json_put_number(&w, "time_scale", fleet->options->time_scale);
    med_json_put_string(&w, "grpc", fleet->grpc);
    med_json_put_string(&w, "http", fleet->http);
    med_json_put_string(&w, "link", fleet->link);
    med_json_put_integer(&w, "pid", (int64_t)getpid());
    med_json_begin_row_object(&w, "router");
    write_child(&w, &fleet->router);
    med_json_end_object(&w);
    med_json_begin_array(&w, "workers");
    for (size_t i = 0; i < fleet->worker_count; i++) {
        const struct med_fleet_worker *worker = &fleet->workers[i];
        if (worker->row == MED_FLEET_IDLE)
            continue;
        med_json_begin_row_object(&w, NULL);
        med_json_put_string(&w, "worker_id", worker->child.name);
        med_json_put_string(&w, "worker_type", worker->worker_type);
        med_json_put_bool(&w, "leaving", worker->row != MED_FLEET_WANTED);
        write_child(&w, &worker->child);
        med_json_end_object(&w);
    }
    med_json_end_array(&w);
    med_json_end_object(&w);
    return med_json_writer_finish(&w);
}

/* Readers see the old file or the new one, never half of one. */
static void write_ready_file(const char *path, const struct med_fleet *fleet)
{
    struct med_buf buf;
    med_buf_init(&buf, READY_FILE_MAX_BYTES);
    char draft[PATH_BYTES];
    int length = snprintf(draft, sizeof(draft), "%s.new", path);
    bool ok = length > 0 && (size_t)length < sizeof(draft) && format_ready(&buf, fleet) >= 0;
    FILE *file = ok ? fopen(draft, "w") : NULL;
    ok = file && fwrite(buf.data, 1, buf.length, file) == buf.length;
    if (file)
        ok = fclose(file) == 0 && ok;
    if (!ok || rename(draft, path) != 0)
        MED_ERROR("%s could not be written: %s", path, strerror(errno));
    med_buf_release(&buf);
}

static void show_table(const struct up *up)
{
    const struct med_fleet *fleet = &up->fleet;
    const struct med_plan *plan = up->plan;
    (void)printf("%s: %zu worker%s ready after %.1f s, time scale %g, %.2f $/h if rented\n",
                 fleet->options->plan_path, fleet->worker_count,
                 fleet->worker_count == 1 ? "" : "s", med_fleet_age_s(fleet),
                 fleet->options->time_scale, plan->cost_usd_per_hour);
    (void)printf("  %-44s %8s  %s\n", "worker type", "workers", "planned load");
    for (size_t i = 0; i < plan->worker_count; i++) {
        (void)printf("  %-44s %8" PRId64 "  %5.1f %%\n",
                     plan->profiles[plan->workers[i].worker_type].worker_type,
                     plan->workers[i].count, 100 * plan->workers[i].utilization);
    }
    (void)printf("gRPC     %s\n", fleet->grpc);
    (void)printf("metrics  http://%s/metrics   health  http://%s/health\n", fleet->http,
                 fleet->http);
    if (fleet->options->model || fleet->plan->model_path)
        (void)printf("Ask it:     medley ask --target %s \"Who are you?\"\n", fleet->grpc);
    (void)printf("Send load:  medley bench --plan %s --target %s", fleet->options->plan_path,
                 fleet->grpc);
    if (fleet->options->time_scale != 1)
        (void)printf(" --time-scale %g", fleet->options->time_scale);
    (void)printf("\nCtrl-C stops it.\n");
    (void)printf("READY workers=%zu grpc=%s http=%s seconds=%.3f\n", fleet->worker_count,
                 fleet->grpc, fleet->http, med_fleet_age_s(fleet));
    (void)fflush(stdout);
}

static void on_change(struct med_fleet *fleet)
{
    struct up *up = fleet->user;
    if (up->options->ready_file)
        write_ready_file(up->options->ready_file, fleet);
    if (!up->shown)
        show_table(up);
    up->shown = true;
}

/* ---- another plan ---- */

static void plan_free(struct med_plan *plan)
{
    if (!plan)
        return;
    med_plan_release(plan);
    med_free(plan);
}

static int plan_read(const char *path, struct med_plan **ret_plan, struct med_err *err)
{
    struct med_plan *plan = med_calloc(1, sizeof(*plan));
    if (!plan)
        return med_err_set(err, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM));
    int rc = med_plan_read_file(path, plan, err);
    if (rc < 0) {
        med_free(plan);
        return rc;
    }
    *ret_plan = plan;
    return 0;
}

static int reload(struct up *up, struct med_err *err)
{
    struct med_plan *plan = NULL;
    int rc = plan_read(up->plan_path, &plan, err);
    if (rc < 0)
        return rc;
    MED_ASSERT(plan);
    if (strcmp(plan->model_name, up->plan->model_name) != 0) {
        rc = med_err_set(err, MED_E_INVALID, "%s: model is \"%s\", but \"%s\" is served",
                         up->plan_path, plan->model_name, up->plan->model_name);
    } else {
        rc = med_fleet_check(plan, &up->fleet_options, err);
    }
    if (rc >= 0)
        rc = med_fleet_reload(&up->fleet, plan, err);
    if (rc < 0) {
        plan_free(plan);
        return rc;
    }
    plan_free(up->plan);
    up->plan = plan;
    return 0;
}

/* ---- life ---- */

static void on_signal(uv_signal_t *handle, int number)
{
    struct up *up = handle->data;
    if (up->fleet.phase < MED_FLEET_STOPPING_WORKERS) {
        MED_INFO("signal %d: stopping; running requests may finish within %.0f s", number,
                 (double)up->options->stop_timeout_ns / 1e9);
    } else {
        MED_WARN("signal %d again: killing", number);
    }
    med_fleet_stop(&up->fleet);
}

/* Its terminal has gone, or somebody wants the plan read again. */
static void on_hang_up(uv_signal_t *handle, int number)
{
    struct up *up = handle->data;
    struct med_err err = {0};
    if (up->has_terminal && !isatty(STDIN_FILENO)) {
        on_signal(handle, number);
    } else if (reload(up, &err) < 0) {
        MED_ERROR("the plan is not reloaded, the fleet stays as it is: %s", err.text);
    }
}

static int find_program(const char *given, const char *name, char out[PATH_BYTES],
                        struct med_err *err)
{
    char folder[PATH_BYTES];
    int length;
    if (given) {
        length = snprintf(out, PATH_BYTES, "%s", given);
    } else {
        int rc = med_os_program_dir(folder, sizeof(folder));
        if (rc < 0) {
            return med_err_set(err, rc, "this program's own folder is not known: %s",
                               med_os_errno_text(rc));
        }
        length = snprintf(out, PATH_BYTES, "%s/%s", folder, name);
    }
    if (length <= 0 || length >= PATH_BYTES)
        return med_err_set(err, MED_E_INVALID, "the path of %s is too long", name);
    if (access(out, X_OK) != 0)
        return med_err_set(err, MED_E_USAGE, "%s cannot be run: %s", out, strerror(errno));
    return 0;
}

static void start_signal(struct up *up, uv_signal_t *handle, uv_signal_cb callback, int number)
{
    MED_ASSERT(uv_signal_init(&up->loop, handle) == 0);
    handle->data = up;
    MED_ASSERT(uv_signal_start(handle, callback, number) == 0);
    /* The loop ends when the fleet has; the signals alone do not keep it. */
    uv_unref((uv_handle_t *)handle);
}

static int run_fleet(struct up *up)
{
    struct med_err err = {0};
    MED_ASSERT(uv_loop_init(&up->loop) == 0);
    int rc = med_fleet_init(&up->fleet, &up->loop, up->plan, &up->fleet_options, &err);
    if (rc >= 0) {
        up->fleet.on_change = on_change;
        up->fleet.user = up;
        start_signal(up, &up->interrupt, on_signal, SIGINT);
        start_signal(up, &up->terminate, on_signal, SIGTERM);
        start_signal(up, &up->hang_up, on_hang_up, SIGHUP);
        med_fleet_start(&up->fleet);
        (void)uv_run(&up->loop, UV_RUN_DEFAULT);
        uv_close((uv_handle_t *)&up->interrupt, NULL);
        uv_close((uv_handle_t *)&up->terminate, NULL);
        uv_close((uv_handle_t *)&up->hang_up, NULL);
        err = up->fleet.failure;
    }
    (void)uv_run(&up->loop, UV_RUN_DEFAULT);
    MED_ASSERT(uv_loop_close(&up->loop) == 0);
    med_fleet_release(&up->fleet);
    if (up->options->ready_file && up->shown)
        (void)unlink(up->options->ready_file);
    return err.code < 0 ? fail(&err) : 0;
}

static int prepare(struct up *up, const char *plan_path, struct med_err *err)
{
    const struct up_options *o = up->options;
    up->fleet_options = (struct med_fleet_options){
        .plan_path = plan_path,
        .router_program = up->router_program,
        .worker_program = up->worker_program,
        .grpc_listen = o->grpc_listen,
        .http_listen = o->http_listen,
        .link_listen = o->link_listen,
        .backend = o->backend,
        .model = o->model,
        .time_scale = o->time_scale,
        .router_arguments = o->router_arguments,
        .worker_arguments = o->worker_arguments,
        .start_timeout_ns = o->start_timeout_ns,
        .stop_timeout_ns = o->stop_timeout_ns,
    };
    int rc = med_fleet_check(up->plan, &up->fleet_options, err);
    if (rc >= 0)
        rc = find_program(o->router_program, "medley-router", up->router_program, err);
    if (rc >= 0)
        rc = find_program(o->worker_program, "medley-worker", up->worker_program, err);
    return rc;
}

static int up_main(const struct up_options *options, const char *plan_path)
{
    static struct up up;
    /* A reader of our output that goes away must not take the fleet with it. */
    (void)signal(SIGPIPE, SIG_IGN);
    struct med_err err = {0};
    up.options = options;
    up.plan_path = plan_path;
    up.has_terminal = isatty(STDIN_FILENO);
    int rc = plan_read(plan_path, &up.plan, &err);
    if (rc < 0)
        return fail(&err);
    int status;
    rc = prepare(&up, plan_path, &err);
    if (rc < 0) {
        status = fail(&err);
    } else {
        status = run_fleet(&up);
    }
    plan_free(up.plan);
    return status;
}

int main(int argc, char **argv)
{
    if (med_become_asked(argc, argv))
        return med_become(argc, argv);
    static struct up_options values; /* `up` keeps a pointer to it */
    struct med_options options;
    int status = 0;
    if (med_options_main(&program, argc, argv, &values, &options, &status) != MED_OPTIONS_RUN)
        return status;
    status = up_main(&values, options.positional[0]);
    med_options_release(&options);
    return status;
}
