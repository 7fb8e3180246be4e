/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The meter (see meter.h).
 *
 * Totals are noted once a second in a ring; the window is the difference between now and the oldest
 * note that lies in it.
 * thread: engine; what is under the lock: any.
 */
#include "worker/meter.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"

#include <pthread.h>

enum {
    NOTES = 10 /* seconds of the window */
};

static const double step_bounds_s[] = {0.0005, 0.001, 0.002,  0.003, 0.004, 0.005, 0.006,
                                       0.008,  0.01,  0.0125, 0.015, 0.02,  0.03,  0.05,
                                       0.075,  0.1,   0.2,    0.5,   1,     2,     5};
static const double row_bounds[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};
static const double sequence_bounds[] = {1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 512};

/* Totals as they were at a time. */
struct note {
    int64_t at_ns;
    double busy_s, bytes, flops;
};

struct under_way {
    int64_t start_ns;
    struct med_work work;
};

struct meter {
    struct med_meter_config config;
    struct med_clock clock;
    struct under_way steps[MED_BACKEND_STEPS];
    int64_t started, finished;
    int64_t end_ns; /* of the last step */
    struct {
        pthread_mutex_t lock; /* of the rest */
        struct med_meter_stats stats;
        struct note notes[NOTES];
        int64_t note_count; /* ever */
    } shared;
};

static void lock(struct meter *m)
{
    MED_ASSERT(pthread_mutex_lock(&m->shared.lock) == 0);
}

static void unlock(struct meter *m)
{
    MED_ASSERT(pthread_mutex_unlock(&m->shared.lock) == 0);
}

/* ---- counting --------------------------------------------------------------------------------- */

static void begin(struct meter *m, const struct med_batch *batch)
{
    struct under_way *u = &m->steps[m->started++ % MED_BACKEND_STEPS];
    *u = (struct under_way){.start_ns = med_clock_now_ns(&m->clock)};
    for (size_t i = 0; i < batch->count; i++) {
        const struct med_batch_item *item = &batch->items[i];
        med_work_add(&m->config.work, &u->work, item->tokens, item->context, item->samples);
    }
}

/* Keeps the totals before this step, if the last note is a second old. */
static void note_locked(struct meter *m, int64_t now_ns)
{
    const struct med_meter_stats *s = &m->shared.stats;
    const int64_t count = m->shared.note_count;
    if (count > 0 && now_ns - m->shared.notes[(count - 1) % NOTES].at_ns < MED_NS_PER_S)
        return;
    m->shared.notes[m->shared.note_count++ % NOTES] =
        (struct note){.at_ns = now_ns, .busy_s = s->busy_s, .bytes = s->bytes, .flops = s->flops};
}

static void end(struct meter *m)
{
    const struct under_way *u = &m->steps[m->finished++ % MED_BACKEND_STEPS];
    const int64_t now_ns = med_clock_now_ns(&m->clock);
    const int64_t begin_ns = u->start_ns > m->end_ns ? u->start_ns : m->end_ns;
    const double seconds = (double)(now_ns - begin_ns) / (double)MED_NS_PER_S;
    struct med_device_stats device;
    med_device_get_stats(m->config.device, &device);
    m->end_ns = now_ns;
    lock(m);
    struct med_meter_stats *s = &m->shared.stats;
    note_locked(m, begin_ns);
    med_hist_add(&s->step_s, seconds);
    med_hist_add(&s->rows, (double)u->work.rows);
    med_hist_add(&s->sequences, (double)u->work.items);
    s->busy_s += seconds;
    s->bytes += med_work_bytes(&u->work);
    s->flops += med_work_flops(&u->work);
    s->device = device;
    unlock(m);
}

void med_meter_get(const struct med_backend *backend, struct med_meter_stats *ret_stats)
{
    struct meter *m = backend->self;
    const int64_t since_ns = med_clock_now_ns(&m->clock) - NOTES * MED_NS_PER_S;
    lock(m);
    *ret_stats = m->shared.stats;
    int64_t at = m->shared.note_count > NOTES ? m->shared.note_count - NOTES : 0;
    while (at < m->shared.note_count && m->shared.notes[at % NOTES].at_ns < since_ns)
        at++;
    const bool found = at < m->shared.note_count;
    const struct note from = found ? m->shared.notes[at % NOTES] : (struct note){0};
    unlock(m);
    const double busy_s = ret_stats->busy_s - from.busy_s;
    if (!found || busy_s <= 0)
        return;
    ret_stats->window_bytes_per_s = (ret_stats->bytes - from.bytes) / busy_s;
    ret_stats->window_flops_per_s = (ret_stats->flops - from.flops) / busy_s;
}

/* ---- the backend ------------------------------------------------------------------------------ */

static int meter_init(void *self, struct med_err *err)
{
    struct meter *m = self;
    int rc = m->config.backend.ops->init(m->config.backend.self, err);
    if (rc >= 0)
        med_device_get_stats(m->config.device, &m->shared.stats.device);
    return rc;
}

static int meter_step(void *self, const struct med_backend_step *step, struct med_err *err)
{
    struct meter *m = self;
    begin(m, step->batch);
    int rc = m->config.backend.ops->step(m->config.backend.self, step, err);
    if (rc >= 0)
        end(m);
    return rc;
}

static int meter_start(void *self, const struct med_backend_step *step, struct med_err *err)
{
    struct meter *m = self;
    MED_ASSERT(m->started - m->finished < MED_BACKEND_STEPS);
    begin(m, step->batch);
    return m->config.backend.ops->start(m->config.backend.self, step, err);
}

static int meter_finish(void *self, struct med_err *err)
{
    struct meter *m = self;
    MED_ASSERT(m->finished < m->started);
    int rc = m->config.backend.ops->finish(m->config.backend.self, err);
    if (rc >= 0)
        end(m);
    return rc;
}

static void meter_release(void *self)
{
    struct meter *m = self;
    if (!m)
        return;
    m->config.backend.ops->release(m->config.backend.self);
    MED_ASSERT(pthread_mutex_destroy(&m->shared.lock) == 0);
    med_free(m);
}

int med_meter_new(const struct med_meter_config *config, struct med_backend *ret_backend,
                  struct med_err *err)
{
    static const struct med_backend_ops blocks = {
        .name = "meter", .init = meter_init, .step = meter_step, .release = meter_release};
    static const struct med_backend_ops queues = {.name = "meter",
                                                  .init = meter_init,
                                                  .step = meter_step,
                                                  .start = meter_start,
                                                  .finish = meter_finish,
                                                  .release = meter_release};
    struct meter *m = med_calloc(1, sizeof *m);
    if (!m)
        return med_err_set(err, MED_E_NOMEM, "no memory for a backend");
    m->config = *config;
    med_clock_init_real(&m->clock, 1);
    MED_ASSERT(pthread_mutex_init(&m->shared.lock, NULL) == 0);
    struct med_meter_stats *s = &m->shared.stats;
    med_hist_init(&s->step_s, step_bounds_s, sizeof step_bounds_s / sizeof step_bounds_s[0], NULL,
                  0);
    med_hist_init(&s->rows, row_bounds, sizeof row_bounds / sizeof row_bounds[0], NULL, 0);
    med_hist_init(&s->sequences, sequence_bounds,
                  sizeof sequence_bounds / sizeof sequence_bounds[0], NULL, 0);
    *ret_backend =
        (struct med_backend){.ops = config->backend.ops->start ? &queues : &blocks, .self = m};
    return 0;
}
