/* Starts, watches and ends one child process: child_process.h. */
#include "child_process.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/state.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_MS 30000 /* until its handler is open */
#define GRACE_MS 1000  /* to give up a job */
#define REAP_MS 5000   /* for the kernel to end a killed one */

static const char *const state_words[] = {"starting", "idle", "busy", "cancelling", "ending"};
static const uint32_t state_moves[] = {
    [CHILD_STARTING] = STATE_BIT(CHILD_IDLE) | STATE_BIT(CHILD_ENDING),
    [CHILD_IDLE] = STATE_BIT(CHILD_BUSY) | STATE_BIT(CHILD_ENDING),
    [CHILD_BUSY] = STATE_BIT(CHILD_IDLE) | STATE_BIT(CHILD_CANCELLING) | STATE_BIT(CHILD_ENDING),
    [CHILD_CANCELLING] = STATE_BIT(CHILD_IDLE) | STATE_BIT(CHILD_ENDING),
    [CHILD_ENDING] = 0,
};
static const struct state_table states = {"child", state_words, state_moves, CHILD_STATE_COUNT};

static void move(struct child_process *child, enum child_state to)
{
    state_move(&states, &child->state, to);
    loop_timer_cancel(&child->late);
}

/* ---- its end ---- */

/* Nothing that it says counts any more. */
static void lose(struct child_process *child, bool expected, enum error_code code,
                 const char *reason)
{
    child->lost_in = (enum child_state)child->state;
    child->expected = expected;
    move(child, CHILD_ENDING);
    err_set(&child->why, code, "%s", reason);
    child_link_close(&child->link);
    if (child->pid > 0)
        kill(child->pid, SIGKILL);
    loop_timer_set(&child->late, REAP_MS);
    child->events->lost(child->arg, child);
}

static void log_end(const struct child_process *child, int status)
{
    const char *how = WIFSIGNALED(status) ? "signal" : "exit_code";
    int64_t number = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
    if (child->job)
        log_warn("child_ended", LOG_WORD("item", child->item->id), LOG_INT("pid", child->pid),
                 LOG_INT(how, number), LOG_ID(child->job->id));
    else
        log_warn("child_ended", LOG_WORD("item", child->item->id), LOG_INT("pid", child->pid),
                 LOG_INT(how, number));
}

static void over(struct child_process *child)
{
    struct job *job = child->job;
    child->job = NULL;
    loop_timer_cancel(&child->late);
    child->events->over(child->arg, child, job, &child->why); /* it may be freed here */
}

/* It has ended by itself: it may have said something before. */
static void died(struct child_process *child, int status)
{
    child_link_drain(&child->link); /* on_gone: ENDING, unless it is so already */
    BUG_ON(child->state != CHILD_ENDING);
    if (child->why.text[0])
        return; /* we ended it, and know why */
    if (WIFSIGNALED(status))
        err_set(&child->why, ERR_CRASHED, "its process ended by signal %d", WTERMSIG(status));
    else
        err_set(&child->why, ERR_CRASHED, "its process ended with exit code %d",
                WEXITSTATUS(status));
}

void child_process_look(struct child_process *child)
{
    int status = 0;
    if (child->pid < 0)
        return;
    pid_t reaped = waitpid(child->pid, &status, WNOHANG);
    if (reaped == 0 || (reaped < 0 && errno == EINTR))
        return;
    log_end(child, status);
    child->pid = -1;
    died(child, status);
    over(child);
}

static void on_gone(void *arg, bool corrupt)
{
    struct child_process *child = arg;
    if (child->state == CHILD_ENDING)
        return;
    if (corrupt)
        log_warn("child_corrupt", LOG_WORD("item", child->item->id), LOG_INT("pid", child->pid));
    lose(child, false, ERR_CRASHED, corrupt ? "its process sent what cannot be read" : "");
}

static void on_late(void *arg)
{
    struct child_process *child = arg;
    const char *what = "it does not start";
    switch ((enum child_state)child->state) {
    case CHILD_STARTING:
        lose(child, false, ERR_UNAVAILABLE, "its process did not start in time");
        break;
    case CHILD_CANCELLING:
        what = "its handler does not give up";
        lose(child, true, ERR_CANCELLED, "its process did not give up and was ended");
        break;
    case CHILD_ENDING: /* the kernel keeps it: its slot stays taken, its message does not wait */
        what = "it does not end";
        loop_timer_set(&child->late, REAP_MS);
        if (child->job) {
            struct job *job = child->job;
            child->job = NULL;
            child->events->over(child->arg, child, job, &child->why);
        }
        break;
    case CHILD_IDLE:
    case CHILD_BUSY:
    case CHILD_STATE_COUNT:
        BUG_ON(true); /* they have no deadline of ours */
    }
    log_warn("child_late", LOG_WORD("item", child->item->id), LOG_INT("pid", child->pid),
             LOG_WORD("reason", what));
}

/* ---- what it says ---- */

static void is_free(struct child_process *child, struct job *job, const struct err *error)
{
    move(child, CHILD_IDLE);
    child->job = NULL;
    child->events->free(child->arg, child, job, error);
}

/* It may end a job that it has, once it has got all of it. */
static bool may_end(const struct child_process *child)
{
    return (child->state == CHILD_BUSY || child->state == CHILD_CANCELLING) &&
           !wire_out_borrows(&child->link.out);
}

/* False: it may not say that now, or it says it wrongly. */
static bool understand(struct child_process *child, struct wire_frame *frame)
{
    struct err error;
    switch (frame->type) {
    case WIRE_READY:
        if (child->state != CHILD_STARTING || frame->len)
            return false;
        is_free(child, NULL, NULL);
        return true;
    case WIRE_REFUSED:
        if (child->state != CHILD_STARTING || wire_get_refused(frame, &error))
            return false;
        log_error("child_refused", LOG_WORD("item", child->item->id), LOG_ERR(&error));
        lose(child, false, ERR_UNAVAILABLE, error.text);
        return true;
    case WIRE_DONE:
        if (!may_end(child) || wire_get_done(frame, child->production, child->job))
            return false;
        frame->payload = NULL; /* the job's now */
        is_free(child, child->job, NULL);
        return true;
    case WIRE_FAILED:
        if (!may_end(child) || wire_get_failed(frame, child->job, &error))
            return false;
        is_free(child, child->job, &error);
        return true;
    case WIRE_START:
    case WIRE_JOB:
    case WIRE_CANCEL:
    case WIRE_TYPE_END:
        break; /* a worker says these */
    }
    return false;
}

static void on_frame(void *arg, struct wire_frame *frame)
{
    struct child_process *child = arg;
    if (understand(child, frame))
        return;
    child_link_close(&child->link);
    on_gone(child, true);
}

/* ---- what it is told ---- */

bool child_process_run(struct child_process *child, struct job *job)
{
    wire_put_job(&child->link.out, job);
    if (!child_link_send(&child->link))
        return false;
    move(child, CHILD_BUSY);
    child->job = job;
    return true;
}

void child_process_cancel(struct child_process *child)
{
    if (child->state != CHILD_BUSY)
        return;
    move(child, CHILD_CANCELLING);
    loop_timer_set(&child->late, GRACE_MS);
    wire_put_cancel(&child->link.out);
    child_link_send(&child->link);
}

/* ---- its start ---- */

/* Signals that end a container go to all of its processes; a child leaves when its worker closes the socket. It is started with them
 * blocked, ignores them (child_main.c) and lets them through. */
static void block_signals(posix_spawnattr_t *attributes)
{
    sigset_t blocked, usual;
    sigemptyset(&usual);
    sigaddset(&usual, SIGCHLD);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    sigaddset(&blocked, SIGHUP);
    posix_spawnattr_init(attributes);
    posix_spawnattr_setsigmask(attributes, &blocked);
    posix_spawnattr_setsigdefault(attributes, &usual);
    posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
}

/* 0, or an errno. Not a bare fork: this process has threads and links. Nothing but the socket and the standard descriptors goes along. */
static int spawn(const char *title, int fd, pid_t *ret_pid)
{
    char *const arguments[] = {(char *)title, (char *)CHILD_ARGUMENT, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fd, CHILD_FD);
    posix_spawn_file_actions_addclosefrom_np(&actions, CHILD_FD + 1);
    block_signals(&attributes);
    int error = posix_spawn(ret_pid, "/proc/self/exe", &actions, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

struct child_process *child_process_start(struct loop *loop, const struct item *item,
                                          const struct production *production,
                                          const struct child_events *events, void *arg,
                                          struct err *err)
{
    int fds[2];
    pid_t pid;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds)) {
        err_set(err, ERR_UNAVAILABLE, "no socket for a child process: %s", strerror(errno));
        return NULL;
    }
    char *title = mem_printf("hie-worker: item %s", item->id);
    int error = spawn(title, fds[1], &pid);
    free(title);
    close(fds[1]);
    if (error) {
        close(fds[0]);
        err_set(err, ERR_UNAVAILABLE, "no child process: %s", strerror(error));
        return NULL;
    }
    struct child_process *child = mem_alloc(sizeof(*child));
    child->events = events;
    child->arg = arg;
    child->item = item;
    child->production = production;
    child->pid = pid;
    child->started_us = clock_mono_us();
    loop_timer_init(&child->late, loop, on_late, child);
    loop_timer_set(&child->late, START_MS);
    child_link_open(&child->link, loop, fds[0], on_frame, on_gone, child);
    wire_put_start(&child->link.out, slice_text(item->id), production->text);
    child_link_send(&child->link);
    log_info("child_started", LOG_WORD("item", item->id), LOG_INT("pid", pid));
    return child;
}

/* ---- dismissed ---- */

void child_process_dismiss(struct child_process *child)
{
    child_link_close(&child->link);
    loop_timer_cancel(&child->late);
    child->job = NULL;
}

bool child_process_left(struct child_process *child, bool kill_it)
{
    if (child->pid < 0)
        return true;
    if (kill_it)
        kill(child->pid, SIGKILL);
    pid_t reaped = waitpid(child->pid, NULL, WNOHANG);
    if (reaped == 0 || (reaped < 0 && errno == EINTR))
        return false;
    child->pid = -1;
    return true;
}

bool child_process_is_reaped(const struct child_process *child)
{
    return child->pid < 0;
}

void child_process_free(struct child_process *child)
{
    child_link_close(&child->link);
    loop_timer_done(&child->late);
    free(child);
}
