/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medley workload: turns a request log into a workload file, or prints the shape of either.
 *
 * The first bytes of the input tell a workload file (its first key is "format") from a log; what
 * was read to see that is handed on, so that pipes work.  Results go to standard output, one
 * sentence on failure to standard error.  thread: main.
 */
#include "allocator/output.h"
#include "allocator/resolve.h"
#include "allocator/workload.h"
#include "allocator/workload_parts.h"
#include "allocator/workload_view.h"
#include "base/alloc.h"
#include "base/limits.h"
#include "base/options.h"
#include "base/os.h"
#include "profiles/field.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    PREFIX_BYTES = 512,
};

struct settings {
    const char *name, *source, *licence;
    const char *input_edges, *output_edges;
    double rate_per_s;
    bool json;
    const char *output;
    const char *data_dir;
};

static const struct med_option options[] = {
    {.name = "name",
     .type = MED_OPT_STRING,
     .offset = offsetof(struct settings, name),
     .unit = "NAME",
     .help = "Name of the workload (default: the file name without its ending).",
     .group = "What the log is"},
    {.name = "source",
     .type = MED_OPT_STRING,
     .offset = offsetof(struct settings, source),
     .unit = "TEXT",
     .help = "Where the log came from (default: the file name)."},
    {.name = "licence",
     .type = MED_OPT_STRING,
     .offset = offsetof(struct settings, licence),
     .unit = "TEXT",
     .help = "Licence of the log."},
    {.name = "rate",
     .type = MED_OPT_NUMBER,
     .offset = offsetof(struct settings, rate_per_s),
     .unit = "REQ/S",
     .min = 1e-9,
     .max = 1e9,
     .help = "Scale the traffic to this rate; sizes and burstiness stay those of the log.",
     .group = "How it is read"},
    {.name = "input-edges",
     .type = MED_OPT_STRING,
     .offset = offsetof(struct settings, input_edges),
     .unit = "TOKENS,...",
     .default_text = "25,100,250,500,1000,2000,4000,8000,12000,16000",
     .help = "Rising upper edges of the buckets by prompt size; a larger prompt is an error."},
    {.name = "output-edges",
     .type = MED_OPT_STRING,
     .offset = offsetof(struct settings, output_edges),
     .unit = "TOKENS,...",
     .default_text = "25,100,250,500,1000,2000",
     .help = "Rising upper edges of the buckets by answer size."},
    {.name = "data-dir",
     .type = MED_OPT_STRING,
     .offset = offsetof(struct settings, data_dir),
     .unit = "FOLDER",
     .help = "Where the shipped workloads are (default: found from the program's place)."},
    {.name = "json",
     .type = MED_OPT_FLAG,
     .offset = offsetof(struct settings, json),
     .help = "Print the workload file instead of its shape.",
     .group = "What comes out"},
    {.name = "output",
     .short_name = 'o',
     .type = MED_OPT_STRING,
     .offset = offsetof(struct settings, output),
     .unit = "FILE",
     .help = "Write the workload file here, and print its shape."},
    {.name = NULL},
};

static const struct med_program program = {
    .name = "medley workload",
    .synopsis = "[options] FILE",
    .summary = "Turns a request log into a workload file, or prints the shape of one.",
    .details =
        "FILE is a request log, a workload file, or the name of a workload that ships:\n"
        "azure-conversation, azure-code; - is standard input. Request logs:\n"
        "  CSV with the header arrival_s,input_tokens,output_tokens\n"
        "  CSV with the header TIMESTAMP,ContextTokens,GeneratedTokens (Azure)\n"
        "  JSON lines with timestamp (milliseconds), input_length, output_length\n"
        "Columns may come in any order, and others are ignored. Sizes are from 1 to 1048576\n"
        "tokens. Colours are used on a terminal unless NO_COLOR is set.\n"
        "\n"
        "Examples:\n"
        "  medley workload requests.csv\n"
        "  medley workload requests.csv --name chat --output chat.json\n"
        "  medley workload chat.json\n"
        "  medley workload azure-conversation\n"
        "\n"
        "Exit status: 0 done, 1 failed, 2 wrong usage or a file that is not valid.",
    .options = options,
    .positional_min = 1,
    .positional_max = 1,
};

/* ---- input ---- */

/* Does it begin like a workload file: '{', then the key "format"? */
static bool is_workload_file(const char *text, size_t bytes)
{
    static const char blanks[] = " \t\r\n";
    static const char key[] = "\"format\"";
    size_t at = 0;
    while (at < bytes && strchr(blanks, text[at]) != NULL) {
        at++;
    }
    if (at == bytes || text[at++] != '{') {
        return false;
    }
    while (at < bytes && strchr(blanks, text[at]) != NULL) {
        at++;
    }
    return bytes - at >= sizeof key - 1 && memcmp(text + at, key, sizeof key - 1) == 0;
}

static int read_rest(const struct med_log_input *input, struct med_buf *text, struct med_err *err)
{
    char chunk[4096];
    int rc = med_buf_append(text, input->prefix, input->prefix_bytes);
    while (rc >= 0) {
        size_t got = fread(chunk, 1, sizeof chunk, input->stream);
        if (got == 0) {
            break;
        }
        rc = med_buf_append(text, chunk, got);
    }
    if (rc < 0) {
        return med_err_set(err, rc, "%s: %s", input->name,
                           rc == MED_E_LIMIT ? "found more than 64 MiB, expected less"
                                             : med_err_text(rc));
    }
    if (ferror(input->stream)) {
        return med_err_set(err, med_err_input_code(errno), "%s: cannot read it: %s", input->name,
                           med_os_errno_text(-errno));
    }
    return 0;
}

static int read_workload_file(const struct med_log_input *input, const struct med_options *given,
                              struct med_workload *ret_workload, struct med_err *err)
{
    static const char *const of_logs[] = {"name", "source",      "licence",
                                          "rate", "input-edges", "output-edges"};
    for (size_t i = 0; i < sizeof of_logs / sizeof of_logs[0]; i++) {
        if (med_options_given(given, of_logs[i])) {
            return med_err_set(err, MED_E_USAGE,
                               "--%s applies to request logs, and %s is a workload file",
                               of_logs[i], input->name);
        }
    }
    struct med_buf text;
    struct med_json_doc doc;
    med_buf_init(&text, MED_LIMIT_JSON_BYTES);
    int rc = read_rest(input, &text, err);
    if (rc >= 0) {
        rc = med_json_parse(text.data, text.length, input->name, &doc, err);
    }
    med_buf_release(&text);
    if (rc < 0) {
        return rc;
    }
    struct med_json_at root = med_json_root(&doc);
    rc = med_workload_read(&root, ret_workload, err);
    med_json_free(&doc);
    return rc;
}

/* The file's name without folders and without its last ending. */
static char *base_name(const char *path, bool keep_ending)
{
    const char *slash = strrchr(path, '/');
    const char *base = slash != NULL && slash[1] != '\0' ? slash + 1 : path;
    const char *dot = strrchr(base, '.');
    bool cut = !keep_ending && dot != NULL && dot != base;
    return med_strndup(base, cut ? (size_t)(dot - base) : strlen(base));
}

/* A string of an option under the rules of the format, so that what is written can be read. */
static int check_text(const char *option, const char *text, size_t bytes_max, struct med_err *err)
{
    size_t bytes = text == NULL ? 1 : strlen(text);
    if (bytes < 1 || bytes > bytes_max) {
        return med_err_set(err, MED_E_USAGE, "%s: found %zu bytes, expected 1 to %zu", option,
                           bytes, bytes_max);
    }
    for (const char *c = text; c != NULL && *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            return med_err_set(err, MED_E_USAGE,
                               "%s: found the control character 0x%02x, expected text", option,
                               (unsigned char)*c);
        }
    }
    return 0;
}

static int derive(const struct med_request_log *log, const struct med_derive *wanted,
                  const struct settings *settings, struct med_workload *ret_workload,
                  struct med_err *err)
{
    struct med_derive derive = *wanted;
    struct med_grid grid = {0};
    int rc;
    derive.grid = &grid;
    if ((rc = check_text("--name", derive.name, MED_LIMIT_NAME_BYTES, err)) < 0 ||
        (rc = check_text("--source", derive.source_text, MED_LIMIT_TEXT_BYTES, err)) < 0 ||
        (rc = check_text("--licence", derive.source_licence, MED_LIMIT_TEXT_BYTES, err)) < 0 ||
        (rc = med_grid_parse_edges(settings->input_edges, "--input-edges", &grid.input_edges,
                                   &grid.input_edge_count, err)) < 0 ||
        (rc = med_grid_parse_edges(settings->output_edges, "--output-edges", &grid.output_edges,
                                   &grid.output_edge_count, err)) < 0) {
        med_grid_release(&grid);
        return rc;
    }
    rc = med_workload_derive(log, &derive, ret_workload, err);
    med_grid_release(&grid);
    return rc;
}

static int read_log(const struct med_log_input *input, const struct settings *settings,
                    const struct med_options *given, struct med_workload *ret_workload,
                    struct med_err *err)
{
    struct med_request_log log;
    int rc = med_request_log_read_input(input, &log, err);
    if (rc < 0) {
        return rc;
    }
    char *name = base_name(input->name, false);
    char *source = base_name(input->name, true);
    if (name == NULL || source == NULL) {
        rc = med_field_no_memory(err);
        goto out;
    }
    struct med_derive wanted = {
        .where = input->name,
        .name = settings->name != NULL ? settings->name : name,
        .source_text = settings->source != NULL ? settings->source : source,
        .source_licence = settings->licence,
        .rate_per_s = med_options_given(given, "rate") ? settings->rate_per_s : (double)NAN,
    };
    rc = derive(&log, &wanted, settings, ret_workload, err);
out:
    med_free(name);
    med_free(source);
    med_request_log_release(&log);
    return rc;
}

static int read_input(const char *path, const struct settings *settings,
                      const struct med_options *given, struct med_workload *ret_workload,
                      struct med_err *err)
{
    char prefix[PREFIX_BYTES];
    bool standard = strcmp(path, "-") == 0;
    struct med_log_input input = {.stream = standard ? stdin : fopen(path, "rb"),
                                  .name = standard ? "standard input" : path,
                                  .prefix = prefix};
    if (input.stream == NULL) {
        return med_err_set(err, med_err_input_code(errno), "%s: cannot open it: %s", path,
                           med_os_errno_text(-errno));
    }
    int rc;
    input.prefix_bytes = fread(prefix, 1, sizeof prefix, input.stream);
    if (ferror(input.stream)) {
        rc = med_err_set(err, med_err_input_code(errno), "%s: cannot read it: %s", input.name,
                         med_os_errno_text(-errno));
    } else if (is_workload_file(prefix, input.prefix_bytes)) {
        rc = read_workload_file(&input, given, ret_workload, err);
    } else {
        rc = read_log(&input, settings, given, ret_workload, err);
    }
    if (!standard) {
        (void)fclose(input.stream); /* opened for reading: nothing can be lost */
    }
    return rc;
}

/* ---- output ---- */

static int write_results(const struct settings *settings, const struct med_workload *workload,
                         struct med_err *err)
{
    struct med_buf json;
    struct med_buf shape;
    struct med_json_writer writer;
    med_buf_init(&json, MED_LIMIT_JSON_BYTES);
    med_buf_init(&shape, MED_LIMIT_JSON_BYTES);
    med_json_writer_init(&writer, &json, true);
    med_workload_write(&writer, workload);
    int rc = med_json_writer_finish(&writer);
    if (rc >= 0) {
        rc = med_workload_print(&shape, workload, med_output_wants_colour());
    }
    if (rc < 0) {
        (void)med_err_set(err, rc, "the result: %s", med_err_text(rc));
        goto out;
    }
    if (settings->output != NULL) {
        rc = med_output_write_file(settings->output, &json, err);
    }
    if (rc >= 0) {
        rc = med_output_print(settings->json ? &json : &shape, err);
    }
out:
    med_buf_release(&json);
    med_buf_release(&shape);
    return rc;
}

int main(int argc, char **argv)
{
    struct settings settings = {0};
    struct med_options given;
    int exit_status = 0;
    if (med_options_main(&program, argc, argv, &settings, &given, &exit_status) ==
        MED_OPTIONS_DONE) {
        med_options_release(&given);
        return exit_status;
    }
    struct med_err err = {0};
    struct med_workload workload;
    char *path = NULL;
    int rc = med_resolve(MED_RESOLVE_WORKLOAD, given.positional[0], settings.data_dir, &path, &err);
    if (rc >= 0)
        rc = read_input(path, &settings, &given, &workload, &err);
    if (rc >= 0) {
        rc = write_results(&settings, &workload, &err);
        med_workload_release(&workload);
    }
    if (rc < 0) {
        (void)fprintf(stderr, "%s: %s\n", program.name, err.text);
    }
    med_free(path);
    med_options_release(&given);
    return med_err_exit_status(rc < 0 ? rc : 0);
}
