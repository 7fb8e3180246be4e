/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a step of a model has to move and to compute, by its shape.
 *
 *     bytes   every matrix once (the head if a row of the step samples), a row of the embedding per
 *             token, the keys and values that attention reads, and those that are written
 *     flops   2 per row and matrix element, 4 * head_dim per query head and key seen
 * Activations stay in the caches and are not counted.  From these follow floors: what no device of
 * given rates could do faster.
 * thread: any; pure.
 */
#ifndef MED_WORKER_MODEL_WORK_H
#define MED_WORKER_MODEL_WORK_H

#include "worker/model/config.h"

struct med_work_model {
    double layer_elements, head_elements; /* of the matrices of all layers, and of the head */
    double weight_element_bytes;
    double row_bytes;            /* of the embedding */
    double kv_bytes;             /* of one token, all layers */
    double pair_flops;           /* of one query row and one key, all layers */
    double window, window_share; /* of layers that see no further; 0: none */
};

/* What a step does; zeroed to begin with. */
struct med_work {
    double weight_bytes, kv_bytes, weight_flops, pair_flops;
    int64_t rows, items, samples;
};

void med_work_model_init(struct med_work_model *model, const struct med_model_config *config,
                         enum med_dtype weights, enum med_dtype kv);
/* An item of the step: `tokens` rows with `context` tokens in the cache before them. */
void med_work_add(const struct med_work_model *model, struct med_work *work, int64_t tokens,
                  int64_t context, bool samples);

double med_work_bytes(const struct med_work *work);
double med_work_flops(const struct med_work *work);
/* Seconds: reading the weights or computing with them, whichever takes longer, then reading keys and
 * values or computing with those. Rates > 0. */
double med_work_floor_s(const struct med_work *work, double bytes_per_s, double flops_per_s);

#endif
