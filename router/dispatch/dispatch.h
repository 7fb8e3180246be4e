/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dispatch: which worker serves which request, and what happens when that goes wrong.
 *
 * A pure core: time is an argument (fleet nanoseconds), no I/O, and nothing is allocated after new.
 * The live router and the simulation run this same code; the shells carry tokens and bytes, dispatch
 * knows sizes only.  It speaks to its shell through the callbacks of struct med_dispatch_ops, which
 * must not call back into dispatch.
 *
 * Path of a request: submit -> predicted output length (running distribution per input row, prior
 * from the plan) -> bucket -> worker type by the plan's own shares (smooth weighted choice,
 * deterministic) -> the worker of that type with the least predicted finish time -> send. If no
 * worker of the planned type can start it within the TTFT objective it spills to the next best type;
 * if none can take it, it waits in a bounded queue ordered by deadline; past its deadline it ends
 * with MED_E_OVERLOAD.  A request whose worker is lost is dispatched again; after its first token
 * only with `resume`, else it ends with MED_E_WORKER_LOST.  Exactly one `end` callback per accepted request, and
 * none for one that submit refused.
 *
 * A (request, attempt) pair is a lease: tokens and finishes of an older attempt are stale and
 * dropped.  Health is the worker's engine heartbeat: without one for `suspect_after_ns` a worker gets
 * no new requests; without one for `gone_after_ns` it is lost.
 *
 * thread: loop. owns: all tables. Names are copied.
 */
#ifndef MED_ROUTER_DISPATCH_DISPATCH_H
#define MED_ROUTER_DISPATCH_DISPATCH_H

#include "base/err.h"
#include "base/limits.h"
#include "profiles/latency.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One worker type of the plan. */
struct med_dispatch_type {
    char name[MED_LIMIT_NAME_BYTES + 1];
    struct med_latency latency; /* for predictions */
    bool has_latency;           /* false: serving points only; ranked by tokens outstanding */
    int64_t workers_planned;    /* its share follows those that are there; 0: not known */
    bool retired;               /* a replan has left it out; ignored in a configuration */
};

/* One bucket of the plan. */
struct med_dispatch_bucket {
    int input_row, output_row;
    double input_mean, output_mean; /* tokens */
    double rate_per_s;
    double shares[MED_LIMIT_WORKER_TYPES]; /* by type index, sum 1 */
    double work_s[MED_LIMIT_WORKER_TYPES]; /* worker-seconds of one request: 1/capacity at the
                                            * objectives; 0: not known */
};

/* How a worker is chosen; all share queue, leases, health and admission. */
enum med_dispatch_policy {
    MED_POLICY_PLAN,              /* the plan's shares, then the least predicted finish */
    MED_POLICY_ROUND_ROBIN,       /* worker after worker */
    MED_POLICY_RANDOM,            /* any, from a seeded generator */
    MED_POLICY_LEAST_OUTSTANDING, /* fewest requests in flight */
    MED_POLICY_THROUGHPUT,        /* random, by the type's profiled throughput for the bucket */
    MED_POLICY_TOKEN_LOAD,        /* least outstanding tokens over that throughput */
    MED_POLICY_COUNT
};
const char *med_dispatch_policy_name(enum med_dispatch_policy policy); /* "round-robin" */
bool med_dispatch_policy_parse(const char *name, enum med_dispatch_policy *ret_policy);

/* Prompts are compared by blocks of so many tokens, at most so many of them. */
#define MED_DISPATCH_PREFIX_TOKENS 256
#define MED_DISPATCH_PREFIX_MAX    16
/* One hash per full block from the start, each over all tokens up to its end; returns how many. Prompts of
 * different salts share nothing.  O(count), at most PREFIX_TOKENS x PREFIX_MAX tokens. */
size_t med_dispatch_prefix_hashes(const uint32_t *tokens, size_t count, uint64_t salt,
                                  uint64_t ret_hashes[MED_DISPATCH_PREFIX_MAX]);

struct med_dispatch_config {
    const struct med_dispatch_type *types; /* copied */
    size_t type_count;
    const double *input_edges, *output_edges; /* copied; as in struct med_grid */
    size_t input_edge_count, output_edge_count;
    const struct med_dispatch_bucket *buckets; /* copied */
    size_t bucket_count;
    int64_t ttft_objective_ns; /* spill beyond this predicted TTFT; 0: no objective */
    int64_t
        tpot_objective_ns; /* under admission a worker is full beyond this predicted TPOT; 0: none */
    int64_t queue_wait_ns; /* longest wait in the queue for a request without a deadline */
    int64_t queue_max;     /* requests waiting; more are refused with MED_E_OVERLOAD */
    int64_t requests_max;  /* accepted and not ended; more are refused with MED_E_OVERLOAD */
    int64_t workers_max;
    /* Silence of a worker's engine; neither is less than 4 times its predicted iteration. */
    int64_t suspect_after_ns, gone_after_ns;
    int64_t attempts_max; /* dispatches of one request, first included */
    /* In the queue, each unit of priority counts as so much of waiting: one of priority p is passed only
     * by those that come within p times this after it. 0: an eighth of queue_wait_ns. */
    int64_t priority_step_ns;
    enum med_dispatch_policy policy;
    uint64_t policy_seed; /* of the random ones */
    /* What would wait longer than its objective allows is refused at once: see admission.c. */
    bool admission;
    /* Faults in a row after which a worker gets no requests for a while; 0: 3; < 0: never. */
    int64_t breaker_faults;
    int64_t users_max;    /* users whose lengths are learned; 0: lengths by bucket alone */
    int64_t prefixes_max; /* (block, worker) pairs remembered; 0: no affinity */
    bool resume;          /* one that has tokens goes on elsewhere when its worker is lost */
};

enum med_outcome {
    MED_OUTCOME_STOP,
    MED_OUTCOME_LENGTH,
    MED_OUTCOME_ABORT_CLIENT,
    MED_OUTCOME_ABORT_DEADLINE,
    MED_OUTCOME_REJECTED, /* accepted, queued, and past its deadline without a start; or a choice
                           * of a request that found no place for all of them */
    MED_OUTCOME_WORKER_LOST,
    MED_OUTCOME_ERROR,
    MED_OUTCOME_COUNT
};
const char *med_outcome_name(enum med_outcome outcome); /* "abort_client" */

struct med_dispatch_ops {
    /* Sends the request to the worker. < 0: the link cannot take it now; another is tried. */
    int (*send)(void *arg, uint64_t request, uint32_t attempt, uint32_t worker);
    /* Tells the worker to stop; best effort. */
    void (*cancel)(void *arg, uint64_t request, uint32_t attempt, uint32_t worker);
    /* The request is over: exactly once. code: 0 for stop and length, else why.  When the shell
     * itself reported the end (finish, cancel) it is still called, from inside that call. */
    void (*end)(void *arg, uint64_t request, enum med_outcome outcome, int code);
    void *arg;
};

/* request: the shell's name for it, unique among those not ended. */
struct med_dispatch_request {
    uint64_t request;
    int64_t prompt_tokens;     /* >= 1 */
    int64_t output_tokens_max; /* >= 1 */
    int64_t deadline_ns;       /* fleet time; 0: none */
    int32_t priority;          /* lower is sooner; 0: as usual */
    uint64_t user;             /* a hash of who asks; 0: not known */
    const uint64_t *prefixes;  /* [prefix_count] of med_dispatch_prefix_hashes; copied */
    size_t prefix_count;       /* at most MED_DISPATCH_PREFIX_MAX */
};

/* What a worker says when it joins; limits as the worker's scheduler has them. */
struct med_dispatch_worker_hello {
    const char *type_name;
    const char *worker_id; /* unique among connected ones; a second is MED_E_INVALID */
    uint64_t incarnation;
    int64_t model_len_max, sequences_max, kv_tokens;
};

struct med_dispatch_worker_stats {
    int64_t heartbeat_ns; /* fleet time of the engine loop's last beat, by the router's receipt */
    int64_t running, waiting;
    int64_t kv_blocks_free, kv_blocks_total;
};

enum med_worker_state {
    MED_WORKER_JOINING, /* has said hello, but not yet how it is */
    MED_WORKER_READY,
    MED_WORKER_SUSPECT, /* silent for too long: no new requests, those it has go elsewhere */
    MED_WORKER_DRAINING,
    MED_WORKER_GONE
};
const char *med_worker_state_name(enum med_worker_state state);

struct med_dispatch;

int med_dispatch_new(const struct med_dispatch_config *config, const struct med_dispatch_ops *ops,
                     struct med_dispatch **ret_dispatch, struct med_err *err) MED_MUST_CHECK;
void med_dispatch_free(struct med_dispatch *d); /* nothing may be outstanding */

/* MED_E_INVALID: fits no worker type of the plan (prompt + output beyond every limit);
 * MED_E_OVERLOAD: queue or table full; MED_E_NO_WORKER: no worker is connected at all. */
int med_dispatch_submit(struct med_dispatch *d, int64_t now_ns,
                        const struct med_dispatch_request *request) MED_MUST_CHECK;
/* The shell ends it, and its worker is told to stop.  outcome: ABORT_CLIENT the client went away,
 * ABORT_DEADLINE its deadline passed, STOP its answer is whole (a stop string: code 0),
 * REJECTED what belongs to it was refused (code MED_E_OVERLOAD), ERROR the shell cannot go on with it
 * (code MED_E_INTERNAL).  Idempotent: MED_E_NOT_FOUND when it has ended.
 */
int med_dispatch_cancel(struct med_dispatch *d, int64_t now_ns, uint64_t request,
                        enum med_outcome outcome);

/* errors: MED_E_NOT_FOUND unknown type, MED_E_INVALID worker_id connected already, MED_E_LIMIT. */
int med_dispatch_worker_join(struct med_dispatch *d, int64_t now_ns,
                             const struct med_dispatch_worker_hello *hello, uint32_t *ret_worker,
                             struct med_err *err) MED_MUST_CHECK;
void med_dispatch_worker_stats(struct med_dispatch *d, int64_t now_ns, uint32_t worker,
                               const struct med_dispatch_worker_stats *stats);
void med_dispatch_worker_drain(struct med_dispatch *d, int64_t now_ns, uint32_t worker);
/* The connection is closed or judged dead: its requests are dispatched again or ended. The index
 * is free afterwards. */
void med_dispatch_worker_gone(struct med_dispatch *d, int64_t now_ns, uint32_t worker);

/* `count` tokens starting at output position `position`. 0: pass them on; MED_E_NOT_FOUND: stale,
 * drop them; MED_E_PROTO: a gap, a repeat or more than asked; the shell ends the link. */
int med_dispatch_tokens(struct med_dispatch *d, int64_t now_ns, uint32_t worker, uint64_t request,
                        uint32_t attempt, int64_t position, int64_t count) MED_MUST_CHECK;
/* The worker ended it. outcome STOP, LENGTH or ERROR (a worker that refuses or fails a request
 * without a token: it is dispatched elsewhere while attempts last). Same results as tokens. */
int med_dispatch_finish(struct med_dispatch *d, int64_t now_ns, uint32_t worker, uint64_t request,
                        uint32_t attempt, enum med_outcome outcome) MED_MUST_CHECK;

/* The worker gives it back and is not to blame: it leaves. Goes on elsewhere. Same results as tokens. */
int med_dispatch_return(struct med_dispatch *d, int64_t now_ns, uint32_t worker, uint64_t request,
                        uint32_t attempt) MED_MUST_CHECK;
/* The token that came last ends it: only the finish is to come. If the worker is lost before that, it ends
 * with STOP. */
void med_dispatch_whole(struct med_dispatch *d, uint64_t request);
/* Of the prompt, so many tokens were in the worker's prefix cache: before its finish is told. */
void med_dispatch_cached(struct med_dispatch *d, uint32_t worker, uint64_t request,
                         uint32_t attempt, int64_t cached_tokens);

/* Expires queue entries, deadlines and heartbeats; starts what can start. */
void med_dispatch_tick(struct med_dispatch *d, int64_t now_ns);
/* When tick must be called next; INT64_MAX: nothing is pending. */
int64_t med_dispatch_next_tick_ns(const struct med_dispatch *d);

/* ---- another plan ---- */

/* Puts another plan in force, with requests in flight.  Worker types are matched by name and keep their
 * index; new ones are added; those that the plan lacks are retired: they finish what they have, and
 * take requests that nobody else can only until the plan is complete.  What the predictor has learned,
 * the queue and all requests stay.  requests_max and workers_max must be as they
 * were, users_max and prefixes_max stay as they were.  Nothing is
 * sent and nothing ends from inside.  On failure nothing has changed. */
int med_dispatch_replan(struct med_dispatch *d, int64_t now_ns,
                        const struct med_dispatch_config *config,
                        struct med_err *err) MED_MUST_CHECK;
/* Takes back the last replan; right after it, before any other call that changes something. */
void med_dispatch_replan_undo(struct med_dispatch *d, int64_t now_ns);
/* Every type of the plan has as many ready workers as planned (one, where that is not known). */
bool med_dispatch_is_complete(const struct med_dispatch *d);
/* False: a replan has left it out. It may still have workers. */
bool med_dispatch_type_is_planned(const struct med_dispatch *d, size_t type);

/* ---- what metrics, logs and tests read ---- */

enum med_reroute {
    MED_REROUTE_WORKER_LOST,
    MED_REROUTE_SEND_FAILED,
    MED_REROUTE_WORKER_ERROR,
    MED_REROUTE_COUNT
};
const char *med_reroute_name(enum med_reroute reason);

enum med_worker_fault {
    MED_WORKER_FAULT_SILENCE, /* its engine did not beat */
    MED_WORKER_FAULT_LINK,    /* its connection broke while it had requests */
    MED_WORKER_FAULT_ERROR,   /* it failed a request */
    MED_WORKER_FAULT_COUNT
};
const char *med_worker_fault_name(enum med_worker_fault fault);

struct med_dispatch_totals {
    uint64_t accepted, refused_overload, refused_no_worker, refused_invalid;
    uint64_t
        refused_admission; /* of refused_overload: because of the wait; else a table was full */
    uint64_t refused_queue, refused_table,
        refused_late;                     /* of it too: the queue was full; there were
                                                          * requests_max; its deadline was past */
    uint64_t outcomes[MED_OUTCOME_COUNT]; /* sum == accepted - in flight - queued */
    uint64_t reroutes[MED_REROUTE_COUNT];
    uint64_t spills;
    uint64_t affinity;        /* sent to a worker that was believed to have a prefix */
    uint64_t affinity_tokens; /* ... of so many tokens in all */
    uint64_t breaker_opened;  /* also of workers that have left */
    uint64_t stale_messages;
    int64_t in_flight, queued;
};
int64_t med_dispatch_queued(const struct med_dispatch *d); /* as in the totals */
void med_dispatch_get_totals(const struct med_dispatch *d, struct med_dispatch_totals *ret_totals);

struct med_dispatch_worker_view {
    const char *worker_id;
    size_t type;
    enum med_worker_state state;
    int64_t in_flight;
    bool drained;               /* it drains, and has nothing left */
    int64_t predicted_start_ns; /* from now, for a request sent now */
    int64_t silence_max_ns;     /* beyond it is suspect */
    bool breaker_open;
    int64_t breaker_until_ns; /* when a probe is sent, if open */
    uint64_t breaker_opened, faults;
    bool breaker_probing;             /* open, and its probe is under way */
    enum med_worker_fault last_fault; /* if there were any */
    bool prefix_cache;                /* false: it has never found what it was believed to have */
    struct med_dispatch_worker_stats stats;
};
/* false: no such worker (indices are < workers_max, with holes). */
bool med_dispatch_get_worker(const struct med_dispatch *d, uint32_t worker,
                             struct med_dispatch_worker_view *ret_view);
/* Bounded tables of what was learned: entries now, and at most. */
struct med_dispatch_tables {
    size_t users, users_max, prefixes, prefixes_max;
};
void med_dispatch_get_tables(const struct med_dispatch *d, struct med_dispatch_tables *ret_tables);

/* The most tokens, prompt and output together, that one worker holds. */
struct med_dispatch_context {
    int64_t connected; /* of those that are connected; 0: none is */
    int64_t planned;   /* of all types: by its workers, or by the plan where none is connected; no
                        * worker will take more; 0: not known */
};
void med_dispatch_get_context(const struct med_dispatch *d,
                              struct med_dispatch_context *ret_context);
size_t med_dispatch_type_count(const struct med_dispatch *d);
const char *med_dispatch_type_name(const struct med_dispatch *d, size_t type);
/* Requests sent to a type for a (predicted) bucket; since the edges last changed. */
uint64_t med_dispatch_picks(const struct med_dispatch *d, size_t type, int input_row,
                            int output_row);

/* Since the type came with a plan; workers that have left count on. */
struct med_dispatch_type_counts {
    uint64_t faults[MED_WORKER_FAULT_COUNT]; /* of workers that do not drain */
    uint64_t breaker_opened;
    uint64_t refused_admission; /* that it might have served; each type that might counts it */
    uint64_t prompts;           /* sent to it, with at least one block that can be looked up */
    uint64_t affinity, affinity_tokens; /* as in the totals */
    uint64_t cached_tokens;             /* found in caches, as its workers said */
};

struct med_dispatch_type_view {
    int64_t workers, ready;
    int64_t in_flight;
    int64_t queued;      /* that it may serve; others may too */
    double rate_per_s;   /* of requests that leave the queue to it, as planned and as measured */
    double queued_cap;   /* rate times the wait that admission allows */
    int64_t wait_max_ns; /* the same for all types */
    int64_t wait_ns;     /* expected of one that came now, had only this type; < 0: not known */
    struct med_dispatch_type_counts counts;
};
void med_dispatch_get_type(const struct med_dispatch *d, size_t type,
                           struct med_dispatch_type_view *ret_view);
/* When a refused request would be accepted, at the rate at which the queue drains; 0: not known. */
int64_t med_dispatch_retry_after_ns(const struct med_dispatch *d);

/* Predicted against actual output tokens of the answers that ended by themselves, per input row. */
struct med_dispatch_lengths {
    uint64_t count;
    double predicted, actual, error; /* sums; error is absolute */
};
void med_dispatch_get_lengths(const struct med_dispatch *d, int input_row,
                              struct med_dispatch_lengths *ret_lengths);

enum {
    MED_DISPATCH_DECISIONS = 256, /* as many are remembered */
    MED_DISPATCH_CANDIDATES = 8   /* workers of each */
};

/* A worker that was considered; times are predicted, from the decision on, 0 without a model. */
struct med_dispatch_candidate {
    char worker_id[MED_LIMIT_NAME_BYTES + 1];
    uint32_t worker;
    size_t type;
    bool chosen;
    bool in_time; /* could start it within the objective */
    bool avoided; /* had failed it before */
    int64_t in_flight;
    int64_t wait_ns, ttft_ns, finish_ns;
    int64_t cached_tokens; /* believed to be in its prefix cache */
    int64_t saved_ns;      /* ... which saves so much */
    double score;          /* least wins, in a type by the plan, in all by other policies */
};

/* Why a request went where it went. */
struct med_dispatch_decision {
    uint64_t request;
    uint32_t attempt;
    int64_t at_ns;
    int64_t waited_ns; /* since it was submitted */
    enum med_dispatch_policy policy;
    int64_t prompt_tokens, delivered_tokens, expected_tokens; /* expected: output in all */
    int input_row, output_row;
    bool has_plan;       /* by the plan, and a type with a share was there */
    size_t planned_type; /* whose turn it was */
    size_t type;         /* that it went to */
    bool spilled;        /* to another than planned */
    size_t considered;   /* workers that were free for it and not ruled out by a bound */
    size_t candidate_count;
    struct med_dispatch_candidate candidates[MED_DISPATCH_CANDIDATES]; /* the best ones */
};
/* back 0: the newest. NULL: there is none. Borrowed until the next call that may send. */
const struct med_dispatch_decision *med_dispatch_get_decision(const struct med_dispatch *d,
                                                              size_t back);
/* The newest one about a request, if it is still remembered. */
const struct med_dispatch_decision *med_dispatch_find_decision(const struct med_dispatch *d,
                                                               uint64_t request);

struct med_dispatch_lease_view {
    uint32_t worker;  /* UINT32_MAX: queued */
    uint32_t attempt; /* counts from 1 */
    size_t type;
    int input_row, output_row;                    /* the predicted bucket */
    int64_t predicted_ttft_ns, predicted_tpot_ns; /* at the pick; 0: not known */
    int64_t predicted_output_tokens;              /* at submit */
    int64_t tokens;                               /* delivered so far */
};
bool med_dispatch_get_lease(const struct med_dispatch *d, uint64_t request,
                            struct med_dispatch_lease_view *ret_view);
/* The bucket that a request would be predicted to be of, also where submit refuses it. */
void med_dispatch_bucket_of(const struct med_dispatch *d,
                            const struct med_dispatch_request *request, int *ret_input_row,
                            int *ret_output_row);
void med_dispatch_check(const struct med_dispatch *d); /* every invariant, asserted */

#endif
