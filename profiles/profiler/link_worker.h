/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker that is profiled, over its link: spawned, or awaited at an address.
 *
 * The profiler is the worker's router: it listens, the worker dials and says Hello, and the Welcome
 * says that this peer measures.  The calls below block (the loop runs inside them) until the answer
 * is there, the worker is lost, or somebody interrupts.
 *
 * thread: main. owns: the loop, sockets, and the spawned process, which never outlives it.
 * errors: MED_E_CANCELLED interrupted (a second interrupt ends what waits for the worker's end too);
 * MED_E_IO the worker is lost; MED_E_PROTO it said what a worker does not say; each with a sentence.
 */
#ifndef MED_PROFILES_PROFILER_LINK_WORKER_H
#define MED_PROFILES_PROFILER_LINK_WORKER_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MED_PROFILED_TEXT = 384,
    MED_PROFILED_REPEATS_MAX = 4096
};

struct med_profiled_config {
    /* Either: the worker program and its arguments, NULL last, to which the address is added. */
    const char *const *args;
    /* Or: HOST:PORT or unix:/path to listen at; TLS and tokens as the router's. */
    const char *listen;
    const char *tls_certificate, *tls_key, *token_file;
    int64_t wait_ns; /* for the worker, real time */
};

/* Hello and Description together; 0 and "": not known. */
struct med_profiled_facts {
    char worker_type[MED_PROFILED_TEXT], model[MED_PROFILED_TEXT], backend[MED_PROFILED_TEXT],
        version[MED_PROFILED_TEXT], worker_id[MED_PROFILED_TEXT];
    int64_t model_len_max, sequences_max, kv_tokens, batched_tokens_max, block_tokens, vocab;
    char device[MED_PROFILED_TEXT], gpu[MED_PROFILED_TEXT], dtype[MED_PROFILED_TEXT],
        kv_dtype[MED_PROFILED_TEXT], driver[MED_PROFILED_TEXT], uuid[MED_PROFILED_TEXT],
        host[MED_PROFILED_TEXT];
    int64_t gpus, layers, hidden, heads, kv_heads, head_dim, intermediate;
    double memory_bytes, read_bytes_per_s, read_spread, flops_per_s, flops_spread, peak_bytes_per_s,
        peak_flops_per_s;
    double parameters, weight_bytes, kv_bytes_per_token;
    int64_t clock_mhz, clock_max_mhz, memory_clock_mhz, power_w, power_limit_w, temperature_c;
    double time_scale;
};

struct med_profiled_steps {
    int64_t prefill_tokens, prefill_context, decode_sequences, decode_context_tokens, warmup,
        repeats;
    bool fill;
};

/* What came back: of each repeat, lent until the next call. */
struct med_profiled_times {
    size_t count;
    const uint64_t *step_ns, *decode_context_tokens;
};

struct med_profiled;

/* Listens, spawns, and waits for Hello and Description. */
int med_profiled_new(const struct med_profiled_config *config, struct med_profiled **ret_worker,
                     struct med_err *err) MED_MUST_CHECK;
/* Tells a spawned worker to end, and waits. */
void med_profiled_free(struct med_profiled *profiled);

const struct med_profiled_facts *med_profiled_facts(const struct med_profiled *profiled);
/* Asks again: clocks and power are as of now. */
int med_profiled_refresh(struct med_profiled *profiled, struct med_err *err) MED_MUST_CHECK;
/* timeout_ns: real time after which a worker that says nothing is given up.  errors besides:
 * MED_E_INVALID the worker cannot run these steps, and says why. */
int med_profiled_measure(struct med_profiled *profiled, const struct med_profiled_steps *steps,
                         int64_t timeout_ns, struct med_profiled_times *ret_times,
                         struct med_err *err) MED_MUST_CHECK;
bool med_profiled_interrupted(const struct med_profiled *profiled);

#endif
