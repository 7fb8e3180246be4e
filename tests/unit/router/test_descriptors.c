/* SPDX-License-Identifier: Apache-2.0 */
/* The embedded descriptor set and its index. */
#include "base/alloc.h"
#include "router/descriptors.h"
#include "tests/check.h"

static void test_symbols_lead_to_their_files(void)
{
    struct med_descriptors d;
    REQUIRE(med_descriptors_read(MED_DESCRIPTOR_SET_DATA, MED_DESCRIPTOR_SET_BYTES, &d) == 0);
    static const struct {
        const char *symbol, *file;
        bool is_service, is_message;
    } rows[] = {
        {"medley.v1.Inference", "inference.proto", true, false},
        {"medley.v1.Inference.GenerateStream", "inference.proto", false, false},
        {"medley.v1.GenerateRequest", "inference.proto", false, true},
        {"medley.v1.GenerateRequest.max_tokens", "inference.proto", false, false},
        {"medley.v1.FinishReason", "inference.proto", false, false},
        {"medley.v1.FINISH_REASON_STOP", "inference.proto", false, false},
        {"grpc.health.v1.HealthCheckResponse.ServingStatus", "grpc/health/v1/health.proto", false,
         false},
        {"grpc.health.v1.HealthCheckResponse.SERVING", "grpc/health/v1/health.proto", false, false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct med_descriptor_symbol *s = med_descriptors_find_symbol(&d, rows[i].symbol);
        if (s == NULL)
            (void)fprintf(stderr, "no symbol %s\n", rows[i].symbol);
        REQUIRE(s != NULL);
        CHECK_STR(d.files[s->file].name, rows[i].file);
        CHECK_INT(s->is_service, rows[i].is_service);
        CHECK_INT(s->is_message, rows[i].is_message);
    }
    CHECK(med_descriptors_find_symbol(&d, "medley.v1.Nothing") == NULL);
    CHECK_INT(med_descriptors_find_file(&d, "link.proto"), -1); /* internal: not shown */
    med_descriptors_release(&d);
}

static void test_a_cut_set_is_an_error_and_leaks_nothing(void)
{
    int64_t before = med_alloc_bytes_live();
    for (size_t n = 1; n < MED_DESCRIPTOR_SET_BYTES; n += 37) {
        struct med_descriptors d;
        if (med_descriptors_read(MED_DESCRIPTOR_SET_DATA, n, &d) == 0)
            med_descriptors_release(&d); /* cut between two files */
        CHECK_INT(med_alloc_bytes_live(), before);
    }
}

int main(void)
{
    RUN(test_symbols_lead_to_their_files);
    RUN(test_a_cut_set_is_an_error_and_leaks_nothing);
    return check_finish();
}
