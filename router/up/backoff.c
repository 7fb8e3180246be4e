/* SPDX-License-Identifier: Apache-2.0 */
/* Capped exponential back-off.  thread: any.  It draws no jitter: the processes are on one machine
 * and few. */
#include "router/up/backoff.h"

#include "base/assert.h"

void med_backoff_init(struct med_backoff *backoff, int64_t first_ms, int64_t max_ms,
                      int64_t stable_ms)
{
    MED_ASSERT(first_ms > 0);
    MED_ASSERT(first_ms <= max_ms);
    *backoff = (struct med_backoff){
        .first_ms = first_ms, .max_ms = max_ms, .stable_ms = stable_ms, .next_ms = first_ms};
}

int64_t med_backoff_pause_ms(struct med_backoff *backoff, int64_t ran_ms)
{
    if (ran_ms >= backoff->stable_ms)
        backoff->next_ms = backoff->first_ms;
    int64_t pause = backoff->next_ms;
    backoff->next_ms = pause > backoff->max_ms / 2 ? backoff->max_ms : 2 * pause;
    return pause;
}
