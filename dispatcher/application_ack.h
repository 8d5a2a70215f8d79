/* Application acknowledgements of enhanced mode (HL7 v2 chapter 2): after the commit acknowledgement a sender that asked for it in
 * MSH-16 is told how its message ended, on the same connection.
 *
 *   WAITING (for the end) ──ended──▶ FINDING (how) ──▶ written, freed
 *      │ ▲                               │ │ └── the connection is gone ──▶ freed
 *      │ └──────the database is away─────┘ └──── there is no record ──▶ freed
 *      └── time is up, or the connection is gone ──▶ freed
 *
 * The commit acknowledgement was positive: what we cannot learn is never told as a rejection. Then nothing is told. */
#ifndef HIE_APPLICATION_ACK_H
#define HIE_APPLICATION_ACK_H

#include "base/uuid.h"
#include "hl7/ack.h"
#include "hl7/message.h"
#include "store/store.h"
#include "waiters.h"

#include <sys/queue.h>

struct application_ack;

/* Those of one connection. */
struct application_acks {
    TAILQ_HEAD(, application_ack) list;
    unsigned count;
    struct waiters *waiters;
    struct store *store;
    /* A framed acknowledgement is due; only while the connection is there. */
    void (*write)(void *arg, struct slice frame);
    /* One of them is over, written or not: `count` has fallen. Only while the connection is there. */
    void (*over)(void *arg);
    void *arg;
};

void application_acks_init(struct application_acks *acks, struct waiters *waiters,
                           struct store *store, void (*write)(void *arg, struct slice frame),
                           void (*over)(void *arg), void *arg);
/* The connection is gone: nobody is told any more. */
void application_acks_drop(struct application_acks *acks);
/* The message `id`, whose MSH is `header` (copied), was accepted and its sender asked for `when`. */
void application_acks_add(struct application_acks *acks, struct uuid id, struct slice header,
                          enum hl7_ack_when when);

/* Our MSH-10 for the acknowledgement of `id`; 20 characters with their NUL. `step` keeps two of one message apart. */
void ack_control_id(struct uuid id, char step, char ret[static HL7_ACK_CONTROL_ID_MAX + 1]);

#endif
