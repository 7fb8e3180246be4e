/* SPDX-License-Identifier: Apache-2.0 */
/* Profiles: what is read, what is refused and with which sentence, copies, memory that fails. */
#include "profiles/profile.h"

#include "tests/formats.h"

static int reread(const struct med_json_at *root, struct med_buf *out, struct med_err *err)
{
    struct med_profile profile;
    int rc = med_profile_read(root, &profile, err);
    if (rc < 0) {
        return rc;
    }
    if (out != NULL) {
        struct med_json_writer w;
        med_json_writer_init(&w, out, true);
        med_profile_write(&w, NULL, &profile);
        rc = med_json_writer_finish(&w);
    }
    med_profile_release(&profile);
    return rc;
}

static int copy_and_write(const struct med_json_at *root, struct med_buf *out, struct med_err *err)
{
    struct med_profile profile;
    struct med_profile copy = {0};
    int rc = med_profile_read(root, &profile, err);
    if (rc < 0) {
        return rc;
    }
    rc = med_profile_copy(&profile, &copy);
    med_profile_release(&profile);
    if (rc < 0) {
        return med_err_set(err, rc, "%s", med_err_text(rc));
    }
    if (out != NULL) {
        struct med_json_writer w;
        med_json_writer_init(&w, out, true);
        med_profile_write(&w, NULL, &copy);
        rc = med_json_writer_finish(&w);
    }
    med_profile_release(&copy);
    return rc;
}

static void test_values_when_read_then_are_those_of_the_file(void)
{
    char *text = formats_example("medley-profile/1");
    struct med_json_doc doc;
    struct med_profile p;
    REQUIRE(med_json_parse(text, strlen(text), "f.json", &doc, NULL) == 0);
    struct med_json_at root = med_json_root(&doc);
    REQUIRE(med_profile_read(&root, &p, NULL) == 0);
    med_json_free(&doc);
    free(text);
    CHECK_STR(p.worker_type, "a10g-llama-2-7b-fp16");
    CHECK_STR(p.gpu, "A10G");
    CHECK_INT(p.gpus_per_worker, 1);
    CHECK_STR(p.model.name, "llama-2-7b");
    CHECK_DOUBLE(p.model.weight_bytes, 13214683136.0, 0);
    CHECK_INT(p.limits.model_len_max, 4096);
    CHECK_INT(p.limits.sequences_max, 64);
    CHECK_INT(p.limits.batched_tokens_max, 2048);
    CHECK_INT(p.limits.kv_tokens, 13824);
    CHECK(p.has_step_model);
    CHECK_DOUBLE(p.step_model.sequence_us, 20, 0);
    CHECK_STR(p.step_model.source, "fit");
    CHECK_DOUBLE(p.step_model.corner, 0, 0);
    CHECK_INT(p.step_error_count, 2);
    CHECK_INT(p.step_errors[0].region, MED_STEP_DECODE_SMALL_SHORT);
    CHECK_INT(p.step_errors[0].rows, 6);
    CHECK_DOUBLE(p.step_errors[0].form_max, 0.07, 0);
    CHECK_INT(p.step_errors[0].table_rows, 4);
    CHECK_DOUBLE(p.step_errors[0].table_mean, 0.008, 0);
    CHECK_INT(p.step_errors[1].region, MED_STEP_PREFILL_SHORT);
    CHECK_INT(p.step_errors[1].table_rows, 0);
    CHECK_DOUBLE(p.step_errors[1].table_max, (double)NAN, 0);
    CHECK_STR(p.hardware.source, "datasheet");
    CHECK_INT(p.source_count, 3);
    CHECK_INT(p.sources[1].kind, MED_SOURCE_MEASURED);
    CHECK_STR(p.sources[1].date, "2024-09-01");
    CHECK_DOUBLE(p.sources[1].fit_error, (double)NAN, 0);
    CHECK_DOUBLE(p.sources[2].fit_error, 0.04, 0);
    CHECK_INT(p.validation_count, 1);
    CHECK_INT(p.validations[0].rows, 8);
    CHECK_INT(p.step_count, 2);
    CHECK_INT(p.steps[0].decode_context_tokens, 4096);
    CHECK_INT(p.steps[0].source, 1);
    CHECK_DOUBLE(p.steps[1].ms_p99, (double)NAN, 0);
    CHECK_INT(p.serving_count, 1);
    CHECK_DOUBLE(p.serving[0].rate_per_s, 0.9, 0);
    CHECK_DOUBLE(p.serving[0].concurrency, (double)NAN, 0);
    CHECK_DOUBLE(p.serving[0].ttft_ms.p99, 410, 0);
    CHECK_DOUBLE(p.serving[0].ttft_ms.p90, (double)NAN, 0);
    CHECK_DOUBLE(p.serving[0].e2e_ms.mean, (double)NAN, 0);
    CHECK_DOUBLE(p.serving[0].itl_ms.p95, 70, 0);
    CHECK_INT(p.serving[0].requests, 1200);
    CHECK(!p.serving[0].saturated);
    med_profile_release(&p);
    med_profile_release(&p); /* a released profile is empty */
    med_profile_release(NULL);
}

static void test_file_when_written_then_reads_back_the_same(void)
{
    char *text = formats_example("medley-profile/1");
    formats_check_round_trip(reread, text);
    formats_check_round_trip(copy_and_write, text);
    /* A copy writes the same bytes as its original. */
    struct med_buf original;
    struct med_buf copy;
    med_buf_init(&original, 1 << 20);
    med_buf_init(&copy, 1 << 20);
    REQUIRE(formats_read(reread, text, &original, NULL) == 0);
    REQUIRE(formats_read(copy_and_write, text, &copy, NULL) == 0);
    CHECK_STR(copy.data, original.data);
    med_buf_release(&original);
    med_buf_release(&copy);
    free(text);
}

static void test_corner_when_rounded_then_survives(void)
{
    char *text = formats_example("medley-profile/1");
    char *bent = formats_edit(text, "\"roofline/1\"", "\"roofline/2\", \"corner\": 0.35");
    formats_check_round_trip(reread, bent);
    formats_check_round_trip(copy_and_write, bent);
    free(bent);
    free(text);
}

static void test_errors_when_told_then_by_region_or_by_what_was_left_out(void)
{
    char *text = formats_example("medley-profile/1");
    struct med_json_doc doc;
    struct med_profile p;
    char said[512];
    REQUIRE(med_json_parse(text, strlen(text), "f.json", &doc, NULL) == 0);
    struct med_json_at root = med_json_root(&doc);
    REQUIRE(med_profile_read(&root, &p, NULL) == 0);
    med_profile_say_errors(&p, MED_STEP_REGIONS_ALL, said, sizeof said);
    CHECK_STR(said, "steps left out of the fit are missed by 3% on average, 7% at most "
                    "(decode-small-short), 5% on average, 6% at most (prefill-short)");
    unsigned two = 1u << MED_STEP_PREFILL_SHORT | 1u << MED_STEP_MIXED;
    med_profile_say_errors(&p, two, said, sizeof said);
    CHECK_STR(said, "steps left out of the fit are missed by 5% on average, 6% at most "
                    "(prefill-short), an unknown share (mixed: none measured)");
    med_profile_say_errors(&p, two, said, 20);
    CHECK_STR(said, "steps left out of t");
    p.step_error_count = 0;
    med_profile_say_errors(&p, two, said, sizeof said);
    CHECK_STR(said,
              "its form misses what it was fitted to by 4% on average, and what bench measured "
              "and the fit left out by 6%");
    size_t validations = p.validation_count;
    p.validation_count = 0;
    med_profile_say_errors(&p, two, said, sizeof said);
    CHECK_STR(said, "its form misses what it was fitted to by 4% on average, and nothing was "
                    "measured that the fit left out");
    p.validation_count = validations;
    p.has_step_model = false;
    med_profile_say_errors(&p, two, said, sizeof said);
    CHECK_STR(said, "");
    p.has_step_model = true;
    med_profile_release(&p);
    med_json_free(&doc);
    free(text);
}

static void test_serving_alone_when_read_then_is_enough(void)
{
    char *text = formats_example("medley-profile/1");
    char *begin = strstr(text, "\"step_model\"");
    char *end = strstr(text, "\"sources\"");
    REQUIRE(begin != NULL && end != NULL);
    memmove(begin, end, strlen(end) + 1);
    begin = strstr(text, "\"steps\"");
    end = strstr(text, "\"serving\"");
    REQUIRE(begin != NULL && end != NULL);
    memmove(begin, end, strlen(end) + 1);
    formats_check_round_trip(reread, text);
    char *without =
        formats_edit(text, "\"serving\": [", "\"steps\": [], \"serving\": [], \"x\": [");
    free(text);
    text = formats_edit(without, ", \"x\": [", "}");
    char *cut = strstr(text, "[]}");
    REQUIRE(cut != NULL);
    cut[3] = '\0';
    formats_check_refused(
        reread, text,
        "f.json: $: found neither step_model nor serving rows, expected at least one");
    free(text);
    free(without);
}

static const struct formats_case cases[] = {
    {"medley-profile/1", "medley-profile/2", "expected \"medley-profile/1\""},
    {"\"gpu\": \"A10G\"", "\"gpu\": \"A10G\", \"gpu_count\": 1", "gpu_count"},
    {"\"gpu\": \"A10G\"", "\"gpu\": \"A10G\", \"gpu\": \"A10G\"", "gpu"},
    {"\"gpu\": \"A10G\"", "\"gpu\": \"\"", "$.gpu: "},
    {"\"gpu\": \"A10G\"", "\"gpu\": \"A\\u001b[2J\"",
     "$.gpu: found the control character 0x1b at byte 1, expected text"},
    {"\"gpu\": \"A10G\"", "\"gpu\": 10", "$.gpu: found 10, expected"},
    {"\"gpus_per_worker\": 1", "\"gpus_per_worker\": 0", "$.gpus_per_worker: found 0, expected"},
    {"\"gpus_per_worker\": 1", "\"gpus_per_worker\": 1.5", "$.gpus_per_worker: found 1.5"},
    {"\"parameters\": 6738415616", "\"parameters\": 1e999", "the number is too large for a double"},
    {"\"parameters\": 6738415616", "\"parameters\": NaN", "f.json"},
    {"\"parameters\": 6738415616", "\"parameters\": -1",
     "$.model.parameters: found -1, expected a number > 0"},
    {"\"kv_heads\": 32", "\"kv_heads\": 5",
     "$.model.kv_heads: found 5, expected a divisor of heads (32)"},
    {"\"vocab\": 32000, ", "", "$.model.vocab: "},
    {"\"memory_bytes\": 24000000000", "\"memory_bytes\": 0",
     "$.hardware.memory_bytes: found 0, expected a number > 0"},
    {"\"source\": \"datasheet\"", "\"source\": \"nowhere\"",
     "$.hardware.source: found \"nowhere\", expected the id of one of the sources"},
    {"\"kv_tokens\": 13824", "\"kv_tokens\": 13825",
     "$.limits.kv_tokens: found 13825, expected a multiple of block_tokens (16)"},
    {"\"kv_tokens\": 13824", "\"kv_tokens\": 2048",
     "$.limits.kv_tokens: found 2048, expected at least max_model_len (4096)"},
    {"\"max_num_seqs\": 64", "\"max_num_seqs\": -1", "$.limits.max_num_seqs: found -1, expected"},
    {"roofline/1", "roofline/9",
     "$.step_model.form: found \"roofline/9\", expected roofline/1 or roofline/2"},
    {"\"roofline/1\"", "\"roofline/2\"",
     "$.step_model.corner: found none, expected a number > 0 and <= 1, since form is roofline/2"},
    {"\"roofline/1\"", "\"roofline/2\", \"corner\": 0",
     "$.step_model.corner: found 0, expected a number > 0 and <= 1, since form is roofline/2"},
    {"\"roofline/1\"", "\"roofline/2\", \"corner\": 1.1",
     "$.step_model.corner: found 1.1, expected"},
    {"\"roofline/1\"", "\"roofline/1\", \"corner\": 0.2",
     "$.step_model.corner: found it where form is roofline/1, expected it only where it is "
     "roofline/2"},
    {"\"region\": \"decode-small-short\"", "\"region\": \"decode\"",
     "$.step_errors[0].region: found \"decode\", expected decode-small-short,"},
    {"\"region\": \"decode-small-short\"", "\"region\": \"prefill-long\"",
     "$.step_errors[1].region: found \"prefill-short\" after \"prefill-long\", expected every "
     "region "
     "once"},
    {"\"rows\": 6, \"form_mean\": 0.03", "\"rows\": 0, \"form_mean\": 0.03",
     "$.step_errors[0].rows: found 0, expected"},
    {"\"form_max\": 0.07", "\"form_max\": 0.01",
     "$.step_errors[0].form_max: found 0.01, expected at least the mean (0.03)"},
    {"\"table_rows\": 4", "\"table_rows\": 7", "$.step_errors[0].table_rows: found 7, expected"},
    {"\"table_rows\": 4, ", "",
     "$.step_errors[0].table_mean: found it without table_rows, expected both or none"},
    {"\"table_max\": 0.02", "\"table_max\": 0.002",
     "$.step_errors[0].table_max: found 0.002, expected at least the mean (0.008)"},
    {"\"fixed_ms\": 1.5", "\"fixed_ms\": -0.5", "$.step_model.fixed_ms: found -0.5, expected"},
    {"\"fit_error_max\": 0.11", "\"fit_error_max\": 0.01",
     "$.step_model.fit_error_max: found 0.01, expected at least fit_error (0.04)"},
    {"\"id\": \"bench\"", "\"id\": \"datasheet\"",
     "$.sources[1].id: found \"datasheet\" again (as in sources[0]), expected every id once"},
    {"\"kind\": \"measured\"", "\"kind\": \"guessed\"",
     "$.sources[1].kind: found \"guessed\", expected measured, published or modelled"},
    {"\"date\": \"2024-09-01\"", "\"date\": \"2024-13-01\"",
     "$.sources[1].date: found \"2024-13-01\", expected a date YYYY-MM-DD"},
    {"\"date\": \"2024-09-01\"", "\"fit_error\": 0.1",
     "$.sources[1].fit_error: found it in a source of kind measured, expected it only where kind"},
    {"\"against\": \"bench\"", "\"against\": \"memory\"", "$.validations[0].against: found"},
    {"\"error_max\": 0.14", "\"error_max\": 0.05",
     "$.validations[0].error_max: found 0.05, expected at least error_mean (0.06)"},
    {"\"rows\": 8", "\"rows\": 0", "$.validations[0].rows: found 0, expected"},
    {"\"decode_sequences\": 8", "\"decode_sequences\": 0",
     "$.steps[0]: found a step without prefill tokens and without decode sequences"},
    {"\"prefill_tokens\": 0, \"prefill_context\": 0",
     "\"prefill_tokens\": 0, \"prefill_context\": 7",
     "$.steps[0].prefill_context: found 7 without prefill tokens, expected 0"},
    {"\"decode_context_tokens\": 0", "\"decode_context_tokens\": 9",
     "$.steps[1].decode_context_tokens: found 9 without decode sequences, expected 0"},
    {"\"ms_p99\": 36.1", "\"ms_p99\": 30",
     "$.steps[0].ms_p99: found 30, expected at least ms_p50 (34.6)"},
    {"\"ms_p50\": 121.0", "\"ms_p50\": 0", "$.steps[1].ms_p50: found 0, expected a number > 0"},
    {"\"ms_p50\": 121.0, \"source\": \"bench\"", "\"ms_p50\": 121.0, \"source\": \"x\\u001b[2J\"",
     "$.steps[1].source: found \"x\\u001b[2J\", expected the id"},
    {"\"arrival\": \"poisson\"", "\"arrival\": \"steady\"",
     "$.serving[0].arrival: found \"steady\", expected closed, poisson, gamma, trace or offline"},
    {"\"arrival\": \"poisson\"", "\"arrival\": \"closed\"",
     "$.serving[0].rate_per_s: found it in a row whose arrival is closed, expected concurrency"},
    {"\"arrival\": \"poisson\"", "\"arrival\": \"offline\"",
     "$.serving[0].rate_per_s: found it in a row whose arrival is offline, expected neither"},
    {"\"rate_per_s\": 0.9, ", "", "$.serving[0].rate_per_s: "},
    {"\"p50\": 170, \"p99\": 410", "\"p50\": 470, \"p99\": 410",
     "$.serving[0].ttft_ms.p99: found 410, expected at least p50 (470)"},
    {"\"mean\": 42, \"p95\": 70", "\"p90\": 80, \"p95\": 70",
     "$.serving[0].itl_ms.p95: found 70, expected at least p90 (80)"},
    {"\"requests\": 1200", "\"saturated\": 1", "$.serving[0].saturated: "},
    {"\"requests\": 1200", "\"cut_short\": 1", "$.serving[0].cut_short: "},
    {"{\"mean\": 41}", "{}", "$.serving[0].tpot_ms: found an empty object, expected at least one"},
    {"\"failures\": 0", "\"failures\": 1.5", "$.serving[0].failures: found 1.5, expected"},
    {"\"step_model\": {", "\"step_model\": null, \"x\": {", "x"},
};

static void test_bad_field_when_read_then_one_sentence_says_where(void)
{
    char *text = formats_example("medley-profile/1");
    formats_check_cases(reread, text, cases, sizeof cases / sizeof cases[0]);
    char *cut = formats_edit(text, "}\n", "");
    formats_check_refused(reread, "[]", "$: ");
    formats_check_refused(reread, "{}", "the first key must be \"format\"");
    text[strlen(text) / 2] = '\0';
    formats_check_refused(reread, text, "f.json");
    free(cut);
    free(text);
}

static void test_steps_without_model_when_read_then_refused(void)
{
    char *text = formats_example("medley-profile/1");
    char *begin = strstr(text, "\"step_model\"");
    char *end = strstr(text, "\"sources\"");
    REQUIRE(begin != NULL && end != NULL);
    memmove(begin, end, strlen(end) + 1);
    formats_check_refused(
        reread, text,
        "$.step_model: found none although there are steps, expected the model fitted to them");
    free(text);
}

static void test_rows_over_the_limit_when_read_then_refused(void)
{
    char *text = formats_example("medley-profile/1");
    char *rows = formats_repeat("{}", 257);
    char *edited = formats_edit(text, "\"sources\": [", "\"sources\": [{}], \"y\": [");
    free(edited);
    char key[] = "\"validations\": ";
    char *at = strstr(text, key);
    REQUIRE(at != NULL);
    char *end = strstr(at, "\"steps\"");
    REQUIRE(end != NULL);
    size_t bytes = strlen(text) + strlen(rows) + 16;
    char *big = malloc(bytes);
    REQUIRE(big != NULL);
    (void)snprintf(big, bytes, "%.*s%s%s, %s", (int)(at - text), text, key, rows, end);
    formats_check_refused(reread, big, "$.validations: found 257 elements, expected 0 to 256");
    free(big);
    free(rows);
    char *name =
        formats_edit(text, "\"gpu\": \"A10G\"",
                     "\"gpu\": \"0123456789012345678901234567890123456789012345678901234567"
                     "8901234567890123456789012345678901234567890123456789012345678901234"
                     "5678\"");
    formats_check_refused(reread, name, "$.gpu: ");
    free(name);
    free(text);
}

static void test_memory_when_any_allocation_fails_then_nothing_leaks(void)
{
    char *text = formats_example("medley-profile/1");
    formats_check_torture(reread, text);
    formats_check_torture(copy_and_write, text);
    free(text);
}

static void test_file_when_missing_then_named(void)
{
    struct med_profile profile;
    struct med_err err = {0};
    CHECK(med_profile_read_file("tests/no-such-file.json", &profile, &err) < 0);
    CHECK_CONTAINS(err.text, "tests/no-such-file.json");
}

int main(void)
{
    RUN(test_values_when_read_then_are_those_of_the_file);
    RUN(test_file_when_written_then_reads_back_the_same);
    RUN(test_corner_when_rounded_then_survives);
    RUN(test_errors_when_told_then_by_region_or_by_what_was_left_out);
    RUN(test_serving_alone_when_read_then_is_enough);
    RUN(test_bad_field_when_read_then_one_sentence_says_where);
    RUN(test_steps_without_model_when_read_then_refused);
    RUN(test_rows_over_the_limit_when_read_then_refused);
    RUN(test_memory_when_any_allocation_fails_then_nothing_leaks);
    RUN(test_file_when_missing_then_named);
    return check_finish();
}
