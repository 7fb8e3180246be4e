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
 * `delivered` and at most output_tokens_max tokens. factor: how much longer this user's are. */
void predictor_distribution(const struct predictor *p, int input_row, int64_t delivered,
                            int64_t output_tokens_max, double factor,
                            double ret_chances[MED_LIMIT_EDGES]);
/* Expected output tokens under the same conditions, > delivered. */
double predictor_mean(const struct predictor *p, int input_row, int64_t delivered,
                      int64_t output_tokens_max, double factor);
int predictor_median_row(const struct predictor *p, const double chances[MED_LIMIT_EDGES]);
void predictor_on_arrival(struct predictor *p, int input_row, int64_t output_tokens_max);
bool predictor_has_same_edges(const struct predictor *a, const struct predictor *b);
/* Takes over what another one has learned, by other edges perhaps. */
void predictor_adopt(struct predictor *p, const struct predictor *from);
/* An answer ended after `tokens`. cut: by its maximum, so that it would have been longer. */
void predictor_on_end(struct predictor *p, int input_row, int64_t tokens, bool cut);

/* ---- users.c: how their answers differ ---- */

struct user {
    uint64_t name;
    double sum, weight;      /* of actual over predicted, aged */
    uint32_t next, previous; /* by last use */
    uint32_t hash_next;
};

struct users {
    struct user *rows;
    uint32_t *heads;
    size_t count, count_max, head_mask;
    uint32_t first, last;
};

int users_init(struct users *u, size_t count_max);
void users_release(struct users *u);
/* 1: as anybody's. */
double users_factor(const struct users *u, uint64_t name);
void users_on_end(struct users *u, uint64_t name, double predicted, int64_t actual, bool cut);
void users_check(const struct users *u);

/* ---- shares.c: the plan's mix, executed ---- */

struct shares {
    size_t row_count, column_count, type_count;
    double *planned; /* [row][column][type] sum 1; cells without traffic copy the nearest */
    double *work;    /* [row][column][type] worker-seconds of one request */
    double *tilt;    /* [type] factor on the planned shares */
    double per_worker[MED_LIMIT_WORKER_TYPES]; /* requests per second of one worker, of its share of
                                                * the traffic; 0: not known */
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
/* Worker-seconds of a request; 0: not known. */
double shares_work(const struct shares *s, int input_row, int output_row, size_t type);
/* Follows the predictor: the factors that bring each type's work back to the plan's. */
void shares_on_end(struct shares *s, const struct predictor *p);
void shares_balance(struct shares *s, const struct predictor *p, int rounds);

/* ---- queue.c: binary heap of leases by time ---- */

enum {
    WAITING_LINES = 4
};

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
bool queue_is_before(const struct queue_entry *a, const struct queue_entry *b);
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
    int64_t arrived_ns;
    int64_t prompt_tokens, output_tokens_max;
    int64_t deadline_ns; /* 0: none */
    int64_t turn_ns;     /* its place in the queue; what it has waited counts, also elsewhere */
    int32_t priority;
    uint64_t user;
    double factor;  /* of the user, at submit */
    uint64_t types; /* bits: those that may serve it, while it waits */
    int64_t cached; /* prompt tokens that its worker is believed to have */
    size_t prefix_count;
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
    uint8_t line; /* while it waits */
    bool whole;   /* its last token ends it */
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

/* breaker.c */
struct breaker {
    double faults; /* what answers that ended well took back is off */
    int64_t until_ns, backoff_ns;
    uint64_t opened_total, faults_total;
    enum med_worker_fault last_fault;
    uint32_t probe; /* the lease sent while half open, or NONE */
    bool open;
};
bool breaker_allows(const struct breaker *b, int64_t now_ns);
/* limit: as in the configuration; < 0: it is counted, and nothing else. */
void breaker_fault(struct breaker *b, int64_t limit, int64_t now_ns);
void breaker_sent(struct breaker *b, uint32_t lease);
void breaker_left(struct breaker *b, uint32_t lease);
void breaker_first_token(struct breaker *b, uint32_t lease);
void breaker_success(struct breaker *b, uint32_t lease);

/* What predictions at a worker have in common, in ms. */
struct worker_ahead {
    bool is_known;
    double prefill; /* of all that it was sent and has not begun to answer */
    double decode;  /* an iteration of its decodes alone */
};

struct worker {
    /* What a pick reads comes first: it reads it of many. */
    enum med_worker_state state;
    bool connected, draining;
    bool has_beaten; /* since it joined */
    bool turned;     /* its state got worse, and nothing has been done about it yet */
    size_t type;
    int64_t fit_tokens; /* prompt + output that it can hold */
    int64_t sequences_max, kv_tokens;
    int64_t blocked_until_ns;     /* after a refused send */
    struct lease_list prefilling; /* in the order of sending: no token yet */
    struct lease_list decoding;
    int64_t prefill_tokens;   /* prompt tokens of prefilling */
    double prefill_pairs;     /* attention pairs of the same */
    int64_t prefill_since_ns; /* when the first of prefilling became the first */
    int64_t context_tokens;   /* prompt and delivered tokens of decoding */
    int64_t remaining_tokens; /* predicted, of both */
    struct worker_ahead ahead;
    double prefill_duty;     /* share of its time that prompts take from decodes, aged */
    int64_t prefill_duty_ns; /* when that was reckoned */
    uint32_t prefix_misses;  /* believed prefixes in a row that it did not have */
    struct breaker breaker;  /* outlives the connection, for as long as the row is free */
    uint32_t next, previous; /* of the same type */
    int64_t silent_ns;       /* the last beat before the silence that was last a fault */
    struct med_dispatch_worker_stats stats;
    uint64_t incarnation;
    char worker_id[MED_LIMIT_NAME_BYTES + 1];
};

/* floors.c: what predictions are at least */
struct floors {
    double *ms;                // [worker] milliseconds per token, or the score itself
    uint8_t *types;            // [worker] above all types: not connected
    uint32_t *stale;           // [stale_count] touched since the last refresh
    bool *is_stale, *is_sound; // [worker]
    size_t stale_count;
    uint32_t top;                              /* rows from here on were never used */
    int64_t until_ns;                          /* they hold until then, unless touched */
    int64_t sound[MED_LIMIT_WORKER_TYPES];     /* ready, with a closed breaker */
    int64_t fit_least[MED_LIMIT_WORKER_TYPES]; /* that each worker holds */
    bool fit_is_known[MED_LIMIT_WORKER_TYPES];
};
int floors_init(struct floors *f, size_t workers_max);
void floors_release(struct floors *f);
/* A worker has changed, whatever of it. O(1). */
void floors_touch(struct floors *f, uint32_t worker);

struct workers {
    struct worker *rows;
    size_t count, count_max;               /* connected; all */
    uint32_t *type_first;                  /* [type] list of connected workers */
    int64_t ready[MED_LIMIT_WORKER_TYPES]; /* in that state */
    struct floors floors;
    uint32_t free, free_last; /* the one longest free is used first */
    int64_t suspect_after_ns, gone_after_ns;
    int64_t check_at_ns; /* no worker's health can change for the worse before */
};

struct prediction {
    double wait_ms, ttft_ms, tpot_ms;
    double room_ms;   /* part of the wait: until there is a place and memory for it */
    double saved_ms;  /* of the first token, by the prefix cache */
    double added_ms;  /* what its prefill adds to the iterations of others */
    double finish_ms; /* or tokens outstanding, for a type without a latency model */
};

int workers_init(struct workers *w, const struct med_dispatch_config *config);
void workers_release(struct workers *w);
/* What predictions are made of has changed, for all of them. */
void workers_touch_all(struct workers *w);
uint32_t workers_add(struct workers *w, size_t type); /* NONE when full */
void workers_remove(struct workers *w, uint32_t index);
int64_t worker_in_flight(const struct worker *worker);
bool worker_is_sound(const struct worker *worker); /* ready, with a closed breaker */
/* added_ms: of the prediction that the pick rests on. */
void workers_attach(struct workers *w, uint32_t index, struct leases *leases, uint32_t lease,
                    int64_t now_ns, double added_ms);
void workers_detach(struct workers *w, uint32_t index, struct leases *leases, uint32_t lease,
                    int64_t now_ns);
/* The lease's first token: from prefilling to decoding. */
void workers_first_token(struct workers *w, uint32_t index, struct leases *leases, uint32_t lease,
                         int64_t now_ns);
/* It delivered so many tokens of a lease; remaining: by how much the prediction of the rest has changed. */
void workers_tokens(struct workers *w, uint32_t index, int64_t count, int64_t remaining);
/* For the breaker: a lease ended well, or failed (limit as in breaker_fault). */
void workers_success(struct workers *w, uint32_t index, uint32_t lease);
void workers_fault(struct workers *w, uint32_t index, int64_t limit, int64_t now_ns);
struct prediction_input {
    const struct med_latency *latency; /* NULL: none */
    const struct leases *leases;
    int64_t now_ns;
    int64_t prompt_tokens;
    int64_t cached_tokens; /* of them, < all */
    double output_tokens;
    double finish_max_ms; /* 0: none */
};
/* Units: milliseconds from now.  Of one that finishes later than finish_max_ms no more may be told than that. */
struct prediction worker_predict(const struct worker *worker, const struct prediction_input *input);
/* What lies ahead of it, and of that what floors.c says: it holds until then, if nothing changes. */
struct worker_ahead worker_look_ahead(const struct worker *worker,
                                      const struct med_latency *latency);
double worker_floor(const struct worker *worker, const struct med_latency *latency,
                    int64_t until_ns);
/* Of the next iteration; 0: nothing to do. */
double worker_step_ms(const struct worker *worker, const struct med_latency *latency);
/* The most that one of a type holds: of those in the list, and of those that the plan knows; INT64_MAX:
 * not known. */
int64_t workers_fit_tokens(const struct workers *w, const struct med_dispatch_type *plan,
                           uint32_t first);
void workers_set_state(struct workers *w, struct worker *worker, enum med_worker_state state);

/* ---- prefix.c: who has which beginning of a prompt ---- */

struct prefix {
    uint64_t hash;
    uint32_t worker, epoch;
    uint32_t next, previous; /* by last use */
    uint32_t hash_next;
};

struct prefix_found {
    uint32_t stamp, blocks;
};

struct prefix_hashes {
    uint64_t at[MED_DISPATCH_PREFIX_MAX];
};

struct prefixes {
    struct prefix *rows;
    uint32_t *heads;
    size_t count, count_max, head_mask;
    uint32_t first, last;
    struct prefix_found *found;   /* [worker] by the look-up with this stamp */
    uint32_t *epochs;             /* [worker] entries of an earlier one are of another connection */
    struct prefix_hashes *hashes; /* [lease] */
    uint32_t looked_up;
};

int prefixes_init(struct prefixes *p, size_t count_max, size_t workers_max, size_t requests_max);
void prefixes_release(struct prefixes *p);
/* Looks up a lease's prefixes; the answers are those of prefixes_blocks until the next look-up. */
void prefixes_find(struct prefixes *p, uint32_t lease, size_t count);
size_t prefixes_blocks(const struct prefixes *p, uint32_t worker);
void prefixes_sent(struct prefixes *p, uint32_t lease, size_t count, uint32_t worker);
void prefixes_forget(struct prefixes *p, uint32_t worker);
bool prefix_is_trusted(const struct worker *worker);
void prefixes_check(const struct prefixes *p);

/* ---- admission.c: what may wait ---- */

enum {
    ADMISSION_CLASSES = 17, /* of priorities; beyond are taken for the last */
    ADMISSION_UNITS = 1 << 20
};

/* While somebody waited for a type: requests that it was sent, and ready workers times seconds. */
struct admission_rate {
    double starts, worker_s;
};

struct admission {
    int64_t since_ns; /* until when worker_s is counted */
    int64_t waiting;
    int64_t stands_since_ns; /* when the first of them came to an empty queue */
    struct admission_rate rates[MED_LIMIT_WORKER_TYPES];
    int64_t queued[MED_LIMIT_WORKER_TYPES];                   /* that it may serve */
    int64_t units[MED_LIMIT_WORKER_TYPES][ADMISSION_CLASSES]; /* its part of them */
};

/* ---- decisions.c ---- */

struct decisions {
    struct med_dispatch_decision *rows; /* a ring */
    uint64_t count;
};

int decisions_init(struct decisions *r);
void decisions_release(struct decisions *r);

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
    struct med_dispatch_type_counts counts[MED_LIMIT_WORKER_TYPES];
    struct admission_rate rates[MED_LIMIT_WORKER_TYPES];
    size_t retired;
};

struct med_dispatch {
    struct med_dispatch_config config; /* pointers NULL: what they named is copied below */
    struct med_dispatch_ops ops;
    struct type *types;
    struct predictor predictor;
    struct shares shares;
    struct leases leases;
    struct queue waiting[WAITING_LINES]; /* by turn, see waiting.c */
    uint64_t waiting_order;              /* of the next one, in whatever line */
    struct queue deadlines; /* waiting: until when they may; in flight: those with a deadline */
    struct workers workers;
    uint64_t *picks; /* [type][row][column] */
    struct med_dispatch_totals totals;
    struct med_dispatch_type_counts counts[MED_LIMIT_WORKER_TYPES];
    struct users users;
    struct prefixes prefixes;
    struct admission admission;
    struct decisions decisions;
    struct med_dispatch_lengths lengths[MED_LIMIT_EDGES]; /* [input row] */
    uint64_t policy_turn;                                 /* choices made */
    size_t policy_next;        /* the worker behind the last one chosen */
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
/* Sends a request that is nowhere. False: nobody can take it now. */
bool dispatch_start(struct med_dispatch *d, int64_t now_ns, uint32_t lease);
int64_t dispatch_ns_of_ms(double ms);

int waiting_init(struct med_dispatch *d, size_t count_max);
void waiting_release(struct med_dispatch *d);
/* The line that a request stands in, or would. */
uint8_t waiting_line(const struct med_dispatch *d, const struct lease *row);
void waiting_add(struct med_dispatch *d, int64_t now_ns, uint32_t lease);
bool waiting_remove(struct med_dispatch *d, uint32_t lease); /* false: it does not wait */
bool waiting_has(const struct med_dispatch *d, uint32_t lease);
/* Starts what can start of those that wait: anywhere, at a worker that may have come free, or one
 * newcomer, if it is its turn. */
void waiting_start_all(struct med_dispatch *d, int64_t now_ns);
void waiting_start_at(struct med_dispatch *d, int64_t now_ns, uint32_t worker);
void waiting_start_one(struct med_dispatch *d, int64_t now_ns, uint32_t lease);
void waiting_check(const struct med_dispatch *d);

/* Time passes; before anything changes that it depends on. */
void admission_advance(struct med_dispatch *d, int64_t now_ns);
void admission_enter(struct med_dispatch *d, int64_t now_ns, struct lease *row);
void admission_leave(struct med_dispatch *d, int64_t now_ns, const struct lease *row);
void admission_started(struct med_dispatch *d, int64_t now_ns, size_t type);
bool admission_accepts(const struct med_dispatch *d, int64_t now_ns, const struct lease *row);
double admission_rate(const struct med_dispatch *d, size_t type); /* requests per second */
int64_t admission_wait_max_ns(const struct med_dispatch *d);
/* Of a newcomer behind all that wait for the type; < 0: not known. */
int64_t admission_wait_ns(const struct med_dispatch *d, size_t type);
/* Counts a request that was refused for its wait. */
void admission_refused(struct med_dispatch *d, const struct lease *row);
void admission_check(const struct med_dispatch *d);
/* The worker failed a request. */
void fleet_fault(struct med_dispatch *d, int64_t now_ns, uint32_t worker);
int64_t fleet_silence_max_ns(const struct med_dispatch *d, const struct worker *worker);
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

/* ---- floors.c, of the whole ---- */

/* Reckons what was touched; before the functions below. */
void floors_refresh(struct med_dispatch *d, int64_t now_ns);
/* The worker with the least floor of each type; NONE: it has none. */
void floors_least(const struct floors *f, uint32_t ret_least[MED_LIMIT_WORKER_TYPES]);
/* A worker of the type whose floor is above has a greater score for so many output tokens. */
double floors_limit(const struct med_dispatch *d, size_t type, double score, int64_t output_tokens);
/* A floor as it should be. */
double floors_of(const struct med_dispatch *d, const struct worker *worker);

/* ---- pick.c: which worker ---- */

struct candidate {
    uint32_t worker;
    bool in_time, avoided;
    int64_t in_flight, cached_tokens;
    double score; /* the least wins */
    struct prediction prediction;
};

struct pick {
    uint32_t worker; /* NONE: nobody can take it now */
    size_t type;
    size_t planned_type; /* whose turn it was */
    bool has_plan;       /* false: no type with a share is there */
    double weights[MED_LIMIT_WORKER_TYPES];
    struct prediction prediction;
    int64_t cached_tokens;
    size_t considered, candidate_count;
    struct candidate candidates[MED_DISPATCH_CANDIDATES];
};
void decisions_add(struct med_dispatch *d, int64_t now_ns, const struct lease *lease,
                   const struct pick *pick);
/* Is there another worker, busy or not, that could serve it? */
bool pick_has_other(const struct med_dispatch *d, const struct lease *lease);
/* policy.c: of a worker for a request; the least wins. */
double policy_score(const struct med_dispatch *d, const struct lease *lease, uint32_t worker);
void policy_take(struct med_dispatch *d, uint32_t worker);
/* Can the worker take anything now? */
bool pick_is_open(const struct med_dispatch *d, uint32_t worker, int64_t now_ns);
/* ... this request, in time? Without what its prefix cache may save. */
bool pick_can_take(const struct med_dispatch *d, const struct lease *lease, uint32_t worker,
                   int64_t now_ns);
struct pick pick_worker(struct med_dispatch *d, const struct lease *lease, int64_t now_ns);

#endif
