/* Any bytes as a message: the index against a plain walk over the bytes, the look-ups against each other, escapes,
 * summary and batches. */
#include "base/bug.h"
#include "hl7/batch.h"
#include "hl7/message.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool inside(struct slice part, struct slice whole)
{
    return part.len == 0 || (part.ptr >= whole.ptr && part.ptr + part.len <= whole.ptr + whole.len);
}

/* Part `number` the plain way. */
static bool plain_part(struct slice whole, char separator, unsigned number, struct slice *ret)
{
    size_t start = 0;
    for (size_t i = 0; i <= whole.len; i++) {
        if (i < whole.len && (separator == 0 || whole.ptr[i] != separator))
            continue;
        if (--number == 0) {
            *ret = slice_of(whole.ptr + start, i - start);
            return true;
        }
        start = i + 1;
    }
    return false;
}

static void check_escapes(const struct hl7_message *message, struct slice raw)
{
    struct buffer scratch, again;
    struct slice text, back;
    buffer_init(&scratch, raw.len);
    buffer_init(&again, 5 * raw.len);
    BUG_ON(
        !hl7_unescape(&message->separators, raw, &scratch, &text)); /* never longer than before */
    BUG_ON(!hl7_escape(&message->separators, text, &again));
    for (size_t i = 0; i < again.len; i++)
        BUG_ON(again.data[i] == message->separators.field || again.data[i] == '\r');
    struct buffer third;
    buffer_init(&third, again.len);
    BUG_ON(!hl7_unescape(&message->separators, buffer_slice(&again), &third, &back));
    if (message->separators.escape)
        BUG_ON(!slice_equal(back, text));
    buffer_done(&scratch);
    buffer_done(&again);
    buffer_done(&third);
}

static void check_path(const struct hl7_message *message, struct hl7_path path)
{
    struct hl7_value value = hl7_get(message, &path);
    BUG_ON(!inside(value.raw, message->body));
    BUG_ON((value.presence == HL7_ABSENT || value.presence == HL7_EMPTY) != (value.raw.len == 0));
    check_escapes(message, value.raw);

    /* The loop over all must hold the one. */
    struct hl7_path any = path;
    any.occurrence = any.repetition = HL7_ANY;
    struct hl7_each each = hl7_each(message, &any);
    struct hl7_value one;
    bool found = value.presence == HL7_ABSENT;
    const char *last = NULL;
    while (hl7_each_next(&each, &one)) {
        BUG_ON(!inside(one.raw, message->body) || one.presence == HL7_ABSENT);
        BUG_ON(one.raw.ptr < last);
        last = one.raw.ptr;
        found = found || (one.raw.ptr == value.raw.ptr && one.raw.len == value.raw.len);
    }
    BUG_ON(!found);
}

/* Fields, repetitions and components of each segment, the plain way. */
static void check_segment(const struct hl7_message *message, uint32_t index)
{
    struct slice segment = hl7_segment(message, index), field, part;
    const struct hl7_separators *s = &message->separators;
    bool msh = segment.len > 3 && segment.ptr[3] == s->field &&
               (memcmp(segment.ptr, "MSH", 3) == 0 || memcmp(segment.ptr, "FHS", 3) == 0 ||
                memcmp(segment.ptr, "BHS", 3) == 0);
    BUG_ON(memchr(segment.ptr, '\r', segment.len) || memchr(segment.ptr, '\n', segment.len));
    for (unsigned n = 1; n < 20; n++) {
        struct hl7_value value = hl7_field(s, segment, n);
        if (msh && n == 1) {
            BUG_ON(value.raw.ptr != segment.ptr + 3);
            continue;
        }
        bool there = plain_part(segment, s->field, msh ? n : n + 1, &field);
        BUG_ON(there != (value.presence != HL7_ABSENT));
        if (!there)
            break;
        BUG_ON(field.ptr != value.raw.ptr || field.len != value.raw.len);
        if (msh && n == 2)
            continue;
        struct hl7_path path = {.occurrence = 1,
                                .field = (uint16_t)n,
                                .repetition = n % 3 + 1,
                                .component = (uint16_t)(n % 4),
                                .subcomponent = n % 4 ? n % 2 : 0};
        memcpy(path.segment, segment.ptr, 3);
        if (strlen(path.segment) != 3 || !hl7_segment_is(message, index, path.segment))
            continue;
        check_path(message, path);
        if (index != 0)
            continue;
        value = hl7_get(message, &path);
        there = plain_part(field, s->repetition, path.repetition, &part) &&
                (!path.component || plain_part(part, s->component, path.component, &part)) &&
                (!path.subcomponent || plain_part(part, s->subcomponent, path.subcomponent, &part));
        BUG_ON(there != (value.presence != HL7_ABSENT));
        BUG_ON(there && (part.ptr != value.raw.ptr || part.len != value.raw.len));
    }
}

static void check_batch(struct slice body)
{
    struct hl7_batch batch;
    struct slice message;
    const char *last = body.ptr;
    hl7_batch_init(&batch, body);
    while (hl7_batch_next(&batch, &message)) {
        BUG_ON(!inside(message, body) || message.ptr < last || message.len < 4);
        last = message.ptr + message.len;
        struct hl7_message m;
        if (hl7_parse(message, &m, NULL) == 0) {
            BUG_ON(m.rest.len != 0);
            hl7_done(&m);
        }
    }
    BUG_ON(hl7_batch_next(&batch, &message));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice body = slice_of(data, size);
    struct hl7_message message;
    struct err err;
    if (size == 0)
        return 0;
    check_batch(body);
    if (hl7_parse(body, &message, &err)) {
        BUG_ON(err.code != ERR_NOT_HL7 && err.code != ERR_INVALID);
        return 0;
    }
    BUG_ON(hl7_is_batch(body) != (message.rest.len > 0) || !inside(message.rest, body));
    BUG_ON(message.segment_count == 0 || message.segment_count > size / 4 + 1);
    const char *last = body.ptr;
    for (uint32_t i = 0; i < message.segment_count; i++) {
        struct slice segment = hl7_segment(&message, i);
        BUG_ON(!inside(segment, body) || segment.len < 3 || segment.ptr < last);
        last = segment.ptr + segment.len;
        if (i < 64)
            check_segment(&message, i);
    }
    struct hl7_summary summary;
    hl7_summary(&message, &summary);
    BUG_ON(strlen(summary.control_id) > 199 || strlen(summary.message_type) > 199 ||
           strlen(summary.sender) > 199);
    hl7_done(&message);
    return 0;
}
