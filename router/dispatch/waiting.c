/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting: the requests that nobody could take yet, and whose turn it is.
 *
 * They stand in lines by how many worker types can hold them, each in the order of turns, and the lines
 * take turns by their first. Of each line only the first SCAN_MAX are tried: those who wait for a worker
 * that holds much do not block those whom any worker could take, and a long queue costs no more than a short
 * one.
 *
 * An event frees a place at one worker, so what waits is held against that worker, which costs O(1) for
 * each, and the whole fleet is asked only for one that this worker can take. That somebody can take
 * more because time has passed is found by asking the whole fleet every RETRY_NS, less often the more
 * workers there are. thread: loop.
 */
#include "router/dispatch/internal.h"

#include "base/assert.h"
#include "base/clock.h"

#define RETRY_NS        (10 * MED_NS_PER_MS)
#define RETRY_WORKER_NS (20 * MED_NS_PER_MS / 1000) /* more for each worker: asking all costs so */
#define SCAN_MAX        16

int waiting_init(struct med_dispatch *d, size_t count_max)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < WAITING_LINES; i++)
        rc = queue_init(&d->waiting[i], count_max);
    return rc;
}

void waiting_release(struct med_dispatch *d)
{
    for (size_t i = 0; i < WAITING_LINES; i++)
        queue_release(&d->waiting[i]);
}

uint8_t waiting_line(const struct med_dispatch *d, const struct lease *row)
{
    size_t types = d->config.type_count;
    size_t misses = 0;
    MED_ASSERT(types > 0);
    for (size_t t = 0; t < types; t++)
        misses += row->prompt_tokens + row->output_tokens_max > d->types[t].fit_tokens;
    /* Those that any type can hold have the first one for themselves. */
    size_t line = (misses * (WAITING_LINES - 1) + types - 1) / types;
    MED_ASSERT(line < WAITING_LINES);
    return (uint8_t)line;
}

static int64_t retry_ns(const struct med_dispatch *d)
{
    int64_t ns = RETRY_WORKER_NS * (int64_t)d->workers.count;
    return ns > RETRY_NS ? ns : RETRY_NS;
}

void waiting_add(struct med_dispatch *d, int64_t now_ns, uint32_t lease)
{
    struct lease *row = &d->leases.rows[lease];
    row->line = waiting_line(d, row);
    d->waiting[row->line].order = d->waiting_order++;
    queue_push(&d->waiting[row->line], lease, row->turn_ns);
    if (d->totals.queued++ == 0)
        d->retry_at_ns = now_ns + retry_ns(d);
}

bool waiting_remove(struct med_dispatch *d, uint32_t lease)
{
    if (!queue_remove(&d->waiting[d->leases.rows[lease].line], lease))
        return false;
    d->totals.queued--;
    return true;
}

bool waiting_has(const struct med_dispatch *d, uint32_t lease)
{
    return d->waiting[d->leases.rows[lease].line].places[lease] != NONE;
}

/* ---- whose turn it is ---- */

/* Those that were tried and go back to where they stood. */
struct stuck {
    struct queue_entry entries[WAITING_LINES * SCAN_MAX];
    size_t count;
    size_t of_line[WAITING_LINES];
};

/* The line whose first has the next turn, of those that have not been tried enough; NULL: none. */
static struct queue *next_line(struct med_dispatch *d, const struct stuck *stuck)
{
    struct queue *best = NULL;
    for (size_t i = 0; i < WAITING_LINES; i++) {
        struct queue *line = &d->waiting[i];
        if (line->count > 0 && stuck->of_line[i] < SCAN_MAX &&
            (!best || queue_is_before(queue_first(line), queue_first(best))))
            best = line;
    }
    return best;
}

/* Its time to wait is not over. */
static bool may_wait(const struct med_dispatch *d, uint32_t lease, int64_t now_ns)
{
    return d->deadlines.entries[d->deadlines.places[lease]].at_ns > now_ns;
}

/* worker NONE: any may have come free; only NONE: any request may start. */
static void try_some(struct med_dispatch *d, int64_t now_ns, uint32_t worker, uint32_t only)
{
    struct stuck stuck = {.count = 0};
    struct queue *line;
    for (size_t i = 0; only != NONE && i < WAITING_LINES; i++)
        stuck.of_line[i] = d->leases.rows[only].line == i ? 0 : SCAN_MAX;
    while ((line = next_line(d, &stuck)) != NULL) {
        if (worker != NONE && !pick_is_open(d, worker, now_ns))
            break;
        struct queue_entry entry = *queue_first(line);
        struct lease *row = &d->leases.rows[entry.lease];
        (void)queue_remove(line, entry.lease); /* it is the first */
        bool wanted = only == NONE || only == entry.lease;
        wanted = wanted && may_wait(d, entry.lease, now_ns) &&
                 (worker == NONE || pick_can_take(d, row, worker, now_ns));
        if (wanted && dispatch_start(d, now_ns, entry.lease)) {
            admission_leave(d, now_ns, row);
            d->totals.queued--;
        } else {
            stuck.of_line[row->line]++;
            stuck.entries[stuck.count++] = entry;
        }
        if (only == entry.lease)
            break;
    }
    for (size_t i = 0; i < stuck.count; i++) {
        const struct queue_entry *entry = &stuck.entries[i];
        queue_restore(&d->waiting[d->leases.rows[entry->lease].line], entry);
    }
}

void waiting_start_all(struct med_dispatch *d, int64_t now_ns)
{
    try_some(d, now_ns, NONE, NONE);
    d->retry_at_ns = now_ns + retry_ns(d);
}

void waiting_start_at(struct med_dispatch *d, int64_t now_ns, uint32_t worker)
{
    if (d->totals.queued > 0)
        try_some(d, now_ns, worker, NONE);
}

void waiting_start_one(struct med_dispatch *d, int64_t now_ns, uint32_t lease)
{
    try_some(d, now_ns, NONE, lease);
}

void waiting_check(const struct med_dispatch *d)
{
    size_t count = 0;
    for (size_t i = 0; i < WAITING_LINES; i++) {
        const struct queue *line = &d->waiting[i];
        queue_check(line);
        count += line->count;
        for (size_t k = 0; k < line->count; k++)
            MED_ASSERT(d->leases.rows[line->entries[k].lease].line == i);
    }
    MED_ASSERT(d->totals.queued == (int64_t)count);
}
