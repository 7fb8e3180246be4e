/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tokenizer on texts whose ids can be worked out by hand: what is refused at load, limits, the
 * incremental detokenizer, failing allocations, several threads.  That ids equal those of the
 * tokenizers package is tests/integration/test_tokenizer.py.  thread: main and helpers.
 */
#include "base/alloc.h"
#include "base/buf.h"
#include "base/limits.h"
#include "router/tokenizer/tokenizer.h"
#include "tests/check.h"

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

/* Byte level: "Ġ" is a space, "Ã" and "©" the two bytes of e-acute. */
#define BYTE_LEVEL_MODEL                                                                           \
 "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"\u0120\":2,\"ab\":3,\"\u0120ab\":4,"    \
 "\"\u00c3\":5,\"\u00a9\":6,\"abab\":7,\"1\":8},\"merges\":[\"a b\",[\"\u0120\",\"ab\"],\"ab ab\"" \
 "]}"
#define BYTE_LEVEL_REST                                                                           \
 "\"version\":\"1.0\",\"added_tokens\":[{\"id\":9,\"content\":\"<s>\",\"special\":true},"         \
 "{\"id\":10,\"content\":\"<t>\",\"special\":false}],\"normalizer\":{\"type\":\"NFC\"},"          \
 "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"     \
 "\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>" \
 "\":{\"id\":\"<s>\",\"ids\":[9],\"tokens\":[\"<s>\"]}}},\"decoder\":{\"type\":\"ByteLevel\"},"
#define PRE_TOKENIZER "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"

static const char byte_level[] = "{" BYTE_LEVEL_REST PRE_TOKENIZER BYTE_LEVEL_MODEL "}";

/* SentencePiece style, with some of the byte tokens. */
static const char sentencepiece[] =
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"
    "\"\u2581\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}]},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{"
    "\"String\":\"\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
    "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"byte_fallback\":true,"
    "\"vocab\":{\"<unk>\":0,\"\u2581\":1,\"a\":2,\"\u2581a\":3,\"<0xC3>\":4,\"<0xA9>\":5},"
    "\"merges\":[\"\u2581 a\"]}}";

struct fixture {
    struct med_tokenizer *tokenizer;
    struct med_tokenizer_scratch *scratch;
    struct med_token_ids ids;
    struct med_err err;
    struct med_buf text;
};

static struct fixture start(const char *json)
{
    struct fixture f = {0};
    int rc = med_tokenizer_parse(json, strlen(json), "t.json", &f.tokenizer, &f.err);
    CHECK_STR(f.err.text, "");
    REQUIRE(rc == 0);
    REQUIRE(med_tokenizer_scratch_new(f.tokenizer, &f.scratch) == 0);
    med_buf_init(&f.text, 1 << 20);
    return f;
}

static void stop(struct fixture *f)
{
    med_tokenizer_scratch_free(f->scratch);
    med_tokenizer_free(f->tokenizer);
    med_free(f->ids.ids);
    med_buf_release(&f->text);
}

static int encode(struct fixture *f, const char *text, bool special)
{
    struct med_encode_options options = {.add_special = special, .parse_special = special};
    f->ids.count = 0;
    return med_tokenizer_encode(f->tokenizer, f->scratch, text, strlen(text), &options, &f->ids,
                                &f->err);
}

/* "9 4 1" */
static const char *shown(const struct fixture *f)
{
    static char out[256];
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < f->ids.count && used < sizeof out; i++) {
        int length = snprintf(out + used, sizeof out - used, "%s%u", i ? " " : "", f->ids.ids[i]);
        used += length > 0 ? (size_t)length : 0;
    }
    return out;
}

/* A token's bytes, and its text where special tokens are left out. */
static void check_token(struct fixture *f, uint32_t id, const char *bytes, const char *text)
{
    med_buf_clear(&f->text);
    CHECK_INT(med_tokenizer_token_bytes(f->tokenizer, id, &f->text), 0);
    CHECK_STR(f->text.data ? f->text.data : "", bytes);
    med_buf_clear(&f->text);
    CHECK_INT(med_tokenizer_decode(f->tokenizer, &id, 1, true, &f->text), 0);
    CHECK_STR(f->text.data ? f->text.data : "", text);
}

static void test_bytes_are_merged_by_rank(void)
{
    struct fixture f = start(byte_level);
    static const struct {
        const char *text, *ids;
        bool special;
    } cases[] = {
        {"", "", false},
        {"", "9", true},
        {"ab", "3", false},
        {"abab", "7", false},
        {"aab", "0 3", false},
        {" ab ba", "4 2 1 0", false},
        {"\u00e9", "5 6", false},
        {"ab<s>ab", "3 9 3", true},   // prefixed by the template's <s>, see below
        {"ab<t>ab", "3 10 3", false}, // an added token that is not special is always read
        {"a\x01z", "0", false},       // bytes that the vocabulary does not spell are dropped
        {"ab1ab", "3 8 3", false},    // the pattern cuts at the digit
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char want[64];
        (void)snprintf(want, sizeof want, "%s%s", cases[i].special && *cases[i].text ? "9 " : "",
                       cases[i].ids);
        CHECK_INT(encode(&f, cases[i].text, cases[i].special), 0);
        CHECK_STR(shown(&f), want);
    }
    CHECK_INT(med_tokenizer_vocab(f.tokenizer), 11);
    check_token(&f, 4, " ab", " ab");
    check_token(&f, 9, "<s>", ""); // special
    check_token(&f, 10, "<t>", "<t>");
    check_token(&f, 11, "", ""); // there is none
    check_token(&f, 99, "", "");
    stop(&f);
}

static void test_special_tokens_are_text_where_they_are_not_parsed(void)
{
    struct fixture f = start(byte_level);
    CHECK_INT(encode(&f, "a<s>a", false), 0);
    CHECK_STR(shown(&f), "0 0"); // '<', 's', '>' are not in this vocabulary
    stop(&f);
}

static void test_characters_fall_back_to_bytes_or_unknown(void)
{
    struct fixture f = start(sentencepiece);
    static const char *const cases[][2] = {
        {"a", "3"},
        {"a a", "3 3"},
        {"  a", "1 1 3"},
        {"\u00e9", "1 4 5"},
        {"zz\u2603a", "1 0 2"},    // three unknown characters, fused
        {"z\u00e9a", "1 4 5 0 2"}, // the unknown token waits past the bytes, as in the package
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_INT(encode(&f, cases[i][0], false), 0);
        CHECK_STR(shown(&f), cases[i][1]);
    }
    stop(&f);
}

/* ---- refusals ---- */

static void check_refused(const char *json, const char *sentence)
{
    struct med_tokenizer *tokenizer = NULL;
    struct med_err err = {0};
    int64_t live = med_alloc_bytes_live();
    CHECK_INT(med_tokenizer_parse(json, strlen(json), "t.json", &tokenizer, &err), MED_E_FORMAT);
    CHECK_CONTAINS(err.text, sentence);
    CHECK(!tokenizer);
    CHECK_INT(med_alloc_bytes_live(), live);
}

static void test_models_that_are_not_understood_are_refused_by_name(void)
{
    static const char *const cases[][2] = {
        {"{}", "t.json: $.model: is missing"},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}",
         "t.json: $.model.type: found WordPiece, expected BPE"},
        {"{\"version\":\"2.0\",\"model\":{}}", "$.version: found \"2.0\", expected \"1.0\""},
        {"{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}",
         "$.model.vocab.b: the id 0 is already that of \"a\""},
        {"{\"model\":{\"vocab\":{\"a\":4194304},\"merges\":[]}}",
         "$.model.vocab.a: found 4194304, expected a whole number from 0 to 4194303"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}",
         "$.model.merges[0]: \"b\" is not in the vocabulary"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}",
         "$.model.merges[0]: what it makes, \"aa\", is not in the vocabulary"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"aa\"]}}",
         "$.model.merges[0]: found \"aa\", expected two tokens and a space"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}}", "$.model.dropout"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}",
         "$.model.end_of_word_suffix: found \"</w>\", expected null"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"u\"}}",
         "$.model.unk_token: \"u\" is not in the vocabulary"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":[{\"id\":7,\"content\":"
         "\"x\"}]}",
         "$.added_tokens[0].id: found 7, expected 1, the next free id"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":[{\"id\":1,\"content\":"
         "\"a\"}]}",
         "$.added_tokens[0].id: found 1, but \"a\" has the id 0"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"normalizer\":{\"type\":\"Lowercase\"}}",
         "$.normalizer.type: found \"Lowercase\", expected NFC"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":"
         "\"Whitespace\"}}",
         "$.pre_tokenizer.type: found \"Whitespace\", expected Split"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}", "$.decoder: is missing"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"decoder\":{\"type\":\"CTC\"}}",
         "$.decoder.type: found \"CTC\", expected ByteLevel"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"post_processor\":{\"type\":"
         "\"BertProcessing\"}}",
         "$.post_processor.type: found \"BertProcessing\", expected TemplateProcessing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_refused(cases[i][0], cases[i][1]);
}

static void test_patterns_that_engines_read_differently_are_refused(void)
{
    static const char *const cases[][2] = {
        {"\\\\w+", "the pattern has \"\\w\", which is not among the escapes"},
        {"\\\\bfoo", "\"\\b\""},
        {"(?<name>a)", "which is not among the groups"},
        {"(?i)a", "which is not among the groups"},
        {"[a[b]]", "inside a class, which needs a backslash here"},
        {"[a&&b]", "an intersection of classes"},
        {"[]a]", "as the first of a class"},
        {"[a", "its class has no end"},
        {"a{2}+", "which engines read differently"},
        {"a{,2}", "which is no {n}, {n,} or {n,m}"},
        {"\\\\p{Alphabetic}", "expected a general category"},
        {"\\\\pL", "expected a property in braces"},
        {"(?i:stra\u00dfe)", "inside (?i:...)"},
        {"\\\\xff", "expected \\x{...}"},
        {"(a", "the pattern is not valid: "},
        {"a)", "the pattern is not valid: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[1024];
        (void)snprintf(json, sizeof json,
                       "{%s\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},"
                       "\"behavior\":\"Isolated\"},%s}",
                       BYTE_LEVEL_REST, cases[i][0], BYTE_LEVEL_MODEL);
        check_refused(json, "$.pre_tokenizer.pattern.Regex: ");
        check_refused(json, cases[i][1]);
    }
}

/* ---- limits ---- */

static void test_a_failed_encode_leaves_the_ids_that_were_there(void)
{
    struct fixture f = start(byte_level);
    struct med_encode_options options = {.tokens_max = 3};
    REQUIRE(encode(&f, "ab", false) == 0);
    CHECK_INT(med_tokenizer_encode(f.tokenizer, f.scratch, "abbbb", 5, &options, &f.ids, &f.err),
              MED_E_LIMIT);
    CHECK_STR(f.err.text, "the text has more than 3 tokens");
    CHECK_STR(shown(&f), "3");
    CHECK_INT(med_tokenizer_encode(f.tokenizer, f.scratch, "abb", 3, &options, &f.ids, &f.err), 0);
    CHECK_STR(shown(&f), "3 3 1"); // the limit is of this text, not of the list
    CHECK_INT(med_tokenizer_encode(f.tokenizer, f.scratch, "ab\xff", 3, &options, &f.ids, &f.err),
              MED_E_INVALID);
    CHECK_STR(f.err.text, "the text is not valid UTF-8 at byte 2");
    CHECK_STR(shown(&f), "3 3 1");
    CHECK_INT(med_tokenizer_encode(f.tokenizer, f.scratch, "ab\xe2\x82", 4, &options, &f.ids, NULL),
              MED_E_INVALID);
    stop(&f);
}

static void test_a_text_over_the_limit_is_refused(void)
{
    struct fixture f = start(byte_level);
    size_t bytes = (size_t)MED_LIMIT_PROMPT_BYTES + 1;
    struct med_encode_options options = {.tokens_max = bytes};
    char *text = med_alloc(bytes);
    REQUIRE(text);
    memset(text, 'b', bytes);
    CHECK_INT(med_tokenizer_encode(f.tokenizer, f.scratch, text, bytes, &options, &f.ids, &f.err),
              MED_E_LIMIT);
    CHECK_STR(f.err.text, "the text has 4194305 bytes, more than 4194304");
    int64_t live = med_alloc_bytes_live();
    CHECK_INT(
        med_tokenizer_encode(f.tokenizer, f.scratch, text, bytes - 1, &options, &f.ids, &f.err), 0);
    CHECK_UINT(f.ids.count, bytes - 1);
    /* What one long word needed is not kept: only the ids are. */
    CHECK(med_alloc_bytes_live() - live < (int64_t)(f.ids.capacity * sizeof(uint32_t)) + (4 << 20));
    med_free(text);
    stop(&f);
}

static void test_a_pattern_without_end_is_an_error(void)
{
    char text[128];
    struct fixture f = start("{" BYTE_LEVEL_REST
                             "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?:(?:"
                             "a|b)+|[ab]+)+c\"},\"behavior\":\"Isolated\"}," BYTE_LEVEL_MODEL "}");
    memset(text, 'a', sizeof text);
    memcpy(text + sizeof text - 4, "1bc", 4); // a 'c' there, but not where the pattern looks for it
    CHECK_INT(encode(&f, text, false), MED_E_LIMIT);
    CHECK_STR(f.err.text,
              "step 0 of the pre-tokenizer needs more than 10000000 steps on this text");
    CHECK_UINT(f.ids.count, 0);
    CHECK_INT(encode(&f, "ab1", false), 0);
    stop(&f);
}

/* ---- decoding ---- */

static const char *decoded(struct fixture *f, const uint32_t *ids, size_t count, bool continues)
{
    struct med_detokenizer d;
    med_buf_clear(&f->text);
    med_detokenizer_init(&d, f->tokenizer, true, continues);
    for (size_t i = 0; i < count; i++)
        CHECK_INT(med_detokenizer_add(&d, ids + i, 1, &f->text), 0);
    CHECK_INT(med_detokenizer_end(&d, &f->text), 0);
    return f->text.data ? f->text.data : "";
}

static void test_bytes_of_a_character_come_out_together(void)
{
    struct fixture f = start(byte_level);
    struct med_detokenizer d;
    const uint32_t two[] = {5, 6};
    med_detokenizer_init(&d, f.tokenizer, false, false);
    CHECK_INT(med_detokenizer_add(&d, two, 1, &f.text), 0);
    CHECK_UINT(f.text.length, 0);
    CHECK_INT(med_detokenizer_add(&d, two + 1, 1, &f.text), 0);
    CHECK_STR(f.text.data, "\u00e9");
    CHECK_STR(decoded(&f, (const uint32_t[]){5, 0}, 2, false), "\ufffda"); // cut off by another
    CHECK_STR(decoded(&f, (const uint32_t[]){0, 5}, 2, false), "a\ufffd"); // cut off by the end
    CHECK_STR(decoded(&f, (const uint32_t[]){6, 6}, 2, false), "\ufffd\ufffd");
    CHECK_STR(decoded(&f, (const uint32_t[]){5, 9, 6}, 3, false), "\u00e9");  // special is skipped
    CHECK_STR(decoded(&f, (const uint32_t[]){4, 77, 4}, 3, false), " ab ab"); // unknown: nothing
    stop(&f);
}

static void test_the_first_space_goes_once(void)
{
    struct fixture f = start(sentencepiece);
    CHECK_STR(decoded(&f, (const uint32_t[]){3, 3}, 2, false), "a a");
    CHECK_STR(decoded(&f, (const uint32_t[]){3, 3}, 2, true), " a a");
    CHECK_STR(decoded(&f, (const uint32_t[]){1, 1, 2}, 3, false), " a");
    CHECK_STR(decoded(&f, (const uint32_t[]){4, 5}, 2, false), "\u00e9");
    CHECK_STR(decoded(&f, (const uint32_t[]){4, 3}, 2, false), "\ufffd a");
    CHECK_STR(decoded(&f, (const uint32_t[]){5, 4, 5}, 3, false), "\ufffd\u00e9");
    stop(&f);
}

/* ---- directories ---- */

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    REQUIRE(file);
    REQUIRE(fputs(text, file) >= 0);
    REQUIRE(fclose(file) == 0);
}

static void test_a_directory_with_its_configuration(void)
{
    static const char *const cases[][3] = {
        /* tokenizer_config.json, ids of "ab", sentence */
        {"{}", "9 3", ""},
        {"{\"add_bos_token\":false}", "3", ""},
        {"{\"add_bos_token\":true,\"bos_token\":\"<t>\"}", "10 3", ""},
        {"{\"add_eos_token\":true,\"eos_token\":{\"content\":\"<t>\",\"lstrip\":false}}", "3 10",
         ""},
        {"{\"add_bos_token\":true,\"bos_token\":null}", "3", ""},
        {"{\"add_bos_token\":true,\"bos_token\":\"<x>\"}", "",
         "tokenizer_config.json: $.bos_token: \"<x>\" is no token of tokenizer.json"},
        {"{\"add_bos_token\":1}", "", "$.add_bos_token: found 1, expected"},
    };
    char dir[] = "/tmp/med-tokenizer-XXXXXX";
    char path[256];
    REQUIRE(mkdtemp(dir));
    write_file(dir, "tokenizer.json", byte_level);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f = {0};
        write_file(dir, "tokenizer_config.json", cases[i][0]);
        int rc = med_tokenizer_load(dir, &f.tokenizer, &f.err);
        CHECK_INT(rc, *cases[i][2] ? MED_E_FORMAT : 0);
        CHECK_CONTAINS(f.err.text, cases[i][2]);
        if (rc < 0)
            continue;
        REQUIRE(med_tokenizer_scratch_new(f.tokenizer, &f.scratch) == 0);
        CHECK_INT(encode(&f, "ab", true), 0);
        CHECK_STR(shown(&f), cases[i][1]);
        stop(&f);
    }
    (void)snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
    CHECK_INT(unlink(path), 0);
    (void)snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    CHECK_INT(unlink(path), 0);
    struct med_tokenizer *tokenizer = NULL;
    struct med_err err = {0};
    CHECK_INT(med_tokenizer_load(dir, &tokenizer, &err), MED_E_INVALID);
    CHECK_CONTAINS(err.text, "tokenizer.json: cannot open");
    CHECK_INT(rmdir(dir), 0);
}

/* ---- memory and threads ---- */

/* Everything once; the result of the first call that fails. */
static int everything(const char *json)
{
    struct med_tokenizer *tokenizer = NULL;
    struct med_tokenizer_scratch *scratch = NULL;
    struct med_token_ids ids = {0};
    struct med_err err = {0};
    struct med_buf text;
    struct med_encode_options options = {.add_special = true, .parse_special = true};
    char word[200];
    memset(word, 'a', sizeof word);
    static const char mixed[] = "<s> \u00e9 ab A\u030a\u0316\u0301"; // NFC has to work
    memcpy(word + 100, mixed, sizeof mixed - 1);                     // NFC has to work
    med_buf_init(&text, 1 << 16);
    int rc = med_tokenizer_parse(json, strlen(json), "t.json", &tokenizer, &err);
    if (rc == 0)
        rc = med_tokenizer_scratch_new(tokenizer, &scratch);
    if (rc == 0)
        rc = med_tokenizer_encode(tokenizer, scratch, word, sizeof word, &options, &ids, &err);
    if (rc == 0)
        rc = med_tokenizer_decode(tokenizer, ids.ids, ids.count, false, &text);
    med_tokenizer_scratch_free(scratch);
    med_tokenizer_free(tokenizer);
    med_free(ids.ids);
    med_buf_release(&text);
    return rc;
}

static void test_every_failing_allocation_is_reported_and_nothing_leaks(void)
{
    static const char *const files[] = {byte_level, sentencepiece};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        int64_t live = med_alloc_bytes_live();
        uint64_t made = 1;
        uint64_t failures = 0;
        for (uint64_t n = 1; n <= made; n++) {
            (void)med_alloc_fail_nth(n);
            int rc = everything(files[i]);
            made = med_alloc_fail_nth(0);
            /* Without memory for the just-in-time compiler matching is only slower. */
            CHECK(rc == 0 || rc == MED_E_NOMEM);
            failures += rc == MED_E_NOMEM;
            CHECK_INT(med_alloc_bytes_live(), live);
            if (rc != 0)
                made = n + 1;
        }
        CHECK(failures > 100);
    }
}

static void *encode_often(void *arg)
{
    const struct med_tokenizer *tokenizer = arg;
    struct med_tokenizer_scratch *scratch = NULL;
    struct med_token_ids ids = {0};
    struct med_encode_options options = {.add_special = true, .parse_special = true};
    uintptr_t wrong = med_tokenizer_scratch_new(tokenizer, &scratch) != 0;
    for (int i = 0; i < 200 && !wrong; i++) {
        ids.count = 0;
        wrong += med_tokenizer_encode(tokenizer, scratch, "ab <s>abab ba", 13, &options, &ids,
                                      NULL) != 0;
        wrong += ids.count != 8 || ids.ids[3] != 9 || ids.ids[4] != 7;
    }
    med_tokenizer_scratch_free(scratch);
    med_free(ids.ids);
    return (void *)wrong;
}

static void test_threads_share_a_tokenizer(void)
{
    enum {
        THREADS = 4
    };
    struct fixture f = start(byte_level);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, encode_often, f.tokenizer) == 0);
    for (int i = 0; i < THREADS; i++) {
        void *wrong;
        REQUIRE(pthread_join(threads[i], &wrong) == 0);
        CHECK_UINT((uintptr_t)wrong, 0);
    }
    stop(&f);
}

int main(void)
{
    RUN(test_bytes_are_merged_by_rank);
    RUN(test_special_tokens_are_text_where_they_are_not_parsed);
    RUN(test_characters_fall_back_to_bytes_or_unknown);
    RUN(test_models_that_are_not_understood_are_refused_by_name);
    RUN(test_patterns_that_engines_read_differently_are_refused);
    RUN(test_a_failed_encode_leaves_the_ids_that_were_there);
    RUN(test_a_text_over_the_limit_is_refused);
    RUN(test_a_pattern_without_end_is_an_error);
    RUN(test_bytes_of_a_character_come_out_together);
    RUN(test_the_first_space_goes_once);
    RUN(test_a_directory_with_its_configuration);
    RUN(test_every_failing_allocation_is_reported_and_nothing_leaks);
    RUN(test_threads_share_a_tokenizer);
    return check_finish();
}
