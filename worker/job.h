/* One message being handled: what its class may ask of it (handler.h), and what the class makes of it. It belongs to whoever runs the
 * handler — the loop, a thread, a child process — until `ended` is called; it knows nothing of queue or store. */
#ifndef HIE_JOB_H
#define HIE_JOB_H

#include "base/arena.h"
#include "handler.h"

#include <sys/queue.h>

struct job_sent {
    const struct item *target;
    struct slice content_type;
    struct body body; /* the job's own, or a copy */
};

struct job {
    /* what it is given; borrowed until it has ended */
    const struct item *item;
    struct uuid id;
    int attempt;
    struct body body;
    struct slice content_type;
    struct slice chain; /* ids of the items on the way here, separated by commas */
    /* In the thread that runs the handler. error NULL: it ended well. The job is the owner's again. */
    void (*ended)(struct job *job, const struct err *error);
    /* Asked in the loop's thread about one that waited for somebody to run it: false, and it ends as `unstarted`. NULL: it may. */
    bool (*may_start)(const struct job *job);

    void *data;               /* the handler's */
    void *ride;               /* the executor's: what runs it */
    TAILQ_ENTRY(job) waiting; /* the executor's: for something that runs it */
    bool running;
    bool
        unstarted; /* it ended badly before a handler was there to see it: no attempt of the message */
    /* what was made of it */
    struct job_sent *sent;
    size_t sent_count, sent_capacity;
    struct slice reply, reply_content_type; /* the reply may be the job's own body */
    struct arena arena;                     /* of copies */
    char *brought; /* owned: bytes from a child process that the above point into */
};
TAILQ_HEAD(job_list, job);

void job_init(struct job *job);
/* Frees what was made of it. */
void job_clear(struct job *job);
/* Forgets what was made of it, for the next attempt. */
void job_reset(struct job *job);
/* Adds to `sent`, copies nothing. False: no entry has room for such a content type. */
bool job_add_sent(struct job *job, const struct item *target, struct slice content_type,
                  struct body body);

#endif
