/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dispatch under random events, every invariant checked after each: requests, tokens, ends, errors,
 * lies, cancels, lost and late and returning workers, refused sends, deadlines, drains, other plans.  What must
 * hold: an accepted request ends exactly once, a refused one never; tokens that dispatch passed on
 * are of the attempt that ends; the totals add up; nothing is left at the end.
 */
#include "router/dispatch/dispatch.h"

#include "base/rng.h"
#include "tests/unit/router/dispatch_fixture.h"

enum {
    EVENTS = 60000,
    HELD_MAX = 64,
    WORKERS = 10
};

struct held {
    struct shell_send at;
    int64_t tokens, output_max;
};

/* What a worker believes it holds; dispatch may have moved on. */
struct actor {
    bool connected;
    uint32_t name;
    struct held held[HELD_MAX];
    size_t held_count;
    int64_t silent_until_ns;
};

struct world {
    struct shell *s;
    struct med_rng rng;
    struct actor actors[WORKERS];
    int64_t output_max[SHELL_REQUESTS];
    int64_t passed_on[SHELL_REQUESTS]; /* tokens */
    bool accepted[SHELL_REQUESTS];
    uint64_t next_request;
    size_t sends_seen;
    uint64_t joins;
    uint64_t replans, replans_refused, joins_refused;
};

static uint32_t below(struct world *w, uint32_t bound)
{
    return med_rng_below(&w->rng, bound);
}

static struct actor *actor_of(struct world *w, uint32_t name)
{
    for (size_t i = 0; i < WORKERS; i++) {
        if (w->actors[i].connected && w->actors[i].name == name)
            return &w->actors[i];
    }
    return NULL;
}

/* Hands out what dispatch sent since the last event. */
static void take_sends(struct world *w)
{
    while (w->sends_seen < w->s->send_count) {
        struct shell_send sent = w->s->sends[w->sends_seen++];
        /* Without resume only a request without a token is sent. */
        CHECK(w->s->config.resume || w->passed_on[sent.request] == 0);
        struct actor *a = actor_of(w, sent.worker);
        if (a && a->held_count < HELD_MAX) {
            a->held[a->held_count++] = (struct held){.at = sent,
                                                     .tokens = w->passed_on[sent.request],
                                                     .output_max = w->output_max[sent.request]};
        }
    }
}

static void on_submit(struct world *w)
{
    uint64_t r = w->next_request++;
    REQUIRE(r < SHELL_REQUESTS);
    int64_t prompt = 1 + below(w, below(w, 2) ? 3000 : 200);
    w->output_max[r] = 1 + below(w, below(w, 2) ? 1500 : 30);
    int64_t deadline = below(w, 4) ? 0 : w->s->now_ns + below(w, 2000) * MED_NS_PER_MS;
    uint64_t prefixes[MED_DISPATCH_PREFIX_MAX];
    uint64_t family = below(w, 6);
    for (size_t k = 0; k < MED_DISPATCH_PREFIX_MAX; k++)
        prefixes[k] = k < 3 + family ? 100 * family + k : 1000 * r + k;
    const struct med_dispatch_request request = {
        .request = r,
        .prompt_tokens = prompt,
        .output_tokens_max = w->output_max[r],
        .deadline_ns = deadline,
        .priority = (int32_t)below(w, 2) * ((int32_t)below(w, 30) - 15),
        .user = below(w, 12),
        .prefixes = prefixes,
        .prefix_count = below(w, MED_DISPATCH_PREFIX_MAX + 1)};
    int rc = med_dispatch_submit(w->s->d, w->s->now_ns, &request);
    med_dispatch_check(w->s->d);
    CHECK(rc == 0 || rc == MED_E_INVALID || rc == MED_E_OVERLOAD || rc == MED_E_NO_WORKER);
    w->accepted[r] = rc == 0;
}

static void forget(struct actor *a, size_t index)
{
    a->held[index] = a->held[--a->held_count];
}

static void lose(struct world *w, struct actor *a)
{
    shell_gone(w->s, a->name);
    a->connected = false;
    a->held_count = 0;
}

static void on_tokens(struct world *w, struct actor *a, size_t index)
{
    struct held *h = &a->held[index];
    int64_t count = 1 + below(w, 5);
    bool lie = below(w, 400) == 0;
    int64_t position = lie ? h->tokens + below(w, 3) - 1 : h->tokens;
    int rc = shell_tokens(w->s, h->at, position, count);
    if (rc == 0) {
        CHECK_INT(position, h->tokens);
        CHECK_INT(w->s->requests[h->at.request].ends, 0);
        h->tokens += count;
        w->passed_on[h->at.request] += count;
        CHECK_INT(h->tokens, w->passed_on[h->at.request]);
        CHECK(h->tokens <= h->output_max);
    } else if (rc == MED_E_PROTO) {
        CHECK(position != h->tokens || h->tokens + count > h->output_max);
        lose(w, a); /* as the shell does */
    } else {
        CHECK_INT(rc, MED_E_NOT_FOUND);
        forget(a, index);
    }
}

static void on_finish(struct world *w, struct actor *a, size_t index)
{
    struct held h = a->held[index];
    static const enum med_outcome outcomes[] = {MED_OUTCOME_STOP, MED_OUTCOME_LENGTH,
                                                MED_OUTCOME_ERROR};
    enum med_outcome outcome = outcomes[below(w, 3)];
    forget(a, index);
    int ends = w->s->requests[h.at.request].ends;
    if (below(w, 2)) {
        med_dispatch_cached(w->s->d, h.at.worker, h.at.request, h.at.attempt,
                            below(w, 2) ? 256 : 0);
    }
    if (below(w, 20) == 0) {
        int back =
            med_dispatch_return(w->s->d, w->s->now_ns, h.at.worker, h.at.request, h.at.attempt);
        CHECK(back == 0 || back == MED_E_NOT_FOUND);
        med_dispatch_check(w->s->d);
        return;
    }
    int rc = shell_finish(w->s, h.at, outcome);
    if (rc == 0) {
        CHECK_INT(ends, 0);
        if (outcome != MED_OUTCOME_ERROR)
            CHECK_INT(w->s->requests[h.at.request].outcome, outcome);
    } else if (rc == MED_E_PROTO) {
        CHECK(outcome == MED_OUTCOME_LENGTH && h.tokens == 0);
        lose(w, a);
    } else {
        CHECK_INT(rc, MED_E_NOT_FOUND);
    }
}

static void on_worker(struct world *w)
{
    struct actor *a = &w->actors[below(w, WORKERS)];
    if (!a->connected) {
        if (below(w, 4) > 0)
            return;
        char id[24];
        (void)snprintf(id, sizeof id, "w%d", (int)(a - w->actors));
        char type[2] = {(char)('a' + below(w, 3)), '\0'};
        uint32_t name;
        int rc = shell_try_join(w->s, type, id, &name, NULL);
        if (rc < 0) {
            CHECK_INT(rc, MED_E_NOT_FOUND); /* no plan has it, or a replan has left it out */
            w->joins_refused++;
            return;
        }
        *a = (struct actor){.connected = true, .name = name};
        w->s->refuses[name] = false;
        w->joins++;
        return;
    }
    switch (below(w, 60)) {
    case 0:
        lose(w, a);
        break;
    case 1:
        med_dispatch_worker_drain(w->s->d, w->s->now_ns, a->name);
        break;
    case 2:
        a->silent_until_ns = w->s->now_ns + below(w, 15) * MED_NS_PER_S;
        break;
    case 3:
        w->s->refuses[a->name] = !w->s->refuses[a->name];
        break;
    default:
        if (w->s->now_ns >= a->silent_until_ns)
            shell_beat(w->s, a->name);
    }
}

static void on_request(struct world *w)
{
    struct actor *a = &w->actors[below(w, WORKERS)];
    if (!a->connected || a->held_count == 0)
        return;
    size_t index = below(w, (uint32_t)a->held_count);
    if (below(w, 5) > 0) {
        on_tokens(w, a, index);
    } else {
        on_finish(w, a, index);
    }
}

/* Types come and go, shares and edges change; now and then it is taken back, or is wrong. */
static void on_replan(struct world *w)
{
    struct shell *s = w->s;
    struct med_err err;
    size_t first = below(w, 3);
    size_t count = 1 + below(w, 3 - (uint32_t)first);
    struct med_dispatch_type types[3] = {0};
    for (size_t t = 0; t < count; t++) {
        types[t] = s->types[first + t];
        types[t].workers_planned = below(w, 3);
    }
    struct med_dispatch_config config = s->config;
    double inputs[] = {below(w, 2) ? 100 : 300, 1000, 4000};
    config.types = types;
    config.type_count = count;
    config.input_edges = inputs;
    config.bucket_count = 0;
    config.ttft_objective_ns = below(w, 2) * MED_NS_PER_S / 2;
    struct med_dispatch_bucket buckets[4] = {0};
    for (int b = 0; b < 4; b++) {
        buckets[b] = s->buckets[b];
        for (size_t t = 0; t < MED_LIMIT_WORKER_TYPES; t++)
            buckets[b].shares[t] = t < count ? 1 / (double)count : 0;
        config.bucket_count++;
    }
    config.buckets = buckets;
    bool bad = below(w, 10) == 0;
    if (bad)
        buckets[below(w, 4)].shares[0] += 0.5;
    int rc = med_dispatch_replan(s->d, s->now_ns, &config, &err);
    CHECK_INT(rc, bad ? MED_E_INVALID : 0);
    w->replans_refused += bad;
    w->replans += !bad;
    med_dispatch_check(s->d);
    if (!bad && below(w, 4) == 0)
        med_dispatch_replan_undo(s->d, s->now_ns);
    med_dispatch_check(s->d);
}

static void on_cancel(struct world *w)
{
    if (w->next_request == 0)
        return;
    uint64_t back = below(w, 200);
    uint64_t r = w->next_request - 1 - (back < w->next_request ? back : 0);
    bool open = w->accepted[r] && w->s->requests[r].ends == 0;
    int rc = med_dispatch_cancel(w->s->d, w->s->now_ns, r, MED_OUTCOME_ABORT_CLIENT);
    CHECK_INT(rc, open ? 0 : MED_E_NOT_FOUND);
    med_dispatch_check(w->s->d);
}

static void on_time(struct world *w)
{
    int64_t at = med_dispatch_next_tick_ns(w->s->d);
    int64_t step = below(w, 20) ? below(w, 20) * MED_NS_PER_MS : below(w, 3000) * MED_NS_PER_MS;
    w->s->now_ns += step;
    if (at <= w->s->now_ns) {
        shell_tick(w->s, w->s->now_ns);
        CHECK(med_dispatch_next_tick_ns(w->s->d) > w->s->now_ns);
    }
}

/* everywhere: the run was long enough to have gone everywhere. */
static void check_totals(const struct world *w, bool everywhere)
{
    uint64_t accepted = 0;
    uint64_t ended = 0;
    uint64_t outcomes[MED_OUTCOME_COUNT] = {0};
    for (uint64_t r = 0; r < w->next_request; r++) {
        accepted += w->accepted[r];
        CHECK_INT(w->s->requests[r].ends, w->accepted[r] ? 1 : 0);
        if (w->s->requests[r].ends == 1) {
            outcomes[w->s->requests[r].outcome]++;
            ended++;
        }
    }
    struct med_dispatch_totals t = shell_totals(w->s);
    CHECK_UINT(t.accepted, accepted);
    CHECK_UINT(ended, accepted);
    CHECK_UINT(t.accepted + t.refused_invalid + t.refused_no_worker + t.refused_overload,
               w->next_request);
    for (size_t i = 0; i < MED_OUTCOME_COUNT; i++) {
        CHECK_UINT(t.outcomes[i], outcomes[i]);
        CHECK(!everywhere || t.outcomes[i] > 0);
    }
    for (size_t i = 0; everywhere && i < MED_REROUTE_COUNT; i++)
        CHECK(t.reroutes[i] > 0);
    CHECK(!everywhere || (t.spills > 0 && t.stale_messages > 0));
    CHECK(!everywhere || (t.breaker_opened > 0 && t.affinity > 0));
    CHECK(!everywhere || (t.refused_admission > 0) == w->s->config.admission);
    CHECK(!everywhere || (w->replans > 50 && w->replans_refused > 5 && w->joins_refused > 5));
    CHECK_INT(t.in_flight, 0);
    CHECK_INT(t.queued, 0);
}

/* One run; the plan's policy under the same conditions goes through other states with each other setting. */
static void torture(enum med_dispatch_policy policy, bool resume, bool admission, int events)
{
    static struct world w;
    w = (struct world){0};
    w.s = shell_new(3);
    shell_bucket(w.s, 0, 0, 3, 0.75, 0.25);
    shell_bucket(w.s, 0, 1, 2, 0.5, 0.5);
    shell_bucket(w.s, 1, 2, 1, 0, 1);
    shell_bucket(w.s, 2, 1, 1, 0.25, 0.75);
    w.s->config.requests_max = 150;
    w.s->config.queue_max = 40;
    w.s->config.queue_wait_ns = 2 * MED_NS_PER_S;
    w.s->config.ttft_objective_ns = MED_NS_PER_S / 2;
    w.s->config.tpot_objective_ns = admission ? 20 * MED_NS_PER_MS : 0;
    w.s->config.type_count = 2; /* the third comes with other plans */
    w.s->config.policy = policy;
    w.s->config.resume = resume;
    w.s->config.admission = admission;
    w.s->config.users_max = 8;
    w.s->config.prefixes_max = 50; /* fewer than are sent */
    shell_start(w.s);
    med_rng_init(&w.rng, check_seed(), 1 + (uint64_t)policy);
    for (int i = 0; i < events; i++) {
        uint32_t kind = below(&w, 100);
        if (below(&w, 300) == 0)
            on_replan(&w);
        if (kind < 14) {
            on_submit(&w);
        } else if (kind < 70) {
            on_request(&w);
        } else if (kind < 73) {
            on_cancel(&w);
        } else if (kind < 88) {
            on_worker(&w);
        } else {
            on_time(&w);
        }
        take_sends(&w);
    }
    for (size_t i = 0; i < WORKERS; i++) {
        if (w.actors[i].connected)
            lose(&w, &w.actors[i]);
    }
    for (int64_t at; (at = med_dispatch_next_tick_ns(w.s->d)) < INT64_MAX;)
        shell_tick(w.s, at);
    check_totals(&w, events == EVENTS);
    shell_free(w.s);
}

static void test_torture_then_each_request_ends_exactly_once(void)
{
    torture(MED_POLICY_PLAN, false, false, EVENTS);
    torture(MED_POLICY_PLAN, true, true, EVENTS);
}

static void test_torture_when_another_policy_chooses_then_too(void)
{
    for (int p = MED_POLICY_PLAN + 1; p < MED_POLICY_COUNT; p++)
        torture((enum med_dispatch_policy)p, p % 2 == 0, p % 3 == 0, EVENTS / 6);
}

int main(void)
{
    RUN(test_torture_then_each_request_ends_exactly_once);
    RUN(test_torture_when_another_policy_chooses_then_too);
    return check_finish();
}
