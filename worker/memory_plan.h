/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory plan of a worker with a real model: what it takes, before anything is taken.
 *
 * A share of the machine's memory is the budget.  Weights, intermediate results, the scheduler's
 * tables, the requests that are held and the process itself come out of it; what is left is the KV
 * cache, in whole blocks.  A size that the user gave is kept, or refused with what would fit instead;
 * one that the user did not give is fitted: sequences as long as the model knows them, and the cache
 * no larger than such sequences can use.
 *
 * A device may have memory of its own (a GPU).  Weights, intermediate results and KV cache lie there
 * then, beside a reserve for what the driver and its libraries take; its budget is a share of all it
 * has.  Scheduler, requests, process and staging buffers stay in the machine's memory, which has its
 * own share.  Both must do.
 *
 * All of it is taken before READY, except the memory of requests, which is bounded by its part of the
 * plan; so a worker that has come to READY does not run out of memory.
 *
 * A pure function. thread: any. errors: MED_E_USAGE with a sentence that says what is too large and
 * which value of which option would fit.
 */
#ifndef MED_WORKER_MEMORY_PLAN_H
#define MED_WORKER_MEMORY_PLAN_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The four sizes that the user may set; tokens, and sequences of a batch. */
struct med_memory_sizes {
    int64_t model_len_max, sequences_max, batched_tokens_max, kv_tokens;
};

/* Memory of a device's own; total_bytes 0: it has none. */
struct med_memory_device {
    int64_t total_bytes, free_bytes;
    double share;          /* of total_bytes; (0, 1] */
    int64_t reserve_bytes; /* for what is not ours: context, kernels, libraries */
    int64_t staging_bytes; /* of the machine's memory, for its sake */
};

struct med_memory_needs {
    int64_t machine_bytes;         /* all memory that this process may ever use */
    int64_t available_bytes;       /* what nobody uses now */
    double share;                  /* of machine_bytes; (0, 1] */
    struct med_memory_sizes given; /* 0: fit it */
    /* Where nothing is given; 0: 64 and 512. */
    int64_t sequences_default, batched_tokens_default;
    struct med_memory_device device;

    int64_t weight_bytes;
    int64_t kv_bytes_per_token;
    int64_t positions_max; /* of the model */
    int64_t block_tokens;
    int64_t threads;
    int64_t routers;
    bool prefix_cache;
    /* Intermediate results, for sizes (kv_tokens aside). */
    size_t (*workspace_bytes)(void *arg, const struct med_memory_sizes *sizes);
    void *arg;
};

struct med_memory_plan {
    struct med_memory_sizes sizes; /* kv_tokens: whole blocks */
    struct med_memory_sizes given; /* as in the needs: which were the user's */
    int64_t block_tokens, kv_blocks;
    int64_t table_max; /* requests held at all */
    int64_t machine_bytes, available_bytes, budget_bytes;
    double share;
    int64_t weight_bytes, workspace_bytes, scheduler_bytes, request_bytes, process_bytes, kv_bytes;
    int64_t staging_bytes;
    int64_t total_bytes; /* of the machine's: those that do not lie on the device */
    int64_t kv_bytes_per_token;
    struct med_memory_device device;
    int64_t device_budget_bytes, device_total_bytes; /* 0 without memory of its own */
};

int med_memory_plan_make(const struct med_memory_needs *needs, struct med_memory_plan *ret_plan,
                         struct med_err *err) MED_MUST_CHECK;

/* An upper bound of what med_scheduler_new takes, tables of the engine thread included. */
int64_t med_memory_scheduler_bytes(const struct med_memory_sizes *sizes, int64_t block_tokens,
                                   int64_t table_max, bool prefix_cache);

/* What the plan is about, for the two below. */
struct med_memory_title {
    const char *worker_type, *model, *model_dir, *architecture, *backend, *device;
    const char *dtype, *kv_dtype, *batching;
    int64_t parameters, threads;
    bool prefix_cache, deterministic;
};
/* A table for people, and the same as JSON. errors: the buffer's. */
int med_memory_plan_text(const struct med_memory_plan *plan, const struct med_memory_title *title,
                         struct med_buf *out) MED_MUST_CHECK;
int med_memory_plan_json(const struct med_memory_plan *plan, const struct med_memory_title *title,
                         struct med_buf *out) MED_MUST_CHECK;

#endif
