/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The side of a take-over that is to come, see hand_over.h.  It runs before the doors are open, so it may
 * block; each step for PATIENCE_S at most.  thread: main.
 */
#include "router/hand_over.h"

#include "base/options.h"
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    PATIENCE_S = 10,
    LINE_MAX_BYTES = 512
};

void med_handed_add(struct med_handed *handed, const char *name, int fd)
{
    size_t i = handed->count++;
    (void)snprintf(handed->listeners[i].name, sizeof(handed->listeners[i].name), "%s", name);
    handed->listeners[i].fd = fd;
}

int med_handed_take(struct med_handed *handed, const char *name)
{
    for (size_t i = 0; i < handed->count; i++) {
        if (strcmp(handed->listeners[i].name, name) == 0) {
            int fd = handed->listeners[i].fd;
            handed->listeners[i].fd = -1;
            return fd;
        }
    }
    return -1;
}

void med_handed_close(struct med_handed *handed)
{
    for (size_t i = 0; i < handed->count; i++) {
        if (handed->listeners[i].fd >= 0)
            (void)close(handed->listeners[i].fd);
        handed->listeners[i].fd = -1;
    }
}

static int say(struct med_take_over *t, const char *text)
{
    size_t length = strlen(text);
    ssize_t sent;
    do {
        sent = send(t->fd, text, length, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)length ? 0 : MED_E_IO;
}

/* Keeps what came with a message; more than is expected is closed again. */
static void keep_descriptors(struct med_take_over *t, struct msghdr *message)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            (void)fcntl(fd, F_SETFD, FD_CLOEXEC); // a child of this process has no use for it
            if (t->handed.count < MED_HANDED_MAX) {
                med_handed_add(&t->handed, "", fd);
            } else {
                (void)close(fd);
            }
        }
    }
}

/* One line, without its end. 0: the connection has ended. */
static int hear(struct med_take_over *t, char line[LINE_MAX_BYTES])
{
    size_t length = 0;
    for (;;) {
        union {
            struct cmsghdr header;
            char bytes[CMSG_SPACE(sizeof(int) * 2 * MED_HANDED_MAX)];
        } control;
        struct iovec iov = {.iov_base = line + length, .iov_len = LINE_MAX_BYTES - length};
        struct msghdr message = {.msg_iov = &iov,
                                 .msg_iovlen = 1,
                                 .msg_control = control.bytes,
                                 .msg_controllen = sizeof(control.bytes)};
        ssize_t got = recvmsg(t->fd, &message, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return errno == ECONNRESET ? 0 : -errno;
        keep_descriptors(t, &message);
        if (got == 0)
            return 0;
        length += (size_t)got;
        if (line[length - 1] == '\n') { // the other side sends nothing before it is asked again
            line[length - 1] = '\0';
            return 1;
        }
        if (length == LINE_MAX_BYTES)
            return MED_E_PROTO;
    }
}

/* LISTENERS 1 workers=3 grpc=127.0.0.1:7070 names=http,link */
static int parse_listeners(struct med_take_over *t, char *line, struct med_err *err)
{
    struct med_handed *handed = &t->handed;
    char *rest = NULL;
    char *word = strtok_r(line, " ", &rest);
    int64_t version = 0;
    int64_t workers = -1;
    size_t named = 0;
    bool good = word != NULL && strcmp(word, "LISTENERS") == 0;
    word = strtok_r(NULL, " ", &rest);
    good = good && word != NULL && med_parse_integer(word, "version", 1, 1, &version, NULL) == 0;
    while (good && (word = strtok_r(NULL, " ", &rest)) != NULL) {
        if (strncmp(word, "workers=", 8) == 0) {
            good = med_parse_integer(word + 8, "workers", 0, 1 << 20, &workers, NULL) == 0;
        } else if (strncmp(word, "grpc=", 5) == 0) {
            (void)snprintf(handed->grpc, sizeof(handed->grpc), "%s", word + 5);
        } else if (strncmp(word, "names=", 6) == 0) {
            char *more = NULL;
            for (char *name = strtok_r(word + 6, ",", &more); name != NULL && named < handed->count;
                 name = strtok_r(NULL, ",", &more), named++) {
                (void)snprintf(handed->listeners[named].name, MED_HANDED_NAME_BYTES, "%s", name);
            }
        }
    }
    if (!good || workers < 0 || handed->grpc[0] == '\0' || named == 0 || named != handed->count) {
        return med_err_set(err, MED_E_PROTO,
                           "the router there offers what is not understood: another version?");
    }
    handed->workers = (uint64_t)workers;
    return 0;
}

static int begin(struct med_take_over *t, const char *path, struct med_err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path[0] == '\0' || strlen(path) >= sizeof(address.sun_path) - 4) {
        return med_err_set(err, MED_E_USAGE, "found %zu bytes, expected 1 to %zu", strlen(path),
                           sizeof(address.sun_path) - 5);
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    t->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (t->fd < 0)
        return med_err_set(err, MED_E_IO, "%s", med_os_errno_text(-errno));
    (void)fcntl(t->fd, F_SETFD, FD_CLOEXEC);
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    if (setsockopt(t->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
        setsockopt(t->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0)
        return med_err_set(err, MED_E_IO, "%s", med_os_errno_text(-errno));
    if (connect(t->fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        int code = errno;
        return med_err_set(err, code == ENOENT || code == ECONNREFUSED ? MED_E_NOT_FOUND : MED_E_IO,
                           "%s", med_os_errno_text(-code));
    }
    uid_t uid = 0;
    if (med_os_peer_uid(t->fd, &uid) < 0 || uid != geteuid())
        return med_err_set(err, MED_E_INVALID, "the process there is another user's");
    char line[LINE_MAX_BYTES];
    int rc = say(t, "MEDLEY-TAKE-OVER 1\n");
    if (rc == 0)
        rc = hear(t, line);
    if (rc <= 0) {
        return med_err_set(err, MED_E_IO, "the router there did not answer: %s",
                           rc == 0 ? "it closed the connection" : med_os_errno_text(rc));
    }
    if (strncmp(line, "NO ", 3) == 0)
        return med_err_set(err, MED_E_AGAIN, "the router there says no: %s", line + 3);
    return parse_listeners(t, line, err);
}

int med_take_over_begin(struct med_take_over *t, const char *path, struct med_err *err)
{
    *t = (struct med_take_over){.fd = -1};
    int rc = begin(t, path, err);
    if (rc < 0) {
        (void)med_err_prefix(err, "--take-over, %s", path);
        med_take_over_end(t);
    }
    return rc;
}

int med_take_over_dial(struct med_take_over *t, struct med_err *err)
{
    return say(t, "DIAL\n") == 0
               ? 0
               : med_err_set(err, MED_E_IO, "--take-over: the router there has gone");
}

bool med_take_over_is_alone(const struct med_take_over *t)
{
    char byte;
    ssize_t got = recv(t->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

int med_take_over_ready(struct med_take_over *t, struct med_err *err)
{
    char line[LINE_MAX_BYTES] = "";
    int rc = say(t, "READY\n");
    if (rc == 0)
        rc = hear(t, line);
    if (rc == MED_E_IO || rc == 0)
        return 0; // it has gone, and this one serves
    if (rc < 0)
        return med_err_set(err, MED_E_IO, "--take-over: %s", med_os_errno_text(rc));
    return strcmp(line, "GO") == 0
               ? 0
               : med_err_set(err, MED_E_PROTO, "--take-over: the router there says \"%s\"", line);
}

void med_take_over_end(struct med_take_over *t)
{
    if (t->fd >= 0)
        (void)close(t->fd);
    t->fd = -1;
    med_handed_close(&t->handed);
}
