/* Repeats of what is in hand: a table of keys, and the rows of those that follow. A follower keeps no body: it ends as the
 * first one does. */
#include "intake_internal.h"

#include "base/mem.h"

#include <stdlib.h>

#define BUCKETS_FIRST 64u

static struct intake_key_list *bucket_of(const struct intake_keys *keys, struct uuid key)
{
    uint64_t hash = hash_bytes(keys->seed, key.bytes, sizeof(key.bytes));
    return &keys->buckets[hash & (keys->bucket_count - 1)];
}

static void grow(struct intake_keys *keys)
{
    struct intake_keys old = *keys;
    if (!old.bucket_count)
        keys->seed = random_u64();
    keys->bucket_count = old.bucket_count ? old.bucket_count * 2 : BUCKETS_FIRST;
    keys->buckets = mem_array(keys->bucket_count, sizeof(*keys->buckets)); /* zeroed: empty */
    for (size_t i = 0; i < old.bucket_count; i++) {
        struct message_intake *message;
        while ((message = LIST_FIRST(&old.buckets[i]))) {
            LIST_REMOVE(message, key_link);
            LIST_INSERT_HEAD(bucket_of(keys, message->row.dedup_key), message, key_link);
        }
    }
    free(old.buckets);
}

struct message_intake *intake_find_key(const struct intake *intake, struct uuid key)
{
    struct message_intake *message;
    if (uuid_is_none(key) || !intake->keys.count)
        return NULL;
    LIST_FOREACH(message, bucket_of(&intake->keys, key), key_link)
    {
        if (uuid_equal(message->row.dedup_key, key))
            return message;
    }
    return NULL;
}

void intake_hold_key(struct message_intake *message)
{
    struct intake_keys *keys = &message->intake->keys;
    if (keys->count == keys->bucket_count)
        grow(keys);
    keys->count++;
    message->holds_key = true;
    LIST_INSERT_HEAD(bucket_of(keys, message->row.dedup_key), message, key_link);
}

void intake_drop_key(struct message_intake *message, struct intake_list *ret_followers)
{
    TAILQ_INIT(ret_followers);
    if (!message->holds_key)
        return;
    LIST_REMOVE(message, key_link);
    message->intake->keys.count--;
    message->holds_key = false;
    TAILQ_CONCAT(ret_followers, &message->followers, follow);
    struct message_intake *follower;
    TAILQ_FOREACH(follower, ret_followers, follow)
    follower->leader = NULL;
}

void intake_follow(struct message_intake *follower, struct message_intake *leader)
{
    follower->leader = leader;
    TAILQ_INSERT_TAIL(&leader->followers, follower, follow);
}

void intake_unfollow(struct message_intake *follower)
{
    if (!follower->leader)
        return;
    TAILQ_REMOVE(&follower->leader->followers, follower, follow);
    follower->leader = NULL;
}

void intake_answer_followers(struct intake_list *followers, struct uuid first,
                             const struct err *error)
{
    struct message_intake *follower;
    while ((follower = TAILQ_FIRST(followers))) {
        TAILQ_REMOVE(followers, follower, follow);
        intake_finish_repeat(follower, first, error);
    }
}

void intake_free_keys(struct intake *intake)
{
    free(intake->keys.buckets);
}
