/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of the file formats share.
 *
 * The examples of docs/reference/formats.md are the fixtures: so the page that users copy from is
 * read by every run of the tests.  A case edits one place of an example and names the sentence that
 * must come back.  thread: main.
 */
#ifndef MED_TESTS_FORMATS_H
#define MED_TESTS_FORMATS_H

#include "base/alloc.h"
#include "base/json.h"
#include "tests/check.h"

/* Reads a document of one format; out (may be NULL) gets it written again. */
typedef int formats_reader(const struct med_json_at *root, struct med_buf *out,
                           struct med_err *err);

CHECK_UNUSED static char *formats_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    REQUIRE(file != NULL);
    REQUIRE(fseek(file, 0, SEEK_END) == 0);
    long bytes = ftell(file);
    REQUIRE(bytes >= 0 && fseek(file, 0, SEEK_SET) == 0);
    char *text = malloc((size_t)bytes + 1);
    REQUIRE(text != NULL && fread(text, 1, (size_t)bytes, file) == (size_t)bytes);
    text[bytes] = '\0';
    REQUIRE(fclose(file) == 0);
    return text;
}

/* The example of a format on the page; the caller frees it. */
CHECK_UNUSED static char *formats_example(const char *format)
{
    char *page = formats_file("docs/reference/formats.md");
    char first[96];
    (void)snprintf(first, sizeof first, "```json\n{\n  \"format\": \"%s\"", format);
    char *begin = strstr(page, first);
    REQUIRE(begin != NULL);
    begin += strlen("```json\n");
    char *end = strstr(begin, "```");
    REQUIRE(end != NULL);
    size_t bytes = (size_t)(end - begin);
    memmove(page, begin, bytes);
    page[bytes] = '\0';
    return page;
}

/* A copy of text with the first `from` replaced; `from` must be there. */
CHECK_UNUSED static char *formats_edit(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    if (at == NULL) {
        (void)fprintf(stderr, "the example lacks: %s\n", from);
    }
    REQUIRE(at != NULL);
    size_t bytes = strlen(text) - strlen(from) + strlen(to) + 1;
    char *edited = malloc(bytes);
    REQUIRE(edited != NULL);
    (void)snprintf(edited, bytes, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return edited;
}

/* The plan of the page, with two profiles made from the profile of the page. */
CHECK_UNUSED static char *formats_example_plan(void)
{
    char *profile = formats_example("medley-profile/1");
    char *other = formats_edit(profile, "a10g-llama-2-7b-fp16", "a100-llama-2-7b-fp16");
    size_t bytes = strlen(profile) + strlen(other) + 2;
    char *both = malloc(bytes);
    REQUIRE(both != NULL);
    (void)snprintf(both, bytes, "%s,%s", profile, other);
    char *plan = formats_example("medley-plan/1");
    char *whole = formats_edit(plan, "\"... whole profiles, as above ...\"", both);
    free(profile);
    free(other);
    free(both);
    free(plan);
    return whole;
}

CHECK_UNUSED static int formats_read(formats_reader *reader, const char *text, struct med_buf *out,
                                     struct med_err *err)
{
    struct med_json_doc doc;
    int rc = med_json_parse(text, strlen(text), "f.json", &doc, err);
    if (rc < 0) {
        return rc;
    }
    struct med_json_at root = med_json_root(&doc);
    rc = reader(&root, out, err);
    med_json_free(&doc);
    return rc;
}

/* Writing what was read, and reading that again, gives the same bytes. */
CHECK_UNUSED static void formats_check_round_trip(formats_reader *reader, const char *text)
{
    struct med_buf first;
    struct med_buf second;
    struct med_err err = {0};
    int64_t live = med_alloc_bytes_live();
    med_buf_init(&first, 1 << 24);
    med_buf_init(&second, 1 << 24);
    int rc = formats_read(reader, text, &first, &err);
    CHECK_STR(err.text, "");
    REQUIRE(rc == 0);
    rc = formats_read(reader, first.data, &second, &err);
    CHECK_STR(err.text, "");
    REQUIRE(rc == 0);
    CHECK_STR(second.data, first.data);
    med_buf_release(&first);
    med_buf_release(&second);
    CHECK_INT(med_alloc_bytes_live(), live);
}

struct formats_case {
    const char *from, *to;
    const char *sentence; /* what the error must contain */
};

CHECK_UNUSED static void formats_check_refused(formats_reader *reader, const char *text,
                                               const char *sentence)
{
    struct med_err err = {0};
    int64_t live = med_alloc_bytes_live();
    CHECK_INT(formats_read(reader, text, NULL, &err), MED_E_FORMAT);
    CHECK_CONTAINS(err.text, sentence);
    CHECK(strchr(err.text, '\n') == NULL);
    CHECK_INT(err.code, MED_E_FORMAT);
    CHECK_INT(med_alloc_bytes_live(), live);
    /* Without a place for the sentence the answer is the same. */
    CHECK_INT(formats_read(reader, text, NULL, NULL), MED_E_FORMAT);
}

CHECK_UNUSED static void formats_check_cases(formats_reader *reader, const char *text,
                                             const struct formats_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char *edited = formats_edit(text, cases[i].from, cases[i].to);
        formats_check_refused(reader, edited, cases[i].sentence);
        free(edited);
    }
}

/* Fails every allocation in turn: each failure is reported, and nothing leaks. */
CHECK_UNUSED static void formats_check_torture(formats_reader *reader, const char *text)
{
    int64_t live = med_alloc_bytes_live();
    uint64_t n = 1;
    for (;; n++) {
        struct med_err err = {0};
        (void)med_alloc_fail_nth(n);
        int rc = formats_read(reader, text, NULL, &err);
        (void)med_alloc_fail_nth(0);
        CHECK_INT(med_alloc_bytes_live(), live);
        if (rc == 0) {
            break;
        }
        REQUIRE(rc == MED_E_NOMEM);
        CHECK_CONTAINS(err.text, "memory");
    }
    CHECK(n > 20);
}

/* A JSON array of `count` times `item`, for limits; the caller frees it. */
CHECK_UNUSED static char *formats_repeat(const char *item, size_t count)
{
    size_t bytes = (strlen(item) + 1) * count + 3;
    char *text = malloc(bytes);
    REQUIRE(text != NULL);
    char *at = text;
    *at++ = '[';
    for (size_t i = 0; i < count; i++) {
        at += snprintf(at, bytes - (size_t)(at - text), "%s%s", i > 0 ? "," : "", item);
    }
    at[0] = ']';
    at[1] = '\0';
    return text;
}

#endif
