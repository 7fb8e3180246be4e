/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How well capacities and latencies agree with the real scheduler: the table behind
 * docs/internals/planner.md.  Not a test: it takes minutes.
 *
 *     capacity_agreement [FOLDER]      default profiles/published; from the root of the tree
 *
 * Every profile with a step model, every size below that fits it: TTFT and TPOT at 40, 60 and 80 %
 * of the greatest rate, that rate against an overloaded scheduler's, and the capacity under three
 * sets of objectives, one absolute and two that are multiples of what an idle worker needs, where an
 * objective is what limits it.  The scheduler sees chance of its own.
 */
#include "allocator/capacity.h"
#include "profiles/profile.h"
#include "tests/unit/allocator/one_worker.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

enum {
    MEASURED = 3000,
    WARM_UP = 1000,
    CELLS_MAX = 100000,
    HALVINGS = 9
};

static const int64_t inputs[] = {20, 60, 200, 400, 1000, 1500, 3000, 6000, 10000};
static const int64_t outputs[] = {2, 5, 15, 50, 100, 200, 400, 1400};
static const double loads[] = {0.4, 0.6, 0.8};

struct errors {
    const char *name;
    size_t count;
    double values[CELLS_MAX];
};

static struct errors tpot = {.name = "TPOT"};
static struct errors ttft = {.name = "TTFT"};
static struct errors most = {.name = "greatest rate"};
static struct errors capacity = {.name = "capacity"};

static double keep(struct errors *e, double told, double seen)
{
    double error = told / seen - 1.0;
    REQUIRE(e->count < CELLS_MAX);
    e->values[e->count++] = fabs(error);
    return 100.0 * error;
}

static struct one_worker_means run_at(const struct med_latency *latency, int64_t input,
                                      int64_t output, double rate_per_s)
{
    struct one_worker run = {.latency = latency,
                             .input = input,
                             .output = output,
                             .rate_per_s = rate_per_s,
                             .warm_up = WARM_UP,
                             .measured = MEASURED,
                             .seed = (uint64_t)(1000 * input + output)};
    return one_worker_run(&run);
}

static void compare_latencies(const char *name, const struct med_latency *latency, int64_t input,
                              int64_t output, double greatest)
{
    struct med_request_size size = {(double)input, (double)output};
    for (size_t n = 0; n < sizeof loads / sizeof loads[0]; n++) {
        double rate = loads[n] * greatest;
        struct med_load_point told;
        REQUIRE(med_capacity_at_rate(latency, &size, rate, &told) == 0);
        struct one_worker_means seen = run_at(latency, input, output, rate);
        printf("%-12.12s %5lld/%-4lld %2.0f %% %9.3g/s  TPOT %8.2f ms %+6.1f %%  "
               "TTFT %9.1f ms %+6.1f %%\n",
               name, (long long)input, (long long)output, 100.0 * loads[n], rate, seen.tpot_ms,
               keep(&tpot, told.tpot_ms, seen.tpot_ms), seen.ttft_ms,
               keep(&ttft, told.ttft_ms, seen.ttft_ms));
    }
}

static double seen_capacity(const struct med_latency *latency, int64_t input, int64_t output,
                            const struct med_slos *slos, double greatest)
{
    double low = 0.002 * greatest;
    double high = greatest;
    for (int n = 0; n < HALVINGS; n++) {
        double middle = n == 0 ? high : sqrt(low * high);
        struct one_worker_means seen = run_at(latency, input, output, middle);
        if (seen.tpot_ms <= slos->items[0].limit_ms && seen.ttft_ms <= slos->items[1].limit_ms) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

static void compare_capacity(const char *name, const struct med_latency *latency, int64_t input,
                             int64_t output, double greatest, double tpot_ms, double ttft_ms)
{
    struct med_request_size size = {(double)input, (double)output};
    struct med_slos slos = {.items = {{MED_SLO_TPOT, tpot_ms}, {MED_SLO_TTFT, ttft_ms}},
                            .count = 2};
    struct med_capacity told;
    REQUIRE(med_capacity_of_model(latency, &size, &slos, &told) == 0);
    if (told.stop != MED_STOP_NONE)
        return;
    double seen = seen_capacity(latency, input, output, &slos, greatest);
    if (told.requests_per_s == greatest && seen == greatest)
        return;
    printf("%-12.12s %5lld/%-4lld tpot=%.0fms ttft=%.0fms: %9.3g/s %+6.1f %%\n", name,
           (long long)input, (long long)output, tpot_ms, ttft_ms, seen,
           keep(&capacity, told.requests_per_s, seen));
}

static void compare_size(const char *name, const struct med_latency *latency, int64_t input,
                         int64_t output)
{
    struct med_request_size size = {(double)input, (double)output};
    struct med_slos none = {.count = 0};
    struct med_capacity unlimited;
    struct med_load_point idle;
    REQUIRE(med_capacity_of_model(latency, &size, &none, &unlimited) == 0);
    if (unlimited.stop != MED_STOP_NONE)
        return;
    compare_latencies(name, latency, input, output, unlimited.requests_per_s);
    double overload = run_at(latency, input, output, 1.5 * unlimited.requests_per_s).ends_per_s;
    printf("%-12.12s %5lld/%-4lld 95 %% of the greatest rate: %9.3g/s %+6.1f %%\n", name,
           (long long)input, (long long)output, 0.95 * overload,
           keep(&most, unlimited.requests_per_s, 0.95 * overload));
    REQUIRE(med_capacity_at_rate(latency, &size, 0.001 * unlimited.requests_per_s, &idle) == 0);
    double greatest = unlimited.requests_per_s;
    compare_capacity(name, latency, input, output, greatest, 120.0, 2000.0);
    compare_capacity(name, latency, input, output, greatest, 1.3 * idle.tpot_ms,
                     100.0 * idle.ttft_ms);
    compare_capacity(name, latency, input, output, greatest, 100.0 * idle.tpot_ms,
                     3.0 * idle.ttft_ms);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_quantiles(struct errors *e)
{
    static const double quantiles[] = {0.5, 0.9, 0.95, 0.99, 1.0};
    qsort(e->values, e->count, sizeof e->values[0], compare_doubles);
    printf("%s, %zu cells:", e->name, e->count);
    for (size_t n = 0; n < sizeof quantiles / sizeof quantiles[0] && e->count > 0; n++) {
        size_t at = (size_t)(quantiles[n] * (double)(e->count - 1));
        printf("  %.0f %% within %.1f %%", 100.0 * quantiles[n], 100.0 * e->values[at]);
    }
    printf("\n");
}

static void compare_profile(const char *path)
{
    struct med_profile profile;
    struct med_latency latency;
    struct med_err err = {0};
    if (med_profile_read_file(path, &profile, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.text);
        REQUIRE(false);
    }
    if (profile.has_step_model) {
        REQUIRE(med_latency_init(&latency, &profile, &err) == 0);
        for (size_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++) {
            for (size_t o = 0; o < sizeof outputs / sizeof outputs[0]; o++)
                compare_size(profile.worker_type, &latency, inputs[i], outputs[o]);
        }
    }
    med_profile_release(&profile);
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "profiles/published";
    DIR *dir = opendir(folder);
    REQUIRE(dir != NULL);
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        const char *suffix = strrchr(entry->d_name, '.');
        char path[1024];
        (void)snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (suffix != NULL && strcmp(suffix, ".json") == 0)
            compare_profile(path);
    }
    (void)closedir(dir);
    print_quantiles(&tpot);
    print_quantiles(&ttft);
    print_quantiles(&most);
    print_quantiles(&capacity);
    return check_finish();
}
