/* Messages to send, stamped out of a template: a text file of HL7 segments, one a line, in which
 *     {control}  becomes MSH-10, 20 characters: the run's 8 and the message's number in 12 digits
 *     {time}     the time of sending, YYYYMMDDHHMMSS (UTC)
 *     {patient}  10 digits, one of `patients`, spread evenly
 *     {visit}    10 digits, the message's number
 *     {key}      4 digits, one of `keys`, as it comes
 *     {priority} 1 digit, as it comes
 *     {pad}      text that fills the message up to the wanted size
 * All have a fixed width, so a message is made by overwriting a few digits of one buffer: no
 * allocation, no copy. The bytes around the message (an HTTP head, MLLP's frame) are part of that
 * buffer; in the head the same words stand for fields, but {pad}. */
#ifndef HIE_BENCH_STENCIL_H
#define HIE_BENCH_STENCIL_H

#include "base/bytes.h"
#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define STENCIL_RUN_LEN 8
#define STENCIL_CONTROL_LEN 20
#define STENCIL_SLOTS 16
#define STENCIL_SIZE_MAX (64u << 20)

struct stencil_slot {
    enum stencil_field {
        STENCIL_CONTROL,
        STENCIL_TIME,
        STENCIL_PATIENT,
        STENCIL_VISIT,
        STENCIL_KEY,
        STENCIL_PRIORITY,
        STENCIL_PAD,
    } field;
    size_t at;
};

/* How many different ones there are; 0 is 1. */
struct stencil_spread {
    uint64_t patients, keys;
};

struct stencil {
    struct buffer bytes; /* what goes over the wire */
    size_t body_len;     /* of these, the message */
    struct stencil_slot slots[STENCIL_SLOTS];
    size_t slot_count;
    struct stencil_spread spread;
    int64_t stamped_s; /* the second that {time} holds */
};

/* What stands around the message on the wire; the head is asked for once the body's length is
 * known. */
struct stencil_wrap {
    void (*head)(void *arg, size_t body_len, struct buffer *out); /* appends; may be NULL */
    void *arg;
    struct slice tail;
};

/* Reads a template. `size` is the wanted length of the message in bytes; 0, or less than the text
 * without pad, leaves {pad} empty. ERR_INVALID for an unknown field, no {control}, a {pad}
 * in the head, or a `size` without {pad}; ERR_IO. */
int stencil_load(struct stencil *stencil, const char *path, size_t size,
                 struct stencil_spread spread, const char run[STENCIL_RUN_LEN],
                 const struct stencil_wrap *wrap, struct err *err);
int stencil_parse(struct stencil *stencil, struct slice text, size_t size,
                  struct stencil_spread spread, const char run[STENCIL_RUN_LEN],
                  const struct stencil_wrap *wrap, struct err *err);
void stencil_done(struct stencil *stencil);
/* The message with this number, valid until the next stamp. */
struct slice stencil_stamp(struct stencil *stencil, uint64_t number, int64_t wall_s);
/* What {control} becomes. */
void stencil_control(const char run[STENCIL_RUN_LEN], uint64_t number,
                     char ret[STENCIL_CONTROL_LEN]);

#endif
