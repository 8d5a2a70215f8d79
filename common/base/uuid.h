/* Correlation ids: UUIDv7 (RFC 9562 section 5.7). */
#ifndef HIE_BASE_UUID_H
#define HIE_BASE_UUID_H

#include "base/bytes.h"

#include <stdbool.h>
#include <stdint.h>

struct uuid {
    uint8_t bytes[16]; /* big-endian as in the text form; so memcmp sorts by time */
};

#define UUID_TEXT_LEN 36

static const struct uuid UUID_NONE = {{0}};

/* A new id: 48 bits of wall time in ms, then random bits. Ids made by one process in one ms rise. */
struct uuid uuid_new(int64_t wall_ms);
/* The id of a child: its parent's time and a hash of parent, run, step and ordinal, so that a second
 * delivery of the parent makes the same children. */
struct uuid uuid_child(struct uuid parent, uint32_t run, uint32_t step, uint32_t ordinal);
/* An id for an entry that came without one: `wall_ms` and a hash of `name`, the same each time. */
struct uuid uuid_named(int64_t wall_ms, struct slice name);
int64_t uuid_wall_ms(struct uuid id);

bool uuid_is_none(struct uuid id);
bool uuid_equal(struct uuid a, struct uuid b);
/* Lower-case text with its NUL. */
void uuid_format(struct uuid id, char ret[static UUID_TEXT_LEN + 1]);
/* The 36-character form, upper or lower case, any version; false leaves *ret untouched. */
bool uuid_parse(struct slice text, struct uuid *ret);

/* FNV-1a, 64 bits: for tables and names, not against an adversary. */
uint64_t hash_bytes(uint64_t seed, const void *ptr, size_t len);
#define HASH_SEED 0xcbf29ce484222325u
/* Random bits from the kernel, buffered. */
uint64_t random_u64(void);
/* For simulations: from here on the bits of this process, and the ids it makes, follow from the seed alone. One thread. */
void random_fix(uint64_t seed);
/* Uniform in [0, bound); 0 for bound 0. */
uint64_t random_below(uint64_t bound);

#endif
