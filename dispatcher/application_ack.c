#include "application_ack.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/state.h"
#include "hl7/mllp.h"

#include <stdlib.h>

#define WAIT_MS 300000          /* a sender that is told nothing for so long asks otherwise */
#define REPLY_MAX (64u * 1024u) /* of a reply that is written as it is */

enum { HELD, KEPT, WAITING, STATE_COUNT };
static const char *const state_words[] = {"held", "kept", "waiting"};
static const uint32_t state_moves[] = {
    [HELD] = STATE_BIT(KEPT) | STATE_BIT(WAITING),
};
static const struct state_table states = {"application ack", state_words, state_moves, STATE_COUNT};

struct application_ack {
    struct caller caller;
    TAILQ_ENTRY(application_ack) link;
    struct application_acks *acks;
    const struct item *item;
    struct uuid id;
    unsigned state;
    enum hl7_ack_when when;
    struct buffer frame; /* KEPT; empty: nothing is to be told */
    size_t header_len;
    char header[];
};

#define ack_of_caller(caller_)                                                                     \
    ((struct application_ack *)((char *)(caller_)-offsetof(struct application_ack, caller)))

void ack_control_id(struct uuid id, char step, char ret[static HL7_ACK_CONTROL_ID_MAX + 1])
{
    char text[UUID_TEXT_LEN + 1];
    size_t at = 0;
    uuid_format(id, text);
    /* The last digits hold the random part; the first of ours says which acknowledgement it is. */
    ret[at++] = step;
    for (size_t i = 15; i < UUID_TEXT_LEN && at < HL7_ACK_CONTROL_ID_MAX; i++) {
        if (text[i] != '-')
            ret[at++] = text[i];
    }
    ret[at] = '\0';
}

static void free_ack(struct application_ack *ack)
{
    struct application_acks *acks = ack->acks;
    callers_remove(acks->callers, &ack->caller);
    TAILQ_REMOVE(&acks->list, ack, link);
    acks->count--;
    buffer_done(&ack->frame);
    item_release(ack->item);
    free(ack);
}

static void end_ack(struct application_ack *ack)
{
    struct application_acks *acks = ack->acks;
    free_ack(ack);
    acks->over(acks->arg);
}

/* ---- what is told ---- */

static bool code_of(struct slice word, enum hl7_ack_code *ret)
{
    for (enum hl7_ack_code code = HL7_AA; code <= HL7_AR; code++) {
        if (slice_is(word, hl7_ack_word(code))) {
            *ret = code;
            return true;
        }
    }
    return false;
}

/* Whether a reply is an application acknowledgement of this request. */
static bool acknowledges(struct slice reply, const struct hl7_message *request,
                         enum hl7_ack_code *ret_code)
{
    struct hl7_message parsed;
    struct err ignored;
    if (reply.len > REPLY_MAX || hl7_parse(reply, &parsed, &ignored))
        return false;
    struct slice asked = hl7_field(&request->separators, hl7_segment(request, 0), 10).raw;
    bool ours = parsed.rest.len == 0 && code_of(hl7_get_text(&parsed, "MSA-1").raw, ret_code) &&
                slice_equal(hl7_get_text(&parsed, "MSA-2").raw, asked) &&
                !memchr(reply.ptr, MLLP_START, reply.len) &&
                !memchr(reply.ptr, MLLP_END, reply.len);
    hl7_done(&parsed);
    return ours;
}

static void append_generated(const struct application_ack *ack, const struct hl7_message *request,
                             enum hl7_ack_code code, const char *text, struct buffer *out)
{
    char control_id[HL7_ACK_CONTROL_ID_MAX + 1], bytes[HL7_ACK_MAX];
    struct buffer plain = {.data = bytes, .capacity = sizeof(bytes), .max = sizeof(bytes)};
    ack_control_id(ack->id, 'A', control_id);
    struct hl7_ack content = {.code = code,
                              .control_id = slice_text(control_id),
                              .wall_ms = clock_wall_ms(),
                              .condition = HL7_INTERNAL,
                              .text = text};
    if (hl7_ack_wanted(ack->when, content.code) && hl7_ack_append(request, &content, &plain))
        mllp_frame_append(out, buffer_slice(&plain));
}

/* Nothing is appended where nothing was asked for. */
static void append_frame(const struct application_ack *ack, const struct queue_reply *end,
                         struct buffer *out)
{
    struct hl7_message request;
    struct err ignored;
    enum hl7_ack_code code;
    struct slice reply = body_slice(end->body);
    if (hl7_parse(slice_of(ack->header, ack->header_len), &request, &ignored))
        return;
    if (strcmp(end->status, "completed") != 0) {
        append_generated(ack, &request, HL7_AE, end->error ? end->error : end->status, out);
    } else if (!end->left_out && acknowledges(reply, &request, &code)) {
        if (hl7_ack_wanted(ack->when, code))
            mllp_frame_append(out, reply);
    } else {
        append_generated(ack, &request, HL7_AA, NULL, out);
    }
    hl7_done(&request);
}

/* In the place of a reply for which there is no room: the same said by an acknowledgement of ours. */
static void shorten_frame(struct application_ack *ack)
{
    struct hl7_message request;
    struct err ignored;
    enum hl7_ack_code code = HL7_AA;
    struct slice frame = buffer_slice(&ack->frame);
    struct slice reply = slice_of(frame.ptr + 1, frame.len - MLLP_FRAMING_LEN);
    if (hl7_parse(slice_of(ack->header, ack->header_len), &request, &ignored))
        return;
    acknowledges(reply, &request, &code);
    buffer_clear(&ack->frame);
    append_generated(ack, &request, code, NULL, &ack->frame);
    hl7_done(&request);
}

/* ---- its moves ---- */

static void write_frame(struct application_ack *ack)
{
    struct application_acks *acks = ack->acks;
    if (ack->frame.len && !acks->write(acks->arg, buffer_slice(&ack->frame))) {
        shorten_frame(ack);
        acks->write(acks->arg, buffer_slice(&ack->frame));
    }
    end_ack(ack);
}

static void on_end(struct caller *caller, enum caller_outcome outcome,
                   const struct queue_reply *end)
{
    struct application_ack *ack = ack_of_caller(caller);
    if (outcome == CALLER_ENDED)
        append_frame(ack, end, &ack->frame);
    if (ack->state == HELD)
        state_move(&states, &ack->state, KEPT);
    else
        write_frame(ack);
}

struct application_ack *application_acks_add(struct application_acks *acks, const struct item *item,
                                             struct uuid id, struct slice header,
                                             enum hl7_ack_when when)
{
    struct application_ack *ack = mem_alloc(sizeof(*ack) + header.len);
    ack->acks = acks;
    ack->item = item_hold(item);
    ack->id = id;
    ack->state = HELD;
    ack->when = when;
    ack->header_len = header.len;
    if (header.len)
        memcpy(ack->header, header.ptr, header.len);
    buffer_init(&ack->frame, REPLY_MAX + MLLP_FRAMING_LEN);
    TAILQ_INSERT_TAIL(&acks->list, ack, link);
    acks->count++;
    callers_add(acks->callers, &ack->caller, item, id, WAIT_MS, CALLER_TOLD, on_end);
    return ack;
}

void application_ack_repeats(struct application_ack *ack, struct uuid first)
{
    if (ack->state != HELD)
        return; /* its time was up */
    ack->id = first;
    callers_remove(ack->acks->callers, &ack->caller);
    callers_add(ack->acks->callers, &ack->caller, ack->item, first, WAIT_MS, CALLER_LOOKS, on_end);
}

void application_ack_refused(struct application_ack *ack)
{
    end_ack(ack);
}

void application_ack_release(struct application_ack *ack)
{
    if (ack->state == KEPT)
        write_frame(ack);
    else
        state_move(&states, &ack->state, WAITING);
}

/* ---- a connection's ---- */

void application_acks_init(struct application_acks *acks, struct callers *callers,
                           bool (*write)(void *arg, struct slice frame), void (*over)(void *arg),
                           void *arg)
{
    *acks = (struct application_acks){.callers = callers, .write = write, .over = over, .arg = arg};
    TAILQ_INIT(&acks->list);
}

void application_acks_drop(struct application_acks *acks)
{
    while (!TAILQ_EMPTY(&acks->list))
        free_ack(TAILQ_FIRST(&acks->list));
}
