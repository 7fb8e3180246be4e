/* SPDX-License-Identifier: Apache-2.0 */
/* Catalogues (tests/fuzz/format.h says what must hold).  thread: main. */
#include "profiles/catalogue.h"

#include "tests/fuzz/format.h"

static int reread(const struct med_json_at *root, struct med_json_writer *out, struct med_err *err)
{
    struct med_catalogue catalogue;
    int rc = med_catalogue_read(root, &catalogue, err);
    if (rc == 0) {
        med_catalogue_write(out, &catalogue);
        med_catalogue_release(&catalogue);
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_format(reread, data, size);
    return 0;
}
