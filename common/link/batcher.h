/* Natural batching: while one batch is under way the next gathers, so no timer waits when there is little to do
 * and batches grow by themselves under load. A batch starts at the end of the loop turn that added to it.
 *
 * Items may be added to groups: a group bounds how many of its items go with one batch, keeps their order, and takes its turn with
 * the other groups. A patient group's items may wait a moment for company: a batch of nothing else starts when a group is
 * full, or after `patience_us`. Any other item starts it at once. */
#ifndef HIE_LINK_BATCHER_H
#define HIE_LINK_BATCHER_H

#include "link/loop.h"

#include <stddef.h>
#include <sys/queue.h>

struct batch_item { /* embed it; the adder owns it */
    STAILQ_ENTRY(batch_item) link;
    struct batch_group *group;
    size_t bytes;
};

struct batch_group { /* embed it; the adder owns it */
    STAILQ_HEAD(, batch_item) waiting;
    TAILQ_ENTRY(batch_group) link; /* among the batcher's, while anything waits */
    size_t count;                  /* of waiting */
    size_t max_count;              /* of one batch */
    bool patient;
};

struct batcher {
    TAILQ_HEAD(batch_groups, batch_group)
    groups;                      /* where something waits; the next one's turn first */
    struct batch_group rest;     /* of items that were added without a group */
    size_t count;                /* of all that waits */
    size_t urgent;               /* of them, those that are not patient */
    size_t full;                 /* patient groups that fill their part of a batch */
    size_t max_count, max_bytes; /* of a batch; a single larger item goes alone */
    unsigned under_way, max_under_way;
    bool held; /* gathers, starts nothing */
    int64_t patience_us;
    int64_t
        since_us; /* the oldest of those waiting came no later, monotonic; minded while all are patient */
    /* Starts a batch; batcher_done must follow, later. `items` is valid during the call. */
    void (*start)(void *arg, struct batch_item **items, size_t count);
    void *arg;
    struct loop_task task;
    struct loop_timer patience; /* only with patience_us */
};

#define BATCHER_MAX_COUNT 512u

void batcher_init(struct batcher *batcher, struct loop *loop, size_t max_count, size_t max_bytes,
                  void (*start)(void *, struct batch_item **, size_t), void *arg);
void batcher_free(struct batcher *batcher); /* waiting items stay the adders' */
/* Patient groups wait for so long at most. Before anything is added. */
void batcher_set_patience(struct batcher *batcher, struct loop *loop, int64_t patience_us);
void batch_group_init(struct batch_group *group, size_t max_count, bool patient);
void batcher_add(struct batcher *batcher, struct batch_item *item, size_t bytes);
void batcher_add_to(struct batcher *batcher, struct batch_group *group, struct batch_item *item,
                    size_t bytes);
/* Puts an item back in front, to go with the next batch: for a batch that failed and may be repeated. */
void batcher_put_back(struct batcher *batcher, struct batch_item *item);
void batcher_done(struct batcher *batcher);
/* Nothing waits, nothing is under way. */
bool batcher_idle(const struct batcher *batcher);
/* While held nothing starts. */
void batcher_hold(struct batcher *batcher, bool held);

#endif
