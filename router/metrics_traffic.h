/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the router counts per bucket and per worker type.
 *
 * A series belongs to names, not to the rows of one plan: it goes on when a reloaded plan has the
 * same worker type or bucket edge at another place, so that no counter falls back.  replan finds or
 * makes the series of a plan; observations name rows of dispatch and cost an addition each.  Labels
 * are printed once, when a series begins.
 *
 * Bounds: MED_TRAFFIC_TYPES worker types and MED_TRAFFIC_BUCKETS buckets over all plans of a process;
 * what comes after goes to the last one, whose names are "other".
 * thread: loop.  owns: all of its tables.
 */
#ifndef MED_ROUTER_METRICS_TRAFFIC_H
#define MED_ROUTER_METRICS_TRAFFIC_H

#include "allocator/plan.h"
#include "base/hist.h"
#include "router/dispatch/dispatch.h"
#include "router/prometheus.h"

#include <stdint.h>

enum {
    MED_TRAFFIC_TYPES = 2 * MED_LIMIT_WORKER_TYPES,
    MED_TRAFFIC_BUCKETS = 2 * MED_LIMIT_BUCKETS,
    MED_TRAFFIC_LABEL_BYTES = 64 /* of a bucket */
};

/* Sums of what was predicted and what came, of the same requests; times in fleet nanoseconds. */
struct med_compared {
    uint64_t predicted, observed, count;
};

/* What is compared. */
enum med_comparison {
    MED_COMPARE_TTFT,   /* ns, from the sending */
    MED_COMPARE_TPOT,   /* ns */
    MED_COMPARE_OUTPUT, /* tokens */
    MED_COMPARE_COUNT
};

/* One bucket of one worker type. */
struct med_traffic_cell {
    uint64_t picks;
    struct med_compared compared[MED_COMPARE_COUNT];
};

struct med_traffic_bucket {
    double input_edge, output_edge;       /* upper; tokens */
    char labels[MED_TRAFFIC_LABEL_BYTES]; /* `input="100",output="250"` */
    uint64_t demand;                      /* asked for, refused or not */
    uint64_t completed;                   /* ended, by what they really were */
};

struct med_traffic_type {
    char *name;                               /* owned */
    char *label;                              /* owned; `worker_type="A10G"`, escaped */
    struct med_traffic_cell *cells;           /* owned; [bucket_capacity] */
    struct med_hist error[MED_COMPARE_COUNT]; /* observed / predicted */
    uint64_t output_tokens;
    double usd_per_hour; /* of one worker, by the plan in force */
    double usd;          /* spent on workers that were connected */
    bool planned;        /* the plan in force has it */
};

struct med_traffic {
    struct med_traffic_type *types; /* [MED_TRAFFIC_TYPES] */
    size_t type_count;
    struct med_traffic_bucket *buckets; /* [bucket_capacity] */
    size_t bucket_count, bucket_capacity;
    /* Rows of the plan in force. */
    size_t type_of[MED_LIMIT_WORKER_TYPES]; /* dispatch's index */
    uint32_t *bucket_of;                    /* [input_rows][output_rows] */
    double *input_edges, *output_edges;
    size_t input_rows, output_rows;
};

void med_traffic_init(struct med_traffic *traffic);
void med_traffic_release(struct med_traffic *traffic);
/* The series of this plan, whose worker types dispatch has in its own order.  On failure the rows of
 * the plan before stay. */
int med_traffic_replan(struct med_traffic *traffic, const struct med_plan *plan,
                       const struct med_dispatch *dispatch) MED_MUST_CHECK;

/* Series of dispatch's rows. */
struct med_traffic_type *med_traffic_type_at(struct med_traffic *traffic, size_t type);
struct med_traffic_bucket *med_traffic_bucket_at(struct med_traffic *traffic, int input_row,
                                                 int output_row);
struct med_traffic_cell *med_traffic_cell_at(struct med_traffic *traffic, size_t type,
                                             int input_row, int output_row);
/* The bucket of these sizes; beyond the last edge is the last one. */
struct med_traffic_bucket *med_traffic_bucket_of(struct med_traffic *traffic, int64_t prompt_tokens,
                                                 int64_t output_tokens);

/* predicted 0: not known, nothing is compared. */
void med_traffic_compare(struct med_traffic *traffic, size_t type, int input_row, int output_row,
                         enum med_comparison what, int64_t predicted, int64_t observed);

/* What one worker costs per hour: the price of the plan's instances, split over their workers by
 * GPUs.  0: the plan rents nothing that has one. */
double med_traffic_worker_price(const struct med_plan *plan, const char *worker_type);

#endif
