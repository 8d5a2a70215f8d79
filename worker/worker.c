#include "worker.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "lane_parts.h"
#include "ops/identity.h"
#include "ops/program.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define HEARTBEAT_MS 5000
#define HEARTBEAT_TTL_MS 15000
#define OFFLOAD_THREADS 4u
#define DRAIN_TICK_MS 20
#define GIVE_UP_MS 5000 /* after drain_timeout: to hand back and record what was given up */
#define PORTS_TRIED 64

struct lane *worker_lane(struct worker *worker, const char *item_id)
{
    const struct item *item = production_find(worker->production, slice_text(item_id));
    return item ? worker->lanes[item->index] : NULL;
}

struct lane *worker_route(struct worker *worker, const char *item_id, int64_t version)
{
    bool joined = !worker->fleet || fleet_joined(worker->fleet);
    return joined ? worker_last_route(worker, item_id, version) : NULL;
}

struct lane *worker_last_route(struct worker *worker, const char *item_id, int64_t version)
{
    struct lane *lane;
    if (!worker->fleet)
        return worker_lane(worker, item_id);
    const struct item *item = fleet_route(worker->fleet, item_id, version);
    if (item && item == production_find(worker->production, slice_text(item_id)))
        return worker->lanes[item->index];
    TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
    {
        if (item && !lane->retiring && strcmp(lane->item->id, item_id) == 0 &&
            item_same_queue(lane->item, item))
            return lane;
    }
    return NULL;
}

static size_t held(const struct worker *worker)
{
    const struct lane *lane;
    size_t count = 0;
    TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
    {
        count += lane->held;
    }
    return count;
}

/* ---- links ---- */

void worker_note(struct worker *worker, struct worker_trouble *trouble, const struct err *err)
{
    bool on = err->code != ERR_NONE && worker->queue_up && worker->store_up;
    if (on == trouble->on)
        return;
    trouble->on = on;
    health_set(worker->health, trouble->what, !on, on ? err->text : "");
    if (on)
        log_error("trouble", LOG_WORD("doing", trouble->what), LOG_ERR(err));
    else
        log_info("trouble_over", LOG_WORD("doing", trouble->what));
}

static void links_changed(struct worker *worker)
{
    static const struct err fine = {.code = ERR_NONE};
    /* What failed for a link's loss is no trouble of its own; what is shows again. */
    worker_note(worker, &worker->look_up_trouble, &fine);
    worker_note(worker, &worker->settle_trouble, &fine);
    worker_note(worker, &worker->publish_trouble, &fine);
    settler_store_changed(&worker->settler, worker->store_up);
    reconciler_links_changed(worker->reconciler, worker->queue_up, worker->store_up);
    fleet_links_changed(worker->fleet, worker->queue_up, worker->store_up);
    struct lane *lane;
    TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
    {
        lane_links_changed(lane);
    }
    lane_fetch_next(worker);
}

static void on_beaten(void *arg, const struct err *err)
{
    char *item_names = arg;
    (void)err; /* the next one comes soon */
    free(item_names);
}

static void beat(void *arg)
{
    struct worker *worker = arg;
    loop_timer_set(&worker->heartbeat, HEARTBEAT_MS);
    if (!worker->queue_up || worker->draining)
        return;
    char *item_names = mem_strdup(worker->item_names); /* a reload makes others meanwhile */
    worker->queue->ops->heartbeat(worker->queue, worker->id, worker->host, getpid(), item_names,
                                  (int64_t)held(worker), HEARTBEAT_TTL_MS, on_beaten, item_names);
}

static void on_queue_up(void *arg, bool fresh)
{
    struct worker *worker = arg;
    log_info("redis_up", LOG_INT("fresh", fresh));
    worker->queue_up = true;
    worker->queue_up_us = clock_mono_us();
    health_set_server(worker->health, "redis", true, "");
    if (fresh)
        reconciler_compare(worker->reconciler);
    links_changed(worker);
    loop_timer_set(&worker->heartbeat, 0);
}

static void on_queue_down(void *arg, const struct err *err)
{
    struct worker *worker = arg;
    log_warn("redis_down", LOG_ERR(err));
    worker->queue_up = false;
    health_set_server(worker->health, "redis", false, err->text);
    links_changed(worker);
}

static void on_wake(void *arg, const char *item, enum messaging_pattern pattern, unsigned partition)
{
    struct worker *worker = arg;
    struct lane *lane;
    TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
    {
        if (lane->runs && lane->name.pattern == pattern && strcmp(lane->item->id, item) == 0)
            lane_wake(lane, partition);
    }
}

static void on_store_up(void *arg)
{
    struct worker *worker = arg;
    log_info("postgres_up");
    worker->store_up = worker->was_up = true;
    health_set_server(worker->health, "postgres", true, "");
    links_changed(worker);
    ownership_nudge(&worker->ownership);
}

static void on_store_down(void *arg, const struct err *err)
{
    struct worker *worker = arg;
    log_warn("postgres_down", LOG_ERR(err));
    worker->store_up = false;
    health_set_server(worker->health, "postgres", false, err->text);
    links_changed(worker);
}

static void on_fatal(void *arg, const struct err *err)
{
    struct worker *worker = arg;
    log_error("fatal", LOG_ERR(err));
    /* What worked before may work again: a password that is being changed. */
    worker->exit_code = worker->was_up ? PROGRAM_EXIT_TEMPORARY : PROGRAM_EXIT_PERMANENT;
    loop_stop(worker->loop);
}

/* ---- drain ---- */

/* A farewell that failed: what is not said lapses. */
static void on_told(void *arg, const struct err *err)
{
    (void)arg;
    (void)err;
}

/* Leaves the idle workers and, where nothing is in hand, the groups. */
static void leave(struct worker *worker)
{
    struct lane *lane;
    TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
    {
        if (lane->runs && !lane->fifo && worker->queue_up)
            worker->queue->ops->leave(worker->queue, lane->name, worker->id, on_told, NULL);
    }
}

static bool is_quiet(const struct worker *worker)
{
    const struct lane *lane;
    bool quiet = held(worker) == 0;
    TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
    {
        quiet = quiet && lane_quiet(lane);
    }
    return quiet;
}

static void on_drain_tick(void *arg)
{
    struct worker *worker = arg;
    int64_t now = clock_mono_us();
    bool quiet = is_quiet(worker);
    struct lane *lane;
    if (worker->leaving || now > worker->drain_until_us + GIVE_UP_MS * 1000) {
        log_info("drained", LOG_INT("left", (int64_t)held(worker)));
        loop_stop(worker->loop);
        return;
    }
    if (quiet) {
        worker->leaving = true; /* once more, after the last claim; one tick to be sent */
        leave(worker);
        ownership_leave(&worker->ownership);
        fleet_leave(worker->fleet);
    } else if (now > worker->drain_until_us && !worker->given_up) {
        worker->given_up = true;
        TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
        {
            lane_give_up(lane);
        }
    }
    loop_timer_set(&worker->drain_timer, DRAIN_TICK_MS);
}

static void on_terminate(void *arg)
{
    struct worker *worker = arg;
    if (worker->draining)
        _exit(111); /* the second one: at once; what is in hand is taken over */
    log_info("draining", LOG_INT("in_hand", (int64_t)held(worker)));
    worker->draining = true;
    health_drain(worker->health);
    reconciler_stop(worker->reconciler);
    const struct production *section = fleet_section(worker->fleet, SECTION_WORKER);
    worker->drain_until_us = clock_mono_us() + section->worker.drain_timeout_ms * 1000;
    loop_timer_cancel(&worker->heartbeat);
    leave(worker);
    struct lane *lane;
    TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
    {
        lane_disown(lane);
    }
    ownership_refresh(&worker->ownership);
    lane_fetch_next(worker);
    loop_timer_set(&worker->drain_timer, 0);
}

/* ---- the production ---- */

static void on_production(void *arg)
{
    arrange_production(arg);
}

/* The queues may be full. */
static void on_joined(void *arg)
{
    struct worker *worker = arg;
    struct lane *lane;
    TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
    {
        lane_links_changed(lane);
    }
    ownership_refresh(&worker->ownership);
}

/* A child belongs to the version under which its parent's handler ended: until it is written, that one is not over. */
static bool is_settled(void *arg)
{
    const struct worker *worker = arg;
    const struct lane *lane;
    const struct claim *claim;
    TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
    {
        TAILQ_FOREACH(claim, &lane->claims, link)
        {
            if (claim->state == CLAIM_SETTLING && claim->child_count &&
                claim->children[0].version < worker->production->version)
                return false;
        }
    }
    return true;
}

static void on_shape(void *arg, const char *item_id)
{
    struct worker *worker = arg;
    arrange_item(worker, item_id);
    if (fleet_shape(worker->fleet, item_id).stage != FLEET_CLOSED)
        reconciler_compare(worker->reconciler); /* it brings what waited, if it is ours */
}

static bool has_left(void *arg, const char *item_id)
{
    return arrange_has_left(arg, item_id);
}

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
    struct worker *worker = arg;
    fleet_reload(worker->fleet, on_reloaded, worker);
}

/* ---- life ---- */

static void on_http(void *arg, struct http_request *request)
{
    struct worker *worker = arg;
    if (!health_handle(worker->health, request))
        http_answer_problem(request, 404, "there is nothing at this path", NULL, 0);
}

static void tell_insecure(struct worker *worker, bool insecure)
{
    if (insecure && !worker->insecure)
        health_warn_insecure(worker->health, "worker.listen");
    else if (!insecure && worker->insecure)
        health_clear(worker->health, "worker.listen");
    worker->insecure = insecure;
}

/* Several workers on one machine: the next free port when the configured one is taken. */
static int listen_http(struct worker *worker, struct err *err)
{
    const struct production *section = fleet_section(worker->fleet, SECTION_WORKER);
    struct http_server_options options = {
        .listen = section->worker.listen, .max_body = 4096, .on_request = on_http, .arg = worker};
    if (http_door_open(&worker->http, worker->loop, worker->health, &options, PORTS_TRIED, err))
        return -1;
    tell_insecure(worker, section->worker.insecure);
    return 0;
}

static void on_section(void *arg)
{
    struct worker *worker = arg;
    const struct production *section = fleet_section(worker->fleet, SECTION_WORKER);
    if (worker->draining)
        return;
    http_door_move(&worker->http, section->worker.listen);
    tell_insecure(worker, section->worker.insecure);
}

static int check_items(const struct production *production, const char *list, struct err *err)
{
    for (const char *at = list; at;) {
        size_t len = strcspn(at, ",");
        if (!production_find(production, slice_of(at, len)))
            return err_set(err, ERR_CONFIG, "--items: there is no item %.*s",
                           (int)(len < 64 ? len : 64), at);
        at = at[len] ? at + len + 1 : NULL;
    }
    return 0;
}

static void connect_links(struct worker *worker, const char *config)
{
    const struct production *production = worker->production;
    struct queue_redis_options queue_options = {.url = production->redis.url,
                                                .key_prefix = production->redis.key_prefix,
                                                .consumer = worker->id,
                                                .on_wake = on_wake,
                                                .on_up = on_queue_up,
                                                .on_down = on_queue_down,
                                                .on_fatal = on_fatal,
                                                .arg = worker};
    worker->queue = queue_redis_new(worker->loop, &queue_options);
    struct store_pg_options store_options = {.url = production->postgres.url,
                                             .application_name = "hie-worker",
                                             .on_up = on_store_up,
                                             .on_down = on_store_down,
                                             .on_fatal = on_fatal,
                                             .arg = worker};
    worker->store = store_pg_new(worker->loop, &store_options);
    worker->fleet = fleet_new(&(struct fleet_options){.loop = worker->loop,
                                                      .queue = worker->queue,
                                                      .store = worker->store,
                                                      .id = worker->id,
                                                      .kind = "worker",
                                                      .path = config,
                                                      .own = worker->production,
                                                      .health = worker->health,
                                                      .metrics = worker->metrics,
                                                      .on_production = on_production,
                                                      .on_section = on_section,
                                                      .on_joined = on_joined,
                                                      .is_settled = is_settled,
                                                      .on_shape = on_shape,
                                                      .has_left = has_left,
                                                      .arg = worker});
    struct reconciler_route route = fleet_reconciler_route(worker->fleet);
    worker->reconciler = reconciler_new(worker->loop, &route, worker->queue, worker->store,
                                        worker->id, worker->metrics);
}

int worker_init(struct worker *worker, struct production *production, const char *config,
                const char *items, struct err *err)
{
    *worker = (struct worker){.production = production_ref(production),
                              .items = items,
                              .look_up_trouble = {.what = "look_up"},
                              .settle_trouble = {.what = "settle"},
                              .publish_trouble = {.what = "publish"}};
    TAILQ_INIT(&worker->fetch_waiting);
    TAILQ_INIT(&worker->all_lanes);
    if (check_items(production, items, err))
        return -1;
    identity_host(worker->host);
    identity_make("", worker->id);
    worker->loop = loop_new();
    worker->metrics = metrics_new();
    worker->health = health_new(worker->metrics);
    health_set_server(worker->health, "redis", false, "not connected yet");
    health_set_server(worker->health, "postgres", false, "not connected yet");
    worker->env = (struct executor_env){
        .handler = {.loop = worker->loop,
                    .http = http_client_new(worker->loop),
                    .offload = offload_new(worker->loop, OFFLOAD_THREADS)},
        .production = production,
        .health = worker->health,
        .metrics = worker->metrics,
        .exit_code = &worker->exit_code,
    };
    loop_timer_init(&worker->heartbeat, worker->loop, beat, worker);
    loop_timer_init(&worker->drain_timer, worker->loop, on_drain_tick, worker);
    loop_watch_signal(&worker->sigterm, worker->loop, SIGTERM, on_terminate, worker);
    loop_watch_signal(&worker->sigint, worker->loop, SIGINT, on_terminate, worker);
    loop_watch_signal(&worker->sighup, worker->loop, SIGHUP, on_hangup, worker);
    connect_links(worker, config);
    settler_init(&worker->settler, worker->loop, worker->store);
    ownership_init(&worker->ownership, worker);
    if (arrange_init(worker, err) || listen_http(worker, err))
        return -1;
    log_info("worker_started", LOG_WORD("worker", worker->id),
             LOG_WORD("items", worker->item_names),
             LOG_INT("http_port", http_server_port(worker->http.server)));
    return 0;
}

int worker_run(struct worker *worker)
{
    loop_run(worker->loop);
    return worker->exit_code;
}

void worker_done(struct worker *worker)
{
    if (!worker->loop) {
        production_free(worker->production);
        return;
    }
    worker->draining = worker->stopped = true;
    /* The links first: the queue's calls end as unknown, the store's without a word; nothing calls back afterwards. */
    worker->queue->ops->free(worker->queue);
    worker->store->ops->free(worker->store);
    reconciler_free(worker->reconciler);
    arrange_done(worker);
    fleet_free(worker->fleet);
    settler_done(&worker->settler);
    ownership_done(&worker->ownership);
    if (worker->http.wanted)
        http_door_free(&worker->http);
    offload_free(worker->env.handler.offload);
    http_client_free(worker->env.handler.http);
    health_free(worker->health);
    metrics_free(worker->metrics);
    loop_timer_done(&worker->heartbeat);
    loop_timer_done(&worker->drain_timer);
    loop_watch_done(&worker->sigterm);
    loop_watch_done(&worker->sigint);
    loop_watch_done(&worker->sighup);
    loop_free(worker->loop);
    production_free(worker->production);
}
