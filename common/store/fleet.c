#include "store/fleet.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "store/fleet_internal.h"

#include <stdlib.h>

#define TICK_MS 1000
#define MEMBER_MS 6000        /* a process that is silent for longer counts no more */
#define RETIRED_US 4500000000 /* past the longest max_wait_time, an hour */
#define FRESH_US 5000000      /* below it: it stops working before it stops counting */

/* ---- what others ask ---- */

struct production *fleet_production(const struct fleet *fleet)
{
    return fleet->current;
}

bool fleet_joined(const struct fleet *fleet)
{
    return fleet->joined && !fleet->recovering && clock_mono_us() - fleet->attended_us < FRESH_US;
}

struct fleet_shape fleet_shape(const struct fleet *fleet, const char *item_id)
{
    const struct fleet_change *change = fleet_find_change(fleet, item_id);
    if (!change)
        return (struct fleet_shape){.stage = FLEET_OPEN};
    return (struct fleet_shape){
        .stage = change->stage, .old = change->old, .old_production = change->old_production};
}

const struct item *fleet_route(const struct fleet *fleet, const char *item_id, int64_t version)
{
    const struct fleet_change *change = fleet_find_change(fleet, item_id);
    if (!change)
        return production_find(fleet->current, slice_text(item_id));
    return change->stage == FLEET_CLOSING && version < change->version ? change->old : NULL;
}

static const struct item *route_row(void *arg, const char *item_id, int64_t version)
{
    return fleet_route(arg, item_id, version);
}

struct reconciler_route fleet_reconciler_route(const struct fleet *fleet)
{
    return (struct reconciler_route){.item = route_row, .arg = (void *)fleet};
}

/* ---- productions that are over ---- */

/* What serves a caller may name an item of a production for as long as callers wait at most; then nobody does. */
static void retire(struct fleet *fleet, struct production *production)
{
    struct fleet_retired *retired = mem_alloc(sizeof(*retired));
    retired->production = production;
    retired->at_us = clock_mono_us();
    STAILQ_INSERT_TAIL(&fleet->retired, retired, link);
}

static void free_retired(struct fleet *fleet, bool all)
{
    struct fleet_retired *retired;
    while ((retired = STAILQ_FIRST(&fleet->retired)) &&
           (all || clock_mono_us() - retired->at_us > RETIRED_US)) {
        STAILQ_REMOVE_HEAD(&fleet->retired, link);
        production_free(retired->production);
        free(retired);
    }
}

/* ---- a version is applied ---- */

void fleet_tell_readiness(struct fleet *fleet)
{
    char text[96];
    bool known = fleet->joined && !fleet->recovering;
    if (!known)
        snprintf(text, sizeof(text), "the fleet's version is not known yet");
    else if (fleet->differs)
        snprintf(text, sizeof(text), "version %lld; this process's own file differs",
                 (long long)fleet->current->version);
    else
        snprintf(text, sizeof(text), "version %lld", (long long)fleet->current->version);
    health_set(fleet->options.health, "production", known, text);
    metric_set(fleet->version_metric, (double)fleet->current->version);
    metric_set(fleet->differs_metric, fleet->differs);
}

static void apply(struct fleet *fleet, struct production *production)
{
    struct production *before = fleet->current;
    fleet_changes_begin(fleet, before, production);
    fleet->current = production;
    log_info("production_applied", LOG_INT("version", production->version),
             LOG_INT("items", (int64_t)production->item_count),
             LOG_INT("changing", (int64_t)fleet->change_count));
    fleet_tell_readiness(fleet);
    fleet->options.on_production(fleet->options.arg);
    retire(fleet, before);
}

/* Parsed, or NULL where this process cannot use it: it goes on with the one before. */
static struct production *parse(struct fleet *fleet, const struct store_production *published)
{
    struct diagnostics diagnostics;
    struct production *production = production_parse_published(published->text, &diagnostics);
    if (production) {
        production->version = published->version;
    } else if (fleet->refused_version != published->version) {
        fleet->refused_version = published->version;
        log_error("production_refused", LOG_INT("version", published->version),
                  LOG_INT("errors", (int64_t)diagnostics.error_count));
        health_set(fleet->options.health, "production", false,
                   "the fleet's version is invalid here: its environment variables?");
    }
    diagnostics_done(&diagnostics);
    return production;
}

/* The hash of what this process's file would publish. */
static void hash_own(struct fleet *fleet, const struct production *own, struct slice text)
{
    struct buffer published;
    buffer_init(&published, FLEET_TEXT_MAX);
    production_publishable(own, text, &published);
    production_hash(buffer_slice(&published), fleet->own_hash);
    buffer_done(&fleet->own_text);
    fleet->own_text = published;
}

void fleet_take(struct fleet *fleet, const struct store_production *published)
{
    bool joining = !fleet->joined;
    fleet->differs = !slice_is(published->hash, fleet->own_hash);
    if (published->version == fleet->current->version) {
        fleet->joined = true;
        fleet_tell_readiness(fleet);
        return;
    }
    struct production *production = parse(fleet, published);
    if (!production)
        return;
    if (fleet->differs && joining)
        log_warn("production_differs", LOG_INT("version", published->version));
    fleet->joined = true;
    if (joining) { /* what shaped queues until now was nobody's word */
        fleet_changes_drop(fleet);
        struct production *before = fleet->current;
        fleet->current = production;
        fleet->recovering = 1;
        fleet_tell_readiness(fleet);
        fleet->options.on_production(fleet->options.arg);
        retire(fleet, before);
    } else {
        apply(fleet, production);
    }
}

/* ---- the tick: attend, and look for a new version ---- */

static void on_attended(void *arg, const struct err *err, int64_t lowest)
{
    struct fleet *fleet = arg;
    fleet->attending = false;
    if (err->code != ERR_NONE)
        return;
    fleet->attended_us = fleet->asked_us;
    fleet->lowest = lowest;
    if (fleet->recovering)
        fleet_changes_recover(fleet);
    else
        fleet_changes_look(fleet);
}

/* Two numbers for each version: it is applied; nothing of it, or of one before, is closing any more. */
static int64_t stage_number(struct fleet *fleet)
{
    int64_t closing = fleet_closing_version(fleet);
    int64_t number = closing ? closing * 2 : fleet->current->version * 2 + 1;
    bool settled = !fleet->options.is_settled || fleet->options.is_settled(fleet->options.arg);
    if (settled)
        fleet->said = number;
    return fleet->said;
}

static void attend(struct fleet *fleet)
{
    if (fleet->attending || !fleet->joined)
        return;
    fleet->attending = true;
    fleet->asked_us = clock_mono_us();
    fleet->options.store->ops->attend(fleet->options.store, fleet->options.id, fleet->options.kind,
                                      stage_number(fleet), MEMBER_MS, on_attended, fleet);
}

static void on_production(void *arg, const struct err *err,
                          const struct store_production *published)
{
    struct fleet *fleet = arg;
    fleet->looking = false;
    if (err->code == ERR_NONE && published->version)
        fleet_take(fleet, published);
    attend(fleet);
}

static void on_first_published(void *arg, const struct err *err,
                               const struct store_production *published)
{
    on_production(arg, err, published);
}

static void look(struct fleet *fleet)
{
    struct store *store = fleet->options.store;
    if (fleet->looking)
        return;
    fleet->looking = true;
    if (fleet->joined)
        store->ops->production(store, fleet->current->version, on_production, fleet);
    else
        store->ops->publish(store, buffer_slice(&fleet->own_text), slice_text(fleet->own_hash),
                            fleet->options.id, true, on_first_published, fleet);
}

static void on_tick(void *arg)
{
    struct fleet *fleet = arg;
    loop_timer_set(&fleet->timer, TICK_MS * 3 / 4 + (int64_t)random_below(TICK_MS / 2));
    free_retired(fleet, false);
    if (fleet->store_up)
        look(fleet);
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

/* ---- reload ---- */

static void end_reload(struct fleet *fleet, const struct err *err,
                       const struct fleet_reloaded *result)
{
    fleet_reload_done *done = fleet->reload_done;
    fleet->reload_done = NULL;
    done(fleet->reload_arg, err, result);
}

static void on_published(void *arg, const struct err *err, const struct store_production *published)
{
    struct fleet *fleet = arg;
    struct fleet_reloaded result = {.restart_keys = buffer_slice(&fleet->restart_keys)};
    int64_t before = fleet->current->version;
    if (err->code == ERR_NONE) {
        fleet_take(fleet, published);
        result.version = fleet->current->version;
        result.changed = result.version != before;
        fleet_hurry(fleet);
    }
    end_reload(fleet, err, &result);
}

static void refuse_reload(struct fleet *fleet, const struct diagnostics *diagnostics)
{
    log_warn("reload_refused", LOG_INT("errors", (int64_t)diagnostics->error_count));
    end_reload(fleet, &(const struct err){.code = ERR_NONE},
               &(const struct fleet_reloaded){.refused = true,
                                              .diagnostics = diagnostics,
                                              .version = fleet->current->version});
}

static void publish_file(struct fleet *fleet, struct slice text)
{
    struct store *store = fleet->options.store;
    struct diagnostics diagnostics;
    struct production *own = production_parse(text, &diagnostics);
    if (!own) {
        refuse_reload(fleet, &diagnostics);
    } else {
        hash_own(fleet, own, text);
        buffer_clear(&fleet->restart_keys);
        production_restart_keys(fleet->options.own, own, &fleet->restart_keys);
        store->ops->publish(store, buffer_slice(&fleet->own_text), slice_text(fleet->own_hash),
                            fleet->options.id, false, on_published, fleet);
    }
    production_free(own);
    diagnostics_done(&diagnostics);
}

static void read_file(void *arg)
{
    struct fleet *fleet = arg;
    struct buffer text;
    struct err err;
    if (production_read(fleet->options.path, &text, &err) == 0) {
        publish_file(fleet, buffer_slice(&text));
        buffer_done(&text);
        return;
    }
    struct diagnostic line = {.message = err.text};
    refuse_reload(fleet, &(const struct diagnostics){.list = &line, .count = 1, .error_count = 1});
}

static void refuse_away(void *arg)
{
    struct fleet *fleet = arg;
    struct err err;
    err_set(&err, ERR_UNAVAILABLE, "the database is away");
    end_reload(fleet, &err, NULL);
}

void fleet_reload(struct fleet *fleet, fleet_reload_done *done, void *arg)
{
    if (fleet->reload_done) {
        struct err err;
        err_set(&err, ERR_UNAVAILABLE, "another reload is under way");
        done(arg, &err, NULL);
        return;
    }
    fleet->reload_done = done;
    fleet->reload_arg = arg;
    loop_task_done(&fleet->reload_task);
    loop_task_init(&fleet->reload_task, fleet->options.loop,
                   fleet->store_up && fleet->joined ? read_file : refuse_away, fleet);
    loop_task_set(&fleet->reload_task);
}

/* ---- life ---- */

struct fleet *fleet_new(const struct fleet_options *options)
{
    struct fleet *fleet = mem_alloc(sizeof(*fleet));
    fleet->options = *options;
    STAILQ_INIT(&fleet->retired);
    fleet->current = production_ref(options->own);
    production_ref(options->own);
    buffer_init(&fleet->own_text, FLEET_TEXT_MAX);
    buffer_init(&fleet->restart_keys, 1 << 16);
    fleet->version_metric = metrics_gauge(options->metrics, "hie_production_version",
                                          "Version of the production in force", NULL, 0);
    fleet->differs_metric =
        metrics_gauge(options->metrics, "hie_production_file_differs",
                      "1: this process's own file is not the version in force", NULL, 0);
    struct buffer text;
    struct err err;
    if (production_read(options->path, &text, &err) == 0) {
        hash_own(fleet, options->own, buffer_slice(&text));
        buffer_done(&text);
    }
    loop_timer_init(&fleet->timer, options->loop, on_tick, fleet);
    loop_task_init(&fleet->reload_task, options->loop, read_file, fleet);
    fleet_tell_readiness(fleet);
    return fleet;
}

struct fleet *fleet_free(struct fleet *fleet)
{
    if (!fleet)
        return NULL;
    loop_timer_done(&fleet->timer);
    loop_task_done(&fleet->reload_task);
    fleet_changes_drop(fleet);
    free_retired(fleet, true);
    production_free(fleet->current);
    production_free(fleet->options.own);
    buffer_done(&fleet->own_text);
    buffer_done(&fleet->restart_keys);
    free(fleet);
    return NULL;
}
