/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Users: how much longer or shorter one user's answers are than those of others with prompts of the
 * same size.
 *
 * Per user one factor: the mean of actual over predicted tokens, aged by 1/WINDOW per answer, with the
 * bucket's own prediction as PRIOR answers of factor 1. So a new user is predicted as anybody, and
 * one with PRIOR answers is half known. An answer that its maximum cut tells only when it is longer than was
 * predicted. The table is bounded; the user seen least recently makes room.
 *
 * One factor, not a histogram per user: it holds across input rows, needs few answers, and stays right
 * when a plan with other edges comes. O(1). thread: loop. Nothing is allocated after init.
 */
#include "router/dispatch/internal.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <math.h>

#define PRIOR      8.0
#define WINDOW     64.0
#define FACTOR_MAX 16.0

int users_init(struct users *u, size_t count_max)
{
    u->count_max = count_max;
    u->first = u->last = NONE;
    if (count_max == 0)
        return 0;
    size_t heads = 16;
    while (heads < count_max)
        heads *= 2;
    u->head_mask = heads - 1;
    u->rows = med_calloc(count_max, sizeof *u->rows);
    u->heads = med_calloc(heads, sizeof *u->heads);
    if (!u->rows || !u->heads)
        return MED_E_NOMEM;
    for (size_t i = 0; i < heads; i++)
        u->heads[i] = NONE;
    return 0;
}

void users_release(struct users *u)
{
    med_free(u->rows);
    med_free(u->heads);
}

static uint32_t *head_of(const struct users *u, uint64_t name)
{
    return &u->heads[(name ^ (name >> 32)) & u->head_mask];
}

static uint32_t find(const struct users *u, uint64_t name)
{
    if (name == 0 || u->count_max == 0)
        return NONE;
    uint32_t i = *head_of(u, name);
    while (i != NONE && u->rows[i].name != name)
        i = u->rows[i].hash_next;
    return i;
}

double users_factor(const struct users *u, uint64_t name)
{
    uint32_t i = find(u, name);
    if (i == NONE)
        return 1;
    double factor = (PRIOR + u->rows[i].sum) / (PRIOR + u->rows[i].weight);
    return fmin(fmax(factor, 1 / FACTOR_MAX), FACTOR_MAX);
}

static void unlink_row(struct users *u, uint32_t i)
{
    struct user *row = &u->rows[i];
    *(row->previous != NONE ? &u->rows[row->previous].next : &u->first) = row->next;
    *(row->next != NONE ? &u->rows[row->next].previous : &u->last) = row->previous;
}

static void link_first(struct users *u, uint32_t i)
{
    u->rows[i].previous = NONE;
    u->rows[i].next = u->first;
    *(u->first != NONE ? &u->rows[u->first].previous : &u->last) = i;
    u->first = i;
}

/* A row for a new user: an unused one, or that of the user seen least recently. */
static uint32_t take_row(struct users *u, uint64_t name)
{
    uint32_t i = (uint32_t)u->count;
    if (u->count < u->count_max) {
        u->count++;
    } else {
        i = u->last;
        unlink_row(u, i);
        uint32_t *link = head_of(u, u->rows[i].name);
        while (*link != i)
            link = &u->rows[*link].hash_next;
        *link = u->rows[i].hash_next;
    }
    uint32_t *head = head_of(u, name);
    u->rows[i] = (struct user){.name = name, .hash_next = *head};
    *head = i;
    link_first(u, i);
    return i;
}

void users_on_end(struct users *u, uint64_t name, double predicted, int64_t actual, bool cut)
{
    if (name == 0 || u->count_max == 0 || actual < 1)
        return;
    double ratio = fmin((double)actual / predicted, FACTOR_MAX);
    if (cut && ratio < users_factor(u, name))
        return;
    uint32_t i = find(u, name);
    if (i == NONE) {
        i = take_row(u, name);
    } else {
        unlink_row(u, i);
        link_first(u, i);
    }
    struct user *row = &u->rows[i];
    row->sum = row->sum * (1 - 1 / WINDOW) + ratio;
    row->weight = row->weight * (1 - 1 / WINDOW) + 1;
}

void users_check(const struct users *u)
{
    size_t count = 0;
    uint32_t previous = NONE;
    for (uint32_t i = u->first; i != NONE; i = u->rows[i].next) {
        MED_ASSERT(u->rows[i].previous == previous);
        MED_ASSERT(find(u, u->rows[i].name) == i);
        previous = i;
        count++;
    }
    MED_ASSERT(u->last == previous);
    MED_ASSERT(count == u->count);
    MED_ASSERT(u->count <= u->count_max);
}
