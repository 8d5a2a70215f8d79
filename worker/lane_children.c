/* What a handler sent becomes children: rows that are written with their parent's end. */
#include "lane_parts.h"

#include "base/mem.h"
#include "hl7/message.h"
#include "model/item_class.h"
#include "worker.h"

#include <stdlib.h>

/* The header of the same bytes is read once. */
static void fill_from_header(struct claim *claim, struct store_message *child,
                             const struct item *target)
{
    char key[ITEM_ORDERING_KEY_MAX];
    struct hl7_message message;
    struct err ignored;
    bool keyed = target->queue_type == QUEUE_FIFO && target->ordering_key;
    const struct store_message *first = &claim->children[0];
    bool same =
        child != first && first->body.ptr == child->body.ptr && first->body.len == child->body.len;
    if (same) {
        child->control_id = first->control_id;
        child->message_type = first->message_type;
        child->sender = first->sender;
    }
    bool prioritised = target->queue_type == QUEUE_PRIORITY && target->priority.path;
    if ((same && !keyed && !prioritised) || hl7_parse(body_slice(child->body), &message, &ignored))
        return;
    if (!same) {
        struct hl7_summary *summary = arena_alloc(&claim->job.arena, sizeof(*summary));
        hl7_summary(&message, summary);
        child->control_id = slice_text(summary->control_id);
        child->message_type = slice_text(summary->message_type);
        child->sender = slice_text(summary->sender);
    }
    if (keyed)
        child->ordering_key =
            arena_copy(&claim->job.arena, slice_of(key, item_ordering_key(target, &message, key)));
    if (prioritised)
        child->priority = item_priority(target, &message);
    hl7_done(&message);
}

/* A target's queue may have changed since the handler's settings were read; one that is gone is taken as it was. */
static const struct item *as_it_is_now(const struct claim *claim, const struct item *target)
{
    const struct item *now =
        production_find(claim->lane->worker->production, slice_text(target->id));
    return now ? now : target;
}

static void fill_child(struct claim *claim, struct store_message *child, size_t ordinal,
                       struct slice chain)
{
    const struct job_sent *sent = &claim->job.sent[ordinal];
    const struct item *target = as_it_is_now(claim, sent->target);
    const struct store_outcome *outcome = &claim->outcome;
    *child = (struct store_message){
        .id = uuid_child(outcome->id, (uint32_t)outcome->run, 0, (uint32_t)ordinal),
        .parent = outcome->id,
        .item = sent->target->id, /* the lane's production keeps it, whatever is in force by then */
        .pattern = (enum messaging_pattern)target->messaging_pattern,
        .direction = target->class->outbound ? DIRECTION_OUTBOUND : DIRECTION_INTERNAL,
        .priority = claim->entry->priority,
        .ordering_key = claim->entry->key,
        .partition = -1,
        .version = claim->lane->worker->production->version,
        .content_type = sent->content_type,
        .body = sent->body,
    };
    fill_from_header(claim, child, target);
    if (target->queue_type == QUEUE_FIFO)
        child->partition = (int)item_partition(target, child->ordering_key, child->id);
    char packed[META_PACKED_MAX];
    struct buffer meta = {.data = packed, .capacity = sizeof(packed), .max = sizeof(packed)};
    meta_pack(&(struct meta){.content_type = sent->content_type,
                             .traceparent = claim->meta.traceparent,
                             .parent = outcome->id,
                             .deadline_ms = outcome->run > 1 ? 0 : claim->meta.deadline_ms,
                             .chain = chain,
                             .in_wal = !claim->unrecorded,
                             .stored = sent->body.len > MESSAGE_INLINE_MAX},
              &meta);
    child->meta = arena_copy(&claim->job.arena, buffer_slice(&meta));
}

/* Without rows nobody but this worker can bring them. */
static int check_sent(const struct claim *claim, struct err *err)
{
    struct worker *worker = claim->lane->worker;
    for (size_t i = 0; i < claim->job.sent_count; i++) {
        const struct job_sent *sent = &claim->job.sent[i];
        if (sent->body.len > MESSAGE_INLINE_MAX)
            return err_set(
                err, ERR_TOO_LARGE,
                "a message that it sends is too large for an item without persistence");
        if (!worker_route(worker, sent->target->id, worker->production->version))
            return err_set(err, ERR_UNAVAILABLE, "it sends to %s, whose queue is not open",
                           sent->target->id);
    }
    return 0;
}

bool lane_make_children(struct claim *claim, struct err *err)
{
    size_t count = claim->job.sent_count;
    if (count == 0)
        return true;
    if (claim->unrecorded && check_sent(claim, err))
        return false;
    char longer[META_CHAIN_MAX];
    struct slice chain = slice_of(longer, job_longer_chain(&claim->job, longer));
    free(claim->children);
    claim->children = mem_array(count, sizeof(*claim->children));
    for (size_t i = 0; i < count; i++)
        fill_child(claim, &claim->children[i], i, chain);
    claim->child_count = count;
    claim->outcome.children = claim->children;
    claim->outcome.child_count = claim->unrecorded ? 0 : count;
    return true;
}
