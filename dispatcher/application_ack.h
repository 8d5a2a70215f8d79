/* Application acknowledgements of enhanced mode (HL7 v2 chapter 2): after the commit acknowledgement a sender that asked for it in
 * MSH-16 is told how its message ended, on the same connection: by the reply where that is an acknowledgement of the message, else
 * by one of ours.
 *
 *                ┌──────ended, time is up──▶ KEPT ──commit acknowledgement written──▶ written, freed
 *   _add ──▶ HELD ──commit acknowledgement written──▶ WAITING ──ended──▶ written, freed
 *                                                       └──time is up, the dispatcher stops──▶ freed
 *   from each: the connection is gone, or the message is refused ──▶ freed
 *
 * The commit acknowledgement was positive: what we cannot learn is never told as a rejection. Then nothing is told. */
#ifndef HIE_APPLICATION_ACK_H
#define HIE_APPLICATION_ACK_H

#include "base/uuid.h"
#include "callers.h"
#include "hl7/ack.h"
#include "hl7/message.h"

#include <sys/queue.h>

struct application_ack;

/* Those of one connection. */
struct application_acks {
    TAILQ_HEAD(, application_ack) list;
    unsigned count;
    struct callers *callers;
    /* A framed acknowledgement is due; only while the connection is there. False: there is no room for one that large. */
    bool (*write)(void *arg, struct slice frame);
    /* One of them is over, written or not: `count` has fallen. Only while the connection is there. */
    void (*over)(void *arg);
    void *arg;
};

void application_acks_init(struct application_acks *acks, struct callers *callers,
                           bool (*write)(void *arg, struct slice frame), void (*over)(void *arg),
                           void *arg);
/* The connection is gone: nobody is told any more; all of them are freed. */
void application_acks_drop(struct application_acks *acks);

/* The intake took the message `id` of `item`, whose MSH is `header` (copied); its sender asked for `when`. Nothing is written before
 * application_ack_release. */
struct application_ack *application_acks_add(struct application_acks *acks, const struct item *item,
                                             struct uuid id, struct slice header,
                                             enum hl7_ack_when when);
/* Before the release: the message repeats `first`, whose end is told instead. */
void application_ack_repeats(struct application_ack *ack, struct uuid first);
/* Before the release: the message is refused. The acknowledgement is freed. */
void application_ack_refused(struct application_ack *ack);
/* The commit acknowledgement is written. The acknowledgement frees itself, perhaps now. */
void application_ack_release(struct application_ack *ack);

/* Our MSH-10 for the acknowledgement of `id`; 20 characters with their NUL. `step` keeps two of one message apart. */
void ack_control_id(struct uuid id, char step, char ret[static HL7_ACK_CONTROL_ID_MAX + 1]);

#endif
