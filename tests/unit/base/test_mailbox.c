/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mailboxes: order, ownership when full or closed, wakes, and several producers at once.
 * thread: main receives; producers post.
 */
#include "base/clock.h"
#include "base/mailbox.h"
#include "base/thread.h"
#include "tests/check.h"

#include <sched.h>
#include <stdatomic.h>

struct note {
    struct med_message message; /* first, so that the pointers convert */
    int producer;
    int number;
};

static void count_wake(void *arg)
{
    (void)atomic_fetch_add((atomic_int *)arg, 1);
}

static void test_take_gives_everything_oldest_first(void)
{
    struct med_mailbox box;
    atomic_int wakes = 0;
    struct note notes[3] = {{.number = 0}, {.number = 1}, {.number = 2}};
    med_mailbox_init(&box, 8, count_wake, &wakes);
    CHECK(!med_mailbox_take(&box));
    for (int i = 0; i < 3; i++)
        CHECK_INT(med_mailbox_post(&box, &notes[i].message), 0);
    CHECK_INT(atomic_load(&wakes), 3);
    struct med_message *first = med_mailbox_take(&box);
    for (int i = 0; i < 3; i++) {
        REQUIRE(first);
        CHECK_INT(((struct note *)first)->number, i);
        first = first->next;
    }
    CHECK(!first);
    CHECK(!med_mailbox_take(&box));
    med_mailbox_release(&box);
}

static void test_post_when_full_then_the_sender_still_owns(void)
{
    struct med_mailbox box;
    atomic_int wakes = 0;
    struct note notes[3] = {0};
    med_mailbox_init(&box, 2, count_wake, &wakes);
    CHECK_INT(med_mailbox_post(&box, &notes[0].message), 0);
    CHECK_INT(med_mailbox_post(&box, &notes[1].message), 0);
    notes[2].number = 5;
    CHECK_INT(med_mailbox_post(&box, &notes[2].message), MED_E_AGAIN);
    CHECK_INT(atomic_load(&wakes), 2);
    struct med_message *first = med_mailbox_take(&box);
    CHECK(first == &notes[0].message);
    CHECK(first && first->next == &notes[1].message && !first->next->next);
    CHECK_INT(med_mailbox_post(&box, &notes[2].message), 0); // there is room again
    CHECK(med_mailbox_take(&box) == &notes[2].message);
    med_mailbox_release(&box);
}

static void test_post_when_closed_then_refused_and_the_rest_is_taken(void)
{
    struct med_mailbox box;
    atomic_int wakes = 0;
    struct note notes[2] = {0};
    med_mailbox_init(&box, 1, count_wake, &wakes);
    CHECK_INT(med_mailbox_post(&box, &notes[0].message), 0);
    med_mailbox_close(&box);
    CHECK_INT(atomic_load(&wakes), 2);
    CHECK_INT(med_mailbox_post(&box, &notes[1].message), MED_E_CANCELLED); // not AGAIN, though full
    CHECK(med_mailbox_wait(&box, INT64_MAX) == &notes[0].message);
    CHECK(!med_mailbox_wait(&box, INT64_MAX)); // returns, as it is closed
    med_mailbox_close(&box);
    med_mailbox_release(&box);
}

static void test_wait_ends_at_its_deadline(void)
{
    struct med_mailbox box;
    struct med_clock clock;
    med_clock_init_real(&clock, 1);
    med_mailbox_init(&box, 1, NULL, NULL);
    CHECK(!med_mailbox_wait(&box, 0));
    CHECK(!med_mailbox_wait(&box, -5));
    int64_t deadline_ns = med_clock_now_ns(&clock) + 5 * MED_NS_PER_MS;
    CHECK(!med_mailbox_wait(&box, deadline_ns));
    CHECK(med_clock_now_ns(&clock) >= deadline_ns);
    med_mailbox_release(&box);
}

enum {
    PRODUCERS = 4,
    NOTES = 5000,
    ROOM = 16
};

struct producer {
    struct med_mailbox *box;
    struct note *notes;
    int refused; /* read after the join */
};

static void *produce(void *arg)
{
    struct producer *self = arg;
    for (int i = 0; i < NOTES; i++) {
        int rc;
        while ((rc = med_mailbox_post(self->box, &self->notes[i].message)) == MED_E_AGAIN) {
            self->refused++;
            (void)sched_yield();
        }
        if (rc != 0)
            return (void *)"a post failed";
    }
    return NULL;
}

/* Every message arrives once, and those of one producer in their order, though it is often full. */
static void test_producers_share_a_small_mailbox(void)
{
    static struct note notes[PRODUCERS][NOTES];
    struct med_mailbox box;
    atomic_int wakes = 0;
    struct producer producers[PRODUCERS];
    pthread_t threads[PRODUCERS];
    med_mailbox_init(&box, ROOM, count_wake, &wakes);
    for (int p = 0; p < PRODUCERS; p++) {
        for (int i = 0; i < NOTES; i++)
            notes[p][i] = (struct note){.producer = p, .number = i};
        producers[p] = (struct producer){.box = &box, .notes = notes[p]};
        REQUIRE(med_thread_start(&threads[p], "producer", produce, &producers[p]) == 0);
    }
    int next[PRODUCERS] = {0};
    int taken = 0;
    while (taken < PRODUCERS * NOTES) {
        int batch = 0;
        for (struct med_message *m = med_mailbox_wait(&box, INT64_MAX); m;) {
            struct med_message *after = m->next;
            const struct note *note = (const struct note *)m;
            CHECK_INT(note->number, next[note->producer]);
            next[note->producer]++;
            batch++;
            m = after;
        }
        CHECK(batch >= 1 && batch <= ROOM);
        taken += batch;
    }
    for (int p = 0; p < PRODUCERS; p++) {
        void *result;
        REQUIRE(pthread_join(threads[p], &result) == 0);
        CHECK_STR(result, NULL);
        CHECK_INT(next[p], NOTES);
        (void)printf("producer %d found it full %d times\n", p, producers[p].refused);
    }
    CHECK_INT(atomic_load(&wakes), PRODUCERS * NOTES);
    CHECK(!med_mailbox_take(&box));
    med_mailbox_release(&box);
}

static void *produce_until_closed(void *arg)
{
    struct producer *self = arg;
    for (intptr_t i = 0; i < NOTES; i++) {
        int rc;
        while ((rc = med_mailbox_post(self->box, &self->notes[i].message)) == MED_E_AGAIN)
            (void)sched_yield();
        if (rc == MED_E_CANCELLED)
            return (void *)i;
    }
    return (void *)(intptr_t)NOTES;
}

static size_t list_length(const struct med_message *first)
{
    size_t count = 0;
    for (; first; first = first->next)
        count++;
    return count;
}

/* What was accepted before the close arrives, what was refused does not. */
static void test_close_while_producers_post(void)
{
    static struct note notes[PRODUCERS][NOTES];
    struct med_mailbox box;
    struct producer producers[PRODUCERS];
    pthread_t threads[PRODUCERS];
    med_mailbox_init(&box, ROOM, NULL, NULL);
    for (int p = 0; p < PRODUCERS; p++) {
        producers[p] = (struct producer){.box = &box, .notes = notes[p]};
        REQUIRE(med_thread_start(&threads[p], "producer", produce_until_closed, &producers[p]) ==
                0);
    }
    size_t taken = 0;
    while (taken < NOTES)
        taken += list_length(med_mailbox_wait(&box, INT64_MAX));
    med_mailbox_close(&box);
    size_t accepted = 0;
    for (int p = 0; p < PRODUCERS; p++) {
        void *result;
        REQUIRE(pthread_join(threads[p], &result) == 0);
        accepted += (size_t)(intptr_t)result;
    }
    taken += list_length(med_mailbox_take(&box));
    CHECK_UINT(taken, accepted);
    med_mailbox_release(&box);
}

static void *close_soon(void *arg)
{
    med_mailbox_close(arg);
    return NULL;
}

static void test_close_wakes_a_sleeping_receiver(void)
{
    struct med_mailbox box;
    pthread_t thread;
    med_mailbox_init(&box, 1, NULL, NULL);
    REQUIRE(med_thread_start(&thread, "closer", close_soon, &box) == 0);
    CHECK(!med_mailbox_wait(&box, INT64_MAX)); // hangs, and the test times out, if it is not woken
    REQUIRE(pthread_join(thread, NULL) == 0);
    med_mailbox_release(&box);
}

int main(void)
{
    RUN(test_take_gives_everything_oldest_first);
    RUN(test_post_when_full_then_the_sender_still_owns);
    RUN(test_post_when_closed_then_refused_and_the_rest_is_taken);
    RUN(test_wait_ends_at_its_deadline);
    RUN(test_producers_share_a_small_mailbox);
    RUN(test_close_while_producers_post);
    RUN(test_close_wakes_a_sleeping_receiver);
    return check_finish();
}
