/* What the files of the intake share: intake.c (the door, the end, deadlines), intake_wal.c, intake_queue.c,
 * intake_repeats.c, intake_succession.c. */
#ifndef HIE_INTAKE_INTERNAL_H
#define HIE_INTAKE_INTERNAL_H

#include "intake.h"

#include <stddef.h>

/* One message on its way; one allocation, its bytes follow it. */
struct message_intake {
    TAILQ_ENTRY(message_intake) link; /* in its state's list */
    struct batch_item batch;          /* in the WAL's batcher, then in its queue's */
    struct gate_waiter waiter;        /* RESERVING */
    struct intake *intake;
    const struct item *item;
    unsigned state;      /* enum intake_state */
    bool by_wal;         /* else Redis alone keeps it */
    unsigned membership; /* of the fleet, in which its queue was the one it was taken in for */
    bool in_batch;       /* a batcher or a call holds it: not to be freed */
    bool missed;         /* its row was looked for in vain */
    int64_t accepted_us, queueing_us, look_us; /* monotonic */
    struct store_message row;
    struct message_intake *leader; /* FOLLOWING: the first one with its key */
    LIST_ENTRY(message_intake) key_link;
    bool holds_key;                     /* it is in the table of keys, for others to follow */
    struct intake_list followers;       /* in the order they came */
    TAILQ_ENTRY(message_intake) follow; /* in its leader's */
    void (*answered)(void *arg, struct uuid id, bool repeats, const struct err *error);
    void *arg;
    size_t size; /* with the bytes that follow */
    char bytes[];
};

/* What is gathered for one queue; made when the first message goes there. */
struct intake_queue {
    struct intake *intake;
    const struct item *item;
    unsigned partition;
    struct batcher batcher;
    STAILQ_HEAD(, queue_batch) refused; /* of which nothing is sent; told later in the turn */
    struct loop_task refusal;
};

struct intake_item {
    struct batch_group wal;       /* its messages in the WAL's batcher */
    struct intake_queue **queues; /* by partition; NULL until one is needed, as each of them */
};

struct intake_metrics {
    struct metric *accepted, *repeated, *rejected[ERR_COUNT];
    struct histogram *accept_seconds, *wal_commit;
};

static inline struct message_intake *intake_of_batch_item(struct batch_item *item)
{
    return (struct message_intake *)((char *)item - offsetof(struct message_intake, batch));
}

extern const struct err intake_no_error, intake_unknown_error;

/* ---- intake.c ---- */

/* Out of its state's list and to the end of the other's. */
void intake_move(struct message_intake *message, unsigned state);
/* Into the last state; tells the front, and those that follow once the outcome is known. What a batch still holds is freed by the
 * batch. */
void intake_finish(struct message_intake *message, const struct err *error);
/* The same for a repeat of `first`. */
void intake_finish_repeat(struct message_intake *message, struct uuid first,
                          const struct err *error);
/* Frees it when it is answered and no batch holds it. */
void intake_release(struct message_intake *message);
/* It is durable, but in no queue. */
void intake_left_unqueued(struct message_intake *message);

/* ---- intake_wal.c ---- */

void intake_wal_init(struct intake *intake);
/* Of a message in WRITING. */
void intake_write(struct message_intake *message);
/* Looks up those in UNKNOWN whose time it is. */
void intake_ask_unknown(struct intake *intake);

/* ---- intake_queue.c ---- */

/* Of a durable message: into QUEUEING, or answered when Redis is away. */
void intake_start_queueing(struct message_intake *message);
/* Of a message in SENDING or RESENDING. */
void intake_send(struct message_intake *message);
void intake_resend_unsure(struct intake *intake);
/* While held nothing is sent that Redis alone keeps. */
void intake_hold_sends(struct intake *intake, bool held);
void intake_free_queues(struct intake *intake);

/* ---- intake_repeats.c ---- */

/* The message in hand with that key; NULL when there is none. */
struct message_intake *intake_find_key(const struct intake *intake, struct uuid key);
/* From now on others follow it. */
void intake_hold_key(struct message_intake *message);
/* It holds its key no more; those that follow it are moved to *ret_followers. */
void intake_drop_key(struct message_intake *message, struct intake_list *ret_followers);
void intake_follow(struct message_intake *follower, struct message_intake *leader);
/* Out of its leader's row. */
void intake_unfollow(struct message_intake *follower);
/* Answers and empties the list. */
void intake_answer_followers(struct intake_list *followers, struct uuid first,
                             const struct err *error);
void intake_free_keys(struct intake *intake);

/* ---- intake_succession.c ---- */

void intake_succession_init(struct intake *intake);
/* Something has left its state or its batch: the next intake may not have to wait any longer. */
void intake_moved_on(struct intake *intake);

#endif
