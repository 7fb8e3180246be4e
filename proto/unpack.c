/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A capped allocator for protobuf-c's unpack, see unpack.h.  Runs on the caller's thread.
 */
#include "proto/unpack.h"

#include "base/alloc.h"

enum {
    /* A packed list of small ids is one byte each on the wire and four in memory; the rest is for
     * the structs around them. Long lists that are not packed do not fit, and proto3 packs. */
    BYTES_PER_WIRE_BYTE = 8,
    BYTES_EXTRA = 64 << 10,
};

static void *budget_alloc(void *data, size_t bytes)
{
    struct med_unpack_budget *budget = data;
    if (bytes > budget->bytes_left)
        return NULL;
    budget->bytes_left -= bytes;
    return med_alloc(bytes);
}

static void budget_free(void *data, void *p)
{
    (void)data;
    med_free(p);
}

ProtobufCAllocator med_unpack_allocator(struct med_unpack_budget *budget, size_t wire_bytes)
{
    budget->bytes_left = wire_bytes > 0 ? wire_bytes * BYTES_PER_WIRE_BYTE + BYTES_EXTRA : 0;
    return (ProtobufCAllocator){budget_alloc, budget_free, budget};
}
