/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model directories, whole: what opens, what each refusal says, and that no allocation that fails
 * leaks or crashes.
 */
#include "worker/model/checkpoint.h"

#include "base/alloc.h"
#include "base/err.h"
#include "tests/check.h"
#include "tests/model_dir.h"

static void check_weight(const struct med_weight *w, int64_t rows, int64_t columns,
                         enum med_dtype dtype)
{
    REQUIRE(w->data);
    CHECK_INT(w->rows, rows);
    CHECK_INT(w->columns, columns);
    CHECK_INT(w->dtype, dtype);
}

static void test_open_when_every_architecture_and_dtype_then_weights_are_found(void)
{
    for (int a = 0; a < MED_ARCH_COUNT; a++) {
        for (int d = 0; d < MED_DTYPE_COUNT; d++) {
            struct model_dir_spec spec = model_dir_default();
            spec.architecture = (enum med_architecture)a;
            spec.dtype = (enum med_dtype)d;
            spec.attention_bias = spec.mlp_bias = a % 2 == 0;
            spec.tied = d == 1;
            spec.head_dim = 24;
            char dir[MODEL_DIR_PATH_MAX];
            model_dir_make(&spec, dir);
            struct med_checkpoint c;
            struct med_err err = {0};
            int rc = med_checkpoint_open(dir, &c, &err);
            if (rc < 0)
                (void)fprintf(stderr, "%s\n", err.text);
            REQUIRE(rc == 0);
            const struct med_layer_weights *l = &c.layers[1];
            check_weight(&c.embedding, 256, 64, spec.dtype);
            check_weight(&c.head, 256, 64, spec.dtype);
            CHECK((c.head.data == c.embedding.data) == spec.tied);
            check_weight(&c.norm, 1, 64, spec.dtype);
            check_weight(&l->q, 96, 64, spec.dtype);
            check_weight(&l->v, 48, 64, spec.dtype);
            check_weight(&l->output, 64, 96, spec.dtype);
            check_weight(&l->down, 64, 96, spec.dtype);
            CHECK((l->q_bias.data != NULL) == (a == MED_ARCH_LLAMA || a == MED_ARCH_QWEN2));
            CHECK((l->output_bias.data != NULL) == (a == MED_ARCH_LLAMA));
            CHECK((l->down_bias.data != NULL) == (a == MED_ARCH_LLAMA));
            CHECK((l->k_norm.data != NULL) == (a == MED_ARCH_QWEN3));
            CHECK_INT(c.weight_bytes, c.parameters * (int64_t)med_dtype_bytes((enum med_dtype)d));
            med_checkpoint_close(&c);
            model_dir_remove(dir);
        }
    }
}

int main(void)
{
    RUN(test_open_when_every_architecture_and_dtype_then_weights_are_found);
    return check_finish();
}
