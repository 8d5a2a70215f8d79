/* The one interface between a handler class and the worker. A class sees a message, its item's settings and the
 * functions below; it knows nothing of Redis or PostgreSQL, nor where it runs: on the worker's loop with many jobs at once, or one
 * at a time in a thread or child process, with a loop and a state of its own. So it shares nothing between its states.
 *
 *   start ──▶ [job_send …] ──▶ exactly one of job_done, job_fail — inside start or any time later
 *     └── cancel (timeout, drain): give up what is under way; the job then ends with job_fail(ERR_CANCELLED)
 */
#ifndef HIE_HANDLER_H
#define HIE_HANDLER_H

#include "base/bytes.h"
#include "base/error.h"
#include "base/uuid.h"
#include "link/loop.h"
#include "message/message.h"
#include "model/item_class.h"
#include "model/production.h"

struct job; /* one message being handled */
struct http_client;
struct offload;

/* What a worker lends to its handlers. */
struct handler_env {
    struct loop *loop;
    struct http_client *http;
    struct offload *offload; /* threads for blocking calls: worker/offload.h */
};

struct handler_class {
    enum item_class_id id;
    /* It ends every job inside start and never waits: the worker then claims by the batch instead of by free slots.
     * Decided by the item's settings; NULL: never. */
    bool (*immediate)(const struct item *item);
    /* Makes the item's state, once a process or thread that runs its jobs. 0, or -1 with ERR_CONFIG or ERR_IO. May be NULL. */
    int (*open)(const struct handler_env *env, const struct item *item, void **ret_state,
                struct err *err);
    void (*close)(void *state);
    void (*start)(void *state, struct job *job);
    /* Only for a job that start left running. NULL: it cannot be cancelled and its late result is recorded. */
    void (*cancel)(void *state, struct job *job);
};

/* Every class, by enum item_class_id. */
extern const struct handler_class *const handler_classes[CLASS_COUNT];
const struct handler_class *handler_class_of(const struct item *item);

/* ---- what a handler may ask of its job; slices stay valid until the job ends ---- */
struct body job_body(const struct job *job);
struct slice job_content_type(const struct job *job);
/* Ids of the items that the message went through on its way here, separated by commas; this item's is not among them. */
struct slice job_chain(const struct job *job);
/* The same with this item's id behind it. Too long a chain is cut from its old end: what is near counts. Returns its length. */
size_t job_longer_chain(const struct job *job, char ret[static META_CHAIN_MAX]);
struct uuid job_id(const struct job *job);
const struct item *job_item(const struct job *job);
int job_attempt(const struct job *job); /* from 1 */
/* The handler's own pointer beside a running job. */
void job_set_data(struct job *job, void *data);
void *job_data(const struct job *job);

/* Sends a message to another item: it enters with this message's end, once. The body is copied unless it is this
 * job's own body, which is shared. The content type has at most META_CONTENT_TYPE_MAX bytes. */
void job_send(struct job *job, const struct item *target, struct slice content_type,
              struct body body);
/* Ends the job well, with a reply (copied). */
void job_done(struct job *job, struct slice content_type, struct slice reply);
/* Ends the job badly; error->code's class decides between a retry and the dead letters. The text holds no message
 * content. */
void job_fail(struct job *job, const struct err *error);

#endif
