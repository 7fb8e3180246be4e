/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chat templates: any bytes are a template or refused with a sentence; what is a template renders or
 * refuses with a sentence, leaves the output alone when it refuses, and renders the same twice.
 * thread: main.
 */
#include "base/assert.h"
#include "base/limits.h"
#include "router/tokenizer/chat_template.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static int render(const struct med_chat_template *chat_template, struct med_buf *out)
{
    static const struct med_chat_message messages[] = {
        {"system", "Be \"brief\".\n", 12},
        {"user",
         "Gr\xc3\xbc\xc3\x9f"
         "e, a b",
         11},
        {"assistant", "<think>\nx\n</think>\n\nyes", 22},
        {"user", "", 0},
    };
    struct med_chat_input input = {messages, 4, true, 1735689599};
    struct med_err err = {0};
    med_buf_init(out, MED_LIMIT_PROMPT_BYTES);
    int rc = med_chat_template_render(chat_template, &input, out, &err);
    MED_ASSERT(rc == 0 || rc == MED_E_INVALID || rc == MED_E_LIMIT);
    MED_ASSERT(rc == 0 || err.text[0] != '\0');
    MED_ASSERT(rc == 0 || out->length == 0);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct med_chat_template *chat_template;
    struct med_err err = {0};
    int rc = med_chat_template_parse((const char *)data, size, "input", "<s>", "</s>",
                                     &chat_template, &err);
    if (rc < 0) {
        MED_ASSERT(rc == MED_E_FORMAT || rc == MED_E_LIMIT);
        MED_ASSERT(strncmp(err.text, "input: ", 7) == 0);
        return 0;
    }
    struct med_buf first;
    struct med_buf second;
    int first_rc = render(chat_template, &first);
    MED_ASSERT(render(chat_template, &second) == first_rc);
    MED_ASSERT(first.length == second.length);
    MED_ASSERT(first.length == 0 || memcmp(first.data, second.data, first.length) == 0);
    med_buf_release(&first);
    med_buf_release(&second);
    med_chat_template_free(chat_template);
    return 0;
}
