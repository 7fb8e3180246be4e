/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random checkpoints (see shape.h).  One table of shapes; the weights of all layers come out of one
 * block of random numbers that is copied on, since drawing billions of numbers would take longer
 * than the measurement.  Norms are 1, projections small, so activations stay finite.
 * thread: main.
 */
#include "worker/model/shape.h"

#include "base/alloc.h"
#include "base/rng.h"

#include <inttypes.h>
#include <string.h>

struct shape {
    const char *name;
    int64_t layers, hidden, heads, kv_heads, head_dim, intermediate, vocab, positions_max;
    double theta;
    bool tied;
};

/* From the config.json of each publisher. */
static const struct shape shape_table[] = {
    {"tiny", 6, 192, 6, 2, 32, 576, 3072, 1024, 10000, true}, /* the model that ships */
    {"llama-3.2-1b", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 500000, true},
    {"llama-3.2-3b", 28, 3072, 24, 8, 128, 8192, 128256, 131072, 500000, true},
    {"llama-3-8b", 32, 4096, 32, 8, 128, 14336, 128256, 8192, 500000, false},
    {"llama-2-7b", 32, 4096, 32, 32, 128, 11008, 32000, 4096, 10000, false},
};
const char MED_SHAPES[] = "tiny|llama-3.2-1b|llama-3.2-3b|llama-3-8b|llama-2-7b";

enum {
    PATTERN = 1 << 16, /* random elements; a multiple of the alignment */
    ALIGNMENT = 64,
    SHARED_PLACES = 1024
};

/* Hands out the weights of a checkpoint, first to count bytes (memory NULL), then for good.  Shared:
 * matrices all begin in the first bytes of the memory, vectors lie behind the largest of them. */
struct carver {
    enum med_dtype dtype;
    bool shared;
    char *memory;
    size_t used;         /* without shared matrices */
    size_t largest;      /* of shared matrices */
    size_t matrices;     /* shared so far */
    const char *pattern; /* PATTERN elements */
};

/* One element of `dtype`. */
static void put_element(enum med_dtype dtype, float value, char *to)
{
    uint16_t half = dtype == MED_DTYPE_F16 ? med_f16_from_float(value) : med_bf16_from_float(value);
    if (dtype == MED_DTYPE_F32) {
        memcpy(to, &value, sizeof value);
    } else {
        memcpy(to, &half, sizeof half);
    }
}

static void fill(const struct carver *c, char *to, size_t bytes, bool ones)
{
    const size_t element = med_dtype_bytes(c->dtype), block = PATTERN * element;
    for (size_t at = 0; ones && at < bytes; at += element)
        put_element(c->dtype, 1, to + at);
    for (size_t at = 0; !ones && at < bytes; at += block)
        memcpy(to + at, c->pattern, bytes - at < block ? bytes - at : block);
}

/* No two of them have one address, which would mean that they are one (a tied head). */
static struct med_weight carve_shared(struct carver *c, struct med_weight w, size_t bytes)
{
    const size_t at = c->matrices++ % SHARED_PLACES * ALIGNMENT;
    if (c->memory)
        w.data = c->memory + at;
    if (c->largest < at + bytes)
        c->largest = at + bytes;
    return w;
}

static struct med_weight carve(struct carver *c, int64_t rows, int64_t columns, bool ones)
{
    size_t bytes = (size_t)(rows * columns) * med_dtype_bytes(c->dtype);
    struct med_weight w = {.dtype = c->dtype, .rows = rows, .columns = columns};
    if (c->shared && !ones)
        return carve_shared(c, w, bytes);
    if (c->memory) {
        w.data = c->memory + c->used;
        fill(c, c->memory + c->used, bytes, ones);
    }
    c->used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return w;
}

static void carve_all(struct carver *c, struct med_checkpoint *to)
{
    const struct med_model_config *m = &to->config;
    const int64_t q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    to->embedding = carve(c, m->vocab, m->hidden, false);
    to->head = m->tied_head ? to->embedding : carve(c, m->vocab, m->hidden, false);
    to->norm = carve(c, 1, m->hidden, true);
    for (int64_t l = 0; l < m->layers; l++) {
        to->layers[l] =
            (struct med_layer_weights){.input_norm = carve(c, 1, m->hidden, true),
                                       .q = carve(c, q, m->hidden, false),
                                       .k = carve(c, kv, m->hidden, false),
                                       .v = carve(c, kv, m->hidden, false),
                                       .output = carve(c, m->hidden, q, false),
                                       .post_norm = carve(c, 1, m->hidden, true),
                                       .gate = carve(c, m->intermediate, m->hidden, false),
                                       .up = carve(c, m->intermediate, m->hidden, false),
                                       .down = carve(c, m->hidden, m->intermediate, false)};
    }
}

static int64_t count_parameters(const struct med_model_config *m)
{
    int64_t attention = 2 * m->hidden * (m->heads + m->kv_heads) * m->head_dim;
    int64_t mlp = 3 * m->hidden * m->intermediate;
    return m->layers * (attention + mlp + 2 * m->hidden) + m->hidden +
           m->vocab * m->hidden * (m->tied_head ? 1 : 2);
}

static void make_pattern(char *pattern, enum med_dtype dtype, uint64_t seed)
{
    struct med_rng rng;
    med_rng_init(&rng, seed, 1);
    for (size_t i = 0; i < PATTERN; i++) {
        float value = (float)(0.07 * (med_rng_uniform(&rng) - 0.5)); /* deviation 0.02 */
        put_element(dtype, value, pattern + i * med_dtype_bytes(dtype));
    }
}

static void set_config(const struct shape *s, enum med_dtype dtype, struct med_model_config *ret)
{
    *ret = (struct med_model_config){
        .architecture = MED_ARCH_LLAMA,
        .layers = s->layers,
        .hidden = s->hidden,
        .heads = s->heads,
        .kv_heads = s->kv_heads,
        .head_dim = s->head_dim,
        .intermediate = s->intermediate,
        .vocab = s->vocab,
        .positions_max = s->positions_max,
        .norm_eps = 1e-5,
        .rope = {.kind = MED_ROPE_DEFAULT, .theta = s->theta, .factor = 1},
        .tied_head = s->tied,
        .dtype = dtype,
    };
}

int med_shape_new(const char *name, enum med_dtype dtype, bool shared, uint64_t seed,
                  struct med_checkpoint *ret_checkpoint, void **ret_memory, struct med_err *err)
{
    const struct shape *shape = NULL;
    for (size_t i = 0; i < sizeof shape_table / sizeof shape_table[0]; i++) {
        if (strcmp(shape_table[i].name, name) == 0)
            shape = &shape_table[i];
    }
    if (!shape) {
        return med_err_set(err, MED_E_INVALID, "shape \"%s\": expected one of %s", name,
                           MED_SHAPES);
    }
    struct med_checkpoint made = {0};
    set_config(shape, dtype, &made.config);
    struct carver carver = {.dtype = dtype, .shared = shared};
    made.dir = med_strdup(name);
    made.layers = med_calloc((size_t)shape->layers, sizeof made.layers[0]);
    char *pattern = med_alloc(PATTERN * med_dtype_bytes(dtype));
    char *memory = NULL;
    size_t matrices = 0; /* bytes that they share */
    if (made.dir && made.layers && pattern) {
        make_pattern(pattern, dtype, seed);
        carve_all(&carver, &made);
        matrices = (carver.largest + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        memory = med_alloc(matrices + carver.used + ALIGNMENT);
    }
    if (!memory) {
        med_free(pattern);
        med_shape_free(&made, NULL);
        return med_err_set(err, MED_E_NOMEM, "shape \"%s\": no memory for %zu bytes of weights",
                           name, matrices + carver.used);
    }
    carver =
        (struct carver){.dtype = dtype, .shared = shared, .used = matrices, .pattern = pattern};
    carver.memory = memory + (ALIGNMENT - (uintptr_t)memory % ALIGNMENT);
    fill(&carver, carver.memory, matrices, false);
    carve_all(&carver, &made);
    med_free(pattern);
    made.generation =
        (struct med_generation_config){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    made.parameters = count_parameters(&made.config);
    made.weight_bytes = made.parameters * (int64_t)med_dtype_bytes(dtype);
    *ret_checkpoint = made;
    *ret_memory = memory;
    return 0;
}

void med_shape_free(struct med_checkpoint *checkpoint, void *memory)
{
    med_free(checkpoint->dir);
    med_free(checkpoint->layers);
    med_free(memory);
    *checkpoint = (struct med_checkpoint){0};
}
