/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the router counts and measures beyond dispatch's own totals, and /metrics.
 *
 * MED_ROUTER_METRIC_MAP is the one list of metric families: it drives the page that Prometheus
 * scrapes and docs/reference/metrics.md (a test compares them).  All times are fleet seconds, except
 * those of the router itself (loop, overhead), which are real.
 * thread: loop.
 */
#ifndef MED_ROUTER_METRICS_H
#define MED_ROUTER_METRICS_H

#include "allocator/plan.h"
#include "base/buf.h"
#include "base/hist.h"
#include "router/dispatch/dispatch.h"
#include "router/grpc_server.h"
#include "router/http_server.h"
#include "router/loop_watch.h"
#include "router/metrics_traffic.h"

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
    X(GRPC_CALLS, "medley_router_grpc_calls_total", "counter", "method,code", "gRPC calls that have ended.") \
    X(HTTP_REQUESTS, "medley_router_http_requests_total", "counter", "path,status", "HTTP requests that have been answered; path other: none that is served, none: refused before it was read.") \
    X(HTTP_CONNECTIONS, "medley_router_http_connections", "gauge", "", "HTTP connections that are open.") \
    X(HTTP_ACCEPTED, "medley_router_http_connections_total", "counter", "", "HTTP connections that were accepted.") \
    X(HTTP_TURNED_AWAY, "medley_router_http_connections_turned_away_total", "counter", "", "HTTP connections that were closed at once because there were too many.") \
    X(PICKS, "medley_router_picks_total", "counter", "worker_type,input,output", "Requests sent to a worker type, by the upper edges in tokens of their predicted bucket; re-routed ones count again.") \
    X(DEMAND, "medley_router_demand_requests_total", "counter", "input,output", "Requests that clients asked for, refused for want of capacity or not, by their predicted bucket.") \
    X(COMPLETED, "medley_router_completed_requests_total", "counter", "input,output", "Requests that ended with stop or length, by the bucket that they turned out to be of.") \
    X(SPILLS, "medley_router_spills_total", "counter", "", "Picks of another worker type than the plan's.") \
    X(REROUTES, "medley_router_reroutes_total", "counter", "reason", "Requests sent again to another worker.") \
    X(BROKEN, "medley_router_broken_streams_total", "counter", "outcome", "Requests that failed after their first token, other than by their client; they are in medley_router_requests_total too.") \
    X(RESUMES, "medley_router_resumes_total", "counter", "", "Answers sent to another worker after their first token, to go on there.") \
    X(OVERLOAD_REFUSED, "medley_router_overload_refused_total", "counter", "cause", "Requests refused for want of capacity, by cause: wait (admission: the expected wait is too long), queue (full), requests (as many as may be open), late (its deadline was past), door (too much text waits to be encoded, or too many choices).") \
    X(ADMISSION_REFUSED, "medley_router_admission_refused_total", "counter", "worker_type", "Requests refused for their expected wait that this worker type might have served; one counts for each type that might.") \
    X(ADMISSION_RATE, "medley_router_admission_rate_requests_per_second", "gauge", "worker_type", "Rate at which waiting requests are expected to leave to the ready workers of a type: the plan's, corrected by what was measured.") \
    X(ADMISSION_QUEUED, "medley_router_admission_queued", "gauge", "worker_type", "Waiting requests that the type may serve; one counts for each type that may.") \
    X(ADMISSION_CAP, "medley_router_admission_cap_requests", "gauge", "worker_type", "As many may wait for the type without waiting too long: its rate times the longest wait.") \
    X(ADMISSION_WAIT, "medley_router_admission_wait_seconds", "gauge", "worker_type", "Expected wait of a request that came now and that only this type could serve; absent while no rate is known.") \
    X(ADMISSION_WAIT_MAX, "medley_router_admission_wait_max_seconds", "gauge", "", "The longest expected wait that admission accepts of a request without a deadline once a queue has stood for a while.") \
    X(BREAKERS, "medley_router_breakers", "gauge", "worker_type,state", "Connected workers by circuit breaker: closed, open (no requests until its time is over), probing (one request tries it).") \
    X(BREAKER_OPENED, "medley_router_breaker_opened_total", "counter", "worker_type", "Times that a circuit breaker opened, failed probes included.") \
    X(WORKER_FAULTS, "medley_router_worker_faults_total", "counter", "worker_type,cause", "Faults of workers: silence of the engine, link that broke under requests, error on a request.") \
    X(WORKER_BREAKER, "medley_router_worker_breaker_open", "gauge", "worker,worker_type", "1 while this worker's circuit breaker is open or probing.") \
    X(PREFIX_PROMPTS, "medley_router_prefix_prompts_total", "counter", "worker_type", "Requests sent with a prompt long enough that its beginning is looked up; none with --prefix-affinity off.") \
    X(PREFIX_PICKS, "medley_router_prefix_picks_total", "counter", "worker_type", "Those of them that went to a worker believed to have the beginning.") \
    X(PREFIX_EXPECTED, "medley_router_prefix_expected_tokens_total", "counter", "worker_type", "Prompt tokens that those picks were expected to save.") \
    X(PREFIX_CACHED, "medley_router_prefix_cached_tokens_total", "counter", "worker_type", "Prompt tokens of ended requests that workers said they had in their cache, expected or not.") \
    X(PREFIX_DISTRUSTED, "medley_router_prefix_distrusted_workers", "gauge", "worker_type", "Workers that get no credit for prefixes, since they did not have what they were believed to have.") \
    X(TABLE_ENTRIES, "medley_router_table_entries", "gauge", "table", "Entries of what dispatch remembers: users (of --predict-by user), prefixes.") \
    X(TABLE_MAX, "medley_router_table_entries_max", "gauge", "table", "The most that they hold; then the least recently used goes. 0: not in use.") \
    X(LENGTH_PREDICTED, "medley_router_length_predicted_tokens_total", "counter", "input", "Sum of the output tokens predicted at submit, of requests that ended with stop or length, by input bucket; from 0 again when a plan brings other edges.") \
    X(LENGTH_OBSERVED, "medley_router_length_observed_tokens_total", "counter", "input", "Sum of the output tokens of the same requests.") \
    X(LENGTH_ERROR, "medley_router_length_error_tokens_total", "counter", "input", "Sum of the absolute differences of the two, request by request.") \
    X(LENGTH_COMPARED, "medley_router_length_compared_requests_total", "counter", "input", "How many requests those three sums are of.") \
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
    X(OBJECTIVE_REQUESTS, "medley_router_objective_requests_total", "counter", "objective", "Requests that ended with stop or length and that an objective says something of; all: those with at least one.") \
    X(OBJECTIVE_MET, "medley_router_objective_met_total", "counter", "objective", "Those of them that were within the objective; all: within each of theirs.") \
    X(TTFT_PREDICTED, "medley_router_ttft_predicted_seconds_total", "counter", "worker_type,input,output", "Sum of the TTFT predicted when the request was sent, of those with a first token.") \
    X(TTFT_OBSERVED, "medley_router_ttft_observed_seconds_total", "counter", "worker_type,input,output", "Sum of the time from sending to first token, of the same requests.") \
    X(TTFT_COMPARED, "medley_router_ttft_compared_requests_total", "counter", "worker_type,input,output", "How many requests those two sums are of.") \
    X(TPOT_PREDICTED, "medley_router_tpot_predicted_seconds_total", "counter", "worker_type,input,output", "Sum of the TPOT predicted when the request was sent, of those with an observed TPOT.") \
    X(TPOT_OBSERVED, "medley_router_tpot_observed_seconds_total", "counter", "worker_type,input,output", "Sum of the observed TPOT of the same requests.") \
    X(TPOT_COMPARED, "medley_router_tpot_compared_requests_total", "counter", "worker_type,input,output", "How many requests those two sums are of.") \
    X(OUTPUT_PREDICTED, "medley_router_predicted_output_tokens_total", "counter", "worker_type,input,output", "Sum of the output tokens predicted at submit, of requests that ended with stop or length.") \
    X(OUTPUT_OBSERVED, "medley_router_observed_output_tokens_total", "counter", "worker_type,input,output", "Sum of the output tokens of the same requests.") \
    X(OUTPUT_COMPARED, "medley_router_output_compared_requests_total", "counter", "worker_type,input,output", "How many requests those two sums are of.") \
    X(TTFT_ERROR, "medley_router_ttft_observed_over_predicted", "histogram", "worker_type", "Observed TTFT over predicted TTFT; 1 is exact, above 1 was slower.") \
    X(TPOT_ERROR, "medley_router_tpot_observed_over_predicted", "histogram", "worker_type", "Observed TPOT over predicted TPOT.") \
    X(OUTPUT_ERROR, "medley_router_output_tokens_observed_over_predicted", "histogram", "worker_type", "Output tokens over those predicted.") \
    X(REQUEST_OVERHEAD, "medley_router_request_overhead_seconds", "histogram", "", "Real time from a request's receipt to its frame to a worker, of requests that did not wait for one; encoding its text is part of it.") \
    X(TOKEN_OVERHEAD, "medley_router_token_overhead_seconds", "histogram", "", "Real time from a worker's tokens frame to the end of its passing on: written to the client, or kept because the write before it is out.") \
    X(COST_RATE, "medley_router_cost_usd_per_hour", "gauge", "worker_type", "What the connected workers cost, at the plan's prices.") \
    X(COST, "medley_router_cost_usd_total", "counter", "worker_type", "What connected workers have cost since the router's start, in fleet time.") \
    X(COST_PER_TOKENS, "medley_router_cost_usd_per_million_output_tokens", "gauge", "worker_type", "Cost over output tokens since the router's start; absent before the first token.") \
    X(LOOP_DELAY, "medley_router_loop_delay_seconds", "histogram", "", "How late the event loop ran a timer, in real seconds.") \
    X(LOOP_TURN, "medley_router_loop_turn_seconds", "histogram", "", "Real time that the event loop worked between two waits.") \
    X(LOOP_BUSY, "medley_router_loop_busy_seconds_total", "counter", "job", "Real time that the event loop spent on a job; other is what no job says, doors and system calls mostly.") \
    X(LOOP_RUNS, "medley_router_loop_jobs_total", "counter", "job", "How often it did it.") \
    X(LOOP_LONG, "medley_router_loop_long_jobs_total", "counter", "job", "Runs that took longer than 1 ms.") \
    X(DRAINING, "medley_router_draining", "gauge", "", "1 while the router takes no new requests.") \
    X(BUILD, "medley_router_build_info", "gauge", "version", "1.") \
    X(PLAN_GENERATION, "medley_plan_generation", "gauge", "", "1 for the plan of the start, one more for each that was reloaded.") \
    X(PLAN_LOADED, "medley_plan_loaded_timestamp_seconds", "gauge", "", "Unix time at which the plan came into force.") \
    X(PLAN_RELOADS, "medley_plan_reloads_total", "counter", "result", "Reloads of the plan: done, or refused with the plan before kept.") \
    X(PLAN_INFO, "medley_plan_info", "gauge", "model,workload,status", "1; what the plan is for.") \
    X(PLAN_COST, "medley_plan_cost_usd_per_hour", "gauge", "", "What the planned instances cost.") \
    X(PLAN_BOUND, "medley_plan_lower_bound_usd_per_hour", "gauge", "", "No mix that meets the objectives costs less.") \
    X(PLAN_RATE, "medley_plan_rate_requests_per_second", "gauge", "", "The rate that was planned for.") \
    X(PLAN_WORKERS, "medley_plan_workers", "gauge", "worker_type", "Planned workers.") \
    X(PLAN_WORKER_COST, "medley_plan_worker_cost_usd_per_hour", "gauge", "worker_type", "What one worker costs: its instances' prices, split by GPUs.") \
    X(PLAN_UTILIZATION, "medley_plan_utilization_ratio", "gauge", "worker_type", "Planned load over capacity at the objectives.") \
    X(PLAN_INSTANCES, "medley_plan_instances", "gauge", "instance,cloud,region", "Planned instances.") \
    X(PLAN_DEMAND, "medley_plan_demand_requests_per_second", "gauge", "input,output", "The rate that was planned for, by bucket.") \
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

/* Requests that an objective says something of, and those that kept it. */
struct med_objective_count {
    uint64_t requests, met;
};

enum {
    MED_OBJECTIVES = MED_SLO_E2E_PER_TOKEN + 2, /* one per metric, and all of them together */
    MED_OBJECTIVE_ALL = MED_OBJECTIVES - 1
};

const char *med_router_refusal_name(enum med_router_refusal reason); /* "overload" */

enum {
    MED_HTTP_PATHS = 12,   /* that are told apart, "other" and "none" included */
    MED_HTTP_STATUSES = 24 /* likewise, and all others */
};

struct med_router_metrics {
    uint64_t refused[MED_REFUSAL_COUNT]; /* by the router itself; dispatch counts its own */
    uint64_t resumes;
    uint64_t departed[2]; /* lost, drained */
    uint64_t broken[MED_OUTCOME_COUNT];
    uint64_t http[MED_HTTP_PATHS][MED_HTTP_STATUSES];
    uint64_t prompt_tokens;
    struct med_slos slos;
    struct med_hist ttft, tpot, itl, e2e, e2e_per_token, loop_delay, request_overhead,
        token_overhead;
    struct med_objective_count objectives[MED_OBJECTIVES];
    struct med_traffic traffic;
    struct med_loop_watch loop;
};

/* One that ended with stop or length, in fleet time. */
struct med_router_ended {
    size_t type;               /* dispatch's; of the worker that had it last */
    int input_row, output_row; /* predicted */
    int64_t prompt_tokens, output_tokens, predicted_output_tokens;
    int64_t ttft_ns, e2e_ns;
    int64_t tpot_ns, predicted_tpot_ns; /* -1, 0: none */
};

/* dispatch gives the order of the worker types. */
int med_router_metrics_init(struct med_router_metrics *metrics, const struct med_plan *plan,
                            const struct med_dispatch *dispatch) MED_MUST_CHECK;
void med_router_metrics_release(struct med_router_metrics *metrics);
/* Another plan is in force: series go on under their names; histograms whose objectives have
 * changed start anew, since their bounds have. */
int med_router_metrics_replan(struct med_router_metrics *metrics, const struct med_plan *plan,
                              const struct med_dispatch *dispatch) MED_MUST_CHECK;
/* An HTTP request was answered; path NULL: refused before it was read. */
void med_router_metrics_http(struct med_router_metrics *metrics, const char *path, int status);
const char *med_router_metrics_http_path(size_t path);
int med_router_metrics_http_status(size_t status); /* 0: others */
/* The router's refusals of a kind, dispatch's included. */
uint64_t med_router_metrics_refused(const struct med_router_metrics *metrics,
                                    const struct med_dispatch_totals *totals,
                                    enum med_router_refusal reason);
/* Of enum med_slo_metric, or MED_OBJECTIVE_ALL. */
bool med_router_metrics_has_objective(const struct med_router_metrics *metrics, int objective);
/* Ends that a client which had tokens already sees as a broken stream. */
bool med_router_metrics_is_broken(enum med_outcome outcome);
void med_router_metrics_ended(struct med_router_metrics *metrics,
                              const struct med_router_ended *ended);
/* Connected workers have cost something for this long. */
void med_router_metrics_spend(struct med_router_metrics *metrics,
                              const struct med_dispatch *dispatch, uint32_t workers_max,
                              int64_t fleet_ns);

/* Everything that a page is made of; all borrowed. */
struct med_router_metrics_view {
    const struct med_router_metrics *metrics;
    const struct med_dispatch *dispatch;
    const struct med_plan *plan;
    uint32_t workers_max;
    uint64_t links_refused, links_broken;
    struct med_http_server_stats http;
    size_t calls;
    const struct med_grpc_call_count *call_counts; /* those above 0 */
    size_t call_count_count;
    uint64_t plan_generation;
    int64_t plan_loaded_unix_ns;
    uint64_t reloads[2]; /* done, refused */
    bool draining;
};

int med_router_metrics_write(const struct med_router_metrics_view *view,
                             struct med_buf *out) MED_MUST_CHECK;

/* docs/reference/metrics.md */
int med_router_metrics_markdown(struct med_buf *out) MED_MUST_CHECK;

#endif
