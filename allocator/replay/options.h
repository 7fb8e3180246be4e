/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The options of a replay, as they were given.
 * thread: main. owns: nothing; texts are lent by the parsed options.
 */
#ifndef MED_ALLOCATOR_REPLAY_OPTIONS_H
#define MED_ALLOCATOR_REPLAY_OPTIONS_H

#include "base/options.h"

struct med_replay_options {
    const char *trace, *workload, *data_dir, *arrival;
    double rate_per_s, speed, burstiness;
    int64_t from_ns, duration_ns, requests, max_tokens, seed, warm_up_ns;
    const char *policy, *admission, *slo;
    bool compare;
    struct med_option_list mixes;
    const char *catalogue;
    const char *faults, *resume;
    int64_t fault_seed, suspect_after_ns, gone_after_ns;
    int64_t policy_seed, queue_max, queue_wait_ns, link_delay_ns, requests_max;
    bool json;
    const char *rows, *output, *html;
};

extern const struct med_program med_replay_program;

#endif
