/* SPDX-License-Identifier: Apache-2.0 */
/* Loads of a sweep from words; saturation; pictures whose elements close. */
#include "router/bench/plot.h"
#include "router/bench/sweep.h"
#include "tests/check.h"

#include <math.h>
#include <string.h>

static void test_loads_when_read_then_rise_to_the_end(void)
{
    static const struct {
        const char *text;
        bool is_rate;
        size_t count;
        double second, last;
    } cases[] = {
        {"concurrency=1..256x2", false, 9, 2, 256}, {"concurrency=1..5x2", false, 4, 2, 5},
        {"concurrency=1..3x1.1", false, 3, 2, 3},   {"concurrency=7,9,20", false, 3, 9, 20},
        {"rate=0.5..4x2", true, 4, 1, 4},           {"rate=1.5,2.25", true, 2, 2.25, 2.25},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct med_sweep sweep;
        struct med_err err = {0};
        REQUIRE(med_sweep_parse(cases[i].text, &sweep, &err) == 0);
        CHECK_INT(sweep.is_rate, cases[i].is_rate);
        CHECK_UINT(sweep.count, cases[i].count);
        CHECK_DOUBLE(sweep.loads[1], cases[i].second, 1e-12);
        CHECK_DOUBLE(sweep.loads[sweep.count - 1], cases[i].last, 0);
    }
}

static void test_loads_when_wrong_then_refused(void)
{
    static const char *const bad[] = {"",
                                      "concurrency",
                                      "concurrency=",
                                      "concurrency=0",
                                      "rate=-1",
                                      "concurrency=1.5",
                                      "concurrency=1..8",
                                      "concurrency=1..8x1",
                                      "rate=2,1",
                                      "concurrency=8..1x2",
                                      "rate=1..4x",
                                      "users=1,2",
                                      "rate=1,,2",
                                      "rate=1,2,",
                                      "concurrency=1..16385x2",
                                      "rate=1..1000x1.01",
                                      "rate=nan",
                                      "rate=1..infx2"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct med_sweep sweep;
        struct med_err err = {0};
        CHECK_INT(med_sweep_parse(bad[i], &sweep, &err), MED_E_USAGE);
        CHECK_CONTAINS(err.text, "--sweep");
    }
}

static void test_saturation_when_tokens_stop_rising_then_said(void)
{
    struct med_sweep_point points[3] = {{.output_throughput = 100, .completed = 1},
                                        {.output_throughput = 150, .completed = 1},
                                        {.output_throughput = 152, .completed = 1}};
    CHECK(!med_sweep_is_saturated(points, 1));
    CHECK(!med_sweep_is_saturated(points, 2));
    CHECK(med_sweep_is_saturated(points, 3));
}

/* Elements that open and close, as a stack; attributes in quotes; no bare '<' or '&' in text. */
static bool is_well_formed(const char *xml)
{
    char stack[16][16];
    size_t depth = 0;
    for (const char *at = xml; *at;) {
        if (*at == '&') {
            if (strncmp(at, "&lt;", 4) != 0 && strncmp(at, "&gt;", 4) != 0 &&
                strncmp(at, "&amp;", 5) != 0 && strncmp(at, "&quot;", 6) != 0)
                return false;
        }
        if (*at != '<') {
            at++;
            continue;
        }
        bool closes = at[1] == '/';
        const char *name = at + 1 + closes;
        size_t bytes = strcspn(name, " />");
        const char *end = strchr(name, '>');
        if (!end || bytes == 0 || bytes > 15)
            return false;
        if (closes) {
            if (depth == 0 || strncmp(stack[depth - 1], name, bytes) != 0)
                return false;
            depth--;
        } else if (end[-1] != '/') {
            if (depth == 16)
                return false;
            memcpy(stack[depth], name, bytes);
            stack[depth++][bytes] = '\0';
        }
        at = end + 1;
    }
    return depth == 0;
}

static void test_picture_when_drawn_then_is_well_formed(void)
{
    const double x[] = {1, 2, 4, 8}, y[] = {10, NAN, 1000, 25000}, one[] = {3};
    const char *const labels[] = {"a<b", "\"", "&", "d"};
    const struct med_plot_panel panels[] = {
        {.title = "T < & >",
         .x_title = "x (s)",
         .y_title = "y (ms)",
         .log_x = true,
         .log_y = true,
         .lines = {{"one", x, y, 4, labels}, {"two", x, y, 4, NULL}},
         .line_count = 2},
        {.title = "one point",
         .x_title = "x",
         .y_title = "y",
         .log_y = true,
         .lines = {{"p", one, one, 1, NULL}},
         .line_count = 1},
        {.title = "nothing", .x_title = "x", .y_title = "y", .log_x = true, .line_count = 0},
    };
    struct med_buf svg;
    med_buf_init(&svg, 1 << 20);
    REQUIRE(med_plot_write(&svg, "a & b", panels, 3) == 0);
    CHECK(is_well_formed(svg.data));
    CHECK(strstr(svg.data, "nan") == NULL && strstr(svg.data, "inf") == NULL);
    CHECK_CONTAINS(svg.data, "T &lt; &amp; &gt;");
    CHECK_CONTAINS(svg.data, ">10k<");
    med_buf_release(&svg);
    med_buf_init(&svg, 500);
    CHECK_INT(med_plot_write(&svg, "t", panels, 3), MED_E_LIMIT);
    med_buf_release(&svg);
}

int main(void)
{
    RUN(test_loads_when_read_then_rise_to_the_end);
    RUN(test_loads_when_wrong_then_refused);
    RUN(test_saturation_when_tokens_stop_rising_then_said);
    RUN(test_picture_when_drawn_then_is_well_formed);
    return check_finish();
}
