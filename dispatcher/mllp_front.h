/* The MLLP front: frames in, acknowledgements out, in the order of the frames. */
#ifndef HIE_MLLP_FRONT_H
#define HIE_MLLP_FRONT_H

#include "callers.h"
#include "intake.h"
#include "link/stream_server.h"

struct mllp_front {
    const struct mllp_listener *listener;
    struct intake *intake;
    struct callers *callers;
    struct stream_server *server;
    TAILQ_HEAD(, mllp_peer) peers;
    struct loop_timer watch; /* over unfinished frames */
    int64_t partial_ms;      /* how long one may stand still */
    struct metrics *metrics;
    struct metric *junk;
};

/* 0, or -1 with ERR_CONFIG or ERR_IO: it cannot listen. */
int mllp_front_start(struct mllp_front *front, struct loop *loop,
                     const struct mllp_listener *listener, struct intake *intake,
                     struct callers *callers, struct metrics *metrics, struct err *err);
/* The listener says otherwise by now, but for its address: of frames that begin from now on. */
void mllp_front_change(struct mllp_front *front, const struct mllp_listener *listener);
/* Stops listening; each connection ends at its next message boundary. */
void mllp_front_drain(struct mllp_front *front);
/* No connection is left, and the intake holds nothing of it. */
bool mllp_front_idle(const struct mllp_front *front);
/* What the intake still holds of it is not answered any more: the intake goes next. */
void mllp_front_free(struct mllp_front *front);

#endif
