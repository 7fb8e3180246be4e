/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rope: which of config.json's keys hold, and the frequencies that follow.
 *
 * Three generations of files are in use: rope_theta beside rope_scaling {"type"}, the same with
 * {"rope_type"}, and rope_parameters, which holds rope_theta too.  The order is transformers': a
 * rope_scaling that is not empty, else rope_parameters; in that object rope_theta, else the top one,
 * else 10000.
 *
 * The frequencies are computed in float32, one rounding per operation, as transformers does: models
 * were trained with those, and at position 4,000 a last bit of a frequency turns a pair by 1e-4.
 * thread: any; no state.
 */
#include "base/assert.h"
#include "base/limits.h"
#include "worker/model/config.h"
#include "worker/model/internal.h"

#include <math.h>
#include <string.h>

enum {
    TYPE_MAX_BYTES = 64
};

static const double default_theta = 10000.0;
static const double number_max = 1e30; // the arithmetic is float32's, and 1 / x must not be 0
static const double turns_min = 1e-3;  // of llama3's low_freq_factor and high_freq_factor
static const double turns_max = 1e6;

static int refuse_partial(const struct med_json_at *at, struct med_err *err)
{
    static const char key[] = "partial_rotary_factor";
    double value = 1;
    if (!med_json_has(at, key))
        return 0;
    int rc = med_json_number(at, key, 0, number_max, &value, err);
    if (rc == 0 && value != 1.0) {
        return med_json_fail(at, key, err, "found %g, expected 1: rope turns the whole head",
                             value);
    }
    return rc;
}

/* The object that holds: rope_scaling, rope_parameters, or none (*ret_any false). */
static int find_parameters(const struct med_json_at *root, struct med_json_at *ret_at,
                           bool *ret_any, struct med_err *err)
{
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    *ret_any = false;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (!med_json_has(root, keys[i]))
            continue;
        struct med_json_at at;
        int rc = med_json_object(root, keys[i], &at, err);
        if (rc < 0)
            return rc;
        if (med_json_count(&at) == 0 || *ret_any)
            continue;
        *ret_at = at;
        *ret_any = true;
    }
    return 0;
}

static int read_kind(const struct med_json_at *at, struct med_rope *rope, struct med_err *err)
{
    static const char *const layers[] = {"full_attention", "sliding_attention"};
    for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) {
        if (med_json_has(at, layers[i])) {
            return med_json_fail(at, layers[i], err,
                                 "a rope of its own for some layers, expected one for all");
        }
    }
    const char *key = med_json_has(at, "rope_type") ? "rope_type" : "type";
    if (!med_json_has(at, key))
        return 0;
    const char *type;
    int rc = med_json_string(at, key, TYPE_MAX_BYTES, &type, err);
    if (rc < 0)
        return rc;
    if (strcmp(type, "default") == 0) {
        rope->kind = MED_ROPE_DEFAULT;
    } else if (strcmp(type, "linear") == 0) {
        rope->kind = MED_ROPE_LINEAR;
    } else if (strcmp(type, "llama3") == 0) {
        rope->kind = MED_ROPE_LLAMA3;
    } else {
        return med_json_fail(at, key, err,
                             "found \"%s\", expected \"default\", \"linear\" or \"llama3\"", type);
    }
    return 0;
}

static int read_llama3(const struct med_json_at *root, const struct med_json_at *at,
                       const struct med_model_config *c, struct med_rope *rope, struct med_err *err)
{
    static const char key[] = "original_max_position_embeddings";
    int rc =
        med_json_number(at, "low_freq_factor", turns_min, turns_max, &rope->low_freq_factor, err);
    if (rc == 0) {
        rc = med_json_number(at, "high_freq_factor", turns_min, turns_max, &rope->high_freq_factor,
                             err);
    }
    if (rc == 0 && rope->high_freq_factor <= rope->low_freq_factor) {
        return med_json_fail(at, "high_freq_factor", err,
                             "found %g, expected more than low_freq_factor, which is %g",
                             rope->high_freq_factor, rope->low_freq_factor);
    }
    rope->original_positions_max = c->positions_max;
    const struct med_json_at *place = med_json_has(root, key) ? root : at;
    if (rc == 0 && med_json_has(place, key)) {
        rc = med_json_integer(place, key, 1, MED_MODEL_POSITIONS_MAX, &rope->original_positions_max,
                              err);
    }
    return rc;
}

int med_model_rope_read(const struct med_json_at *root, struct med_model_config *config,
                        struct med_err *err)
{
    struct med_rope rope = {.kind = MED_ROPE_DEFAULT, .theta = default_theta, .factor = 1};
    struct med_json_at at;
    bool any;
    int rc = find_parameters(root, &at, &any, err);
    if (rc == 0)
        rc = refuse_partial(root, err);
    if (rc == 0 && any)
        rc = refuse_partial(&at, err);
    if (rc == 0 && any)
        rc = read_kind(&at, &rope, err);
    if (rc < 0)
        return rc;
    const struct med_json_at *place = any && med_json_has(&at, "rope_theta") ? &at : root;
    if (med_json_has(place, "rope_theta"))
        rc = med_json_number(place, "rope_theta", 1, number_max, &rope.theta, err);
    if (rc == 0 && rope.kind != MED_ROPE_DEFAULT)
        rc = med_json_number(&at, "factor", 1, number_max, &rope.factor, err);
    if (rc == 0 && rope.kind == MED_ROPE_LLAMA3)
        rc = read_llama3(root, &at, config, &rope, err);
    if (rc == 0)
        config->rope = rope;
    return rc;
}

/* Llama 3.1: wavelengths beyond the first context are stretched, short ones are kept, and between
 * the two the frequency moves from one to the other. */
static float llama3_scale(const struct med_rope *rope, float frequency)
{
    double context = (double)rope->original_positions_max;
    float wavelength = (float)(2 * 3.14159265358979323846) / frequency;
    if (wavelength > (float)(context / rope->low_freq_factor))
        return frequency / (float)rope->factor;
    if (wavelength < (float)(context / rope->high_freq_factor))
        return frequency;
    float smooth = ((float)context / wavelength - (float)rope->low_freq_factor) /
                   (float)(rope->high_freq_factor - rope->low_freq_factor);
    return (1.0F - smooth) * frequency / (float)rope->factor + smooth * frequency;
}

void med_model_rope_frequencies(const struct med_model_config *config, float *out)
{
    const struct med_rope *rope = &config->rope;
    MED_ASSERT(config->head_dim > 0 && config->head_dim % 2 == 0);
    for (int64_t i = 0; i < config->head_dim / 2; i++) {
        float exponent = (float)(2 * i) / (float)config->head_dim;
        /* The power in double: rounded once, it is the float32 nearest to the true value. */
        float frequency = 1.0F / (float)pow(rope->theta, (double)exponent);
        if (rope->kind == MED_ROPE_LINEAR)
            frequency /= (float)rope->factor;
        if (rope->kind == MED_ROPE_LLAMA3)
            frequency = llama3_scale(rope, frequency);
        out[i] = frequency;
    }
}
