/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors: the table of err.h as code, and the sentence that travels with a failure.
 *
 * Everything here is a pure function of its arguments; it allocates nothing, so that an error can
 * be made while memory is exhausted.  It does not log: the place that handles an error does.
 * thread: any.
 */
#include "base/err.h"

#include "base/os.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct err_row {
    int code;
    const char *label;
    const char *text;
    int http_status;
    int grpc_status;
};

static const struct err_row rows[] = {
#define X(name, value, label, text, http, grpc) {MED_E_##name, label, text, http, grpc},
    MED_ERR_MAP(X)
#undef X
};

static const struct err_row *row_find(int code)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].code == code)
            return &rows[i];
    }
    return NULL;
}

int med_err_set(struct med_err *err, int code, const char *fmt, ...)
{
    if (!err)
        return code;
    /* Through a local, so that an argument may be the old text of the same err. */
    char text[MED_ERR_TEXT_MAX];
    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (length < 0)
        text[0] = '\0';
    err->code = code;
    memcpy(err->text, text, sizeof text);
    return code;
}

int med_err_prefix(struct med_err *err, const char *fmt, ...)
{
    if (!err)
        return 0;
    char text[MED_ERR_TEXT_MAX];
    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (length < 0)
        return err->code;
    size_t used = strlen(text);
    (void)snprintf(text + used, sizeof text - used, ": %s", err->text);
    memcpy(err->text, text, sizeof text);
    return err->code;
}

const char *med_err_label(int code)
{
    const struct err_row *row = row_find(code);
    if (row)
        return row->label;
    return code >= 0 ? "ok" : "system";
}

const char *med_err_text(int code)
{
    const struct err_row *row = row_find(code);
    if (row)
        return row->text;
    return code >= 0 ? "success" : med_os_errno_text(code);
}

int med_err_http_status(int code)
{
    const struct err_row *row = row_find(code);
    if (row)
        return row->http_status;
    return code >= 0 ? 200 : 500;
}

int med_err_grpc_status(int code)
{
    const struct err_row *row = row_find(code);
    if (row)
        return row->grpc_status;
    return code >= 0 ? 0 : 13;
}

int med_err_exit_status(int code)
{
    if (code >= 0)
        return 0;
    switch (code) {
    case MED_E_USAGE:
    case MED_E_INVALID:
    case MED_E_FORMAT:
    case MED_E_LIMIT:
        return 2;
    case MED_E_INFEASIBLE:
        return 3;
    case MED_E_CUDA:
        return 4;
    default:
        return 1;
    }
}

int med_err_input_code(int error)
{
    switch (error) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case EACCES:
    case ELOOP:
    case ENAMETOOLONG:
        return MED_E_INVALID;
    default:
        return MED_E_IO;
    }
}
