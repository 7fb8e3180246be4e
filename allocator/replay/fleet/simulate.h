/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Simulation of a fleet: the real dispatch, the real scheduler, the profiles' times, a virtual
 * clock, one process.  What the bench's report and the planner's tests compare with.
 * Deterministic: same plan, arrivals and options give the same result on every machine.
 * thread: the caller's. owns: the result's arrays.
 */
#ifndef MED_ALLOCATOR_REPLAY_FLEET_SIMULATE_H
#define MED_ALLOCATOR_REPLAY_FLEET_SIMULATE_H

#include "allocator/plan.h"
#include "base/err.h"
#include "router/dispatch/dispatch.h"

#include <stdbool.h>
#include <stdint.h>

struct med_sim_arrival {
    int64_t at_ns; /* not falling */
    int64_t input_tokens;
    int64_t output_tokens;     /* what the request will produce; dispatch does not see it */
    int64_t output_tokens_max; /* what it asks for; >= output_tokens */
    int64_t deadline_ns;       /* after its arrival; 0: none */
};

struct med_sim_request {
    int64_t ttft_ns; /* -1: no token */
    int64_t e2e_ns;  /* -1: did not finish */
    size_t type;     /* index into plan->profiles of the worker that served it */
    int outcome;     /* enum med_outcome, or a negative MED_E_* when refused */
    /* What dispatch predicted when it picked the worker (link delay and waiting before the pick not
     * included); 0 without a token. */
    int64_t predicted_ttft_ns, predicted_tpot_ns;
    int64_t tokens;    /* that came, each once and in order */
    int64_t picked_ns; /* from the arrival to the last pick */
    int64_t ended_ns;  /* from the arrival to the end, whatever it was; 0: refused */
};

struct med_sim_options {
    int64_t queue_wait_ns, queue_max; /* as the router's options; 0: the router's defaults */
    bool admission_off;               /* waiting is bounded by queue_max and queue_wait alone */
    enum med_dispatch_policy policy;  /* 0: the plan's */
    uint64_t policy_seed;
    int64_t link_delay_ns; /* one way, added to sends and tokens */
    int64_t requests_max;  /* accepted and not ended; 0: the router's limit */
    /* Silence; 0: never. Otherwise somebody (sim_hooks) must beat for the workers. */
    int64_t suspect_after_ns, gone_after_ns;
    bool resume; /* as dispatch's */
    /* Workers that are there besides the plan's, not connected: [plan->profile_count]; NULL: none. */
    const int64_t *spares;
    size_t samples; /* spans of time at most, even; 0: none are wanted */
};

/* What the fleet did in a span of time; `mean` is over the span. */
struct med_sim_sample {
    double queued, in_flight; /* mean; in flight: sent and not ended */
    int64_t queued_most;
};

struct med_sim_type_sample {
    double busy;     /* share of the time of its workers that are connected at the end */
    double running;  /* sequences per worker, at the end of the span */
    double kv;       /* share of the KV cache in use, at the end */
    uint64_t tokens; /* that came */
};

/* Span i begins at from_ns + i * step_ns. */
struct med_sim_samples {
    int64_t from_ns, step_ns;
    size_t count, type_count;
    struct med_sim_sample *all;        // [count]
    struct med_sim_type_sample *types; // [count][type_count], by plan->profiles
};

struct med_sim_worker_result {
    size_t type;                      /* index into plan->profiles */
    double utilization;               /* share of time busy */
    uint64_t iterations, preemptions; /* of its scheduler */
    uint64_t prompt_tokens;           /* prefilled, recomputation included */
    uint64_t generated_tokens;
};

struct med_sim_result {
    struct med_sim_request *requests; /* one per arrival, same order */
    size_t count;
    struct med_sim_worker_result *workers; /* in plan order */
    size_t worker_count;
    size_t planned_count;              /* workers of the plan; spares are behind them */
    struct med_dispatch_totals totals; /* of the whole run */
    int64_t end_ns;                    /* when the last one ended */
    struct med_sim_samples samples;
};

int med_simulate(const struct med_plan *plan, const struct med_sim_arrival *arrivals, size_t count,
                 const struct med_sim_options *options, struct med_sim_result *ret_result,
                 struct med_err *err) MED_MUST_CHECK;
void med_sim_result_release(struct med_sim_result *result);
void med_sim_samples_release(struct med_sim_samples *samples);

/* ---- arrivals and figures, for whoever has no trace and asks for means ---- */

/* `count` arrivals of the plan's own mix at rate_factor times its rate: each bucket at its mean
 * sizes, gaps as the plan's arrival process (a trace counts as Poisson). Every request asks for
 * output_tokens_max, or where that is 0 for the upper edge of its bucket plus one, so that its end
 * is not known beforehand.  The caller frees *ret_arrivals with med_free.
 * errors: MED_E_INVALID for a plan without assignment or a factor that is not > 0. */
int med_sim_arrivals_from_plan(const struct med_plan *plan, double rate_factor, size_t count,
                               int64_t output_tokens_max, uint64_t seed,
                               struct med_sim_arrival **ret_arrivals,
                               struct med_err *err) MED_MUST_CHECK;

/* Means in milliseconds over the requests that finished; NAN: none did. TPOT and e2e_per_token are
 * means over requests, as slo.h defines them. */
struct med_sim_summary {
    size_t finished, refused, other; /* other: accepted, without an ordinary end */
    double ttft_ms, tpot_ms, e2e_ms, e2e_per_token_ms;
};
/* Of the requests [from, to) only: cut warm-up and cool-down off. */
struct med_sim_summary med_sim_summarize(const struct med_sim_result *result,
                                         const struct med_sim_arrival *arrivals, size_t from,
                                         size_t to);

#endif
