/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The regular expressions of tokenizer.json, run by PCRE2.
 *
 * The patterns are written for Oniguruma (Ruby syntax).  They are rewritten to say the same to PCRE2:
 * \s is the property White_Space, \d is Nd, scripts are the property Script.  A construct that the
 * two read differently, or that is not known here, is refused by name.
 *
 * thread: a compiled pattern is immutable; each thread has its own scratch.
 */
#ifndef MED_ROUTER_TOKENIZER_REGEX_H
#define MED_ROUTER_TOKENIZER_REGEX_H

#include "base/err.h"

#include <stddef.h>

struct med_regex;
struct med_regex_scratch; /* serves any number of patterns */

enum {
    MED_REGEX_WHY_MAX = 256
};

/* errors: MED_E_FORMAT (then `why` says what is not accepted), MED_E_NOMEM. */
int med_regex_new(const char *pattern, struct med_regex **ret_regex,
                  char why[MED_REGEX_WHY_MAX]) MED_MUST_CHECK;
void med_regex_free(struct med_regex *regex);

int med_regex_scratch_new(struct med_regex_scratch **ret_scratch) MED_MUST_CHECK;
void med_regex_scratch_free(struct med_regex_scratch *scratch);

/* The first match at or behind `from` in valid UTF-8: 1 and its place, 0 none.
 * errors: MED_E_LIMIT when the search takes more steps than MED_LIMIT_REGEX_STEPS, MED_E_NOMEM. */
int med_regex_find(const struct med_regex *regex, struct med_regex_scratch *scratch,
                   const char *text, size_t bytes, size_t from, size_t *ret_start,
                   size_t *ret_end) MED_MUST_CHECK;

#endif
