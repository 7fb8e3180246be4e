/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The JSON config file of the option table.
 *
 *     {"format": "medley-config/1",          optional
 *      "log-level": "warn",                  an option of every verb that reads the file
 *      "plan": {"gap": 0.01},                options of `medley plan` only; stronger than the above
 *      "bench": {...}}                       other verbs' sections are not looked into
 *
 * Keys are option names without dashes in front.  A key that the program does not know is an error,
 * so that a misspelt one cannot be ignored in silence; what only another verb knows goes into that
 * verb's section.  Values have JSON's types; numbers and durations may be strings too ("8k",
 * "500ms").  thread: main.
 */
#include "base/options_internal.h"

#include "base/os.h"
#include "base/suggest.h"
#include "base/verbs.h"

#include <float.h>
#include <stdio.h>
#include <string.h>

static const char *const verbs[] = {
#define X(name, summary) name,
    MED_VERB_MAP(X)
#undef X
};
static const size_t verb_count = sizeof verbs / sizeof verbs[0];

enum {
    WHAT_MAX = MED_JSON_PATH_MAX + 512,
    TEXT_MAX = 1 << 20
};

/* "plan" of "medley plan". */
static const char *own_verb(const struct options_state *state)
{
    const char *space = strrchr(state->program->name, ' ');
    return space ? space + 1 : state->program->name;
}

static int take_string(struct options_state *state, size_t index, enum option_source source,
                       const struct med_json_at *at, struct med_err *err)
{
    char what[WHAT_MAX];
    (void)snprintf(what, sizeof what, "%s: %s", at->doc->file, at->path);
    const char *text;
    int rc = med_json_string_here(at, -TEXT_MAX, &text, err);
    return rc < 0 ? rc : med_option_take_text(state, index, source, text, what, err);
}

static int take_list(struct options_state *state, size_t index, enum option_source source,
                     const struct med_json_at *at, struct med_err *err)
{
    if (!med_json_is_array(at))
        return med_json_fail(at, NULL, err, "expected an array of strings");
    struct med_json_at item = {0};
    size_t i = 0;
    int rc = 0;
    while (rc == 0 && med_json_next(at, &i, &item, NULL))
        rc = take_string(state, index, source, &item, err);
    return rc;
}

static int take_number(struct options_state *state, size_t index, enum option_source source,
                       const struct med_json_at *at, struct med_err *err)
{
    char what[WHAT_MAX];
    (void)snprintf(what, sizeof what, "%s: %s", at->doc->file, at->path);
    double value;
    int rc = med_json_number_here(at, -DBL_MAX, DBL_MAX, &value, err);
    if (rc < 0)
        return rc;
    char text[MED_OS_DOUBLE_MAX];
    (void)med_os_print_double(text, value);
    return med_option_take_text(state, index, source, text, what, err);
}

/* Takes the value of one option. */
static int take_value(struct options_state *state, size_t index, enum option_source source,
                      const struct med_json_at *at, struct med_err *err)
{
    const struct med_option *option = med_option_at(state, index);
    bool flag;
    int rc;
    switch (option->type) {
    case MED_OPT_FLAG:
        rc = med_json_bool_here(at, &flag, err);
        return rc < 0 ? rc : med_option_take_flag(state, index, source, flag);
    case MED_OPT_LIST:
        if (!med_json_is_string(at))
            return take_list(state, index, source, at, err);
        break;
    case MED_OPT_INTEGER:
    case MED_OPT_NUMBER:
        if (!med_json_is_string(at))
            return take_number(state, index, source, at, err);
        break;
    case MED_OPT_DURATION:
        if (med_json_is_number(at)) {
            return med_json_fail(at, NULL, err,
                                 "found a number, expected a duration with its unit, "
                                 "as in \"500ms\"");
        }
        break;
    default:
        break;
    }
    return take_string(state, index, source, at, err);
}

static int fail_unknown(const struct options_state *state, const struct med_json_at *at,
                        const char *key, struct med_err *err)
{
    struct med_suggest suggest;
    med_suggest_init(&suggest, key);
    for (size_t i = 0; i < state->option_count; i++)
        med_suggest_offer(&suggest, med_option_at(state, i)->name);
    if (suggest.best) {
        return med_json_fail(at, NULL, err, "%s has no such option; did you mean \"%s\"?",
                             state->program->name, suggest.best);
    }
    return med_json_fail(at, NULL, err,
                         "%s has no such option; an option of another verb belongs in that verb's "
                         "section, as in {\"plan\": {...}}",
                         state->program->name);
}

static int fail_section(const struct med_json_at *at, const char *key, struct med_err *err)
{
    struct med_suggest suggest;
    med_suggest_init(&suggest, key);
    for (size_t i = 0; i < verb_count; i++)
        med_suggest_offer(&suggest, verbs[i]);
    if (suggest.best) {
        return med_json_fail(at, NULL, err,
                             "an object here is a verb's section; did you mean \"%s\"?",
                             suggest.best);
    }
    return med_json_fail(at, NULL, err,
                         "an object here is a verb's section, and medley has no such verb");
}

/* Is this root member something other than an option: a section, or the format's name? */
static int check_root_member(const struct options_state *state, const struct med_json_at *at,
                             const char *key, bool *ret_is_option, struct med_err *err)
{
    static const char format[] = "medley-config/1";
    const char *text;
    *ret_is_option = false;
    if (med_json_is_object(at)) {
        bool known = strcmp(key, own_verb(state)) == 0;
        for (size_t i = 0; i < verb_count && !known; i++)
            known = strcmp(key, verbs[i]) == 0;
        return known ? 0 : fail_section(at, key, err);
    }
    if (strcmp(key, "format") == 0 && med_json_string_here(at, TEXT_MAX, &text, NULL) == 0 &&
        strncmp(text, "medley-", 7) == 0) {
        if (strcmp(text, format) == 0)
            return 0;
        return med_json_fail(at, NULL, err, "found \"%s\", expected \"%s\"", text, format);
    }
    *ret_is_option = true;
    return 0;
}

static int take_member(struct options_state *state, enum option_source source,
                       const struct med_json_at *at, const char *key, struct med_err *err)
{
    size_t index = 0;
    while (index < state->option_count && strcmp(med_option_at(state, index)->name, key) != 0)
        index++;
    if (index == state->option_count)
        return fail_unknown(state, at, key, err);
    if (strcmp(key, "config") == 0 || strcmp(key, "help") == 0 || strcmp(key, "version") == 0)
        return med_json_fail(at, NULL, err, "--%s works on the command line only", key);
    return take_value(state, index, source, at, err);
}

/* Takes the options of the root or of the verb's section. */
static int take_object(struct options_state *state, enum option_source source,
                       const struct med_json_at *object, struct med_err *err)
{
    struct med_json_at at = {0};
    size_t i = 0;
    const char *key;
    while (med_json_next(object, &i, &at, &key)) {
        bool is_option = true;
        int rc = 0;
        if (source == SOURCE_CONFIG_FLAT)
            rc = check_root_member(state, &at, key, &is_option, err);
        if (rc == 0 && is_option)
            rc = take_member(state, source, &at, key, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int med_options_take_config(struct options_state *state, const char *path, struct med_err *err)
{
    int rc = med_json_parse_file(path, &state->config, err);
    if (rc < 0)
        return rc;
    state->has_config = true;
    struct med_json_at root = med_json_root(&state->config);
    if (!med_json_is_object(&root))
        return med_json_fail(&root, NULL, err, "a config file must hold one object");
    rc = take_object(state, SOURCE_CONFIG_FLAT, &root, err);
    struct med_json_at section;
    if (rc == 0 && med_json_has(&root, own_verb(state)) &&
        med_json_object(&root, own_verb(state), &section, NULL) == 0)
        rc = take_object(state, SOURCE_CONFIG_SECTION, &section, err);
    return rc;
}
