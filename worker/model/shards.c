/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model.safetensors.index.json: which shard holds which tensor.
 *
 * Both lists are sorted once, so that look-ups are searches; a shard's name is one file of the same
 * folder and nothing else, since the file may come from anywhere.  Strings are copied into one block
 * and the JSON tree is freed.  thread: any; no state.
 */
#include "base/alloc.h"
#include "base/limits.h"
#include "worker/model/internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    FILE_NAME_MAX_BYTES = 255
};

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const struct med_shard_entry *)a)->tensor,
                  ((const struct med_shard_entry *)b)->tensor);
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The name of the shard of one entry. */
static int read_file_name(const struct med_json_at *item, const char **ret_name,
                          struct med_err *err)
{
    const char *name;
    int rc = med_json_string_here(item, FILE_NAME_MAX_BYTES, &name, err);
    if (rc < 0)
        return rc;
    if (strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        return med_json_fail(item, NULL, err,
                             "found \"%s\", expected the name of a file in the same folder", name);
    }
    *ret_name = name;
    return 0;
}

/* Checks every entry and says how much room names and files need. */
static int measure(const struct med_json_at *map, size_t *ret_count, size_t *ret_bytes,
                   struct med_err *err)
{
    size_t count = 0;
    size_t bytes = 1;
    struct med_json_at item = {0};
    size_t index;
    const char *tensor = "";
    while (med_json_next(map, &index, &item, &tensor)) {
        const char *name = "";
        int rc = read_file_name(&item, &name, err);
        if (rc < 0)
            return rc;
        bytes += strlen(tensor) + strlen(name) + 2;
        count++;
    }
    *ret_count = count;
    *ret_bytes = bytes;
    return 0;
}

static const char *put(char **end, const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *at = *end;
    memcpy(at, text, bytes);
    *end += bytes;
    return at;
}

/* files: sorted, each once. Returns how many are left. */
static size_t sort_files(const char **files, size_t count)
{
    size_t kept = 0;
    qsort(files, count, sizeof *files, compare_texts);
    for (size_t i = 0; i < count; i++) {
        if (kept == 0 || strcmp(files[kept - 1], files[i]) != 0)
            files[kept++] = files[i];
    }
    return kept;
}

static int build(const struct med_json_at *map, struct med_shard_index *index, struct med_err *err)
{
    size_t bytes;
    int rc = measure(map, &index->count, &bytes, err);
    if (rc < 0)
        return rc;
    if (index->count == 0)
        return med_json_fail(map, NULL, err, "is empty, expected the model's tensors");
    index->names = med_alloc(bytes);
    index->entries = med_realloc_array(NULL, index->count, sizeof *index->entries);
    index->files = med_realloc_array(NULL, index->count, sizeof *index->files);
    const char **of_entry = med_realloc_array(NULL, index->count, sizeof *of_entry);
    if (!index->names || !index->entries || !index->files || !of_entry) {
        med_free(of_entry);
        return med_err_set(err, MED_E_NOMEM, "%s: %s", map->doc->file, med_err_text(MED_E_NOMEM));
    }
    char *end = index->names;
    struct med_json_at item = {0};
    size_t i;
    const char *tensor = "";
    while (med_json_next(map, &i, &item, &tensor)) {
        const char *name = "";
        rc = read_file_name(&item, &name, err);
        if (rc < 0)
            break;
        index->entries[i].tensor = put(&end, tensor);
        index->files[i] = of_entry[i] = put(&end, name);
    }
    if (rc == 0) {
        index->file_count = sort_files(index->files, index->count);
        for (i = 0; i < index->count; i++) {
            const char **file = bsearch(&of_entry[i], index->files, index->file_count,
                                        sizeof *index->files, compare_texts);
            index->entries[i].file = (size_t)(file - index->files);
        }
        qsort(index->entries, index->count, sizeof *index->entries, compare_entries);
        if (index->file_count > MED_LIMIT_SAFETENSORS_FILES) {
            rc =
                med_err_set(err, MED_E_LIMIT, "%s: weight_map names %zu files, expected at most %d",
                            map->doc->file, index->file_count, MED_LIMIT_SAFETENSORS_FILES);
        }
    }
    med_free(of_entry);
    return rc;
}

int med_shard_index_parse(const char *bytes, size_t count, const char *name,
                          struct med_shard_index *ret_index, struct med_err *err)
{
    struct med_err own;
    if (!err)
        err = &own;
    *err = (struct med_err){0};
    struct med_json_doc doc;
    int rc = med_json_parse(bytes, count, name, &doc, err);
    if (rc < 0)
        return rc;
    struct med_shard_index index = {0};
    struct med_json_at root = med_json_root(&doc);
    struct med_json_at map;
    rc = med_json_object(&root, "weight_map", &map, err);
    if (rc == 0)
        rc = build(&map, &index, err);
    med_json_free(&doc);
    if (rc < 0) {
        med_shard_index_release(&index);
        return rc;
    }
    *ret_index = index;
    return 0;
}

void med_shard_index_release(struct med_shard_index *index)
{
    med_free(index->entries);
    med_free(index->files);
    med_free(index->names);
    *index = (struct med_shard_index){0};
}

const struct med_shard_entry *med_shard_index_find(const struct med_shard_index *index,
                                                   const char *tensor)
{
    struct med_shard_entry wanted = {.tensor = tensor};
    if (index->count == 0)
        return NULL;
    return bsearch(&wanted, index->entries, index->count, sizeof *index->entries, compare_entries);
}
