/* The handlers' side of the fleet: an executor around the real one that tells check.c what runs, and does what the message's body says:
 * fail, be slow, never answer, kill its worker. Classes with effects outside are played as a whole. */
#include "base/clock.h"
#include "base/mem.h"
#include "model/item_class.h"
#include "sim_check.h"
#include "sim_fleet.h"
#include "worker/claim.h"

#include <stdio.h>
#include <stdlib.h>

#define MARK "ZSM|"

struct sim_executor {
    struct executor base;   /* first */
    struct executor *inner; /* NULL: the class is played */
    const struct item *item;
    struct loop *loop;
    bool immediate;
    TAILQ_HEAD(, handling) list;
};

/* One job in hand. */
struct handling {
    TAILQ_ENTRY(handling) entry;
    struct sim_executor *executor;
    struct job *job;
    void (*ended)(struct job *job, const struct err *error); /* the lane's */
    bool inner;                                              /* the real handler has it */
    enum error_code code;                                    /* how it ends when the timer fires */
    struct loop_timer timer;
};

size_t sim_body(char *ret, size_t size, enum sim_kind kind, unsigned key, unsigned number)
{
    return (size_t)snprintf(ret, size,
                            "MSH|^~\\&|SIM|HOSPITAL|HIE|FLEET|20260101||ADT^A01|%u|P|2.5\r"
                            "PID|1||P%u\r" MARK "%u\r",
                            number, key, (unsigned)kind);
}

enum sim_kind sim_kind_of(struct body body)
{
    const char *mark = body.len ? memmem(body.ptr, body.len, MARK, strlen(MARK)) : NULL;
    return mark ? (enum sim_kind)(mark[strlen(MARK)] - '0') : KIND_GOOD;
}

static struct sim_executor *of(struct executor *executor)
{
    return (struct sim_executor *)executor;
}

static const char *worker_name(const struct sim_executor *executor)
{
    return sim_loop_name_of(executor->loop);
}

static void on_ended(struct job *job, const struct err *error)
{
    struct handling *handling = job->ride;
    struct sim_executor *executor = handling->executor;
    check_run_ended(worker_name(executor), job->id, error == NULL);
    TAILQ_REMOVE(&executor->list, handling, entry);
    loop_timer_done(&handling->timer);
    job->ended = handling->ended;
    job->ride = NULL;
    free(handling);
    job->ended(job, error);
}

static void end_with(struct handling *handling, enum error_code code)
{
    struct job *job = handling->job;
    struct err err;
    if (code == ERR_NONE && sim_kind_of(job->body) == KIND_SLOW) {
        char own[64]; /* each attempt's is another */
        int len = snprintf(own, sizeof(own), "attempt %d of %s", job->attempt,
                           worker_name(handling->executor));
        job_done(job, SLICE_LITERAL("text/plain"), slice_of(own, (size_t)len));
        return;
    }
    if (code == ERR_NONE) {
        job_done(job, job_content_type(job), body_slice(job_body(job)));
        return;
    }
    err_set(&err, code, "so it is played");
    job_fail(job, &err);
}

static void on_timer(void *arg)
{
    struct handling *handling = arg;
    end_with(handling, handling->code);
}

static void end_later(struct handling *handling, enum error_code code, int64_t most_ms)
{
    handling->code = code;
    if (handling->executor->immediate)
        end_with(handling, code);
    else
        loop_timer_set_us(&handling->timer, sim_between(0, most_ms * SIM_MS));
}

static void handle(struct handling *handling)
{
    struct sim_executor *executor = handling->executor;
    if (!executor->inner) {
        end_later(handling, ERR_NONE, 20);
        return;
    }
    handling->inner = true;
    executor->inner->ops->start(executor->inner, handling->job);
}

static void start(struct executor *base, struct job *job)
{
    struct sim_executor *executor = of(base);
    struct handling *handling = mem_alloc(sizeof(*handling));
    enum sim_kind kind = sim_kind_of(job->body);
    handling->executor = executor;
    handling->job = job;
    handling->ended = job->ended;
    loop_timer_init(&handling->timer, executor->loop, on_timer, handling);
    TAILQ_INSERT_TAIL(&executor->list, handling, entry);
    job->ended = on_ended;
    job->ride = handling;
    job->running = true;
    const struct claim *claim = claim_of_job(job);
    int64_t held_us = clock_mono_us() - claim->claimed_us;
    bool first = job->attempt == 1, first_run = claim->outcome.run == 1;
    check_run_started(&(const struct check_start){.worker = worker_name(executor),
                                                  .item = executor->item,
                                                  .id = job->id,
                                                  .run = claim->outcome.run,
                                                  .attempt = job->attempt,
                                                  .lease_token = claim->outcome.lease_token,
                                                  .claimed_us = sim.now_us - held_us});
    if (kind == KIND_PAUSES && first)
        sim_fault_pause(sim_process_of(executor->loop));
    if ((kind == KIND_FAILS && first_run) || (kind == KIND_FAILS_ONCE && first)) {
        sim_count(SIM_HANDLER_FAILED);
        end_later(handling, ERR_RECEIVER, 50);
    } else if (kind == KIND_REFUSED && first_run) {
        sim_count(SIM_HANDLER_FAILED);
        end_later(handling, ERR_REJECTED, 10);
    } else if (kind == KIND_SLOW && !executor->immediate) {
        end_later(handling, ERR_NONE, executor->item->timeout_ms * 3 / 4);
    } else if (kind == KIND_STUCK && first && !executor->immediate) {
        sim_count(SIM_HANDLER_STUCK); /* until it is cancelled */
    } else if (kind == KIND_KILLS && first && !executor->immediate) {
        sim_count(SIM_WORKER_KILLED_BY_MESSAGE);
        sim_kill(sim_process_of(executor->loop));
    } else {
        handle(handling);
    }
}

static bool cancel(struct executor *base, struct job *job)
{
    struct handling *handling = job->ride;
    struct executor *inner = of(base)->inner;
    if (handling->inner)
        return inner->ops->cancel(inner, job);
    end_with(handling, ERR_CANCELLED);
    return true;
}

static void free_executor(struct executor *base)
{
    struct sim_executor *executor = of(base);
    struct handling *handling, *next;
    for (handling = TAILQ_FIRST(&executor->list); handling; handling = next) {
        next = TAILQ_NEXT(handling, entry);
        if (!handling->inner)
            end_with(handling, ERR_CANCELLED);
    }
    if (executor->inner)
        executor->inner->ops->free(executor->inner);
    free(executor);
}

static const struct executor_ops ops = {.start = start, .cancel = cancel, .free = free_executor};

/* In place of worker/executor.c. */
struct executor *executor_new(const struct executor_env *env, const struct item *item,
                              struct err *err)
{
    struct sim_executor *executor = mem_alloc(sizeof(*executor));
    const struct handler_class *handler = handler_class_of(item);
    executor->base.ops = &ops;
    executor->item = item;
    executor->loop = env->handler.loop;
    executor->immediate =
        item->execution_mode == MODE_ASYNC && handler->immediate && handler->immediate(item);
    TAILQ_INIT(&executor->list);
    if (!item->class->outbound)
        executor->inner = executor_loop_new(env, item, handler, err);
    if (!item->class->outbound && !executor->inner) {
        free(executor);
        return NULL;
    }
    return &executor->base;
}
