/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads request logs: two kinds of CSV and JSON lines (the formats are in workload.h).
 *
 * The file streams through one buffer that holds at least a whole line; each line is checked and
 * becomes one row.  The first line that is not empty decides the format: '{' means JSON lines,
 * anything else must be a header.  Columns are found by name, in any order; further columns and
 * keys are ignored.  Times are kept as seconds after the first row, so that large epochs lose no
 * precision; at the end the rows are merge-sorted (stable) if they are out of order, and shifted so
 * that the earliest is at 0.  Runs on any thread.  It repairs nothing: a bad row is an error.
 */
#include "allocator/workload.h"

#include "allocator/workload_parts.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/limits.h"
#include "base/os.h"
#include "profiles/field.h"

#include <errno.h>
#include <math.h>
#include <string.h>

enum {
    BUFFER_BYTES = 2 * MED_LIMIT_LOG_LINE_BYTES,
    COLUMNS = 3,
    COLUMNS_MAX = 64
};

enum log_format {
    FORMAT_UNKNOWN,
    FORMAT_SECONDS,
    FORMAT_AZURE,
    FORMAT_JSONL
};

static const char *const names_seconds[COLUMNS] = {"arrival_s", "input_tokens", "output_tokens"};
static const char *const names_azure[COLUMNS] = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"};

static const char expected_formats[] =
    "the header arrival_s,input_tokens,output_tokens or TIMESTAMP,ContextTokens,GeneratedTokens, "
    "or JSON lines with timestamp, input_length and output_length";

struct reader {
    FILE *stream;
    const char *name;
    char *buffer; /* BUFFER_BYTES + 1 */
    size_t begin, end;
    bool at_eof;
    int64_t line_number;
    enum log_format format;
    size_t columns[COLUMNS]; /* where the header has time, input, output */
    size_t column_count;     /* of the header */
    int64_t base_s;          /* whole seconds of the first row's time */
    double base_fraction_s;  /* the rest of it */
    struct med_request_row *rows;
    size_t count, capacity;
};

/* Text of a log as a message may show it: cut, without bytes that a terminal could obey. */
static const char *shown(const char *text, size_t bytes, char out[48])
{
    size_t kept = bytes < 40 ? bytes : 40;
    for (size_t i = 0; i < kept; i++) {
        bool plain = text[i] >= 0x20 && text[i] < 0x7f;
        out[i] = '?';
        if (plain) {
            out[i] = text[i];
        }
    }
    memcpy(out + kept, bytes > kept ? "..." : "", bytes > kept ? 4 : 1);
    return out;
}

static int fail_line(const struct reader *reader, struct med_err *err, const char *message)
{
    return med_err_set(err, MED_E_FORMAT, "%s:%lld: %s", reader->name,
                       (long long)reader->line_number, message);
}

/* ---- lines ---- */

static int fill(struct reader *reader, struct med_err *err)
{
    memmove(reader->buffer, reader->buffer + reader->begin, reader->end - reader->begin);
    reader->end -= reader->begin;
    reader->begin = 0;
    size_t got = fread(reader->buffer + reader->end, 1, BUFFER_BYTES - reader->end, reader->stream);
    reader->end += got;
    if (got == 0) {
        if (ferror(reader->stream)) {
            return med_err_set(err, med_err_input_code(errno), "%s: cannot read it: %s",
                               reader->name, med_os_errno_text(-errno));
        }
        reader->at_eof = true;
    }
    return 0;
}

/* Sets *ret_line to the next line, terminated in place, without its end. 1: there is one; 0: end. */
static int next_line(struct reader *reader, char **ret_line, size_t *ret_bytes, struct med_err *err)
{
    char *line;
    char *newline;
    for (;;) {
        line = reader->buffer + reader->begin;
        size_t have = reader->end - reader->begin;
        newline = memchr(line, '\n', have);
        if (newline != NULL || have > MED_LIMIT_LOG_LINE_BYTES || reader->at_eof) {
            break;
        }
        int rc = fill(reader, err);
        if (rc < 0) {
            return rc;
        }
    }
    if (newline == NULL && reader->begin == reader->end) {
        return 0;
    }
    reader->line_number++;
    size_t bytes = newline != NULL ? (size_t)(newline - line) : reader->end - reader->begin;
    if (bytes > MED_LIMIT_LOG_LINE_BYTES) {
        return fail_line(reader, err,
                         "found a line of more than 65536 bytes, expected shorter ones");
    }
    reader->begin += bytes + (newline != NULL ? 1 : 0);
    if (memchr(line, '\0', bytes) != NULL) {
        return fail_line(reader, err,
                         "found a NUL byte, expected UTF-8 text (is the file UTF-16 or binary?)");
    }
    if (bytes > 0 && line[bytes - 1] == '\r') {
        bytes--;
    }
    line[bytes] = '\0';
    *ret_line = line;
    *ret_bytes = bytes;
    return 1;
}

/* ---- values ---- */

struct value {
    const char *text; /* not terminated at its end */
    size_t bytes;
};

static struct value trimmed(const char *text, size_t bytes)
{
    while (bytes > 0 && (text[0] == ' ' || text[0] == '\t')) {
        text++;
        bytes--;
    }
    while (bytes > 0 && (text[bytes - 1] == ' ' || text[bytes - 1] == '\t')) {
        bytes--;
    }
    return (struct value){text, bytes};
}

static int fail_value(const struct reader *reader, const char *column, struct value value,
                      const char *expected, struct med_err *err)
{
    char text[48];
    return med_err_set(err, MED_E_FORMAT, "%s:%lld: column %s: found \"%s\", expected %s",
                       reader->name, (long long)reader->line_number, column,
                       shown(value.text, value.bytes, text), expected);
}

static int parse_tokens(const struct reader *reader, const char *column, struct value value,
                        int64_t *ret_tokens, struct med_err *err)
{
    int64_t tokens = 0;
    bool good = value.bytes > 0 && value.bytes <= 9;
    for (size_t i = 0; good && i < value.bytes; i++) {
        good = value.text[i] >= '0' && value.text[i] <= '9';
        tokens = tokens * 10 + (value.text[i] - '0');
    }
    if (!good || tokens < 1 || tokens > MED_LIMIT_PROMPT_TOKENS) {
        return fail_value(reader, column, value, "a whole number from 1 to 1048576", err);
    }
    *ret_tokens = tokens;
    return 0;
}

/* A decimal number >= 0 as strtod reads it, but without its words, hexadecimals and signs. */
static bool parse_seconds(struct value value, double *ret_seconds)
{
    char text[64];
    if (value.bytes == 0 || value.bytes >= sizeof text) {
        return false;
    }
    memcpy(text, value.text, value.bytes);
    text[value.bytes] = '\0';
    if (text[0] < '0' || text[0] > '9' || strspn(text, "0123456789.eE+-") != value.bytes) {
        return false;
    }
    char *end = NULL;
    double seconds = med_os_strtod(text, &end);
    if (*end != '\0' || !isfinite(seconds) || seconds > 1e12) {
        return false;
    }
    *ret_seconds = seconds;
    return true;
}

/* Reads exactly `digits` digits in [min, max] at *text and moves on. */
static bool take_digits(const char **text, const char *end, int digits, int min, int max,
                        int *ret_number)
{
    int number = 0;
    for (int i = 0; i < digits; i++, (*text)++) {
        if (*text == end || **text < '0' || **text > '9') {
            return false;
        }
        number = number * 10 + (**text - '0');
    }
    *ret_number = number;
    return number >= min && number <= max;
}

static bool take_char(const char **text, const char *end, const char *one_of)
{
    if (*text == end || strchr(one_of, **text) == NULL) {
        return false;
    }
    (*text)++;
    return true;
}

/* Days from 1970-01-01 of the Gregorian calendar. source: Hinnant, "chrono-compatible low-level
 * date algorithms". */
static int64_t days_from_civil(int year, int month, int day)
{
    int shifted_year = month <= 2 ? year - 1 : year;
    int era = shifted_year / 400;
    int year_of_era = shifted_year - era * 400;
    int day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    int day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return (int64_t)era * 146097 + day_of_era - 719468;
}

static int days_in_month(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return days[month - 1] + (month == 2 && leap ? 1 : 0);
}

/* The rest of a time after its whole seconds: ".9799600", then nothing, "Z" or "+hh:mm". */
static bool parse_time_tail(const char *at, const char *end, double *ret_fraction_s,
                            int64_t *ret_offset_s)
{
    double fraction = 0;
    if (take_char(&at, end, ".")) {
        double unit = 1;
        int digits = 0;
        for (; at < end && *at >= '0' && *at <= '9'; at++, digits++) {
            unit /= 10;
            fraction += unit * (*at - '0');
        }
        if (digits == 0 || digits > 9) {
            return false;
        }
    }
    int offset = 0;
    if (at < end && !take_char(&at, end, "Z")) {
        int sign = *at == '-' ? -1 : 1;
        int hours = 0;
        int minutes = 0;
        if (!take_char(&at, end, "+-") || !take_digits(&at, end, 2, 0, 14, &hours) ||
            !take_char(&at, end, ":") || !take_digits(&at, end, 2, 0, 59, &minutes)) {
            return false;
        }
        offset = sign * (hours * 3600 + minutes * 60);
    }
    *ret_fraction_s = fraction;
    *ret_offset_s = offset;
    return at == end;
}

/* "2023-11-16 18:17:03.9799600", also with a T and with an offset: seconds since 1970 in UTC. */
static bool parse_timestamp(struct value value, int64_t *ret_s, double *ret_fraction_s)
{
    const char *at = value.text;
    const char *end = value.text + value.bytes;
    int year = 0;
    int month = 0;
    int day = 0;
    int hour = 0;
    int minute = 0;
    int second = 0;
    int64_t offset = 0;
    if (!take_digits(&at, end, 4, 1970, 9999, &year) || !take_char(&at, end, "-") ||
        !take_digits(&at, end, 2, 1, 12, &month) || !take_char(&at, end, "-") ||
        !take_digits(&at, end, 2, 1, days_in_month(year, month), &day) ||
        !take_char(&at, end, " T") || !take_digits(&at, end, 2, 0, 23, &hour) ||
        !take_char(&at, end, ":") || !take_digits(&at, end, 2, 0, 59, &minute) ||
        !take_char(&at, end, ":") || !take_digits(&at, end, 2, 0, 60, &second) ||
        !parse_time_tail(at, end, ret_fraction_s, &offset)) {
        return false;
    }
    int second_of_day = hour * 3600 + minute * 60 + second;
    *ret_s = days_from_civil(year, month, day) * 86400 + second_of_day - offset;
    return true;
}

/* ---- rows ---- */

/* A time in two parts, so that an epoch in seconds keeps its fraction. */
static int add_row(struct reader *reader, int64_t time_s, double fraction_s,
                   struct med_request_row row, struct med_err *err)
{
    if (reader->count == MED_LIMIT_LOG_FILE_ROWS) {
        return med_err_set(err, MED_E_LIMIT, "%s: found more than %d rows, expected fewer",
                           reader->name, MED_LIMIT_LOG_FILE_ROWS);
    }
    if (reader->count == reader->capacity) {
        size_t capacity = reader->capacity == 0 ? 1024 : reader->capacity * 2;
        void *rows = med_realloc_array(reader->rows, capacity, sizeof *reader->rows);
        if (rows == NULL) {
            return med_field_no_memory(err);
        }
        reader->rows = rows;
        reader->capacity = capacity;
    }
    if (reader->count == 0) {
        reader->base_s = time_s;
        reader->base_fraction_s = fraction_s;
    }
    row.arrival_s = (double)(time_s - reader->base_s) + (fraction_s - reader->base_fraction_s);
    reader->rows[reader->count++] = row;
    return 0;
}

static size_t split(const char *line, size_t bytes, struct value values[COLUMNS_MAX])
{
    size_t count = 0;
    const char *end = line + bytes;
    const char *from = line;
    while (count < COLUMNS_MAX) {
        const char *comma = memchr(from, ',', (size_t)(end - from));
        const char *stop = comma == NULL ? end : comma;
        values[count++] = trimmed(from, (size_t)(stop - from));
        if (comma == NULL) {
            break;
        }
        from = comma + 1;
    }
    return count;
}

static int read_csv_line(struct reader *reader, const char *line, size_t bytes, struct med_err *err)
{
    struct value values[COLUMNS_MAX];
    size_t count = split(line, bytes, values);
    bool azure = reader->format == FORMAT_AZURE;
    const char *const *names = azure ? names_azure : names_seconds;
    if (count != reader->column_count) {
        return med_err_set(
            err, MED_E_FORMAT, "%s:%lld: found %zu columns, expected %zu as in the header",
            reader->name, (long long)reader->line_number, count, reader->column_count);
    }
    struct value time = values[reader->columns[0]];
    struct med_request_row row = {0};
    int64_t time_s = 0;
    double fraction_s = 0;
    if (azure && !parse_timestamp(time, &time_s, &fraction_s)) {
        return fail_value(reader, names[0], time, "a time such as 2023-11-16 18:17:03.9799600",
                          err);
    }
    if (!azure && !parse_seconds(time, &fraction_s)) {
        return fail_value(reader, names[0], time, "seconds, a number from 0 to 1e12", err);
    }
    int rc;
    if ((rc = parse_tokens(reader, names[1], values[reader->columns[1]], &row.input_tokens, err)) <
            0 ||
        (rc = parse_tokens(reader, names[2], values[reader->columns[2]], &row.output_tokens, err)) <
            0) {
        return rc;
    }
    return add_row(reader, time_s, fraction_s, row, err);
}

static int read_json_line(struct reader *reader, const char *line, size_t bytes,
                          struct med_err *err)
{
    struct med_json_doc doc;
    char where[512];
    (void)snprintf(where, sizeof where, "%.480s:%lld", reader->name,
                   (long long)reader->line_number);
    int rc = med_json_parse(line, bytes, where, &doc, err);
    if (rc < 0) {
        return rc;
    }
    struct med_json_at at = med_json_root(&doc);
    struct med_request_row row = {0};
    double timestamp_ms = 0;
    if ((rc = med_json_number(&at, "timestamp", 0, 1e15, &timestamp_ms, err)) < 0 ||
        (rc = med_json_integer(&at, "input_length", 1, MED_LIMIT_PROMPT_TOKENS, &row.input_tokens,
                               err)) < 0 ||
        (rc = med_json_integer(&at, "output_length", 1, MED_LIMIT_PROMPT_TOKENS, &row.output_tokens,
                               err)) < 0) {
        med_json_free(&doc);
        return rc;
    }
    med_json_free(&doc);
    int64_t whole_s = (int64_t)(timestamp_ms / 1000);
    return add_row(reader, whole_s, (timestamp_ms - 1000.0 * (double)whole_s) / 1000, row, err);
}

/* ---- the header ---- */

/* How many of the names the header has; where they are goes to `columns`, the first name that is
 * missing to *ret_missing. */
static size_t find_columns(const struct value *values, size_t count, const char *const *names,
                           size_t columns[COLUMNS], const char **ret_missing)
{
    size_t found = 0;
    *ret_missing = NULL;
    for (size_t name = 0; name < COLUMNS; name++) {
        bool here = false;
        for (size_t i = 0; i < count && !here; i++) {
            here = values[i].bytes == strlen(names[name]) &&
                   memcmp(values[i].text, names[name], values[i].bytes) == 0;
            if (here) {
                columns[name] = i;
                found++;
            }
        }
        if (!here && *ret_missing == NULL) {
            *ret_missing = names[name];
        }
    }
    return found;
}

static int read_header(struct reader *reader, const char *line, size_t bytes, struct med_err *err)
{
    static const char *const *const sets[] = {names_seconds, names_azure};
    static const enum log_format formats[] = {FORMAT_SECONDS, FORMAT_AZURE};
    struct value values[COLUMNS_MAX];
    size_t count = split(line, bytes, values);
    const char *partly_missing = NULL;
    for (size_t i = 0; i < 2; i++) {
        const char *missing = NULL;
        size_t found = find_columns(values, count, sets[i], reader->columns, &missing);
        if (found == COLUMNS) {
            reader->format = formats[i];
            reader->column_count = count;
            return 0;
        }
        if (found > 0 && partly_missing == NULL) {
            partly_missing = missing;
        }
    }
    char text[48];
    shown(line, bytes, text);
    if (partly_missing != NULL) {
        return med_err_set(err, MED_E_FORMAT,
                           "%s:%lld: found the header \"%s\" without the column %s, expected %s",
                           reader->name, (long long)reader->line_number, text, partly_missing,
                           expected_formats);
    }
    return med_err_set(err, MED_E_FORMAT, "%s:%lld: found \"%s\", expected %s", reader->name,
                       (long long)reader->line_number, text, expected_formats);
}

static int read_line(struct reader *reader, const char *line, size_t bytes, struct med_err *err)
{
    if (reader->line_number == 1 && bytes >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) {
        line += 3; /* the byte order mark */
        bytes -= 3;
    }
    if (trimmed(line, bytes).bytes == 0) {
        return 0;
    }
    if (reader->format == FORMAT_UNKNOWN && trimmed(line, bytes).text[0] == '{') {
        reader->format = FORMAT_JSONL;
    }
    switch (reader->format) {
    case FORMAT_UNKNOWN:
        return read_header(reader, line, bytes, err);
    case FORMAT_JSONL:
        return read_json_line(reader, line, bytes, err);
    default:
        return read_csv_line(reader, line, bytes, err);
    }
}

/* ---- order ---- */

static void merge(const struct med_request_row *from, struct med_request_row *to, size_t begin,
                  size_t middle, size_t end)
{
    size_t left = begin;
    size_t right = middle;
    for (size_t i = begin; i < end; i++) {
        bool take_left =
            left < middle && (right >= end || from[left].arrival_s <= from[right].arrival_s);
        to[i] = take_left ? from[left++] : from[right++];
    }
}

/* Bottom-up merge sort: stable, and its memory goes through med_alloc. */
static int sort_rows(struct reader *reader, struct med_err *err)
{
    bool sorted = true;
    for (size_t i = 1; i < reader->count && sorted; i++) {
        sorted = reader->rows[i - 1].arrival_s <= reader->rows[i].arrival_s;
    }
    if (sorted) {
        return 0;
    }
    struct med_request_row *other = med_calloc(reader->count, sizeof *other);
    if (other == NULL) {
        return med_field_no_memory(err);
    }
    struct med_request_row *from = reader->rows;
    for (size_t width = 1; width < reader->count; width *= 2) {
        for (size_t begin = 0; begin < reader->count; begin += 2 * width) {
            size_t middle = begin + width < reader->count ? begin + width : reader->count;
            size_t end = begin + 2 * width < reader->count ? begin + 2 * width : reader->count;
            merge(from, other, begin, middle, end);
        }
        struct med_request_row *swap = from;
        from = other;
        other = swap;
    }
    reader->rows = from;
    reader->capacity = reader->count;
    med_free(other);
    return 0;
}

static int read_rows(struct reader *reader, struct med_err *err)
{
    for (;;) {
        char *line = NULL;
        size_t bytes = 0;
        int rc = next_line(reader, &line, &bytes, err);
        if (rc == 0) {
            break;
        }
        if (rc < 0 || (rc = read_line(reader, line, bytes, err)) < 0) {
            return rc;
        }
    }
    if (reader->count == 0) {
        return med_err_set(err, MED_E_FORMAT, "%s: found no requests, expected at least one row%s",
                           reader->name, reader->format == FORMAT_UNKNOWN ? " under a header" : "");
    }
    int rc = sort_rows(reader, err);
    if (rc < 0) {
        return rc;
    }
    double first_s = reader->rows[0].arrival_s;
    for (size_t i = 0; i < reader->count; i++) {
        reader->rows[i].arrival_s -= first_s;
    }
    return 0;
}

int med_request_log_read_input(const struct med_log_input *input, struct med_request_log *ret_log,
                               struct med_err *err)
{
    struct reader reader = {.stream = input->stream, .name = input->name};
    reader.buffer = med_alloc(BUFFER_BYTES + 1);
    if (reader.buffer == NULL) {
        return med_field_no_memory(err);
    }
    MED_ASSERT(input->prefix_bytes <= BUFFER_BYTES);
    if (input->prefix_bytes > 0) {
        memcpy(reader.buffer, input->prefix, input->prefix_bytes);
    }
    reader.end = input->prefix_bytes;
    int rc = read_rows(&reader, err);
    med_free(reader.buffer);
    if (rc < 0) {
        med_free(reader.rows);
        return rc;
    }
    *ret_log = (struct med_request_log){.rows = reader.rows, .count = reader.count};
    return 0;
}

int med_request_log_read_file(const char *path, struct med_request_log *ret_log,
                              struct med_err *err)
{
    bool standard = strcmp(path, "-") == 0;
    struct med_log_input input = {.stream = standard ? stdin : fopen(path, "rb"),
                                  .name = standard ? "standard input" : path};
    if (input.stream == NULL) {
        return med_err_set(err, med_err_input_code(errno), "%s: cannot open it: %s", path,
                           med_os_errno_text(-errno));
    }
    int rc = med_request_log_read_input(&input, ret_log, err);
    if (!standard) {
        (void)fclose(input.stream); /* opened for reading: nothing can be lost */
    }
    return rc;
}

void med_request_log_release(struct med_request_log *log)
{
    if (log == NULL) {
        return;
    }
    med_free(log->rows);
    *log = (struct med_request_log){0};
}
