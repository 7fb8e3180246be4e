/* SPDX-License-Identifier: Apache-2.0 */
/* Profiles (tests/fuzz/format.h says what must hold), and what the latency model makes of them: an
 * answer for every step, of which none but the physically absurd is no time.  thread: main. */
#include "profiles/latency.h"
#include "profiles/profile.h"

#include "tests/fuzz/format.h"

enum {
    ASKED_MAX = 64
};

static void ask(const struct med_profile *profile)
{
    struct med_latency latency;
    char said[256];
    med_profile_say_errors(profile, MED_STEP_REGIONS_ALL, said, sizeof said);
    if (med_latency_init(&latency, profile, NULL) < 0) {
        MED_ASSERT(!profile->has_step_model);
        return;
    }
    for (size_t n = 0; n < profile->step_count && n < ASKED_MAX; n++) {
        const struct med_step_row *row = &profile->steps[n];
        struct med_step_load load = {.prefill_tokens = row->prefill_tokens,
                                     .prefill_pairs =
                                         med_step_pairs(row->prefill_tokens, row->prefill_context),
                                     .decode_sequences = row->decode_sequences,
                                     .decode_context_tokens = row->decode_context_tokens};
        double ms = med_latency_step_ms(&latency, &load);
        MED_ASSERT(!(ms < 0.0));
        (void)med_latency_coverage(&latency, row->decode_sequences, row->decode_context_tokens,
                                   row->prefill_tokens);
        if (row->decode_sequences > 0) {
            struct med_latency_run run =
                med_latency_decode_run(&latency, row->decode_sequences, row->decode_context_tokens);
            MED_ASSERT(run.count >= 1);
        }
    }
}

static int reread(const struct med_json_at *root, struct med_json_writer *out, struct med_err *err)
{
    struct med_profile profile;
    int rc = med_profile_read(root, &profile, err);
    if (rc == 0) {
        med_profile_write(out, NULL, &profile);
        ask(&profile);
        med_profile_release(&profile);
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_format(reread, data, size);
    return 0;
}
