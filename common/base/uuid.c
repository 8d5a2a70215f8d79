#include "base/uuid.h"

#include "base/bug.h"

#include <errno.h>
#include <sys/random.h>
#include <unistd.h>

static void put_time(struct uuid *id, int64_t wall_ms)
{
    for (int i = 0; i < 6; i++)
        id->bytes[i] = (uint8_t)(wall_ms >> (40 - 8 * i));
}

static void put_version(struct uuid *id)
{
    id->bytes[6] = (uint8_t)(0x70 | (id->bytes[6] & 0x0f));
    id->bytes[8] = (uint8_t)(0x80 | (id->bytes[8] & 0x3f));
}

static void put_u64(uint8_t *at, uint64_t number)
{
    for (int i = 0; i < 8; i++)
        at[i] = (uint8_t)(number >> (56 - 8 * i));
}

/* Ten bytes after the time: 16 bits in front, 64 behind. */
static struct uuid from_parts(int64_t wall_ms, uint16_t front, uint64_t back)
{
    struct uuid id;
    put_time(&id, wall_ms);
    id.bytes[6] = (uint8_t)(front >> 8);
    id.bytes[7] = (uint8_t)front;
    put_u64(id.bytes + 8, back);
    put_version(&id);
    return id;
}

/* Of the ids made last. */
static int64_t last_ms;
static uint16_t counter;

struct uuid uuid_new(int64_t wall_ms)
{
    /* RFC 9562 section 6.2, method 1: a 12-bit counter in rand_a; it starts low enough to rise for a while
     * and borrows the next millisecond when it is used up. */
    if (wall_ms > last_ms) {
        last_ms = wall_ms;
        counter = (uint16_t)(random_u64() & 0x3ff);
    } else if (wall_ms < last_ms - 10000) {
        last_ms = wall_ms; /* the clock was set back: follow it */
        counter = (uint16_t)(random_u64() & 0x3ff);
    } else if (++counter > 0xfff) {
        counter = 0;
        last_ms++;
    }
    return from_parts(last_ms, counter, random_u64());
}

/* A second, independent 64-bit mix of the same bytes gives the front bits. */
static struct uuid hashed(int64_t wall_ms, const void *ptr, size_t len)
{
    uint64_t back = hash_bytes(HASH_SEED, ptr, len);
    back ^= back >> 29;
    back *= 0xbf58476d1ce4e5b9u;
    back ^= back >> 32;
    uint64_t front = hash_bytes(0x9e3779b97f4a7c15u, ptr, len);
    front ^= front >> 31;
    return from_parts(wall_ms, (uint16_t)(front ^ front >> 16), back);
}

struct uuid uuid_child(struct uuid parent, uint32_t run, uint32_t step, uint32_t ordinal)
{
    uint8_t name[28];
    memcpy(name, parent.bytes, 16);
    const uint32_t parts[3] = {run, step, ordinal};
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 4; j++)
            name[16 + 4 * i + j] = (uint8_t)(parts[i] >> (24 - 8 * j));
    }
    return hashed(uuid_wall_ms(parent), name, sizeof(name));
}

struct uuid uuid_named(int64_t wall_ms, struct slice name)
{
    return hashed(wall_ms, name.ptr, name.len);
}

int64_t uuid_wall_ms(struct uuid id)
{
    int64_t ms = 0;
    for (int i = 0; i < 6; i++)
        ms = ms << 8 | id.bytes[i];
    return ms;
}

bool uuid_is_none(struct uuid id)
{
    return uuid_equal(id, UUID_NONE);
}

bool uuid_equal(struct uuid a, struct uuid b)
{
    return memcmp(a.bytes, b.bytes, sizeof(a.bytes)) == 0;
}

void uuid_format(struct uuid id, char ret[static UUID_TEXT_LEN + 1])
{
    static const char hex[] = "0123456789abcdef";
    char *at = ret;
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *at++ = '-';
        *at++ = hex[id.bytes[i] >> 4];
        *at++ = hex[id.bytes[i] & 15];
    }
    *at = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool uuid_parse(struct slice text, struct uuid *ret)
{
    if (text.len != UUID_TEXT_LEN)
        return false;
    struct uuid id;
    size_t at = 0;
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            if (text.ptr[at++] != '-')
                return false;
        }
        int high = hex_value(text.ptr[at]), low = hex_value(text.ptr[at + 1]);
        if (high < 0 || low < 0)
            return false;
        id.bytes[i] = (uint8_t)(high << 4 | low);
        at += 2;
    }
    *ret = id;
    return true;
}

uint64_t hash_bytes(uint64_t seed, const void *ptr, size_t len)
{
    const uint8_t *bytes = ptr;
    uint64_t hash = seed;
    for (size_t i = 0; i < len; i++) {
        hash ^= bytes[i];
        hash *= 0x100000001b3u;
    }
    return hash;
}

static bool is_fixed;
static uint64_t fixed_state;

void random_fix(uint64_t seed)
{
    is_fixed = true;
    fixed_state = seed;
    last_ms = 0;
    counter = 0;
}

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t fixed_u64(void)
{
    uint64_t z = fixed_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t random_u64(void)
{
    if (is_fixed)
        return fixed_u64();
    static _Thread_local uint64_t pool[32];
    static _Thread_local size_t left;
    static _Thread_local pid_t owner;
    if (left == 0 || owner != getpid()) { /* a fork must not repeat its parent's bits */
        size_t have = 0;
        while (have < sizeof(pool)) {
            ssize_t got = getrandom((char *)pool + have, sizeof(pool) - have, 0);
            BUG_ON(got < 0 && errno != EINTR);
            have += got > 0 ? (size_t)got : 0;
        }
        left = sizeof(pool) / sizeof(pool[0]);
        owner = getpid();
    }
    return pool[--left];
}

uint64_t random_below(uint64_t bound)
{
    return bound ? (uint64_t)(((__uint128_t)random_u64() * bound) >> 64) : 0;
}
