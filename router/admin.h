/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The admin view: /admin (a page), /admin/state (what it shows), and actions by POST.
 *
 * It asks for no key, because it is served on loopback only.  That keeps other machines out, not the
 * web pages in this machine's browser: what they may make it do is what the guard is about
 * (docs/internals/admin.md).
 * thread: loop.
 */
#ifndef MED_ROUTER_ADMIN_H
#define MED_ROUTER_ADMIN_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct med_router;

/* A request for a path that begins with /admin; NULL: it has no such header.  All borrowed. */
struct med_admin_request {
    const char *method, *path;
    const char *host, *origin, *fetch_site, *content_type;
    const char *body;
    size_t body_bytes;
};

struct med_admin_answer {
    int status;
    const char *content_type; /* static */
    struct med_buf *body;
};

/* True for /admin and what is below it. */
bool med_admin_has(const char *path);

/* Why this request must not be answered, or NULL.  Pure.
 * - Host must name loopback (127.0.0.0/8, ::1, localhost): a foreign name that resolves to loopback
 *   (DNS rebinding) would be same-origin with the attacker's page.
 * - Fetch metadata and Origin must not say that another site asks; the page itself may be linked to.
 * - A POST must be application/json, which no form of another site can send without being asked. */
const char *med_admin_refusal(const struct med_admin_request *request);

/* Fills the answer; < 0: no memory. */
int med_admin_serve(struct med_router *router, const struct med_admin_request *request,
                    struct med_admin_answer *answer) MED_MUST_CHECK;

/* router/admin/index.html */
extern const unsigned char MED_ADMIN_PAGE_DATA[];
extern const size_t MED_ADMIN_PAGE_BYTES;

#endif
