/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exact verification of worker counts with rational arithmetic.
 *
 * med_verify_shares and med_verify_prices evaluate a certificate.  med_verify_decide minimises the
 * largest load/capacity ratio theta over all assignments by a primal simplex method on rationals:
 *   min theta   s.t.  sum_t A_it = 1,   sum_i load_it A_it + slack_t - C_t theta = 0
 * The bucket rows are generalised upper bounds, so each bucket keeps one "key" share in the basis
 * and only a working basis of one column per type is solved (Dantzig and Van Slyke 1967).  It stops
 * as soon as theta <= 1, or at the optimum.  Bland's rule after a degenerate pivot, so it ends.
 * theta never leaves the basis, because loads are positive.
 *
 * GMP allocates with malloc and aborts the process when memory is exhausted; its numbers here are a
 * few kilobytes each.  thread: any.  It does not decide how many workers to rent.
 */
#include "allocator/verify.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <gmp.h>
#include <math.h>
#include <string.h>

enum {
    PIVOTS_MAX = 20000
};

/* ---- certificates ---- */

/* C_t = u W_t (1 + 1e-9), exactly. */
static void set_capacity(mpq_t capacity, const struct med_milp *program, int64_t workers)
{
    mpq_t factor;
    mpq_init(factor);
    mpq_set_d(capacity, program->utilization_max);
    mpq_set_si(factor, workers, 1);
    mpq_mul(capacity, capacity, factor);
    mpq_set_si(factor, 1000000001, 1000000000);
    mpq_canonicalize(factor);
    mpq_mul(capacity, capacity, factor);
    mpq_clear(factor);
}

/* Index of the bucket's largest share, or -1 if a share is negative, not finite or impossible. */
static long largest_share(const struct med_milp *program, const int64_t *workers,
                          const double *shares, size_t bucket)
{
    long best = -1;
    double best_share = 0.0;
    for (size_t t = 0; t < program->type_count; t++) {
        double share = shares[bucket * program->type_count + t];
        if (!isfinite(share) || share < 0.0)
            return -1;
        if (share > 0.0 && (workers[t] <= 0 || !isfinite(med_milp_load(program, bucket, t))))
            return -1;
        if (share > best_share) {
            best_share = share;
            best = (long)t;
        }
    }
    return best;
}

/* Adds the bucket's exact loads to sums; false if its shares are no assignment. */
static bool add_bucket(const struct med_milp *program, const int64_t *workers, const double *shares,
                       size_t bucket, mpq_t *sums, mpq_t *scratch)
{
    long key = largest_share(program, workers, shares, bucket);
    if (key < 0)
        return false;
    mpq_set_si(scratch[0], 1, 1);
    for (size_t t = 0; t < program->type_count; t++) {
        double share = shares[bucket * program->type_count + t];
        if (share == 0.0 || (long)t == key)
            continue;
        mpq_set_d(scratch[1], share);
        mpq_sub(scratch[0], scratch[0], scratch[1]);
        mpq_set_d(scratch[2], med_milp_load(program, bucket, t));
        mpq_mul(scratch[1], scratch[1], scratch[2]);
        mpq_add(sums[t], sums[t], scratch[1]);
    }
    if (mpq_sgn(scratch[0]) < 0)
        return false;
    mpq_set_d(scratch[2], med_milp_load(program, bucket, (size_t)key));
    mpq_mul(scratch[1], scratch[0], scratch[2]);
    mpq_add(sums[key], sums[key], scratch[1]);
    return true;
}

static mpq_t *new_rationals(size_t count)
{
    mpq_t *numbers = med_calloc(count + 1, sizeof *numbers);
    if (numbers == NULL)
        return NULL;
    for (size_t n = 0; n < count; n++)
        mpq_init(numbers[n]);
    return numbers;
}

static void free_rationals(mpq_t *numbers, size_t count)
{
    if (numbers == NULL)
        return;
    for (size_t n = 0; n < count; n++)
        mpq_clear(numbers[n]);
    med_free(numbers);
}

/* Are the sums within the capacities? */
static bool within_capacity(const struct med_milp *program, const int64_t *workers, mpq_t *sums,
                            mpq_t capacity)
{
    for (size_t t = 0; t < program->type_count; t++) {
        set_capacity(capacity, program, workers[t]);
        if (mpq_cmp(sums[t], capacity) > 0)
            return false;
    }
    return true;
}

bool med_verify_shares(const struct med_milp *program, const int64_t *workers, const double *shares)
{
    size_t types = program->type_count;
    mpq_t *numbers = new_rationals(types + 3);
    if (numbers == NULL)
        return false;
    bool holds = true;
    for (size_t i = 0; i < program->bucket_count && holds; i++)
        holds = add_bucket(program, workers, shares, i, numbers, numbers + types);
    holds = holds && within_capacity(program, workers, numbers, numbers[types]);
    free_rationals(numbers, types + 3);
    return holds;
}

bool med_verify_slices(const struct med_milp *program, const int64_t *workers,
                       const int64_t *slices)
{
    size_t types = program->type_count;
    MED_ASSERT(program->slices > 0);
    mpq_t *numbers = new_rationals(types + 2);
    if (numbers == NULL)
        return false;
    bool holds = true;
    for (size_t i = 0; i < program->bucket_count && holds; i++) {
        int64_t total = 0;
        for (size_t t = 0; t < types && holds; t++) {
            int64_t part = slices[i * types + t];
            if (part == 0)
                continue;
            double load = med_milp_load(program, i, t);
            holds = part > 0 && workers[t] > 0 && isfinite(load);
            if (!holds)
                break;
            total += part;
            mpq_set_d(numbers[types], load);
            mpq_set_si(numbers[types + 1], part, (unsigned long)program->slices);
            mpq_canonicalize(numbers[types + 1]);
            mpq_mul(numbers[types], numbers[types], numbers[types + 1]);
            mpq_add(numbers[t], numbers[t], numbers[types]);
        }
        holds = holds && total == program->slices;
    }
    holds = holds && within_capacity(program, workers, numbers, numbers[types]);
    free_rationals(numbers, types + 2);
    return holds;
}

bool med_verify_prices(const struct med_milp *program, const int64_t *workers, const double *prices)
{
    size_t types = program->type_count;
    mpq_t *numbers = new_rationals(types + 4);
    if (numbers == NULL)
        return false;
    mpq_t *price = numbers;
    mpq_t *balance = numbers + types; /* demand minus supply, in prices */
    mpq_t *best = balance + 1;
    mpq_t *term = balance + 2;
    bool valid = true;
    for (size_t t = 0; t < types && valid; t++) {
        valid = isfinite(prices[t]) && prices[t] >= 0.0;
        if (!valid || workers[t] <= 0)
            continue;
        mpq_set_d(price[t], prices[t]);
        set_capacity(*term, program, workers[t]);
        mpq_mul(*term, *term, price[t]);
        mpq_sub(*balance, *balance, *term);
    }
    for (size_t i = 0; i < program->bucket_count && valid; i++) {
        bool any = false;
        for (size_t t = 0; t < types; t++) {
            double load = med_milp_load(program, i, t);
            if (workers[t] <= 0 || !isfinite(load))
                continue;
            mpq_set_d(*term, load);
            mpq_mul(*term, *term, price[t]);
            if (!any || mpq_cmp(*term, *best) < 0)
                mpq_set(*best, *term);
            any = true;
        }
        if (!any) {
            free_rationals(numbers, types + 4);
            return true; /* a bucket that no worker can serve: refuted by any prices */
        }
        mpq_add(*balance, *balance, *best);
    }
    bool refutes = valid && mpq_sgn(*balance) > 0;
    free_rationals(numbers, types + 4);
    return refutes;
}

/* ---- the exact simplex method ---- */

enum column_kind {
    COLUMN_THETA,
    COLUMN_SLACK,
    COLUMN_SHARE
};

/* A basic variable outside the keys. type: index into `active`. */
struct column {
    enum column_kind kind;
    size_t bucket, type;
};

struct simplex {
    const struct med_milp *program;
    size_t rows;          /* active types */
    size_t *active;       /* [rows] type */
    size_t *key;          /* [bucket] index into active */
    struct column *basis; /* [rows] */
    mpq_t *capacity;      /* [rows] */
    mpq_t *matrix;        /* [rows][2 rows] working matrix and its inverse */
    mpq_t *value;         /* [rows] of the basis */
    mpq_t *price;         /* [rows] lambda = -dual */
    mpq_t *move;          /* [rows] inverse times entering column */
    mpq_t *column;        /* [rows] */
    mpq_t tmp, tmp2, best;
    bool bland;
};

static double load_of(const struct simplex *s, size_t bucket, size_t row)
{
    return med_milp_load(s->program, bucket, s->active[row]);
}

static mpq_t *inverse_at(const struct simplex *s, size_t row, size_t column)
{
    return &s->matrix[row * 2 * s->rows + s->rows + column];
}

static void simplex_release(struct simplex *s)
{
    free_rationals(s->capacity, s->rows);
    free_rationals(s->matrix, s->rows * 2 * s->rows);
    free_rationals(s->value, s->rows);
    free_rationals(s->price, s->rows);
    free_rationals(s->move, s->rows);
    free_rationals(s->column, s->rows);
    med_free(s->active);
    med_free(s->key);
    med_free(s->basis);
    mpq_clear(s->tmp);
    mpq_clear(s->tmp2);
    mpq_clear(s->best);
}

static int simplex_init(struct simplex *s, const struct med_milp *program, const int64_t *workers)
{
    memset(s, 0, sizeof *s);
    s->program = program;
    mpq_init(s->tmp);
    mpq_init(s->tmp2);
    mpq_init(s->best);
    s->active = med_calloc(program->type_count + 1, sizeof *s->active);
    s->key = med_calloc(program->bucket_count + 1, sizeof *s->key);
    s->basis = med_calloc(program->type_count + 1, sizeof *s->basis);
    size_t rows = 0;
    for (size_t t = 0; s->active != NULL && t < program->type_count; t++) {
        if (workers[t] > 0)
            s->active[rows++] = t;
    }
    s->capacity = new_rationals(rows);
    s->matrix = new_rationals(rows * 2 * rows);
    s->value = new_rationals(rows);
    s->price = new_rationals(rows);
    s->move = new_rationals(rows);
    s->column = new_rationals(rows);
    bool ok = s->active != NULL && s->key != NULL && s->basis != NULL && s->capacity != NULL &&
              s->matrix != NULL && s->value != NULL && s->price != NULL && s->move != NULL &&
              s->column != NULL;
    s->rows = ok ? rows : 0;
    if (!ok) {
        /* Half-built arrays are freed without clearing numbers that hold nothing yet. */
        med_free(s->capacity);
        med_free(s->matrix);
        med_free(s->value);
        med_free(s->price);
        med_free(s->move);
        med_free(s->column);
        s->capacity = s->matrix = s->value = s->price = s->move = s->column = NULL;
        simplex_release(s);
        return MED_E_NOMEM;
    }
    for (size_t r = 0; r < rows; r++)
        set_capacity(s->capacity[r], program, workers[s->active[r]]);
    return 0;
}

/* Keys: the hint's largest share, else the smallest load. False: a bucket that nobody serves. */
static bool choose_keys(struct simplex *s, const double *hint)
{
    for (size_t i = 0; i < s->program->bucket_count; i++) {
        bool any = false;
        double best_share = 0.0;
        double best_load = 0.0;
        for (size_t r = 0; r < s->rows; r++) {
            double load = load_of(s, i, r);
            if (!isfinite(load))
                continue;
            double share = hint[i * s->program->type_count + s->active[r]];
            if (!isfinite(share))
                share = 0.0;
            if (!any || share > best_share || (share == best_share && load < best_load)) {
                best_share = share;
                best_load = load;
                s->key[i] = r;
                any = true;
            }
        }
        if (!any)
            return false;
    }
    return true;
}

/* Key loads per row into value, negated: the right-hand side of the working basis. */
static void key_loads(struct simplex *s)
{
    for (size_t r = 0; r < s->rows; r++)
        mpq_set_si(s->column[r], 0, 1);
    for (size_t i = 0; i < s->program->bucket_count; i++) {
        mpq_set_d(s->tmp, load_of(s, i, s->key[i]));
        mpq_add(s->column[s->key[i]], s->column[s->key[i]], s->tmp);
    }
}

/* All slack basic but the one of the most loaded row, where theta is. */
static void start_basis(struct simplex *s)
{
    key_loads(s);
    size_t worst = 0;
    for (size_t r = 0; r < s->rows; r++) {
        mpq_div(s->tmp, s->column[r], s->capacity[r]);
        if (r == 0 || mpq_cmp(s->tmp, s->best) > 0) {
            mpq_set(s->best, s->tmp);
            worst = r;
        }
        s->basis[r] = (struct column){.kind = COLUMN_SLACK, .type = r};
    }
    s->basis[worst] = (struct column){.kind = COLUMN_THETA};
}

/* Coefficients of a column in the working rows (relative to its bucket's key). */
static void fill_column(struct simplex *s, const struct column *c, mpq_t *into)
{
    for (size_t r = 0; r < s->rows; r++)
        mpq_set_si(into[r], 0, 1);
    if (c->kind == COLUMN_SLACK) {
        mpq_set_si(into[c->type], 1, 1);
    } else if (c->kind == COLUMN_THETA) {
        for (size_t r = 0; r < s->rows; r++)
            mpq_neg(into[r], s->capacity[r]);
    } else {
        size_t key = s->key[c->bucket];
        MED_ASSERT(key != c->type);
        mpq_set_d(into[c->type], load_of(s, c->bucket, c->type));
        mpq_set_d(into[key], load_of(s, c->bucket, key));
        mpq_neg(into[key], into[key]);
    }
}

/* Gauss-Jordan on [M | 1]. False: singular, which a correct pivot never makes. */
static bool invert(struct simplex *s)
{
    size_t n = s->rows;
    mpq_t *m = s->matrix;
    for (size_t c = 0; c < n; c++) {
        fill_column(s, &s->basis[c], s->column);
        for (size_t r = 0; r < n; r++) {
            mpq_set(m[r * 2 * n + c], s->column[r]);
            mpq_set_si(m[r * 2 * n + n + c], r == c ? 1 : 0, 1);
        }
    }
    for (size_t c = 0; c < n; c++) {
        size_t pivot = c;
        while (pivot < n && mpq_sgn(m[pivot * 2 * n + c]) == 0)
            pivot++;
        if (pivot == n)
            return false;
        for (size_t j = 0; j < 2 * n && pivot != c; j++)
            mpq_swap(m[pivot * 2 * n + j], m[c * 2 * n + j]);
        mpq_inv(s->tmp, m[c * 2 * n + c]);
        for (size_t j = 0; j < 2 * n; j++)
            mpq_mul(m[c * 2 * n + j], m[c * 2 * n + j], s->tmp);
        for (size_t r = 0; r < n; r++) {
            if (r == c || mpq_sgn(m[r * 2 * n + c]) == 0)
                continue;
            mpq_set(s->tmp, m[r * 2 * n + c]);
            for (size_t j = 0; j < 2 * n; j++) {
                mpq_mul(s->tmp2, s->tmp, m[c * 2 * n + j]);
                mpq_sub(m[r * 2 * n + j], m[r * 2 * n + j], s->tmp2);
            }
        }
    }
    return true;
}

/* ret = inverse * column */
static void apply_inverse(struct simplex *s, mpq_t *column, mpq_t *ret)
{
    for (size_t r = 0; r < s->rows; r++) {
        mpq_set_si(ret[r], 0, 1);
        for (size_t c = 0; c < s->rows; c++) {
            if (mpq_sgn(column[c]) == 0)
                continue;
            mpq_mul(s->tmp, *inverse_at(s, r, c), column[c]);
            mpq_add(ret[r], ret[r], s->tmp);
        }
    }
}

static size_t theta_row(const struct simplex *s)
{
    size_t r = 0;
    while (s->basis[r].kind != COLUMN_THETA)
        r++;
    MED_ASSERT(r < s->rows);
    return r;
}

/* Values of the basis, and prices: lambda = -(row of the inverse that belongs to theta). */
static bool refactor(struct simplex *s)
{
    if (!invert(s))
        return false;
    key_loads(s);
    for (size_t r = 0; r < s->rows; r++)
        mpq_neg(s->column[r], s->column[r]);
    apply_inverse(s, s->column, s->value);
    size_t theta = theta_row(s);
    for (size_t r = 0; r < s->rows; r++)
        mpq_neg(s->price[r], *inverse_at(s, theta, r));
    return true;
}

/* Keeps `candidate` if its reduced cost in tmp2 is the most negative (or the first, by Bland). */
static bool consider(struct simplex *s, bool found, struct column candidate, struct column *ret)
{
    if (mpq_sgn(s->tmp2) >= 0 || (found && (s->bland || mpq_cmp(s->tmp2, s->best) >= 0)))
        return found;
    mpq_set(s->best, s->tmp2);
    *ret = candidate;
    return true;
}

/* The column to enter; false at the optimum. */
static bool choose_entering(struct simplex *s, struct column *ret)
{
    bool found = false;
    for (size_t r = 0; r < s->rows; r++) {
        mpq_set(s->tmp2, s->price[r]);
        found = consider(s, found, (struct column){.kind = COLUMN_SLACK, .type = r}, ret);
    }
    for (size_t i = 0; i < s->program->bucket_count; i++) {
        if (found && s->bland)
            return true;
        size_t key = s->key[i];
        for (size_t r = 0; r < s->rows; r++) {
            double load = load_of(s, i, r);
            if (r == key || !isfinite(load))
                continue;
            mpq_set_d(s->tmp, load);
            mpq_mul(s->tmp2, s->tmp, s->price[r]);
            mpq_set_d(s->tmp, load_of(s, i, key));
            mpq_mul(s->tmp, s->tmp, s->price[key]);
            mpq_sub(s->tmp2, s->tmp2, s->tmp);
            found = consider(s, found,
                             (struct column){.kind = COLUMN_SHARE, .bucket = i, .type = r}, ret);
        }
    }
    return found;
}

/* Order for Bland's rule; keys take part as shares. */
static size_t order_of(const struct simplex *s, const struct column *c)
{
    if (c->kind == COLUMN_THETA)
        return 0;
    if (c->kind == COLUMN_SLACK)
        return 1 + c->type;
    return 1 + s->rows + c->bucket * s->rows + c->type;
}

/* Value of a bucket's key share (into tmp) and how fast it falls as the entering one grows (tmp2).
 */
static void key_value(struct simplex *s, size_t bucket, const struct column *entering)
{
    mpq_set_si(s->tmp, 1, 1);
    bool own = entering->kind == COLUMN_SHARE && entering->bucket == bucket;
    mpq_set_si(s->tmp2, own ? 1 : 0, 1);
    for (size_t r = 0; r < s->rows; r++) {
        if (s->basis[r].kind == COLUMN_SHARE && s->basis[r].bucket == bucket) {
            mpq_sub(s->tmp, s->tmp, s->value[r]);
            mpq_sub(s->tmp2, s->tmp2, s->move[r]);
        }
    }
}

/* What leaves. */
struct leaving {
    bool found;
    bool is_key;
    size_t row; /* of the basis; for keys any row of the bucket */
    struct column column;
};

/* Keeps the smaller ratio tmp/tmp2; ties go to the smaller order. */
static void offer_leaving(struct simplex *s, struct leaving *leaving, const struct leaving *offer)
{
    if (mpq_sgn(s->tmp2) <= 0)
        return;
    mpq_div(s->tmp, s->tmp, s->tmp2);
    int order = leaving->found ? mpq_cmp(s->tmp, s->best) : -1;
    if (order > 0 || (order == 0 && order_of(s, &offer->column) > order_of(s, &leaving->column)))
        return;
    mpq_set(s->best, s->tmp);
    *leaving = *offer;
    leaving->found = true;
}

static struct leaving choose_leaving(struct simplex *s, const struct column *entering)
{
    struct leaving leaving = {0};
    for (size_t r = 0; r < s->rows; r++) {
        if (s->basis[r].kind == COLUMN_THETA)
            continue;
        mpq_set(s->tmp, s->value[r]);
        mpq_set(s->tmp2, s->move[r]);
        struct leaving offer = {.row = r, .column = s->basis[r]};
        offer_leaving(s, &leaving, &offer);
    }
    for (size_t r = 0; r <= s->rows; r++) {
        const struct column *c = r < s->rows ? &s->basis[r] : entering;
        if (c->kind != COLUMN_SHARE)
            continue;
        key_value(s, c->bucket, entering);
        struct leaving offer = {
            .is_key = true,
            .row = r,
            .column = {.kind = COLUMN_SHARE, .bucket = c->bucket, .type = s->key[c->bucket]}};
        offer_leaving(s, &leaving, &offer);
    }
    return leaving;
}

/* One pivot. False: nothing leaves, which cannot be (theta is bounded below). */
static bool pivot(struct simplex *s, const struct column *entering)
{
    fill_column(s, entering, s->column);
    apply_inverse(s, s->column, s->move);
    struct leaving leaving = choose_leaving(s, entering);
    if (!leaving.found)
        return false;
    s->bland = mpq_sgn(s->best) == 0;
    if (!leaving.is_key) {
        s->basis[leaving.row] = *entering;
    } else if (leaving.row < s->rows) {
        /* Another basic share of the bucket becomes its key, the entering one takes its place. */
        s->key[leaving.column.bucket] = s->basis[leaving.row].type;
        s->basis[leaving.row] = *entering;
    } else {
        s->key[entering->bucket] = entering->type;
    }
    return true;
}

static void read_shares(struct simplex *s, double *shares)
{
    size_t types = s->program->type_count;
    memset(shares, 0, s->program->bucket_count * types * sizeof *shares);
    for (size_t i = 0; i < s->program->bucket_count; i++)
        shares[i * types + s->active[s->key[i]]] = 1.0;
    for (size_t r = 0; r < s->rows; r++) {
        if (s->basis[r].kind != COLUMN_SHARE)
            continue;
        size_t i = s->basis[r].bucket;
        double share = mpq_get_d(s->value[r]);
        shares[i * types + s->active[s->basis[r].type]] = share;
        double *key = &shares[i * types + s->active[s->key[i]]];
        *key = share < *key ? *key - share : 0.0;
    }
}

int med_verify_decide(const struct med_milp *program, const int64_t *workers, double *shares,
                      double *prices, bool *ret_feasible, struct med_err *err)
{
    struct simplex s;
    memset(prices, 0, program->type_count * sizeof *prices);
    if (simplex_init(&s, program, workers) < 0)
        return med_err_set(err, MED_E_NOMEM, "memory is exhausted while verifying a plan");
    int rc = 0;
    bool feasible = false;
    if (!choose_keys(&s, shares))
        goto out; /* no worker for some bucket: infeasible, prices 0 */
    start_basis(&s);
    for (int n = 0;; n++) {
        struct column entering = {0};
        if (n == PIVOTS_MAX || !refactor(&s)) {
            rc = med_err_set(err, MED_E_SOLVER,
                             "the exact verification did not end after %d pivots", n);
            goto out;
        }
        mpq_set_si(s.tmp, 1, 1);
        feasible = mpq_cmp(s.value[theta_row(&s)], s.tmp) <= 0;
        if (feasible || !choose_entering(&s, &entering))
            break;
        if (!pivot(&s, &entering)) {
            rc = med_err_set(err, MED_E_INTERNAL, "the exact verification lost its basis");
            goto out;
        }
    }
    if (feasible)
        read_shares(&s, shares);
    for (size_t r = 0; r < s.rows; r++)
        prices[s.active[r]] = mpq_get_d(s.price[r]);
out:
    simplex_release(&s);
    if (rc == 0)
        *ret_feasible = feasible;
    return rc;
}
