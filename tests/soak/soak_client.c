/* SPDX-License-Identifier: Apache-2.0 */
/*
 * soak_client grpc|http ADDRESS REQUESTS CONCURRENCY SEED: a million requests that misbehave.
 *
 * Keeps CONCURRENCY requests open until REQUESTS have been sent and have ended; each is drawn from the
 * seed: most run to their end; some are cancelled (HTTP: the connection is closed) before a token or in
 * mid-stream, have a deadline that they may miss, or are wrong.  What ran to its end is checked: every
 * token in its place, as many as asked for.  Prints one JSON object of what was sent and how it ended;
 * tests/soak/soak.py compares that with the router's counters.
 *
 * One thread here, and gRPC's.  soak_grpc.c and soak_http.c speak to the doors.  A tool for soak.py, not
 * a load generator: it measures nothing.
 */
#include "tests/soak/soak_client.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const soak_kind_names[SOAK_KINDS] = {"plain", "cancel_early", "cancel_late", "deadline",
                                                 "wrong"};

void soak_draw(struct soak *soak, struct soak_request *request)
{
    uint32_t dice = med_rng_below(&soak->rng, 100);
    memset(request, 0, sizeof(*request));
    request->kind = dice < 70   ? SOAK_PLAIN
                    : dice < 76 ? SOAK_CANCEL_EARLY
                    : dice < 88 ? SOAK_CANCEL_LATE
                    : dice < 96 ? SOAK_DEADLINE
                                : SOAK_WRONG;
    request->prompt_count = 1 + med_rng_below(&soak->rng, SOAK_PROMPT_MAX);
    request->tokens = 1 + med_rng_below(&soak->rng, med_rng_below(&soak->rng, 50) == 0 ? 500 : 40);
    request->cancel_at = 1 + med_rng_below(&soak->rng, request->tokens);
    request->timeout_ns = 200000 + (int64_t)med_rng_below(&soak->rng, 30000000);
    request->is_stream = med_rng_below(&soak->rng, 2) == 0;
    soak->sent++;
    soak->kinds[request->kind].sent++;
}

void soak_end(struct soak *soak, const struct soak_request *request, const char *end)
{
    struct soak_kind_tally *tally = &soak->kinds[request->kind];
    size_t i = 0;
    while (i < SOAK_ENDS && tally->ends[i].name[0] != '\0' && strcmp(tally->ends[i].name, end) != 0)
        i++;
    if (i == SOAK_ENDS) {
        (void)fprintf(stderr, "soak_client: too many ways to end: %s\n", end);
        exit(1);
    }
    (void)snprintf(tally->ends[i].name, sizeof(tally->ends[i].name), "%s", end);
    tally->ends[i].count++;
    soak->ended++;
    if (soak->ended % 50000 == 0)
        (void)fprintf(stderr, "%" PRIu64 " have ended\n", soak->ended);
}

void soak_complain(struct soak *soak, const char *what, const char *detail)
{
    soak->wrong_answers++;
    if (soak->wrong_answers <= 20)
        (void)fprintf(stderr, "WRONG: %s: %s\n", what, detail);
}

static void print(const struct soak *soak)
{
    (void)printf("{\"sent\": %" PRIu64 ", \"ended\": %" PRIu64 ", \"wrong_answers\": %" PRIu64
                 ", \"tokens\": %" PRIu64 ", \"kinds\": {",
                 soak->sent, soak->ended, soak->wrong_answers, soak->tokens);
    for (int k = 0; k < SOAK_KINDS; k++) {
        (void)printf("%s\"%s\": {", k > 0 ? ", " : "", soak_kind_names[k]);
        for (int i = 0; i < SOAK_ENDS && soak->kinds[k].ends[i].count > 0; i++) {
            (void)printf("%s\"%s\": %" PRIu64, i > 0 ? ", " : "", soak->kinds[k].ends[i].name,
                         soak->kinds[k].ends[i].count);
        }
        (void)printf("}");
    }
    (void)printf("}}\n");
}

static uint64_t number(const char *text)
{
    char *end = NULL;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text == '\0' || *end != '\0') {
        (void)fprintf(stderr, "soak_client: expected a number, found %s\n", text);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    static struct soak soak;
    if (argc != 6) {
        (void)fprintf(stderr, "usage: soak_client grpc|http ADDRESS REQUESTS CONCURRENCY SEED\n");
        return 2;
    }
    soak.address = argv[2];
    soak.requests = number(argv[3]);
    soak.concurrency = (uint32_t)number(argv[4]);
    med_rng_init(&soak.rng, number(argv[5]), 1);
    int rc = strcmp(argv[1], "grpc") == 0 ? soak_run_grpc(&soak) : soak_run_http(&soak);
    if (rc < 0)
        return 1;
    print(&soak);
    return soak.sent == soak.ended && soak.wrong_answers == 0 ? 0 : 1;
}
