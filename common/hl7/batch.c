/* Taking a batch apart: one scan over the segments. It owns nothing and cannot fail: what is
 * missing or out of place is counted. */
#include "hl7/batch.h"

#include "hl7/message.h"

bool hl7_is_batch(struct slice body)
{
    struct hl7_scan scan;
    struct slice line;
    hl7_scan_init(&scan, body);
    if (!hl7_scan_next(&scan, &line))
        return false;
    enum hl7_line kind = hl7_line_kind(line, 0);
    if (kind == HL7_LINE_FHS || kind == HL7_LINE_BHS)
        return true;
    if (kind != HL7_LINE_MSH)
        return false;
    char field = line.ptr[3];
    while (hl7_scan_next(&scan, &line)) {
        if (hl7_line_kind(line, field) != HL7_LINE_SEGMENT)
            return true;
    }
    return false;
}

void hl7_batch_init(struct hl7_batch *batch, struct slice body)
{
    *batch = (struct hl7_batch){.declared_messages = -1, .declared_groups = -1};
    hl7_scan_init(&batch->scan, body);
}

/* Field 1 of a trailer, a number; its separator is the byte after its name. -1: not stated. */
static int64_t declared_count(struct slice trailer)
{
    if (trailer.len < 4)
        return -1;
    struct hl7_separators separators = {.field = trailer.ptr[3]};
    int64_t count = -1;
    slice_to_int(slice_trim(hl7_field(&separators, trailer, 1).raw), 0, INT64_MAX, &count);
    return count;
}

static void end_group(struct hl7_batch *batch, struct slice trailer)
{
    batch->trailer_count++;
    batch->declared_messages = declared_count(trailer);
    if (batch->declared_messages >= 0 &&
        (uint64_t)batch->declared_messages != batch->group_messages)
        batch->count_mismatches++;
    batch->group_messages = 0;
}

static void end_file(struct hl7_batch *batch, struct slice trailer)
{
    batch->trailer_count++;
    batch->declared_groups = declared_count(trailer);
    if (batch->declared_groups >= 0 && (uint64_t)batch->declared_groups != batch->group_count)
        batch->count_mismatches++;
}

/* The message that begins with `header`: up to the end of its last segment. The header that follows
 * it is kept for the next turn. */
static struct slice take_message(struct hl7_batch *batch, struct slice header)
{
    struct slice body = batch->scan.body, line;
    const char *end = header.ptr + header.len;
    while (hl7_scan_next(&batch->scan, &line)) {
        enum hl7_line kind = hl7_line_kind(line, header.ptr[3]);
        if (kind != HL7_LINE_SEGMENT) {
            batch->pending = line;
            batch->pending_kind = kind;
            break;
        }
        end = line.ptr + line.len;
    }
    /* With what ends that segment: CR, LF or CRLF. */
    const char *limit = body.ptr + body.len;
    if (end < limit && *end++ == '\r' && end < limit && *end == '\n')
        end++;
    batch->message_count++;
    batch->group_messages++;
    struct slice message = slice_of(header.ptr, (size_t)(end - header.ptr));
    if (batch->message_count == 1)
        batch->first_message = message;
    return message;
}

bool hl7_batch_next(struct hl7_batch *batch, struct slice *ret_message)
{
    for (;;) {
        struct slice line = batch->pending;
        enum hl7_line kind = batch->pending_kind;
        batch->pending = slice_of(NULL, 0);
        if (!line.len) {
            if (!hl7_scan_next(&batch->scan, &line))
                return false;
            kind = hl7_line_kind(line, 0);
        }
        switch (kind) {
        case HL7_LINE_MSH:
            *ret_message = take_message(batch, line);
            return true;
        case HL7_LINE_FHS:
            batch->file_header = line;
            break;
        case HL7_LINE_BHS:
            batch->batch_header = line;
            batch->group_count++;
            batch->group_messages = 0;
            break;
        case HL7_LINE_BTS:
            end_group(batch, line);
            break;
        case HL7_LINE_FTS:
            end_file(batch, line);
            break;
        case HL7_LINE_SEGMENT:
            batch->stray_count++;
            break;
        }
    }
}
