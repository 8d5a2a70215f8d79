#include "dispatcher.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "ops/program.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define DRAIN_TICK_MS 20
#define STOP_US 200000

/* ---- links ---- */

static void links_changed(struct dispatcher *dispatcher)
{
    intake_link_changed(&dispatcher->intake, dispatcher->queue_up, dispatcher->store_up);
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

static bool is_idle(const struct dispatcher *dispatcher)
{
    bool idle = intake_idle(&dispatcher->intake) && http_front_idle(&dispatcher->http);
    for (size_t i = 0; i < dispatcher->mllp_started; i++)
        idle = idle && mllp_front_idle(&dispatcher->mllp[i]);
    return idle;
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
    if (is_idle(dispatcher) || late) {
        log_info("drained", LOG_INT("left", (int64_t)dispatcher->intake.in_hand));
        loop_stop(dispatcher->loop);
        return;
    }
    loop_timer_set(&dispatcher->drain_timer, DRAIN_TICK_MS);
}

static void on_terminate(void *arg)
{
    struct dispatcher *dispatcher = arg;
    if (dispatcher->draining)
        _exit(111); /* the second one: at once; the WAL has what was accepted */
    log_info("draining", LOG_INT("in_hand", (int64_t)dispatcher->intake.in_hand));
    dispatcher->draining = true;
    health_drain(dispatcher->health);
    reconciler_stop(dispatcher->reconciler);
    dispatcher->drain_until_us =
        clock_mono_us() + dispatcher->production->worker.drain_timeout_ms * 1000;
    callers_drain(&dispatcher->callers); /* a long poll gets its answer as things are */
    http_front_drain(&dispatcher->http);
    for (size_t i = 0; i < dispatcher->mllp_started; i++)
        mllp_front_drain(&dispatcher->mllp[i]);
    loop_timer_set(&dispatcher->drain_timer, 0);
}

static void on_hangup(void *arg)
{
    (void)arg;
    log_warn("reload_refused",
             LOG_WORD("reason", "not yet supported; restart to change the production"));
}

/* ---- life ---- */

static void connect_links(struct dispatcher *dispatcher)
{
    const struct production *production = dispatcher->production;
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
    dispatcher->reconciler = reconciler_new(dispatcher->loop, production, dispatcher->queue,
                                            dispatcher->store, dispatcher->id, dispatcher->metrics);
}

static int start_fronts(struct dispatcher *dispatcher, struct err *err)
{
    const struct production *production = dispatcher->production;
    if (http_front_start(&dispatcher->http, dispatcher->loop, production, &dispatcher->intake,
                         dispatcher->store, &dispatcher->callers, dispatcher->health, err))
        return -1;
    if (production->dispatcher.http_insecure)
        health_warn_insecure(dispatcher->health, "dispatcher.http.listen");
    log_info("listening", LOG_WORD("front", "http"),
             LOG_INT("port", http_server_port(dispatcher->http.server)));
    dispatcher->mllp = mem_array(production->dispatcher.mllp_count, sizeof(*dispatcher->mllp));
    for (size_t i = 0; i < production->dispatcher.mllp_count; i++) {
        const struct mllp_listener *listener = &production->dispatcher.mllp[i];
        if (mllp_front_start(&dispatcher->mllp[i], dispatcher->loop, listener, &dispatcher->intake,
                             &dispatcher->callers, dispatcher->metrics, err))
            return -1;
        dispatcher->mllp_started++;
        if (listener->insecure)
            health_warn_insecure(dispatcher->health, "dispatcher.mllp.listen");
        log_info("listening", LOG_WORD("front", "mllp"), LOG_WORD("item", listener->item_id),
                 LOG_INT("port", stream_server_port(dispatcher->mllp[i].server)));
    }
    return 0;
}

int dispatcher_init(struct dispatcher *dispatcher, const struct production *production,
                    struct err *err)
{
    *dispatcher = (struct dispatcher){.production = production};
    snprintf(dispatcher->id, sizeof(dispatcher->id), "dispatcher-%d-%04x", (int)getpid(),
             (unsigned)random_below(0x10000));
    dispatcher->loop = loop_new();
    dispatcher->metrics = metrics_new();
    dispatcher->health = health_new(dispatcher->metrics);
    health_set_server(dispatcher->health, "redis", false, "not connected yet");
    health_set_server(dispatcher->health, "postgres", false, "not connected yet");
    loop_timer_init(&dispatcher->drain_timer, dispatcher->loop, on_drain_tick, dispatcher);
    loop_watch_signal(&dispatcher->sigterm, dispatcher->loop, SIGTERM, on_terminate, dispatcher);
    loop_watch_signal(&dispatcher->sigint, dispatcher->loop, SIGINT, on_terminate, dispatcher);
    loop_watch_signal(&dispatcher->sighup, dispatcher->loop, SIGHUP, on_hangup, dispatcher);
    connect_links(dispatcher);
    intake_init(&dispatcher->intake, dispatcher->loop, production, dispatcher->queue,
                dispatcher->store, dispatcher->metrics);
    dispatcher->intake.on_unqueued = on_unqueued;
    dispatcher->intake.on_unqueued_arg = dispatcher;
    dispatcher->intake.listener = dispatcher->id;
    callers_init(&dispatcher->callers, dispatcher->loop, production, dispatcher->queue,
                 dispatcher->store, dispatcher->metrics);
    queue_gauges_init(&dispatcher->gauges, dispatcher->loop, production, dispatcher->queue,
                      dispatcher->store, dispatcher->metrics);
    return start_fronts(dispatcher, err);
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
    for (size_t i = 0; i < dispatcher->mllp_started; i++)
        mllp_front_free(&dispatcher->mllp[i]);
    if (dispatcher->http.loop)
        http_front_free(&dispatcher->http);
    callers_done(&dispatcher->callers);
    queue_gauges_done(&dispatcher->gauges);
    intake_done(&dispatcher->intake);
    health_free(dispatcher->health);
    metrics_free(dispatcher->metrics);
    loop_timer_done(&dispatcher->drain_timer);
    loop_watch_done(&dispatcher->sigterm);
    loop_watch_done(&dispatcher->sigint);
    loop_watch_done(&dispatcher->sighup);
    loop_free(dispatcher->loop);
    free(dispatcher->mllp);
}
