/* multi_process: the handler runs in child processes, one job in each.
 *
 * One child is started with the executor, so that a handler that cannot work shows at once; up to `concurrency` in all by load, and
 * those stay. A child that dies takes its job along (ERR_CRASHED: a message that kills its handler becomes a dead letter by its
 * attempts) and nothing else. It is started again after 100 ms, then 200 ms and so on up to 10 s, until one has ended a
 * job or 30 s went by without a death. Where they do not even start, what waits goes back to its queue, without an attempt, and the
 * lane is told to claim nothing until one does. */
#include "executor.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "child_process.h"
#include "ops/health.h"
#include "ops/metrics.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define STARTING_MAX 4u /* at once: a burst must not start all of them in one turn of the loop */
#define BACKOFF_MS 100
#define BACKOFF_MAX_MS 10000
#define CALM_MS 30000     /* without a death: what was is forgotten */
#define LOOP_DEATHS 3u    /* in a row: a crash loop, shown in readiness */
#define LEAVE_MS 1000     /* for children that are dismissed, then they are killed */
#define LEAVE_TICK_US 500 /* between two looks, where it is waited for */

TAILQ_HEAD(child_list, child_process);

struct executor_processes {
    struct executor base; /* first */
    struct executor_env env;
    const struct item *item;
    struct child_list children; /* all */
    struct child_list idle;     /* by `idle`, the last used first: its memory is warm */
    size_t count, starting, busy;
    size_t wanted; /* children; grows by load */
    struct job_list waiting;
    size_t waiting_count;
    struct loop_task staff;
    struct loop_timer rest; /* after deaths: the next start */
    struct loop_timer calm;
    int64_t not_before_us, died_us; /* monotonic */
    int64_t
        left_by_us; /* monotonic: until then they may leave by themselves; 0: they are not to leave */
    unsigned deaths;        /* in a row */
    unsigned failed_starts; /* in a row */
    size_t owed;            /* deaths that were not followed by a start yet */
    bool shown;             /* the crash loop, in readiness */
    char name[96];          /* there */
    struct loop_watch sigchld;
    struct metric *children_metric, *restarts_metric;
};

static struct executor_processes *of(struct executor *executor)
{
    return (struct executor_processes *)executor;
}

/* ---- health ---- */

/* A warning, no reason to be unready: other items and children go on. */
static void show(struct executor_processes *pool, const char *reason)
{
    char text[200];
    pool->shown = true;
    snprintf(text, sizeof(text), "degraded: its child processes keep ending, %u times in a row: %s",
             pool->deaths, reason);
    log_error("crash_loop", LOG_WORD("item", pool->item->id), LOG_INT("deaths", pool->deaths),
              LOG_WORD("reason", reason));
    if (pool->env.health)
        health_set(pool->env.health, pool->name, true, text);
}

static void forget_deaths(struct executor_processes *pool)
{
    pool->deaths = 0;
    loop_timer_cancel(&pool->calm);
    if (!pool->shown)
        return;
    pool->shown = false;
    log_info("crash_loop_over", LOG_WORD("item", pool->item->id));
    if (pool->env.health)
        health_set(pool->env.health, pool->name, true, "");
}

static void on_calm(void *arg)
{
    struct executor_processes *pool = arg;
    if (pool->base.paused)
        loop_timer_set(&pool->calm, CALM_MS);
    else
        forget_deaths(pool);
}

/* A reload's two pools of one item share the series. */
static void add_child(struct executor_processes *pool, struct child_process *child)
{
    TAILQ_INSERT_TAIL(&pool->children, child, entry);
    pool->count++;
    metric_add(pool->children_metric, 1);
}

static void remove_child(struct executor_processes *pool, struct child_process *child)
{
    TAILQ_REMOVE(&pool->children, child, entry);
    pool->count--;
    metric_add(pool->children_metric, -1);
}

/* ---- jobs ---- */

static void end_job(struct job *job, const struct err *error)
{
    job->running = false;
    job->ended(job, error);
}

/* False: there is nobody who takes it. */
static bool run(struct executor_processes *pool, struct job *job)
{
    struct child_process *child;
    TAILQ_FOREACH(child, &pool->idle, idle)
    {
        if (!child_process_run(child, job))
            continue; /* dead, and its end is on the way to us */
        TAILQ_REMOVE(&pool->idle, child, idle);
        pool->busy++;
        job->ride = child;
        return true;
    }
    return false;
}

static void end_unstarted(struct job *job, const char *reason)
{
    struct err err;
    err_set(&err, ERR_UNAVAILABLE, "%s", reason);
    job->unstarted = true;
    end_job(job, &err);
}

static void stop_waiting(struct executor_processes *pool, struct job *job)
{
    TAILQ_REMOVE(&pool->waiting, job, waiting);
    pool->waiting_count--;
}

static void run_waiting(struct executor_processes *pool)
{
    struct job *job;
    while ((job = TAILQ_FIRST(&pool->waiting))) {
        bool may_start = !job->may_start || job->may_start(job);
        if (may_start && !run(pool, job))
            return;
        stop_waiting(pool, job);
        if (may_start)
            return;
        end_unstarted(job, "it waited too long for a process");
    }
}

static void start(struct executor *executor, struct job *job)
{
    struct executor_processes *pool = of(executor);
    job->running = true;
    job->ride = NULL;
    if (run(pool, job))
        return;
    TAILQ_INSERT_TAIL(&pool->waiting, job, waiting);
    pool->waiting_count++;
    if (pool->busy + pool->waiting_count > pool->wanted &&
        pool->wanted < (size_t)pool->item->concurrency)
        pool->wanted++;
    loop_task_set(&pool->staff);
}

static bool cancel(struct executor *executor, struct job *job)
{
    struct executor_processes *pool = of(executor);
    if (job->ride) {
        child_process_cancel(job->ride);
        return true;
    }
    struct err err;
    err_set(&err, ERR_CANCELLED, "cancelled while it waited for a process");
    stop_waiting(pool, job);
    end_job(job, &err);
    return true;
}

/* ---- children ---- */

static void on_free(void *arg, struct child_process *child, struct job *ended,
                    const struct err *error)
{
    struct executor_processes *pool = arg;
    if (!ended) {
        pool->starting--;
        pool->failed_starts = 0;
        pool->base.paused = false; /* the lane's sweep sees it */
        loop_task_set(&pool->staff);
    } else {
        pool->busy--;
        if (pool->deaths && child->started_us > pool->died_us)
            forget_deaths(pool);
    }
    TAILQ_INSERT_HEAD(&pool->idle, child, idle);
    run_waiting(pool);
    if (ended)
        end_job(ended, error);
}

static int64_t backoff_ms(unsigned deaths)
{
    int64_t ms = BACKOFF_MS;
    for (unsigned i = 1; i < deaths && ms < BACKOFF_MAX_MS; i++)
        ms *= 2;
    return ms < BACKOFF_MAX_MS ? ms : BACKOFF_MAX_MS;
}

static void count_death(struct executor_processes *pool)
{
    pool->deaths++;
    pool->died_us = clock_mono_us();
    pool->not_before_us = pool->died_us + backoff_ms(pool->deaths) * 1000;
    loop_timer_set(&pool->calm, CALM_MS);
}

/* What waits ends, for none will come soon. Their ends are the last thing done: they may start new jobs. */
static void fail_waiting(struct executor_processes *pool, const char *reason)
{
    struct err err;
    struct job_list failed;
    struct job *job;
    err_set(&err, ERR_UNAVAILABLE, "its child processes do not start: %s", reason);
    TAILQ_INIT(&failed);
    TAILQ_CONCAT(&failed, &pool->waiting, waiting);
    pool->waiting_count = 0;
    while ((job = TAILQ_FIRST(&failed))) {
        TAILQ_REMOVE(&failed, job, waiting);
        job->unstarted = true;
        end_job(job, &err);
    }
}

/* One could not be started, or died before it was ready. */
static void start_failed(struct executor_processes *pool, const char *reason)
{
    count_death(pool);
    pool->failed_starts++;
    if (pool->failed_starts < LOOP_DEATHS || pool->count > 0)
        return;
    pool->base.paused = true;
    if (!pool->shown)
        show(pool, reason);
    fail_waiting(pool, reason);
}

static void on_lost(void *arg, struct child_process *child)
{
    struct executor_processes *pool = arg;
    if (child->lost_in == CHILD_STARTING)
        pool->starting--;
    else if (child->lost_in == CHILD_IDLE)
        TAILQ_REMOVE(&pool->idle, child, idle);
    else
        pool->busy--;
}

static void on_over(void *arg, struct child_process *child, struct job *job, const struct err *why)
{
    struct executor_processes *pool = arg;
    struct err error = *why;
    if (child_process_is_reaped(child)) {
        remove_child(pool, child);
        pool->owed++;
        if (child->lost_in == CHILD_STARTING)
            start_failed(pool, error.text);
        else if (!child->expected)
            count_death(pool);
        if (pool->deaths >= LOOP_DEATHS && !pool->shown)
            show(pool, error.text);
        child_process_free(child);
        loop_task_set(&pool->staff);
    }
    if (job)
        end_job(job, &error);
}

static const struct child_events events = {.free = on_free, .lost = on_lost, .over = on_over};

/* False: none can be started now. */
static bool start_child(struct executor_processes *pool)
{
    struct err err;
    struct child_process *child = child_process_start(pool->env.handler.loop, pool->item,
                                                      pool->env.production, &events, pool, &err);
    if (!child) {
        log_error("child_not_started", LOG_WORD("item", pool->item->id), LOG_ERR(&err));
        start_failed(pool, err.text);
        return false;
    }
    add_child(pool, child);
    pool->starting++;
    if (pool->owed) {
        pool->owed--;
        metric_add(pool->restarts_metric, 1);
    }
    return true;
}

/* Starts what is wanted and may be started. */
static void staff(void *arg)
{
    struct executor_processes *pool = arg;
    bool able = !pool->left_by_us;
    while (able && pool->count < pool->wanted && pool->starting < STARTING_MAX) {
        int64_t rest_us = pool->not_before_us - clock_mono_us();
        if (rest_us > 0) {
            loop_timer_set_us(&pool->rest, rest_us);
            return;
        }
        able = start_child(pool);
    }
    if (!able && !pool->left_by_us)
        loop_task_set(&pool->staff);
}

static void on_sigchld(void *arg)
{
    struct executor_processes *pool = arg;
    struct child_process *child, *next;
    if (pool->left_by_us)
        return; /* `leave` looks */
    for (child = TAILQ_FIRST(&pool->children); child; child = next) {
        next = TAILQ_NEXT(child, entry);
        child_process_look(child);
    }
}

/* ---- life ---- */

/* They leave when their socket closes, within milliseconds unless a handler blocks them. */
static void dismiss_all(struct executor_processes *pool)
{
    struct child_process *child;
    pool->left_by_us = clock_mono_us() + LEAVE_MS * 1000;
    TAILQ_FOREACH(child, &pool->children, entry)
    {
        child_process_dismiss(child);
    }
}

/* A child that the kernel keeps though it was killed is gone for all that matters. */
static bool leave(struct executor *executor)
{
    struct executor_processes *pool = of(executor);
    struct child_process *child, *next;
    if (!pool->left_by_us)
        dismiss_all(pool);
    int64_t late_us = clock_mono_us() - pool->left_by_us;
    for (child = TAILQ_FIRST(&pool->children); child; child = next) {
        next = TAILQ_NEXT(child, entry);
        if (!child_process_left(child, late_us > 0) && late_us < LEAVE_MS * 1000)
            continue;
        remove_child(pool, child);
        child_process_free(child);
    }
    return TAILQ_EMPTY(&pool->children);
}

/* All jobs that have not ended, taken from their children. */
static void take_jobs(struct executor_processes *pool, struct job_list *jobs)
{
    struct child_process *child;
    TAILQ_INIT(jobs);
    TAILQ_FOREACH(child, &pool->children, entry)
    {
        if (child->job)
            TAILQ_INSERT_TAIL(jobs, child->job, waiting);
    }
    TAILQ_CONCAT(jobs, &pool->waiting, waiting);
}

static void retire(struct executor *executor)
{
    struct executor_processes *pool = of(executor);
    if (pool->shown && pool->env.health)
        health_clear(pool->env.health, pool->name);
    pool->env.health = NULL;
}

static void executor_processes_free(struct executor *executor)
{
    struct executor_processes *pool = of(executor);
    struct job_list jobs;
    struct job *job;
    struct err err;
    take_jobs(pool, &jobs);
    while (!leave(executor))
        nanosleep(&(struct timespec){.tv_nsec = LEAVE_TICK_US * 1000}, NULL);
    err_set(&err, ERR_CANCELLED, "cancelled: its worker leaves");
    while ((job = TAILQ_FIRST(&jobs))) {
        TAILQ_REMOVE(&jobs, job, waiting);
        end_job(job, &err);
    }
    loop_watch_done(&pool->sigchld);
    loop_task_done(&pool->staff);
    loop_timer_done(&pool->rest);
    loop_timer_done(&pool->calm);
    retire(executor);
    free(pool);
}

static const struct executor_ops ops = {
    .start = start,
    .cancel = cancel,
    .retire = retire,
    .leave = leave,
    .free = executor_processes_free,
};

struct executor *executor_processes_new(const struct executor_env *env, const struct item *item)
{
    struct executor_processes *pool = mem_alloc(sizeof(*pool));
    struct loop *loop = env->handler.loop;
    const struct metric_label labels[] = {
        {"item", item->id}, {"pattern", messaging_pattern_words[item->messaging_pattern]}};
    pool->base.ops = &ops;
    pool->env = *env;
    pool->item = item;
    pool->wanted = 1;
    TAILQ_INIT(&pool->children);
    TAILQ_INIT(&pool->idle);
    TAILQ_INIT(&pool->waiting);
    snprintf(pool->name, sizeof(pool->name), "children:%s", item->id);
    pool->children_metric = metrics_gauge(env->metrics, "hie_children",
                                          "Child processes that run its handler", labels, 2);
    pool->restarts_metric =
        metrics_counter(env->metrics, "hie_child_restarts_total",
                        "Child processes started in the place of one that died", labels, 2);
    loop_task_init(&pool->staff, loop, staff, pool);
    loop_timer_init(&pool->rest, loop, staff, pool);
    loop_timer_init(&pool->calm, loop, on_calm, pool);
    loop_watch_signal(&pool->sigchld, loop, SIGCHLD, on_sigchld, pool);
    loop_task_set(&pool->staff);
    return &pool->base;
}
