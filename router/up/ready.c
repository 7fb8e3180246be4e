/* SPDX-License-Identifier: Apache-2.0 */
/* Reads READY lines.  thread: any.  It does not care which keys there are. */
#include "router/up/ready.h"

#include <ctype.h>
#include <string.h>

static bool is_boundary(char c)
{
    return !isalnum((unsigned char)c) && c != '_' && c != '-';
}

const char *med_ready_find(const char *line)
{
    static const char word[] = "READY";
    const size_t length = sizeof(word) - 1;
    for (const char *at = strstr(line, word); at; at = strstr(at + 1, word)) {
        if ((at == line || is_boundary(at[-1])) && (at[length] == '\0' || is_boundary(at[length])))
            return at + length;
    }
    return NULL;
}

bool med_ready_value(const char *after_ready, const char *key, char *out, size_t out_bytes)
{
    size_t key_length = strlen(key);
    for (const char *at = strstr(after_ready, key); at; at = strstr(at + 1, key)) {
        if (at[key_length] != '=' || (at != after_ready && at[-1] != ' '))
            continue;
        const char *value = at + key_length + 1;
        size_t length = strcspn(value, " ,\"\r\n");
        if (length == 0 || length >= out_bytes)
            return false;
        memcpy(out, value, length);
        out[length] = '\0';
        return true;
    }
    return false;
}
