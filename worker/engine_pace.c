/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When to plan the next step (see engine_pace.h).
 * thread: engine.
 */
#include "worker/engine_pace.h"

#include <string.h>

/* Of the shortest step of its size: what to count on.  Prefills of one size differ by an eighth in tokens,
 * and in what they read; decodes by much less, since all of them read the weights. */
#define DECODE_SHARE  0.95
#define PREFILL_SHARE 0.85

enum {
    EXACT = 16, /* sizes below have a place each */
    PREPARE_DECAY = 8,
    WAKE_DECAY = 128,
    PREPARE_FACTOR = 2
};

/* Of a size >= 1 in the tables: by its highest bit and the three behind it. */
static int place_of(int64_t size)
{
    if (size < EXACT)
        return size < 0 ? 0 : (int)size;
    int octave = 0;
    while (size >= EXACT) {
        size >>= 1;
        octave++;
    }
    int place = EXACT + (octave - 1) * (EXACT / 2) + (int)size - EXACT / 2;
    return place < MED_PACE_SIZES ? place : MED_PACE_SIZES - 1;
}

static bool is_prefill(const struct med_step_load *load)
{
    return load->prefill_tokens > 0;
}

static int place_of_load(const struct med_step_load *load)
{
    return place_of(load->prefill_tokens + load->decode_sequences);
}

void med_engine_pace_step(struct med_engine_pace *pace, const struct med_step_load *load,
                          int64_t took_ns)
{
    struct med_pace_size *sizes = is_prefill(load) ? pace->prefills : pace->decodes;
    struct med_pace_size *size = &sizes[place_of_load(load)];
    size->took_ns[size->seen++ % MED_PACE_LATELY] = took_ns > 1 ? took_ns : 1;
}

void med_engine_pace_missed(struct med_engine_pace *pace)
{
    memset(pace->decodes, 0, sizeof pace->decodes);
    memset(pace->prefills, 0, sizeof pace->prefills);
}

/* The greatest, forgotten slowly. */
static void keep_most(int64_t *most_ns, int64_t now_ns, int64_t decay)
{
    *most_ns -= *most_ns / decay;
    if (now_ns > *most_ns)
        *most_ns = now_ns;
}

void med_engine_pace_prepared(struct med_engine_pace *pace, int64_t took_ns)
{
    keep_most(&pace->prepare_ns, took_ns, PREPARE_DECAY);
}

void med_engine_pace_woke(struct med_engine_pace *pace, int64_t late_ns)
{
    keep_most(&pace->late_ns, late_ns, WAKE_DECAY);
}

/* 0: not seen often enough. */
static int64_t shortest_ns(const struct med_pace_size *size)
{
    int64_t shortest = size->took_ns[0];
    for (int i = 1; i < MED_PACE_LATELY; i++)
        shortest = size->took_ns[i] < shortest ? size->took_ns[i] : shortest;
    return shortest;
}

/* Of this place or the next lower one that is known; 0: none is. */
static int64_t lower_bound_ns(const struct med_pace_size *sizes, int place)
{
    while (place > 0 && shortest_ns(&sizes[place]) == 0)
        place--;
    return shortest_ns(&sizes[place]);
}

int64_t med_engine_pace_wait_ns(const struct med_engine_pace *pace,
                                const struct med_step_load *running, int64_t wake_ns)
{
    bool prefill = is_prefill(running);
    int64_t bound =
        lower_bound_ns(prefill ? pace->prefills : pace->decodes, place_of_load(running));
    double expected = (double)bound * (prefill ? PREFILL_SHARE : DECODE_SHARE);
    int64_t late_ns = pace->late_ns > wake_ns ? pace->late_ns : wake_ns;
    int64_t wait_ns = (int64_t)expected - PREPARE_FACTOR * pace->prepare_ns - late_ns;
    return wait_ns > 0 ? wait_ns : 0;
}
