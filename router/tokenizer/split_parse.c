/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the pre-tokenizer of tokenizer.json into the steps that split.c runs.
 *
 * ByteLevel becomes up to two steps (its prefix, its pattern) and the flag that BPE starts from
 * bytes; it must be the last, since what follows would see bytes spelled as characters.
 * thread: the loader's.
 */
#include "router/tokenizer/internal.h"

#include <string.h>

static const char byte_level_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static int parse_behavior(const struct med_json_at *at, enum split_behavior *ret_behavior,
                          struct med_err *err)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"}; // as enum split_behavior
    const char *name;
    if (med_json_string(at, "behavior", 64, &name, err) < 0)
        return MED_E_FORMAT;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret_behavior = (enum split_behavior)i;
            return 0;
        }
    }
    return med_json_fail(at, "behavior", err,
                         "found \"%s\", expected Isolated, Removed, MergedWithPrevious, "
                         "MergedWithNext or Contiguous",
                         name);
}

static int parse_regex(struct split_step *step, const struct med_json_at *at, const char *key,
                       const char *pattern, struct med_err *err)
{
    char why[MED_REGEX_WHY_MAX];
    int rc = med_regex_new(pattern, &step->regex, why);
    if (rc == MED_E_FORMAT)
        return med_json_fail(at, key, err, "%s", why);
    return rc < 0 ? component_no_memory(at, err) : 0;
}

static int parse_split(struct split_step *step, const struct med_json_at *at, struct med_err *err)
{
    static const char *const known[] = {"type", "pattern", "behavior", "invert", NULL};
    static const char *const pattern_known[] = {"Regex", "String", NULL};
    struct med_json_at pattern;
    const char *text;
    int rc = med_json_keys(at, known, err);
    if (rc == 0)
        rc = parse_behavior(at, &step->behavior, err);
    if (rc == 0)
        rc = component_bool(at, "invert", false, &step->invert, err);
    if (rc == 0)
        rc = med_json_object(at, "pattern", &pattern, err);
    if (rc == 0)
        rc = med_json_keys(&pattern, pattern_known, err);
    if (rc < 0)
        return rc;
    if (med_json_has(&pattern, "String")) {
        step->kind = SPLIT_LITERAL;
        return component_literal(&pattern, "String", false, step->literal, &step->literal_bytes,
                                 err);
    }
    step->kind = SPLIT_REGEX;
    rc = med_json_string(&pattern, "Regex", 16 << 10, &text, err);
    return rc < 0 ? rc : parse_regex(step, &pattern, "Regex", text, err);
}

/* prepend_scheme; in older files add_prefix_space. */
static int parse_prepend(struct split_step *step, const struct med_json_at *at, struct med_err *err)
{
    static const char *const names[] = {"always", "first", "never"}; // as enum split_prepend
    const char *name = "always";
    bool space = true;
    int rc = 0;
    if (med_json_has(at, "prepend_scheme"))
        rc = med_json_string(at, "prepend_scheme", 64, &name, err);
    if (rc == 0)
        rc = component_bool(at, "add_prefix_space", true, &space, err);
    if (rc < 0)
        return rc;
    if (!space) {
        if (med_json_has(at, "prepend_scheme") && strcmp(name, "never") != 0) {
            return med_json_fail(at, "add_prefix_space", err,
                                 "found false, but prepend_scheme is \"%s\"", name);
        }
        if (!med_json_has(at, "prepend_scheme")) {
            return med_json_fail(at, "prepend_scheme", err,
                                 "is missing, expected \"never\" since add_prefix_space is false");
        }
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) {
            step->prepend = (enum split_prepend)i;
            return 0;
        }
    }
    return med_json_fail(at, "prepend_scheme", err,
                         "found \"%s\", expected \"always\", \"first\" or \"never\"", name);
}

static int parse_metaspace(struct split_step *step, const struct med_json_at *at,
                           struct med_err *err)
{
    static const char *const known[] = {
        "type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep", NULL};
    step->kind = SPLIT_METASPACE;
    step->behavior = SPLIT_MERGED_WITH_NEXT;
    int rc = med_json_keys(at, known, err);
    if (rc == 0)
        rc = component_character(at, "replacement", step->literal, err);
    if (rc == 0)
        rc = component_bool(at, "split", true, &step->cut, err);
    if (rc == 0)
        rc = parse_prepend(step, at, err);
    step->literal_bytes = strlen(step->literal);
    return rc;
}

static struct split_step *next_step(struct splitter *splitter)
{
    return splitter->count < TOKENIZER_STEPS_MAX ? &splitter->steps[splitter->count++] : NULL;
}

static int parse_byte_level(struct splitter *splitter, const struct med_json_at *at,
                            struct med_err *err)
{
    static const char *const known[] = {"type", "add_prefix_space", "trim_offsets", "use_regex",
                                        NULL};
    bool prefix = true;
    bool use_regex = true;
    bool trim; // changes offsets only, which are not given here
    int rc = med_json_keys(at, known, err);
    if (rc == 0)
        rc = component_bool(at, "add_prefix_space", true, &prefix, err);
    if (rc == 0)
        rc = component_bool(at, "use_regex", true, &use_regex, err);
    if (rc == 0)
        rc = component_bool(at, "trim_offsets", true, &trim, err);
    if (rc < 0)
        return rc;
    if (splitter->count + 2 > TOKENIZER_STEPS_MAX)
        return med_json_fail(at, NULL, err, "more than %d steps", TOKENIZER_STEPS_MAX);
    splitter->byte_level = true;
    if (prefix)
        next_step(splitter)->kind = SPLIT_PREFIX;
    if (use_regex) {
        struct split_step *step = next_step(splitter);
        step->kind = SPLIT_REGEX;
        step->behavior = SPLIT_ISOLATED;
        rc = parse_regex(step, at, NULL, byte_level_pattern, err);
    }
    return rc;
}

static int parse_step(struct splitter *splitter, const struct med_json_at *at, struct med_err *err)
{
    static const char *const digits_known[] = {"type", "individual_digits", NULL};
    static const char *const punctuation_known[] = {"type", "behavior", NULL};
    const char *type;
    if (component_type(at, &type, err) < 0)
        return MED_E_FORMAT;
    if (splitter->byte_level) {
        return med_json_fail(at, "type", err,
                             "found \"%.64s\" behind ByteLevel, which must be the last", type);
    }
    if (strcmp(type, "ByteLevel") == 0)
        return parse_byte_level(splitter, at, err);
    struct split_step *step = next_step(splitter);
    if (!step)
        return med_json_fail(at, NULL, err, "more than %d steps", TOKENIZER_STEPS_MAX);
    if (strcmp(type, "Split") == 0)
        return parse_split(step, at, err);
    if (strcmp(type, "Metaspace") == 0) {
        int rc = parse_metaspace(step, at, err);
        /* Behind a cut, the package's "first" depends on how the normalizer moved characters. */
        if (rc == 0 && step->prepend == SPLIT_PREPEND_FIRST && splitter->count > 1)
            rc = med_json_fail(at, "prepend_scheme", err, "\"first\" must be of the first step");
        return rc;
    }
    if (strcmp(type, "Digits") == 0) {
        bool single = false;
        step->kind = SPLIT_DIGITS;
        int rc = med_json_keys(at, digits_known, err);
        if (rc == 0)
            rc = component_bool(at, "individual_digits", false, &single, err);
        if (rc == 0)
            step->behavior = single ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
        return rc;
    }
    if (strcmp(type, "Punctuation") == 0) {
        step->kind = SPLIT_PUNCTUATION;
        step->behavior = SPLIT_ISOLATED;
        int rc = med_json_keys(at, punctuation_known, err);
        return rc == 0 && med_json_has(at, "behavior") ? parse_behavior(at, &step->behavior, err)
                                                       : rc;
    }
    return med_json_fail(at, "type", err,
                         "found \"%.64s\", expected Split, ByteLevel, Digits, Punctuation, "
                         "Metaspace or a Sequence of them",
                         type);
}

int splitter_parse(struct splitter *splitter, const struct med_json_at *root, struct med_err *err)
{
    struct med_json_at items[TOKENIZER_STEPS_MAX];
    size_t count;
    int rc = component_list(root, "pre_tokenizer", "pretokenizers", items, &count, err);
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = parse_step(splitter, &items[i], err);
    return rc;
}

void splitter_release(struct splitter *splitter)
{
    for (size_t i = 0; i < splitter->count; i++)
        med_regex_free(splitter->steps[i].regex);
    *splitter = (struct splitter){0};
}
