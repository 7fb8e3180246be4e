/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of the worker link, see frame.h.
 *
 * Bytes are gathered in one buffer; `next` steps over whole frames at its front, and the next feed
 * drops what was stepped over, so that many small frames of one read cost one move.  The length is
 * judged as soon as its four bytes are there, so a peer cannot make us hold more than one frame's
 * maximum. A packed list of ids grows when it is unpacked (one byte on the wire is a four-byte id),
 * and a hostile frame of many tiny fields grows more; therefore unpacking runs on an allocator with
 * a budget and fails when it is spent.
 *
 * Runs on the owner's thread (the loop). It does not know what a frame means.
 */
#include "proto/frame.h"

#include "base/limits.h"
#include "proto/unpack.h"

#include <stdint.h>
#include <string.h>

enum {
    HEADER_BYTES = 4,
    /* One read may bring the end of a frame and the start of the next. */
    READ_BYTES_MAX = 64 << 10,
};

static uint32_t length_read(const char *p)
{
    const unsigned char *u = (const unsigned char *)p;

    return (uint32_t)u[0] << 24 | (uint32_t)u[1] << 16 | (uint32_t)u[2] << 8 | (uint32_t)u[3];
}

/* 1: a whole header is there and good; 0: more bytes are needed. */
static int header_read(const struct med_frame_reader *reader, uint32_t *ret_length,
                       struct med_err *err)
{
    uint32_t length = 0;

    if (reader->buf.length - reader->start < HEADER_BYTES)
        return 0;
    length = length_read(reader->buf.data + reader->start);

    if (length == 0) {
        return med_err_set(err, MED_E_PROTO, "an empty frame, expected 1 to %d bytes",
                           MED_LIMIT_FRAME_BYTES);
    }
    if (length > MED_LIMIT_FRAME_BYTES) {
        return med_err_set(err, MED_E_PROTO, "a frame of %u bytes, expected 1 to %d bytes", length,
                           MED_LIMIT_FRAME_BYTES);
    }
    *ret_length = length;
    return 1;
}

void med_frame_reader_init(struct med_frame_reader *reader)
{
    med_buf_init(&reader->buf, HEADER_BYTES + MED_LIMIT_FRAME_BYTES + READ_BYTES_MAX);
    reader->start = 0;
}

void med_frame_reader_release(struct med_frame_reader *reader)
{
    med_buf_release(&reader->buf);
}

int med_frame_reader_feed(struct med_frame_reader *reader, const void *bytes, size_t count,
                          struct med_err *err)
{
    uint32_t length = 0;
    int rc;

    if (reader->start > 0) {
        med_buf_consume(&reader->buf, reader->start);
        reader->start = 0;
    }
    rc = med_buf_append(&reader->buf, bytes, count);
    if (rc == MED_E_LIMIT) {
        return med_err_set(err, MED_E_PROTO, "more than %zu bytes without a whole frame",
                           reader->buf.max_bytes);
    }
    if (rc < 0) {
        return med_err_set(err, rc, "cannot hold %zu bytes of a frame: %s", count,
                           med_err_text(rc));
    }
    rc = header_read(reader, &length, err);
    return rc < 0 ? rc : 0;
}

int med_frame_reader_next(struct med_frame_reader *reader, Medley__Link__Frame **ret_frame,
                          struct med_err *err)
{
    struct med_unpack_budget budget;
    ProtobufCAllocator allocator;
    Medley__Link__Frame *frame;
    uint32_t length = 0;
    int rc;

    rc = header_read(reader, &length, err);
    if (rc <= 0)
        return rc;
    if (reader->buf.length - reader->start - HEADER_BYTES < length)
        return 0;
    allocator = med_unpack_allocator(&budget, length);
    frame = medley__link__frame__unpack(
        &allocator, length, (const uint8_t *)reader->buf.data + reader->start + HEADER_BYTES);
    if (frame == NULL) {
        return med_err_set(err, MED_E_PROTO, "a frame of %u bytes that is not a medley.link.Frame",
                           length);
    }
    if (frame->body_case == MEDLEY__LINK__FRAME__BODY__NOT_SET) {
        med_frame_free(frame);
        return med_err_set(err, MED_E_PROTO,
                           "a frame of %u bytes without a body that this version knows", length);
    }
    reader->start += HEADER_BYTES + (size_t)length;
    *ret_frame = frame;
    return 1;
}

void med_frame_free(Medley__Link__Frame *frame)
{
    struct med_unpack_budget budget;
    ProtobufCAllocator allocator = med_unpack_allocator(&budget, 0);

    if (frame != NULL)
        medley__link__frame__free_unpacked(frame, &allocator);
}

int med_frame_write(struct med_buf *buf, const Medley__Link__Frame *frame)
{
    size_t length = medley__link__frame__get_packed_size(frame);
    unsigned char *p;
    int rc;

    if (length == 0 || length > MED_LIMIT_FRAME_BYTES)
        return MED_E_LIMIT;
    rc = med_buf_reserve(buf, HEADER_BYTES + length);
    if (rc < 0)
        return rc;
    p = (unsigned char *)buf->data + buf->length;
    p[0] = (unsigned char)(length >> 24);
    p[1] = (unsigned char)(length >> 16);
    p[2] = (unsigned char)(length >> 8);
    p[3] = (unsigned char)length;
    (void)medley__link__frame__pack(frame, p + HEADER_BYTES);
    buf->length += HEADER_BYTES + length;
    buf->data[buf->length] = '\0';
    return 0;
}
