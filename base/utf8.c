/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UTF-8 validation and the escaping that logs, messages and JSON share.
 *
 * The ranges of the second byte follow the table of RFC 3629 section 4.  Nothing is allocated.
 * thread: any.
 */
#include "base/utf8.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

size_t med_utf8_char_bytes(const char *p, size_t left)
{
    const unsigned char *u = (const unsigned char *)p;
    if (left == 0)
        return 0;
    if (u[0] < 0x80)
        return 1;
    size_t bytes = u[0] >= 0xc2 && u[0] <= 0xdf   ? 2
                   : u[0] >= 0xe0 && u[0] <= 0xef ? 3
                   : u[0] >= 0xf0 && u[0] <= 0xf4 ? 4
                                                  : 0;
    if (bytes == 0 || bytes > left)
        return 0;
    unsigned char low = u[0] == 0xe0 ? 0xa0 : u[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = u[0] == 0xed ? 0x9f : u[0] == 0xf4 ? 0x8f : 0xbf;
    if (u[1] < low || u[1] > high)
        return 0;
    for (size_t i = 2; i < bytes; i++) {
        if (u[i] < 0x80 || u[i] > 0xbf)
            return 0;
    }
    return bytes;
}

long med_utf8_check(const char *p, size_t bytes)
{
    size_t at = 0;
    while (at < bytes) {
        uint64_t eight;
        if (bytes - at >= sizeof eight) {
            memcpy(&eight, p + at, sizeof eight);
            if ((eight & UINT64_C(0x8080808080808080)) == 0) { // ASCII alone
                at += sizeof eight;
                continue;
            }
        }
        size_t used = med_utf8_char_bytes(p + at, bytes - at);
        if (used == 0)
            return (long)at;
        at += used;
    }
    return -1;
}

size_t med_utf8_escape_char(char out[MED_UTF8_ESCAPE_CHAR_MAX], const char *p, size_t left,
                            size_t *ret_used)
{
    size_t bytes = med_utf8_char_bytes(p, left);
    *ret_used = bytes ? bytes : 1;
    if (bytes == 0) {
        memcpy(out, "\xef\xbf\xbd", 4); // U+FFFD and the NUL
        return 3;
    }
    unsigned char c = (unsigned char)p[0];
    static const char special[] = "\"\\\n\r\t\b\f";
    static const char letters[] = "\"\\nrtbf"; // of the same characters
    const char *found = c ? strchr(special, c) : NULL;
    if (found) {
        out[0] = '\\';
        out[1] = letters[found - special];
        out[2] = '\0';
        return 2;
    }
    if (c < 0x20 || c == 0x7f)
        return (size_t)snprintf(out, MED_UTF8_ESCAPE_CHAR_MAX, "\\u%04x", (unsigned)c);
    memcpy(out, p, bytes);
    out[bytes] = '\0';
    return bytes;
}

size_t med_utf8_escape(char *out, size_t out_bytes, const char *s, size_t s_bytes)
{
    size_t length = 0;
    if (out_bytes == 0)
        return 0;
    for (size_t at = 0; at < s_bytes;) {
        char piece[MED_UTF8_ESCAPE_CHAR_MAX];
        size_t used;
        size_t count = med_utf8_escape_char(piece, s + at, s_bytes - at, &used);
        if (length + count >= out_bytes)
            break;
        memcpy(out + length, piece, count);
        length += count;
        at += used;
    }
    out[length] = '\0';
    return length;
}
