/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medley plan: the cheapest mix of instances for a workload, rate and objectives.
 *
 * Two jobs share the option table: planning from workload, profiles and catalogue, and, with
 * --melange, solving Melange's own inputs.  Results go to standard output, one sentence on failure
 * to standard error.  Infeasible exits with 3 after printing the reasons.  thread: main.
 */
#include "allocator/melange.h"
#include "allocator/output.h"
#include "allocator/planner.h"
#include "allocator/problem.h"
#include "allocator/report.h"
#include "allocator/resolve.h"
#include "base/alloc.h"
#include "base/limits.h"
#include "base/options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    INFEASIBLE_EXIT = 3,
    SLICES_MAX = 10000
};

struct settings {
    struct med_option_list profiles, instances, exclude, caps, clouds, melange;
    const char *model, *catalogue, *slo, *bucket_size, *data_dir, *output;
    double rate_per_s, utilization_max;
    int64_t time_limit_ns, slices;
    bool spot, json;
};

static const struct med_option options[] = {
    {.name = "profiles",
     .type = MED_OPT_LIST,
     .offset = offsetof(struct settings, profiles),
     .unit = "FILE|FOLDER|NAME",
     .help = "Profiles to choose from, or folders of them; may be given many times (default: the "
             "published ones that ship).",
     .group = "What to plan with"},
    {.name = "model",
     .type = MED_OPT_STRING,
     .offset = offsetof(struct settings, model),
     .unit = "NAME",
     .help = "Plan for this model, when the profiles hold several."},
    {.name = "catalogue",
     .type = MED_OPT_STRING,
     .offset = offsetof(struct settings, catalogue),
     .unit = "FILE|NAME",
     .default_text = "cloud-2026",
     .help = "What can be rented, and for how much."},
    {.name = "slo",
     .type = MED_OPT_STRING,
     .offset = offsetof(struct settings, slo),
     .unit = "OBJECTIVES",
     .help = "Objectives, such as tpot.mean=120ms,ttft.mean=2s (metrics: ttft, tpot, "
             "e2e_per_token)."},
    {.name = "rate",
     .type = MED_OPT_NUMBER,
     .offset = offsetof(struct settings, rate_per_s),
     .unit = "REQ/S",
     .min = 1e-9,
     .max = 1e9,
     .help = "Requests per second (default: the workload's own)."},
    {.name = "bucket-size",
     .type = MED_OPT_CHOICE,
     .offset = offsetof(struct settings, bucket_size),
     .unit = "SIZE",
     .default_text = "mean",
     .choices = "mean|upper",
     .help = "Price a bucket at its requests' mean size, or at its upper edge."},
    {.name = "max-utilization",
     .type = MED_OPT_NUMBER,
     .offset = offsetof(struct settings, utilization_max),
     .unit = "SHARE",
     .default_text = "0.8",
     .min = 0.01,
     .max = 1.0,
     .help = "Plan at most this share of each worker's capacity (with --melange: 1 unless given)."},
    {.name = "instances",
     .type = MED_OPT_LIST,
     .offset = offsetof(struct settings, instances),
     .unit = "NAME",
     .help = "Rent only these; may be given many times, or separated by commas.",
     .group = "What may be rented"},
    {.name = "exclude",
     .type = MED_OPT_LIST,
     .offset = offsetof(struct settings, exclude),
     .unit = "NAME",
     .help = "Do not rent these."},
    {.name = "cap",
     .type = MED_OPT_LIST,
     .offset = offsetof(struct settings, caps),
     .unit = "INSTANCE=N",
     .help = "At most N of an instance are available."},
    {.name = "cloud",
     .type = MED_OPT_LIST,
     .offset = offsetof(struct settings, clouds),
     .unit = "NAME",
     .help = "Rent only from these clouds."},
    {.name = "spot",
     .type = MED_OPT_FLAG,
     .offset = offsetof(struct settings, spot),
     .help = "Use spot prices where the catalogue knows them."},
    {.name = "melange",
     .type = MED_OPT_LIST,
     .offset = offsetof(struct settings, melange),
     .unit = "FILE",
     .help = "Solve Melange's own input instead; a file that ends in .jsonl holds one per line.",
     .group = "Melange's input"},
    {.name = "slices",
     .type = MED_OPT_INTEGER,
     .offset = offsetof(struct settings, slices),
     .unit = "N",
     .min = 0,
     .max = SLICES_MAX,
     .help = "Solve the paper's program, which cuts each bucket into N parts (0: continuous)."},
    {.name = "time-limit",
     .type = MED_OPT_DURATION,
     .offset = offsetof(struct settings, time_limit_ns),
     .unit = "TIME",
     .default_text = "60s",
     .min = 0.001,
     .max = 86400.0,
     .help = "Stop the search then and print the best mix with its bound.",
     .group = "How"},
    {.name = "data-dir",
     .type = MED_OPT_STRING,
     .offset = offsetof(struct settings, data_dir),
     .unit = "FOLDER",
     .help = "Where the shipped workloads, profiles and catalogues are (default: found from the "
             "program's place)."},
    {.name = "json",
     .type = MED_OPT_FLAG,
     .offset = offsetof(struct settings, json),
     .help = "Print the plan as JSON instead of a table.",
     .group = "What comes out"},
    {.name = "output",
     .short_name = 'o',
     .type = MED_OPT_STRING,
     .offset = offsetof(struct settings, output),
     .unit = "FILE",
     .help = "Write the plan file here as well."},
    {.name = NULL},
};

static const struct med_program program = {
    .name = "medley plan",
    .synopsis = "[options] WORKLOAD",
    .summary = "Finds the cheapest mix of instances that serves a workload within its objectives.",
    .details =
        "WORKLOAD is a workload file, or the name of one that ships: azure-conversation, "
        "azure-code.\n"
        "The same holds for profiles and catalogues (cloud-2026, melange-paper).\n"
        "\n"
        "Examples:\n"
        "  medley plan azure-conversation --model llama-2-7b --slo tpot.mean=120ms,ttft.mean=2s\n"
        "  medley plan azure-code --model llama-2-7b --slo tpot.mean=80ms --cap p5.48xlarge=1\n"
        "  medley plan chat.json --profiles my-profiles/ --catalogue prices.json --rate 40 \\\n"
        "      --slo e2e_per_token.mean=100ms --output plan.json\n"
        "  medley plan --melange config.json --slices 8\n"
        "\n"
        "Exit status: 0 done, 1 failed, 2 wrong usage or a file that is not valid, 3 infeasible.",
    .options = options,
    .positional_min = 0,
    .positional_max = 1,
};

static int no_memory(struct med_err *err)
{
    return med_err_set(err, MED_E_NOMEM, "memory is exhausted");
}

/* ---- output ---- */

/* numbered: a Melange answer. compact: one line of JSON, for many answers. */
static int write_answer(const struct settings *settings, const struct med_plan *plan, bool numbered,
                        bool compact, struct med_err *err)
{
    struct med_buf json;
    struct med_buf table;
    struct med_json_writer writer;
    struct med_report_style style = {.colour = med_output_wants_colour(), .numbered = numbered};
    med_buf_init(&json, MED_LIMIT_JSON_BYTES);
    med_buf_init(&table, MED_LIMIT_JSON_BYTES);
    med_json_writer_init(&writer, &json, !compact);
    if (numbered) {
        med_melange_write(&writer, plan);
    } else {
        med_plan_write(&writer, plan);
    }
    int rc = med_json_writer_finish(&writer);
    if (rc >= 0)
        rc = med_report_print(&table, plan, &style);
    if (rc < 0)
        (void)med_err_set(err, rc, "the plan: %s", med_err_text(rc));
    if (rc >= 0 && settings->output != NULL)
        rc = med_output_write_file(settings->output, &json, err);
    if (rc >= 0)
        rc = med_output_print(settings->json ? &json : &table, err);
    med_buf_release(&json);
    med_buf_release(&table);
    return rc;
}

/* ---- Melange's input ---- */

static double seconds_of(int64_t ns)
{
    return (double)ns / 1e9;
}

static int solve_melange(const struct settings *settings, const struct med_json_doc *doc,
                         double utilization_max, bool compact, bool *ret_infeasible,
                         struct med_err *err)
{
    struct med_problem problem;
    struct med_plan plan;
    struct med_json_at root = med_json_root(doc);
    int rc = med_melange_read(&root, doc->file, settings->slices, &problem, &plan, err);
    if (rc < 0)
        return rc;
    problem.program.utilization_max = utilization_max;
    rc = med_problem_plan(&problem, seconds_of(settings->time_limit_ns), &plan, err);
    if (rc == 0) {
        *ret_infeasible = plan.status == MED_PLAN_INFEASIBLE;
        rc = write_answer(settings, &plan, true, compact, err);
    } else {
        (void)med_err_prefix(err, "%s", doc->file);
    }
    med_problem_release(&problem);
    med_plan_release(&plan);
    return rc;
}

static int solve_lines(const struct settings *settings, const char *path, double utilization_max,
                       struct med_err *err)
{
    struct med_buf text;
    bool infeasible = false;
    med_buf_init(&text, MED_LIMIT_JSON_BYTES);
    int rc = med_buf_read_file(&text, path, err);
    size_t line = 1;
    for (size_t at = 0; rc == 0 && at < text.length; line++) {
        size_t bytes = strcspn(text.data + at, "\n");
        struct med_json_doc doc;
        char name[256];
        (void)snprintf(name, sizeof name, "%s:%zu", path, line);
        rc = med_json_parse(text.data + at, bytes, name, &doc, err);
        if (rc == 0) {
            rc = solve_melange(settings, &doc, utilization_max, true, &infeasible, err);
            med_json_free(&doc);
        }
        at += bytes + 1;
    }
    med_buf_release(&text);
    return rc;
}

static bool is_lines(const char *path)
{
    size_t bytes = strlen(path);
    return bytes > 6 && strcmp(path + bytes - 6, ".jsonl") == 0;
}

static int run_melange(const struct settings *settings, const struct med_options *given,
                       int *ret_exit, struct med_err *err)
{
    double utilization_max =
        med_options_given(given, "max-utilization") ? settings->utilization_max : 1.0;
    size_t count = settings->melange.count;
    if (given->positional_count > 0) {
        return med_err_set(err, MED_E_USAGE, "found the workload %s and --melange, expected one",
                           given->positional[0]);
    }
    if (settings->output != NULL && count > 1)
        return med_err_set(err, MED_E_USAGE, "--output holds one answer, found %zu inputs", count);
    for (size_t n = 0; n < count; n++) {
        const char *path = settings->melange.values[n];
        bool infeasible = false;
        struct med_json_doc doc;
        if (is_lines(path)) {
            int rc = solve_lines(settings, path, utilization_max, err);
            if (rc < 0)
                return rc;
            continue;
        }
        int rc = med_json_parse_file(path, &doc, err);
        if (rc < 0)
            return rc;
        rc = solve_melange(settings, &doc, utilization_max, count > 1, &infeasible, err);
        med_json_free(&doc);
        if (rc < 0)
            return rc;
        if (infeasible)
            *ret_exit = INFEASIBLE_EXIT;
    }
    return 0;
}

/* ---- planning ---- */

struct loaded {
    struct med_workload workload;
    struct med_catalogue catalogue;
    struct med_profile *profiles;
    size_t profile_count;
    bool has_workload, has_catalogue;
};

static void unload(struct loaded *loaded)
{
    if (loaded->has_workload)
        med_workload_release(&loaded->workload);
    if (loaded->has_catalogue)
        med_catalogue_release(&loaded->catalogue);
    for (size_t t = 0; t < loaded->profile_count; t++)
        med_profile_release(&loaded->profiles[t]);
    med_free(loaded->profiles);
}

/* Takes a profile in; another model's is dropped if it came from a folder, an error if it was
 * named. */
static int take_profile(struct loaded *loaded, const char *path, const char *model, bool named,
                        struct med_err *err)
{
    struct med_profile profile;
    int rc = med_profile_read_file(path, &profile, err);
    if (rc < 0)
        return rc;
    if (model != NULL && strcmp(profile.model.name, model) != 0) {
        if (named) {
            rc = med_err_set(err, MED_E_INVALID,
                             "%s: the profile is for model %s, expected %s as --model says", path,
                             profile.model.name, model);
        }
        med_profile_release(&profile);
        return rc;
    }
    struct med_profile *more =
        med_realloc_array(loaded->profiles, loaded->profile_count + 1, sizeof *more);
    if (more == NULL) {
        med_profile_release(&profile);
        return no_memory(err);
    }
    loaded->profiles = more;
    more[loaded->profile_count++] = profile;
    return 0;
}

static int load_profiles_from(struct loaded *loaded, const struct settings *settings,
                              const char *name, struct med_err *err)
{
    char *path = NULL;
    int rc = med_resolve(MED_RESOLVE_PROFILES, name, settings->data_dir, &path, err);
    if (rc < 0)
        return rc;
    if (!med_resolve_is_folder(path)) {
        rc = take_profile(loaded, path, settings->model, true, err);
        med_free(path);
        return rc;
    }
    char **files = NULL;
    size_t count = 0;
    rc = med_resolve_list(path, &files, &count, err);
    for (size_t n = 0; n < count; n++) {
        if (rc == 0)
            rc = take_profile(loaded, files[n], settings->model, false, err);
        med_free(files[n]);
    }
    med_free(files);
    med_free(path);
    return rc;
}

/* Several models and no choice: name them. */
static int check_models(const struct loaded *loaded, const struct settings *settings,
                        struct med_err *err)
{
    struct med_buf names;
    size_t models = 0;
    int rc = 0;
    if (loaded->profile_count == 0) {
        return med_err_set(err, MED_E_INVALID, "no profile is for model %s",
                           settings->model != NULL ? settings->model : "(any)");
    }
    med_buf_init(&names, MED_ERR_TEXT_MAX / 2);
    for (size_t t = 0; rc == 0 && t < loaded->profile_count; t++) {
        const char *name = loaded->profiles[t].model.name;
        bool again = false;
        for (size_t b = 0; b < t; b++)
            again = again || strcmp(loaded->profiles[b].model.name, name) == 0;
        if (!again)
            rc = med_buf_printf(&names, "%s%s", models++ > 0 ? ", " : "", name);
    }
    if (rc == 0 && models > 1) {
        rc = med_err_set(err, MED_E_USAGE,
                         "the profiles are for %zu models (%s), expected --model to choose one",
                         models, names.data);
    } else if (rc < 0) {
        rc = med_err_set(err, MED_E_USAGE,
                         "the profiles are for many models, expected --model to "
                         "choose one");
    }
    med_buf_release(&names);
    return rc;
}

static int load_profiles(struct loaded *loaded, const struct settings *settings,
                         struct med_err *err)
{
    int rc = 0;
    if (settings->profiles.count == 0)
        rc = load_profiles_from(loaded, settings, "published", err);
    for (size_t n = 0; rc == 0 && n < settings->profiles.count; n++)
        rc = load_profiles_from(loaded, settings, settings->profiles.values[n], err);
    return rc == 0 ? check_models(loaded, settings, err) : rc;
}

static int load(struct loaded *loaded, const struct settings *settings, const char *workload,
                struct med_err *err)
{
    char *path = NULL;
    int rc = med_resolve(MED_RESOLVE_WORKLOAD, workload, settings->data_dir, &path, err);
    if (rc == 0) {
        rc = med_workload_read_file(path, &loaded->workload, err);
        loaded->has_workload = rc == 0;
        med_free(path);
    }
    if (rc == 0) {
        rc =
            med_resolve(MED_RESOLVE_CATALOGUE, settings->catalogue, settings->data_dir, &path, err);
    }
    if (rc == 0) {
        rc = med_catalogue_read_file(path, &loaded->catalogue, err);
        loaded->has_catalogue = rc == 0;
        med_free(path);
    }
    if (rc == 0)
        rc = load_profiles(loaded, settings, err);
    return rc;
}

/* A list option's values, each cut at commas: pointers into *ret_text. */
struct words {
    const char **items;
    size_t count;
    char *text;
};

static void words_release(struct words *words)
{
    med_free((void *)words->items);
    med_free(words->text);
}

static int words_init(struct words *words, const struct med_option_list *list)
{
    struct med_buf text;
    memset(words, 0, sizeof *words);
    med_buf_init(&text, MED_LIMIT_JSON_BYTES);
    for (size_t n = 0; n < list->count; n++) {
        if (med_buf_printf(&text, "%s%s", n > 0 ? "," : "", list->values[n]) < 0) {
            med_buf_release(&text);
            return MED_E_NOMEM;
        }
    }
    size_t count = 1;
    for (size_t n = 0; n < text.length; n++)
        count += text.data[n] == ',' ? 1 : 0;
    words->items = med_calloc(count, sizeof *words->items);
    words->text = med_buf_take(&text);
    if (words->items == NULL)
        return MED_E_NOMEM;
    for (char *at = words->text; at != NULL && *at != '\0';) {
        char *comma = strchr(at, ',');
        if (comma != NULL)
            *comma = '\0';
        if (*at != '\0')
            words->items[words->count++] = at;
        at = comma != NULL ? comma + 1 : NULL;
    }
    return 0;
}

static int choose(struct med_catalogue *catalogue, const struct settings *settings,
                  struct med_err *err)
{
    const struct med_option_list *lists[] = {&settings->instances, &settings->exclude,
                                             &settings->clouds, &settings->caps};
    struct words words[4];
    int rc = 0;
    memset(words, 0, sizeof words);
    for (size_t n = 0; rc == 0 && n < 4; n++)
        rc = words_init(&words[n], lists[n]);
    struct med_planner_choice choice = {.instances = words[0].items,
                                        .instance_count = words[0].count,
                                        .excluded = words[1].items,
                                        .excluded_count = words[1].count,
                                        .clouds = words[2].items,
                                        .cloud_count = words[2].count,
                                        .caps = words[3].items,
                                        .cap_count = words[3].count};
    if (rc == 0) {
        rc = med_planner_choose(catalogue, &choice, err);
    } else {
        rc = no_memory(err);
    }
    for (size_t n = 0; n < 4; n++)
        words_release(&words[n]);
    return rc;
}

static int run_plan(const struct settings *settings, const struct med_options *given, int *ret_exit,
                    struct med_err *err)
{
    struct loaded loaded = {0};
    struct med_plan plan;
    struct med_slos slos = {0};
    if (given->positional_count == 0)
        return med_err_set(err, MED_E_USAGE, "expected a WORKLOAD (or --melange FILE)");
    if (settings->slices != 0)
        return med_err_set(err, MED_E_USAGE, "--slices belongs to --melange");
    if (settings->slo == NULL) {
        return med_err_set(err, MED_E_USAGE,
                           "expected --slo with at least one objective, such as "
                           "--slo tpot.mean=120ms");
    }
    int rc = med_slos_parse(settings->slo, &slos, err);
    if (rc < 0)
        return rc;
    rc = load(&loaded, settings, given->positional[0], err);
    if (rc == 0)
        rc = choose(&loaded.catalogue, settings, err);
    if (rc == 0) {
        struct med_planner_input input = {
            .workload = &loaded.workload,
            .profiles = loaded.profiles,
            .profile_count = loaded.profile_count,
            .catalogue = &loaded.catalogue,
            .slos = slos,
            .rate_per_s = settings->rate_per_s,
            .upper = strcmp(settings->bucket_size, "upper") == 0,
            .spot = settings->spot,
            .utilization_max = settings->utilization_max,
            .time_limit_s = seconds_of(settings->time_limit_ns),
        };
        rc = med_planner_run(&input, &plan, err);
        if (rc == 0) {
            if (plan.status == MED_PLAN_INFEASIBLE)
                *ret_exit = INFEASIBLE_EXIT;
            rc = write_answer(settings, &plan, false, false, err);
            med_plan_release(&plan);
        }
    }
    unload(&loaded);
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
    int rc = settings.melange.count > 0 ? run_melange(&settings, &given, &exit_status, &err)
                                        : run_plan(&settings, &given, &exit_status, &err);
    if (rc < 0)
        (void)fprintf(stderr, "%s: %s\n", program.name, err.text);
    med_options_release(&given);
    return rc < 0 ? med_err_exit_status(rc) : exit_status;
}
