/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text of an answer on its way to a terminal.
 *
 * What a model writes is not trusted: control characters other than tab and line feed could move the
 * cursor, set titles or answer in the user's name, so a terminal gets '?' for each of them (C0, DEL
 * and C1).  Files and pipes get the text as it is.
 * thread: main. units: pieces are whole characters of UTF-8.
 */
#ifndef MED_ROUTER_ASK_SHOW_H
#define MED_ROUTER_ASK_SHOW_H

#include "base/buf.h"

/* Appends the text to `out`, made harmless. */
int med_ask_make_harmless(const char *text, size_t bytes, struct med_buf *out) MED_MUST_CHECK;

#endif
