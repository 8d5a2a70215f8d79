#include "dispatcher.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "ops/program.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define DRAIN_TICK_MS 20
#define STOP_US 200000
#define REAP_MS 500
#define LAPSED_US 12000000 /* what Redis counts for a gate is forgotten by then */

/* ---- links ---- */

static void links_changed(struct dispatcher *dispatcher)
{
    struct generation *each;
    STAILQ_FOREACH(each, &dispatcher->retired, link)
    {
        intake_link_changed(&each->intake, dispatcher->queue_up, dispatcher->store_up);
    }
    intake_link_changed(&dispatcher->now->intake, dispatcher->queue_up, dispatcher->store_up);
    fleet_links_changed(dispatcher->fleet, dispatcher->queue_up, dispatcher->store_up);
    callers_link_changed(&dispatcher->callers, dispatcher->queue_up, dispatcher->store_up);
    reconciler_links_changed(dispatcher->reconciler, dispatcher->queue_up, dispatcher->store_up);
    dispatcher->gauges.queue_up = dispatcher->queue_up;
    dispatcher->gauges.store_up = dispatcher->store_up;
}

static void on_queue_up(void *arg, bool fresh)
{
    struct dispatcher *dispatcher = arg;
    log_info("redis_up", LOG_INT("fresh", fresh));
    dispatcher->queue_up = true;
    health_set_server(dispatcher->health, "redis", true, "");
    if (fresh)
        reconciler_compare(dispatcher->reconciler);
    links_changed(dispatcher);
}

static void on_reply(void *arg, const struct queue_reply *reply)
{
    struct dispatcher *dispatcher = arg;
    callers_replied(&dispatcher->callers, reply);
}

static void on_queue_down(void *arg, const struct err *err)
{
    struct dispatcher *dispatcher = arg;
    log_warn("redis_down", LOG_ERR(err));
    dispatcher->queue_up = false;
    health_set_server(dispatcher->health, "redis", false, err->text);
    links_changed(dispatcher);
}

static void on_store_up(void *arg)
{
    struct dispatcher *dispatcher = arg;
    log_info("postgres_up");
    dispatcher->store_up = dispatcher->was_up = true;
    health_set_server(dispatcher->health, "postgres", true, "");
    links_changed(dispatcher);
}

static void on_store_down(void *arg, const struct err *err)
{
    struct dispatcher *dispatcher = arg;
    log_warn("postgres_down", LOG_ERR(err));
    dispatcher->store_up = false;
    health_set_server(dispatcher->health, "postgres", false, err->text);
    links_changed(dispatcher);
}

static void on_fatal(void *arg, const struct err *err)
{
    struct dispatcher *dispatcher = arg;
    log_error("fatal", LOG_ERR(err));
    /* What worked before may work again: a password that is being changed. */
    dispatcher->exit_code = dispatcher->was_up ? PROGRAM_EXIT_TEMPORARY : PROGRAM_EXIT_PERMANENT;
    loop_stop(dispatcher->loop);
}

static void on_unqueued(void *arg)
{
    struct dispatcher *dispatcher = arg;
    reconciler_nudge(dispatcher->reconciler);
}

/* ---- drain: listeners close, each connection ends at a message boundary, what is in hand gets its answer ---- */

static size_t in_hand(const struct dispatcher *dispatcher)
{
    const struct generation *each;
    size_t count = dispatcher->now->intake.in_hand;
    STAILQ_FOREACH(each, &dispatcher->retired, link)
    {
        count += each->intake.in_hand;
    }
    return count;
}

static bool is_idle(const struct dispatcher *dispatcher)
{
    return in_hand(dispatcher) == 0 && listeners_idle(&dispatcher->listeners);
}

static void on_drain_tick(void *arg)
{
    struct dispatcher *dispatcher = arg;
    bool late = clock_mono_us() > dispatcher->drain_until_us;
    if (late && !dispatcher->stopping) { /* a moment for what callers are told now */
        dispatcher->stopping = true;
        dispatcher->drain_until_us += STOP_US;
        callers_stop(&dispatcher->callers);
        late = false;
    }
    if (dispatcher->leaving) {
        loop_stop(dispatcher->loop);
        return;
    }
    if (is_idle(dispatcher) || late) {
        log_info("drained", LOG_INT("left", (int64_t)in_hand(dispatcher)));
        dispatcher->leaving = true;
        fleet_leave(dispatcher->fleet);
    }
    loop_timer_set(&dispatcher->drain_timer, DRAIN_TICK_MS);
}

static void on_terminate(void *arg)
{
    struct dispatcher *dispatcher = arg;
    if (dispatcher->draining)
        _exit(111); /* the second one: at once; the WAL has what was accepted */
    log_info("draining", LOG_INT("in_hand", (int64_t)in_hand(dispatcher)));
    dispatcher->draining = true;
    health_drain(dispatcher->health);
    reconciler_stop(dispatcher->reconciler);
    const struct production *section = fleet_section(dispatcher->fleet, SECTION_WORKER);
    dispatcher->drain_until_us = clock_mono_us() + section->worker.drain_timeout_ms * 1000;
    callers_drain(&dispatcher->callers); /* a long poll gets its answer as things are */
    listeners_drain(&dispatcher->listeners);
    loop_timer_set(&dispatcher->drain_timer, 0);
}

/* ---- the production ---- */

static void on_reloaded(void *arg, const struct err *err, const struct fleet_reloaded *result)
{
    (void)arg;
    if (err->code != ERR_NONE)
        log_warn("reload_failed", LOG_ERR(err));
    else if (!result->refused)
        log_info("reloaded", LOG_INT("version", result->version),
                 LOG_INT("changed", result->changed));
}

static void on_hangup(void *arg)
{
    struct dispatcher *dispatcher = arg;
    fleet_reload(dispatcher->fleet, on_reloaded, dispatcher);
}

static struct generation *new_generation(struct dispatcher *dispatcher)
{
    struct production *production = production_ref(fleet_production(dispatcher->fleet));
    struct generation *generation = mem_alloc(sizeof(*generation));
    struct intake *intake = &generation->intake;
    generation->production = production;
    intake_init(intake, dispatcher->loop, production, dispatcher->queue, dispatcher->store,
                dispatcher->metrics);
    dispatcher->budget.bytes_max = intake->own_budget.bytes_max;
    intake->budget = &dispatcher->budget;
    intake->fleet = dispatcher->fleet;
    intake->on_unqueued = on_unqueued;
    intake->on_unqueued_arg = dispatcher;
    intake->listener = dispatcher->id;
    return generation;
}

static void free_generation(struct generation *generation)
{
    intake_done(&generation->intake);
    production_free(generation->production);
    free(generation);
}

/* Nothing is in hand or asked any more. */
static bool is_over(const struct generation *generation)
{
    bool lapsed = clock_mono_us() - generation->retired_us > LAPSED_US;
    return intake_quiet(&generation->intake) && (lapsed || gate_is_over(&generation->intake.gate));
}

static void on_reap(void *arg)
{
    struct dispatcher *dispatcher = arg;
    struct generation *each, *next;
    for (each = STAILQ_FIRST(&dispatcher->retired); each; each = next) {
        next = STAILQ_NEXT(each, link);
        gate_hand_over(&each->intake.gate, &dispatcher->now->intake.gate);
        if (is_over(each)) {
            STAILQ_REMOVE(&dispatcher->retired, each, generation, link);
            free_generation(each);
        }
    }
    if (!STAILQ_EMPTY(&dispatcher->retired))
        loop_timer_set(&dispatcher->reap, REAP_MS);
}

static void on_production(void *arg)
{
    struct dispatcher *dispatcher = arg;
    struct generation *before = dispatcher->now;
    dispatcher->now = new_generation(dispatcher);
    before->retired_us = clock_mono_us();
    STAILQ_INSERT_TAIL(&dispatcher->retired, before, link);
    queue_gauges_follow(&dispatcher->gauges, fleet_production(dispatcher->fleet));
    listeners_serve(&dispatcher->listeners, dispatcher->now->production, &dispatcher->now->intake);
    intake_succeed(&dispatcher->now->intake, &before->intake, fleet_is_changing(dispatcher->fleet));
    if (!loop_timer_pending(&dispatcher->reap))
        loop_timer_set(&dispatcher->reap, REAP_MS);
}

static void on_section(void *arg)
{
    struct dispatcher *dispatcher = arg;
    if (!dispatcher->draining)
        listeners_change(&dispatcher->listeners,
                         fleet_section(dispatcher->fleet, SECTION_DISPATCHER));
}

/* What waited for its queue, or for the one before it, is brought at once. */
static void on_shape(void *arg, const char *item_id)
{
    struct dispatcher *dispatcher = arg;
    queue_gauges_shape(&dispatcher->gauges);
    if (fleet_shape(dispatcher->fleet, item_id).stage != FLEET_CLOSED)
        reconciler_compare(dispatcher->reconciler);
}

/* What came in under a version before is in the WAL, or refused. */
static bool is_settled(void *arg)
{
    struct dispatcher *dispatcher = arg;
    return in_hand(dispatcher) == dispatcher->now->intake.in_hand;
}

/* ---- life ---- */

static void connect_links(struct dispatcher *dispatcher, const char *config)
{
    const struct production *production = dispatcher->own;
    struct queue_redis_options queue_options = {.url = production->redis.url,
                                                .key_prefix = production->redis.key_prefix,
                                                .listener = dispatcher->id,
                                                .on_reply = on_reply,
                                                .on_up = on_queue_up,
                                                .on_down = on_queue_down,
                                                .on_fatal = on_fatal,
                                                .arg = dispatcher};
    dispatcher->queue = queue_redis_new(dispatcher->loop, &queue_options);
    struct store_pg_options store_options = {.url = production->postgres.url,
                                             .application_name = "hie-dispatcher",
                                             .on_up = on_store_up,
                                             .on_down = on_store_down,
                                             .on_fatal = on_fatal,
                                             .arg = dispatcher};
    dispatcher->store = store_pg_new(dispatcher->loop, &store_options);
    dispatcher->fleet = fleet_new(&(struct fleet_options){.loop = dispatcher->loop,
                                                          .queue = dispatcher->queue,
                                                          .store = dispatcher->store,
                                                          .id = dispatcher->id,
                                                          .kind = "dispatcher",
                                                          .path = config,
                                                          .own = dispatcher->own,
                                                          .health = dispatcher->health,
                                                          .metrics = dispatcher->metrics,
                                                          .on_production = on_production,
                                                          .on_section = on_section,
                                                          .is_settled = is_settled,
                                                          .on_shape = on_shape,
                                                          .arg = dispatcher});
    struct reconciler_route route = fleet_reconciler_route(dispatcher->fleet);
    dispatcher->reconciler = reconciler_new(dispatcher->loop, &route, dispatcher->queue,
                                            dispatcher->store, dispatcher->id, dispatcher->metrics);
}

static int start_listeners(struct dispatcher *dispatcher, struct err *err)
{
    struct listeners_options options = {.loop = dispatcher->loop,
                                        .intake = &dispatcher->now->intake,
                                        .gauges = &dispatcher->gauges,
                                        .callers = &dispatcher->callers,
                                        .fleet = dispatcher->fleet,
                                        .store = dispatcher->store,
                                        .health = dispatcher->health,
                                        .metrics = dispatcher->metrics};
    return listeners_start(&dispatcher->listeners, &options,
                           fleet_section(dispatcher->fleet, SECTION_DISPATCHER), err);
}

int dispatcher_init(struct dispatcher *dispatcher, struct production *production,
                    const char *config, struct err *err)
{
    *dispatcher = (struct dispatcher){.own = production};
    STAILQ_INIT(&dispatcher->retired);
    identity_make("dispatcher-", dispatcher->id);
    dispatcher->loop = loop_new();
    dispatcher->metrics = metrics_new();
    dispatcher->health = health_new(dispatcher->metrics);
    health_set_server(dispatcher->health, "redis", false, "not connected yet");
    health_set_server(dispatcher->health, "postgres", false, "not connected yet");
    loop_timer_init(&dispatcher->drain_timer, dispatcher->loop, on_drain_tick, dispatcher);
    loop_timer_init(&dispatcher->reap, dispatcher->loop, on_reap, dispatcher);
    loop_watch_signal(&dispatcher->sigterm, dispatcher->loop, SIGTERM, on_terminate, dispatcher);
    loop_watch_signal(&dispatcher->sigint, dispatcher->loop, SIGINT, on_terminate, dispatcher);
    loop_watch_signal(&dispatcher->sighup, dispatcher->loop, SIGHUP, on_hangup, dispatcher);
    connect_links(dispatcher, config);
    dispatcher->now = new_generation(dispatcher);
    queue_gauges_init(&dispatcher->gauges, dispatcher->loop, dispatcher->fleet, production,
                      dispatcher->queue, dispatcher->store, dispatcher->metrics);
    callers_init(&dispatcher->callers, dispatcher->loop, production, dispatcher->queue,
                 dispatcher->store, dispatcher->metrics);
    return start_listeners(dispatcher, err);
}

int dispatcher_run(struct dispatcher *dispatcher)
{
    loop_run(dispatcher->loop);
    return dispatcher->exit_code;
}

void dispatcher_done(struct dispatcher *dispatcher)
{
    /* The links first: what waits for them is told before it goes. */
    dispatcher->queue->ops->free(dispatcher->queue);
    dispatcher->store->ops->free(dispatcher->store);
    reconciler_free(dispatcher->reconciler);
    listeners_free(&dispatcher->listeners);
    callers_done(&dispatcher->callers);
    struct generation *each;
    while ((each = STAILQ_FIRST(&dispatcher->retired))) {
        STAILQ_REMOVE_HEAD(&dispatcher->retired, link);
        free_generation(each);
    }
    free_generation(dispatcher->now);
    queue_gauges_done(&dispatcher->gauges);
    fleet_free(dispatcher->fleet);
    health_free(dispatcher->health);
    metrics_free(dispatcher->metrics);
    loop_timer_done(&dispatcher->drain_timer);
    loop_timer_done(&dispatcher->reap);
    loop_watch_done(&dispatcher->sigterm);
    loop_watch_done(&dispatcher->sigint);
    loop_watch_done(&dispatcher->sighup);
    loop_free(dispatcher->loop);
}
