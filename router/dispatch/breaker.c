/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Breaker: a worker that fails its requests gets none for a while.
 *
 * Faults of the worker count, nothing that a client did: an error that it reported, an engine that fell
 * silent, a connection that broke while it had requests. A fault weighs 1 and an answer that ends well
 * takes HEAL of it back, so that with every third request failed the sum stays where it is and with more
 * it grows. At the configured sum the breaker opens for a time that starts at BACKOFF_FIRST_NS and doubles, up to
 * BACKOFF_MAX_NS. Then it is half open: one request is sent as a probe. Its first token, or that it ends well without one, closes the
 * breaker; a fault opens it again, for longer. A probe that its client takes back says nothing: another
 * follows.
 *
 * A worker that comes back under the same name finds its breaker as it left it (workers.c).
 * O(1). source: docs/adr/0092-breaker.md. thread: loop.
 */
#include "router/dispatch/internal.h"

#include "base/clock.h"

#include <math.h>

#define FAULTS_DEFAULT   3
#define HEAL             0.5
#define BACKOFF_FIRST_NS MED_NS_PER_S
#define BACKOFF_MAX_NS   (60 * MED_NS_PER_S)

bool breaker_allows(const struct breaker *b, int64_t now_ns)
{
    return !b->open || (now_ns >= b->until_ns && b->probe == NONE);
}

void breaker_fault(struct breaker *b, int64_t limit, int64_t now_ns)
{
    b->faults_total++;
    if (limit < 0)
        return;
    b->faults += 1;
    bool probing = b->open && now_ns >= b->until_ns;
    if (b->open && !probing)
        return; /* what was sent before it opened */
    if (!probing && b->faults < (double)(limit > 0 ? limit : FAULTS_DEFAULT))
        return;
    int64_t longer = b->backoff_ns < BACKOFF_MAX_NS / 2 ? 2 * b->backoff_ns : BACKOFF_MAX_NS;
    b->backoff_ns = probing ? longer : BACKOFF_FIRST_NS;
    b->until_ns = now_ns + b->backoff_ns;
    b->open = true;
    b->probe = NONE;
    b->opened_total++;
}

void breaker_sent(struct breaker *b, uint32_t lease)
{
    if (b->open)
        b->probe = lease;
}

void breaker_left(struct breaker *b, uint32_t lease)
{
    if (b->probe == lease)
        b->probe = NONE;
}

void breaker_first_token(struct breaker *b, uint32_t lease)
{
    if (!b->open || b->probe != lease)
        return;
    b->open = false;
    b->probe = NONE;
    b->faults = 0;
    b->backoff_ns = 0;
}

void breaker_success(struct breaker *b, uint32_t lease)
{
    breaker_first_token(b, lease); /* a probe may end well without any */
    if (!b->open)
        b->faults = fmax(0, b->faults - HEAL);
}
