#include "waiters.h"

#include "base/clock.h"

#define PAUSE_LEAST_MS 20
#define PAUSE_MOST_MS 500
#define PAUSE_PER_COST 10 /* asking takes at most a tenth of the time */

static void answer(struct waiters *waiters, struct waiter *waiter, bool ended)
{
    TAILQ_REMOVE(&waiters->list, waiter, link);
    waiter->done(waiter, ended);
}

static void on_ended(void *arg, const struct err *err, const bool *ended)
{
    struct waiters *waiters = arg;
    int64_t cost_ms = (clock_mono_us() - waiters->asked_at_us) / 1000;
    waiters->pause_ms = cost_ms * PAUSE_PER_COST;
    if (waiters->pause_ms < PAUSE_LEAST_MS)
        waiters->pause_ms = PAUSE_LEAST_MS;
    if (waiters->pause_ms > PAUSE_MOST_MS)
        waiters->pause_ms = PAUSE_MOST_MS;
    /* `done` may remove others of them: asked_count stays until the end, so that those are found. */
    for (size_t i = 0; i < waiters->asked_count; i++) {
        struct waiter *waiter = waiters->asked[i];
        if (!waiter)
            continue; /* removed while it was asked for */
        waiters->asked[i] = NULL;
        waiter->asked = false;
        if (err->code == ERR_NONE && ended[i]) {
            answer(waiters, waiter, true);
        } else { /* to the back: all get their turn */
            TAILQ_REMOVE(&waiters->list, waiter, link);
            TAILQ_INSERT_TAIL(&waiters->list, waiter, link);
        }
    }
    waiters->asked_count = 0;
}

static void ask(struct waiters *waiters)
{
    if (waiters->asked_count)
        return;
    struct waiter *waiter;
    size_t count = 0;
    TAILQ_FOREACH(waiter, &waiters->list, link)
    {
        if (count == STORE_BATCH_MAX)
            break;
        waiter->asked = true;
        waiters->asked[count] = waiter;
        waiters->ids[count++] = waiter->id;
    }
    if (count == 0)
        return;
    waiters->asked_count = count;
    waiters->asked_at_us = clock_mono_us();
    waiters->store->ops->ended(waiters->store, waiters->ids, count, on_ended, waiters);
}

static void forget_asked(struct waiters *waiters, struct waiter *waiter)
{
    for (size_t i = 0; waiter->asked && i < waiters->asked_count; i++) {
        if (waiters->asked[i] == waiter)
            waiters->asked[i] = NULL;
    }
}

static void on_timer(void *arg)
{
    struct waiters *waiters = arg;
    int64_t now = clock_mono_us();
    struct waiter *waiter;
    for (waiter = TAILQ_FIRST(&waiters->list); waiter; waiter = waiters->next_due) {
        waiters->next_due = TAILQ_NEXT(waiter, link);
        if (waiters->draining || now >= waiter->until_us) {
            forget_asked(waiters, waiter);
            answer(waiters, waiter, false);
        }
    }
    ask(waiters);
    if (!TAILQ_EMPTY(&waiters->list))
        loop_timer_set(&waiters->timer, waiters->pause_ms);
}

void waiters_init(struct waiters *waiters, struct loop *loop, struct store *store)
{
    *waiters = (struct waiters){.store = store, .pause_ms = PAUSE_LEAST_MS};
    TAILQ_INIT(&waiters->list);
    loop_timer_init(&waiters->timer, loop, on_timer, waiters);
}

void waiters_done(struct waiters *waiters)
{
    loop_timer_done(&waiters->timer);
}

static void insert(struct waiters *waiters, struct waiter *waiter, int64_t pause_ms)
{
    bool first = TAILQ_EMPTY(&waiters->list);
    TAILQ_INSERT_TAIL(&waiters->list, waiter, link);
    if (first || waiters->draining)
        loop_timer_set(&waiters->timer, waiters->draining ? 0 : pause_ms);
}

void waiters_add(struct waiters *waiters, struct waiter *waiter, struct uuid id, int64_t wait_ms,
                 void (*done)(struct waiter *, bool))
{
    *waiter = (struct waiter){.id = id, .until_us = clock_mono_us() + wait_ms * 1000, .done = done};
    insert(waiters, waiter, 0);
}

void waiters_add_again(struct waiters *waiters, struct waiter *waiter)
{
    insert(waiters, waiter, waiters->pause_ms);
}

void waiters_drain(struct waiters *waiters)
{
    waiters->draining = true;
    loop_timer_set(&waiters->timer, 0);
}

void waiters_remove(struct waiters *waiters, struct waiter *waiter)
{
    forget_asked(waiters, waiter);
    if (waiters->next_due == waiter)
        waiters->next_due = TAILQ_NEXT(waiter, link);
    TAILQ_REMOVE(&waiters->list, waiter, link);
}
