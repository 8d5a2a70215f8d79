/* An HL7 v2 message (chapter 2 of the standard) read where it lies: one pass finds the segments,
 * everything else is looked up when asked for. Nothing is copied, changed or decoded; values are
 * slices of the body.
 *
 * It reads leniently, as peers write: segments end with CR, LF or CRLF, mixed too; blank lines, and
 * a byte order mark before MSH, are skipped; NUL and 8-bit bytes are bytes like others. The
 * separators are those that this message's MSH-1 and MSH-2 declare.
 *
 * The cost is linear in the size of the body, and the index of a message of up to
 * HL7_SEGMENTS_INLINE segments lives in the struct. A larger one takes 8 bytes a segment from the
 * heap. */
#ifndef HIE_HL7_MESSAGE_H
#define HIE_HL7_MESSAGE_H

#include "base/bytes.h"
#include "base/error.h"
#include "hl7/path.h"
#include "hl7/separators.h"

#include <stdbool.h>
#include <stdint.h>

#define HL7_SEGMENTS_INLINE 48

struct hl7_segment_place {
    uint32_t start, len; /* in the body, without the segment's end */
};

struct hl7_message {
    struct slice body; /* borrowed: must outlive this */
    struct slice rest; /* from the next MSH, FHS, BHS, BTS or FTS on: empty for a plain message */
    struct hl7_separators separators;
    uint32_t segment_count;
    struct hl7_segment_place *places; /* NULL: they are inline */
    struct hl7_segment_place inline_places[HL7_SEGMENTS_INLINE];
};

/* Reads the first message of `body`, which must begin with MSH. 0, or -1 with ERR_NOT_HL7 (no MSH),
 * ERR_INVALID (separators), ERR_TOO_LARGE (4 GiB) or ERR_UNAVAILABLE (no memory). After 0 the
 * caller ends with hl7_done. */
int hl7_parse(struct slice body, struct hl7_message *ret, struct err *err);
void hl7_done(struct hl7_message *message);

/* In rising order: `presence > HL7_EMPTY` is something that the sender filled in. */
enum hl7_presence {
    HL7_ABSENT, /* no such segment, or the message does not go that far */
    HL7_EMPTY,  /* sent without content: the receiver keeps what it has */
    HL7_NULL,   /* `""`: the receiver deletes what it has */
    HL7_VALUE,
};

struct hl7_value {
    struct slice raw; /* borrowed from the body, escapes and all; empty when absent */
    enum hl7_presence presence;
};

/* The value at `path`; with [*] the first one that is filled in, or else the first there is. */
struct hl7_value hl7_get(const struct hl7_message *message, const struct hl7_path *path);
/* The same from text that we wrote: a wrong path is a bug. For tests and single look-ups. */
struct hl7_value hl7_get_text(const struct hl7_message *message, const char *path);

/* All values at a path with [*], in the order of the message; of a path without it, the one there
 * is.
 *
 *     struct hl7_each each = hl7_each(message, path);
 *     while (hl7_each_next(&each, &value)) …
 *
 * Absent ones are left out. The whole loop is linear in the size of the segments it visits. */
struct hl7_each {
    const struct hl7_message *message;
    const struct hl7_path *path;
    uint32_t segment;    /* index of the next to look at */
    uint32_t occurrence; /* of those seen with the path's name */
    struct slice field;  /* what is left of the field whose repetitions are being handed out */
    bool in_field;
};

struct hl7_each hl7_each(const struct hl7_message *message, const struct hl7_path *path);
bool hl7_each_next(struct hl7_each *each, struct hl7_value *ret);

/* Segment `index` (from 0, below segment_count) without its end. */
struct slice hl7_segment(const struct hl7_message *message, uint32_t index);
/* Whether segment `index` has that name of three characters. */
bool hl7_segment_is(const struct hl7_message *message, uint32_t index, const char *name);
/* Field `number` of a segment with all its repetitions. Number 0 is the segment's name. */
struct hl7_value hl7_field(const struct hl7_separators *separators, struct slice segment,
                           unsigned number);

/* ---- what the store and searches keep of a message ---- */

#define HL7_SUMMARY_SIZE 200 /* with the NUL */

/* Valid UTF-8, NUL-terminated, cut at 199 bytes; control characters and bytes that are no UTF-8
 * become '?'. Escapes stay. Empty where the message says nothing. */
struct hl7_summary {
    char control_id[HL7_SUMMARY_SIZE];   /* MSH-10 */
    char message_type[HL7_SUMMARY_SIZE]; /* "ADT^A01": MSH-9.1^MSH-9.2, '^' in every message */
    char sender[HL7_SUMMARY_SIZE];       /* "LAB@WEST": MSH-3.1@MSH-4.1; "LAB" or "@WEST" alone */
};

void hl7_summary(const struct hl7_message *message, struct hl7_summary *ret);

#endif
