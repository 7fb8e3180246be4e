/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GLPK behind a fence.
 *
 * The mix model is the one that stood up to an independent solver: presolve on; loads floored at
 * 1e-6, because smaller ones slip under the integrality tolerance; links A_it <= W_t where a load
 * is small; for each distinct set F of types that can serve some bucket, sum_{t in F} W_t >= the
 * workers that the buckets confined to F need at least; and the cuts that exact verification found.
 * Flooring adds at most delta_t to the load of a type, and W_t is whole, so giving each worker
 * delta_t more capacity makes the model a relaxation of the true program again.
 *
 * GLPK aborts the process on an internal error.  guarded() sets its error hook, which jumps out;
 * then glp_free_env() drops all of GLPK's objects.  Memory of ours that a jump passes by hangs from
 * the argument struct and is freed by the caller.  thread: main.
 * Not here: belief.  solve.c checks every answer exactly.
 */
#include "allocator/solve_glpk.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"

#include <float.h>
#include <glpk.h>
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

static const double load_floor = 1e-6;
static const double link_load_below = 0.02;
static const double ceil_epsilon = 1e-9;
static const double solver_tolerance = 2e-7;

enum {
    SETS_MAX = 4096
};

/* ---- the fence ---- */

struct guard {
    jmp_buf jump;
    char text[256]; /* GLPK's last words, for the error's sentence */
};

static void on_glpk_error(void *info)
{
    struct guard *guard = info;
    longjmp(guard->jump, 1);
}

static int on_glpk_print(void *info, const char *text)
{
    struct guard *guard = info;
    size_t length = strcspn(text, "\n");
    if (length > 0)
        (void)snprintf(guard->text, sizeof guard->text, "%.*s", (int)length, text);
    return 1; /* printed nothing */
}

static int guarded(int (*body)(void *arg), void *arg, struct med_err *err)
{
    struct guard guard;
    guard.text[0] = '\0';
    if (setjmp(guard.jump) != 0) { // NOLINT(cert-err52-cpp): GLPK offers no other way out
        glp_free_env();
        return med_err_set(err, MED_E_SOLVER, "the solver GLPK failed: %s",
                           guard.text[0] != '\0' ? guard.text : "no reason given");
    }
    glp_term_hook(on_glpk_print, &guard);
    glp_error_hook(on_glpk_error, &guard);
    int rc = body(arg);
    glp_error_hook(NULL, NULL);
    glp_term_hook(NULL, NULL);
    if (rc == MED_E_NOMEM)
        return med_err_set(err, rc, "memory is exhausted while building the program");
    if (rc < 0) {
        return med_err_set(err, rc, "the solver GLPK failed: %s",
                           guard.text[0] != '\0' ? guard.text : "no reason given");
    }
    return rc;
}

/* ---- building a model ---- */

struct builder {
    glp_prob *problem;
    int *rows, *columns; /* triplets, from 1 as GLPK counts */
    double *values;
    int count, capacity;
};

static void builder_release(struct builder *b)
{
    med_free(b->rows);
    med_free(b->columns);
    med_free(b->values);
    memset(b, 0, sizeof *b);
}

static int put(struct builder *b, int row, int column, double value)
{
    if (b->count + 2 >= b->capacity) {
        int more = b->capacity == 0 ? 1024 : 2 * b->capacity;
        int *rows = med_realloc_array(b->rows, (size_t)more, sizeof *rows);
        if (rows == NULL)
            return MED_E_NOMEM;
        b->rows = rows;
        int *columns = med_realloc_array(b->columns, (size_t)more, sizeof *columns);
        if (columns == NULL)
            return MED_E_NOMEM;
        b->columns = columns;
        double *values = med_realloc_array(b->values, (size_t)more, sizeof *values);
        if (values == NULL)
            return MED_E_NOMEM;
        b->values = values;
        b->capacity = more;
    }
    MED_ASSERT(isfinite(value));
    b->count++;
    b->rows[b->count] = row;
    b->columns[b->count] = column;
    b->values[b->count] = value;
    return 0;
}

static int add_row(struct builder *b, int type, double low, double high)
{
    int row = glp_add_rows(b->problem, 1);
    glp_set_row_bnds(b->problem, row, type, low, high);
    return row;
}

/* Everything of one mix solve; hangs from the guarded call's argument. */
struct mix_model {
    const struct med_glpk_args *args;
    struct med_mix *mix;
    struct med_glpk_result *result;
    struct builder builder;
    int *count_column;  /* [kind] */
    int *placed_column; /* [kind][type]; 0: follows from the count */
    int *share_column;  /* [bucket][type]; 0: cannot */
    double bound;
};

static double floored(double load)
{
    return load < load_floor ? load_floor : load;
}

static double scale_of_shares(const struct med_milp *p)
{
    return p->slices > 0 ? (double)p->slices : 1.0;
}

static int add_columns(struct mix_model *m)
{
    const struct med_milp *p = m->args->program;
    glp_prob *lp = m->builder.problem;
    for (size_t k = 0; k < p->kind_count; k++) {
        int column = glp_add_cols(lp, 1);
        m->count_column[k] = column;
        glp_set_col_kind(lp, column, GLP_IV);
        glp_set_obj_coef(lp, column, p->price_usd_per_hour[k]);
        if (p->count_max[k] == 0) {
            glp_set_col_bnds(lp, column, GLP_FX, 0.0, 0.0);
        } else if (p->count_max[k] > 0) {
            glp_set_col_bnds(lp, column, GLP_DB, 0.0, (double)p->count_max[k]);
        } else {
            glp_set_col_bnds(lp, column, GLP_LO, 0.0, 0.0);
        }
        size_t only = 0;
        if (med_milp_kind_is_single(p, k, &only))
            continue;
        for (size_t t = 0; t < p->type_count; t++) {
            if (p->hosted_max[k * p->type_count + t] == 0)
                continue;
            column = glp_add_cols(lp, 1);
            m->placed_column[k * p->type_count + t] = column;
            glp_set_col_kind(lp, column, GLP_IV);
            glp_set_col_bnds(lp, column, GLP_LO, 0.0, 0.0);
        }
    }
    for (size_t n = 0; n < p->bucket_count * p->type_count; n++) {
        if (!isfinite(p->loads[n]))
            continue;
        int column = glp_add_cols(lp, 1);
        m->share_column[n] = column;
        glp_set_col_bnds(lp, column, GLP_DB, 0.0, scale_of_shares(p));
        if (p->slices > 0)
            glp_set_col_kind(lp, column, GLP_IV);
    }
    return 0;
}

/* Adds factor * (workers of the type) to a row. */
static int put_workers(struct mix_model *m, int row, size_t type, double factor)
{
    const struct med_milp *p = m->args->program;
    for (size_t k = 0; k < p->kind_count; k++) {
        size_t n = k * p->type_count + type;
        if (p->hosted_max[n] == 0)
            continue;
        int rc = m->placed_column[n] != 0
                     ? put(&m->builder, row, m->placed_column[n], factor)
                     : put(&m->builder, row, m->count_column[k], factor * (double)p->hosted_max[n]);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static double capacity_of_worker(const struct mix_model *m, size_t type)
{
    const struct med_milp *p = m->args->program;
    if (m->args->restricted)
        return p->utilization_max * (1.0 - solver_tolerance);
    double added = 0.0;
    for (size_t i = 0; i < p->bucket_count; i++) {
        double load = med_milp_load(p, i, type);
        if (isfinite(load))
            added += floored(load) - load;
    }
    return p->utilization_max * (1.0 + MED_MILP_TOLERANCE) + added;
}

static int add_capacity_rows(struct mix_model *m)
{
    const struct med_milp *p = m->args->program;
    for (size_t t = 0; t < p->type_count; t++) {
        int row = add_row(&m->builder, GLP_UP, 0.0, 0.0);
        for (size_t i = 0; i < p->bucket_count; i++) {
            int column = m->share_column[i * p->type_count + t];
            if (column == 0)
                continue;
            double load = floored(med_milp_load(p, i, t)) / scale_of_shares(p);
            if (put(&m->builder, row, column, load) < 0)
                return MED_E_NOMEM;
        }
        if (put_workers(m, row, t, -capacity_of_worker(m, t)) < 0)
            return MED_E_NOMEM;
    }
    return 0;
}

/* Each bucket is served whole; small loads may not hide behind a fraction of a worker. */
static int add_bucket_rows(struct mix_model *m)
{
    const struct med_milp *p = m->args->program;
    for (size_t i = 0; i < p->bucket_count; i++) {
        double whole = scale_of_shares(p);
        int row = add_row(&m->builder, GLP_FX, whole, whole);
        for (size_t t = 0; t < p->type_count; t++) {
            int column = m->share_column[i * p->type_count + t];
            if (column == 0)
                continue;
            if (put(&m->builder, row, column, 1.0) < 0)
                return MED_E_NOMEM;
            if (med_milp_load(p, i, t) >= link_load_below)
                continue;
            int link = add_row(&m->builder, GLP_UP, 0.0, 0.0);
            if (put(&m->builder, link, column, 1.0) < 0 || put_workers(m, link, t, -whole) < 0)
                return MED_E_NOMEM;
        }
    }
    return 0;
}

/* Workers of several types share the GPUs of a kind: one row per distinct GPU count g, for all
 * types whose count is a multiple of g.  Exact, because the counts form a chain. */
static int add_placement_rows(struct mix_model *m)
{
    const struct med_milp *p = m->args->program;
    for (size_t k = 0; k < p->kind_count; k++) {
        const int *placed = m->placed_column + k * p->type_count;
        for (size_t t = 0; t < p->type_count; t++) {
            bool seen = placed[t] == 0;
            int64_t unit = p->gpus_per_worker[t];
            for (size_t b = 0; b < t && !seen; b++)
                seen = placed[b] != 0 && p->gpus_per_worker[b] == unit;
            if (seen)
                continue;
            int row = add_row(&m->builder, GLP_UP, 0.0, 0.0);
            for (size_t b = 0; b < p->type_count; b++) {
                if (placed[b] == 0 || p->gpus_per_worker[b] % unit != 0)
                    continue;
                int64_t units = p->gpus_per_worker[b] / unit;
                if (put(&m->builder, row, placed[b], (double)units) < 0)
                    return MED_E_NOMEM;
            }
            int64_t held = p->gpus[k] / unit;
            if (put(&m->builder, row, m->count_column[k], -(double)held) < 0)
                return MED_E_NOMEM;
        }
    }
    return 0;
}

/* Is every type that can serve bucket `inner` one that can serve bucket `outer`? */
static bool is_confined(const struct med_milp *p, size_t inner, size_t outer)
{
    for (size_t t = 0; t < p->type_count; t++) {
        if (isfinite(med_milp_load(p, inner, t)) && !isfinite(med_milp_load(p, outer, t)))
            return false;
    }
    return true;
}

static double least_load(const struct med_milp *p, size_t bucket)
{
    double least = INFINITY;
    for (size_t t = 0; t < p->type_count; t++)
        least = fmin(least, med_milp_load(p, bucket, t));
    return least;
}

/* For each distinct set F of types: its workers are at least what its own buckets need. */
static int add_set_rows(struct mix_model *m)
{
    const struct med_milp *p = m->args->program;
    double capacity = p->utilization_max * (1.0 + MED_MILP_TOLERANCE);
    int sets = 0;
    for (size_t f = 0; f < p->bucket_count && sets < SETS_MAX; f++) {
        bool seen = false;
        for (size_t b = 0; b < f && !seen; b++)
            seen = is_confined(p, b, f) && is_confined(p, f, b);
        if (seen)
            continue;
        sets++;
        double load = 0.0;
        for (size_t i = 0; i < p->bucket_count; i++) {
            if (is_confined(p, i, f))
                load += least_load(p, i);
        }
        double need = load / capacity;
        need = fmax(1.0, ceil(need - ceil_epsilon * fmax(1.0, need)));
        int row = add_row(&m->builder, GLP_LO, need, 0.0);
        for (size_t t = 0; t < p->type_count; t++) {
            if (isfinite(med_milp_load(p, f, t)) && put_workers(m, row, t, 1.0) < 0)
                return MED_E_NOMEM;
        }
    }
    return 0;
}

static int add_cut_rows(struct mix_model *m)
{
    const struct med_milp *p = m->args->program;
    const struct med_glpk_cuts *cuts = m->args->cuts;
    for (size_t c = 0; cuts != NULL && c < cuts->count; c++) {
        int row = add_row(&m->builder, GLP_LO, 1.0, 0.0);
        for (size_t t = 0; t < p->type_count; t++) {
            double coefficient = cuts->coefficients[c * p->type_count + t];
            if (coefficient != 0.0 && put_workers(m, row, t, coefficient) < 0)
                return MED_E_NOMEM;
        }
    }
    return 0;
}

/* Counts that exact arithmetic refuted but that the cuts exclude by less than the solver can see:
 * some type needs at least one worker more (feasibility only grows with the counts). */
static int add_forbidden_rows(struct mix_model *m)
{
    const struct med_milp *p = m->args->program;
    const struct med_glpk_cuts *cuts = m->args->cuts;
    for (size_t f = 0; cuts != NULL && f < cuts->forbidden_count; f++) {
        int any = add_row(&m->builder, GLP_LO, 1.0, 0.0);
        for (size_t t = 0; t < p->type_count; t++) {
            int column = glp_add_cols(m->builder.problem, 1);
            glp_set_col_kind(m->builder.problem, column, GLP_BV);
            int row = add_row(&m->builder, GLP_LO, 0.0, 0.0);
            double more = (double)cuts->forbidden[f * p->type_count + t] + 1.0;
            if (put(&m->builder, any, column, 1.0) < 0 ||
                put(&m->builder, row, column, -more) < 0 || put_workers(m, row, t, 1.0) < 0)
                return MED_E_NOMEM;
        }
    }
    return 0;
}

static int build_mix(struct mix_model *m)
{
    const struct med_milp *p = m->args->program;
    m->count_column = med_calloc(p->kind_count + 1, sizeof *m->count_column);
    m->placed_column = med_calloc(p->kind_count * p->type_count + 1, sizeof *m->placed_column);
    m->share_column = med_calloc(p->bucket_count * p->type_count + 1, sizeof *m->share_column);
    if (m->count_column == NULL || m->placed_column == NULL || m->share_column == NULL)
        return MED_E_NOMEM;
    glp_set_obj_dir(m->builder.problem, GLP_MIN);
    int rc = add_columns(m);
    if (rc == 0)
        rc = add_capacity_rows(m);
    if (rc == 0)
        rc = add_bucket_rows(m);
    if (rc == 0)
        rc = add_placement_rows(m);
    if (rc == 0)
        rc = add_set_rows(m);
    if (rc == 0)
        rc = add_cut_rows(m);
    if (rc == 0)
        rc = add_forbidden_rows(m);
    if (rc == 0) {
        glp_load_matrix(m->builder.problem, m->builder.count, m->builder.rows, m->builder.columns,
                        m->builder.values);
    }
    return rc;
}

/* ---- solving ---- */

static int milliseconds(double seconds)
{
    double ms = seconds * 1e3;
    return ms < 1.0 ? 1 : ms > 1e9 ? 1000000000 : (int)ms;
}

/* Branch and bound calls this often; the best open node is the bound. */
static void on_branch(glp_tree *tree, void *info)
{
    struct mix_model *m = info;
    int node = glp_ios_best_node(tree);
    if (node == 0)
        return;
    double bound = glp_ios_node_bound(tree, node);
    if (isfinite(bound) && fabs(bound) < DBL_MAX / 2.0)
        m->bound = fmax(m->bound, bound);
}

static void read_mix(struct mix_model *m)
{
    const struct med_milp *p = m->args->program;
    glp_prob *lp = m->builder.problem;
    memset(m->mix->placed, 0, p->kind_count * p->type_count * sizeof *m->mix->placed);
    for (size_t k = 0; k < p->kind_count; k++) {
        m->mix->counts[k] = (int64_t)llround(glp_mip_col_val(lp, m->count_column[k]));
        for (size_t t = 0; t < p->type_count; t++) {
            size_t n = k * p->type_count + t;
            if (m->placed_column[n] != 0) {
                m->mix->placed[n] = (int64_t)llround(glp_mip_col_val(lp, m->placed_column[n]));
            } else {
                m->mix->placed[n] = p->hosted_max[n] * m->mix->counts[k];
            }
        }
    }
    for (size_t n = 0; n < p->bucket_count * p->type_count; n++) {
        double value = m->share_column[n] != 0 ? glp_mip_col_val(lp, m->share_column[n]) : 0.0;
        m->mix->shares[n] = fmax(0.0, value / scale_of_shares(p));
        if (p->slices > 0)
            m->result->slices[n] = (int64_t)llround(value);
    }
    med_mix_sum(m->mix, p);
}

/* The linear relaxation under the time limit, which the presolver's own would not obey. */
static bool relaxation_ends(struct mix_model *m)
{
    const struct med_milp *p = m->args->program;
    if (p->bucket_count * p->type_count < 20000)
        return true;
    glp_smcp parm;
    glp_init_smcp(&parm);
    parm.msg_lev = GLP_MSG_ERR;
    parm.presolve = GLP_ON;
    parm.tm_lim = milliseconds(m->args->time_limit_s / 2.0);
    return glp_simplex(m->builder.problem, &parm) != GLP_ETMLIM;
}

static int mix_body(void *arg)
{
    struct mix_model *m = arg;
    m->builder.problem = glp_create_prob();
    int rc = build_mix(m);
    if (rc < 0) {
        glp_delete_prob(m->builder.problem);
        return rc;
    }
    m->result->status = MED_GLPK_UNKNOWN;
    struct med_clock clock;
    med_clock_init_real(&clock, 1.0);
    int64_t start_ns = med_clock_now_ns(&clock);
    if (!relaxation_ends(m)) {
        glp_delete_prob(m->builder.problem);
        return 0;
    }
    glp_iocp parm;
    glp_init_iocp(&parm);
    parm.msg_lev = GLP_MSG_ERR;
    parm.presolve = GLP_ON;
    double spent_s = (double)(med_clock_now_ns(&clock) - start_ns) / (double)MED_NS_PER_S;
    parm.tm_lim = milliseconds(m->args->time_limit_s - spent_s);
    parm.cb_func = on_branch;
    parm.cb_info = m;
    int glpk_rc = glp_intopt(m->builder.problem, &parm);
    int status = glp_mip_status(m->builder.problem);
    if (glpk_rc == GLP_ENOPFS || (glpk_rc == 0 && status == GLP_NOFEAS)) {
        m->result->status = MED_GLPK_INFEASIBLE;
    } else if (glpk_rc == 0 && status == GLP_OPT) {
        m->result->status = MED_GLPK_OPTIMAL;
        read_mix(m);
    } else if (glpk_rc == GLP_ETMLIM || glpk_rc == GLP_EMIPGAP) {
        if (status == GLP_FEAS || status == GLP_OPT) {
            m->result->status = MED_GLPK_FEASIBLE;
            read_mix(m);
        }
    } else {
        rc = MED_E_SOLVER;
    }
    glp_delete_prob(m->builder.problem);
    return rc;
}

int med_glpk_mix(const struct med_glpk_args *args, struct med_mix *mix,
                 struct med_glpk_result *result, struct med_err *err)
{
    struct mix_model model = {.args = args, .mix = mix, .result = result};
    int rc = guarded(mix_body, &model, err);
    if (rc == 0) {
        result->bound_usd_per_hour = model.bound;
        if (result->status == MED_GLPK_OPTIMAL)
            result->bound_usd_per_hour = mix->cost_usd_per_hour;
    }
    builder_release(&model.builder);
    med_free(model.count_column);
    med_free(model.placed_column);
    med_free(model.share_column);
    return rc;
}

/* ---- balancing load on given workers ---- */

struct balance_model {
    const struct med_milp *program;
    const int64_t *workers;
    double time_limit_s;
    double *shares, *prices;
    struct builder builder;
    int *share_column; /* [bucket][type] */
    int *type_row;     /* [type] */
    bool solved;
};

static int build_balance(struct balance_model *m)
{
    const struct med_milp *p = m->program;
    m->share_column = med_calloc(p->bucket_count * p->type_count + 1, sizeof *m->share_column);
    m->type_row = med_calloc(p->type_count + 1, sizeof *m->type_row);
    if (m->share_column == NULL || m->type_row == NULL)
        return MED_E_NOMEM;
    glp_prob *lp = m->builder.problem;
    int theta = glp_add_cols(lp, 1);
    glp_set_col_bnds(lp, theta, GLP_LO, 0.0, 0.0);
    glp_set_obj_coef(lp, theta, 1.0);
    for (size_t t = 0; t < p->type_count; t++) {
        if (m->workers[t] <= 0)
            continue;
        m->type_row[t] = add_row(&m->builder, GLP_UP, 0.0, 0.0);
        if (put(&m->builder, m->type_row[t], theta, -1.0) < 0)
            return MED_E_NOMEM;
    }
    for (size_t i = 0; i < p->bucket_count; i++) {
        int row = add_row(&m->builder, GLP_FX, 1.0, 1.0);
        for (size_t t = 0; t < p->type_count; t++) {
            double load = med_milp_load(p, i, t);
            if (m->workers[t] <= 0 || !isfinite(load))
                continue;
            int column = glp_add_cols(lp, 1);
            m->share_column[i * p->type_count + t] = column;
            glp_set_col_bnds(lp, column, GLP_LO, 0.0, 0.0);
            double ratio = load / (p->utilization_max * (double)m->workers[t]);
            if (put(&m->builder, row, column, 1.0) < 0 ||
                put(&m->builder, m->type_row[t], column, ratio) < 0)
                return MED_E_NOMEM;
        }
    }
    glp_load_matrix(lp, m->builder.count, m->builder.rows, m->builder.columns, m->builder.values);
    return 0;
}

static int balance_body(void *arg)
{
    struct balance_model *m = arg;
    const struct med_milp *p = m->program;
    m->builder.problem = glp_create_prob();
    int rc = build_balance(m);
    if (rc < 0) {
        glp_delete_prob(m->builder.problem);
        return rc;
    }
    glp_smcp parm;
    glp_init_smcp(&parm);
    parm.msg_lev = GLP_MSG_ERR;
    parm.tm_lim = milliseconds(m->time_limit_s);
    parm.tol_bnd = 1e-9;
    parm.tol_dj = 1e-9;
    glp_scale_prob(m->builder.problem, GLP_SF_AUTO);
    glp_adv_basis(m->builder.problem, 0);
    int glpk_rc = glp_simplex(m->builder.problem, &parm);
    m->solved = glpk_rc == 0 && glp_get_status(m->builder.problem) == GLP_OPT;
    memset(m->prices, 0, p->type_count * sizeof *m->prices);
    for (size_t t = 0; t < p->type_count && m->solved; t++) {
        if (m->type_row[t] == 0)
            continue;
        double dual = glp_get_row_dual(m->builder.problem, m->type_row[t]);
        double capacity = p->utilization_max * (double)m->workers[t];
        m->prices[t] = fmax(0.0, -dual) / capacity;
    }
    for (size_t n = 0; n < p->bucket_count * p->type_count; n++) {
        double value = 0.0;
        if (m->solved && m->share_column[n] != 0)
            value = glp_get_col_prim(m->builder.problem, m->share_column[n]);
        m->shares[n] = fmin(1.0, fmax(0.0, value));
    }
    glp_delete_prob(m->builder.problem);
    return 0;
}

// NOLINTBEGIN(readability-non-const-parameter): shares and prices are filled through the model
int med_glpk_balance(const struct med_milp *program, const int64_t *workers, double time_limit_s,
                     double *shares, double *prices, bool *ret_solved, struct med_err *err)
{
    struct balance_model model = {.program = program,
                                  .workers = workers,
                                  .time_limit_s = time_limit_s,
                                  .shares = shares,
                                  .prices = prices};
    int rc = guarded(balance_body, &model, err);
    builder_release(&model.builder);
    med_free(model.share_column);
    med_free(model.type_row);
    if (rc == 0)
        *ret_solved = model.solved;
    return rc;
}
// NOLINTEND(readability-non-const-parameter)

static int provoke_body(void *arg)
{
    (void)arg;
    glp_prob *lp = glp_create_prob();
    glp_set_row_bnds(lp, 7, GLP_FX, 0.0, 0.0); /* there is no row 7 */
    glp_delete_prob(lp);
    return 0;
}

int med_glpk_provoke_error(struct med_err *err)
{
    return guarded(provoke_body, NULL, err);
}
