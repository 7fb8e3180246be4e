/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bodies of requests, see http_server_body.h.  A state for each place in the grammar of chunks; content is
 * taken in runs, the rest byte by byte.  Runs on the caller's thread.
 */
#include "router/http_server_body.h"

enum {
    SIZE_DIGITS_MAX = 15,
    EXTENSION_BYTES_MAX = 1024, /* of all chunks of a body */
    TRAILER_BYTES_MAX = 8192
};

void med_http_body_reader_init(struct med_http_body_reader *reader,
                               const struct med_http_head *head, uint64_t bytes_max)
{
    *reader =
        (struct med_http_body_reader){.framing = head->framing, .bytes_max = bytes_max, .why = ""};
    if (head->framing == MED_HTTP_CHUNKED) {
        reader->state = MED_HTTP_BODY_SIZE;
    } else {
        reader->left = head->framing == MED_HTTP_LENGTH ? head->body_bytes : 0;
        reader->state = reader->left > 0 ? MED_HTTP_BODY_DATA : MED_HTTP_BODY_DONE;
    }
    if (reader->left > bytes_max) {
        reader->status = 413;
        reader->why = "the body is too large";
    }
}

static int fail(struct med_http_body_reader *r, int status, const char *why)
{
    r->status = status;
    r->why = why;
    return MED_E_PROTO;
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool is_text(char c)
{
    return (unsigned char)c >= 0x20 ? c != 0x7f : c == '\t';
}

/* A chunk's size has been read. */
static int size_done(struct med_http_body_reader *r)
{
    if (r->left > r->bytes_max - r->bytes)
        return fail(r, 413, "the body is too large");
    r->digits = 0;
    r->line_bytes = r->left == 0 ? 0 : r->line_bytes;
    r->state = r->left == 0 ? MED_HTTP_BODY_TRAILER : MED_HTTP_BODY_DATA;
    return 0;
}

static int take_size(struct med_http_body_reader *r, char c)
{
    int digit = digit_of(c);
    if (digit >= 0) {
        if (++r->digits > SIZE_DIGITS_MAX)
            return fail(r, 400, "a chunk's size has too many digits");
        r->left = (r->digits == 1 ? 0 : r->left * 16) + (uint64_t)digit;
        return 0;
    }
    if (r->digits == 0 || (c != ';' && c != '\r'))
        return fail(r, 400, "a chunk's size is not hexadecimal digits and CR LF");
    r->state = c == ';' ? MED_HTTP_BODY_EXTENSION : MED_HTTP_BODY_SIZE_LF;
    return 0;
}

static int take_extension(struct med_http_body_reader *r, char c)
{
    if (c == '\r') {
        r->state = MED_HTTP_BODY_SIZE_LF;
        return 0;
    }
    if (!is_text(c) || ++r->line_bytes > EXTENSION_BYTES_MAX)
        return fail(r, 400, "chunk extensions hold a control character or are too long");
    return 0;
}

static int take_trailer(struct med_http_body_reader *r, char c)
{
    if (r->state == MED_HTTP_BODY_TRAILER && c == '\r') {
        r->state = MED_HTTP_BODY_END_LF;
        return 0;
    }
    if (r->state == MED_HTTP_BODY_TRAILER) {
        r->state = MED_HTTP_BODY_TRAILER_LINE;
        r->named = false;
        if (c == ' ' || c == '\t' || c == ':')
            return fail(r, 400, "a trailer line is folded or has no name");
    }
    if (c == '\r') {
        r->state = MED_HTTP_BODY_TRAILER_LF;
        return r->named ? 0 : fail(r, 400, "a trailer line is not NAME: VALUE");
    }
    if (c == ':') {
        r->named = true;
    } else if (!r->named && !med_http_is_token(c)) {
        return fail(r, 400, "a trailer line has no NAME that ends at its colon");
    }
    if (!is_text(c) || ++r->line_bytes > TRAILER_BYTES_MAX)
        return fail(r, 400, "trailers hold a control character or are too long");
    return 0;
}

/* A byte that must be `want`. */
static int take_fixed(struct med_http_body_reader *r, char c, char want,
                      enum med_http_body_state next)
{
    if (c != want)
        return fail(r, 400, "a line of a chunk does not end in CR LF");
    r->state = next;
    return 0;
}

/* One byte that is not content. */
static int take(struct med_http_body_reader *r, char c)
{
    switch (r->state) {
    case MED_HTTP_BODY_SIZE:
        return take_size(r, c);
    case MED_HTTP_BODY_EXTENSION:
        return take_extension(r, c);
    case MED_HTTP_BODY_SIZE_LF: {
        int rc = take_fixed(r, c, '\n', MED_HTTP_BODY_DATA);
        return rc == 0 ? size_done(r) : rc;
    }
    case MED_HTTP_BODY_DATA_CR:
        return take_fixed(r, c, '\r', MED_HTTP_BODY_DATA_LF);
    case MED_HTTP_BODY_DATA_LF:
        return take_fixed(r, c, '\n', MED_HTTP_BODY_SIZE);
    case MED_HTTP_BODY_TRAILER_LF:
        return take_fixed(r, c, '\n', MED_HTTP_BODY_TRAILER);
    case MED_HTTP_BODY_END_LF:
        return take_fixed(r, c, '\n', MED_HTTP_BODY_DONE);
    default:
        return take_trailer(r, c);
    }
}

int med_http_body_read(struct med_http_body_reader *r, const char *bytes, size_t count,
                       struct med_buf *content, size_t *ret_used)
{
    size_t at = 0;
    int rc = r->status != 0 ? MED_E_PROTO : 0;
    while (rc == 0 && at < count && r->state != MED_HTTP_BODY_DONE) {
        if (r->state != MED_HTTP_BODY_DATA) {
            rc = take(r, bytes[at++]);
            continue;
        }
        size_t run = count - at < r->left ? count - at : (size_t)r->left;
        rc = med_buf_append(content, bytes + at, run);
        if (rc < 0)
            break;
        at += run;
        r->left -= run;
        r->bytes += run;
        if (r->left == 0)
            r->state = r->framing == MED_HTTP_CHUNKED ? MED_HTTP_BODY_DATA_CR : MED_HTTP_BODY_DONE;
    }
    *ret_used = at;
    return rc < 0 ? rc : r->state == MED_HTTP_BODY_DONE;
}
