/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Large products by cuBLASLt (see blas.h).
 *
 * The library sees our row-major arrays as their transposes: out' [outputs][rows] = W in', with W
 * transposed.  Rows fall into classes; an algorithm that was timed for a class serves all rows up to it,
 * once the library has said that it can (asked the first time that so many rows come).  What was not
 * timed goes by the library's own first proposal, kept for some numbers of rows.
 *
 * Timing rotates among weights of several layers, so that they come from memory as in a step, on random
 * numbers.  A product read from the cache is run once too: the library loads its kernels when they
 * are first used, which must not happen in a step.
 *
 * thread: engine.
 */
#include "worker/cuda/blas.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/log.h"
#include "worker/cuda/blas_cache.h"
#include "worker/cuda/check.h"

#include <string.h>

enum {
    WORKSPACE_BYTES = 64 << 20,
    ALIGN = 256,
    SHAPES_MAX = 16, /* products that a model asks for */
    WEIGHTS_MAX = 4, /* to rotate among */
    CLASSES_MAX = 64,
    RECENT = 16, /* first proposals kept */
    PROPOSALS = 64,
    EVENTS = PROPOSALS + 1,
    SCREEN_ROUNDS = 3,
    FINALISTS = 8,
    ROUNDS = 9,
    ROUNDS_LONG = 5, /* of what takes LONG_US */
    CALLS = WEIGHTS_MAX
};

#define REFUSED_US 1e30 /* an algorithm that does not run */
#define LONG_US    400.0
#define MARGIN     0.98 /* of the first proposal's time, that another must be under to be taken */

_Static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(uint64_t[MED_BLAS_ALGORITHM_WORDS]),
               "an algorithm is what the cache keeps of it");

enum verdict {
    VERDICT_UNKNOWN,
    VERDICT_CLASS, /* the algorithm of the class can do it */
    VERDICT_FIRST  /* it cannot */
};

struct recent {
    int64_t rows; // 0: free
    cublasLtMatmulAlgo_t algorithm;
};

/* A product that the model asks for, by W. */
struct shape {
    struct med_cuda_linear_args args; // as it was noted
    int64_t columns, outputs, rows_max;
    enum med_dtype out_dtype;
    bool adds;
    const void *weights[WEIGHTS_MAX];
    int weight_count;
    bool timed[CLASSES_MAX];
    cublasLtMatmulAlgo_t algorithms[CLASSES_MAX];
    uint8_t *verdicts; // [rows_max + 1]
    struct recent recent[RECENT];
};

struct med_cuda_blas {
    cublasLtHandle_t handle;
    void *workspace;
    bool tuned;
    int64_t classes[CLASSES_MAX];
    int class_count;
    struct shape shapes[SHAPES_MAX];
    int shape_count;
};

/* What the library wants to know of a product. */
struct problem {
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t weight, in, out;
};

/* ---- life ------------------------------------------------------------------------------------- */

size_t med_cuda_blas_bytes(const struct med_ops_sizes *sizes)
{
    (void)sizes;
    return WORKSPACE_BYTES;
}

/* 1, 2, 4 .. 64, then by 64 up to 512, then four to a power of two; the last is rows_max. */
static void classes_make(struct med_cuda_blas *b, int64_t rows_max)
{
    int64_t rows = 1, power = 1;
    while (rows < rows_max && b->class_count < CLASSES_MAX - 1) {
        b->classes[b->class_count++] = rows;
        while (2 * power <= rows)
            power *= 2;
        rows += rows < 64 ? rows : power < 256 ? 64 : power / 4;
    }
    b->classes[b->class_count++] = rows_max;
}

int med_cuda_blas_new(struct med_cuda *d)
{
    struct med_cuda_blas *b = med_calloc(1, sizeof *b);
    if (!b)
        return MED_E_NOMEM;
    d->blas = b;
    classes_make(b, d->sizes.rows_max);
    MED_CUBLAS_OP_TRY(cublasLtCreate(&b->handle), d);
    return med_cuda_alloc(d, WORKSPACE_BYTES, &b->workspace);
}

void med_cuda_blas_free(struct med_cuda *d)
{
    struct med_cuda_blas *b = d->blas;
    if (!b)
        return;
    d->blas = NULL;
    for (int i = 0; i < b->shape_count; i++)
        med_free(b->shapes[i].verdicts);
    med_cuda_release(d, b->workspace);
    if (b->handle && !d->failed) {
        (void)cublasLtDestroy(b->handle); /* nothing can be done about it any more */
        med_free(b);
    }
}

/* ---- problems ------------------------------------------------------------------------------------ */

static cudaDataType_t type_of(enum med_dtype dtype)
{
    return dtype == MED_DTYPE_F32 ? CUDA_R_32F : dtype == MED_DTYPE_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

static cublasStatus_t problem_make(const struct med_cuda_product *p, struct problem *ret)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const uint64_t rows = (uint64_t)p->rows, columns = (uint64_t)p->columns,
                   outputs = (uint64_t)p->outputs;
    cublasStatus_t status = cublasLtMatmulDescInit(&ret->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatmulDescSetAttribute(&ret->operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                                &transposed, sizeof transposed);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status =
            cublasLtMatrixLayoutInit(&ret->weight, type_of(p->dtype), columns, outputs, p->columns);
    }
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatrixLayoutInit(&ret->in, type_of(p->dtype), columns, rows, p->columns);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status =
            cublasLtMatrixLayoutInit(&ret->out, type_of(p->out_dtype), outputs, rows, p->outputs);
    }
    return status;
}

/* What all pointers are multiples of: ALIGN, 16 or less. */
static uint32_t alignment_of(const struct med_cuda_product *p)
{
    uintptr_t all = (uintptr_t)p->in | (uintptr_t)p->weight | (uintptr_t)p->out;
    if (all % ALIGN == 0)
        return ALIGN;
    return all % 16 == 0 ? 16 : (uint32_t)med_dtype_bytes(p->dtype);
}

static cublasStatus_t propose(struct med_cuda_blas *b, struct problem *q, uint32_t alignment,
                              cublasLtMatmulHeuristicResult_t *results, int wanted, int *ret_count)
{
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    cublasLtMatmulPreferenceOpaque_t preference;
    const size_t workspace = WORKSPACE_BYTES;
    /* Parts of the columns are added in float32 or not at all. */
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasStatus_t status = cublasLtMatmulPreferenceInit(&preference);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatmulPreferenceSetAttribute(
            &preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatmulPreferenceSetAttribute(&preference,
                                                      CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                      &reductions, sizeof reductions);
    }
    for (int i = 0; i < 4 && status == CUBLAS_STATUS_SUCCESS; i++) {
        status = cublasLtMatmulPreferenceSetAttribute(&preference, alignments[i], &alignment,
                                                      sizeof alignment);
    }
    *ret_count = 0;
    if (status == CUBLAS_STATUS_SUCCESS) {
        status =
            cublasLtMatmulAlgoGetHeuristic(b->handle, &q->operation, &q->weight, &q->in, &q->out,
                                           &q->out, &preference, wanted, results, ret_count);
    }
    return status;
}

/* Whether the library says that the algorithm can do it in our workspace. */
static bool can(struct med_cuda_blas *b, struct problem *q, const cublasLtMatmulAlgo_t *algorithm)
{
    cublasLtMatmulHeuristicResult_t result = {0};
    cublasStatus_t status = cublasLtMatmulAlgoCheck(b->handle, &q->operation, &q->weight, &q->in,
                                                    &q->out, &q->out, algorithm, &result);
    return status == CUBLAS_STATUS_SUCCESS && result.state == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= WORKSPACE_BYTES;
}

static cublasStatus_t multiply(struct med_cuda *d, const struct med_cuda_product *p,
                               struct problem *q, const cublasLtMatmulAlgo_t *algorithm)
{
    const float one = 1, beta = p->adds ? 1 : 0;
    return cublasLtMatmul(d->blas->handle, &q->operation, &one, p->weight, &q->weight, p->in,
                          &q->in, &beta, p->out, &q->out, p->out, &q->out, algorithm,
                          d->blas->workspace, WORKSPACE_BYTES, d->stream);
}

/* ---- a step --------------------------------------------------------------------------------------- */

static struct shape *shape_find(struct med_cuda_blas *b, int64_t outputs, int64_t columns,
                                bool adds, enum med_dtype out_dtype)
{
    for (int i = 0; i < b->shape_count; i++) {
        struct shape *s = &b->shapes[i];
        if (s->outputs == outputs && s->columns == columns && s->adds == adds &&
            s->out_dtype == out_dtype)
            return s;
    }
    return NULL;
}

static int class_of(const struct med_cuda_blas *b, int64_t rows)
{
    int class = 0;
    while (class < b->class_count && b->classes[class] < rows)
        class ++;
    return class;
}

/* NULL: none was timed that can do it. */
static const cublasLtMatmulAlgo_t *timed_algorithm(struct med_cuda_blas *b, struct shape *s,
                                                   int64_t rows, struct problem *q)
{
    int class = class_of(b, rows);
    if (rows > s->rows_max || class == b->class_count || !s->timed[class])
        return NULL;
    uint8_t *verdict = &s->verdicts[rows];
    if (*verdict == VERDICT_UNKNOWN)
        *verdict = can(b, q, &s->algorithms[class]) ? VERDICT_CLASS : VERDICT_FIRST;
    return *verdict == VERDICT_CLASS ? &s->algorithms[class] : NULL;
}

static int first_algorithm(struct med_cuda *d, struct shape *s, const struct med_cuda_product *p,
                           struct problem *q, cublasLtMatmulAlgo_t *ret)
{
    uint32_t alignment = alignment_of(p);
    struct recent *recent = s && alignment == ALIGN ? &s->recent[p->rows % RECENT] : NULL;
    cublasLtMatmulHeuristicResult_t result = {0};
    int count = 0;
    if (recent && recent->rows == p->rows) {
        *ret = recent->algorithm;
        return 0;
    }
    MED_CUBLAS_OP_TRY(propose(d->blas, q, alignment, &result, 1, &count), d);
    if (count == 0)
        return med_cuda_fail(d, __FILE__, __LINE__, "cublasLtMatmulAlgoGetHeuristic", "no way");
    *ret = result.algo;
    if (recent)
        *recent = (struct recent){p->rows, result.algo};
    return 0;
}

int med_cuda_blas(struct med_cuda *d, const struct med_cuda_product *p)
{
    struct problem q;
    cublasLtMatmulAlgo_t first;
    const cublasLtMatmulAlgo_t *algorithm = NULL;
    if (d->failed)
        return MED_E_CUDA;
    if (p->rows == 0)
        return 0;
    struct shape *s = shape_find(d->blas, p->outputs, p->columns, p->adds, p->out_dtype);
    MED_CUBLAS_OP_TRY(problem_make(p, &q), d);
    if (s && alignment_of(p) == ALIGN)
        algorithm = timed_algorithm(d->blas, s, p->rows, &q);
    if (!algorithm) {
        int rc = first_algorithm(d, s, p, &q, &first);
        if (rc < 0)
            return rc;
        algorithm = &first;
    }
    MED_CUBLAS_OP_TRY(multiply(d, p, &q, algorithm), d);
    return 0;
}

/* ---- what to time --------------------------------------------------------------------------------- */

void med_cuda_blas_note(struct med_cuda *d, const struct med_cuda_linear_args *a)
{
    struct med_cuda_blas *b = d->blas;
    if (!b || b->tuned)
        return;
    bool adds = a->epilogue == MED_CUDA_ADD && !a->stores;
    enum med_dtype out_dtype = a->epilogue == MED_CUDA_LOGITS ? MED_DTYPE_F32 : a->dtype;
    struct shape *s = shape_find(b, a->outputs, a->columns, adds, out_dtype);
    if (!s) {
        if (b->shape_count == SHAPES_MAX)
            return;
        int64_t rows_max =
            a->epilogue == MED_CUDA_LOGITS ? d->sizes.samples_max : d->sizes.rows_max;
        uint8_t *verdicts = med_calloc((size_t)rows_max + 1, 1);
        if (!verdicts)
            return; /* then nothing is timed */
        s = &b->shapes[b->shape_count++];
        *s = (struct shape){.args = *a,
                            .columns = a->columns,
                            .outputs = a->outputs,
                            .rows_max = rows_max,
                            .out_dtype = out_dtype,
                            .adds = adds,
                            .verdicts = verdicts};
    }
    for (int i = 0; i < s->weight_count; i++) {
        if (s->weights[i] == a->weight)
            return;
    }
    if (s->weight_count < WEIGHTS_MAX && (uintptr_t)a->weight % ALIGN == 0)
        s->weights[s->weight_count++] = a->weight;
}

/* The intermediate results, as scratch. */
struct scratch {
    void *memory;
    size_t bytes;
};

static void scratches(const struct med_cuda *d, struct scratch out[3])
{
    const struct med_model_config *m = &d->model;
    size_t row = (size_t)d->sizes.rows_max * med_dtype_bytes(d->dtype);
    out[0] = (struct scratch){d->normed, row * (size_t)m->hidden};
    out[1] = (struct scratch){d->qkv, row * (size_t)((m->heads + 2 * m->kv_heads) * m->head_dim)};
    out[2] = (struct scratch){d->gate_up, row * (size_t)(2 * m->intermediate)};
}

/* Random numbers in [-1, 1). */
static void numbers_make(enum med_dtype dtype, unsigned char *to, size_t count)
{
    size_t element = med_dtype_bytes(dtype);
    uint64_t state = 1;
    for (size_t i = 0; i < count; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        float value = (float)(int32_t)(state >> 32) * 0x1p-31f;
        uint16_t half =
            dtype == MED_DTYPE_F16 ? med_f16_from_float(value) : med_bf16_from_float(value);
        memcpy(to + i * element, element == 4 ? (void *)&value : (void *)&half, element);
    }
}

/* bytes of host over and over, to all of memory. */
static int scratch_copy(struct med_cuda *d, const struct scratch *to, const void *host,
                        size_t bytes)
{
    for (size_t at = 0; at < to->bytes; at += bytes) {
        size_t piece = to->bytes - at < bytes ? to->bytes - at : bytes;
        MED_CUDA_OP_TRY(cudaMemcpyAsync((char *)to->memory + at, host, piece,
                                        cudaMemcpyHostToDevice, d->stream),
                        d);
    }
    MED_CUDA_OP_TRY(cudaStreamSynchronize(d->stream), d);
    return 0;
}

static int scratch_fill(struct med_cuda *d)
{
    enum {
        COUNT = 1 << 18
    };
    size_t bytes = COUNT * med_dtype_bytes(d->dtype);
    unsigned char *host = med_alloc(bytes);
    struct scratch all[3];
    int rc = 0;
    if (!host)
        return MED_E_NOMEM;
    numbers_make(d->dtype, host, COUNT);
    scratches(d, all);
    for (int i = 0; rc == 0 && i < 3; i++)
        rc = scratch_copy(d, &all[i], host, bytes);
    med_free(host);
    return rc;
}

/* The product for timing, in scratch; false: it has no room. */
static bool product_make(const struct med_cuda *d, const struct shape *s, int64_t rows,
                         struct med_cuda_product *ret)
{
    struct scratch all[3];
    size_t in_bytes = (size_t)(rows * s->columns) * med_dtype_bytes(d->dtype);
    size_t out_bytes = (size_t)(rows * s->outputs) * med_dtype_bytes(s->out_dtype);
    scratches(d, all);
    for (int i = 0; i < 9; i++) {
        struct scratch in = all[i / 3], out = all[i % 3];
        if (i / 3 != i % 3 && in.bytes >= in_bytes && out.bytes >= out_bytes) {
            *ret = (struct med_cuda_product){.rows = rows,
                                             .columns = s->columns,
                                             .outputs = s->outputs,
                                             .in = in.memory,
                                             .weight = s->weights[0],
                                             .out = out.memory,
                                             .dtype = d->dtype,
                                             .out_dtype = s->out_dtype,
                                             .adds = s->adds};
            return true;
        }
    }
    return false;
}

/* ---- timing --------------------------------------------------------------------------------------- */

/* What is being timed. */
struct trial {
    cudaEvent_t events[EVENTS];
    const struct shape *shape;
    int calls; // so far: which weights are next
    struct med_cuda_product product;
    struct problem problem;
};

/* Queues calls; false: the algorithm refuses. */
static bool queue_calls(struct med_cuda *d, struct trial *t, const cublasLtMatmulAlgo_t *algorithm,
                        int calls)
{
    for (int i = 0; i < calls; i++) {
        t->product.weight = t->shape->weights[t->calls++ % t->shape->weight_count];
        if (multiply(d, &t->product, &t->problem, algorithm) != CUBLAS_STATUS_SUCCESS) {
            (void)cudaGetLastError();
            return false;
        }
    }
    return true;
}

struct candidate {
    cublasLtMatmulAlgo_t algorithm;
    double us;
    double rounds[ROUNDS];
    int proposal;
};

/* One round of all candidates, back to back as in a step: the chip is as warm and as busy. Adds to
 * rounds[round] of each; what refuses is REFUSED_US. */
static int round_time(struct med_cuda *d, struct trial *t, struct candidate *candidates, int count,
                      int calls, int round)
{
    MED_ASSERT(count < EVENTS);
    MED_CUDA_OP_TRY(cudaEventRecord(t->events[0], d->stream), d);
    for (int i = 0; i < count; i++) {
        bool runs = queue_calls(d, t, &candidates[i].algorithm, calls);
        candidates[i].rounds[round] = runs ? 0 : REFUSED_US;
        MED_CUDA_OP_TRY(cudaEventRecord(t->events[i + 1], d->stream), d);
    }
    MED_CUDA_OP_TRY(cudaEventSynchronize(t->events[count]), d);
    for (int i = 0; i < count; i++) {
        float ms = 0;
        MED_CUDA_OP_TRY(cudaEventElapsedTime(&ms, t->events[i], t->events[i + 1]), d);
        candidates[i].rounds[round] += (double)ms * 1e3 / calls;
    }
    return 0;
}

/* us = the median of rounds. */
static void median(struct candidate *c, int rounds)
{
    double sorted[ROUNDS];
    for (int i = 0; i < rounds; i++) {
        int k = i;
        for (; k > 0 && sorted[k - 1] > c->rounds[i]; k--)
            sorted[k] = sorted[k - 1];
        sorted[k] = c->rounds[i];
    }
    c->us = sorted[rounds / 2];
}

/* The fastest to the front, but the library's first proposal always stays among them. */
static int finalists_pick(struct candidate *all, int count)
{
    for (int i = 2; i < count; i++) {
        for (int k = i; k > 1 && all[k].us < all[k - 1].us; k--) {
            struct candidate other = all[k];
            all[k] = all[k - 1];
            all[k - 1] = other;
        }
    }
    return count < FINALISTS ? count : FINALISTS;
}

/* Runs each proposal a little, the best more. ret->us 0: nothing can do it. */
static int compare(struct med_cuda *d, struct trial *t, struct candidate *all, int count,
                   struct med_blas_entry *ret)
{
    int rc = 0, winner = 0, rounds = ROUNDS;
    /* The first round loads kernels. */
    for (int round = 0; rc == 0 && round <= SCREEN_ROUNDS; round++)
        rc = round_time(d, t, all, count, 1, round > 0 ? round - 1 : 0);
    for (int i = 0; rc == 0 && i < count; i++)
        median(&all[i], SCREEN_ROUNDS);
    if (rc < 0)
        return rc;
    count = finalists_pick(all, count);
    if (all[0].us > LONG_US)
        rounds = ROUNDS_LONG;
    for (int round = 0; rc == 0 && round < rounds; round++)
        rc = round_time(d, t, all, count, CALLS, round);
    for (int i = 0; rc == 0 && i < count; i++) {
        median(&all[i], rounds);
        /* Differences that small are chance. */
        if (all[i].us < all[winner].us * (winner == 0 ? MARGIN : 1))
            winner = i;
    }
    if (rc < 0 || all[winner].us >= REFUSED_US)
        return rc;
    ret->us = all[winner].us;
    memcpy(ret->algorithm, &all[winner].algorithm, sizeof ret->algorithm);
    MED_DEBUG("cublas: %lld x %lld x %lld: first %.1f us, proposal %d %.1f us",
              (long long)t->product.rows, (long long)t->product.outputs,
              (long long)t->product.columns, all[0].us, all[winner].proposal, ret->us);
    return 0;
}

static int choose(struct med_cuda *d, struct trial *t, struct med_blas_entry *ret)
{
    cublasLtMatmulHeuristicResult_t *results = med_calloc(PROPOSALS, sizeof *results);
    struct candidate *all = med_calloc(PROPOSALS, sizeof *all);
    int count = 0, rc = results && all ? 0 : MED_E_NOMEM;
    if (rc == 0 &&
        propose(d->blas, &t->problem, ALIGN, results, PROPOSALS, &count) != CUBLAS_STATUS_SUCCESS) {
        count = 0;
    }
    for (int i = 0; i < count; i++) {
        all[i].algorithm = results[i].algo;
        all[i].proposal = i;
    }
    if (rc == 0 && count > 0)
        rc = compare(d, t, all, count, ret);
    med_free(results);
    med_free(all);
    return rc;
}

/* From the cache if the library still accepts it, and runs it once. */
static int recall(struct med_cuda *d, struct trial *t, const struct med_blas_entry *entry,
                  bool *ret_known)
{
    cublasLtMatmulAlgo_t algorithm;
    *ret_known = false;
    memcpy(&algorithm, entry->algorithm, sizeof algorithm);
    if (!can(d->blas, &t->problem, &algorithm))
        return 0;
    *ret_known = queue_calls(d, t, &algorithm, 1);
    return 0;
}

/* One product and class. *ret_new: the cache has more than before. */
static int class_tune(struct med_cuda *d, struct shape *s, int class, struct trial *trial,
                      struct med_blas_cache *cache, bool *ret_new)
{
    struct med_blas_entry entry = {.outputs = s->outputs,
                                   .columns = s->columns,
                                   .rows = d->blas->classes[class],
                                   .adds = s->adds,
                                   .out_dtype = s->out_dtype};
    const struct med_blas_entry *cached = med_blas_cache_find(cache, &entry);
    bool known = false;
    int rc = 0;
    trial->shape = s;
    if (!product_make(d, s, entry.rows, &trial->product) ||
        problem_make(&trial->product, &trial->problem) != CUBLAS_STATUS_SUCCESS) {
        return 0;
    }
    if (cached) {
        entry = *cached;
        rc = recall(d, trial, &entry, &known);
    }
    if (!known)
        entry.us = 0;
    if (rc == 0 && !known)
        rc = choose(d, trial, &entry);
    if (rc < 0 || (!known && entry.us == 0))
        return rc;
    memcpy(&s->algorithms[class], entry.algorithm, sizeof entry.algorithm);
    s->timed[class] = true;
    if (known) {
        d->stats.blas_cached++;
        return 0;
    }
    d->stats.blas_tuned++;
    *ret_new = true;
    rc = med_blas_cache_put(cache, &entry);
    return rc == MED_E_LIMIT ? 0 : rc;
}

static int shape_tune(struct med_cuda *d, struct shape *s, struct trial *trial,
                      struct med_blas_cache *cache, bool *ret_new)
{
    int rc = 0;
    for (int class = 0; rc == 0 && class < d->blas->class_count && s->weight_count > 0; class ++) {
        struct med_cuda_linear_args a = s->args;
        int64_t rows = d->blas->classes[class];
        /* the class above the most rows too */
        if (class > 0 && d->blas->classes[class - 1] >= s->rows_max)
            break;
        a.rows = rows;
        if (med_cuda_linear_choose(d, &a) == MED_CUDA_LINEAR_BLAS)
            rc = class_tune(d, s, class, trial, cache, ret_new);
    }
    return rc;
}

static void identity_of(const struct med_cuda *d, struct med_blas_identity *ret)
{
    *ret = (struct med_blas_identity){.driver = d->facts.driver_version,
                                      .cublas = (int64_t)cublasLtGetVersion(),
                                      .dtype = d->dtype};
    _Static_assert(sizeof ret->gpu >= sizeof d->facts.name, "a name fits");
    memcpy(ret->gpu, d->facts.name, sizeof d->facts.name);
}

static void cache_get(struct med_cuda *d, struct med_blas_cache *cache)
{
    struct med_err err = {0};
    struct med_blas_identity identity;
    identity_of(d, &identity);
    *cache = (struct med_blas_cache){.identity = identity};
    if (!d->config.cache_dir)
        return;
    int rc = med_blas_cache_read(d->config.cache_dir, &identity, cache, &err);
    if (rc < 0 && rc != MED_E_NOT_FOUND)
        MED_WARN("%s; its products are timed again", err.text);
}

static void cache_put(struct med_cuda *d, const struct med_blas_cache *cache)
{
    struct med_err err = {0};
    if (d->config.cache_dir && med_blas_cache_write(d->config.cache_dir, cache, &err) < 0)
        MED_WARN("%s; the next start times products again", err.text);
}

int med_cuda_blas_tune(struct med_cuda *d)
{
    struct med_cuda_blas *b = d->blas;
    struct med_blas_cache cache = {0};
    struct trial trial = {0};
    bool is_new = false;
    int rc = d->failed ? MED_E_CUDA : 0;
    if (rc < 0 || d->config.deterministic || b->tuned)
        return rc;
    b->tuned = true;
    d->stats.blas_tuned = d->stats.blas_cached = 0;
    cache_get(d, &cache);
    for (int i = 0; i < EVENTS; i++)
        MED_CUDA_OP_GOTO(cudaEventCreate(&trial.events[i]), d, rc, out);
    rc = scratch_fill(d);
    for (int i = 0; rc == 0 && i < b->shape_count; i++)
        rc = shape_tune(d, &b->shapes[i], &trial, &cache, &is_new);
    if (rc == 0)
        MED_CUDA_OP_GOTO(cudaStreamSynchronize(d->stream), d, rc, out);
    if (rc == 0 && is_new)
        cache_put(d, &cache);
out:
    for (int i = 0; i < EVENTS && trial.events[i] && !d->failed; i++)
        (void)cudaEventDestroy(trial.events[i]); /* nothing can be done about it any more */
    med_blas_cache_release(&cache);
    return rc;
}
