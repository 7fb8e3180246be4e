/* SPDX-License-Identifier: Apache-2.0 */
/* The KV block bookkeeping and the id index: cases, a seeded torture, allocation failures. */
#include "worker/engine/kv_blocks.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "tests/check.h"
#include "worker/engine/id_index.h"

static void test_grow_when_enough_free_then_table_names_distinct_blocks(void)
{
    struct med_kv_blocks kv;
    REQUIRE(med_kv_blocks_init(&kv, 5, 2, 4) == 0);
    CHECK(med_kv_blocks_grow(&kv, 0, 2));
    CHECK(med_kv_blocks_grow(&kv, 1, 3));
    CHECK_INT(kv.free_count, 0);
    CHECK_INT(kv.counts[0], 2);
    CHECK_INT(kv.counts[1], 3);
    med_kv_blocks_check(&kv);
    CHECK_INT(med_kv_blocks_table(&kv, 0)[0], 0);
    CHECK_INT(med_kv_blocks_table(&kv, 1)[0], 2);
    med_kv_blocks_release(&kv);
}

static void test_grow_when_too_few_free_then_nothing_changes(void)
{
    struct med_kv_blocks kv;
    REQUIRE(med_kv_blocks_init(&kv, 3, 2, 3) == 0);
    CHECK(med_kv_blocks_grow(&kv, 0, 2));
    CHECK(!med_kv_blocks_grow(&kv, 1, 2));
    CHECK_INT(kv.counts[1], 0);
    CHECK_INT(kv.free_count, 1);
    med_kv_blocks_drop(&kv, 0);
    CHECK_INT(kv.free_count, 3);
    CHECK(med_kv_blocks_grow(&kv, 1, 3));
    CHECK(med_kv_blocks_grow(&kv, 1, 3)); /* already there */
    med_kv_blocks_check(&kv);
    med_kv_blocks_release(&kv);
}

static void test_init_when_any_allocation_fails_then_no_memory_and_no_leak(void)
{
    int64_t live = med_alloc_bytes_live();
    bool succeeded = false;
    for (uint64_t n = 1; n < 20 && !succeeded; n++) {
        struct med_kv_blocks kv;
        (void)med_alloc_fail_nth(n);
        int rc = med_kv_blocks_init(&kv, 8, 2, 4);
        (void)med_alloc_fail_nth(0);
        succeeded = rc == 0;
        if (!succeeded)
            CHECK_INT(rc, MED_E_NOMEM);
        med_kv_blocks_release(&kv);
        CHECK_INT(med_alloc_bytes_live(), live);
    }
    CHECK(succeeded);
}

static void test_blocks_when_grown_and_dropped_at_random_then_conserved(void)
{
    enum {
        BLOCKS = 97,
        LANES = 13,
        LANE_BLOCKS = 20
    };
    struct med_kv_blocks kv;
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 1);
    REQUIRE(med_kv_blocks_init(&kv, BLOCKS, LANES, LANE_BLOCKS) == 0);
    int refused = 0;
    for (int step = 0; step < 20000; step++) {
        int64_t lane = med_rng_below(&rng, LANES);
        int64_t held = kv.counts[lane];
        if (med_rng_below(&rng, 5) == 0) {
            med_kv_blocks_drop(&kv, lane);
            CHECK_INT(kv.counts[lane], 0);
        } else {
            int64_t want = held + med_rng_below(&rng, (uint32_t)(LANE_BLOCKS - held + 1));
            bool fits = want - held <= kv.free_count;
            CHECK(med_kv_blocks_grow(&kv, lane, want) == fits);
            CHECK_INT(kv.counts[lane], fits ? want : held);
            refused += !fits;
        }
        med_kv_blocks_check(&kv);
    }
    CHECK(refused > 100);
    med_kv_blocks_release(&kv);
}

static void test_index_when_used_at_random_then_agrees_with_an_array(void)
{
    enum {
        IDS = 300,
        HELD_MAX = 100
    };
    struct med_id_index index;
    struct med_rng rng;
    int32_t slots[IDS];
    uint64_t ids[IDS];
    int held = 0;
    med_rng_init(&rng, check_seed(), 2);
    REQUIRE(med_id_index_init(&index, HELD_MAX) == 0);
    for (int i = 0; i < IDS; i++) {
        slots[i] = -1;
        /* Consecutive, far apart, and equal in the low bits. */
        ids[i] = i % 3 == 0   ? (uint64_t)i
                 : i % 3 == 1 ? (uint64_t)i << 48
                              : UINT64_MAX - (uint64_t)i;
    }
    for (int step = 0; step < 50000; step++) {
        int i = (int)med_rng_below(&rng, IDS);
        CHECK_INT(med_id_index_find(&index, ids[i]), slots[i]);
        if (slots[i] >= 0) {
            med_id_index_remove(&index, ids[i]);
            slots[i] = -1;
            held--;
        } else if (held < HELD_MAX) {
            slots[i] = (int32_t)med_rng_below(&rng, 1 << 20);
            med_id_index_put(&index, ids[i], slots[i]);
            held++;
        }
    }
    for (int i = 0; i < IDS; i++)
        CHECK_INT(med_id_index_find(&index, ids[i]), slots[i]);
    CHECK_INT(index.count, held);
    med_id_index_release(&index);
}

int main(void)
{
    RUN(test_grow_when_enough_free_then_table_names_distinct_blocks);
    RUN(test_grow_when_too_few_free_then_nothing_changes);
    RUN(test_init_when_any_allocation_fails_then_no_memory_and_no_leak);
    RUN(test_blocks_when_grown_and_dropped_at_random_then_conserved);
    RUN(test_index_when_used_at_random_then_agrees_with_an_array);
    return check_finish();
}
