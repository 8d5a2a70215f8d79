#include "base/arena.h"

#include "base/mem.h"

#include <stdalign.h>
#include <stdlib.h>

#define BLOCK_SIZE 4096u

struct arena_block {
    struct arena_block *next;
    alignas(max_align_t) char bytes[];
};

void arena_init(struct arena *arena)
{
    *arena = (struct arena){0};
}

void arena_done(struct arena *arena)
{
    while (arena->blocks) {
        struct arena_block *next = arena->blocks->next;
        free(arena->blocks);
        arena->blocks = next;
    }
    arena_init(arena);
}

static void *new_block(struct arena *arena, size_t size)
{
    struct arena_block *block = mem_alloc(sizeof(*block) + size);
    block->next = arena->blocks;
    arena->blocks = block;
    return block->bytes;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    size = (size + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);
    if (size > BLOCK_SIZE / 4 && size > (size_t)(arena->end - arena->at))
        return new_block(arena, size); /* a large one gets a block of its own, the current stays */
    if (size > (size_t)(arena->end - arena->at)) {
        arena->at = new_block(arena, BLOCK_SIZE);
        arena->end = arena->at + BLOCK_SIZE;
    }
    void *ptr = arena->at;
    arena->at += size;
    return ptr;
}

struct slice arena_copy(struct arena *arena, struct slice bytes)
{
    return slice_of(arena_strdup(arena, bytes), bytes.len);
}

char *arena_strdup(struct arena *arena, struct slice bytes)
{
    char *copy = arena_alloc(arena, bytes.len + 1);
    if (bytes.len)
        memcpy(copy, bytes.ptr, bytes.len);
    copy[bytes.len] = '\0';
    return copy;
}
