/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a replay's requests come from: a log, a workload, or the plan's own mix; and their schedule.
 * thread: main. owns: what it reads, and the arrivals.
 */
#ifndef MED_ALLOCATOR_REPLAY_SOURCE_H
#define MED_ALLOCATOR_REPLAY_SOURCE_H

#include "allocator/plan.h"
#include "allocator/replay/arrivals.h"
#include "allocator/replay/options.h"

/* Zeroed before use; release works on any state. */
struct med_replay_source {
    struct med_workload workload;
    struct med_request_log log;
    bool has_workload, has_log;
    const char *name; /* NULL: the plan */
    struct med_arrivals_config config;
    struct med_arrivals arrivals;
};

/* errors: MED_E_USAGE for options that contradict each other; of reading a log or a workload. */
int med_replay_source_read(const struct med_replay_options *o, const struct med_plan *plan,
                           struct med_replay_source *s, struct med_err *err) MED_MUST_CHECK;
/* given: which options were. errors: MED_E_USAGE for options that do not fit the source; of
 * med_arrivals_make. */
int med_replay_source_schedule(const struct med_replay_options *o, const struct med_options *given,
                               const struct med_plan *plan, struct med_replay_source *s,
                               struct med_err *err) MED_MUST_CHECK;
void med_replay_source_release(struct med_replay_source *s);

#endif
