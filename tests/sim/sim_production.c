/* In place of common/store/fleet.c: every process has the one production of its run, in force once the store has been there. */
#include "sim.h"

#include "base/mem.h"
#include "store/fleet.h"

#include <stdlib.h>

struct fleet {
    struct fleet_options options;
    struct loop_timer timer;
    bool joined;
};

static void on_join(void *arg)
{
    struct fleet *fleet = arg;
    if (fleet->joined)
        return;
    fleet->joined = true;
    fleet->options.on_production(fleet->options.arg);
    fleet->options.on_joined(fleet->options.arg);
}

struct fleet *fleet_new(const struct fleet_options *options)
{
    struct fleet *fleet = mem_alloc(sizeof(*fleet));
    fleet->options = *options;
    loop_timer_init(&fleet->timer, options->loop, on_join, fleet);
    return fleet;
}

struct fleet *fleet_free(struct fleet *fleet)
{
    if (fleet) {
        loop_timer_done(&fleet->timer);
        free(fleet);
    }
    return NULL;
}

void fleet_links_changed(struct fleet *fleet, bool queue_up, bool store_up)
{
    (void)queue_up;
    if (store_up && !fleet->joined)
        loop_timer_set(&fleet->timer, 0);
}

struct production *fleet_production(const struct fleet *fleet)
{
    return fleet->options.own;
}

struct fleet_shape fleet_shape(const struct fleet *fleet, const char *item_id)
{
    (void)fleet;
    (void)item_id;
    return (struct fleet_shape){.stage = FLEET_OPEN};
}

const struct item *fleet_route(const struct fleet *fleet, const char *item_id, int64_t version)
{
    (void)version;
    return production_find(fleet->options.own, slice_text(item_id));
}

static const struct item *route_row(void *arg, const char *item_id, int64_t version)
{
    return fleet_route(arg, item_id, version);
}

struct reconciler_route fleet_reconciler_route(const struct fleet *fleet)
{
    return (struct reconciler_route){.item = route_row, .arg = (void *)fleet};
}

bool fleet_joined(const struct fleet *fleet)
{
    return fleet->joined;
}

void fleet_reload(struct fleet *fleet, fleet_reload_done *done, void *arg)
{
    (void)fleet;
    done(arg, &(const struct err){.code = ERR_UNAVAILABLE}, NULL);
}
