/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One supervised process.
 *
 * The handles of a run (process, output pipe, line in progress) live in a block of their own, since
 * libuv closes them later than the next run may begin.  A run is over when the process has exited;
 * its output is read to the end even after that, so the last words are not lost.  Children are
 * session leaders: Ctrl-C in the terminal reaches the supervisor alone, which then stops them in
 * order.
 * thread: loop. It decides nothing but when to restart.
 */
#include "router/up/child.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "router/up/become.h"
#include "router/up/ready.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    RESTART_FIRST_MS = 250,
    RESTART_MAX_MS = 10000,
    RESTART_STABLE_MS = 30000,
    ARGS_MAX = 128
};

/* Standard output and standard error of a run: READY may come on either. */
enum {
    OUTPUTS = 2
};

struct output {
    struct process *process;
    uv_pipe_t pipe;
    char line[MED_CHILD_LINE_MAX];
    size_t line_length;
    char chunk[MED_CHILD_LINE_MAX];
};

struct process {
    struct med_child *child;
    uv_process_t handle;
    struct output outputs[OUTPUTS];
    int open_handles;
    char name[MED_CHILD_NAME_MAX];
};

static int64_t now_ms(const struct med_child *child)
{
    return (int64_t)uv_now(child->loop);
}

/* ---- output ---- */

static void pass_on_line(struct output *o)
{
    struct process *p = o->process;
    o->line[o->line_length] = '\0';
    char out[MED_CHILD_LINE_MAX + MED_CHILD_NAME_MAX + 8];
    int length = snprintf(out, sizeof(out), "[%s] %s\n", p->name, o->line);
    /* One write a line: lines of several processes do not mix. Nobody can be told of a failure. */
    ssize_t written = write(STDERR_FILENO, out, (size_t)length);
    (void)written;
    o->line_length = 0;
    const char *after_ready = med_ready_find(o->line);
    struct med_child *child = p->child;
    if (!after_ready || child->process != p || child->ready)
        return;
    child->ready = true;
    child->ops->on_ready(child, after_ready);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    struct output *o = handle->data;
    *buf = uv_buf_init(o->chunk, sizeof(o->chunk));
}

static void release_handle(struct process *p)
{
    MED_ASSERT(p->open_handles > 0);
    if (--p->open_handles == 0)
        med_free(p);
}

static void on_output_closed(uv_handle_t *handle)
{
    struct output *o = handle->data;
    release_handle(o->process);
}

static void on_process_closed(uv_handle_t *handle)
{
    release_handle(handle->data);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buf)
{
    struct output *o = stream->data;
    if (count < 0) {
        if (o->line_length > 0)
            pass_on_line(o);
        uv_close((uv_handle_t *)stream, on_output_closed);
        return;
    }
    for (ssize_t i = 0; i < count; i++) {
        char c = buf->base[i];
        if (c == '\0')
            c = ' ';
        if (c == '\n' || o->line_length == MED_CHILD_LINE_MAX - 1)
            pass_on_line(o);
        if (c != '\n')
            o->line[o->line_length++] = c;
    }
}

/* ---- life ---- */

int med_child_init(struct med_child *child, uv_loop_t *loop, const char *name,
                   const struct med_child_ops *ops, void *user)
{
    *child = (struct med_child){
        .loop = loop, .ops = ops, .user = user, .wanted = true, .exit_status = -1};
    (void)snprintf(child->name, sizeof(child->name), "%s", name);
    med_backoff_init(&child->backoff, RESTART_FIRST_MS, RESTART_MAX_MS, RESTART_STABLE_MS);
    child->restart.data = child;
    /* First of all, so that close is right also after a failure. */
    MED_ASSERT(uv_timer_init(loop, &child->restart) == 0);
    size_t self_bytes = sizeof(child->self);
    return uv_exepath(child->self, &self_bytes);
}

void med_child_reuse(struct med_child *child, const char *name)
{
    MED_ASSERT(!child->process);
    (void)uv_timer_stop(&child->restart);
    (void)snprintf(child->name, sizeof(child->name), "%s", name);
    med_backoff_init(&child->backoff, RESTART_FIRST_MS, RESTART_MAX_MS, RESTART_STABLE_MS);
    child->wanted = true;
    child->ready = false;
    child->starts = 0;
    child->exit_status = -1;
    child->end[0] = '\0';
}

static void free_args(char **args)
{
    for (size_t i = 0; args && args[i]; i++)
        med_free(args[i]);
    med_free(args);
}

int med_child_set_args(struct med_child *child, const char *const *args)
{
    size_t count = 0;
    while (args[count])
        count++;
    char **copy = med_calloc(count + 1, sizeof(*copy));
    if (!copy)
        return MED_E_NOMEM;
    for (size_t i = 0; i < count; i++) {
        copy[i] = med_strdup(args[i]);
        if (!copy[i]) {
            free_args(copy);
            return MED_E_NOMEM;
        }
    }
    free_args(child->args);
    child->args = copy;
    return 0;
}

static void on_restart(uv_timer_t *timer)
{
    med_child_start(timer->data);
}

/* The run is over, or did not begin. */
static void ended(struct med_child *child)
{
    child->process = NULL;
    child->ready = false;
    int64_t pause_ms = -1;
    if (child->wanted) {
        pause_ms = med_backoff_pause_ms(&child->backoff, now_ms(child) - child->started_ms);
        MED_ASSERT(uv_timer_start(&child->restart, on_restart, (uint64_t)pause_ms, 0) == 0);
    }
    child->ops->on_end(child, pause_ms);
}

static void on_exit(uv_process_t *handle, int64_t status, int signal_number)
{
    struct process *p = handle->data;
    struct med_child *child = p->child;
    uv_close((uv_handle_t *)handle, on_process_closed);
    if (child->process != p)
        return;
    if (signal_number) {
        child->exit_status = -1;
        (void)snprintf(child->end, sizeof(child->end), "signal %d (%s)", signal_number,
                       strsignal(signal_number));
    } else {
        child->exit_status = (int)status;
        (void)snprintf(child->end, sizeof(child->end), "exit status %d", (int)status);
    }
    ended(child);
}

/* Runs child->args behind --become. */
static int spawn(struct med_child *child, struct process *p)
{
    char parent[24];
    (void)snprintf(parent, sizeof(parent), "%ld", (long)getpid());
    char *args[ARGS_MAX + MED_BECOME_ARGUMENTS + 1] = {child->self, (char *)MED_BECOME_OPTION,
                                                       parent};
    for (size_t i = 0; child->args[i]; i++) {
        MED_ASSERT(i < ARGS_MAX);
        args[MED_BECOME_ARGUMENTS + i] = child->args[i];
    }
    uv_stdio_container_t stdio[3] = {
        {.flags = UV_IGNORE},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE,
         .data.stream = (uv_stream_t *)&p->outputs[0].pipe},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE,
         .data.stream = (uv_stream_t *)&p->outputs[1].pipe},
    };
    uv_process_options_t options = {
        .exit_cb = on_exit,
        .file = child->self,
        .args = args,
        .flags = UV_PROCESS_DETACHED,
        .stdio_count = 3,
        .stdio = stdio,
    };
    return uv_spawn(child->loop, &p->handle, &options);
}

void med_child_start(struct med_child *child)
{
    MED_ASSERT(!child->process);
    MED_ASSERT(child->args);
    child->starts++;
    uv_update_time(child->loop);
    child->started_ms = now_ms(child);
    child->exit_status = -1;
    struct process *p = med_calloc(1, sizeof(*p));
    if (!p) {
        (void)snprintf(child->end, sizeof(child->end), "not started: %s",
                       med_err_text(MED_E_NOMEM));
        ended(child);
        return;
    }
    p->child = child;
    p->handle.data = p;
    p->open_handles = 1 + OUTPUTS;
    (void)snprintf(p->name, sizeof(p->name), "%s", child->name);
    for (int i = 0; i < OUTPUTS; i++) {
        p->outputs[i].process = p;
        /* Without IPC there is nothing that could fail. */
        MED_ASSERT(uv_pipe_init(child->loop, &p->outputs[i].pipe, 0) == 0);
        p->outputs[i].pipe.data = &p->outputs[i];
    }
    int rc = spawn(child, p);
    if (rc < 0) {
        /* uv_spawn leaves an initialised handle behind when it fails. */
        uv_close((uv_handle_t *)&p->handle, on_process_closed);
        for (int i = 0; i < OUTPUTS; i++)
            uv_close((uv_handle_t *)&p->outputs[i].pipe, on_output_closed);
        (void)snprintf(child->end, sizeof(child->end), "not started: %s", uv_strerror(rc));
        ended(child);
        return;
    }
    child->process = p;
    for (int i = 0; i < OUTPUTS; i++)
        MED_ASSERT(uv_read_start((uv_stream_t *)&p->outputs[i].pipe, on_alloc, on_read) == 0);
}

bool med_child_runs(const struct med_child *child)
{
    return child->process != NULL;
}

int med_child_pid(const struct med_child *child)
{
    return child->process ? (int)uv_process_get_pid(&child->process->handle) : 0;
}

void med_child_stop(struct med_child *child, int signal_number)
{
    child->wanted = false;
    (void)uv_timer_stop(&child->restart);
    if (child->process)
        (void)uv_process_kill(&child->process->handle, signal_number);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct med_child *child = handle->data;
    free_args(child->args);
    child->args = NULL;
    child->closed = true;
    if (child->ops->on_closed)
        child->ops->on_closed(child);
}

void med_child_close(struct med_child *child)
{
    MED_ASSERT(!child->process);
    uv_close((uv_handle_t *)&child->restart, on_timer_closed);
}
