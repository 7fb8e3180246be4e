/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the C library offers beyond POSIX, in one place (base/os_linux.c, the only file that is
 * compiled with _GNU_SOURCE).  thread: any.
 */
#ifndef MED_BASE_OS_H
#define MED_BASE_OS_H

#include <locale.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Bytes that the heap block p really holds; 0 for NULL. */
size_t med_os_heap_bytes(void *p);

/* Text of a negative errno ("No such file or directory"); static storage. */
const char *med_os_errno_text(int code);

/* name is cut to the 15 bytes that Linux keeps. */
void med_os_thread_name(pthread_t thread, const char *name);

/* Cores that this process may run on, ascending, at most `max` of them; returns how many there are
 * (at least 1), however many were written. */
int med_os_cores(int *out, int max);
/* Returns 0 or a negative errno. */
int med_os_thread_pin(pthread_t thread, int core);

/* Switches this thread to the "C" locale and back, around a library that follows the locale. */
locale_t med_os_locale_enter(void);
void med_os_locale_leave(locale_t previous);

/* As strtod, in the "C" locale whatever the program's locale is. */
double med_os_strtod(const char *text, char **ret_end);

enum {
    MED_OS_DOUBLE_MAX = 32
};
/* Writes the shortest of %.15g, %.16g and %.17g that reads back to the same finite value, in the
 * "C" locale. Returns the length. */
size_t med_os_print_double(char out[MED_OS_DOUBLE_MAX], double value);

/* The user whose process is at the other end of a Unix socket.  Returns 0 or a negative errno. */
int med_os_peer_uid(int fd, uid_t *ret_uid);

/* Several sockets listen at one port (SO_REUSEPORT): from now on all new connections go to the one that
 * was the index-th to listen; to any, when there is none of that index.  fd: one of them.
 * Returns 0 or a negative errno. */
int med_os_steer_port(int fd, uint32_t index);

/* Bytes that were written to a TCP connection and that its peer's system has not acknowledged; 0 if that
 * cannot be told. */
size_t med_os_unsent(int fd);

/* Directory of the running program, without a final slash.  Returns 0 or a negative errno. */
int med_os_program_dir(char *out, size_t out_bytes);

/* Lets this process open as many files as the system will let it; returns how many that is. */
uint64_t med_os_files_raise(void);

#endif
