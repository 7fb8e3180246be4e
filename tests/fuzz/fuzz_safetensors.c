/* SPDX-License-Identifier: Apache-2.0 */
/* Safetensors: any bytes are read or refused with a sentence; what is read lies within the bytes, in
 * order, and is found by name.  thread: main. */
#include "worker/model/safetensors.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "tests/fuzz/fuzz.h"
#include "worker/model/dtype.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct med_safetensors file;
    struct med_err err = {0};
    /* Bytes of their own: aligned as a mapping is, and an access beyond them is seen. */
    uint8_t *bytes = med_alloc(size + 1);
    MED_ASSERT(bytes);
    memcpy(bytes, data, size);
    int rc = med_safetensors_parse(bytes, size, "input", &file, &err);
    if (rc < 0) {
        MED_ASSERT(rc == MED_E_FORMAT || rc == MED_E_LIMIT);
        MED_ASSERT(strstr(err.text, "input: "));
        med_free(bytes);
        return 0;
    }
    size_t covered = 0;
    for (size_t i = 0; i < file.count; i++) {
        const struct med_tensor *tensor = &file.tensors[i];
        const uint8_t *begin = tensor->data;
        MED_ASSERT(begin >= bytes + 8 && begin <= bytes + size);
        MED_ASSERT(tensor->bytes <= (size_t)(bytes + size - begin));
        if (tensor->dtype >= 0) {
            size_t element = med_dtype_bytes((enum med_dtype)tensor->dtype);
            MED_ASSERT(tensor->bytes == (size_t)tensor->elements * element);
        }
        MED_ASSERT(med_safetensors_find(&file, tensor->name) == tensor);
        covered += tensor->bytes;
    }
    MED_ASSERT(covered <= size);
    med_safetensors_close(&file);
    med_free(bytes);
    return 0;
}
