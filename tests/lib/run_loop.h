/* Runs an event loop until a condition holds or a second has passed: for tests of what waits for loop turns. */
#ifndef HIE_TESTS_RUN_LOOP_H
#define HIE_TESTS_RUN_LOOP_H

#include "base/clock.h"
#include "link/loop.h"

#include <event2/event.h>

static inline void run_loop_once(struct loop *loop)
{
    event_base_loop(loop_base(loop), EVLOOP_ONCE | EVLOOP_NONBLOCK);
}

/* Some turns: enough for every task that is due. */
static inline void run_loop_turns(struct loop *loop)
{
    for (int i = 0; i < 5; i++)
        run_loop_once(loop);
}

#define RUN_LOOP_UNTIL(loop, condition)                                                            \
    do {                                                                                           \
        int64_t until_ms_ = clock_mono_ms() + 5000;                                                \
        while (!(condition) && clock_mono_ms() < until_ms_)                                        \
            run_loop_once(loop);                                                                   \
        ck_assert_msg((condition), "never came true: %s", #condition);                             \
    } while (0)

#endif
