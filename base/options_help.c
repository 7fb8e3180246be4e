/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --help and the reference pages, from the option table.
 *
 * Help is laid out for 100 columns: options in one column, sentences in another, wrapped between
 * words; groups in the order of the table, the common options last.  thread: main.
 */
#include "base/options_internal.h"

#include <stdio.h>
#include <string.h>

enum {
    COLUMNS = 100,
    LEFT_MAX = 34, /* options that are longer have their sentence on the next line */
    LEFT_BYTES = 128,
    FACTS_BYTES = 512,
};

static const char *unit_of(const struct med_option *option)
{
    static const char *const units[] = {
        [MED_OPT_FLAG] = "",     [MED_OPT_STRING] = "TEXT",   [MED_OPT_INTEGER] = "N",
        [MED_OPT_NUMBER] = "N",  [MED_OPT_DURATION] = "TIME", [MED_OPT_CHOICE] = "CHOICE",
        [MED_OPT_LIST] = "TEXT", [MED_OPT_SECRET] = "TEXT",
    };
    return option->unit && option->type != MED_OPT_FLAG ? option->unit : units[option->type];
}

static bool is_on_by_default(const struct med_option *option)
{
    return option->type == MED_OPT_FLAG && option->default_text &&
           strcmp(option->default_text, "true") == 0;
}

/* "  -r, --rate REQ/S" */
static void left_print(const struct med_option *option, bool short_column, char out[LEFT_BYTES])
{
    char shorts[8] = "";
    if (option->short_name)
        (void)snprintf(shorts, sizeof shorts, "-%c, ", option->short_name);
    const char *unit = unit_of(option);
    if (option->type == MED_OPT_SECRET) {
        (void)snprintf(out, LEFT_BYTES, "  %*s(%s)", short_column ? 4 : 0, "", option->name);
    } else {
        (void)snprintf(out, LEFT_BYTES, "  %*s--%s%s%s%s", short_column ? 4 : 0, shorts,
                       is_on_by_default(option) ? "[no-]" : "", option->name, *unit ? " " : "",
                       unit);
    }
}

/* "debug|info; default info", "from 1 to 8; default 4; may be repeated" */
static void facts_print(const struct med_option *option, char out[FACTS_BYTES])
{
    char range[96];
    med_option_range_text(option, range, sizeof range);
    const char *pieces[4];
    size_t count = 0;
    char fallback[160];
    char variable[OPTION_ENV_MAX];
    char secret[OPTION_ENV_MAX + 64];
    if (option->type == MED_OPT_CHOICE)
        pieces[count++] = option->choices;
    if (*range)
        pieces[count++] = range;
    if (option->default_text && option->type != MED_OPT_FLAG) {
        (void)snprintf(fallback, sizeof fallback, "default %s", option->default_text);
        pieces[count++] = fallback;
    } else if (is_on_by_default(option)) {
        pieces[count++] = "default on";
    }
    if (option->type == MED_OPT_LIST)
        pieces[count++] = "may be repeated";
    if (option->type == MED_OPT_SECRET) {
        med_option_env_name(option->name, variable);
        (void)snprintf(secret, sizeof secret, "secret: set %s or the config file", variable);
        pieces[count++] = secret;
    }
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < count && used < FACTS_BYTES; i++)
        used += (size_t)snprintf(out + used, FACTS_BYTES - used, "%s%s", i ? "; " : "", pieces[i]);
}

/* Appends text from column `at`, wrapped between words and indented by `indent`; ends the line. */
static int append_wrapped(struct med_buf *out, const char *text, size_t at, size_t indent)
{
    bool line_is_empty = true;
    int rc = 0;
    while (rc == 0) {
        text += strspn(text, " ");
        size_t word = strcspn(text, " ");
        if (word == 0)
            break;
        if (!line_is_empty && at + 1 + word > COLUMNS) {
            rc = med_buf_printf(out, "\n%*s", (int)indent, "");
            at = indent;
            line_is_empty = true;
        }
        if (rc == 0)
            rc = med_buf_printf(out, "%s%.*s", line_is_empty ? "" : " ", (int)word, text);
        at += word + (line_is_empty ? 0 : 1);
        line_is_empty = false;
        text += word;
    }
    return rc < 0 ? rc : med_buf_append_str(out, "\n");
}

static int append_option(struct med_buf *out, const struct med_option *option, size_t left_width,
                         bool short_column)
{
    char left[LEFT_BYTES];
    char facts[FACTS_BYTES];
    char text[FACTS_BYTES * 3];
    left_print(option, short_column, left);
    facts_print(option, facts);
    (void)snprintf(text, sizeof text, "%s%s%s%s", option->help, *facts ? " [" : "", facts,
                   *facts ? "]" : "");
    size_t length = strlen(left);
    int rc;
    if (length + 2 > left_width) {
        rc = med_buf_printf(out, "%s\n%*s", left, (int)left_width, "");
    } else {
        rc = med_buf_printf(out, "%s%*s", left, (int)(left_width - length), "");
    }
    return rc < 0 ? rc : append_wrapped(out, text, left_width, left_width);
}

static int append_options(struct med_buf *out, const struct med_option *table, size_t left_width,
                          bool short_column)
{
    int rc = 0;
    const char *group = NULL;
    for (size_t i = 0; table && table[i].name && rc == 0; i++) {
        const char *heading = table[i].group ? table[i].group : i == 0 ? "Options" : NULL;
        if (heading && (!group || strcmp(heading, group) != 0))
            rc = med_buf_printf(out, "\n%s:\n", heading);
        group = heading ? heading : group;
        if (rc == 0)
            rc = append_option(out, &table[i], left_width, short_column);
    }
    return rc;
}

/* The author's lines; a line that is too long is wrapped at its own indentation. */
static int append_details(struct med_buf *out, const char *details)
{
    int rc = med_buf_append_str(out, "\n");
    while (rc == 0 && *details) {
        size_t length = strcspn(details, "\n");
        size_t indent = strspn(details, " ");
        if (length <= COLUMNS || indent >= length) {
            rc = med_buf_printf(out, "%.*s\n", (int)length, details);
        } else {
            char line[2048];
            (void)snprintf(line, sizeof line, "%.*s", (int)(length - indent), details + indent);
            rc = med_buf_printf(out, "%*s", (int)indent, "");
            if (rc == 0)
                rc = append_wrapped(out, line, indent, indent);
        }
        details += length + (details[length] == '\n');
    }
    return rc;
}

/* Width of the left column over both tables. */
static size_t left_width_of(const struct med_program *program, bool short_column)
{
    const struct med_option *tables[] = {program->options, med_options_common};
    size_t width = 0;
    for (size_t t = 0; t < 2; t++) {
        for (const struct med_option *option = tables[t]; option && option->name; option++) {
            char left[LEFT_BYTES];
            left_print(option, short_column, left);
            size_t length = strlen(left) + 2;
            if (length <= LEFT_MAX && length > width)
                width = length;
        }
    }
    return width;
}

int med_options_help(const struct med_program *program, struct med_buf *out)
{
    const bool short_column = true; // -h is always there
    size_t width = left_width_of(program, short_column);
    int rc = med_buf_printf(out, "Usage: %s %s\n\n", program->name, program->synopsis);
    if (rc == 0)
        rc = append_wrapped(out, program->summary, 0, 0);
    if (rc == 0)
        rc = append_options(out, program->options, width, short_column);
    if (rc == 0)
        rc = append_options(out, med_options_common, width, short_column);
    if (rc == 0 && program->details)
        rc = append_details(out, program->details);
    if (rc == 0) {
        rc = med_buf_append_str(out, "\nMEDLEY_SOME_OPTION in the environment sets --some-option. "
                                     "Command line > environment > config file.\n");
    }
    return rc;
}

/* ---- reference pages ---- */

/* A table cell: bars and line feeds would break the row. */
static int append_cell(struct med_buf *out, const char *text, bool code)
{
    int rc = med_buf_append_str(out, code && *text ? " `" : " ");
    for (const char *p = text; *p && rc == 0; p++) {
        rc = *p == '|'    ? med_buf_append_str(out, "\\|")
             : *p == '\n' ? med_buf_append_str(out, " ")
                          : med_buf_append(out, p, 1);
    }
    return rc < 0 ? rc : med_buf_append_str(out, code && *text ? "` |" : " |");
}

static int append_row(struct med_buf *out, const struct med_option *option)
{
    char left[LEFT_BYTES];
    char facts[FACTS_BYTES];
    char variable[OPTION_ENV_MAX];
    left_print(option, false, left);
    facts_print(option, facts);
    med_option_env_name(option->name, variable);
    bool has_variable = strcmp(option->name, "help") != 0 && strcmp(option->name, "version") != 0;
    int rc = med_buf_append_str(out, "|");
    if (rc == 0)
        rc = append_cell(out, left + strspn(left, " "), true);
    if (rc == 0)
        rc = append_cell(out, facts, false);
    if (rc == 0)
        rc = append_cell(out, has_variable ? variable : "", true);
    if (rc == 0)
        rc = append_cell(out, option->help, false);
    return rc < 0 ? rc : med_buf_append_str(out, "\n");
}

static int append_table(struct med_buf *out, const struct med_option *table)
{
    int rc = 0;
    const char *group = NULL;
    for (size_t i = 0; table && table[i].name && rc == 0; i++) {
        const char *heading = table[i].group ? table[i].group : i == 0 ? "Options" : NULL;
        if (heading && (!group || strcmp(heading, group) != 0)) {
            rc = med_buf_printf(out,
                                "\n## %s\n\n| option | values | environment | meaning |\n"
                                "|---|---|---|---|\n",
                                heading);
        }
        group = heading ? heading : group;
        if (rc == 0)
            rc = append_row(out, &table[i]);
    }
    return rc;
}

int med_options_markdown(const struct med_program *program, struct med_buf *out)
{
    int rc = med_buf_printf(out, "# %s\n\n%s\n\n```\n%s %s\n```\n", program->name, program->summary,
                            program->name, program->synopsis);
    if (rc == 0)
        rc = append_table(out, program->options);
    if (rc == 0)
        rc = append_table(out, med_options_common);
    if (rc == 0 && program->details) {
        rc = med_buf_printf(out, "\n## Details\n\n```text\n%s%s```\n", program->details,
                            program->details[strlen(program->details) - 1] == '\n' ? "" : "\n");
    }
    return rc;
}
