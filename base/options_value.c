/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parsers of option values: human numbers, durations, flags, choices.
 *
 * A decimal suffix or unit is applied by moving the decimal exponent in the text ("2.3M" is read as
 * 2.3e6), so that the result is the nearest double to what was written; whole numbers without point
 * or exponent are computed in integers.  Nothing depends on the locale.  thread: any.
 */
#include "base/options_internal.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/os.h"
#include "base/utf8.h"

#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DIGITS_MAX = 64,
    EXPECTED_MAX = 160,
    SHOWN_MAX = 96
};

/* A number as it was written: its digits, and what stands behind them. */
struct written {
    char digits[DIGITS_MAX]; /* sign, digits, point; no exponent */
    long exponent;
    bool is_whole; /* no point and no exponent */
    const char *suffix;
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Splits text; false if it does not start with a number. */
static bool written_split(const char *text, struct written *ret)
{
    const char *p = text;
    bool has_digits = false;
    ret->is_whole = true;
    ret->exponent = 0;
    if (*p == '-' || *p == '+')
        p++;
    for (; is_digit(*p); p++)
        has_digits = true;
    if (*p == '.') {
        ret->is_whole = false;
        for (p++; is_digit(*p); p++)
            has_digits = true;
    }
    size_t length = (size_t)(p - text);
    if (!has_digits || length >= DIGITS_MAX)
        return false;
    memcpy(ret->digits, text, length);
    ret->digits[length] = '\0';
    const char *after_sign = p + (*p && (p[1] == '-' || p[1] == '+') ? 2 : 1);
    if ((*p == 'e' || *p == 'E') && is_digit(*after_sign)) {
        char *end;
        ret->is_whole = false;
        ret->exponent = strtol(p + 1, &end, 10);
        p = end;
        if (ret->exponent > 400 || ret->exponent < -400)
            return false; // no double is that far out
    }
    ret->suffix = p;
    return true;
}

/* The double nearest to digits * 10^(exponent + shift). */
static double written_value(const struct written *w, long shift)
{
    char text[DIGITS_MAX + 16];
    (void)snprintf(text, sizeof text, "%se%ld", w->digits, w->exponent + shift);
    return med_os_strtod(text, NULL);
}

static int fail_found(const char *text, const char *what, const char *expected, struct med_err *err)
{
    char shown[SHOWN_MAX];
    (void)med_utf8_escape(shown, sizeof shown, text, strlen(text));
    return med_err_set(err, MED_E_USAGE, "%s: found \"%s\", expected %s", what, shown, expected);
}

static void range_text(double min, double max, char *out, size_t out_bytes)
{
    char low[MED_OS_DOUBLE_MAX] = "";
    char high[MED_OS_DOUBLE_MAX] = "";
    bool has_low = min > -DBL_MAX;
    bool has_high = max < DBL_MAX;
    if (has_low)
        (void)med_os_print_double(low, min);
    if (has_high)
        (void)med_os_print_double(high, max);
    if (has_low && has_high) {
        (void)snprintf(out, out_bytes, "from %s to %s", low, high);
    } else if (has_low || has_high) {
        (void)snprintf(out, out_bytes, "%s %s", has_low ? ">=" : "<=", has_low ? low : high);
    } else {
        (void)snprintf(out, out_bytes, "%s", "");
    }
}

/* Decimal suffixes shift the exponent, binary ones multiply. False: not a suffix. */
static bool suffix_find(const char *suffix, long *ret_shift, int64_t *ret_factor)
{
    static const char letters[] = "kMGT";
    *ret_shift = 0;
    *ret_factor = 1;
    if (*suffix == '\0')
        return true;
    const char *found = strchr(letters, *suffix == 'K' ? 'k' : *suffix);
    if (!found)
        return false;
    long place = found - letters + 1;
    if (suffix[1] == '\0') {
        *ret_shift = 3 * place;
        return true;
    }
    *ret_factor = INT64_C(1) << (10 * place);
    return strcmp(suffix + 1, "i") == 0;
}

int med_parse_number(const char *text, const char *what, double min, double max, double *ret_value,
                     struct med_err *err)
{
    struct written w;
    long shift;
    int64_t factor;
    if (written_split(text, &w) && suffix_find(w.suffix, &shift, &factor)) {
        double value = written_value(&w, shift) * (double)factor;
        if (isfinite(value) && value >= min && value <= max) {
            *ret_value = value;
            return 0;
        }
    }
    char range[EXPECTED_MAX / 2];
    char expected[EXPECTED_MAX];
    range_text(min, max, range, sizeof range);
    (void)snprintf(expected, sizeof expected, "a number%s%s", *range ? " " : "", range);
    return fail_found(text, what, expected, err);
}

/* The integer that was written, if it is one and fits. */
static bool written_integer(const struct written *w, int64_t *ret_value)
{
    long shift;
    int64_t factor;
    if (!suffix_find(w->suffix, &shift, &factor))
        return false;
    if (!w->is_whole) {
        double value = written_value(w, shift) * (double)factor;
        if (!(fabs(value) <= 9007199254740992.0) || value != floor(value))
            return false;
        *ret_value = (int64_t)value;
        return true;
    }
    for (; shift > 0; shift--)
        factor *= 10; // at most 10^12
    errno = 0;
    long long value = strtoll(w->digits, NULL, 10);
    return errno == 0 && !__builtin_mul_overflow((int64_t)value, factor, ret_value);
}

int med_parse_integer(const char *text, const char *what, int64_t min, int64_t max,
                      int64_t *ret_value, struct med_err *err)
{
    struct written w;
    int64_t value = 0;
    if (written_split(text, &w) && written_integer(&w, &value) && value >= min && value <= max) {
        *ret_value = value;
        return 0;
    }
    char expected[EXPECTED_MAX];
    if (min > INT64_MIN && max < INT64_MAX) {
        (void)snprintf(expected, sizeof expected, "a whole number from %" PRId64 " to %" PRId64,
                       min, max);
    } else if (min > INT64_MIN) {
        (void)snprintf(expected, sizeof expected, "a whole number >= %" PRId64, min);
    } else if (max < INT64_MAX) {
        (void)snprintf(expected, sizeof expected, "a whole number <= %" PRId64, max);
    } else {
        (void)snprintf(expected, sizeof expected, "a whole number");
    }
    return fail_found(text, what, expected, err);
}

/* Seconds as "500ms", "90s", "2h". */
static void duration_print(double seconds, char out[MED_OS_DOUBLE_MAX + 4])
{
    static const struct {
        const char *unit;
        double seconds;
    } units[] = {{"h", 3600}, {"m", 60}, {"s", 1}, {"ms", 1e-3}, {"us", 1e-6}, {"ns", 1e-9}};
    size_t best = 2; // seconds, for zero
    for (size_t i = 0; i < sizeof units / sizeof units[0] && seconds != 0; i++) {
        double count = seconds / units[i].seconds;
        best = i;
        if (count == floor(count) && fabs(count) >= 1)
            break;
    }
    char number[MED_OS_DOUBLE_MAX];
    (void)med_os_print_double(number, seconds / units[best].seconds);
    (void)snprintf(out, MED_OS_DOUBLE_MAX + 4, "%s%s", number,
                   seconds != 0 ? units[best].unit : "");
}

static void duration_range_text(double min_s, double max_s, char *out, size_t out_bytes)
{
    char low[MED_OS_DOUBLE_MAX + 4];
    char high[MED_OS_DOUBLE_MAX + 4];
    duration_print(min_s, low);
    if (max_s * (double)MED_NS_PER_S >= (double)INT64_MAX) {
        (void)snprintf(out, out_bytes, ">= %s", low);
        return;
    }
    duration_print(max_s, high);
    (void)snprintf(out, out_bytes, "from %s to %s", low, high);
}

/* Nanoseconds of a written duration; NAN if it is none. */
static double duration_ns(const char *text)
{
    static const struct {
        const char *unit;
        long shift;
        double factor;
    } units[] = {{"ns", 0, 1}, {"us", 3, 1}, {"ms", 6, 1},
                 {"s", 9, 1},  {"m", 9, 60}, {"h", 9, 3600}};
    struct written w;
    if (!written_split(text, &w))
        return NAN;
    if (*w.suffix == '\0' && written_value(&w, 0) == 0)
        return 0; // zero needs no unit
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(w.suffix, units[i].unit) == 0)
            return written_value(&w, units[i].shift) * units[i].factor;
    }
    return NAN;
}

int med_parse_duration(const char *text, const char *what, double min_s, double max_s,
                       int64_t *ret_ns, struct med_err *err)
{
    double ns = round(duration_ns(text));
    double limit = (double)INT64_MAX;
    if (ns > -limit && ns < limit && ns >= min_s * (double)MED_NS_PER_S &&
        ns <= max_s * (double)MED_NS_PER_S) {
        *ret_ns = (int64_t)ns;
        return 0;
    }
    char range[EXPECTED_MAX / 2];
    char expected[EXPECTED_MAX];
    duration_range_text(min_s, max_s, range, sizeof range);
    (void)snprintf(expected, sizeof expected, "a duration with its unit (ns, us, ms, s, m, h) %s",
                   range);
    return fail_found(text, what, expected, err);
}

/* Is `text` one of the alternatives of `choices`? */
static bool choice_has(const char *choices, const char *text)
{
    size_t length = strlen(text);
    for (const char *p = choices; p;) {
        const char *bar = strchr(p, '|');
        size_t piece = bar ? (size_t)(bar - p) : strlen(p);
        if (piece == length && memcmp(p, text, length) == 0)
            return true;
        p = bar ? bar + 1 : NULL;
    }
    return false;
}

static int parse_flag(const char *text, const char *what, bool *ret_value, struct med_err *err)
{
    static const char *const words[] = {"false", "true", "0", "1", "no", "yes", "off", "on"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(text, words[i]) == 0) {
            *ret_value = i % 2 == 1;
            return 0;
        }
    }
    return fail_found(text, what, "true or false (or 1, 0, yes, no, on, off)", err);
}

static int64_t clamp_integer(double value)
{
    if (value <= (double)INT64_MIN)
        return INT64_MIN;
    return value >= (double)INT64_MAX ? INT64_MAX : (int64_t)value;
}

static bool has_bounds(const struct med_option *option)
{
    return option->min != 0 || option->max != 0;
}

int med_option_parse_scalar(const struct med_option *option, const char *text, const char *what,
                            union option_scalar *ret_value, struct med_err *err)
{
    const double infinite = (double)INFINITY;
    double min = has_bounds(option) ? option->min : -infinite;
    double max = has_bounds(option) ? option->max : infinite;
    switch (option->type) {
    case MED_OPT_FLAG:
        return parse_flag(text, what, &ret_value->flag, err);
    case MED_OPT_INTEGER:
        return med_parse_integer(text, what, clamp_integer(min), clamp_integer(max),
                                 &ret_value->integer, err);
    case MED_OPT_NUMBER:
        return med_parse_number(text, what, min, max, &ret_value->number, err);
    case MED_OPT_DURATION:
        /* A duration without bounds is still not negative. */
        return med_parse_duration(text, what, has_bounds(option) ? min : 0, max,
                                  &ret_value->integer, err);
    case MED_OPT_CHOICE:
        if (!choice_has(option->choices, text)) {
            char expected[EXPECTED_MAX * 2];
            (void)snprintf(expected, sizeof expected, "one of %s", option->choices);
            return fail_found(text, what, expected, err);
        }
        ret_value->string = text;
        return 0;
    case MED_OPT_STRING:
    case MED_OPT_LIST:
    case MED_OPT_SECRET:
        ret_value->string = text;
        return 0;
    }
    MED_ASSERT(false && "a type outside enum med_option_type");
    return MED_E_INTERNAL;
}

void med_option_range_text(const struct med_option *option, char *out, size_t out_bytes)
{
    (void)snprintf(out, out_bytes, "%s", "");
    if (!has_bounds(option))
        return;
    if (option->type == MED_OPT_DURATION) {
        duration_range_text(option->min, option->max, out, out_bytes);
    } else if (option->type == MED_OPT_INTEGER || option->type == MED_OPT_NUMBER) {
        range_text(option->min, option->max, out, out_bytes);
    }
}
