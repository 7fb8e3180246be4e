/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON: any bytes are parsed or refused with a sentence; what is parsed is written by the writer and
 * must be accepted again, and written the second time it must be the same bytes.  thread: main.
 */
#include "base/assert.h"
#include "base/json.h"
#include "base/limits.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <string.h>

static void put_scalar(struct med_json_writer *w, const char *key, const struct med_json_at *at)
{
    double number;
    bool flag;
    const char *text;
    if (med_json_number_here(at, -INFINITY, INFINITY, &number, NULL) == 0) {
        med_json_put_number(w, key, number);
    } else if (med_json_string_here(at, -MED_LIMIT_JSON_BYTES, &text, NULL) == 0) {
        med_json_put_string(w, key, text);
    } else if (med_json_bool_here(at, &flag, NULL) == 0) {
        med_json_put_bool(w, key, flag);
    } else {
        med_json_put_null(w, key);
    }
}

/* Writes the document without recursion. */
static void put_document(struct med_json_writer *w, const struct med_json_doc *doc)
{
    static struct med_json_at containers[MED_LIMIT_JSON_DEPTH + 1];
    static struct med_json_at items[MED_LIMIT_JSON_DEPTH + 1];
    size_t index[MED_LIMIT_JSON_DEPTH + 1] = {0};
    struct med_json_at here = med_json_root(doc);
    const char *key = NULL;
    int depth = 0;
    for (;;) {
        bool is_object = med_json_is_object(&here);
        if (is_object || med_json_is_array(&here)) {
            is_object ? med_json_begin_object(w, key) : med_json_begin_array(w, key);
            containers[depth] = here;
            items[depth] = (struct med_json_at){0};
            depth++;
        } else {
            put_scalar(w, key, &here);
        }
        while (depth > 0 &&
               !med_json_next(&containers[depth - 1], &index[depth - 1], &items[depth - 1], &key)) {
            depth--;
            med_json_is_object(&containers[depth]) ? med_json_end_object(w) : med_json_end_array(w);
        }
        if (depth == 0) {
            return;
        }
        here = items[depth - 1];
    }
}

static void write_again(const struct med_json_doc *doc, struct med_buf *out)
{
    struct med_json_writer w;
    med_buf_init(out, MED_LIMIT_JSON_BYTES);
    med_json_writer_init(&w, out, false);
    put_document(&w, doc);
    MED_ASSERT(med_json_writer_finish(&w) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct med_json_doc doc;
    struct med_err err = {0};
    int rc = med_json_parse((const char *)data, size, "input", &doc, &err);
    if (rc < 0) {
        MED_ASSERT(rc == MED_E_FORMAT);
        MED_ASSERT(strncmp(err.text, "input: ", 7) == 0);
        /* The grammar check decides, not the library. */
        MED_ASSERT(strcmp(err.text, "input: the JSON library refuses it") != 0);
        return 0;
    }
    struct med_buf first;
    struct med_buf second;
    write_again(&doc, &first);
    med_json_free(&doc);
    MED_ASSERT(med_json_parse(first.data, first.length, "again", &doc, &err) == 0);
    write_again(&doc, &second);
    med_json_free(&doc);
    MED_ASSERT(first.length == second.length);
    MED_ASSERT(memcmp(first.data, second.data, first.length) == 0);
    med_buf_release(&first);
    med_buf_release(&second);
    return 0;
}
