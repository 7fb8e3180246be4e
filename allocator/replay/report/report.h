/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a replay reports: text for a person, `medley-replay/1` as JSON, and a row for each request.
 * Nothing of it depends on the machine or on how long the replay took: same input, same bytes.
 * thread: any. owns: nothing.
 */
#ifndef MED_ALLOCATOR_REPLAY_REPORT_REPORT_H
#define MED_ALLOCATOR_REPLAY_REPORT_REPORT_H

#include "allocator/replay/arrivals.h"
#include "allocator/replay/faults/study.h"
#include "allocator/replay/report/tally.h"
#include "allocator/replay/report/timeline.h"
#include "base/json.h"

#include <stdio.h>

/* What was replayed, and how. Borrowed. */
struct med_replay_about {
    const struct med_plan *plan;
    const char *plan_file;
    const char *source; /* the log, the workload, or NULL: the plan's own mix */
    bool source_is_log;
    enum med_arrivals_process process;
    double burstiness;
    double speed;  /* times the source's own rate; NAN: a rate was given */
    double from_s; /* of the log: where it begins */
    uint64_t seed;
    int64_t warm_up_ns;
    const struct med_sim_options *options;
    const struct med_sim_arrival *arrivals;
    const struct med_sim_result *result;
    const struct med_fault_log *faults; /* NULL: none were asked for */
    const struct med_fault_study *study;
};

/* Appends to out. errors: MED_E_LIMIT, MED_E_NOMEM. */
int med_replay_report_text(struct med_buf *out, const struct med_replay_about *about,
                           const struct med_tally *tally, bool colour) MED_MUST_CHECK;
int med_replay_report_json(struct med_buf *out, const struct med_replay_about *about,
                           const struct med_tally *tally,
                           const struct med_timeline *timeline) MED_MUST_CHECK;
/* A page with either kind of JSON report in it. */
int med_replay_report_html(struct med_buf *out, const struct med_buf *json) MED_MUST_CHECK;
/* Parts of that: a number, null if there is none; the members of a group, into the object that is open. */
void med_replay_put_number(struct med_json_writer *w, const char *key, double value);
void med_replay_put_group(struct med_json_writer *w, const struct med_tally_group *g);
void med_replay_put_timeline(struct med_json_writer *w, const struct med_replay_about *about,
                             const struct med_tally *tally, const struct med_timeline *t);
/* One row of CSV for each request that counts, and a header. errors: MED_E_IO with a sentence. */
int med_replay_report_rows(const char *path, const struct med_replay_about *about,
                           const struct med_tally *tally, struct med_err *err) MED_MUST_CHECK;

#endif
