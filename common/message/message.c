/* The meta map. Packing goes through msgpack-c. Reading does not: its unpacker allocates what an array's or a
 * map's count says, and this map comes from anybody who can write to Redis. The reader below walks the bytes in
 * place, allocates nothing and recurses no deeper than DEPTH_MAX. Keys: schemas/message.md. */
#include "message/message.h"

#include <msgpack.h>

#define DEPTH_MAX 8            /* of what it skips; the map itself is flat */
#define META_MAX (64u * 1024u) /* a map of ours has under 400 bytes */
#define TEXT_MAX 1024          /* of a text; longer ones are left out */

/* ---- packing ---- */

static int append(void *data, const char *ptr, size_t len)
{
    buffer_append(data, ptr, len);
    return 0;
}

static void put_key(msgpack_packer *packer, const char *key)
{
    msgpack_pack_str(packer, strlen(key));
    msgpack_pack_str_body(packer, key, strlen(key));
}

static bool is_packed(struct slice text)
{
    return text.len > 0 && text.len <= TEXT_MAX;
}

static void put_text(msgpack_packer *packer, const char *key, struct slice text)
{
    if (!is_packed(text))
        return;
    put_key(packer, key);
    msgpack_pack_str(packer, text.len);
    msgpack_pack_str_body(packer, text.ptr, text.len);
}

static void put_flag(msgpack_packer *packer, const char *key, bool flag)
{
    if (!flag)
        return;
    put_key(packer, key);
    msgpack_pack_int(packer, 1);
}

static void put_number(msgpack_packer *packer, const char *key, int64_t number)
{
    if (number <= 0)
        return;
    put_key(packer, key);
    msgpack_pack_int64(packer, number);
}

void meta_pack(const struct meta *meta, struct buffer *out)
{
    bool has_parent = !uuid_is_none(meta->parent);
    size_t count = is_packed(meta->content_type) + is_packed(meta->traceparent) + has_parent +
                   meta->reply + meta->in_wal + meta->stored + is_packed(meta->reply_to) +
                   (meta->deadline_ms > 0) + is_packed(meta->chain);
    msgpack_packer packer;
    msgpack_packer_init(&packer, out, append);
    msgpack_pack_map(&packer, count);
    put_text(&packer, "content_type", meta->content_type);
    put_text(&packer, "traceparent", meta->traceparent);
    if (has_parent) {
        put_key(&packer, "parent");
        msgpack_pack_bin(&packer, sizeof(meta->parent.bytes));
        msgpack_pack_bin_body(&packer, meta->parent.bytes, sizeof(meta->parent.bytes));
    }
    put_flag(&packer, "reply", meta->reply);
    put_flag(&packer, "in_wal", meta->in_wal);
    put_flag(&packer, "stored", meta->stored);
    put_text(&packer, "reply_to", meta->reply_to);
    put_number(&packer, "deadline", meta->deadline_ms);
    put_text(&packer, "chain", meta->chain);
}

/* ---- reading ---- */

enum kind { KIND_OTHER, KIND_INTEGER, KIND_BOOLEAN, KIND_TEXT, KIND_BINARY, KIND_ARRAY, KIND_MAP };

struct value {
    enum kind kind;
    uint64_t number;    /* integer (its bits), boolean, or the count of an array or map */
    struct slice bytes; /* text and binary */
};

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
static bool take_bytes(struct slice *rest, size_t width, size_t extra, struct value *ret)
{
    uint64_t len;
    return take_number(rest, width, &len) && len + extra <= rest->len &&
           take(rest, (size_t)len + extra, &ret->bytes);
}

/* The formats above the fix ones, from 0xc0: msgpack's specification, "Formats". */
static bool take_long(struct slice *rest, uint8_t first, struct value *ret)
{
    switch (first) {
    case 0xc0: /* nil */
        return true;
    case 0xc2:
    case 0xc3:
        *ret = (struct value){.kind = KIND_BOOLEAN, .number = first & 1};
        return true;
    case 0xc4:
    case 0xc5:
    case 0xc6:
        ret->kind = KIND_BINARY;
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
        ret->kind = KIND_INTEGER;
        return take_number(rest, (size_t)1 << (first - 0xcc), &ret->number);
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        ret->kind = KIND_INTEGER;
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
        ret->kind = KIND_TEXT;
        return take_bytes(rest, (size_t)1 << (first - 0xd9), 0, ret);
    case 0xdc:
    case 0xdd:
        ret->kind = KIND_ARRAY;
        return take_number(rest, (size_t)2 << (first - 0xdc), &ret->number);
    case 0xde:
    case 0xdf:
        ret->kind = KIND_MAP;
        return take_number(rest, (size_t)2 << (first - 0xde), &ret->number);
    default: /* 0xc1 is never used */
        return false;
    }
}

/* The head of the next value: an array's or map's members are still ahead afterwards. */
static bool take_value(struct slice *rest, struct value *ret)
{
    uint64_t first;
    if (!take_number(rest, 1, &first))
        return false;
    *ret = (struct value){.kind = KIND_OTHER};
    if (first <= 0x7f || first >= 0xe0) {
        *ret = (struct value){.kind = KIND_INTEGER, .number = first};
    } else if (first <= 0x8f) {
        *ret = (struct value){.kind = KIND_MAP, .number = first & 0x0f};
    } else if (first <= 0x9f) {
        *ret = (struct value){.kind = KIND_ARRAY, .number = first & 0x0f};
    } else if (first <= 0xbf) {
        ret->kind = KIND_TEXT;
        return take(rest, first & 0x1f, &ret->bytes);
    } else {
        return take_long(rest, (uint8_t)first, ret);
    }
    return true;
}

/* Walks over the members of `value`. Each costs at least a byte, so a huge count ends with the bytes. */
static bool skip_members(struct slice *rest, const struct value *value, int depth)
{
    if (value->kind != KIND_ARRAY && value->kind != KIND_MAP)
        return true;
    if (depth == DEPTH_MAX)
        return false;
    uint64_t count = value->kind == KIND_MAP ? value->number * 2 : value->number;
    for (uint64_t i = 0; i < count; i++) {
        struct value member;
        if (!take_value(rest, &member) || !skip_members(rest, &member, depth + 1))
            return false;
    }
    return true;
}

static bool read_text(const struct value *value, struct slice *ret)
{
    if (value->kind != KIND_TEXT || value->bytes.len > TEXT_MAX)
        return false;
    *ret = value->bytes;
    return true;
}

/* true and false, or 1 and 0: not every language's packer makes booleans. */
static bool read_flag(const struct value *value, bool *ret)
{
    if ((value->kind != KIND_BOOLEAN && value->kind != KIND_INTEGER) || value->number > 1)
        return false;
    *ret = value->number;
    return true;
}

#define NUMBER_MAX ((uint64_t)1 << 47) /* a time in ms, beyond the year 6000 */

static bool read_number(const struct value *value, int64_t *ret)
{
    if (value->kind != KIND_INTEGER || value->number > NUMBER_MAX)
        return false;
    *ret = (int64_t)value->number;
    return true;
}

static bool read_id(const struct value *value, struct uuid *ret)
{
    if (value->kind != KIND_BINARY || value->bytes.len != sizeof(ret->bytes))
        return false;
    memcpy(ret->bytes, value->bytes.ptr, sizeof(ret->bytes));
    return true;
}

static bool read_pair(struct slice *rest, struct meta *meta)
{
    struct value key, value;
    if (!take_value(rest, &key) || !skip_members(rest, &key, 0) || !take_value(rest, &value))
        return false;
    struct slice name = key.kind == KIND_TEXT ? key.bytes : slice_of(NULL, 0);
    if (slice_is(name, "content_type"))
        return read_text(&value, &meta->content_type);
    if (slice_is(name, "traceparent"))
        return read_text(&value, &meta->traceparent);
    if (slice_is(name, "parent"))
        return read_id(&value, &meta->parent);
    if (slice_is(name, "reply"))
        return read_flag(&value, &meta->reply);
    if (slice_is(name, "in_wal"))
        return read_flag(&value, &meta->in_wal);
    if (slice_is(name, "stored"))
        return read_flag(&value, &meta->stored);
    if (slice_is(name, "reply_to"))
        return read_text(&value, &meta->reply_to);
    if (slice_is(name, "deadline"))
        return read_number(&value, &meta->deadline_ms);
    if (slice_is(name, "chain"))
        return read_text(&value, &meta->chain);
    return skip_members(rest, &value, 0);
}

int meta_unpack(struct slice packed, struct meta *ret_meta, struct err *err)
{
    struct meta meta = {.parent = UUID_NONE};
    struct value map = {.kind = KIND_MAP};
    if (packed.len > META_MAX)
        return err_set(err, ERR_INVALID, "meta is over %u bytes", META_MAX);
    if (packed.len > 0 && (!take_value(&packed, &map) || map.kind != KIND_MAP))
        return err_set(err, ERR_INVALID, "meta is not a msgpack map");
    for (uint64_t i = 0; i < map.number; i++) {
        if (!read_pair(&packed, &meta))
            return err_set(err, ERR_INVALID, "meta has a broken or mistyped value");
    }
    if (packed.len > 0)
        return err_set(err, ERR_INVALID, "meta has bytes behind its map");
    *ret_meta = meta;
    return 0;
}
