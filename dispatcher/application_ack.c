#include "application_ack.h"

#include "base/clock.h"
#include "base/mem.h"
#include "hl7/mllp.h"

#include <stdlib.h>

#define WAIT_MS 300000 /* a sender that is told nothing for so long asks otherwise */

struct application_ack {
    struct waiter waiter; /* first: found again from it */
    TAILQ_ENTRY(application_ack) link;
    struct application_acks *acks; /* NULL: the connection is gone */
    enum hl7_ack_when when;
    bool finding;
    size_t header_len;
    char header[];
};

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
    if (acks) {
        TAILQ_REMOVE(&acks->list, ack, link);
        acks->count--;
    }
    free(ack);
    if (acks)
        acks->over(acks->arg);
}

static void write_ack(struct application_ack *ack, const struct hl7_ack *content)
{
    struct hl7_message request;
    struct err ignored;
    char bytes[HL7_ACK_MAX], framed[HL7_ACK_MAX + MLLP_FRAMING_LEN];
    struct buffer plain = {.data = bytes, .capacity = sizeof(bytes), .max = sizeof(bytes)};
    struct buffer frame = {.data = framed, .capacity = sizeof(framed), .max = sizeof(framed)};
    if (hl7_parse(slice_of(ack->header, ack->header_len), &request, &ignored))
        return;
    if (hl7_ack_wanted(ack->when, content->code) && hl7_ack_append(&request, content, &plain) &&
        mllp_frame_append(&frame, buffer_slice(&plain)))
        ack->acks->write(ack->acks->arg, buffer_slice(&frame));
    hl7_done(&request);
}

static void on_found(void *arg, const struct err *err, const struct store_record *record)
{
    struct application_ack *ack = arg;
    ack->finding = false;
    if (ack->acks && (err->code != ERR_NONE || (record && !record->finished_us))) {
        waiters_add_again(ack->acks->waiters, &ack->waiter);
        return;
    }
    if (ack->acks && record) {
        bool completed = strcmp(record->state, "completed") == 0;
        char control_id[HL7_ACK_CONTROL_ID_MAX + 1];
        ack_control_id(ack->waiter.id, 'A', control_id);
        write_ack(ack, &(struct hl7_ack){.code = completed ? HL7_AA : HL7_AE,
                                         .control_id = slice_text(control_id),
                                         .wall_ms = clock_wall_ms(),
                                         .condition = HL7_INTERNAL,
                                         .text = completed ? NULL : record->error});
    }
    free_ack(ack);
}

static void on_waited(struct waiter *waiter, bool ended)
{
    struct application_ack *ack = (struct application_ack *)waiter;
    if (!ended) {
        free_ack(ack);
        return;
    }
    ack->finding = true;
    ack->acks->store->ops->find(ack->acks->store, waiter->id, on_found, ack);
}

void application_acks_init(struct application_acks *acks, struct waiters *waiters,
                           struct store *store, void (*write)(void *arg, struct slice frame),
                           void (*over)(void *arg), void *arg)
{
    *acks = (struct application_acks){
        .waiters = waiters, .store = store, .write = write, .over = over, .arg = arg};
    TAILQ_INIT(&acks->list);
}

void application_acks_drop(struct application_acks *acks)
{
    struct application_ack *ack;
    while ((ack = TAILQ_FIRST(&acks->list))) {
        TAILQ_REMOVE(&acks->list, ack, link);
        ack->acks = NULL;
        if (ack->finding)
            continue; /* on_found frees it */
        waiters_remove(acks->waiters, &ack->waiter);
        free(ack);
    }
    acks->count = 0;
}

void application_acks_add(struct application_acks *acks, struct uuid id, struct slice header,
                          enum hl7_ack_when when)
{
    struct application_ack *ack = mem_alloc(sizeof(*ack) + header.len);
    ack->acks = acks;
    ack->when = when;
    ack->header_len = header.len;
    memcpy(ack->header, header.ptr, header.len);
    TAILQ_INSERT_TAIL(&acks->list, ack, link);
    acks->count++;
    waiters_add(acks->waiters, &ack->waiter, id, WAIT_MS, on_waited);
}
