/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults by seed in the simulation, and what must hold at every event in spite of them.
 *
 * A seed fixes when which worker crashes, stalls (beating on or not), slows down, lies about its load,
 * loses its connection, answers late or drains, when clients go away, and when the plan is put in force anew
 * under another policy.  After each instant a ledger kept here is compared with dispatch's own counts.
 * thread: the caller's. owns: nothing that lasts.
 */
#ifndef MED_ALLOCATOR_REPLAY_FAULTS_H
#define MED_ALLOCATOR_REPLAY_FAULTS_H

#include "allocator/replay/simulate.h"

#include <stdio.h>

enum med_fault {
    MED_FAULT_CRASH,  /* another process comes back later */
    MED_FAULT_HANG,   /* nothing moves and nothing beats */
    MED_FAULT_STALL,  /* nothing moves, but it beats */
    MED_FAULT_SLOW,   /* iterations take a few times as long */
    MED_FAULT_LIE,    /* Stats of chance */
    MED_FAULT_DROP,   /* the connection; the worker computes on */
    MED_FAULT_DELAY,  /* messages, each by chance, in order on their link */
    MED_FAULT_DRAIN,  /* then it leaves, and comes back */
    MED_FAULT_REPLAN, /* under another policy */
    MED_FAULT_CANCEL, /* the client of an open request goes away */
    MED_FAULT_COUNT
};
const char *med_fault_name(enum med_fault fault); /* "crash" */

struct med_fault_report {
    uint64_t faults[MED_FAULT_COUNT]; /* that struck */
    struct med_dispatch_totals totals;
    char violation[256]; /* empty: all held */
    int64_t violation_ns;
};

/* Arrivals as for med_simulate; link_delay, silence and resume of the options are drawn by the seed.
 * trace (may be NULL) gets a line for each fault. 0 also with a violation, after which the run is left as it
 * stands. errors: as med_simulate. */
int med_fault_run(const struct med_plan *plan, const struct med_sim_arrival *arrivals, size_t count,
                  uint64_t seed, FILE *trace, struct med_fault_report *ret_report,
                  struct med_err *err) MED_MUST_CHECK;

#endif
