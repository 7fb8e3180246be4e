/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF.  thread: any.
 */
#ifndef MED_BASE_UTF8_H
#define MED_BASE_UTF8_H

#include <stddef.h>

/* Bytes (1..4) of the character that starts at p, of which `left` bytes may be read; 0 when it is
 * not valid UTF-8 or cut off. */
size_t med_utf8_char_bytes(const char *p, size_t left);

/* Where the first byte stands that is not part of valid UTF-8; -1: all is valid. */
long med_utf8_check(const char *p, size_t bytes);

/* Writes `s` as the inside of a JSON string: control characters, quote and backslash are escaped,
 * invalid bytes become U+FFFD.  Always terminates; never cuts inside a character or an escape; when
 * out_bytes does not suffice, the text ends early. Returns the length written. */
size_t med_utf8_escape(char *out, size_t out_bytes, const char *s, size_t s_bytes);

enum {
    MED_UTF8_ESCAPE_CHAR_MAX = 7
}; /* "\u001f" and its NUL */
/* The same for one character at p; *ret_used gets the bytes read. */
size_t med_utf8_escape_char(char out[MED_UTF8_ESCAPE_CHAR_MAX], const char *p, size_t left,
                            size_t *ret_used);

#endif
