/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the load test's HTTP client sends: the bytes of requests to an OpenAI-compatible server.
 * source: OpenAI API reference, completions and chat; emulated_output_tokens is Medley's own.
 * thread: any; pure.
 */
#ifndef MED_ROUTER_BENCH_HTTP_REQUEST_H
#define MED_ROUTER_BENCH_HTTP_REQUEST_H

#include "base/buf.h"
#include "router/bench/client.h"

enum {
    MED_BENCH_HOST_MAX = 256
};

/* What all requests have in common. owns: both texts. */
struct med_bench_http_texts {
    char *head; /* up to the digits of Content-Length */
    char *open; /* of the body, up to the prompt */
    bool chat, words, letters;
};

/* Splits http[s]://HOST[:PORT][/PREFIX]; the prefix is lent by url.  errors: MED_E_USAGE. */
int med_bench_http_url(const char *url, char host[MED_BENCH_HOST_MAX], const char **ret_prefix,
                       struct med_err *err) MED_MUST_CHECK;
/* model: NULL is none.  errors: MED_E_USAGE: it would have to be escaped. */
int med_bench_http_check_model(const char *model, struct med_err *err) MED_MUST_CHECK;

/* model has been checked; host is as Host says it.  errors: MED_E_LIMIT, MED_E_NOMEM. */
int med_bench_http_texts_make(const struct med_bench_http_config *config, const char *host,
                              const char *prefix,
                              struct med_bench_http_texts *ret_texts) MED_MUST_CHECK;
void med_bench_http_texts_release(struct med_bench_http_texts *texts);

/* The bytes of one request, in place of what the buffer held.  errors: MED_E_LIMIT, MED_E_NOMEM. */
int med_bench_http_fill(const struct med_bench_http_texts *texts,
                        const struct med_bench_request *request,
                        struct med_buf *out) MED_MUST_CHECK;

#endif
