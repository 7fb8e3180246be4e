/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of the worker link: whole, split, hostile. */
#include "base/alloc.h"
#include "base/limits.h"
#include "base/rng.h"
#include "proto/frame.h"
#include "tests/check.h"

static void put_length(unsigned char *p, uint32_t length)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(length >> (24 - 8 * i));
}

static void write_tokens(struct med_buf *buf, uint64_t request, uint32_t *ids, size_t count)
{
    Medley__Link__Tokens tokens = MEDLEY__LINK__TOKENS__INIT;
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    tokens.request = request;
    tokens.ids = ids;
    tokens.n_ids = count;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_TOKENS;
    frame.tokens = &tokens;
    CHECK_INT(med_frame_write(buf, &frame), 0);
}

static void test_frames_come_out_whole_however_they_are_cut(void)
{
    enum {
        FRAMES = 200
    };
    struct med_rng rng;
    struct med_buf wire;
    uint32_t ids[50];
    med_rng_init(&rng, check_seed(), 1);
    med_buf_init(&wire, 1 << 20);
    for (uint32_t i = 0; i < 50; i++)
        ids[i] = i * 7919;
    for (uint64_t f = 0; f < FRAMES; f++)
        write_tokens(&wire, f, ids, f % 50);

    struct med_frame_reader reader;
    struct med_err err = {0};
    uint64_t next = 0;
    med_frame_reader_init(&reader);
    for (size_t at = 0; at < wire.length;) {
        size_t count = 1 + med_rng_below(&rng, 97);
        if (count > wire.length - at)
            count = wire.length - at;
        CHECK_INT(med_frame_reader_feed(&reader, wire.data + at, count, &err), 0);
        at += count;
        Medley__Link__Frame *frame;
        int rc;
        while ((rc = med_frame_reader_next(&reader, &frame, &err)) == 1) {
            CHECK_INT((int)frame->body_case, (int)MEDLEY__LINK__FRAME__BODY_TOKENS);
            CHECK_UINT(frame->tokens->request, next);
            CHECK_UINT(frame->tokens->n_ids, next % 50);
            for (size_t i = 0; i < frame->tokens->n_ids; i++)
                CHECK_UINT(frame->tokens->ids[i], ids[i]);
            next++;
            med_frame_free(frame);
        }
        CHECK_INT(rc, 0);
    }
    CHECK_UINT(next, FRAMES);
    med_frame_reader_release(&reader);
    med_buf_release(&wire);
}

static void refused(const void *bytes, size_t count, const char *words)
{
    struct med_frame_reader reader;
    struct med_err err = {0};
    Medley__Link__Frame *frame = NULL;
    med_frame_reader_init(&reader);
    int rc = med_frame_reader_feed(&reader, bytes, count, &err);
    if (rc == 0)
        rc = med_frame_reader_next(&reader, &frame, &err);
    CHECK_INT(rc, MED_E_PROTO);
    CHECK(strstr(err.text, words) != NULL);
    med_frame_reader_release(&reader);
}

static void test_what_is_not_a_frame_is_refused_by_name(void)
{
    refused("\0\0\0\0", 4, "an empty frame");
    refused("\x00\x80\x00\x01", 4, "a frame of 8388609 bytes"); /* before its body is there */
    refused("\0\0\0\4junk", 8, "not a medley.link.Frame");
    refused("\0\0\0\2\x7a\x00", 6, "without a body"); /* field 15, empty */
    refused("GET / HTTP/1.1\r\n", 16, "a frame of 1195725856 bytes");
}

static void test_half_a_frame_asks_for_more(void)
{
    struct med_frame_reader reader;
    struct med_err err = {0};
    Medley__Link__Frame *frame = NULL;
    med_frame_reader_init(&reader);
    CHECK_INT(med_frame_reader_feed(&reader, "\0\0\0\x08xx", 6, &err), 0);
    CHECK_INT(med_frame_reader_next(&reader, &frame, &err), 0);
    CHECK(frame == NULL);
    med_frame_reader_release(&reader);
}

/* A list that is not packed takes protobuf-c more than thirty times its size on the wire. */
static void test_a_frame_that_grows_too_much_is_refused(void)
{
    enum {
        COUNT = 200000
    };
    static unsigned char wire[4 + 5 + 2 * COUNT];
    size_t n = 4;
    wire[n++] = 0x22; /* Frame.tokens */
    for (uint32_t left = 2 * COUNT; left > 0; left >>= 7)
        wire[n++] = (unsigned char)((left & 0x7f) | (left >> 7 ? 0x80 : 0));
    for (int i = 0; i < COUNT; i++) {
        wire[n++] = 0x20; /* Tokens.ids, as single varints */
        wire[n++] = 1;
    }
    put_length(wire, (uint32_t)(n - 4));
    int64_t before = med_alloc_bytes_live();
    refused(wire, n, "not a medley.link.Frame");
    CHECK_INT(med_alloc_bytes_live(), before);
}

static void test_every_allocation_may_fail(void)
{
    struct med_buf wire;
    uint32_t ids[3] = {1, 2, 3};
    med_buf_init(&wire, 1 << 20);
    write_tokens(&wire, 9, ids, 3);
    int64_t before = med_alloc_bytes_live();
    for (uint64_t nth = 1; nth < 20; nth++) {
        struct med_frame_reader reader;
        Medley__Link__Frame *frame = NULL;
        struct med_err err = {0};
        med_frame_reader_init(&reader);
        (void)med_alloc_fail_nth(nth);
        int rc = med_frame_reader_feed(&reader, wire.data, wire.length, &err);
        if (rc == 0)
            rc = med_frame_reader_next(&reader, &frame, &err);
        (void)med_alloc_fail_nth(0);
        if (rc == 1 && frame != NULL) {
            CHECK_UINT(frame->tokens->request, 9);
        } else {
            CHECK(rc < 0 && err.text[0] != '\0');
        }
        med_frame_free(rc == 1 ? frame : NULL);
        med_frame_reader_release(&reader);
        CHECK_INT(med_alloc_bytes_live(), before);
    }
    med_buf_release(&wire);
}

int main(void)
{
    RUN(test_frames_come_out_whole_however_they_are_cut);
    RUN(test_what_is_not_a_frame_is_refused_by_name);
    RUN(test_half_a_frame_asks_for_more);
    RUN(test_a_frame_that_grows_too_much_is_refused);
    RUN(test_every_allocation_may_fail);
    return check_finish();
}
