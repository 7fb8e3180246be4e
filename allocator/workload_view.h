/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shape of a workload for a person: counts, rate, burstiness, size percentiles, rate over time
 * and a heat map of the buckets, at most 100 columns wide, in UTF-8.
 *
 * thread: any. errors: those of the buffer.
 */
#ifndef MED_ALLOCATOR_WORKLOAD_VIEW_H
#define MED_ALLOCATOR_WORKLOAD_VIEW_H

#include "allocator/workload.h"

#include "base/buf.h"

#include <stdbool.h>

/* colour: with ANSI escapes. */
int med_workload_print(struct med_buf *out, const struct med_workload *workload,
                       bool colour) MED_MUST_CHECK;

#endif
