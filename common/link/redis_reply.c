#include "link/redis_reply.h"

#include <hiredis/hiredis.h>
#include <stdalign.h>
#include <stdlib.h>

#define BLOCK_FIRST 2048u          /* small replies need no second one */
#define BLOCK_LARGE (128u * 1024u) /* blocks double up to this */
#define REPLY_MAX (1u << 30)       /* bytes of one reply: two of Redis's largest strings */
#define LIST_MAX (1u << 20)        /* items of one list */

struct redis_block {
    struct redis_block *next;
    size_t size;
    alignas(max_align_t) char bytes[];
};

static void *add_block(struct redis_reply *reply, size_t size)
{
    if (size > REPLY_MAX - reply->size)
        return NULL;
    struct redis_block *block = malloc(sizeof(*block) + size);
    if (!block)
        return NULL;
    block->size = size;
    block->next = reply->blocks;
    reply->blocks = block;
    reply->size += size;
    return block->bytes;
}

/* NULL when the reply grows past its maximum or memory is out. */
static void *reply_alloc(struct redis_reply *reply, size_t size, size_t align)
{
    size_t gap = (align - (uintptr_t)reply->at % align) % align;
    if (reply->at && size + gap <= (size_t)(reply->end - reply->at)) {
        char *ptr = reply->at + gap;
        reply->at = ptr + size;
        return ptr;
    }
    size_t block_size = reply->size < BLOCK_FIRST   ? BLOCK_FIRST
                        : reply->size > BLOCK_LARGE ? BLOCK_LARGE
                                                    : reply->size; /* doubles what there is */
    if (size > block_size / 4)
        return add_block(reply, size); /* a large one gets its own, the current stays in use */
    char *bytes = add_block(reply, block_size);
    if (bytes) {
        reply->at = bytes + size;
        reply->end = bytes + block_size;
    }
    return bytes;
}

struct redis_reply *redis_reply_new(void)
{
    return calloc(1, sizeof(struct redis_reply));
}

static void free_blocks(struct redis_reply *reply)
{
    while (reply->blocks) {
        struct redis_block *next = reply->blocks->next;
        free(reply->blocks);
        reply->blocks = next;
    }
}

void redis_reply_reset(struct redis_reply *reply)
{
    struct redis_block *block = reply->blocks;
    if (block && !block->next && block->size == BLOCK_FIRST) {
        *reply = (struct redis_reply){.blocks = block, .at = block->bytes, .size = BLOCK_FIRST};
        reply->end = block->bytes + BLOCK_FIRST;
        return;
    }
    free_blocks(reply);
    *reply = (struct redis_reply){0};
}

void redis_reply_keep(struct redis_reply *reply)
{
    if (reply->kept)
        *reply->kept = true;
    reply->kept = NULL;
}

struct redis_reply *redis_reply_free(struct redis_reply *reply)
{
    while (reply) {
        struct redis_reply *next = reply->next;
        free_blocks(reply);
        free(reply);
        reply = next;
    }
    return NULL;
}

const struct redis_value *redis_item(const struct redis_value *list, size_t index)
{
    static const struct redis_value nil = {.kind = REDIS_KIND_NIL};
    return list->kind == REDIS_KIND_LIST && index < list->count ? &list->items[index] : &nil;
}

/* ---- errors ---- */

bool redis_error_is(const struct redis_value *value, const char *start)
{
    size_t len = strlen(start);
    return value->kind == REDIS_KIND_ERROR && value->text.len >= len &&
           memcmp(value->text.ptr, start, len) == 0;
}

void redis_error_word(const struct redis_value *error, char ret[static 24])
{
    size_t len = 0;
    while (len < error->text.len && len < 23 && error->text.ptr[len] >= 'A' &&
           error->text.ptr[len] <= 'Z') {
        ret[len] = error->text.ptr[len];
        len++;
    }
    ret[len] = '\0';
}

void redis_error_read(const struct redis_value *error, struct err *err)
{
    static const char *const nothing_done[] = {"LOADING",    "BUSY",     "OOM",         "MISCONF",
                                               "READONLY",   "TRYAGAIN", "MASTERDOWN",  "NOPERM",
                                               "NOREPLICAS", "NOAUTH",   "CLUSTERDOWN", "NOGROUP"};
    char word[24];
    redis_error_word(error, word);
    enum error_code code = ERR_OUTCOME_UNKNOWN;
    for (size_t i = 0; i < sizeof(nothing_done) / sizeof(nothing_done[0]); i++) {
        if (strcmp(word, nothing_done[i]) == 0)
            code = ERR_UNAVAILABLE;
    }
    err_set(err, code, "redis answered %s", word[0] ? word : "an error");
}

/* ---- hiredis's hooks ---- */

/* Where a task's value goes: into its parent's list, or the root. */
static struct redis_value *place(const redisReadTask *task, struct redis_reply **ret_reply)
{
    struct redis_reply **into = task->privdata;
    *ret_reply = *into;
    if (!task->parent)
        return &(*into)->root;
    const struct redis_value *list = task->parent->obj;
    return (struct redis_value *)&list->items[task->idx];
}

static void *create_string(const redisReadTask *task, char *text, size_t len)
{
    struct redis_reply *reply;
    struct redis_value *value = place(task, &reply);
    char *copy = reply_alloc(reply, len + 1, 1);
    if (!copy)
        return NULL;
    memcpy(copy, text, len);
    copy[len] = '\0';
    value->kind = task->type == REDIS_REPLY_ERROR    ? REDIS_KIND_ERROR
                  : task->type == REDIS_REPLY_STATUS ? REDIS_KIND_STATUS
                                                     : REDIS_KIND_TEXT;
    value->text = slice_of(copy, len);
    return value;
}

static void *create_list(const redisReadTask *task, size_t count)
{
    struct redis_reply *reply;
    struct redis_value *value = place(task, &reply);
    if (count > LIST_MAX)
        return NULL;
    struct redis_value *items =
        reply_alloc(reply, (count ? count : 1) * sizeof(*items), alignof(struct redis_value));
    if (!items)
        return NULL;
    for (size_t i = 0; i < count; i++)
        items[i].kind = REDIS_KIND_NIL;
    value->kind = REDIS_KIND_LIST;
    value->count = (uint32_t)count;
    value->items = items;
    return value;
}

/* hiredis 0.14 counts in int, 1.0 and later in size_t. */
#if HIREDIS_MAJOR >= 1
typedef size_t list_count;
#else
typedef int list_count;
#endif

static void *create_array(const redisReadTask *task, list_count count)
{
    return create_list(task, (size_t)count); /* a negative one is past the maximum */
}

static void *create_integer(const redisReadTask *task, long long integer)
{
    struct redis_reply *reply;
    struct redis_value *value = place(task, &reply);
    value->kind = REDIS_KIND_INTEGER;
    value->integer = integer;
    return value;
}

static void *create_nil(const redisReadTask *task)
{
    struct redis_reply *reply;
    struct redis_value *value = place(task, &reply);
    value->kind = REDIS_KIND_NIL;
    return value;
}

static void free_object(void *object)
{
    (void)object; /* the arena's */
}

static redisReplyObjectFunctions hooks = {
    .createString = create_string,
    .createArray = create_array,
    .createInteger = create_integer,
    .createNil = create_nil,
    .freeObject = free_object,
};

struct redisReader *redis_reader_new(struct redis_reply **into)
{
    redisReader *reader = redisReaderCreateWithFunctions(&hooks);
    if (reader) {
        reader->privdata = into;
        reader->maxbuf = 1u << 20; /* what it keeps for the next reply */
    }
    return reader;
}
