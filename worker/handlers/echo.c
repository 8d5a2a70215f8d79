/* Echo: replies the message, for tests and measuring. It waits for nothing but its own delay, and
 * fails only where its settings tell it to: for good on a text in the body, retryably on the first
 * attempts. */
#include "handlers/classes.h"

#include "base/mem.h"

#include <stdlib.h>
#include <sys/queue.h>

/* A message that waits out the delay. */
struct echo_wait {
    struct echo *echo;
    struct job *job;
    struct loop_timer timer;
    TAILQ_ENTRY(echo_wait) entry;
};

struct echo {
    struct loop *loop;
    const struct echo_settings *settings;
    TAILQ_HEAD(, echo_wait) waiting; /* for close */
};

static bool echo_immediate(const struct item *item)
{
    const struct echo_settings *settings = item->settings;
    return settings->delay_ms == 0;
}

static int echo_open(const struct handler_env *env, const struct item *item, void **ret_state,
                     struct err *err)
{
    (void)err;
    struct echo *echo = mem_alloc(sizeof(*echo));
    echo->loop = env->loop;
    echo->settings = item->settings;
    TAILQ_INIT(&echo->waiting);
    *ret_state = echo;
    return 0;
}

static bool is_refused(const struct echo_settings *settings, struct body body)
{
    const char *text = settings->reject_matching;
    return text && *text && body.len && memmem(body.ptr, body.len, text, strlen(text));
}

static void answer(const struct echo_settings *settings, struct job *job)
{
    struct body body = job_body(job);
    struct err err;
    if (is_refused(settings, body)) {
        err_set(&err, ERR_REJECTED, "the body contains the text of reject_matching");
        job_fail(job, &err);
    } else if (job_attempt(job) <= settings->fail_attempts) {
        err_set(&err, ERR_RECEIVER, "told to fail attempt %d", job_attempt(job));
        job_fail(job, &err);
    } else {
        job_done(job, job_content_type(job), body_slice(body));
    }
}

/* Takes the job out of its wait, which is gone then. */
static struct job *stop_waiting(struct echo_wait *wait)
{
    struct job *job = wait->job;
    TAILQ_REMOVE(&wait->echo->waiting, wait, entry);
    loop_timer_done(&wait->timer);
    free(wait);
    job_set_data(job, NULL);
    return job;
}

static void on_delay_over(void *arg)
{
    struct echo_wait *wait = arg;
    const struct echo_settings *settings = wait->echo->settings;
    answer(settings, stop_waiting(wait));
}

static void echo_start(void *state, struct job *job)
{
    struct echo *echo = state;
    if (echo->settings->delay_ms == 0) {
        answer(echo->settings, job);
        return;
    }
    struct echo_wait *wait = mem_alloc(sizeof(*wait));
    wait->echo = echo;
    wait->job = job;
    TAILQ_INSERT_TAIL(&echo->waiting, wait, entry);
    job_set_data(job, wait);
    loop_timer_init(&wait->timer, echo->loop, on_delay_over, wait);
    loop_timer_set(&wait->timer, echo->settings->delay_ms);
}

static void give_up(struct echo_wait *wait)
{
    struct err err;
    err_set(&err, ERR_CANCELLED, "cancelled during the delay");
    job_fail(stop_waiting(wait), &err);
}

static void echo_cancel(void *state, struct job *job)
{
    (void)state;
    struct echo_wait *wait = job_data(job);
    if (wait)
        give_up(wait);
}

static void echo_close(void *state)
{
    struct echo *echo = state;
    struct echo_wait *wait;
    while ((wait = TAILQ_FIRST(&echo->waiting)))
        give_up(wait);
    free(echo);
}

const struct handler_class echo_class = {
    .id = CLASS_ECHO,
    .immediate = echo_immediate,
    .open = echo_open,
    .close = echo_close,
    .start = echo_start,
    .cancel = echo_cancel,
};
