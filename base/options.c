/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The option table: command line, environment, precedence.
 *
 * Each option remembers the strongest source that has set it.  The command line is read first (it
 * names the config file), then the file, then the environment, then defaults fill what is left; since
 * a weaker source never replaces a stronger one, the order does not matter for the result.  A
 * variable of the environment is not even looked at when the command line sets the option; the file
 * is always checked as a whole.  An empty variable counts as unset; a list in a variable is
 * separated by commas.  Lists are gathered in the state and handed out at the end.
 * thread: main.
 */
#include "base/options_internal.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/log.h"
#include "base/suggest.h"
#include "base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SHOWN_MAX = 96,
    WHAT_MAX = 160
};

const struct med_option med_options_common[] = {
    {.name = "config",
     .type = MED_OPT_STRING,
     .offset = offsetof(struct common_values, config),
     .unit = "FILE",
     .help = "Read options from a JSON file: one object, option names as keys, and, if wanted, one "
             "section per verb.",
     .group = "Common"},
    {.name = "log-level",
     .type = MED_OPT_CHOICE,
     .offset = offsetof(struct common_values, log_level),
     .unit = "LEVEL",
     .default_text = "info",
     .choices = "debug|info|warn|error|off",
     .help = "Least severe log line that is written to standard error."},
    {.name = "log-format",
     .type = MED_OPT_CHOICE,
     .offset = offsetof(struct common_values, log_format),
     .unit = "FORMAT",
     .default_text = "text",
     .choices = "text|jsonl",
     .help = "Log lines for people, or one JSON object per line."},
    {.name = "help",
     .short_name = 'h',
     .type = MED_OPT_FLAG,
     .offset = offsetof(struct common_values, help),
     .help = "Print this help."},
    {.name = "version",
     .type = MED_OPT_FLAG,
     .offset = offsetof(struct common_values, version),
     .help = "Print the version."},
    {0},
};

/* ---- the two tables as one ---- */

static size_t table_count(const struct med_option *table)
{
    size_t count = 0;
    while (table && table[count].name)
        count++;
    return count;
}

const struct med_option *med_option_at(const struct options_state *state, size_t index)
{
    MED_ASSERT(index < state->option_count);
    return index < state->own_count ? &state->program->options[index]
                                    : &med_options_common[index - state->own_count];
}

static void *field_at(const struct options_state *state, size_t index)
{
    char *base = index < state->own_count ? (char *)state->values : (char *)&state->common;
    return base + med_option_at(state, index)->offset;
}

/* Index of the option with this name (bytes long), or option_count. */
static size_t option_find(const struct options_state *state, const char *name, size_t bytes)
{
    size_t i = 0;
    for (; i < state->option_count; i++) {
        const char *candidate = med_option_at(state, i)->name;
        if (strncmp(candidate, name, bytes) == 0 && candidate[bytes] == '\0')
            break;
    }
    return i;
}

void med_option_env_name(const char *name, char out[OPTION_ENV_MAX])
{
    size_t length = (size_t)snprintf(out, OPTION_ENV_MAX, "MEDLEY_%s", name);
    MED_ASSERT(length < OPTION_ENV_MAX);
    for (char *p = out; *p; p++) {
        if (*p == '-') {
            *p = '_';
        } else if (*p >= 'a' && *p <= 'z') {
            *p = (char)(*p - 'a' + 'A');
        }
    }
}

/* ---- taking values ---- */

static int fail_memory(struct med_err *err)
{
    return med_err_set(err, MED_E_NOMEM, "%s while the options were read",
                       med_err_text(MED_E_NOMEM));
}

static void scalar_store(const struct options_state *state, size_t index,
                         const union option_scalar *value)
{
    void *field = field_at(state, index);
    switch (med_option_at(state, index)->type) {
    case MED_OPT_FLAG:
        *(bool *)field = value->flag;
        break;
    case MED_OPT_INTEGER:
    case MED_OPT_DURATION:
        *(int64_t *)field = value->integer;
        break;
    case MED_OPT_NUMBER:
        *(double *)field = value->number;
        break;
    case MED_OPT_STRING:
    case MED_OPT_CHOICE:
    case MED_OPT_SECRET:
        *(const char **)field = value->string;
        break;
    case MED_OPT_LIST:
        MED_ASSERT(false && "a list is not stored as a scalar");
    }
}

static int list_append(struct med_option_list *list, const char *text)
{
    const char **grown = med_realloc_array((void *)list->values, list->count + 1, sizeof *grown);
    if (!grown)
        return MED_E_NOMEM;
    list->values = grown;
    list->values[list->count++] = text;
    return 0;
}

int med_option_take_text(struct options_state *state, size_t index, enum option_source source,
                         const char *text, const char *what, struct med_err *err)
{
    const struct med_option *option = med_option_at(state, index);
    const enum option_source before = state->sources[index];
    union option_scalar value;
    int rc = med_option_parse_scalar(option, text, what, &value, err);
    if (rc < 0 || source < before)
        return rc;
    state->sources[index] = (unsigned char)source;
    if (option->type != MED_OPT_LIST) {
        scalar_store(state, index, &value);
        return 0;
    }
    if (source > before)
        state->lists[index].count = 0;
    return list_append(&state->lists[index], text) < 0 ? fail_memory(err) : 0;
}

int med_option_take_flag(struct options_state *state, size_t index, enum option_source source,
                         bool value)
{
    MED_ASSERT(med_option_at(state, index)->type == MED_OPT_FLAG);
    if (source < state->sources[index])
        return 0;
    state->sources[index] = (unsigned char)source;
    scalar_store(state, index, &(union option_scalar){.flag = value});
    return 0;
}

/* Takes a list written with commas. */
static int take_split(struct options_state *state, size_t index, enum option_source source,
                      const char *text, const char *what, struct med_err *err)
{
    char **grown = med_realloc_array(state->strings, state->string_count + 1, sizeof *grown);
    if (!grown)
        return fail_memory(err);
    state->strings = grown;
    char *copy = med_strdup(text);
    if (!copy)
        return fail_memory(err);
    state->strings[state->string_count++] = copy;
    for (char *piece = copy; piece;) {
        char *comma = strchr(piece, ',');
        if (comma)
            *comma = '\0';
        int rc = med_option_take_text(state, index, source, piece, what, err);
        if (rc < 0)
            return rc;
        piece = comma ? comma + 1 : NULL;
    }
    return 0;
}

static int take_any(struct options_state *state, size_t index, enum option_source source,
                    const char *text, const char *what, struct med_err *err)
{
    return med_option_at(state, index)->type == MED_OPT_LIST
               ? take_split(state, index, source, text, what, err)
               : med_option_take_text(state, index, source, text, what, err);
}

/* ---- the command line ---- */

static int fail_unknown(const struct options_state *state, const char *dashes, const char *name,
                        size_t name_bytes, struct med_err *err)
{
    char shown[SHOWN_MAX];
    (void)med_utf8_escape(shown, sizeof shown, name, name_bytes);
    struct med_suggest suggest;
    med_suggest_init(&suggest, shown);
    for (size_t i = 0; i < state->option_count && dashes[1]; i++)
        med_suggest_offer(&suggest, med_option_at(state, i)->name);
    if (suggest.best) {
        return med_err_set(err, MED_E_USAGE, "unknown option %s%s; did you mean --%s?", dashes,
                           shown, suggest.best);
    }
    return med_err_set(err, MED_E_USAGE, "unknown option %s%s; see %s --help", dashes, shown,
                       state->program->name);
}

/* "a value (FILE)" */
static int fail_no_value(const struct options_state *state, const struct med_option *option,
                         const char *next, struct med_err *err)
{
    const char *unit = option->unit ? option->unit : "VALUE";
    if (!next) {
        return med_err_set(err, MED_E_USAGE, "--%s needs a value: --%s %s", option->name,
                           option->name, unit);
    }
    char shown[SHOWN_MAX];
    (void)med_utf8_escape(shown, sizeof shown, next, strlen(next));
    return med_err_set(
        err, MED_E_USAGE,
        "--%s needs a value (%s), but the option %s follows; write --%s=%s if that is "
        "the value (see %s --help)",
        option->name, unit, shown, option->name, shown, state->program->name);
}

/* Is this argument exactly one of our long options? Then it is hardly meant as a value. */
static bool is_own_option(const struct options_state *state, const char *argument)
{
    if (strncmp(argument, "--", 2) != 0)
        return false;
    size_t bytes = strcspn(argument + 2, "=");
    return option_find(state, argument + 2, bytes) < state->option_count;
}

struct command_line {
    int argc;
    char **argv;
    int at; /* the argument that is read now */
};

/* The option at `index` was named; value is what stood after "=" or NULL. */
static int take_named(struct options_state *state, size_t index, const char *value,
                      struct command_line *line, struct med_err *err)
{
    const struct med_option *option = med_option_at(state, index);
    if (option->type == MED_OPT_FLAG) {
        if (value) {
            return med_err_set(err, MED_E_USAGE, "--%s takes no value; use --%s or --no-%s",
                               option->name, option->name, option->name);
        }
        return med_option_take_flag(state, index, SOURCE_COMMAND_LINE, true);
    }
    if (option->type == MED_OPT_SECRET) {
        char variable[OPTION_ENV_MAX];
        med_option_env_name(option->name, variable);
        return med_err_set(
            err, MED_E_USAGE,
            "--%s is a secret, and other users can read command lines; set %s or put "
            "it into the --config file",
            option->name, variable);
    }
    if (!value) {
        const char *next = line->at + 1 < line->argc ? line->argv[line->at + 1] : NULL;
        if (!next || is_own_option(state, next))
            return fail_no_value(state, option, next, err);
        value = next;
        line->at++;
    }
    char what[WHAT_MAX];
    (void)snprintf(what, sizeof what, "--%s", option->name);
    return med_option_take_text(state, index, SOURCE_COMMAND_LINE, value, what, err);
}

static int take_long(struct options_state *state, struct command_line *line, struct med_err *err)
{
    const char *name = line->argv[line->at] + 2;
    size_t bytes = strcspn(name, "=");
    const char *value = name[bytes] == '=' ? name + bytes + 1 : NULL;
    size_t index = option_find(state, name, bytes);
    if (index < state->option_count)
        return take_named(state, index, value, line, err);
    if (strncmp(name, "no-", 3) == 0 && !value) {
        index = option_find(state, name + 3, bytes - 3);
        if (index < state->option_count && med_option_at(state, index)->type == MED_OPT_FLAG)
            return med_option_take_flag(state, index, SOURCE_COMMAND_LINE, false);
        if (index < state->option_count) {
            return med_err_set(err, MED_E_USAGE, "--%s takes a value; there is no --no-%s",
                               med_option_at(state, index)->name,
                               med_option_at(state, index)->name);
        }
    }
    return fail_unknown(state, "--", name, bytes, err);
}

/* "-n VALUE", "-nVALUE", "-f". */
static int take_short(struct options_state *state, struct command_line *line, struct med_err *err)
{
    const char *argument = line->argv[line->at];
    for (size_t i = 0; i < state->option_count; i++) {
        if (med_option_at(state, i)->short_name != argument[1])
            continue;
        const char *rest = argument[2] ? argument + 2 : NULL;
        return take_named(state, i, rest, line, err);
    }
    return fail_unknown(state, "-", argument + 1, strlen(argument + 1), err);
}

static int take_command_line(struct options_state *state, struct command_line *line,
                             struct med_options *options, struct med_err *err)
{
    bool options_ended = false;
    for (line->at = 1; line->at < line->argc; line->at++) {
        const char *argument = line->argv[line->at];
        int rc = 0;
        if (options_ended || argument[0] != '-' || argument[1] == '\0') {
            options->positional[options->positional_count++] = argument;
        } else if (strcmp(argument, "--") == 0) {
            options_ended = true;
        } else if (strcmp(argument, "--help-markdown") == 0) {
            return MED_OPTIONS_DONE;
        } else {
            rc = argument[1] == '-' ? take_long(state, line, err) : take_short(state, line, err);
        }
        if (rc < 0)
            return rc;
        if (state->common.help || state->common.version)
            return MED_OPTIONS_DONE;
    }
    return 0;
}

static int check_positional(const struct options_state *state, const struct med_options *options,
                            struct med_err *err)
{
    const struct med_program *program = state->program;
    int count = options->positional_count;
    if (count < program->positional_min) {
        return med_err_set(err, MED_E_USAGE, "an argument is missing; usage: %s %s", program->name,
                           program->synopsis);
    }
    if (program->positional_max < 0 || count <= program->positional_max)
        return 0;
    char shown[SHOWN_MAX];
    const char *extra = options->positional[program->positional_max];
    (void)med_utf8_escape(shown, sizeof shown, extra, strlen(extra));
    return med_err_set(err, MED_E_USAGE, "unexpected argument \"%s\"; usage: %s %s", shown,
                       program->name, program->synopsis);
}

/* ---- the other sources ---- */

static int take_environment(struct options_state *state, struct med_err *err)
{
    for (size_t i = 0; i < state->option_count; i++) {
        const char *name = med_option_at(state, i)->name;
        if (strcmp(name, "help") == 0 || strcmp(name, "version") == 0 ||
            strcmp(name, "config") == 0 || state->sources[i] > SOURCE_ENVIRONMENT)
            continue;
        char variable[OPTION_ENV_MAX];
        med_option_env_name(name, variable);
        const char *text = getenv(variable);
        if (!text || !*text)
            continue;
        int rc = take_any(state, i, SOURCE_ENVIRONMENT, text, variable, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int take_config(struct options_state *state, struct med_err *err)
{
    const char *path = state->common.config;
    if (!path)
        path = getenv("MEDLEY_CONFIG");
    if (!path || !*path)
        return 0;
    state->common.config = path;
    int rc = med_options_take_config(state, path, err);
    /* An unreadable or wrong file is a wrong use of the program. */
    if (rc < 0 && rc != MED_E_NOMEM && err)
        err->code = MED_E_USAGE;
    return rc < 0 && rc != MED_E_NOMEM ? MED_E_USAGE : rc;
}

static int take_defaults(struct options_state *state, struct med_err *err)
{
    for (size_t i = 0; i < state->option_count; i++) {
        const struct med_option *option = med_option_at(state, i);
        if (!option->default_text || state->sources[i] != SOURCE_DEFAULT)
            continue;
        struct med_err wrong = {0};
        int rc = take_any(state, i, SOURCE_DEFAULT, option->default_text, option->name, &wrong);
        if (rc == MED_E_NOMEM)
            return fail_memory(err);
        MED_ASSERT(rc == 0); // a default that its own option refuses
    }
    return 0;
}

/* ---- life cycle ---- */

static void state_free(struct options_state *state)
{
    if (!state)
        return;
    for (size_t i = 0; i < state->option_count && state->lists; i++)
        med_free((void *)state->lists[i].values);
    for (size_t i = 0; i < state->string_count; i++)
        med_free(state->strings[i]);
    if (state->has_config)
        med_json_free(&state->config);
    med_free(state->strings);
    med_free(state->lists);
    med_free(state->sources);
    med_free(state);
}

static struct options_state *state_new(const struct med_program *program, void *values)
{
    struct options_state *state = med_calloc(1, sizeof *state);
    if (!state)
        return NULL;
    state->program = program;
    state->values = values;
    state->own_count = table_count(program->options);
    state->option_count = state->own_count + table_count(med_options_common);
    state->sources = med_calloc(state->option_count, sizeof *state->sources);
    state->lists = med_calloc(state->option_count, sizeof *state->lists);
    if (!state->sources || !state->lists) {
        state_free(state);
        return NULL;
    }
    return state;
}

static int print_text(const struct med_buf *text, struct med_err *err)
{
    bool ok = fwrite(text->data, 1, text->length, stdout) == text->length;
    if (fflush(stdout) != 0)
        ok = false;
    return ok ? 0 : med_err_set(err, MED_E_IO, "standard output cannot be written");
}

/* Prints what --help, --version or --help-markdown asks for. */
static int print_answer(const struct options_state *state, struct med_err *err)
{
    struct med_buf text;
    med_buf_init(&text, 1 << 20);
    int rc;
    if (state->common.help) {
        rc = med_options_help(state->program, &text);
    } else if (state->common.version) {
        rc = med_buf_printf(&text, "%s %s\n", state->program->name, MED_VERSION);
    } else {
        rc = med_options_markdown(state->program, &text);
    }
    if (rc < 0) {
        (void)fail_memory(err);
    } else {
        rc = print_text(&text, err);
    }
    med_buf_release(&text);
    return rc < 0 ? rc : MED_OPTIONS_DONE;
}

static void log_set_up(const struct options_state *state)
{
    static const char *const names[] = {"debug", "info", "warn", "error", "off"};
    int level = MED_LOG_DEBUG;
    while (level < MED_LOG_OFF && strcmp(names[level], state->common.log_level) != 0)
        level++;
    char program[64];
    (void)snprintf(program, sizeof program, "%s", state->program->name);
    for (char *p = program; *p; p++) {
        if (*p == ' ')
            *p = '-';
    }
    med_log_init(program, (enum med_log_level)level,
                 strcmp(state->common.log_format, "jsonl") == 0 ? MED_LOG_JSONL : MED_LOG_TEXT);
}

static int take_all(struct options_state *state, struct command_line *line,
                    struct med_options *options, struct med_err *err)
{
    int rc = take_command_line(state, line, options, err);
    if (rc == MED_OPTIONS_DONE)
        return print_answer(state, err);
    if (rc == 0)
        rc = take_config(state, err);
    if (rc == 0)
        rc = take_environment(state, err);
    if (rc == 0)
        rc = take_defaults(state, err);
    if (rc == 0)
        rc = check_positional(state, options, err);
    return rc;
}

int med_options_parse(const struct med_program *program, int argc, char **argv, void *values,
                      struct med_options *ret_options, struct med_err *err)
{
    struct options_state *state = state_new(program, values);
    if (!state)
        return fail_memory(err);
    struct med_options options = {.values = values, .program = program, .owned = state};
    options.positional = med_calloc((size_t)(argc > 0 ? argc : 1), sizeof *options.positional);
    struct command_line line = {.argc = argc, .argv = argv};
    int rc = options.positional ? take_all(state, &line, &options, err) : fail_memory(err);
    if (rc != 0) {
        med_options_release(&options);
        if (rc > 0)
            *ret_options = options; // empty, so that it may be released
        return rc;
    }
    for (size_t i = 0; i < state->option_count; i++) {
        if (med_option_at(state, i)->type == MED_OPT_LIST)
            *(struct med_option_list *)field_at(state, i) = state->lists[i];
    }
    log_set_up(state);
    *ret_options = options;
    return MED_OPTIONS_RUN;
}

void med_options_release(struct med_options *options)
{
    state_free(options->owned);
    med_free((void *)options->positional);
    *options = (struct med_options){0};
}

int med_options_main(const struct med_program *program, int argc, char **argv, void *values,
                     struct med_options *ret_options, int *ret_exit_status)
{
    struct med_err err = {0};
    *ret_options = (struct med_options){0};
    int rc = med_options_parse(program, argc, argv, values, ret_options, &err);
    if (rc == MED_OPTIONS_RUN)
        return rc;
    if (rc < 0)
        (void)fprintf(stderr, "%s: %s\n", program->name, err.text);
    *ret_exit_status = med_err_exit_status(rc);
    return MED_OPTIONS_DONE;
}

bool med_options_given(const struct med_options *options, const char *name)
{
    const struct options_state *state = options->owned;
    size_t index = option_find(state, name, strlen(name));
    MED_ASSERT(index < state->option_count);
    return state->sources[index] > SOURCE_DEFAULT;
}
