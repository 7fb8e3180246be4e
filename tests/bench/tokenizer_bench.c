/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast one thread encodes: for tokenizer_bench.py, which compares.
 *
 *     tokenizer_bench DIR FILE ROUNDS
 *
 * FILE holds texts, each behind its length (32 bits, of this machine's byte order).  Each round encodes
 * all of them and prints the seconds of processor time that took, the number of ids and a sum over them.
 * thread: main.
 */
#include "base/alloc.h"
#include "base/buf.h"
#include "router/tokenizer/tokenizer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    FILE_BYTES_MAX = 1 << 30
};

static int fail(const char *what)
{
    (void)fprintf(stderr, "tokenizer_bench: %s\n", what);
    return 1;
}

static double cpu_s(void)
{
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now); // every Linux has this clock
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int run(const struct med_tokenizer *tokenizer, struct med_tokenizer_scratch *scratch,
               const struct med_buf *texts)
{
    struct med_token_ids ids = {0};
    struct med_err err = {0};
    struct med_encode_options options = {.parse_special = true};
    uint64_t count = 0;
    uint64_t sum = 0;
    double start_s = cpu_s();
    for (size_t at = 0; at + sizeof(uint32_t) <= texts->length;) {
        uint32_t bytes;
        memcpy(&bytes, texts->data + at, sizeof bytes);
        at += sizeof bytes;
        ids.count = 0;
        if (bytes > texts->length - at || med_tokenizer_encode(tokenizer, scratch, texts->data + at,
                                                               bytes, &options, &ids, &err) < 0)
            return fail(err.text);
        at += bytes;
        count += ids.count;
        for (size_t i = 0; i < ids.count; i++)
            sum = sum * 31 + ids.ids[i];
    }
    (void)printf("%.6f %" PRIu64 " %" PRIu64 "\n", cpu_s() - start_s, count, sum);
    med_free(ids.ids);
    return 0;
}

int main(int argc, char **argv)
{
    struct med_tokenizer *tokenizer = NULL;
    struct med_tokenizer_scratch *scratch = NULL;
    struct med_err err = {0};
    struct med_buf texts;
    if (argc != 4)
        return fail("usage: tokenizer_bench DIR FILE ROUNDS");
    long rounds = strtol(argv[3], NULL, 10);
    med_buf_init(&texts, FILE_BYTES_MAX);
    int rc = med_tokenizer_load(argv[1], &tokenizer, &err);
    if (rc == 0)
        rc = med_buf_read_file(&texts, argv[2], &err);
    if (rc == 0)
        rc = med_tokenizer_scratch_new(tokenizer, &scratch);
    if (rc < 0)
        rc = fail(err.text);
    for (long i = 0; rc == 0 && i < rounds; i++)
        rc = run(tokenizer, scratch, &texts);
    med_tokenizer_scratch_free(scratch);
    med_tokenizer_free(tokenizer);
    med_buf_release(&texts);
    return rc;
}
