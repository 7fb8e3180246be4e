/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The latency model: the time of one iteration, from a profile (docs/internals/latency-model.md).
 *
 * med_latency_init turns rates into milliseconds per unit and measured rows into tables, of decodes
 * alone, of prefills alone and of both, so that a step costs some lookups and multiplications.  Published rows are means over
 * what a server did, not iterations: they say what is covered, and the form alone says the time.
 *
 * Runs on any thread.  It does no I/O, keeps no state, allocates only while it is compiled, and
 * adds no noise.
 */
#include "profiles/latency.h"

#include "base/alloc.h"
#include "profiles/latency_table.h"
#include "profiles/profile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The lowest measured prefill covers shorter ones up to this length: they are bound by the weights. */
static const double prefill_near = 128.0;
/* The tokens of a mixed step take at least this share of it, however long its contexts are said to take. */
static const double mixed_share = 1e-3;

int64_t med_step_pairs(int64_t tokens, int64_t context)
{
    return tokens * context + tokens * (tokens + 1) / 2;
}

static int64_t greater(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- the form ---- */

static double matrix_ms(const struct med_latency *latency, double tokens)
{
    return latency_corner(latency->weights_ms, latency->linear_ms_per_token * tokens,
                          latency->corner);
}

static double decode_form(const struct med_latency *latency, double sequences, double context)
{
    return latency->fixed_ms + latency->sequence_ms * sequences + matrix_ms(latency, sequences) +
           latency->kv_ms_per_token * (sequences * context);
}

static double prefill_form(const struct med_latency *latency, double tokens, double context)
{
    return latency->fixed_ms + matrix_ms(latency, tokens) +
           latency->pair_ms * (tokens * (context + 0.5 * (tokens + 1.0)));
}

static double form_ms(const struct med_latency *latency, const struct med_step_load *load)
{
    double tokens = (double)load->prefill_tokens + (double)load->decode_sequences;
    return latency->fixed_ms + latency->sequence_ms * (double)load->decode_sequences +
           matrix_ms(latency, tokens) +
           latency->kv_ms_per_token * (double)load->decode_context_tokens +
           latency->pair_ms * (double)load->prefill_pairs;
}

/* ---- what was measured ---- */

static double decode_ms(const struct med_latency *latency, double sequences, double context_tokens)
{
    double context = context_tokens / sequences;
    if (latency->decode.row_count == 0) {
        return decode_form(latency, sequences, context);
    }
    return latency_table_at(&latency->decode, sequences, context, latency, decode_form);
}

/* Several prompts in one iteration have fewer pairs than one: as if after a context below 0. */
static double prefill_ms(const struct med_latency *latency, double tokens, double pairs)
{
    double context = pairs / tokens - 0.5 * (tokens + 1.0);
    if (latency->prefill.row_count == 0) {
        return prefill_form(latency, tokens, context);
    }
    return latency_table_at(&latency->prefill, tokens, context, latency, prefill_form);
}

static double attention_form(const struct med_latency *latency, double sequences, double context)
{
    return latency->sequence_ms * sequences + latency->kv_ms_per_token * (sequences * context);
}

/* What decodes add to a step besides their tokens: their contexts, and the cost of a sequence. */
static double attention_ms(const struct med_latency *latency, double sequences,
                           double context_tokens)
{
    double context = context_tokens / sequences;
    if (latency->attention.row_count == 0) {
        return attention_form(latency, sequences, context);
    }
    return latency_table_at(&latency->attention, sequences, context, latency, attention_form);
}

/* What decodes and prefill both pay alone, and once together: by the form. */
static double common_ms(const struct med_latency *latency, double tokens, double sequences)
{
    return latency->fixed_ms + matrix_ms(latency, tokens) + matrix_ms(latency, sequences) -
           matrix_ms(latency, tokens + sequences);
}

static double mixed_ms(const struct med_latency *latency, const struct med_step_load *load)
{
    double tokens = (double)load->prefill_tokens;
    double sequences = (double)load->decode_sequences;
    double pairs = (double)load->prefill_pairs;
    double context_tokens = (double)load->decode_context_tokens;
    double prefill = prefill_ms(latency, tokens, pairs);
    double decode = decode_ms(latency, sequences, context_tokens);
    double both;
    if (latency->mixed.row_count > 0) {
        double context = pairs / tokens - 0.5 * (tokens + 1.0);
        both =
            attention_ms(latency, sequences, context_tokens) +
            latency_table_at(&latency->mixed, tokens + sequences, context, latency, prefill_form);
    } else {
        both = prefill + decode - common_ms(latency, tokens, sequences);
    }
    return fmax(both, fmax(prefill, decode));
}

/* ---- compiling ---- */

static int by_time(const void *left, const void *right)
{
    const struct latency_point *a = left;
    const struct latency_point *b = right;
    return a->ms != b->ms ? (a->ms > b->ms) - (a->ms < b->ms)
                          : (a->row > b->row) - (a->row < b->row);
}

/* The weighted median of times; the rows are the weights. It has the least sum of relative errors. */
static double median_ms(struct latency_point *points, size_t count)
{
    double half = 0.0;
    size_t at = 0;
    qsort(points, count, sizeof *points, by_time);
    for (size_t n = 0; n < count; n++) {
        half += 0.5 * points[n].row;
    }
    for (double sum = points[0].row; at + 1 < count && sum < half; sum += points[at].row) {
        at++;
    }
    return points[at].ms;
}

static void cover_published(struct med_latency *latency, const struct med_step_row *row)
{
    struct med_latency_corner corner = {row->decode_sequences,
                                        row->decode_context_tokens / row->decode_sequences};
    int64_t kept = 0;
    for (int64_t n = 0; n < latency->covered_count; n++) {
        struct med_latency_corner other = latency->covered[n];
        if (other.sequences >= corner.sequences && other.context >= corner.context) {
            return;
        }
        if (other.sequences > corner.sequences || other.context > corner.context) {
            latency->covered[kept++] = other;
        }
    }
    if (kept < MED_LATENCY_CORNERS) {
        latency->covered[kept++] = corner;
    }
    latency->covered_count = kept;
}

static void cover(struct med_latency *latency, const struct med_step_row *row, bool published)
{
    latency->covered_sequences = greater(latency->covered_sequences, row->decode_sequences);
    latency->covered_prefill_tokens = greater(latency->covered_prefill_tokens, row->prefill_tokens);
    if (row->decode_sequences > 0) {
        latency->covered_context =
            greater(latency->covered_context, row->decode_context_tokens / row->decode_sequences);
    }
    if (published && row->decode_sequences > 0) {
        cover_published(latency, row);
    }
    if (!published && row->prefill_tokens > 0 && row->decode_sequences > 0) {
        latency->mixed_prefill_tokens = greater(latency->mixed_prefill_tokens, row->prefill_tokens);
        latency->mixed_sequences = greater(latency->mixed_sequences, row->decode_sequences);
    }
}

enum part {
    DECODE,
    PREFILL,
    MIXED
};

static enum part part_of(const struct med_step_row *row)
{
    if (row->prefill_tokens > 0) {
        return row->decode_sequences > 0 ? MIXED : PREFILL;
    }
    return DECODE;
}

/* The measured rows of a part as points of its table; of mixed steps, without what the
 * decodes add. */
static size_t collect(const struct med_latency *latency, const struct med_profile *profile,
                      enum part part, struct latency_point *points)
{
    size_t count = 0;
    for (size_t i = 0; i < profile->step_count; i++) {
        const struct med_step_row *row = &profile->steps[i];
        if (profile->sources[row->source].kind != MED_SOURCE_MEASURED || part_of(row) != part) {
            continue;
        }
        double tokens = (double)row->prefill_tokens;
        double sequences = (double)row->decode_sequences;
        struct latency_point point = {tokens, (double)row->prefill_context, row->ms_p50};
        if (part == DECODE) {
            point.row = sequences;
            point.column = (double)row->decode_context_tokens / sequences;
        } else if (part == MIXED) {
            double added = attention_ms(latency, sequences, (double)row->decode_context_tokens);
            point.row = tokens + sequences;
            point.ms = fmax(point.ms - added, point.ms * mixed_share);
        }
        points[count++] = point;
    }
    return count;
}

/* What decodes add, at the knots of their table: never less for more sequences. */
static size_t collect_attention(const struct med_latency *latency, struct latency_point *points)
{
    const struct med_latency_table *decode = &latency->decode;
    size_t count = 0;
    for (int64_t i = 0; i < decode->row_count; i++) {
        for (int64_t k = decode->begin[i]; k < decode->begin[i + 1]; k++) {
            double added = decode->ms[k] - decode->ms[decode->begin[i]];
            points[count++] =
                (struct latency_point){decode->rows[i], decode->columns[k],
                                       added + latency->sequence_ms * decode->rows[i]};
        }
    }
    return count;
}

/*
 * Steps with both kinds. Their own rows say what so many tokens take, other than as a prefill (other
 * kernels, more to sample); where there are none, the prefills do, each with what the mixed ones take
 * more on the median.
 */
static int tabulate_mixed(struct med_latency *latency, const struct med_profile *profile,
                          struct latency_point *points)
{
    size_t count = collect_attention(latency, points);
    int rc = latency_table_build(&latency->attention, 1.0, points, count, latency, attention_form);
    count = rc == 0 ? collect(latency, profile, MIXED, points) : 0;
    if (count == 0) {
        return rc;
    }
    for (size_t n = 0; n < count; n++) {
        double pairs = points[n].row * (points[n].column + 0.5 * (points[n].row + 1.0));
        double alone = prefill_ms(latency, points[n].row, pairs);
        points[n].row = 1.0 / points[n].ms;
        points[n].ms -= alone;
    }
    double more = fmax(0.0, median_ms(points, count));
    count = collect(latency, profile, MIXED, points);
    size_t prefills = collect(latency, profile, PREFILL, &points[count]);
    for (size_t n = count; n < count + prefills; n++) {
        points[n].ms += more;
    }
    return latency_table_build(&latency->mixed, prefill_near, points, count + prefills, latency,
                               prefill_form);
}

static int tabulate(struct med_latency *latency, const struct med_profile *profile)
{
    struct latency_point *points =
        med_calloc(profile->step_count + MED_LATENCY_KNOTS, sizeof *points);
    if (points == NULL) {
        return MED_E_NOMEM;
    }
    size_t count = collect(latency, profile, DECODE, points);
    int rc = latency_table_build(&latency->decode, 1.0, points, count, latency, decode_form);
    if (rc == 0) {
        count = collect(latency, profile, PREFILL, points);
        rc = latency_table_build(&latency->prefill, prefill_near, points, count, latency,
                                 prefill_form);
    }
    if (rc == 0) {
        rc = tabulate_mixed(latency, profile, points);
    }
    med_free(points);
    return rc;
}

int med_latency_init(struct med_latency *latency, const struct med_profile *profile,
                     struct med_err *err)
{
    if (!profile->has_step_model) {
        return med_err_set(err, MED_E_UNCOVERED,
                           "the profile of worker type %s has serving points but no step model, so "
                           "its iteration times are not known",
                           profile->worker_type);
    }
    const struct med_step_model *step = &profile->step_model;
    const struct med_model_shape *model = &profile->model;
    double pair_flops =
        4.0 * (double)model->layers * (double)model->heads * (double)model->head_dim;
    *latency = (struct med_latency){
        .fixed_ms = step->fixed_ms,
        .sequence_ms = step->sequence_us / 1e3,
        .weights_ms = 1e3 * model->weight_bytes / step->bandwidth_bytes_per_s,
        .linear_ms_per_token = 1e3 * 2.0 * model->parameters / step->matrix_flops_per_s,
        .kv_ms_per_token = 1e3 * model->kv_bytes_per_token / step->kv_bandwidth_bytes_per_s,
        .pair_ms = 1e3 * pair_flops / step->attention_flops_per_s,
        .corner = step->corner,
        .model_len_max = profile->limits.model_len_max,
        .sequences_max = profile->limits.sequences_max,
        .batched_tokens_max = profile->limits.batched_tokens_max,
        .block_tokens = profile->limits.block_tokens,
        .kv_tokens = profile->limits.kv_tokens,
    };
    bool measured = false;
    for (size_t i = 0; i < profile->step_count; i++) {
        enum med_source_kind kind = profile->sources[profile->steps[i].source].kind;
        if (kind != MED_SOURCE_MODELLED) {
            cover(latency, &profile->steps[i], kind == MED_SOURCE_PUBLISHED);
            measured = measured || kind == MED_SOURCE_MEASURED;
        }
    }
    if (measured && tabulate(latency, profile) < 0) {
        return med_err_set(err, MED_E_NOMEM, "no memory for the latency model of worker type %s",
                           profile->worker_type);
    }
    return 0;
}

/* ---- asking ---- */

double med_latency_step_ms(const struct med_latency *latency, const struct med_step_load *load)
{
    bool tables = latency->decode.row_count > 0 || latency->prefill.row_count > 0 ||
                  latency->mixed.row_count > 0;
    if (load->prefill_tokens == 0 && load->decode_sequences == 0) {
        return 0.0;
    }
    if (!tables) {
        return form_ms(latency, load);
    }
    if (load->prefill_tokens == 0) {
        return decode_ms(latency, (double)load->decode_sequences,
                         (double)load->decode_context_tokens);
    }
    if (load->decode_sequences == 0) {
        return prefill_ms(latency, (double)load->prefill_tokens, (double)load->prefill_pairs);
    }
    return mixed_ms(latency, load);
}

struct med_latency_run med_latency_decode_run(const struct med_latency *latency,
                                              int64_t decode_sequences,
                                              int64_t decode_context_tokens)
{
    struct med_step_load load = {.decode_sequences = decode_sequences,
                                 .decode_context_tokens = decode_context_tokens};
    struct med_latency_run run = {.first_ms = med_latency_step_ms(latency, &load),
                                  .growth_ms = latency->kv_ms_per_token * (double)decode_sequences,
                                  .count = INT64_MAX};
    if (latency->decode.row_count > 0) {
        double sequences = (double)decode_sequences;
        double context = (double)decode_context_tokens / sequences;
        double until;
        run.growth_ms =
            latency_table_slope(&latency->decode, sequences, context, latency, decode_form, &until);
        if (until < INFINITY) {
            run.count = 1 + (int64_t)floor(until - context);
        }
    }
    return run;
}

static bool inside_engine(const struct med_latency *latency, int64_t sequences, int64_t context,
                          int64_t prefill)
{
    if (sequences < 0 || context < 0 || prefill < 0) {
        return false;
    }
    if (sequences > latency->sequences_max || context > latency->model_len_max) {
        return false;
    }
    /* The limits bound both factors, so the product fits. */
    return prefill <= latency->batched_tokens_max - sequences &&
           sequences * context <= latency->kv_tokens;
}

static bool decode_covered(const struct med_latency *latency, int64_t sequences, int64_t context)
{
    for (int64_t n = 0; n < latency->covered_count; n++) {
        if (sequences <= latency->covered[n].sequences && context <= latency->covered[n].context) {
            return true;
        }
    }
    return latency_table_covers(&latency->decode, (double)sequences, (double)context);
}

enum med_coverage med_latency_coverage(const struct med_latency *latency, int64_t decode_sequences,
                                       int64_t context_tokens, int64_t prefill_tokens)
{
    if (!inside_engine(latency, decode_sequences, context_tokens, prefill_tokens)) {
        return MED_COVERAGE_OUTSIDE;
    }
    /* Without decoding sequences there is no decode context to have measured. */
    if (decode_sequences > 0 && !decode_covered(latency, decode_sequences, context_tokens)) {
        return MED_COVERAGE_MODELLED;
    }
    if (prefill_tokens == 0) {
        return MED_COVERAGE_MEASURED;
    }
    if (latency->prefill.row_count > 0) {
        if (!latency_table_covers(&latency->prefill, (double)prefill_tokens, 0.0)) {
            return MED_COVERAGE_MODELLED;
        }
    } else if (prefill_tokens > latency->covered_prefill_tokens) {
        return MED_COVERAGE_MODELLED;
    }
    bool tables = latency->decode.row_count > 0 || latency->prefill.row_count > 0;
    if (tables && decode_sequences > 0 &&
        (prefill_tokens > latency->mixed_prefill_tokens ||
         decode_sequences > latency->mixed_sequences)) {
        return MED_COVERAGE_MODELLED;
    }
    return MED_COVERAGE_MEASURED;
}
