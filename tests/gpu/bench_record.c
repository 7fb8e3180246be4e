/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a step costs beside its kernels: 160 small kernels and one that is busy for a while stand for a
 * model.  Prints per batch size: the time of a run call, of a step alone, of a step with the next one
 * queued behind it, and how much of a core the process took.
 */
#include "tests/gpu/gpu.h"
#include "tests/gpu/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    ITEMS = 128,
    LENGTH = 4096,
    BLOCK = 16,
    STRIDE = LENGTH / BLOCK,
    STEPS = 150,
    KERNELS = 160
};

struct model {
    struct med_cuda *d;
    int64_t busy_ns;
};

static int forward(void *arg, const struct med_ops_batch *batch)
{
    const struct model *m = arg;
    int rc = 0;
    (void)batch;
    for (int i = 0; rc == 0 && i < KERNELS; i++)
        rc = gpu_busy(m->d, 0);
    return rc == 0 ? gpu_busy(m->d, m->busy_ns) : rc;
}

static double now_s(clockid_t clock)
{
    struct timespec t;
    (void)clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int32_t zeros[ITEMS], ones[ITEMS], places[ITEMS + 1], tables[ITEMS * STRIDE];

static struct med_ops_batch batch_of(int n, int context)
{
    for (int i = 0; i <= n; i++)
        places[i] = i;
    for (int i = 0; i < n; i++)
        ones[i] = context;
    return (struct med_ops_batch){.rows = n,
                                  .items = n,
                                  .samples = n,
                                  .ids = (const uint32_t *)zeros,
                                  .sources = zeros,
                                  .positions = ones,
                                  .slots = zeros,
                                  .head_rows = places,
                                  .item_rows = places,
                                  .contexts = ones,
                                  .tables = tables,
                                  .table_stride = STRIDE};
}

static void measure(struct model *m, const char *how, int n, bool ahead)
{
    const struct med_ops *ops = med_cuda_ops();
    struct med_ops_batch batch = batch_of(n, 600);
    double run_s = 0, begun_s = 0, cpu_s = 0;
    int rc = 0;
    for (int step = -20; rc == 0 && step < STEPS; step++) {
        if (step == 0) {
            run_s = 0;
            begun_s = now_s(CLOCK_MONOTONIC);
            cpu_s = now_s(CLOCK_PROCESS_CPUTIME_ID);
        }
        int slot = (step + 20) % 2;
        double before_s = now_s(CLOCK_MONOTONIC);
        rc = ops->run(m->d, &batch, forward, m);
        run_s += now_s(CLOCK_MONOTONIC) - before_s;
        if (rc == 0)
            rc = ops->mark(m->d, slot);
        if (rc == 0 && (!ahead || step > -20))
            rc = ops->wait(m->d, ahead ? 1 - slot : slot);
    }
    double took_s = now_s(CLOCK_MONOTONIC) - begun_s;
    cpu_s = now_s(CLOCK_PROCESS_CPUTIME_ID) - cpu_s;
    gpu_report("step", rc == 0,
               "%-9s %-9s batch %3d, kernels' %5.0f us: run %6.1f us, step %7.1f us, core %3.0f %%",
               how, ahead ? "one ahead" : "alone", n, (double)m->busy_ns / 1e3, run_s / STEPS * 1e6,
               took_s / STEPS * 1e6, cpu_s / took_s * 100);
}

static void forward_once(void *arg, int index)
{
    (void)index;
    if (forward(arg, NULL) < 0)
        exit(1);
}

int main(void)
{
    static const int64_t busy_ns[] = {0, 1000000, 5000000};
    for (int k = 0; k < 6; k++) {
        const struct med_cuda_config config = {.no_graphs = k % 2,
                                               .watchdog_ns = INT64_C(10000000000)};
        struct med_model_config shape = gpu_model(256, 4, 2, 64, 512, 1000);
        const struct med_ops_sizes sizes = {.model = &shape,
                                            .dtype = MED_DTYPE_BF16,
                                            .kv_dtype = MED_DTYPE_BF16,
                                            .rows_max = 2048,
                                            .items_max = ITEMS,
                                            .samples_max = ITEMS,
                                            .model_len_max = LENGTH,
                                            .block_tokens = BLOCK};
        struct med_err err = {0};
        struct model m = {.d = gpu_device(&config, &sizes), .busy_ns = busy_ns[k / 2]};
        if (med_cuda_ops()->record(m.d, forward, &m, &err) < 0)
            return gpu_report("record", false, "%s", err.text);
        struct med_cuda_facts facts;
        if (med_cuda_facts_read(0, &facts, &err) < 0)
            return gpu_report("facts", false, "%s", err.text);
        struct gpu_time alone = gpu_time(m.d, forward_once, &m, 1, 100, k % 2 == 0);
        gpu_report("record", true,
                   "%lld graphs in %.3f s, %.2f GiB free; the kernels alone %.1f us",
                   (long long)m.d->stats.graphs, m.d->stats.record_seconds,
                   (double)facts.free_bytes / 0x1p30, alone.median_us);
        for (int ahead = 0; ahead < 2; ahead++) {
            measure(&m, k % 2 ? "queued" : "replayed", 1, ahead);
            measure(&m, k % 2 ? "queued" : "replayed", 100, ahead);
        }
        med_cuda_free(m.d);
    }
    return gpu_finish();
}
