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

static int on_headers_complete(http_parser *parser)
{
    (void)parser;
    return 1; /* the body is not http_parser's business */
}

static int on_message_complete(http_parser *parser)
{
    struct gather *g = parser->data;
    g->complete = true;
    http_parser_pause(parser, 1);
    return 0;
}

/* tchar of RFC 9110 section 5.6.2, a bit for each character of ASCII. */
static const uint32_t token_bits[8] = {0, 0x03ff6cfa, 0xc7fffffe, 0x57ffffff};

bool med_http_is_token(char byte)
{
    unsigned char c = (unsigned char)byte;
    return (token_bits[c >> 5] >> (c & 31) & 1) != 0;
}

/* One header line without its CR LF. NULL: good. */
static const char *line_fault(const char *line, size_t length)
{
    size_t i = 0;
    if (line[0] == ' ' || line[0] == '\t')
        return "a header line is folded";
    while (i < length && med_http_is_token(line[i]))
        i++;
    if (i == 0 || i == length || line[i] != ':')
        return "a header line is not NAME: VALUE without whitespace before the colon";
    return NULL;
}

/* METHOD SP TARGET SP HTTP/DIGIT.DIGIT, without its CR LF. */
static const char *request_line_fault(const char *line, size_t length)
{
    static const char *fault = "the request line is not METHOD TARGET HTTP/DIGIT.DIGIT";
    size_t i = 0, begin;
    while (i < length && med_http_is_token(line[i]))
        i++;
    if (i == 0 || i == length || line[i] != ' ')
        return fault;
    for (begin = ++i; i < length && line[i] != ' '; i++) {
        if ((unsigned char)line[i] <= 0x20 || (unsigned char)line[i] >= 0x7f || line[i] == '#')
            return "the request target holds a character that no URL may hold";
    }
    if (i == begin || length - i != sizeof " HTTP/1.1" - 1)
        return fault;
    const char *version = line + i;
    bool good = memcmp(version, " HTTP/", 6) == 0 && version[6] >= '0' && version[6] <= '9' &&
                version[7] == '.' && version[8] >= '0' && version[8] <= '9';
    return good ? NULL : fault;
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
        const char *fault = NULL;
        if (request_line) {
            fault = request_line_fault(bytes + start, length);
        } else if (length > 0) {
            fault = line_fault(bytes + start, length);
        }
        if (fault != NULL)
            return fault;
        request_line = false;
        start = end + 1;
    }
    return NULL;
}

static size_t empty_line_bytes(const char *bytes, size_t count)
{
    return count >= 2 && bytes[0] == '\r' && bytes[1] == '\n' ? 2 : 0;
}

size_t med_http_head_bytes(const char *bytes, size_t count, size_t from)
{
    /* LF LF would end a head for a lenient reader: it ends ours too, to be refused as a whole. */
    size_t i = empty_line_bytes(bytes, count) + 1;
    i = from > i + 3 ? from - 3 : i; /* an end may lie across */
    while (i < count) {
        const char *lf = memchr(bytes + i, '\n', count - i);
        if (lf == NULL)
            return 0;
        i = (size_t)(lf - bytes);
        if (bytes[i - 1] == '\n' || (i >= 2 && bytes[i - 1] == '\r' && bytes[i - 2] == '\n'))
            return i + 1;
        i++;
    }
    return 0;
}

/* ---- header lines ------------------------------------------------------------------------------ */

struct line {
    const char *name, *value;
    size_t name_bytes, value_bytes;
};

/* The next header line at *at, which moves on; the lines are known to be well formed.  The request line and
 * the empty line at the end are none. */
static bool line_next(const char *bytes, size_t count, size_t *at, struct line *ret_line)
{
    while (*at < count) {
        const char *begin = bytes + *at;
        const char *lf = memchr(begin, '\n', count - *at);
        size_t length = (size_t)(lf - begin);
        *at += length + 1;
        length -= length > 0; /* the CR */
        const char *colon = length == 0 ? NULL : memchr(begin, ':', length);
        if (colon == NULL)
            continue;
        const char *value = colon + 1, *end = begin + length;
        while (value < end && (*value == ' ' || *value == '\t'))
            value++;
        while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
            end--;
        *ret_line = (struct line){.name = begin,
                                  .value = value,
                                  .name_bytes = (size_t)(colon - begin),
                                  .value_bytes = (size_t)(end - value)};
        return true;
    }
    return false;
}

/* Where the header lines begin: behind the request line. */
static size_t lines_begin(const char *bytes, size_t count)
{
    size_t skip = empty_line_bytes(bytes, count);
    const char *lf = memchr(bytes + skip, '\n', count - skip);
    return lf == NULL ? count : (size_t)(lf - bytes) + 1;
}

static bool is_named(const struct line *line, const char *name)
{
    return (line->name[0] | 0x20) == (name[0] | 0x20) && strlen(name) == line->name_bytes &&
           strncasecmp(line->name, name, line->name_bytes) == 0;
}

static bool is_value(const struct line *line, const char *value)
{
    return strlen(value) == line->value_bytes &&
           strncasecmp(line->value, value, line->value_bytes) == 0;
}

const char *med_http_head_find(const char *bytes, size_t count, const char *name, size_t *ret_bytes)
{
    struct line line;
    size_t at = lines_begin(bytes, count);
    while (line_next(bytes, count, &at, &line)) {
        if (is_named(&line, name)) {
            *ret_bytes = line.value_bytes;
            return line.value;
        }
    }
    return NULL;
}

static void fail(struct med_http_head *head, int status, const char *why)
{
    head->status = status;
    head->why = why;
    head->keep_alive = false;
}

/* uri-host [":" port], or nothing: the characters that RFC 3986 section 3.2 has for them. */
static bool host_is_good(const struct line *line)
{
    for (size_t i = 0; i < line->value_bytes; i++) {
        char c = line->value[i];
        bool letter = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!letter && (c == '\0' || strchr("-._~%!$&'()*+,;=:[]", c) == NULL))
            return false;
    }
    return true;
}

/* 1*DIGIT below 2^63. */
static bool length_parse(const struct line *line, uint64_t *ret_length)
{
    uint64_t length = 0;
    if (line->value_bytes == 0 || line->value_bytes > 18)
        return false;
    for (size_t i = 0; i < line->value_bytes; i++) {
        if (line->value[i] < '0' || line->value[i] > '9')
            return false;
        length = length * 10 + (uint64_t)(line->value[i] - '0');
    }
    *ret_length = length;
    return true;
}

/* Host, and how the body is framed. */
static void lines_judge(struct med_http_head *head, const char *bytes, size_t count)
{
    struct line line;
    size_t at = lines_begin(bytes, count);
    int hosts = 0, lengths = 0, encodings = 0;
    while (head->status == 0 && line_next(bytes, count, &at, &line)) {
        if (is_named(&line, "host")) {
            hosts++;
            if (!host_is_good(&line))
                fail(head, 400, "Host is not a name and a port");
        } else if (is_named(&line, "content-length")) {
            head->framing = MED_HTTP_LENGTH;
            if (++lengths > 1 || !length_parse(&line, &head->body_bytes))
                fail(head, 400, "Content-Length is not one plain number");
        } else if (is_named(&line, "transfer-encoding")) {
            head->framing = MED_HTTP_CHUNKED;
            if (++encodings > 1 || !is_value(&line, "chunked"))
                fail(head, 501, "the only Transfer-Encoding that is served is chunked");
        } else if (is_named(&line, "expect")) {
            head->expects_continue = is_value(&line, "100-continue");
            if (!head->expects_continue)
                fail(head, 417, "the only expectation that is met is 100-continue");
        }
    }
    if (head->status != 0)
        return;
    if (lengths > 0 && encodings > 0) {
        fail(head, 400, "Content-Length and Transfer-Encoding exclude each other");
    } else if (encodings > 0 && !head->is_1_1) {
        fail(head, 400, "HTTP/1.0 knows no Transfer-Encoding");
    } else if (hosts > 1 || (head->is_1_1 && hosts == 0)) {
        fail(head, 400, "HTTP/1.1 needs exactly one Host header");
    }
    if (!head->is_1_1)
        head->expects_continue = false;
}

static bool method_set(struct med_http_head *head, unsigned method)
{
    static const struct {
        unsigned parsed;
        enum med_http_method method;
    } methods[] = {{HTTP_GET, MED_HTTP_GET},        {HTTP_HEAD, MED_HTTP_HEAD},
                   {HTTP_POST, MED_HTTP_POST},      {HTTP_PUT, MED_HTTP_PUT},
                   {HTTP_DELETE, MED_HTTP_DELETE},  {HTTP_PATCH, MED_HTTP_PATCH},
                   {HTTP_OPTIONS, MED_HTTP_OPTIONS}};
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (methods[i].parsed == method) {
            head->method = methods[i].method;
            return true;
        }
    }
    return false;
}

static void target_set(struct med_http_head *head, const struct gather *g)
{
    struct http_parser_url url;
    http_parser_url_init(&url);
    if (head->method == MED_HTTP_OPTIONS && g->url_length == 1 && g->url[0] == '*') {
        (void)memcpy(head->path, "*", 2);
        return;
    }
    if (g->url_length > UINT16_MAX || http_parser_parse_url(g->url, g->url_length, 0, &url) != 0 ||
        (url.field_set & (1U << UF_PATH)) == 0 || g->url[url.field_data[UF_PATH].off] != '/') {
        fail(head, 400, "the request target is not a path or a URL with one");
        return;
    }
    size_t length = url.field_data[UF_PATH].len;
    bool has_query = (url.field_set & (1U << UF_QUERY)) != 0;
    size_t query = has_query ? url.field_data[UF_QUERY].len : 0;
    if (length >= sizeof(head->path) || query >= sizeof(head->query)) {
        fail(head, 414, "the request target is too long");
        return;
    }
    memcpy(head->path, g->url + url.field_data[UF_PATH].off, length);
    head->path[length] = '\0';
    if (has_query)
        memcpy(head->query, g->url + url.field_data[UF_QUERY].off, query);
    head->query[query] = '\0';
}

/* The request line is well formed: is it one that we serve? */
static void judge(struct med_http_head *head, const http_parser *parser, const struct gather *g)
{
    if (parser->http_major != 1 || parser->http_minor > 1) {
        fail(head, 505, "the version is not HTTP/1.0 or HTTP/1.1");
    } else if (!method_set(head, parser->method)) {
        fail(head, 501, "this method is not served");
    } else {
        target_set(head, g);
    }
}

void med_http_head_parse(const char *bytes, size_t count, struct med_http_head *ret_head)
{
    static const http_parser_settings settings = {
        .on_url = on_url,
        .on_headers_complete = on_headers_complete,
        .on_message_complete = on_message_complete,
    };
    size_t skip = empty_line_bytes(bytes, count);
    struct gather g;
    http_parser parser;

    g.url_length = 0;
    g.url_over = g.complete = false;
    ret_head->status = 0;
    ret_head->why = "";
    ret_head->method = MED_HTTP_GET;
    ret_head->is_1_1 = ret_head->keep_alive = false;
    ret_head->framing = MED_HTTP_NO_BODY;
    ret_head->body_bytes = 0;
    ret_head->expects_continue = false;
    ret_head->path[0] = ret_head->query[0] = '\0';
    const char *fault = raw_fault(bytes + skip, count - skip);
    if (fault != NULL) {
        fail(ret_head, 400, fault);
        return;
    }
    http_parser_init(&parser, HTTP_REQUEST);
    parser.data = &g;
    size_t used = http_parser_execute(&parser, &settings, bytes + skip, count - skip);
    enum http_errno error = HTTP_PARSER_ERRNO(&parser);
    ret_head->is_1_1 = parser.http_major == 1 && parser.http_minor == 1;
    if (g.url_over) {
        fail(ret_head, 414, "the request target is too long");
    } else if ((error != HPE_OK && error != HPE_PAUSED) || used > count - skip || !g.complete) {
        fail(ret_head, 400, http_errno_description(error));
    } else {
        ret_head->keep_alive = http_should_keep_alive(&parser) != 0;
        judge(ret_head, &parser, &g);
        if (ret_head->status == 0)
            lines_judge(ret_head, bytes, count);
    }
}
