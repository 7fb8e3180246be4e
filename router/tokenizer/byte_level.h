/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The alphabet of byte-level tokenizers: each byte is spelled as one printable character.
 *
 * Bytes that print as themselves in Latin-1 (0x21-0x7e, 0xa1-0xac, 0xae-0xff) keep their code point;
 * the others, in rising order, are U+0100 and on: a space is U+0120.
 * thread: any.  source: GPT-2's bytes_to_unicode.
 */
#ifndef MED_ROUTER_TOKENIZER_BYTE_LEVEL_H
#define MED_ROUTER_TOKENIZER_BYTE_LEVEL_H

#include <stddef.h>
#include <stdint.h>

/* The code point that spells a byte. */
uint32_t med_byte_level_char(unsigned char byte);
/* The byte that a code point spells; -1: none. */
int med_byte_level_byte(uint32_t code_point);
/* Turns a spelling (valid UTF-8) into the bytes that it means; -1 when one of its characters spells
 * no byte. `out` holds `bytes` bytes and may be `text` itself. */
long med_byte_level_bytes(const char *text, size_t bytes, char *out);

#endif
