/* The event loop and its timers: a thin skin over libevent, so that only common/link includes it. */
#ifndef HIE_LINK_LOOP_H
#define HIE_LINK_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct event_base;
struct loop;

struct loop *loop_new(void);
struct loop *loop_free(struct loop *loop); /* NULL */
/* Runs until loop_stop. */
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop);
struct event_base *loop_base(struct loop *loop);

/* A one-shot timer owned by the caller; embed it. */
struct loop_timer {
    struct event *event;
    void (*fire)(void *arg);
    void *arg;
};
void loop_timer_init(struct loop_timer *timer, struct loop *loop, void (*fire)(void *), void *arg);
void loop_timer_set(struct loop_timer *timer, int64_t delay_ms); /* sets anew when it is pending */
void loop_timer_set_us(struct loop_timer *timer, int64_t delay_us);
void loop_timer_cancel(struct loop_timer *timer);
bool loop_timer_pending(const struct loop_timer *timer);
void loop_timer_done(struct loop_timer *timer);

/* Work for later in this loop turn, after the callbacks that are due: how completions avoid being called from
 * inside the call that submitted. Setting it twice before it fires fires once. */
struct loop_task {
    struct event *event;
    void (*fire)(void *arg);
    void *arg;
    bool set;
};
void loop_task_init(struct loop_task *task, struct loop *loop, void (*fire)(void *), void *arg);
void loop_task_set(struct loop_task *task);
void loop_task_done(struct loop_task *task);

/* Calls back on a readable descriptor (eventfd, signals by signalfd …). */
struct loop_watch {
    struct event *event;
    void (*fire)(void *arg);
    void *arg;
};
void loop_watch_init(struct loop_watch *watch, struct loop *loop, int fd, void (*fire)(void *),
                     void *arg);
/* The same for one that can be written to. */
void loop_watch_writable(struct loop_watch *watch, struct loop *loop, int fd, void (*fire)(void *),
                         void *arg);
void loop_watch_done(struct loop_watch *watch);

/* Calls back in the loop, not in signal context. */
void loop_watch_signal(struct loop_watch *watch, struct loop *loop, int signal,
                       void (*fire)(void *), void *arg);

#endif
