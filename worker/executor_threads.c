/* thread_pool: the handler runs in threads of its own and may block them; the worker's loop never does.
 *
 * Each thread has a loop, an HTTP client and a state of its handler of its own, and runs one job at a time. Jobs go to it and come
 * back by the pool's lock and an eventfd on each side:
 *
 *   worker's loop: start ──▶ given ──(wake_fd)──▶ the thread's loop: handler->start … ended ──▶ finished ──(eventfd)──▶ job->ended
 *
 * The first thread's handler is opened with the executor, so that one that cannot work shows at once; threads are started by load, up
 * to `concurrency`. Where the system has no more threads or descriptors, jobs wait for those that there are; with none at all they
 * go back to their queue, without an attempt. */
#include "executor.h"

#include "base/bug.h"
#include "base/log.h"
#include "base/mem.h"
#include "link/http_client.h"
#include "offload.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define DESCRIPTORS 16 /* a thread's loop, client and wake-up take no more */
#define END_SECONDS 2  /* for handlers that block their threads when the executor is freed */
#define NAME_LEN 15    /* of a thread, by the kernel */

struct pool_thread {
    TAILQ_ENTRY(pool_thread) entry, idle; /* the worker's loop */
    STAILQ_ENTRY(pool_thread) finished;   /* under the lock */
    struct executor_threads *pool;
    pthread_t thread;
    bool started;

    /* the worker's loop */
    struct job *job; /* it was given and has not come back */
    void (*job_ended)(struct job *job, const struct err *error);

    /* under the lock */
    struct job *given; /* to be started */
    struct job *asked; /* to give up */
    bool stopping;
    struct err error; /* how the job in `finished` ended; ERR_NONE: well */

    /* the thread, once it is started */
    struct handler_env env;
    void *state;
    bool open;
    struct job *running;
    int wake_fd;
    struct loop_watch wake;
};

struct executor_threads {
    struct executor base; /* first */
    struct loop *loop;
    const struct item *item;
    const struct handler_class *handler;
    const int *exit_code;
    TAILQ_HEAD(, pool_thread) threads; /* all */
    TAILQ_HEAD(, pool_thread) idle;    /* by `idle`, the last used first */
    size_t count;
    bool short_of; /* threads: it was said */
    bool leaving;
    struct job_list waiting;
    struct job_list failed; /* to end in `fail` */
    struct loop_task fail;
    pthread_mutex_t lock;
    STAILQ_HEAD(, pool_thread) finished; /* under the lock: their jobs have ended */
    int finished_fd;
    struct loop_watch watch;
};

static struct executor_threads *of(struct executor *executor)
{
    return (struct executor_threads *)executor;
}

static void ring(int fd)
{
    uint64_t one = 1;
    ssize_t n;
    do
        n = write(fd, &one, sizeof(one));
    while (n < 0 && errno == EINTR);
    BUG_ON(n < 0 && errno != EAGAIN); /* EAGAIN: it rings already */
}

static void hear(int fd)
{
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof(count));
    BUG_ON(n < 0 && errno != EAGAIN && errno != EINTR);
}

/* ---- in the thread ---- */

/* The job goes back: nothing of it is touched afterwards. */
static void hand_back(struct pool_thread *thread, const struct err *error)
{
    struct executor_threads *pool = thread->pool;
    static const struct err fine = {.code = ERR_NONE};
    thread->running = NULL;
    pthread_mutex_lock(&pool->lock);
    thread->error = error ? *error : fine;
    bool rings = !STAILQ_EMPTY(&pool->finished);
    STAILQ_INSERT_TAIL(&pool->finished, thread, finished);
    pthread_mutex_unlock(&pool->lock);
    if (!rings)
        ring(pool->finished_fd);
}

static void on_job_ended(struct job *job, const struct err *error)
{
    hand_back(job->ride, error);
}

static bool open_handler(struct pool_thread *thread, struct err *err)
{
    const struct handler_class *handler = thread->pool->handler;
    thread->open =
        !handler->open || handler->open(&thread->env, thread->pool->item, &thread->state, err) == 0;
    return thread->open;
}

static void run(struct pool_thread *thread, struct job *job)
{
    struct err err;
    thread->running = job;
    if (!thread->open && !open_handler(thread, &err)) {
        log_error("handler_not_open", LOG_WORD("item", thread->pool->item->id), LOG_ERR(&err));
        job->unstarted = true; /* it is this thread's trouble, not the message's */
        job_fail(job, &err);
        return;
    }
    thread->pool->handler->start(thread->state, job);
}

static void on_wake(void *arg)
{
    struct pool_thread *thread = arg;
    hear(thread->wake_fd);
    pthread_mutex_lock(&thread->pool->lock);
    struct job *given = thread->given, *asked = thread->asked;
    bool stopping = thread->stopping;
    thread->given = thread->asked = NULL;
    pthread_mutex_unlock(&thread->pool->lock);
    if (given)
        run(thread, given);
    if (asked && asked == thread->running && thread->pool->handler->cancel)
        thread->pool->handler->cancel(thread->state, asked);
    if (stopping)
        loop_stop(thread->env.loop);
}

static void *thread_main(void *arg)
{
    struct pool_thread *thread = arg;
    loop_run(thread->env.loop);
    const struct handler_class *handler = thread->pool->handler;
    if (thread->open && handler->close)
        handler->close(thread->state); /* ends what it still runs */
    thread->open = false;
    return NULL;
}

/* ---- threads ---- */

/* A loop that cannot get its descriptors is a bug of the set-up; here it is none, so they are asked for before. */
static bool has_descriptors(void)
{
    int fds[DESCRIPTORS], count = 0;
    while (count < DESCRIPTORS && (fds[count] = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)) >= 0)
        count++;
    for (int i = 0; i < count; i++)
        close(fds[i]);
    return count == DESCRIPTORS;
}

static struct pool_thread *thread_new(struct executor_threads *pool, struct err *err)
{
    if (!has_descriptors()) {
        err_set(err, ERR_UNAVAILABLE, "no descriptors for a thread: %s", strerror(errno));
        return NULL;
    }
    struct pool_thread *thread = mem_alloc(sizeof(*thread));
    thread->pool = pool;
    thread->env.loop = loop_new();
    thread->env.http = http_client_new(thread->env.loop);
    thread->env.offload = offload_new(thread->env.loop, 0); /* it may block */
    thread->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    BUG_ON(thread->wake_fd < 0);
    loop_watch_init(&thread->wake, thread->env.loop, thread->wake_fd, on_wake, thread);
    TAILQ_INSERT_TAIL(&pool->threads, thread, entry);
    pool->count++;
    return thread;
}

/* Threads take no signals: those belong to the worker's loop. */
static bool thread_start(struct pool_thread *thread, struct err *err)
{
    char name[NAME_LEN + 1];
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread->thread, NULL, thread_main, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        err_set(err, ERR_UNAVAILABLE, "no thread: %s", strerror(error));
        return false;
    }
    snprintf(name, sizeof(name), "%s", thread->pool->item->id);
    pthread_setname_np(thread->thread, name);
    thread->started = true;
    thread->pool->short_of = false;
    return true;
}

/* One that is not running: never started, or joined. */
static void thread_free(struct pool_thread *thread)
{
    struct executor_threads *pool = thread->pool;
    if (thread->open && pool->handler->close)
        pool->handler->close(thread->state);
    offload_free(thread->env.offload);
    http_client_free(thread->env.http);
    loop_watch_done(&thread->wake);
    close(thread->wake_fd);
    loop_free(thread->env.loop);
    TAILQ_REMOVE(&pool->threads, thread, entry);
    pool->count--;
    free(thread);
}

/* Another thread, idle; false when there is none to be had. */
static bool add_thread(struct executor_threads *pool, struct err *err)
{
    if (pool->count >= (size_t)pool->item->concurrency)
        return false;
    struct pool_thread *thread = thread_new(pool, err);
    if (!thread)
        return false;
    TAILQ_INSERT_HEAD(&pool->idle, thread, idle);
    return true;
}

static void say_short(struct executor_threads *pool, const struct err *err)
{
    if (!pool->short_of)
        log_error("thread_not_started", LOG_WORD("item", pool->item->id), LOG_ERR(err),
                  LOG_INT("threads", (int64_t)pool->count));
    pool->short_of = true;
}

/* ---- jobs, on the worker's loop ---- */

static void end_job(struct job *job, const struct err *error)
{
    job->running = false;
    job->ended(job, error);
}

/* To an idle thread; false when there is none. */
static bool give(struct executor_threads *pool, struct job *job, struct err *err)
{
    struct pool_thread *thread = TAILQ_FIRST(&pool->idle);
    if (!thread)
        return false;
    if (!thread->started && !thread_start(thread, err))
        return false;
    TAILQ_REMOVE(&pool->idle, thread, idle);
    thread->job = job;
    thread->job_ended = job->ended;
    job->ended = on_job_ended;
    job->ride = thread;
    pthread_mutex_lock(&pool->lock);
    thread->given = job;
    thread->asked = NULL;
    pthread_mutex_unlock(&pool->lock);
    ring(thread->wake_fd);
    return true;
}

/* Whether some thread runs, so that waiting has an end. */
static bool any_started(const struct executor_threads *pool)
{
    const struct pool_thread *thread;
    TAILQ_FOREACH(thread, &pool->threads, entry)
    {
        if (thread->started)
            return true;
    }
    return false;
}

static void start(struct executor *executor, struct job *job)
{
    struct executor_threads *pool = of(executor);
    struct err err = {.code = ERR_NONE};
    job->running = true;
    job->ride = NULL;
    if (TAILQ_EMPTY(&pool->idle))
        add_thread(pool, &err);
    if (give(pool, job, &err))
        return;
    if (err.code != ERR_NONE)
        say_short(pool, &err);
    if (any_started(pool)) {
        TAILQ_INSERT_TAIL(&pool->waiting, job, waiting);
    } else {
        TAILQ_INSERT_TAIL(&pool->failed, job, waiting);
        loop_task_set(&pool->fail);
    }
}

static void on_fail(void *arg)
{
    struct executor_threads *pool = arg;
    struct err err;
    struct job_list failed;
    struct job *job;
    err_set(&err, ERR_UNAVAILABLE, "no thread can be started");
    TAILQ_INIT(&failed);
    TAILQ_CONCAT(&failed, &pool->failed, waiting);
    while ((job = TAILQ_FIRST(&failed))) {
        TAILQ_REMOVE(&failed, job, waiting);
        job->unstarted = true;
        end_job(job, &err);
    }
}

static bool cancel(struct executor *executor, struct job *job)
{
    struct executor_threads *pool = of(executor);
    struct pool_thread *thread = job->ride;
    if (thread) {
        pthread_mutex_lock(&pool->lock);
        thread->asked = job;
        pthread_mutex_unlock(&pool->lock);
        ring(thread->wake_fd);
        return pool->handler->cancel != NULL;
    }
    struct job *failed;
    TAILQ_FOREACH(failed, &pool->failed, waiting)
    {
        if (failed == job)
            return true; /* it ends in this turn of the loop */
    }
    struct err err;
    err_set(&err, ERR_CANCELLED, "cancelled while it waited for a thread");
    TAILQ_REMOVE(&pool->waiting, job, waiting);
    end_job(job, &err);
    return true;
}

static struct pool_thread *next_finished(struct executor_threads *pool)
{
    pthread_mutex_lock(&pool->lock);
    struct pool_thread *thread = STAILQ_FIRST(&pool->finished);
    if (thread)
        STAILQ_REMOVE_HEAD(&pool->finished, finished);
    pthread_mutex_unlock(&pool->lock);
    return thread;
}

/* Takes the job out of its thread. */
static struct job *take_back(struct pool_thread *thread, struct err *ret_error)
{
    struct job *job = thread->job;
    *ret_error = thread->error;
    job->ended = thread->job_ended;
    thread->job = NULL;
    return job;
}

static void give_waiting(struct executor_threads *pool)
{
    struct err err;
    struct job *job;
    while ((job = TAILQ_FIRST(&pool->waiting))) {
        bool may_start = !job->may_start || job->may_start(job);
        TAILQ_REMOVE(&pool->waiting, job, waiting);
        if (may_start && !give(pool, job, &err))
            TAILQ_INSERT_HEAD(&pool->waiting, job, waiting);
        if (may_start)
            return;
        err_set(&err, ERR_UNAVAILABLE, "it waited too long for a thread");
        job->unstarted = true;
        end_job(job, &err);
    }
}

static void on_finished(void *arg)
{
    struct executor_threads *pool = arg;
    struct pool_thread *thread;
    hear(pool->finished_fd);
    while ((thread = next_finished(pool))) {
        struct err error;
        struct job *job = take_back(thread, &error);
        TAILQ_INSERT_HEAD(&pool->idle, thread, idle);
        give_waiting(pool);
        end_job(job, error.code == ERR_NONE ? NULL : &error);
    }
}

/* ---- life ---- */

static void stop_threads(struct executor_threads *pool)
{
    struct pool_thread *thread;
    TAILQ_FOREACH(thread, &pool->threads, entry)
    {
        pthread_mutex_lock(&pool->lock);
        thread->stopping = true;
        pthread_mutex_unlock(&pool->lock);
        ring(thread->wake_fd);
    }
}

/* One that has no job is gone at once. */
static bool leave(struct executor *executor)
{
    struct executor_threads *pool = of(executor);
    struct pool_thread *thread;
    if (!pool->leaving)
        stop_threads(pool);
    pool->leaving = true;
    TAILQ_FOREACH(thread, &pool->threads, entry)
    {
        if (thread->started && pthread_tryjoin_np(thread->thread, NULL) == 0)
            thread->started = false;
    }
    return !any_started(pool);
}

static void join_threads(struct executor_threads *pool)
{
    struct timespec until;
    struct pool_thread *thread;
    int64_t stuck = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += END_SECONDS;
    TAILQ_FOREACH(thread, &pool->threads, entry)
    {
        stuck += thread->started && pthread_timedjoin_np(thread->thread, NULL, &until) != 0;
    }
    if (!stuck)
        return;
    log_error("thread_stuck", LOG_WORD("item", pool->item->id), LOG_INT("threads", stuck),
              LOG_WORD("reason", "its handler does not return; its message is taken over"));
    _exit(pool->exit_code ? *pool->exit_code : 0);
}

static void executor_threads_free(struct executor *executor)
{
    struct executor_threads *pool = of(executor);
    struct pool_thread *thread;
    struct job *job;
    struct err err;
    if (!leave(executor))
        join_threads(pool);
    while ((thread = next_finished(pool))) {
        job = take_back(thread, &err);
        end_job(job, err.code == ERR_NONE ? NULL : &err);
    }
    TAILQ_CONCAT(&pool->waiting, &pool->failed, waiting);
    err_set(&err, ERR_CANCELLED, "cancelled: its worker leaves");
    while ((job = TAILQ_FIRST(&pool->waiting))) {
        TAILQ_REMOVE(&pool->waiting, job, waiting);
        end_job(job, &err);
    }
    while ((thread = TAILQ_FIRST(&pool->threads)))
        thread_free(thread);
    loop_watch_done(&pool->watch);
    loop_task_done(&pool->fail);
    close(pool->finished_fd);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

static const struct executor_ops ops = {
    .start = start, .cancel = cancel, .leave = leave, .free = executor_threads_free};

struct executor *executor_threads_new(const struct executor_env *env, const struct item *item,
                                      const struct handler_class *handler, struct err *err)
{
    int finished_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (finished_fd < 0) {
        err_set(err, ERR_IO, "no descriptor for its threads: %s", strerror(errno));
        return NULL;
    }
    struct executor_threads *pool = mem_alloc(sizeof(*pool));
    pool->base.ops = &ops;
    pool->finished_fd = finished_fd;
    pool->loop = env->handler.loop;
    pool->item = item;
    pool->handler = handler;
    pool->exit_code = env->exit_code;
    TAILQ_INIT(&pool->threads);
    TAILQ_INIT(&pool->idle);
    TAILQ_INIT(&pool->waiting);
    TAILQ_INIT(&pool->failed);
    STAILQ_INIT(&pool->finished);
    pthread_mutex_init(&pool->lock, NULL);
    loop_watch_init(&pool->watch, pool->loop, pool->finished_fd, on_finished, pool);
    loop_task_init(&pool->fail, pool->loop, on_fail, pool);
    if (!add_thread(pool, err) || !open_handler(TAILQ_FIRST(&pool->threads), err)) {
        err->code = err->code == ERR_CONFIG ? ERR_CONFIG : ERR_IO;
        executor_threads_free(&pool->base);
        return NULL;
    }
    return &pool->base;
}
