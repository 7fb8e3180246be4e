/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the fuzz targets of the JSON formats share: any bytes are refused with a sentence or read;
 * what was read is written, must be read again, and written the second time it must be the same
 * bytes; nothing stays allocated.  With libFuzzer: -dict=tests/fuzz/formats.dict.  thread: main.
 */
#ifndef MED_TESTS_FUZZ_FORMAT_H
#define MED_TESTS_FUZZ_FORMAT_H

#include "base/alloc.h"
#include "base/assert.h"
#include "base/json.h"
#include "base/limits.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

/* Reads one document of the format and writes it to `out`. */
typedef int fuzz_reader(const struct med_json_at *root, struct med_json_writer *out,
                        struct med_err *err);

static int fuzz_read(fuzz_reader *reader, const char *text, size_t bytes, struct med_buf *out,
                     struct med_err *err)
{
    struct med_json_doc doc;
    int rc = med_json_parse(text, bytes, "input", &doc, err);
    if (rc < 0) {
        return rc;
    }
    struct med_json_at root = med_json_root(&doc);
    struct med_json_writer w;
    med_json_writer_init(&w, out, true);
    rc = reader(&root, &w, err);
    med_json_free(&doc);
    if (rc == 0) {
        rc = med_json_writer_finish(&w);
        MED_ASSERT(rc == 0);
    }
    return rc;
}

static void fuzz_format(fuzz_reader *reader, const uint8_t *data, size_t size)
{
    int64_t live = med_alloc_bytes_live();
    struct med_err err = {0};
    struct med_buf first;
    struct med_buf second;
    med_buf_init(&first, MED_LIMIT_JSON_BYTES);
    med_buf_init(&second, MED_LIMIT_JSON_BYTES);
    int rc = fuzz_read(reader, (const char *)data, size, &first, &err);
    if (rc < 0) {
        MED_ASSERT(rc == MED_E_FORMAT);
        MED_ASSERT(strncmp(err.text, "input: ", 7) == 0);
    } else {
        MED_ASSERT(fuzz_read(reader, first.data, first.length, &second, &err) == 0);
        MED_ASSERT(first.length == second.length);
        MED_ASSERT(memcmp(first.data, second.data, first.length) == 0);
    }
    med_buf_release(&first);
    med_buf_release(&second);
    MED_ASSERT(med_alloc_bytes_live() == live);
}

#endif
