/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The measurement of serving points: sizes and rates as the search wants them (search.h), each measured
 * by whoever knows the server, until everything is told or the time is spent.
 *
 * After a point that was cut short, or in which the server did not keep up, single requests are sent
 * until it answers as an idle one does: a server may go on with work whose client has left.
 * thread: the caller's.  owns: nothing.
 */
#ifndef MED_PROFILES_PROFILER_SERVING_H
#define MED_PROFILES_PROFILER_SERVING_H

#include "profiles/profiler/point.h"
#include "profiles/profiler/search.h"

struct med_serving_ask {
    size_t size;
    double input_tokens, output_tokens; /* rounded to whole ones */
    double rate_per_s;                  /* 0: alone */
    int64_t requests;
    double warm_s, cool_s;
    const struct med_objectives *objectives;
};

/* errors: MED_E_CANCELLED was stopped by the user; others end the measurement. A server that fails is
 * no error: the point says it. */
typedef int med_serving_measure(void *arg, const struct med_serving_ask *ask,
                                struct med_point *ret_point, struct med_err *err);

enum med_serving_verdict {
    MED_SERVING_MEETS,
    MED_SERVING_BREAKS,
    MED_SERVING_FAILED, /* not one request was answered */
};

struct med_serving_config {
    const struct med_objectives *objectives;
    int64_t requests; /* of one point; see med_serving_requests */
    double seconds;   /* budget; INFINITY: none */
    med_serving_measure *measure;
    void *measure_arg;
    double (*now_s)(void *arg);
    void *now_arg;
    /* After each point. < 0 ends the measurement with that. */
    int (*on_point)(void *arg, const struct med_search_step *step, const struct med_point *point,
                    enum med_serving_verdict verdict);
    void *point_arg;
};

/* Requests that a point needs for its objectives: ten above the tail of a percentile, at least 100. */
int64_t med_serving_requests(const struct med_objectives *objectives);

/* Goes on with a search that may know rows already.
 * errors: MED_E_CANCELLED; MED_E_IO: the server failed at each of the first three sizes. */
int med_serving_run(const struct med_serving_config *config, struct med_search *search,
                    struct med_err *err) MED_MUST_CHECK;

/* What earlier rows of the same server tell the search.  Returns how many were of use. */
size_t med_serving_resume(struct med_search *search, const struct med_objectives *objectives,
                          const struct med_serving_row *rows, size_t count);

#endif
