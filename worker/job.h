/* One message being handled: what its class may ask of it (handler.h), and what the class makes of it. It belongs to whoever runs the
 * handler — the loop, a thread, a child process — until `ended` is called; it knows nothing of queue or store. */
#ifndef HIE_JOB_H
#define HIE_JOB_H

#include "base/arena.h"
#include "handler.h"

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

    void *data; /* the handler's */
    void *ride; /* the executor's */
    bool running;
    /* what was made of it */
    struct job_sent *sent;
    size_t sent_count, sent_capacity;
    struct slice reply, reply_content_type; /* the reply may be the job's own body */
    struct arena arena;                     /* of copies */
};

void job_init(struct job *job);
/* Frees what was made of it. */
void job_clear(struct job *job);
/* Forgets what was made of it, for the next attempt. */
void job_reset(struct job *job);
/* For those who bring results from elsewhere: takes the bytes into the job. */
void job_take_reply(struct job *job, struct slice content_type, struct slice reply);

#endif
