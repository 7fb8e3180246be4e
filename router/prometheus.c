/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Prometheus text format, see prometheus.h.  Runs on the owner's thread.
 */
#include "router/prometheus.h"

#include "base/os.h"
#include "base/utf8.h"

#include <inttypes.h>
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

/* suffix: "_bucket"; le: NULL or one more label. */
static void put_series(struct med_prom *prom, const char *suffix,
                       const struct med_prom_label *labels, const double *le)
{
    const char *separator = "{";
    put_str(prom, prom->name);
    put_str(prom, suffix);
    for (size_t i = 0; labels != NULL && i < MED_PROM_LABELS_MAX && labels[i].name != NULL; i++) {
        put_str(prom, separator);
        put_str(prom, labels[i].name);
        put_str(prom, "=\"");
        put_escaped(prom, labels[i].value != NULL ? labels[i].value : "", true);
        put_str(prom, "\"");
        separator = ",";
    }
    if (le != NULL) {
        put_str(prom, separator);
        put_str(prom, "le=\"");
        put_double(prom, *le);
        put_str(prom, "\"");
        separator = ",";
    }
    put_str(prom, *separator == ',' ? "} " : " ");
}

static void put_u64(struct med_prom *prom, uint64_t value)
{
    if (prom->rc == 0)
        prom->rc = med_buf_printf(prom->buf, "%" PRIu64 "\n", value);
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
