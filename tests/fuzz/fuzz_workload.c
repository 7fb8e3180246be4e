/* SPDX-License-Identifier: Apache-2.0 */
/* Workload files (tests/fuzz/format.h says what must hold).  thread: main. */
#include "allocator/workload.h"

#include "tests/fuzz/format.h"

static int reread(const struct med_json_at *root, struct med_json_writer *out, struct med_err *err)
{
    struct med_workload workload;
    int rc = med_workload_read(root, &workload, err);
    if (rc == 0) {
        med_workload_write(out, &workload);
        med_workload_release(&workload);
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_format(reread, data, size);
    return 0;
}
