/* A job without a worker: the job_* functions of worker/handler.h over a struct that a test can look into. It checks
 * what every handler must keep: exactly one end, nothing sent after it, no byte of the message read after it (the
 * body is freed with the end, so that AddressSanitizer sees it). Include it in one file of a program only. */
#ifndef HIE_FAKE_JOB_H
#define HIE_FAKE_JOB_H

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "handler.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

enum { FAKE_SENDS_MAX = 16, FAKE_WAIT_MS = 20000 };

struct job {
    char *body, *content_type; /* owned; NULL once the job has ended */
    const char *chain;         /* NULL: none */
    size_t body_len;
    struct uuid id;
    const struct item *item;
    int attempt;
    void *data;

    struct {
        const struct item *target;
        char content_type[64];
        bool shared; /* it was this job's own body */
        size_t len;
    } sends[FAKE_SENDS_MAX];
    size_t send_count;

    int ends;
    bool good;
    char *reply; /* owned, NUL-terminated beside its length */
    size_t reply_len;
    char reply_type[256];
    struct err error;

    void (*on_end)(void *arg);
    void *arg;
};

static inline struct job *fake_job_new(const struct item *item, struct slice body)
{
    struct job *job = mem_alloc(sizeof(*job));
    job->body = mem_alloc(body.len + 1);
    if (body.len)
        memcpy(job->body, body.ptr, body.len);
    job->body_len = body.len;
    job->content_type = mem_strdup("application/hl7-v2");
    job->id = uuid_new(clock_wall_ms());
    job->item = item;
    job->attempt = 1;
    return job;
}

static inline void fake_job_content_type(struct job *job, const char *content_type)
{
    free(job->content_type);
    job->content_type = mem_strdup(content_type);
}

/* Checks that it has ended, once. */
static inline void fake_job_free(struct job *job)
{
    ck_assert_int_eq(job->ends, 1);
    free(job->body);
    free(job->content_type);
    free(job->reply);
    free(job);
}

static inline void fake_job_end(struct job *job)
{
    job->ends++;
    ck_assert_msg(job->ends == 1, "a job ended twice");
    free(job->body);
    free(job->content_type);
    job->body = NULL;
    job->content_type = NULL;
    if (job->on_end)
        job->on_end(job->arg);
}

struct body job_body(const struct job *job)
{
    ck_assert_int_eq(job->ends, 0);
    return body_of(job->body, job->body_len);
}

struct slice job_content_type(const struct job *job)
{
    ck_assert_int_eq(job->ends, 0);
    return slice_text(job->content_type);
}

struct slice job_chain(const struct job *job)
{
    return slice_text(job->chain);
}

/* Short chains only: how long ones are cut is shown with the real job. */
size_t job_longer_chain(const struct job *job, char ret[static META_CHAIN_MAX])
{
    int len = snprintf(ret, META_CHAIN_MAX, "%s%s%s", job->chain ? job->chain : "",
                       job->chain ? "," : "", job->item->id);
    ck_assert_int_lt(len, (int)META_CHAIN_MAX);
    return (size_t)len;
}

struct uuid job_id(const struct job *job)
{
    return job->id;
}

const struct item *job_item(const struct job *job)
{
    return job->item;
}

int job_attempt(const struct job *job)
{
    return job->attempt;
}

void job_set_data(struct job *job, void *data)
{
    job->data = data;
}

void *job_data(const struct job *job)
{
    return job->data;
}

void job_send(struct job *job, const struct item *target, struct slice content_type,
              struct body body)
{
    ck_assert_int_eq(job->ends, 0);
    ck_assert_uint_lt(job->send_count, FAKE_SENDS_MAX);
    ck_assert_uint_lt(content_type.len, sizeof(job->sends[0].content_type));
    size_t i = job->send_count++;
    job->sends[i].target = target;
    job->sends[i].shared = body.ptr == job->body;
    job->sends[i].len = body.len;
    if (content_type.len)
        memcpy(job->sends[i].content_type, content_type.ptr, content_type.len);
}

void job_done(struct job *job, struct slice content_type, struct slice reply)
{
    job->good = true;
    job->reply = mem_alloc(reply.len + 1);
    if (reply.len)
        memcpy(job->reply, reply.ptr, reply.len);
    job->reply_len = reply.len;
    ck_assert_uint_lt(content_type.len, sizeof(job->reply_type));
    if (content_type.len)
        memcpy(job->reply_type, content_type.ptr, content_type.len);
    fake_job_end(job);
}

void job_fail(struct job *job, const struct err *error)
{
    ck_assert_int_ne(error->code, ERR_NONE);
    job->error = *error;
    fake_job_end(job);
}

/* ---- running them ---- */

struct fake_wait {
    struct loop *loop;
    bool late;
};

static inline void fake_wait_late(void *arg)
{
    struct fake_wait *wait = arg;
    wait->late = true;
    loop_stop(wait->loop);
}

static inline void fake_wait_over(void *arg)
{
    loop_stop(arg);
}

/* Runs the loop until all jobs have ended; too long a wait fails the test. */
static inline void fake_jobs_wait(struct loop *loop, struct job **jobs, size_t count)
{
    struct fake_wait wait = {.loop = loop};
    struct loop_timer timer;
    loop_timer_init(&timer, loop, fake_wait_late, &wait);
    loop_timer_set(&timer, FAKE_WAIT_MS);
    for (size_t i = 0; i < count; i++) {
        jobs[i]->on_end = fake_wait_over;
        jobs[i]->arg = loop;
        while (jobs[i]->ends == 0 && !wait.late)
            loop_run(loop);
        jobs[i]->on_end = NULL;
        ck_assert_msg(!wait.late, "a job did not end");
    }
    loop_timer_done(&timer);
}

static inline void fake_job_wait(struct loop *loop, struct job *job)
{
    fake_jobs_wait(loop, &job, 1);
}

/* Lets the loop run for a while, for what must not happen. */
static inline void fake_idle(struct loop *loop, int64_t ms)
{
    struct loop_timer timer;
    loop_timer_init(&timer, loop, fake_wait_over, loop);
    loop_timer_set(&timer, ms);
    loop_run(loop);
    loop_timer_done(&timer);
}

#endif
