/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sizes to measure, see sizes.h.
 * thread: main.
 */
#include "profiles/profiler/sizes.h"

#include "allocator/resolve.h"
#include "allocator/workload.h"
#include "base/alloc.h"
#include "base/limits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double work_of_input = 1.0 / 20;

struct candidate {
    double input, output, share;
};

static double work_of(const struct candidate *c)
{
    return c->share * (c->input * work_of_input + c->output);
}

static int by_work(const void *a, const void *b)
{
    double left = work_of(a), right = work_of(b);
    return left < right ? 1 : left > right ? -1 : 0;
}

/* Keeps what fits, takes the heaviest. */
static int choose(const struct med_sizes_config *config, struct candidate *all, size_t count,
                  struct med_search *search, struct med_sizes_told *told, struct med_err *err)
{
    double whole = 0, kept = 0;
    size_t added = 0;
    for (size_t i = 0; i < count; i++)
        whole += work_of(&all[i]);
    if (count > 0)
        qsort(all, count, sizeof(*all), by_work);
    for (size_t i = 0; i < count; i++) {
        if (config->model_len_max > 0 &&
            all[i].input + all[i].output > (double)config->model_len_max) {
            told->too_long++;
            continue;
        }
        if ((int64_t)added == config->count_max)
            continue;
        if (med_search_add(search, all[i].input, all[i].output, all[i].share) < 0)
            continue;
        kept += work_of(&all[i]);
        added++;
    }
    if (added == 0) {
        return med_err_set(err, MED_E_INVALID,
                           "no size is left to measure: each is longer than the longest sequence "
                           "of %lld tokens",
                           (long long)config->model_len_max);
    }
    told->work_share = kept / whole;
    return 0;
}

static int64_t read_tokens(const char **at, int64_t most)
{
    if (**at < '0' || **at > '9')
        return -1;
    char *end;
    long long value = strtoll(*at, &end, 10);
    *at = end;
    return value >= 1 && value <= most ? value : -1;
}

static int from_text(const struct med_sizes_config *config, struct med_search *search,
                     struct med_sizes_told *told, struct med_err *err)
{
    struct candidate all[MED_SEARCH_SIZES_MAX];
    size_t count = 0;
    for (const char *at = config->sizes;;) {
        int64_t input = read_tokens(&at, MED_LIMIT_PROMPT_TOKENS), output = -1;
        if (input > 0 && *at == 'x') {
            at++;
            output = read_tokens(&at, MED_LIMIT_OUTPUT_TOKENS);
        }
        if (output < 0 || (*at != ',' && *at != '\0') || count == MED_SEARCH_SIZES_MAX) {
            return med_err_set(err, MED_E_USAGE,
                               "--sizes %s: expected sizes such as 512x128,2000x200, input by "
                               "output tokens, at most %d",
                               config->sizes, MED_SEARCH_SIZES_MAX);
        }
        all[count++] = (struct candidate){(double)input, (double)output, 1};
        if (*at++ == '\0')
            break;
    }
    struct med_sizes_config every = *config;
    every.count_max = MED_SEARCH_SIZES_MAX; /* they were named */
    return choose(&every, all, count, search, told, err);
}

static int from_workload(const struct med_sizes_config *config, struct med_search *search,
                         struct med_sizes_told *told, struct med_err *err)
{
    char *path = NULL;
    int rc = med_resolve(MED_RESOLVE_WORKLOAD, config->workload, config->data_dir, &path, err);
    if (rc < 0)
        return rc;
    struct med_workload workload;
    rc = med_workload_read_file(path, &workload, err);
    med_free(path);
    if (rc < 0)
        return rc;
    struct candidate *all = med_calloc(workload.bucket_count, sizeof(*all));
    if (!all) {
        rc = med_err_set(err, MED_E_NOMEM, "memory is exhausted");
    } else {
        for (size_t i = 0; i < workload.bucket_count; i++) {
            const struct med_bucket *b = &workload.buckets[i];
            all[i] = (struct candidate){fmax(1, round(b->input_mean)),
                                        fmax(1, round(b->output_mean)), b->share};
        }
        rc = choose(config, all, workload.bucket_count, search, told, err);
    }
    med_free(all);
    med_workload_release(&workload);
    return rc;
}

/* The middle of every second cell of the grid in each direction, each as likely as the others. */
static int from_grid(const struct med_sizes_config *config, struct med_search *search,
                     struct med_sizes_told *told, struct med_err *err)
{
    struct candidate all[MED_SEARCH_SIZES_MAX];
    size_t count = 0;
    for (size_t i = 1; i < MED_EDGES_INPUT_COUNT; i += 2) {
        for (size_t o = 1; o < MED_EDGES_OUTPUT_COUNT; o += 2) {
            double input = round((MED_EDGES_INPUT[i - 1] + MED_EDGES_INPUT[i]) / 2);
            double output = round((MED_EDGES_OUTPUT[o - 1] + MED_EDGES_OUTPUT[o]) / 2);
            all[count++] = (struct candidate){input, output, 1};
        }
    }
    return choose(config, all, count, search, told, err);
}

int med_sizes_add(const struct med_sizes_config *config, struct med_search *search,
                  struct med_sizes_told *ret_told, struct med_err *err)
{
    struct med_sizes_told told = {0};
    int rc = config->sizes      ? from_text(config, search, &told, err)
             : config->workload ? from_workload(config, search, &told, err)
                                : from_grid(config, search, &told, err);
    if (rc >= 0)
        *ret_told = told;
    return rc;
}
