/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark's report (see report.h).
 *
 * A floor is what the shapes cost at the rates that were measured in the same run: the larger of
 * reading the weights and computing with them, then the same of keys and values.  Of two measurements
 * of a limit the larger counts.
 * thread: main.  Measures nothing.
 */
#include "worker/bench/report.h"

#include <math.h>
#include <stdio.h>

static double read_limit(const struct med_bench_report *r)
{
    return r->has_limits ? fmax(r->limits[0].read_bytes_per_s, r->limits[1].read_bytes_per_s)
                         : r->read.median;
}

static double flops_limit(const struct med_bench_report *r)
{
    return fmax(r->limits[0].flops_per_s, r->limits[1].flops_per_s);
}

static double floor_ms(const struct med_bench_report *r, const struct med_bench_case *c)
{
    return 1e3 * med_work_floor_s(&c->work, read_limit(r), flops_limit(r));
}

static double tokens_per_s(const struct med_bench_case *c)
{
    return (double)(c->iteration.decodes + c->iteration.prefill) / c->ms.median * 1e3;
}

static double bytes_per_s(const struct med_bench_case *c)
{
    return med_work_bytes(&c->work) / c->ms.median * 1e3;
}

static double flops_per_s(const struct med_bench_case *c)
{
    return med_work_flops(&c->work) / c->ms.median * 1e3;
}

/* ---- text ------------------------------------------------------------------------------------- */

static void print_spread(struct med_bench_spread s, double scale, int digits)
{
    printf(" %9.*f (%.*f to %.*f)", digits, s.median * scale, digits, s.min * scale, digits,
           s.max * scale);
}

/* Beside what was measured before and after all cases. */
static void print_beside_limits(const struct med_bench_report *r, const struct med_bench_case *c)
{
    printf(", floor %.2f, x %.3f, %.0f tokens/s, %.2f GB, %.2f TFLOP, of read %.1f %%, of matrix "
           "%.1f %%",
           floor_ms(r, c), c->ms.median / floor_ms(r, c), tokens_per_s(c),
           med_work_bytes(&c->work) * 1e-9, med_work_flops(&c->work) * 1e-12,
           100 * bytes_per_s(c) / read_limit(r), 100 * flops_per_s(c) / flops_limit(r));
    if (r->peak_bytes_per_s > 0)
        printf(", MBU %.1f %%", 100 * bytes_per_s(c) / r->peak_bytes_per_s);
    if (r->peak_flops_per_s > 0)
        printf(", MFU %.1f %%", 100 * flops_per_s(c) / r->peak_flops_per_s);
}

/* Beside what was measured in the same repeat. */
static void print_beside_parts(const struct med_bench_case *c)
{
    printf(", %.2f GB, %.1f GFLOP", med_work_bytes(&c->work) * 1e-9,
           med_work_flops(&c->work) * 1e-9);
    if (c->iteration.prefill == 0) {
        printf(", of read %%");
        print_spread(c->read_part, 100, 1);
    } else if (c->iteration.decodes == 0) {
        printf(", %.1f tokens/s, of BLAS %%", tokens_per_s(c));
        print_spread(c->blas_part, 100, 1);
        printf(", BLAS %.1f GFLOP/s", c->blas_flops.median * 1e-9);
    }
}

static void print_case(const struct med_bench_report *r, const struct med_bench_case *c)
{
    const struct med_bench_iteration *it = &c->iteration;
    printf("%s %4lld x %5lld, prefill %5lld: ",
           it->prefill == 0   ? "decode "
           : it->decodes == 0 ? "prefill"
                              : "mixed  ",
           (long long)it->decodes, (long long)it->context, (long long)it->prefill);
    if (c->absent) {
        printf("its KV cache does not fit\n");
        return;
    }
    printf("ms");
    print_spread(c->ms, 1, r->has_limits ? 3 : 1);
    if (r->has_limits) {
        print_beside_limits(r, c);
    } else {
        print_beside_parts(c);
    }
    printf("\n");
}

static void print_limits(const struct med_bench_report *r)
{
    for (int i = 0; i < 2; i++) {
        printf("%s all cases: read %.0f GB/s (spread %.1f %%), bf16 products %.0f TFLOP/s (spread "
               "%.1f %%)\n",
               i == 0 ? "before" : "after", r->limits[i].read_bytes_per_s * 1e-9,
               100 * r->limits[i].read_spread, r->limits[i].flops_per_s * 1e-12,
               100 * r->limits[i].flops_spread);
    }
    if (r->peak_bytes_per_s > 0 || r->peak_flops_per_s > 0) {
        printf("peaks: %.0f GB/s, %.0f TFLOP/s\n", r->peak_bytes_per_s * 1e-9,
               r->peak_flops_per_s * 1e-12);
    }
    printf("weights loaded in %.2f s, memory taken in %.2f s, %lld graphs recorded in %.2f s, %lld "
           "algorithms timed and %lld read in %.2f s; %lld runs replayed, %lld op by op\n",
           r->times.load_s, r->times.memory_s, (long long)r->stats.graphs, r->stats.record_seconds,
           (long long)r->stats.tuned, (long long)r->stats.tuned_before, r->stats.tune_seconds,
           (long long)r->stats.replayed_total, (long long)r->stats.queued_total);
}

void med_bench_report_text(const struct med_bench_report *report)
{
    const struct med_bench_report *r = report;
    printf("%s, %.2f G parameters, %s, %d threads, %s, KV cache of %lld tokens\n",
           r->checkpoint->dir, (double)r->checkpoint->parameters * 1e-9, r->dtype, r->threads,
           r->description, (long long)r->kv_tokens);
    if (r->has_limits) {
        print_limits(r);
    } else {
        printf("memory read, GB/s:");
        print_spread(r->read, 1e-9, 1);
        printf("\n");
    }
    for (size_t i = 0; i < r->count; i++)
        print_case(r, &r->cases[i]);
}

/* ---- JSON ------------------------------------------------------------------------------------- */

static void put_spread(struct med_json_writer *w, const char *key, struct med_bench_spread s)
{
    med_json_begin_row_object(w, key);
    med_json_put_number(w, "min", s.min);
    med_json_put_number(w, "median", s.median);
    med_json_put_number(w, "max", s.max);
    med_json_end_object(w);
}

void med_bench_report_machine(const struct med_bench_report *r, struct med_json_writer *w)
{
    med_json_put_string(w, "model", r->checkpoint->dir);
    med_json_put_string(w, "dtype", r->dtype);
    med_json_put_integer(w, "parameters", r->checkpoint->parameters);
    med_json_put_string(w, "backend", r->backend);
    med_json_put_integer(w, "threads", r->threads);
    med_json_put_string(w, "device", r->description);
}

static void put_limits(struct med_json_writer *w, const struct med_bench_report *r)
{
    static const char *const names[] = {"before", "after"};
    med_json_begin_object(w, "limits");
    med_json_put_number(w, "read_bytes_per_s", read_limit(r));
    med_json_put_number(w, "flops_per_s", flops_limit(r));
    med_json_put_number(w, "peak_bytes_per_s", r->peak_bytes_per_s);
    med_json_put_number(w, "peak_flops_per_s", r->peak_flops_per_s);
    for (int i = 0; i < 2; i++) {
        const struct med_device_limits *l = &r->limits[i];
        med_json_begin_row_object(w, names[i]);
        med_json_put_number(w, "read_bytes_per_s", l->read_bytes_per_s);
        med_json_put_number(w, "read_spread", l->read_spread);
        med_json_put_number(w, "flops_per_s", l->flops_per_s);
        med_json_put_number(w, "flops_spread", l->flops_spread);
        med_json_end_object(w);
    }
    med_json_end_object(w);
}

static void put_start(struct med_json_writer *w, const struct med_bench_report *r)
{
    med_json_begin_object(w, "start");
    med_json_put_number(w, "load_seconds", r->times.load_s);
    med_json_put_number(w, "memory_seconds", r->times.memory_s);
    med_json_put_number(w, "record_seconds", r->stats.record_seconds);
    med_json_put_number(w, "tune_seconds", r->stats.tune_seconds);
    med_json_put_integer(w, "graphs", r->stats.graphs);
    med_json_put_integer(w, "tuned", r->stats.tuned);
    med_json_put_integer(w, "tuned_before", r->stats.tuned_before);
    med_json_end_object(w);
    med_json_put_integer(w, "runs_replayed", r->stats.replayed_total);
    med_json_put_integer(w, "runs_queued", r->stats.queued_total);
}

static void put_beside_limits(struct med_json_writer *w, const struct med_bench_report *r,
                              const struct med_bench_case *c)
{
    med_json_put_number(w, "floor_ms", floor_ms(r, c));
    med_json_put_number(w, "ms_over_floor", c->ms.median / floor_ms(r, c));
    med_json_put_number(w, "of_read", bytes_per_s(c) / read_limit(r));
    med_json_put_number(w, "of_matrix", flops_per_s(c) / flops_limit(r));
    if (r->peak_bytes_per_s > 0)
        med_json_put_number(w, "mbu", bytes_per_s(c) / r->peak_bytes_per_s);
    if (r->peak_flops_per_s > 0)
        med_json_put_number(w, "mfu", flops_per_s(c) / r->peak_flops_per_s);
}

static void put_case(struct med_json_writer *w, const struct med_bench_report *r,
                     const struct med_bench_case *c)
{
    const struct med_bench_iteration *it = &c->iteration;
    med_json_begin_object(w, NULL);
    med_json_put_integer(w, "decode_sequences", it->decodes);
    med_json_put_integer(w, "decode_context", it->decodes > 0 ? it->context : 0);
    med_json_put_integer(w, "prefill_tokens", it->prefill);
    med_json_put_bool(w, "curve", c->curve);
    med_json_put_number(w, "bytes", med_work_bytes(&c->work));
    med_json_put_number(w, "flops", med_work_flops(&c->work));
    med_json_put_number(w, "weight_bytes", c->work.weight_bytes);
    med_json_put_number(w, "kv_bytes", c->work.kv_bytes);
    med_json_put_integer(w, "steps", c->steps);
    put_spread(w, "ms", c->ms);
    med_json_put_number(w, "tokens_per_s", tokens_per_s(c));
    if (r->has_limits) {
        put_beside_limits(w, r, c);
    } else {
        put_spread(w, "read_part", c->read_part);
    }
    if (!r->has_limits && it->prefill > 0 && it->decodes == 0) {
        put_spread(w, "blas_part", c->blas_part);
        put_spread(w, "blas_flops_per_s", c->blas_flops);
    }
    med_json_end_object(w);
}

/* Cases that did not fit are counted, and are no rows. */
void med_bench_report_json(const struct med_bench_report *report, struct med_json_writer *w)
{
    const struct med_bench_report *r = report;
    int64_t absent = 0;
    med_bench_report_machine(r, w);
    if (r->has_limits) {
        put_limits(w, r);
        put_start(w, r);
    } else {
        put_spread(w, "read_bytes_per_s", r->read);
    }
    med_json_put_integer(w, "kv_tokens", r->kv_tokens);
    med_json_begin_array(w, "iterations");
    for (size_t i = 0; i < r->count; i++) {
        absent += r->cases[i].absent;
        if (!r->cases[i].absent)
            put_case(w, r, &r->cases[i]);
    }
    med_json_end_array(w);
    med_json_put_integer(w, "iterations_that_did_not_fit", absent);
}
