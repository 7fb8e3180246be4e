/* SPDX-License-Identifier: Apache-2.0 */
/* Secrets from a file: what is read, what is refused, what matches, and that no sentence shows one. */
#include "router/keys.h"
#include "tests/check.h"

#include <sys/stat.h>
#include <unistd.h>

#define KEY_A "sk-alpha-0123456789"
#define KEY_B "sk-beta--9876543210"

static char path[] = "/tmp/med-keys-XXXXXX";

static void put(const char *text, size_t bytes)
{
    FILE *file = fopen(path, "w");
    REQUIRE(file != NULL);
    REQUIRE(fwrite(text, 1, bytes, file) == bytes);
    REQUIRE(fclose(file) == 0);
}

static void put_text(const char *text)
{
    put(text, strlen(text));
}

static bool match(const struct med_keys *keys, const char *secret)
{
    return med_keys_match(keys, secret, strlen(secret));
}

static bool bearer(const struct med_keys *keys, const char *value)
{
    return med_keys_match_bearer(keys, value, strlen(value));
}

static void test_file_when_well_formed_then_each_line_counts(void)
{
    struct med_keys *keys = NULL;
    struct med_err err = {0};
    put_text("# ours\n\n  " KEY_A " \r\n\t# more\n" KEY_B);
    REQUIRE(med_keys_new("--api-key-file", path, &keys, &err) == 0);
    CHECK_UINT(med_keys_count(keys), 2);
    CHECK_STR(med_keys_first(keys), KEY_A);
    CHECK(match(keys, KEY_A));
    CHECK(match(keys, KEY_B));
    CHECK(!match(keys, KEY_A "x"));
    CHECK(!match(keys, "sk-alpha-012345678"));
    CHECK(!match(keys, "sk-alpha-0123456780"));
    CHECK(!match(keys, ""));
    CHECK(!med_keys_match(keys, NULL, 0));
    /* A NUL behind a key makes it another one, though the slot is filled with NUL. */
    CHECK(!med_keys_match(keys, KEY_A, sizeof(KEY_A)));
    med_keys_free(keys);
}

static void test_bearer_when_scheme_is_another_then_no_match(void)
{
    struct med_keys *keys = NULL;
    struct med_err err = {0};
    put_text(KEY_A "\n");
    REQUIRE(med_keys_new("--api-key-file", path, &keys, &err) == 0);
    CHECK(bearer(keys, "Bearer " KEY_A));
    CHECK(bearer(keys, "bearer   " KEY_A "  "));
    CHECK(!bearer(keys, "Basic " KEY_A));
    CHECK(!bearer(keys, "Bearer" KEY_A));
    CHECK(!bearer(keys, "Bearer "));
    CHECK(!bearer(keys, KEY_A));
    CHECK(!med_keys_match_bearer(keys, NULL, 0));
    CHECK(med_keys_match_bearer(NULL, NULL, 0)); // no keys are asked for
    med_keys_free(keys);
}

static void test_file_when_wrong_then_line_is_named_and_secret_is_not(void)
{
    char longest[MED_KEY_BYTES_MAX + 3];
    memset(longest, 'k', sizeof(longest));
    longest[MED_KEY_BYTES_MAX + 1] = '\n';
    longest[MED_KEY_BYTES_MAX + 2] = '\0';
    const struct {
        const char *text, *say;
    } cases[] = {
        {"", "has no secret"},
        {"# nothing\n\n", "has no secret"},
        {"\nshort-secret\n", "line 2: found 12 characters, expected 16 to 256"},
        {KEY_A "\nsecret with blanks 12\n", "line 2: found a byte 0x20"},
        {"secret-with-\xc3\xa9-accent-here\n", "line 1: found a byte 0xc3"},
        {longest, "line 1: found 257 characters"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct med_keys *keys = NULL;
        struct med_err err = {0};
        put_text(cases[i].text);
        CHECK_INT(med_keys_new("--api-key-file", path, &keys, &err), MED_E_INVALID);
        CHECK(strstr(err.text, cases[i].say) != NULL);
        CHECK(strstr(err.text, "--api-key-file") != NULL);
        CHECK(strstr(err.text, "short-secret") == NULL);
        CHECK(strstr(err.text, KEY_A) == NULL);
    }
}

static void test_file_when_reloaded_then_new_ones_count_and_a_broken_one_changes_nothing(void)
{
    struct med_keys *keys = NULL;
    struct med_err err = {0};
    put_text(KEY_A "\n");
    REQUIRE(chmod(path, 0600) == 0);
    REQUIRE(med_keys_new("--api-key-file", path, &keys, &err) == 0);
    CHECK(!med_keys_is_exposed(keys));
    put_text("bad\n");
    CHECK_INT(med_keys_reload(keys, &err), MED_E_INVALID);
    CHECK(match(keys, KEY_A));
    put_text(KEY_B "\n");
    REQUIRE(chmod(path, 0644) == 0);
    CHECK_INT(med_keys_reload(keys, &err), 0);
    CHECK(match(keys, KEY_B));
    CHECK(!match(keys, KEY_A));
    CHECK(med_keys_is_exposed(keys));
    REQUIRE(unlink(path) == 0);
    CHECK(med_keys_reload(keys, &err) < 0);
    CHECK(strstr(err.text, path) != NULL);
    CHECK(match(keys, KEY_B));
    med_keys_free(keys);
}

static void test_file_when_it_has_too_many_then_refused(void)
{
    struct med_keys *keys = NULL;
    struct med_err err = {0};
    size_t bytes = 0;
    char *text = calloc(MED_KEYS_MAX + 1, 32);
    REQUIRE(text != NULL);
    for (int i = 0; i < MED_KEYS_MAX; i++)
        bytes += (size_t)sprintf(text + bytes, "secret-number-%06d\n", i);
    put(text, bytes);
    REQUIRE(med_keys_new("--api-key-file", path, &keys, &err) == 0);
    CHECK(match(keys, "secret-number-001023"));
    med_keys_free(keys);
    bytes += (size_t)sprintf(text + bytes, "secret-number-%06d\n", MED_KEYS_MAX);
    put(text, bytes);
    CHECK_INT(med_keys_new("--api-key-file", path, &keys, &err), MED_E_INVALID);
    free(text);
}

int main(void)
{
    int fd = mkstemp(path);
    REQUIRE(fd >= 0);
    (void)close(fd);
    RUN(test_file_when_well_formed_then_each_line_counts);
    RUN(test_bearer_when_scheme_is_another_then_no_match);
    RUN(test_file_when_wrong_then_line_is_named_and_secret_is_not);
    RUN(test_file_when_it_has_too_many_then_refused);
    RUN(test_file_when_reloaded_then_new_ones_count_and_a_broken_one_changes_nothing);
    (void)unlink(path);
    return check_finish();
}
