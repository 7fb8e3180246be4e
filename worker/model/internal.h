/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this folder share and nobody else sees. */
#ifndef MED_WORKER_MODEL_INTERNAL_H
#define MED_WORKER_MODEL_INTERNAL_H

#include "base/json.h"
#include "worker/model/config.h"
#include "worker/model/safetensors.h"

/* config_rope.c: rope_theta, rope_scaling, rope_parameters. head_dim and positions_max are set. */
int med_model_rope_read(const struct med_json_at *root, struct med_model_config *config,
                        struct med_err *err) MED_MUST_CHECK;

/* config.c: eos_token_id, a number, a list or null; *ret_count is left alone when it is not there. */
int med_model_eos_read(const struct med_json_at *root, int64_t vocab,
                       uint32_t ids[MED_MODEL_EOS_MAX], size_t *ret_count,
                       struct med_err *err) MED_MUST_CHECK;
/* "DIR/NAME" in new memory. */
char *med_model_path(const char *dir, const char *name) __attribute__((warn_unused_result));

/* ---- shards.c: model.safetensors.index.json ---- */

struct med_shard_entry {
    const char *tensor; /* in names */
    size_t file;        /* index into files */
};

struct med_shard_index {
    struct med_shard_entry *entries; // [count], sorted by tensor
    size_t count;
    const char **files; // [file_count], sorted, each once
    size_t file_count;
    char *names;
};

/* `name` stands in messages. */
int med_shard_index_parse(const char *bytes, size_t count, const char *name,
                          struct med_shard_index *ret_index, struct med_err *err) MED_MUST_CHECK;
/* Accepts a zeroed struct. */
void med_shard_index_release(struct med_shard_index *index);
/* NULL: the map does not name it. */
const struct med_shard_entry *med_shard_index_find(const struct med_shard_index *index,
                                                   const char *tensor);

#endif
