/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chooses who computes a product (see linear.h), and puts the pieces together that are not one kernel:
 * the norm before, the epilogue after.
 *
 * thread: engine.  Computes nothing itself.
 */
#include "worker/cuda/linear.h"

#include "base/assert.h"
#include "worker/cuda/blas.h"
#include "worker/cuda/norm.h"
#include "worker/cuda/plain.h"
#include "worker/cuda/skinny.h"
#include "worker/cuda/small.h"

/* Up to how many rows each is the fastest, measured on an H100 (docs/internals/cuda.md): from 9 rows on
 * cuBLASLt's timed choice is, so skinny.cu computes what must be deterministic, and no more. */
enum {
    SMALL_ROWS = MED_CUDA_SMALL_ROWS,
    SKINNY_ROWS = 0
};

/* ---- scratch ---------------------------------------------------------------------------------- */

size_t med_cuda_linear_bytes(const struct med_ops_sizes *sizes)
{
    return med_cuda_skinny_bytes(sizes);
}

int med_cuda_linear_new(struct med_cuda *d)
{
    int rc = med_cuda_small_new(d);
    return rc == 0 ? med_cuda_skinny_new(d) : rc;
}

void med_cuda_linear_free(struct med_cuda *d)
{
    med_cuda_skinny_free(d);
}

/* ---- the choice ------------------------------------------------------------------------------- */

/* The arguments once the rows are normed and side by side. */
static struct med_cuda_linear_args normed(const struct med_cuda *d,
                                          const struct med_cuda_linear_args *a)
{
    struct med_cuda_linear_args plain = *a;
    if (a->norm) {
        plain.in = d->normed;
        plain.in_rows = NULL;
        plain.norm = NULL;
    }
    return plain;
}

static bool small_takes(const struct med_cuda *d, const struct med_cuda_linear_args *a,
                        int64_t rows)
{
    struct med_cuda_linear_args few = *a;
    few.rows = rows;
    return med_cuda_small_takes(d, &few);
}

/* a->q_norm is NULL. */
enum med_cuda_linear_way med_cuda_linear_choose(const struct med_cuda *d,
                                                const struct med_cuda_linear_args *a)
{
    struct med_cuda_linear_args plain = normed(d, a);
    bool skinny = med_cuda_skinny_takes(d, &plain);
    if (d->config.deterministic) {
        /* By the shape of W alone, never by the rows. */
        if (skinny)
            return MED_CUDA_LINEAR_SKINNY;
        return small_takes(d, a, 1) ? MED_CUDA_LINEAR_SMALL : MED_CUDA_LINEAR_PLAIN;
    }
    if (a->rows <= SMALL_ROWS && small_takes(d, a, a->rows))
        return MED_CUDA_LINEAR_SMALL;
    if (a->rows <= SKINNY_ROWS && skinny)
        return MED_CUDA_LINEAR_SKINNY;
    return MED_CUDA_LINEAR_BLAS;
}

/* ---- the ways ----------------------------------------------------------------------------------- */

/* Elements of a row of out. */
static int64_t out_columns(const struct med_cuda_linear_args *a)
{
    if (a->epilogue == MED_CUDA_ROPE_KV)
        return a->heads * a->head_dim;
    return a->epilogue == MED_CUDA_SWIGLU ? a->outputs / 2 : a->outputs;
}

/* As many turns of a few rows as it takes. */
static int small_all(struct med_cuda *d, const struct med_cuda_linear_args *a)
{
    size_t element = med_dtype_bytes(a->dtype);
    size_t out_element = a->epilogue == MED_CUDA_LOGITS ? sizeof(float) : element;
    int rc = 0;
    for (int64_t row = 0; rc == 0 && row < a->rows; row += MED_CUDA_SMALL_ROWS) {
        struct med_cuda_linear_args turn = *a;
        int64_t left = a->rows - row;
        turn.rows = left < MED_CUDA_SMALL_ROWS ? left : MED_CUDA_SMALL_ROWS;
        if (a->in_rows) {
            turn.in_rows = a->in_rows + row;
        } else {
            turn.in = (const char *)a->in + (size_t)(row * a->columns) * element;
        }
        turn.out = (char *)a->out + (size_t)(row * out_columns(a)) * out_element;
        if (a->epilogue == MED_CUDA_ROPE_KV) {
            turn.positions = a->positions + row;
            turn.slots = a->slots + row;
        }
        rc = med_cuda_small(d, &turn);
    }
    return rc;
}

static int norm_rows(struct med_cuda *d, const struct med_cuda_linear_args *a)
{
    if (!a->norm) {
        MED_ASSERT(!a->in_rows);
        return 0;
    }
    MED_ASSERT(a->columns <= d->model.hidden);
    MED_ASSERT(a->rows <= d->sizes.rows_max);
    return med_cuda_norm(d, a->rows, a->columns, a->in, a->in_rows, a->norm, a->eps, d->normed);
}

/* A product of its own with the epilogue behind it; the rows are normed. */
static int product_then_epilogue(struct med_cuda *d, const struct med_cuda_linear_args *a,
                                 bool plain)
{
    bool ropes = a->epilogue == MED_CUDA_ROPE_KV, silus = a->epilogue == MED_CUDA_SWIGLU;
    struct med_cuda_product p = {.rows = a->rows,
                                 .columns = a->columns,
                                 .outputs = a->outputs,
                                 .in = a->in,
                                 .weight = a->weight,
                                 .out = ropes   ? d->qkv
                                        : silus ? d->gate_up
                                                : a->out,
                                 .dtype = a->dtype,
                                 .out_dtype = a->dtype,
                                 .adds = a->epilogue == MED_CUDA_ADD && !a->stores};
    if (a->epilogue == MED_CUDA_LOGITS)
        p.out_dtype = MED_DTYPE_F32;
    int rc = plain ? med_cuda_plain(d, &p) : med_cuda_blas(d, &p);
    if (rc < 0)
        return rc;
    if (ropes)
        return med_cuda_rope_kv(d, a, d->qkv);
    if (silus)
        return med_cuda_swiglu(d, a, d->gate_up);
    if (a->bias && a->epilogue == MED_CUDA_ADD)
        return med_cuda_add_bias(d, a->rows, a->outputs, a->bias, a->out);
    return 0;
}

static int linear(struct med_cuda *d, const struct med_cuda_linear_args *a)
{
    enum med_cuda_linear_way way = med_cuda_linear_choose(d, a);
    med_cuda_blas_note(d, a);
    if (way == MED_CUDA_LINEAR_SMALL)
        return small_all(d, a);
    struct med_cuda_linear_args rest = normed(d, a);
    int rc = norm_rows(d, a);
    if (rc < 0)
        return rc;
    if (way == MED_CUDA_LINEAR_SKINNY)
        return med_cuda_skinny(d, &rest);
    return product_then_epilogue(d, &rest, way == MED_CUDA_LINEAR_PLAIN);
}

int med_cuda_linear(struct med_cuda *d, const struct med_cuda_linear_args *a)
{
    if (d->failed)
        return MED_E_CUDA;
    if (a->rows == 0)
        return 0;
    if (!a->q_norm)
        return linear(d, a);
    /* Norms per head stand between the product and rope. */
    struct med_cuda_linear_args product = *a;
    MED_ASSERT(a->epilogue == MED_CUDA_ROPE_KV && a->k_norm);
    product.epilogue = MED_CUDA_ADD;
    product.stores = true;
    product.bias = NULL; /* rope_kv's */
    product.q_norm = product.k_norm = NULL;
    product.out = d->qkv;
    int rc = linear(d, &product);
    return rc == 0 ? med_cuda_rope_kv(d, a, d->qkv) : rc;
}
