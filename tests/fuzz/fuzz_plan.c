/* SPDX-License-Identifier: Apache-2.0 */
/* Plans (tests/fuzz/format.h says what must hold).  thread: main. */
#include "allocator/plan.h"

#include "tests/fuzz/format.h"

static int reread(const struct med_json_at *root, struct med_json_writer *out, struct med_err *err)
{
    struct med_plan plan;
    int rc = med_plan_read(root, &plan, err);
    if (rc == 0) {
        med_plan_write(out, &plan);
        med_plan_release(&plan);
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_format(reread, data, size);
    return 0;
}
