/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medley replay: runs plans against a request log or a workload on a virtual clock, and reports.
 *
 * Makes one schedule of arrivals that every run shares, runs each
 * plan under each policy (runs.c), and prints one run in full, or several side by side.  Results go to
 * standard output, one sentence on failure to standard error.  thread: main.
 */
#include "allocator/output.h"
#include "allocator/replay/mixes.h"
#include "allocator/replay/report/report.h"
#include "allocator/replay/runs.h"
#include "allocator/replay/source.h"
#include "allocator/resolve.h"
#include "base/alloc.h"
#include "base/limits.h"
#include "base/options.h"

#include <math.h>
#include <string.h>

static int write_page(const char *path, const struct med_buf *json, struct med_err *err)
{
    struct med_buf page;
    med_buf_init(&page, (size_t)2 * MED_LIMIT_JSON_BYTES);
    int rc = med_replay_report_html(&page, json);
    rc = rc < 0 ? med_err_set(err, rc, "--html %s: %s", path, med_err_text(rc))
                : med_output_write_file(path, &page, err);
    med_buf_release(&page);
    return rc;
}

static int print_and_write(const struct med_replay_options *o, struct med_buf *text,
                           struct med_buf *json, struct med_err *err)
{
    int rc = o->output ? med_output_write_file(o->output, json, err) : 0;
    if (rc >= 0 && o->html)
        rc = write_page(o->html, json, err);
    return rc < 0 ? rc : med_output_print(o->json ? json : text, err);
}

static int report(const struct med_replay_options *o, const struct med_replay_runs *runs,
                  const struct med_replay_source *s, struct med_err *err)
{
    struct med_replay_about about = {
        .source = s->name,
        .source_is_log = o->trace != NULL,
        .process = s->config.process,
        .burstiness = s->config.burstiness,
        .speed = o->rate_per_s > 0 ? NAN : o->speed,
        .from_s = (double)o->from_ns / 1e9,
        .seed = (uint64_t)o->seed,
        .warm_up_ns = o->warm_up_ns,
        .arrivals = s->arrivals.items,
    };
    struct med_buf text, json;
    med_buf_init(&text, MED_LIMIT_JSON_BYTES);
    med_buf_init(&json, MED_LIMIT_JSON_BYTES);
    bool colour = med_output_wants_colour();
    int rc = med_replay_runs_text(&text, runs, &about, colour);
    if (rc >= 0)
        rc = med_replay_runs_json(&json, runs, &about);
    if (rc < 0) {
        rc = med_err_set(err, rc, "the result: %s", med_err_text(rc));
    } else {
        rc = print_and_write(o, &text, &json, err);
    }
    if (rc >= 0 && o->rows)
        rc = med_replay_runs_rows(o->rows, runs, &about, err);
    med_buf_release(&text);
    med_buf_release(&json);
    return rc;
}

static int read_faults(const struct med_replay_options *o, struct med_fault_schedule *schedule,
                       struct med_replay_runs *runs, struct med_err *err)
{
    if (o->gone_after_ns < o->suspect_after_ns) {
        return med_err_set(err, MED_E_USAGE,
                           "--gone-after: found %.3g s, expected at least --suspect-after, %.3g s",
                           (double)o->gone_after_ns / 1e9, (double)o->suspect_after_ns / 1e9);
    }
    if (!o->faults)
        return 0;
    runs->faults = schedule;
    runs->options.resume = strcmp(o->resume, "on") == 0;
    runs->options.suspect_after_ns = o->suspect_after_ns;
    runs->options.gone_after_ns = o->gone_after_ns;
    return med_fault_schedule_parse(o->faults, (uint64_t)o->fault_seed, schedule, err);
}

static int add_mixes(const struct med_replay_options *o, struct med_replay_runs *runs,
                     struct med_err *err)
{
    struct med_catalogue catalogue;
    char *path = NULL;
    int rc = med_resolve(MED_RESOLVE_CATALOGUE, o->catalogue, o->data_dir, &path, err);
    if (rc >= 0)
        rc = med_catalogue_read_file(path, &catalogue, err);
    med_free(path);
    if (rc < 0)
        return rc;
    rc = med_replay_mixes_add(runs, o->mixes.values, o->mixes.count, &catalogue, o->compare, err);
    med_catalogue_release(&catalogue);
    return rc;
}

static int replay(const struct med_replay_options *o, const struct med_options *given,
                  struct med_err *err)
{
    struct med_fault_schedule faults = {0};
    struct med_replay_runs runs = {.warm_up_ns = o->warm_up_ns};
    struct med_replay_source source = {0};
    enum med_dispatch_policy policy = MED_POLICY_PLAN;
    (void)med_dispatch_policy_parse(o->policy, &policy); /* the option's choices are its names */
    runs.options = (struct med_sim_options){.queue_wait_ns = o->queue_wait_ns,
                                            .queue_max = o->queue_max,
                                            .admission_off = strcmp(o->admission, "queue") == 0,
                                            .policy = policy,
                                            .policy_seed = (uint64_t)o->policy_seed,
                                            .link_delay_ns = o->link_delay_ns,
                                            .requests_max = o->requests_max};
    int rc = read_faults(o, &faults, &runs, err);
    if (rc >= 0) {
        rc = med_replay_runs_read(&runs, given->positional, (size_t)given->positional_count,
                                  o->compare, err);
    }
    if (rc >= 0 && o->mixes.count > 0)
        rc = add_mixes(o, &runs, err);
    if (rc >= 0 && o->slo) {
        rc = med_slos_parse(o->slo, &runs.slos, err);
        runs.has_slos = true;
    }
    if (rc >= 0 && o->rows && runs.count > 1) {
        rc = med_err_set(err, MED_E_USAGE,
                         "--rows: found %zu runs, expected one plan and one policy", runs.count);
    }
    if (rc >= 0)
        rc = med_replay_source_read(o, &runs.plans[0], &source, err);
    if (rc >= 0)
        rc = med_replay_source_schedule(o, given, &runs.plans[0], &source, err);
    if (rc >= 0)
        rc = med_replay_runs_do(&runs, source.arrivals.items, source.arrivals.count, err);
    if (rc >= 0)
        rc = report(o, &runs, &source, err);
    med_replay_source_release(&source);
    med_replay_runs_release(&runs);
    med_fault_schedule_release(&faults);
    return rc;
}

int main(int argc, char **argv)
{
    struct med_replay_options settings = {0};
    struct med_options given;
    int exit_status = 0;
    if (med_options_main(&med_replay_program, argc, argv, &settings, &given, &exit_status) ==
        MED_OPTIONS_DONE) {
        med_options_release(&given);
        return exit_status;
    }
    struct med_err err = {0};
    int rc = replay(&settings, &given, &err);
    if (rc < 0)
        (void)fprintf(stderr, "%s: %s\n", med_replay_program.name, err.text);
    med_options_release(&given);
    return med_err_exit_status(rc < 0 ? rc : 0);
}
