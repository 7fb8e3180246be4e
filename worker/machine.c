/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory of the machine and of this process's control group (see machine.h).
 *
 * A limit of any group on the way from this process's own to the root holds, so all are looked at,
 * of the unified hierarchy and of version 1's memory controller.  In a container the path that the
 * kernel names may lie outside of what is mounted; its own limit is then at the mount's root, which
 * is always looked at.
 * thread: any.  Changes nothing.
 */
#include "worker/machine.h"

#include "base/buf.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PATH_BYTES = 4096,
    FILE_BYTES = 64 << 10
};

/* What the files of a hierarchy are called. */
struct hierarchy {
    const char *mount, *limit, *usage, *reclaimable; /* the last is a key of memory.stat */
};

static const struct hierarchy unified = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                         "inactive_file "};
static const struct hierarchy version_1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                           "memory.usage_in_bytes", "total_inactive_file "};

/* The file as text; false: there is none. `text` is kept empty then. */
static bool read_text(const char *root, const char *folder, const char *name, struct med_buf *text)
{
    char path[PATH_BYTES];
    med_buf_clear(text);
    int length = snprintf(path, sizeof path, "%s%s/%s", root, folder, name);
    if (length < 0 || length >= PATH_BYTES)
        return false;
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    char line[512];
    bool good = true;
    while (good && fgets(line, sizeof line, file))
        good = med_buf_append_str(text, line) >= 0;
    (void)fclose(file);
    if (!good)
        med_buf_clear(text);
    return good && med_buf_append(text, "", 1) >= 0;
}

/* The number behind `key` at the beginning of a line ("" is the first line); -1: none ("max"). */
static int64_t number_of(const struct med_buf *text, const char *key)
{
    for (const char *line = text->length > 0 ? text->data : NULL; line;) {
        if (strncmp(line, key, strlen(key)) == 0) {
            char *end;
            const char *begin = line + strlen(key);
            long long value = strtoll(begin, &end, 10);
            return end == begin || value < 0 ? -1 : value;
        }
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    return -1;
}

static int64_t file_number(const char *root, const char *folder, const char *name, const char *key,
                           struct med_buf *text)
{
    return read_text(root, folder, name, text) ? number_of(text, key) : -1;
}

/* Lowers `memory` to what one group allows. */
static void heed_group(const char *root, const struct hierarchy *h, const char *group,
                       struct med_buf *text, struct med_machine_memory *memory)
{
    char folder[PATH_BYTES];
    (void)snprintf(folder, sizeof folder, "%s%s", h->mount, group);
    int64_t limit = file_number(root, folder, h->limit, "", text);
    if (limit < 0)
        return;
    int64_t usage = file_number(root, folder, h->usage, "", text);
    int64_t reclaimable = file_number(root, folder, "memory.stat", h->reclaimable, text);
    int64_t left = limit - (usage > 0 ? usage : 0) + (reclaimable > 0 ? reclaimable : 0);
    if (limit < memory->total_bytes)
        memory->total_bytes = limit;
    if (left < memory->available_bytes)
        memory->available_bytes = left > 0 ? left : 0;
}

/* Every group from `path` up to the root. */
static void heed_groups(const char *root, const struct hierarchy *h, const char *path,
                        struct med_buf *text, struct med_machine_memory *memory)
{
    char group[PATH_BYTES];
    (void)snprintf(group, sizeof group, "%.*s", (int)strcspn(path, "\n"), path);
    for (char *slash = strrchr(group, '/'); slash; slash = strrchr(group, '/')) {
        heed_group(root, h, strcmp(group, "/") == 0 ? "" : group, text, memory);
        *slash = '\0';
    }
    heed_group(root, h, "", text, memory);
}

/* A line of /proc/self/cgroup is "ID:CONTROLLERS:PATH"; the unified hierarchy names none. */
static void heed_line(const char *root, const char *line, struct med_buf *text,
                      struct med_machine_memory *memory)
{
    const char *controllers = strchr(line, ':');
    const char *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!path)
        return;
    controllers++;
    size_t bytes = (size_t)(path - controllers);
    if (bytes == 0)
        heed_groups(root, &unified, path + 1, text, memory);
    if (bytes == 6 && memcmp(controllers, "memory", 6) == 0)
        heed_groups(root, &version_1, path + 1, text, memory);
}

int med_machine_memory_read(const char *root, struct med_machine_memory *ret_memory,
                            struct med_err *err)
{
    struct med_buf text, lines;
    med_buf_init(&text, FILE_BYTES);
    med_buf_init(&lines, FILE_BYTES);
    bool found = read_text(root, "/proc", "meminfo", &text);
    int64_t total_kib = found ? number_of(&text, "MemTotal:") : -1;
    int64_t available_kib = found ? number_of(&text, "MemAvailable:") : -1;
    if (total_kib > 0) {
        struct med_machine_memory memory = {
            .total_bytes = total_kib * 1024,
            .available_bytes = (available_kib >= 0 ? available_kib : total_kib) * 1024};
        if (read_text(root, "/proc/self", "cgroup", &lines)) {
            for (const char *line = lines.data; line;) {
                heed_line(root, line, &text, &memory);
                line = strchr(line, '\n');
                line = line ? line + 1 : NULL;
            }
        }
        if (memory.available_bytes > memory.total_bytes)
            memory.available_bytes = memory.total_bytes;
        *ret_memory = memory;
    }
    med_buf_release(&text);
    med_buf_release(&lines);
    return total_kib > 0
               ? 0
               : med_err_set(err, MED_E_IO, "%s/proc/meminfo does not say how much memory there is",
                             root);
}
