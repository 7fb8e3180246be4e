/* SPDX-License-Identifier: Apache-2.0 */
/* Profiles (tests/fuzz/format.h says what must hold).  thread: main. */
#include "profiles/profile.h"

#include "tests/fuzz/format.h"

static int reread(const struct med_json_at *root, struct med_json_writer *out, struct med_err *err)
{
    struct med_profile profile;
    int rc = med_profile_read(root, &profile, err);
    if (rc == 0) {
        med_profile_write(out, NULL, &profile);
        med_profile_release(&profile);
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_format(reread, data, size);
    return 0;
}
