/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The GNU and Linux calls behind base/os.h.
 *
 * The "C" locale object is made once; glibc keeps it in static storage, so making it cannot fail
 * for lack of memory.  thread: any.
 */
#include "base/os.h"

#include "base/assert.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/sockios.h>
#include <malloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static pthread_once_t locale_once = PTHREAD_ONCE_INIT;
static locale_t locale_c; // set by locale_make, then constant

static void locale_make(void)
{
    locale_c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    MED_ASSERT(locale_c != (locale_t)0);
}

static locale_t locale_get(void)
{
    (void)pthread_once(&locale_once, locale_make); // cannot fail with a valid argument
    return locale_c;
}

size_t med_os_heap_bytes(void *p)
{
    return malloc_usable_size(p);
}

const char *med_os_errno_text(int code)
{
    const char *text = code < 0 && code > -4096 ? strerrordesc_np(-code) : NULL;
    return text ? text : "an unknown system error";
}

void med_os_thread_name(pthread_t thread, const char *name)
{
    char cut[16];
    (void)snprintf(cut, sizeof cut, "%s", name);
    (void)pthread_setname_np(thread, cut); // a name only helps debugging
}

int med_os_cores(int *out, int max)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    int found = 0;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        for (int core = 0; core < CPU_SETSIZE; core++) {
            if (!CPU_ISSET((size_t)core, &set))
                continue;
            if (found < max)
                out[found] = core;
            found++;
        }
    }
    if (found > 0)
        return found;
    /* A machine with more cores than cpu_set_t has: count them, 0 upwards. */
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    for (int core = 0; core < online && core < max; core++)
        out[core] = core;
    return online > 0 ? (int)online : 1;
}

int med_os_thread_pin(pthread_t thread, int core)
{
    if (core < 0 || core >= CPU_SETSIZE)
        return -EINVAL;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)core, &set);
    return -pthread_setaffinity_np(thread, sizeof set, &set);
}

locale_t med_os_locale_enter(void)
{
    return uselocale(locale_get());
}

void med_os_locale_leave(locale_t previous)
{
    (void)uselocale(previous);
}

double med_os_strtod(const char *text, char **ret_end)
{
    return strtod_l(text, ret_end, locale_get());
}

size_t med_os_print_double(char out[MED_OS_DOUBLE_MAX], double value)
{
    locale_t previous = med_os_locale_enter();
    int length = 0;
    for (int digits = 15; digits <= 17; digits++) {
        length = snprintf(out, MED_OS_DOUBLE_MAX, "%.*g", digits, value);
        /* Compared as numbers: -0 equals 0, and both print with their sign. */
        if (strtod_l(out, NULL, locale_c) == value)
            break;
    }
    med_os_locale_leave(previous);
    MED_ASSERT(length > 0 && length < MED_OS_DOUBLE_MAX);
    return (size_t)length;
}

int med_os_program_dir(char *out, size_t out_bytes)
{
    ssize_t length = readlink("/proc/self/exe", out, out_bytes);
    if (length < 0)
        return -errno;
    if ((size_t)length >= out_bytes)
        return -ENAMETOOLONG;
    out[length] = '\0';
    char *slash = strrchr(out, '/');
    if (!slash)
        return -ENOENT;
    *slash = '\0';
    return 0;
}

uint64_t med_os_files_raise(void)
{
    struct rlimit limit = {0};
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 0;
    struct rlimit wanted = {.rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max};
    return setrlimit(RLIMIT_NOFILE, &wanted) == 0 ? wanted.rlim_cur : limit.rlim_cur;
}

int med_os_peer_uid(int fd, uid_t *ret_uid)
{
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0)
        return -errno;
    *ret_uid = peer.uid;
    return 0;
}

int med_os_steer_port(int fd, uint32_t index)
{
    struct sock_filter answer = BPF_STMT(BPF_RET | BPF_K, index);
    const struct sock_fprog program = {.len = 1, .filter = &answer};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program) < 0
               ? -errno
               : 0;
}

size_t med_os_unsent(int fd)
{
    int bytes = 0;
    return ioctl(fd, SIOCOUTQ, &bytes) == 0 && bytes > 0 ? (size_t)bytes : 0;
}
