/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Certificates, API keys and link tokens of the router, see security.h.
 *
 * Each of the files is reloaded for itself: a broken key file does not keep a new certificate out.
 * A certificate is loaded into OpenSSL first, which checks that its key fits; only then are the
 * PEM texts that gRPC wants taken over.  Runs on the loop; reloads block it for the reading of a few
 * small files.  Logs, since it is the place that handles the error.
 */
#include "router/security.h"

#include "base/log.h"
#include "router/keys.h"
#include "router/tls.h"

#include <string.h>

enum {
    PEM_BYTES_MAX = 1 << 20
};

static int pair_check(const char *certificate, const char *key, const char *names,
                      struct med_err *err)
{
    if ((certificate == NULL) == (key == NULL))
        return 0;
    return med_err_set(err, MED_E_USAGE, "%s: expected both or neither", names);
}

/* Wipes what it held: it may have been a private key. */
static void pem_release(struct med_buf *pem)
{
    volatile char *p = pem->data;
    for (size_t i = 0; i < pem->capacity; i++)
        p[i] = 0;
    med_buf_release(pem);
}

static int pem_read(struct med_security *security, struct med_err *err)
{
    struct med_buf chain;
    struct med_buf key;
    med_buf_init(&chain, PEM_BYTES_MAX);
    med_buf_init(&key, PEM_BYTES_MAX);
    int rc = med_buf_read_file(&chain, security->config.tls_certificate, err);
    if (rc == 0)
        rc = med_buf_read_file(&key, security->config.tls_key, err);
    if (rc == 0 && (memchr(chain.data, '\0', chain.length) != NULL ||
                    memchr(key.data, '\0', key.length) != NULL))
        rc = med_err_set(err, MED_E_INVALID, "--tls-certificate, --tls-key: not PEM text");
    if (rc < 0) {
        pem_release(&chain);
        pem_release(&key);
        return rc;
    }
    pem_release(&security->chain);
    pem_release(&security->key);
    security->chain = chain;
    security->key = key;
    return 0;
}

static void warn_exposed(const struct med_keys *keys, const char *option, const char *path)
{
    if (med_keys_is_exposed(keys))
        MED_WARN("%s %s: every user of this machine may read the file", option, path);
}

static int init_keys(struct med_security *security, struct med_err *err)
{
    const struct med_security_config *c = &security->config;
    int rc = 0;
    if (c->api_key_file != NULL) {
        rc = med_keys_new("--api-key-file", c->api_key_file, &security->api_keys, err);
        if (rc == 0)
            warn_exposed(security->api_keys, "--api-key-file", c->api_key_file);
    }
    if (rc == 0 && c->link_token_file != NULL) {
        rc = med_keys_new("--link-token-file", c->link_token_file, &security->link_tokens, err);
        if (rc == 0)
            warn_exposed(security->link_tokens, "--link-token-file", c->link_token_file);
    }
    return rc;
}

static int init_tls(struct med_security *security, struct med_err *err)
{
    const struct med_security_config *c = &security->config;
    const struct med_tls_config doors = {.certificate_option = "--tls-certificate",
                                         .key_option = "--tls-key",
                                         .certificate = c->tls_certificate,
                                         .key = c->tls_key,
                                         .is_server = true,
                                         .alpn = "http/1.1"};
    const struct med_tls_config link = {.certificate_option = "--link-tls-certificate",
                                        .key_option = "--link-tls-key",
                                        .certificate = c->link_tls_certificate,
                                        .key = c->link_tls_key,
                                        .is_server = true};
    int rc = 0;
    if (c->tls_certificate != NULL) {
        rc = med_tls_new(&doors, &security->door_tls, err);
        if (rc == 0)
            rc = pem_read(security, err);
    }
    if (rc == 0 && c->link_tls_certificate != NULL)
        rc = med_tls_new(&link, &security->link_tls, err);
    return rc;
}

int med_security_init(struct med_security *security, const struct med_security_config *config,
                      struct med_err *err)
{
    *security = (struct med_security){.config = *config};
    med_buf_init(&security->chain, PEM_BYTES_MAX);
    med_buf_init(&security->key, PEM_BYTES_MAX);
    int rc = pair_check(config->tls_certificate, config->tls_key, "--tls-certificate and --tls-key",
                        err);
    if (rc == 0) {
        rc = pair_check(config->link_tls_certificate, config->link_tls_key,
                        "--link-tls-certificate and --link-tls-key", err);
    }
    if (rc == 0)
        rc = init_tls(security, err);
    if (rc == 0)
        rc = init_keys(security, err);
    if (rc < 0)
        med_security_release(security);
    return rc;
}

/* One line per thing, good or bad. */
static bool told(int rc, const struct med_err *err, const char *what)
{
    if (rc < 0) {
        MED_WARN("reload: %s; the old one stays in force", err->text);
    } else {
        MED_INFO("reload: %s", what);
    }
    return rc == 0;
}

static void reload_keys(struct med_keys *keys, const char *option, const char *path)
{
    struct med_err err = {0};
    if (keys == NULL)
        return;
    int rc = med_keys_reload(keys, &err);
    if (rc < 0) {
        MED_WARN("reload: %s; the old ones stay in force", err.text);
        return;
    }
    MED_INFO("reload: %s: %zu in force", option, med_keys_count(keys));
    warn_exposed(keys, option, path);
}

bool med_security_reload(struct med_security *security)
{
    const struct med_security_config *c = &security->config;
    struct med_err err = {0};
    bool changed = false;
    if (security->door_tls != NULL) {
        int rc = med_tls_reload(security->door_tls, &err);
        if (rc == 0)
            rc = pem_read(security, &err);
        changed = told(rc, &err, "the doors' certificate is in force for new connections");
    }
    if (security->link_tls != NULL) {
        int rc = med_tls_reload(security->link_tls, &err);
        (void)told(rc, &err, "the link's certificate is in force for new connections");
    }
    reload_keys(security->api_keys, "--api-key-file", c->api_key_file);
    reload_keys(security->link_tokens, "--link-token-file", c->link_token_file);
    return changed;
}

void med_security_release(struct med_security *security)
{
    med_tls_free(security->door_tls);
    med_tls_free(security->link_tls);
    med_keys_free(security->api_keys);
    med_keys_free(security->link_tokens);
    pem_release(&security->chain);
    pem_release(&security->key);
    *security = (struct med_security){0};
}
