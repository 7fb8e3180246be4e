/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Link frames: any bytes, cut anywhere, come out as whole frames or end with a sentence; what came
 * out is written and read again.  The first byte says where the input is cut.  thread: main.
 */
#include "base/assert.h"
#include "proto/frame.h"
#include "tests/fuzz/fuzz.h"

#include <stdbool.h>

static void write_and_read_again(const Medley__Link__Frame *frame)
{
    struct med_frame_reader reader;
    struct med_buf wire;
    struct med_err err = {0};
    Medley__Link__Frame *again = NULL;
    med_buf_init(&wire, 64 << 20);
    med_frame_reader_init(&reader);
    MED_ASSERT(med_frame_write(&wire, frame) == 0);
    if (wire.length <= 64 << 10) {
        MED_ASSERT(med_frame_reader_feed(&reader, wire.data, wire.length, &err) == 0);
        int rc = med_frame_reader_next(&reader, &again, &err);
        /* protobuf-c takes an overlong tag of field 0 as an unknown field, keeps it, and refuses
         * the short tag that it writes for it; so the second reading may fail, with a sentence. */
        MED_ASSERT(rc == 1 ? again->body_case == frame->body_case : err.text[0] != '\0');
        if (rc == 1) {
            med_frame_free(again);
        }
    }
    med_frame_reader_release(&reader);
    med_buf_release(&wire);
}

/* Feeds one piece and takes what comes out; false: the reader is dead. */
static bool feed(struct med_frame_reader *reader, const uint8_t *data, size_t size)
{
    struct med_err err = {0};
    int rc = med_frame_reader_feed(reader, data, size, &err);
    while (rc >= 0) {
        Medley__Link__Frame *frame = NULL;
        rc = med_frame_reader_next(reader, &frame, &err);
        if (rc == 0)
            return true;
        if (rc == 1) {
            write_and_read_again(frame);
            med_frame_free(frame);
        }
    }
    MED_ASSERT(rc == MED_E_PROTO);
    MED_ASSERT(err.text[0] != '\0');
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct med_frame_reader reader;
    if (size == 0)
        return 0;
    size_t cut = (size_t)data[0] * (size - 1) / 255;
    med_frame_reader_init(&reader);
    if (feed(&reader, data + 1, cut))
        (void)feed(&reader, data + 1 + cut, size - 1 - cut);
    med_frame_reader_release(&reader);
    return 0;
}
