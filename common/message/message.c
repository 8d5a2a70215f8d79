/* The meta map. Packing goes through msgpack-c, reading through our own reader. Keys: schemas/message.md. */
#include "message/message.h"

#include "message/msgpack_read.h"

#include <msgpack.h>

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

static bool read_text(const struct msgpack_value *value, struct slice *ret)
{
    if (value->kind != MSGPACK_TEXT || value->bytes.len > TEXT_MAX)
        return false;
    *ret = value->bytes;
    return true;
}

/* true and false, or 1 and 0: not every language's packer makes booleans. */
static bool read_flag(const struct msgpack_value *value, bool *ret)
{
    if ((value->kind != MSGPACK_BOOLEAN && value->kind != MSGPACK_INTEGER) || value->number > 1)
        return false;
    *ret = value->number;
    return true;
}

#define NUMBER_MAX ((uint64_t)1 << 47) /* a time in ms, beyond the year 6000 */

static bool read_number(const struct msgpack_value *value, int64_t *ret)
{
    if (value->kind != MSGPACK_INTEGER || value->number > NUMBER_MAX)
        return false;
    *ret = (int64_t)value->number;
    return true;
}

static bool read_id(const struct msgpack_value *value, struct uuid *ret)
{
    if (value->kind != MSGPACK_BINARY || value->bytes.len != sizeof(ret->bytes))
        return false;
    memcpy(ret->bytes, value->bytes.ptr, sizeof(ret->bytes));
    return true;
}

static bool read_pair(struct slice *rest, struct meta *meta)
{
    struct msgpack_value key, value;
    if (!msgpack_take(rest, &key) || !msgpack_skip(rest, &key) || !msgpack_take(rest, &value))
        return false;
    struct slice name = key.kind == MSGPACK_TEXT ? key.bytes : slice_of(NULL, 0);
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
    return msgpack_skip(rest, &value);
}

int meta_unpack(struct slice packed, struct meta *ret_meta, struct err *err)
{
    struct meta meta = {.parent = UUID_NONE};
    struct msgpack_value map = {.kind = MSGPACK_MAP};
    if (packed.len > META_MAX)
        return err_set(err, ERR_INVALID, "meta is over %u bytes", META_MAX);
    if (packed.len > 0 && (!msgpack_take(&packed, &map) || map.kind != MSGPACK_MAP))
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
