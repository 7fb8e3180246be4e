/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A replay as a person reads it: what was replayed, latencies, objectives, what became of the requests,
 * workers, sizes, money.  Everything goes to a buffer whose first failure is kept.
 * thread: any. It computes nothing but shares of what the tally holds.
 */
#include "allocator/replay/report/report.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

struct report {
    struct med_buf *out;
    const struct med_replay_about *about;
    const struct med_tally *tally;
    bool colour;
    int rc;
};

static void put(struct report *r, const char *fmt, ...) MED_PRINTF(2, 3);

static void put(struct report *r, const char *fmt, ...)
{
    if (r->rc < 0)
        return;
    va_list args;
    va_start(args, fmt);
    r->rc = med_buf_vprintf(r->out, fmt, args);
    va_end(args);
}

static void put_bold(struct report *r, const char *text)
{
    put(r, r->colour ? "\033[1m%s\033[0m" : "%s", text);
}

static void put_title(struct report *r, const char *title)
{
    put(r, "\n");
    put_bold(r, title);
    put(r, "\n");
}

/* Milliseconds in eleven columns, a dash where there is nothing. */
static void put_ms(struct report *r, double ms)
{
    if (isnan(ms)) {
        put(r, " %10s", "-");
    } else {
        put(r, " %10.*f", ms < 100 ? 2 : 1, ms);
    }
}

static void put_share(struct report *r, double share)
{
    if (isnan(share)) {
        put(r, " %9s", "-");
    } else {
        put(r, " %7.1f %%", 100 * share);
    }
}

/* ---- sections ---- */

static void put_length(struct report *r, double seconds)
{
    if (seconds < 120) {
        put(r, "%.1f s", seconds);
    } else if (seconds < 7200) {
        put(r, "%.1f min", seconds / 60);
    } else {
        put(r, "%.2f h", seconds / 3600);
    }
}

static void put_heading(struct report *r)
{
    const struct med_replay_about *a = r->about;
    const struct med_tally *t = r->tally;
    put_bold(r, a->source ? a->source : a->plan->workload_name);
    put(r, " on %zu worker%s of %s, model %s\n", a->result->planned_count,
        a->result->planned_count == 1 ? "" : "s", a->plan_file, a->plan->model_name);
    put(r, "%zu requests over ", t->all.requests);
    put_length(r, t->duration_s);
    if (isfinite(t->rate_per_s)) /* those of one moment have none */
        put(r, ", %.4g requests/s", t->rate_per_s);
    put(r, ", %s arrivals", med_arrivals_process_name(a->process));
    if (isfinite(a->speed) && a->speed != 1)
        put(r, " at %g times their rate", a->speed);
    put(r, "\npolicy %s, seed %llu", med_dispatch_policy_name(a->options->policy),
        (unsigned long long)a->seed);
    if (t->warm_up > 0)
        put(r, "; %zu requests before them are warm-up and not counted", t->warm_up);
    put(r, "\n");
}

static void put_latencies(struct report *r)
{
    static const char *const names[MED_TALLY_METRICS] = {"time to first token", "time per token",
                                                         "end to end", "end to end per token"};
    put_title(r, "Latency, ms");
    put(r, "  %-20s %10s %10s %10s %10s %10s\n", "", "mean", "p50", "p90", "p95", "p99");
    for (int m = 0; m < MED_TALLY_METRICS; m++) {
        const struct med_tally_latency *l = &r->tally->all.latency[m];
        put(r, "  %-20s", names[m]);
        put_ms(r, l->mean);
        put_ms(r, l->p50);
        put_ms(r, l->p90);
        put_ms(r, l->p95);
        put_ms(r, l->p99);
        put(r, "\n");
    }
}

static void put_objectives(struct report *r)
{
    const struct med_tally *t = r->tally;
    put_title(r, "Objectives");
    if (t->objective_count == 0) {
        put(r, "  the plan has none\n");
        return;
    }
    put(r, "  %-28s %10s             within\n", "", "mean, ms");
    for (size_t i = 0; i < t->objective_count; i++) {
        const struct med_tally_objective *o = &t->objectives[i];
        char name[96];
        med_slo_format(&o->slo, name, sizeof name);
        put(r, "  %-28s", name);
        put_ms(r, o->observed_ms);
        put(r, "  %-6s", isnan(o->observed_ms) ? "" : o->met ? "met" : "MISSED");
        put_share(r, o->share_within);
        put(r, "\n");
    }
    put(r, "  %-28s %10s  %-6s", "all of them", "", "");
    put_share(r, t->all.attainment);
    put(r, " of requests\n");
}

static void put_count(struct report *r, const char *name, size_t count)
{
    put(r, "  %-40s %10zu", name, count);
    put_share(r, (double)count / (double)r->tally->all.requests);
    put(r, "\n");
}

static void put_ends(struct report *r)
{
    const struct med_tally *t = r->tally;
    const struct {
        const char *name;
        size_t count;
    } rows[] = {
        {"refused: the fleet is full", t->refused_overload},
        {"refused: too long for every worker", t->refused_invalid},
        {"waited, and found no place in time", t->rejected},
        {"their worker was lost", t->lost},
        {"failed", t->failed},
    };
    put_title(r, "Requests");
    put_count(r, "finished", t->all.finished);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].count > 0)
            put_count(r, rows[i].name, rows[i].count);
    }
    if (t->outside > 0)
        put_count(r, "larger than the plan's grid holds", t->outside);
    if (t->outside_bucket > 0)
        put_count(r, "of sizes that the plan does not assign", t->outside_bucket);
    put_count(r, "waited for a worker in the router", t->waited);
    if (t->waited > 0) {
        put(r, "  %-40s %10.1f ms mean, %.1f ms p99\n", "  for", t->wait.mean, t->wait.p99);
    }
    const struct med_dispatch_totals *totals = &r->about->result->totals;
    if (r->about->options->policy == MED_POLICY_PLAN && totals->spills > 0)
        put_count(r, "sent to another type than planned", (size_t)totals->spills);
}

static int type_columns(const struct report *r)
{
    size_t widest = 12;
    for (size_t i = 0; i < r->tally->type_count; i++) {
        size_t bytes = strlen(r->about->plan->profiles[r->tally->types[i].profile].worker_type);
        widest = bytes > widest ? bytes : widest;
    }
    return (int)widest;
}

static void put_group(struct report *r, const struct med_tally_group *g)
{
    put(r, " %9zu", g->requests);
    put_ms(r, g->latency[MED_TALLY_TTFT].mean);
    put_ms(r, g->latency[MED_TALLY_TPOT].mean);
    put_ms(r, g->latency[MED_TALLY_E2E].mean);
    put_share(r, g->attainment);
    put(r, "\n");
}

static void put_types(struct report *r)
{
    int names = type_columns(r);
    uint64_t preemptions = 0;
    put_title(r, "Workers");
    put(r, "  %-*s %7s %6s %13s %9s %10s %10s %10s %9s\n", names, "type", "workers", "busy",
        "least-most", "requests", "TTFT ms", "TPOT ms", "E2E ms", "within");
    for (size_t i = 0; i < r->tally->type_count; i++) {
        const struct med_tally_type *t = &r->tally->types[i];
        put(r, "  %-*s %7zu %4.0f %% %4.0f - %4.0f %%", names,
            r->about->plan->profiles[t->profile].worker_type, t->workers, 100 * t->utilization_mean,
            100 * t->utilization_min, 100 * t->utilization_max);
        put_group(r, &t->group);
        preemptions += t->preemptions;
    }
    if (preemptions > 0) {
        put(r, "  %llu times a request gave up its memory to others and was computed again\n",
            (unsigned long long)preemptions);
    }
}

static void put_buckets(struct report *r)
{
    const struct med_grid *grid = &r->about->plan->grid;
    put_title(r, "Sizes");
    put(r, "  %8s %8s %7s %9s %10s %10s %10s %9s\n", "input", "output", "share", "requests",
        "TTFT ms", "TPOT ms", "E2E ms", "within");
    for (size_t i = 0; i < r->tally->bucket_count; i++) {
        const struct med_tally_bucket *b = &r->tally->buckets[i];
        put(r, "  %8.0f %8.0f %5.1f %%", grid->input_edges[b->input_row],
            grid->output_edges[b->output_row],
            100 * (double)b->group.requests / (double)r->tally->all.requests);
        put_group(r, &b->group);
    }
}

static void put_usd(struct report *r, const char *name, double usd, const char *unit)
{
    if (isnan(usd)) {
        put(r, "  %-28s %10s\n", name, "-");
    } else {
        put(r, "  %-28s %10.*f %s\n", name, usd < 1 ? 4 : 2, usd, unit);
    }
}

static void put_cost(struct report *r)
{
    const struct med_tally *t = r->tally;
    put_title(r, "Cost");
    put_usd(r, "fleet", t->usd_per_hour, "$/h");
    put_usd(r, "this replay", t->usd, "$");
    put_usd(r, "per million output tokens", t->usd_per_million_output_tokens, "$");
    put_usd(r, "per million tokens", t->usd_per_million_tokens, "$");
    put_usd(r, "per thousand requests", t->usd_per_thousand_requests, "$");
}

int med_replay_report_text(struct med_buf *out, const struct med_replay_about *about,
                           const struct med_tally *tally, bool colour)
{
    struct report r = {.out = out, .about = about, .tally = tally, .colour = colour};
    put_heading(&r);
    put_latencies(&r);
    put_objectives(&r);
    put_ends(&r);
    if (about->faults && r.rc >= 0)
        r.rc = med_fault_study_text(out, about->faults, about->study, colour);
    put_types(&r);
    put_buckets(&r);
    put_cost(&r);
    return r.rc;
}
