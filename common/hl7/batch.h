/* Batches: [FHS] { [BHS] { MSH … } [BTS] } [FTS], any header or trailer missing, down to many MSH
 * one after the other. The messages are slices of the body, byte for byte, each from its MSH to the
 * end of its last segment.
 *
 *     struct hl7_batch batch;
 *     hl7_batch_init(&batch, body);
 *     while (hl7_batch_next(&batch, &message)) …
 *     if (batch.count_mismatches) …
 */
#ifndef HIE_HL7_BATCH_H
#define HIE_HL7_BATCH_H

#include "base/bytes.h"
#include "hl7/scan.h"

#include <stdbool.h>
#include <stdint.h>

/* A header or trailer anywhere, or more than one MSH. A plain message is no batch, nor is what is
 * not HL7. One look at every segment; who has parsed the body as a message knows it already: that
 * message's `rest` is not empty. */
bool hl7_is_batch(struct slice body);

struct hl7_batch {
    struct hl7_scan scan; /* borrows the body */
    struct slice pending; /* the header or trailer that ended the last message; empty: none */
    enum hl7_line pending_kind;

    struct slice file_header;  /* the FHS segment read last, without its end; empty: none yet */
    struct slice batch_header; /* the BHS segment read last */
    struct slice first_message;

    /* What has been seen so far. */
    size_t message_count;
    size_t group_count;      /* BHS segments */
    size_t group_messages;   /* messages since the last BHS or BTS */
    size_t stray_count;      /* segments that belong to no message */
    size_t trailer_count;    /* BTS and FTS segments */
    size_t count_mismatches; /* BTS-1 that is not the group's messages, FTS-1 that is not the number
                                of groups */
    int64_t declared_messages; /* of the last BTS-1; -1: not stated */
    int64_t declared_groups;   /* of the last FTS-1; -1: not stated */
};

void hl7_batch_init(struct hl7_batch *batch, struct slice body);
/* The next message; false at the end, when the counts are final. */
bool hl7_batch_next(struct hl7_batch *batch, struct slice *ret_message);

#endif
