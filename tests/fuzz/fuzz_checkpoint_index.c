/* SPDX-License-Identifier: Apache-2.0 */
/* model.safetensors.index.json: any bytes are read or refused with a sentence; what is read names only
 * files of the same folder, each once, and every entry is found.  thread: main. */
#include "base/assert.h"
#include "base/limits.h"
#include "tests/fuzz/fuzz.h"
#include "worker/model/internal.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct med_shard_index index;
    struct med_err err = {0};
    int rc = med_shard_index_parse((const char *)data, size, "input", &index, &err);
    if (rc < 0) {
        MED_ASSERT(rc == MED_E_FORMAT || rc == MED_E_LIMIT);
        MED_ASSERT(strncmp(err.text, "input: ", 7) == 0);
        return 0;
    }
    MED_ASSERT(index.count >= 1 && index.file_count >= 1);
    MED_ASSERT(index.file_count <= MED_LIMIT_SAFETENSORS_FILES);
    for (size_t i = 0; i < index.file_count; i++) {
        MED_ASSERT(!strchr(index.files[i], '/') && strcmp(index.files[i], "..") != 0);
        MED_ASSERT(i == 0 || strcmp(index.files[i - 1], index.files[i]) < 0);
    }
    for (size_t i = 0; i < index.count; i++) {
        MED_ASSERT(index.entries[i].file < index.file_count);
        MED_ASSERT(med_shard_index_find(&index, index.entries[i].tensor) == &index.entries[i]);
    }
    med_shard_index_release(&index);
    return 0;
}
