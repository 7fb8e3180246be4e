/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Feeds each file of a directory to a fuzz target, so that the corpus is a test on every compiler.
 * A directory without files is a failure: a test must test something.  thread: main.
 */
#include "base/buf.h"
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>

enum {
    FILE_MAX_BYTES = 16 << 20
};

static int replay_file(const char *path)
{
    struct med_buf buf;
    struct med_err err = {0};
    med_buf_init(&buf, FILE_MAX_BYTES);
    int rc = med_buf_read_file(&buf, path, &err);
    if (rc == 0) {
        (void)LLVMFuzzerTestOneInput((const uint8_t *)(buf.data ? buf.data : ""), buf.length);
    } else {
        (void)fprintf(stderr, "%s\n", err.text);
    }
    med_buf_release(&buf);
    return rc;
}

int main(int argc, char **argv)
{
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    if (!dir) {
        (void)fprintf(stderr, "usage: fuzz_TARGET DIRECTORY\n");
        return 2;
    }
    int failures = 0;
    int count = 0;
    for (const struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        char path[4096];
        if (entry->d_name[0] == '.') {
            continue;
        }
        (void)snprintf(path, sizeof path, "%s/%s", argv[1], entry->d_name);
        failures += replay_file(path) < 0;
        count++;
    }
    (void)closedir(dir);
    (void)printf("%d files, %d unreadable\n", count, failures);
    return failures || count == 0 ? 1 : 0;
}
