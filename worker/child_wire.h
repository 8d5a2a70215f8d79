/* What a worker and its child processes say to each other, as frames over a stream socket: packing and reading, no I/O of its own.
 * A crash in a handler may write anything, so whatever is read here may be anything, on both sides.
 *
 *   worker                                child
 *     START item, production ──────────▶   opens the item's handler
 *                          ◀────────── READY, or REFUSED with the reason, then it leaves
 *     JOB id, body … ──────────────────▶   runs it; one at a time
 *     CANCEL ──────────────────────────▶   asks its handler to give up; too late a one is skipped
 *                          ◀────────── DONE id, reply, what it sent; or FAILED id, error
 *
 * A frame is its type (one byte), three zero bytes, the length of its payload (four bytes, little-endian) and the payload. A text in it
 * is a byte that says where it is (0: here, then four bytes of length and itself; 1: it is the job's own body; 2: it is the
 * job's own content type). So a body that is replied or sent on as it came does not go back. */
#ifndef HIE_CHILD_WIRE_H
#define HIE_CHILD_WIRE_H

#include "job.h"

/* Of a payload: bodies come as large as 256 MiB, a handler may make several of one. */
#define WIRE_PAYLOAD_MAX (1u << 30)

enum wire_type {
    WIRE_START = 1,
    WIRE_JOB,
    WIRE_CANCEL,
    WIRE_READY,
    WIRE_REFUSED,
    WIRE_DONE,
    WIRE_FAILED,
    WIRE_TYPE_END,
};

/* ---- out ---- */

struct wire_out {
    struct buffer small; /* all bytes but large ones, which are borrowed */
    struct wire_part *parts;
    size_t part_count, part_capacity;
    size_t part, part_done; /* what has been sent */
    size_t payload;         /* of the frame that is being made */
};

void wire_out_init(struct wire_out *out);
void wire_out_done(struct wire_out *out);
bool wire_out_empty(const struct wire_out *out);
/* Something borrowed is still to be sent. */
bool wire_out_borrows(const struct wire_out *out);
/* Writes what the socket takes. 1: all of it; 0: it would block; -1: nobody is there. What was borrowed is free after 1 and -1. */
int wire_out_flush(struct wire_out *out, int fd);

/* Large texts are borrowed until they are sent. */
void wire_put_start(struct wire_out *out, struct slice item_id, struct slice production);
void wire_put_job(struct wire_out *out, const struct job *job);
void wire_put_cancel(struct wire_out *out);
void wire_put_ready(struct wire_out *out);
void wire_put_refused(struct wire_out *out, const struct err *error);
/* What a job that ended well made. False when it is over WIRE_PAYLOAD_MAX: nothing was put. */
bool wire_put_done(struct wire_out *out, const struct job *job);
void wire_put_failed(struct wire_out *out, struct uuid id, const struct err *error);

/* ---- in ---- */

struct wire_frame {
    enum wire_type type;
    char *payload; /* owned by whoever took the frame */
    size_t len;
};

struct wire_in {
    unsigned char head[8];
    size_t head_len;
    struct wire_frame frame; /* being read */
    size_t have, capacity;   /* of its payload */
};

void wire_in_init(struct wire_in *in);
void wire_in_done(struct wire_in *in);
/* Takes from `bytes`, up to the end of a frame. 1: a frame; 0: all bytes are taken; -1: this is no frame, or memory is out. */
int wire_in_take(struct wire_in *in, struct slice *bytes, struct wire_frame *ret_frame);
/* Where the bytes of a large payload may be put without a copy; NULL: take them by wire_in_take. After it wire_in_filled, then
 * wire_in_take with no bytes. */
char *wire_in_room(struct wire_in *in, size_t *ret_len);
void wire_in_filled(struct wire_in *in, size_t len);

/* All of these: 0, or -1 when the payload is not what it should be; then nothing is touched. What they give borrows from it. */
int wire_get_start(const struct wire_frame *frame, struct slice *ret_item_id,
                   struct slice *ret_production);
/* Fills what a job is given, but for `item` and `ended`. */
int wire_get_job(const struct wire_frame *frame, struct job *job);
int wire_get_refused(const struct wire_frame *frame, struct err *ret_error);
/* Fills what was made of this job, which then owns the payload. Targets are those of the production. */
int wire_get_done(const struct wire_frame *frame, const struct production *production,
                  struct job *job);
int wire_get_failed(const struct wire_frame *frame, const struct job *job, struct err *ret_error);

#endif
