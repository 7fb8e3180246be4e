/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOST:PORT text to socket addresses and back, see net.h.  Runs on the caller's thread; resolving a
 * name blocks, numeric addresses do not.
 */
#include "router/net.h"

#include "base/options.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    HOST_MAX = 256
};

/* Cuts text at the last colon into host (brackets removed) and port. */
static int split(const char *text, const char *what, char host[HOST_MAX], int64_t *ret_port,
                 struct med_err *err)
{
    const char *colon = strrchr(text, ':');
    if (colon == NULL || colon == text || colon[1] == '\0')
        return med_err_set(err, MED_E_USAGE, "%s: found \"%s\", expected HOST:PORT", what, text);
    const char *from = text;
    size_t length = (size_t)(colon - text);
    if (from[0] == '[') {
        if (length < 3 || from[length - 1] != ']') {
            return med_err_set(err, MED_E_USAGE, "%s: found \"%s\", expected [IPV6]:PORT", what,
                               text);
        }
        from++;
        length -= 2;
    } else if (memchr(from, ':', length) != NULL) {
        return med_err_set(err, MED_E_USAGE,
                           "%s: found \"%s\", expected HOST:PORT with an IPv6 address in brackets",
                           what, text);
    }
    if (length >= HOST_MAX) {
        return med_err_set(err, MED_E_USAGE, "%s: the host has %zu bytes, expected at most %d",
                           what, length, HOST_MAX - 1);
    }
    memcpy(host, from, length);
    host[length] = '\0';
    return med_parse_integer(colon + 1, what, 0, 65535, ret_port, err);
}

int med_net_parse(const char *text, const char *what, struct sockaddr_storage *ret_address,
                  struct med_err *err)
{
    char host[HOST_MAX];
    int64_t port = 0;
    int rc = split(text, what, host, &port, err);
    if (rc < 0)
        return rc;

    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int status = getaddrinfo(host, NULL, &hints, &found);
    if (status != 0) {
        return med_err_set(err, MED_E_USAGE, "%s: the host of \"%s\" cannot be resolved: %s", what,
                           text, gai_strerror(status));
    }
    struct sockaddr_storage address = {0};
    memcpy(&address, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    if (address.ss_family == AF_INET6) {
        ((struct sockaddr_in6 *)&address)->sin6_port = htons((uint16_t)port);
    } else {
        ((struct sockaddr_in *)&address)->sin_port = htons((uint16_t)port);
    }
    *ret_address = address;
    return 0;
}

void med_net_format(const struct sockaddr_storage *address, char text[MED_NET_TEXT_MAX])
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
        (void)inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host)); // "?" stays on failure
        (void)snprintf(text, MED_NET_TEXT_MAX, "[%s]:%d", host, ntohs(v6->sin6_port));
        return;
    }
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
    (void)inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
    (void)snprintf(text, MED_NET_TEXT_MAX, "%s:%d", host, ntohs(v4->sin_port));
}

bool med_net_is_loopback(const struct sockaddr_storage *address)
{
    if (address->ss_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr);
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
    return (ntohl(v4->sin_addr.s_addr) >> 24) == 127;
}

int med_net_port(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET6 ? ntohs(((const struct sockaddr_in6 *)address)->sin6_port)
                                          : ntohs(((const struct sockaddr_in *)address)->sin_port);
}

static bool is_at(int fd, int port, bool listening)
{
    struct sockaddr_storage address = {0};
    socklen_t bytes = sizeof(address);
    int accepts = 0;
    socklen_t accepts_bytes = sizeof(accepts);
    return getsockname(fd, (struct sockaddr *)&address, &bytes) == 0 &&
           (address.ss_family == AF_INET || address.ss_family == AF_INET6) &&
           med_net_port(&address) == port &&
           getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &accepts_bytes) == 0 &&
           (accepts != 0) == listening;
}

size_t med_net_own_sockets(int port, bool listening, int *ret_fds, size_t max)
{
    size_t count = 0;
    DIR *folder = opendir("/proc/self/fd");
    if (folder == NULL)
        return 0;
    const struct dirent *entry;
    while ((entry = readdir(folder)) != NULL) {
        int64_t fd = -1;
        if (med_parse_integer(entry->d_name, "fd", 0, INT32_MAX, &fd, NULL) < 0 ||
            !is_at((int)fd, port, listening))
            continue;
        if (count < max)
            ret_fds[count] = (int)fd;
        count++;
    }
    (void)closedir(folder);
    return count;
}
