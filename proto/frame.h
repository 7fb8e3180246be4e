/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of the worker link: a 4-byte big-endian length, then one medley.link.Frame.
 *
 * Reading is incremental: bytes go in as they come, whole frames come out.  Unpacking uses a capped
 * allocator.  protobuf-c types appear here and in the two link shells only.
 * thread: the owner's.
 * errors: MED_E_PROTO (empty frame, over MED_LIMIT_FRAME_BYTES, or not a Frame with a body), with a
 * sentence; the reader is then dead and the connection must be closed.
 */
#ifndef MED_PROTO_FRAME_H
#define MED_PROTO_FRAME_H

#include "base/buf.h"
#include "link.pb-c.h"

struct med_frame_reader {
    struct med_buf buf;
    size_t start; /* bytes at the front of buf that `next` has handed out already */
};

void med_frame_reader_init(struct med_frame_reader *reader);
void med_frame_reader_release(struct med_frame_reader *reader);

int med_frame_reader_feed(struct med_frame_reader *reader, const void *bytes, size_t count,
                          struct med_err *err) MED_MUST_CHECK;
/* 1: *ret_frame is a frame (free with med_frame_free); 0: more bytes are needed; < 0: error. */
int med_frame_reader_next(struct med_frame_reader *reader, Medley__Link__Frame **ret_frame,
                          struct med_err *err) MED_MUST_CHECK;
void med_frame_free(Medley__Link__Frame *frame);

/* Appends length and frame to buf. */
int med_frame_write(struct med_buf *buf, const Medley__Link__Frame *frame) MED_MUST_CHECK;

#endif
