/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Prometheus text format (version 0.0.4), written by hand.
 *
 * A family is announced once (HELP, TYPE), then its samples follow.  Label values and help texts are
 * escaped; bytes that are not UTF-8 become '?', since a scraper refuses the whole page for one.
 * The first failure of the buffer is kept and later calls do nothing.
 * thread: the owner's.  owns: nothing; the buffer is borrowed.
 * source: prometheus.io/docs/instrumenting/exposition_formats
 */
#ifndef MED_ROUTER_PROMETHEUS_H
#define MED_ROUTER_PROMETHEUS_H

#include "base/buf.h"
#include "base/hist.h"

#include <stdint.h>

struct med_prom {
    struct med_buf *buf;
    int rc;
    const char *name; /* of the family that is open */
};

/* name and value, value may be hostile. */
struct med_prom_label {
    const char *name, *value;
};

enum {
    MED_PROM_LABELS_MAX = 6
};

void med_prom_init(struct med_prom *prom, struct med_buf *buf);
int med_prom_finish(const struct med_prom *prom) MED_MUST_CHECK;

/* type: "counter", "gauge" or "histogram". */
void med_prom_family(struct med_prom *prom, const char *name, const char *type, const char *help);
/* labels end at the first without a name; NULL: none. */
void med_prom_number(struct med_prom *prom, const struct med_prom_label *labels, double value);
void med_prom_count(struct med_prom *prom, const struct med_prom_label *labels, uint64_t value);
void med_prom_hist(struct med_prom *prom, const struct med_prom_label *labels,
                   const struct med_hist *hist);

/* For families of thousands of samples: the labels are written once, when their series begins. */
int med_prom_print_labels(struct med_buf *out, const struct med_prom_label *labels) MED_MUST_CHECK;
/* labels: as print_labels wrote them. */
void med_prom_printed_count(struct med_prom *prom, const char *labels, uint64_t value);
/* The value in seconds, exactly. */
void med_prom_printed_ns(struct med_prom *prom, const char *labels, uint64_t ns);

#endif
