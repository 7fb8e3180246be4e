/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parts of worker/cuda that are being written: weak, so that a part that is there is taken instead.
 * Stays last in the list of sources; gone before the engine is complete.
 */
#include "worker/cuda/attend.h"
#include "worker/cuda/blas.h"
#include "worker/cuda/linear.h"
#include "worker/cuda/load.h"
#include "worker/cuda/norm.h"
#include "worker/cuda/record.h"
#include "worker/cuda/sample.h"

#define WEAK __attribute__((weak))

#define PART(name)                                                      \
 WEAK size_t med_cuda_##name##_bytes(const struct med_ops_sizes *sizes) \
 {                                                                      \
  (void)sizes;                                                          \
  return 0;                                                             \
 }                                                                      \
 PART_ALONE(name)
#define PART_ALONE(name)                              \
 WEAK int med_cuda_##name##_new(struct med_cuda *d)   \
 {                                                    \
  (void)d;                                            \
  return 0;                                           \
 }                                                    \
 WEAK void med_cuda_##name##_free(struct med_cuda *d) \
 {                                                    \
  (void)d;                                            \
 }
#define OP(name, args)                                                  \
 WEAK int med_cuda_##name(void *device, const struct args *a)           \
 {                                                                      \
  (void)a;                                                              \
  return med_cuda_fail(device, __FILE__, __LINE__, #name, "not there"); \
 }

PART(linear)
size_t med_cuda_skinny_bytes(const struct med_ops_sizes *sizes);
int med_cuda_skinny_new(struct med_cuda *d);
void med_cuda_skinny_free(struct med_cuda *d);
PART(skinny)
PART(blas)
PART(attend)
PART(sampler)
PART(recorder)
PART_ALONE(loader)
OP(embed, med_embed_args)
OP(qkv, med_qkv_args)
OP(attend, med_attend_args)
OP(project, med_project_args)
OP(gate_up, med_gate_up_args)
OP(head, med_head_args)
OP(sample, med_sample_args)

WEAK int med_cuda_blas_tune(struct med_cuda *d)
{
    (void)d;
    return 0;
}

WEAK size_t med_cuda_attend_plan_bytes(const struct med_cuda *d)
{
    (void)d;
    return 0;
}

WEAK struct med_cuda_attend_shape med_cuda_attend_shape_of(const struct med_cuda *d, int64_t items)
{
    (void)d;
    (void)items;
    return (struct med_cuda_attend_shape){0};
}

WEAK struct med_cuda_attend_shape med_cuda_attend_plan(const struct med_cuda *d,
                                                       const struct med_ops_batch *host,
                                                       int64_t padded_items, void *staging,
                                                       size_t *ret_bytes)
{
    (void)d;
    (void)host;
    (void)padded_items;
    (void)staging;
    *ret_bytes = 0;
    return (struct med_cuda_attend_shape){0};
}

WEAK void med_cuda_sample_take(struct med_cuda *d, int slot)
{
    (void)d;
    (void)slot;
}

WEAK const uint32_t *med_cuda_sampler_ids(const struct med_cuda *d)
{
    (void)d;
    return NULL;
}

WEAK int med_cuda_load(void *device, const struct med_weight *host, struct med_weight *ret_weight)
{
    (void)host;
    (void)ret_weight;
    return med_cuda_fail(device, __FILE__, __LINE__, "load", "not there");
}

WEAK int med_cuda_load_layer(void *device, const struct med_layer_weights *host,
                             struct med_layer_weights *ret_layer)
{
    (void)host;
    (void)ret_layer;
    return med_cuda_fail(device, __FILE__, __LINE__, "load_layer", "not there");
}

WEAK int med_cuda_load_end(void *device)
{
    return med_cuda_fail(device, __FILE__, __LINE__, "load_end", "not there");
}

WEAK void med_cuda_unload(void *device, struct med_weight *weight)
{
    (void)device;
    (void)weight;
}

WEAK void med_cuda_unload_layer(void *device, struct med_layer_weights *layer)
{
    (void)device;
    (void)layer;
}

WEAK int med_cuda_record(void *device, med_ops_forward *forward, void *arg, struct med_err *err)
{
    (void)device;
    (void)forward;
    (void)arg;
    return med_err_set(err, MED_E_INTERNAL, "record: not there");
}

WEAK int med_cuda_run(void *device, const struct med_ops_batch *host, med_ops_forward *forward,
                      void *arg)
{
    (void)host;
    (void)forward;
    (void)arg;
    return med_cuda_fail(device, __FILE__, __LINE__, "run", "not there");
}

WEAK int med_cuda_mark(void *device, int slot)
{
    (void)slot;
    return med_cuda_fail(device, __FILE__, __LINE__, "mark", "not there");
}

WEAK int med_cuda_wait(void *device, int slot)
{
    (void)slot;
    return med_cuda_fail(device, __FILE__, __LINE__, "wait", "not there");
}

#define CALL(name, ...)                                            \
 WEAK int med_cuda_##name(struct med_cuda *d, __VA_ARGS__)         \
 {                                                                 \
  return med_cuda_fail(d, __FILE__, __LINE__, #name, "not there"); \
 }
#define TAKES(name)                                                                        \
 WEAK bool med_cuda_##name(const struct med_cuda *d, const struct med_cuda_linear_args *a) \
 {                                                                                         \
  (void)d;                                                                                 \
  (void)a;                                                                                 \
  return false;                                                                            \
 }
#ifdef __GNUC__
# pragma GCC diagnostic ignored "-Wunused-parameter"
#endif
CALL(linear, const struct med_cuda_linear_args *a)
CALL(small, const struct med_cuda_linear_args *a)
CALL(skinny, const struct med_cuda_linear_args *a)
CALL(blas, const struct med_cuda_product *p)
TAKES(small_takes)
TAKES(skinny_takes)
CALL(attend_decode, const struct med_attend_args *a)
CALL(attend_prefill, const struct med_attend_args *a)
CALL(norm, int64_t rows, int64_t columns, const void *x, const int32_t *x_rows, const void *weight,
     float eps, void *out)
CALL(rope_kv, const struct med_cuda_linear_args *a, const void *raw)
CALL(swiglu, const struct med_cuda_linear_args *a, const void *raw)
CALL(add_bias, int64_t rows, int64_t columns, const void *bias, void *out)
