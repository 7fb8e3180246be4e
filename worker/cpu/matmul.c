/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of matrices: in W' with W as the checkpoint stores it.
 *
 * The outputs are split between the threads, so each weight is read by one thread.  From BLAS_ROWS
 * rows on a thread hands its panel to the BLAS, widening weights that are not float32 in pieces that
 * stay in its cache; below, always in deterministic mode, and where the BLAS does not know the processor, the inner loops of kernels.h read the
 * weights as they are stored.
 *
 * The BLAS is told to use one thread and is called from each of ours; its calls share nothing.
 * thread: engine, and pieces on the pool's.
 */
#include "worker/cpu/internal.h"

#include "base/assert.h"

#include <cblas.h>
#include <stdio.h>
#include <strings.h>

enum {
    BLAS_ROWS = 40,  /* measured: see docs/internals/cpu.md */
    BLAS_OUTS = 256, /* outputs of one call of the BLAS at least: each packs all rows again */
    OUT_GRAIN = 16,  /* outputs of a thread are a multiple of this */
    SMALL = 1 << 16, /* products of fewer multiplications are not worth waking a thread */
};

struct panels {
    struct med_cpu *cpu;
    const struct med_cpu_product *product;
    bool blas;
};

static const void *weight_row(const struct med_weight *w, int64_t row)
{
    return (const char *)w->data + (size_t)(row * w->columns) * med_dtype_bytes(w->dtype);
}

static void panel_own(const struct panels *p, const struct med_cpu_output *o, int64_t begin,
                      int64_t end, int thread)
{
    const struct med_cpu_product *product = p->product;
    struct med_cpu_dots dots = {.rows = product->rows,
                                .outs = end - begin,
                                .n = product->columns,
                                .x = product->in,
                                .x_stride = product->columns,
                                .w = weight_row(o->weight, begin),
                                .w_stride = product->columns,
                                .y = o->to + begin,
                                .y_stride = o->stride,
                                .wide = p->cpu->lanes[thread].wide};
    p->cpu->kernels->dots[o->weight->dtype](&dots);
}

static void sgemm(const struct med_cpu_product *product, const float *weights, int64_t outs,
                  float *to, int64_t stride)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)product->rows, (blasint)outs,
                (blasint)product->columns, 1.0f, product->in, (blasint)product->columns, weights,
                (blasint)product->columns, 0.0f, to, (blasint)stride);
}

static void panel_blas(const struct panels *p, const struct med_cpu_output *o, int64_t begin,
                       int64_t end, int thread)
{
    const struct med_cpu_product *product = p->product;
    const struct med_weight *w = o->weight;
    if (w->dtype == MED_DTYPE_F32) {
        sgemm(product, weight_row(w, begin), end - begin, o->to + begin, o->stride);
        return;
    }
    float *wide = p->cpu->lanes[thread].wide;
    int64_t at_once = MED_CPU_WIDEN / product->columns;
    MED_ASSERT(at_once > 0);
    for (int64_t out = begin; out < end; out += at_once) {
        int64_t outs = end - out < at_once ? end - out : at_once;
        p->cpu->kernels->widen[w->dtype](weight_row(w, out), wide, outs * product->columns);
        sgemm(product, wide, outs, o->to + out, o->stride);
    }
}

static void add_bias(const struct panels *p, const struct med_cpu_output *o, int64_t begin,
                     int64_t end)
{
    if (!o->bias || !o->bias->data)
        return;
    for (int64_t i = begin; i < end; i++) {
        float bias = med_dtype_get(o->bias->dtype, o->bias->data, (size_t)i);
        for (int64_t r = 0; r < p->product->rows; r++)
            o->to[r * o->stride + i] += bias;
    }
}

/* Outputs [begin, end) in units of OUT_GRAIN, counted through all outputs of the product. */
static void panels_run(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct panels *p = arg;
    int64_t before = 0;
    for (int i = 0; i < p->product->count; i++) {
        const struct med_cpu_output *o = &p->product->outputs[i];
        int64_t units = (o->weight->rows + OUT_GRAIN - 1) / OUT_GRAIN;
        int64_t from = begin > before ? begin - before : 0;
        int64_t to = end < before + units ? end - before : units;
        before += units;
        if (from >= to)
            continue;
        from *= OUT_GRAIN;
        to = to * OUT_GRAIN < o->weight->rows ? to * OUT_GRAIN : o->weight->rows;
        if (p->blas) {
            panel_blas(p, o, from, to, thread);
        } else {
            panel_own(p, o, from, to, thread);
        }
        add_bias(p, o, from, to);
    }
}

void med_cpu_multiply(struct med_cpu *cpu, const struct med_cpu_product *product)
{
    struct panels p = {.cpu = cpu,
                       .product = product,
                       .blas = cpu->blas && product->rows >= BLAS_ROWS &&
                               product->columns <= MED_CPU_WIDEN};
    int64_t units = 0;
    for (int i = 0; i < product->count; i++)
        units += (product->outputs[i].weight->rows + OUT_GRAIN - 1) / OUT_GRAIN;
    int64_t unit_work = OUT_GRAIN * product->rows * product->columns;
    int64_t grain = unit_work > 0 ? SMALL / unit_work + 1 : 1;
    if (p.blas && grain < BLAS_OUTS / OUT_GRAIN)
        grain = BLAS_OUTS / OUT_GRAIN;
    med_cpu_split(cpu, units, grain, panels_run, &p);
}

static void blas_first(void *arg, int thread, int threads)
{
    (void)threads;
    (void)arg;
    (void)thread;
    float a[64 * 64] = {0}, c[64 * 64];
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, 64, 64, 64, 1.0f, a, 64, a, 64, 0.0f, c,
                64);
}

int med_cpu_blas_prepare(struct med_cpu *cpu)
{
    openblas_set_num_threads(1);
    if (cpu->blas)
        med_cpu_pool_run(cpu->pool, blas_first, NULL);
    return 0;
}

bool med_cpu_blas_fits(const char *core, const struct med_cpu_kernels *kernels)
{
#ifdef __x86_64__
    /* Its kernels with AVX2 or more. A processor that is newer than the library is "Prescott". */
    static const char *const fast[] = {"Haswell", "Zen", "SkylakeX", "Cooperlake",
                                       "SapphireRapids"};
    for (size_t i = 0; i < sizeof fast / sizeof *fast; i++) {
        if (strcasecmp(core, fast[i]) == 0)
            return true;
    }
    return kernels == &med_cpu_kernels_portable;
#else
    (void)core;
    (void)kernels;
    return true;
#endif
}

bool med_cpu_blas_usable(const struct med_cpu_kernels *kernels)
{
    return med_cpu_blas_fits(openblas_get_corename(), kernels);
}

void med_cpu_blas_describe(char *out, size_t bytes)
{
    /* "OpenBLAS 0.3.21 NO_AFFINITY ..." is the library's own text of its build. */
    char version[32] = "";
    (void)sscanf(openblas_get_config(), "OpenBLAS %31s", version);
    (void)snprintf(out, bytes, "OpenBLAS %s, %s", version, openblas_get_corename());
}
