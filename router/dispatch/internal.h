/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of dispatch share: the tables and one small interface per noun. No other folder
 * includes this header.
 *
 * Tables are arrays of fixed size; rows are named by index, NONE is no row. A lease is one request
 * that was accepted and has not ended; it is always in exactly one place: the queue, or one
 * worker's list.
 * thread: loop.
 */
#ifndef MED_ROUTER_DISPATCH_INTERNAL_H
#define MED_ROUTER_DISPATCH_INTERNAL_H

#include "router/dispatch/dispatch.h"

#define NONE UINT32_MAX

/* ---- predictor.c: how long an answer will be ---- */

struct predictor {
    size_t row_count, column_count; /* input rows, output rows */
    double *input_edges, *output_edges;
    double *weights;  /* [row][column] aged counts, prior included */
    double *means;    /* [row][column] output tokens, from the plan or the middle of the cell */
    double *arrivals; /* [row][column of the request's maximum] aged counts, prior included; only
                       * their proportions mean anything */
    double arrival_weight; /* of the next one */
};

int predictor_init(struct predictor *p, const struct med_dispatch_config *config);
void predictor_release(struct predictor *p);
/* Rows of sizes; beyond the last edge is the last row. */
int predictor_input_row(const struct predictor *p, int64_t tokens);
int predictor_output_row(const struct predictor *p, int64_t tokens);
/* Probability of each output row for a request of this input row whose answer is longer than
 * `delivered` and at most output_tokens_max tokens. */
void predictor_distribution(const struct predictor *p, int input_row, int64_t delivered,
                            int64_t output_tokens_max, double ret_chances[MED_LIMIT_EDGES]);
/* Expected output tokens under the same conditions, > delivered. */
double predictor_mean(const struct predictor *p, int input_row, int64_t delivered,
                      int64_t output_tokens_max);
int predictor_median_row(const struct predictor *p, const double chances[MED_LIMIT_EDGES]);
void predictor_on_arrival(struct predictor *p, int input_row, int64_t output_tokens_max);
bool predictor_has_same_edges(const struct predictor *a, const struct predictor *b);
/* Takes over what another one has learned, by other edges perhaps. */
void predictor_adopt(struct predictor *p, const struct predictor *from);
/* An answer ended after `tokens`. cut: by its maximum, so that it would have been longer. */
void predictor_on_end(struct predictor *p, int input_row, int64_t tokens, bool cut);

/* ---- shares.c: the plan's mix, executed ---- */

struct shares {
    size_t row_count, column_count, type_count;
    double *planned;    /* [row][column][type] sum 1; cells without traffic copy the nearest */
    double *work;       /* [row][column][type] worker-seconds of one request */
    double *tilt;       /* [type] factor on the planned shares */
    double *credits;    /* [row][type] requests owed by the smooth weighted choice */
    bool tilted;        /* the work of every cell is known or estimated */
    int64_t until_tilt; /* answers until the tilt is computed again */
};

int shares_init(struct shares *s, const struct med_dispatch_config *config);
void shares_release(struct shares *s);
/* Share of each type for a request. available: how much of a type is there, 1 being what was
 * planned, 0 nothing. Returns false when the plan gives nothing to any type that is there. */
bool shares_weigh(const struct shares *s, int input_row, const double chances[MED_LIMIT_EDGES],
                  const double available[MED_LIMIT_WORKER_TYPES],
                  double ret_weights[MED_LIMIT_WORKER_TYPES]);
/* The type whose turn it is; nothing changes until take. */
size_t shares_choose(const struct shares *s, int input_row,
                     const double weights[MED_LIMIT_WORKER_TYPES]);
void shares_take(struct shares *s, int input_row, const double weights[MED_LIMIT_WORKER_TYPES],
                 size_t type);
/* Follows the predictor: the factors that bring each type's work back to the plan's. */
void shares_on_end(struct shares *s, const struct predictor *p);
void shares_balance(struct shares *s, const struct predictor *p, int rounds);

/* ---- queue.c: binary heap of leases by time ---- */

struct queue_entry {
    int64_t at_ns;
    uint64_t order; /* ties: first come, first served */
    uint32_t lease;
};

struct queue {
    struct queue_entry *entries;
    uint32_t *places; /* [lease] index into entries, or NONE */
    size_t count, count_max;
    uint64_t order;
};

int queue_init(struct queue *q, size_t count_max);
void queue_release(struct queue *q);
void queue_push(struct queue *q, uint32_t lease, int64_t at_ns);
/* Puts an entry back as it was, its turn among equals kept. */
void queue_restore(struct queue *q, const struct queue_entry *entry);
bool queue_remove(struct queue *q, uint32_t lease);
const struct queue_entry *queue_first(const struct queue *q); /* NULL when empty */
void queue_check(const struct queue *q);

/* ---- leases.c: requests that have not ended ---- */

struct lease {
    uint64_t request;
    int64_t prompt_tokens, output_tokens_max;
    int64_t deadline_ns; /* 0: none */
    int64_t turn_ns;     /* its place in the queue; what it has waited counts, also elsewhere */
    int32_t priority;
    uint64_t user;
    int64_t tokens;    /* delivered */
    int64_t base;      /* ... of which so many before the last send */
    int64_t remaining; /* predicted tokens to come, >= 1 while in flight */
    int64_t predicted_ttft_ns, predicted_tpot_ns;
    int64_t predicted_output_tokens; /* at submit */
    uint32_t attempt;                /* of the last send; 0 before the first */
    uint32_t tries;                  /* sends, apart from those to workers that then drained */
    uint32_t worker;                 /* NONE: in the queue */
    uint32_t avoid;                  /* the worker that failed it last, or NONE */
    uint32_t next, previous;         /* in its worker's list, or the free list (next) */
    uint32_t hash_next;
    int16_t input_row, output_row;
    uint16_t type;
    bool used;
};

struct leases {
    struct lease *rows;
    uint32_t *heads; /* hash buckets */
    size_t count, count_max, head_mask;
    uint32_t free;
};

int leases_init(struct leases *l, size_t count_max);
void leases_release(struct leases *l);
uint32_t leases_find(const struct leases *l, uint64_t request);
uint32_t leases_add(struct leases *l, uint64_t request); /* NONE when full */
void leases_remove(struct leases *l, uint32_t lease);

/* ---- workers.c: the pool ---- */

struct lease_list {
    uint32_t first, last;
    int64_t count;
};

struct worker {
    char worker_id[MED_LIMIT_NAME_BYTES + 1];
    uint64_t incarnation;
    bool connected, draining;
    enum med_worker_state state;
    size_t type;
    int64_t fit_tokens; /* prompt + output that it can hold */
    int64_t sequences_max, kv_tokens;
    int64_t blocked_until_ns; /* after a refused send */
    struct med_dispatch_worker_stats stats;
    struct lease_list prefilling; /* in the order of sending: no token yet */
    struct lease_list decoding;
    int64_t prefill_tokens;   /* prompt tokens of prefilling */
    double prefill_pairs;     /* attention pairs of the same */
    int64_t prefill_since_ns; /* when the first of prefilling became the first */
    int64_t context_tokens;   /* prompt and delivered tokens of decoding */
    int64_t remaining_tokens; /* predicted, of both */
    double prefill_duty;      /* share of its time that prompts take from decodes, aged */
    int64_t prefill_duty_ns;  /* when that was reckoned */
    uint32_t next, previous;  /* of the same type */
};

struct workers {
    struct worker *rows;
    size_t count, count_max; /* connected; all */
    uint32_t *type_first;    /* [type] list of connected workers */
    uint32_t free;
    int64_t suspect_after_ns, gone_after_ns;
    int64_t check_at_ns; /* no worker's health can change for the worse before */
};

struct prediction {
    double wait_ms, ttft_ms, tpot_ms;
    double room_ms;   /* part of the wait: until there is a place and memory for it */
    double added_ms;  /* what its prefill adds to the iterations of others */
    double finish_ms; /* or tokens outstanding, for a type without a latency model */
};

int workers_init(struct workers *w, const struct med_dispatch_config *config);
void workers_release(struct workers *w);
uint32_t workers_add(struct workers *w, size_t type); /* NONE when full */
void workers_remove(struct workers *w, uint32_t index);
int64_t worker_in_flight(const struct worker *worker);
/* added_ms: of the prediction that the pick rests on. */
void worker_attach(struct worker *worker, struct leases *leases, uint32_t lease, int64_t now_ns,
                   double added_ms);
void worker_detach(struct worker *worker, struct leases *leases, uint32_t lease, int64_t now_ns);
/* The lease's first token: from prefilling to decoding. */
void worker_first_token(struct worker *worker, struct leases *leases, uint32_t lease,
                        int64_t now_ns);
/* latency NULL: none. Units: milliseconds from now. */
struct prediction worker_predict(const struct worker *worker, const struct med_latency *latency,
                                 const struct leases *leases, int64_t now_ns, int64_t prompt_tokens,
                                 double output_tokens);

/* ---- dispatch.c ---- */

struct type {
    struct med_dispatch_type plan;
    int64_t fit_tokens; /* the most that a worker of this type holds; INT64_MAX: not known */
};

/* What follows from the plan. */
struct plan_tables {
    struct med_dispatch_config config;
    struct type *types;
    struct predictor predictor;
    struct shares shares;
    uint64_t *picks;
    uint32_t *type_first;
    size_t retired;
};

struct med_dispatch {
    struct med_dispatch_config config; /* pointers NULL: what they named is copied below */
    struct med_dispatch_ops ops;
    struct type *types;
    struct predictor predictor;
    struct shares shares;
    struct leases leases;
    struct queue waiting;   /* by turn */
    struct queue deadlines; /* waiting: until when they may; in flight: those with a deadline */
    struct workers workers;
    uint64_t *picks; /* [type][row][column] */
    struct med_dispatch_totals totals;
    int64_t retry_at_ns;       /* when the queue is tried again without an event */
    size_t retired;            /* types that the plan in force lacks */
    struct plan_tables before; /* the last replan; zero: none, or it was taken back */
};

/* What the parts of dispatch.c and fleet.c do to each other. */
/* Takes a request from its worker and ends it. */
void dispatch_end(struct med_dispatch *d, int64_t now_ns, uint32_t lease, enum med_outcome outcome,
                  int code);
/* Takes a request from its worker and starts it elsewhere, or queues it; without attempts left
 * it ends. tell: the worker may still be computing it. */
void dispatch_again(struct med_dispatch *d, int64_t now_ns, uint32_t lease, enum med_reroute reason,
                    bool tell);
/* Starts what can start of those that wait. */
void dispatch_drain_queue(struct med_dispatch *d, int64_t now_ns);
void fleet_tick(struct med_dispatch *d, int64_t now_ns);

int dispatch_check_config(const struct med_dispatch_config *config,
                          struct med_err *err) MED_MUST_CHECK;

enum {
    DISPATCH_START_ROUNDS = 32 /* of the first balance of the shares */
};

/* ---- replan.c: another plan ---- */

/* May types that have left take what nobody else can? */
bool dispatch_may_use_retired(const struct med_dispatch *d);
void dispatch_release_before(struct med_dispatch *d);

/* ---- pick.c: which worker ---- */

struct pick {
    uint32_t worker; /* NONE: nobody can take it now */
    size_t type;
    size_t planned_type; /* whose turn it was */
    bool has_plan;       /* false: no type with a share is there */
    double weights[MED_LIMIT_WORKER_TYPES];
    struct prediction prediction;
};
struct pick pick_worker(const struct med_dispatch *d, const struct lease *lease, int64_t now_ns);

#endif
