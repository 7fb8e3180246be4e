/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unicode in the tokenizer: the byte-level alphabet, normalization, and the short cut for text that
 * is known to be normal, against the library on every character.  thread: main.
 */
#include "base/alloc.h"
#include "router/tokenizer/byte_level.h"
#include "router/tokenizer/unicode.h"
#include "tests/check.h"

enum {
    CODE_POINTS = 0x110000
};

static size_t put(char *out, uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

static void test_every_byte_has_its_own_character(void)
{
    bool seen[0x200] = {false};
    for (unsigned byte = 0; byte < 256; byte++) {
        uint32_t c = med_byte_level_char((unsigned char)byte);
        REQUIRE(c < 0x144);
        CHECK(!seen[c]);
        seen[c] = true;
        CHECK_INT(med_byte_level_byte(c), byte);
    }
    for (uint32_t c = 0; c < 0x200; c++)
        CHECK_INT(med_byte_level_byte(c) >= 0, seen[c]);
    CHECK_UINT(med_byte_level_char(' '), 0x120);
    CHECK_UINT(med_byte_level_char('\n'), 0x10a);
    char out[8];
    CHECK_INT(med_byte_level_bytes("\u0120a", 3, out), 2);
    CHECK(memcmp(out, " a", 2) == 0);
    CHECK_INT(med_byte_level_bytes("a b", 3, out), -1);
    CHECK_INT(med_byte_level_bytes("\u2581", 3, out), -1);
}

static void test_characters_are_read_both_ways(void)
{
    for (uint32_t c = 1; c < CODE_POINTS; c = c * 9 / 8 + 1) {
        if (c >= 0xd800 && c < 0xe000)
            continue;
        char text[8] = "\u00e9";
        size_t bytes = put(text + 2, c);
        size_t length;
        CHECK_UINT(med_unicode_at(text + 2, &length), c);
        CHECK_UINT(length, bytes);
        CHECK_UINT(med_unicode_before(text, text + 2 + bytes, &length), c);
        CHECK_UINT(length, bytes);
    }
}

static void check_form(const char *text, enum med_unicode_form form, const char *want)
{
    struct med_buf out;
    med_buf_init(&out, 1 << 16);
    CHECK_INT(med_unicode_normalize(text, strlen(text), form, &out), 0);
    CHECK_STR(out.data ? out.data : "", want);
    med_buf_release(&out);
}

static void test_forms(void)
{
    check_form("", MED_UNICODE_NFC, "");
    check_form("A\u030a \u212b", MED_UNICODE_NFC, "\u00c5 \u00c5");
    check_form("\u00c5", MED_UNICODE_NFD, "A\u030a");
    check_form("\u1112\u1161\u11ab", MED_UNICODE_NFC, "\ud55c");
    check_form("\ud55c", MED_UNICODE_NFD, "\u1112\u1161\u11ab");
    check_form("\ufb01", MED_UNICODE_NFC, "\ufb01");
    check_form("\ufb01", MED_UNICODE_NFKC, "fi");
    check_form("\u0958", MED_UNICODE_NFC, "\u0915\u093c"); // excluded from composition
    /* Marks: below before above; two above keep their order; the sorting of three and more. */
    check_form("a\u0301\u0316", MED_UNICODE_NFC, "\u00e1\u0316");
    check_form("x\u0301\u0300\u0316\u0327", MED_UNICODE_NFD, "x\u0327\u0316\u0301\u0300");
}

/* What the short cut takes for normal must be so beside any other character: normalizing text + c +
 * text changes nothing but c's own decomposition, so it is enough that no composition swallows it. */
static void test_text_taken_for_normal_is_normal(void)
{
    struct med_buf out;
    med_buf_init(&out, 256);
    size_t taken = 0;
    for (uint32_t c = 1; c < CODE_POINTS; c++) {
        char text[64];
        if (c >= 0xd800 && c < 0xe000)
            continue;
        size_t bytes = put(text, c);
        if (!med_unicode_is_normal(text, bytes, MED_UNICODE_NFC))
            continue;
        taken++;
        /* Behind letters that compose with much, and doubled. */
        static const uint32_t before[] = {'a', 'o', 0x1100, 0xac00, 0x3046, 0x627, 0x9c7, 0x41a};
        size_t used = 0;
        for (size_t i = 0; i < sizeof before / sizeof *before; i++) {
            used += put(text + used, before[i]);
            used += put(text + used, c);
        }
        if (med_unicode_normalize(text, used, MED_UNICODE_NFC, &out) < 0 || out.length != used ||
            memcmp(out.data, text, used) != 0)
            CHECK_UINT(c, 0); // names the character
    }
    CHECK(taken > 33000);
    med_buf_release(&out);
}

static void test_marks_in_any_number_are_put_in_order(void)
{
    enum {
        PAIRS = 50000
    };
    struct med_buf in;
    struct med_buf out;
    med_buf_init(&in, 1 << 20);
    med_buf_init(&out, 1 << 20);
    for (int i = 0; i < PAIRS; i++) // above, below: each pair out of order
        REQUIRE(med_buf_append_str(&in, "\u0301\u0316") == 0);
    CHECK_INT(med_unicode_normalize(in.data, in.length, MED_UNICODE_NFD, &out), 0);
    REQUIRE(out.length == in.length);
    for (size_t i = 0; i < out.length; i += 2)
        REQUIRE(memcmp(out.data + i, i < out.length / 2 ? "\u0316" : "\u0301", 2) == 0);
    med_buf_release(&in);
    med_buf_release(&out);
}

static void test_classes(void)
{
    static const struct {
        uint32_t c;
        bool space, number, punctuation, word;
    } cases[] = {
        {' ', true, false, false, false},     {0x180e, false, false, false, false},
        {0x200b, false, false, false, false}, {0x3000, true, false, false, false},
        {0x85, true, false, false, false},    {'7', false, true, false, true},
        {0xbd, false, true, false, false},    {0x2167, false, true, false, true},
        {'$', false, false, true, false},     {0xa3, false, false, false, false},
        {0x2014, false, false, true, false},  {'_', false, false, true, true},
        {0xe9, false, false, false, true},    {0x301, false, false, false, true},
        {0x200d, false, false, false, true},  {0x24b6, false, false, false, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_INT(med_unicode_is_space(cases[i].c), cases[i].space);
        CHECK_INT(med_unicode_is_number(cases[i].c), cases[i].number);
        CHECK_INT(med_unicode_is_punctuation(cases[i].c), cases[i].punctuation);
        CHECK_INT(med_unicode_is_word(cases[i].c), cases[i].word);
    }
}

int main(void)
{
    RUN(test_every_byte_has_its_own_character);
    RUN(test_characters_are_read_both_ways);
    RUN(test_forms);
    RUN(test_text_taken_for_normal_is_normal);
    RUN(test_marks_in_any_number_are_put_in_order);
    RUN(test_classes);
    return check_finish();
}
