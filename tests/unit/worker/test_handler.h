/* A handler class that does what a message's body says, for tests of the execution modes; and what such tests share. The test program is
 * its own child process: its main calls test_handler_child first. Include it in one file of a program only. */
#ifndef HIE_TEST_HANDLER_H
#define HIE_TEST_HANDLER_H

#include "base/bug.h"
#include "base/mem.h"
#include "child_main.h"
#include "child_process.h"
#include "executor.h"
#include "ops/health.h"
#include "ops/metrics.h"
#include "run_loop.h"

#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TEST_DIES                                                                                  \
    "HIE_TEST_DIES" /* names a file: while it is there, children of the item Dies die at their start */

enum { LARGE = 20 << 20 };

/* ---- the class: the body's first word says what to do ---- */

struct test_state {
    struct loop *loop;
    struct loop_timer timer;
    struct job *waits;
    int jobs;
};

static bool says(const struct job *job, const char *word)
{
    size_t len = strlen(word);
    struct body body = job_body(job);
    return body.len >= len && memcmp(body.ptr, word, len) == 0;
}

static void test_sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void test_on_timer(void *arg)
{
    struct test_state *state = arg;
    struct job *job = state->waits;
    state->waits = NULL;
    job_done(job, SLICE_LITERAL("text/late"), SLICE_LITERAL("late"));
}

static int test_open(const struct handler_env *env, const struct item *item, void **ret_state,
                     struct err *err)
{
    if (strcmp(item->id, "Refuses") == 0)
        return err_set(err, ERR_CONFIG, "it does not open here");
    const char *mark = getenv(TEST_DIES);
    if (strcmp(item->id, "Dies") == 0 && mark && access(mark, F_OK) == 0)
        raise(SIGKILL);
    struct test_state *state = mem_alloc(sizeof(*state));
    state->loop = env->loop;
    loop_timer_init(&state->timer, env->loop, test_on_timer, state);
    *ret_state = state;
    return 0;
}

static void test_give_up(struct test_state *state)
{
    struct err err;
    struct job *job = state->waits;
    state->waits = NULL;
    loop_timer_cancel(&state->timer);
    err_set(&err, ERR_CANCELLED, "the handler gave up");
    job_fail(job, &err);
}

static void test_close(void *arg)
{
    struct test_state *state = arg;
    if (state->waits)
        test_give_up(state);
    loop_timer_done(&state->timer);
    free(state);
}

static void test_cancel(void *arg, struct job *job)
{
    struct test_state *state = arg;
    if (state->waits == job)
        test_give_up(state);
}

/* One that was never made by its worker. */
static void test_write_garbage(const struct job *job)
{
    struct wire_out out;
    wire_out_init(&out);
    if (says(job, "garbage")) {
        ssize_t n = write(CHILD_FD, "MSH|^~\\&|SECRET", 15);
        (void)n;
    } else if (says(job, "ready")) {
        wire_put_ready(&out);
    } else if (says(job, "foreign")) {
        struct err err;
        err_set(&err, ERR_REJECTED, "of another message");
        wire_put_failed(&out, UUID_NONE, &err);
    } else {
        char head[8] = {WIRE_DONE, 0, 0, 0, (char)0xff, (char)0xff, (char)0xff, 0x7f};
        ssize_t n = write(CHILD_FD, head, sizeof(head));
        (void)n;
    }
    wire_out_flush(&out, CHILD_FD);
    wire_out_done(&out);
    for (;;)
        pause();
}

static void test_die(const struct job *job)
{
    if (says(job, "kill"))
        raise(SIGKILL);
    if (says(job, "exit"))
        _exit(3);
    if (says(job, "hang"))
        for (;;)
            pause();
    test_write_garbage(job);
}

/* Where it runs and what it was given. */
static void test_describe(struct test_state *state, struct job *job)
{
    char text[512];
    struct slice chain = job_chain(job), type = job_content_type(job);
    int len = snprintf(text, sizeof(text), "%d %ld %s %d %.*s %.*s %d", (int)getpid(),
                       (long)syscall(SYS_gettid), job_item(job)->id, job_attempt(job),
                       (int)chain.len, chain.ptr, (int)type.len, type.ptr, ++state->jobs);
    job_done(job, SLICE_LITERAL("text/plain"), slice_of(text, (size_t)len));
}

static const struct item *test_target(const struct job *job, const char *id)
{
    /* Targets come from settings; here they lie beside the own item in its production. */
    const struct item *item = job_item(job);
    for (item -= item->index; strcmp(item->id, id); item++)
        ;
    return item;
}

static void test_start(void *arg, struct job *job)
{
    struct test_state *state = arg;
    struct body body = job_body(job);
    struct err err;
    if (says(job, "echo")) {
        job_done(job, job_content_type(job), body_slice(body));
    } else if (says(job, "copy")) {
        char *copy = mem_strndup(body.ptr, body.len);
        job_done(job, SLICE_LITERAL("text/copy"), slice_of(copy, body.len));
        free(copy);
    } else if (says(job, "send")) {
        job_send(job, test_target(job, "First"), job_content_type(job), body);
        job_send(job, test_target(job, "Second"), SLICE_LITERAL("text/other"), body_of("other", 5));
        job_send(job, test_target(job, "Second"), slice_of(NULL, 0), body_of(NULL, 0));
        job_done(job, slice_of(NULL, 0), slice_of(NULL, 0));
    } else if (says(job, "fail")) {
        err_set(&err, ERR_REJECTED, "told to fail, \xc3\xa4");
        job_fail(job, &err);
    } else if (says(job, "where")) {
        test_describe(state, job);
    } else if (says(job, "later") || says(job, "wait")) {
        state->waits = job;
        loop_timer_set(&state->timer, says(job, "later") ? 5 : 60000);
    } else if (says(job, "block")) {
        test_sleep_ms(300);
        job_done(job, SLICE_LITERAL("text/blocked"), slice_of(NULL, 0));
    } else {
        test_die(job);
    }
}

static const struct handler_class test_class = {
    .id = CLASS_ECHO,
    .open = test_open,
    .close = test_close,
    .start = test_start,
    .cancel = test_cancel,
};

static const struct handler_class *test_class_of(const struct item *item)
{
    (void)item;
    return &test_class;
}

/* -1: this is the test itself. */
static inline int test_handler_child(int argc, char **argv)
{
    return child_is_wanted(argc, argv) ? child_main(test_class_of) : -1;
}

/* ---- a worker's part ---- */

static const char test_yaml[] =
    "production: {name: test}\n"
    "items:\n"
    "  - {id: First, class: Echo, queue_type: unordered, concurrency: 4}\n"
    "  - {id: Second, class: Echo, queue_type: unordered, concurrency: 1}\n"
    "  - {id: Refuses, class: Echo, queue_type: unordered, concurrency: 2}\n"
    "  - {id: Dies, class: Echo, queue_type: unordered, concurrency: 2}\n";

static struct loop *loop;
static struct executor_env env;
static struct executor *executor;
static struct production *production;

struct test_job {
    struct job job; /* first */
    char *body;
    int ends;
    struct err error;
};

static void test_job_ended(struct job *job, const struct err *error)
{
    struct test_job *test = (struct test_job *)job;
    test->ends++;
    ck_assert(!job->running);
    ck_assert_int_eq(test->ends, 1);
    if (error)
        test->error = *error;
}

static inline struct test_job *test_job_new(const struct item *item, const char *body, size_t len)
{
    struct test_job *test = mem_alloc(sizeof(*test));
    job_init(&test->job);
    test->body = mem_alloc(len + 1);
    memcpy(test->body, body, len);
    test->job.item = item;
    test->job.id = uuid_new(clock_wall_ms());
    test->job.attempt = 2;
    test->job.body = body_of(test->body, len);
    test->job.content_type = SLICE_LITERAL("text/given");
    test->job.chain = SLICE_LITERAL("Door,Router");
    test->job.ended = test_job_ended;
    return test;
}

static inline struct test_job *test_start_job(const char *body)
{
    struct test_job *test = test_job_new(&production->items[0], body, strlen(body));
    executor->ops->start(executor, &test->job);
    return test;
}

static inline void test_job_free(struct test_job *test)
{
    ck_assert_int_eq(test->ends, 1);
    job_clear(&test->job);
    free(test->body);
    free(test);
}

static inline void test_wait(struct test_job *test)
{
    int64_t until_ms = clock_mono_ms() + 20000;
    while (!test->ends && clock_mono_ms() < until_ms)
        event_base_loop(loop_base(loop), EVLOOP_ONCE | EVLOOP_NO_EXIT_ON_EMPTY);
    ck_assert_int_eq(test->ends, 1);
}

static inline struct test_job *test_run(const char *body)
{
    struct test_job *test = test_start_job(body);
    test_wait(test);
    return test;
}

static void test_tick(void *arg)
{
    loop_timer_set(arg, 20); /* so that waiting for a loop turn has an end */
}

static struct loop_timer test_ticker;

static inline void test_setup(void)
{
    struct diagnostics diagnostics;
    production = production_parse(slice_text(test_yaml), &diagnostics);
    diagnostics_print(&diagnostics, "test");
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(production);
    loop = loop_new();
    loop_timer_init(&test_ticker, loop, test_tick, &test_ticker);
    loop_timer_set(&test_ticker, 20);
    env = (struct executor_env){
        .handler = {.loop = loop}, .production = production, .metrics = metrics_new()};
    env.health = health_new(env.metrics);
    executor = NULL;
}

static inline void test_teardown(void)
{
    if (executor)
        executor->ops->free(executor);
    health_free(env.health);
    metrics_free(env.metrics);
    loop_timer_done(&test_ticker);
    loop_free(loop);
    production_free(production);
}

#endif
