/* SPDX-License-Identifier: Apache-2.0 */
/* TLS sessions without sockets: two ends whose bytes a test carries, in pieces, cut or falsified. */
#include "router/tls.h"
#include "tests/check.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <unistd.h>

enum {
    MESSAGE_BYTES = 100000
};

static char certificate[] = "/tmp/med-tls-XXXXXX", key_file[] = "/tmp/med-tls-XXXXXX";

static void make_files(void)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = X509_new();
    REQUIRE(key != NULL && x != NULL);
    (void)ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    (void)X509_gmtime_adj(X509_getm_notBefore(x), -60);
    (void)X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_NAME *name = X509_get_subject_name(x);
    (void)X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"test", -1,
                                     -1, 0);
    (void)X509_set_issuer_name(x, name);
    (void)X509_set_pubkey(x, key);
    (void)X509_set_version(x, 2);
    X509_EXTENSION *names = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:localhost");
    REQUIRE(X509_add_ext(x, names, -1) == 1);
    X509_EXTENSION_free(names);
    REQUIRE(X509_sign(x, key, EVP_sha256()) > 0);
    FILE *out = fdopen(mkstemp(certificate), "w");
    REQUIRE(out != NULL && PEM_write_X509(out, x) == 1 && fclose(out) == 0);
    out = fdopen(mkstemp(key_file), "w");
    REQUIRE(out != NULL && PEM_write_PrivateKey(out, key, NULL, NULL, 0, NULL, NULL) == 1 &&
            fclose(out) == 0);
    X509_free(x);
    EVP_PKEY_free(key);
}

struct pair {
    struct med_tls *tls[2];
    struct med_tls_session *ends[2]; // client, server
    struct med_buf got[2];           // plaintext
    int ended[2];                    // what read said last that was not 0
};

static void pair_init(struct pair *p, const char *host)
{
    const struct med_tls_config client = {.ca_option = "--ca", .ca = certificate};
    const struct med_tls_config server = {.certificate_option = "--certificate",
                                          .key_option = "--key",
                                          .certificate = certificate,
                                          .key = key_file,
                                          .is_server = true};
    struct med_err err = {0};
    *p = (struct pair){0};
    REQUIRE(med_tls_new(&client, &p->tls[0], &err) == 0);
    REQUIRE(med_tls_new(&server, &p->tls[1], &err) == 0);
    REQUIRE(med_tls_session_new(p->tls[0], host, &p->ends[0]) == 0);
    REQUIRE(med_tls_session_new(p->tls[1], NULL, &p->ends[1]) == 0);
    med_buf_init(&p->got[0], 1 << 20);
    med_buf_init(&p->got[1], 1 << 20);
}

static void pair_release(struct pair *p)
{
    for (int i = 0; i < 2; i++) {
        med_tls_free(p->tls[i]); // sessions may outlive it
        med_tls_session_free(p->ends[i]);
        med_buf_release(&p->got[i]);
    }
}

/* Reads all that an end can read. */
static void drain(struct pair *p, int end)
{
    char bytes[MED_TLS_READ_MAX];
    size_t count = 1;
    while (p->ended[end] == 0 && count > 0) {
        p->ended[end] = med_tls_session_read(p->ends[end], bytes, &count);
        if (p->ended[end] == 0)
            REQUIRE(med_buf_append(&p->got[end], bytes, count) == 0);
    }
    REQUIRE(med_tls_session_keep(p->ends[end]) == 0);
}

/* Carries bytes both ways, `piece` at a time, until nobody has any. */
static void carry(struct pair *p, size_t piece)
{
    drain(p, 0);
    for (bool moved = true; moved;) {
        moved = false;
        for (int from = 0; from < 2; from++) {
            struct med_buf *out = med_tls_session_out(p->ends[from]);
            size_t count = out->length < piece ? out->length : piece;
            if (count == 0 || p->ended[1 - from] != 0) {
                med_buf_clear(out);
                continue;
            }
            REQUIRE(med_tls_session_feed(p->ends[1 - from], out->data, count) == 0);
            drain(p, 1 - from);
            med_buf_consume(out, count);
            moved = true;
        }
    }
}

static void write_all(struct med_tls_session *session, const char *bytes, size_t count)
{
    for (size_t at = 0; at < count;) {
        int taken = med_tls_session_write(session, bytes + at, count - at);
        REQUIRE(taken > 0);
        at += (size_t)taken;
    }
}

static void test_bytes_when_carried_in_pieces_then_they_arrive_whole(void)
{
    static char message[MESSAGE_BYTES];
    const size_t pieces[] = {1, 7, 1000, 1 << 20};
    for (size_t i = 0; i < sizeof(message); i++)
        message[i] = (char)(i * 31);
    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        struct pair p;
        pair_init(&p, "localhost");
        CHECK(!med_tls_session_is_ready(p.ends[0]));
        CHECK_INT(med_tls_session_write(p.ends[0], "early", 5), 0);
        carry(&p, pieces[i]);
        CHECK(med_tls_session_is_ready(p.ends[0]));
        CHECK(med_tls_session_is_ready(p.ends[1]));
        write_all(p.ends[0], message, sizeof(message));
        carry(&p, pieces[i]);
        write_all(p.ends[1], message, 5);
        med_tls_session_end(p.ends[1]);
        carry(&p, pieces[i]);
        CHECK_UINT(p.got[1].length, sizeof(message));
        CHECK(memcmp(p.got[1].data, message, sizeof(message)) == 0);
        CHECK_UINT(p.got[0].length, 5);
        CHECK_INT(p.ended[0], MED_TLS_CLOSED);
        CHECK_INT(p.ended[1], 0);
        pair_release(&p);
    }
}

static void test_certificate_when_for_another_host_then_refused_with_the_reason(void)
{
    struct pair p;
    pair_init(&p, "elsewhere.example");
    carry(&p, 1000);
    CHECK_INT(p.ended[0], MED_E_PROTO);
    CHECK_CONTAINS(med_tls_session_why(p.ends[0]), "certificate is refused");
    CHECK(med_tls_session_write(p.ends[0], "x", 1) < 0);
    pair_release(&p);
}

static void test_record_when_falsified_then_the_session_fails(void)
{
    struct pair p;
    pair_init(&p, "localhost");
    carry(&p, 1000);
    write_all(p.ends[0], "twenty bytes of text", 20);
    struct med_buf *out = med_tls_session_out(p.ends[0]);
    out->data[out->length - 1] ^= 1;
    carry(&p, 1000);
    CHECK_INT(p.ended[1], MED_E_PROTO);
    CHECK_UINT(p.got[1].length, 0);
    pair_release(&p);
}

static void test_garbage_when_first_then_the_session_fails(void)
{
    struct pair p;
    pair_init(&p, "localhost");
    REQUIRE(med_tls_session_feed(p.ends[1], "GET / HTTP/1.1\r\n\r\n", 18) == 0);
    drain(&p, 1);
    CHECK_INT(p.ended[1], MED_E_PROTO);
    CHECK_CONTAINS(med_tls_session_why(p.ends[1]), "TLS: ");
    pair_release(&p);
}

static void test_reload_when_files_are_broken_then_the_old_ones_serve(void)
{
    struct pair p;
    struct med_err err = {0};
    pair_init(&p, "localhost");
    FILE *file = fopen(certificate, "r+");
    REQUIRE(file != NULL);
    int first = fgetc(file);
    REQUIRE(fseek(file, 0, SEEK_SET) == 0 && fputc('x', file) == 'x' && fflush(file) == 0);
    CHECK_INT(med_tls_reload(p.tls[1], &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, certificate);
    REQUIRE(fseek(file, 0, SEEK_SET) == 0 && fputc(first, file) == first && fclose(file) == 0);
    CHECK_INT(med_tls_reload(p.tls[1], &err), 0);
    carry(&p, 1000); // a session of before the reload
    CHECK(med_tls_session_is_ready(p.ends[1]));
    pair_release(&p);
}

int main(void)
{
    make_files();
    RUN(test_bytes_when_carried_in_pieces_then_they_arrive_whole);
    RUN(test_certificate_when_for_another_host_then_refused_with_the_reason);
    RUN(test_record_when_falsified_then_the_session_fails);
    RUN(test_garbage_when_first_then_the_session_fails);
    RUN(test_reload_when_files_are_broken_then_the_old_ones_serve);
    (void)unlink(certificate);
    (void)unlink(key_file);
    return check_finish();
}
