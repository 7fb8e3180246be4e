/* SPDX-License-Identifier: Apache-2.0 */
/* Request logs: the three formats, what is refused, and the figures that are derived. */
#include "allocator/workload.h"

#include "allocator/workload_parts.h"
#include "base/rng.h"
#include "tests/formats.h"

static int read_bytes(const char *bytes, size_t count, struct med_request_log *ret_log,
                      struct med_err *err)
{
    FILE *stream = fmemopen((void *)(uintptr_t)bytes, count, "rb");
    REQUIRE(stream != NULL);
    struct med_log_input input = {.stream = stream, .name = "f.log"};
    int rc = med_request_log_read_input(&input, ret_log, err);
    REQUIRE(fclose(stream) == 0);
    return rc;
}

static struct med_request_log read_good(const char *text)
{
    struct med_request_log log = {0};
    struct med_err err = {0};
    int rc = read_bytes(text, strlen(text), &log, &err);
    CHECK_STR(err.text, "");
    REQUIRE(rc == 0);
    return log;
}

static void check_row(const struct med_request_log *log, size_t i, double arrival_s, int64_t input,
                      int64_t output)
{
    REQUIRE(i < log->count);
    CHECK_DOUBLE(log->rows[i].arrival_s, arrival_s, 1e-9);
    CHECK_INT(log->rows[i].input_tokens, input);
    CHECK_INT(log->rows[i].output_tokens, output);
}

static void test_formats_when_read_then_give_the_same_rows(void)
{
    static const char *const logs[] = {
        "arrival_s,input_tokens,output_tokens\n10.5,374,44\n10.551984,396,109\n75,1,2\n",
        "arrival_s,input_tokens,output_tokens\r\n10.5,374,44\r\n10.551984,396,109\r\n75,1,2\r\n",
        "\xEF\xBB\xBF"
        "arrival_s,input_tokens,output_tokens\n10.5,374,44\n10.551984,396,109\n75,1,2",
        "output_tokens, arrival_s ,user,input_tokens\n44,10.5,a,374\n109 , "
        "10.551984,b,396\n2,75,c,1\n",
        "\n\narrival_s,input_tokens,output_tokens\n\n10.5,374,44\n10.551984,396,109\n75,1,2\n\n",
        "arrival_s,input_tokens,output_tokens\n75,1,2\n10.551984,396,109\n10.5,374,44\n",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,374,44\n"
        "2023-11-16 18:17:04.0319440,396,109\n2023-11-16 18:18:08.4799600,1,2\n",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-12-31T23:59:59.5Z,374,44\n"
        "2024-01-01T01:59:59.551984+02:00,396,109\n2023-12-31 18:31:04-05:30,1,2\n",
        "{\"timestamp\": 10500, \"input_length\": 374, \"output_length\": 44, \"hash_ids\": "
        "[1,2]}\n"
        "{\"timestamp\": 10551.984, \"input_length\": 396, \"output_length\": 109}\n"
        "{\"timestamp\": 75000, \"input_length\": 1, \"output_length\": 2}\n",
        "\xEF\xBB\xBF{\"timestamp\": 1700000010500, \"input_length\": 374, \"output_length\": "
        "44}\r\n"
        "{\"timestamp\": 1700000010551.984, \"input_length\": 396, \"output_length\": 109}\r\n"
        "{\"timestamp\": 1700000075000, \"input_length\": 1, \"output_length\": 2}\r\n",
    };
    for (size_t i = 0; i < sizeof logs / sizeof logs[0]; i++) {
        struct med_request_log log = read_good(logs[i]);
        CHECK_INT(log.count, 3);
        check_row(&log, 0, 0, 374, 44);
        /* A double of milliseconds since 1970 keeps about a quarter of a microsecond. */
        CHECK_DOUBLE(log.rows[1].arrival_s, 0.051984, i == 9 ? 3e-7 : 1e-9);
        check_row(&log, 2, 64.5, 1, 2);
        med_request_log_release(&log);
        med_request_log_release(&log);
    }
}

static void test_days_when_they_change_then_seconds_count_on(void)
{
    struct med_request_log log = read_good("TIMESTAMP,ContextTokens,GeneratedTokens\n"
                                           "2024-02-28 00:00:00,1,1\n2024-03-01 00:00:00,1,1\n"
                                           "2100-02-28 00:00:00,1,1\n2100-03-01 00:00:00,1,1\n");
    CHECK_DOUBLE(log.rows[1].arrival_s, 2 * 86400.0, 0);
    CHECK_DOUBLE(log.rows[3].arrival_s - log.rows[2].arrival_s, 86400.0, 0);
    med_request_log_release(&log);
}

static void test_rows_with_one_time_when_sorted_then_keep_their_order(void)
{
    char text[4096] = "arrival_s,input_tokens,output_tokens\n";
    size_t used = strlen(text);
    for (int i = 0; i < 100; i++) {
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "%d,%d,1\n", 9 - i / 10 % 10, i + 1);
    }
    struct med_request_log log = read_good(text);
    for (size_t i = 1; i < log.count; i++) {
        CHECK(log.rows[i - 1].arrival_s <= log.rows[i].arrival_s);
        if (log.rows[i - 1].arrival_s == log.rows[i].arrival_s) {
            CHECK(log.rows[i - 1].input_tokens < log.rows[i].input_tokens);
        }
    }
    CHECK_DOUBLE(log.rows[0].arrival_s, 0, 0);
    CHECK_DOUBLE(log.rows[99].arrival_s, 9, 0);
    med_request_log_release(&log);
}

#define CSV   "arrival_s,input_tokens,output_tokens\n"
#define AZURE "TIMESTAMP,ContextTokens,GeneratedTokens\n"

static const struct {
    const char *text, *sentence;
} bad_logs[] = {
    {" ", "f.log: found no requests, expected at least one row under a header"},
    {CSV, "f.log: found no requests, expected at least one row"},
    {"hello world\n", "f.log:1: found \"hello world\", expected the header arrival_s,input_tokens"},
    {"arrival_s,input_tokens\n1,2\n",
     "f.log:1: found the header \"arrival_s,input_tokens\" without the column output_tokens"},
    {"TIMESTAMP,GeneratedTokens\n", "without the column ContextTokens"},
    {"a\033[2Jb\n", "f.log:1: found \"a?[2Jb\", expected"},
    {CSV "1,2,3\n4,5\n", "f.log:3: found 2 columns, expected 3 as in the header"},
    {CSV "1,2,3\n4,5,6,7\n", "f.log:3: found 4 columns, expected 3 as in the header"},
    {CSV "1,2,3\n4,5,",
     "f.log:3: column output_tokens: found \"\", expected a whole number from 1"},
    {CSV "1,-2,3\n",
     "f.log:2: column input_tokens: found \"-2\", expected a whole number from 1 to 1048576"},
    {CSV "1,2.5,3\n", "f.log:2: column input_tokens: found \"2.5\", expected a whole number"},
    {CSV "1,0,3\n", "f.log:2: column input_tokens: found \"0\", expected a whole number"},
    {CSV "1,2,1048577\n", "f.log:2: column output_tokens: found \"1048577\", expected"},
    {CSV "1,2,99999999999999999999\n", "column output_tokens: found \"99999999999999999999\""},
    {CSV "1,abc,3\n", "f.log:2: column input_tokens: found \"abc\", expected"},
    {CSV "1,\"2\",3\n", "f.log:2: column input_tokens: found \"\"2\"\", expected"},
    {CSV "-1,2,3\n", "f.log:2: column arrival_s: found \"-1\", expected seconds, a number from 0"},
    {CSV "nan,2,3\n", "f.log:2: column arrival_s: found \"nan\", expected seconds"},
    {CSV "inf,2,3\n", "f.log:2: column arrival_s: found \"inf\", expected seconds"},
    {CSV "1e999,2,3\n", "f.log:2: column arrival_s: found \"1e999\", expected seconds"},
    {CSV "0x10,2,3\n", "f.log:2: column arrival_s: found \"0x10\", expected seconds"},
    {CSV "1.2.3,2,3\n", "f.log:2: column arrival_s: found \"1.2.3\", expected seconds"},
    {CSV "1 000,2,3\n", "f.log:2: column arrival_s: found \"1 000\", expected seconds"},
    {AZURE "2023-11-16,1,2\n", "f.log:2: column TIMESTAMP: found \"2023-11-16\", expected a time "
                               "such as 2023-11-16 18:17:03"},
    {AZURE "2023-02-29 00:00:00,1,2\n", "column TIMESTAMP: found \"2023-02-29 00:00:00\""},
    {AZURE "2023-13-01 00:00:00,1,2\n", "column TIMESTAMP: found"},
    {AZURE "2023-11-16 24:00:00,1,2\n", "column TIMESTAMP: found"},
    {AZURE "2023-11-16 18:17:03.,1,2\n", "column TIMESTAMP: found"},
    {AZURE "2023-11-16 18:17:03.1234567890,1,2\n", "column TIMESTAMP: found"},
    {AZURE "2023-11-16 18:17:03+2,1,2\n", "column TIMESTAMP: found"},
    {AZURE "2023-11-16 18:17:03 UTC,1,2\n", "column TIMESTAMP: found"},
    {AZURE "1700000000,1,2\n", "column TIMESTAMP: found \"1700000000\""},
    {"{\"timestamp\": 1, \"input_length\": 2, \"output_length\": 3}\n{\"timestamp\": 2, \"input_le",
     "f.log:2: "},
    {"{\"timestamp\": 1, \"input_length\": 2}\n", "f.log:1: $.output_length: "},
    {"{\"timestamp\": -1, \"input_length\": 2, \"output_length\": 3}\n",
     "f.log:1: $.timestamp: found -1, expected"},
    {"{\"timestamp\": 1, \"input_length\": 2.5, \"output_length\": 3}\n",
     "f.log:1: $.input_length: found 2.5, expected"},
    {"{\"timestamp\": 1e999, \"input_length\": 2, \"output_length\": 3}\n", "f.log:1: "},
    {"{\"timestamp\": 1, \"input_length\": 2, \"output_length\": 3}\n[1]\n", "f.log:2: $: "},
};

static void check_refused(const char *bytes, size_t count, const char *sentence)
{
    struct med_request_log log;
    struct med_err err = {0};
    int64_t live = med_alloc_bytes_live();
    CHECK_INT(read_bytes(bytes, count, &log, &err), MED_E_FORMAT);
    CHECK_CONTAINS(err.text, sentence);
    CHECK_INT(med_alloc_bytes_live(), live);
}

static void test_bad_row_when_read_then_line_and_column_are_named(void)
{
    for (size_t i = 0; i < sizeof bad_logs / sizeof bad_logs[0]; i++) {
        check_refused(bad_logs[i].text, strlen(bad_logs[i].text), bad_logs[i].sentence);
    }
}

static void test_binary_when_read_then_refused(void)
{
    static const char nul[] = CSV "1,2\0,3\n";
    check_refused(nul, sizeof nul - 1,
                  "f.log:2: found a NUL byte, expected UTF-8 text (is the file UTF-16 or binary?)");
    static const char utf16[] = "\xFF\xFE"
                                "a\0r\0r\0i\0v\0a\0l\0";
    check_refused(utf16, sizeof utf16 - 1, "f.log:1: found a NUL byte");
}

static void test_long_line_when_read_then_refused(void)
{
    const size_t limit = 65536;
    char *text = malloc(limit + 256);
    REQUIRE(text != NULL);
    const size_t head = strlen(CSV);
    memcpy(text, CSV, head);
    memset(text + head, ' ', limit + 1);
    memcpy(text + head + limit + 1, "\n1,2,3\n", 7);
    check_refused(text, head + limit + 8,
                  "f.log:2: found a line of more than 65536 bytes, expected shorter ones");
    check_refused(text, head + limit + 1,
                  "f.log:2: found a line of more than 65536 bytes, expected shorter ones");
    /* Exactly the limit is read: blanks around a value. */
    memcpy(text + head + limit - 5, "1,2,3\n", 6);
    struct med_request_log log;
    struct med_err err = {0};
    REQUIRE(read_bytes(text, head + limit + 1, &log, &err) == 0);
    CHECK_INT(log.count, 1);
    med_request_log_release(&log);
    free(text);
}

static void test_log_over_many_buffers_when_read_then_complete(void)
{
    const size_t rows = 20000;
    char *text = malloc(rows * 32 + 64);
    REQUIRE(text != NULL);
    size_t used = (size_t)sprintf(text, CSV);
    for (size_t i = 0; i < rows; i++) {
        used += (size_t)sprintf(text + used, "%zu.25,%zu,%zu\n", i, i % 5000 + 1, i % 700 + 1);
    }
    struct med_request_log log = read_good(text);
    CHECK_INT(log.count, rows);
    for (size_t i = 0; i < log.count; i++) {
        if (log.rows[i].arrival_s != (double)i ||
            log.rows[i].input_tokens != (int64_t)(i % 5000 + 1) ||
            log.rows[i].output_tokens != (int64_t)(i % 700 + 1)) {
            check_row(&log, i, (double)i, (int64_t)(i % 5000 + 1), (int64_t)(i % 700 + 1));
            break;
        }
    }
    med_request_log_release(&log);
    free(text);
}

/* ---- what is derived ---- */

static struct med_workload derive_good(const struct med_request_log *log, double rate_per_s)
{
    struct med_grid grid;
    struct med_workload workload = {0};
    struct med_err err = {0};
    REQUIRE(med_grid_init_default(&grid) == 0);
    struct med_derive derive = {
        .grid = &grid, .name = "n", .source_text = "s", .rate_per_s = rate_per_s};
    int rc = med_workload_derive(log, &derive, &workload, &err);
    CHECK_STR(err.text, "");
    REQUIRE(rc == 0);
    med_grid_release(&grid);
    return workload;
}

static void test_figures_when_derived_then_are_those_of_the_rows(void)
{
    struct med_request_log log = read_good(CSV "0,10,20\n30,25,25\n59,26,100\n61,16000,2000\n"
                                               "125,20,30\n");
    struct med_workload w = derive_good(&log, (double)NAN);
    CHECK_INT(w.requests, 5);
    CHECK_DOUBLE(w.rate_per_s, 5.0 / 125, 1e-15);
    CHECK_INT(w.arrival, MED_ARRIVAL_POISSON); /* too few gaps to say */
    CHECK_INT(w.rate_count, 2);
    CHECK_DOUBLE(w.rates_per_s[0], 3.0 / 60, 1e-15);
    CHECK_DOUBLE(w.rates_per_s[1], 1.0 / 60, 1e-15);
    CHECK_DOUBLE(w.input_tokens.mean, (10 + 25 + 26 + 16000 + 20) / 5.0, 1e-9);
    CHECK_DOUBLE(w.input_tokens.p50, 25, 0);
    CHECK_DOUBLE(w.input_tokens.p90, 26 + 0.6 * (16000 - 26), 1e-9);
    CHECK_DOUBLE(w.output_tokens.max, 2000, 0);
    CHECK_INT(w.bucket_count, 4);
    CHECK_INT(w.buckets[0].input_row, 0);
    CHECK_INT(w.buckets[0].output_row, 0);
    CHECK_DOUBLE(w.buckets[0].share, 0.4, 1e-15);
    CHECK_DOUBLE(w.buckets[0].input_mean, 17.5, 1e-12);
    CHECK_DOUBLE(w.buckets[0].output_mean, 22.5, 1e-12);
    CHECK_INT(w.buckets[1].output_row, 1);
    CHECK_INT(w.buckets[2].input_row, 1);
    CHECK_INT(w.buckets[3].input_row, 9);
    CHECK_INT(w.buckets[3].output_row, 5);
    med_workload_release(&w);
    w = derive_good(&log, 0.4);
    CHECK_DOUBLE(w.rate_per_s, 0.4, 0);
    CHECK_DOUBLE(w.rates_per_s[0], 10 * 3.0 / 60, 1e-12);
    med_workload_release(&w);
    med_request_log_release(&log);
}

/* A log with gamma gaps of this shape; the rate doubles after each quarter. */
static struct med_request_log drifting_log(double shape, uint64_t seed)
{
    const size_t count = 40000;
    struct med_request_log log = {.rows = med_calloc(count, sizeof *log.rows), .count = count};
    struct med_rng rng;
    REQUIRE(log.rows != NULL);
    med_rng_init(&rng, seed, 1);
    double now = 0;
    for (size_t i = 0; i < count; i++) {
        double mean = 0.4 / (double)(1 << (4 * i / count));
        log.rows[i] =
            (struct med_request_row){.arrival_s = now, .input_tokens = 50, .output_tokens = 50};
        now += med_rng_gamma(&rng, shape, mean / shape);
    }
    return log;
}

static void test_burstiness_when_the_rate_drifts_then_is_that_of_the_gaps(void)
{
    static const double shapes[] = {0.25, 0.5, 1, 2, 4};
    uint64_t seed = check_seed();
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct med_request_log log = drifting_log(shapes[i], seed + i);
        struct med_workload w = derive_good(&log, (double)NAN);
        CHECK_INT(w.arrival, MED_ARRIVAL_GAMMA);
        /* Windows hold 150 gaps and more: (n + 1/shape)/(n - 1) is the bias; the rest is chance. */
        CHECK_DOUBLE(w.burstiness / shapes[i], 1, 0.08);
        med_workload_release(&w);
        med_request_log_release(&log);
    }
}

static void test_burstiness_when_gaps_are_even_or_few_then_bounded(void)
{
    struct med_request_row rows[200];
    struct med_request_log log = {.rows = rows, .count = 200};
    for (size_t i = 0; i < log.count; i++) {
        rows[i] = (struct med_request_row){(double)i, 10, 10};
    }
    struct med_workload w = derive_good(&log, (double)NAN);
    CHECK_INT(w.arrival, MED_ARRIVAL_GAMMA);
    CHECK_DOUBLE(w.burstiness, 1000, 0);
    med_workload_release(&w);
    log.count = 20; /* 19 gaps */
    w = derive_good(&log, (double)NAN);
    CHECK_INT(w.arrival, MED_ARRIVAL_POISSON);
    CHECK_DOUBLE(w.burstiness, 1, 0);
    med_workload_release(&w);
    /* 21 gaps over hours: no window has 20 gaps, the log is one window. */
    log.count = 22;
    for (size_t i = 0; i < log.count; i++) {
        rows[i].arrival_s = (double)(i * i) * 600;
    }
    w = derive_good(&log, (double)NAN);
    double sum = 0;
    for (size_t i = 0; i < 21; i++) {
        double relative = (double)(2 * i + 1) / 21 - 1;
        sum += relative * relative;
    }
    CHECK_DOUBLE(w.burstiness, 21 / sum, 1e-9);
    med_workload_release(&w);
}

static void test_log_over_a_year_when_derived_then_windows_double(void)
{
    struct med_request_row rows[] = {{0, 10, 10}, {4e7, 10, 10}};
    struct med_request_log log = {.rows = rows, .count = 2};
    struct med_workload w = derive_good(&log, (double)NAN);
    CHECK_DOUBLE(w.interval_s, 60 * 128, 0);
    CHECK_INT(w.rate_count, (int64_t)(4e7 / (60 * 128)));
    med_workload_release(&w);
}

static void check_underivable(const struct med_request_log *log, const char *sentence)
{
    struct med_grid grid;
    struct med_workload workload;
    struct med_err err = {0};
    REQUIRE(med_grid_init_default(&grid) == 0);
    int64_t live = med_alloc_bytes_live();
    CHECK_INT(med_workload_from_log(log, &grid, "n", "f.log", NULL, &workload, &err),
              MED_E_INVALID);
    CHECK_CONTAINS(err.text, sentence);
    CHECK_INT(med_alloc_bytes_live(), live);
    med_grid_release(&grid);
}

static void test_log_without_duration_when_derived_then_needs_a_rate(void)
{
    struct med_request_row rows[] = {{0, 10, 10}, {0, 20, 10}, {0, 20, 10}};
    struct med_request_log log = {.rows = rows, .count = 1};
    check_underivable(&log, "f.log: found a single request, from which no rate follows, expected "
                            "requests at different times, or a rate (--rate)");
    struct med_workload w = derive_good(&log, 3);
    CHECK_DOUBLE(w.rate_per_s, 3, 0);
    CHECK_INT(w.rate_count, 0);
    CHECK_INT(w.arrival, MED_ARRIVAL_POISSON);
    med_workload_release(&w);
    log.count = 3;
    check_underivable(&log, "f.log: found requests at one time only, from which no rate follows");
    w = derive_good(&log, 3);
    CHECK_INT(w.bucket_count, 1);
    med_workload_release(&w);
}

static void test_sizes_outside_the_grid_when_derived_then_counted(void)
{
    struct med_request_row rows[] = {{0, 10, 10}, {1, 16001, 10}, {2, 20000, 2500}, {3, 5, 5}};
    struct med_request_log log = {.rows = rows, .count = 4};
    check_underivable(&log, "f.log: found 2 of 4 requests outside the grid, expected none: the "
                            "largest input is 20000 tokens (last edge 16000), the largest output "
                            "2500 (last edge 2000)");
}

static void test_derived_workload_when_written_then_reads_back(void)
{
    struct med_request_log log = drifting_log(0.7, 3);
    struct med_workload w = derive_good(&log, (double)NAN);
    struct med_buf text;
    struct med_json_writer writer;
    struct med_json_doc doc;
    struct med_workload again;
    struct med_err err = {0};
    med_buf_init(&text, 1 << 20);
    med_json_writer_init(&writer, &text, true);
    med_workload_write(&writer, &w);
    REQUIRE(med_json_writer_finish(&writer) == 0);
    REQUIRE(med_json_parse(text.data, text.length, "f.json", &doc, NULL) == 0);
    struct med_json_at root = med_json_root(&doc);
    int rc = med_workload_read(&root, &again, &err);
    CHECK_STR(err.text, "");
    REQUIRE(rc == 0);
    CHECK_DOUBLE(again.burstiness, w.burstiness, 0);
    CHECK_DOUBLE(again.rate_per_s, w.rate_per_s, 0);
    CHECK_INT(again.rate_count, w.rate_count);
    med_workload_release(&again);
    med_json_free(&doc);
    med_buf_release(&text);
    med_workload_release(&w);
    med_request_log_release(&log);
}

static void test_memory_when_any_allocation_fails_then_nothing_leaks(void)
{
    static const char *const logs[] = {
        CSV "5,1,2\n3,4,5\n100,7,8\n",
        "{\"timestamp\": 5, \"input_length\": 2, \"output_length\": 3}\n"
        "{\"timestamp\": 900000, \"input_length\": 2, \"output_length\": 3}\n"};
    struct med_grid grid;
    REQUIRE(med_grid_init_default(&grid) == 0);
    for (size_t i = 0; i < 2; i++) {
        int64_t live = med_alloc_bytes_live();
        for (uint64_t n = 1;; n++) {
            struct med_request_log log;
            struct med_workload workload;
            struct med_err err = {0};
            (void)med_alloc_fail_nth(n);
            int rc = read_bytes(logs[i], strlen(logs[i]), &log, &err);
            if (rc == 0) {
                rc = med_workload_from_log(&log, &grid, "n", "s", "l", &workload, &err);
                med_request_log_release(&log);
            }
            (void)med_alloc_fail_nth(0);
            if (rc == 0) {
                med_workload_release(&workload);
                CHECK(n > 12);
                break;
            }
            REQUIRE(rc == MED_E_NOMEM);
            CHECK_CONTAINS(err.text, "memory");
            CHECK_INT(med_alloc_bytes_live(), live);
        }
        CHECK_INT(med_alloc_bytes_live(), live);
    }
    med_grid_release(&grid);
}

static void test_file_when_missing_or_a_folder_then_named(void)
{
    struct med_request_log log;
    struct med_err err = {0};
    CHECK_INT(med_request_log_read_file("tests/no-such.csv", &log, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "tests/no-such.csv: cannot open it: No such file");
    err = (struct med_err){0};
    CHECK_INT(med_request_log_read_file("tests", &log, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "tests: cannot read it: Is a directory");
}

int main(void)
{
    RUN(test_formats_when_read_then_give_the_same_rows);
    RUN(test_days_when_they_change_then_seconds_count_on);
    RUN(test_rows_with_one_time_when_sorted_then_keep_their_order);
    RUN(test_bad_row_when_read_then_line_and_column_are_named);
    RUN(test_binary_when_read_then_refused);
    RUN(test_long_line_when_read_then_refused);
    RUN(test_log_over_many_buffers_when_read_then_complete);
    RUN(test_figures_when_derived_then_are_those_of_the_rows);
    RUN(test_burstiness_when_the_rate_drifts_then_is_that_of_the_gaps);
    RUN(test_burstiness_when_gaps_are_even_or_few_then_bounded);
    RUN(test_log_over_a_year_when_derived_then_windows_double);
    RUN(test_log_without_duration_when_derived_then_needs_a_rate);
    RUN(test_sizes_outside_the_grid_when_derived_then_counted);
    RUN(test_derived_workload_when_written_then_reads_back);
    RUN(test_memory_when_any_allocation_fails_then_nothing_leaks);
    RUN(test_file_when_missing_or_a_folder_then_named);
    return check_finish();
}
