/* What goes wrong: some faults, each at some moment, of some process or server. */
#include "base/mem.h"
#include "sim_fleet.h"

#include <stdlib.h>

#define LEASE_US (6 * SIM_SECOND)
#define CLOCK_US (30 * SIM_SECOND) /* a jump of the wall clock at most, in either direction */

static struct sim_event *events;
static unsigned event_count;
static struct sim_event back, born[16], saved;
static unsigned born_count;

static int64_t a_while(void)
{
    return sim_one_in(3) ? sim_between(LEASE_US, 3 * LEASE_US)
                         : sim_between(SIM_MS, 2 * SIM_SECOND);
}

static void on_born(void *arg)
{
    (void)arg;
    sim_count(SIM_WORKER_ADDED);
    sim_start_worker();
}

static void add_worker(int64_t after_us)
{
    if (born_count < sizeof(born) / sizeof(born[0]))
        sim_set(&born[born_count++], NULL, sim.now_us + after_us, on_born, NULL);
}

static void on_dispatcher_back(void *arg)
{
    (void)arg;
    sim_start_dispatcher();
}

static void on_lost_writes(void *arg)
{
    (void)arg;
    sim_say("redis loses its last writes");
    sim_count(SIM_REDIS_LOST_WRITES);
    redis_go_back();
    redis.silent_until_us = sim.now_us + sim_between(0, 3 * SIM_SECOND);
    sim_server_away(&redis.server, redis.silent_until_us);
}

void sim_fault_pause(struct sim_process *process)
{
    int64_t for_us = a_while();
    sim_pause(process, for_us);
    process->silent_until_us = sim.now_us + for_us;
    sim_count(process->is_worker ? SIM_WORKER_PAUSED : SIM_DISPATCHER_PAUSED);
}

static void hit_process(enum sim_fault fault, struct sim_process *process)
{
    int64_t until_us = sim.now_us + a_while();
    struct sim_link *links[] = {&process->queue->link, &process->store->links[SIM_COMMITS],
                                &process->store->links[SIM_LOOKUPS],
                                &process->store->links[SIM_SCANS]};
    struct sim_link *link = fault == SIM_REDIS_CUT || fault == SIM_REDIS_SLOW
                                ? links[0]
                                : links[sim_between(1, SIM_STORE_LINKS)];
    switch (fault) {
    case SIM_WORKER_KILLED:
        sim_kill(process);
        if (!sim_one_in(3))
            add_worker(sim_between(0, 3 * SIM_SECOND));
        break;
    case SIM_DISPATCHER_KILLED:
        sim_kill(process);
        sim_set(&back, NULL, sim.now_us + sim_between(1, 2 * SIM_SECOND), on_dispatcher_back, NULL);
        break;
    case SIM_WORKER_PAUSED:
    case SIM_DISPATCHER_PAUSED:
        sim_fault_pause(process);
        return;
    case SIM_WORKER_DRAINED:
        sim_drain(process);
        break;
    case SIM_CLOCK_JUMPED:
        sim_loop_clock(process->loop, sim_between(-CLOCK_US, CLOCK_US));
        break;
    case SIM_REDIS_CUT:
    case SIM_POSTGRES_CUT:
        sim_link_cut(link, until_us);
        break;
    case SIM_REDIS_SLOW:
    case SIM_POSTGRES_SLOW:
        sim_link_slow(link, until_us, sim_between(SIM_MS, 2 * SIM_SECOND));
        break;
    default:
        return;
    }
    if (fault == SIM_REDIS_CUT || fault == SIM_REDIS_SLOW)
        process->silent_until_us = until_us;
    sim_count(fault);
}

static void hit_server(enum sim_fault fault)
{
    switch (fault) {
    case SIM_REDIS_AWAY:
        redis.silent_until_us = sim.now_us + a_while();
        sim_server_away(&redis.server, redis.silent_until_us);
        break;
    case SIM_POSTGRES_AWAY:
        sim_server_away(&postgres.server, sim.now_us + a_while());
        break;
    case SIM_REDIS_FLUSHED:
        redis_flush();
        sim_queue_flushed();
        break;
    case SIM_REDIS_LOST_WRITES: /* counted when it happens */
        if (redis.saved)
            return;
        redis_save();
        sim_set(&saved, NULL, sim.now_us + sim_between(1, SIM_SECOND), on_lost_writes, NULL);
        return;
    default:
        return;
    }
    sim_count(fault);
}

static void on_fault(void *arg)
{
    enum sim_fault fault = (enum sim_fault)(uintptr_t)arg;
    bool of_dispatcher = fault == SIM_DISPATCHER_KILLED || fault == SIM_DISPATCHER_PAUSED;
    bool of_any = fault == SIM_CLOCK_JUMPED || fault == SIM_REDIS_CUT || fault == SIM_REDIS_SLOW ||
                  fault == SIM_POSTGRES_CUT || fault == SIM_POSTGRES_SLOW;
    if (fault == SIM_WORKER_ADDED) {
        add_worker(0);
        return;
    }
    struct sim_process *process = sim_pick(!of_dispatcher && !(of_any && sim_one_in(3)));
    if (fault == SIM_DISPATCHER_KILLED && back.place)
        return; /* one at a time */
    sim_say("fault: %s%s%s", sim_fault_words[fault], process ? ", " : "",
            process ? process->name : "");
    hit_server(fault);
    if (process)
        hit_process(fault, process);
}

void sim_faults_start(unsigned count, int64_t until_us)
{
    event_count = count;
    born_count = 0;
    events = mem_array(count ? count : 1, sizeof(*events));
    for (unsigned i = 0; i < count; i++) {
        enum sim_fault fault;
        do {
            fault = (enum sim_fault)random_below(SIM_DONE_UNANSWERED);
        } while (fault == SIM_WORKER_KILLED_BY_MESSAGE);
        sim_set(&events[i], NULL, sim_between(0, until_us), on_fault, (void *)(uintptr_t)fault);
    }
}

void sim_faults_done(void)
{
    for (unsigned i = 0; i < event_count; i++)
        sim_unset(&events[i]);
    for (unsigned i = 0; i < born_count; i++)
        sim_unset(&born[i]);
    sim_unset(&back);
    sim_unset(&saved);
    free(events);
    events = NULL;
    event_count = born_count = 0;
}
