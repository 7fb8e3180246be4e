/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Internal to the option table: what options.c (command line, precedence), options_config.c (the
 * JSON file), options_value.c (parsers) and options_help.c (--help, reference pages) share.
 * thread: main.
 */
#ifndef MED_BASE_OPTIONS_INTERNAL_H
#define MED_BASE_OPTIONS_INTERNAL_H

#include "base/json.h"
#include "base/options.h"

enum option_source {
    SOURCE_DEFAULT,
    SOURCE_CONFIG_FLAT,    /* the root of the config file */
    SOURCE_CONFIG_SECTION, /* the verb's section in it */
    SOURCE_ENVIRONMENT,
    SOURCE_COMMAND_LINE,
};

/* Values of the options that every program has. */
struct common_values {
    const char *config;
    const char *log_level;
    const char *log_format;
    bool help;
    bool version;
};

extern const struct med_option med_options_common[];

/* What struct med_options.owned points at; all of it is freed by med_options_release. */
struct options_state {
    const struct med_program *program;
    void *values; /* the caller's */
    struct common_values common;
    size_t own_count;              /* options of the program; those of the common table follow */
    size_t option_count;           /* both tables */
    unsigned char *sources;        /* enum option_source of each option */
    struct med_option_list *lists; /* of each option; arrays owned, strings borrowed */
    char **strings;                /* owned copies */
    size_t string_count;
    struct med_json_doc config; /* lends strings */
    bool has_config;
};

enum {
    OPTION_ENV_MAX = 96
};
/* "MEDLEY_LOG_LEVEL" of "log-level". */
void med_option_env_name(const char *name, char out[OPTION_ENV_MAX]);

const struct med_option *med_option_at(const struct options_state *state, size_t index);

/* One value as text from one source; what names the place in messages.  A weaker source than the
 * one that has set the option is checked, but changes nothing; a list is replaced by a stronger
 * source and grows by an equal one. */
int med_option_take_text(struct options_state *state, size_t index, enum option_source source,
                         const char *text, const char *what, struct med_err *err) MED_MUST_CHECK;
int med_option_take_flag(struct options_state *state, size_t index, enum option_source source,
                         bool value) MED_MUST_CHECK;
/* Reads --config FILE into state->config and takes its values. */
int med_options_take_config(struct options_state *state, const char *path,
                            struct med_err *err) MED_MUST_CHECK;

/* The value of a scalar option. */
union option_scalar {
    bool flag;
    int64_t integer;
    double number;
    const char *string;
};
int med_option_parse_scalar(const struct med_option *option, const char *text, const char *what,
                            union option_scalar *ret_value, struct med_err *err) MED_MUST_CHECK;

/* "from 1 to 8", ">= 0", or "" when the option has no bounds. */
void med_option_range_text(const struct med_option *option, char *out, size_t out_bytes);

int med_options_help(const struct med_program *program, struct med_buf *out) MED_MUST_CHECK;

#endif
