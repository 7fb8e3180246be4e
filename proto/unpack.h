/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A capped allocator for protobuf-c's unpack: a message from outside may not grow beyond a small
 * multiple of its size on the wire (protobuf-c itself has no limit, and a field of two bytes can
 * cost it sixty).  What is freed is not given back: the cap bounds the work of one message.
 * thread: the caller's; the budget must live as long as the allocator that points to it is used.
 */
#ifndef MED_PROTO_UNPACK_H
#define MED_PROTO_UNPACK_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

struct med_unpack_budget {
    size_t bytes_left;
};

/* For unpacking a message of wire_bytes; 0 for an allocator that only frees. */
ProtobufCAllocator med_unpack_allocator(struct med_unpack_budget *budget, size_t wire_bytes);

#endif
