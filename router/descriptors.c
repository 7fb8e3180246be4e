/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Index of a FileDescriptorSet, see descriptors.h.
 *
 * Reads the wire format directly (a tag, then a varint, a fixed number or a length and bytes) and
 * looks at names only.  Field numbers are those of google/protobuf/descriptor.proto.
 * Nested messages are followed with a bounded depth.  Runs at start-up. It checks no semantics:
 * protoc has done that.
 */
#include "router/descriptors.h"

#include "base/alloc.h"
#include "base/buf.h"

#include <string.h>

enum {
    SET_FILE = 1,
    FILE_NAME = 1,
    FILE_PACKAGE = 2,
    FILE_DEPENDENCY = 3,
    FILE_MESSAGE = 4,
    FILE_ENUM = 5,
    FILE_SERVICE = 6,
    MESSAGE_NAME = 1,
    MESSAGE_FIELD = 2,
    MESSAGE_NESTED = 3,
    MESSAGE_ENUM = 4,
    ENUM_NAME = 1,
    ENUM_VALUE = 2,
    SERVICE_NAME = 1,
    SERVICE_METHOD = 2,
    MEMBER_NAME = 1, // of fields, enum values and methods
    DEPTH_MAX = 16,
    NAME_BYTES_MAX = 512,
};

struct field {
    uint32_t number;
    struct med_span value; // of length-delimited fields; empty for others
};

static bool read_varint(struct med_span *in, uint64_t *ret_value)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (in->count == 0)
            return false;
        unsigned char byte = in->bytes[0];
        in->bytes++;
        in->count--;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            *ret_value = value;
            return true;
        }
    }
    return false;
}

static bool take(struct med_span *in, uint64_t count, struct med_span *ret_taken)
{
    if (count > in->count)
        return false;
    *ret_taken = (struct med_span){in->bytes, (size_t)count};
    in->bytes += count;
    in->count -= (size_t)count;
    return true;
}

/* 1: a field; 0: the end; < 0: not a message. */
static int next_field(struct med_span *in, struct field *ret_field)
{
    uint64_t tag = 0;
    uint64_t number = 0;
    struct med_span skipped;
    if (in->count == 0)
        return 0;
    if (!read_varint(in, &tag))
        return MED_E_FORMAT;
    *ret_field = (struct field){.number = (uint32_t)(tag >> 3)};
    switch (tag & 7) {
    case 0:
        return read_varint(in, &number) ? 1 : MED_E_FORMAT;
    case 1:
        return take(in, 8, &skipped) ? 1 : MED_E_FORMAT;
    case 2:
        return read_varint(in, &number) && take(in, number, &ret_field->value) ? 1 : MED_E_FORMAT;
    case 5:
        return take(in, 4, &skipped) ? 1 : MED_E_FORMAT;
    default:
        return MED_E_FORMAT;
    }
}

/* The last value of a string field; empty if there is none. */
static int find_string(struct med_span in, uint32_t number, struct med_span *ret_value)
{
    static const unsigned char nothing[1];
    struct field field;
    int rc;
    *ret_value = (struct med_span){.bytes = nothing};
    while ((rc = next_field(&in, &field)) > 0) {
        if (field.number == number)
            *ret_value = field.value;
    }
    return rc;
}

/* scope + "." + name, as a new string in ret_name. */
static int join(const char *scope, struct med_span name, char **ret_name)
{
    struct med_buf buf;
    med_buf_init(&buf, NAME_BYTES_MAX);
    int rc = scope[0] != '\0' ? med_buf_printf(&buf, "%s.", scope) : 0;
    if (rc == 0)
        rc = med_buf_append(&buf, name.bytes, name.count);
    if (rc == 0) {
        *ret_name = med_buf_take(&buf);
        if (*ret_name == NULL)
            rc = MED_E_NOMEM;
    }
    med_buf_release(&buf);
    return rc == MED_E_LIMIT ? MED_E_FORMAT : rc;
}

/* Adds the symbol `scope.name`, name being string field 1 of `in`; *ret_name is lent. */
static int add_symbol(struct med_descriptors *d, const char *scope, struct med_span in,
                      const struct med_descriptor_symbol *kind, const char **ret_name)
{
    struct med_span name;
    int rc = find_string(in, MEMBER_NAME, &name);
    if (rc < 0)
        return rc;
    if (d->symbol_count == d->symbol_capacity) {
        size_t capacity = d->symbol_capacity > 0 ? d->symbol_capacity * 2 : 64;
        void *grown = med_realloc_array(d->symbols, capacity, sizeof(*d->symbols));
        if (grown == NULL)
            return MED_E_NOMEM;
        d->symbols = grown;
        d->symbol_capacity = capacity;
    }
    struct med_descriptor_symbol *symbol = &d->symbols[d->symbol_count];
    *symbol = *kind;
    rc = join(scope, name, &symbol->name);
    if (rc < 0)
        return rc;
    d->symbol_count++;
    *ret_name = symbol->name;
    return 0;
}

/* The members of a kind (fields, values, methods) as symbols of their own. */
static int add_members(struct med_descriptors *d, const char *scope, struct med_span in,
                       uint32_t number, size_t file)
{
    struct field field;
    const char *name;
    int rc;
    while ((rc = next_field(&in, &field)) > 0) {
        if (field.number != number)
            continue;
        rc =
            add_symbol(d, scope, field.value, &(struct med_descriptor_symbol){.file = file}, &name);
        if (rc < 0)
            return rc;
    }
    return rc;
}

/* Values of an enum are siblings of the enum: they live in its scope. */
static int add_enum(struct med_descriptors *d, const char *scope, struct med_span in, size_t file)
{
    const char *name;
    int rc = add_symbol(d, scope, in, &(struct med_descriptor_symbol){.file = file}, &name);
    return rc < 0 ? rc : add_members(d, scope, in, ENUM_VALUE, file);
}

static int add_service(struct med_descriptors *d, const char *scope, struct med_span in,
                       size_t file)
{
    const char *name;
    struct med_descriptor_symbol kind = {.file = file, .is_service = true};
    int rc = add_symbol(d, scope, in, &kind, &name);
    return rc < 0 ? rc : add_members(d, name, in, SERVICE_METHOD, file);
}

/* Bounded by DEPTH_MAX: the input is our own compiler's. */
static int add_message(struct med_descriptors *d, const char *scope, struct med_span in,
                       size_t file, int depth)
{
    const char *name;
    struct med_descriptor_symbol kind = {.file = file, .is_message = true};
    if (depth > DEPTH_MAX)
        return MED_E_FORMAT;
    int rc = add_symbol(d, scope, in, &kind, &name);
    if (rc == 0)
        rc = add_members(d, name, in, MESSAGE_FIELD, file);
    struct field field;
    struct med_span rest = in;
    while (rc >= 0 && (rc = next_field(&rest, &field)) > 0) {
        if (field.number == MESSAGE_NESTED) {
            rc = add_message(d, name, field.value, file, depth + 1);
        } else if (field.number == MESSAGE_ENUM) {
            rc = add_enum(d, name, field.value, file);
        }
    }
    return rc;
}

static int add_file(struct med_descriptors *d, struct med_span in)
{
    struct med_span name = {0};
    struct med_span package = {0};
    if (d->file_count == MED_DESCRIPTOR_FILES_MAX)
        return MED_E_FORMAT;
    size_t index = d->file_count;
    struct med_descriptor_file *file = &d->files[index];
    int rc = find_string(in, FILE_NAME, &name);
    if (rc == 0)
        rc = find_string(in, FILE_PACKAGE, &package);
    if (rc < 0)
        return rc;
    *file = (struct med_descriptor_file){.descriptor = in};
    file->depends = UINT32_C(1) << index;
    file->name = med_strndup((const char *)name.bytes, name.count);
    char *scope = med_strndup((const char *)package.bytes, package.count);
    rc = file->name == NULL || scope == NULL ? MED_E_NOMEM : 0;
    d->file_count++;
    struct field field;
    struct med_span rest = in;
    while (rc >= 0 && (rc = next_field(&rest, &field)) > 0) {
        if (field.number == FILE_MESSAGE) {
            rc = add_message(d, scope, field.value, index, 0);
        } else if (field.number == FILE_ENUM) {
            rc = add_enum(d, scope, field.value, index);
        } else if (field.number == FILE_SERVICE) {
            rc = add_service(d, scope, field.value, index);
        }
    }
    med_free(scope);
    return rc;
}

/* Direct imports. A set lists a file after those it imports, so each of them is complete. */
static int add_dependencies(struct med_descriptors *d, size_t index)
{
    struct med_span in = d->files[index].descriptor;
    struct field field;
    int rc;
    while ((rc = next_field(&in, &field)) > 0) {
        if (field.number != FILE_DEPENDENCY)
            continue;
        for (size_t i = 0; i < index; i++) {
            if (strlen(d->files[i].name) == field.value.count &&
                memcmp(d->files[i].name, field.value.bytes, field.value.count) == 0)
                d->files[index].depends |= d->files[i].depends;
        }
    }
    return rc;
}

int med_descriptors_read(const void *bytes, size_t count, struct med_descriptors *ret_descriptors)
{
    struct med_descriptors d = {0};
    struct med_span in = {bytes, count};
    struct field field;
    int rc;
    while ((rc = next_field(&in, &field)) > 0) {
        if (field.number != SET_FILE)
            continue;
        rc = add_file(&d, field.value);
        if (rc == 0)
            rc = add_dependencies(&d, d.file_count - 1);
        if (rc < 0)
            break;
    }
    if (rc < 0) {
        med_descriptors_release(&d);
        return rc;
    }
    *ret_descriptors = d;
    return 0;
}

void med_descriptors_release(struct med_descriptors *descriptors)
{
    for (size_t i = 0; i < descriptors->file_count; i++)
        med_free(descriptors->files[i].name);
    for (size_t i = 0; i < descriptors->symbol_count; i++)
        med_free(descriptors->symbols[i].name);
    med_free(descriptors->symbols);
    *descriptors = (struct med_descriptors){0};
}

int med_descriptors_find_file(const struct med_descriptors *d, const char *name)
{
    for (size_t i = 0; i < d->file_count; i++) {
        if (strcmp(d->files[i].name, name) == 0)
            return (int)i;
    }
    return -1;
}

const struct med_descriptor_symbol *med_descriptors_find_symbol(const struct med_descriptors *d,
                                                                const char *name)
{
    for (size_t i = 0; i < d->symbol_count; i++) {
        if (strcmp(d->symbols[i].name, name) == 0)
            return &d->symbols[i];
    }
    return NULL;
}
