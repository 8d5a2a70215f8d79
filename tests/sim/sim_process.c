/* Simulated processes: started, paused, killed and drained. A worker is the real struct worker; a dispatcher is the real intake, gate
 * and reconciler. A killed process's memory is freed by its own teardown, with links that are dead already: nothing of it
 * reaches a server. */
#include "sim_fleet.h"

#include "base/bug.h"
#include "base/mem.h"
#include "redrive.h"
#include "worker/lane_fifo.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct sim_processes sim_processes;
static struct sim_process *starting;
static unsigned started[2];

static const char *yaml, *path;

struct production *sim_parse(void)
{
    struct diagnostics diagnostics;
    struct production *production = production_parse(slice_text(yaml), &diagnostics);
    if (!production)
        diagnostics_print(&diagnostics, "a simulation's production");
    diagnostics_done(&diagnostics);
    BUG_ON(!production);
    return production;
}

/* The production file, in memory: processes read it when they start. */
static const char *write_file(void)
{
    static char name[64];
    static int fd = -1;
    if (fd < 0) {
        fd = memfd_create("production.yaml", MFD_CLOEXEC);
        snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    }
    BUG_ON(ftruncate(fd, 0) || pwrite(fd, yaml, strlen(yaml), 0) != (ssize_t)strlen(yaml));
    return name;
}

void sim_processes_init(const char *production_yaml)
{
    yaml = production_yaml;
    path = write_file();
    TAILQ_INIT(&sim_processes);
    started[0] = started[1] = 0;
}

void sim_process_links(struct sim_queue *queue, struct sim_store *store)
{
    BUG_ON(!starting);
    if (queue)
        starting->queue = queue;
    if (store)
        starting->store = store;
}

struct sim_process *sim_process_of(const struct loop *loop)
{
    struct sim_process *process;
    TAILQ_FOREACH(process, &sim_processes, entry)
    {
        if (process->loop == loop)
            return process;
    }
    BUG_ON(true);
}

static struct sim_process *new_process(bool is_worker)
{
    struct sim_process *process = mem_alloc(sizeof(*process));
    process->is_worker = is_worker;
    snprintf(process->name, sizeof(process->name), "%c%u", is_worker ? 'w' : 'd',
             ++started[is_worker]);
    TAILQ_INSERT_TAIL(&sim_processes, process, entry);
    starting = process;
    return process;
}

static struct sim_process *is_started(struct sim_process *process, struct loop *loop)
{
    starting = NULL;
    process->loop = loop;
    sim_loop_name(loop, process->name);
    sim_say("%s starts", process->name);
    return process;
}

struct sim_process *sim_start_worker(void)
{
    struct sim_process *process = new_process(true);
    struct worker *worker = &process->worker;
    struct err err;
    struct production *own = sim_parse();
    BUG_ON(worker_init(worker, own, path, NULL, &err));
    production_free(own);                                          /* the worker has a reference */
    snprintf(worker->id, sizeof(worker->id), "%s", process->name); /* not by host and process id */
    return is_started(process, worker->loop);
}

/* ---- a dispatcher: as dispatcher/dispatcher.c has it, without fronts ---- */

static void links_changed(struct sim_dispatcher *dispatcher)
{
    struct sim_generation *each;
    STAILQ_FOREACH(each, &dispatcher->generations, link)
    {
        intake_link_changed(&each->intake, dispatcher->queue_up, dispatcher->store_up);
    }
    fleet_links_changed(dispatcher->fleet, dispatcher->queue_up, dispatcher->store_up);
    reconciler_links_changed(dispatcher->reconciler, dispatcher->queue_up, dispatcher->store_up);
    callers_link_changed(&dispatcher->callers, dispatcher->queue_up, dispatcher->store_up);
}

static void on_queue_up(void *arg, bool fresh)
{
    struct sim_dispatcher *dispatcher = arg;
    dispatcher->queue_up = true;
    if (fresh)
        reconciler_compare(dispatcher->reconciler);
    links_changed(dispatcher);
}

static void on_queue_down(void *arg, const struct err *err)
{
    struct sim_dispatcher *dispatcher = arg;
    (void)err;
    dispatcher->queue_up = false;
    links_changed(dispatcher);
}

static void on_reply(void *arg, const struct queue_reply *reply)
{
    struct sim_dispatcher *dispatcher = arg;
    callers_replied(&dispatcher->callers, reply);
}

static void on_store_up(void *arg)
{
    struct sim_dispatcher *dispatcher = arg;
    dispatcher->store_up = true;
    links_changed(dispatcher);
}

static void on_store_down(void *arg, const struct err *err)
{
    struct sim_dispatcher *dispatcher = arg;
    (void)err;
    dispatcher->store_up = false;
    links_changed(dispatcher);
}

static void on_unqueued(void *arg)
{
    struct sim_dispatcher *dispatcher = arg;
    reconciler_nudge(dispatcher->reconciler);
}

/* The intake of the production in force. */
static void start_intake(struct sim_dispatcher *dispatcher)
{
    struct sim_generation *generation = mem_alloc(sizeof(*generation));
    struct intake *intake = &generation->intake;
    intake_init(intake, dispatcher->loop, fleet_production(dispatcher->fleet), dispatcher->queue,
                dispatcher->store, dispatcher->metrics);
    intake->fleet = dispatcher->fleet;
    intake->listener = dispatcher->name;
    intake->on_unqueued = on_unqueued;
    intake->on_unqueued_arg = dispatcher;
    STAILQ_INSERT_HEAD(&dispatcher->generations, generation, link);
}

static void on_production(void *arg)
{
    struct sim_dispatcher *dispatcher = arg;
    start_intake(dispatcher);
    links_changed(dispatcher);
}

/* What came in under a version before is in the WAL, or refused. */
static bool is_settled(void *arg)
{
    const struct sim_dispatcher *dispatcher = arg;
    const struct sim_generation *each;
    STAILQ_FOREACH(each, &dispatcher->generations, link)
    {
        if (each != STAILQ_FIRST(&dispatcher->generations) && !intake_idle(&each->intake))
            return false;
    }
    return true;
}

static void on_shape(void *arg, const char *item_id)
{
    struct sim_dispatcher *dispatcher = arg;
    if (fleet_shape(dispatcher->fleet, item_id).stage == FLEET_OPEN)
        reconciler_compare(dispatcher->reconciler);
}

static void start_fleet(struct sim_dispatcher *dispatcher, const char *name)
{
    struct production *own = sim_parse();
    dispatcher->fleet = fleet_new(&(const struct fleet_options){.loop = dispatcher->loop,
                                                                .queue = dispatcher->queue,
                                                                .store = dispatcher->store,
                                                                .id = name,
                                                                .kind = "dispatcher",
                                                                .path = path,
                                                                .own = own,
                                                                .health = dispatcher->health,
                                                                .metrics = dispatcher->metrics,
                                                                .on_production = on_production,
                                                                .is_settled = is_settled,
                                                                .on_shape = on_shape,
                                                                .arg = dispatcher});
    production_free(own); /* the fleet has a reference */
    struct reconciler_route route = fleet_reconciler_route(dispatcher->fleet);
    dispatcher->reconciler = reconciler_new(dispatcher->loop, &route, dispatcher->queue,
                                            dispatcher->store, name, dispatcher->metrics);
}

struct sim_process *sim_start_dispatcher(void)
{
    struct sim_process *process = new_process(false);
    struct sim_dispatcher *dispatcher = &process->dispatcher;
    dispatcher->name = process->name;
    dispatcher->loop = loop_new();
    sim_loop_name(dispatcher->loop, process->name);
    dispatcher->metrics = metrics_new();
    dispatcher->health = health_new(dispatcher->metrics);
    dispatcher->queue = queue_redis_new(
        dispatcher->loop, &(const struct queue_redis_options){.listener = process->name,
                                                              .on_reply = on_reply,
                                                              .on_up = on_queue_up,
                                                              .on_down = on_queue_down,
                                                              .arg = dispatcher});
    dispatcher->store = store_pg_new(
        dispatcher->loop, &(const struct store_pg_options){
                              .on_up = on_store_up, .on_down = on_store_down, .arg = dispatcher});
    start_fleet(dispatcher, process->name);
    callers_init(&dispatcher->callers, dispatcher->loop, fleet_production(dispatcher->fleet),
                 dispatcher->queue, dispatcher->store, dispatcher->metrics);
    STAILQ_INIT(&dispatcher->generations);
    start_intake(dispatcher);
    return is_started(process, dispatcher->loop);
}

static void end_dispatcher(struct sim_dispatcher *dispatcher)
{
    reconciler_free(dispatcher->reconciler);
    struct sim_generation *generation;
    while ((generation = STAILQ_FIRST(&dispatcher->generations))) {
        STAILQ_REMOVE_HEAD(&dispatcher->generations, link);
        intake_done(&generation->intake);
        free(generation);
    }
    callers_done(&dispatcher->callers);
    fleet_free(dispatcher->fleet);
    health_free(dispatcher->health);
    metrics_free(dispatcher->metrics);
    loop_free(dispatcher->loop);
}

/* ---- ends ---- */

static void end_process(struct sim_process *process)
{
    bool any;
    sim_unset(&process->end);
    sim_senders_lost(process);
    if (process->is_worker)
        process->worker.draining = process->worker.stopped = true;
    do { /* what ends may begin something anew: that ends, too */
        any = sim_queue_end(process->queue);
        any |= sim_store_end(process->store);
    } while (any);
    if (process->is_worker)
        worker_done(&process->worker);
    else
        end_dispatcher(&process->dispatcher);
    sim_queue_done(process->queue);
    sim_store_done(process->store);
    TAILQ_REMOVE(&sim_processes, process, entry);
    free(process);
}

static void on_killed(void *arg)
{
    struct sim_process *process = arg;
    sim_say("%s is killed", process->name);
    end_process(process);
}

void sim_kill(struct sim_process *process)
{
    process->is_doomed = true;
    sim_set(&process->end, NULL, sim.now_us, on_killed, process);
}

void sim_pause(struct sim_process *process, int64_t for_us)
{
    if (sim_loop_paused(process->loop))
        return;
    sim_say("%s is paused for %.3f s", process->name, (double)for_us / SIM_SECOND);
    process->paused_us += for_us;
    sim_loop_pause(process->loop, sim.now_us + for_us);
}

void sim_drain(struct sim_process *process)
{
    struct loop_watch *sigterm = &process->worker.sigterm;
    if (process->is_draining)
        return;
    sim_say("%s is told to end", process->name);
    process->is_draining = true;
    sim.running = process->loop;
    sigterm->fire(sigterm->arg);
    sim.running = NULL;
}

void sim_reap(void)
{
    struct sim_process *process, *next;
    for (process = TAILQ_FIRST(&sim_processes); process; process = next) {
        next = TAILQ_NEXT(process, entry);
        if (!sim_loop_stopped(process->loop))
            continue;
        sim_say("%s has ended", process->name);
        end_process(process);
    }
}

static void on_redriven(void *arg, const struct err *err, size_t count, size_t left)
{
    (void)arg;
    (void)left;
    sim_say("%zu redriven: %s", count, error_word(err->code));
}

void sim_redrive_all(void)
{
    struct sim_process *process = sim_pick(false);
    if (!process)
        return;
    struct sim_dispatcher *dispatcher = &process->dispatcher;
    const struct production *production = fleet_production(dispatcher->fleet);
    sim.running = process->loop;
    for (size_t i = 0; i < production->item_count; i++)
        redrive_start(&(const struct redrive_request){.queue = dispatcher->queue,
                                                      .store = dispatcher->store,
                                                      .fleet = dispatcher->fleet,
                                                      .item = &production->items[i],
                                                      .done = on_redriven});
    sim.running = NULL;
}

/* ---- who there is ---- */

static bool is_fit(const struct sim_process *process, bool is_worker)
{
    return process->is_worker == is_worker && !process->is_doomed && !process->is_draining;
}

size_t sim_live(bool is_worker)
{
    const struct sim_process *process;
    size_t count = 0;
    TAILQ_FOREACH(process, &sim_processes, entry)
    {
        count += is_fit(process, is_worker);
    }
    return count;
}

struct sim_process *sim_pick(bool is_worker)
{
    struct sim_process *process;
    size_t at = random_below(sim_live(is_worker));
    TAILQ_FOREACH(process, &sim_processes, entry)
    {
        if (is_fit(process, is_worker) && at-- == 0)
            return process;
    }
    return NULL;
}

bool sim_any_drains(void)
{
    const struct sim_process *process;
    TAILQ_FOREACH(process, &sim_processes, entry)
    {
        if (process->is_draining)
            return true;
    }
    return false;
}

static void say_lane(const struct lane *lane)
{
    const struct lane_part *part;
    const struct claim *claim;
    sim_say("%s holds %zu, %zu run, state %u", lane->item->id, lane->held, lane->running_count,
            lane->state);
    TAILQ_FOREACH(claim, &lane->claims, link)
    {
        sim_say("  %s seq %lld is in state %u", sim_name(claim->entry->id), (long long)claim->seq,
                claim->state);
    }
    if (!lane->fifo)
        return;
    sim_say("  fifo state %u%s", lane->fifo->state, lane->fifo->leaving ? ", leaving" : "");
    TAILQ_FOREACH(part, &lane->fifo->parts, link)
    {
        sim_say("  part %u holds %zu, in cycle %u, clear to %lld, top %lld%s%s%s%s%s%s",
                part->number, part->held, part->in_cycle, (long long)part->clear_seq,
                (long long)part->top_seq, part->lost ? ", lost" : "",
                part->leaving ? ", leaving" : "", part->disowning ? ", disowning" : "",
                part->inheriting ? ", inherits" : "", part->look_back ? ", looks back" : "",
                lane_part_is_sure(part) ? "" : ", unsure");
    }
}

void sim_workers_say(void)
{
    struct sim_process *process;
    TAILQ_FOREACH(process, &sim_processes, entry)
    {
        sim.running = process->loop;
        const struct lane *lane;
        if (process->is_worker) {
            TAILQ_FOREACH(lane, &process->worker.all_lanes, in_worker)
            {
                say_lane(lane);
            }
        }
        sim.running = NULL;
    }
}

bool sim_holds(const struct sim_process *process, int64_t number)
{
    const struct lane *lane;
    const struct claim *claim;
    if (!process->is_worker)
        return false;
    TAILQ_FOREACH(lane, &process->worker.all_lanes, in_worker)
    {
        TAILQ_FOREACH(claim, &lane->claims, link)
        {
            if (strtoll(claim->entry->entry_id, NULL, 10) == number)
                return true;
        }
    }
    return false;
}

bool sim_workers_idle(void)
{
    const struct sim_process *process;
    TAILQ_FOREACH(process, &sim_processes, entry)
    {
        const struct lane *lane;
        if (!process->is_worker)
            continue;
        TAILQ_FOREACH(lane, &process->worker.all_lanes, in_worker)
        {
            if (lane->held)
                return false;
        }
    }
    return true;
}
