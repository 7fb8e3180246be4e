/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The door's life, its routes, and what happens by time; see door.h.
 *
 * Two timers: `ping` looks several times per interval at all exchanges, `later` runs once when there
 * is something that could not be done where it was noticed, in a callback of the router.
 * Runs on the loop. What a call asks for and how it ends is in exchange.c.
 */
#include "router/openai/door_internal.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/rng.h"

#include <string.h>
#include <unistd.h>

enum {
    PINGS_PER_INTERVAL = 4,
    SCRATCH_BYTES = 256 << 20 /* the largest answer: many choices of MED_LIMIT_ANSWER_BYTES */
};

/* ---- closing ---- */

static void finish_close(struct med_openai_door *door)
{
    if (!door->closing || door->handles_open > 0 || door->job_count > 0)
        return;
    MED_ASSERT(door->exchange_count == 0);
    void (*on_closed)(void *) = door->on_closed;
    void *arg = door->on_closed_arg;
    med_buf_release(&door->scratch);
    med_free(door->model_name);
    med_free(door);
    if (on_closed != NULL)
        on_closed(arg);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct med_openai_door *door = handle->data;
    door->handles_open--;
    finish_close(door);
}

/* The timers go when the last exchange has. */
static void close_timers(struct med_openai_door *door)
{
    if (!door->closing || door->exchange_count > 0 || uv_is_closing((uv_handle_t *)&door->ping))
        return;
    uv_close((uv_handle_t *)&door->ping, on_timer_closed);
    uv_close((uv_handle_t *)&door->later, on_timer_closed);
}

void med_openai_door_close(struct med_openai_door *door, void (*on_closed)(void *arg), void *arg)
{
    if (door == NULL)
        return;
    MED_ASSERT(!door->closing);
    door->closing = true;
    door->on_closed = on_closed;
    door->on_closed_arg = arg;
    close_timers(door);
}

void med_openai_job_gone(struct med_openai_door *door, size_t bytes)
{
    door->job_count--;
    door->job_bytes -= bytes;
    finish_close(door);
}

/* ---- later ---- */

static void exchange_free(struct med_openai_exchange *x)
{
    med_openai_style_release(&x->style);
    med_openai_call_release(&x->call);
    med_free(x->parts);
    med_free(x->role_told);
    med_free(x);
}

static void on_later(uv_timer_t *timer)
{
    struct med_openai_door *door = timer->data;
    struct med_openai_exchange *next;
    for (struct med_openai_exchange *x = door->doomed_count > 0 ? door->first : NULL; x != NULL;
         x = next) {
        next = x->next; // cancelling buries x alone
        if (x->doomed)
            med_openai_cancel(x);
    }
    MED_ASSERT(door->doomed_count == 0);
    while (door->buried != NULL) {
        struct med_openai_exchange *x = door->buried;
        door->buried = x->next;
        exchange_free(x);
        door->exchange_count--;
    }
    close_timers(door);
}

static void arm_later(struct med_openai_door *door)
{
    if (uv_is_active((uv_handle_t *)&door->later))
        return;
    int rc = uv_timer_start(&door->later, on_later, 0, 0);
    MED_ASSERT(rc == 0);
}

void med_openai_doom(struct med_openai_exchange *x)
{
    if (x->doomed)
        return;
    x->doomed = true;
    x->door->doomed_count++;
    arm_later(x->door);
}

void med_openai_bury(struct med_openai_exchange *x)
{
    struct med_openai_door *door = x->door;
    if (x->buried)
        return;
    MED_ASSERT(x->http == NULL);
    MED_ASSERT(x->open == 0);
    MED_ASSERT(x->job == NULL);
    x->buried = true;
    if (x->doomed)
        door->doomed_count--;
    x->doomed = false;
    if (x->prev != NULL) {
        x->prev->next = x->next;
    } else {
        door->first = x->next;
    }
    if (x->next != NULL)
        x->next->prev = x->prev;
    x->next = door->buried;
    door->buried = x;
    arm_later(door);
}

/* ---- pings ---- */

static void on_ping(uv_timer_t *timer)
{
    struct med_openai_door *door = timer->data;
    uint64_t now_ms = uv_now(door->loop);
    struct med_openai_exchange *next;
    for (struct med_openai_exchange *x = door->first; x != NULL; x = next) {
        next = x->next;
        med_openai_ping(x, now_ms);
    }
}

/* ---- life ---- */

int med_openai_door_new(uv_loop_t *loop, const struct med_clock *clock,
                        const struct med_openai_host *host, const struct med_openai_config *config,
                        struct med_openai_door **ret_door)
{
    struct med_openai_door *door = med_calloc(1, sizeof(*door));
    if (door == NULL)
        return MED_E_NOMEM;
    struct med_rng rng;
    med_rng_init(&rng, (uint64_t)med_clock_unix_ns(), (uint64_t)getpid());
    door->loop = loop;
    door->clock = clock;
    door->host = *host;
    door->config = *config;
    door->model_name = med_strdup(config->model_name);
    if (door->model_name == NULL) {
        med_free(door);
        return MED_E_NOMEM;
    }
    door->boot = med_rng_u32(&rng);
    door->started_s = med_clock_unix_ns() / MED_NS_PER_S;
    med_clock_init_real(&door->real, 1);
    med_buf_init(&door->scratch, SCRATCH_BYTES);
    *ret_door = door;
    return 0;
}

void med_openai_door_start(struct med_openai_door *door)
{
    uint64_t every_ms = door->config.ping_interval_ms / PINGS_PER_INTERVAL;
    /* uv_timer_init always succeeds. */
    (void)uv_timer_init(door->loop, &door->ping);
    (void)uv_timer_init(door->loop, &door->later);
    door->ping.data = door;
    door->later.data = door;
    door->handles_open = 2;
    every_ms = every_ms > 0 ? every_ms : 1;
    int rc = uv_timer_start(&door->ping, on_ping, every_ms, every_ms);
    MED_ASSERT(rc == 0);
}

size_t med_openai_door_requests(const struct med_openai_door *door)
{
    size_t count = 0;
    for (const struct med_openai_exchange *x = door->first; x != NULL; x = x->next)
        count++;
    return count;
}

void med_openai_door_free(struct med_openai_door *door)
{
    if (door == NULL)
        return;
    MED_ASSERT(door->handles_open == 0);
    med_buf_release(&door->scratch);
    med_free(door->model_name);
    med_free(door);
}
