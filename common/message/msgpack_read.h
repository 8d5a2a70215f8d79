/* Reads msgpack in place. Not by msgpack-c, whose unpacker allocates what an array's or a map's count says: what we read comes from
 * anybody who can write to Redis. This reader allocates nothing and recurses no deeper than eight levels. */
#ifndef HIE_MESSAGE_MSGPACK_READ_H
#define HIE_MESSAGE_MSGPACK_READ_H

#include "base/bytes.h"

#include <stdbool.h>
#include <stdint.h>

enum msgpack_kind {
    MSGPACK_OTHER,
    MSGPACK_INTEGER,
    MSGPACK_BOOLEAN,
    MSGPACK_TEXT,
    MSGPACK_BINARY,
    MSGPACK_ARRAY,
    MSGPACK_MAP,
};

struct msgpack_value {
    enum msgpack_kind kind;
    uint64_t number;    /* integer (its bits), boolean, or the count of an array or map */
    struct slice bytes; /* text and binary; borrowed */
};

/* The head of the next value: an array's or map's members are still ahead afterwards. False: the bytes are none, or end. */
bool msgpack_take(struct slice *rest, struct msgpack_value *ret);
/* Walks over the members of `value`, if it has any. */
bool msgpack_skip(struct slice *rest, const struct msgpack_value *value);

#endif
