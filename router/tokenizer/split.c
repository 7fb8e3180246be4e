/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pre-tokenizing: a text becomes pieces, step by step.
 *
 * Each step goes over the pieces of the step before: it finds matches inside a piece and cuts there,
 * as its behavior says; matches cover a piece from end to end with what lies between them.  Every
 * piece is a text of its own, so a pattern never looks over its ends.  Metaspace and ByteLevel's
 * prefix write the text anew.  Empty pieces are dropped.
 * thread: any, each with its own scratch.
 */
#include "router/tokenizer/internal.h"

#include "base/alloc.h"
#include "base/limits.h"

#include <string.h>

enum {
    KEEP_BYTES = 1 << 20 /* storage that stays for the next text */
};

/* One match or what lies between two. */
#define MATCH_BIT 0x80000000u

static int spans_add(struct split_spans *list, size_t start, size_t end, bool match)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 256;
        struct span *grown = med_realloc_array(list->spans, capacity, sizeof *grown);
        if (!grown)
            return MED_E_NOMEM;
        list->spans = grown;
        list->capacity = capacity;
    }
    list->spans[list->count++] =
        (struct span){.start = (uint32_t)start, .end = (uint32_t)end | (match ? MATCH_BIT : 0)};
    return 0;
}

static size_t span_end(const struct span *span)
{
    return span->end & ~MATCH_BIT;
}

static int piece_add(struct split_spans *list, size_t start, size_t end)
{
    return start < end ? spans_add(list, start, end, false) : 0;
}

/* ---- finding: places are relative to the whole text, `base` is where the piece starts ---- */

static int find_regex(const struct split_step *step, struct med_regex_scratch *regex,
                      const char *text, struct span piece, struct split_spans *matches)
{
    const char *part = text + piece.start;
    const size_t bytes = piece.end - piece.start;
    size_t done = 0;
    size_t from = 0;
    bool any = false; // an empty match right behind another one does not count
    while (from <= bytes) {
        size_t start;
        size_t end;
        int rc = med_regex_find(step->regex, regex, part, bytes, from, &start, &end);
        if (rc < 0)
            return rc;
        if (rc == 0)
            break;
        if (start == end && any && end == done) {
            if (end == bytes)
                break;
            size_t length;
            (void)med_unicode_at(part + end, &length);
            from = end + length;
            continue;
        }
        if (done < start && spans_add(matches, piece.start + done, piece.start + start, false) < 0)
            return MED_E_NOMEM;
        if (spans_add(matches, piece.start + start, piece.start + end, true) < 0)
            return MED_E_NOMEM;
        any = true;
        done = end;
        from = end;
    }
    return done < bytes ? spans_add(matches, piece.start + done, piece.end, false) : 0;
}

static int find_literal(const char *literal, size_t literal_bytes, const char *text,
                        struct span piece, struct split_spans *matches)
{
    size_t done = piece.start;
    size_t at = piece.start;
    while (piece.end - at >= literal_bytes) {
        const char *found = memchr(text + at, literal[0], piece.end - at - literal_bytes + 1);
        if (!found)
            break;
        at = (size_t)(found - text);
        if (memcmp(found, literal, literal_bytes) != 0) {
            at++;
            continue;
        }
        if (done < at && spans_add(matches, done, at, false) < 0)
            return MED_E_NOMEM;
        if (spans_add(matches, at, at + literal_bytes, true) < 0)
            return MED_E_NOMEM;
        at += literal_bytes;
        done = at;
    }
    return done < piece.end ? spans_add(matches, done, piece.end, false) : 0;
}

/* Each character of the class is one match. */
static int find_class(bool (*in_class)(uint32_t), const char *text, struct span piece,
                      struct split_spans *matches)
{
    size_t done = piece.start;
    for (size_t at = piece.start; at < piece.end;) {
        size_t length;
        bool match = in_class(med_unicode_at(text + at, &length));
        if (match) {
            if (done < at && spans_add(matches, done, at, false) < 0)
                return MED_E_NOMEM;
            if (spans_add(matches, at, at + length, true) < 0)
                return MED_E_NOMEM;
            done = at + length;
        }
        at += length;
    }
    return done < piece.end ? spans_add(matches, done, piece.end, false) : 0;
}

static int find(const struct split_step *step, struct med_regex_scratch *regex, const char *text,
                struct span piece, struct split_spans *matches)
{
    switch (step->kind) {
    case SPLIT_REGEX:
        return find_regex(step, regex, text, piece, matches);
    case SPLIT_DIGITS:
        return find_class(med_unicode_is_number, text, piece, matches);
    case SPLIT_PUNCTUATION:
        return find_class(med_unicode_is_punctuation, text, piece, matches);
    default:
        return find_literal(step->literal, step->literal_bytes, text, piece, matches);
    }
}

/* ---- cutting ---- */

static bool is_match(const struct split_step *step, const struct span *span)
{
    return ((span->end & MATCH_BIT) != 0) != step->invert;
}

/* A match joins the piece before it, unless a match did so right before. */
static int cut_with_previous(const struct split_step *step, const struct split_spans *matches,
                             struct split_spans *pieces)
{
    bool previous = false;
    size_t first = pieces->count;
    for (size_t i = 0; i < matches->count; i++) {
        const struct span *m = &matches->spans[i];
        bool match = is_match(step, m);
        if (match && !previous && pieces->count > first) {
            pieces->spans[pieces->count - 1].end = (uint32_t)span_end(m);
        } else if (spans_add(pieces, m->start, span_end(m), false) < 0) {
            return MED_E_NOMEM;
        }
        previous = match;
    }
    return 0;
}

/* A match joins the piece behind it, unless that is a match too. */
static int cut_with_next(const struct split_step *step, const struct split_spans *matches,
                         struct split_spans *pieces)
{
    for (size_t i = 0; i < matches->count; i++) {
        const struct span *m = &matches->spans[i];
        size_t end = span_end(m);
        if (is_match(step, m) && i + 1 < matches->count && !is_match(step, m + 1)) {
            i++;
            end = span_end(&matches->spans[i]);
        }
        if (spans_add(pieces, m->start, end, false) < 0)
            return MED_E_NOMEM;
    }
    return 0;
}

static int cut_contiguous(const struct split_step *step, const struct split_spans *matches,
                          struct split_spans *pieces)
{
    for (size_t i = 0; i < matches->count;) {
        bool match = is_match(step, &matches->spans[i]);
        size_t start = matches->spans[i].start;
        while (i < matches->count && is_match(step, &matches->spans[i]) == match)
            i++;
        if (spans_add(pieces, start, span_end(&matches->spans[i - 1]), false) < 0)
            return MED_E_NOMEM;
    }
    return 0;
}

static int cut_all(const struct split_step *step, const struct split_spans *matches,
                   struct split_spans *pieces)
{
    switch (step->behavior) {
    case SPLIT_MERGED_WITH_PREVIOUS:
        return cut_with_previous(step, matches, pieces);
    case SPLIT_MERGED_WITH_NEXT:
        return cut_with_next(step, matches, pieces);
    case SPLIT_CONTIGUOUS:
        return cut_contiguous(step, matches, pieces);
    default:
        break;
    }
    for (size_t i = 0; i < matches->count; i++) {
        const struct span *m = &matches->spans[i];
        if (step->behavior == SPLIT_REMOVED && is_match(step, m))
            continue;
        if (spans_add(pieces, m->start, span_end(m), false) < 0)
            return MED_E_NOMEM;
    }
    return 0;
}

/* Empty matches part what stands beside them, so they are dropped only now. */
static int cut(const struct split_step *step, const struct split_spans *matches,
               struct split_spans *pieces)
{
    size_t kept = pieces->count;
    int rc = cut_all(step, matches, pieces);
    for (size_t i = kept; i < pieces->count; i++) {
        if (pieces->spans[i].start < pieces->spans[i].end)
            pieces->spans[kept++] = pieces->spans[i];
    }
    pieces->count = kept;
    return rc;
}

/* ---- steps that write the text anew ---- */

/* Appends one piece: spaces replaced, the replacement in front. */
static int write_metaspace(const struct split_step *step, const char *text, struct span piece,
                           bool is_first, struct med_buf *out)
{
    const char *at = text + piece.start;
    const char *end = text + piece.end;
    bool prepend =
        step->prepend == SPLIT_PREPEND_ALWAYS || (step->prepend == SPLIT_PREPEND_FIRST && is_first);
    if (*at == ' ' || ((size_t)(end - at) >= step->literal_bytes &&
                       memcmp(at, step->literal, step->literal_bytes) == 0))
        prepend = false;
    int rc = prepend ? med_buf_append(out, step->literal, step->literal_bytes) : 0;
    while (rc == 0 && at < end) {
        const char *space = memchr(at, ' ', (size_t)(end - at));
        const char *stop = space ? space : end;
        rc = med_buf_append(out, at, (size_t)(stop - at));
        if (rc == 0 && space)
            rc = med_buf_append(out, step->literal, step->literal_bytes);
        at = space ? space + 1 : end;
    }
    return rc;
}

/* Writes every piece of `pieces` to `out` and puts its new place into `written`. */
static int rewrite_pieces(const struct split_step *step, const char *text,
                          const struct split_spans *pieces, bool first, struct med_buf *out,
                          struct split_spans *written)
{
    med_buf_clear(out);
    for (size_t i = 0; i < pieces->count; i++) {
        struct span piece = pieces->spans[i];
        size_t start = out->length;
        int rc = 0;
        if (step->kind == SPLIT_METASPACE) {
            rc = write_metaspace(step, text, piece, first && piece.start == 0, out);
        } else {
            if (text[piece.start] != ' ')
                rc = med_buf_append(out, " ", 1);
            if (rc == 0)
                rc = med_buf_append(out, text + piece.start, piece.end - piece.start);
        }
        if (rc == 0)
            rc = piece_add(written, start, out->length);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* ---- running ---- */

struct run {
    struct split_scratch *scratch;
    const char *text;
    struct split_spans *pieces, *next, *matches;
    size_t turn; /* which of the two texts is written next */
    bool first;
};

static void swap_lists(struct run *run)
{
    struct split_spans *pieces = run->pieces;
    run->pieces = run->next;
    run->next = pieces;
}

static int run_step(struct run *run, const struct split_step *step)
{
    if (step->kind == SPLIT_METASPACE || step->kind == SPLIT_PREFIX) {
        struct med_buf *out = &run->scratch->texts[run->turn];
        run->next->count = 0;
        int rc = rewrite_pieces(step, run->text, run->pieces, run->first, out, run->next);
        if (rc < 0)
            return rc;
        run->text = out->data ? out->data : "";
        run->turn = 1 - run->turn;
        swap_lists(run);
        if (step->kind == SPLIT_PREFIX || !step->cut)
            return 0;
    }
    run->next->count = 0;
    for (size_t i = 0; i < run->pieces->count; i++) {
        run->matches->count = 0;
        int rc = find(step, run->scratch->regex, run->text, run->pieces->spans[i], run->matches);
        if (rc == 0)
            rc = cut(step, run->matches, run->next);
        if (rc < 0)
            return rc;
    }
    swap_lists(run);
    return 0;
}

int splitter_run(const struct splitter *splitter, struct split_scratch *scratch, const char *text,
                 size_t bytes, bool first, struct split_result *ret_result, struct med_err *err)
{
    struct run run = {.scratch = scratch,
                      .text = text,
                      .pieces = &scratch->lists[0],
                      .next = &scratch->lists[1],
                      .matches = &scratch->lists[2],
                      .first = first};
    run.pieces->count = 0;
    int rc = piece_add(run.pieces, 0, bytes);
    for (size_t i = 0; rc == 0 && i < splitter->count; i++) {
        rc = run_step(&run, &splitter->steps[i]);
        if (rc == MED_E_LIMIT && splitter->steps[i].kind == SPLIT_REGEX) {
            return med_err_set(
                err, rc, "step %zu of the pre-tokenizer needs more than %d steps on this text", i,
                MED_LIMIT_REGEX_STEPS);
        }
    }
    *ret_result = (struct split_result){.text = run.text, .spans = run.pieces};
    return rc;
}

void split_scratch_release(struct split_scratch *scratch)
{
    for (size_t i = 0; i < 3; i++)
        med_free(scratch->lists[i].spans);
    med_buf_release(&scratch->texts[0]);
    med_buf_release(&scratch->texts[1]);
    med_regex_scratch_free(scratch->regex);
}

void split_scratch_trim(struct split_scratch *scratch)
{
    for (size_t i = 0; i < 3; i++) {
        if (scratch->lists[i].capacity * sizeof(struct span) > KEEP_BYTES) {
            med_free(scratch->lists[i].spans);
            scratch->lists[i] = (struct split_spans){0};
        }
    }
    for (size_t i = 0; i < 2; i++) {
        if (scratch->texts[i].capacity > KEEP_BYTES)
            med_buf_release(&scratch->texts[i]);
    }
}
