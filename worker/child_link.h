/* One end of the socket between a worker and a child process, on the loop: sends frames without ever waiting, gives those that come.
 * Both sides use it. */
#ifndef HIE_CHILD_LINK_H
#define HIE_CHILD_LINK_H

#include "child_wire.h"

struct child_link {
    struct loop *loop;
    int fd; /* -1: closed */
    struct loop_watch readable, writable;
    struct wire_in in;
    struct wire_out out; /* put frames here, then child_link_send */
    /* The frame's payload belongs to whoever takes it: sets it to NULL, or it is freed. May close the link. */
    void (*on_frame)(void *arg, struct wire_frame *frame);
    /* The other side is gone (corrupt false), or sent what is no frame. Last; the link is closed. */
    void (*on_gone)(void *arg, bool corrupt);
    /* What could not be sent at once has been sent. NULL: nobody asks. */
    void (*on_sent)(void *arg);
    void *arg;
};

/* Takes the descriptor, a stream socket that does not block. */
void child_link_open(struct child_link *link, struct loop *loop, int fd,
                     void (*on_frame)(void *, struct wire_frame *), void (*on_gone)(void *, bool),
                     void *arg);
/* No more callbacks. Frames not sent are dropped. */
void child_link_close(struct child_link *link);
bool child_link_is_open(const struct child_link *link);
/* Sends what was put, now or as the other side takes it. False: nobody is there, nothing was sent by this call; on_gone follows. */
bool child_link_send(struct child_link *link);
/* Everything that was put has been sent. */
bool child_link_sent(const struct child_link *link);
/* The other side has ended: gives what it still said, then on_gone. */
void child_link_drain(struct child_link *link);

#endif
