/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS contexts and sessions on OpenSSL; see tls.h.
 *
 * A session's BIO reads from what was fed (the caller's bytes, not copied, or what was kept of them)
 * and appends to `out`.  A context is replaced whole by a reload: OpenSSL counts its references, so
 * open sessions keep theirs.  Records' buffers are released between reads and writes, which leaves an
 * idle session some 10 KiB.
 *
 * Failures are told as OpenSSL's first reason, for it is the one nearest to the cause.  The error
 * queue is the thread's; every entry point empties it before it calls OpenSSL.
 */
#include "router/tls.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <arpa/inet.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum {
    OUT_BYTES_MAX = 4 << 20, /* far above a slice of the caller's and a handshake together */
    HELD_BYTES_MAX = 1 << 20,
    WHY_MAX = 256,
    ALPN_MAX = 16,
};

struct med_tls {
    struct med_tls_config config;
    SSL_CTX *ctx;
    unsigned char alpn[ALPN_MAX]; // length and name, as the protocol has it
    size_t alpn_bytes;
};

struct med_tls_session {
    SSL *ssl;
    const char *lent; // bytes of the peer that are not taken
    size_t lent_bytes;
    struct med_buf held; // the same, once kept
    struct med_buf out;
    bool failed;
    bool end_said;
    char why[WHY_MAX];
};

/* ---- the BIO ---- */

static int bio_write(BIO *bio, const char *bytes, int count)
{
    struct med_tls_session *session = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (count <= 0 || med_buf_append(&session->out, bytes, (size_t)count) < 0)
        return -1;
    return count;
}

static int bio_read(BIO *bio, char *bytes, int max)
{
    struct med_tls_session *session = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (max <= 0)
        return 0;
    size_t count = session->held.length > 0 ? session->held.length : session->lent_bytes;
    if (count > (size_t)max)
        count = (size_t)max;
    if (count == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    if (session->held.length > 0) {
        memcpy(bytes, session->held.data, count);
        med_buf_consume(&session->held, count);
        return (int)count;
    }
    memcpy(bytes, session->lent, count);
    session->lent += count;
    session->lent_bytes -= count;
    return (int)count;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *bio_method;

static void bio_method_make(void)
{
    int type = BIO_get_new_index();
    BIO_METHOD *method = type < 0 ? NULL : BIO_meth_new(type | BIO_TYPE_SOURCE_SINK, "medley");
    if (method != NULL && BIO_meth_set_write(method, bio_write) == 1 &&
        BIO_meth_set_read(method, bio_read) == 1 && BIO_meth_set_ctrl(method, bio_ctrl) == 1)
        bio_method = method;
}

/* ---- contexts ---- */

static const char *first_reason(void)
{
    unsigned long code = ERR_peek_error();
    const char *text = code != 0 ? ERR_reason_error_string(code) : NULL;
    return text != NULL ? text : "no reason given";
}

/* The one protocol of this end, or none if the client does not speak it. */
static int on_alpn(SSL *ssl, const unsigned char **ret_name, unsigned char *ret_bytes,
                   const unsigned char *offered, unsigned int offered_bytes, void *arg)
{
    const struct med_tls *tls = arg;
    unsigned char *name = NULL;
    (void)ssl;
    if (SSL_select_next_proto(&name, ret_bytes, tls->alpn, (unsigned)tls->alpn_bytes, offered,
                              offered_bytes) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *ret_name = name;
    return SSL_TLSEXT_ERR_OK;
}

/* A key under a passphrase is refused: nobody is there to be asked. */
static int on_passphrase(char *text, int max, int writing, void *arg)
{
    (void)writing;
    (void)arg;
    if (max > 0)
        text[0] = '\0';
    return -1;
}

static int load_own(const struct med_tls_config *c, SSL_CTX *ctx, struct med_err *err)
{
    if (SSL_CTX_use_certificate_chain_file(ctx, c->certificate) != 1) {
        return med_err_set(err, MED_E_INVALID, "%s %s: cannot be read as a PEM chain: %s",
                           c->certificate_option, c->certificate, first_reason());
    }
    if (SSL_CTX_use_PrivateKey_file(ctx, c->key, SSL_FILETYPE_PEM) != 1) {
        /* A key of another certificate is found here too. */
        return med_err_set(err, MED_E_INVALID,
                           "%s %s: cannot be used as the PEM key of %s: %s (a key under a "
                           "passphrase is not supported)",
                           c->key_option, c->key, c->certificate, first_reason());
    }
    if (SSL_CTX_check_private_key(ctx) != 1) {
        return med_err_set(err, MED_E_INVALID, "%s %s: is not the key of %s: %s", c->key_option,
                           c->key, c->certificate, first_reason());
    }
    return 0;
}

static int load_trust(const struct med_tls_config *c, SSL_CTX *ctx, struct med_err *err)
{
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    if (c->ca == NULL) {
        if (SSL_CTX_set_default_verify_paths(ctx) != 1) {
            return med_err_set(err, MED_E_INVALID, "the system's authorities cannot be read: %s",
                               first_reason());
        }
    } else if (SSL_CTX_load_verify_file(ctx, c->ca) != 1) {
        return med_err_set(err, MED_E_INVALID, "%s %s: cannot be read as PEM certificates: %s",
                           c->ca_option, c->ca, first_reason());
    }
    return 0;
}

static int context_make(struct med_tls *tls, SSL_CTX **ret_ctx, struct med_err *err)
{
    const struct med_tls_config *c = &tls->config;
    static const unsigned char context_name[] = "medley";
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new(c->is_server ? TLS_server_method() : TLS_client_method());
    if (ctx == NULL)
        return med_err_set(err, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM));
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_default_passwd_cb(ctx, on_passphrase);
    int rc = 0;
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_session_id_context(ctx, context_name, sizeof(context_name) - 1) != 1)
        rc = med_err_set(err, MED_E_INTERNAL, "OpenSSL cannot be set up: %s", first_reason());
    if (rc == 0 && c->certificate != NULL)
        rc = load_own(c, ctx, err);
    if (rc == 0 && !c->is_server)
        rc = load_trust(c, ctx, err);
    if (rc == 0 && tls->alpn_bytes > 0) {
        if (c->is_server) {
            SSL_CTX_set_alpn_select_cb(ctx, on_alpn, tls);
        } else if (SSL_CTX_set_alpn_protos(ctx, tls->alpn, (unsigned)tls->alpn_bytes) != 0) {
            rc = med_err_set(err, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM));
        }
    }
    if (rc < 0) {
        SSL_CTX_free(ctx);
        ERR_clear_error();
        return rc;
    }
    *ret_ctx = ctx;
    return 0;
}

int med_tls_new(const struct med_tls_config *config, struct med_tls **ret_tls, struct med_err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    MED_ASSERT(!config->is_server || config->certificate != NULL);
    MED_ASSERT((config->certificate == NULL) == (config->key == NULL));
    (void)pthread_once(&once, bio_method_make); // fails for wrong use only
    struct med_tls *tls = bio_method == NULL ? NULL : med_calloc(1, sizeof(*tls));
    if (tls == NULL)
        return med_err_set(err, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM));
    tls->config = *config;
    if (config->alpn != NULL) {
        size_t bytes = strlen(config->alpn);
        MED_ASSERT(bytes > 0 && bytes < sizeof(tls->alpn));
        tls->alpn[0] = (unsigned char)bytes;
        memcpy(tls->alpn + 1, config->alpn, bytes);
        tls->alpn_bytes = bytes + 1;
    }
    int rc = context_make(tls, &tls->ctx, err);
    if (rc < 0) {
        med_free(tls);
        return rc;
    }
    *ret_tls = tls;
    return 0;
}

int med_tls_reload(struct med_tls *tls, struct med_err *err)
{
    SSL_CTX *ctx = NULL;
    int rc = context_make(tls, &ctx, err);
    if (rc < 0)
        return rc;
    SSL_CTX_free(tls->ctx);
    tls->ctx = ctx;
    return 0;
}

void med_tls_free(struct med_tls *tls)
{
    if (tls == NULL)
        return;
    SSL_CTX_free(tls->ctx);
    med_free(tls);
}

/* ---- sessions ---- */

static int fail(struct med_tls_session *session, const char *text)
{
    session->failed = true;
    (void)snprintf(session->why, sizeof(session->why), "TLS: %s", text);
    ERR_clear_error();
    return MED_E_PROTO;
}

/* What OpenSSL says of a certificate is worth more than "certificate verify failed". */
static int fail_ssl(struct med_tls_session *session)
{
    long verified = SSL_get_verify_result(session->ssl);
    char text[WHY_MAX / 2];
    if (verified == X509_V_OK)
        return fail(session, first_reason());
    (void)snprintf(text, sizeof(text), "the peer's certificate is refused: %s",
                   X509_verify_cert_error_string(verified));
    return fail(session, text);
}

static int expect_host(SSL *ssl, const char *host)
{
    unsigned char address[16];
    if (inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host);
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, host) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1;
}

int med_tls_session_new(struct med_tls *tls, const char *host, struct med_tls_session **ret_session)
{
    MED_ASSERT((host == NULL) == tls->config.is_server);
    ERR_clear_error();
    struct med_tls_session *session = med_calloc(1, sizeof(*session));
    BIO *bio = BIO_new(bio_method);
    SSL *ssl = SSL_new(tls->ctx);
    if (session == NULL || bio == NULL || ssl == NULL ||
        (host != NULL && expect_host(ssl, host) != 1)) {
        SSL_free(ssl);
        (void)BIO_free(bio); // NULL is no error of interest
        med_free(session);
        ERR_clear_error();
        return MED_E_NOMEM;
    }
    session->ssl = ssl;
    med_buf_init(&session->held, HELD_BYTES_MAX);
    med_buf_init(&session->out, OUT_BYTES_MAX);
    BIO_set_data(bio, session);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio); // ssl owns it now
    if (host != NULL) {
        SSL_set_connect_state(ssl);
    } else {
        SSL_set_accept_state(ssl);
    }
    *ret_session = session;
    return 0;
}

void med_tls_session_free(struct med_tls_session *session)
{
    if (session == NULL)
        return;
    SSL_free(session->ssl);
    med_buf_release(&session->held);
    med_buf_release(&session->out);
    med_free(session);
}

int med_tls_session_feed(struct med_tls_session *session, const char *bytes, size_t count)
{
    MED_ASSERT(session->lent_bytes == 0);
    if (session->held.length > 0)
        return med_buf_append(&session->held, bytes, count);
    session->lent = bytes;
    session->lent_bytes = count;
    return 0;
}

int med_tls_session_keep(struct med_tls_session *session)
{
    size_t count = session->lent_bytes;
    session->lent_bytes = 0;
    if (count > 0)
        return med_buf_append(&session->held, session->lent, count);
    if (session->held.length == 0)
        med_buf_release(&session->held);
    return 0;
}

int med_tls_session_read(struct med_tls_session *session, char bytes[MED_TLS_READ_MAX],
                         size_t *ret_bytes)
{
    *ret_bytes = 0;
    if (session->failed)
        return MED_E_PROTO;
    ERR_clear_error();
    int count = SSL_read(session->ssl, bytes, MED_TLS_READ_MAX);
    if (count > 0) {
        *ret_bytes = (size_t)count;
        return 0;
    }
    switch (SSL_get_error(session->ssl, count)) {
    case SSL_ERROR_WANT_READ:
        return 0;
    case SSL_ERROR_ZERO_RETURN:
        return MED_TLS_CLOSED;
    default:
        return fail_ssl(session);
    }
}

int med_tls_session_write(struct med_tls_session *session, const char *bytes, size_t count)
{
    if (session->failed)
        return MED_E_PROTO;
    ERR_clear_error();
    int taken = SSL_write(session->ssl, bytes, count > INT_MAX ? INT_MAX : (int)count);
    if (taken > 0)
        return taken;
    if (SSL_get_error(session->ssl, taken) == SSL_ERROR_WANT_READ)
        return 0; // the handshake comes first
    return fail_ssl(session);
}

void med_tls_session_end(struct med_tls_session *session)
{
    if (session->failed || session->end_said || SSL_is_init_finished(session->ssl) == 0)
        return;
    session->end_said = true;
    ERR_clear_error();
    if (SSL_shutdown(session->ssl) < 0)
        ERR_clear_error(); // the peer will see the connection's end all the same
}

struct med_buf *med_tls_session_out(struct med_tls_session *session)
{
    return &session->out;
}

bool med_tls_session_is_ready(const struct med_tls_session *session)
{
    return !session->failed && SSL_is_init_finished(session->ssl) == 1;
}

const char *med_tls_session_why(const struct med_tls_session *session)
{
    return session->why;
}
