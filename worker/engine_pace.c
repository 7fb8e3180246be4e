/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When to plan the next step (see engine_pace.h).
 * thread: engine.
 */
#include "worker/engine_pace.h"

/* Of the shortest step of its size: what to count on.  Prefills of one size differ by an eighth in tokens,
 * and in what they read; decodes by much less, since all of them read the weights. */
#define DECODE_SHARE  0.95
#define PREFILL_SHARE 0.85

enum {
    EXACT = 16, /* sizes below have a class each */
    PREPARE_DECAY = 8,
    PREPARE_FACTOR = 2
};

/* Classes of sizes >= 1: their highest bit and the three behind it. */
static int class_of(int64_t size)
{
    if (size < EXACT)
        return size < 0 ? 0 : (int)size;
    int octave = 0;
    while (size >= EXACT) {
        size >>= 1;
        octave++;
    }
    int class = EXACT + (octave - 1) * (EXACT / 2) + (int)size - EXACT / 2;
    return class < MED_PACE_SIZES ? class : MED_PACE_SIZES - 1;
}

static bool is_prefill(const struct med_step_load *load)
{
    return load->prefill_tokens > 0;
}

static int class_of_load(const struct med_step_load *load)
{
    return class_of(load->prefill_tokens + load->decode_sequences);
}

void med_engine_pace_step(struct med_engine_pace *pace, const struct med_step_load *load,
                          int64_t took_ns)
{
    struct med_pace_size *sizes = is_prefill(load) ? pace->prefills : pace->decodes;
    struct med_pace_size *size = &sizes[class_of_load(load)];
    size->took_ns[size->seen++ % MED_PACE_LATELY] = took_ns > 1 ? took_ns : 1;
}

void med_engine_pace_prepared(struct med_engine_pace *pace, int64_t took_ns)
{
    pace->prepare_ns -= pace->prepare_ns / PREPARE_DECAY;
    if (took_ns > pace->prepare_ns)
        pace->prepare_ns = took_ns;
}

static int64_t shortest_ns(const struct med_pace_size *size)
{
    int64_t shortest = 0;
    for (int i = 0; i < MED_PACE_LATELY; i++) {
        int64_t took = size->took_ns[i];
        if (took > 0 && (shortest == 0 || took < shortest))
            shortest = took;
    }
    return shortest;
}

/* Of this class or the next lower one that was seen; 0: none was. */
static int64_t lower_bound_ns(const struct med_pace_size *sizes, int class)
{
    while (class > 0 && sizes[class].seen == 0)
        class --;
    return shortest_ns(&sizes[class]);
}

int64_t med_engine_pace_wait_ns(const struct med_engine_pace *pace,
                                const struct med_step_load *running, int64_t wake_ns)
{
    bool prefill = is_prefill(running);
    int64_t bound =
        lower_bound_ns(prefill ? pace->prefills : pace->decodes, class_of_load(running));
    double expected = (double)bound * (prefill ? PREFILL_SHARE : DECODE_SHARE);
    int64_t wait_ns = (int64_t)expected - PREPARE_FACTOR * pace->prepare_ns - wake_ns;
    return wait_ns > 0 ? wait_ns : 0;
}
