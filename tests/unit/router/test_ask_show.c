/* SPDX-License-Identifier: Apache-2.0 */
/* What a terminal may be shown of an answer. */
#include "router/ask/show.h"
#include "tests/check.h"

#include <string.h>

static void test_control_characters_are_question_marks(void)
{
    static const struct {
        const char *text, *want;
    } table[] = {
        {"plain\ttext\n", "plain\ttext\n"},
        {"\x1b[31mred", "?[31mred"},
        {"a\rb\x7f", "a?b?"},
        {"caf\xc3\xa9 \xf0\x9f\x98\x80", "caf\xc3\xa9 \xf0\x9f\x98\x80"},
        {"\xc2\x9b"
         "2J\xc2\xa0",
         "?2J\xc2\xa0"}, // CSI of C1; a no-break space is none
        {"\x01\x02", "??"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct med_buf out;
        med_buf_init(&out, 1024);
        CHECK_INT(med_ask_make_harmless(table[i].text, strlen(table[i].text), &out), 0);
        CHECK_STR(out.data, table[i].want);
        med_buf_release(&out);
    }
    struct med_buf out;
    med_buf_init(&out, 16);
    CHECK_INT(med_ask_make_harmless("a\0b", 3, &out), 0);
    CHECK_STR(out.data, "a?b");
    CHECK_INT(med_ask_make_harmless("", 0, &out), 0);
    CHECK_UINT(out.length, 3);
    CHECK_INT(med_ask_make_harmless("0123456789abcdef", 16, &out), MED_E_LIMIT);
    med_buf_release(&out);
}

int main(void)
{
    RUN(test_control_characters_are_question_marks);
    return check_finish();
}
