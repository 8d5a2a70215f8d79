/* What travels: a message's envelope (wire unit: header and body) and the msgpack map `meta` beside the body. The
 * map's keys are listed in schemas/message.md. */
#ifndef HIE_MESSAGE_MESSAGE_H
#define HIE_MESSAGE_MESSAGE_H

#include "base/bytes.h"
#include "base/error.h"
#include "base/uuid.h"

#include <stdbool.h>
#include <stdint.h>

/* Patient data: a type of its own that no log and no key function takes. Borrowed. */
struct body {
    const char *ptr;
    size_t len;
};

static inline struct body body_of(const void *ptr, size_t len)
{
    return (struct body){.ptr = ptr, .len = len};
}

static inline struct slice body_slice(struct body body)
{
    return slice_of(body.ptr, body.len);
}

enum message_direction { DIRECTION_INBOUND, DIRECTION_OUTBOUND, DIRECTION_INTERNAL, DIRECTION_COUNT };

/* Bodies above this stay in PostgreSQL alone: their entries carry no body and the meta key `stored`. It keeps
 * Redis and a claimed batch small whatever senders send. */
#define MESSAGE_INLINE_MAX (64u * 1024u)

/* Of what a worker or dispatcher packs: then the map takes META_PACKED_MAX bytes at most. */
#define META_CONTENT_TYPE_MAX 255u
#define META_TRACEPARENT_MAX 128u
#define META_REPLY_TO_MAX 96u
#define META_CHAIN_MAX 1024u
#define META_PACKED_MAX 2048u

/* The meta map. Absent fields are empty or zero. Slices borrow from the packed bytes or the caller. */
struct meta {
    struct slice content_type;
    struct slice traceparent; /* W3C, handed through */
    struct uuid parent;       /* UUID_NONE: came in through the door */
    bool reply;               /* leave the reply under its key, also for async patterns */
    bool in_wal;              /* the WAL has it: false for entries of direct producers, which a worker adopts */
    bool stored;              /* the body is in the store, not here */
    struct slice reply_to;    /* id of the dispatcher whose caller waits; empty: nobody does */
    int64_t deadline_ms;      /* wall clock: not to be started after; 0: none */
    struct slice chain;       /* ids of the items on the way here, separated by commas; this item's is not among them */
};

/* Packs into `out` (appended). */
void meta_pack(const struct meta *meta, struct buffer *out);
/* Reads a packed map: unknown keys are skipped, wrong types, sizes or trailing bytes refuse it. Empty bytes
 * are an empty map. 0, or -1 with ERR_INVALID. */
int meta_unpack(struct slice packed, struct meta *ret_meta, struct err *err);

#endif
