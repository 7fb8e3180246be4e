/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading tokenizer.json: the order in which its parts are read, and what the parts' readers share.
 *
 * "truncation" and "padding" are left aside, since requests are never cut or filled up here.
 * thread: the loader's.
 */
#include "router/tokenizer/internal.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "base/utf8.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum {
    PATH_BYTES_MAX = 4096
};

/* ---- what the readers share ---- */

int component_no_memory(const struct med_json_at *at, struct med_err *err)
{
    return med_err_set(err, MED_E_NOMEM, "%s: %s while the tokenizer was loaded", at->doc->file,
                       med_err_text(MED_E_NOMEM));
}

int component_type(const struct med_json_at *at, const char **ret_type, struct med_err *err)
{
    return med_json_string(at, "type", MED_LIMIT_NAME_BYTES, ret_type, err);
}

int component_list(const struct med_json_at *root, const char *key, const char *list,
                   struct med_json_at ret_items[TOKENIZER_STEPS_MAX], size_t *ret_count,
                   struct med_err *err)
{
    struct med_json_at component;
    struct med_json_at sequence;
    struct med_json_at item = {0};
    const char *known[] = {"type", list, NULL};
    const char *type = "";
    size_t index;
    *ret_count = 0;
    if (!med_json_has(root, key))
        return 0;
    int rc = med_json_object(root, key, &component, err);
    if (rc == 0)
        rc = component_type(&component, &type, err);
    if (rc < 0)
        return rc;
    if (strcmp(type, "Sequence") != 0) {
        ret_items[(*ret_count)++] = component;
        return 0;
    }
    rc = med_json_keys(&component, known, err);
    if (rc == 0)
        rc = med_json_array(&component, list, &sequence, err);
    while (rc == 0 && med_json_next(&sequence, &index, &item, NULL)) {
        rc = component_type(&item, &type, err);
        if (rc == 0 && strcmp(type, "Sequence") == 0)
            rc = med_json_fail(&item, "type", err, "a Sequence inside a Sequence");
        if (rc == 0 && *ret_count == TOKENIZER_STEPS_MAX)
            rc = med_json_fail(&sequence, NULL, err, "more than %d steps", TOKENIZER_STEPS_MAX);
        if (rc == 0)
            ret_items[(*ret_count)++] = item;
    }
    return rc;
}

int component_bool(const struct med_json_at *at, const char *key, bool fallback, bool *ret_value,
                   struct med_err *err)
{
    *ret_value = fallback;
    return med_json_has(at, key) ? med_json_bool(at, key, ret_value, err) : 0;
}

int component_literal(const struct med_json_at *at, const char *key, bool may_be_empty,
                      char out[TOKENIZER_LITERAL_BYTES + 1], size_t *ret_bytes, struct med_err *err)
{
    const char *text;
    int rc = med_json_string(
        at, key, may_be_empty ? -TOKENIZER_LITERAL_BYTES : TOKENIZER_LITERAL_BYTES, &text, err);
    if (rc < 0)
        return rc;
    *ret_bytes = strlen(text);
    memcpy(out, text, *ret_bytes + 1);
    return 0;
}

int component_character(const struct med_json_at *at, const char *key, char out[5],
                        struct med_err *err)
{
    const char *text = "\xe2\x96\x81";
    if (med_json_has(at, key)) {
        int rc = med_json_string(at, key, 64, &text, err);
        if (rc < 0)
            return rc;
    }
    size_t bytes = strlen(text);
    if (med_utf8_char_bytes(text, bytes) != bytes)
        return med_json_fail(at, key, err, "found \"%.16s\", expected one character", text);
    memcpy(out, text, bytes + 1);
    return 0;
}

/* ---- the whole ---- */

static int parse_parts(struct med_tokenizer *t, const struct med_json_at *root, size_t bytes,
                       struct med_err *err)
{
    static const char *const known[] = {
        "version",       "truncation",     "padding", "added_tokens", "normalizer",
        "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    const char *version;
    int rc = med_json_keys(root, known, err);
    if (rc == 0 && med_json_has(root, "version")) {
        rc = med_json_string(root, "version", 64, &version, err);
        if (rc == 0 && strcmp(version, "1.0") != 0)
            rc = med_json_fail(root, "version", err, "found \"%s\", expected \"1.0\"", version);
    }
    /* Spellings with a NUL each, and pieces, which may be another copy. */
    if (rc == 0)
        rc = bpe_parse_vocab(&t->bpe, &t->vocab, root, bytes * 4 + 4096, err);
    if (rc == 0)
        rc = added_parse(&t->added, root, &t->vocab, err);
    if (rc == 0)
        rc = normalizer_parse(&t->normalizer, root, err);
    if (rc == 0)
        rc = splitter_parse(&t->splitter, root, err);
    if (rc == 0)
        rc = bpe_parse(&t->bpe, &t->vocab, root, t->splitter.byte_level, err);
    if (rc == 0)
        rc = added_index(&t->added, root, &t->vocab, &t->normalizer, err);
    if (rc == 0)
        rc = post_parse(&t->post, root, &t->vocab, err);
    if (rc == 0)
        rc = decoder_parse(&t->decoder, root, &t->vocab, err);
    return rc;
}

int med_tokenizer_parse(const char *bytes, size_t count, const char *name,
                        struct med_tokenizer **ret_tokenizer, struct med_err *err)
{
    struct med_json_doc doc;
    struct med_err local = {0};
    if (!err)
        err = &local;
    *err = local;
    if (count > MED_LIMIT_TOKENIZER_BYTES) {
        return med_err_set(err, MED_E_LIMIT, "%s: larger than %d bytes", name,
                           MED_LIMIT_TOKENIZER_BYTES);
    }
    int rc = med_json_parse(bytes, count, name, &doc, err);
    if (rc < 0)
        return rc;
    struct med_tokenizer *tokenizer = med_calloc(1, sizeof *tokenizer);
    struct med_json_at root = med_json_root(&doc);
    rc = tokenizer ? parse_parts(tokenizer, &root, count, err) : component_no_memory(&root, err);
    med_json_free(&doc);
    if (rc < 0) {
        med_tokenizer_free(tokenizer);
    } else {
        *ret_tokenizer = tokenizer;
    }
    return rc;
}

void med_tokenizer_free(struct med_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    vocab_release(&tokenizer->vocab);
    added_release(&tokenizer->added);
    splitter_release(&tokenizer->splitter);
    bpe_release(&tokenizer->bpe);
    med_free(tokenizer);
}

static int path_join(char path[PATH_BYTES_MAX], const char *dir, const char *name,
                     struct med_err *err)
{
    int length = snprintf(path, PATH_BYTES_MAX, "%s/%s", dir, name);
    if (length < 0 || length >= PATH_BYTES_MAX)
        return med_err_set(err, MED_E_INVALID, "%.64s...: the path is too long", dir);
    return 0;
}

/* tokenizer_config.json may be missing. */
static int load_config(struct med_tokenizer *tokenizer, const char *dir, struct med_err *err)
{
    char path[PATH_BYTES_MAX];
    struct stat status;
    struct med_json_doc doc;
    int rc = path_join(path, dir, "tokenizer_config.json", err);
    if (rc < 0 || (stat(path, &status) < 0 && errno == ENOENT))
        return rc;
    rc = med_json_parse_file(path, &doc, err);
    if (rc < 0)
        return rc;
    struct med_json_at root = med_json_root(&doc);
    rc = post_parse_config(&tokenizer->post, &root, &tokenizer->vocab, err);
    med_json_free(&doc);
    return rc;
}

int med_tokenizer_load(const char *dir, struct med_tokenizer **ret_tokenizer, struct med_err *err)
{
    char path[PATH_BYTES_MAX];
    struct med_buf buf;
    struct med_err local = {0};
    struct med_tokenizer *tokenizer = NULL;
    if (!err)
        err = &local;
    *err = local;
    med_buf_init(&buf, MED_LIMIT_TOKENIZER_BYTES);
    int rc = path_join(path, dir, "tokenizer.json", err);
    if (rc == 0)
        rc = med_buf_read_file(&buf, path, err);
    if (rc == 0)
        rc = med_tokenizer_parse(buf.data ? buf.data : "", buf.length, path, &tokenizer, err);
    med_buf_release(&buf);
    if (rc == 0)
        rc = load_config(tokenizer, dir, err);
    if (rc < 0) {
        med_tokenizer_free(tokenizer);
    } else {
        *ret_tokenizer = tokenizer;
    }
    return rc;
}
