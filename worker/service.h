/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker as a process serves: engine, router links, metrics, signals, on one loop.
 *
 * run returns when the worker has stopped: told by SIGTERM or SIGINT (it drains until drain_ns have
 * passed, or until a second signal), by every router having drained it, or by the engine's failure.
 * thread: main (it becomes the loop thread). owns: nothing of the config, which outlives the call.
 * errors: what kept it from starting, or the engine's failure, with a sentence.  MED_E_CUDA: the
 * device is dead; if the engine thread is still waiting for it, nothing was freed, the backend least
 * of all, and the process is expected to leave by _exit.
 */
#ifndef MED_WORKER_SERVICE_H
#define MED_WORKER_SERVICE_H

#include "base/clock.h"
#include "worker/engine_thread.h"
#include "worker/memory_plan.h"
#include "worker/requests.h"

#include <sys/socket.h>

struct med_keys;
struct med_tls;

/* Of the device and the model, for a profiler; zeros: not known.  Strings are borrowed. */
struct med_service_facts {
    const char *device, *gpu, *dtype, *kv_dtype;
    int64_t gpus;
    double memory_bytes, read_bytes_per_s, read_spread, flops_per_s, flops_spread, peak_bytes_per_s,
        peak_flops_per_s;
    double parameters, weight_bytes, kv_bytes_per_token;
    int64_t layers, hidden, heads, kv_heads, head_dim, intermediate;
    const char *pci; /* of the GPU, as CUDA names it; NULL: none */
};

struct med_service_config {
    const struct med_clock *clock;
    struct med_scheduler_config scheduler;
    struct med_backend backend; /* released by run, unless its thread is stuck in it */
    int64_t
        stuck_ns; /* real time without a heartbeat after which the engine is given up; 0: never */
    bool emulated;
    struct med_uplink_hello hello;
    const char *const *routers;
    size_t router_count;
    struct med_tls *router_tls;                     /* of TCP links; NULL: plain */
    struct med_keys *router_tokens;                 /* the first is presented; NULL: none */
    const struct sockaddr_storage *metrics_address; /* NULL: none */
    int64_t drain_ns;                               /* real time, as whoever stops us counts it */
    struct med_request_rules rules;
    bool seeds_differ; /* requests that bring no seed get one each, else all rules.sampling.seed */
    const double *ttft_bounds_s, *tpot_bounds_s; /* objectives, as exact histogram bounds */
    size_t ttft_bound_count, tpot_bound_count;
    double weight_bytes; /* for the READY line */
    int64_t started_ns;  /* CLOCK_MONOTONIC, for the READY line */
    const char *dtype;   /* for metrics */
    struct med_service_facts facts;
    /* Of a worker that computes, whose backend is a meter (meter.h); NULL: emulated. */
    const struct med_memory_plan *plan;
    double peak_bytes_per_s, peak_flops_per_s; /* of its device; 0: not known */
    /* NULL: nothing. Appends " key=value" words of the backend to the READY line. */
    void (*describe)(void *arg, char *out, size_t out_bytes);
    void *describe_arg;
};

int med_service_run(const struct med_service_config *config, struct med_err *err) MED_MUST_CHECK;

#endif
