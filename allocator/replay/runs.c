/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The runs of a replay (see runs.h): reading plans, simulating, and the table of several.
 * A result is kept until the report only where there is one run: rows need it; tallies are small.
 * thread: the caller's.
 */
#include "allocator/replay/runs.h"

#include "base/alloc.h"

#include <math.h>
#include <string.h>

int med_replay_runs_add(struct med_replay_runs *runs, const struct med_plan *plan, const char *name,
                        bool all_policies, struct med_err *err)
{
    size_t p = runs->plan_count;
    if (p == MED_REPLAY_PLANS_MAX) {
        return med_err_set(err, MED_E_LIMIT,
                           "%s is one too many, expected at most %d plans and mixes", name,
                           MED_REPLAY_PLANS_MAX);
    }
    runs->files[p] = med_strdup(name);
    if (!runs->files[p])
        return med_err_set(err, MED_E_NOMEM, "no memory for the plan %s", name);
    runs->plans[p] = *plan;
    runs->plan_count++;
    for (int policy = 0; policy < MED_POLICY_COUNT; policy++) {
        if (!all_policies && policy != (int)runs->options.policy)
            continue;
        struct med_replay_run *run = &runs->items[runs->count++];
        *run = (struct med_replay_run){.plan = p, .options = runs->options};
        run->options.policy = (enum med_dispatch_policy)policy;
    }
    return 0;
}

int med_replay_runs_read(struct med_replay_runs *runs, const char *const *files, size_t count,
                         bool all_policies, struct med_err *err)
{
    for (size_t i = 0; i < count; i++) {
        struct med_plan plan;
        int rc = med_plan_read_file(files[i], &plan, err);
        if (rc < 0)
            return rc;
        rc = plan.status == MED_PLAN_INFEASIBLE
                 ? med_err_set(err, MED_E_INFEASIBLE, "%s: an infeasible plan has no fleet",
                               files[i])
                 : med_replay_runs_add(runs, &plan, files[i], all_policies, err);
        if (rc < 0) {
            med_plan_release(&plan);
            return rc;
        }
    }
    return 0;
}

/* The same run without faults, and what they made of it. */
static int study_faults(struct med_replay_runs *runs, struct med_replay_run *run,
                        const struct med_sim_arrival *arrivals, size_t count, struct med_err *err)
{
    const struct med_plan *plan = &runs->plans[run->plan];
    const struct med_slos *slos = runs->has_slos ? &runs->slos : &plan->slos;
    struct med_sim_options options = run->options;
    struct med_sim_result calm;
    options.samples = 0;
    options.suspect_after_ns = options.gone_after_ns = 0; /* nobody beats, and nobody is silent */
    int rc = med_simulate(plan, arrivals, count, &options, &calm, err);
    if (rc < 0)
        return rc;
    const struct med_fault_study_input input = {.slos = slos,
                                                .arrivals = arrivals,
                                                .result = &run->result,
                                                .calm = &calm,
                                                .log = &run->faults,
                                                .first = run->tally.warm_up};
    rc = med_fault_study_make(&input, &run->study, err);
    med_sim_result_release(&calm);
    return rc;
}

static int simulate(struct med_replay_runs *runs, struct med_replay_run *run,
                    const struct med_sim_arrival *arrivals, size_t count, struct med_err *err)
{
    const struct med_plan *plan = &runs->plans[run->plan];
    if (!runs->faults)
        return med_simulate(plan, arrivals, count, &run->options, &run->result, err);
    struct med_fault_outcome outcome;
    int rc = med_fault_simulate(plan, arrivals, count, &run->options, runs->faults, &outcome, err);
    if (rc >= 0) {
        run->result = outcome.result;
        run->faults = outcome.log;
    }
    return rc;
}

int med_replay_runs_do(struct med_replay_runs *runs, const struct med_sim_arrival *arrivals,
                       size_t count, struct med_err *err)
{
    for (size_t i = 0; i < runs->count; i++) {
        struct med_replay_run *run = &runs->items[i];
        const struct med_plan *plan = &runs->plans[run->plan];
        const struct med_slos *slos = runs->has_slos ? &runs->slos : &plan->slos;
        run->options.samples = runs->count == 1 ? MED_TIMELINE_SPANS : 0;
        int rc = simulate(runs, run, arrivals, count, err);
        run->has_result = rc >= 0;
        if (rc >= 0) {
            rc = med_tally_make(plan, slos, arrivals, &run->result, runs->warm_up_ns, &run->tally,
                                err);
            run->has_tally = rc >= 0;
        }
        if (rc >= 0 && runs->count == 1)
            rc = med_timeline_make(slos, arrivals, &run->result, &run->timeline, err);
        if (rc >= 0 && runs->faults && runs->count == 1)
            rc = study_faults(runs, run, arrivals, count, err);
        if (rc < 0)
            return rc;
        if (runs->count > 1) {
            med_sim_result_release(&run->result);
            run->has_result = false;
        }
    }
    return 0;
}

void med_replay_runs_release(struct med_replay_runs *runs)
{
    for (size_t i = 0; i < runs->count; i++) {
        if (runs->items[i].has_result)
            med_sim_result_release(&runs->items[i].result);
        if (runs->items[i].has_tally)
            med_tally_release(&runs->items[i].tally);
        med_timeline_release(&runs->items[i].timeline);
        med_fault_log_release(&runs->items[i].faults);
        med_fault_study_release(&runs->items[i].study);
    }
    for (size_t p = 0; p < runs->plan_count; p++) {
        med_plan_release(&runs->plans[p]);
        med_free(runs->files[p]);
    }
    runs->count = runs->plan_count = 0;
}

static struct med_replay_about about_of(const struct med_replay_runs *runs,
                                        const struct med_replay_about *common, size_t index)
{
    const struct med_replay_run *run = &runs->items[index];
    struct med_replay_about about = *common;
    about.plan = &runs->plans[run->plan];
    about.plan_file = runs->files[run->plan];
    about.options = &run->options;
    about.result = &run->result;
    about.faults = runs->faults ? &run->faults : NULL;
    about.study = &run->study;
    return about;
}

/* ---- side by side ---- */

/* Mean share of time busy, over all workers of all types. */
static double busy(const struct med_tally *t)
{
    double sum = 0, workers = 0;
    for (size_t i = 0; i < t->type_count; i++) {
        sum += t->types[i].utilization_mean * (double)t->types[i].workers;
        workers += (double)t->types[i].workers;
    }
    return workers > 0 ? sum / workers : NAN;
}

static int put_value(struct med_buf *out, int columns, int decimals, double value)
{
    return isnan(value) ? med_buf_printf(out, " %*s", columns, "-")
                        : med_buf_printf(out, " %*.*f", columns, decimals, value);
}

/* Columns of the names of plans and mixes. */
static int name_columns(const struct med_replay_runs *runs)
{
    size_t widest = 24;
    for (size_t p = 0; p < runs->plan_count; p++)
        widest = strlen(runs->files[p]) > widest ? strlen(runs->files[p]) : widest;
    return (int)(widest < 60 ? widest : 60);
}

static int put_run(struct med_buf *out, const struct med_replay_runs *runs, size_t index)
{
    const struct med_replay_run *run = &runs->items[index];
    const struct med_tally *t = &run->tally;
    const struct med_tally_latency *ttft = &t->all.latency[MED_TALLY_TTFT];
    const struct med_tally_latency *tpot = &t->all.latency[MED_TALLY_TPOT];
    const struct {
        int columns, decimals;
        double value;
    } cells[] = {{8, 1, 100 * t->all.attainment},
                 {8, 1, 100 * (double)t->all.finished / (double)t->all.requests},
                 {9, 0, ttft->mean},
                 {9, 0, ttft->p99},
                 {8, 1, tpot->mean},
                 {8, 1, tpot->p99},
                 {6, 0, 100 * busy(t)},
                 {8, 2, t->usd_per_hour},
                 {12, 2, t->usd_per_million_output_tokens}};
    int rc = runs->plan_count > 1
                 ? med_buf_printf(out, "%-*s ", name_columns(runs), runs->files[run->plan])
                 : 0;
    if (rc >= 0)
        rc = med_buf_printf(out, "%-18s", med_dispatch_policy_name(run->options.policy));
    for (size_t i = 0; rc >= 0 && i < sizeof cells / sizeof cells[0]; i++)
        rc = put_value(out, cells[i].columns, cells[i].decimals, cells[i].value);
    return rc < 0 ? rc : med_buf_printf(out, "\n");
}

int med_replay_runs_text(struct med_buf *out, const struct med_replay_runs *runs,
                         const struct med_replay_about *common, bool colour)
{
    struct med_replay_about about = about_of(runs, common, 0);
    const struct med_tally *first = &runs->items[0].tally;
    if (runs->count == 1)
        return med_replay_report_text(out, &about, first, colour);
    int rc = med_buf_printf(out, "%s: %zu requests over %.1f min",
                            about.source ? about.source : about.plan->workload_name,
                            first->all.requests, first->duration_s / 60);
    if (rc >= 0 && isfinite(first->rate_per_s)) /* those of one moment have none */
        rc = med_buf_printf(out, ", %.4g requests/s", first->rate_per_s);
    if (rc >= 0) {
        rc = med_buf_printf(out, ", %s arrivals, seed %llu\n\n",
                            med_arrivals_process_name(about.process),
                            (unsigned long long)about.seed);
    }
    if (rc >= 0 && runs->plan_count > 1)
        rc = med_buf_printf(out, "%-*s ", name_columns(runs), "plan");
    if (rc >= 0) {
        rc = med_buf_printf(out, "%-18s %8s %8s %9s %9s %8s %8s %6s %8s %12s\n", "policy",
                            "within %", "served %", "TTFT ms", "p99", "TPOT ms", "p99", "busy %",
                            "$/h", "$/M output");
    }
    for (size_t i = 0; rc >= 0 && i < runs->count; i++)
        rc = put_run(out, runs, i);
    return rc;
}

static void put_run_json(struct med_json_writer *w, const struct med_replay_runs *runs,
                         size_t index)
{
    const struct med_replay_run *run = &runs->items[index];
    const struct med_tally *t = &run->tally;
    med_json_begin_object(w, NULL);
    med_json_put_string(w, "plan", runs->files[run->plan]);
    med_json_put_string(w, "policy", med_dispatch_policy_name(run->options.policy));
    med_replay_put_group(w, &t->all);
    med_replay_put_number(w, "utilization", busy(t));
    med_replay_put_number(w, "usd_per_hour", t->usd_per_hour);
    med_replay_put_number(w, "usd_per_million_output_tokens", t->usd_per_million_output_tokens);
    med_json_end_object(w);
}

int med_replay_runs_json(struct med_buf *out, const struct med_replay_runs *runs,
                         const struct med_replay_about *common)
{
    struct med_replay_about about = about_of(runs, common, 0);
    if (runs->count == 1)
        return med_replay_report_json(out, &about, &runs->items[0].tally, &runs->items[0].timeline);
    struct med_json_writer w;
    med_json_writer_init(&w, out, true);
    med_json_begin_object(&w, NULL);
    med_json_put_string(&w, "format", "medley-replay-comparison/1");
    med_json_put_string(&w, "arrivals", about.source ? about.source : about.plan->workload_name);
    med_json_put_string(&w, "process", med_arrivals_process_name(about.process));
    med_json_put_integer(&w, "seed", (int64_t)about.seed);
    med_json_begin_array(&w, "runs");
    for (size_t i = 0; i < runs->count; i++)
        put_run_json(&w, runs, i);
    med_json_end_array(&w);
    med_json_end_object(&w);
    return med_json_writer_finish(&w);
}

int med_replay_runs_rows(const char *path, const struct med_replay_runs *runs,
                         const struct med_replay_about *common, struct med_err *err)
{
    struct med_replay_about about = about_of(runs, common, 0);
    return med_replay_report_rows(path, &about, &runs->items[0].tally, err);
}
