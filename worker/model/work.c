/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes and operations of a step (see work.h).  thread: any; pure.
 */
#include "worker/model/work.h"

#include <math.h>

void med_work_model_init(struct med_work_model *model, const struct med_model_config *config,
                         enum med_dtype weights, enum med_dtype kv)
{
    const struct med_model_config *m = config;
    const double q = (double)(m->heads * m->head_dim), k = (double)(m->kv_heads * m->head_dim);
    const double hidden = (double)m->hidden, layers = (double)m->layers;
    int64_t windows = 0;
    for (int64_t l = 0; l < m->layers; l++)
        windows += m->window > 0 && med_model_layer_has_window(m, l);
    *model = (struct med_work_model){
        .layer_elements =
            layers * (hidden * (2 * q + 2 * k) + 3 * hidden * (double)m->intermediate),
        .head_elements = hidden * (double)m->vocab,
        .weight_element_bytes = (double)med_dtype_bytes(weights),
        .row_bytes = hidden * (double)med_dtype_bytes(weights),
        .kv_bytes = (double)med_model_kv_bytes_per_token(m, kv),
        .pair_flops = 4 * q * layers,
        .window = (double)m->window,
        .window_share = (double)windows / layers,
    };
}

/* Keys that the rows of an item see, one row after another, if none sees more than `limit`. */
static double pairs(double tokens, double context, double limit)
{
    double first = context + 1, last = context + tokens;
    if (last <= limit)
        return tokens * (first + last) / 2;
    if (first >= limit)
        return tokens * limit;
    double below = limit - context; /* rows up to the limit */
    return below * (first + limit) / 2 + (tokens - below) * limit;
}

void med_work_add(const struct med_work_model *model, struct med_work *work, int64_t tokens,
                  int64_t context, bool samples)
{
    const double n = (double)tokens, before = (double)context, share = model->window_share;
    double read = before, seen = pairs(n, before, INFINITY);
    if (share > 0) {
        read = (1 - share) * read + share * fmin(before, model->window - 1);
        seen = (1 - share) * seen + share * pairs(n, before, model->window);
    }
    if (work->rows == 0)
        work->weight_bytes += model->layer_elements * model->weight_element_bytes;
    if (samples && work->samples == 0)
        work->weight_bytes += model->head_elements * model->weight_element_bytes;
    work->rows += tokens;
    work->items++;
    work->samples += samples;
    work->weight_bytes += n * model->row_bytes;
    work->kv_bytes += (read + n) * model->kv_bytes;
    work->weight_flops += 2 * (n * model->layer_elements + (samples ? model->head_elements : 0));
    work->pair_flops += seen * model->pair_flops;
}

double med_work_bytes(const struct med_work *work)
{
    return work->weight_bytes + work->kv_bytes;
}

double med_work_flops(const struct med_work *work)
{
    return work->weight_flops + work->pair_flops;
}

double med_work_floor_s(const struct med_work *work, double bytes_per_s, double flops_per_s)
{
    return fmax(work->weight_bytes / bytes_per_s, work->weight_flops / flops_per_s) +
           fmax(work->kv_bytes / bytes_per_s, work->pair_flops / flops_per_s);
}
