/* SPDX-License-Identifier: Apache-2.0 */
/*
 * generation_config.json: what a publisher recommends.
 *
 * Only what changes a default of sampling, and the ids that end a sequence; everything else in the
 * file (lengths, beams, penalties of other methods) is ignored.  A number that no sampler could use
 * is refused, since it would otherwise be the default of every request.
 * thread: any; no state.
 */
#include "base/alloc.h"
#include "base/buf.h"
#include "worker/model/config.h"
#include "worker/model/internal.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* The ranges of a request's own fields (worker/engine/sampling.h). */
static const double temperature_max = 2;
static const double penalty_max = 2;

static struct med_generation_config defaults(const struct med_model_config *config)
{
    struct med_generation_config g = {
        .eos_count = config->eos_count, .temperature = 1, .top_p = 1, .repetition_penalty = 1};
    memcpy(g.eos_ids, config->eos_ids, sizeof g.eos_ids);
    return g;
}

static int read_all(const struct med_json_at *root, const struct med_model_config *config,
                    struct med_generation_config *g, struct med_err *err)
{
    if (!med_json_is_object(root)) {
        return med_json_fail(root, NULL, err,
                             "expected an object: a model's generation_config.json");
    }
    double value;
    int rc = med_model_eos_read(root, config->vocab, g->eos_ids, &g->eos_count, err);
    if (rc == 0 && med_json_has(root, "temperature")) {
        rc = med_json_number(root, "temperature", 0, temperature_max, &value, err);
        g->temperature = rc == 0 ? (float)value : 0;
    }
    if (rc == 0 && med_json_has(root, "top_p")) {
        rc = med_json_positive(root, "top_p", 1, &value, err);
        g->top_p = rc == 0 ? (float)value : 0;
    }
    if (rc == 0 && med_json_has(root, "min_p")) {
        rc = med_json_number(root, "min_p", 0, 1, &value, err);
        g->min_p = rc == 0 ? (float)value : 0;
    }
    if (rc == 0 && med_json_has(root, "repetition_penalty")) {
        rc = med_json_positive(root, "repetition_penalty", penalty_max, &value, err);
        g->repetition_penalty = rc == 0 ? (float)value : 0;
    }
    if (rc == 0 && med_json_has(root, "top_k")) {
        int64_t top_k = 0;
        rc = med_json_integer(root, "top_k", -1, UINT32_MAX, &top_k, err);
        g->top_k = top_k > 0 ? (uint32_t)top_k : 0;
    }
    return rc;
}

static int read_doc(struct med_json_doc *doc, const struct med_model_config *config,
                    struct med_generation_config *ret_config, struct med_err *err)
{
    struct med_err own;
    if (!err)
        err = &own;
    *err = (struct med_err){0};
    struct med_generation_config g = defaults(config);
    struct med_json_at root = med_json_root(doc);
    int rc = read_all(&root, config, &g, err);
    med_json_free(doc);
    if (rc == 0)
        *ret_config = g;
    return rc;
}

int med_generation_config_parse(const char *bytes, size_t count, const char *name,
                                const struct med_model_config *config,
                                struct med_generation_config *ret_config, struct med_err *err)
{
    struct med_json_doc doc;
    int rc = med_json_parse(bytes, count, name, &doc, err);
    return rc < 0 ? rc : read_doc(&doc, config, ret_config, err);
}

int med_generation_config_read(const char *dir, const struct med_model_config *config,
                               struct med_generation_config *ret_config, struct med_err *err)
{
    char *path = med_model_path(dir, "generation_config.json");
    if (!path)
        return med_err_set(err, MED_E_NOMEM, "%s: %s", dir, med_err_text(MED_E_NOMEM));
    if (access(path, F_OK) != 0 && errno == ENOENT) {
        med_free(path);
        *ret_config = defaults(config);
        return 0;
    }
    struct med_json_doc doc;
    int rc = med_json_parse_file(path, &doc, err);
    med_free(path);
    return rc < 0 ? rc : read_doc(&doc, config, ret_config, err);
}
