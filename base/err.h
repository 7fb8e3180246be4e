/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors: one table for logs, metric labels, HTTP and gRPC answers.
 *
 * Functions return int: >= 0 is a result, < 0 a failure. libuv codes (negative errno, specials to
 * about -4095) pass through unchanged; Medley's own codes start at -20000 and are listed once, in
 * MED_ERR_MAP: name, value, sentence, HTTP status, gRPC status.
 *
 * Where a person must act, a function takes a last argument `struct med_err *err` and fills it
 * once, with one complete sentence: where, what, and what was expected.  err may be NULL.
 * thread: any (no shared state).
 */
#ifndef MED_BASE_ERR_H
#define MED_BASE_ERR_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MED_MUST_CHECK               __attribute__((warn_unused_result))
#define MED_PRINTF(fmt_index, first) __attribute__((format(printf, fmt_index, first)))

// clang-format off
/*  name            value    label              sentence                                            HTTP gRPC */
#define MED_ERR_MAP(X) \
    X(NOMEM,      -20001, "no_memory",       "memory is exhausted",                                500,  8) \
    X(USAGE,      -20002, "usage",           "the command line is not understood",                 400,  3) \
    X(INVALID,    -20003, "invalid",         "the input is not valid",                             400,  3) \
    X(FORMAT,     -20004, "format",          "the file does not follow its format",                400,  3) \
    X(IO,         -20005, "io",              "a file or socket could not be used",                 500, 13) \
    X(INFEASIBLE, -20006, "infeasible",      "no mix of instances meets the objectives",           422,  9) \
    X(LIMIT,      -20007, "limit",           "a named limit is exceeded",                          413,  8) \
    X(OVERLOAD,   -20008, "overload",        "the fleet cannot take this request now",             429,  8) \
    X(NO_WORKER,  -20009, "no_worker",       "no healthy worker serves this model",                503, 14) \
    X(WORKER_LOST,-20010, "worker_lost",     "the worker was lost while it served the request",    502, 14) \
    X(CANCELLED,  -20011, "cancelled",       "the client cancelled the request",                   499,  1) \
    X(DEADLINE,   -20012, "deadline",        "the deadline of the request has passed",             504,  4) \
    X(NOT_FOUND,  -20013, "not_found",       "the named thing does not exist",                     404,  5) \
    X(DRAINING,   -20014, "draining",        "the server is draining",                             503, 14) \
    X(PROTO,      -20015, "protocol",        "the peer broke the protocol",                        502, 13) \
    X(SOLVER,     -20016, "solver",          "the solver failed",                                  500, 13) \
    X(AGAIN,      -20017, "again",           "a bounded queue is full; the sender still owns",     429,  8) \
    X(UNCOVERED,  -20018, "uncovered",       "the profile does not cover what was asked",          422,  9) \
    X(CUDA,       -20019, "cuda",            "a CUDA call failed",                                 500, 13) \
    X(INTERNAL,   -20020, "internal",        "an internal error",                                  500, 13)
// clang-format on

enum med_err_code {
#define X(name, value, label, text, http, grpc) MED_E_##name = (value),
    MED_ERR_MAP(X)
#undef X
};

enum {
    MED_ERR_TEXT_MAX = 1024
};

/* One failure, as a person reads it.  text is always terminated; cut at the maximum. */
struct med_err {
    int code;
    char text[MED_ERR_TEXT_MAX];
};

/* Fills err (if not NULL) and returns code, so that `return med_err_set(...)` reads well. */
int med_err_set(struct med_err *err, int code, const char *fmt, ...) MED_PRINTF(3, 4);

/* Puts "prefix: " before err's text; keeps the code. Returns err's code (or 0 for NULL). */
int med_err_prefix(struct med_err *err, const char *fmt, ...) MED_PRINTF(2, 3);

/* Facts of a code. Codes outside the table (errno style) get label "system", 500, 13. */
const char *med_err_label(int code); /* "worker_lost": metric label and log key */
const char *med_err_text(int code);  /* one sentence without a full stop */
int med_err_http_status(int code);
int med_err_grpc_status(int code);

/* Exit status of a program that ends with this code: 0, 1 failed, 2 usage or bad input,
 * 3 infeasible, 4 the device failed: starting again may help. */
int med_err_exit_status(int code);

/* The code for an input file that cannot be opened or read, from its errno: MED_E_INVALID where the
 * user named what is not there or is no readable file (exit 2), MED_E_IO where the machine failed. */
int med_err_input_code(int error);

#ifdef __cplusplus
}
#endif

#endif
