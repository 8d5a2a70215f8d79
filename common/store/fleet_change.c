/* Items whose queues change: begins changes, asks whether what is older has ended, moves them on. */
#include "base/bug.h"
#include "base/log.h"
#include "base/mem.h"
#include "store/fleet_internal.h"

#include <stdlib.h>

struct fleet_change *fleet_find_change(const struct fleet *fleet, const char *item_id)
{
    struct fleet_change *change = fleet->changes;
    while (change && strcmp(change->id, item_id) != 0)
        change = change->next;
    return change;
}

int64_t fleet_closing_version(const struct fleet *fleet)
{
    int64_t lowest = 0;
    for (const struct fleet_change *change = fleet->changes; change; change = change->next) {
        if (change->stage == FLEET_CLOSING && (lowest == 0 || change->version < lowest))
            lowest = change->version;
    }
    return lowest;
}

static void release(struct fleet_change *change)
{
    if (change->asking) {
        change->dropped = true;
        return;
    }
    production_free(change->old_production);
    free(change);
}

static void take_out(struct fleet_change *change)
{
    struct fleet_change **at = &change->fleet->changes;
    while (*at != change)
        at = &(*at)->next;
    *at = change->next;
    change->fleet->change_count--;
    release(change);
}

void fleet_changes_drop(struct fleet *fleet)
{
    while (fleet->changes)
        take_out(fleet->changes);
}

/* ---- beginning ---- */

static void set_old(struct fleet_change *change, const struct item *old,
                    struct production *production)
{
    struct production *before = change->old_production;
    change->old = old;
    change->old_production = production_ref(production);
    production_free(before);
}

static struct fleet_change *add_change(struct fleet *fleet, const struct item *old,
                                       struct production *production, int64_t version)
{
    struct fleet_change *change = mem_alloc(sizeof(*change));
    change->fleet = fleet;
    snprintf(change->id, sizeof(change->id), "%s", old->id);
    change->stage = FLEET_CLOSING;
    change->version = version;
    set_old(change, old, production);
    change->next = fleet->changes;
    fleet->changes = change;
    fleet->change_count++;
    return change;
}

static bool same_queue(const struct item *old, const struct item *new)
{
    return new &&item_same_queue(old, new);
}

/* What waits in the WAL enters the newest shape, so a change that is closing keeps its old end. One that is closed has its
 * messages in the shape of `before` here or elsewhere: it begins anew. */
static void change_again(struct fleet_change *change, const struct item *before,
                         struct production *production, const struct item *after, int64_t version)
{
    if (change->stage == FLEET_CLOSED && before && !same_queue(before, after)) {
        change->stage = FLEET_CLOSING;
        change->version = version;
        set_old(change, before, production);
    }
}

void fleet_changes_begin(struct fleet *fleet, struct production *before, struct production *after)
{
    for (size_t i = 0; i < before->item_count; i++) {
        const struct item *old = &before->items[i];
        const struct item *new = production_find(after, slice_text(old->id));
        struct fleet_change *change = fleet_find_change(fleet, old->id);
        if (change)
            change_again(change, old, before, new, after->version);
        else if (!same_queue(old, new))
            add_change(fleet, old, before, after->version);
    }
}

/* ---- joining ---- */

/* One item that the last version changed: is that change still under way? */
struct recovery {
    struct fleet *fleet;
    const struct item *old;
    struct production *old_production; /* a reference */
};

static void end_recovery_call(struct fleet *fleet)
{
    if (--fleet->recovering > 1)
        return;
    fleet->recovering = 0;
    fleet_tell_readiness(fleet);
    if (fleet->options.on_joined)
        fleet->options.on_joined(fleet->options.arg);
    fleet_hurry(fleet);
}

static void begin_recovered(struct fleet *fleet, const struct item *old,
                            struct production *production)
{
    if (fleet_find_change(fleet, old->id))
        return;
    add_change(fleet, old, production, fleet->current->version);
    fleet->options.on_shape(fleet->options.arg, old->id);
}

static void on_recovery_older(void *arg, const struct err *err, bool any)
{
    struct recovery *recovery = arg;
    struct fleet *fleet = recovery->fleet;
    if (err->code != ERR_NONE || any)
        begin_recovered(fleet, recovery->old, recovery->old_production);
    production_free(recovery->old_production);
    free(recovery);
    end_recovery_call(fleet);
}

/* A process that lives and has not closed says that the change is under way; or what it left unfinished does. */
static void recover_item(struct fleet *fleet, const struct item *old, struct production *production)
{
    struct store *store = fleet->options.store;
    int64_t version = fleet->current->version;
    if (fleet->lowest <= version * 2) {
        begin_recovered(fleet, old, production);
        return;
    }
    struct recovery *recovery = mem_alloc(sizeof(*recovery));
    *recovery =
        (struct recovery){.fleet = fleet, .old = old, .old_production = production_ref(production)};
    fleet->recovering++;
    store->ops->older(store, old->id, version, on_recovery_older, recovery);
}

static void on_version_before(void *arg, const struct err *err,
                              const struct store_production *published)
{
    struct fleet *fleet = arg;
    struct diagnostics diagnostics;
    if (err->code != ERR_NONE) {
        fleet->recovering = 1; /* once more, with the next word of the fleet */
        return;
    }
    struct production *before = production_parse_published(published->text, &diagnostics);
    diagnostics_done(&diagnostics);
    for (size_t i = 0; before && i < before->item_count; i++) {
        const struct item *old = &before->items[i];
        if (!same_queue(old, production_find(fleet->current, slice_text(old->id))))
            recover_item(fleet, old, before);
    }
    production_free(before); /* NULL: what it left is brought into the queues of today */
    end_recovery_call(fleet);
}

void fleet_changes_recover(struct fleet *fleet)
{
    struct store *store = fleet->options.store;
    if (fleet->recovering != 1)
        return;
    fleet->recovering = 2; /* our own */
    if (fleet->current->version > 1)
        store->ops->production_of(store, fleet->current->version - 1, on_version_before, fleet);
    else
        end_recovery_call(fleet);
}

/* ---- moving on ---- */

static void move(struct fleet_change *change, enum fleet_stage stage)
{
    struct fleet *fleet = change->fleet;
    char id[sizeof(change->id)];
    memcpy(id, change->id, sizeof(id));
    log_info(stage == FLEET_CLOSED ? "queue_closed" : "queue_open", LOG_WORD("item", id),
             LOG_INT("version", change->version));
    if (stage == FLEET_OPEN)
        take_out(change);
    else
        change->stage = stage;
    fleet->options.on_shape(fleet->options.arg, id);
    fleet_hurry(fleet);
}

static void end_call(struct fleet_change *change)
{
    if (--change->asking > 0)
        return;
    if (change->dropped)
        release(change);
    else if (!change->unfinished && change->stage == FLEET_CLOSING)
        move(change, FLEET_CLOSED);
}

static void on_older(void *arg, const struct err *err, bool any)
{
    struct fleet_change *change = arg;
    change->unfinished |= err->code != ERR_NONE || any;
    end_call(change);
}

static void on_depth(void *arg, const struct err *err, const struct queue_depth *depth)
{
    struct fleet_change *change = arg;
    change->unfinished |=
        err->code != ERR_NONE || depth->waiting + depth->in_hand + depth->delayed > 0;
    end_call(change);
}

/* The store knows what is unfinished; messages without rows are in the queue only. */
static void ask_finished(struct fleet_change *change)
{
    struct fleet *fleet = change->fleet;
    struct queue *queue = fleet->options.queue;
    struct store *store = fleet->options.store;
    if (change->asking || !fleet->queue_up)
        return;
    change->unfinished = false;
    change->asking = 1; /* our own */
    bool has_rows = change->old->persistence.wal_enabled;
    for (unsigned n = 0; !has_rows && n < (unsigned)change->old->partitions; n++) {
        change->asking++;
        queue->ops->depth(queue, queue_name_of(change->old, n), on_depth, change);
    }
    change->asking++;
    store->ops->older(store, change->id, change->version, on_older, change);
    end_call(change);
}

void fleet_changes_look(struct fleet *fleet)
{
    struct fleet_change *change, *next;
    for (change = fleet->changes; change; change = next) {
        next = change->next;
        int64_t known = change->version * 2;
        if (change->stage == FLEET_CLOSING && fleet->lowest >= known)
            ask_finished(change);
        else if (change->stage == FLEET_CLOSED && fleet->lowest > known)
            move(change, FLEET_OPEN);
    }
}
