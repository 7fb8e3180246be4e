/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The alphabet of byte-level tokenizers.  All of it is below U+0144, so a spelling has one or two
 * bytes per character, and what it means is never longer.  thread: any.
 */
#include "router/tokenizer/byte_level.h"

#include <stdbool.h>

enum {
    ALPHABET_END = 0x144 /* 0x100 + the 68 bytes that have no character of their own */
};

static bool is_own_character(uint32_t byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
           (byte >= 0xae && byte <= 0xff);
}

uint32_t med_byte_level_char(unsigned char byte)
{
    if (is_own_character(byte))
        return byte;
    uint32_t before = 0;
    for (uint32_t b = 0; b < byte; b++)
        before += !is_own_character(b);
    return 0x100 + before;
}

int med_byte_level_byte(uint32_t code_point)
{
    if (code_point < 0x100)
        return is_own_character(code_point) ? (int)code_point : -1;
    if (code_point >= ALPHABET_END)
        return -1;
    uint32_t wanted = code_point - 0x100;
    /* 0x00-0x20, 0x7f-0xa0 and 0xad. */
    if (wanted <= 0x20)
        return (int)wanted;
    return wanted <= 0x42 ? (int)(wanted - 0x21 + 0x7f) : 0xad;
}

long med_byte_level_bytes(const char *text, size_t bytes, char *out)
{
    const unsigned char *u = (const unsigned char *)text;
    size_t used = 0;
    for (size_t i = 0; i < bytes;) {
        uint32_t c = u[i];
        size_t length = 1;
        if (c >= 0xe0)
            return -1;
        if (c >= 0x80) {
            c = ((c & 0x1f) << 6) | (u[i + 1] & 0x3f);
            length = 2;
        }
        int byte = med_byte_level_byte(c);
        if (byte < 0)
            return -1;
        out[used++] = (char)byte;
        i += length;
    }
    return (long)used;
}
