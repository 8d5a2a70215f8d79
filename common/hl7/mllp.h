/* The Minimal Lower Layer Protocol, release 1 (HL7 v2 transport specification MLLP): VT body FS CR.
 * The reader takes bytes as they arrive, in chunks of any size, and gives out frames; what it gives
 * does not depend on where the chunks were cut. It is as lenient as peers need: see mllp.c for the
 * machine.
 *
 *     while (len) {
 *         enum mllp_event event = mllp_reader_feed(&reader, data, len, &used);
 *         data += used, len -= used;
 *         if (event == MLLP_FRAME) … reader.frame …
 *         else if (event != MLLP_NEED_MORE) … answer, close …
 *     }
 *     at the end of the connection: mllp_reader_has_partial(&reader)
 */
#ifndef HIE_HL7_MLLP_H
#define HIE_HL7_MLLP_H

#include "base/bytes.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MLLP_START '\x0b'         /* VT */
#define MLLP_END '\x1c'           /* FS */
#define MLLP_TRAILER '\r'         /* CR */
#define MLLP_FRAMING_LEN 3        /* bytes that framing adds to a body */
#define MLLP_JUNK_MAX (64 * 1024) /* bytes in front of one frame */

enum mllp_event {
    MLLP_NEED_MORE, /* all bytes were used, no frame is complete */
    MLLP_FRAME,     /* reader.frame is a body, perhaps an empty one */
    MLLP_TOO_LARGE, /* a body passed max_frame, or memory is out: reader.frame is the start of that
                       body, enough to read its MSH and say no. No frame follows: every later feed
                       says the same */
    MLLP_TOO_MUCH_JUNK, /* MLLP_JUNK_MAX bytes and no frame. No frame follows either */
};

enum mllp_state {
    MLLP_BETWEEN,
    MLLP_BODY,
    MLLP_ENDED,
    MLLP_ENDED_CR,
    MLLP_SPENT_LARGE,
    MLLP_SPENT_JUNK,
    MLLP_STATE_COUNT
};

struct mllp_reader {
    unsigned state; /* enum mllp_state */
    size_t max_frame;
    struct buffer held; /* of a body whose start came with an earlier chunk */
    bool held_given;    /* `frame` is in `held`, which the next feed empties */

    /* Set with MLLP_FRAME and MLLP_TOO_LARGE; borrows from the chunk or the reader: valid until the
     * next feed and as long as the chunk. */
    struct slice frame;

    size_t junk_run;        /* bytes skipped since the last frame */
    uint64_t junk_count;    /* bytes skipped in all */
    uint64_t restart_count; /* frames that a VT inside started anew; what was lost of them is not in
                               junk_count */
};

void mllp_reader_init(struct mllp_reader *reader, size_t max_frame);
void mllp_reader_done(struct mllp_reader *reader);

/* Another max_frame, from the next frame on; one that has begun keeps its own. */
void mllp_reader_limit(struct mllp_reader *reader, size_t max_frame);

/* Reads up to the next event. *ret_used is how many of the bytes it took, at least 1 when len is
 * not 0; call again with the others. */
enum mllp_event mllp_reader_feed(struct mllp_reader *reader, const char *data, size_t len,
                                 size_t *ret_used);

/* Gives up the memory of the frame last given, as the next feed would: for a connection that may
 * now be idle for long. */
void mllp_reader_release(struct mllp_reader *reader);

/* The same, and gives up all other memory unless a frame has begun. */
void mllp_reader_forget(struct mllp_reader *reader);

/* A frame has begun and not ended. */
bool mllp_reader_has_partial(const struct mllp_reader *reader);

/* What there is of its body, until the next feed. */
struct slice mllp_reader_partial(const struct mllp_reader *reader);

/* Bytes of memory that it holds. */
size_t mllp_reader_held(const struct mllp_reader *reader);

/* Appends VT body FS CR. False when it does not fit; `out` is as before then. The body must hold no
 * VT and no FS. */
bool mllp_frame_append(struct buffer *out, struct slice body);

#endif
