/* Claim and takeover. Entries are read in place: what a claim returns borrows from the replies, which it owns.
 *
 *   claim:    XREADGROUP ── enough, or not asked to wait ──▶ end
 *                 │ short: SADD idle, XREADGROUP again ────▶ end     an enqueue in between either leaves its entry to the
 *                 │                                                  second look or finds us among the idle
 *                 └ NOGROUP: XGROUP CREATE, XREADGROUP again
 *   takeover: XAUTOCLAIM from its cursor until there are enough or the list is through */
#include "base/bug.h"
#include "base/mem.h"
#include "queue/queue_redis.h"

#include <stdio.h>
#include <stdlib.h>
#include <uthash.h>

#define TAKEOVER_ROUNDS 64 /* XAUTOCLAIM looks at ten times as many entries as it may take */
#define TIDY_ONE_IN 64     /* takeovers that came to the end of the list */
#define CONSUMER_LIFE_MS                                                                           \
    86400000 /* one that holds nothing and was not heard of for so long is forgotten */

/* ---- reading entries ---- */

/* "1700000000000-3": its milliseconds; false when it is none. */
static bool read_entry_id(struct slice text, char ret[static QUEUE_ENTRY_ID_MAX], int64_t *ret_ms)
{
    const char *dash = text.len ? memchr(text.ptr, '-', text.len) : NULL;
    if (!dash || text.len >= QUEUE_ENTRY_ID_MAX)
        return false;
    int64_t ms;
    if (!slice_to_int(slice_of(text.ptr, (size_t)(dash - text.ptr)), 0, (int64_t)1 << 47, &ms))
        ms = 0; /* given by hand: far in the future */
    memcpy(ret, text.ptr, text.len);
    ret[text.len] = '\0';
    *ret_ms = ms;
    return true;
}

struct fields {
    struct slice cid, at, pri, key, meta, body;
};

static void read_fields(const struct redis_value *list, struct fields *fields)
{
    const struct {
        const char *name;
        struct slice *value;
    } known[] = {{"cid", &fields->cid}, {"at", &fields->at},     {"pri", &fields->pri},
                 {"key", &fields->key}, {"meta", &fields->meta}, {"body", &fields->body}};
    for (size_t i = 0; i + 1 < list->count; i += 2) {
        const struct redis_value *name = &list->items[i], *value = &list->items[i + 1];
        if (name->kind != REDIS_KIND_TEXT || value->kind != REDIS_KIND_TEXT)
            continue;
        for (size_t j = 0; j < sizeof(known) / sizeof(known[0]); j++) {
            if (slice_is(name->text, known[j].name))
                *known[j].value = value->text;
        }
    }
}

/* The same id each time for an entry that came without one. */
static struct uuid named_id(const struct op *op, const char *entry_id, int64_t ms)
{
    char name[512];
    int len = snprintf(name, sizeof(name), "%s:{%s/%u}:%s %s", op->queue->options.key_prefix,
                       op->name.item, op->name.partition, messaging_pattern_words[op->name.pattern],
                       entry_id);
    BUG_ON(len < 0 || (size_t)len >= sizeof(name));
    return uuid_named(ms, slice_of(name, (size_t)len));
}

/* Reads one [id, [field, value, …]]. False: it is none (deleted meanwhile). `*ret_adopt`: the WAL does not have it. */
static bool read_entry(const struct op *op, const struct redis_value *item,
                       struct queue_entry *entry, bool *ret_adopt)
{
    const struct redis_value *id = redis_item(item, 0), *list = redis_item(item, 1);
    struct fields fields = {{0}};
    struct meta meta;
    int64_t entry_ms, number;
    *entry = (struct queue_entry){.malformed = false};
    if (id->kind != REDIS_KIND_TEXT || list->kind != REDIS_KIND_LIST ||
        !read_entry_id(id->text, entry->entry_id, &entry_ms))
        return false;
    read_fields(list, &fields);
    if (!uuid_parse(fields.cid, &entry->id)) {
        entry->id = named_id(op, entry->entry_id, entry_ms);
        entry->malformed = fields.cid.len > 0;
    }
    entry->at_ms = entry_ms;
    if (slice_to_int(fields.at, 0, (int64_t)1 << 47, &number))
        entry->at_ms = number;
    else if (fields.at.len > 0)
        entry->malformed = true;
    if (slice_to_int(fields.pri, 0, 9, &number))
        entry->priority = (int)number;
    else if (fields.pri.len > 0)
        entry->malformed = true;
    if (meta_unpack(fields.meta, &meta, NULL) != 0) {
        meta = (struct meta){.in_wal = false};
        entry->malformed = true;
    }
    /* A message may be empty, but then the dispatcher says so: in_wal. */
    if (fields.body.len == 0 && !meta.in_wal && !meta.stored)
        entry->malformed = true;
    entry->key = fields.key;
    entry->meta = fields.meta;
    entry->body = body_of(fields.body.ptr, fields.body.len);
    *ret_adopt = !meta.in_wal;
    return true;
}

/* XREADGROUP: [[stream, entries]]; XAUTOCLAIM: [cursor, entries, deleted]. */
static const struct redis_value *entries_of(const struct redis_reply *reply, bool takeover)
{
    return takeover ? redis_item(&reply->root, 1) : redis_item(redis_item(&reply->root, 0), 1);
}

static size_t entry_count(const struct redis_value *entries)
{
    return entries->kind == REDIS_KIND_LIST ? entries->count : 0;
}

static void release_replies(void *replies)
{
    redis_reply_free(replies);
}

/* ---- the idle ---- */

struct registration {
    UT_hash_handle hh;
    char name[]; /* "item/partition" */
};

static size_t registration_name(char ret[static 256], const char *item, unsigned partition)
{
    int len = snprintf(ret, 256, "%s/%u", item, partition);
    BUG_ON(len < 0 || len >= 256);
    return (size_t)len;
}

static struct registration *find_registration(struct queue_redis *queue, const char *item,
                                              unsigned partition)
{
    char name[256];
    struct registration *found = NULL;
    size_t len = registration_name(name, item, partition);
    HASH_FIND(hh, queue->registrations, name, len, found);
    return found;
}

static void note_registered(struct queue_redis *queue, const char *item, unsigned partition)
{
    if (find_registration(queue, item, partition))
        return;
    char name[256];
    size_t len = registration_name(name, item, partition);
    struct registration *new = mem_alloc(sizeof(*new) + len + 1);
    memcpy(new->name, name, len);
    HASH_ADD(hh, queue->registrations, name, len, new);
}

void queue_redis_unregister(struct queue_redis *queue, const char *item, unsigned partition)
{
    if (strlen(item) > 200)
        return; /* a message that nobody of ours published */
    struct registration *found = find_registration(queue, item, partition);
    if (found) {
        HASH_DEL(queue->registrations, found);
        free(found);
    }
}

void queue_redis_unregister_all(struct queue_redis *queue)
{
    struct registration *each, *next;
    HASH_ITER(hh, queue->registrations, each, next)
    {
        HASH_DEL(queue->registrations, each);
        free(each);
    }
}

static void build_register(const struct queue_redis *queue, const void *arg, struct buffer *out)
{
    const struct op *op = arg;
    redis_put_array(out, 3);
    redis_put_text(out, "SADD");
    put_key(out, queue, op->name, "idle", NULL);
    redis_put_text(out, op->consumer);
}

static void build_unregister(const struct queue_redis *queue, const void *arg, struct buffer *out)
{
    const struct op *op = arg;
    redis_put_array(out, 3);
    redis_put_text(out, "SREM");
    put_key(out, queue, op->name, "idle", NULL);
    redis_put_text(out, op->consumer);
}

/* Who has all that it asked for leaves the idle, or it would be woken in place of one that can work. */
static void leave_idle(struct op *op)
{
    struct queue_redis *queue = op->queue;
    if (!find_registration(queue, op->name.item, op->name.partition))
        return;
    queue_redis_unregister(queue, op->name.item, op->name.partition);
    (void)queue_redis_tell(queue, QUEUE_REDIS_HEAD, build_unregister, op);
}

/* ---- the end of a claim ---- */

struct adopted {
    const struct op *op;
    const struct queue_entry *const *entries;
    size_t count;
};

/* The index has to know entries that came past the enqueue Function, or the reconciler would add them again. */
static void build_index(const struct queue_redis *queue, const void *arg, struct buffer *out)
{
    const struct adopted *adopted = arg;
    redis_put_array(out, 2 + 2 * adopted->count);
    redis_put_text(out, "HSET");
    put_index(out, queue, adopted->op->name);
    for (size_t i = 0; i < adopted->count; i++) {
        put_id(out, adopted->entries[i]->id);
        redis_put_text(out, adopted->entries[i]->entry_id);
    }
}

static struct queue_claimed *read_claimed(struct op *op, bool takeover)
{
    struct queue_claimed *claimed = mem_alloc(sizeof(*claimed));
    const struct queue_entry *to_adopt[QUEUE_BATCH_MAX];
    struct adopted adopted = {op, to_adopt, 0};
    claimed->references = 1;
    claimed->replies = op->claim.first;
    claimed->release = release_replies;
    claimed->entries = mem_array(op->claim.found, sizeof(*claimed->entries));
    for (const struct redis_reply *reply = op->claim.first; reply; reply = reply->next) {
        const struct redis_value *entries = entries_of(reply, takeover);
        size_t count = entry_count(entries);
        for (size_t i = 0; i < count && claimed->count < op->claim.found; i++) {
            struct queue_entry *entry = &claimed->entries[claimed->count];
            bool adopt = false;
            if (!read_entry(op, &entries->items[i], entry, &adopt))
                continue;
            claimed->count++;
            if (adopt && adopted.count < QUEUE_BATCH_MAX)
                to_adopt[adopted.count++] = entry;
        }
    }
    if (adopted.count > 0)
        (void)queue_redis_tell(
            op->queue,
            QUEUE_REDIS_HEAD +
                adopted.count * (UUID_TEXT_LEN + QUEUE_ENTRY_ID_MAX + 2 * REDIS_BULK_OVERHEAD),
            build_index, &adopted);
    return claimed;
}

/* What was found counts, also when a later look failed. */
static bool end_claim(struct op *op, const struct err *err, bool takeover)
{
    if (err->code != ERR_NONE && op->claim.found == 0) {
        op->claimed(op->arg, err, NULL);
        return true;
    }
    const struct err none = {.code = ERR_NONE};
    struct queue_claimed *claimed = read_claimed(op, takeover);
    if (claimed->count == op->claim.max)
        leave_idle(op);
    op->claimed(op->arg, &none, claimed);
    return true;
}

/* Keeps a reply that has entries, for the end. */
static void keep_entries(struct op *op, struct redis_reply *reply, bool takeover)
{
    size_t count = reply ? entry_count(entries_of(reply, takeover)) : 0;
    if (count == 0)
        return;
    op->claim.found += count;
    redis_reply_keep(reply);
    if (op->claim.last)
        op->claim.last->next = reply;
    else
        op->claim.first = reply;
    op->claim.last = reply;
}

static size_t claim_size(const struct op *op)
{
    (void)op;
    return QUEUE_REDIS_HEAD;
}

static void start_claim(struct op *op, size_t max)
{
    op->claim.max = max < QUEUE_BATCH_MAX ? max : QUEUE_BATCH_MAX;
    if (max == 0)
        op_defer(op, &(const struct err){.code = ERR_NONE});
    else
        op_start(op);
}

/* ---- claim ---- */

static void claim_build(const struct op *op, struct buffer *out)
{
    redis_put_array(out, 9);
    redis_put_text(out, "XREADGROUP");
    redis_put_text(out, "GROUP");
    redis_put_text(out, QUEUE_REDIS_GROUP);
    redis_put_text(out, op->consumer);
    redis_put_text(out, "COUNT");
    redis_put_int(out, (int64_t)(op->claim.max - op->claim.found));
    redis_put_text(out, "STREAMS");
    put_stream(out, op->queue, op->name);
    redis_put_text(out, ">");
}

static bool claim_answer(struct op *op, const struct err *err, struct redis_reply *reply)
{
    keep_entries(op, reply, false);
    if (err->code != ERR_NONE || !op->claim.wait || op->claim.registered ||
        op->claim.found >= op->claim.max)
        return end_claim(op, err, false);
    op->claim.registered = true;
    if (!queue_redis_tell(op->queue, QUEUE_REDIS_HEAD, build_register, op) || !op_send(op)) {
        struct err down;
        err_set(&down, ERR_UNAVAILABLE, "redis: down");
        return end_claim(op, &down, false);
    }
    note_registered(op->queue, op->name.item, op->name.partition);
    return false;
}

static void build_group(const struct queue_redis *queue, const void *arg, struct buffer *out)
{
    const struct op *op = arg;
    redis_put_array(out, 6);
    redis_put_text(out, "XGROUP");
    redis_put_text(out, "CREATE");
    put_stream(out, queue, op->name);
    redis_put_text(out, QUEUE_REDIS_GROUP);
    redis_put_text(out, "0");
    redis_put_text(out, "MKSTREAM");
}

/* No stream or no group: a new item, or Redis lost its data. Somebody else may create it first, which is as good. */
static bool claim_recover(struct op *op, const struct redis_value *error)
{
    if (!redis_error_is(error, "NOGROUP") || op->claim.created)
        return false;
    op->claim.created = true;
    queue_redis_suspect(op->queue);
    return queue_redis_tell(op->queue, QUEUE_REDIS_HEAD, build_group, op) && op_send(op);
}

void queue_redis_claim(struct queue *queue, struct queue_name name, const char *consumer,
                       size_t max, bool wait, queue_claim_done *done, void *arg)
{
    static const struct op_kind kind = {claim_size, claim_build, claim_answer, claim_recover};
    struct op *op = op_new(queue, &kind, name, arg);
    op->consumer = consumer;
    op->claimed = done;
    op->claim.wait = wait;
    start_claim(op, max);
}

/* ---- takeover ---- */

static void takeover_build(const struct op *op, struct buffer *out)
{
    redis_put_array(out, 8);
    redis_put_text(out, "XAUTOCLAIM");
    put_stream(out, op->queue, op->name);
    redis_put_text(out, QUEUE_REDIS_GROUP);
    redis_put_text(out, op->consumer);
    redis_put_int(out, op->claim.min_idle_ms < 0 ? 0 : op->claim.min_idle_ms);
    redis_put_text(out, op->claim.cursor);
    redis_put_text(out, "COUNT");
    redis_put_int(out, (int64_t)(op->claim.max - op->claim.found));
}

static void build_tidy(const struct queue_redis *queue, const void *arg, struct buffer *out)
{
    const struct op *op = arg;
    put_fcall(out, "hie1_tidy", 1, 1);
    put_stream(out, queue, op->name);
    redis_put_int(out, CONSUMER_LIFE_MS);
}

/* Whether the list has more to look at; then from the cursor on. */
static bool has_more(struct op *op, const struct redis_reply *reply)
{
    const struct redis_value *cursor = redis_item(&reply->root, 0);
    int64_t ms;
    if (cursor->kind != REDIS_KIND_TEXT || slice_is(cursor->text, "0-0"))
        return false;
    return read_entry_id(cursor->text, op->claim.cursor, &ms);
}

static bool takeover_answer(struct op *op, const struct err *err, struct redis_reply *reply)
{
    bool more = reply && has_more(op, reply);
    keep_entries(op, reply, true);
    if (more && op->claim.found < op->claim.max && ++op->claim.rounds < TAKEOVER_ROUNDS &&
        op_send(op))
        return false;
    if (reply && !more && random_below(TIDY_ONE_IN) == 0)
        (void)queue_redis_tell(op->queue, QUEUE_REDIS_HEAD, build_tidy, op);
    return end_claim(op, err, true);
}

/* No stream or no group: nobody has anything in hand. */
static bool takeover_recover(struct op *op, const struct redis_value *error)
{
    if (!redis_error_is(error, "NOGROUP"))
        return false;
    end_claim(op, &(const struct err){.code = ERR_NONE}, true);
    free(op);
    return true;
}

void queue_redis_takeover(struct queue *queue, struct queue_name name, const char *consumer,
                          int64_t min_idle_ms, size_t max, queue_claim_done *done, void *arg)
{
    static const struct op_kind kind = {claim_size, takeover_build, takeover_answer,
                                        takeover_recover};
    struct op *op = op_new(queue, &kind, name, arg);
    op->consumer = consumer;
    op->claimed = done;
    op->claim.min_idle_ms = min_idle_ms;
    memcpy(op->claim.cursor, "0-0", 4);
    start_claim(op, max);
}
