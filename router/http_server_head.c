/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The head of an HTTP/1.x request, see http_server_head.h.
 *
 * A whole head is looked at twice: once line by line for what must not be there, then by
 * http_parser for what is there.  No state survives a call.  Runs on the caller's thread.
 */
#include "router/http_server_head.h"

#include <http_parser.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

enum {
    URL_MAX = 8192
};

/* What the callbacks gather. thread: the caller's */
struct gather {
    char url[URL_MAX];
    size_t url_length;
    bool url_over;
    char field[16]; /* start of the current header's name; enough for "host" */
    size_t field_length;
    bool in_value;
    int hosts;
    bool complete;
};

static int on_url(http_parser *parser, const char *at, size_t length)
{
    struct gather *g = parser->data;
    if (length > sizeof(g->url) - g->url_length) {
        g->url_over = true;
        return 1;
    }
    memcpy(g->url + g->url_length, at, length);
    g->url_length += length;
    return 0;
}

static int on_header_field(http_parser *parser, const char *at, size_t length)
{
    struct gather *g = parser->data;
    if (g->in_value) {
        g->in_value = false;
        g->field_length = 0;
    }
    for (size_t i = 0; i < length; i++) {
        if (g->field_length < sizeof(g->field))
            g->field[g->field_length] = at[i];
        g->field_length++;
    }
    return 0;
}

static int on_header_value(http_parser *parser, const char *at, size_t length)
{
    struct gather *g = parser->data;
    (void)at;
    (void)length;
    if (!g->in_value && g->field_length == 4 && strncasecmp(g->field, "host", 4) == 0)
        g->hosts++;
    g->in_value = true;
    return 0;
}

static int on_message_complete(http_parser *parser)
{
    struct gather *g = parser->data;
    g->complete = true;
    http_parser_pause(parser, 1);
    return 0;
}

static bool is_token(unsigned char c)
{
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
        return true;
    return c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

/* One header line without its CR LF. NULL: good. */
static const char *line_fault(const char *line, size_t length)
{
    size_t i = 0;
    if (line[0] == ' ' || line[0] == '\t')
        return "a header line is folded";
    while (i < length && is_token((unsigned char)line[i]))
        i++;
    if (i == 0 || i == length || line[i] != ':')
        return "a header line is not NAME: VALUE without whitespace before the colon";
    return NULL;
}

/* NULL, or what is wrong with the raw bytes of a head. */
static const char *raw_fault(const char *bytes, size_t count)
{
    bool request_line = true;
    size_t start = 0;
    while (start < count) {
        const char *lf = memchr(bytes + start, '\n', count - start);
        if (lf == NULL)
            return "the head does not end in an empty line";
        size_t end = (size_t)(lf - bytes);
        if (end == start || bytes[end - 1] != '\r')
            return "a line does not end in CR LF";
        size_t length = end - 1 - start;
        for (size_t i = 0; i < length; i++) {
            unsigned char c = (unsigned char)bytes[start + i];
            if ((c < 0x20 && c != '\t') || c == 0x7f)
                return "the head holds a control character";
        }
        if (length > 0 && !request_line) {
            const char *fault = line_fault(bytes + start, length);
            if (fault != NULL)
                return fault;
        }
        request_line = false;
        start = end + 1;
    }
    return NULL;
}

static size_t empty_line_bytes(const char *bytes, size_t count)
{
    return count >= 2 && bytes[0] == '\r' && bytes[1] == '\n' ? 2 : 0;
}

size_t med_http_head_bytes(const char *bytes, size_t count)
{
    /* LF LF would end a head for a lenient reader: it ends ours too, to be refused as a whole. */
    for (size_t i = empty_line_bytes(bytes, count) + 1; i < count; i++) {
        if (bytes[i] != '\n')
            continue;
        if (bytes[i - 1] == '\n' || (i >= 2 && bytes[i - 1] == '\r' && bytes[i - 2] == '\n'))
            return i + 1;
    }
    return 0;
}

static void fail(struct med_http_head *head, int status, const char *why)
{
    head->status = status;
    head->why = why;
    head->keep_alive = false;
}

static void path_set(struct med_http_head *head, const struct gather *g)
{
    struct http_parser_url url;
    http_parser_url_init(&url);
    if (g->url_length > UINT16_MAX || http_parser_parse_url(g->url, g->url_length, 0, &url) != 0 ||
        (url.field_set & (1U << UF_PATH)) == 0 || g->url[url.field_data[UF_PATH].off] != '/') {
        fail(head, 400, "the request target is not a path or a URL with one");
        return;
    }
    size_t length = url.field_data[UF_PATH].len;
    if (length >= sizeof(head->path)) {
        fail(head, 414, "the path is too long");
        return;
    }
    memcpy(head->path, g->url + url.field_data[UF_PATH].off, length);
    head->path[length] = '\0';
}

/* The head is well formed: is it one that we serve? */
static void judge(struct med_http_head *head, const http_parser *parser, const struct gather *g,
                  bool has_body)
{
    bool is_1_1 = parser->http_major == 1 && parser->http_minor == 1;
    if (parser->http_major != 1 || parser->http_minor > 1) {
        fail(head, 505, "the version is not HTTP/1.0 or HTTP/1.1");
    } else if (g->hosts > 1 || (is_1_1 && g->hosts == 0)) {
        fail(head, 400, "HTTP/1.1 needs exactly one Host header");
    } else if (parser->method != HTTP_GET && parser->method != HTTP_HEAD) {
        fail(head, 405, "only GET and HEAD are served here");
    } else if (has_body) {
        fail(head, 400, "GET and HEAD are served without a body only");
    } else {
        path_set(head, g);
    }
}

void med_http_head_parse(const char *bytes, size_t count, struct med_http_head *ret_head)
{
    static const http_parser_settings settings = {
        .on_url = on_url,
        .on_header_field = on_header_field,
        .on_header_value = on_header_value,
        .on_message_complete = on_message_complete,
    };
    size_t skip = empty_line_bytes(bytes, count);
    struct gather g = {0};
    http_parser parser;

    *ret_head = (struct med_http_head){.why = ""};
    const char *fault = raw_fault(bytes + skip, count - skip);
    if (fault != NULL) {
        fail(ret_head, 400, fault);
        return;
    }
    http_parser_init(&parser, HTTP_REQUEST);
    parser.data = &g;
    size_t used = http_parser_execute(&parser, &settings, bytes + skip, count - skip);
    enum http_errno error = HTTP_PARSER_ERRNO(&parser);
    bool has_body = !g.complete || (parser.flags & F_CHUNKED) != 0 ||
                    (parser.content_length > 0 && parser.content_length != UINT64_MAX);
    if (g.url_over) {
        fail(ret_head, 414, "the request target is too long");
    } else if ((error != HPE_OK && error != HPE_PAUSED) || used > count - skip) {
        fail(ret_head, 400, http_errno_description(error));
    } else {
        ret_head->is_head = parser.method == HTTP_HEAD;
        ret_head->keep_alive = http_should_keep_alive(&parser) != 0;
        judge(ret_head, &parser, &g, has_body);
    }
}
