/* SPDX-License-Identifier: Apache-2.0 */
/* Mixes of a replay (see mixes.h): from words to counts of the catalogue's rows, and to a plan. */
#include "allocator/replay/mixes.h"

#include "allocator/planner.h"
#include "base/alloc.h"
#include "base/options.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define COUNT_MAX 10000

struct mixer {
    struct med_replay_runs *runs;
    const struct med_plan *plan;
    const struct med_catalogue *catalogue;
    struct med_workload workload; /* the plan's demand */
    int64_t *counts;              /* [row of the catalogue] of the mix at hand */
    bool all_policies;
    struct med_err *err;
};

/* ---- names ---- */

static bool hosts(const struct med_instance_kind *row, const struct med_profile *profile)
{
    return strcmp(row->gpu, profile->gpu) == 0 && row->gpus >= profile->gpus_per_worker;
}

static bool is_named(const struct mixer *m, size_t row, const char *name)
{
    const struct med_instance_kind *kind = &m->catalogue->instances[row];
    for (size_t p = 0; p < m->plan->profile_count; p++) {
        const struct med_profile *profile = &m->plan->profiles[p];
        if (hosts(kind, profile) &&
            (strcmp(kind->instance, name) == 0 || strcmp(profile->gpu, name) == 0 ||
             strcmp(profile->worker_type, name) == 0))
            return true;
    }
    return false;
}

/* The cheapest row of that name; instance_count: there is none. */
static size_t find_row(const struct mixer *m, const char *name)
{
    size_t best = m->catalogue->instance_count;
    for (size_t k = 0; k < m->catalogue->instance_count; k++) {
        if (is_named(m, k, name) && (best == m->catalogue->instance_count ||
                                     m->catalogue->instances[k].price_usd_per_hour <
                                         m->catalogue->instances[best].price_usd_per_hour))
            best = k;
    }
    return best;
}

/* Cuts at the first of the separators; what follows, or NULL. */
static char *cut(char *text, const char *separators)
{
    char *at = strpbrk(text, separators);
    if (at)
        *at++ = '\0';
    return at;
}

static int take_counts(struct mixer *m, const char *text)
{
    char *copy = med_strdup(text);
    if (!copy)
        return med_err_set(m->err, MED_E_NOMEM, "no memory for a mix");
    memset(m->counts, 0, (m->catalogue->instance_count + 1) * sizeof *m->counts);
    int rc = 0;
    for (char *part = copy; rc == 0 && part;) {
        char *next = cut(part, "+,");
        char *equals = strrchr(part, '=');
        int64_t count = 0;
        if (equals)
            *equals++ = '\0';
        size_t row = find_row(m, part);
        if (!equals || row == m->catalogue->instance_count) {
            rc = med_err_set(m->err, MED_E_USAGE,
                             "--mix: found \"%s\", expected NAME=N, where NAME is an instance of "
                             "the catalogue %s that holds a worker of the plan, or one of the "
                             "plan's GPUs or worker types such as %s; or single",
                             part, m->catalogue->name, m->plan->profiles[0].worker_type);
        } else {
            rc = med_parse_integer(equals, "--mix", 1, COUNT_MAX, &count, m->err);
            m->counts[row] += count;
        }
        part = next;
    }
    med_free(copy);
    return rc;
}

/* ---- plans ---- */

/* "1x H100 SXM=1+g5.xlarge=2", cut where it is too long. */
static void name_counts(const struct mixer *m, char *name, size_t bytes)
{
    size_t at = 0;
    for (size_t k = 0; k < m->catalogue->instance_count && at < bytes; k++) {
        if (m->counts[k] == 0)
            continue;
        int put = snprintf(name + at, bytes - at, "%s%s=%lld", at > 0 ? "+" : "",
                           m->catalogue->instances[k].instance, (long long)m->counts[k]);
        at += put > 0 ? (size_t)put : 0;
    }
}

static int add_plan(struct mixer *m)
{
    char name[256];
    name_counts(m, name, sizeof name);
    const struct med_plan *plan = m->plan;
    struct med_planner_input input = {.workload = &m->workload,
                                      .profiles = plan->profiles,
                                      .profile_count = plan->profile_count,
                                      .catalogue = m->catalogue,
                                      .slos = plan->slos,
                                      .rate_per_s = plan->rate_per_s,
                                      .utilization_max = plan->utilization_max,
                                      .counts = m->counts};
    struct med_plan mix;
    struct med_err why = {0};
    int rc = med_planner_run(&input, &mix, &why);
    if (rc < 0)
        return med_err_set(m->err, rc, "--mix %s: %s", name, why.text);
    rc = med_replay_runs_add(m->runs, &mix, name, m->all_policies, m->err);
    if (rc < 0)
        med_plan_release(&mix);
    return rc;
}

/* The cheapest of each GPU; baselines are sorted by cost. */
static int add_singles(struct mixer *m)
{
    const struct med_plan *plan = m->plan;
    const char *seen[MED_LIMIT_WORKER_TYPES];
    size_t seen_count = 0;
    int rc = 0;
    for (size_t b = 0; rc == 0 && b < plan->baseline_count; b++) {
        size_t row = find_row(m, plan->baselines[b].instance);
        bool known = row == m->catalogue->instance_count || seen_count == MED_LIMIT_WORKER_TYPES;
        for (size_t i = 0; !known && i < seen_count; i++)
            known = strcmp(seen[i], m->catalogue->instances[row].gpu) == 0;
        if (known)
            continue;
        seen[seen_count++] = m->catalogue->instances[row].gpu;
        memset(m->counts, 0, (m->catalogue->instance_count + 1) * sizeof *m->counts);
        m->counts[row] = plan->baselines[b].count;
        rc = add_plan(m);
    }
    if (rc == 0 && seen_count == 0) {
        rc = med_err_set(m->err, MED_E_USAGE,
                         "--mix single: no instance of the catalogue %s serves the plan's demand "
                         "alone",
                         m->catalogue->name);
    }
    return rc;
}

static bool is_priced(const struct med_instance_kind *kind, const struct med_plan_instance *rented)
{
    double paid = rented->price_usd_per_hour;
    return strcmp(kind->instance, rented->instance) == 0 &&
           (kind->price_usd_per_hour == paid || kind->spot_usd_per_hour == paid);
}

/* What the plan rents costs as much in the catalogue, or costs side by side would say nothing. */
static int check_prices(const struct mixer *m)
{
    const struct med_catalogue *catalogue = m->catalogue;
    for (size_t i = 0; i < m->plan->instance_count; i++) {
        const struct med_plan_instance *rented = &m->plan->instances[i];
        size_t k = 0;
        while (k < catalogue->instance_count && !is_priced(&catalogue->instances[k], rented))
            k++;
        if (k == catalogue->instance_count) {
            return med_err_set(
                m->err, MED_E_USAGE,
                "--mix: the plan rents %s for %.4g $/h, and the catalogue %s does not; "
                "expected --catalogue to name the one that the plan was made with",
                rented->instance, rented->price_usd_per_hour, catalogue->name);
        }
    }
    return 0;
}

int med_replay_mixes_add(struct med_replay_runs *runs, const char *const *mixes, size_t count,
                         const struct med_catalogue *catalogue, bool all_policies,
                         struct med_err *err)
{
    struct mixer m = {.runs = runs,
                      .plan = &runs->plans[0],
                      .catalogue = catalogue,
                      .all_policies = all_policies,
                      .err = err};
    int rc = check_prices(&m);
    if (rc == 0)
        rc = med_arrivals_workload_from_plan(m.plan, &m.workload, err);
    if (rc < 0)
        return rc;
    m.counts = med_calloc(catalogue->instance_count + 1, sizeof *m.counts);
    if (!m.counts) {
        med_workload_release(&m.workload);
        return med_err_set(err, MED_E_NOMEM, "no memory for a mix");
    }
    for (size_t i = 0; rc == 0 && i < count; i++) {
        if (strcmp(mixes[i], "single") == 0) {
            rc = add_singles(&m);
            continue;
        }
        rc = take_counts(&m, mixes[i]);
        if (rc == 0)
            rc = add_plan(&m);
    }
    med_free(m.counts);
    med_workload_release(&m.workload);
    return rc;
}
