/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `medley profile --api ...`: the serving points of a server, from options to report.
 * thread: main.
 */
#ifndef MED_PROFILES_PROFILER_SERVING_VERB_H
#define MED_PROFILES_PROFILER_SERVING_VERB_H

#include <stdbool.h>
#include <stdint.h>

/* Texts are lent by the parsed options. */
struct med_serving_options {
    const char *api, *url, *target, *model, *tls_ca, *api_key_file, *api_key, *prompt;
    const char *like, *name, *gpu, *dtype, *engine;
    const char *workload, *data_dir, *sizes, *slo, *output;
    int64_t gpus, buckets_max, requests, points_max, vocabulary, seed;
    int64_t connect_timeout_ns, stall_timeout_ns;
    double precision, minutes, time_scale; /* minutes 0: no budget */
    bool same_prompts, fit, fresh, json, progress, dry_run;
};

/* Returns the exit status. */
int med_serving_verb(const struct med_serving_options *options);

#endif
