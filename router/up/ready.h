/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The READY line of a program: "... READY key=value key=value".  It may stand behind what a log
 * line begins with, in text or JSONL.  Pure.
 */
#ifndef MED_ROUTER_UP_READY_H
#define MED_ROUTER_UP_READY_H

#include <stdbool.h>
#include <stddef.h>

/* The place after "READY" in a line that has it as a word of its own, else NULL. */
const char *med_ready_find(const char *line);
/* Copies the value of key (up to a space, comma or quote) from there; false: not there, or too long. */
bool med_ready_value(const char *after_ready, const char *key, char *out, size_t out_bytes);

#endif
