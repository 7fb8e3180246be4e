/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers to the load test: any bytes are taken, once whole and once in pieces whose sizes come from
 * the first byte, and both readings agree in how it ended and how many tokens came.  thread: main.
 */
#include "base/assert.h"
#include "router/bench/reply.h"
#include "tests/fuzz/fuzz.h"

static void on_tokens(void *arg, int64_t count)
{
    int64_t *sum = arg;
    MED_ASSERT(count > 0);
    *sum += count;
}

static void read_all(struct med_reply *reply, const char *bytes, size_t count, size_t piece)
{
    for (size_t at = 0; at < count && !reply->over; at += piece)
        med_reply_feed(reply, bytes + at, count - at < piece ? count - at : piece);
    med_reply_feed(reply, "", 0);
    MED_ASSERT(reply->over);
    MED_ASSERT(reply->status >= 0 && reply->status < 17);
    MED_ASSERT(reply->status == 0 || reply->why[0] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const char *bytes = (const char *)data + 1;
    size_t piece = (size_t)data[0] % 64 + 1;
    int64_t sums[2] = {0, 0};
    struct med_reply whole, pieces;
    med_reply_init(&whole, on_tokens, &sums[0]);
    med_reply_init(&pieces, on_tokens, &sums[1]);
    read_all(&whole, bytes, size - 1, size);
    read_all(&pieces, bytes, size - 1, piece);
    MED_ASSERT((whole.status == 0) == (pieces.status == 0));
    MED_ASSERT(whole.status != 0 || (sums[0] == sums[1] && sums[0] == whole.tokens));
    med_reply_clear(&whole);
    MED_ASSERT(!whole.over && whole.tokens == 0);
    med_reply_release(&whole);
    med_reply_release(&pieces);
    return 0;
}
