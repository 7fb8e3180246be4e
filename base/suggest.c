/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Suggestions for a misspelt word: edit distance with swaps (optimal string alignment).
 *
 * Near enough is one edit for words up to five letters, two up to eight, three beyond; a word that
 * the typed one begins is near too.  Words over WORD_MAX bytes are never suggested.
 * thread: the owner's.
 */
#include "base/suggest.h"

#include <string.h>

enum {
    WORD_MAX = 64
};

static size_t min2(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t edit_distance(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    size_t rows[3][WORD_MAX + 1];
    for (size_t j = 0; j <= b_bytes; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= a_bytes; i++) {
        size_t *row = rows[i % 3];
        const size_t *above = rows[(i + 2) % 3];
        const size_t *above2 = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= b_bytes; j++) {
            size_t change = above[j - 1] + (a[i - 1] != b[j - 1]);
            row[j] = min2(change, min2(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = min2(row[j], above2[j - 2] + 1);
        }
    }
    return rows[a_bytes % 3][b_bytes];
}

void med_suggest_init(struct med_suggest *suggest, const char *typed)
{
    *suggest = (struct med_suggest){.typed = typed, .distance = (size_t)-1};
}

void med_suggest_offer(struct med_suggest *suggest, const char *candidate)
{
    size_t typed_bytes = strlen(suggest->typed);
    size_t bytes = strlen(candidate);
    if (typed_bytes == 0 || typed_bytes > WORD_MAX || bytes > WORD_MAX)
        return;
    size_t distance = edit_distance(suggest->typed, typed_bytes, candidate, bytes);
    size_t near = typed_bytes <= 5 ? 1 : typed_bytes <= 8 ? 2 : 3;
    if (typed_bytes >= 2 && strncmp(candidate, suggest->typed, typed_bytes) == 0)
        distance = min2(distance, near); // the beginning of a longer word
    if (distance <= near && distance < suggest->distance) {
        suggest->best = candidate;
        suggest->distance = distance;
    }
}
