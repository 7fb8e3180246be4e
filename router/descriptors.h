/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The embedded descriptor set, and an index of the files and symbols in it, for reflection.
 *
 * The bytes are those that protoc wrote at build time (a FileDescriptorSet); the index is made once,
 * by a small reader of the few fields that it needs, since protobuf-c has no reflection of its own.
 * owns: the index; the bytes are static. thread: immutable after new.
 */
#ifndef MED_ROUTER_DESCRIPTORS_H
#define MED_ROUTER_DESCRIPTORS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The set that was built in (generated: descriptors_data.c). */
extern const unsigned char MED_DESCRIPTOR_SET_DATA[];
extern const size_t MED_DESCRIPTOR_SET_BYTES;

struct med_span {
    const unsigned char *bytes;
    size_t count;
};

enum {
    MED_DESCRIPTOR_FILES_MAX = 32
};

struct med_descriptor_file {
    struct med_span descriptor; /* a FileDescriptorProto */
    char *name;
    uint32_t depends; /* bit i: imports files[i], directly or not; its own bit is set */
};

struct med_descriptors {
    struct med_descriptor_file files[MED_DESCRIPTOR_FILES_MAX];
    size_t file_count;
    struct med_descriptor_symbol {
        char *name; /* "medley.v1.Inference.Generate" */
        size_t file;
        bool is_service, is_message;
    } * symbols;
    size_t symbol_count, symbol_capacity;
};

/* errors: MED_E_FORMAT (not a FileDescriptorSet, or more than the maximum of files), MED_E_NOMEM. */
int med_descriptors_read(const void *bytes, size_t count,
                         struct med_descriptors *ret_descriptors) MED_MUST_CHECK;
void med_descriptors_release(struct med_descriptors *descriptors);

/* Index of the file, or -1. */
int med_descriptors_find_file(const struct med_descriptors *d, const char *name);
/* The symbol, or NULL. */
const struct med_descriptor_symbol *med_descriptors_find_symbol(const struct med_descriptors *d,
                                                                const char *name);

#endif
