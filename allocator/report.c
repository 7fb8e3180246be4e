/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints a plan for a person.
 *
 * Sections: heading, what to rent, how sure, instead of one kind alone, which sizes go where,
 * warnings; or, for an infeasible plan, the reasons.  Worker types get a letter and a colour each,
 * in the order of the rent table, and the map shows the letters that serve a bucket, the largest
 * share first.  Everything goes to a buffer whose first failure is kept.
 * thread: any. Not here: whether there is a terminal.
 */
#include "allocator/report.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    BAR_CELLS = 10,
    LETTERS_MAX = 26,
    BASELINES_MAX = 8,
    MAP_COLUMNS_MAX = 12,
    NAME_COLUMNS_MIN = 12,
    WRAP = 78,
    CELL_COLUMNS = 7,
    CELL_LETTERS_MAX = 4
};

static const double share_shown_min = 0.0005;

static const char *const colours[] = {"\033[38;5;38m",  "\033[38;5;214m", "\033[38;5;77m",
                                      "\033[38;5;176m", "\033[38;5;203m", "\033[38;5;228m"};
enum {
    COLOURS = sizeof colours / sizeof colours[0]
};

struct report {
    struct med_buf *out;
    const struct med_plan *plan;
    const struct med_report_style *style;
    int letter_of[MED_LIMIT_WORKER_TYPES]; /* -1: not in the mix */
    int letters;
    int rc;
};

static void put(struct report *r, const char *fmt, ...) MED_PRINTF(2, 3);

static void put(struct report *r, const char *fmt, ...)
{
    if (r->rc < 0)
        return;
    va_list args;
    va_start(args, fmt);
    r->rc = med_buf_vprintf(r->out, fmt, args);
    va_end(args);
}

static void put_style(struct report *r, const char *escape)
{
    if (r->style->colour)
        put(r, "%s", escape);
}

static void put_title(struct report *r, const char *title)
{
    put(r, "\n");
    put_style(r, "\033[1m");
    put(r, "%s", title);
    put_style(r, "\033[0m");
    put(r, "\n");
}

/* A sentence, wrapped, after a mark. */
static void put_wrapped(struct report *r, const char *mark, const char *text)
{
    size_t indent = strlen(mark);
    size_t column = indent;
    put(r, "%s", mark);
    while (*text != '\0') {
        size_t word = strcspn(text, " ");
        if (column > indent && column + 1 + word > WRAP) {
            put(r, "\n%*s", (int)indent, "");
            column = indent;
        } else if (column > indent) {
            put(r, " ");
            column++;
        }
        put(r, "%.*s", (int)word, text);
        column += word;
        text += word;
        text += strspn(text, " ");
    }
    put(r, "\n");
}

static const char *colour_of(int letter)
{
    return colours[letter % COLOURS];
}

static void put_letter(struct report *r, int letter)
{
    put_style(r, colour_of(letter));
    put(r, "%c", letter < LETTERS_MAX ? 'A' + letter : '?');
    put_style(r, "\033[0m");
}

static void put_bar(struct report *r, double share, int letter)
{
    static const char *const parts[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    int eighths = (int)lround(fmin(1.0, fmax(0.0, share)) * BAR_CELLS * 8.0);
    put_style(r, colour_of(letter));
    for (int n = 0; n < eighths / 8; n++)
        put(r, "█");
    put(r, "%s", parts[eighths % 8]);
    put_style(r, "\033[0m");
}

/* ---- sections ---- */

static void put_heading(struct report *r)
{
    const struct med_plan *plan = r->plan;
    put_style(r, "\033[1m");
    put(r, "%s", plan->workload_name);
    put_style(r, "\033[0m");
    put(r, " at %.4g requests/s", plan->rate_per_s);
    if (!r->style->numbered)
        put(r, ", model %s", plan->model_name);
    put(r, "\n");
    for (size_t n = 0; n < plan->slos.count; n++) {
        char text[96];
        med_slo_format(&plan->slos.items[n], text, sizeof text);
        put(r, "%s%s", n == 0 ? "objectives " : ", ", text);
    }
    put(r, "%sat most %.0f %% of capacity planned\n", plan->slos.count > 0 ? "; " : "",
        100.0 * plan->utilization_max);
}

/* Width of the first column of "Rent". */
static int rent_columns(const struct med_plan *plan)
{
    size_t widest = NAME_COLUMNS_MIN;
    for (size_t k = 0; k < plan->instance_count; k++) {
        size_t bytes = strlen(plan->instances[k].instance);
        widest = bytes > widest ? bytes : widest;
    }
    return (int)widest;
}

/* Width of the first column of the baselines: names that are not shown do not count, and long
 * names here do not push the table above off an 80-column terminal. */
static int baseline_columns(const struct med_plan *plan, size_t shown)
{
    size_t widest = (size_t)rent_columns(plan);
    for (size_t k = 0; k < shown; k++) {
        size_t bytes = strlen(plan->baselines[k].instance);
        widest = bytes > widest ? bytes : widest;
    }
    return (int)widest;
}

static double utilization_of(const struct med_plan *plan, size_t type)
{
    for (size_t n = 0; n < plan->worker_count; n++) {
        if (plan->workers[n].worker_type == type)
            return plan->workers[n].utilization;
    }
    return 0.0;
}

/* "A100-80GB", "A100-80GB x4", with the precision where types differ in nothing else. */
static void name_type(const struct report *r, size_t type, char *text, size_t bytes)
{
    const struct med_profile *profile = &r->plan->profiles[type];
    bool twin = false;
    for (size_t t = 0; t < r->plan->profile_count; t++) {
        const struct med_profile *other = &r->plan->profiles[t];
        twin = twin || (t != type && strcmp(other->gpu, profile->gpu) == 0 &&
                        other->gpus_per_worker == profile->gpus_per_worker);
    }
    char gpus[24] = "";
    if (profile->gpus_per_worker > 1)
        (void)snprintf(gpus, sizeof gpus, " x%lld", (long long)profile->gpus_per_worker);
    const char *dtype = twin && profile->dtype != NULL ? profile->dtype : "";
    (void)snprintf(text, bytes, "%s%s%s%s", profile->gpu, gpus, dtype[0] != '\0' ? " " : "", dtype);
}

static void put_worker(struct report *r, const struct med_plan_placement *worker)
{
    double load = utilization_of(r->plan, worker->worker_type);
    int letter = r->letter_of[worker->worker_type];
    char name[MED_LIMIT_NAME_BYTES + 64];
    name_type(r, worker->worker_type, name, sizeof name);
    put_letter(r, letter);
    put(r, " %3lld x %-14s %3.0f %% ", (long long)worker->count, name, 100.0 * load);
    put_bar(r, load, letter);
    put(r, "\n");
}

/* Instances of Melange's own input have no place. */
static bool has_place(const struct med_plan_instance *instance)
{
    return instance->cloud && instance->region && instance->cloud[0] != '\0';
}

static bool is_same_place(const struct med_plan_instance *a, const struct med_plan_instance *b)
{
    return has_place(a) && has_place(b) && strcmp(a->cloud, b->cloud) == 0 &&
           strcmp(a->region, b->region) == 0;
}

/* One line per cloud and region: like names mean different things in different clouds. */
static void put_places(struct report *r)
{
    const struct med_plan *plan = r->plan;
    for (size_t k = 0; k < plan->instance_count; k++) {
        const struct med_plan_instance *first = &plan->instances[k];
        bool seen = false;
        if (!has_place(first))
            continue;
        for (size_t n = 0; n < k; n++)
            seen = seen || is_same_place(&plan->instances[n], first);
        if (seen)
            continue;
        put(r, "  from %s, %s:", first->cloud, first->region);
        for (size_t n = k; n < plan->instance_count; n++) {
            if (is_same_place(&plan->instances[n], first))
                put(r, "%s %s", n == k ? "" : ",", plan->instances[n].instance);
        }
        put(r, "\n");
    }
}

static void put_rent(struct report *r)
{
    const struct med_plan *plan = r->plan;
    int names = rent_columns(plan);
    put_title(r, "Rent");
    put(r, "  %-*s %5s %9s %10s   %-23s %s\n", names, "instance", "count", "$/h each", "$/h",
        "workers", "load");
    for (size_t k = 0; k < plan->instance_count; k++) {
        const struct med_plan_instance *instance = &plan->instances[k];
        put(r, "  %-*s %5lld %9.3f %10.3f   ", names, instance->instance,
            (long long)instance->count, instance->price_usd_per_hour,
            instance->price_usd_per_hour * (double)instance->count);
        for (size_t n = 0; n < instance->worker_count; n++) {
            if (n > 0)
                put(r, "  %*s %5s %9s %10s   ", names, "", "", "", "");
            put_worker(r, &instance->workers[n]);
        }
        if (instance->worker_count == 0)
            put(r, "\n");
    }
    put_style(r, "\033[1m");
    put(r, "  %-*s %5s %9s %10.3f $/h", names, "total", "", "", plan->cost_usd_per_hour);
    put_style(r, "\033[0m");
    put(r, "   %.0f $ in 30 days\n", plan->cost_usd_per_hour * 720.0);
    put_places(r);
}

static void put_proof(struct report *r)
{
    const struct med_plan *plan = r->plan;
    double gap = plan->cost_usd_per_hour - plan->lower_bound_usd_per_hour;
    char text[256];
    if (plan->status == MED_PLAN_OPTIMAL) {
        put(r, "  proved: no mix of these instances costs less (%.2f s)\n", plan->solve_seconds);
        return;
    }
    (void)snprintf(text, sizeof text,
                   "not proved in %.1f s: no mix costs less than %.3f $/h, so at most %.3f $/h "
                   "(%.1f %%) could be saved; give more time with --time-limit",
                   plan->solve_seconds, plan->lower_bound_usd_per_hour, gap,
                   100.0 * gap / plan->cost_usd_per_hour);
    put_wrapped(r, "  ", text);
}

static void put_baselines(struct report *r)
{
    const struct med_plan *plan = r->plan;
    put_title(r, "Instead, one kind alone");
    if (plan->baseline_count == 0) {
        put(r, "  no single kind can serve all of it\n");
        return;
    }
    size_t shown = plan->baseline_count <= BASELINES_MAX + 1 ? plan->baseline_count : BASELINES_MAX;
    int names = baseline_columns(plan, shown);
    put(r, "  %-*s %5s %9s %10s   %s\n", names, "instance", "count", "", "$/h", "the mix saves");
    for (size_t k = 0; k < shown; k++) {
        const struct med_plan_baseline *b = &plan->baselines[k];
        put(r, "  %-*s %5lld %9s %10.3f   ", names, b->instance, (long long)b->count, "",
            b->cost_usd_per_hour);
        if (b->saving > 0.0005) {
            put(r, "%.1f %%\n", 100.0 * b->saving);
        } else {
            put(r, "nothing: this is the cheapest\n");
        }
    }
    if (shown < plan->baseline_count) {
        put(r, "  and %zu dearer ones, to %.3f $/h\n", plan->baseline_count - shown,
            plan->baselines[plan->baseline_count - 1].cost_usd_per_hour);
    }
}

/* ---- the map ---- */

static const struct med_plan_assignment *find_bucket(const struct med_plan *plan, size_t row,
                                                     size_t column)
{
    for (size_t i = 0; i < plan->assignment_count; i++) {
        const struct med_plan_assignment *a = &plan->assignment[i];
        if ((size_t)a->input_row == row && (size_t)a->output_row == column)
            return a;
    }
    return NULL;
}

/* The type with the largest share below `below`, not yet shown; -1: none worth a letter. */
static int next_type(const struct report *r, const struct med_plan_assignment *a, const int *shown,
                     int count)
{
    int best = -1;
    for (size_t t = 0; t < r->plan->profile_count; t++) {
        bool again = a->shares[t] < share_shown_min || r->letter_of[t] < 0;
        for (int n = 0; n < count; n++)
            again = again || shown[n] == (int)t;
        if (!again && (best < 0 || a->shares[t] > a->shares[best]))
            best = (int)t;
    }
    return best;
}

/* The letters of a bucket, largest share first, to the right of its cell. */
static void put_cell(struct report *r, const struct med_plan_assignment *a)
{
    int shown[CELL_LETTERS_MAX];
    int count = 0;
    while (a != NULL && count < CELL_LETTERS_MAX) {
        int type = next_type(r, a, shown, count);
        if (type < 0)
            break;
        shown[count++] = type;
    }
    if (count == 0) {
        put(r, "%*s·", CELL_COLUMNS - 1, "");
        return;
    }
    put(r, "%*s", CELL_COLUMNS - count, "");
    for (int n = 0; n < count; n++)
        put_letter(r, r->letter_of[shown[n]]);
}

static void put_map(struct report *r)
{
    const struct med_plan *plan = r->plan;
    const struct med_grid *grid = &plan->grid;
    if (grid->output_edge_count > MAP_COLUMNS_MAX || r->letters < 2)
        return;
    put_title(r, r->style->numbered ? "Which bucket goes where" : "Which size goes where");
    put(r, "  %s\n  %10s",
        r->style->numbered ? "row by column" : "input tokens by output tokens, up to", "");
    for (size_t c = 0; c < grid->output_edge_count; c++)
        put(r, "%7.0f", grid->output_edges[c]);
    put(r, "   share of rate\n");
    for (size_t row = 0; row < grid->input_edge_count; row++) {
        double rate = 0.0;
        for (size_t c = 0; c < grid->output_edge_count; c++) {
            const struct med_plan_assignment *a = find_bucket(plan, row, c);
            rate += a != NULL ? a->rate_per_s : 0.0;
        }
        put(r, "  %10.0f", grid->input_edges[row]);
        for (size_t c = 0; c < grid->output_edge_count; c++)
            put_cell(r, find_bucket(plan, row, c));
        put(r, "   %8.2f %%\n", 100.0 * rate / plan->rate_per_s);
    }
}

/* Which letter is which worker type. */
static void put_legend(struct report *r)
{
    for (int letter = 0; letter < r->letters; letter++) {
        for (size_t t = 0; t < r->plan->profile_count; t++) {
            if (r->letter_of[t] != letter)
                continue;
            put(r, "  ");
            put_letter(r, letter);
            put(r, " %s\n", r->plan->profiles[t].worker_type);
        }
    }
}

static void put_sentences(struct report *r, const char *title, char *const *list, size_t count)
{
    if (count == 0)
        return;
    put_title(r, title);
    for (size_t n = 0; n < count; n++)
        put_wrapped(r, "  - ", list[n]);
}

/* Letters in the order of the rent table. */
static void name_letters(struct report *r)
{
    for (size_t t = 0; t < MED_LIMIT_WORKER_TYPES; t++)
        r->letter_of[t] = -1;
    for (size_t k = 0; k < r->plan->instance_count; k++) {
        const struct med_plan_instance *instance = &r->plan->instances[k];
        for (size_t n = 0; n < instance->worker_count; n++) {
            int *letter = &r->letter_of[instance->workers[n].worker_type];
            if (*letter < 0)
                *letter = r->letters++;
        }
    }
}

int med_report_print(struct med_buf *out, const struct med_plan *plan,
                     const struct med_report_style *style)
{
    struct report r = {.out = out, .plan = plan, .style = style};
    name_letters(&r);
    put_heading(&r);
    if (plan->status == MED_PLAN_INFEASIBLE) {
        put_sentences(&r, "Infeasible: no mix of these instances meets the objectives",
                      plan->reasons, plan->reason_count);
    } else {
        put_rent(&r);
        put_proof(&r);
        put_baselines(&r);
        put_map(&r);
        if (!style->numbered)
            put_legend(&r);
    }
    put_sentences(&r, "Note", plan->warnings, plan->warning_count);
    return r.rc;
}
