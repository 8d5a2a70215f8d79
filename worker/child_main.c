/* A child process of a worker: child_main.h.
 *
 *   WAITING ──START──▶ IDLE ⇄ BUSY          any ──the socket closes, what comes is no frame──▶ the handler is closed, exit
 */
#include "child_main.h"

#include "base/log.h"
#include "base/mem.h"
#include "child_process.h"
#include "job.h"
#include "link/http_client.h"
#include "offload.h"
#include "ops/program.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#define OFFLOAD_THREADS 1u /* one job at a time */

enum { EXIT_LEFT = 0, EXIT_CORRUPT = 1 };

static struct child {
    const struct handler_class *(*class_of)(const struct item *item);
    struct handler_env env;
    struct child_link link;
    struct production *production;
    const struct item *item;
    const struct handler_class *handler; /* NULL: not open */
    void *state;
    struct job job;
    char *given;             /* owned: the frame that the job borrows from */
    struct loop_task forget; /* a job that has ended and whose result has been sent */
    bool has_job, leaving;
    int exit_code;
} child;

bool child_is_wanted(int argc, char *const *argv)
{
    return argc == 2 && strcmp(argv[1], CHILD_ARGUMENT) == 0;
}

/* ---- a job ---- */

static void forget_job(void)
{
    job_clear(&child.job);
    free(child.given);
    child.given = NULL;
}

/* What it made stays until it has been sent. Not inside the handler's call: it may be large, and is given back to the system. */
static void on_forget(void *arg)
{
    (void)arg;
    if (!child.has_job && child_link_sent(&child.link))
        forget_job();
}

static void on_sent(void *arg)
{
    (void)arg;
    loop_task_set(&child.forget);
}

static void on_job_ended(struct job *job, const struct err *error)
{
    struct err too_large;
    child.has_job = false;
    if (child.leaving)
        return;
    if (!error && !wire_put_done(&child.link.out, job)) {
        err_set(&too_large, ERR_TOO_LARGE, "what the handler made is over %u bytes",
                WIRE_PAYLOAD_MAX);
        error = &too_large;
    }
    if (error)
        wire_put_failed(&child.link.out, job->id, error);
    child_link_send(&child.link);
    loop_task_set(&child.forget);
}

static bool take_job(struct wire_frame *frame)
{
    if (!child.handler || child.has_job || !child_link_sent(&child.link))
        return false;
    forget_job();
    job_init(&child.job);
    if (wire_get_job(frame, &child.job))
        return false;
    child.given = frame->payload;
    frame->payload = NULL;
    child.job.item = child.item;
    child.job.ended = on_job_ended;
    child.job.running = child.has_job = true;
    child.handler->start(child.state, &child.job);
    return true;
}

static void take_cancel(void)
{
    if (child.has_job && child.handler->cancel)
        child.handler->cancel(child.state, &child.job);
}

/* ---- the start ---- */

static int find_item(const struct wire_frame *frame, struct err *err)
{
    struct slice id, yaml;
    struct diagnostics diagnostics;
    if (wire_get_start(frame, &id, &yaml))
        return err_set(err, ERR_INVALID, "its worker sent what cannot be read");
    child.production = production_parse_published(yaml, &diagnostics);
    diagnostics_done(&diagnostics);
    if (!child.production)
        return err_set(err, ERR_CONFIG, "the production is not valid in a child process");
    child.item = production_find(child.production, id);
    if (!child.item)
        return err_set(err, ERR_CONFIG, "the production has no such item");
    return 0;
}

static int open_handler(struct err *err)
{
    const struct handler_class *handler = child.class_of(child.item);
    if (handler->open && handler->open(&child.env, child.item, &child.state, err))
        return -1;
    child.handler = handler;
    return 0;
}

static void take_start(const struct wire_frame *frame)
{
    struct err err;
    if (find_item(frame, &err) || open_handler(&err))
        wire_put_refused(&child.link.out, &err); /* the worker then ends us */
    else
        wire_put_ready(&child.link.out);
    child_link_send(&child.link);
}

/* ---- the socket ---- */

static void leave(int exit_code)
{
    child.exit_code = exit_code;
    loop_stop(child.env.loop);
}

static void on_frame(void *arg, struct wire_frame *frame)
{
    (void)arg;
    bool ok = true;
    switch (frame->type) {
    case WIRE_START:
        ok = !child.item;
        if (ok)
            take_start(frame);
        break;
    case WIRE_JOB:
        ok = take_job(frame);
        break;
    case WIRE_CANCEL:
        take_cancel();
        break;
    case WIRE_READY:
    case WIRE_REFUSED:
    case WIRE_DONE:
    case WIRE_FAILED:
    case WIRE_TYPE_END:
        ok = false;
        break;
    }
    if (!ok) {
        log_error("worker_corrupt", LOG_INT("type", frame->type));
        leave(EXIT_CORRUPT);
    }
}

static void on_gone(void *arg, bool corrupt)
{
    (void)arg;
    if (corrupt)
        log_error("worker_corrupt");
    leave(corrupt ? EXIT_CORRUPT : EXIT_LEFT);
}

/* ---- life ---- */

/* 0, or -1: this was not started by a worker. */
static int set_up(void)
{
    int type = 0;
    socklen_t len = sizeof(type);
    if (getsockopt(CHILD_FD, SOL_SOCKET, SO_TYPE, &type, &len) || type != SOCK_STREAM) {
        fprintf(stderr, "hie-worker: " CHILD_ARGUMENT " is for a worker's own use\n");
        return -1;
    }
    if (!program_set_up("hie-worker"))
        return -1;
    fcntl(CHILD_FD, F_SETFD, FD_CLOEXEC);
    prctl(PR_SET_NAME, "hie-worker");
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a handler may block us when the socket closes */
    sigset_t none;
    sigemptyset(&none);
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    sigprocmask(SIG_SETMASK, &none, NULL);
    return 0;
}

static void tear_down(void)
{
    child.leaving = true;
    if (child.handler && child.handler->close)
        child.handler->close(child.state); /* ends what it still runs */
    child_link_close(&child.link);
    forget_job();
    loop_task_done(&child.forget);
    offload_free(child.env.offload);
    http_client_free(child.env.http);
    production_free(child.production);
    loop_free(child.env.loop);
}

int child_main(const struct handler_class *(*class_of)(const struct item *item))
{
    if (set_up())
        return PROGRAM_EXIT_USAGE;
    child.class_of = class_of;
    child.env.loop = loop_new();
    child.env.http = http_client_new(child.env.loop);
    child.env.offload = offload_new(child.env.loop, OFFLOAD_THREADS);
    loop_task_init(&child.forget, child.env.loop, on_forget, NULL);
    child_link_open(&child.link, child.env.loop, CHILD_FD, on_frame, on_gone, NULL);
    child.link.on_sent = on_sent;
    loop_run(child.env.loop);
    tear_down();
    return child.exit_code;
}
