/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The JSON edge: what is refused and where, getters, the writer, and memory running out.
 * thread: main.
 */
#include "base/json.h"

#include "base/alloc.h"
#include "base/json_check.h"
#include "base/limits.h"
#include "base/rng.h"
#include "tests/check.h"

#include <float.h>
#include <locale.h>
#include <unistd.h>

static struct med_json_doc parse(const char *text)
{
    struct med_json_doc doc;
    struct med_err err = {0};
    int rc = med_json_parse(text, strlen(text), "x.json", &doc, &err);
    CHECK_STR(err.text, "");
    REQUIRE(rc == 0);
    return doc;
}

static void test_parse_refuses_and_says_where(void)
{
    static const struct {
        const char *text;
        const char *sentence; // after "x.json: "
    } cases[] = {
        {"", "line 1, column 1: found the end of the text, expected a JSON value"},
        {" \n ", "line 2, column 2: found the end of the text, expected a JSON value"},
        {"{\"a\": 1\n \"b\": 2}", "line 2, column 2: found '\"', expected ',' or '}'"},
        {"[1 2]", "line 1, column 4: found '2', expected ',' or ']'"},
        {"[1,]", "line 1, column 4: found ']', expected a JSON value"},
        {"{\"a\":1,}", "line 1, column 8: found '}', expected a key in double quotes"},
        {"{a:1}", "line 1, column 2: found 'a', expected a key in double quotes"},
        {"{\"a\" 1}", "line 1, column 6: found '1', expected ':' after the key"},
        {"[1]]", "line 1, column 4: found ']', expected the end of the text after the value"},
        {"{} x", "line 1, column 4: found 'x', expected the end of the text after the value"},
        {"nul", "line 1, column 1: found 'n', expected a JSON value"},
        {"True", "line 1, column 1: found 'T', expected a JSON value"},
        {"NaN", "line 1, column 1: found 'N', expected a JSON value"},
        {"[Infinity]", "line 1, column 2: found 'I', expected a JSON value"},
        {"-Infinity", "line 1, column 2: found 'I', expected a digit"},
        {"[1e999]", "line 1, column 2: the number is too large for a double"},
        {"[-1e999]", "line 1, column 2: the number is too large for a double"},
        {"01", "line 1, column 2: a number must not start with 0 and another digit"},
        {"1.",
         "line 1, column 3: found the end of the text, expected a digit after the decimal point"},
        {"[.5]", "line 1, column 2: found '.', expected a JSON value"},
        {"+1", "line 1, column 1: found '+', expected a JSON value"},
        {"1e+", "line 1, column 4: found the end of the text, expected a digit in the exponent"},
        {"0x10", "line 1, column 2: found 'x', expected the end of the text after the value"},
        {"1111111111222222222233333333334444444444555555555566666666667777",
         "line 1, column 1: the number has more than 63 characters"},
        {"\"abc",
         "line 1, column 5: found the end of the text, expected the closing quote of a string"},
        {"\"\xc3\xa9\xc3\xa9\tx\"",
         "line 1, column 4: a control character in a string must be escaped"},
        {"\"a\nb\"", "line 1, column 3: a control character in a string must be escaped"},
        {"\"\\x\"",
         "line 1, column 3: found 'x', expected one of \" \\ / b f n r t u after a backslash"},
        {"\"\\u12g4\"", "line 1, column 6: found 'g', expected four hexadecimal digits after \\u"},
        {"\"a\\u0000b\"", "line 1, column 5: \\u0000 is not accepted in a string"},
        {"{\"\\u0000\":1}", "line 1, column 5: \\u0000 is not accepted in a string"},
        {"\"\\ud800\"",
         "line 1, column 8: half of a surrogate pair (\\ud800 to \\udfff) without its "
         "other half"},
        {"\"\\ud800\\u0041\"",
         "line 1, column 8: half of a surrogate pair (\\ud800 to \\udfff) without its other half"},
        {"\"\\udc00\\ud800\"",
         "line 1, column 8: half of a surrogate pair (\\ud800 to \\udfff) without "
         "its other half"},
        {"\"\xff\"", "line 1, column 2: the string is not valid UTF-8"},
        {"\"\xc0\xaf\"", "line 1, column 2: the string is not valid UTF-8"},
        {"\"\xed\xa0\x80\"", "line 1, column 2: the string is not valid UTF-8"},
        {"\"\xe2\x82\"", "line 1, column 2: the string is not valid UTF-8"},
        {"\xef\xbb\xbf{}",
         "line 1, column 1: the text starts with a byte order mark, which JSON does not "
         "allow"},
        {"\x0c{}", "line 1, column 1: found '\\f', expected a JSON value"},
        {"// c\n1", "line 1, column 1: found '/', expected a JSON value"},
        {"{\"a\":1,\"b\":2,\"a\":3}", "$.a: this key stands twice in the object"},
        {"[0,{\"k\":[{\"x y\":1,\"x y\":2}]}]",
         "$[1].k[0][\"x y\"]: this key stands twice in the object"},
        {"{\"a\":1,\"b\":1,\"c\":1,\"d\":1,\"e\":1,\"f\":1,\"g\":1,\"h\":1,\"i\":1,\"j\":1,"
         "\"\\u0064\":1}",
         "$.d: this key stands twice in the object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct med_json_doc doc = {0};
        struct med_err err = {0};
        char sentence[512];
        (void)snprintf(sentence, sizeof sentence, "x.json: %s", cases[i].sentence);
        /* Copied without a final NUL, so that a read past the end is seen. */
        size_t count = strlen(cases[i].text);
        char *copy = malloc(count ? count : 1);
        REQUIRE(copy);
        memcpy(copy, cases[i].text, count);
        CHECK_INT(med_json_parse(copy, count, "x.json", &doc, &err), MED_E_FORMAT);
        CHECK_INT(med_json_parse(copy, count, "x.json", &doc, NULL), MED_E_FORMAT);
        CHECK_STR(err.text, sentence);
        CHECK(!doc.root);
        free(copy);
    }
    struct med_json_doc doc;
    CHECK_INT(med_json_parse("[1\0]", 4, "x.json", &doc, NULL), MED_E_FORMAT);
    CHECK_INT(med_json_parse("1\0", 2, "x.json", &doc, NULL), MED_E_FORMAT);
    CHECK_INT(med_json_parse("\"\0\"", 3, "x.json", &doc, NULL), MED_E_FORMAT);
}

static void test_parse_at_the_depth_limit(void)
{
    char text[2 * MED_LIMIT_JSON_DEPTH + 3];
    struct med_json_doc doc;
    struct med_err err = {0};
    memset(text, '[', MED_LIMIT_JSON_DEPTH + 1);
    memset(text + MED_LIMIT_JSON_DEPTH, ']', MED_LIMIT_JSON_DEPTH);
    REQUIRE(med_json_parse(text, (size_t)2 * MED_LIMIT_JSON_DEPTH, "deep", &doc, &err) == 0);
    med_json_free(&doc);
    memset(text, '[', MED_LIMIT_JSON_DEPTH + 1);
    memset(text + MED_LIMIT_JSON_DEPTH + 1, ']', MED_LIMIT_JSON_DEPTH + 1);
    CHECK_INT(med_json_parse(text, (size_t)2 * MED_LIMIT_JSON_DEPTH + 2, "deep", &doc, &err),
              MED_E_FORMAT);
    CHECK_STR(err.text, "deep: line 1, column 65: nested deeper than 64 levels");
}

/* The check alone: the tree of so many values takes hundreds of megabytes. */
static void test_check_when_there_are_too_many_values_then_refused(void)
{
    const size_t most = MED_LIMIT_JSON_VALUES - 1; /* elements: the array is a value too */
    const size_t bytes = 2 * most + 1;             /* [0,0,...,0] */
    char *text = med_alloc(bytes + 2);
    REQUIRE(text != NULL);
    for (size_t i = 0; i < bytes + 2; i++)
        text[i] = i % 2 == 0 ? ',' : '0';
    text[0] = '[';
    text[bytes - 1] = ']';
    struct med_err err = {0};
    CHECK_INT(med_json_check(text, bytes, "many", &err), 0);
    text[bytes - 1] = ',';
    text[bytes + 1] = ']';
    CHECK_INT(med_json_check(text, bytes + 2, "many", &err), MED_E_FORMAT);
    CHECK_CONTAINS(err.text, "found value number 4194305, expected at most 4194304");
    med_free(text);
}

static void test_parse_accepts_what_json_is(void)
{
    static const char *const texts[] = {
        "null",
        " true ",
        "-0",
        "0.0e-0",
        "1E5",
        "\"\"",
        "[]",
        "{}",
        "[[],{}]",
        "\t[\r\n1 , 2 ]\n",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\ud83d\\ude00\"",
        "\"\x7f \xf4\x8f\xbf\xbf\"",
        "{\"\":1}",
        "{\"a\":{\"a\":{\"a\":1}}}",
        "{\"a\":1,\"A\":2}",
        "1e-999",
        "111111111122222222223333333333444444444455555555556666666666777",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct med_json_doc doc = parse(texts[i]);
        med_json_free(&doc);
    }
    struct med_json_doc doc = parse("\"\\ud83d\\ude00\\u00e9\"");
    struct med_json_at root = med_json_root(&doc);
    const char *text;
    CHECK_INT(med_json_string_here(&root, 100, &text, NULL), 0);
    CHECK_STR(text, "\xf0\x9f\x98\x80\xc3\xa9");
    med_json_free(&doc);
}

static void test_getters_take_what_fits(void)
{
    struct med_json_doc doc =
        parse("{\"n\": 1.5, \"i\": 9007199254740992, \"s\": \"text\", \"e\": \"\","
              " \"b\": true, \"z\": null, \"o\": {\"k\": 1}, \"a\": [1, 2, 3]}");
    struct med_json_at root = med_json_root(&doc);
    struct med_json_at at;
    struct med_err err = {0};
    double number;
    int64_t integer;
    bool flag = false;
    const char *text;
    CHECK_INT(med_json_number(&root, "n", 1.5, 1.5, &number, &err), 0);
    CHECK_DOUBLE(number, 1.5, 0);
    CHECK_INT(med_json_positive(&root, "n", 2, &number, &err), 0);
    CHECK_INT(med_json_integer(&root, "i", INT64_MIN, INT64_MAX, &integer, &err), 0);
    CHECK_INT(integer, INT64_C(9007199254740992));
    CHECK_INT(med_json_bool(&root, "b", &flag, &err), 0);
    CHECK(flag);
    CHECK_INT(med_json_string(&root, "s", 4, &text, &err), 0);
    CHECK_STR(text, "text");
    CHECK_INT(med_json_string(&root, "e", -4, &text, &err), 0);
    CHECK_STR(text, "");
    CHECK(med_json_has(&root, "n"));
    CHECK(!med_json_has(&root, "z"));
    CHECK(!med_json_has(&root, "N"));
    CHECK_INT(med_json_object(&root, "o", &at, &err), 0);
    CHECK_STR(at.path, "$.o");
    CHECK(med_json_is_object(&at));
    CHECK_UINT(med_json_count(&at), 1);
    CHECK_INT(med_json_array(&root, "a", &at, &err), 0);
    CHECK(med_json_is_array(&at));
    CHECK_UINT(med_json_count(&at), 3);
    CHECK_UINT(med_json_count(&root), 8);
    struct med_json_at third = med_json_index(&at, 2);
    CHECK_STR(third.path, "$.a[2]");
    CHECK(med_json_is_number(&third));
    CHECK_INT(med_json_integer_here(&third, 0, 3, &integer, &err), 0);
    CHECK_INT(integer, 3);
    CHECK_STR(err.text, "");
    med_json_free(&doc);
    CHECK(!doc.root);
}

static void test_ids_come_all_at_once(void)
{
    struct med_json_doc doc =
        parse("{\"a\": [0, 7, 4294967295], \"e\": [], \"n\": null, \"bad\": [1, 2.5], "
              "\"neg\": [-1], \"far\": [1, 4294967296], \"text\": [\"1\"]}");
    struct med_json_at root = med_json_root(&doc);
    struct med_json_at at;
    struct med_err err = {0};
    uint32_t *ids = NULL;
    size_t count = 9;
    REQUIRE(med_json_member(&root, "a", &at, &err) == 0);
    CHECK_INT(med_json_ids(&at, 0, UINT32_MAX, &ids, &count, &err), 0);
    CHECK_UINT(count, 3);
    CHECK_UINT(ids[1], 7);
    CHECK_UINT(ids[2], UINT32_MAX);
    med_free(ids);
    CHECK(med_json_ids(&at, 0, 6, &ids, &count, &err) < 0);
    CHECK_STR(err.text, "x.json: $.a[1]: found 7, expected a whole number from 0 to 6");
    err = (struct med_err){0};
    REQUIRE(med_json_member(&root, "e", &at, &err) == 0);
    CHECK_INT(med_json_ids(&at, 0, 6, &ids, &count, &err), 0);
    CHECK_UINT(count, 0);
    CHECK(ids == NULL);
    CHECK(med_json_ids(&root, 0, 6, &ids, &count, &err) < 0);
    CHECK_CONTAINS(err.text, "$: found an object, expected an array of whole numbers");
    static const char *const wrong[] = {"bad", "neg", "far", "text"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        err = (struct med_err){0};
        REQUIRE(med_json_member(&root, wrong[i], &at, &err) == 0);
        CHECK(med_json_ids(&at, 0, UINT32_MAX, &ids, &count, &err) < 0);
        CHECK_CONTAINS(err.text, "expected a whole number");
    }
    err = (struct med_err){0};
    CHECK(med_json_member(&root, "n", &at, &err) < 0);
    CHECK_STR(err.text, "x.json: $.n: found null, expected a value");
    err = (struct med_err){0};
    CHECK(med_json_member(&root, "zz", &at, &err) < 0);
    CHECK_STR(err.text, "x.json: $.zz: is missing, expected a value");
    med_json_free(&doc);
}

static void test_iteration_gives_index_key_and_path(void)
{
    struct med_json_doc doc = parse("{\"first\": [10, 11], \"no plain\": 2}");
    struct med_json_at root = med_json_root(&doc);
    struct med_json_at at = {0};
    const char *key;
    size_t index = 99;
    REQUIRE(med_json_next(&root, &index, &at, &key));
    CHECK_UINT(index, 0);
    CHECK_STR(key, "first");
    CHECK_STR(at.path, "$.first");
    struct med_json_at item = {0};
    size_t i = 99;
    size_t seen = 0;
    while (med_json_next(&at, &i, &item, NULL)) {
        double value;
        CHECK_UINT(i, seen);
        CHECK_INT(med_json_number_here(&item, 0, 100, &value, NULL), 0);
        CHECK_DOUBLE(value, 10 + (double)seen, 0);
        seen++;
    }
    CHECK_UINT(seen, 2);
    CHECK_STR(item.path, "$.first[1]");
    REQUIRE(med_json_next(&root, &index, &at, &key));
    CHECK_UINT(index, 1);
    CHECK_STR(at.path, "$[\"no plain\"]");
    CHECK(!med_json_next(&root, &index, &at, &key));
    struct med_json_at none = {0};
    CHECK(!med_json_next(&item, &i, &none, NULL)); // a number has no elements
    med_json_free(&doc);
}

/* Each row asks one getter for key "v" of a document. */
static int ask(const char *getter, const struct med_json_at *root, struct med_err *err)
{
    double number;
    int64_t integer;
    bool flag;
    const char *text;
    struct med_json_at at;
    if (strcmp(getter, "number") == 0)
        return med_json_number(root, "v", 0, 1, &number, err);
    if (strcmp(getter, "atleast") == 0)
        return med_json_number(root, "v", 2, DBL_MAX, &number, err);
    if (strcmp(getter, "any") == 0)
        return med_json_number(root, "v", -INFINITY, INFINITY, &number, err);
    if (strcmp(getter, "positive") == 0)
        return med_json_positive(root, "v", INFINITY, &number, err);
    if (strcmp(getter, "positive10") == 0)
        return med_json_positive(root, "v", 10, &number, err);
    if (strcmp(getter, "integer") == 0)
        return med_json_integer(root, "v", 1, INT64_MAX, &integer, err);
    if (strcmp(getter, "bool") == 0)
        return med_json_bool(root, "v", &flag, err);
    if (strcmp(getter, "string") == 0)
        return med_json_string(root, "v", 4, &text, err);
    if (strcmp(getter, "object") == 0)
        return med_json_object(root, "v", &at, err);
    REQUIRE(strcmp(getter, "array") == 0);
    return med_json_array(root, "v", &at, err);
}

static void test_getters_refuse_with_place_value_and_expectation(void)
{
    static const struct {
        const char *getter;
        const char *text;
        const char *sentence;
    } cases[] = {
        {"number", "{\"v\": 1.25}", "$.v: found 1.25, expected a number from 0 to 1"},
        {"number", "{\"v\": \"1\"}", "$.v: found \"1\", expected a number from 0 to 1"},
        {"number", "{}", "$.v: is missing, expected a number from 0 to 1"},
        {"number", "{\"v\": null}", "$.v: found null, expected a number from 0 to 1"},
        {"number", "[0.5]", "$: found an array, expected an object"},
        {"atleast", "{\"v\": 1}", "$.v: found 1, expected a number >= 2"},
        {"any", "{\"v\": {}}", "$.v: found an object, expected a number"},
        {"positive", "{\"v\": 0}", "$.v: found 0, expected a number > 0"},
        {"positive10", "{\"v\": 11}", "$.v: found 11, expected a number > 0 and <= 10"},
        {"integer", "{\"v\": 1.5}", "$.v: found 1.5, expected a whole number >= 1"},
        {"integer", "{\"v\": 9007199254740994}",
         "$.v: found 9007199254740994, expected a whole number "
         ">= 1"},
        {"integer", "{\"v\": 1e300}", "$.v: found 1e+300, expected a whole number >= 1"},
        {"bool", "{\"v\": 1}", "$.v: found 1, expected true or false"},
        {"string", "{\"v\": \"\"}", "$.v: found \"\", expected a string of 1 to 4 bytes"},
        {"string", "{\"v\": \"abcde\"}", "$.v: found \"abcde\", expected a string of 1 to 4 bytes"},
        {"string", "{\"v\": \"ab\\nd\\\"\"}",
         "$.v: found \"ab\\nd\\\"\", expected a string of 1 to 4 "
         "bytes"},
        {"string", "{\"v\": false}", "$.v: found false, expected a string of 1 to 4 bytes"},
        {"object", "{\"v\": []}", "$.v: found an array, expected an object"},
        {"array", "{\"v\": {}}", "$.v: found an object, expected an array"},
        {"array", "{}", "$.v: is missing, expected an array"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct med_json_doc doc = parse(cases[i].text);
        struct med_json_at root = med_json_root(&doc);
        struct med_err err = {0};
        char sentence[256];
        (void)snprintf(sentence, sizeof sentence, "x.json: %s", cases[i].sentence);
        CHECK_INT(ask(cases[i].getter, &root, &err), MED_E_FORMAT);
        CHECK_INT(ask(cases[i].getter, &root, NULL), MED_E_FORMAT);
        CHECK_INT(err.code, MED_E_FORMAT);
        CHECK_STR(err.text, sentence);
        med_json_free(&doc);
    }
}

static void test_first_error_of_a_chain_is_kept(void)
{
    struct med_json_doc doc = parse("{\"a\": 1, \"b\": 2}");
    struct med_json_at root = med_json_root(&doc);
    struct med_err err = {0};
    const char *text;
    CHECK_INT(med_json_string(&root, "a", 9, &text, &err), MED_E_FORMAT);
    CHECK_INT(med_json_string(&root, "b", 9, &text, &err), MED_E_FORMAT);
    CHECK_CONTAINS(err.text, "$.a:");
    CHECK_INT(med_json_fail(&root, "b", &err, "later"), MED_E_FORMAT);
    CHECK_CONTAINS(err.text, "$.a:");
    med_json_free(&doc);
}

static void test_keys_and_format(void)
{
    static const char *const known[] = {"format", "rate", NULL};
    struct med_json_doc doc = parse("{\"format\": \"f/1\", \"rates\": 2}");
    struct med_json_at root = med_json_root(&doc);
    struct med_err err = {0};
    CHECK_INT(med_json_keys(&root, known, &err), MED_E_FORMAT);
    CHECK_STR(err.text, "x.json: $.rates: unknown key; known here: format, rate");
    err = (struct med_err){0};
    CHECK_INT(med_json_expect_format(&root, "f/1", &err), 0);
    CHECK_INT(med_json_expect_format(&root, "f/2", &err), MED_E_FORMAT);
    CHECK_STR(err.text, "x.json: $.format: found \"f/1\", expected \"f/2\"");
    med_json_free(&doc);
    doc = parse("{\"rate\": 2, \"format\": \"f/1\"}");
    root = med_json_root(&doc);
    err = (struct med_err){0};
    CHECK_INT(med_json_keys(&root, known, &err), 0);
    CHECK_INT(med_json_expect_format(&root, "f/1", &err), MED_E_FORMAT);
    CHECK_STR(err.text, "x.json: $: the first key must be \"format\", with the value \"f/1\"");
    med_json_free(&doc);
}

static void test_long_paths_are_cut(void)
{
    char text[1024] = "";
    for (int i = 0; i < 10; i++) {
        (void)strncat(text,
                      "{\"a_key_of_thirty_letters_or_so__\":", sizeof text - strlen(text) - 1);
    }
    (void)strncat(text, "1}}}}}}}}}}", sizeof text - strlen(text) - 1);
    struct med_json_doc doc = parse(text);
    struct med_json_at at = med_json_root(&doc);
    struct med_err err = {0};
    for (int i = 0; i < 9; i++)
        CHECK_INT(med_json_object(&at, "a_key_of_thirty_letters_or_so__", &at, &err), 0);
    CHECK(strlen(at.path) < MED_JSON_PATH_MAX);
    CHECK_STR(at.path + strlen(at.path) - 3, "...");
    med_json_free(&doc);
}

static void test_writer_compact_and_pretty(void)
{
    struct med_buf buf;
    struct med_json_writer w;
    med_buf_init(&buf, 4096);
    for (int pretty = 0; pretty < 2; pretty++) {
        med_buf_clear(&buf);
        med_json_writer_init(&w, &buf, pretty);
        med_json_begin_object(&w, NULL);
        med_json_put_string(&w, "s", "q\" \\ \n \x01 \xc3\xa9 \xff");
        med_json_begin_array(&w, "rows");
        med_json_begin_row_array(&w, NULL);
        med_json_put_integer(&w, NULL, INT64_MIN);
        med_json_put_number(&w, NULL, 0.1);
        med_json_begin_row_object(&w, NULL);
        med_json_put_bool(&w, "t", true);
        med_json_put_null(&w, "n");
        med_json_end_object(&w);
        med_json_end_array(&w);
        med_json_end_array(&w);
        med_json_begin_object(&w, "none");
        med_json_end_object(&w);
        med_json_begin_array(&w, "empty");
        med_json_end_array(&w);
        med_json_end_object(&w);
        REQUIRE(med_json_writer_finish(&w) == 0);
        if (pretty) {
            CHECK_STR(buf.data,
                      "{\n  \"s\": \"q\\\" \\\\ \\n \\u0001 \xc3\xa9 \xef\xbf\xbd\",\n"
                      "  \"rows\": [\n"
                      "    [-9223372036854775808, 0.1, {\"t\": true, \"n\": null}]\n  ],\n"
                      "  \"none\": {},\n  \"empty\": []\n}\n");
        } else {
            CHECK_STR(buf.data, "{\"s\":\"q\\\" \\\\ \\n \\u0001 \xc3\xa9 \xef\xbf\xbd\",\"rows\":"
                                "[[-9223372036854775808,0.1,{\"t\":true,\"n\":null}]],"
                                "\"none\":{},\"empty\":[]}\n");
        }
        struct med_json_doc doc = parse(buf.data);
        med_json_free(&doc);
    }
    med_buf_release(&buf);
}

static void test_writer_what_is_inside_a_row_stays_on_its_line(void)
{
    struct med_buf buf;
    struct med_json_writer w;
    med_buf_init(&buf, 4096);
    med_json_writer_init(&w, &buf, true);
    med_json_begin_row_object(&w, NULL);
    med_json_begin_array(&w, "a");
    med_json_begin_object(&w, NULL);
    med_json_put_integer(&w, "b", 1);
    med_json_end_object(&w);
    med_json_put_integer(&w, NULL, 2);
    med_json_end_array(&w);
    med_json_end_object(&w);
    REQUIRE(med_json_writer_finish(&w) == 0);
    CHECK_STR(buf.data, "{\"a\": [{\"b\": 1}, 2]}\n");
    med_buf_release(&buf);
}

static void test_writer_when_buffer_is_full_then_fails_once(void)
{
    struct med_buf buf;
    struct med_json_writer w;
    med_buf_init(&buf, 8);
    med_json_writer_init(&w, &buf, false);
    med_json_begin_array(&w, NULL);
    med_json_put_string(&w, NULL, "much too long for it");
    med_json_put_integer(&w, NULL, 1);
    med_json_end_array(&w);
    CHECK_INT(med_json_writer_finish(&w), MED_E_LIMIT);
    CHECK(buf.length <= 8);
    med_buf_release(&buf);
}

/* Writes one number as a document and reads it back. */
static double round_trip(struct med_buf *buf, double value)
{
    struct med_json_writer w;
    med_buf_clear(buf);
    med_json_writer_init(&w, buf, false);
    med_json_put_number(&w, NULL, value);
    REQUIRE(med_json_writer_finish(&w) == 0);
    struct med_json_doc doc = parse(buf->data);
    struct med_json_at root = med_json_root(&doc);
    double back = NAN;
    CHECK_INT(med_json_number_here(&root, -INFINITY, INFINITY, &back, NULL), 0);
    med_json_free(&doc);
    return back;
}

static void test_numbers_round_trip(void)
{
    static const double values[] = {0,
                                    1,
                                    -1,
                                    0.1,
                                    1.0 / 3,
                                    5e-324,
                                    DBL_MIN,
                                    DBL_MAX,
                                    1e22,
                                    123456.789,
                                    9007199254740993.0,
                                    0.3,
                                    2.5e-8};
    struct med_buf buf;
    med_buf_init(&buf, 4096);
    /* A locale with a decimal comma must change nothing, where the machine has one. */
    bool comma = setlocale(LC_ALL, "de_DE.UTF-8") != NULL;
    (void)printf("decimal comma locale: %s\n", comma ? "used" : "not on this machine");
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        CHECK_DOUBLE(round_trip(&buf, values[i]), values[i], 0);
    CHECK(signbit(round_trip(&buf, -0.0)));
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 0);
    for (int i = 0; i < 2000; i++) {
        uint64_t bits = (uint64_t)med_rng_u32(&rng) << 32 | med_rng_u32(&rng);
        double value;
        memcpy(&value, &bits, sizeof value);
        if (isfinite(value))
            CHECK_DOUBLE(round_trip(&buf, value), value, 0);
    }
    (void)setlocale(LC_ALL, "C");
    (void)round_trip(&buf, 0.1);
    CHECK_STR(buf.data, "0.1\n");
    (void)round_trip(&buf, 1e15);
    CHECK_STR(buf.data, "1e+15\n");
    (void)round_trip(&buf, 100);
    CHECK_STR(buf.data, "100\n");
    med_buf_release(&buf);
}

static void test_random_bytes_never_crash_and_random_cuts_are_refused(void)
{
    static const char text[] = "{\"a\": [1, -2.5e3, \"x\\u00e9\\n\", {\"b\": null}], \"c\": true}";
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 1);
    for (size_t cut = 0; cut + 1 < sizeof text - 1; cut++) {
        struct med_json_doc doc;
        CHECK_INT(med_json_parse(text, cut, "cut", &doc, NULL), MED_E_FORMAT);
    }
    int accepted = 0;
    for (int i = 0; i < 20000; i++) {
        char bytes[sizeof text];
        memcpy(bytes, text, sizeof text);
        for (uint32_t k = 0; k <= med_rng_below(&rng, 3); k++)
            bytes[med_rng_below(&rng, sizeof text - 1)] = (char)med_rng_below(&rng, 256);
        struct med_json_doc doc;
        struct med_err err = {0};
        int rc = med_json_parse(bytes, sizeof text - 1, "random", &doc, &err);
        if (rc == 0) {
            accepted++;
            med_json_free(&doc);
        } else {
            CHECK_INT(rc, MED_E_FORMAT);
            /* The library agrees with all that the grammar check lets through. */
            CHECK(!strstr(err.text, "library"));
        }
    }
    CHECK(accepted > 0);
}

static void test_every_allocation_failing_in_turn(void)
{
    static const char text[] =
        "{\"a\":1,\"b\":[\"s\",\"t\"],\"c\":1,\"d\":1,\"e\":1,\"f\":1,\"g\":1,\"h\":1,"
        "\"i\":{\"x\":\"y\"}}";
    int64_t live = med_alloc_bytes_live();
    uint64_t n = 1;
    for (;; n++) {
        struct med_json_doc doc;
        struct med_err err = {0};
        (void)med_alloc_fail_nth(n);
        int rc = med_json_parse(text, sizeof text - 1, "x.json", &doc, &err);
        (void)med_alloc_fail_nth(0);
        if (rc == 0) {
            med_json_free(&doc);
            break;
        }
        CHECK_INT(rc, MED_E_NOMEM);
        CHECK_STR(err.text, "x.json: memory is exhausted while it was parsed");
        CHECK_INT(med_alloc_bytes_live(), live);
        REQUIRE(n < 1000);
    }
    CHECK(n > 20);
    CHECK_INT(med_alloc_bytes_live(), live);
}

static void test_parse_file(void)
{
    char path[] = "/tmp/medley_test_json_XXXXXX";
    int fd = mkstemp(path);
    REQUIRE(fd >= 0);
    REQUIRE(write(fd, "{\"a\": 1}", 8) == 8);
    REQUIRE(close(fd) == 0);
    struct med_json_doc doc;
    struct med_err err = {0};
    REQUIRE(med_json_parse_file(path, &doc, &err) == 0);
    CHECK_STR(doc.file, path);
    med_json_free(&doc);
    REQUIRE(truncate(path, (off_t)MED_LIMIT_JSON_BYTES + 1) == 0); // sparse: nothing is written
    CHECK_INT(med_json_parse_file(path, &doc, &err), MED_E_LIMIT);
    CHECK_CONTAINS(err.text, ": larger than 67108864 bytes");
    REQUIRE(unlink(path) == 0);
    CHECK_INT(med_json_parse_file(path, &doc, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, ": cannot open: No such file or directory");
}

int main(void)
{
    RUN(test_parse_refuses_and_says_where);
    RUN(test_parse_at_the_depth_limit);
    RUN(test_check_when_there_are_too_many_values_then_refused);
    RUN(test_parse_accepts_what_json_is);
    RUN(test_getters_take_what_fits);
    RUN(test_ids_come_all_at_once);
    RUN(test_iteration_gives_index_key_and_path);
    RUN(test_getters_refuse_with_place_value_and_expectation);
    RUN(test_first_error_of_a_chain_is_kept);
    RUN(test_keys_and_format);
    RUN(test_long_paths_are_cut);
    RUN(test_writer_compact_and_pretty);
    RUN(test_writer_what_is_inside_a_row_stays_on_its_line);
    RUN(test_writer_when_buffer_is_full_then_fails_once);
    RUN(test_numbers_round_trip);
    RUN(test_random_bytes_never_crash_and_random_cuts_are_refused);
    RUN(test_every_allocation_failing_in_turn);
    RUN(test_parse_file);
    return check_finish();
}
