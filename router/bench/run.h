/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One load test: sends the arrivals on schedule through a client and keeps what came back.
 *
 * Open loop: a request is sent at its time whatever the others do, unless max_concurrency holds it
 * back; how late sends were is recorded.  Closed loop: as many are in flight as max_concurrency says.
 * All times are fleet time.  Where the server numbers tokens, every position is checked, so that a
 * token that was lost or came twice is counted.
 * thread: the caller's. owns: a run owns its records and samples.
 */
#ifndef MED_ROUTER_BENCH_RUN_H
#define MED_ROUTER_BENCH_RUN_H

#include "allocator/replay/fleet/simulate.h"
#include "base/clock.h"
#include "base/hist.h"
#include "base/rng.h"
#include "router/bench/client.h"
#include "router/grpc_client.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MED_BENCH_NOT_ENDED = -1,     /* record status: sent and no end came */
    MED_BENCH_NOT_SENT = -2,      /* the run was stopped before */
    MED_BENCH_GAPS_MAX = 1 << 22, /* token gaps kept for percentiles; beyond it, a random sample */
    MED_BENCH_DETAILS_MAX = 256,
};

struct med_bench_record {
    int64_t due_ns;                             /* from the run's start */
    int64_t sent_ns, first_ns, last_ns, end_ns; /* the same; -1: did not happen */
    int64_t input_tokens, output_tokens;        /* as the schedule says */
    int64_t tokens;                             /* received */
    int64_t prompt_tokens;                      /* as the server counts; -1: not told */
    int64_t next_position;
    int64_t tokens_lost, tokens_duplicated;
    int status;        /* grpc-status, or MED_BENCH_NOT_* */
    int worker_type;   /* index into the run's names; -1: not known */
    bool at_once;      /* the answer came whole or in one event: no time lies between its tokens */
    void *call;        /* while it runs */
    size_t next_ready; /* of the turns that wait for their time */
};

/* Time between the messages of a stream, all requests together. */
struct med_bench_gaps {
    struct med_sample kept; /* milliseconds */
    uint64_t count;
    double sum_ms, sum_squares_ms;
};

struct med_bench_progress {
    int64_t now_ns, planned_end_ns;
    size_t planned, sent, completed, failed, in_flight;
    int64_t tokens;
    double ttft_mean_ms, tpot_mean_ms; /* NAN: none yet */
};

struct med_bench_run;

struct med_bench_run_config {
    struct med_bench_client *client; /* the run sets its sink */
    const struct med_clock *clock;
    const struct med_sim_arrival *arrivals;
    size_t count;
    /* Requests in a row are the turns of one conversation: the first has its time, each other is due
     * think_ns after the answer before it; one that fails ends its conversation. 0 is 1. */
    size_t turns;
    int64_t think_ns;
    const int32_t *prefix_groups; /* of each conversation, -1: none; or NULL */
    int64_t prefix_tokens;        /* what the prompts of a group have in common */
    bool closed_loop;             /* requests are due when they can be sent */
    int64_t send_until_ns;        /* no request is sent later than this, from the start; 0: none */
    const char *const *worker_types; /* names; others are "not known" */
    size_t worker_type_count;
    int64_t max_concurrency; /* 0: none */
    uint32_t vocabulary;     /* prompt ids are below it */
    uint64_t seed;
    bool tell_output_tokens; /* sends the recorded length, which emulated workers obey */
    int64_t stall_real_ns;   /* without any event for so long, what is open is cancelled */
    const volatile sig_atomic_t *stop; /* set by a signal: sends no more, cancels what is open */
    /* Gaps of tokens that came in [from, until) of the run are kept; until 0: all. */
    int64_t gaps_from_ns, gaps_until_ns;
    /* After each end; NULL: not asked. true: the run has what it needs, sends no more and cancels
     * what is open. */
    bool (*on_request_end)(void *arg, const struct med_bench_run *run, size_t index);
    void *request_end_arg;
    void (*on_progress)(void *arg, const struct med_bench_progress *progress); /* often; or NULL */
    void *progress_arg;
};

struct med_bench_run {
    struct med_bench_record *records; /* in order of arrival */
    size_t count;
    size_t sent;
    uint64_t reconnects, waited_for_opening, waited_for_limit; /* as the client counted */
    size_t connections_max;
    size_t peak_in_flight;
    int64_t *tokens_per_s; /* per second of the run */
    size_t second_count;
    struct med_bench_gaps gaps;
    bool stalled, interrupted;
    bool ended_early; /* on_request_end said so */
    /* The first sentence that came with each status. */
    char details[MED_GRPC_STATUS_COUNT][MED_BENCH_DETAILS_MAX];
};

/* errors: MED_E_NOMEM. A run that failed in part is no error: the records say it. */
int med_bench_run(const struct med_bench_run_config *config, struct med_bench_run *ret_run,
                  struct med_err *err) MED_MUST_CHECK;
void med_bench_run_release(struct med_bench_run *run);

/* What one message of `count` tokens at `position` means for a record: lost and repeated tokens are
 * counted and the position moves on. */
void med_bench_record_tokens(struct med_bench_record *record, int64_t position, int64_t count);
/* Ended well: status OK, at least one token, none lost and none twice. */
bool med_bench_record_completed(const struct med_bench_record *record);

#endif
