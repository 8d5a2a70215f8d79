/* Looks whether what is older has ended in a queue that is closing: first in the store, from where the last look found something, and
 * once more from the start before anything is closed; then in the queue itself, which may hold messages without rows. A look that
 * took long is followed by a long pause. Each process looks for itself; the store minds that no live one still has older ones to
 * bring. */
#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "store/fleet_internal.h"

#include <stdlib.h>

#define LOOK_SHARE 10 /* looking takes at most about this part of the time */
#define SOON_MS 5000  /* what is delayed for longer holds nothing up */

static void free_look(struct fleet_look *look)
{
    LIST_REMOVE(look, link);
    production_free(look->old_production);
    free(look);
}

void fleet_looks_free(struct fleet *fleet)
{
    while (!LIST_EMPTY(&fleet->looks))
        free_look(LIST_FIRST(&fleet->looks));
}

static void end(struct fleet_look *look)
{
    int64_t now = clock_mono_us();
    look->asking = false;
    look->next_us = now + (now - look->began_us) * LOOK_SHARE;
}

static void on_closed(void *arg, const struct err *err)
{
    struct fleet_look *look = arg;
    end(look);
    if (err->code == ERR_NONE)
        fleet_hurry(look->fleet);
}

static void close_below(struct fleet_look *look, int64_t version)
{
    struct store *store = look->fleet->options.store;
    store->ops->close_queue(store, look->id, version, on_closed, look);
}

/* ---- in the store ---- */

static void ask_depths(struct fleet_look *look);
static void on_older(void *arg, const struct err *err, int64_t seq);

static void ask_rows(struct fleet_look *look)
{
    struct store *store = look->fleet->options.store;
    store->ops->older(store, look->id, look->empty ? look->last_version : look->version,
                      look->after_seq, on_older, look);
}

static void on_older(void *arg, const struct err *err, int64_t seq)
{
    struct fleet_look *look = arg;
    if (look->empty) { /* what was changed more than once is closed at one go where nothing came in between */
        close_below(look, err->code == ERR_NONE && !seq ? look->last_version : look->version);
    } else if (err->code != ERR_NONE) {
        end(look);
    } else if (seq) {
        look->after_seq = seq - 1;
        end(look);
    } else if (look->after_seq) {
        look->after_seq = 0;
        ask_rows(look);
    } else {
        ask_depths(look);
    }
}

/* ---- in the queue ---- */

static void end_call(struct fleet_look *look)
{
    if (--look->calls > 0)
        return;
    if (look->occupied) {
        end(look);
    } else if (look->last_version > look->version &&
               look->fleet->all_applied >= look->last_version) {
        look->empty = true;
        ask_rows(look);
    } else {
        close_below(look, look->version);
    }
}

/* Also of an item with a WAL: it may have had none, and direct producers' entries have rows only once they were claimed. */
static void on_depth(void *arg, const struct err *err, const struct queue_depth *depth)
{
    struct fleet_look *look = arg;
    look->occupied |= err->code != ERR_NONE || depth->waiting + depth->in_hand > 0 ||
                      (depth->delayed > 0 && depth->next_due_ms < clock_wall_ms() + SOON_MS);
    end_call(look);
}

static void ask_depths(struct fleet_look *look)
{
    struct queue *queue = look->fleet->options.queue;
    look->occupied = false;
    look->calls = 1; /* our own */
    for (unsigned n = 0; n < (unsigned)look->old->partitions; n++) {
        look->calls++;
        queue->ops->depth(queue, queue_name_of(look->old, n), on_depth, look);
    }
    end_call(look);
}

/* ---- which ones ---- */

static bool is_of(const struct fleet_look *look, const struct fleet_change *change)
{
    return change && change->stage == FLEET_CLOSING && change->version == look->version;
}

static void drop_others(struct fleet *fleet)
{
    struct fleet_look *look, *next;
    for (look = LIST_FIRST(&fleet->looks); look; look = next) {
        next = LIST_NEXT(look, link);
        if (!look->asking && !is_of(look, fleet_change_find(&fleet->changes, look->id)))
            free_look(look);
    }
}

static struct fleet_look *look_of(struct fleet *fleet, const struct fleet_change *change)
{
    struct fleet_look *look;
    LIST_FOREACH(look, &fleet->looks, link)
    {
        if (strcmp(look->id, change->id) == 0)
            return look;
    }
    look = mem_alloc(sizeof(*look));
    look->fleet = fleet;
    memcpy(look->id, change->id, sizeof(look->id));
    look->version = change->version;
    look->old = change->old;
    look->old_production = production_ref(change->old_production);
    LIST_INSERT_HEAD(&fleet->looks, look, link);
    return look;
}

static void begin(struct fleet_look *look, const struct fleet_change *change)
{
    look->asking = true;
    look->empty = false;
    look->last_version = change->last_version;
    look->began_us = clock_mono_us();
    ask_rows(look);
}

void fleet_look(struct fleet *fleet)
{
    const struct fleet_change *change;
    drop_others(fleet);
    TAILQ_FOREACH(change, &fleet->changes, link)
    {
        if (change->stage != FLEET_CLOSING || !change->old || !fleet->queue_up ||
            fleet->all_applied < change->version)
            continue;
        struct fleet_look *look = look_of(fleet, change);
        if (!look->asking && is_of(look, change) && clock_mono_us() >= look->next_us)
            begin(look, change);
    }
}
