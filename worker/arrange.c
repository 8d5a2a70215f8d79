#include "arrange.h"

#include "base/log.h"
#include "base/mem.h"
#include "worker.h"

#include <stdio.h>
#include <stdlib.h>

#define REAP_MS 100
#define NAMES_MAX (64u * 1024u) /* bytes of the items' names in a heartbeat */

static bool names_item(const char *list, const char *id)
{
    size_t len = strlen(id);
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        if (strncmp(at, id, len) == 0 && (at[len] == ',' || at[len] == '\0'))
            return true;
    }
    return false;
}

static bool is_ours(const struct worker *worker, const char *id)
{
    return !worker->items || names_item(worker->items, id);
}

static struct lane *new_lane(struct worker *worker, struct production *production,
                             const struct item *item, bool runs)
{
    struct lane *lane = mem_alloc(sizeof(*lane));
    lane_init(lane, worker, production_ref(production), item, runs);
    TAILQ_INSERT_TAIL(&worker->all_lanes, lane, in_worker);
    return lane;
}

static void free_lane(struct lane *lane)
{
    struct production *production = lane->production;
    TAILQ_REMOVE(&lane->worker->all_lanes, lane, in_worker);
    lane_done(lane);
    free(lane);
    production_free(production);
}

/* A lane whose handler cannot start claims nothing, until another version has the item otherwise; children pass through it. NULL with
 * `err`: it cannot. */
static struct lane *open_lane(struct worker *worker, struct production *production,
                              const struct item *item, bool enabled, struct err *err)
{
    bool runs = enabled && is_ours(worker, item->id);
    struct lane *lane = new_lane(worker, production, item, runs);
    if (runs && lane_open(lane, err)) {
        free_lane(lane);
        return NULL;
    }
    lane_links_changed(lane);
    return lane;
}

static struct lane *open_or_idle(struct worker *worker, struct production *production,
                                 const struct item *item, bool enabled)
{
    struct err err;
    struct lane *lane = open_lane(worker, production, item, enabled, &err);
    if (lane) {
        health_clear(worker->health, item->id);
        return lane;
    }
    health_set(worker->health, item->id, false, err.text);
    log_error("item_cannot_start", LOG_WORD("item", item->id),
              LOG_INT("version", production->version), LOG_ERR(&err));
    lane = new_lane(worker, production, item, false);
    lane->cannot_start = true;
    lane_links_changed(lane);
    return lane;
}

/* ---- one item ---- */

static bool is_of(const struct lane *lane, const char *item_id)
{
    return strcmp(lane->item->id, item_id) == 0;
}

/* The lane that finishes what is older: today's, where its item's queue is that one again, or the one of before; made anew where this
 * worker joined in the midst of the change, and where the item was disabled, so that nothing keeps it closing. */
static struct lane *closing_lane(struct worker *worker, const struct fleet_shape *shape,
                                 struct lane *current)
{
    struct lane *lane;
    const char *item_id = shape->old ? shape->old->id : NULL;
    if (shape->stage != FLEET_CLOSING || !shape->old)
        return NULL;
    if (current && item_same_queue(current->item, shape->old))
        return current;
    bool enabled = shape->old->enabled || (current && current->item->enabled);
    TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
    {
        if (!lane->retiring && lane != current && is_of(lane, item_id) &&
            item_same_queue(lane->item, shape->old) &&
            (lane->runs || !enabled || lane->cannot_start || !is_ours(worker, item_id)))
            return lane;
    }
    return open_or_idle(worker, shape->old_production, shape->old, enabled);
}

/* Retires all lanes of the item but these two; whether any is left of those. */
static bool retire_others(struct worker *worker, const char *item_id, const struct lane *current,
                          const struct lane *closing)
{
    struct lane *lane;
    bool others = false;
    TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
    {
        if (!is_of(lane, item_id) || lane == current || lane == closing)
            continue;
        others = true;
        if (!lane->retiring)
            lane_retire(lane);
    }
    if (others && !loop_timer_pending(&worker->reap))
        loop_timer_set(&worker->reap, REAP_MS);
    return others;
}

/* Of a fifo item's lanes one at a time is open. */
static void set_open(struct lane *lane, bool open, bool others, int64_t below_version)
{
    lane->open = open && !(others && lane->fifo);
    if (lane->below_version != below_version)
        lane_look_anew(lane);
    lane->below_version = below_version;
}

void arrange_item(struct worker *worker, const char *item_id)
{
    struct fleet_shape shape = {.stage = FLEET_OPEN};
    struct lane *current = worker_lane(worker, item_id);
    if (worker->fleet)
        shape = fleet_shape(worker->fleet, item_id);
    struct lane *closing = closing_lane(worker, &shape, current);
    bool others = retire_others(worker, item_id, current, closing);
    if (current && current != closing)
        set_open(current, shape.stage == FLEET_OPEN, others, 0);
    if (closing)
        set_open(closing, true, others, shape.version);
    if (current)
        lane_links_changed(current);
    if (closing)
        lane_links_changed(closing);
    ownership_refresh(&worker->ownership);
}

bool arrange_has_left(struct worker *worker, const char *item_id)
{
    const struct lane *lane;
    TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
    {
        if (is_of(lane, item_id) && lane_is_claiming(lane))
            return false;
    }
    return true;
}

void arrange_all(struct worker *worker)
{
    for (size_t i = 0; i < worker->production->item_count; i++)
        arrange_item(worker, worker->production->items[i].id);
}

/* ---- the whole ---- */

/* For people: a list that is too long is cut. */
static void name_items(struct worker *worker)
{
    static const char more[] = ",...";
    struct buffer names;
    buffer_init(&names, NAMES_MAX);
    for (size_t i = 0; i < worker->production->item_count; i++) {
        const char *id = worker->lanes[i]->item->id;
        if (!worker->lanes[i]->runs)
            continue;
        if (names.len + 1 + strlen(id) + sizeof(more) > NAMES_MAX) {
            buffer_append_text(&names, more);
            break;
        }
        buffer_append_text(&names, names.len ? "," : "");
        buffer_append_text(&names, id);
    }
    buffer_append_byte(&names, '\0');
    free(worker->item_names);
    worker->item_names = names.data;
}

/* The lane of the version before, where its item says the same; else a new one. */
static struct lane *lane_for(struct worker *worker, const struct item *item, struct lane *before)
{
    if (before && before->item->text_hash == item->text_hash && item_same_queue(before->item, item))
        return before;
    return open_or_idle(worker, worker->production, item, item->enabled);
}

void arrange_production(struct worker *worker)
{
    struct production *before = worker->production;
    struct production *after = production_ref(fleet_production(worker->fleet));
    struct lane **lanes = mem_array(after->item_count, sizeof(struct lane *));
    worker->production = after;
    for (size_t i = 0; i < after->item_count; i++) {
        const struct item *item = &after->items[i];
        const struct item *old = production_find(before, slice_text(item->id));
        lanes[i] = lane_for(worker, item, old ? worker->lanes[old->index] : NULL);
    }
    for (size_t i = 0; i < before->item_count; i++) {
        if (!production_find(after, slice_text(before->items[i].id)))
            health_clear(worker->health, before->items[i].id);
    }
    free(worker->lanes);
    worker->lanes = lanes;
    name_items(worker);
    for (size_t i = 0; i < before->item_count; i++)
        arrange_item(worker, before->items[i].id);
    arrange_all(worker);
    production_free(before);
}

static void on_reap(void *arg)
{
    struct worker *worker = arg;
    struct lane *lane, *next;
    bool left = false;
    for (lane = TAILQ_FIRST(&worker->all_lanes); lane; lane = next) {
        next = TAILQ_NEXT(lane, in_worker);
        if (!lane->retiring)
            continue;
        if (!lane_is_over(lane) || !lane_leave(lane)) {
            left = true;
            continue;
        }
        char id[65];
        snprintf(id, sizeof(id), "%s", lane->item->id);
        free_lane(lane);
        arrange_item(worker, id);
    }
    if (left)
        loop_timer_set(&worker->reap, REAP_MS);
}

int arrange_init(struct worker *worker, struct err *err)
{
    struct production *production = worker->production;
    TAILQ_INIT(&worker->all_lanes);
    loop_timer_init(&worker->reap, worker->loop, on_reap, worker);
    worker->lanes = mem_array(production->item_count, sizeof(struct lane *));
    for (size_t i = 0; i < production->item_count; i++) {
        const struct item *item = &production->items[i];
        worker->lanes[i] = open_lane(worker, production, item, item->enabled, err);
        if (!worker->lanes[i])
            return -1;
    }
    name_items(worker);
    return 0;
}

void arrange_done(struct worker *worker)
{
    struct lane *lane;
    TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
    {
        lane_close(lane); /* what ends joins batches of others */
    }
    while ((lane = TAILQ_FIRST(&worker->all_lanes)))
        free_lane(lane);
    loop_timer_done(&worker->reap);
    free(worker->lanes);
    free(worker->item_names);
}
