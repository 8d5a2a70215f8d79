/* Natural batching: while one batch is under way the next gathers, so no timer waits when there is little to do
 * and batches grow by themselves under load. A batch starts at the end of the loop turn that added to it. */
#ifndef HIE_LINK_BATCHER_H
#define HIE_LINK_BATCHER_H

#include "link/loop.h"

#include <stddef.h>
#include <sys/queue.h>

struct batch_item { /* embed it; the adder owns it */
    STAILQ_ENTRY(batch_item) link;
    size_t bytes;
};

struct batcher {
    STAILQ_HEAD(, batch_item) waiting;
    size_t count;                /* of waiting */
    size_t max_count, max_bytes; /* of a batch; a single larger item goes alone */
    unsigned under_way, max_under_way;
    bool held; /* gathers, starts nothing */
    /* Starts a batch; batcher_done must follow, later. `items` is valid during the call. */
    void (*start)(void *arg, struct batch_item **items, size_t count);
    void *arg;
    struct loop_task task;
};

#define BATCHER_MAX_COUNT 512u

void batcher_init(struct batcher *batcher, struct loop *loop, size_t max_count, size_t max_bytes,
                  void (*start)(void *, struct batch_item **, size_t), void *arg);
void batcher_free(struct batcher *batcher); /* waiting items stay the adders' */
void batcher_add(struct batcher *batcher, struct batch_item *item, size_t bytes);
/* Puts an item back in front, to go with the next batch: for a batch that failed and may be repeated. */
void batcher_put_back(struct batcher *batcher, struct batch_item *item);
void batcher_done(struct batcher *batcher);
/* While held nothing starts. */
void batcher_hold(struct batcher *batcher, bool held);
/* Takes the first waiting item out; NULL when there is none. */
struct batch_item *batcher_take(struct batcher *batcher);

#endif
