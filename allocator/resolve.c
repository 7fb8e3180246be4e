/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds files that ship.  Nothing is cached; a planning run looks up a handful of names.
 * thread: main.
 */
#include "allocator/resolve.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "base/os.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    PATH_BYTES_MAX = 4096,
    FILES_MAX = 4096
};

static const char *const words[] = {"workload", "profile or folder of profiles", "catalogue"};

static bool exists(const char *path)
{
    struct stat facts;
    return stat(path, &facts) == 0;
}

bool med_resolve_is_folder(const char *path)
{
    struct stat facts;
    return stat(path, &facts) == 0 && S_ISDIR(facts.st_mode);
}

/* base/middle/name with an ending, if it exists; NULL otherwise (memory too). */
static char *try_path(const char *base, const char *middle, const char *name, const char *ending)
{
    struct med_buf path;
    med_buf_init(&path, PATH_BYTES_MAX);
    if (med_buf_printf(&path, "%s/%s%s%s", base, middle, name, ending) < 0 || !exists(path.data)) {
        med_buf_release(&path);
        return NULL;
    }
    return med_buf_take(&path);
}

static char *find_data_dir(void)
{
    char dir[PATH_BYTES_MAX];
    if (med_os_program_dir(dir, sizeof dir) < 0)
        return NULL;
    char *share = try_path(dir, "../share/medley/", "profiles", "");
    if (share != NULL) {
        med_free(share);
        return try_path(dir, "../share/medley", "", "");
    }
    while (dir[0] != '\0') {
        char *found = try_path(dir, "profiles/", "published", "");
        if (found != NULL) {
            med_free(found);
            return med_strdup(dir);
        }
        char *slash = strrchr(dir, '/');
        if (slash == NULL)
            break;
        *slash = '\0';
    }
    return NULL;
}

static char *find_shipped(enum med_resolve_what what, const char *name, const char *dir)
{
    switch (what) {
    case MED_RESOLVE_WORKLOAD:
        return try_path(dir, "allocator/workloads/", name, ".json");
    case MED_RESOLVE_CATALOGUE:
        return try_path(dir, "profiles/catalogues/", name, ".json");
    case MED_RESOLVE_PROFILES:
        break;
    }
    char *path = try_path(dir, "profiles/published/", name, ".json");
    if (path == NULL)
        path = try_path(dir, "profiles/recorded/", name, ".json");
    return path != NULL ? path : try_path(dir, "profiles/", name, "");
}

int med_resolve(enum med_resolve_what what, const char *name, const char *data_dir, char **ret_path,
                struct med_err *err)
{
    if (strcmp(name, "-") == 0 || exists(name)) {
        *ret_path = med_strdup(name);
        return *ret_path != NULL ? 0 : med_err_set(err, MED_E_NOMEM, "memory is exhausted");
    }
    char *dir = data_dir != NULL ? med_strdup(data_dir) : find_data_dir();
    char *path = NULL;
    if (dir != NULL && strchr(name, '/') == NULL)
        path = find_shipped(what, name, dir);
    int rc = 0;
    if (path == NULL) {
        rc = med_err_set(err, MED_E_INVALID,
                         "%s: there is no such file, and no %s of that name ships in %s", name,
                         words[what],
                         dir != NULL ? dir : "a data folder (none was found; give --data-dir)");
    } else {
        *ret_path = path;
    }
    med_free(dir);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    const char *const *x = a;
    const char *const *y = b;
    return strcmp(*x, *y);
}

static bool is_json(const char *name)
{
    size_t bytes = strlen(name);
    return name[0] != '.' && bytes > 5 && strcmp(name + bytes - 5, ".json") == 0;
}

static int read_folder(DIR *stream, const char *folder, char **paths, size_t *ret_count)
{
    const struct dirent *entry;
    while ((entry = readdir(stream)) != NULL) {
        if (!is_json(entry->d_name))
            continue;
        if (*ret_count == FILES_MAX)
            return MED_E_LIMIT;
        char *path = try_path(folder, "", entry->d_name, "");
        if (path == NULL)
            return MED_E_NOMEM;
        paths[(*ret_count)++] = path;
    }
    return 0;
}

int med_resolve_list(const char *folder, char ***ret_paths, size_t *ret_count, struct med_err *err)
{
    DIR *stream = opendir(folder);
    if (stream == NULL) {
        return med_err_set(err, med_err_input_code(errno), "%s: cannot open the folder: %s", folder,
                           med_os_errno_text(-errno));
    }
    size_t count = 0;
    char **paths = med_calloc(FILES_MAX, sizeof *paths);
    int rc = paths != NULL ? read_folder(stream, folder, paths, &count) : MED_E_NOMEM;
    (void)closedir(stream); /* read to the end: nothing can be lost */
    if (rc == 0 && count == 0) {
        rc = med_err_set(err, MED_E_INVALID, "%s: found no *.json file in this folder", folder);
    } else if (rc < 0) {
        (void)med_err_set(err, rc, "%s: %s", folder, med_err_text(rc));
    }
    if (rc < 0) {
        for (size_t n = 0; n < count; n++)
            med_free(paths[n]);
        med_free(paths);
        return rc;
    }
    qsort(paths, count, sizeof *paths, by_name);
    *ret_paths = paths;
    *ret_count = count;
    return 0;
}
