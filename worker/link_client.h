/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One link of a worker to one router: dials, greets, reads and writes frames, dials again.
 *
 * What comes in is checked and handed on as plain structs; protobuf types stay inside.  Sends append
 * to a bounded buffer and never close anything themselves: a router that does not read makes the
 * buffer pass its maximum, and the next flush closes the connection.  When a connection ends, for
 * whatever reason, on_lost says so once, and the link dials again after a growing, jittered pause,
 * until it is told to stop or the router has drained it.
 *
 * Life: new starts dialling; stop ends it; on_stopped is called from the loop when its handles have
 * closed, and the link is gone when it returns.
 * thread: loop. owns: its handles and copies of its strings.
 */
#ifndef MED_WORKER_LINK_CLIENT_H
#define MED_WORKER_LINK_CLIENT_H

#include "base/clock.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct med_keys;
struct med_tls;
struct med_uplink;

enum {
    MED_UPLINK_VERSION = 1,
    MED_UPLINK_MEASURE_VERSION = 1 /* of Measure, Measured and Description */
};

#define MED_UPLINK_NO_ID UINT32_MAX /* from here on, a token has no more alternatives */

/* What the worker says of itself; strings are borrowed for the link's life. */
struct med_uplink_hello {
    const char *worker_id;
    uint64_t incarnation;
    const char *worker_type;
    const char *model;
    const char *backend;
    int64_t model_len_max, sequences_max, kv_tokens, vocab_tokens;
};

/* A request as it came: no value is checked, but all of it fitted a frame; borrowed during the call. */
struct med_uplink_generate {
    uint64_t request;
    uint32_t attempt;
    const uint32_t *prompt;
    size_t prompt_count;
    const uint32_t *output; // [output_count]: what was said of the answer already, elsewhere
    size_t output_count;
    uint32_t tokens_max, tokens_min;
    bool has_temperature, has_top_p, has_top_k, has_min_p, has_repetition_penalty, has_seed,
        has_logprobs;
    float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    uint32_t top_k, logprobs;
    uint64_t seed;
    bool ignore_eos;
    const uint32_t *bias_ids; // [bias_id_count]
    const float *biases;      // [bias_count]; as many, if the router is right
    size_t bias_id_count, bias_count;
    const uint32_t *stop_ids; // [stop_count]
    size_t stop_count;
    uint32_t emulated_output_tokens;
    const char *request_id;
    const char *traceparent; /* "": none */
};

/* Logprobs of tokens that are sent, arrays of as many; what MED_UPLINK_NO_ID stands for is left out. */
struct med_uplink_logprobs {
    const float *logprobs;     // [count]
    const uint32_t *ranks;     // [count]
    size_t top;                /* alternatives per token */
    const uint32_t *top_ids;   // [count][top]
    const float *top_logprobs; // [count][top]
};

struct med_uplink_stats {
    int64_t heartbeat_ns;
    uint64_t running, waiting, kv_blocks_free, kv_blocks_total, iterations, prompt_tokens,
        generated_tokens, finished, preemptions, prefix_queries, prefix_hits;
};

enum med_uplink_ending {
    MED_UPLINK_STOP = 1,
    MED_UPLINK_LENGTH,
    MED_UPLINK_CANCELLED,
    MED_UPLINK_ERROR,
    MED_UPLINK_FAILED,   /* of this request alone: nobody else can compute it either */
    MED_UPLINK_RETURNED, /* not done, because the worker stops: the rest may be had elsewhere */
    MED_UPLINK_REFUSED
};

/* What a profiler asks for; sizes are as they came. */
struct med_uplink_measure {
    uint64_t id;
    int64_t prefill_tokens, prefill_context, decode_sequences, decode_context_tokens, warmup,
        repeats;
    bool fill;
};

struct med_uplink_measured {
    uint64_t id;
    const char *error; /* NULL: it was measured */
    bool cannot;       /* the error is one of the sizes: it will be the same next time */
    int64_t prefill_tokens, prefill_context, decode_sequences;
    size_t count;
    const uint64_t *step_ns, *decode_context_tokens; // [count]
};

/* What is measured (Description of proto/link.proto has the units); strings are borrowed. */
struct med_uplink_description {
    const char *device, *gpu, *dtype, *kv_dtype, *driver, *uuid, *host;
    uint32_t gpus;
    double memory_bytes, read_bytes_per_s, read_spread, flops_per_s, flops_spread, peak_bytes_per_s,
        peak_flops_per_s;
    double parameters, weight_bytes, kv_bytes_per_token;
    uint32_t layers, hidden, heads, kv_heads, head_dim, intermediate, vocab;
    int64_t batched_tokens_max, block_tokens;
    uint32_t clock_mhz, clock_max_mhz, memory_clock_mhz, power_w, power_limit_w, temperature_c;
    double time_scale;
};

struct med_uplink_ops {
    /* < 0: the router broke the protocol, err says how; the connection is closed. */
    int (*on_generate)(void *arg, struct med_uplink *link,
                       const struct med_uplink_generate *generate, struct med_err *err);
    void (*on_cancel)(void *arg, struct med_uplink *link, uint64_t request, uint32_t attempt);
    /* The router wants no more from this worker: what runs is finished, then med_uplink_finish. */
    void (*on_drain)(void *arg, struct med_uplink *link);
    /* Another process takes over the router's address: a second link is wanted there, and this one is not
     * to be dialled again. stay: it does not, after all. */
    void (*on_redial)(void *arg, struct med_uplink *link, bool stay);
    /* From a profiler alone. */
    void (*on_measure)(void *arg, struct med_uplink *link,
                       const struct med_uplink_measure *measure);
    void (*on_describe)(void *arg, struct med_uplink *link);
    /* The connection is over: its requests have nobody to answer to. */
    void (*on_lost)(void *arg, struct med_uplink *link);
    void (*on_stopped)(void *arg, struct med_uplink *link);
    void (*get_stats)(void *arg, struct med_uplink_stats *ret_stats);
    void *arg;
};

struct med_uplink_config {
    const char *address; /* HOST:PORT or unix:/path; borrowed */
    const struct med_uplink_hello *hello;
    const struct med_clock *clock;
    struct med_uplink_ops ops;
    struct med_tls *tls;           /* of TCP links; borrowed; NULL: plain */
    const struct med_keys *tokens; /* the first goes into Hello; borrowed; NULL: none */
    uint64_t seed;                 /* of the jitter */
    void *user;
};

/* Is this an address to dial? errors: MED_E_USAGE with a sentence. */
int med_uplink_check_address(const char *address, struct med_err *err) MED_MUST_CHECK;

/* errors: MED_E_USAGE, MED_E_NOMEM, libuv's. */
int med_uplink_new(uv_loop_t *loop, const struct med_uplink_config *config,
                   struct med_uplink **ret_link, struct med_err *err) MED_MUST_CHECK;
/* Flushes what is buffered as far as the router takes it within a second, and ends the link. */
void med_uplink_stop(struct med_uplink *link);
/* As stop, after a drain that the router asked for. */
void med_uplink_finish(struct med_uplink *link);

void *med_uplink_user(const struct med_uplink *link);
const char *med_uplink_address(const struct med_uplink *link);
bool med_uplink_is_up(const struct med_uplink *link); /* greeted and welcome */

/* Tokens of one request, at output positions position, position + 1, ... */
struct med_uplink_tokens {
    uint64_t request;
    uint32_t attempt;
    int64_t position;
    const uint32_t *ids; // [count]
    size_t count;
    int64_t at_ns;
    const struct med_uplink_logprobs *logprobs; /* NULL: none */
};

struct med_uplink_finish {
    uint64_t request;
    uint32_t attempt;
    enum med_uplink_ending ending;
    const char *message;   /* NULL: none */
    int64_t cached_tokens; /* of the prompt, found in the prefix cache */
};

/* These do nothing on a link that is not up. */
void med_uplink_send_tokens(struct med_uplink *link, const struct med_uplink_tokens *tokens);
void med_uplink_send_finish(struct med_uplink *link, const struct med_uplink_finish *finish);
void med_uplink_send_measured(struct med_uplink *link, const struct med_uplink_measured *measured);
void med_uplink_send_description(struct med_uplink *link,
                                 const struct med_uplink_description *description);
void med_uplink_send_drain(struct med_uplink *link);
/* Writes what was sent since the last flush, in one go. */
void med_uplink_flush(struct med_uplink *link);

#endif
