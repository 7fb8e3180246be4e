/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A string on loan to a message that is to be packed: protobuf-c's strings are not const, though packing
 * only reads them.  thread: any.
 */
#ifndef MED_PROTO_LEND_H
#define MED_PROTO_LEND_H

static inline char *med_proto_lend(const char *s)
{
    union {
        const char *from;
        char *to;
    } both = {.from = s};
    return both.to;
}

#endif
