/* Acknowledgements of HL7 v2 messages (chapter 2, "Acknowledgments", and the segments MSA and ERR).
 *
 *     MSH  sender and receiver of the request swapped whole; its separators, MSH-11, MSH-12, MSH-18; its own MSH-10
 *     MSA  the code and the request's MSH-10 byte for byte
 *     ERR  on errors: location, code of table 0357, severity and text from version 2.5 on; before, the location and
 *          code in ERR-1 and the text in MSA-3
 *
 * An acknowledgement is always shorter than HL7_ACK_MAX, framing included, since peers read it with
 * one call. So what it echoes is bounded: see the limits in ack.c. A request's MSH-10 that is too
 * long, or holds a byte of the framing, is left out of MSA-2, and an ERR (or MSA-3) says so. CR,
 * LF, VT and FS of a request are never echoed. */
#ifndef HIE_HL7_ACK_H
#define HIE_HL7_ACK_H

#include "base/bytes.h"
#include "base/error.h"
#include "hl7/batch.h"
#include "hl7/message.h"
#include "hl7/path.h"

#include <stdbool.h>
#include <stdint.h>

#define HL7_ACK_MAX 4096
#define HL7_ACK_CONTROL_ID_MAX 20

/* Table 0008: application accept, error, reject; commit accept, error, reject. */
enum hl7_ack_code { HL7_AA, HL7_AE, HL7_AR, HL7_CA, HL7_CE, HL7_CR };

/* "AA" and so on. */
const char *hl7_ack_word(enum hl7_ack_code code);
/* Whether it accepts: AA or CA. */
bool hl7_ack_accepts(enum hl7_ack_code code);

/* Table 0357. */
enum hl7_condition_code {
    HL7_CONDITION_NONE = 0, /* of an error: 207 is used */
    HL7_SEGMENT_SEQUENCE = 100,
    HL7_REQUIRED_FIELD = 101,
    HL7_DATA_TYPE = 102,
    HL7_TABLE_VALUE = 103,
    HL7_UNSUPPORTED_TYPE = 200,
    HL7_UNSUPPORTED_EVENT = 201,
    HL7_UNSUPPORTED_PROCESSING_ID = 202,
    HL7_UNSUPPORTED_VERSION = 203,
    HL7_UNKNOWN_KEY = 204,
    HL7_DUPLICATE_KEY = 205,
    HL7_RECORD_LOCKED = 206,
    HL7_INTERNAL = 207,
};

struct hl7_ack {
    enum hl7_ack_code code;
    struct slice control_id;           /* our MSH-10: cut at HL7_ACK_CONTROL_ID_MAX bytes */
    int64_t wall_ms;                   /* our MSH-7, written in UTC */
    enum hl7_condition_code condition; /* of an error */
    const struct hl7_path *location;   /* of an error; NULL: none */
    const char *text; /* of an error: our own words, never message content; NULL: none */
};

/* Sets code, condition and text (which borrows from `error`) from an error: what is wrong with the
 * message is AE, what is refused or may go well later AR; in enhanced mode CE and CR. The rest of
 * *ret is left alone. */
void hl7_ack_from_error(const struct err *error, bool enhanced, struct hl7_ack *ret);

/* Appends the acknowledgement, without framing, to `out`. `request` NULL: the message cannot be
 * read; the acknowledgement has the default separators, version 2.5, an empty MSA-2, and an
 * accepting code becomes AR or CR. False when `out` has not room for HL7_ACK_MAX bytes more,
 * however many it needs; `out` is as before then. */
bool hl7_ack_append(const struct hl7_message *request, const struct hl7_ack *ack,
                    struct buffer *out);

/* The acknowledgement of a batch as one text: begin, then the acknowledgements of its messages, or
 * of the failed ones only, then end with their number. It answers the last BHS read, or else the
 * first message. False as above. */
bool hl7_ack_batch_begin(const struct hl7_batch *request, struct slice control_id, int64_t wall_ms,
                         struct buffer *out);
bool hl7_ack_batch_end(const struct hl7_batch *request, size_t ack_count, struct buffer *out);

/* Table 0155: always, never, on error or rejection only, on success only. */
enum hl7_ack_when { HL7_AL, HL7_NE, HL7_ER, HL7_SU };

struct hl7_ack_mode {
    bool enhanced;
    enum hl7_ack_when accept; /* the commit acknowledgement (MSH-15); HL7_NE in original mode */
    enum hl7_ack_when application; /* the application's (MSH-16); HL7_AL in original mode */
};

/* Original mode when MSH-15 and MSH-16 are both empty. In enhanced mode an empty one is NE and an
 * unknown word AL: silence makes senders loop. */
struct hl7_ack_mode hl7_ack_mode(const struct hl7_message *message);
/* Whether `when` asks for an acknowledgement of that outcome. */
bool hl7_ack_wanted(enum hl7_ack_when when, enum hl7_ack_code code);

#endif
