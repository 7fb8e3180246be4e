/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The search over sizes and rates, see search.h.
 *
 * What one request costs a busy server is taken as x * TTFT alone + y * (output - 1) * TPOT alone,
 * seconds of the server per request: x and y are fitted to the sizes whose rates are known (relative
 * least squares), drawn towards x = 1, y = 1/8 by the weight of half a size, so that two sizes
 * already speak for themselves.  Nothing here knows a clock.
 */
#include "profiles/profiler/search.h"

#include "base/assert.h"

#include <math.h>

static const double grow = 1.3; /* first step outwards; then its square, and so on */
static const double below_what_came = 0.8;
static const double fall_most = 5.0;     /* in one step */
static const double open_unknown = 2.5;  /* open logarithm of a size without any bound */
static const double open_one_side = 0.7; /* with one */
static const double prior_x = 1.0, prior_y = 1.0 / 8;
static const double prior_weight = 0.5;
static const double drain_alone = 3.0;    /* a point's end, in requests alone */
static const double warm_alone = 3.0;     /* its beginning */
static const double floor_share = 0.02;   /* of one request at a time: below it nothing is sought */
static const double second_ttft_s = 0.05; /* where nothing is measured: a guess for the estimate */
static const double second_token_s = 0.03;
enum {
    IDLE_REQUESTS = 5,
    POINTS_EXPECTED = 6
};

void med_search_init(struct med_search *search, double precision, int64_t requests,
                     int64_t points_max)
{
    MED_ASSERT(precision > 0);
    *search =
        (struct med_search){.precision = precision, .requests = requests, .points_max = points_max};
}

int med_search_add(struct med_search *search, double input_tokens, double output_tokens,
                   double share)
{
    if (search->count == MED_SEARCH_SIZES_MAX)
        return MED_E_LIMIT;
    search->sizes[search->count++] = (struct med_search_size){
        .input_tokens = input_tokens,
        .output_tokens = output_tokens,
        .share = share,
        .idle_ttft_s = NAN,
        .idle_tpot_s = NAN,
        .broken_per_s = INFINITY,
        .ceiling_per_s = INFINITY,
        .came_per_s = NAN,
    };
    return 0;
}

/* ---- what is known of a size ---- */

static bool is_idle_known(const struct med_search_size *s)
{
    return !isnan(s->idle_ttft_s);
}

static double decode_s(const struct med_search_size *s)
{
    double tokens = s->output_tokens - 1;
    return tokens > 0 ? tokens * s->idle_tpot_s : 0;
}

double med_search_alone_s(const struct med_search *search, size_t size)
{
    const struct med_search_size *s = &search->sizes[size];
    if (is_idle_known(s))
        return s->idle_ttft_s + decode_s(s);
    /* Per token, from the measured size that is nearest in input: neither grows faster than so. */
    const struct med_search_size *near = NULL;
    double distance = INFINITY;
    for (size_t i = 0; i < search->count; i++) {
        const struct med_search_size *other = &search->sizes[i];
        double d = fabs(log(other->input_tokens / s->input_tokens));
        if (is_idle_known(other) && d < distance) {
            near = other;
            distance = d;
        }
    }
    if (!near)
        return NAN;
    double longer = fmax(1, s->input_tokens / near->input_tokens);
    return near->idle_ttft_s * longer + fmax(0, s->output_tokens - 1) * near->idle_tpot_s;
}

double med_search_warm_s(const struct med_search *search, size_t size)
{
    return warm_alone * med_search_alone_s(search, size);
}

static double known_rate(const struct med_search_size *s)
{
    if (s->met_per_s > 0)
        return isinf(s->broken_per_s) ? s->met_per_s : sqrt(s->met_per_s * s->broken_per_s);
    return isinf(s->broken_per_s) ? NAN : s->broken_per_s / grow;
}

/* x and y by relative least squares: minimise sum (rate_i * (x t_i + y d_i) - 1)^2. */
static double guess_rate(const struct med_search *search, const struct med_search_size *s)
{
    double w = prior_weight;
    double xx = w, yy = w, xy = 0, xr = w, yr = w; /* in units of the prior */
    for (size_t i = 0; i < search->count; i++) {
        const struct med_search_size *other = &search->sizes[i];
        double rate = known_rate(other);
        if (!is_idle_known(other) || isnan(rate))
            continue;
        double t = prior_x * other->idle_ttft_s * rate, d = prior_y * decode_s(other) * rate;
        xx += t * t;
        yy += d * d;
        xy += t * d;
        xr += t;
        yr += d;
    }
    double determinant = xx * yy - xy * xy;
    double x = (xr * yy - yr * xy) / determinant, y = (yr * xx - xr * xy) / determinant;
    x = prior_x * fmax(x, 0.02);
    y = prior_y * fmax(y, 0.02);
    return 1 / (x * s->idle_ttft_s + y * decode_s(s));
}

/* ---- the next rate of one size ---- */

static double next_rate(const struct med_search *search, const struct med_search_size *s)
{
    double rate;
    if (s->met_per_s > 0 && isfinite(s->broken_per_s)) {
        rate = sqrt(s->met_per_s * s->broken_per_s);
    } else if (s->met_per_s > 0) {
        rate = s->met_per_s * pow(grow, (double)s->points);
    } else if (isfinite(s->broken_per_s)) {
        rate = s->broken_per_s / pow(grow, (double)s->points);
        /* Less came out than was sent: the answer is below that. */
        if (s->came_per_s < rate)
            rate = fmax(below_what_came * s->came_per_s, s->broken_per_s / fall_most);
    } else {
        rate = guess_rate(search, s);
    }
    /* A server gives no more than what came out of it when it was full. */
    double most = 0.95 * s->ceiling_per_s;
    return most > s->met_per_s * (1 + search->precision) ? fmin(rate, most) : rate;
}

bool med_search_is_done(const struct med_search *search, size_t size)
{
    const struct med_search_size *s = &search->sizes[size];
    return s->stopped || (int64_t)s->points >= search->points_max ||
           (s->met_per_s > 0 && s->broken_per_s <= s->met_per_s * (1 + search->precision));
}

static double open_logarithm(const struct med_search_size *s)
{
    if (s->met_per_s > 0 && isfinite(s->broken_per_s))
        return log(s->broken_per_s / s->met_per_s);
    return s->points > 0 ? open_one_side : open_unknown;
}

static double step_seconds(const struct med_search *search, size_t size, double rate_per_s)
{
    double alone = med_search_alone_s(search, size);
    const struct med_search_size *s = &search->sizes[size];
    if (isnan(alone))
        alone = second_ttft_s + s->output_tokens * second_token_s;
    if (rate_per_s == 0)
        return IDLE_REQUESTS * alone;
    return (double)search->requests / rate_per_s + (warm_alone + drain_alone) * alone;
}

/* What a size's requests are of the whole: by their share and the time that each takes alone. */
static double work_of(const struct med_search *search, size_t size)
{
    double alone = med_search_alone_s(search, size);
    const struct med_search_size *s = &search->sizes[size];
    if (isnan(alone)) /* a token of a prompt is cheaper than one of an answer: by 20 or so */
        alone = s->input_tokens / 20 + s->output_tokens;
    return s->share * alone;
}

bool med_search_next(const struct med_search *search, double seconds_left,
                     struct med_search_step *ret_step)
{
    double best = 0;
    for (size_t i = 0; i < search->count; i++) {
        const struct med_search_size *s = &search->sizes[i];
        if (med_search_is_done(search, i))
            continue;
        double rate = is_idle_known(s) ? next_rate(search, s) : 0;
        double seconds = step_seconds(search, i, rate);
        double value = work_of(search, i) * open_logarithm(s) / seconds;
        if (seconds <= seconds_left && value > best) {
            best = value;
            *ret_step = (struct med_search_step){i, rate, seconds};
        }
    }
    return best > 0;
}

double med_search_seconds_left(const struct med_search *search)
{
    double sum = 0;
    for (size_t i = 0; i < search->count; i++) {
        const struct med_search_size *s = &search->sizes[i];
        if (med_search_is_done(search, i))
            continue;
        double points = POINTS_EXPECTED;
        if (s->met_per_s > 0 && isfinite(s->broken_per_s)) {
            double halvings = log2(open_logarithm(s) / log(1 + search->precision));
            points = fmin(ceil(halvings), (double)search->points_max - (double)s->points);
        }
        double rate;
        if (is_idle_known(s)) {
            rate = next_rate(search, s);
        } else {
            double alone = med_search_alone_s(search, i);
            rate = 4 / (isnan(alone) ? second_ttft_s + s->output_tokens * second_token_s : alone);
            sum += step_seconds(search, i, 0);
        }
        sum += points * step_seconds(search, i, rate);
    }
    return sum;
}

/* ---- what came ---- */

void med_search_take_idle(struct med_search *search, size_t size, double ttft_s, double tpot_s,
                          bool meets)
{
    struct med_search_size *s = &search->sizes[size];
    s->idle_ttft_s = fmax(ttft_s, 1e-6);
    s->idle_tpot_s = isnan(tpot_s) ? 0 : tpot_s;
    s->stopped = s->stopped || !meets;
}

void med_search_take(struct med_search *search, size_t size,
                     const struct med_search_outcome *outcome)
{
    struct med_search_size *s = &search->sizes[size];
    double rate_per_s = outcome->rate_per_s;
    s->points++;
    if (outcome->meets) {
        s->met_per_s = fmax(s->met_per_s, rate_per_s);
    } else if (rate_per_s < s->broken_per_s) {
        s->broken_per_s = rate_per_s;
        s->came_per_s = outcome->throughput_per_s;
    }
    /* Chance may break a rate below one that was met, of another run: what was met was met. */
    if (s->broken_per_s <= s->met_per_s)
        s->broken_per_s = s->met_per_s * (1 + search->precision);
    if (outcome->saturated && outcome->throughput_per_s > 0)
        s->ceiling_per_s = fmin(s->ceiling_per_s, outcome->throughput_per_s);
    if (s->ceiling_per_s < s->met_per_s)
        s->ceiling_per_s = INFINITY; /* it gave more than that: it had not been full */
    double alone = med_search_alone_s(search, size);
    if (!outcome->meets && s->met_per_s == 0 && rate_per_s < floor_share / alone)
        s->stopped = true;
}
