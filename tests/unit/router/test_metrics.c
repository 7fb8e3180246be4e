/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The router's metrics: objectives are exact bucket bounds, and the reference page is the table.
 * With --write the page is written instead.
 */
#include "base/alloc.h"
#include "router/metrics.h"
#include "tests/check.h"

#define PAGE "docs/reference/metrics.md"

static bool has_bound(const struct med_hist *hist, double bound)
{
    for (size_t i = 0; i < hist->bound_count; i++) {
        if (hist->bounds[i] == bound)
            return true;
    }
    return false;
}

static void test_objectives_are_bounds(void)
{
    static struct med_router_metrics metrics;
    struct med_slos slos;
    struct med_err err = {0};
    CHECK_INT(
        med_slos_parse("tpot.mean=117ms,ttft.mean=1.7s,e2e_per_token.mean=133ms", &slos, &err), 0);
    med_router_metrics_init(&metrics, &slos);
    CHECK(has_bound(&metrics.ttft, 1.7));
    CHECK(has_bound(&metrics.tpot, 0.117));
    CHECK(has_bound(&metrics.itl, 0.117));
    CHECK(has_bound(&metrics.e2e_per_token, 0.133));
    CHECK(!has_bound(&metrics.ttft, 0.117));
    for (size_t i = 0; i < MED_HIST_TTFT_S_COUNT; i++)
        CHECK(has_bound(&metrics.ttft, MED_HIST_TTFT_S[i]));
}

static void test_the_reference_page_is_current(void)
{
    struct med_buf want;
    struct med_buf got;
    struct med_err err = {0};
    med_buf_init(&want, 1 << 20);
    med_buf_init(&got, 1 << 20);
    CHECK_INT(med_router_metrics_markdown(&want), 0);
    CHECK_INT(med_buf_read_file(&got, PAGE, &err), 0);
    if (got.length != want.length || memcmp(got.data, want.data, want.length) != 0)
        (void)fprintf(stderr, PAGE " is not current: test_router_metrics --write\n");
    CHECK_UINT(got.length, want.length);
    CHECK(got.length == want.length && memcmp(got.data, want.data, want.length) == 0);
    med_buf_release(&want);
    med_buf_release(&got);
}

static int write_page(void)
{
    struct med_buf page;
    med_buf_init(&page, 1 << 20);
    int rc = med_router_metrics_markdown(&page);
    FILE *file = rc == 0 ? fopen(PAGE, "w") : NULL;
    bool ok = file != NULL && fwrite(page.data, 1, page.length, file) == page.length;
    ok = (file == NULL || fclose(file) == 0) && ok;
    med_buf_release(&page);
    return ok ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--write") == 0)
        return write_page();
    RUN(test_objectives_are_bounds);
    RUN(test_the_reference_page_is_current);
    return check_finish();
}
