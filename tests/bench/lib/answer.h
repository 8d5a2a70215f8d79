/* Reads answers off a connection, as they come in pieces: HTTP/1.1 responses, or MLLP frames with
 * an acknowledgement. Strict, since its peer is the program under test: what cannot be read is an
 * error and ends the connection.
 *
 * Of a sync item the answer is the message's own reply, an HL7 message that tells by its MSH-10 what
 * it belongs to: there a 200 with any other body, a 202 or a mere acknowledgement accept nothing. */
#ifndef HIE_BENCH_ANSWER_H
#define HIE_BENCH_ANSWER_H

#include "base/bytes.h"

#include <http_parser.h>
#include <stdbool.h>

#define ANSWER_FRAME_MAX 65536 /* an acknowledgement is smaller by far */
#define ANSWER_ID_MAX 40
#define ANSWER_HEAD_MAX 256 /* of a body, kept: MSH-10 is in it */

struct answer {
    char code[4];               /* "202", "AA"; "MSG" for a reply, "?" for a frame without MSA */
    bool accepted;              /* 2xx, AA, CA; replies: 200 or a frame, with a message */
    char id[ANSWER_ID_MAX + 1]; /* HTTP: X-Correlation-ID, "" when absent */
    struct slice control;       /* MLLP: MSA-2; replies: MSH-10; borrowed */
};

struct answer_reader {
    bool mllp;
    bool replies; /* what is waited for */
    /* Called for each whole answer. False: the answer is wrong, stop reading. */
    bool (*on_answer)(void *arg, const struct answer *answer);
    void *arg;
    struct answer now;
    bool failed;
    bool closing; /* HTTP: the peer closes the connection after this answer */
    struct http_parser parser;
    char header[24]; /* the name being read, as far as it fits */
    size_t header_len;
    bool header_value;          /* the last piece was a value */
    char body[ANSWER_HEAD_MAX]; /* HTTP replies: its first bytes */
    size_t body_len;            /* of these */
    struct buffer frame;
};

void answer_reader_init(struct answer_reader *reader, bool mllp, bool replies,
                        bool (*on_answer)(void *arg, const struct answer *answer), void *arg);
void answer_reader_done(struct answer_reader *reader);
/* False: these bytes are no answer, or on_answer said so. */
bool answer_reader_feed(struct answer_reader *reader, const char *data, size_t len);

#endif
