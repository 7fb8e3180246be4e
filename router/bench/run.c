/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop of a load test, open or closed.
 *
 * One thread: it sends what is due, then waits for the client's events until the next request is
 * due.  Times of tokens are those at which the client's own thread saw them, so a busy loop here
 * does not lengthen the latencies that it reports.  Prompts are random token ids, seeded.
 * It does not judge: summary.c does.
 */
#include "router/bench/run.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/mailbox.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    STREAM_PROMPT = 11,
    STREAM_GAPS = 12,
    STREAM_PREFIX = 13,
    FIRST_TOKEN_ID = 10,      /* lower ones are often special */
    WAIT_REAL_NS = 100000000, /* how soon a signal or the progress line is looked at */
    LEAD_REAL_NS = 20000000,  /* between now and the run's zero */
};

struct loop {
    const struct med_bench_run_config *config;
    struct med_bench_run *run;
    struct med_err *err;
    int64_t start_ns; /* fleet time of the run's zero */
    size_t in_flight, completed, failed;
    int64_t tokens;
    int64_t last_event_real_ns;
    double ttft_sum_ms, tpot_sum_ms;
    size_t ttft_count, tpot_count;
    bool cancelled;
    struct med_rng gap_rng;
    uint32_t *prompt; /* room for the longest */
    size_t turns;
    size_t next_first;                     /* the conversation that begins next */
    size_t ready_first, ready_last, ready; /* turns that wait: a queue through next_ready */
    int rc;                                /* the first failure of a callback */
};

static int64_t real_now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * MED_NS_PER_S + t.tv_nsec;
}

void med_bench_record_tokens(struct med_bench_record *record, int64_t position, int64_t count)
{
    int64_t end = position + count;
    if (position > record->next_position)
        record->tokens_lost += position - record->next_position;
    if (position < record->next_position) {
        record->tokens_duplicated +=
            (end < record->next_position ? end : record->next_position) - position;
    }
    if (end > record->next_position)
        record->next_position = end;
    record->tokens += count;
}

bool med_bench_record_completed(const struct med_bench_record *record)
{
    return record->status == 0 && record->tokens > 0 && record->tokens_lost == 0 &&
           record->tokens_duplicated == 0;
}

/* ---- what comes ---- */

static int add_gap(struct loop *l, double ms)
{
    struct med_bench_gaps *gaps = &l->run->gaps;
    gaps->count++;
    gaps->sum_ms += ms;
    gaps->sum_squares_ms += ms * ms;
    if (gaps->kept.count < MED_BENCH_GAPS_MAX)
        return med_sample_add(&gaps->kept, ms);
    /* Reservoir: every gap of the run is kept with the same probability. */
    double place = med_rng_uniform(&l->gap_rng) * (double)gaps->count;
    if (place < (double)MED_BENCH_GAPS_MAX)
        gaps->kept.values[(size_t)place] = ms;
    return 0;
}

static int count_second(struct loop *l, int64_t at_ns, int64_t count)
{
    struct med_bench_run *run = l->run;
    size_t second = at_ns > 0 ? (size_t)(at_ns / MED_NS_PER_S) : 0;
    if (second >= run->second_count) {
        size_t room = second + 1 + second / 2;
        int64_t *grown = med_realloc_array(run->tokens_per_s, room, sizeof(*grown));
        if (!grown)
            return MED_E_NOMEM;
        memset(grown + run->second_count, 0, (room - run->second_count) * sizeof(*grown));
        run->tokens_per_s = grown;
        run->second_count = room;
    }
    run->tokens_per_s[second] += count;
    return 0;
}

static void keep_failure(struct loop *l, int rc)
{
    if (rc < 0 && l->rc >= 0)
        l->rc = rc;
}

static void on_tokens(void *arg, void *user, int64_t clock_ns, int64_t position, int64_t count)
{
    struct loop *l = arg;
    struct med_bench_record *record = user;
    int64_t at_ns = clock_ns - l->start_ns;
    if (record->first_ns < 0) {
        record->first_ns = at_ns;
    } else if (l->config->gaps_until_ns == 0 ||
               (at_ns >= l->config->gaps_from_ns && at_ns < l->config->gaps_until_ns)) {
        keep_failure(l, add_gap(l, (double)(at_ns - record->last_ns) / 1e6));
    }
    record->last_ns = at_ns;
    med_bench_record_tokens(record, position < 0 ? record->next_position : position, count);
    l->tokens += count;
    keep_failure(l, count_second(l, at_ns, count));
}

static int find_type(const struct med_bench_run_config *config, const char *name)
{
    for (size_t i = 0; i < config->worker_type_count; i++) {
        if (strcmp(config->worker_types[i], name) == 0)
            return (int)i;
    }
    return -1;
}

static void count_end(struct loop *l, const struct med_bench_record *record)
{
    if (!med_bench_record_completed(record)) {
        l->failed++;
        return;
    }
    l->completed++;
    l->ttft_sum_ms += (double)(record->first_ns - record->sent_ns) / 1e6;
    l->ttft_count++;
    if (record->tokens > 1) {
        l->tpot_sum_ms +=
            (double)(record->last_ns - record->first_ns) / 1e6 / (double)(record->tokens - 1);
        l->tpot_count++;
    }
}

/* The server's own count of an answer against what came. */
static void compare_count(struct loop *l, struct med_bench_record *record,
                          const struct med_bench_end *end)
{
    if (record->status != 0 || end->completion_tokens < 0)
        return;
    int64_t more = end->completion_tokens - record->next_position;
    if (end->has_positions) {
        /* An end that counts more tokens than came: the last ones were lost. */
        record->tokens_lost += more > 0 ? more : 0;
    } else if (more != 0) {
        /* Several tokens came in one event, or one came in several; or none had a text of its own, and
         * what is known of their time is the end. */
        if (record->first_ns < 0)
            record->first_ns = record->last_ns = record->end_ns;
        record->at_once = record->at_once || record->first_ns == record->last_ns;
        record->tokens += more;
        record->next_position += more;
        l->tokens += more;
        if (more > 0)
            keep_failure(l, count_second(l, record->last_ns, more));
    }
}

/* The next turn of a conversation waits for its time; turns come in the order of their times, as all
 * think equally long. */
static void await_turn(struct loop *l, const struct med_bench_record *record)
{
    size_t index = (size_t)(record - l->run->records);
    if (!med_bench_record_completed(record) || (index + 1) % l->turns == 0 ||
        index + 1 >= l->config->count)
        return;
    struct med_bench_record *next = &l->run->records[index + 1];
    next->due_ns = record->end_ns + l->config->think_ns;
    if (l->ready > 0) {
        l->run->records[l->ready_last].next_ready = index + 1;
    } else {
        l->ready_first = index + 1;
    }
    l->ready_last = index + 1;
    l->ready++;
}

static void on_end(void *arg, void *user, const struct med_bench_end *end)
{
    struct loop *l = arg;
    struct med_bench_record *record = user;
    MED_ASSERT(record->status == MED_BENCH_NOT_ENDED);
    record->end_ns = end->at_ns - l->start_ns;
    record->status = end->status >= 0 && end->status < MED_GRPC_STATUS_COUNT ? end->status : 2;
    record->worker_type = find_type(l->config, end->worker_type);
    record->at_once = end->at_once;
    record->prompt_tokens = end->prompt_tokens;
    record->call = NULL;
    compare_count(l, record, end);
    char *details = l->run->details[record->status];
    if (record->status != 0 && details[0] == '\0')
        (void)snprintf(details, MED_BENCH_DETAILS_MAX, "%s", end->details);
    count_end(l, record);
    MED_ASSERT(l->in_flight > 0);
    l->in_flight--;
    await_turn(l, record);
    if (!l->cancelled && l->config->on_request_end &&
        l->config->on_request_end(l->config->request_end_arg, l->run,
                                  (size_t)(record - l->run->records)))
        l->run->ended_early = true;
}

static int take_events(struct loop *l, int64_t real_deadline_ns)
{
    struct med_bench_client *client = l->config->client;
    if (client->ops->wait(client, real_deadline_ns))
        l->last_event_real_ns = real_now_ns();
    return l->rc;
}

/* ---- what is sent ---- */

/* A conversation's prompts are the beginnings of one stream of random ids, so that each goes on from
 * the one before; a group's common beginning is a stream of its own. */
static void make_prompt(struct loop *l, size_t conversation, int64_t tokens)
{
    const struct med_bench_run_config *c = l->config;
    struct med_rng rng;
    int64_t i = 0;
    if (c->prefix_groups && c->prefix_groups[conversation] >= 0) {
        med_rng_init(&rng, c->seed,
                     STREAM_PREFIX + ((uint64_t)c->prefix_groups[conversation] << 8));
        for (; i < c->prefix_tokens && i < tokens; i++)
            l->prompt[i] = FIRST_TOKEN_ID + med_rng_below(&rng, c->vocabulary - FIRST_TOKEN_ID);
    }
    med_rng_init(&rng, c->seed, STREAM_PROMPT + ((uint64_t)conversation << 8));
    for (; i < tokens; i++)
        l->prompt[i] = FIRST_TOKEN_ID + med_rng_below(&rng, c->vocabulary - FIRST_TOKEN_ID);
}

static void send_request(struct loop *l, size_t index)
{
    const struct med_bench_run_config *c = l->config;
    struct med_bench_record *record = &l->run->records[index];
    const struct med_sim_arrival *arrival = &c->arrivals[index];
    make_prompt(l, index / l->turns, arrival->input_tokens);
    char id[32];
    (void)snprintf(id, sizeof(id), "bench-%zu", index);
    struct med_bench_request request = {
        .prompt = l->prompt,
        .prompt_count = (size_t)arrival->input_tokens,
        .max_tokens = (uint32_t)arrival->output_tokens_max,
        .output_tokens = c->tell_output_tokens ? (uint32_t)arrival->output_tokens : 0,
        .id = id,
        .seed = c->seed + index,
    };
    l->run->sent++;
    record->sent_ns = med_clock_now_ns(c->clock) - l->start_ns;
    if (c->closed_loop)
        record->due_ns = record->sent_ns;
    record->status = MED_BENCH_NOT_ENDED;
    int rc = c->client->ops->start(c->client, &request, record, &record->call);
    if (rc < 0) {
        record->status = rc == MED_E_LIMIT ? 8 : 13;
        record->end_ns = record->sent_ns;
        (void)snprintf(l->run->details[record->status], MED_BENCH_DETAILS_MAX, "not sent: %s",
                       med_err_text(rc));
        l->failed++;
        return;
    }
    l->in_flight++;
    if (l->in_flight > l->run->peak_in_flight)
        l->run->peak_in_flight = l->in_flight;
}

static bool is_more(const struct loop *l)
{
    if (l->config->send_until_ns > 0 &&
        med_clock_now_ns(l->config->clock) - l->start_ns >= l->config->send_until_ns)
        return false;
    return l->ready > 0 || l->next_first < l->config->count;
}

static bool may_send(const struct loop *l)
{
    return !l->cancelled && is_more(l) &&
           (l->config->max_concurrency == 0 || l->in_flight < (size_t)l->config->max_concurrency);
}

/* When the next request is due, from the run's start: a turn that waits goes before a conversation
 * that begins at the same time. */
static int64_t next_due_ns(const struct loop *l, bool *ret_turn)
{
    int64_t turn_ns = l->ready > 0 ? l->run->records[l->ready_first].due_ns : INT64_MAX;
    int64_t first_ns =
        l->next_first < l->config->count ? l->config->arrivals[l->next_first].at_ns : INT64_MAX;
    *ret_turn = turn_ns <= first_ns;
    return *ret_turn ? turn_ns : first_ns;
}

static void send_due(struct loop *l)
{
    bool turn;
    while (may_send(l)) {
        if (l->start_ns + next_due_ns(l, &turn) > med_clock_now_ns(l->config->clock))
            return;
        size_t index = turn ? l->ready_first : l->next_first;
        if (turn) {
            l->ready_first = l->run->records[index].next_ready;
            l->ready--;
        } else {
            l->next_first += l->turns;
        }
        send_request(l, index);
    }
}

static void cancel_all(struct loop *l)
{
    l->cancelled = true;
    struct med_bench_client *client = l->config->client;
    for (size_t i = 0; i < l->config->count; i++) {
        if (l->run->records[i].call)
            client->ops->cancel(client, l->run->records[i].call);
    }
}

static void look_for_trouble(struct loop *l)
{
    if (l->cancelled)
        return;
    if (l->config->stop && *l->config->stop) {
        l->run->interrupted = true;
        cancel_all(l);
    } else if (l->run->ended_early) {
        cancel_all(l);
    } else if (l->in_flight > 0 &&
               real_now_ns() - l->last_event_real_ns > l->config->stall_real_ns) {
        l->run->stalled = true;
        cancel_all(l);
    } else if (l->in_flight == 0) {
        l->last_event_real_ns = real_now_ns(); /* nothing is expected */
    }
}

static void report_progress(struct loop *l)
{
    if (!l->config->on_progress)
        return;
    struct med_bench_progress p = {
        .now_ns = med_clock_now_ns(l->config->clock) - l->start_ns,
        .planned_end_ns = l->config->arrivals[l->config->count - l->turns].at_ns,
        .planned = l->config->count,
        .sent = l->run->sent,
        .completed = l->completed,
        .failed = l->failed,
        .in_flight = l->in_flight,
        .tokens = l->tokens,
        .ttft_mean_ms = l->ttft_count ? l->ttft_sum_ms / (double)l->ttft_count : NAN,
        .tpot_mean_ms = l->tpot_count ? l->tpot_sum_ms / (double)l->tpot_count : NAN,
    };
    l->config->on_progress(l->config->progress_arg, &p);
}

static int64_t next_wake_real_ns(const struct loop *l)
{
    int64_t wake = real_now_ns() + WAIT_REAL_NS;
    if (may_send(l)) {
        bool turn;
        int64_t due_ns = l->start_ns + next_due_ns(l, &turn);
        int64_t real_ns = (int64_t)((double)due_ns / l->config->clock->scale);
        if (real_ns < wake)
            wake = real_ns;
    }
    return wake;
}

static int loop_run(struct loop *l)
{
    int failure = 0;
    while (l->in_flight > 0 || (!l->cancelled && is_more(l))) {
        send_due(l);
        int rc = take_events(l, next_wake_real_ns(l));
        if (rc < 0 && failure >= 0) {
            failure = med_err_set(l->err, rc, "memory for the results is exhausted");
            cancel_all(l);
        }
        look_for_trouble(l);
        report_progress(l);
    }
    return failure;
}

static int make_records(const struct med_bench_run_config *config, struct med_bench_run *run)
{
    run->records = med_calloc(config->count, sizeof(*run->records));
    if (!run->records)
        return MED_E_NOMEM;
    run->count = config->count;
    for (size_t i = 0; i < config->count; i++) {
        run->records[i] = (struct med_bench_record){
            .due_ns = config->arrivals[i].at_ns,
            .sent_ns = -1,
            .first_ns = -1,
            .last_ns = -1,
            .end_ns = -1,
            .input_tokens = config->arrivals[i].input_tokens,
            .output_tokens = config->arrivals[i].output_tokens,
            .status = MED_BENCH_NOT_SENT,
            .worker_type = -1,
            .prompt_tokens = -1,
        };
    }
    return 0;
}

int med_bench_run(const struct med_bench_run_config *config, struct med_bench_run *ret_run,
                  struct med_err *err)
{
    MED_ASSERT(config->count > 0);
    MED_ASSERT(config->vocabulary > FIRST_TOKEN_ID);
    int64_t longest = 1;
    for (size_t i = 0; i < config->count; i++) {
        if (config->arrivals[i].input_tokens > longest)
            longest = config->arrivals[i].input_tokens;
    }
    struct med_bench_run run = {0};
    med_sample_init(&run.gaps.kept);
    struct loop l = {
        .config = config, .run = &run, .err = err, .turns = config->turns ? config->turns : 1};
    MED_ASSERT(config->count % l.turns == 0);
    config->client->sink = (struct med_bench_sink){&l, on_tokens, on_end};
    l.prompt = med_alloc((size_t)longest * sizeof(*l.prompt));
    if (!l.prompt || make_records(config, &run) < 0) {
        med_free(l.prompt);
        med_bench_run_release(&run);
        return med_err_set(err, MED_E_NOMEM, "memory for %zu requests is exhausted", config->count);
    }
    med_rng_init(&l.gap_rng, config->seed, STREAM_GAPS);
    l.last_event_real_ns = real_now_ns();
    l.start_ns =
        med_clock_now_ns(config->clock) + (int64_t)((double)LEAD_REAL_NS * config->clock->scale);
    int rc = loop_run(&l);
    run.reconnects = config->client->reconnects;
    run.waited_for_opening = config->client->waited_for_opening;
    run.waited_for_limit = config->client->waited_for_limit;
    run.connections_max = config->client->connections_max;
    med_free(l.prompt);
    if (rc < 0) {
        med_bench_run_release(&run);
        return rc;
    }
    *ret_run = run;
    return 0;
}

void med_bench_run_release(struct med_bench_run *run)
{
    med_free(run->records);
    med_free(run->tokens_per_s);
    med_sample_release(&run->gaps.kept);
    *run = (struct med_bench_run){0};
}
