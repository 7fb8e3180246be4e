/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server that is measured, as the load generator sees it: any OpenAI-compatible one over HTTP, or
 * Medley's router over gRPC.
 *
 * Prompts have an exact length: token ids where the server takes them; else single letters, whose
 * price in tokens is found with two prompts before anything is measured.  What counts is what the
 * server says of each prompt (usage.prompt_tokens).  No two prompts are the same, in one run or in
 * several, so that no cache of prefixes flatters it, unless that is asked for.  Answers go on to their length by ignore_eos where
 * the server takes it; where it refuses, answers are as long as they come, and the row tells their mean.
 * thread: the owner's.  owns: the connection.
 */
#ifndef MED_PROFILES_PROFILER_SERVER_H
#define MED_PROFILES_PROFILER_SERVER_H

#include "base/clock.h"
#include "profiles/profiler/point.h"
#include "router/bench/client.h"

#include <signal.h>

enum med_server_prompt {
    MED_SERVER_PROMPT_AUTO, /* ids, or letters if those are refused */
    MED_SERVER_PROMPT_IDS,
    MED_SERVER_PROMPT_TEXT
};

/* Texts are borrowed. */
struct med_server_config {
    const char *grpc_target;           /* NULL: HTTP */
    const char *tls_ca, *api_key_file; /* of gRPC */
    struct med_bench_http_config http; /* stream and letters are set here */
    enum med_server_prompt prompt;
    bool same_prompts; /* all prompts of a size are one and the same */
    const struct med_clock *clock;
    uint64_t seed;
    uint32_t vocabulary;
    int64_t stall_real_ns;
    const volatile sig_atomic_t *stop;
    void (*on_progress)(void *arg, const struct med_bench_progress *progress); /* or NULL */
    void *progress_arg;
};

struct med_server_facts {
    bool letters;             /* prompts are letters, not ids */
    double tokens_per_letter; /* and tokens that a prompt has besides */
    double tokens_besides;
    bool usage_told, usage_sane; /* it counts prompts, in a way that a tokenizer could */
    bool ignores_eos;
};

struct med_server;

/* Connects and finds out.  errors: MED_E_IO (no connection), MED_E_INVALID with the server's own sentence
 * (it refuses what is asked), MED_E_NOMEM. */
int med_server_new(const struct med_server_config *config, struct med_server **ret_server,
                   struct med_err *err) MED_MUST_CHECK;
void med_server_free(struct med_server *server);
const struct med_server_facts *med_server_facts(const struct med_server *server);

struct med_serving_ask;
/* As med_serving_measure of serving.h; arg is the server. */
int med_server_measure(void *arg, const struct med_serving_ask *ask, struct med_point *ret_point,
                       struct med_err *err) MED_MUST_CHECK;

#endif
