#include "settler.h"

#include "base/bug.h"
#include "base/mem.h"
#include "lane.h"
#include "worker.h"

#include <stdlib.h>

#define AGAIN_MS 200

struct settle_batch {
    struct settler *settler;
    size_t count;
    struct claim *claims[BATCHER_MAX_COUNT];
    struct store_outcome *outcomes[BATCHER_MAX_COUNT];
};

static struct claim *claim_of(struct batch_item *item)
{
    return (struct claim *)((char *)item - offsetof(struct claim, batch));
}

static void on_settled(void *arg, const struct err *err)
{
    struct settle_batch *batch = arg;
    struct settler *settler = batch->settler;
    if (batch->count)
        worker_note(batch->claims[0]->lane->worker, &batch->claims[0]->lane->worker->settle_trouble,
                    err);
    if (err->code == ERR_NONE) {
        for (size_t i = 0; i < batch->count; i++)
            lane_settled(batch->claims[i]);
    } else { /* repeated when the database is back, or a little later */
        batcher_hold(&settler->batcher, true);
        for (size_t i = batch->count; i-- > 0;) {
            batch->claims[i]->settle_repeated |= err->code == ERR_OUTCOME_UNKNOWN;
            batcher_put_back(&settler->batcher, &batch->claims[i]->batch);
        }
        if (settler->store_up)
            loop_timer_set(&settler->again, AGAIN_MS);
    }
    batcher_done(&settler->batcher);
    free(batch);
}

static void start_settle(void *arg, struct batch_item **items, size_t count)
{
    struct settler *settler = arg;
    struct settle_batch *batch = mem_alloc(sizeof(*batch));
    batch->settler = settler;
    batch->count = count;
    for (size_t i = 0; i < count; i++) {
        batch->claims[i] = claim_of(items[i]);
        batch->outcomes[i] = &batch->claims[i]->outcome;
    }
    settler->store->ops->settle(settler->store, batch->outcomes, count, on_settled, batch);
}

static void on_again(void *arg)
{
    struct settler *settler = arg;
    if (settler->store_up)
        batcher_hold(&settler->batcher, false);
}

void settler_init(struct settler *settler, struct loop *loop, struct store *store)
{
    *settler = (struct settler){.store = store};
    batcher_init(&settler->batcher, loop, STORE_BATCH_MAX, STORE_BATCH_BYTES, start_settle,
                 settler);
    batcher_hold(&settler->batcher, true);
    loop_timer_init(&settler->again, loop, on_again, settler);
}

void settler_done(struct settler *settler)
{
    batcher_free(&settler->batcher);
    loop_timer_done(&settler->again);
}

void settler_store_changed(struct settler *settler, bool up)
{
    settler->store_up = up;
    batcher_hold(&settler->batcher, !up);
}

void settler_add(struct settler *settler, struct claim *claim)
{
    size_t bytes = claim->outcome.reply.len + 256;
    for (size_t i = 0; i < claim->outcome.child_count; i++)
        bytes += claim->outcome.children[i].body.len + 256;
    batcher_add(&settler->batcher, &claim->batch, bytes);
}
