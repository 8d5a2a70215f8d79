#include "link/loop.h"

#include "base/bug.h"
#include "base/mem.h"

#include <event2/event.h>
#include <stdlib.h>

struct loop {
    struct event_base *base;
};

struct loop *loop_new(void)
{
    struct loop *loop = mem_alloc(sizeof(*loop));
    struct event_config *config = event_config_new();
    BUG_ON(!config);
    event_config_set_flag(config, EVENT_BASE_FLAG_PRECISE_TIMER);
    loop->base = event_base_new_with_config(config);
    event_config_free(config);
    BUG_ON(!loop->base);
    return loop;
}

struct loop *loop_free(struct loop *loop)
{
    if (loop) {
        event_base_free(loop->base);
        free(loop);
    }
    return NULL;
}

void loop_run(struct loop *loop)
{
    event_base_loop(loop->base, EVLOOP_NO_EXIT_ON_EMPTY);
}

void loop_stop(struct loop *loop)
{
    event_base_loopbreak(loop->base);
}

struct event_base *loop_base(struct loop *loop)
{
    return loop->base;
}

static struct event *new_event(struct loop *loop, int fd, short what, event_callback_fn call,
                               void *arg)
{
    struct event *event = event_new(loop->base, fd, what, call, arg);
    BUG_ON(!event);
    return event;
}

static void free_event(struct event **event)
{
    if (*event)
        event_free(*event);
    *event = NULL;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct loop_timer *timer = arg;
    (void)fd;
    (void)what;
    timer->fire(timer->arg);
}

void loop_timer_init(struct loop_timer *timer, struct loop *loop, void (*fire)(void *), void *arg)
{
    *timer = (struct loop_timer){.fire = fire, .arg = arg};
    timer->event = new_event(loop, -1, 0, on_timer, timer);
}

void loop_timer_set(struct loop_timer *timer, int64_t delay_ms)
{
    loop_timer_set_us(timer, delay_ms * 1000);
}

void loop_timer_set_us(struct loop_timer *timer, int64_t delay_us)
{
    if (delay_us < 0)
        delay_us = 0;
    struct timeval tv = {.tv_sec = delay_us / 1000000, .tv_usec = delay_us % 1000000};
    event_add(timer->event, &tv);
}

void loop_timer_cancel(struct loop_timer *timer)
{
    event_del(timer->event);
}

bool loop_timer_pending(const struct loop_timer *timer)
{
    return event_pending(timer->event, EV_TIMEOUT, NULL);
}

void loop_timer_done(struct loop_timer *timer)
{
    free_event(&timer->event);
}

static void on_task(evutil_socket_t fd, short what, void *arg)
{
    struct loop_task *task = arg;
    (void)fd;
    (void)what;
    task->set = false;
    task->fire(task->arg);
}

void loop_task_init(struct loop_task *task, struct loop *loop, void (*fire)(void *), void *arg)
{
    *task = (struct loop_task){.fire = fire, .arg = arg};
    task->event = new_event(loop, -1, 0, on_task, task);
}

void loop_task_set(struct loop_task *task)
{
    if (task->set)
        return;
    task->set = true;
    event_active(task->event, EV_TIMEOUT, 0);
}

void loop_task_done(struct loop_task *task)
{
    free_event(&task->event);
}

static void on_watch(evutil_socket_t fd, short what, void *arg)
{
    struct loop_watch *watch = arg;
    (void)fd;
    (void)what;
    watch->fire(watch->arg);
}

void loop_watch_init(struct loop_watch *watch, struct loop *loop, int fd, void (*fire)(void *),
                     void *arg)
{
    *watch = (struct loop_watch){.fire = fire, .arg = arg};
    watch->event = new_event(loop, fd, EV_READ | EV_PERSIST, on_watch, watch);
    event_add(watch->event, NULL);
}

void loop_watch_writable(struct loop_watch *watch, struct loop *loop, int fd, void (*fire)(void *),
                         void *arg)
{
    *watch = (struct loop_watch){.fire = fire, .arg = arg};
    watch->event = new_event(loop, fd, EV_WRITE | EV_PERSIST, on_watch, watch);
    event_add(watch->event, NULL);
}

void loop_watch_signal(struct loop_watch *watch, struct loop *loop, int signal,
                       void (*fire)(void *), void *arg)
{
    *watch = (struct loop_watch){.fire = fire, .arg = arg};
    watch->event = new_event(loop, signal, EV_SIGNAL | EV_PERSIST, on_watch, watch);
    event_add(watch->event, NULL);
}

void loop_watch_done(struct loop_watch *watch)
{
    free_event(&watch->event);
}
