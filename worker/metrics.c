/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's metrics (see metrics.h).
 *
 * One table names every plain value with its type and help, a second one the histograms.  The vLLM
 * names carry the label model_name, as vLLM's do.
 * thread: loop.  Reads the copies it is given, touches no engine.
 */
#include "worker/metrics.h"

#include "router/prometheus.h"

#include <inttypes.h>
#include <stdio.h>

enum {
    NUMBER_BYTES = 24
};

static void write_values(const struct med_metrics *m, struct med_prom *prom,
                         const struct med_prom_label *model)
{
    const struct med_scheduler_stats *s = &m->engine.scheduler;
    double used = 1 - (double)s->kv_blocks_free / (double)s->kv_blocks_total;
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        {"vllm:num_requests_running", "gauge", "Requests in the running batch.",
         (double)s->running},
        {"vllm:num_requests_waiting", "gauge", "Requests waiting to be admitted.",
         (double)m->waiting},
        {"vllm:kv_cache_usage_perc", "gauge", "Share of KV blocks in use; 1 is all.", used},
        {"vllm:prompt_tokens_total", "counter", "Tokens prefilled, recomputation included.",
         (double)s->prompt_tokens_total},
        {"vllm:generation_tokens_total", "counter", "Tokens generated.",
         (double)s->generated_tokens_total},
        {"vllm:num_preemptions_total", "counter", "Sequences preempted, to be recomputed.",
         (double)s->preemptions},
        {"vllm:prefix_cache_queries_total", "counter",
         "Prompt tokens looked up in the prefix cache.", (double)s->prefix_queries_total},
        {"vllm:prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache.",
         (double)s->prefix_hits_total},
        {"medley_worker_prefix_cache_blocks", "gauge",
         "KV blocks that a prompt can find, in use or not.", (double)s->kv_blocks_cached},
        {"medley_worker_prefix_cache_evictions_total", "counter",
         "KV blocks that the prefix cache gave up for others.", (double)s->prefix_evictions_total},
        {"medley_worker_request_bytes", "gauge", "Memory of the requests that are held.",
         (double)m->request_bytes},
        {"medley_worker_iterations_total", "counter", "Engine iterations.", (double)s->iterations},
        {"medley_worker_iterations_ahead_total", "counter",
         "Engine iterations that were planned while the one before ran.",
         (double)s->iterations_ahead},
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
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        med_prom_family(prom, rows[i].name, rows[i].type, rows[i].help);
        med_prom_number(prom, model, rows[i].value);
    }
    if (m->lateness_ns < 0)
        return;
    med_prom_family(prom, "medley_worker_emulation_lateness_seconds", "gauge",
                    "How far the last step's end lay behind the emulated device's.");
    med_prom_number(prom, model, (double)m->lateness_ns / (double)MED_NS_PER_S);
}

static void write_ends(const struct med_metrics *m, struct med_prom *prom)
{
    static const struct {
        enum med_engine_end end;
        const char *reason;
    } rows[] = {{MED_ENGINE_STOP, "stop"},
                {MED_ENGINE_LENGTH, "length"},
                {MED_ENGINE_CANCEL, "abort"},
                {MED_ENGINE_ERROR, "error"}};
    med_prom_family(prom, "vllm:request_success_total", "counter", "Requests by how they ended.");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct med_prom_label labels[] = {
            {"model_name", m->model}, {"finished_reason", rows[i].reason}, {0}};
        uint64_t count = m->engine.ends[rows[i].end];
        if (rows[i].end == MED_ENGINE_ERROR)
            count += m->engine.ends[MED_ENGINE_FAILED];
        med_prom_count(prom, labels, count);
    }
}

static void write_infos(const struct med_metrics *m, struct med_prom *prom)
{
    char block_size[NUMBER_BYTES], blocks[NUMBER_BYTES];
    (void)snprintf(block_size, sizeof block_size, "%" PRId64, m->block_tokens);
    (void)snprintf(blocks, sizeof blocks, "%" PRId64, m->engine.scheduler.kv_blocks_total);
    const struct med_prom_label sizes[] = {
        {"block_size", block_size},
        {"num_gpu_blocks", blocks},
        {"enable_prefix_caching", m->prefix_cache ? "True" : "False"},
        {0}};
    med_prom_family(prom, "vllm:cache_config_info", "gauge", "Sizes of the KV cache.");
    med_prom_number(prom, sizes, 1);
    const struct med_prom_label worker[] = {
        {"worker_id", m->worker_id}, {"worker_type", m->worker_type},
        {"model", m->model},         {"backend", m->backend},
        {"dtype", m->dtype},         {0}};
    med_prom_family(prom, "medley_worker_info", "gauge", "What this worker is.");
    med_prom_number(prom, worker, 1);
    const struct med_prom_label build[] = {{"version", MED_VERSION}, {0}};
    med_prom_family(prom, "medley_worker_build_info", "gauge", "The program's version.");
    med_prom_number(prom, build, 1);
    med_prom_family(prom, "medley_worker_link_up", "gauge", "1 while a router is connected.");
    for (size_t i = 0; i < m->link_count; i++) {
        const struct med_prom_label link[] = {{"router", m->links[i].address}, {0}};
        med_prom_number(prom, link, m->links[i].up);
    }
}

static void write_hists(const struct med_metrics *m, struct med_prom *prom,
                        const struct med_prom_label *model)
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
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        med_prom_family(prom, rows[i].name, "histogram", rows[i].help);
        med_prom_hist(prom, model, rows[i].hist);
    }
}

int med_metrics_write(const struct med_metrics *metrics, struct med_buf *out)
{
    const struct med_prom_label model[] = {{"model_name", metrics->model}, {0}};
    struct med_prom prom;
    med_prom_init(&prom, out);
    write_infos(metrics, &prom);
    write_values(metrics, &prom, model);
    write_ends(metrics, &prom);
    write_hists(metrics, &prom, model);
    if (metrics->device)
        med_metrics_write_device(metrics->device, &prom, metrics->model);
    return med_prom_finish(&prom);
}
