/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replan: another plan comes into force while requests are in flight.
 *
 * A worker type is its name, and it keeps its index: what workers, leases and the shell hold of a type
 * stays right.  Types that the new plan adds get rows at the end, or rows of types that have left and
 * have no worker.  A type that the new plan lacks is retired: its workers finish what they have, and
 * may take what nobody else can until the new plan's workers are all there (dispatch_may_use_retired).
 *
 * What has been learned stays: the predictor's histograms as they are where the edges agree, else
 * spread over the new cells by how far these cover the old ones.  Leases, queue and totals stay.
 *
 * Everything is made before anything is changed, and nothing is sent from here: the queue is tried at
 * the next tick.  The tables before are kept until the next replan, so that the shell can take it
 * back.  thread: loop.
 */
#include "router/dispatch/internal.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <math.h>
#include <string.h>

/* What the plan is for dispatch, in dispatch's own order of types. */
struct merged {
    struct med_dispatch_config config;
    struct med_dispatch_type types[MED_LIMIT_WORKER_TYPES];
    size_t row_of[MED_LIMIT_WORKER_TYPES]; /* of the plan's types */
    struct med_dispatch_bucket *buckets;   /* owned */
};

/* ---- rows of types ---- */

static size_t row_by_name(const struct med_dispatch *d, const char *name)
{
    size_t row = 0;
    while (row < d->config.type_count && strcmp(d->types[row].plan.name, name) != 0)
        row++;
    return row;
}

/* First those that have a row, so that no row is given away that is somebody's. */
static int place_types(const struct med_dispatch *d, const struct med_dispatch_config *config,
                       struct merged *m, struct med_err *err)
{
    bool taken[MED_LIMIT_WORKER_TYPES] = {false};
    size_t count = d->config.type_count;
    for (size_t t = 0; t < config->type_count; t++) {
        m->row_of[t] = row_by_name(d, config->types[t].name);
        if (m->row_of[t] < count)
            taken[m->row_of[t]] = true;
    }
    size_t end = count;
    for (size_t t = 0; t < config->type_count; t++) {
        if (m->row_of[t] < count)
            continue;
        size_t row = 0;
        while (row < count && (taken[row] || d->workers.type_first[row] != NONE))
            row++;
        if (row == count)
            row = end++;
        if (row >= MED_LIMIT_WORKER_TYPES) {
            return med_err_set(err, MED_E_LIMIT,
                               "dispatch: the new plan's worker types and those that still have "
                               "workers are over %d",
                               MED_LIMIT_WORKER_TYPES);
        }
        taken[row] = true;
        m->row_of[t] = row;
    }
    m->config.type_count = end;
    return 0;
}

static int merge(const struct med_dispatch *d, const struct med_dispatch_config *config,
                 struct merged *m, struct med_err *err)
{
    m->config = *config;
    int rc = place_types(d, config, m, err);
    if (rc < 0)
        return rc;
    m->buckets = med_calloc(config->bucket_count, sizeof *m->buckets);
    if (!m->buckets)
        return med_err_set(err, MED_E_NOMEM, "dispatch: no memory for another plan");
    for (size_t row = 0; row < d->config.type_count; row++) {
        m->types[row] = d->types[row].plan;
        m->types[row].retired = true;
        m->types[row].workers_planned = 0;
    }
    for (size_t t = 0; t < config->type_count; t++) {
        m->types[m->row_of[t]] = config->types[t];
        m->types[m->row_of[t]].retired = false;
    }
    for (size_t b = 0; b < config->bucket_count; b++) {
        const struct med_dispatch_bucket *from = &config->buckets[b];
        struct med_dispatch_bucket *to = &m->buckets[b];
        *to = *from;
        memset(to->shares, 0, sizeof to->shares);
        memset(to->work_s, 0, sizeof to->work_s);
        for (size_t t = 0; t < config->type_count; t++) {
            to->shares[m->row_of[t]] = from->shares[t];
            to->work_s[m->row_of[t]] = from->work_s[t];
        }
    }
    m->config.types = m->types;
    m->config.buckets = m->buckets;
    return 0;
}

/* ---- tables ---- */

static void tables_release(struct plan_tables *tables)
{
    predictor_release(&tables->predictor);
    shares_release(&tables->shares);
    med_free(tables->types);
    med_free(tables->picks);
    med_free(tables->type_first);
    *tables = (struct plan_tables){0};
}

void dispatch_release_before(struct med_dispatch *d)
{
    tables_release(&d->before);
}

static size_t cells_of(const struct med_dispatch_config *config)
{
    return config->input_edge_count * config->output_edge_count;
}

static int make_tables(const struct med_dispatch *d, const struct merged *m,
                       struct plan_tables *ret_tables)
{
    struct plan_tables next = {.config = m->config};
    size_t count = m->config.type_count;
    size_t cells = cells_of(&m->config);
    size_t known = d->config.type_count;
    next.config.types = NULL;
    next.config.input_edges = next.config.output_edges = NULL;
    next.config.buckets = NULL;
    next.types = med_calloc(count, sizeof *next.types);
    next.picks = med_calloc(count * cells, sizeof *next.picks);
    next.type_first = med_calloc(count, sizeof *next.type_first);
    int rc = next.types && next.picks && next.type_first ? 0 : MED_E_NOMEM;
    if (rc == 0)
        rc = predictor_init(&next.predictor, &m->config);
    if (rc == 0)
        rc = shares_init(&next.shares, &m->config);
    if (rc < 0) {
        tables_release(&next);
        return rc;
    }
    predictor_adopt(&next.predictor, &d->predictor);
    for (size_t t = 0; t < count; t++) {
        next.type_first[t] = t < known ? d->workers.type_first[t] : NONE;
        next.types[t].plan = m->types[t];
        next.types[t].fit_tokens =
            workers_fit_tokens(&d->workers, &m->types[t], next.type_first[t]);
        next.retired += m->types[t].retired;
    }
    bool same_edges = predictor_has_same_edges(&d->predictor, &next.predictor);
    for (size_t t = 0; t < known; t++) {
        if (strcmp(d->types[t].plan.name, m->types[t].name) != 0)
            continue;
        next.counts[t] = d->counts[t];
        next.rates[t] = d->admission.rates[t];
        if (same_edges)
            memcpy(next.picks + t * cells, d->picks + t * cells, cells * sizeof *next.picks);
    }
    *ret_tables = next;
    return 0;
}

/* Puts the tables in force and gives back those that were. */
static struct plan_tables swap_tables(struct med_dispatch *d, const struct plan_tables *next)
{
    struct plan_tables before = {.config = d->config,
                                 .types = d->types,
                                 .predictor = d->predictor,
                                 .shares = d->shares,
                                 .picks = d->picks,
                                 .type_first = d->workers.type_first,
                                 .retired = d->retired};
    memcpy(before.counts, d->counts, sizeof before.counts);
    memcpy(d->counts, next->counts, sizeof d->counts);
    memcpy(before.rates, d->admission.rates, sizeof before.rates);
    memcpy(d->admission.rates, next->rates, sizeof next->rates);
    d->config = next->config;
    d->config.users_max = before.config.users_max;
    d->config.prefixes_max = before.config.prefixes_max;
    if (!predictor_has_same_edges(&before.predictor, &next->predictor))
        memset(d->lengths, 0, sizeof d->lengths);
    d->types = next->types;
    d->predictor = next->predictor;
    d->shares = next->shares;
    d->picks = next->picks;
    d->workers.type_first = next->type_first;
    d->retired = next->retired;
    d->workers.suspect_after_ns = d->config.suspect_after_ns;
    d->workers.gone_after_ns = d->config.gone_after_ns;
    memset(d->workers.floors.fit_is_known, 0, sizeof d->workers.floors.fit_is_known);
    workers_touch_all(&d->workers);
    return before;
}

/* Rows of the grid in force, for every request. */
static void place_leases(struct med_dispatch *d)
{
    double chances[MED_LIMIT_EDGES];
    for (size_t i = 0; i < d->leases.count_max; i++) {
        struct lease *row = &d->leases.rows[i];
        if (!row->used)
            continue;
        row->input_row = (int16_t)predictor_input_row(&d->predictor, row->prompt_tokens);
        int64_t delivered = row->tokens < row->output_tokens_max ? row->tokens : row->tokens - 1;
        predictor_distribution(&d->predictor, row->input_row, delivered, row->output_tokens_max,
                               row->factor, chances);
        row->output_row = (int16_t)predictor_median_row(&d->predictor, chances);
    }
}

static void look_again(struct med_dispatch *d, int64_t now_ns)
{
    place_leases(d);
    d->workers.check_at_ns = now_ns; /* the limits on silence may be others */
    if (d->totals.queued > 0)
        d->retry_at_ns = now_ns;
}

int med_dispatch_replan(struct med_dispatch *d, int64_t now_ns,
                        const struct med_dispatch_config *config, struct med_err *err)
{
    int rc = dispatch_check_config(config, err);
    if (rc < 0)
        return rc;
    if (config->requests_max != d->config.requests_max ||
        config->workers_max != d->config.workers_max) {
        return med_err_set(err, MED_E_INVALID,
                           "dispatch: requests_max and workers_max are those of the start");
    }
    struct merged *m = med_calloc(1, sizeof *m);
    if (!m)
        return med_err_set(err, MED_E_NOMEM, "dispatch: no memory for another plan");
    struct plan_tables next = {0};
    rc = merge(d, config, m, err);
    if (rc == 0) {
        rc = make_tables(d, m, &next);
        if (rc < 0)
            (void)med_err_set(err, rc, "dispatch: no memory for another plan");
    }
    med_free(m->buckets);
    med_free(m);
    if (rc < 0)
        return rc;
    tables_release(&d->before);
    d->before = swap_tables(d, &next);
    shares_balance(&d->shares, &d->predictor, DISPATCH_START_ROUNDS);
    look_again(d, now_ns);
    return 0;
}

void med_dispatch_replan_undo(struct med_dispatch *d, int64_t now_ns)
{
    MED_ASSERT(d->before.types != NULL);
    struct plan_tables undone = swap_tables(d, &d->before);
    d->before = (struct plan_tables){0};
    tables_release(&undone);
    look_again(d, now_ns);
}

/* ---- make before break ---- */

bool med_dispatch_is_complete(const struct med_dispatch *d)
{
    for (size_t t = 0; t < d->config.type_count; t++) {
        const struct med_dispatch_type *plan = &d->types[t].plan;
        if (!plan->retired &&
            d->workers.ready[t] < (plan->workers_planned > 0 ? plan->workers_planned : 1))
            return false;
    }
    return true;
}

bool dispatch_may_use_retired(const struct med_dispatch *d)
{
    return d->retired > 0 && !med_dispatch_is_complete(d);
}

bool med_dispatch_type_is_planned(const struct med_dispatch *d, size_t type)
{
    MED_ASSERT(type < d->config.type_count);
    return !d->types[type].plan.retired;
}
