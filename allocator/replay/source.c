/* SPDX-License-Identifier: Apache-2.0 */
/* Where a replay's requests come from (see source.h). thread: main. */
#include "allocator/replay/source.h"

#include "allocator/resolve.h"
#include "base/alloc.h"

#include <math.h>

enum {
    REQUESTS_DEFAULT = 10000,
    MAX_TOKENS_DEFAULT = 2000 /* where a plan has no grid */
};

void med_replay_source_release(struct med_replay_source *s)
{
    if (s->has_workload)
        med_workload_release(&s->workload);
    if (s->has_log)
        med_request_log_release(&s->log);
    med_arrivals_release(&s->arrivals);
}

static int read_workload(const char *name, const char *data_dir, struct med_workload *ret_workload,
                         struct med_err *err)
{
    char *path = NULL;
    int rc = med_resolve(MED_RESOLVE_WORKLOAD, name, data_dir, &path, err);
    if (rc >= 0)
        rc = med_workload_read_file(path, ret_workload, err);
    med_free(path);
    return rc;
}

int med_replay_source_read(const struct med_replay_options *o, const struct med_plan *plan,
                           struct med_replay_source *s, struct med_err *err)
{
    int rc = 0;
    s->name = o->trace ? o->trace : o->workload;
    if (o->trace && o->workload) {
        return med_err_set(err, MED_E_USAGE,
                           "--trace and --workload both say what arrives, expected one of them");
    }
    if (o->workload) {
        rc = read_workload(o->workload, o->data_dir, &s->workload, err);
    } else if (!o->trace) {
        rc = med_arrivals_workload_from_plan(plan, &s->workload, err);
    }
    s->has_workload = rc >= 0 && !o->trace;
    const char *trace = o->trace;
    if (s->has_workload && s->workload.arrival == MED_ARRIVAL_TRACE)
        trace = s->workload.trace;
    if (rc >= 0 && trace) {
        rc = med_request_log_read_file(trace, &s->log, err);
        s->has_log = rc >= 0;
    }
    return rc;
}

/* Cuts off what lies before --from; times count from there on. */
static int log_cut(const struct med_replay_options *o, struct med_request_log *log,
                   struct med_err *err)
{
    double from_s = (double)o->from_ns / 1e9;
    size_t first = 0;
    while (first < log->count && log->rows[first].arrival_s < from_s)
        first++;
    if (first == log->count) {
        return med_err_set(err, MED_E_USAGE,
                           "--from: %g s is behind the log's last request, at %g s", from_s,
                           log->count > 0 ? log->rows[log->count - 1].arrival_s : 0.0);
    }
    double origin_s = log->rows[first].arrival_s;
    for (size_t i = first; i < log->count; i++) {
        log->rows[i - first] = log->rows[i];
        log->rows[i - first].arrival_s -= origin_s;
    }
    log->count -= first;
    return 0;
}

static enum med_arrivals_process process_of(const struct med_replay_options *o,
                                            const struct med_replay_source *s)
{
    if (o->arrival)
        return (enum med_arrivals_process)med_arrivals_process_parse(o->arrival);
    if (s->has_log)
        return MED_ARRIVALS_TRACE;
    return s->workload.arrival == MED_ARRIVAL_GAMMA ? MED_ARRIVALS_GAMMA : MED_ARRIVALS_POISSON;
}

/* The rate before --speed; 0: a log of one moment has none. */
static double rate_of(const struct med_replay_options *o, const struct med_plan *plan,
                      const struct med_replay_source *s)
{
    if (o->rate_per_s > 0)
        return o->rate_per_s;
    if (!s->has_log)
        return plan->rate_per_s;
    double span_s = s->log.count > 0 ? s->log.rows[s->log.count - 1].arrival_s : 0;
    return span_s > 0 ? (double)(s->log.count - 1) / span_s : 0;
}

int med_replay_source_schedule(const struct med_replay_options *o, const struct med_options *given,
                               const struct med_plan *plan, struct med_replay_source *s,
                               struct med_err *err)
{
    const struct med_grid *grid = &plan->grid;
    enum med_arrivals_process process = process_of(o, s);
    bool own_times = process == MED_ARRIVALS_TRACE && o->rate_per_s == 0 && o->speed == 1;
    int64_t most = s->has_log ? (int64_t)s->log.count : o->duration_ns > 0 ? 0 : REQUESTS_DEFAULT;
    if (o->from_ns > 0 && !s->has_log)
        return med_err_set(err, MED_E_USAGE, "--from applies to a request log, and there is none");
    if (s->has_log && o->from_ns > 0) {
        int rc = log_cut(o, &s->log, err);
        if (rc < 0)
            return rc;
        most = (int64_t)s->log.count;
    }
    s->config = (struct med_arrivals_config){
        .process = process,
        .rate_per_s = own_times ? 0 : rate_of(o, plan, s) * o->speed,
        .burstiness = med_options_given(given, "burstiness") ? o->burstiness
                      : s->has_workload                      ? s->workload.burstiness
                                                             : 1,
        .requests = o->requests > 0 ? o->requests : most,
        .duration_ns = o->duration_ns,
        .seed = (uint64_t)o->seed,
        .output_tokens_max = o->max_tokens > 0 ? o->max_tokens
                             : grid->output_edge_count > 0
                                 ? (int64_t)grid->output_edges[grid->output_edge_count - 1]
                                 : MAX_TOKENS_DEFAULT,
        .workload = s->has_workload ? &s->workload : NULL,
        .log = s->has_log ? &s->log : NULL,
    };
    return med_arrivals_make(&s->config, &s->arrivals, err);
}
