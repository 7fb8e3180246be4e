/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program's storage and its checks.  See milp.h for the mathematics; solve.c for the search.
 * Nothing here knows of names, files or a solver. thread: any.
 */
#include "allocator/milp.h"

#include "base/alloc.h"

#include <math.h>
#include <string.h>

int med_milp_init(struct med_milp *program, size_t kind_count, size_t type_count,
                  size_t bucket_count)
{
    memset(program, 0, sizeof *program);
    program->kind_count = kind_count;
    program->type_count = type_count;
    program->bucket_count = bucket_count;
    program->utilization_max = 1.0;
    program->price_usd_per_hour = med_calloc(kind_count + 1, sizeof(double));
    program->count_max = med_calloc(kind_count + 1, sizeof(int64_t));
    program->hosted_max = med_calloc(kind_count * type_count + 1, sizeof(int64_t));
    program->gpus = med_calloc(kind_count + 1, sizeof(int64_t));
    program->gpus_per_worker = med_calloc(type_count + 1, sizeof(int64_t));
    program->loads = med_calloc(bucket_count * type_count + 1, sizeof(double));
    if (program->price_usd_per_hour == NULL || program->count_max == NULL ||
        program->hosted_max == NULL || program->gpus == NULL || program->gpus_per_worker == NULL ||
        program->loads == NULL) {
        med_milp_release(program);
        return MED_E_NOMEM;
    }
    for (size_t k = 0; k < kind_count; k++) {
        program->count_max[k] = -1;
        program->gpus[k] = 1;
    }
    for (size_t t = 0; t < type_count; t++)
        program->gpus_per_worker[t] = 1;
    for (size_t n = 0; n < bucket_count * type_count; n++)
        program->loads[n] = INFINITY;
    return 0;
}

void med_milp_release(struct med_milp *program)
{
    med_free(program->price_usd_per_hour);
    med_free(program->count_max);
    med_free(program->hosted_max);
    med_free(program->gpus);
    med_free(program->gpus_per_worker);
    med_free(program->loads);
    memset(program, 0, sizeof *program);
}

void med_milp_fit(struct med_milp *program, size_t kind, size_t type)
{
    program->hosted_max[kind * program->type_count + type] =
        program->gpus[kind] / program->gpus_per_worker[type];
}

/* Each GPU count of the types on one kind must divide the larger ones. */
static int check_chain(const struct med_milp *program, size_t kind, struct med_err *err)
{
    const int64_t *hosted = program->hosted_max + kind * program->type_count;
    for (size_t a = 0; a < program->type_count; a++) {
        for (size_t b = 0; b < a; b++) {
            if (hosted[a] == 0 || hosted[b] == 0)
                continue;
            int64_t low = program->gpus_per_worker[a];
            int64_t high = program->gpus_per_worker[b];
            if (low > high) {
                int64_t swap = low;
                low = high;
                high = swap;
            }
            if (high % low != 0) {
                return med_err_set(err, MED_E_INVALID,
                                   "instance kind %zu would hold workers of %lld and of %lld GPUs, "
                                   "expected GPU counts of which the smaller divides the larger",
                                   kind + 1, (long long)low, (long long)high);
            }
        }
    }
    return 0;
}

static int check_loads(const struct med_milp *program, struct med_err *err)
{
    for (size_t i = 0; i < program->bucket_count; i++) {
        for (size_t t = 0; t < program->type_count; t++) {
            double load = med_milp_load(program, i, t);
            if (isnan(load) || !(load > 0.0)) {
                return med_err_set(err, MED_E_INVALID,
                                   "bucket %zu loads worker type %zu by %g, expected more than 0",
                                   i + 1, t + 1, load);
            }
            if (isfinite(load) && load > MED_MILP_LOAD_MAX) {
                return med_err_set(err, MED_E_INVALID,
                                   "bucket %zu needs %g workers of type %zu, expected at most %g: "
                                   "the rate is too high for what the type can do",
                                   i + 1, load, t + 1, MED_MILP_LOAD_MAX);
            }
        }
    }
    return 0;
}

int med_milp_check(const struct med_milp *program, struct med_err *err)
{
    if (program->kind_count == 0 || program->type_count == 0 || program->bucket_count == 0) {
        return med_err_set(err, MED_E_INVALID,
                           "the program has %zu instance kinds, %zu worker types and %zu buckets, "
                           "expected at least one of each",
                           program->kind_count, program->type_count, program->bucket_count);
    }
    if (!(program->utilization_max > 0.0) || program->utilization_max > 1.0) {
        return med_err_set(err, MED_E_INVALID,
                           "the utilization limit is %g, expected a number in (0, 1]",
                           program->utilization_max);
    }
    for (size_t k = 0; k < program->kind_count; k++) {
        double price = program->price_usd_per_hour[k];
        if (!isfinite(price) || price <= 0.0) {
            return med_err_set(err, MED_E_INVALID,
                               "instance kind %zu costs %g $/h, expected a number > 0", k + 1,
                               price);
        }
        int rc = check_chain(program, k, err);
        if (rc < 0)
            return rc;
    }
    return check_loads(program, err);
}

bool med_milp_kind_is_single(const struct med_milp *program, size_t kind, size_t *ret_type)
{
    size_t found = 0;
    for (size_t t = 0; t < program->type_count; t++) {
        if (program->hosted_max[kind * program->type_count + t] > 0) {
            *ret_type = t;
            found++;
        }
    }
    return found == 1;
}

int med_mix_init(struct med_mix *mix, const struct med_milp *program)
{
    memset(mix, 0, sizeof *mix);
    mix->counts = med_calloc(program->kind_count + 1, sizeof(int64_t));
    mix->placed = med_calloc(program->kind_count * program->type_count + 1, sizeof(int64_t));
    mix->workers = med_calloc(program->type_count + 1, sizeof(int64_t));
    mix->shares = med_calloc(program->bucket_count * program->type_count + 1, sizeof(double));
    if (mix->counts == NULL || mix->placed == NULL || mix->workers == NULL || mix->shares == NULL) {
        med_mix_release(mix);
        return MED_E_NOMEM;
    }
    return 0;
}

void med_mix_release(struct med_mix *mix)
{
    med_free(mix->counts);
    med_free(mix->placed);
    med_free(mix->workers);
    med_free(mix->shares);
    memset(mix, 0, sizeof *mix);
}

void med_mix_copy(struct med_mix *to, const struct med_mix *from, const struct med_milp *program)
{
    size_t kinds = program->kind_count;
    size_t types = program->type_count;
    memcpy(to->counts, from->counts, kinds * sizeof *to->counts);
    memcpy(to->placed, from->placed, kinds * types * sizeof *to->placed);
    memcpy(to->workers, from->workers, types * sizeof *to->workers);
    memcpy(to->shares, from->shares, program->bucket_count * types * sizeof *to->shares);
    to->cost_usd_per_hour = from->cost_usd_per_hour;
}

void med_mix_sum(struct med_mix *mix, const struct med_milp *program)
{
    long double cost = 0.0L;
    memset(mix->workers, 0, program->type_count * sizeof *mix->workers);
    for (size_t k = 0; k < program->kind_count; k++) {
        cost += (long double)program->price_usd_per_hour[k] * (long double)mix->counts[k];
        for (size_t t = 0; t < program->type_count; t++)
            mix->workers[t] += mix->placed[k * program->type_count + t];
    }
    /* Prices are decimals: 2 x 1.01 + 3.67 is 5.69, and shall print so. */
    double decimal = (double)(roundl(cost * 1e9L) / 1e9L);
    bool near = fabsl((long double)decimal - cost) <= 1e-14L * cost;
    mix->cost_usd_per_hour = near ? decimal : (double)cost;
}

double med_mix_load(const struct med_mix *mix, const struct med_milp *program, size_t type)
{
    double load = 0.0;
    for (size_t i = 0; i < program->bucket_count; i++) {
        double share = mix->shares[i * program->type_count + type];
        if (share > 0.0)
            load += share * med_milp_load(program, i, type);
    }
    return load;
}
