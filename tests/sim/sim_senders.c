/* Who sends: each message goes to some dispatcher, and its sender wants an answer in time (guarantee 4). A refused or lost one is sent
 * again; so is one whose outcome is unknown, which then may be there twice, unless it has a key of repeats. A few are put into their
 * queue by hand, past the dispatcher. */
#include "base/mem.h"
#include "model/item_class.h"
#include "sim_check.h"
#include "sim_fleet.h"

#include <stdlib.h>

#define TRIES_MAX 400
#define ANSWER_US (7 * SIM_SECOND) /* ack_timeout and two seconds */
#define LATE_US (500 * SIM_MS)     /* a caller is told no later that its time is up */
#define BODY_MAX (MESSAGE_INLINE_MAX + 256)

struct sender {
    const struct item *item;
    unsigned key, number;
    enum sim_kind kind;
    int priority;
    bool wants_reply, is_large, by_hand;
    int64_t wait_ms;            /* for its end, at its dispatcher; 0: it does not */
    int64_t delay_ms, time_ms;  /* 0: at once, for ever */
    struct uuid key_of_repeats; /* a repeat is no second message; UUID_NONE: it is */
    unsigned tries;
    enum { WAITS, IS_UNDER_WAY, WAITS_FOR_ANSWER, IS_ANSWERED } state;
    struct caller caller; /* while it waits for its end */
    struct uuid id;
    struct sim_process *to; /* while it is under way or waits for its answer */
    int64_t sent_us, paused_us;
    struct sim_event event;
};

static struct sender *senders;
static unsigned sender_count, unanswered, waiting, acknowledged;

static void send(void *arg);

static void again(struct sender *sender)
{
    sender->to = NULL;
    sender->state = WAITS;
    if (++sender->tries == TRIES_MAX) {
        sim_fail("message %u for %s was refused %d times", sender->number, sender->item->id,
                 TRIES_MAX);
        return;
    }
    sim_set(&sender->event, NULL, sim.now_us + sim_between(50 * SIM_MS, SIM_SECOND), send, sender);
}

static size_t make_body(const struct sender *sender, char *body, size_t size)
{
    size_t len = sim_body(body, size, sender->kind, sender->key, sender->number);
    if (!sender->is_large)
        return len;
    memcpy(body + len, "NTE|", 4);
    memset(body + len + 4, 'x', MESSAGE_INLINE_MAX - 4);
    return len + MESSAGE_INLINE_MAX;
}

/* ---- who waits for the end ---- */

static int64_t paused_since(const struct sender *sender)
{
    return sender->to->paused_us - sender->paused_us;
}

static void on_end(struct caller *caller, enum caller_outcome outcome,
                   const struct queue_reply *end)
{
    struct sender *sender = (struct sender *)((char *)caller - offsetof(struct sender, caller));
    static char body[BODY_MAX];
    bool replies = outcome == CALLER_ENDED && strcmp(end->status, "completed") == 0;
    int64_t took_us = sim.now_us - sender->sent_us - paused_since(sender);
    sim_say("tells the caller of %s: %s", sim_name(sender->id),
            replies ? "replied"
            : end   ? end->status
                    : "late");
    if (took_us > sender->wait_ms * SIM_MS + LATE_US)
        sim_fail("the caller of %s waited %.3f s instead of %.3f", sim_name(sender->id),
                 (double)took_us / SIM_SECOND, (double)sender->wait_ms / 1000);
    if (outcome == CALLER_ENDED)
        check_told(sender->id, end->status, sender->sent_us);
    else
        check_told_late(sender->id);
    bool echoes = sender->item->class->id == CLASS_ECHO && sender->kind != KIND_SLOW;
    if (replies && !end->left_out && echoes &&
        !slice_equal(body_slice(end->body), slice_of(body, make_body(sender, body, sizeof(body)))))
        sim_fail("the caller of %s got another's reply", sim_name(sender->id));
    waiting--;
    if (sender->state == IS_ANSWERED)
        sender->to = NULL;
}

static void wait_for_end(struct sender *sender, struct uuid id, enum caller_kind kind)
{
    struct sim_dispatcher *dispatcher = &sender->to->dispatcher;
    const struct production *production = fleet_production(dispatcher->fleet);
    int64_t left_us = sender->sent_us + sender->wait_ms * SIM_MS - sim.now_us;
    sender->id = id;
    waiting++;
    callers_add(&dispatcher->callers, &sender->caller,
                production_find(production, slice_text(sender->item->id)), id,
                left_us > 0 ? left_us / SIM_MS : 0, kind, on_end);
}

static void wait_no_more(struct sender *sender)
{
    waiting -= caller_waits(&sender->caller);
    callers_remove(&sender->to->dispatcher.callers, &sender->caller);
}

/* ---- answers ---- */

static void is_answered(struct sender *sender)
{
    sender->state = IS_ANSWERED;
    unanswered--;
    if (!caller_waits(&sender->caller))
        sender->to = NULL;
}

static void on_answered(void *arg, struct uuid id, bool repeats, const struct err *error)
{
    struct sender *sender = arg;
    if (sender->state != WAITS_FOR_ANSWER)
        return; /* its dispatcher is dying: nobody hears it */
    int64_t took_us = sim.now_us - sender->sent_us - paused_since(sender);
    if (took_us > ANSWER_US)
        sim_fail("message %u for %s had its answer after %.3f s", sender->number, sender->item->id,
                 (double)took_us / SIM_SECOND);
    sim_say("answers %s: %s%s", sim_name(id), error_word(error->code), repeats ? ", a repeat" : "");
    bool poisoned = sender->kind == KIND_POISONS_ROW;
    if (poisoned && error->code == ERR_NONE && sender->item->persistence.wal_enabled)
        sim_fail("%s was acknowledged, which the database refuses", sim_name(id));
    if (error->code != ERR_NONE) {
        wait_no_more(sender);
        if (error->code == ERR_INVALID && poisoned)
            is_answered(sender);
        else
            again(sender);
        return;
    }
    check_acknowledged(id, sender->wants_reply);
    acknowledged++;
    if (repeats && caller_waits(&sender->caller)) {
        wait_no_more(sender);
        wait_for_end(sender, id, CALLER_LOOKS);
    }
    is_answered(sender);
}

static void tell_check(const struct sender *sender, struct uuid id)
{
    bool good_again = sender->kind != KIND_POISONS_ROW && sender->kind != KIND_POISONS_END;
    bool good = good_again && sender->kind != KIND_FAILS && sender->kind != KIND_REFUSED;
    struct check_sending sending = {.item = sender->item,
                                    .priority = sender->by_hand ? 0 : sender->priority,
                                    .at_ms = sim_wall_us() / SIM_MS,
                                    .key_of_repeats =
                                        sender->by_hand ? UUID_NONE : sender->key_of_repeats,
                                    .by_hand = sender->by_hand,
                                    .good = good && !sender->time_ms,
                                    .good_again = good_again};
    check_sent(id, &sending);
}

/* As a person or a program does that writes to Redis: nothing is promised before a worker has adopted it. */
static void put_by_hand(struct sender *sender)
{
    char body[256];
    size_t len = make_body(sender, body, sizeof(body));
    struct redis_given given = {
        .id = uuid_new(sim_wall_us() / SIM_MS),
        .at_ms = sim_wall_us() / SIM_MS,
        .content = redis_content_new(slice_of(NULL, 0), slice_of(NULL, 0), body_of(body, len))};
    tell_check(sender, given.id);
    redis_enqueue(queue_name_of(sender->item, 0), &given, 1);
    redis_content_unref(given.content);
    sender->state = IS_ANSWERED;
    unanswered--;
}

static void arrive(void *arg)
{
    struct sender *sender = arg;
    static char body[BODY_MAX];
    size_t len = make_body(sender, body, sizeof(body));
    struct sim_dispatcher *dispatcher = &sender->to->dispatcher;
    const struct production *production = fleet_production(dispatcher->fleet);
    struct intake_request request = {
        .item = production_find(production, slice_text(sender->item->id)),
        .body = body_of(body, len),
        .content_type = SLICE_LITERAL("x-application/hl7-v2+er7"),
        .priority = sender->priority,
        .delay_ms = sender->delay_ms,
        .deadline_ms = sender->time_ms ? sim_wall_us() / SIM_MS + sender->time_ms : 0,
        .reply = sender->wants_reply,
        .wait = sender->wait_ms > 0,
        .dedup_key = sender->key_of_repeats,
        .dedup_fingerprint = sender->key_of_repeats,
        .dedup_window_ms = STORE_DEDUP_MAX_MS,
        .answered = on_answered,
        .arg = sender};
    struct uuid id;
    struct err err;
    sender->sent_us = sim.now_us;
    sender->paused_us = sender->to->paused_us;
    sender->state = WAITS_FOR_ANSWER;
    if (!dispatcher->queue_up || !dispatcher->store_up)
        sim_count(SIM_ADMITTED_BLINDLY);
    if (intake_accept(&STAILQ_FIRST(&dispatcher->generations)->intake, &request, &id, &err)) {
        again(sender);
        return;
    }
    tell_check(sender, id);
    if (sender->wait_ms)
        wait_for_end(sender, id, CALLER_TOLD);
    sim_say("takes %s for %s, key P%u, kind %u", sim_name(id), sender->item->id, sender->key,
            (unsigned)sender->kind);
}

static void send(void *arg)
{
    struct sender *sender = arg;
    if (sender->by_hand) {
        put_by_hand(sender);
        return;
    }
    sender->to = sim_pick(false);
    if (!sender->to) {
        again(sender);
        return;
    }
    sender->state = IS_UNDER_WAY;
    sim_set(&sender->event, sender->to->loop, sim.now_us + sim_between(100, 2000), arrive, sender);
}

/* Children come by themselves. */
static bool is_asked_for(const struct item *item)
{
    return item->enabled && item->id[0] != '_';
}

static const struct item *pick_item(const struct production *production)
{
    const struct item *item;
    do {
        item = &production->items[random_below(production->item_count)];
    } while (!is_asked_for(item));
    return item;
}

static enum sim_kind pick_kind(unsigned bad_one_in)
{
    if (sim_one_in(200))
        return sim_one_in(2) ? KIND_POISONS_ROW : KIND_POISONS_END;
    if (!bad_one_in || !sim_one_in(bad_one_in))
        return KIND_GOOD;
    return (enum sim_kind)sim_between(KIND_GOOD + 1, KIND_PAUSES);
}

/* Most are plain. */
static void vary(struct sender *sender)
{
    bool fifo = sender->item->queue_type == QUEUE_FIFO;
    if (sim_one_in(2))
        sender->key_of_repeats = uuid_new(1);
    if (sim_one_in(80))
        sender->is_large = true;
    else if (!fifo && sim_one_in(30) && sender->item->persistence.wal_enabled)
        sender->by_hand = true;
    if (!fifo && sim_one_in(20))
        sender->delay_ms = sim_between(1, 3000);
    if (sim_one_in(20))
        sender->time_ms = sim_between(1, 10000);
    if (sim_one_in(4))
        sender->wait_ms = sim_between(1, sim_one_in(2) ? 2000 : 20000);
}

void sim_senders_start(const struct production *production, const struct sim_traffic *traffic)
{
    sender_count = unanswered = traffic->count;
    acknowledged = waiting = 0;
    senders = mem_array(sender_count, sizeof(*senders));
    for (unsigned i = 0; i < sender_count; i++) {
        struct sender *sender = &senders[i];
        *sender = (struct sender){.item = pick_item(production),
                                  .key = (unsigned)random_below(traffic->keys),
                                  .number = i,
                                  .kind = pick_kind(traffic->bad_one_in),
                                  .priority = (int)random_below(10),
                                  .wants_reply = sim_one_in(4)};
        vary(sender);
        sim_set(&sender->event, NULL, traffic->start_us + sim_between(0, traffic->window_us), send,
                sender);
    }
}

void sim_senders_stop(void)
{
    for (unsigned i = 0; i < sender_count; i++) {
        sim_unset(&senders[i].event);
        if (senders[i].to && senders[i].state != IS_UNDER_WAY)
            wait_no_more(&senders[i]);
        senders[i].state = IS_ANSWERED;
        senders[i].to = NULL;
    }
}

void sim_senders_done(void)
{
    free(senders);
    senders = NULL;
    sender_count = 0;
}

void sim_senders_lost(const struct sim_process *process)
{
    for (unsigned i = 0; i < sender_count; i++) {
        struct sender *sender = &senders[i];
        if (sender->to != process)
            continue;
        if (sender->state != IS_UNDER_WAY)
            wait_no_more(sender);
        sim_unset(&sender->event);
        if (sender->state == IS_ANSWERED)
            sender->to = NULL;
        else
            again(sender);
    }
}

bool sim_senders_idle(void)
{
    return unanswered == 0 && waiting == 0;
}

unsigned sim_senders_acknowledged(void)
{
    return acknowledged;
}
