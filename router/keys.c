/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Secrets from a file, see keys.h.
 *
 * Each secret stands in a slot of its own that is as long as the longest may be, filled with NUL.
 * What is to be compared is put into such a slot too, and the whole slots are compared, all of them.
 * Pure but for reading the file; nothing is logged here.
 */
#include "router/keys.h"

#include "base/alloc.h"
#include "base/buf.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum {
    FILE_BYTES_MAX = 1 << 20,
    SLOT_BYTES = MED_KEY_BYTES_MAX + 1, // with a NUL, so that a slot is a string
};

struct med_keys {
    const char *option;
    char *path;           // owned
    unsigned char *slots; // [count][SLOT_BYTES]
    size_t count;
    bool exposed;
};

static void wipe(void *memory, size_t bytes)
{
    volatile unsigned char *p = memory;
    for (size_t i = 0; i < bytes; i++)
        p[i] = 0;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* Puts one line's secret into its slot. 0: the line has none; 1: done. */
static int take_line(const struct med_keys *keys, const char *line, size_t bytes, size_t number,
                     unsigned char *slot, struct med_err *err)
{
    while (bytes > 0 && is_blank(line[0])) {
        line++;
        bytes--;
    }
    while (bytes > 0 && is_blank(line[bytes - 1]))
        bytes--;
    if (bytes == 0 || line[0] == '#')
        return 0;
    for (size_t i = 0; i < bytes; i++) {
        if (line[i] < 0x21 || line[i] > 0x7e) {
            return med_err_set(err, MED_E_INVALID,
                               "%s %s: line %zu: found a byte 0x%02x, expected printable ASCII "
                               "without blanks",
                               keys->option, keys->path, number, (unsigned)(unsigned char)line[i]);
        }
    }
    if (bytes < MED_KEY_BYTES_MIN || bytes > MED_KEY_BYTES_MAX) {
        return med_err_set(err, MED_E_INVALID,
                           "%s %s: line %zu: found %zu characters, expected %d to %d", keys->option,
                           keys->path, number, bytes, MED_KEY_BYTES_MIN, MED_KEY_BYTES_MAX);
    }
    memcpy(slot, line, bytes);
    return 1;
}

static int take_lines(const struct med_keys *keys, const struct med_buf *text, unsigned char *slots,
                      size_t *ret_count, struct med_err *err)
{
    size_t count = 0;
    size_t number = 1;
    for (size_t at = 0; at < text->length; number++) {
        const char *line = text->data + at;
        const char *end = memchr(line, '\n', text->length - at);
        size_t bytes = end != NULL ? (size_t)(end - line) : text->length - at;
        unsigned char slot[SLOT_BYTES] = {0};
        int rc = take_line(keys, line, bytes, number, slot, err);
        if (rc > 0 && count == MED_KEYS_MAX) {
            rc = med_err_set(err, MED_E_INVALID, "%s %s: line %zu: expected at most %d secrets",
                             keys->option, keys->path, number, MED_KEYS_MAX);
        }
        if (rc > 0)
            memcpy(slots + count++ * SLOT_BYTES, slot, SLOT_BYTES);
        wipe(slot, sizeof(slot));
        if (rc < 0)
            return rc;
        at += bytes + 1;
    }
    if (count == 0) {
        return med_err_set(err, MED_E_INVALID, "%s %s: has no secret, expected one per line",
                           keys->option, keys->path);
    }
    *ret_count = count;
    return 0;
}

static size_t lines_of(const struct med_buf *text)
{
    size_t lines = 1;
    for (size_t i = 0; i < text->length; i++)
        lines += text->data[i] == '\n';
    return lines < MED_KEYS_MAX ? lines : MED_KEYS_MAX;
}

int med_keys_reload(struct med_keys *keys, struct med_err *err)
{
    struct med_buf text;
    struct stat status;
    unsigned char *slots = NULL;
    size_t slot_count = 0;
    size_t count = 0;
    med_buf_init(&text, FILE_BYTES_MAX);
    int rc = med_buf_read_file(&text, keys->path, err);
    if (rc < 0) {
        (void)med_err_prefix(err, "%s", keys->option);
        goto out;
    }
    slot_count = lines_of(&text);
    slots = med_calloc(slot_count, SLOT_BYTES);
    rc = slots == NULL ? med_err_set(err, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM))
                       : take_lines(keys, &text, slots, &count, err);
    if (rc < 0)
        goto out;
    unsigned char *old = keys->slots;
    size_t old_count = keys->count;
    keys->slots = slots;
    keys->count = count;
    keys->exposed = stat(keys->path, &status) == 0 && (status.st_mode & S_IROTH) != 0;
    slots = old; // to be wiped below
    slot_count = old_count;
out:
    if (slots != NULL)
        wipe(slots, slot_count * SLOT_BYTES);
    med_free(slots);
    if (text.data != NULL)
        wipe(text.data, text.capacity);
    med_buf_release(&text);
    return rc;
}

int med_keys_new(const char *option, const char *path, struct med_keys **ret_keys,
                 struct med_err *err)
{
    struct med_keys *keys = med_calloc(1, sizeof(*keys));
    char *copy = med_strdup(path);
    if (keys == NULL || copy == NULL) {
        med_free(keys);
        med_free(copy);
        return med_err_set(err, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM));
    }
    keys->option = option;
    keys->path = copy;
    int rc = med_keys_reload(keys, err);
    if (rc < 0) {
        med_keys_free(keys);
        return rc;
    }
    *ret_keys = keys;
    return 0;
}

void med_keys_free(struct med_keys *keys)
{
    if (keys == NULL)
        return;
    if (keys->slots != NULL)
        wipe(keys->slots, keys->count * SLOT_BYTES);
    med_free(keys->slots);
    med_free(keys->path);
    med_free(keys);
}

size_t med_keys_count(const struct med_keys *keys)
{
    return keys->count;
}

bool med_keys_is_exposed(const struct med_keys *keys)
{
    return keys->exposed;
}

const char *med_keys_first(const struct med_keys *keys)
{
    return (const char *)keys->slots;
}

bool med_keys_match(const struct med_keys *keys, const char *secret, size_t bytes)
{
    unsigned char slot[SLOT_BYTES] = {0};
    unsigned matches = 0;
    if (keys == NULL)
        return true;
    /* A length is no secret: what cannot be one need not be compared; nor can what has a NUL, which
     * is what slots are filled with. */
    if (secret == NULL || bytes < MED_KEY_BYTES_MIN || bytes > MED_KEY_BYTES_MAX ||
        memchr(secret, '\0', bytes) != NULL)
        return false;
    memcpy(slot, secret, bytes);
    for (size_t i = 0; i < keys->count; i++) {
        const unsigned char *own = keys->slots + i * SLOT_BYTES;
        uint32_t differ = 0;
        for (size_t j = 0; j < SLOT_BYTES; j++)
            differ |= (uint32_t)(own[j] ^ slot[j]);
        matches |= (differ - 1) >> 31; // 1 for differ 0: it is at most 255
    }
    wipe(slot, sizeof(slot));
    return matches != 0;
}

bool med_keys_match_bearer(const struct med_keys *keys, const char *value, size_t bytes)
{
    static const char scheme[] = "Bearer ";
    enum {
        SCHEME_BYTES = sizeof(scheme) - 1
    };
    if (keys == NULL)
        return true;
    if (value == NULL || bytes < SCHEME_BYTES || strncasecmp(value, scheme, SCHEME_BYTES) != 0)
        return false;
    size_t at = SCHEME_BYTES;
    while (at < bytes && value[at] == ' ')
        at++;
    while (bytes > at && is_blank(value[bytes - 1]))
        bytes--;
    return med_keys_match(keys, value + at, bytes - at);
}
