/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engine thread counts of its requests: ends, and histograms of their times.
 *
 * A latency is told once its last moment is known: TTFT with the first token, ITL with each later one,
 * the others at the end of a request that ended as it should (STOP, LENGTH).  Tokens that another
 * worker made before (output_tokens of the request) belong to no time here.
 *
 * Times: ns of fleet time in, seconds in the histograms.  thread: whoever holds the lock of the
 * engine's statistics; init: the loop, before there is an engine thread.  Allocates nothing.
 */
#ifndef MED_WORKER_ENGINE_STATS_H
#define MED_WORKER_ENGINE_STATS_H

#include "worker/engine_thread.h"

#include <stdint.h>

void med_engine_stats_init(struct med_engine_stats *stats, const struct med_engine_config *config);
/* A token came, request->generated counts it, request->last_token_ns is of the one before. */
void med_engine_stats_token(struct med_engine_stats *stats,
                            const struct med_engine_request *request, int64_t now_ns);
/* It ended, as request->end says. */
void med_engine_stats_end(struct med_engine_stats *stats, const struct med_engine_request *request,
                          int64_t now_ns);
/* From one step's end to the next one's. */
void med_engine_stats_step(struct med_engine_stats *stats, int64_t took_ns);

#endif
