/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objectives as text: "tpot.mean=120ms,ttft.mean=2s" (the syntax is in slo.h).
 *
 * The text is cut at commas; each item is cut at its first '.' and its first '='.  Every metric may
 * come once.  Runs on any thread; keeps nothing.  It knows no workload: whether an objective can be
 * met is the planner's matter.
 */
#include "allocator/slo.h"

#include "base/options.h"
#include "base/os.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char *const metric_names[] = {"ttft", "tpot", "e2e_per_token"};
enum {
    METRICS = 3,
    ITEM_BYTES_MAX = 96
};

const char *med_slo_metric_name(enum med_slo_metric metric)
{
    return metric_names[metric];
}

static int metric_find(const char *item, size_t bytes)
{
    for (int i = 0; i < METRICS; i++) {
        if (strlen(metric_names[i]) == bytes && strncmp(metric_names[i], item, bytes) == 0) {
            return i;
        }
    }
    return -1;
}

/* What is printable ASCII can stand in messages as it is. */
static bool is_printable(const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text < 0x20 || *text > 0x7e) {
            return false;
        }
    }
    return true;
}

/* item: terminated, e.g. "tpot.mean=120ms". */
static int parse_item(const char *item, struct med_slo *ret_slo, struct med_err *err)
{
    const char *equals = strchr(item, '=');
    if (equals == NULL) {
        return med_err_set(err, MED_E_INVALID,
                           "objective \"%s\": found no '=', expected METRIC.mean=DURATION, for "
                           "example tpot.mean=120ms",
                           item);
    }
    const char *dot = memchr(item, '.', (size_t)(equals - item));
    size_t metric_bytes = (size_t)((dot == NULL ? equals : dot) - item);
    int metric = metric_find(item, metric_bytes);
    if (metric < 0) {
        return med_err_set(err, MED_E_INVALID,
                           "objective \"%s\": found the metric \"%.*s\", expected ttft, tpot or "
                           "e2e_per_token",
                           item, (int)metric_bytes, item);
    }
    const char *statistic = dot == NULL ? equals : dot + 1;
    size_t statistic_bytes = (size_t)(equals - statistic);
    if (statistic_bytes >= 2 && statistic[0] == 'p' && statistic[1] >= '0' && statistic[1] <= '9') {
        return med_err_set(err, MED_E_INVALID,
                           "objective \"%s\": found the percentile \"%.*s\", expected mean, as "
                           "only means can be planned for",
                           item, (int)statistic_bytes, statistic);
    }
    if (statistic_bytes != strlen("mean") || strncmp(statistic, "mean", statistic_bytes) != 0) {
        return med_err_set(err, MED_E_INVALID,
                           "objective \"%s\": found the statistic \"%.*s\", expected mean", item,
                           (int)statistic_bytes, statistic);
    }
    char what[ITEM_BYTES_MAX + 16];
    (void)snprintf(what, sizeof what, "objective \"%s\"", item);
    int64_t limit_ns = 0;
    int rc = med_parse_duration(equals + 1, what, 1e-6, 86400, &limit_ns, err);
    if (rc < 0) {
        return rc;
    }
    *ret_slo =
        (struct med_slo){.metric = (enum med_slo_metric)metric, .limit_ms = (double)limit_ns / 1e6};
    return 0;
}

static int add_item(const char *item, struct med_slos *slos, struct med_err *err)
{
    struct med_slo slo = {0};
    int rc = parse_item(item, &slo, err);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; i < slos->count; i++) {
        if (slos->items[i].metric == slo.metric) {
            return med_err_set(err, MED_E_INVALID,
                               "objective \"%s\": found %s again, expected each metric once", item,
                               metric_names[slo.metric]);
        }
    }
    /* Each metric once keeps the count under MED_LIMIT_SLOS. */
    slos->items[slos->count++] = slo;
    return 0;
}

int med_slos_parse(const char *text, struct med_slos *ret_slos, struct med_err *err)
{
    struct med_slos slos = {0};
    const char *from = text;
    for (;;) {
        size_t bytes = strcspn(from, ",");
        char item[ITEM_BYTES_MAX];
        if (bytes == 0) {
            return med_err_set(err, MED_E_INVALID,
                               "objectives: found an empty one, expected METRIC.mean=DURATION, for "
                               "example tpot.mean=120ms");
        }
        if (bytes >= sizeof item) {
            return med_err_set(err, MED_E_INVALID,
                               "objectives: found one of %zu bytes, expected less than %d", bytes,
                               ITEM_BYTES_MAX);
        }
        memcpy(item, from, bytes);
        item[bytes] = '\0';
        if (!is_printable(item)) {
            return med_err_set(err, MED_E_INVALID,
                               "objectives: found a character outside printable ASCII, expected "
                               "METRIC.mean=DURATION, for example tpot.mean=120ms");
        }
        int rc = add_item(item, &slos, err);
        if (rc < 0) {
            return rc;
        }
        if (from[bytes] == '\0') {
            break;
        }
        from += bytes + 1;
    }
    *ret_slos = slos;
    return 0;
}

void med_slo_format(const struct med_slo *slo, char *text, size_t bytes)
{
    char number[MED_OS_DOUBLE_MAX];
    (void)med_os_print_double(number, slo->limit_ms);
    (void)snprintf(text, bytes, "%s.mean=%sms", metric_names[slo->metric], number);
}
