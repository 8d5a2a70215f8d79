#include "store/fleet.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/state.h"
#include "store/fleet_internal.h"

#include <stdlib.h>

#define TICK_MS 1000
#define CHANGING_TICK_MS 250
#define MEMBER_MS 6000   /* a process that is silent for longer counts no more */
#define FRESH_US 5000000 /* below it: it stops working before it stops counting */

enum { ALONE, JOINING, JOINED, STATE_COUNT };
static const char *const state_words[] = {"alone", "joining", "joined"};
static const uint32_t state_moves[] = {
    [ALONE] = STATE_BIT(JOINING),
    [JOINING] = STATE_BIT(JOINED) | STATE_BIT(ALONE),
    [JOINED] = STATE_BIT(JOINING) | STATE_BIT(ALONE),
};
static const struct state_table states = {"fleet", state_words, state_moves, STATE_COUNT};

/* ---- what others ask ---- */

struct production *fleet_production(const struct fleet *fleet)
{
    return fleet->current;
}

static bool is_fresh(const struct fleet *fleet)
{
    return clock_mono_us() - fleet->heard_us < FRESH_US;
}

bool fleet_joined(const struct fleet *fleet)
{
    return fleet->state == JOINED && is_fresh(fleet);
}

unsigned fleet_membership(const struct fleet *fleet)
{
    return fleet_joined(fleet) ? fleet->joins : 0;
}

int64_t fleet_heard_version(const struct fleet *fleet)
{
    return fleet->heard_version;
}

bool fleet_is_changing(const struct fleet *fleet)
{
    return !TAILQ_EMPTY(&fleet->changes);
}

struct fleet_change *fleet_change_find(const struct fleet_changes *changes, const char *item_id)
{
    struct fleet_change *change;
    TAILQ_FOREACH(change, changes, link)
    {
        if (strcmp(change->id, item_id) == 0)
            break;
    }
    return change;
}

struct fleet_shape fleet_shape(const struct fleet *fleet, const char *item_id)
{
    const struct fleet_change *change = fleet_change_find(&fleet->changes, item_id);
    if (!change)
        return (struct fleet_shape){.stage = FLEET_OPEN};
    return (struct fleet_shape){.stage = change->stage,
                                .version = change->version,
                                .old = change->old,
                                .old_production = change->old_production};
}

const struct item *fleet_route(const struct fleet *fleet, const char *item_id, int64_t version)
{
    const struct fleet_change *change = fleet_change_find(&fleet->changes, item_id);
    if (version > fleet->heard_version)
        return NULL; /* it may be for another queue */
    if (!change)
        return production_find(fleet->current, slice_text(item_id));
    return change->stage == FLEET_CLOSING && version < change->version ? change->old : NULL;
}

static const struct item *route_row(void *arg, const char *item_id, int64_t version)
{
    return fleet_joined(arg) ? fleet_route(arg, item_id, version) : NULL;
}

struct reconciler_route fleet_reconciler_route(const struct fleet *fleet)
{
    return (struct reconciler_route){.item = route_row, .arg = (void *)fleet};
}

/* ---- readiness ---- */

static bool differs(const struct fleet *fleet)
{
    return fleet->state == JOINED && strcmp(fleet->current->hash, fleet->own_hash) != 0;
}

static void tell_readiness(struct fleet *fleet)
{
    char text[160];
    long long version = (long long)fleet->current->version;
    bool refused = fleet->refused_version && fleet->refused_version == fleet->standing_version;
    if (refused)
        snprintf(text, sizeof(text),
                 "version %lld cannot be used here: is a variable of the environment missing?",
                 (long long)fleet->refused_version);
    else if (fleet->state != JOINED)
        snprintf(text, sizeof(text), "the fleet's version is not known yet");
    else if (differs(fleet))
        snprintf(text, sizeof(text), "version %lld; this process's own file differs", version);
    else
        snprintf(text, sizeof(text), "version %lld", version);
    health_set(fleet->options.health, "production", fleet->state == JOINED && !refused, text);
    metric_set(fleet->version_metric, (double)version);
    metric_set(fleet->differs_metric, differs(fleet));
    metric_set(fleet->changing_metric, (double)fleet->change_count);
}

static void move_to(struct fleet *fleet, unsigned state)
{
    if (fleet->state != state) {
        state_move(&states, &fleet->state, state);
        fleet->joins += state == JOINED;
    }
    tell_readiness(fleet);
}

/* ---- changes ---- */

static void free_change(struct fleet_change *change)
{
    if (change)
        production_free(change->old_production);
    free(change);
}

void fleet_changes_free(struct fleet_changes *changes)
{
    struct fleet_change *change;
    while ((change = TAILQ_FIRST(changes))) {
        TAILQ_REMOVE(changes, change, link);
        free_change(change);
    }
}

static bool is_same_stage(const struct fleet_change *a, const struct fleet_change *b)
{
    return a && b ? a->stage == b->stage && a->version == b->version : a == b;
}

static void set_old(struct fleet_change *change, struct production *production)
{
    change->old_sought = true;
    change->old = production ? production_find(production, slice_text(change->id)) : NULL;
    if (change->old)
        change->old_production = production_ref(production);
}

static void note_change(struct fleet *fleet, const struct store_change *told)
{
    struct fleet_change *change = mem_alloc(sizeof(*change));
    const struct fleet_change *before = fleet_change_find(&fleet->changes, told->item);
    snprintf(change->id, sizeof(change->id), "%s", told->item);
    change->stage = told->closed ? FLEET_CLOSED : FLEET_CLOSING;
    change->version = told->version;
    change->last_version = told->last_version;
    change->step = told->step;
    if (change->stage == FLEET_CLOSED)
        change->old_sought = true;
    else if (before && is_same_stage(before, change))
        set_old(change, before->old_production);
    else if (fleet->current->version == change->version - 1)
        set_old(change, fleet->current);
    TAILQ_INSERT_TAIL(&fleet->next, change, link);
}

static void note_standing(struct fleet *fleet, const struct store_standing *standing)
{
    fleet->heard_us = fleet->asked_us;
    fleet->standing_version = standing->version;
    fleet->next_step = standing->step;
    fleet->all_applied = standing->all_applied;
    for (size_t i = 0; i < standing->count; i++)
        note_change(fleet, &standing->changes[i]);
}

/* ---- what was heard is followed, all at once ---- */

static void tell_shape(struct fleet *fleet, const char *id, const struct fleet_change *before,
                       const struct fleet_change *now)
{
    static const char *const events[] = {"queue_open", "queue_closing", "queue_closed"};
    if (is_same_stage(before, now))
        return;
    log_info(events[now ? now->stage : FLEET_OPEN], LOG_WORD("item", id),
             LOG_INT("version", now ? now->version : before->version));
    fleet->options.on_shape(fleet->options.arg, id);
}

static void tell_shapes(struct fleet *fleet, const struct fleet_changes *before)
{
    const struct fleet_change *change;
    TAILQ_FOREACH(change, before, link)
    {
        tell_shape(fleet, change->id, change, fleet_change_find(&fleet->changes, change->id));
    }
    TAILQ_FOREACH(change, &fleet->changes, link)
    {
        if (!fleet_change_find(before, change->id))
            tell_shape(fleet, change->id, NULL, change);
    }
}

static void log_applied(const struct fleet *fleet)
{
    const struct production *production = fleet->current;
    struct buffer keys;
    log_info("production_applied", LOG_INT("version", production->version),
             LOG_INT("items", (int64_t)production->item_count),
             LOG_INT("changing", (int64_t)fleet->change_count));
    if (strcmp(production->hash, fleet->own_hash) != 0)
        log_warn("production_differs", LOG_INT("version", production->version));
    buffer_init(&keys, 1 << 16);
    production_restart_keys(fleet->options.own, production, &keys);
    if (keys.len) {
        buffer_append_byte(&keys, '\0');
        log_warn("production_needs_restart", LOG_WORD("keys", keys.data));
    }
    buffer_done(&keys);
}

static void apply(struct fleet *fleet)
{
    struct production *before = fleet->current;
    fleet->current = fleet->coming;
    fleet->coming = NULL;
    log_applied(fleet);
    fleet->options.on_production(fleet->options.arg);
    fleet_sections_look(fleet, before);
    production_free(before);
}

static void end_asking(struct fleet *fleet)
{
    fleet->asking = false;
    fleet_changes_free(&fleet->next);
    fleet->coming = production_free(fleet->coming);
}

static void follow(struct fleet *fleet)
{
    struct fleet_changes before;
    struct fleet_change *change;
    fleet->step = fleet->next_step;
    fleet->heard_version = fleet->standing_version;
    bool news = fleet->coming || fleet->step != fleet->told_step;
    TAILQ_INIT(&before);
    TAILQ_CONCAT(&before, &fleet->changes, link);
    TAILQ_CONCAT(&fleet->changes, &fleet->next, link);
    fleet->change_count = 0;
    TAILQ_FOREACH(change, &fleet->changes, link)
    {
        fleet->change_count++;
    }
    bool joins = fleet->state != JOINED;
    if (fleet->coming)
        apply(fleet);
    move_to(fleet, JOINED);
    tell_shapes(fleet, &before);
    fleet_changes_free(&before);
    end_asking(fleet);
    fleet_look(fleet);
    fleet_reload_look(fleet);
    if (joins && fleet->options.on_joined)
        fleet->options.on_joined(fleet->options.arg);
    if (news)
        fleet_hurry(fleet); /* the others wait for our word */
}

/* ---- productions that are needed for it ---- */

/* NULL where this process cannot use it. */
static struct production *parse(const struct store_production *published)
{
    struct diagnostics diagnostics;
    struct production *production = production_parse_published(published->text, &diagnostics);
    if (production)
        production->version = published->version;
    else
        log_error("production_refused", LOG_INT("version", published->version),
                  LOG_INT("errors", (int64_t)diagnostics.error_count),
                  LOG_INT("line", diagnostics.count ? (int64_t)diagnostics.list[0].line : 0));
    diagnostics_done(&diagnostics);
    return production;
}

static void seek(struct fleet *fleet);

/* What production_of told is wanted for. */
static void on_sought(void *arg, const struct err *err, const struct store_production *published)
{
    struct fleet *fleet = arg;
    if (err->code != ERR_NONE) {
        end_asking(fleet); /* the next tick begins anew */
        return;
    }
    struct production *production = published->version ? parse(published) : NULL;
    struct fleet_change *change;
    if (fleet->sought_version == fleet->standing_version) {
        if (production)
            fleet->coming = production_ref(production);
        fleet->refused_version = production ? 0 : fleet->standing_version;
    }
    TAILQ_FOREACH(change, &fleet->next, link)
    {
        if (!change->old_sought && change->version == fleet->sought_version + 1)
            set_old(change, production);
    }
    production_free(production);
    seek(fleet);
}

static void ask_for(struct fleet *fleet, int64_t version)
{
    struct store *store = fleet->options.store;
    fleet->sought_version = version;
    store->ops->production_of(store, version, on_sought, fleet);
}

/* One after the other: the version in force, then those whose queues are finished. */
static void seek(struct fleet *fleet)
{
    struct fleet_change *change;
    bool lacking = fleet->standing_version != fleet->current->version && !fleet->coming;
    if (lacking && fleet->refused_version != fleet->standing_version) {
        ask_for(fleet, fleet->standing_version);
        return;
    }
    if (lacking && fleet->state == JOINING) { /* it has nothing to go on with */
        end_asking(fleet);
        move_to(fleet, ALONE);
        return;
    }
    TAILQ_FOREACH(change, &fleet->next, link)
    {
        if (!change->old_sought) {
            ask_for(fleet, change->version - 1);
            return;
        }
    }
    follow(fleet);
}

/* ---- the tick ---- */

static void on_attended(void *arg, const struct err *err, const struct store_standing *standing)
{
    struct fleet *fleet = arg;
    if (err->code != ERR_NONE) {
        end_asking(fleet);
    } else if (standing->version == 0) { /* another database than before */
        end_asking(fleet);
        move_to(fleet, ALONE);
    } else {
        note_standing(fleet, standing);
        seek(fleet);
    }
}

/* Up to where we follow: not past a closed queue that something is still being claimed from. */
static int64_t followed_step(const struct fleet *fleet)
{
    const struct fleet_change *change;
    int64_t step = fleet->step;
    TAILQ_FOREACH(change, &fleet->changes, link)
    {
        if (change->stage == FLEET_CLOSED && change->step <= step && fleet->options.has_left &&
            !fleet->options.has_left(fleet->options.arg, change->id))
            step = change->step - 1;
    }
    return step;
}

static void attend(struct fleet *fleet)
{
    struct store *store = fleet->options.store;
    if (fleet->options.is_settled(fleet->options.arg))
        fleet->settled_version = fleet->current->version;
    fleet->told_step = followed_step(fleet);
    store->ops->attend(store, fleet->options.id, fleet->options.kind, fleet->settled_version,
                       fleet->told_step, MEMBER_MS, on_attended, fleet);
}

static void on_first_published(void *arg, const struct err *err,
                               const struct store_production *published)
{
    struct fleet *fleet = arg;
    struct production *production = NULL;
    if (err->code == ERR_NONE && published->version != fleet->refused_version) {
        fleet->standing_version = published->version;
        production = parse(published);
        fleet->refused_version = production ? 0 : published->version;
        tell_readiness(fleet);
    }
    end_asking(fleet);
    if (!production)
        return;
    fleet->coming = production;
    fleet_changes_free(&fleet->changes);
    fleet->change_count = 0;
    apply(fleet);
    fleet->step = 0;
    move_to(fleet, JOINING);
    fleet_hurry(fleet);
}

static void on_tick(void *arg)
{
    struct fleet *fleet = arg;
    struct store *store = fleet->options.store;
    int64_t tick_ms = TAILQ_EMPTY(&fleet->changes) ? TICK_MS : CHANGING_TICK_MS;
    loop_timer_set(&fleet->timer, tick_ms * 3 / 4 + (int64_t)random_below((uint64_t)tick_ms / 2));
    if (fleet->state == JOINED && !is_fresh(fleet))
        move_to(fleet, JOINING);
    fleet_reload_look(fleet);
    if (!fleet->store_up || fleet->asking)
        return;
    fleet->asking = true;
    fleet->asked_us = clock_mono_us();
    if (fleet->state == ALONE)
        store->ops->publish(store, &fleet->first, on_first_published, fleet);
    else
        attend(fleet);
}

void fleet_hurry(struct fleet *fleet)
{
    loop_timer_set(&fleet->timer, 0);
}

void fleet_links_changed(struct fleet *fleet, bool queue_up, bool store_up)
{
    bool news = store_up && !fleet->store_up;
    fleet->queue_up = queue_up;
    fleet->store_up = store_up;
    if (news)
        fleet_hurry(fleet);
}

/* ---- life ---- */

struct fleet *fleet_new(const struct fleet_options *options)
{
    struct fleet *fleet = mem_alloc(sizeof(*fleet));
    struct metrics *metrics = options->metrics;
    fleet->options = *options;
    fleet->state = ALONE;
    TAILQ_INIT(&fleet->changes);
    TAILQ_INIT(&fleet->next);
    LIST_INIT(&fleet->looks);
    fleet->current = production_ref(options->own);
    production_ref(options->own);
    fleet->version_metric = metrics_gauge(metrics, "hie_production_version",
                                          "Version of the production in force", NULL, 0);
    fleet->differs_metric =
        metrics_gauge(metrics, "hie_production_file_differs",
                      "1: this process's own file is not the version in force", NULL, 0);
    fleet->changing_metric =
        metrics_gauge(metrics, "hie_queues_changing", "Items whose queues are changing", NULL, 0);
    buffer_init(&fleet->own_text, PRODUCTION_PUBLISHED_MAX);
    production_publishable(options->own, options->own->text, &fleet->own_text);
    production_hash(buffer_slice(&fleet->own_text), fleet->own_hash);
    fleet->first = (struct store_publication){.text = buffer_slice(&fleet->own_text),
                                              .hash = slice_text(fleet->own_hash),
                                              .by = options->id,
                                              .base = -1};
    loop_timer_init(&fleet->timer, options->loop, on_tick, fleet);
    fleet_sections_init(fleet);
    fleet_reload_init(fleet);
    tell_readiness(fleet);
    return fleet;
}

static void on_left(void *arg, const struct err *err, const struct store_standing *standing)
{
    (void)arg;
    (void)err; /* it lapses */
    (void)standing;
}

void fleet_leave(struct fleet *fleet)
{
    struct store *store = fleet->options.store;
    loop_timer_cancel(&fleet->timer);
    if (fleet->store_up && fleet->state != ALONE)
        store->ops->attend(store, fleet->options.id, fleet->options.kind, fleet->settled_version,
                           fleet->told_step, 0, on_left, fleet);
}

struct fleet *fleet_free(struct fleet *fleet)
{
    if (!fleet)
        return NULL;
    loop_timer_done(&fleet->timer);
    fleet_reload_done_with(fleet);
    fleet_looks_free(fleet);
    fleet_sections_done(fleet);
    end_asking(fleet);
    fleet_changes_free(&fleet->changes);
    production_free(fleet->current);
    production_free(fleet->options.own);
    buffer_done(&fleet->own_text);
    free(fleet);
    return NULL;
}
