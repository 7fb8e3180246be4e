/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS: what one end presents and trusts (med_tls), and the state of one connection as pure bytes in
 * and out (med_tls_session).  TLS 1.2 and 1.3, no renegotiation, no compression.
 *
 * Certificates come from PEM files.  A reload reads them again; connections that are open keep what
 * they have, new ones take the new files, and files that do not load change nothing.
 *
 * A session does no I/O: router/stream.c moves the bytes.  router/tls.c alone includes OpenSSL.
 * thread: that of the loop whose connections use it; nothing is locked.
 */
#ifndef MED_ROUTER_TLS_H
#define MED_ROUTER_TLS_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct med_tls_config {
    /* In sentences about the files: "--tls-certificate" ...; borrowed, as the paths are. */
    const char *certificate_option, *key_option, *ca_option;
    const char *certificate; /* server: the chain, leaf first; NULL: a client without one */
    const char *key;
    const char *ca; /* client: whom it trusts; NULL: the system's authorities */
    bool is_server;
    const char *alpn; /* the one protocol that this end speaks; NULL: not negotiated */
};

struct med_tls;

/* errors: MED_E_INVALID with a sentence that names option and file; MED_E_NOMEM. */
int med_tls_new(const struct med_tls_config *config, struct med_tls **ret_tls,
                struct med_err *err) MED_MUST_CHECK;
/* Reads the files again.  On failure the old ones stay. */
int med_tls_reload(struct med_tls *tls, struct med_err *err) MED_MUST_CHECK;
/* Sessions may outlive it. */
void med_tls_free(struct med_tls *tls);

/* ---- one connection ---- */

enum {
    MED_TLS_READ_MAX = 16 << 10, /* a record's bytes: what one read may give */
    MED_TLS_CLOSED = 1           /* of read: the peer has said that it sends no more */
};

struct med_tls_session;

/* host NULL: the server's end.  A client checks the certificate for this name or address. */
int med_tls_session_new(struct med_tls *tls, const char *host,
                        struct med_tls_session **ret_session) MED_MUST_CHECK;
void med_tls_session_free(struct med_tls_session *session);

/* Bytes from the peer: lent until read says that it has taken all, or keep is called. */
int med_tls_session_feed(struct med_tls_session *session, const char *bytes,
                         size_t count) MED_MUST_CHECK;
/* Moves what is left of the lent bytes into the session. */
int med_tls_session_keep(struct med_tls_session *session) MED_MUST_CHECK;
/* 0 and *ret_bytes > 0: plaintext. 0 and *ret_bytes 0: all is taken. MED_TLS_CLOSED. < 0: failed, see
 * why. Makes the handshake too. */
int med_tls_session_read(struct med_tls_session *session, char bytes[MED_TLS_READ_MAX],
                         size_t *ret_bytes) MED_MUST_CHECK;
/* Encrypts as many bytes as one record takes: how many; 0: not before the handshake is done. */
int med_tls_session_write(struct med_tls_session *session, const char *bytes,
                          size_t count) MED_MUST_CHECK;
/* Says that this end sends no more. */
void med_tls_session_end(struct med_tls_session *session);
/* What is to be sent to the peer; the caller takes it out. */
struct med_buf *med_tls_session_out(struct med_tls_session *session);
bool med_tls_session_is_ready(const struct med_tls_session *session);
/* Why it failed; "" otherwise. */
const char *med_tls_session_why(const struct med_tls_session *session);

#endif
