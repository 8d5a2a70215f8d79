/* What we know of our consumer beside its claims: where it stands among the idle, and which queues may have put entries into its hand in a
 * reply that was lost. The first saves a command for each claim. The second matters to fifo alone: elsewhere somebody takes over what
 * nobody renews, but a partition has one owner, who must find out himself what he holds. So he looks before his first claim: after a lost
 * reply, after Redis was away (which may have lost its last writes), of what he handed back, of a partition he owns again. */
#include "base/bug.h"
#include "base/mem.h"
#include "queue/queue_redis.h"

#include <stdio.h>
#include <stdlib.h>
#include <uthash.h>

/* ---- among the idle ---- */

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

void queue_redis_note_idle(struct queue_redis *queue, struct queue_name queue_name)
{
    if (find_registration(queue, queue_name.item, queue_name.partition))
        return;
    char name[256];
    size_t len = registration_name(name, queue_name.item, queue_name.partition);
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

static void build_unregister(const struct queue_redis *queue, const void *arg, struct buffer *out)
{
    const struct op *op = arg;
    redis_put_array(out, 3);
    redis_put_text(out, "SREM");
    put_key(out, queue, op->name, "idle", NULL);
    redis_put_text(out, op->consumer);
}

void queue_redis_leave_idle(struct op *op)
{
    struct queue_redis *queue = op->queue;
    if (!find_registration(queue, op->name.item, op->name.partition))
        return;
    queue_redis_unregister(queue, op->name.item, op->name.partition);
    (void)queue_redis_tell(queue, QUEUE_REDIS_HEAD, build_unregister, op);
}

/* ---- what we hold ---- */

/* Of a queue that we have looked into since the link came up. */
struct hand {
    UT_hash_handle hh;
    char from
        [QUEUE_ENTRY_ID_MAX]; /* the look goes on behind this entry; "": it is through, and all is known */
    char name[];              /* "pattern item/partition" */
};

static size_t hand_name(char ret[static 256], struct queue_name name)
{
    int len = snprintf(ret, 256, "%u %s/%u", (unsigned)name.pattern, name.item, name.partition);
    BUG_ON(len < 0 || len >= 256);
    return (size_t)len;
}

static struct hand *find_hand(const struct queue_redis *queue, struct queue_name name)
{
    char text[256];
    struct hand *found = NULL;
    size_t len = hand_name(text, name);
    HASH_FIND(hh, queue->hands, text, len, found);
    return found;
}

static void note_from(struct queue_redis *queue, struct queue_name name, const char *from)
{
    char text[256];
    struct hand *hand = find_hand(queue, name);
    if (!hand) {
        size_t len = hand_name(text, name);
        hand = mem_alloc(sizeof(*hand) + len + 1);
        memcpy(hand->name, text, len);
        HASH_ADD(hh, queue->hands, name, len, hand);
    }
    snprintf(hand->from, sizeof(hand->from), "%s", from);
}

const char *queue_redis_unsure(const struct queue_redis *queue, struct queue_name name)
{
    struct hand *found = queue->hands ? find_hand(queue, name) : NULL;
    if (!found)
        return "0-0";
    return found->from[0] ? found->from : NULL;
}

void queue_redis_note_sure(struct queue_redis *queue, struct queue_name name)
{
    note_from(queue, name, "");
}

void queue_redis_note_sure_to(struct queue_redis *queue, struct queue_name name, const char *from)
{
    note_from(queue, name, from);
}

static void drop_hand(struct queue_redis *queue, struct hand *hand)
{
    HASH_DEL(queue->hands, hand);
    free(hand);
}

void queue_redis_note_unsure(struct queue_redis *queue, struct queue_name name)
{
    struct hand *found = queue->hands ? find_hand(queue, name) : NULL;
    if (found)
        drop_hand(queue, found);
}

void queue_redis_note_all_unsure(struct queue_redis *queue)
{
    struct hand *each, *next;
    HASH_ITER(hh, queue->hands, each, next)
    {
        drop_hand(queue, each);
    }
}
