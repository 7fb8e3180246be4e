/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stop strings over a growing text: what may still become one is held back.
 *
 * The text of a stream comes in pieces; a stop string may begin in one and end in another.  The
 * matcher lets out what can no longer be part of a match; on a match, the text before it (or through
 * it, with `include`) is the last that comes out.  The match that is complete first wins; of those
 * that end at the same byte, the longest.  So the answer does not depend on how the text is cut.
 *
 * owns: copies of the strings and the held-back bytes. thread: one at a time.
 * limits: MED_LIMIT_STOP_STRINGS of MED_LIMIT_STOP_BYTES each; the caller has checked them.
 */
#ifndef MED_ROUTER_TOKENIZER_STOPS_H
#define MED_ROUTER_TOKENIZER_STOPS_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct med_stops_string;

struct med_stops {
    char **strings; /* owned */
    size_t *bytes, count, longest;
    bool include;
    struct med_buf held;
    struct med_stops_string *progress; /* owned; per string: what of it the text's end matches */
};

int med_stops_init(struct med_stops *stops, const char *const *strings, size_t count,
                   bool include) MED_MUST_CHECK;
void med_stops_release(struct med_stops *stops); /* accepts a zeroed struct */

/* Takes text, appends what may go out to `out`.  *ret_match: index of the string that ended it, or
 * -1; after a match nothing may be added. */
int med_stops_add(struct med_stops *stops, const char *text, size_t bytes, struct med_buf *out,
                  int *ret_match) MED_MUST_CHECK;
/* The sequence is over: what was held back goes out. */
int med_stops_end(struct med_stops *stops, struct med_buf *out) MED_MUST_CHECK;

#endif
