/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults in a replay's report, as text and as JSON.  thread: any. It computes nothing.
 */
#include "allocator/replay/faults/study.h"
#include "allocator/replay/report/report.h"

#include <math.h>

/* ---- text ---- */

static int put_share(struct med_buf *out, double share)
{
    return isnan(share) ? med_buf_printf(out, " %8s", "-")
                        : med_buf_printf(out, " %8.1f", 100 * share);
}

static int put_p99(struct med_buf *out, const struct med_tally_group *g)
{
    double ms = g->latency[MED_TALLY_TTFT].p99;
    return isnan(ms) ? med_buf_printf(out, " %8s", "-") : med_buf_printf(out, " %8.0f", ms);
}

static void length_text(double seconds, char *out, size_t bytes)
{
    if (seconds < 120) {
        (void)snprintf(out, bytes, "%.4g s", seconds);
    } else {
        (void)snprintf(out, bytes, "%.4g min", seconds / 60);
    }
}

static void back_text(const struct med_fault_effect *e, char *out, size_t bytes)
{
    if (!e->fell) {
        (void)snprintf(out, bytes, "did not fall");
    } else if (isnan(e->back_s)) {
        (void)snprintf(out, bytes, "not before the end");
    } else {
        length_text(e->back_s, out, bytes);
    }
}

static int put_strike(struct med_buf *out, const struct med_fault_strike *s,
                      const struct med_fault_effect *e)
{
    const struct med_tally_group *groups[] = {&e->before, &e->during, &e->without, &e->after};
    char length[32] = "-";
    char back[32];
    if (s->event.for_ns > 0)
        length_text((double)s->event.for_ns / 1e9, length, sizeof length);
    back_text(e, back, sizeof back);
    int rc = med_buf_printf(out, "  %9.3f s  %-9s %-24s %9s", (double)s->event.at_ns / 1e9,
                            med_fault_name(s->event.kind), s->event.target, length);
    for (size_t i = 0; rc >= 0 && i < sizeof groups / sizeof groups[0]; i++)
        rc = put_share(out, groups[i]->attainment);
    for (size_t i = 0; rc >= 0 && i < sizeof groups / sizeof groups[0]; i++)
        rc = put_p99(out, groups[i]);
    if (rc < 0)
        return rc;
    return med_buf_printf(out, " %7llu %7llu %6llu  %s\n",
                          (unsigned long long)(s->after.retried - s->before.retried),
                          (unsigned long long)(s->after.resumed - s->before.resumed),
                          (unsigned long long)(s->after.lost - s->before.lost), back);
}

int med_fault_study_text(struct med_buf *out, const struct med_fault_log *log,
                         const struct med_fault_study *study, bool colour)
{
    int rc = med_buf_printf(out, colour ? "\n\033[1m%s\033[0m\n  " : "\n%s\n  ", "Faults");
    if (rc >= 0 && !isnan(study->attainment)) {
        rc = med_buf_printf(out, "%.1f %% within all objectives, %.1f %% without faults; ",
                            100 * study->attainment, 100 * study->attainment_without);
    }
    if (rc >= 0) {
        rc = med_buf_printf(out, "%llu sent again, of which %llu had begun; %llu lost\n",
                            (unsigned long long)log->total.retried,
                            (unsigned long long)log->total.resumed,
                            (unsigned long long)log->total.lost);
    }
    if (rc >= 0) {
        rc = med_buf_printf(out, "  %11s  %-9s %-24s %9s %35s %35s\n", "", "", "", "",
                            "within %                  ", "TTFT p99, ms               ");
    }
    if (rc >= 0) {
        rc = med_buf_printf(out,
                            "  %11s  %-9s %-24s %9s %8s %8s %8s %8s %8s %8s %8s %8s %7s %7s %6s  "
                            "%s\n",
                            "at", "fault", "of", "for", "before", "during", "without", "after",
                            "before", "during", "without", "after", "retried", "resumed", "lost",
                            "back after");
    }
    for (size_t i = 0; rc >= 0 && i < log->count; i++)
        rc = put_strike(out, &log->strikes[i], &study->effects[i]);
    return rc;
}

/* ---- JSON ---- */

static void put_seconds(struct med_json_writer *w, const char *key, bool known, int64_t ns)
{
    med_replay_put_number(w, key, known ? (double)ns / 1e9 : NAN);
}

static void put_counts(struct med_json_writer *w, const struct med_fault_counts *from,
                       const struct med_fault_counts *to)
{
    med_json_put_integer(w, "retried", (int64_t)(to->retried - from->retried));
    med_json_put_integer(w, "resumed", (int64_t)(to->resumed - from->resumed));
    med_json_put_integer(w, "lost", (int64_t)(to->lost - from->lost));
    med_json_put_integer(w, "refused", (int64_t)(to->refused - from->refused));
    med_json_put_integer(w, "expired", (int64_t)(to->expired - from->expired));
    med_json_put_integer(w, "stale_messages", (int64_t)(to->stale_messages - from->stale_messages));
}

static void put_group(struct med_json_writer *w, const char *key, const struct med_tally_group *g)
{
    med_json_begin_object(w, key);
    med_replay_put_group(w, g);
    med_json_end_object(w);
}

static void put_strike_json(struct med_json_writer *w, const struct med_fault_strike *s,
                            const struct med_fault_effect *e)
{
    med_json_begin_object(w, NULL);
    put_seconds(w, "at_s", true, s->event.at_ns);
    med_json_put_string(w, "fault", med_fault_name(s->event.kind));
    med_json_put_string(w, "target", s->event.target);
    put_seconds(w, "for_s", s->event.for_ns > 0, s->event.for_ns);
    med_replay_put_number(w, "factor", s->event.kind == MED_FAULT_SLOW ? s->event.factor : NAN);
    put_seconds(w, "by_s", s->event.kind == MED_FAULT_DELAY, s->event.by_ns);
    med_json_put_integer(w, "workers", (int64_t)s->workers);
    put_seconds(w, "suspect_s", s->suspect_ns >= 0, s->suspect_ns);
    put_seconds(w, "gone_s", s->gone_ns >= 0, s->gone_ns);
    put_counts(w, &s->before, &s->after);
    med_json_put_bool(w, "fell", e->fell);
    med_replay_put_number(w, "back_after_s", e->back_s);
    put_group(w, "before", &e->before);
    put_group(w, "during", &e->during);
    put_group(w, "without", &e->without);
    put_group(w, "after", &e->after);
    med_json_end_object(w);
}

void med_fault_study_json(struct med_json_writer *w, const struct med_fault_log *log,
                          const struct med_fault_study *study)
{
    const struct med_fault_counts none = {0};
    med_json_begin_object(w, "faults");
    med_replay_put_number(w, "attainment", study->attainment);
    med_replay_put_number(w, "attainment_without", study->attainment_without);
    med_json_put_number(w, "window_s", study->window_s);
    put_counts(w, &none, &log->total);
    med_json_begin_array(w, "strikes");
    for (size_t i = 0; i < log->count; i++)
        put_strike_json(w, &log->strikes[i], &study->effects[i]);
    med_json_end_array(w);
    med_json_end_object(w);
}
