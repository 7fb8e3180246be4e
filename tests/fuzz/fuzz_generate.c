/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GenerateRequest: any bytes are read or refused with a sentence, and what is read is checked or
 * refused with one.  thread: main.
 */
#include "base/assert.h"
#include "router/grpc_codec.h"
#include "tests/fuzz/fuzz.h"

enum {
    VOCAB_TOKENS = 32000
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct med_err err = {0};
    struct med_req *req = med_req_new();
    MED_ASSERT(req != NULL);
    int rc = med_grpc_codec_read_generate(data, size, req, &err);
    if (rc == 0)
        rc = med_req_check(req, VOCAB_TOKENS, &err);
    if (rc < 0) {
        MED_ASSERT(rc == MED_E_INVALID);
        MED_ASSERT(err.text[0] != '\0');
    } else {
        MED_ASSERT(req->prompt_count > 0);
        MED_ASSERT(req->tokens_max > 0);
        for (size_t i = 0; i < req->prompt_count; i++)
            MED_ASSERT(req->prompt[i] < VOCAB_TOKENS);
    }
    med_req_free(req);
    return 0;
}
