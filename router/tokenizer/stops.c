/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stop strings over a growing text.
 *
 * Each string is followed by its own Knuth-Morris-Pratt automaton: `matched` is how many bytes of it
 * the text so far ends with, `fall[n]` the next shorter beginning that a text ending with n bytes of
 * it ends with too.  The work per byte is constant per string, amortised.  What must be held back
 * is exactly the longest `matched`; the bytes before it go out at once.
 *
 * A stop string is valid UTF-8, so what is held back begins where a character begins, and text goes
 * out in whole characters whenever it comes in whole characters.
 * thread: one at a time.  Does not know tokens, and does not check the strings' number and length.
 */
#include "router/tokenizer/stops.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/limits.h"

#include <stdint.h>
#include <string.h>

struct med_stops_string {
    uint16_t matched;
    uint16_t fall[MED_LIMIT_STOP_BYTES + 1];
};

static void fill_fall(struct med_stops_string *progress, const char *string, size_t bytes)
{
    size_t shorter = 0;
    progress->fall[0] = 0;
    progress->fall[1] = 0;
    for (size_t i = 1; i < bytes; i++) {
        while (shorter > 0 && string[i] != string[shorter]) {
            shorter = progress->fall[shorter];
        }
        shorter += string[i] == string[shorter] ? 1 : 0;
        progress->fall[i + 1] = (uint16_t)shorter;
    }
}

int med_stops_init(struct med_stops *stops, const char *const *strings, size_t count, bool include)
{
    *stops = (struct med_stops){.include = include};
    if (count == 0) {
        return 0;
    }
    stops->strings = med_calloc(count, sizeof(*stops->strings));
    stops->bytes = med_calloc(count, sizeof(*stops->bytes));
    stops->progress = med_calloc(count, sizeof(*stops->progress));
    if (!stops->strings || !stops->bytes || !stops->progress) {
        goto fail;
    }
    for (size_t i = 0; i < count; i++) {
        size_t bytes = strlen(strings[i]);
        MED_ASSERT(bytes > 0);
        MED_ASSERT(bytes <= MED_LIMIT_STOP_BYTES);
        stops->strings[i] = med_strdup(strings[i]);
        if (!stops->strings[i]) {
            goto fail;
        }
        stops->count++;
        stops->bytes[i] = bytes;
        stops->longest = bytes > stops->longest ? bytes : stops->longest;
        fill_fall(&stops->progress[i], strings[i], bytes);
    }
    /* All that is ever held is less than the longest string: no append after this one may fail. */
    med_buf_init(&stops->held, stops->longest);
    if (med_buf_reserve(&stops->held, stops->longest) < 0) {
        goto fail;
    }
    return 0;
fail:
    med_stops_release(stops);
    return MED_E_NOMEM;
}

void med_stops_release(struct med_stops *stops)
{
    for (size_t i = 0; i < stops->count; i++) {
        med_free(stops->strings[i]);
    }
    med_free(stops->strings);
    med_free(stops->bytes);
    med_free(stops->progress);
    med_buf_release(&stops->held);
    *stops = (struct med_stops){0};
}

/* Takes one byte into every automaton. Returns the longest string that it completes, or -1. */
static int step(struct med_stops *stops, char byte)
{
    int match = -1;
    for (size_t i = 0; i < stops->count; i++) {
        struct med_stops_string *progress = &stops->progress[i];
        size_t matched = progress->matched;
        while (matched > 0 && stops->strings[i][matched] != byte) {
            matched = progress->fall[matched];
        }
        matched += stops->strings[i][matched] == byte ? 1 : 0;
        progress->matched = (uint16_t)matched;
        if (matched == stops->bytes[i] && (match < 0 || matched > stops->bytes[match])) {
            match = (int)i;
        }
    }
    return match;
}

static size_t longest_matched(const struct med_stops *stops)
{
    size_t longest = 0;
    for (size_t i = 0; i < stops->count; i++) {
        if (stops->progress[i].matched > longest) {
            longest = stops->progress[i].matched;
        }
    }
    return longest;
}

/* Of what is held and the text after it, lets the first `release` bytes out; the rest stays. */
static int let_out(struct med_stops *stops, const char *text, size_t bytes, size_t release,
                   struct med_buf *out)
{
    size_t from_held = release < stops->held.length ? release : stops->held.length;
    size_t from_text = release - from_held;
    MED_ASSERT(from_text <= bytes);
    int rc = med_buf_reserve(out, release);
    if (rc < 0) {
        return rc;
    }
    if (from_held > 0) {
        rc = med_buf_append(out, stops->held.data, from_held);
        med_buf_consume(&stops->held, from_held);
    }
    if (rc == 0 && from_text > 0) {
        rc = med_buf_append(out, text, from_text);
    }
    if (rc == 0 && bytes > from_text) {
        rc = med_buf_append(&stops->held, text + from_text, bytes - from_text);
    }
    return rc;
}

int med_stops_add(struct med_stops *stops, const char *text, size_t bytes, struct med_buf *out,
                  int *ret_match)
{
    int match = -1;
    size_t used = 0;
    while (used < bytes && match < 0) {
        match = step(stops, text[used++]);
    }
    size_t total = stops->held.length + used;
    size_t back = longest_matched(stops);
    if (match >= 0) {
        back = stops->include ? 0 : stops->bytes[match];
    }
    MED_ASSERT(back <= total);
    /* After a match nothing is held: the string itself is dropped, not kept for med_stops_end. */
    int rc = let_out(stops, text, used, total - back, out);
    if (rc < 0) {
        return rc;
    }
    if (match >= 0) {
        med_buf_clear(&stops->held);
    }
    *ret_match = match;
    return 0;
}

int med_stops_end(struct med_stops *stops, struct med_buf *out)
{
    int rc = 0;
    if (stops->held.length > 0) {
        rc = med_buf_append(out, stops->held.data, stops->held.length);
    }
    if (rc == 0) {
        med_buf_clear(&stops->held);
    }
    return rc;
}
