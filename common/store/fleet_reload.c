/* A reload: this process's file is read anew, checked, and published on top of the fleet's version. */
#include "base/clock.h"
#include "base/log.h"
#include "store/fleet_internal.h"

#include <stdlib.h>

#define PATIENCE_US                                                                                \
    5000000 /* for others' reloads in between, and for the new version to be in force here */

static void end(struct fleet *fleet, const struct err *err, const struct fleet_reloaded *result)
{
    struct fleet_reload_state *reload = &fleet->reload;
    fleet_reload_done *done = reload->done;
    reload->done = NULL;
    reload->version = 0;
    done(reload->arg, err, result);
}

static void fail(struct fleet *fleet, const char *why)
{
    struct err err;
    err_set(&err, ERR_UNAVAILABLE, "%s", why);
    end(fleet, &err, NULL);
}

static void refuse(struct fleet *fleet, const struct diagnostics *diagnostics)
{
    log_warn("reload_refused", LOG_INT("errors", (int64_t)diagnostics->error_count),
             LOG_INT("line", diagnostics->count ? (int64_t)diagnostics->list[0].line : 0));
    end(fleet, &(const struct err){.code = ERR_NONE},
        &(const struct fleet_reloaded){
            .refused = true, .diagnostics = diagnostics, .version = fleet->current->version});
}

/* ---- publishing ---- */

void fleet_reload_look(struct fleet *fleet)
{
    struct fleet_reload_state *reload = &fleet->reload;
    if (!reload->done || !reload->version)
        return;
    if (fleet->current->version < reload->version && clock_mono_us() < reload->until_us)
        return;
    end(fleet, &(const struct err){.code = ERR_NONE},
        &(const struct fleet_reloaded){.version = reload->version,
                                       .changed = reload->version > reload->began_version,
                                       .restart_keys = buffer_slice(&reload->restart_keys)});
}

static void publish(struct fleet *fleet, int64_t base, struct slice base_text);

static void on_published(void *arg, const struct err *err, const struct store_production *published)
{
    struct fleet *fleet = arg;
    struct fleet_reload_state *reload = &fleet->reload;
    if (!reload->done)
        return;
    if (err->code != ERR_NONE) {
        end(fleet, err, NULL);
        return;
    }
    if (reload->began_version < 0)
        reload->began_version = published->version;
    if (slice_is(published->hash, reload->hash)) {
        reload->version = published->version;
        if (reload->version == fleet->current->version)
            fleet_sections_look(fleet, fleet->current);
        fleet_reload_look(fleet);
        fleet_hurry(fleet);
    } else if (clock_mono_us() < reload->until_us) { /* its base was not the current one */
        publish(fleet, published->version, published->text);
    } else {
        fail(fleet, "others reload all the time");
    }
}

static void publish(struct fleet *fleet, int64_t base, struct slice base_text)
{
    struct fleet_reload_state *reload = &fleet->reload;
    struct store *store = fleet->options.store;
    buffer_clear(&reload->changed);
    reload->text.len = reload->text_len;
    fleet_sections_append(fleet, base, base_text, &reload->text);
    production_changed_queues(base_text, buffer_slice(&reload->text), &reload->changed);
    reload->publication = (struct store_publication){.text = buffer_slice(&reload->text),
                                                     .hash = slice_text(reload->hash),
                                                     .by = fleet->options.id,
                                                     .base = base,
                                                     .changed = buffer_slice(&reload->changed)};
    store->ops->publish(store, &reload->publication, on_published, fleet);
}

/* ---- the file ---- */

static void publish_file(struct fleet *fleet, struct slice text)
{
    struct fleet_reload_state *reload = &fleet->reload;
    struct diagnostics diagnostics;
    struct production *own = production_parse(text, &diagnostics);
    if (!own) {
        refuse(fleet, &diagnostics);
    } else {
        buffer_clear(&reload->text);
        production_publishable(own, text, &reload->text);
        reload->text_len = reload->text.len;
        production_hash(buffer_slice(&reload->text), reload->hash);
        memcpy(fleet->own_hash, reload->hash, sizeof(fleet->own_hash));
        buffer_clear(&reload->restart_keys);
        production_restart_keys(fleet->options.own, own, &reload->restart_keys);
        /* What is current, and what it says, is heard from the store: 0 is nobody's version. */
        bool known = fleet->current->version && fleet->current->version == fleet->standing_version;
        reload->began_version = known ? fleet->current->version : -1;
        publish(fleet, known ? fleet->current->version : 0, fleet->current->text);
    }
    production_free(own);
    diagnostics_done(&diagnostics);
}

static void read_file(void *arg)
{
    struct fleet *fleet = arg;
    struct buffer text;
    struct err err;
    if (!fleet->store_up) {
        fail(fleet, "the database is away");
        return;
    }
    if (production_read(fleet->options.path, &text, &err) == 0) {
        publish_file(fleet, buffer_slice(&text));
        buffer_done(&text);
        return;
    }
    struct diagnostic line = {.message = err.text};
    refuse(fleet, &(const struct diagnostics){.list = &line, .count = 1, .error_count = 1});
}

void fleet_reload(struct fleet *fleet, fleet_reload_done *done, void *arg)
{
    struct fleet_reload_state *reload = &fleet->reload;
    if (reload->done) {
        struct err err;
        err_set(&err, ERR_UNAVAILABLE, "another reload is under way");
        done(arg, &err, NULL);
        return;
    }
    reload->done = done;
    reload->arg = arg;
    reload->version = 0;
    reload->until_us = clock_mono_us() + PATIENCE_US;
    loop_task_set(&reload->task);
}

/* ---- life ---- */

void fleet_reload_init(struct fleet *fleet)
{
    struct fleet_reload_state *reload = &fleet->reload;
    buffer_init(&reload->text, PRODUCTION_PUBLISHED_MAX);
    buffer_init(&reload->changed, PRODUCTION_PUBLISHED_MAX);
    buffer_init(&reload->restart_keys, 1 << 16);
    loop_task_init(&reload->task, fleet->options.loop, read_file, fleet);
}

void fleet_reload_done_with(struct fleet *fleet)
{
    struct fleet_reload_state *reload = &fleet->reload;
    if (reload->done)
        fail(fleet, "the process ends");
    loop_task_done(&reload->task);
    buffer_done(&reload->text);
    buffer_done(&reload->changed);
    buffer_done(&reload->restart_keys);
}
