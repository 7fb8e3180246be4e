/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objectives: "tpot.mean=120ms,ttft.mean=2s".
 *
 * Metric: ttft | tpot | e2e_per_token.  Statistic: mean (percentiles are refused with a sentence
 * until the planner can price them).  Limit: a duration > 0.
 * TPOT = (E2E - TTFT)/(output tokens - 1); e2e_per_token = E2E / output tokens, which the Melange
 * paper calls average TPOT.  thread: any.
 */
#ifndef MED_ALLOCATOR_SLO_H
#define MED_ALLOCATOR_SLO_H

#include "base/err.h"
#include "base/limits.h"

#include <stddef.h>

enum med_slo_metric {
    MED_SLO_TTFT,
    MED_SLO_TPOT,
    MED_SLO_E2E_PER_TOKEN
};

struct med_slo {
    enum med_slo_metric metric;
    double limit_ms; /* of the mean */
};

struct med_slos {
    struct med_slo items[MED_LIMIT_SLOS];
    size_t count;
};

int med_slos_parse(const char *text, struct med_slos *ret_slos, struct med_err *err) MED_MUST_CHECK;
const char *med_slo_metric_name(enum med_slo_metric metric); /* "ttft" */
/* "tpot.mean=120ms" into text. */
void med_slo_format(const struct med_slo *slo, char *text, size_t bytes);

#endif
