/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may use the admin view: see med_admin_refusal.  Pure.
 */
#include "router/admin.h"

#include <string.h>
#include <strings.h>

bool med_admin_has(const char *path)
{
    return strcmp(path, "/admin") == 0 || strncmp(path, "/admin/", 7) == 0;
}

/* Digits and dots, beginning with 127. */
static bool is_ipv4_loopback(const char *host, size_t length)
{
    size_t dots = 0;
    for (size_t i = 0; i < length; i++) {
        if (host[i] == '.') {
            dots++;
        } else if (host[i] < '0' || host[i] > '9') {
            return false;
        }
    }
    return dots == 3 && length > 4 && strncmp(host, "127.", 4) == 0;
}

/* "HOST" or "HOST:PORT" */
static bool is_loopback(const char *host)
{
    size_t length = strcspn(host, ":");
    if (host[0] == '[') {
        length = strcspn(host, "]");
        if (host[length] != ']')
            return false;
        length++;
    }
    const char *port = host + length;
    if (port[0] == ':')
        port++;
    if (port[strspn(port, "0123456789")] != '\0')
        return false;
    return is_ipv4_loopback(host, length) || (length == 5 && strncmp(host, "[::1]", 5) == 0) ||
           (length == 9 && strncasecmp(host, "localhost", 9) == 0);
}

/* Does Origin name the server that was asked? */
static bool is_own_origin(const char *origin, const char *host)
{
    const char *rest = strstr(origin, "://");
    size_t scheme = rest != NULL ? (size_t)(rest - origin) : 0;
    bool http = (scheme == 4 && strncasecmp(origin, "http", 4) == 0) ||
                (scheme == 5 && strncasecmp(origin, "https", 5) == 0);
    return http && strcasecmp(rest + 3, host) == 0;
}

static bool is_json(const char *content_type)
{
    size_t length = strcspn(content_type, "; \t");
    return length == 16 && strncasecmp(content_type, "application/json", 16) == 0;
}

const char *med_admin_refusal(const struct med_admin_request *request)
{
    bool is_post = strcmp(request->method, "POST") == 0;
    bool is_page = strcmp(request->path, "/admin") == 0;
    const char *site = request->fetch_site;
    if (request->host == NULL || !is_loopback(request->host))
        return "the admin view answers only when it is asked as localhost, 127.0.0.1 or [::1]";
    if (site != NULL && strcmp(site, "same-origin") != 0 && strcmp(site, "none") != 0 && !is_page)
        return "another site asks";
    if (request->origin != NULL && !is_own_origin(request->origin, request->host))
        return "a page of another origin asks";
    if (is_post && (request->content_type == NULL || !is_json(request->content_type)))
        return "content-type: expected application/json";
    return NULL;
}
