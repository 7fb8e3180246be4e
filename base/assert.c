/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a failed MED_ASSERT: one line on standard error, then abort, so that a core dump or a
 * sanitizer shows the stack.  It uses no allocation, no lock and no stdio stream.  thread: any.
 */
#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void med_assert_fail(const char *file, int line, const char *condition)
{
    char text[512];
    int length =
        snprintf(text, sizeof text, "%s:%d: assertion failed: %s\n", file, line, condition);
    if (length > 0) {
        size_t bytes = strlen(text);
        text[bytes - 1] = '\n';
        /* Nothing is left to do if the message cannot be written. */
        ssize_t written = write(STDERR_FILENO, text, bytes);
        (void)written;
    }
    abort();
}
