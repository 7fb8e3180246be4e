/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes results with stdio and checks each step, the close included.  Does not write atomically:
 * an interrupted run may leave a file that its reader then refuses as truncated.
 * thread: main.
 */
#include "allocator/output.h"

#include "base/os.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fail(const char *verb, const char *name, struct med_err *err)
{
    return med_err_set(err, MED_E_IO, "%s: cannot %s it: %s", name, verb,
                       med_os_errno_text(-errno));
}

static int write_text(FILE *stream, const char *name, const struct med_buf *text,
                      struct med_err *err)
{
    if (fwrite(text->data, 1, text->length, stream) != text->length || fflush(stream) != 0)
        return fail("write", name, err);
    return 0;
}

int med_output_print(const struct med_buf *text, struct med_err *err)
{
    return write_text(stdout, "standard output", text, err);
}

int med_output_write_file(const char *path, const struct med_buf *text, struct med_err *err)
{
    FILE *stream = fopen(path, "wb");
    if (stream == NULL)
        return fail("create", path, err);
    int rc = write_text(stream, path, text, err);
    if (fclose(stream) != 0 && rc == 0)
        rc = fail("write", path, err);
    return rc;
}

bool med_output_wants_colour(void)
{
    const char *no_color = getenv("NO_COLOR");
    const char *term = getenv("TERM");
    return isatty(STDOUT_FILENO) == 1 && (no_color == NULL || *no_color == '\0') &&
           (term == NULL || strcmp(term, "dumb") != 0);
}
