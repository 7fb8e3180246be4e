/* SPDX-License-Identifier: Apache-2.0 */
/* config.json and generation_config.json: any bytes are read or refused with a sentence; what is read
 * is within the limits that the rest relies on.  thread: main. */
#include "worker/model/config.h"

#include "base/assert.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <string.h>

static void check_refusal(int rc, const struct med_err *err)
{
    MED_ASSERT(rc == MED_E_FORMAT);
    MED_ASSERT(strncmp(err->text, "input: ", 7) == 0);
}

static void check_config(const struct med_model_config *c)
{
    enum {
        HEAD_DIM_MAX = 4096
    };
    static float frequencies[HEAD_DIM_MAX / 2];
    MED_ASSERT(c->layers >= 1 && c->layers <= MED_LIMIT_MODEL_LAYERS);
    MED_ASSERT(c->hidden >= 1 && c->hidden <= MED_LIMIT_MODEL_WIDTH);
    MED_ASSERT(c->vocab >= 1 && c->vocab <= MED_LIMIT_VOCAB);
    MED_ASSERT(c->kv_heads >= 1 && c->heads % c->kv_heads == 0);
    MED_ASSERT(c->head_dim >= 2 && c->head_dim % 2 == 0);
    MED_ASSERT(c->heads * c->head_dim <= MED_LIMIT_MODEL_WIDTH);
    MED_ASSERT(med_model_kv_bytes_per_token(c, MED_DTYPE_F32) > 0);
    bool any = false;
    for (int64_t layer = 0; layer < c->layers; layer++)
        any = any || med_model_layer_has_window(c, layer);
    MED_ASSERT(any == (c->window > 0));
    if (c->head_dim > HEAD_DIM_MAX)
        return;
    med_model_rope_frequencies(c, frequencies);
    for (int64_t i = 0; i < c->head_dim / 2; i++) {
        MED_ASSERT(isfinite(frequencies[i]));
        MED_ASSERT(frequencies[i] >= 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct med_model_config config = {.vocab = 1000};
    struct med_generation_config generation;
    struct med_err err = {0};
    int rc = med_model_config_parse((const char *)data, size, "input", &config, &err);
    if (rc < 0) {
        check_refusal(rc, &err);
    } else {
        check_config(&config);
    }
    rc = med_generation_config_parse((const char *)data, size, "input", &config, &generation, &err);
    if (rc < 0) {
        check_refusal(rc, &err);
        return 0;
    }
    MED_ASSERT(generation.eos_count <= MED_MODEL_EOS_MAX);
    for (size_t i = 0; i < generation.eos_count; i++)
        MED_ASSERT(generation.eos_ids[i] < config.vocab);
    MED_ASSERT(generation.temperature >= 0 && generation.temperature <= 2);
    return 0;
}
