/* The threads behind offload.h: one queue in, one list of finished work out, an eventfd that wakes
 * the loop. It waits for nothing but the work itself: a call that hangs in the kernel keeps its
 * thread, others go on. Threads start with the first work; where there are none, because the user wants
 * none or the system has none, work runs where it is submitted. No descriptor at the start is a bug
 * of the set-up. */
#include "offload.h"

#include "base/bug.h"
#include "base/mem.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { THREADS_MAX = 64 };

struct work_list {
    struct offload_work *first, **last;
};

struct offload {
    struct loop_watch watch;
    int wake_fd; /* an eventfd: counts finished work the loop has not heard of */
    pthread_t *threads;
    unsigned threads_wanted, thread_count;
    bool begun; /* threads were started, or tried */

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t work_came, work_ended;
    struct work_list queued, finished;
    bool stopping;
};

static void list_init(struct work_list *list)
{
    list->first = NULL;
    list->last = &list->first;
}

static void list_push(struct work_list *list, struct offload_work *work)
{
    work->next = NULL;
    *list->last = work;
    list->last = &work->next;
}

static struct offload_work *list_pop(struct work_list *list)
{
    struct offload_work *work = list->first;
    if (work) {
        list->first = work->next;
        if (!list->first)
            list->last = &list->first;
    }
    return work;
}

static bool list_remove(struct work_list *list, const struct offload_work *work)
{
    for (struct offload_work **at = &list->first; *at; at = &(*at)->next) {
        if (*at != work)
            continue;
        *at = work->next;
        if (!*at)
            list->last = at;
        return true;
    }
    return false;
}

static void wake_loop(struct offload *offload)
{
    uint64_t one = 1;
    ssize_t n;
    do
        n = write(offload->wake_fd, &one, sizeof(one));
    while (n < 0 && errno == EINTR);
    /* EAGAIN means that the counter is full: the loop is awake already. */
    BUG_ON(n < 0 && errno != EAGAIN);
}

static void *thread_main(void *arg)
{
    struct offload *offload = arg;
    pthread_mutex_lock(&offload->lock);
    for (;;) {
        struct offload_work *work = list_pop(&offload->queued);
        if (work) {
            pthread_mutex_unlock(&offload->lock);
            work->run(work);
            pthread_mutex_lock(&offload->lock);
            list_push(&offload->finished, work);
            pthread_cond_broadcast(&offload->work_ended);
            wake_loop(offload);
        } else if (offload->stopping) {
            break;
        } else {
            pthread_cond_wait(&offload->work_came, &offload->lock);
        }
    }
    pthread_mutex_unlock(&offload->lock);
    return NULL;
}

static struct offload_work *next_finished(struct offload *offload)
{
    pthread_mutex_lock(&offload->lock);
    struct offload_work *work = list_pop(&offload->finished);
    pthread_mutex_unlock(&offload->lock);
    return work;
}

/* One at a time off the shared list, so that a completion may withdraw another one's work. As many
 * as were announced: what finishes meanwhile announces itself anew and other events get their turn.
 */
static void on_finished(void *arg)
{
    struct offload *offload = arg;
    uint64_t announced = 0;
    if (read(offload->wake_fd, &announced, sizeof(announced)) != sizeof(announced))
        return;
    for (uint64_t i = 0; i < announced; i++) {
        struct offload_work *work = next_finished(offload);
        if (!work)
            return; /* withdrawn */
        work->done(work);
    }
}

/* Threads take no signals: those belong to the loop. */
static void start_threads(struct offload *offload)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (unsigned i = 0; i < offload->threads_wanted; i++) {
        if (pthread_create(&offload->threads[i], NULL, thread_main, offload) != 0)
            break;
        pthread_setname_np(offload->threads[i], "hie-offload");
        offload->thread_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    offload->begun = true;
}

struct offload *offload_new(struct loop *loop, unsigned threads)
{
    BUG_ON(threads > THREADS_MAX);
    struct offload *offload = mem_alloc(sizeof(*offload));
    list_init(&offload->queued);
    list_init(&offload->finished);
    pthread_mutex_init(&offload->lock, NULL);
    pthread_cond_init(&offload->work_came, NULL);
    pthread_cond_init(&offload->work_ended, NULL);
    offload->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    BUG_ON(offload->wake_fd < 0);
    loop_watch_init(&offload->watch, loop, offload->wake_fd, on_finished, offload);
    offload->threads = mem_array(threads, sizeof(*offload->threads));
    offload->threads_wanted = threads;
    return offload;
}

struct offload *offload_free(struct offload *offload)
{
    if (!offload)
        return NULL;
    pthread_mutex_lock(&offload->lock);
    offload->stopping = true;
    list_init(&offload->queued);
    pthread_cond_broadcast(&offload->work_came);
    pthread_mutex_unlock(&offload->lock);
    for (unsigned i = 0; i < offload->thread_count; i++)
        pthread_join(offload->threads[i], NULL);

    struct offload_work *work;
    while ((work = next_finished(offload)))
        work->done(work);

    loop_watch_done(&offload->watch);
    close(offload->wake_fd);
    pthread_cond_destroy(&offload->work_ended);
    pthread_cond_destroy(&offload->work_came);
    pthread_mutex_destroy(&offload->lock);
    free(offload->threads);
    free(offload);
    return NULL;
}

static void run_here(struct offload *offload, struct offload_work *work)
{
    work->run(work);
    list_push(&offload->finished, work);
    wake_loop(offload);
}

void offload_submit(struct offload *offload, struct offload_work *work)
{
    if (offload->stopping)
        return; /* nothing begins any more: dropped as the queued work was */
    if (!offload->begun)
        start_threads(offload);
    if (offload->thread_count == 0) {
        run_here(offload, work);
        return;
    }
    pthread_mutex_lock(&offload->lock);
    list_push(&offload->queued, work);
    pthread_cond_signal(&offload->work_came);
    pthread_mutex_unlock(&offload->lock);
}

bool offload_withdraw(struct offload *offload, struct offload_work *work)
{
    pthread_mutex_lock(&offload->lock);
    bool begun = !list_remove(&offload->queued, work);
    while (begun && !list_remove(&offload->finished, work))
        pthread_cond_wait(&offload->work_ended, &offload->lock);
    pthread_mutex_unlock(&offload->lock);
    return begun;
}
