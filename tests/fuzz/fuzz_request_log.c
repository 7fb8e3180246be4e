/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Request logs: any bytes are refused with a sentence or give sorted rows of good sizes; what is
 * derived from them is a workload that its own format accepts.  thread: main.
 */
#include "allocator/workload.h"

#include "allocator/workload_parts.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/limits.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <string.h>

static int read_bytes(const uint8_t *data, size_t size, struct med_request_log *log,
                      struct med_err *err)
{
    FILE *stream = fmemopen((void *)(uintptr_t)data, size, "rb");
    MED_ASSERT(stream != NULL);
    struct med_log_input input = {.stream = stream, .name = "input"};
    int rc = med_request_log_read_input(&input, log, err);
    (void)fclose(stream);
    return rc;
}

static void check_rows(const struct med_request_log *log)
{
    MED_ASSERT(log->count > 0);
    MED_ASSERT(log->rows[0].arrival_s == 0);
    for (size_t i = 0; i < log->count; i++) {
        MED_ASSERT(isfinite(log->rows[i].arrival_s));
        MED_ASSERT(i == 0 || log->rows[i].arrival_s >= log->rows[i - 1].arrival_s);
        MED_ASSERT(log->rows[i].input_tokens >= 1);
        MED_ASSERT(log->rows[i].input_tokens <= MED_LIMIT_PROMPT_TOKENS);
        MED_ASSERT(log->rows[i].output_tokens >= 1);
        MED_ASSERT(log->rows[i].output_tokens <= MED_LIMIT_PROMPT_TOKENS);
    }
}

static void check_readable(const struct med_workload *workload)
{
    struct med_buf text;
    struct med_json_writer w;
    struct med_json_doc doc;
    struct med_workload again;
    struct med_err err = {0};
    med_buf_init(&text, MED_LIMIT_JSON_BYTES);
    med_json_writer_init(&w, &text, false);
    med_workload_write(&w, workload);
    MED_ASSERT(med_json_writer_finish(&w) == 0);
    MED_ASSERT(med_json_parse(text.data, text.length, "derived", &doc, &err) == 0);
    struct med_json_at root = med_json_root(&doc);
    int rc = med_workload_read(&root, &again, &err);
    if (rc < 0) {
        (void)fprintf(stderr, "%s\n", err.text);
    }
    MED_ASSERT(rc == 0);
    med_workload_release(&again);
    med_json_free(&doc);
    med_buf_release(&text);
}

static void derive(const struct med_request_log *log, double rate_per_s)
{
    struct med_grid grid;
    struct med_workload workload;
    struct med_err err = {0};
    MED_ASSERT(med_grid_init_default(&grid) == 0);
    struct med_derive wanted = {
        .grid = &grid, .name = "n", .source_text = "s", .rate_per_s = rate_per_s};
    int rc = med_workload_derive(log, &wanted, &workload, &err);
    if (rc == 0) {
        check_readable(&workload);
        med_workload_release(&workload);
    } else {
        MED_ASSERT(rc == MED_E_INVALID);
        MED_ASSERT(err.text[0] != '\0');
    }
    med_grid_release(&grid);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t live = med_alloc_bytes_live();
    struct med_request_log log;
    struct med_err err = {0};
    int rc = read_bytes(data, size, &log, &err);
    if (rc == 0) {
        check_rows(&log);
        derive(&log, (double)NAN);
        derive(&log, 1e9);
        med_request_log_release(&log);
    } else {
        MED_ASSERT(rc == MED_E_FORMAT);
        MED_ASSERT(strncmp(err.text, "input:", 6) == 0);
    }
    MED_ASSERT(med_alloc_bytes_live() == live);
    return 0;
}
