/* A Redis reply as one tree in one piece of memory. hiredis parses the protocol; its hooks build the tree here, in an arena of a
 * few blocks, so that a reply of a thousand strings costs a few allocations and can be kept after the callback as a whole.
 *
 * The sizes are Redis's: each is checked, and memory that runs out ends the link, never the process. */
#ifndef HIE_LINK_REDIS_REPLY_H
#define HIE_LINK_REDIS_REPLY_H

#include "base/bytes.h"
#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

enum redis_kind {
    REDIS_KIND_NIL,
    REDIS_KIND_INTEGER,
    REDIS_KIND_TEXT,   /* bulk string */
    REDIS_KIND_STATUS, /* "OK" */
    REDIS_KIND_ERROR,
    REDIS_KIND_LIST,
};

struct redis_value {
    enum redis_kind kind;
    uint32_t count; /* of a list's items */
    union {
        int64_t integer;
        struct slice text; /* text, status, error */
        const struct redis_value *items;
    };
};

struct redis_block;

/* Whoever is handed a reply may read it during the call, or keep it: then he owns it. */
struct redis_reply {
    struct redis_value root;
    struct redis_reply *next; /* the owner's, to chain replies */
    bool *
        kept; /* the link's: where it learns that this is the owner's now, who may free it at once */
    struct redis_block *blocks; /* newest first */
    char *at, *end;
    size_t size; /* of all blocks */
};

/* Keeps the reply that a call was completed with; free it with redis_reply_free. */
void redis_reply_keep(struct redis_reply *reply);
struct redis_reply *redis_reply_free(struct redis_reply *reply); /* NULL; the whole chain */

/* The first word of an error reply, and nothing more: the rest may echo arguments. */
void redis_error_word(const struct redis_value *error, char ret[static 24]);
/* Fills err from an error reply: ERR_UNAVAILABLE where Redis refused before it did anything (it loads, has no memory, is a
 * replica …), else ERR_OUTCOME_UNKNOWN. */
void redis_error_read(const struct redis_value *error, struct err *err);
bool redis_error_is(const struct redis_value *value, const char *start);

/* The item of a list, or a nil value where there is none. */
const struct redis_value *redis_item(const struct redis_value *list, size_t index);

/* ---- for redis_link.c ---- */
struct redisReader;
struct redis_reply *redis_reply_new(void); /* NULL: no memory */
/* Empties it for the next reply. */
void redis_reply_reset(struct redis_reply *reply);
/* A reader that builds into *into, which points to where a reply_new is at that time. NULL: no memory. */
struct redisReader *redis_reader_new(struct redis_reply **into);

#endif
