/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's metrics (see metrics.h).
 *
 * One table names every plain value with its type, unit and help; histograms follow from a second
 * one.  The vLLM names carry the label model_name, as vLLM's do.  A failed append stops the writing
 * and is returned; the text is then incomplete and must not be served.
 * thread: loop.  Reads the copies it is given, touches no engine.
 */
#include "worker/metrics.h"

#include <inttypes.h>

/* label="value" with what the format wants escaped. */
static int write_label(struct med_buf *out, const char *name, const char *value)
{
    int rc = med_buf_printf(out, "%s=\"", name);
    for (const char *c = value; rc >= 0 && *c; c++) {
        if (*c == '\\' || *c == '"') {
            rc = med_buf_printf(out, "\\%c", *c);
        } else if (*c == '\n') {
            rc = med_buf_append_str(out, "\\n");
        } else {
            rc = med_buf_append(out, c, 1);
        }
    }
    return rc < 0 ? rc : med_buf_append_str(out, "\"");
}

static int write_head(struct med_buf *out, const char *name, const char *type, const char *help)
{
    return med_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static int write_value(const struct med_metrics *m, struct med_buf *out, const char *name,
                       const char *more, double value)
{
    int rc = med_buf_printf(out, "%s{", name);
    if (rc >= 0)
        rc = write_label(out, "model_name", m->model);
    return rc < 0 ? rc : med_buf_printf(out, "%s} %.17g\n", more, value);
}

static int write_values(const struct med_metrics *m, struct med_buf *out)
{
    const struct med_scheduler_stats *s = &m->engine.scheduler;
    double blocks = (double)s->kv_blocks_total;
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        {"vllm:num_requests_running", "gauge", "Requests in the running batch.",
         (double)s->running},
        {"vllm:num_requests_waiting", "gauge", "Requests waiting to be admitted.",
         (double)m->waiting},
        {"vllm:kv_cache_usage_perc", "gauge", "Share of KV blocks in use; 1 is all.",
         1 - (double)s->kv_blocks_free / blocks},
        {"vllm:prompt_tokens_total", "counter", "Tokens prefilled, recomputation included.",
         (double)s->prompt_tokens_total},
        {"vllm:generation_tokens_total", "counter", "Tokens generated.",
         (double)s->generated_tokens_total},
        {"vllm:num_preemptions_total", "counter", "Sequences preempted, to be recomputed.",
         (double)s->preemptions},
        {"medley_worker_iterations_total", "counter", "Engine iterations.", (double)s->iterations},
        {"medley_worker_step_seconds_total", "counter", "Time spent in engine iterations.",
         m->engine.step_seconds},
        {"medley_worker_heartbeat_age_seconds", "gauge", "Since the engine loop's last turn.",
         (double)m->heartbeat_age_ns / (double)MED_NS_PER_S},
        {"medley_worker_draining", "gauge", "1 while no new requests are taken.", m->draining},
        {"medley_worker_failed", "gauge", "1 when the engine is dead.", m->engine.failed},
        {"medley_worker_requests_refused_total", "counter",
         "Requests not started: full or draining.", (double)m->refused},
        {"medley_worker_requests_invalid_total", "counter",
         "Requests answered with an error before they began.", (double)m->rejected},
    };
    int rc = 0;
    for (size_t i = 0; rc >= 0 && i < sizeof rows / sizeof rows[0]; i++) {
        rc = write_head(out, rows[i].name, rows[i].type, rows[i].help);
        if (rc >= 0)
            rc = write_value(m, out, rows[i].name, "", rows[i].value);
    }
    return rc;
}

static int write_ends(const struct med_metrics *m, struct med_buf *out)
{
    static const struct {
        enum med_engine_end end;
        const char *label;
    } reasons[] = {{MED_ENGINE_STOP, ",finished_reason=\"stop\""},
                   {MED_ENGINE_LENGTH, ",finished_reason=\"length\""},
                   {MED_ENGINE_CANCEL, ",finished_reason=\"abort\""}};
    int rc =
        write_head(out, "vllm:request_success_total", "counter", "Requests by how they ended.");
    for (size_t i = 0; rc >= 0 && i < sizeof reasons / sizeof reasons[0]; i++) {
        rc = write_value(m, out, "vllm:request_success_total", reasons[i].label,
                         (double)m->engine.ends[reasons[i].end]);
    }
    return rc;
}

static int write_infos(const struct med_metrics *m, struct med_buf *out)
{
    int rc = write_head(out, "vllm:cache_config_info", "gauge", "Sizes of the KV cache.");
    if (rc >= 0) {
        rc = med_buf_printf(out,
                            "vllm:cache_config_info{block_size=\"%" PRId64
                            "\",num_gpu_blocks=\"%" PRId64 "\"} 1\n",
                            m->block_tokens, m->engine.scheduler.kv_blocks_total);
    }
    if (rc >= 0)
        rc = write_head(out, "medley_worker_info", "gauge", "What this worker is.");
    const char *const labels[][2] = {{"worker_id", m->worker_id},
                                     {"worker_type", m->worker_type},
                                     {"model", m->model},
                                     {"backend", m->backend},
                                     {"version", MED_VERSION}};
    for (size_t i = 0; rc >= 0 && i < sizeof labels / sizeof labels[0]; i++) {
        rc = med_buf_append_str(out, i == 0 ? "medley_worker_info{" : ",");
        if (rc >= 0)
            rc = write_label(out, labels[i][0], labels[i][1]);
    }
    if (rc >= 0)
        rc = med_buf_append_str(out, "} 1\n");
    return rc;
}

static int write_links(const struct med_metrics *m, struct med_buf *out)
{
    int rc = write_head(out, "medley_worker_link_up", "gauge", "1 while a router is connected.");
    for (size_t i = 0; rc >= 0 && i < m->link_count; i++) {
        rc = med_buf_append_str(out, "medley_worker_link_up{");
        if (rc >= 0)
            rc = write_label(out, "router", m->links[i].address);
        if (rc >= 0)
            rc = med_buf_printf(out, "} %d\n", m->links[i].up);
    }
    if (rc < 0 || m->lateness_ns < 0)
        return rc;
    rc = write_head(out, "medley_worker_emulation_lateness_seconds", "gauge",
                    "How far the last step's end lay behind the emulated device's.");
    return rc < 0 ? rc
                  : write_value(m, out, "medley_worker_emulation_lateness_seconds", "",
                                (double)m->lateness_ns / (double)MED_NS_PER_S);
}

static int write_hist(const struct med_metrics *m, struct med_buf *out, const char *name,
                      const struct med_hist *hist)
{
    uint64_t below = 0;
    int rc = 0;
    for (size_t i = 0; rc >= 0 && i <= hist->bound_count; i++) {
        below += hist->counts[i];
        rc = med_buf_printf(out, "%s_bucket{", name);
        if (rc >= 0)
            rc = write_label(out, "model_name", m->model);
        if (rc < 0)
            return rc;
        if (i < hist->bound_count) {
            rc = med_buf_printf(out, ",le=\"%g\"} %" PRIu64 "\n", hist->bounds[i], below);
        } else {
            rc = med_buf_printf(out, ",le=\"+Inf\"} %" PRIu64 "\n", below);
        }
    }
    static const char *const parts[] = {"_sum{", "_count{"};
    for (int i = 0; rc >= 0 && i < 2; i++) {
        rc = med_buf_printf(out, "%s%s", name, parts[i]);
        if (rc >= 0)
            rc = write_label(out, "model_name", m->model);
        if (rc >= 0) {
            rc = i == 0 ? med_buf_printf(out, "} %.17g\n", hist->sum)
                        : med_buf_printf(out, "} %" PRIu64 "\n", hist->count);
        }
    }
    return rc;
}

static int write_hists(const struct med_metrics *m, struct med_buf *out)
{
    const struct med_engine_stats *e = &m->engine;
    const struct {
        const char *name, *help;
        const struct med_hist *hist;
    } rows[] = {
        {"vllm:time_to_first_token_seconds", "From arrival to the first token.", &e->ttft},
        {"vllm:inter_token_latency_seconds", "Gaps between tokens.", &e->itl},
        {"vllm:request_time_per_output_token_seconds",
         "(E2E - TTFT) / (tokens - 1) of finished requests with two tokens or more.", &e->tpot},
        {"vllm:e2e_request_latency_seconds", "From arrival to the last token.", &e->e2e},
        {"vllm:request_queue_time_seconds", "From arrival to the first batch.", &e->queue},
        {"vllm:request_prefill_time_seconds", "From the first batch to the first token.",
         &e->prefill},
        {"vllm:request_decode_time_seconds", "From the first token to the last.", &e->decode},
    };
    int rc = 0;
    for (size_t i = 0; rc >= 0 && i < sizeof rows / sizeof rows[0]; i++) {
        rc = write_head(out, rows[i].name, "histogram", rows[i].help);
        if (rc >= 0)
            rc = write_hist(m, out, rows[i].name, rows[i].hist);
    }
    return rc;
}

int med_metrics_write(const struct med_metrics *metrics, struct med_buf *out)
{
    int (*const parts[])(const struct med_metrics *, struct med_buf *) = {
        write_infos, write_values, write_ends, write_links, write_hists};
    int rc = 0;
    for (size_t i = 0; rc >= 0 && i < sizeof parts / sizeof parts[0]; i++)
        rc = parts[i](metrics, out);
    return rc < 0 ? rc : 0;
}
