/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of soak_client share; see soak_client.c. */
#ifndef MED_TESTS_SOAK_CLIENT_H
#define MED_TESTS_SOAK_CLIENT_H

#include "base/rng.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SOAK_PROMPT_MAX = 600,
    SOAK_ENDS = 24,
    SOAK_VOCABULARY = 500
};

enum soak_kind {
    SOAK_PLAIN,
    SOAK_CANCEL_EARLY,
    SOAK_CANCEL_LATE,
    SOAK_DEADLINE,
    SOAK_WRONG, /* to be refused */
    SOAK_KINDS
};
extern const char *const soak_kind_names[SOAK_KINDS];

struct soak_request {
    enum soak_kind kind;
    uint32_t prompt_count;
    uint32_t tokens;    /* asked for */
    uint32_t cancel_at; /* tokens after which it is cancelled, if it is */
    int64_t timeout_ns;
    bool is_stream;
};

struct soak_end_count {
    char name[40];
    uint64_t count;
};

struct soak_kind_tally {
    uint64_t sent;
    struct soak_end_count ends[SOAK_ENDS];
};

struct soak {
    const char *address;
    uint64_t requests;
    uint32_t concurrency;
    struct med_rng rng;
    uint64_t sent, ended, wrong_answers, tokens;
    struct soak_kind_tally kinds[SOAK_KINDS];
};

/* The next request; counts it as sent. */
void soak_draw(struct soak *soak, struct soak_request *request);
void soak_end(struct soak *soak, const struct soak_request *request, const char *end);
/* An answer that says it is whole and is not. */
void soak_complain(struct soak *soak, const char *what, const char *detail);

int soak_run_grpc(struct soak *soak);
int soak_run_http(struct soak *soak);

#endif
