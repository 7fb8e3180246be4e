/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal beside a profile: what was measured, line by line, so that a run that ends in the middle
 * is gone on with.
 *
 * JSON lines.  The first says what is measured on: machine, driver, clocks, model, program
 * (struct med_profiled_facts); each other is one point.  A line is on the disk before the next point is
 * begun.  A journal of another machine, driver, clock or power limit, model or worker version is
 * refused: a profile never mixes machines.  A last line that was cut off is dropped.
 *
 * thread: main. owns: the file.
 * errors: MED_E_INVALID a foreign journal, with what differs; MED_E_FORMAT one that is no journal;
 * MED_E_IO.
 */
#ifndef MED_PROFILES_PROFILER_JOURNAL_H
#define MED_PROFILES_PROFILER_JOURNAL_H

#include "profiles/profiler/grid.h"
#include "profiles/profiler/link_worker.h"

/* One point, measured. */
struct med_journal_point {
    struct med_step_grid_point point;
    bool impossible; /* the worker refuses it; the rest is 0 */
    double ms_p50, ms_p99;
    int64_t decode_context_tokens; /* of all decodes, at the median */
    int64_t repeats;
    double error;      /* relative standard error of the median */
    int64_t clock_mhz; /* after it; 0: not known */
    double seconds;    /* real time that it took */
};

struct med_journal {
    int fd;
    char *path;
    struct med_journal_point *points; // [count]
    size_t count;
    char date[11];                   /* of its beginning, YYYY-MM-DD */
    char command[MED_PROFILED_TEXT]; /* that began it */
    struct med_profiled_facts facts; /* as they were then */
};

/* Opens or begins it. fresh: forgets what is there. */
int med_journal_open(struct med_journal *journal, const char *path,
                     const struct med_profiled_facts *facts, const char *command, bool fresh,
                     struct med_err *err) MED_MUST_CHECK;
/* On the disk when it returns. */
int med_journal_add(struct med_journal *journal, const struct med_journal_point *point,
                    struct med_err *err) MED_MUST_CHECK;
void med_journal_close(struct med_journal *journal);

#endif
