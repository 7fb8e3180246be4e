/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines on standard error, text or JSONL.
 *
 * A line has time (UTC, ms), level, program, message, and optional request id and fields. Libraries
 * do not log: the place that handles an error logs it once.  Strings are escaped, so that hostile
 * input can neither break a line nor forge one.  One write(2) per line: lines of several threads
 * and processes do not mix.  thread: any after med_log_init.
 */
#ifndef MED_BASE_LOG_H
#define MED_BASE_LOG_H

#include "base/err.h"

#include <stdbool.h>

enum med_log_level {
    MED_LOG_DEBUG,
    MED_LOG_INFO,
    MED_LOG_WARN,
    MED_LOG_ERROR,
    MED_LOG_OFF
};
enum med_log_format {
    MED_LOG_TEXT,
    MED_LOG_JSONL
};

void med_log_init(const char *program, enum med_log_level level, enum med_log_format format);
void med_log_set_level(enum med_log_level level);
enum med_log_level med_log_level(void);
const char *med_log_level_name(enum med_log_level level); /* "debug" ... "error", "off" */
bool med_log_enabled(enum med_log_level level);

/* request_id may be NULL. */
void med_log(enum med_log_level level, const char *request_id, const char *fmt, ...)
    MED_PRINTF(3, 4);

#define MED_DEBUG(...) med_log(MED_LOG_DEBUG, NULL, __VA_ARGS__)
#define MED_INFO(...)  med_log(MED_LOG_INFO, NULL, __VA_ARGS__)
#define MED_WARN(...)  med_log(MED_LOG_WARN, NULL, __VA_ARGS__)
#define MED_ERROR(...) med_log(MED_LOG_ERROR, NULL, __VA_ARGS__)

#endif
