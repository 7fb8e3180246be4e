/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan as a table that a person reads at a glance: what to rent, what it costs, how full it is,
 * what each single kind would cost instead, how sure the answer is, which sizes go where.
 * Text for 80 columns and more; colour only when asked.  thread: any. owns: nothing.
 */
#ifndef MED_ALLOCATOR_REPORT_H
#define MED_ALLOCATOR_REPORT_H

#include "allocator/plan.h"

#include <stdbool.h>

struct med_report_style {
    bool colour;
    bool numbered; /* buckets have numbers, not token edges (Melange's input) */
};

/* Appends to out. errors: MED_E_LIMIT, MED_E_NOMEM. */
int med_report_print(struct med_buf *out, const struct med_plan *plan,
                     const struct med_report_style *style) MED_MUST_CHECK;

#endif
