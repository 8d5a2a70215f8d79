#include "redrive.h"

#include "base/arena.h"
#include "base/mem.h"

#include <stdlib.h>

struct redrive {
    struct redrive_request request;
    size_t id_count; /* of `ids`; 0: all of the item's */
    size_t told, left;
    struct uuid batch[STORE_BATCH_MAX]; /* under way */
    struct uuid
        after; /* the next batch goes on behind it, so what dies again meanwhile is not driven round and round */
    unsigned calls;
    struct arena arena; /* what entries borrow */
    struct uuid ids[];
};

static void revive(struct redrive *redrive);

static void finish(struct redrive *redrive, const struct err *err)
{
    redrive->request.done(redrive->request.arg, err, redrive->told, redrive->left);
    item_release(redrive->request.item);
    free(redrive);
}

static void end_call(struct redrive *redrive)
{
    if (--redrive->calls > 0)
        return;
    arena_done(&redrive->arena);
    if (uuid_is_none(redrive->after))
        finish(redrive, &(const struct err){.code = ERR_NONE});
    else
        revive(redrive);
}

static void on_unburied(void *arg, const struct err *err)
{
    (void)err; /* the mirror is only a mirror */
    end_call(arg);
}

static void on_enqueued(void *arg, const struct err *err, int64_t depth)
{
    (void)err; /* what did not enter the reconciler brings */
    (void)depth;
    end_call(arg);
}

static void add_entry(struct redrive *redrive, const struct store_message *row)
{
    const struct fleet *fleet = redrive->request.fleet;
    const struct item *item = redrive->request.item;
    if (fleet)
        item = fleet_route(fleet, item->id, row->version);
    if (!item)
        return; /* its queue is changing: the reconciler brings it */
    struct arena *arena = &redrive->arena;
    struct slice body = arena_copy(arena, body_slice(row->body));
    struct queue_entry entry = {.id = row->id,
                                .at_ms = row->received_us / 1000,
                                .priority = row->priority,
                                .key = arena_copy(arena, row->ordering_key),
                                .meta = arena_copy(arena, row->meta),
                                .body = body_of(body.ptr, body.len)};
    struct queue *queue = redrive->request.queue;
    struct queue_entry *kept = arena_alloc(arena, sizeof(*kept));
    *kept = entry;
    redrive->calls++;
    queue->ops->enqueue(queue, queue_name_of(item, reconciler_partition(item, row)), kept, 1,
                        on_enqueued, redrive);
}

static void on_fetched(void *arg, const struct err *err, const struct store_unfinished *rows,
                       size_t count)
{
    struct redrive *redrive = arg;
    for (size_t i = 0; err->code == ERR_NONE && i < count; i++) {
        bool left_out = rows[i].message.body.len == 0 && rows[i].body_len > 0 &&
                        rows[i].body_len <= MESSAGE_INLINE_MAX; /* the reconciler brings it */
        if (!left_out)
            add_entry(redrive, &rows[i].message);
    }
    end_call(redrive);
}

static void on_handled(void *arg, const struct err *err, const struct store_handled *handled)
{
    struct redrive *redrive = arg;
    size_t count = handled->count;
    const struct redrive_request *request = &redrive->request;
    if (err->code != ERR_NONE) {
        finish(redrive, err);
        return;
    }
    redrive->told += count;
    redrive->left += handled->left;
    redrive->after = handled->next;
    memcpy(redrive->batch, handled->ids, count * sizeof(*handled->ids));
    arena_init(&redrive->arena);
    redrive->calls = 1; /* our own */
    for (size_t from = 0; from < count; from += QUEUE_BATCH_MAX) {
        size_t some = count - from < QUEUE_BATCH_MAX ? count - from : QUEUE_BATCH_MAX;
        redrive->calls++;
        request->queue->ops->unbury(request->queue, request->item->id, redrive->batch + from, some,
                                    on_unburied, redrive);
    }
    if (count && !request->dismiss) {
        redrive->calls++;
        request->store->ops->fetch(request->store, redrive->batch, count, on_fetched, redrive);
    }
    end_call(redrive);
}

static void revive(struct redrive *redrive)
{
    const struct redrive_request *request = &redrive->request;
    const struct uuid *ids = redrive->id_count ? redrive->ids : NULL;
    size_t count = redrive->id_count ? redrive->id_count : STORE_BATCH_MAX;
    if (request->dismiss)
        request->store->ops->dismiss(request->store, request->item->id, ids, count, redrive->after,
                                     on_handled, redrive);
    else
        request->store->ops->redrive(request->store, request->item->id, ids, count, redrive->after,
                                     on_handled, redrive);
}

void redrive_start(const struct redrive_request *request)
{
    size_t id_count = request->ids ? request->id_count : 0;
    struct redrive *redrive = mem_alloc(sizeof(*redrive) + id_count * sizeof(struct uuid));
    redrive->request = *request;
    redrive->request.ids = NULL;
    item_hold(request->item);
    redrive->id_count = id_count;
    if (id_count)
        memcpy(redrive->ids, request->ids, id_count * sizeof(*request->ids));
    revive(redrive);
}
