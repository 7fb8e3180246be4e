/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The option table: one table per program drives the command line, the environment twins
 * (MEDLEY_<OPTION>), the JSON config file, --help and the reference pages.
 *
 * Precedence: command line > environment > --config FILE > default.  Every program has --help,
 * --version, --config FILE, --log-level and --log-format without listing them.  `--name VALUE` and
 * `--name=VALUE` are the same; flags are `--name` and `--no-name`; "--" ends the options.
 * Human numbers (8k, 32K, 1.5M; k = 1000, Ki = 1024) are accepted where a count is;
 * durations take ns, us, ms, s, m, h.
 * A wrong option gets one precise line on standard error and exit 2, never the whole help.
 *
 * The environment twin of a *positional* argument does not exist.  Options marked MED_OPT_SECRET
 * can be set from a file or the environment only.
 * thread: main.
 */
#ifndef MED_BASE_OPTIONS_H
#define MED_BASE_OPTIONS_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum med_option_type {
    MED_OPT_FLAG,     /* bool */
    MED_OPT_STRING,   /* const char *, borrowed from argv, environ or the parsed table */
    MED_OPT_INTEGER,  /* int64_t in [min, max] */
    MED_OPT_NUMBER,   /* double in [min, max], finite */
    MED_OPT_DURATION, /* int64_t nanoseconds; min and max in seconds */
    MED_OPT_CHOICE,   /* const char *: one of `choices`, separated by | */
    MED_OPT_LIST,   /* struct med_option_list: may be given many times; config: array of strings */
    MED_OPT_SECRET, /* as MED_OPT_STRING, but refused on the command line and never printed */
};

struct med_option_list {
    const char **values;
    size_t count;
};

struct med_option {
    const char *name; /* long name without dashes, NULL ends the table */
    char short_name;  /* 0 for none */
    enum med_option_type type;
    size_t offset;            /* of the field in the options struct */
    const char *unit;         /* "FILE", "REQ/S", ... shown after the name */
    const char *default_text; /* parsed like a user's value; NULL: zero / NULL */
    double min, max;          /* both 0: unbounded */
    const char *choices;
    const char *help;  /* one sentence */
    const char *group; /* heading in --help; NULL continues the group above */
};

/* What a program says of itself. */
struct med_program {
    const char *name;     /* "medley plan" */
    const char *synopsis; /* arguments: "[options] PLAN" */
    const char *summary;  /* one sentence */
    const char *details; /* paragraphs after the options: formats, examples, exit status; or NULL */
    const struct med_option *options;
    int positional_min, positional_max; /* max -1: any number */
};

struct med_options {
    void *values;            /* the caller's struct, filled by offset */
    const char **positional; /* borrowed argv entries; owned array */
    int positional_count;
    const struct med_program *program;
    void *owned; /* strings from the config file, list arrays */
};

enum med_options_verdict {
    MED_OPTIONS_RUN = 0,
    MED_OPTIONS_DONE = 1
};

/* Fills values (which the caller zeroes), sets up the log, and returns MED_OPTIONS_RUN;
 * MED_OPTIONS_DONE after --help or --version (printed to stdout); MED_E_USAGE with err's sentence.
 */
int med_options_parse(const struct med_program *program, int argc, char **argv, void *values,
                      struct med_options *ret_options, struct med_err *err) MED_MUST_CHECK;
void med_options_release(struct med_options *options);

/* parse + report: on failure prints "medley plan: sentence" to stderr. Returns MED_OPTIONS_RUN, or
 * MED_OPTIONS_DONE with *ret_exit_status set (0 after help, 2 after a wrong option). */
int med_options_main(const struct med_program *program, int argc, char **argv, void *values,
                     struct med_options *ret_options, int *ret_exit_status) MED_MUST_CHECK;

/* True if the user gave the option anywhere (command line, environment, config). */
bool med_options_given(const struct med_options *options, const char *name);

/* Reference page in Markdown, from the same table. (`--help-markdown`, hidden, prints it.) */
int med_options_markdown(const struct med_program *program, struct med_buf *out) MED_MUST_CHECK;

/* Parsers with range checks, also for other text inputs. what: names the thing in messages. */
int med_parse_number(const char *text, const char *what, double min, double max, double *ret_value,
                     struct med_err *err) MED_MUST_CHECK;
int med_parse_integer(const char *text, const char *what, int64_t min, int64_t max,
                      int64_t *ret_value, struct med_err *err) MED_MUST_CHECK;
int med_parse_duration(const char *text, const char *what, double min_s, double max_s,
                       int64_t *ret_ns, struct med_err *err) MED_MUST_CHECK;

#endif
