/* SPDX-License-Identifier: Apache-2.0 */
/* Catalogues: what is read, what is refused and with which sentence, memory that fails. */
#include "profiles/catalogue.h"

#include "tests/formats.h"

static int reread(const struct med_json_at *root, struct med_buf *out, struct med_err *err)
{
    struct med_catalogue catalogue;
    int rc = med_catalogue_read(root, &catalogue, err);
    if (rc < 0) {
        return rc;
    }
    if (out != NULL) {
        struct med_json_writer w;
        med_json_writer_init(&w, out, true);
        med_catalogue_write(&w, &catalogue);
        rc = med_json_writer_finish(&w);
    }
    med_catalogue_release(&catalogue);
    return rc;
}

static void test_values_when_read_then_are_those_of_the_file(void)
{
    char *text = formats_example("medley-catalogue/1");
    struct med_json_doc doc;
    struct med_catalogue c;
    REQUIRE(med_json_parse(text, strlen(text), "f.json", &doc, NULL) == 0);
    struct med_json_at root = med_json_root(&doc);
    REQUIRE(med_catalogue_read(&root, &c, NULL) == 0);
    med_json_free(&doc);
    free(text);
    CHECK_STR(c.name, "aws-us-east-1");
    CHECK_STR(c.date, "2024-09-01");
    CHECK_INT(c.instance_count, 2);
    CHECK_STR(c.instances[0].instance, "g5.xlarge");
    CHECK_STR(c.instances[0].gpu, "A10G");
    CHECK_DOUBLE(c.instances[0].price_usd_per_hour, 1.006, 0);
    CHECK_DOUBLE(c.instances[0].spot_usd_per_hour, 0.43, 0);
    CHECK_INT(c.instances[0].count_max, 40);
    CHECK_INT(c.instances[1].gpus, 8);
    CHECK_INT(c.instances[1].count_max, -1);
    CHECK_DOUBLE(c.instances[1].spot_usd_per_hour, (double)NAN, 0);
    CHECK(c.instances[1].date == NULL);
    med_catalogue_release(&c);
    med_catalogue_release(&c);
    med_catalogue_release(NULL);
}

static const struct formats_case cases[] = {
    {"medley-catalogue/1", "medley-catalog/1", "expected \"medley-catalogue/1\""},
    {"\"price_usd_per_hour\": 1.006", "\"price_usd_per_hour\": -1",
     "f.json: $.instances[0].price_usd_per_hour: found -1, expected a number > 0"},
    {"\"price_usd_per_hour\": 1.006", "\"price_usd_per_hour\": 0",
     "$.instances[0].price_usd_per_hour: found 0, expected a number > 0"},
    {"\"price_usd_per_hour\": 1.006", "\"price_usd_per_hour\": 1e999",
     "the number is too large for a double"},
    {"\"price_usd_per_hour\": 1.006", "\"price_usd_per_hour\": \"1.006\"",
     "$.instances[0].price_usd_per_hour: found \"1.006\", expected a number > 0"},
    {"\"price_usd_per_hour\": 1.006", "\"price\": 1.006", "price"},
    {"\"spot_usd_per_hour\": 0.43", "\"spot_usd_per_hour\": -0.1",
     "$.instances[0].spot_usd_per_hour: found -0.1, expected a number > 0"},
    {"\"max_count\": 40", "\"max_count\": -1", "$.instances[0].max_count: found -1, expected"},
    {"\"gpus\": 8", "\"gpus\": 8.5", "$.instances[1].gpus: found 8.5, expected"},
    {"\"instance\": \"p4d.24xlarge\"", "\"instance\": \"g5.xlarge\"",
     "$.instances[1].instance: found \"g5.xlarge\" of aws in us-east-1 again (as in instances[0]), "
     "expected it once"},
    {"\"date\": \"2024-09-01\"", "\"date\": \"September\"",
     "$.date: found \"September\", expected a date YYYY-MM-DD"},
    {"\"date\": \"2024-09-01\"", "\"date\": \"2024-9-011\"", "expected a date YYYY-MM-DD"},
    {"\"source\": \"AWS on-demand price list\"", "\"source\": null", "$.source: "},
    {"\"region\": \"us-east-1\", ", "", "$.instances[0].region: "},
};

static void test_bad_field_when_read_then_one_sentence_says_where(void)
{
    char *text = formats_example("medley-catalogue/1");
    formats_check_cases(reread, text, cases, sizeof cases / sizeof cases[0]);
    free(text);
}

static void test_instances_when_none_or_too_many_then_refused(void)
{
    static const char head[] = "{\"format\": \"medley-catalogue/1\", \"name\": \"n\", \"date\": "
                               "\"2024-01-01\", \"source\": \"s\", \"instances\": ";
    const size_t counts[] = {0, 513};
    const char *const sentences[] = {"$.instances: found 0 elements, expected 1 to 512",
                                     "$.instances: found 513 elements, expected 1 to 512"};
    for (size_t i = 0; i < 2; i++) {
        char *rows = formats_repeat("{}", counts[i]);
        size_t bytes = strlen(rows) + sizeof head + 2;
        char *text = malloc(bytes);
        REQUIRE(text != NULL);
        (void)snprintf(text, bytes, "%s%s}", head, rows);
        formats_check_refused(reread, text, sentences[i]);
        free(text);
        free(rows);
    }
}

static void test_file_when_written_then_reads_back_the_same(void)
{
    char *text = formats_example("medley-catalogue/1");
    formats_check_round_trip(reread, text);
    char *more = formats_edit(text, "\"max_count\": 40",
                              "\"max_count\": 0, \"date\": \"2024-10-01\", \"source\": \"a page\"");
    formats_check_round_trip(reread, more);
    free(more);
    free(text);
}

static void test_memory_when_any_allocation_fails_then_nothing_leaks(void)
{
    char *text = formats_example("medley-catalogue/1");
    formats_check_torture(reread, text);
    free(text);
}

int main(void)
{
    RUN(test_values_when_read_then_are_those_of_the_file);
    RUN(test_bad_field_when_read_then_one_sentence_says_where);
    RUN(test_instances_when_none_or_too_many_then_refused);
    RUN(test_file_when_written_then_reads_back_the_same);
    RUN(test_memory_when_any_allocation_fails_then_nothing_leaks);
    return check_finish();
}
