/* Any bytes as a request: its acknowledgement is under the bound, holds no framing, reads as a message, and says what
 * it was told to say where it belongs. The first two bytes choose code and condition. */
#include "base/bug.h"
#include "hl7/ack.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool has(struct slice bytes, char byte)
{
    return bytes.len && memchr(bytes.ptr, byte, bytes.len);
}

static bool framed(struct slice bytes)
{
    return has(bytes, '\v') || has(bytes, '\x1c');
}

static void check_fields(const struct hl7_message *request, const struct hl7_message *ack)
{
    static const char *const swapped[][2] = {
        {"MSH-3", "MSH-5"}, {"MSH-4", "MSH-6"}, {"MSH-5", "MSH-3"}, {"MSH-6", "MSH-4"}};
    struct slice header = hl7_segment(request, 0), own = hl7_segment(ack, 0);
    BUG_ON(memcmp(&request->separators, &ack->separators, sizeof(ack->separators)) != 0);
    for (size_t i = 0; i < 4; i++) {
        struct hl7_path from, to;
        BUG_ON(hl7_path_parse(slice_text(swapped[i][0]), &from, NULL) ||
               hl7_path_parse(slice_text(swapped[i][1]), &to, NULL));
        struct slice theirs = hl7_field(&request->separators, header, from.field).raw;
        struct slice ours = hl7_field(&ack->separators, own, to.field).raw;
        if (theirs.len <= 440 && !framed(theirs))
            BUG_ON(!slice_equal(theirs, ours));
    }
    struct slice id = hl7_field(&request->separators, header, 10).raw;
    struct slice echoed = hl7_field(&ack->separators, hl7_segment(ack, 1), 2).raw;
    if (id.len <= 1024 && !framed(id))
        BUG_ON(!slice_equal(id, echoed));
    else
        BUG_ON(echoed.len != 0);
}

static void check(const struct hl7_message *request, const struct hl7_ack *ack)
{
    struct buffer out;
    struct hl7_message back;
    buffer_init(&out, HL7_ACK_MAX);
    BUG_ON(!hl7_ack_append(request, ack, &out));
    struct slice text = buffer_slice(&out);
    BUG_ON(text.len + 3 >= HL7_ACK_MAX || framed(text) || has(text, '\n'));
    BUG_ON(hl7_parse(text, &back, NULL) || back.rest.len || back.segment_count < 2);
    BUG_ON(!hl7_segment_is(&back, 1, "MSA"));
    BUG_ON(memcmp(hl7_get_text(&back, "MSH-9").raw.ptr, "ACK", 3) != 0);
    BUG_ON(!slice_is(hl7_field(&back.separators, hl7_segment(&back, 0), 10).raw, "ID42"));
    if (request) {
        BUG_ON(!slice_is(hl7_field(&back.separators, hl7_segment(&back, 1), 1).raw,
                         hl7_ack_word(ack->code)));
        check_fields(request, &back);
    }
    for (uint32_t i = 2; i < back.segment_count; i++)
        BUG_ON(!hl7_segment_is(&back, i, "ERR"));
    BUG_ON(!hl7_ack_accepts(ack->code) && back.segment_count < 3);
    hl7_done(&back);
    buffer_done(&out);
}

static void check_batch(struct slice body)
{
    struct hl7_batch batch, again;
    struct slice message;
    struct buffer out;
    buffer_init(&out, 3 * HL7_ACK_MAX);
    hl7_batch_init(&batch, body);
    while (hl7_batch_next(&batch, &message))
        ;
    BUG_ON(!hl7_ack_batch_begin(&batch, SLICE_LITERAL("B1"), 0, &out));
    BUG_ON(!hl7_ack_append(NULL, &(struct hl7_ack){.code = HL7_AR}, &out));
    BUG_ON(!hl7_ack_batch_end(&batch, 1, &out));
    BUG_ON(framed(buffer_slice(&out)));
    hl7_batch_init(&again, buffer_slice(&out));
    while (hl7_batch_next(&again, &message))
        ;
    BUG_ON(again.message_count != 1 || again.group_count != 1 || again.count_mismatches != 0 ||
           again.declared_messages != 1 || again.stray_count != 0);
    buffer_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct hl7_path location = {.segment = "PID",
                                .occurrence = data[1],
                                .field = (uint16_t)(data[1] + 1),
                                .repetition = data[1] & 3,
                                .component = data[1] & 1,
                                .subcomponent = data[1] & 1};
    struct hl7_ack ack = {.code = data[0] % 6,
                          .condition = (enum hl7_condition_code)(95 + data[1] % 120),
                          .control_id = SLICE_LITERAL("ID42"),
                          .wall_ms = (int64_t)data[1] << 32,
                          .location = data[0] & 64 ? &location : NULL,
                          .text = data[0] & 128 ? "some words | of ^ ours & more" : NULL};
    struct slice body = slice_of(data + 2, size - 2);
    struct hl7_message request;
    check_batch(body);
    check(NULL, &ack);
    if (hl7_parse(body, &request, NULL))
        return 0;
    struct hl7_ack_mode mode = hl7_ack_mode(&request);
    BUG_ON(!mode.enhanced && (mode.accept != HL7_NE || mode.application != HL7_AL));
    check(&request, &ack);
    hl7_done(&request);
    return 0;
}
