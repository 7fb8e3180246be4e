/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The runs of a replay: each plan under each policy, over the same arrivals.
 * thread: the caller's. owns: plans, results and tallies.
 */
#ifndef MED_ALLOCATOR_REPLAY_RUNS_H
#define MED_ALLOCATOR_REPLAY_RUNS_H

#include "allocator/replay/report/report.h"

enum {
    MED_REPLAY_PLANS_MAX = 8,
    MED_REPLAY_RUNS_MAX = MED_REPLAY_PLANS_MAX * MED_POLICY_COUNT
};

struct med_replay_run {
    size_t plan;
    struct med_sim_options options;
    struct med_sim_result result;
    struct med_tally tally;
    struct med_fault_log faults; /* of one run alone, if any were asked for */
    struct med_fault_study study;
    struct med_timeline timeline; /* of an only run */
    bool has_result, has_tally;
};

/* Zeroed before use but for options, objectives and the warm-up. */
struct med_replay_runs {
    struct med_sim_options options; /* of every run; its policy unless all are compared */
    struct med_slos slos;           /* to judge by instead of each plan's own */
    bool has_slos;
    int64_t warm_up_ns;
    const struct med_fault_schedule *faults; /* of every run; borrowed; NULL: none */
    char *files[MED_REPLAY_PLANS_MAX];       /* or names of mixes */
    struct med_plan plans[MED_REPLAY_PLANS_MAX];
    size_t plan_count;
    struct med_replay_run items[MED_REPLAY_RUNS_MAX];
    size_t count;
};

/* Reads the plans and lays out the runs. errors: of med_plan_read_file; MED_E_INFEASIBLE for a plan without
 * a fleet, MED_E_LIMIT for more than MED_REPLAY_PLANS_MAX. Release works after any. */
int med_replay_runs_read(struct med_replay_runs *runs, const char *const *files, size_t count,
                         bool all_policies, struct med_err *err) MED_MUST_CHECK;
/* One more plan, which is taken, and its runs. `name` is copied: it stands for the file.
 * errors: MED_E_LIMIT, MED_E_NOMEM; the plan is the caller's then. */
int med_replay_runs_add(struct med_replay_runs *runs, const struct med_plan *plan, const char *name,
                        bool all_policies, struct med_err *err) MED_MUST_CHECK;
int med_replay_runs_do(struct med_replay_runs *runs, const struct med_sim_arrival *arrivals,
                       size_t count, struct med_err *err) MED_MUST_CHECK;
void med_replay_runs_release(struct med_replay_runs *runs);

/* One run in full, several side by side.  `common` says what is common to them; its other fields are
 * filled in here.  errors: MED_E_LIMIT, MED_E_NOMEM. */
int med_replay_runs_text(struct med_buf *out, const struct med_replay_runs *runs,
                         const struct med_replay_about *common, bool colour) MED_MUST_CHECK;
/* `medley-replay/1`, or `medley-replay-comparison/1`. */
int med_replay_runs_json(struct med_buf *out, const struct med_replay_runs *runs,
                         const struct med_replay_about *common) MED_MUST_CHECK;
/* Of the only run. */
int med_replay_runs_rows(const char *path, const struct med_replay_runs *runs,
                         const struct med_replay_about *common, struct med_err *err) MED_MUST_CHECK;

#endif
