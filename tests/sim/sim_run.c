#include "sim_run.h"

#include "base/bug.h"
#include "sim_check.h"
#include "sim_fleet.h"
#include "sim_productions.h"

#define SETTLE_US (180 * SIM_SECOND) /* after the last fault */
#define UP_US (SIM_SECOND / 2)       /* all links are up by then */
#define DRAIN_US (60 * SIM_SECOND)

static void run_until(int64_t until_us)
{
    while (!sim.failure[0] && sim_step(until_us))
        sim_reap();
}

static bool is_settled(void)
{
    return sim_senders_idle() && pg_unfinished_count() == 0 && !redis_first_left() &&
           sim_workers_idle();
}

static void wait_until_settled(void)
{
    int64_t until_us = sim.now_us + SETTLE_US;
    do {
        if (sim_live(true) == 0)
            sim_start_worker();
        if (sim_live(false) == 0)
            sim_start_dispatcher();
        run_until(sim.now_us + 100 * SIM_MS);
    } while (!sim.failure[0] && !is_settled() && sim.now_us < until_us);
    if (sim.failure[0] || is_settled())
        return;
    const struct redis_stream *left = redis_first_left();
    redis_say_left();
    sim_workers_say();
    sim_fail("it does not settle: %zu messages without an end%s, %s%s%s", pg_unfinished_count(),
             sim_senders_idle() ? "" : ", senders without an answer",
             left ? "something left in the queue of " : "queues empty", left ? left->item : "",
             sim_workers_idle() ? "" : ", claims in hand");
}

static struct sim_event redrive;

static void on_redrive(void *arg)
{
    (void)arg;
    sim_redrive_all();
}

/* Workers drain or are killed, and then nothing is left to happen. */
static void end_all(void)
{
    struct sim_process *process;
    int64_t until_us = sim.now_us + DRAIN_US;
    bool drains = sim_one_in(2);
    TAILQ_FOREACH(process, &sim_processes, entry)
    {
        if (process->is_worker && drains && !sim.failure[0])
            sim_drain(process);
    }
    while (!sim.failure[0] && drains && sim_any_drains() && sim.now_us < until_us)
        run_until(sim.now_us + 100 * SIM_MS);
    if (!sim.failure[0] && drains && sim_any_drains())
        sim_fail("a worker that was told to end does not");
    TAILQ_FOREACH(process, &sim_processes, entry)
    {
        sim_kill(process);
    }
    while (sim_step(INT64_MAX - 1))
        ;
}

void sim_run(uint64_t seed, bool trace, unsigned *ret_acknowledged)
{
    sim_begin(seed, trace);
    redis_init();
    pg_init();
    sim_processes_init(sim_productions[random_below(SIM_PRODUCTION_COUNT)]);
    struct production *production = sim_parse(); /* of those who look on */
    check_begin(production);
    struct sim_traffic traffic = {.count = (unsigned)sim_between(20, 250),
                                  .keys = (unsigned)sim_between(1, 8),
                                  .start_us = sim_one_in(3) ? 0 : UP_US,
                                  .window_us = sim_between(SIM_SECOND / 2, 8 * SIM_SECOND),
                                  .bad_one_in = (unsigned)sim_between(0, 1) * 8};
    unsigned fault_count = (unsigned)random_below(sim_one_in(8) ? 40 : 12);
    int64_t faults_until_us = traffic.start_us + traffic.window_us + sim_between(0, 6 * SIM_SECOND);
    for (int64_t i = sim_between(1, 2); i > 0; i--)
        sim_start_dispatcher();
    for (int64_t i = sim_between(1, 4); i > 0; i--)
        sim_start_worker();
    sim_say("seed %llu: %u messages, %u keys in %.3f s, %u faults", (unsigned long long)seed,
            traffic.count, traffic.keys, (double)traffic.window_us / SIM_SECOND, fault_count);
    sim_senders_start(production, &traffic);
    sim_faults_start(fault_count, faults_until_us);
    sim_set(&redrive, NULL, sim_between(0, faults_until_us), on_redrive, NULL);
    run_until(faults_until_us);
    wait_until_settled();
    if (!sim.failure[0])
        sim_redrive_all();
    wait_until_settled();
    if (!sim.failure[0])
        check_all();
    *ret_acknowledged = sim_senders_acknowledged();
    sim_unset(&redrive);
    sim_faults_done();
    sim_senders_stop();
    end_all();
    sim_senders_done();
    check_end();
    redis_done();
    pg_done();
    production_free(production);
    sim_end();
}
