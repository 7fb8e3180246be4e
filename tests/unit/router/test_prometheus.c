/* SPDX-License-Identifier: Apache-2.0 */
/* The Prometheus text format: escapes, numbers, histograms. */
#include "router/prometheus.h"
#include "tests/check.h"

static void test_hostile_labels_and_helps_are_escaped(void)
{
    struct med_buf buf;
    struct med_prom prom;
    struct med_prom_label labels[MED_PROM_LABELS_MAX] = {{"a", "x\"\\\n\xff\xc3\xa9"}, {"b", NULL}};
    med_buf_init(&buf, 4096);
    med_prom_init(&prom, &buf);
    med_prom_family(&prom, "m_total", "counter", "one \"line\"\nand \\ more");
    med_prom_count(&prom, labels, UINT64_MAX);
    med_prom_number(&prom, NULL, -INFINITY);
    CHECK_INT(med_prom_finish(&prom), 0);
    CHECK_STR(buf.data, "# HELP m_total one \"line\"\\nand \\\\ more\n"
                        "# TYPE m_total counter\n"
                        "m_total{a=\"x\\\"\\\\\\n?\xc3\xa9\",b=\"\"} 18446744073709551615\n"
                        "m_total -Inf\n");
    med_buf_release(&buf);
}

static void test_histograms_are_cumulative_and_end_in_inf(void)
{
    static const double bounds[] = {0.1, 1};
    struct med_hist hist;
    struct med_buf buf;
    struct med_prom prom;
    med_hist_init(&hist, bounds, 2, &(double){0.25}, 1);
    med_hist_add(&hist, 0.05);
    med_hist_add(&hist, 0.25); /* a bound belongs to its own bucket */
    med_hist_add_many(&hist, 5, 2);
    med_buf_init(&buf, 4096);
    med_prom_init(&prom, &buf);
    med_prom_family(&prom, "h", "histogram", "x");
    med_prom_hist(&prom, NULL, &hist);
    CHECK_INT(med_prom_finish(&prom), 0);
    CHECK_STR(buf.data, "# HELP h x\n# TYPE h histogram\nh_bucket{le=\"0.1\"} 1\n"
                        "h_bucket{le=\"0.25\"} 2\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 4\n"
                        "h_sum 10.3\nh_count 4\n");
    med_buf_release(&buf);
}

static void test_a_full_buffer_is_reported_once(void)
{
    struct med_buf buf;
    struct med_prom prom;
    med_buf_init(&buf, 16);
    med_prom_init(&prom, &buf);
    med_prom_family(&prom, "a_name_that_does_not_fit", "gauge", "x");
    med_prom_count(&prom, NULL, 1);
    CHECK_INT(med_prom_finish(&prom), MED_E_LIMIT);
    med_buf_release(&buf);
}

int main(void)
{
    RUN(test_hostile_labels_and_helps_are_escaped);
    RUN(test_histograms_are_cumulative_and_end_in_inf);
    RUN(test_a_full_buffer_is_reported_once);
    return check_finish();
}
