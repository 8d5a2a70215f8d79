/* Memory that belongs to one unit of work and is freed as a whole. */
#ifndef HIE_BASE_ARENA_H
#define HIE_BASE_ARENA_H

#include "base/bytes.h"

struct arena_block;

struct arena {
    struct arena_block *blocks; /* newest first */
    char *at, *end;
};

void arena_init(struct arena *arena);
void arena_done(struct arena *arena);                /* frees everything */
void *arena_alloc(struct arena *arena, size_t size); /* zeroed, aligned for any type */
struct slice arena_copy(struct arena *arena, struct slice bytes);
char *arena_strdup(struct arena *arena, struct slice bytes); /* NUL-terminated copy */

#endif
