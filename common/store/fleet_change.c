/* Looks whether what is older has ended in a queue that is closing: in the store; messages without rows are in the queue only. Each
 * process looks for itself; the store minds that no live one still has older ones to bring. */
#include "base/bug.h"
#include "base/mem.h"
#include "store/fleet_internal.h"

#include <stdlib.h>

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

static bool is_looking(const struct fleet *fleet, const char *id)
{
    const struct fleet_look *look;
    LIST_FOREACH(look, &fleet->looks, link)
    {
        if (strcmp(look->id, id) == 0)
            return true;
    }
    return false;
}

static void on_closed(void *arg, const struct err *err)
{
    struct fleet_look *look = arg;
    struct fleet *fleet = look->fleet;
    free_look(look);
    if (err->code == ERR_NONE)
        fleet_hurry(fleet);
}

static void ask(struct fleet_look *look, int64_t below);

/* What was changed more than once is closed at one go where nothing came in between. */
static void end_call(struct fleet_look *look)
{
    struct fleet *fleet = look->fleet;
    struct store *store = fleet->options.store;
    if (--look->calls > 0)
        return;
    if (look->unfinished && !look->went_on) {
        free_look(look);
    } else if (!look->went_on && look->last_version > look->version &&
               fleet->all_applied >= look->last_version) {
        look->went_on = true;
        ask(look, look->last_version);
    } else {
        int64_t below = look->went_on && !look->unfinished ? look->last_version : look->version;
        store->ops->close_queue(store, look->id, below, on_closed, look);
    }
}

static void on_older(void *arg, const struct err *err, bool any)
{
    struct fleet_look *look = arg;
    look->unfinished |= err->code != ERR_NONE || any;
    end_call(look);
}

static void on_depth(void *arg, const struct err *err, const struct queue_depth *depth)
{
    struct fleet_look *look = arg;
    look->unfinished |=
        err->code != ERR_NONE || depth->waiting + depth->in_hand + depth->delayed > 0;
    end_call(look);
}

static void ask(struct fleet_look *look, int64_t below)
{
    struct queue *queue = look->fleet->options.queue;
    struct store *store = look->fleet->options.store;
    bool has_rows = look->old->persistence.wal_enabled;
    look->calls = 1; /* our own */
    for (unsigned n = 0; !has_rows && n < (unsigned)look->old->partitions; n++) {
        look->calls++;
        queue->ops->depth(queue, queue_name_of(look->old, n), on_depth, look);
    }
    look->calls++;
    store->ops->older(store, look->id, below, on_older, look);
    end_call(look);
}

static void begin(struct fleet *fleet, const struct fleet_change *change)
{
    struct fleet_look *look = mem_alloc(sizeof(*look));
    look->fleet = fleet;
    memcpy(look->id, change->id, sizeof(look->id));
    look->version = change->version;
    look->last_version = change->last_version;
    look->old = change->old;
    look->old_production = production_ref(change->old_production);
    LIST_INSERT_HEAD(&fleet->looks, look, link);
    ask(look, look->version);
}

void fleet_look(struct fleet *fleet)
{
    const struct fleet_change *change;
    TAILQ_FOREACH(change, &fleet->changes, link)
    {
        if (change->stage == FLEET_CLOSING && change->old && fleet->queue_up &&
            fleet->all_applied >= change->version && !is_looking(fleet, change->id))
            begin(fleet, change);
    }
}
