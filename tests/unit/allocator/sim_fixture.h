/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan by hand for tests of simulation and dispatch configuration: a few worker types with step
 * models, workers of each, and buckets with shares. Everything sits in one struct; nothing is freed.
 */
#ifndef MED_TESTS_SIM_FIXTURE_H
#define MED_TESTS_SIM_FIXTURE_H

#include "allocator/plan.h"
#include "tests/check.h"

enum {
    FIXTURE_TYPES = 3,
    FIXTURE_BUCKETS = 16
};

struct fixture {
    struct med_plan plan;
    struct med_profile profiles[FIXTURE_TYPES];
    char names[FIXTURE_TYPES][16];
    struct med_source source;
    struct med_plan_workers workers[FIXTURE_TYPES];
    struct med_plan_assignment assignment[FIXTURE_BUCKETS];
    double shares[FIXTURE_BUCKETS][FIXTURE_TYPES];
    double input_edges[8], output_edges[8];
};

/* speed 1: fixed 2 ms, weights 10 ms, 0.1 ms per prefill token, 1 us per 10 context tokens. */
CHECK_UNUSED static void fixture_profile(struct fixture *f, size_t index, double speed)
{
    (void)snprintf(f->names[index], sizeof f->names[index], "type-%zu", index);
    f->profiles[index] = (struct med_profile){
        .worker_type = f->names[index],
        .gpu = f->names[index],
        .gpus_per_worker = 1,
        .dtype = "float16",
        .engine = "reference",
        .model = {.name = "small",
                  .parameters = 5e6,
                  .layers = 10,
                  .heads = 10,
                  .kv_heads = 10,
                  .head_dim = 10,
                  .weight_bytes = 1e7,
                  .kv_bytes_per_token = 100},
        .limits = {.model_len_max = 4096,
                   .sequences_max = 32,
                   .batched_tokens_max = 512,
                   .block_tokens = 16,
                   .kv_tokens = 32768},
        .has_step_model = true,
        .step_model = {.fixed_ms = 2 / speed,
                       .sequence_us = 10 / speed,
                       .bandwidth_bytes_per_s = 1e9 * speed,
                       .matrix_flops_per_s = 1e11 * speed,
                       .kv_bandwidth_bytes_per_s = 1e9 * speed,
                       .attention_flops_per_s = 1e12 * speed},
        .sources = &f->source,
        .source_count = 1,
    };
}

/* Edges 100, 1000, 4000 by 10, 100, 1000; no worker and no bucket yet. */
CHECK_UNUSED static void fixture_init(struct fixture *f)
{
    *f = (struct fixture){.source = {.id = "test", .kind = MED_SOURCE_MEASURED, .text = "test"},
                          .input_edges = {100, 1000, 4000},
                          .output_edges = {10, 100, 1000}};
    for (size_t i = 0; i < FIXTURE_TYPES; i++)
        fixture_profile(f, i, 1 + (double)i);
    f->plan = (struct med_plan){.status = MED_PLAN_OPTIMAL,
                                .model_name = "small",
                                .utilization_max = 1,
                                .arrival = MED_ARRIVAL_POISSON,
                                .burstiness = 1,
                                .grid = {.input_edges = f->input_edges,
                                         .input_edge_count = 3,
                                         .output_edges = f->output_edges,
                                         .output_edge_count = 3},
                                .profiles = f->profiles,
                                .profile_count = FIXTURE_TYPES,
                                .workers = f->workers,
                                .assignment = f->assignment};
}

CHECK_UNUSED static void fixture_workers(struct fixture *f, size_t type, int64_t count)
{
    f->workers[f->plan.worker_count++] =
        (struct med_plan_workers){.worker_type = type, .count = count, .utilization = 0.5};
}

CHECK_UNUSED static void fixture_bucket(struct fixture *f, double input, double output,
                                        double rate_per_s, const double shares[FIXTURE_TYPES])
{
    size_t index = f->plan.assignment_count++;
    int input_row = input <= 100 ? 0 : input <= 1000 ? 1 : 2;
    int output_row = output <= 10 ? 0 : output <= 100 ? 1 : 2;
    memcpy(f->shares[index], shares, sizeof f->shares[index]);
    f->assignment[index] = (struct med_plan_assignment){.input_row = input_row,
                                                        .output_row = output_row,
                                                        .input_mean = input,
                                                        .output_mean = output,
                                                        .rate_per_s = rate_per_s,
                                                        .shares = f->shares[index]};
    f->plan.rate_per_s += rate_per_s;
}

/* Six workers of all types, and buckets of small and large requests that they share. */
CHECK_UNUSED static void fixture_mixed(struct fixture *f)
{
    static const double small[FIXTURE_TYPES] = {0.8, 0.2, 0};
    static const double large[FIXTURE_TYPES] = {0, 0.5, 0.5};
    fixture_init(f);
    fixture_workers(f, 0, 3);
    fixture_workers(f, 1, 2);
    fixture_workers(f, 2, 1);
    fixture_bucket(f, 60, 8, 4, small);
    fixture_bucket(f, 400, 80, 6, small);
    fixture_bucket(f, 500, 400, 3, large);
    fixture_bucket(f, 2500, 60, 2, large);
}

#endif
