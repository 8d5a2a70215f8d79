#include "queue/queue_reply.h"

#include "message/msgpack_read.h"

#include <msgpack.h>

static const char *const statuses[] = {"completed", "dead_lettered", "expired", "cancelled"};

/* ---- packing ---- */

static int append(void *data, const char *ptr, size_t len)
{
    buffer_append(data, ptr, len);
    return 0;
}

static void put_text(msgpack_packer *packer, struct slice text)
{
    msgpack_pack_str(packer, text.len);
    msgpack_pack_str_body(packer, text.ptr, text.len);
}

static void put_pair(msgpack_packer *packer, const char *key, struct slice text)
{
    if (text.len == 0)
        return;
    put_text(packer, slice_text(key));
    put_text(packer, text);
}

bool queue_reply_pack(const struct queue_reply *reply, struct buffer *out)
{
    bool left_out = reply->left_out || reply->body.len > MESSAGE_INLINE_MAX;
    struct slice error = slice_text(reply->error), content_type = reply->content_type;
    if (error.len >= QUEUE_REPLY_ERROR_MAX)
        error.len = QUEUE_REPLY_ERROR_MAX - 1;
    if (content_type.len > META_CONTENT_TYPE_MAX)
        content_type.len = 0;
    msgpack_packer packer;
    msgpack_packer_init(&packer, out, append);
    msgpack_pack_map(&packer, 3u + (error.len > 0) + (content_type.len > 0));
    put_text(&packer, SLICE_LITERAL("cid"));
    msgpack_pack_bin(&packer, sizeof(reply->id.bytes));
    msgpack_pack_bin_body(&packer, reply->id.bytes, sizeof(reply->id.bytes));
    put_pair(&packer, "status", slice_text(reply->status));
    put_pair(&packer, "error", error);
    put_pair(&packer, "content_type", content_type);
    if (left_out) {
        put_text(&packer, SLICE_LITERAL("left_out"));
        msgpack_pack_int(&packer, 1);
    } else {
        put_text(&packer, SLICE_LITERAL("body"));
        msgpack_pack_bin(&packer, reply->body.len);
    }
    return !left_out;
}

/* ---- reading ---- */

static bool read_status(const struct msgpack_value *value, const char **ret)
{
    if (value->kind != MSGPACK_TEXT)
        return false;
    for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++) {
        if (slice_is(value->bytes, statuses[i])) {
            *ret = statuses[i];
            return true;
        }
    }
    return false;
}

static bool read_error(const struct msgpack_value *value, char error[static QUEUE_REPLY_ERROR_MAX],
                       const char **ret)
{
    if (value->kind != MSGPACK_TEXT || value->bytes.len >= QUEUE_REPLY_ERROR_MAX)
        return false;
    if (value->bytes.len > 0)
        memcpy(error, value->bytes.ptr, value->bytes.len);
    error[value->bytes.len] = '\0';
    *ret = error;
    return true;
}

static bool read_id(const struct msgpack_value *value, struct uuid *ret)
{
    if (value->kind != MSGPACK_BINARY || value->bytes.len != sizeof(ret->bytes))
        return false;
    memcpy(ret->bytes, value->bytes.ptr, sizeof(ret->bytes));
    return true;
}

static bool read_pair(struct slice *rest, char error[static QUEUE_REPLY_ERROR_MAX],
                      struct queue_reply *reply)
{
    struct msgpack_value key, value;
    if (!msgpack_take(rest, &key) || !msgpack_skip(rest, &key) || !msgpack_take(rest, &value))
        return false;
    struct slice name = key.kind == MSGPACK_TEXT ? key.bytes : slice_of(NULL, 0);
    if (slice_is(name, "cid"))
        return read_id(&value, &reply->id);
    if (slice_is(name, "status"))
        return read_status(&value, &reply->status);
    if (slice_is(name, "error"))
        return read_error(&value, error, &reply->error);
    if (slice_is(name, "content_type")) {
        reply->content_type = value.bytes;
        return value.kind == MSGPACK_TEXT && value.bytes.len <= META_CONTENT_TYPE_MAX;
    }
    if (slice_is(name, "left_out")) {
        reply->left_out = value.number == 1;
        return value.kind == MSGPACK_INTEGER || value.kind == MSGPACK_BOOLEAN;
    }
    if (slice_is(name, "body")) {
        reply->body = body_of(value.bytes.ptr, value.bytes.len);
        return value.kind == MSGPACK_BINARY && value.bytes.len <= MESSAGE_INLINE_MAX;
    }
    return msgpack_skip(rest, &value);
}

bool queue_reply_unpack(struct slice packed, char error[static QUEUE_REPLY_ERROR_MAX],
                        struct queue_reply *ret)
{
    struct queue_reply reply = {.id = UUID_NONE};
    struct msgpack_value map;
    if (packed.len > QUEUE_REPLY_HEAD_MAX + MESSAGE_INLINE_MAX || !msgpack_take(&packed, &map) ||
        map.kind != MSGPACK_MAP)
        return false;
    for (uint64_t i = 0; i < map.number; i++) {
        if (!read_pair(&packed, error, &reply))
            return false;
    }
    if (packed.len > 0 || uuid_is_none(reply.id) || !reply.status)
        return false;
    if (reply.left_out)
        reply.body = body_of(NULL, 0);
    *ret = reply;
    return true;
}
