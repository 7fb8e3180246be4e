/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a verb's results go: standard output or a file, complete or with a sentence why not.
 * thread: main. owns: nothing; text is borrowed.
 * errors: MED_E_IO with a sentence that names the stream or file.
 */
#ifndef MED_ALLOCATOR_OUTPUT_H
#define MED_ALLOCATOR_OUTPUT_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>

/* To standard output, flushed: a full disk behind it is found here. */
int med_output_print(const struct med_buf *text, struct med_err *err) MED_MUST_CHECK;

/* Makes the file anew. What was written of it stays when it fails. */
int med_output_write_file(const char *path, const struct med_buf *text,
                          struct med_err *err) MED_MUST_CHECK;

/* Is standard output a terminal with colours, and NO_COLOR unset? */
bool med_output_wants_colour(void);

#endif
