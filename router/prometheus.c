/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Prometheus text format, see prometheus.h.  Runs on the owner's thread.
 */
#include "router/prometheus.h"

#include "base/os.h"
#include "base/utf8.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static void put(struct med_prom *prom, const char *s, size_t count)
{
    if (prom->rc == 0)
        prom->rc = med_buf_append(prom->buf, s, count);
}

static void put_str(struct med_prom *prom, const char *s)
{
    put(prom, s, strlen(s));
}

/* quote: also escape quotes, as label values need. */
static void put_escaped(struct med_prom *prom, const char *s, bool quote)
{
    size_t left = strlen(s);
    while (left > 0) {
        size_t bytes = med_utf8_char_bytes(s, left);
        if (bytes == 0) {
            put(prom, "?", 1);
            bytes = 1;
        } else if (*s == '\\') {
            put(prom, "\\\\", 2);
        } else if (*s == '\n') {
            put(prom, "\\n", 2);
        } else if (*s == '"' && quote) {
            put(prom, "\\\"", 2);
        } else {
            put(prom, s, bytes);
        }
        s += bytes;
        left -= bytes;
    }
}

static void put_double(struct med_prom *prom, double value)
{
    char text[MED_OS_DOUBLE_MAX];
    if (isnan(value)) {
        put_str(prom, "NaN");
    } else if (isinf(value)) {
        put_str(prom, value > 0 ? "+Inf" : "-Inf");
    } else {
        put(prom, text, med_os_print_double(text, value));
    }
}

/* `{a="b",c="d"`, or nothing; what the next label is separated with. */
static const char *put_labels(struct med_prom *prom, const struct med_prom_label *labels)
{
    const char *separator = "{";
    for (size_t i = 0; labels != NULL && i < MED_PROM_LABELS_MAX && labels[i].name != NULL; i++) {
        put_str(prom, separator);
        put_str(prom, labels[i].name);
        put_str(prom, "=\"");
        put_escaped(prom, labels[i].value != NULL ? labels[i].value : "", true);
        put_str(prom, "\"");
        separator = ",";
    }
    return separator;
}

/* suffix: "_bucket"; le: NULL or one more label. */
static void put_series(struct med_prom *prom, const char *suffix,
                       const struct med_prom_label *labels, const double *le)
{
    put_str(prom, prom->name);
    put_str(prom, suffix);
    const char *separator = put_labels(prom, labels);
    if (le != NULL) {
        put_str(prom, separator);
        put_str(prom, "le=\"");
        put_double(prom, *le);
        put_str(prom, "\"");
        separator = ",";
    }
    put_str(prom, *separator == ',' ? "} " : " ");
}

/* By hand: a page has thousands of them. At least `digits` digits. */
static void put_digits(struct med_prom *prom, uint64_t value, size_t digits)
{
    char text[24];
    size_t at = sizeof(text);
    while (value > 0 || sizeof(text) - at < digits) {
        text[--at] = (char)('0' + value % 10);
        value /= 10;
    }
    put(prom, text + at, sizeof(text) - at);
}

static void put_u64(struct med_prom *prom, uint64_t value)
{
    put_digits(prom, value, 1);
    put(prom, "\n", 1);
}

void med_prom_init(struct med_prom *prom, struct med_buf *buf)
{
    *prom = (struct med_prom){.buf = buf, .name = ""};
}

int med_prom_finish(const struct med_prom *prom)
{
    return prom->rc;
}

void med_prom_family(struct med_prom *prom, const char *name, const char *type, const char *help)
{
    prom->name = name;
    put_str(prom, "# HELP ");
    put_str(prom, name);
    put_str(prom, " ");
    put_escaped(prom, help, false);
    put_str(prom, "\n# TYPE ");
    put_str(prom, name);
    put_str(prom, " ");
    put_str(prom, type);
    put_str(prom, "\n");
}

void med_prom_number(struct med_prom *prom, const struct med_prom_label *labels, double value)
{
    put_series(prom, "", labels, NULL);
    put_double(prom, value);
    put_str(prom, "\n");
}

void med_prom_count(struct med_prom *prom, const struct med_prom_label *labels, uint64_t value)
{
    put_series(prom, "", labels, NULL);
    put_u64(prom, value);
}

void med_prom_hist(struct med_prom *prom, const struct med_prom_label *labels,
                   const struct med_hist *hist)
{
    uint64_t below = 0;
    for (size_t i = 0; i <= hist->bound_count; i++) {
        double le = i < hist->bound_count ? hist->bounds[i] : HUGE_VAL;
        below += hist->counts[i];
        put_series(prom, "_bucket", labels, &le);
        put_u64(prom, below);
    }
    put_series(prom, "_sum", labels, NULL);
    put_double(prom, hist->sum);
    put_str(prom, "\n");
    put_series(prom, "_count", labels, NULL);
    put_u64(prom, hist->count);
}

int med_prom_print_labels(struct med_buf *out, const struct med_prom_label *labels)
{
    struct med_prom prom;
    med_prom_init(&prom, out);
    if (*put_labels(&prom, labels) == ',')
        put_str(&prom, "}");
    return med_prom_finish(&prom);
}

static void put_printed(struct med_prom *prom, const char *labels)
{
    put_str(prom, prom->name);
    put_str(prom, labels);
    put(prom, " ", 1);
}

void med_prom_printed_count(struct med_prom *prom, const char *labels, uint64_t value)
{
    put_printed(prom, labels);
    put_u64(prom, value);
}

void med_prom_printed_ns(struct med_prom *prom, const char *labels, uint64_t ns)
{
    put_printed(prom, labels);
    put_digits(prom, ns / 1000000000, 1);
    put(prom, ".", 1);
    put_digits(prom, ns % 1000000000, 9);
    put(prom, "\n", 1);
}
