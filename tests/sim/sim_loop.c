/* link/loop.h in virtual time: a loop for each simulated process, all of them over one queue of events. What comes due while a
 * process is paused happens when it goes on, in its order. Descriptors and signals never become ready by themselves. */
#include "base/bug.h"
#include "base/mem.h"
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>

struct loop {
    char name[16];
    int64_t paused_until_us, clock_us;
    bool stopped;
};

/* What the handles of loop.h point to. */
struct event {
    struct sim_event sim;
    struct loop *loop;
    void (*due)(void *handle);
    void *handle;
};

struct loop *loop_new(void)
{
    struct loop *loop = mem_alloc(sizeof(*loop));
    snprintf(loop->name, sizeof(loop->name), "?");
    return loop;
}

struct loop *loop_free(struct loop *loop)
{
    free(loop);
    return NULL;
}

void loop_run(struct loop *loop)
{
    (void)loop;
    BUG_ON(true); /* the simulation's driver runs all of them */
}

void loop_stop(struct loop *loop)
{
    loop->stopped = true;
}

struct event_base *loop_base(struct loop *loop)
{
    (void)loop;
    return NULL;
}

static struct event *new_event(struct loop *loop, void (*due)(void *handle), void *handle)
{
    struct event *event = mem_alloc(sizeof(*event));
    event->loop = loop;
    event->due = due;
    event->handle = handle;
    return event;
}

static void free_event(struct event **event)
{
    if (*event)
        sim_unset(&(*event)->sim);
    free(*event);
    *event = NULL;
}

static void on_due(void *arg)
{
    struct event *event = arg;
    event->due(event->handle);
}

static void set_event(struct event *event, int64_t delay_us)
{
    sim_set(&event->sim, event->loop, sim.now_us + (delay_us > 0 ? delay_us : 0), on_due, event);
}

/* ---- timers ---- */

static void timer_due(void *handle)
{
    struct loop_timer *timer = handle;
    timer->fire(timer->arg);
}

void loop_timer_init(struct loop_timer *timer, struct loop *loop, void (*fire)(void *), void *arg)
{
    *timer = (struct loop_timer){.fire = fire, .arg = arg};
    timer->event = new_event(loop, timer_due, timer);
}

void loop_timer_set(struct loop_timer *timer, int64_t delay_ms)
{
    set_event(timer->event, delay_ms * SIM_MS);
}

void loop_timer_set_us(struct loop_timer *timer, int64_t delay_us)
{
    set_event(timer->event, delay_us);
}

void loop_timer_cancel(struct loop_timer *timer)
{
    sim_unset(&timer->event->sim);
}

bool loop_timer_pending(const struct loop_timer *timer)
{
    return timer->event->sim.place != 0;
}

void loop_timer_done(struct loop_timer *timer)
{
    free_event(&timer->event);
}

/* ---- tasks ---- */

static void task_due(void *handle)
{
    struct loop_task *task = handle;
    task->set = false;
    task->fire(task->arg);
}

void loop_task_init(struct loop_task *task, struct loop *loop, void (*fire)(void *), void *arg)
{
    *task = (struct loop_task){.fire = fire, .arg = arg};
    task->event = new_event(loop, task_due, task);
}

void loop_task_set(struct loop_task *task)
{
    if (task->set)
        return;
    task->set = true;
    set_event(task->event, 0);
}

void loop_task_done(struct loop_task *task)
{
    free_event(&task->event);
}

/* ---- descriptors and signals: whoever simulates one calls `fire` ---- */

void loop_watch_init(struct loop_watch *watch, struct loop *loop, int fd, void (*fire)(void *),
                     void *arg)
{
    (void)loop;
    (void)fd;
    *watch = (struct loop_watch){.fire = fire, .arg = arg};
}

void loop_watch_signal(struct loop_watch *watch, struct loop *loop, int signal,
                       void (*fire)(void *), void *arg)
{
    (void)signal;
    loop_watch_init(watch, loop, -1, fire, arg);
}

void loop_watch_done(struct loop_watch *watch)
{
    (void)watch;
}

/* ---- for the simulation ---- */

void sim_loop_name(struct loop *loop, const char *name)
{
    snprintf(loop->name, sizeof(loop->name), "%s", name);
}

const char *sim_loop_name_of(const struct loop *loop)
{
    return loop->name;
}

void sim_loop_pause(struct loop *loop, int64_t until_us)
{
    loop->paused_until_us = until_us;
}

bool sim_loop_paused(const struct loop *loop)
{
    return sim.now_us < loop->paused_until_us;
}

int64_t sim_loop_paused_until(const struct loop *loop)
{
    return loop->paused_until_us;
}

bool sim_loop_stopped(const struct loop *loop)
{
    return loop->stopped;
}

void sim_loop_clock(struct loop *loop, int64_t offset_us)
{
    loop->clock_us = offset_us;
}

int64_t sim_wall_us(void)
{
    int64_t epoch_us = INT64_C(1767225600) * SIM_SECOND; /* 2026 begins */
    return epoch_us + sim.now_us + (sim.running ? sim.running->clock_us : 0);
}
