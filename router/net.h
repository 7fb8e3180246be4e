/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses of doors: HOST:PORT text to socket addresses and back.
 *
 * HOST is an IPv4 address, an IPv6 address in brackets, or a name that the system resolves (the
 * first answer is taken).  PORT is 0..65535; 0 lets the system choose.  Resolving blocks: these are
 * for start-up, before the loop runs.
 * thread: any.  errors: MED_E_USAGE with a sentence that quotes the text.
 */
#ifndef MED_ROUTER_NET_H
#define MED_ROUTER_NET_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

enum {
    MED_NET_TEXT_MAX = 80
}; /* "[ipv6]:port" and its NUL */

/* what names the option in messages: "--http-listen". */
int med_net_parse(const char *text, const char *what, struct sockaddr_storage *ret_address,
                  struct med_err *err) MED_MUST_CHECK;
/* "127.0.0.1:7071" or "[::1]:7071". */
void med_net_format(const struct sockaddr_storage *address, char text[MED_NET_TEXT_MAX]);
int med_net_port(const struct sockaddr_storage *address);
/* Sockets of this process that are bound to this port, whoever made them: those that listen, or the
 * connections of those.  At most `max` are written; returns how many there are. */
size_t med_net_own_sockets(int port, bool listening, int *ret_fds, size_t max);
bool med_net_is_loopback(const struct sockaddr_storage *address);

#endif
