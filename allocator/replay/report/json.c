/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A replay for programs: `medley-replay/1` and the rows.
 *
 * Keys are in docs/reference/formats.md.  What is not known (a mean of nothing) is null in JSON and an
 * empty field in a row.  Rows are written through stdio, since there may be millions of them.
 * thread: any. It computes nothing.
 */
#include "allocator/replay/report/report.h"
#include "base/os.h"

#include <errno.h>
#include <math.h>
#include <string.h>

void med_replay_put_number(struct med_json_writer *w, const char *key, double value)
{
    if (isfinite(value)) {
        med_json_put_number(w, key, value);
    } else {
        med_json_put_null(w, key);
    }
}

static void put_count(struct med_json_writer *w, const char *key, uint64_t value)
{
    med_json_put_integer(w, key, (int64_t)value);
}

static void put_latency(struct med_json_writer *w, const char *key,
                        const struct med_tally_latency *l)
{
    med_json_begin_row_object(w, key);
    med_replay_put_number(w, "mean", l->mean);
    med_replay_put_number(w, "p50", l->p50);
    med_replay_put_number(w, "p90", l->p90);
    med_replay_put_number(w, "p95", l->p95);
    med_replay_put_number(w, "p99", l->p99);
    med_replay_put_number(w, "max", l->max);
    med_json_end_object(w);
}

void med_replay_put_group(struct med_json_writer *w, const struct med_tally_group *g)
{
    put_count(w, "requests", g->requests);
    put_count(w, "finished", g->finished);
    med_json_put_integer(w, "input_tokens", g->input_tokens);
    med_json_put_integer(w, "output_tokens", g->output_tokens);
    med_replay_put_number(w, "attainment", g->attainment);
    for (int m = 0; m < MED_TALLY_METRICS; m++) {
        char key[32];
        (void)snprintf(key, sizeof key, "%s_ms", med_tally_metric_name((enum med_tally_metric)m));
        put_latency(w, key, &g->latency[m]);
    }
}

static void put_about(struct med_json_writer *w, const struct med_replay_about *a,
                      const struct med_tally *t)
{
    med_json_begin_object(w, "plan");
    med_json_put_string(w, "file", a->plan_file);
    med_json_put_string(w, "model", a->plan->model_name);
    med_json_put_string(w, "workload", a->plan->workload_name);
    put_count(w, "workers", a->result->planned_count);
    med_json_put_number(w, "cost_usd_per_hour", a->plan->cost_usd_per_hour);
    med_json_end_object(w);
    med_json_begin_object(w, "arrivals");
    med_json_put_string(w, "from", !a->source ? "plan" : a->source_is_log ? "trace" : "workload");
    med_json_put_string(w, "name", a->source ? a->source : a->plan->workload_name);
    med_json_put_string(w, "process", med_arrivals_process_name(a->process));
    med_replay_put_number(w, "burstiness", a->process == MED_ARRIVALS_GAMMA ? a->burstiness : NAN);
    med_replay_put_number(w, "speed", a->speed);
    med_json_put_number(w, "from_s", a->from_s);
    put_count(w, "seed", a->seed);
    put_count(w, "count", a->result->count);
    med_json_put_number(w, "warm_up_s", (double)a->warm_up_ns / 1e9);
    put_count(w, "warm_up_count", t->warm_up);
    med_replay_put_number(w, "rate_per_s", t->rate_per_s);
    med_json_put_number(w, "duration_s", t->duration_s);
    med_json_end_object(w);
    med_json_begin_object(w, "router");
    med_json_put_string(w, "policy", med_dispatch_policy_name(a->options->policy));
    put_count(w, "policy_seed", a->options->policy_seed);
    med_json_put_string(w, "admission", a->options->admission_off ? "queue" : "objective");
    med_json_put_integer(w, "queue_max", a->options->queue_max);
    med_json_put_number(w, "queue_wait_s", (double)a->options->queue_wait_ns / 1e9);
    med_json_put_integer(w, "requests_max", a->options->requests_max);
    med_json_put_number(w, "link_delay_ms", (double)a->options->link_delay_ns / 1e6);
    med_json_end_object(w);
}

static void put_ends(struct med_json_writer *w, const struct med_replay_about *a,
                     const struct med_tally *t)
{
    const struct med_dispatch_totals *totals = &a->result->totals;
    med_json_begin_object(w, "ends");
    put_count(w, "finished", t->all.finished);
    put_count(w, "refused_overload", t->refused_overload);
    put_count(w, "refused_invalid", t->refused_invalid);
    put_count(w, "rejected", t->rejected);
    put_count(w, "worker_lost", t->lost);
    put_count(w, "failed", t->failed);
    put_count(w, "outside_grid", t->outside);
    put_count(w, "outside_plan", t->outside_bucket);
    med_json_end_object(w);
    med_json_begin_object(w, "queueing");
    put_count(w, "picked", t->picked);
    put_count(w, "waited", t->waited);
    put_latency(w, "wait_ms", &t->wait);
    put_count(w, "spilled", totals->spills);
    put_count(w, "refused_admission", totals->refused_admission);
    put_count(w, "refused_queue", totals->refused_queue);
    put_count(w, "refused_table", totals->refused_table);
    med_json_end_object(w);
}

static void put_objectives(struct med_json_writer *w, const struct med_tally *t)
{
    med_json_begin_array(w, "objectives");
    for (size_t i = 0; i < t->objective_count; i++) {
        const struct med_tally_objective *o = &t->objectives[i];
        char name[96];
        med_slo_format(&o->slo, name, sizeof name);
        med_json_begin_row_object(w, NULL);
        med_json_put_string(w, "objective", name);
        med_replay_put_number(w, "observed_ms", o->observed_ms);
        med_json_put_bool(w, "met", o->met);
        med_replay_put_number(w, "share_within", o->share_within);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

static void put_types(struct med_json_writer *w, const struct med_replay_about *a,
                      const struct med_tally *t)
{
    med_json_begin_array(w, "worker_types");
    for (size_t i = 0; i < t->type_count; i++) {
        const struct med_tally_type *type = &t->types[i];
        med_json_begin_object(w, NULL);
        med_json_put_string(w, "worker_type", a->plan->profiles[type->profile].worker_type);
        put_count(w, "workers", type->workers);
        med_json_begin_row_object(w, "utilization");
        med_json_put_number(w, "mean", type->utilization_mean);
        med_json_put_number(w, "min", type->utilization_min);
        med_json_put_number(w, "max", type->utilization_max);
        med_json_end_object(w);
        put_count(w, "preemptions", type->preemptions);
        med_replay_put_group(w, &type->group);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

static void put_buckets(struct med_json_writer *w, const struct med_replay_about *a,
                        const struct med_tally *t)
{
    const struct med_grid *grid = &a->plan->grid;
    med_json_begin_array(w, "buckets");
    for (size_t i = 0; i < t->bucket_count; i++) {
        const struct med_tally_bucket *b = &t->buckets[i];
        med_json_begin_object(w, NULL);
        med_json_put_number(w, "input", grid->input_edges[b->input_row]);
        med_json_put_number(w, "output", grid->output_edges[b->output_row]);
        med_json_put_bool(w, "planned", b->planned);
        med_replay_put_group(w, &b->group);
        med_json_end_object(w);
    }
    med_json_end_array(w);
}

static void put_cost(struct med_json_writer *w, const struct med_tally *t)
{
    med_json_begin_object(w, "cost");
    med_replay_put_number(w, "usd_per_hour", t->usd_per_hour);
    med_replay_put_number(w, "usd", t->usd);
    med_replay_put_number(w, "usd_per_million_output_tokens", t->usd_per_million_output_tokens);
    med_replay_put_number(w, "usd_per_million_tokens", t->usd_per_million_tokens);
    med_replay_put_number(w, "usd_per_thousand_requests", t->usd_per_thousand_requests);
    med_json_end_object(w);
}

static void put_curve(struct med_json_writer *w, const char *key,
                      const double curve[MED_TALLY_CURVE])
{
    med_json_begin_row_array(w, key);
    for (int i = 0; i < MED_TALLY_CURVE; i++)
        med_replay_put_number(w, NULL, curve[i]);
    med_json_end_array(w);
}

int med_replay_report_json(struct med_buf *out, const struct med_replay_about *about,
                           const struct med_tally *tally, const struct med_timeline *timeline)
{
    struct med_json_writer w;
    med_json_writer_init(&w, out, true);
    med_json_begin_object(&w, NULL);
    med_json_put_string(&w, "format", "medley-replay/1");
    put_about(&w, about, tally);
    med_json_begin_object(&w, "all");
    med_replay_put_group(&w, &tally->all);
    med_json_end_object(&w);
    put_objectives(&w, tally);
    put_ends(&w, about, tally);
    put_types(&w, about, tally);
    put_buckets(&w, about, tally);
    put_cost(&w, tally);
    med_json_begin_object(&w, "percentiles");
    put_curve(&w, "ttft_ms", tally->ttft_curve);
    put_curve(&w, "tpot_ms", tally->tpot_curve);
    med_json_end_object(&w);
    med_replay_put_timeline(&w, about, tally, timeline);
    if (about->faults)
        med_fault_study_json(&w, about->faults, about->study);
    med_json_end_object(&w);
    return med_json_writer_finish(&w);
}

/* ---- rows ---- */

static const char *outcome_name(int outcome)
{
    switch (outcome) {
    case MED_E_OVERLOAD:
        return "refused_overload";
    case MED_E_INVALID:
        return "refused_invalid";
    default:
        return outcome < 0 ? "refused" : med_outcome_name((enum med_outcome)outcome);
    }
}

static void print_ms(FILE *file, double ms)
{
    if (isnan(ms)) {
        (void)fputc(',', file); /* ferror is asked at the end */
    } else {
        (void)fprintf(file, ",%.6f", ms);
    }
}

static void print_row(FILE *file, const struct med_replay_about *a, size_t index)
{
    const struct med_sim_arrival *arrival = &a->arrivals[index];
    const struct med_sim_request *row = &a->result->requests[index];
    bool begun = row->ttft_ns >= 0;
    (void)fprintf(file, "%zu,%.9f,%lld,%lld,%s,%s", index, (double)arrival->at_ns / 1e9,
                  (long long)arrival->input_tokens, (long long)arrival->output_tokens,
                  outcome_name(row->outcome),
                  begun ? a->plan->profiles[row->type].worker_type : "");
    print_ms(file, begun ? (double)row->picked_ns / 1e6 : NAN);
    print_ms(file, begun ? (double)row->ttft_ns / 1e6 : NAN);
    print_ms(file, med_tally_value_ms(arrival, row, MED_TALLY_TPOT));
    print_ms(file, med_tally_value_ms(arrival, row, MED_TALLY_E2E));
    (void)fputc('\n', file);
}

int med_replay_report_rows(const char *path, const struct med_replay_about *about,
                           const struct med_tally *tally, struct med_err *err)
{
    FILE *file = fopen(path, "wb");
    if (!file) {
        return med_err_set(err, MED_E_IO, "%s: cannot write it: %s", path,
                           med_os_errno_text(-errno));
    }
    (void)fputs("request,arrival_s,input_tokens,output_tokens,outcome,worker_type,wait_ms,ttft_ms,"
                "tpot_ms,e2e_ms\n",
                file);
    for (size_t i = tally->warm_up; i < about->result->count && !ferror(file); i++)
        print_row(file, about, i);
    bool failed = ferror(file) != 0;
    int code = failed ? errno : 0;
    if (fclose(file) != 0 && !failed) {
        failed = true;
        code = errno;
    }
    if (failed) {
        return med_err_set(err, MED_E_IO, "%s: cannot write it: %s", path,
                           med_os_errno_text(-code));
    }
    return 0;
}
