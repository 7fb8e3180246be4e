/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the router counts and measures beyond dispatch's own totals, and /metrics.
 *
 * MED_ROUTER_METRIC_MAP is the one list of metric families: it drives the page that Prometheus
 * scrapes and docs/reference/metrics.md (a test compares them).  All times are fleet seconds, except
 * the loop's delay, which is real.
 * thread: loop.
 */
#ifndef MED_ROUTER_METRICS_H
#define MED_ROUTER_METRICS_H

#include "allocator/plan.h"
#include "base/buf.h"
#include "base/hist.h"
#include "router/dispatch/dispatch.h"

#include <stdbool.h>
#include <stdint.h>

// clang-format off
/* id, name, type, labels, help */
#define MED_ROUTER_METRIC_MAP(X) \
    X(REQUESTS, "medley_router_requests_total", "counter", "outcome", "Accepted requests that have ended, by outcome; the sum and those in flight and queued make medley_router_accepted_total.") \
    X(ACCEPTED, "medley_router_accepted_total", "counter", "", "Requests that were accepted for execution.") \
    X(REFUSED, "medley_router_refused_total", "counter", "reason", "Requests that were refused before they were accepted.") \
    X(IN_FLIGHT, "medley_router_in_flight", "gauge", "", "Requests that a worker has.") \
    X(QUEUE_DEPTH, "medley_router_queue_depth", "gauge", "", "Accepted requests that wait for a worker.") \
    X(CALLS, "medley_router_grpc_calls", "gauge", "", "gRPC calls that are open, health watches included.") \
    X(PICKS, "medley_router_picks_total", "counter", "worker_type,input,output", "Requests sent to a worker type, by the upper edges in tokens of their predicted bucket; re-routed ones count again.") \
    X(SPILLS, "medley_router_spills_total", "counter", "", "Picks of another worker type than the plan's.") \
    X(REROUTES, "medley_router_reroutes_total", "counter", "reason", "Requests sent again, before their first token.") \
    X(STALE, "medley_router_stale_messages_total", "counter", "", "Messages of workers about requests that they have no more.") \
    X(WORKERS, "medley_router_workers", "gauge", "worker_type,state", "Connected workers.") \
    X(WORKER_STATE, "medley_router_worker_state", "gauge", "worker,worker_type,state", "1 for the state that a worker is in.") \
    X(WORKER_IN_FLIGHT, "medley_router_worker_in_flight", "gauge", "worker,worker_type", "Requests that this worker has.") \
    X(DEPARTED, "medley_router_workers_departed_total", "counter", "how", "Workers that left: drained with no request left, or lost.") \
    X(LINKS_REFUSED, "medley_router_links_refused_total", "counter", "", "Workers that were refused at Hello.") \
    X(LINKS_BROKEN, "medley_router_links_broken_total", "counter", "", "Links that ended because the worker broke the protocol.") \
    X(PROMPT_TOKENS, "medley_router_prompt_tokens_total", "counter", "", "Prompt tokens of accepted requests.") \
    X(OUTPUT_TOKENS, "medley_router_output_tokens_total", "counter", "worker_type", "Output tokens passed on to clients.") \
    X(TTFT, "medley_router_time_to_first_token_seconds", "histogram", "", "Arrival to first token, of requests that got one.") \
    X(TPOT, "medley_router_time_per_output_token_seconds", "histogram", "", "(E2E - TTFT) / (output tokens - 1), of requests that ended with stop or length and at least two tokens.") \
    X(ITL, "medley_router_inter_token_latency_seconds", "histogram", "", "Gaps between output tokens; tokens of one frame share its gap.") \
    X(E2E, "medley_router_e2e_latency_seconds", "histogram", "", "Arrival to end, of requests that ended with stop or length.") \
    X(E2E_PER_TOKEN, "medley_router_e2e_per_token_seconds", "histogram", "", "E2E / output tokens, of requests that ended with stop or length.") \
    X(TTFT_PREDICTED, "medley_router_ttft_predicted_seconds_total", "counter", "worker_type", "Sum of the TTFT predicted when the request was sent, of those with a first token.") \
    X(TTFT_OBSERVED, "medley_router_ttft_observed_seconds_total", "counter", "worker_type", "Sum of the time from sending to first token, of the same requests.") \
    X(TTFT_COMPARED, "medley_router_ttft_compared_requests_total", "counter", "worker_type", "How many requests those two sums are of.") \
    X(TPOT_PREDICTED, "medley_router_tpot_predicted_seconds_total", "counter", "worker_type", "Sum of the TPOT predicted when the request was sent, of those with an observed TPOT.") \
    X(TPOT_OBSERVED, "medley_router_tpot_observed_seconds_total", "counter", "worker_type", "Sum of the observed TPOT of the same requests.") \
    X(TPOT_COMPARED, "medley_router_tpot_compared_requests_total", "counter", "worker_type", "How many requests those two sums are of.") \
    X(LOOP_DELAY, "medley_router_loop_delay_seconds", "histogram", "", "How late the event loop ran a timer, in real seconds.") \
    X(DRAINING, "medley_router_draining", "gauge", "", "1 while the router takes no new requests.") \
    X(BUILD, "medley_router_build_info", "gauge", "version", "1.") \
    X(PLAN_INFO, "medley_plan_info", "gauge", "model,workload,status", "1; what the plan is for.") \
    X(PLAN_COST, "medley_plan_cost_usd_per_hour", "gauge", "", "What the planned instances cost.") \
    X(PLAN_BOUND, "medley_plan_lower_bound_usd_per_hour", "gauge", "", "No mix that meets the objectives costs less.") \
    X(PLAN_RATE, "medley_plan_rate_requests_per_second", "gauge", "", "The rate that was planned for.") \
    X(PLAN_WORKERS, "medley_plan_workers", "gauge", "worker_type", "Planned workers.") \
    X(PLAN_UTILIZATION, "medley_plan_utilization_ratio", "gauge", "worker_type", "Planned load over capacity at the objectives.") \
    X(PLAN_INSTANCES, "medley_plan_instances", "gauge", "instance,cloud,region", "Planned instances.") \
    X(PLAN_SLO, "medley_plan_objective_seconds", "gauge", "metric", "Objectives on means; each is also a bucket bound of its histogram.")
// clang-format on

enum med_router_refusal {
    MED_REFUSAL_OVERLOAD,
    MED_REFUSAL_NO_WORKER,
    MED_REFUSAL_INVALID,
    MED_REFUSAL_NOT_FOUND,
    MED_REFUSAL_DEADLINE,
    MED_REFUSAL_DRAINING,
    MED_REFUSAL_CANCELLED, /* while its prompt was encoded */
    MED_REFUSAL_COUNT
};

/* Sums of what was predicted and what came, of the same requests. */
struct med_compared {
    double predicted_s, observed_s;
    uint64_t count;
};

struct med_router_metrics {
    uint64_t refused[MED_REFUSAL_COUNT]; /* by the router itself; dispatch counts its own */
    uint64_t departed[2];                /* lost, drained */
    uint64_t prompt_tokens;
    uint64_t output_tokens[MED_LIMIT_WORKER_TYPES];
    struct med_hist ttft, tpot, itl, e2e, e2e_per_token, loop_delay;
    struct med_compared ttft_compared[MED_LIMIT_WORKER_TYPES];
    struct med_compared tpot_compared[MED_LIMIT_WORKER_TYPES];
};

void med_router_metrics_init(struct med_router_metrics *metrics, const struct med_slos *slos);

/* Everything that a page is made of; all borrowed. */
struct med_router_metrics_view {
    const struct med_router_metrics *metrics;
    const struct med_dispatch *dispatch;
    const struct med_plan *plan;
    uint32_t workers_max;
    uint64_t links_refused, links_broken;
    size_t calls;
    bool draining;
};

int med_router_metrics_write(const struct med_router_metrics_view *view,
                             struct med_buf *out) MED_MUST_CHECK;

/* docs/reference/metrics.md */
int med_router_metrics_markdown(struct med_buf *out) MED_MUST_CHECK;

#endif
