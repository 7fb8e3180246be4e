/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory plan as a table for people and as JSON (see memory_plan.h): what --dry-run prints.
 * thread: any.  Computes nothing but ratios.
 */
#include "worker/memory_plan.h"

#include "base/json.h"

#include <inttypes.h>

static double concurrency(const struct med_memory_plan *p)
{
    return (double)p->sizes.kv_tokens / (double)p->sizes.model_len_max;
}

/* Who chose a size. */
static const char *origin(int64_t given)
{
    return given > 0 ? "as given" : "fitted";
}

static int put_title(const struct med_memory_title *t, struct med_buf *out)
{
    int rc = med_buf_printf(out,
                            "worker type            %s\n"
                            "model                  %s, %s, %.4g billion parameters\n"
                            "model directory        %s\n"
                            "backend                %s, %s, %" PRId64 " threads%s\n",
                            t->worker_type, t->model, t->architecture, (double)t->parameters / 1e9,
                            t->model_dir, t->backend, t->device, t->threads,
                            t->deterministic ? ", deterministic" : "");
    if (rc < 0)
        return rc;
    return med_buf_printf(out,
                          "dtype                  %s, KV cache %s\n"
                          "batching               %s, prefix cache %s\n",
                          t->dtype, t->kv_dtype, t->batching, t->prefix_cache ? "on" : "off");
}

struct row {
    const char *name;
    int64_t bytes;
    const char *what;
};

/* One memory: what it has, what may be used of it, and what for. The rows end without a name. */
static int put_memory(const char *whose, const char *option, const struct med_memory_device *has,
                      int64_t budget, const struct row *rows, struct med_buf *out)
{
    int rc = med_buf_printf(out,
                            "%-22s %9.3f GB, %.3f GB of it free\n"
                            "may be used            %9.3f GB (%s %g)\n",
                            whose, (double)has->total_bytes / 1e9, (double)has->free_bytes / 1e9,
                            (double)budget / 1e9, option, has->share);
    for (; rows->name && rc >= 0; rows++) {
        rc = med_buf_printf(out, "  %-20s %9.3f GB%s%s\n", rows->name, (double)rows->bytes / 1e9,
                            rows->what[0] ? "  " : "", rows->what);
    }
    return rc;
}

static int put_memories(const struct med_memory_plan *p, struct med_buf *out)
{
    const struct med_memory_device machine = {
        .total_bytes = p->machine_bytes, .free_bytes = p->available_bytes, .share = p->share};
    const struct row one[] = {
        {"weights", p->weight_bytes, "mapped from the files"},
        {"intermediate results", p->workspace_bytes, ""},
        {"scheduler", p->scheduler_bytes, "tables of sequences and blocks"},
        {"requests", p->request_bytes, "at most; more are refused, not started"},
        {"process", p->process_bytes, "program, threads, links"},
        {"KV cache", p->kv_bytes, ""},
        {"total", p->total_bytes, ""},
        {"left of the share", p->budget_bytes - p->total_bytes, ""},
        {0},
    };
    const struct row device[] = {
        {"weights", p->weight_bytes, ""},
        {"intermediate results", p->workspace_bytes, ""},
        {"reserve", p->device.reserve_bytes, "context, kernels, libraries"},
        {"KV cache", p->kv_bytes, ""},
        {"total", p->device_total_bytes, ""},
        {"left of the share", p->device_budget_bytes - p->device_total_bytes, ""},
        {0},
    };
    const struct row host[] = {
        {"scheduler", p->scheduler_bytes, "tables of sequences and blocks"},
        {"requests", p->request_bytes, "at most; more are refused, not started"},
        {"process", p->process_bytes, "program, threads, links"},
        {"staging", p->staging_bytes, "driver, pinned buffers"},
        {"total", p->total_bytes, ""},
        {"left of the share", p->budget_bytes - p->total_bytes, ""},
        {0},
    };
    if (p->device.total_bytes == 0)
        return put_memory("memory", "--memory-utilization", &machine, p->budget_bytes, one, out);
    int rc = put_memory("GPU memory", "--gpu-memory-utilization", &p->device,
                        p->device_budget_bytes, device, out);
    return rc < 0
               ? rc
               : put_memory("memory", "--memory-utilization", &machine, p->budget_bytes, host, out);
}

int med_memory_plan_text(const struct med_memory_plan *p, const struct med_memory_title *title,
                         struct med_buf *out)
{
    int rc = put_title(title, out);
    if (rc >= 0)
        rc = put_memories(p, out);
    if (rc >= 0) {
        rc = med_buf_printf(out,
                            "KV tokens              %9" PRId64 ", %" PRId64 " blocks of %" PRId64
                            ", %" PRId64 " bytes per token, %s\n",
                            p->sizes.kv_tokens, p->kv_blocks, p->block_tokens,
                            p->kv_bytes_per_token, origin(p->given.kv_tokens));
    }
    if (rc >= 0) {
        rc = med_buf_printf(out,
                            "max-model-len          %9" PRId64 " tokens, %s\n"
                            "max-num-seqs           %9" PRId64 ", %s\n"
                            "max-num-batched-tokens %9" PRId64 ", %s\n"
                            "maximum concurrency    %9.2f requests of %" PRId64 " tokens\n",
                            p->sizes.model_len_max, origin(p->given.model_len_max),
                            p->sizes.sequences_max, origin(p->given.sequences_max),
                            p->sizes.batched_tokens_max, origin(p->given.batched_tokens_max),
                            concurrency(p), p->sizes.model_len_max);
    }
    return rc;
}

static void json_title(struct med_json_writer *w, const struct med_memory_title *t)
{
    med_json_put_string(w, "worker_type", t->worker_type);
    med_json_put_string(w, "model", t->model);
    med_json_put_string(w, "model_dir", t->model_dir);
    med_json_put_string(w, "architecture", t->architecture);
    med_json_put_integer(w, "parameters", t->parameters);
    med_json_put_string(w, "backend", t->backend);
    med_json_put_string(w, "device", t->device);
    med_json_put_integer(w, "threads", t->threads);
    med_json_put_bool(w, "deterministic", t->deterministic);
    med_json_put_string(w, "dtype", t->dtype);
    med_json_put_string(w, "kv_cache_dtype", t->kv_dtype);
    med_json_put_string(w, "batching", t->batching);
    med_json_put_bool(w, "prefix_cache", t->prefix_cache);
}

struct number {
    const char *name;
    int64_t value;
};

/* The rows end without a name. */
static void json_bytes(struct med_json_writer *w, const struct number *rows)
{
    med_json_begin_object(w, "bytes");
    for (; rows->name; rows++)
        med_json_put_integer(w, rows->name, rows->value);
    med_json_end_object(w);
}

static void json_device(struct med_json_writer *w, const struct med_memory_plan *p)
{
    const struct number rows[] = {
        {"memory", p->device.total_bytes},
        {"free", p->device.free_bytes},
        {"budget", p->device_budget_bytes},
        {"weights", p->weight_bytes},
        {"workspace", p->workspace_bytes},
        {"reserve", p->device.reserve_bytes},
        {"kv_cache", p->kv_bytes},
        {"total", p->device_total_bytes},
        {0},
    };
    med_json_begin_object(w, "gpu");
    med_json_put_number(w, "memory_utilization", p->device.share);
    json_bytes(w, rows);
    med_json_end_object(w);
}

int med_memory_plan_json(const struct med_memory_plan *p, const struct med_memory_title *title,
                         struct med_buf *out)
{
    const bool has_device = p->device.total_bytes > 0; /* what lies there is not in these */
    const struct number rows[] = {
        {"machine", p->machine_bytes},
        {"available", p->available_bytes},
        {"budget", p->budget_bytes},
        {"weights", has_device ? 0 : p->weight_bytes},
        {"workspace", has_device ? 0 : p->workspace_bytes},
        {"scheduler", p->scheduler_bytes},
        {"requests", p->request_bytes},
        {"process", p->process_bytes},
        {"staging", p->staging_bytes},
        {"kv_cache", has_device ? 0 : p->kv_bytes},
        {"total", p->total_bytes},
        {"kv_per_token", p->kv_bytes_per_token},
        {0},
    };
    struct med_json_writer w;
    med_json_writer_init(&w, out, true);
    med_json_begin_object(&w, NULL);
    json_title(&w, title);
    med_json_put_number(&w, "memory_utilization", p->share);
    json_bytes(&w, rows);
    if (has_device)
        json_device(&w, p);
    med_json_put_integer(&w, "block_tokens", p->block_tokens);
    med_json_put_integer(&w, "kv_blocks", p->kv_blocks);
    med_json_put_integer(&w, "kv_tokens", p->sizes.kv_tokens);
    med_json_put_integer(&w, "max_model_len", p->sizes.model_len_max);
    med_json_put_integer(&w, "max_num_seqs", p->sizes.sequences_max);
    med_json_put_integer(&w, "max_num_batched_tokens", p->sizes.batched_tokens_max);
    med_json_put_integer(&w, "requests_max", p->table_max);
    med_json_put_number(&w, "maximum_concurrency", concurrency(p));
    med_json_end_object(&w);
    return med_json_writer_finish(&w);
}
