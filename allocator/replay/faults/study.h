/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What faults did to a run: each beside what was before, what came after, and the same run without faults.
 *
 * A request is of "during" if it was in the router at any time between strike and healing, of "before" if it ended before, of
 * "after" if it arrived later; before and after look as far as the fault lasted, or ten windows.  Windows
 * hold about 50 requests; attainment is back with the first window after which none falls more than two
 * points below the same window of the run without faults, until the fault is over and one has not.
 * thread: any. owns: its array.
 */
#ifndef MED_ALLOCATOR_REPLAY_FAULTS_STUDY_H
#define MED_ALLOCATOR_REPLAY_FAULTS_STUDY_H

#include "allocator/replay/faults/faults.h"
#include "allocator/replay/report/tally.h"
#include "base/json.h"

struct med_fault_effect {
    struct med_tally_group before, during, after;
    struct med_tally_group without; /* those of "during", in the run without faults */
    bool fell;                      /* some window was below */
    double back_s; /* from the strike; 0: it did not fall; NAN: not before the end */
};

struct med_fault_study {
    double attainment, attainment_without; /* of all that count */
    double window_s;
    struct med_fault_effect *effects; /* of the log's strikes */
    size_t count;
};

/* Borrowed. */
struct med_fault_study_input {
    const struct med_slos *slos;
    const struct med_sim_arrival *arrivals;
    const struct med_sim_result *result;
    const struct med_sim_result *calm; /* the same run without faults */
    const struct med_fault_log *log;
    size_t first; /* request that counts */
};

/* errors: MED_E_NOMEM. */
int med_fault_study_make(const struct med_fault_study_input *input,
                         struct med_fault_study *ret_study, struct med_err *err) MED_MUST_CHECK;
void med_fault_study_release(struct med_fault_study *study);

/* report/faults.c: a section of the text; the member "faults" of the object that is open.
 * errors: MED_E_LIMIT, MED_E_NOMEM. */
int med_fault_study_text(struct med_buf *out, const struct med_fault_log *log,
                         const struct med_fault_study *study, bool colour) MED_MUST_CHECK;
void med_fault_study_json(struct med_json_writer *w, const struct med_fault_log *log,
                          const struct med_fault_study *study);

#endif
