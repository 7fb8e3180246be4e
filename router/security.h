/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What guards the router's doors and its worker link: certificates, API keys, link tokens.
 *
 * All of it comes from files that options name, is read at the start, and again at a reload; what
 * does not load then stays as it was, with one line in the log.
 * thread: the loop's. owns: what it has read.
 */
#ifndef MED_ROUTER_SECURITY_H
#define MED_ROUTER_SECURITY_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>

/* Paths; NULL: not asked for. Borrowed until release. */
struct med_security_config {
    const char *tls_certificate, *tls_key; /* of both doors */
    const char *api_key_file;
    const char *link_tls_certificate, *link_tls_key;
    const char *link_token_file;
};

struct med_security {
    struct med_security_config config;
    struct med_tls *door_tls;     /* of HTTP; NULL: plain */
    struct med_buf chain, key;    /* the same as PEM, for gRPC; empty: plain */
    struct med_tls *link_tls;     /* NULL: plain */
    struct med_keys *api_keys;    /* NULL: none are asked for */
    struct med_keys *link_tokens; /* likewise */
};

/* errors: MED_E_USAGE, MED_E_INVALID, MED_E_NOMEM with a sentence; nothing to release then. */
int med_security_init(struct med_security *security, const struct med_security_config *config,
                      struct med_err *err) MED_MUST_CHECK;
/* Reads everything again. True: the doors' certificate is another one now. */
bool med_security_reload(struct med_security *security);
void med_security_release(struct med_security *security);

#endif
