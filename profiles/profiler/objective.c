/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objectives with percentiles: the statistic is cut out of each item, and what is left is read as
 * `medley plan` reads it (allocator/slo.h).
 * thread: any; pure.
 */
#include "profiles/profiler/objective.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const statistic_names[] = {"mean", "p50", "p90", "p95", "p99"};
enum {
    STATISTICS = 5,
    TEXT_MAX = 512
};

/* The statistic between the first '.' and the '=' after it; -1: none that is known. */
static int statistic_of(const char *item, size_t bytes, size_t *ret_from, size_t *ret_length)
{
    const char *dot = memchr(item, '.', bytes);
    const char *equals = memchr(item, '=', bytes);
    if (!dot || !equals || dot > equals)
        return -1;
    *ret_from = (size_t)(dot + 1 - item);
    *ret_length = (size_t)(equals - dot - 1);
    for (int i = 0; i < STATISTICS; i++) {
        if (strlen(statistic_names[i]) == *ret_length &&
            memcmp(statistic_names[i], dot + 1, *ret_length) == 0)
            return i;
    }
    return -1;
}

static int add_item(const char *item, size_t bytes, struct med_objectives *objectives,
                    struct med_err *err)
{
    size_t from = 0, length = 0;
    int statistic = statistic_of(item, bytes, &from, &length);
    char text[TEXT_MAX];
    if (statistic < 0 && length > 1 && item[from] == 'p') {
        return med_err_set(err, MED_E_INVALID,
                           "objective \"%.*s\": found the statistic \"%.*s\", expected mean, p50, "
                           "p90, p95 or p99",
                           (int)bytes, item, (int)length, item + from);
    }
    if (statistic > 0) {
        (void)snprintf(text, sizeof(text), "%.*smean%.*s", (int)from, item,
                       (int)(bytes - from - length), item + from + length);
    } else {
        (void)snprintf(text, sizeof(text), "%.*s", (int)bytes, item);
    }
    struct med_slos one;
    int rc = med_slos_parse(text, &one, err);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < objectives->count; i++) {
        if (objectives->items[i].slo.metric == one.items[0].metric) {
            return med_err_set(err, MED_E_INVALID,
                               "objective \"%.*s\": found %s again, expected each metric once",
                               (int)bytes, item, med_slo_metric_name(one.items[0].metric));
        }
    }
    objectives->items[objectives->count++] = (struct med_objective){
        one.items[0], statistic < 0 ? MED_STATISTIC_MEAN : (enum med_statistic)statistic};
    return 0;
}

int med_objectives_parse(const char *text, struct med_objectives *ret_objectives,
                         struct med_err *err)
{
    struct med_objectives objectives = {0};
    for (const char *at = text;;) {
        size_t bytes = strcspn(at, ",");
        int rc = add_item(at, bytes < TEXT_MAX - 8 ? bytes : TEXT_MAX - 8, &objectives, err);
        if (rc < 0)
            return rc;
        if (at[bytes] == '\0')
            break;
        at += bytes + 1;
    }
    *ret_objectives = objectives;
    return 0;
}

double med_statistic_tail(enum med_statistic statistic)
{
    static const double tails[] = {NAN, 0.5, 0.1, 0.05, 0.01};
    return tails[statistic];
}

void med_objective_format(const struct med_objective *objective, char *text, size_t bytes)
{
    (void)snprintf(text, bytes, "%s.%s=%gms", med_slo_metric_name(objective->slo.metric),
                   statistic_names[objective->statistic], objective->slo.limit_ms);
}

static double pick(const struct med_latency_stats *stats, enum med_statistic statistic)
{
    switch (statistic) {
    case MED_STATISTIC_P50:
        return stats->p50;
    case MED_STATISTIC_P90:
        return stats->p90;
    case MED_STATISTIC_P95:
        return stats->p95;
    case MED_STATISTIC_P99:
        return stats->p99;
    case MED_STATISTIC_MEAN:
        break;
    }
    return stats->mean;
}

double med_objective_value(const struct med_objective *objective, const struct med_serving_row *row)
{
    switch (objective->slo.metric) {
    case MED_SLO_TTFT:
        return pick(&row->ttft_ms, objective->statistic);
    case MED_SLO_TPOT:
        return row->output_tokens <= 1 ? 0 : pick(&row->tpot_ms, objective->statistic);
    case MED_SLO_E2E_PER_TOKEN:
        break;
    }
    return pick(&row->e2e_ms, objective->statistic) / row->output_tokens;
}

double med_objectives_strain(const struct med_objectives *objectives,
                             const struct med_serving_row *row)
{
    if (row->failures > 0 || row->saturated || row->cut_short)
        return INFINITY;
    double worst = 0;
    for (size_t i = 0; i < objectives->count; i++) {
        double value = med_objective_value(&objectives->items[i], row);
        if (isnan(value))
            return INFINITY;
        worst = fmax(worst, value / objectives->items[i].slo.limit_ms);
    }
    return worst;
}

bool med_objectives_meet(const struct med_objectives *objectives, const struct med_serving_row *row)
{
    return med_objectives_strain(objectives, row) <= 1;
}
