/* SPDX-License-Identifier: Apache-2.0 */
/* Workload files and the bucket grid: what is read, what is refused, memory that fails. */
#include "allocator/workload.h"

#include "allocator/workload_parts.h"
#include "allocator/workload_view.h"
#include "tests/formats.h"

static int reread(const struct med_json_at *root, struct med_buf *out, struct med_err *err)
{
    struct med_workload workload;
    int rc = med_workload_read(root, &workload, err);
    if (rc < 0) {
        return rc;
    }
    if (out != NULL) {
        struct med_json_writer w;
        med_json_writer_init(&w, out, true);
        med_workload_write(&w, &workload);
        rc = med_json_writer_finish(&w);
    }
    med_workload_release(&workload);
    return rc;
}

static void test_row_when_size_meets_an_edge_then_the_lower_cell_has_it(void)
{
    static const struct {
        double tokens;
        int row;
    } cases[] = {{0.5, 0},   {1, 0},     {25, 0},    {26, 1},    {25.5, 1},   {100, 1}, {101, 2},
                 {16000, 9}, {15999, 9}, {12000, 8}, {12001, 9}, {16001, -1}, {1e9, -1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_INT(med_grid_row(MED_EDGES_INPUT, MED_EDGES_INPUT_COUNT, cases[i].tokens),
                  cases[i].row);
    }
    CHECK_INT(MED_EDGES_INPUT_COUNT, 10);
    CHECK_INT(MED_EDGES_OUTPUT_COUNT, 6);
}

static void test_grid_when_copied_then_equal_and_apart(void)
{
    struct med_grid grid;
    struct med_grid copy;
    REQUIRE(med_grid_init_default(&grid) == 0);
    REQUIRE(med_grid_copy(&grid, &copy) == 0);
    grid.input_edges[0] = 7;
    CHECK_DOUBLE(copy.input_edges[0], 25, 0);
    CHECK_DOUBLE(copy.output_edges[5], 2000, 0);
    CHECK_INT(copy.input_edge_count, 10);
    med_grid_release(&grid);
    for (uint64_t n = 1; n <= 2; n++) {
        int64_t live = med_alloc_bytes_live();
        (void)med_alloc_fail_nth(n);
        struct med_grid other;
        CHECK_INT(med_grid_copy(&copy, &other), MED_E_NOMEM);
        (void)med_alloc_fail_nth(0);
        CHECK_INT(med_alloc_bytes_live(), live);
    }
    med_grid_release(&copy);
    med_grid_release(&copy);
    med_grid_release(NULL);
}

static void test_edges_when_given_as_text_then_checked(void)
{
    double *edges = NULL;
    size_t count = 0;
    REQUIRE(med_grid_parse_edges("10,1k,2000.5", "--input-edges", &edges, &count, NULL) == 0);
    CHECK_INT(count, 3);
    CHECK_DOUBLE(edges[1], 1000, 0);
    CHECK_DOUBLE(edges[2], 2000.5, 0);
    med_free(edges);
    static const struct {
        const char *text, *sentence;
    } cases[] = {
        {"", "--input-edges: found \"\""},
        {"10,,20", "--input-edges: found \"\""},
        {"10,", "--input-edges: found \"\""},
        {"20,10", "--input-edges: found 10 after 20, expected rising edges"},
        {"20,20", "--input-edges: found 20 after 20, expected rising edges"},
        {"0", "--input-edges: found \"0\""},
        {"nan", "--input-edges: found \"nan\""},
        {"inf", "--input-edges: found \"inf\""},
        {"1e999", "--input-edges: found \"1e999\""},
        {"-5", "--input-edges: found \"-5\""},
        {"2000000", "--input-edges: found \"2000000\""},
        {"10000000000000000000000000000000000000", "found an edge of 38 characters"},
        {"1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,"
         "33,"
         "34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,"
         "63,64,65",
         "--input-edges: found more than 64 edges, expected fewer"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct med_err err = {0};
        CHECK(med_grid_parse_edges(cases[i].text, "--input-edges", &edges, &count, &err) < 0);
        CHECK_CONTAINS(err.text, cases[i].sentence);
    }
}

static void test_values_when_read_then_are_those_of_the_file(void)
{
    char *text = formats_example("medley-workload/1");
    struct med_json_doc doc;
    struct med_workload w;
    REQUIRE(med_json_parse(text, strlen(text), "f.json", &doc, NULL) == 0);
    struct med_json_at root = med_json_root(&doc);
    REQUIRE(med_workload_read(&root, &w, NULL) == 0);
    med_json_free(&doc);
    free(text);
    CHECK_STR(w.name, "support-chat");
    CHECK_STR(w.source_licence, "internal");
    CHECK_INT(w.requests, 19366);
    CHECK_DOUBLE(w.rate_per_s, 5.53, 0);
    CHECK_INT(w.arrival, MED_ARRIVAL_GAMMA);
    CHECK_DOUBLE(w.burstiness, 0.95, 0);
    CHECK(w.trace == NULL);
    CHECK_DOUBLE(w.interval_s, 60, 0);
    CHECK_INT(w.rate_count, 3);
    CHECK_INT(w.grid.input_edge_count, 3);
    CHECK_INT(w.bucket_count, 3);
    CHECK_INT(w.buckets[1].input_row, 1);
    CHECK_INT(w.buckets[1].output_row, 1);
    CHECK_DOUBLE(w.buckets[2].input_mean, 2500, 0);
    CHECK_DOUBLE(w.input_tokens.p90, 2600, 0);
    CHECK_DOUBLE(w.output_tokens.max, 480, 0);
    med_workload_release(&w);
    med_workload_release(&w);
    med_workload_release(NULL);
}

static const struct formats_case cases[] = {
    {"medley-workload/1", "medley-workload/0", "expected \"medley-workload/1\""},
    {"\"requests\": 19366", "\"requests\": -1", "$.requests: found -1, expected"},
    {"\"requests\": 19366", "\"requests\": 1.5", "$.requests: found 1.5, expected"},
    {"\"rate_per_s\": 5.53", "\"rate_per_s\": 0",
     "f.json: $.rate_per_s: found 0, expected a number > 0"},
    {"\"rate_per_s\": 5.53", "\"rate_per_s\": -3", "$.rate_per_s: found -3, expected a number > 0"},
    {"\"rate_per_s\": 5.53", "\"rate_per_s\": 1e999", "the number is too large for a double"},
    {"\"rate_per_s\": 5.53", "\"rate_per_s\": NaN", "f.json: line "},
    {"\"rate_per_s\": 5.53", "\"rate_per_s\": 5.53, \"rps\": 1", "rps"},
    {"\"process\": \"gamma\"", "\"process\": \"weibull\"",
     "$.arrival.process: found \"weibull\", expected poisson, gamma or trace"},
    {"\"process\": \"gamma\"", "\"process\": \"poisson\"",
     "$.arrival.burstiness: found it with process \"poisson\", expected it only with \"gamma\""},
    {"\"process\": \"gamma\", \"burstiness\": 0.95", "\"process\": \"gamma\"",
     "$.arrival.burstiness: "},
    {"\"process\": \"gamma\", \"burstiness\": 0.95", "\"process\": \"trace\"", "$.arrival.trace: "},
    {"\"burstiness\": 0.95", "\"burstiness\": 0", "$.arrival.burstiness: found 0, expected"},
    {"\"burstiness\": 0.95", "\"burstiness\": 1, \"trace\": \"x.csv\"",
     "$.arrival.trace: found it with process \"gamma\", expected it only with \"trace\""},
    {"\"interval_s\": 60", "\"interval_s\": 0", "$.rate_over_time.interval_s: found 0, expected"},
    {"[4.1, 5.0, 5.4]", "[4.1, -5.0]", "$.rate_over_time.rate_per_s[1]: found -5, expected"},
    {"[4.1, 5.0, 5.4]", "[]", "$.rate_over_time.rate_per_s: found 0 elements, expected 1 to 10080"},
    {"[100, 1000, 4000]", "[100, 100, 4000]",
     "$.input_edges[1]: found 100 after 100, expected rising edges"},
    {"[100, 1000, 4000]", "[1000, 100, 4000]",
     "$.input_edges[1]: found 100 after 1000, expected rising edges"},
    {"[100, 1000, 4000]", "[]", "$.input_edges: found 0 elements, expected 1 to 64"},
    {"[100, 1000, 4000]", "[0, 100]", "$.input_edges[0]: found 0, expected"},
    {"[100, 500]", "[100, \"500\"]", "$.output_edges[1]: found \"500\", expected"},
    {"[100, 500]", "[100, 1e7]", "$.output_edges[1]: found 10000000, expected"},
    {"\"p90\": 2600", "\"p90\": 200", "$.input_tokens: found mean 816, p50 350, p90 200"},
    {"\"max\": 480", "\"max\": 0", "$.output_tokens.max: found 0, expected"},
    {"\"input\": 1000,", "\"input\": 900,",
     "$.buckets[1].input: found 900, expected one of input_edges"},
    {"\"output\": 500,", "\"output\": 5000,",
     "$.buckets[1].output: found 5000, expected one of output_edges"},
    {"\"input_mean\": 640", "\"input_mean\": 100",
     "$.buckets[1].input_mean: found 100, expected more than the cell's lower edge 100"},
    {"\"input_mean\": 640", "\"input_mean\": 1000.5",
     "$.buckets[1].input_mean: found 1000.5, expected"},
    {"\"output_mean\": 40", "\"output_mean\": 0.5",
     "$.buckets[0].output_mean: found 0.5, expected"},
    {"\"share\": 0.5,", "\"share\": 0,", "$.buckets[0].share: found 0, expected a number > 0"},
    {"\"share\": 0.5,", "\"share\": 0.4,",
     "$.buckets: found shares that sum to 0.9, expected 1 within 1e-6"},
    {"\"share\": 0.5,", "\"share\": 0.500002,",
     "$.buckets: found shares that sum to 1.000002, expected 1 within 1e-6"},
    {"{\"input\": 1000, \"output\": 500, \"share\": 0.25, \"input_mean\": 640, \"output_mean\": "
     "260}",
     "{\"input\": 100, \"output\": 100, \"share\": 0.25, \"input_mean\": 62, \"output_mean\": 40}",
     "$.buckets[1]: found the cell input 100, output 100 again, expected it once"},
    {"\"name\": \"support-chat\"", "\"name\": \"a\\nb\"",
     "$.name: found the control character 0x0a at byte 1, expected text"},
    {"\"text\": \"gateway log of week 36\"", "\"text\": \"\"", "$.source.text: "},
};

static void test_bad_field_when_read_then_one_sentence_says_where(void)
{
    char *text = formats_example("medley-workload/1");
    formats_check_cases(reread, text, cases, sizeof cases / sizeof cases[0]);
    char *edited = formats_edit(text, "\"share\": 0.5,", "\"share\": 0.5000005,");
    formats_check_round_trip(reread, edited); /* inside the tolerance */
    free(edited);
    free(text);
}

static void test_arrays_over_their_limit_when_read_then_refused(void)
{
    char *text = formats_example("medley-workload/1");
    char *many = formats_repeat("1", 65);
    char *edited = formats_edit(text, "[100, 1000, 4000]", many);
    formats_check_refused(reread, edited, "$.input_edges: found 65 elements, expected 1 to 64");
    free(edited);
    free(many);
    many = formats_repeat("1", 10081);
    edited = formats_edit(text, "[4.1, 5.0, 5.4]", many);
    formats_check_refused(reread, edited,
                          "$.rate_over_time.rate_per_s: found 10081 elements, expected 1 to 10080");
    free(edited);
    free(many);
    many = formats_repeat("{}", 4097);
    edited = formats_edit(text, "\"buckets\": [", "\"buckets\": X, \"y\": [");
    char *whole = formats_edit(edited, "X", many);
    char *cut = strstr(whole, ", \"y\"");
    REQUIRE(cut != NULL);
    cut[0] = '}';
    cut[1] = '\0';
    formats_check_refused(reread, whole, "$.buckets: found 4097 elements, expected 1 to 4096");
    free(whole);
    free(edited);
    free(many);
    free(text);
}

static void test_file_when_written_then_reads_back_the_same(void)
{
    char *text = formats_example("medley-workload/1");
    formats_check_round_trip(reread, text);
    char *poisson = formats_edit(text, "\"process\": \"gamma\", \"burstiness\": 0.95",
                                 "\"process\": \"poisson\"");
    formats_check_round_trip(reread, poisson);
    char *trace = formats_edit(text, "\"process\": \"gamma\", \"burstiness\": 0.95",
                               "\"process\": \"trace\", \"trace\": \"logs/a.csv\"");
    formats_check_round_trip(reread, trace);
    free(trace);
    free(poisson);
    free(text);
    static const char *const shipped[] = {"allocator/workloads/azure-conversation.json",
                                          "allocator/workloads/azure-code.json"};
    for (size_t i = 0; i < 2; i++) {
        text = formats_file(shipped[i]);
        formats_check_round_trip(reread, text);
        free(text);
    }
}

static void test_memory_when_any_allocation_fails_then_nothing_leaks(void)
{
    char *text = formats_example("medley-workload/1");
    formats_check_torture(reread, text);
    free(text);
}

static int print(const struct med_json_at *root, struct med_buf *out, struct med_err *err)
{
    struct med_workload workload;
    int rc = med_workload_read(root, &workload, err);
    if (rc >= 0) {
        rc = med_workload_print(out, &workload, false);
        med_workload_release(&workload);
    }
    return rc;
}

/* Widest line in columns. */
static size_t width_of(const char *text)
{
    size_t widest = 0;
    size_t columns = 0;
    for (; *text != '\0'; text++) {
        columns = *text == '\n' ? 0 : columns + (((unsigned char)*text & 0xc0) != 0x80);
        widest = columns > widest ? columns : widest;
    }
    return widest;
}

static void test_shape_when_printed_then_holds_the_figures_in_100_columns(void)
{
    struct med_buf out;
    med_buf_init(&out, 1 << 20);
    char *text = formats_example("medley-workload/1");
    REQUIRE(formats_read(print, text, &out, NULL) == 0);
    CHECK_CONTAINS(out.data, "Workload support-chat\n");
    CHECK_CONTAINS(out.data, "  requests  19366\n");
    CHECK_CONTAINS(out.data, "  rate      5.53 requests/s\n");
    CHECK_CONTAINS(out.data, "gamma, burstiness 0.95 ");
    CHECK_CONTAINS(out.data, "  input         816.0      350     2600     3700     3990\n");
    CHECK_CONTAINS(out.data, "3 windows of 60 s: least 4.1, most 5.4");
    CHECK_CONTAINS(out.data, "     ≤100 ██ 50.0%\n");
    CHECK_CONTAINS(out.data, "    ≤1000          ▓▓ 25.0%\n");
    CHECK(strchr(out.data, '\033') == NULL);
    CHECK(width_of(out.data) <= 80);
    med_buf_clear(&out);
    char *shipped = formats_file("allocator/workloads/azure-conversation.json");
    REQUIRE(formats_read(print, shipped, &out, NULL) == 0);
    CHECK_CONTAINS(out.data, "26.4%");
    CHECK(width_of(out.data) <= 100);
    free(shipped);
    free(text);
    med_buf_release(&out);
}

int main(void)
{
    RUN(test_row_when_size_meets_an_edge_then_the_lower_cell_has_it);
    RUN(test_grid_when_copied_then_equal_and_apart);
    RUN(test_edges_when_given_as_text_then_checked);
    RUN(test_values_when_read_then_are_those_of_the_file);
    RUN(test_bad_field_when_read_then_one_sentence_says_where);
    RUN(test_arrays_over_their_limit_when_read_then_refused);
    RUN(test_file_when_written_then_reads_back_the_same);
    RUN(test_memory_when_any_allocation_fails_then_nothing_leaks);
    RUN(test_shape_when_printed_then_holds_the_figures_in_100_columns);
    return check_finish();
}
