/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medley: runs the program of a verb.
 *
 * `medley VERB args` replaces itself by the program medley-VERB that lies beside it, as git does, so
 * that no verb links what only another one needs.  Help lists the verbs whose programs are there;
 * a verb that is not built is not promised.  It reads no option of a verb and no environment.
 * thread: main.
 */
#include "base/err.h"
#include "base/os.h"
#include "base/suggest.h"
#include "base/utf8.h"
#include "base/verbs.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    DIR_MAX = 4096,
    SHOWN_MAX = 96
};

struct verb {
    const char *name;
    const char *summary;
};

static const struct verb verbs[] = {
#define X(name, summary) {name, summary},
    MED_VERB_MAP(X)
#undef X
};
static const size_t verb_count = sizeof verbs / sizeof verbs[0];

struct program_path {
    char text[DIR_MAX + 32];
};

static void path_print(const char *dir, const char *verb, struct program_path *ret_path)
{
    (void)snprintf(ret_path->text, sizeof ret_path->text, "%s/medley-%s", dir, verb);
}

static bool is_installed(const char *dir, const char *verb)
{
    struct program_path path;
    path_print(dir, verb, &path);
    return access(path.text, X_OK) == 0;
}

static const struct verb *verb_find(const char *name)
{
    for (size_t i = 0; i < verb_count; i++) {
        if (strcmp(verbs[i].name, name) == 0)
            return &verbs[i];
    }
    return NULL;
}

static void print_help(const char *dir, FILE *out)
{
    (void)fputs(
        "Usage: medley VERB [arguments]\n\n"
        "Plans and runs mixed GPU fleets for language models at the least cost.\n\nVerbs:\n",
        out);
    for (size_t i = 0; i < verb_count; i++) {
        if (is_installed(dir, verbs[i].name))
            (void)fprintf(out, "  %-10s %s\n", verbs[i].name, verbs[i].summary);
    }
    (void)fputs("\nmedley VERB --help tells more of a verb; medley --version prints the version.\n",
                out);
}

/* docs/reference/errors.md, from the table that logs, metrics and answers are made of. */
static void print_errors(FILE *out)
{
    (void)fputs(
        "# Errors\n\n"
        "What logs and metric labels name, what HTTP and gRPC answer, and the exit status of "
        "a verb that\nends with it. Codes of the operating system get the label `system`.\n\n"
        "| label | meaning | HTTP | gRPC | exit status |\n|---|---|---:|---:|---:|\n",
        out);
#define X(name, value, label, text, http, grpc)                                \
 (void)fprintf(out, "| `%s` | %s | %d | %d | %d |\n", label, text, http, grpc, \
               med_err_exit_status(value));
    MED_ERR_MAP(X)
#undef X
}

/* 0 if everything that was printed arrived. */
static int finish_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    (void)fprintf(stderr, "medley: standard output cannot be written\n");
    return 1;
}

static int fail_unknown(const char *dir, const char *name)
{
    char shown[SHOWN_MAX];
    (void)med_utf8_escape(shown, sizeof shown, name, strlen(name));
    if (name[0] == '-') {
        (void)fprintf(stderr, "medley: unknown option %s; options of a verb follow the verb\n",
                      shown);
        return 2;
    }
    struct med_suggest suggest;
    med_suggest_init(&suggest, name);
    for (size_t i = 0; i < verb_count; i++) {
        if (is_installed(dir, verbs[i].name))
            med_suggest_offer(&suggest, verbs[i].name);
    }
    if (suggest.best) {
        (void)fprintf(stderr, "medley: unknown verb \"%s\"; did you mean \"%s\"?\n", shown,
                      suggest.best);
    } else {
        (void)fprintf(stderr, "medley: unknown verb \"%s\"; see medley --help\n", shown);
    }
    return 2;
}

/* Becomes the program of the verb; returns an exit status only when that fails. */
static int run_verb(const char *dir, const char *verb, char **argv)
{
    if (!verb_find(verb))
        return fail_unknown(dir, verb);
    struct program_path path;
    path_print(dir, verb, &path);
    argv[0] = path.text;
    (void)execv(path.text, argv);
    int error = errno;
    if (error == ENOENT) {
        (void)fprintf(stderr, "medley: the verb \"%s\" is not part of this installation (no %s)\n",
                      verb, path.text);
    } else {
        (void)fprintf(stderr, "medley: %s cannot be run: %s\n", path.text, med_err_text(-error));
    }
    return error == ENOENT ? 2 : 1;
}

int main(int argc, char **argv)
{
    char dir[DIR_MAX];
    int rc = med_os_program_dir(dir, sizeof dir);
    if (rc < 0) {
        (void)fprintf(stderr, "medley: the place of this program cannot be found: %s\n",
                      med_err_text(rc));
        return 1;
    }
    if (argc < 2) {
        (void)fprintf(stderr, "medley: a verb is missing; see medley --help\n");
        return 2;
    }
    const char *word = argv[1];
    bool wants_help = strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
    if (wants_help || (strcmp(word, "help") == 0 && argc == 2)) {
        print_help(dir, stdout);
        return finish_output();
    }
    if (strcmp(word, "--errors-markdown") == 0) {
        print_errors(stdout);
        return finish_output();
    }
    if (strcmp(word, "--version") == 0) {
        (void)printf("medley %s\n", MED_VERSION);
        return finish_output();
    }
    if (strcmp(word, "help") == 0) {
        char help[] = "--help";
        char *help_argv[] = {argv[0], help, NULL};
        return run_verb(dir, argv[2], help_argv);
    }
    return run_verb(dir, word, argv + 1);
}
