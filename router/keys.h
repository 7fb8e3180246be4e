/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Secrets from a file: API keys of the doors, tokens of the worker link.
 *
 * One secret per line: MED_KEY_BYTES_MIN to MED_KEY_BYTES_MAX printable ASCII characters without
 * blanks.  Empty lines and lines that begin with # are skipped; blanks around a secret are dropped.
 * Several secrets let them be rotated: the new one is added, peers change, the old one goes.
 *
 * A comparison takes the same time whatever is compared and whether it fits, and no secret is ever
 * part of a sentence.  Memory that held one is wiped.
 * thread: that of the loop. owns: the secrets.
 */
#ifndef MED_ROUTER_KEYS_H
#define MED_ROUTER_KEYS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    MED_KEY_BYTES_MIN = 16,
    MED_KEY_BYTES_MAX = 256,
    MED_KEYS_MAX = 1024
};

struct med_keys;

/* option: "--api-key-file", for sentences; static.  path: copied.
 * errors: MED_E_INVALID with file and line, MED_E_IO, MED_E_NOMEM. */
int med_keys_new(const char *option, const char *path, struct med_keys **ret_keys,
                 struct med_err *err) MED_MUST_CHECK;
/* Reads the file again; on failure the old secrets stay. */
int med_keys_reload(struct med_keys *keys, struct med_err *err) MED_MUST_CHECK;
void med_keys_free(struct med_keys *keys);

size_t med_keys_count(const struct med_keys *keys);
/* The file may be read by everybody on this machine: worth a warning. */
bool med_keys_is_exposed(const struct med_keys *keys);
/* The first secret, for an end that presents one; lent. */
const char *med_keys_first(const struct med_keys *keys);

/* Is this one of them?  keys NULL: none is asked for, so anything will do. */
bool med_keys_match(const struct med_keys *keys, const char *secret, size_t bytes);
/* The same for the value of an Authorization header, "Bearer KEY"; value NULL: there is none. */
bool med_keys_match_bearer(const struct med_keys *keys, const char *value, size_t bytes);

/* What a client without a key is told: one sentence for both doors. */
#define MED_KEYS_REFUSAL \
 "this server wants an API key: send the header \"Authorization: Bearer KEY\" with a valid key"

#endif
