#include "job.h"

#include "base/bug.h"
#include "base/mem.h"

#include <stdlib.h>

void job_init(struct job *job)
{
    *job = (struct job){.attempt = 1};
    arena_init(&job->arena);
}

void job_clear(struct job *job)
{
    arena_done(&job->arena);
    free(job->sent);
    free(job->brought);
    job->sent = NULL;
    job->brought = NULL;
    job->sent_count = job->sent_capacity = 0;
}

void job_reset(struct job *job)
{
    job_clear(job);
    arena_init(&job->arena);
    job->reply = job->reply_content_type = slice_of(NULL, 0);
    job->data = NULL;
}

struct body job_body(const struct job *job)
{
    return job->body;
}

struct slice job_content_type(const struct job *job)
{
    return job->content_type;
}

struct slice job_chain(const struct job *job)
{
    return job->chain;
}

size_t job_longer_chain(const struct job *job, char ret[static META_CHAIN_MAX])
{
    struct slice chain = job->chain;
    size_t own = strlen(job->item->id);
    while (chain.len && chain.len + 1 + own > META_CHAIN_MAX) {
        const char *comma = memchr(chain.ptr, ',', chain.len);
        size_t cut = comma ? (size_t)(comma - chain.ptr) + 1 : chain.len;
        chain = slice_of(chain.ptr + cut, chain.len - cut);
    }
    size_t len = 0;
    if (chain.len) {
        memcpy(ret, chain.ptr, chain.len);
        ret[chain.len] = ',';
        len = chain.len + 1;
    }
    memcpy(ret + len, job->item->id, own);
    return len + own;
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

static bool slice_same(struct slice a, struct slice b)
{
    return a.ptr == b.ptr && a.len == b.len;
}

/* What it was given stays as long as it does. */
static struct slice keep(struct job *job, struct slice bytes)
{
    bool own = slice_same(bytes, body_slice(job->body)) || slice_same(bytes, job->content_type);
    return own ? bytes : arena_copy(&job->arena, bytes);
}

bool job_add_sent(struct job *job, const struct item *target, struct slice content_type,
                  struct body body)
{
    if (content_type.len > META_CONTENT_TYPE_MAX)
        return false;
    if (job->sent_count == job->sent_capacity) {
        job->sent_capacity = job->sent_capacity ? job->sent_capacity * 2 : 2;
        job->sent = mem_resize(job->sent, job->sent_capacity, sizeof(*job->sent));
    }
    job->sent[job->sent_count++] =
        (struct job_sent){.target = target, .content_type = content_type, .body = body};
    return true;
}

void job_send(struct job *job, const struct item *target, struct slice content_type,
              struct body body)
{
    BUG_ON(!job->running);
    struct slice kept = keep(job, body_slice(body));
    bool added = job_add_sent(job, target, keep(job, content_type), body_of(kept.ptr, kept.len));
    BUG_ON(!added);
}

void job_done(struct job *job, struct slice content_type, struct slice reply)
{
    BUG_ON(!job->running);
    job->reply = keep(job, reply);
    job->reply_content_type = keep(job, content_type);
    job->running = false;
    job->ended(job, NULL);
}

void job_fail(struct job *job, const struct err *error)
{
    BUG_ON(!job->running);
    job->running = false;
    job->ended(job, error);
}
