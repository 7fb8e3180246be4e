/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines on standard error.
 *
 * A line is built on the stack and written by one write(2), so that lines of threads and processes
 * do not mix.  A message over MESSAGE_MAX bytes is cut and ends in "...".  Everything from a caller
 * is escaped as in a JSON string, in the text format too: a line feed in a request id cannot start
 * a line.  A line that cannot be written (closed or full pipe) is dropped: there is no place left
 * to say so.  It does not rotate files or filter by module. thread: any after med_log_init; the
 * level is an atomic and may change at any time.
 */
#include "base/log.h"

#include "base/clock.h"
#include "base/utf8.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    PROGRAM_MAX = 64,
    REQUEST_MAX = 256,
    MESSAGE_MAX = 4096,
    ESCAPED_MAX = MESSAGE_MAX * 2, // longer only for messages full of control bytes: then cut
    LINE_MAX_BYTES = ESCAPED_MAX + 6 * REQUEST_MAX + PROGRAM_MAX + 256,
};

static char program_name[PROGRAM_MAX] = "medley"; // set by med_log_init before other threads start
static atomic_int level_min = MED_LOG_INFO;
static atomic_int line_format = MED_LOG_TEXT;

static const char *const level_names[] = {"debug", "info", "warn", "error", "off"};

void med_log_init(const char *program, enum med_log_level level, enum med_log_format format)
{
    (void)med_utf8_escape(program_name, sizeof program_name, program, strlen(program));
    atomic_store(&level_min, (int)level);
    atomic_store(&line_format, (int)format);
}

void med_log_set_level(enum med_log_level level)
{
    atomic_store(&level_min, (int)level);
}

enum med_log_level med_log_level(void)
{
    return (enum med_log_level)atomic_load(&level_min);
}

const char *med_log_level_name(enum med_log_level level)
{
    return level_names[level];
}

bool med_log_enabled(enum med_log_level level)
{
    return level < MED_LOG_OFF && (int)level >= atomic_load(&level_min);
}

/* "2026-01-31T23:59:59.123Z" */
static void time_print(char out[32])
{
    int64_t now_ns = med_clock_unix_ns();
    time_t seconds = (time_t)(now_ns / MED_NS_PER_S);
    int milliseconds = (int)(now_ns % MED_NS_PER_S / MED_NS_PER_MS);
    struct tm utc;
    char date[24] = "";
    if (gmtime_r(&seconds, &utc))
        (void)strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &utc);
    (void)snprintf(out, 32, "%s.%03dZ", date, milliseconds);
}

/* As JSON escapes it; in text lines quotes and backslashes stay as they are. */
static void text_escape(char out[ESCAPED_MAX], const char *message, bool is_json)
{
    size_t length = 0;
    for (size_t left = strlen(message); left > 0;) {
        char piece[MED_UTF8_ESCAPE_CHAR_MAX];
        size_t used;
        size_t count = med_utf8_escape_char(piece, message, left, &used);
        const char *text = piece;
        if (!is_json && (*message == '"' || *message == '\\')) {
            text = message;
            count = 1;
        }
        if (length + count >= ESCAPED_MAX)
            break;
        memcpy(out + length, text, count);
        length += count;
        message += used;
        left -= used;
    }
    out[length] = '\0';
}

static void line_write(const char *line, size_t bytes)
{
    ssize_t written;
    do {
        written = write(STDERR_FILENO, line, bytes);
    } while (written < 0 && errno == EINTR);
}

void med_log(enum med_log_level level, const char *request_id, const char *fmt, ...)
{
    if (!med_log_enabled(level))
        return;
    const int errno_before = errno; // a log line must not change what its caller looks at
    char message[MESSAGE_MAX];
    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    if (length >= (int)sizeof message)
        memcpy(message + sizeof message - 4, "...", 4);

    const bool is_json = atomic_load(&line_format) == MED_LOG_JSONL;
    char text[ESCAPED_MAX] = "";
    if (length > 0)
        text_escape(text, message, is_json);
    char request[6 * REQUEST_MAX] = "";
    if (request_id) {
        (void)med_utf8_escape(request, sizeof request, request_id,
                              strnlen(request_id, REQUEST_MAX));
    }
    char stamp[32];
    time_print(stamp);
    char line[LINE_MAX_BYTES];
    const char *name = level_names[level];
    if (is_json) {
        length = snprintf(line, sizeof line,
                          "{\"time\":\"%s\",\"level\":\"%s\",\"program\":\"%s\",%s%s%s"
                          "\"message\":\"%s\"}\n",
                          stamp, name, program_name, request_id ? "\"request_id\":\"" : "", request,
                          request_id ? "\"," : "", text);
    } else {
        length = snprintf(line, sizeof line, "%s %-5s %s: %s%s%s\n", stamp, name, program_name,
                          text, request_id ? " request_id=" : "", request);
    }
    if (length > 0 && length < (int)sizeof line)
        line_write(line, (size_t)length);
    errno = errno_before;
}
