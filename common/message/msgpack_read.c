#include "message/msgpack_read.h"

#define DEPTH_MAX 8 /* of what is skipped */

static bool take(struct slice *rest, size_t len, struct slice *ret)
{
    if (len > rest->len)
        return false;
    *ret = slice_of(rest->ptr, len);
    rest->ptr += len;
    rest->len -= len;
    return true;
}

static bool take_number(struct slice *rest, size_t len, uint64_t *ret)
{
    struct slice bytes;
    if (!take(rest, len, &bytes))
        return false;
    uint64_t number = 0;
    for (size_t i = 0; i < len; i++)
        number = number << 8 | (uint8_t)bytes.ptr[i];
    *ret = number;
    return true;
}

/* Bytes behind a length of `width` bytes; `extra` counts what stands between (an ext's type). */
static bool take_bytes(struct slice *rest, size_t width, size_t extra, struct msgpack_value *ret)
{
    uint64_t len;
    return take_number(rest, width, &len) && len + extra <= rest->len &&
           take(rest, (size_t)len + extra, &ret->bytes);
}

/* The formats above the fix ones, from 0xc0: msgpack's specification, "Formats". */
static bool take_long(struct slice *rest, uint8_t first, struct msgpack_value *ret)
{
    switch (first) {
    case 0xc0: /* nil */
        return true;
    case 0xc2:
    case 0xc3:
        *ret = (struct msgpack_value){.kind = MSGPACK_BOOLEAN, .number = first & 1};
        return true;
    case 0xc4:
    case 0xc5:
    case 0xc6:
        ret->kind = MSGPACK_BINARY;
        return take_bytes(rest, (size_t)1 << (first - 0xc4), 0, ret);
    case 0xc7:
    case 0xc8:
    case 0xc9: /* ext */
        return take_bytes(rest, (size_t)1 << (first - 0xc7), 1, ret);
    case 0xca:
    case 0xcb: /* floats */
        return take(rest, (size_t)4 << (first - 0xca), &ret->bytes);
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
        ret->kind = MSGPACK_INTEGER;
        return take_number(rest, (size_t)1 << (first - 0xcc), &ret->number);
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        ret->kind = MSGPACK_INTEGER;
        return take_number(rest, (size_t)1 << (first - 0xd0), &ret->number);
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8: /* fixext */
        return take(rest, 1 + ((size_t)1 << (first - 0xd4)), &ret->bytes);
    case 0xd9:
    case 0xda:
    case 0xdb:
        ret->kind = MSGPACK_TEXT;
        return take_bytes(rest, (size_t)1 << (first - 0xd9), 0, ret);
    case 0xdc:
    case 0xdd:
        ret->kind = MSGPACK_ARRAY;
        return take_number(rest, (size_t)2 << (first - 0xdc), &ret->number);
    case 0xde:
    case 0xdf:
        ret->kind = MSGPACK_MAP;
        return take_number(rest, (size_t)2 << (first - 0xde), &ret->number);
    default: /* 0xc1 is never used */
        return false;
    }
}

bool msgpack_take(struct slice *rest, struct msgpack_value *ret)
{
    uint64_t first;
    if (!take_number(rest, 1, &first))
        return false;
    *ret = (struct msgpack_value){.kind = MSGPACK_OTHER};
    if (first <= 0x7f || first >= 0xe0) {
        *ret = (struct msgpack_value){.kind = MSGPACK_INTEGER, .number = first};
    } else if (first <= 0x8f) {
        *ret = (struct msgpack_value){.kind = MSGPACK_MAP, .number = first & 0x0f};
    } else if (first <= 0x9f) {
        *ret = (struct msgpack_value){.kind = MSGPACK_ARRAY, .number = first & 0x0f};
    } else if (first <= 0xbf) {
        ret->kind = MSGPACK_TEXT;
        return take(rest, first & 0x1f, &ret->bytes);
    } else {
        return take_long(rest, (uint8_t)first, ret);
    }
    return true;
}

/* Walks over the members of `value`. Each costs at least a byte, so a huge count ends with the bytes. */
static bool skip_members(struct slice *rest, const struct msgpack_value *value, int depth)
{
    if (value->kind != MSGPACK_ARRAY && value->kind != MSGPACK_MAP)
        return true;
    if (depth == DEPTH_MAX)
        return false;
    uint64_t count = value->kind == MSGPACK_MAP ? value->number * 2 : value->number;
    for (uint64_t i = 0; i < count; i++) {
        struct msgpack_value member;
        if (!msgpack_take(rest, &member) || !skip_members(rest, &member, depth + 1))
            return false;
    }
    return true;
}

bool msgpack_skip(struct slice *rest, const struct msgpack_value *value)
{
    return skip_members(rest, value, 0);
}
