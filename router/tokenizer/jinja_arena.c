/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory of a template's program and of one render: chunks, released all at once.
 *
 * A chunk is CHUNK_BYTES, or what one larger request needs.  The sum over all chunks has a maximum,
 * so a template that builds ever longer strings ends with MED_E_LIMIT.
 * thread: the owner's.  Does not free single objects.
 */
#include "base/alloc.h"
#include "router/tokenizer/jinja.h"

#include <stdalign.h>
#include <string.h>

enum {
    CHUNK_BYTES = 16 << 10
};

struct med_jinja_chunk {
    struct med_jinja_chunk *older;
    size_t used, capacity;
    alignas(max_align_t) char data[];
};

void med_jinja_arena_init(struct med_jinja_arena *arena, size_t max_bytes)
{
    *arena = (struct med_jinja_arena){.max_bytes = max_bytes};
}

void med_jinja_arena_release(struct med_jinja_arena *arena)
{
    struct med_jinja_chunk *chunk = arena->newest;
    while (chunk) {
        struct med_jinja_chunk *older = chunk->older;
        med_free(chunk);
        chunk = older;
    }
    *arena = (struct med_jinja_arena){.max_bytes = arena->max_bytes};
}

static char *take(struct med_jinja_arena *arena, size_t bytes, size_t alignment)
{
    struct med_jinja_chunk *chunk = arena->newest;
    if (chunk) {
        size_t start = (chunk->used + alignment - 1) / alignment * alignment;
        if (start <= chunk->capacity && bytes <= chunk->capacity - start) {
            chunk->used = start + bytes;
            return chunk->data + start;
        }
    }
    size_t capacity = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
    if (bytes > arena->max_bytes || capacity > arena->max_bytes - arena->bytes) {
        arena->rc = MED_E_LIMIT;
        return NULL;
    }
    chunk = med_alloc(sizeof(*chunk) + capacity);
    if (!chunk) {
        arena->rc = MED_E_NOMEM;
        return NULL;
    }
    *chunk = (struct med_jinja_chunk){.older = arena->newest, .used = bytes, .capacity = capacity};
    arena->newest = chunk;
    arena->bytes += capacity;
    return chunk->data;
}

void *med_jinja_arena_alloc(struct med_jinja_arena *arena, size_t count, size_t bytes)
{
    if (bytes > 0 && count > SIZE_MAX / bytes) {
        arena->rc = MED_E_LIMIT;
        return NULL;
    }
    char *p = take(arena, count * bytes, alignof(max_align_t));
    return p ? memset(p, 0, count * bytes) : NULL;
}

char *med_jinja_arena_text(struct med_jinja_arena *arena, size_t bytes)
{
    return take(arena, bytes, 1);
}

bool med_jinja_arena_extend(struct med_jinja_arena *arena, const char *text, size_t bytes,
                            size_t more_bytes)
{
    struct med_jinja_chunk *chunk = arena->newest;
    if (!chunk || bytes == 0 || text + bytes != chunk->data + chunk->used ||
        more_bytes > chunk->capacity - chunk->used) {
        return false;
    }
    chunk->used += more_bytes;
    return true;
}
