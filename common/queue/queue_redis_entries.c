/* The entries of a claim, read in place: what it returns borrows from the replies, which it owns. */
#include "base/bug.h"
#include "base/mem.h"
#include "queue/queue_redis.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- one entry ---- */

bool queue_redis_entry_id(struct slice text, char ret[static QUEUE_ENTRY_ID_MAX], int64_t *ret_ms)
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
    struct slice cid, at, pri, key, meta, body, tries;
};

static void read_fields(const struct redis_value *list, struct fields *fields)
{
    const struct {
        const char *name;
        struct slice *value;
    } known[] = {{"cid", &fields->cid},  {"at", &fields->at},     {"pri", &fields->pri},
                 {"key", &fields->key},  {"meta", &fields->meta}, {"body", &fields->body},
                 {"try", &fields->tries}};
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
        !queue_redis_entry_id(id->text, entry->entry_id, &entry_ms))
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
    if (slice_to_int(fields.tries, 0, INT32_MAX, &number))
        entry->attempts = (int)number;
    else if (fields.tries.len > 0)
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

/* ---- adoption ---- */

struct adopted {
    const struct op *op;
    const struct queue_entry **entries;
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

/* ---- all of them ---- */

/* Where a walk over the kept replies is. Their kinds: ids [more, marked, ids, …] that a Function put into our hand, and behind it
 * XCLAIM's [entry, …]; XREADGROUP's [[stream, [entry, …]]]; XAUTOCLAIM's [cursor, [entry, …], deleted]. */
struct walk {
    const struct redis_value *entries;
    const struct redis_value *marked; /* ids of entries that were taken over, in their order */
    size_t marked_at;
    bool is_fetched, is_takeover;
};

static bool next_entries(struct walk *walk, const struct redis_reply *reply)
{
    const struct redis_value *first = redis_item(&reply->root, 0);
    if (first->kind == REDIS_KIND_INTEGER) {
        *walk = (struct walk){.marked = redis_item(&reply->root, 1), .is_fetched = true};
        return false;
    }
    if (walk->is_fetched)
        walk->entries = &reply->root;
    else
        walk->entries = redis_item(first->kind == REDIS_KIND_TEXT ? &reply->root : first, 1);
    walk->is_takeover = !walk->is_fetched && first->kind == REDIS_KIND_TEXT;
    walk->is_fetched = false;
    return walk->entries->kind == REDIS_KIND_LIST;
}

/* Marked ones that are gone have no entry. */
static bool is_taken_over(struct walk *walk, const char *entry_id)
{
    size_t count = walk->marked && walk->marked->kind == REDIS_KIND_LIST ? walk->marked->count : 0;
    if (walk->is_takeover)
        return true;
    for (size_t i = walk->marked_at; i < count; i++) {
        if (walk->marked->items[i].kind == REDIS_KIND_TEXT &&
            slice_is(walk->marked->items[i].text, entry_id)) {
            walk->marked_at = i + 1;
            return true;
        }
    }
    return false;
}

static void release_replies(void *replies)
{
    redis_reply_free(replies);
}

static void read_all(const struct op *op, struct walk *walk, struct queue_claimed *claimed,
                     struct adopted *adopted)
{
    for (size_t i = 0; i < walk->entries->count && claimed->count < op->claim.found; i++) {
        struct queue_entry *entry = &claimed->entries[claimed->count];
        bool adopt = false;
        if (!read_entry(op, &walk->entries->items[i], entry, &adopt))
            continue;
        entry->taken_over = is_taken_over(walk, entry->entry_id);
        claimed->count++;
        if (adopt && adopted->count < QUEUE_BATCH_MAX)
            adopted->entries[adopted->count++] = entry;
    }
    walk->marked = NULL;
}

struct queue_claimed *queue_redis_read(struct op *op)
{
    struct queue_claimed *claimed = mem_alloc(sizeof(*claimed));
    const struct queue_entry *to_adopt[QUEUE_BATCH_MAX];
    struct adopted adopted = {op, to_adopt, 0};
    struct walk walk = {.entries = NULL};
    claimed->references = 1;
    claimed->replies = op->claim.first;
    claimed->release = release_replies;
    claimed->entries = mem_array(op->claim.found, sizeof(*claimed->entries));
    for (const struct redis_reply *reply = op->claim.first; reply; reply = reply->next) {
        if (next_entries(&walk, reply))
            read_all(op, &walk, claimed, &adopted);
    }
    if (adopted.count > 0)
        (void)queue_redis_tell(op->queue,
                               QUEUE_REDIS_HEAD + adopted.count * (ID_SIZE + ENTRY_ID_SIZE),
                               build_index, &adopted);
    return claimed;
}
