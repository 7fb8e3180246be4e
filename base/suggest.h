/* SPDX-License-Identifier: Apache-2.0 */
/*
 * "Did you mean ...?": keeps the nearest of the candidates that are offered.  thread: the owner's.
 */
#ifndef MED_BASE_SUGGEST_H
#define MED_BASE_SUGGEST_H

#include <stddef.h>

struct med_suggest {
    const char *typed;
    const char *best; /* borrowed candidate, or NULL: none is near enough */
    size_t distance;
};

void med_suggest_init(struct med_suggest *suggest, const char *typed);
void med_suggest_offer(struct med_suggest *suggest, const char *candidate);

#endif
