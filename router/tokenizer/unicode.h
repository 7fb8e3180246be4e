/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unicode data: normalization forms and the few classes that tokenizers ask for.
 *
 * Text is valid UTF-8; the caller has checked it.  thread: any.
 * source: Unicode Standard Annex #15; the data is utf8proc's (its version decides which characters
 * are assigned).
 */
#ifndef MED_ROUTER_TOKENIZER_UNICODE_H
#define MED_ROUTER_TOKENIZER_UNICODE_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum med_unicode_form {
    MED_UNICODE_NFC,
    MED_UNICODE_NFD,
    MED_UNICODE_NFKC,
    MED_UNICODE_NFKD
};

/* The code point at p; *ret_bytes gets its length. */
uint32_t med_unicode_at(const char *p, size_t *ret_bytes);
/* The code point that ends right before p (p > start). */
uint32_t med_unicode_before(const char *start, const char *p, size_t *ret_bytes);

bool med_unicode_is_space(uint32_t c);       /* White_Space */
bool med_unicode_is_number(uint32_t c);      /* N */
bool med_unicode_is_punctuation(uint32_t c); /* P, and ASCII's symbols */
bool med_unicode_is_word(uint32_t c);        /* Alphabetic, M, Nd, Pc, Join_Control */

/* True when the text is in the form for certain; false: it must be normalized to know. */
bool med_unicode_is_normal(const char *text, size_t bytes, enum med_unicode_form form);
/* Replaces out's content. errors: MED_E_NOMEM, MED_E_LIMIT (out's maximum). */
int med_unicode_normalize(const char *text, size_t bytes, enum med_unicode_form form,
                          struct med_buf *out) MED_MUST_CHECK;

#endif
