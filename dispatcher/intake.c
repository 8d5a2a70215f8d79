#include "intake_internal.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/state.h"
#include "hl7/batch.h"
#include "hl7/message.h"
#include "model/item_class.h"

#include <stdlib.h>

#define QUEUE_WAIT_US 50000            /* the answer waits no longer for the enqueue */
#define BYTES_IN_HAND_MAX (256u << 20) /* past it new messages are refused as unavailable */
#define DEADLINE_TICK_MS 10
#define TIMEOUT_TICK_US 100000 /* ack_timeout is exact to this; its walk may be long */

static const char *const state_words[] = {"following", "reserving", "writing", "unknown",
                                          "rewriting", "queueing",  "sending", "unsure",
                                          "resending", "answered"};
static const uint32_t state_moves[] = {
    [INTAKE_FOLLOWING] = STATE_BIT(INTAKE_ANSWERED),
    [INTAKE_RESERVING] =
        STATE_BIT(INTAKE_WRITING) | STATE_BIT(INTAKE_SENDING) | STATE_BIT(INTAKE_ANSWERED),
    [INTAKE_WRITING] =
        STATE_BIT(INTAKE_UNKNOWN) | STATE_BIT(INTAKE_QUEUEING) | STATE_BIT(INTAKE_ANSWERED),
    [INTAKE_UNKNOWN] = STATE_BIT(INTAKE_UNKNOWN) | STATE_BIT(INTAKE_REWRITING) |
                       STATE_BIT(INTAKE_QUEUEING) | STATE_BIT(INTAKE_ANSWERED),
    [INTAKE_REWRITING] =
        STATE_BIT(INTAKE_UNKNOWN) | STATE_BIT(INTAKE_QUEUEING) | STATE_BIT(INTAKE_ANSWERED),
    [INTAKE_QUEUEING] = STATE_BIT(INTAKE_ANSWERED),
    [INTAKE_SENDING] = STATE_BIT(INTAKE_UNSURE) | STATE_BIT(INTAKE_ANSWERED),
    [INTAKE_UNSURE] = STATE_BIT(INTAKE_RESENDING) | STATE_BIT(INTAKE_ANSWERED),
    [INTAKE_RESENDING] = STATE_BIT(INTAKE_UNSURE) | STATE_BIT(INTAKE_ANSWERED),
    [INTAKE_ANSWERED] = 0,
};
static const struct state_table states = {"intake", state_words, state_moves, INTAKE_STATE_COUNT};

const struct err intake_no_error = {.code = ERR_NONE};
const struct err intake_unknown_error = {
    .code = ERR_OUTCOME_UNKNOWN,
    .text = "not known to be accepted within ack_timeout; ask for the id later"};

/* ---- the end of a message's intake ---- */

/* By the time they came in: one that waited for a slot may be older than those that others did not let wait. */
static bool is_by_age(enum intake_state state)
{
    return state == INTAKE_FOLLOWING || state == INTAKE_RESERVING || state == INTAKE_WRITING ||
           state == INTAKE_SENDING;
}

void intake_move(struct message_intake *message, unsigned state)
{
    struct intake_list *list = &message->intake->lists[state];
    TAILQ_REMOVE(&message->intake->lists[message->state], message, link);
    state_move(&states, &message->state, state);
    intake_moved_on(message->intake);
    struct message_intake *before = TAILQ_LAST(list, intake_list);
    while (before && is_by_age(state) && before->accepted_us > message->accepted_us)
        before = TAILQ_PREV(before, intake_list, link);
    if (before)
        TAILQ_INSERT_AFTER(list, before, message, link);
    else
        TAILQ_INSERT_HEAD(list, message, link);
}

void intake_release(struct message_intake *message)
{
    if (message->state != INTAKE_ANSWERED || message->in_batch)
        return;
    struct intake *intake = message->intake;
    struct uuid id = message->row.id;
    struct intake_list followers;
    intake_drop_key(message, &followers);
    TAILQ_REMOVE(&intake->lists[INTAKE_ANSWERED], message, link);
    intake->in_hand--;
    intake->budget->bytes_in_hand -= message->size;
    free(message);
    intake_answer_followers(&followers, id, &intake_unknown_error);
}

static void count_answer(const struct message_intake *message, bool repeats, enum error_code code)
{
    struct intake_metrics *metrics = &message->intake->metrics[message->item->index];
    if (code != ERR_NONE) {
        intake_count_rejected(message->intake, message->item, code);
    } else if (repeats) {
        metric_add(metrics->repeated, 1);
    } else {
        metric_add(metrics->accepted, 1);
        histogram_observe(metrics->accept_seconds, clock_mono_us() - message->accepted_us);
    }
}

/* An unknown outcome may still become known to the batch that holds the message: then those that follow wait on. */
static void finish(struct message_intake *message, struct uuid id, bool repeats,
                   const struct err *error)
{
    struct intake_list followers;
    TAILQ_INIT(&followers);
    intake_move(message, INTAKE_ANSWERED);
    intake_unfollow(message);
    if (error->code != ERR_OUTCOME_UNKNOWN)
        intake_drop_key(message, &followers);
    count_answer(message, repeats, error->code);
    message->answered(message->arg, id, repeats, error);
    intake_release(message);
    intake_answer_followers(&followers, id, error);
}

void intake_finish(struct message_intake *message, const struct err *error)
{
    finish(message, message->row.id, false, error);
}

void intake_finish_repeat(struct message_intake *message, struct uuid first,
                          const struct err *error)
{
    finish(message, first, true, error);
}

void intake_left_unqueued(struct message_intake *message)
{
    struct intake *intake = message->intake;
    gate_unqueued(&intake->gate, message->item, 1);
    intake->on_unqueued(intake->on_unqueued_arg);
}

/* ---- deadlines ---- */

static void time_out(struct message_intake *message)
{
    struct intake *intake = message->intake;
    struct err error = intake_unknown_error;
    switch ((enum intake_state)message->state) {
    case INTAKE_FOLLOWING:
        intake_finish_repeat(message, message->leader->row.id, &error);
        return;
    case INTAKE_RESERVING:
        gate_leave(&intake->gate, message->item, &message->waiter);
        err_set(&error, ERR_UNAVAILABLE, "the queue did not answer within ack_timeout");
        break;
    case INTAKE_UNKNOWN:
        intake_left_unqueued(message);
        break;
    case INTAKE_UNSURE:
        gate_cancelled(&intake->gate, message->item);
        break;
    case INTAKE_WRITING: /* their batch tells the gate */
    case INTAKE_REWRITING:
    case INTAKE_SENDING:
    case INTAKE_RESENDING:
        break;
    case INTAKE_QUEUEING: /* accepted; the wait for its queue has a deadline of its own */
    case INTAKE_ANSWERED:
    case INTAKE_STATE_COUNT:
        return;
    }
    intake_finish(message, &error);
}

/* Whether those behind a message of the list came in later than it. */
static void check_ack_timeouts(struct intake *intake, enum intake_state state, int64_t now)
{
    struct message_intake *message, *next;
    for (message = TAILQ_FIRST(&intake->lists[state]); message; message = next) {
        next = TAILQ_NEXT(message, link);
        int64_t age = now - message->accepted_us;
        if (age < intake->least_ack_timeout_us && is_by_age(state))
            break;
        if (age >= message->item->persistence.ack_timeout_ms * 1000)
            time_out(message);
    }
}

static void on_deadlines(void *arg)
{
    struct intake *intake = arg;
    struct message_intake *message;
    int64_t now = clock_mono_us();
    while ((message = TAILQ_FIRST(&intake->lists[INTAKE_QUEUEING])) &&
           now - message->queueing_us >= QUEUE_WAIT_US)
        intake_finish(message, &intake_no_error);
    if (now - intake->timeouts_checked_us >= TIMEOUT_TICK_US) {
        intake->timeouts_checked_us = now;
        for (unsigned state = 0; state < INTAKE_ANSWERED; state++)
            check_ack_timeouts(intake, state, now);
    }
    intake_ask_unknown(intake);
    intake_resend_unsure(intake);
    if (intake->in_hand)
        loop_timer_set(&intake->deadlines, DEADLINE_TICK_MS);
}

/* ---- the door ---- */

/* What the message itself says, read in one pass. */
struct header {
    struct hl7_summary summary;
    int priority;
    size_t key_len;
    char key[ITEM_ORDERING_KEY_MAX];
};

static int read_header(const struct intake_request *request, struct header *header, struct err *err)
{
    const struct item *item = request->item;
    struct slice body = body_slice(request->body);
    struct hl7_message parsed, *message = NULL;
    header->summary = (struct hl7_summary){0};
    header->key_len = 0;
    if (hl7_parse(body, &parsed, err) == 0) {
        message = &parsed;
    } else if (item->class->needs_hl7 && !hl7_is_batch(body)) {
        err->code = err->code == ERR_INVALID ? ERR_NOT_HL7 : err->code;
        return -1;
    }
    if (item->class->needs_hl7 && (!message || parsed.rest.len > 0)) {
        if (message)
            hl7_done(message);
        return err_set(err, ERR_UNSUPPORTED, "HL7 batches are not yet supported by this item");
    }
    if (message)
        hl7_summary(message, &header->summary);
    header->priority = request->priority >= 0 ? request->priority : item_priority(item, message);
    if (item->queue_type == QUEUE_FIFO && !request->ordering_key.len)
        header->key_len = item_ordering_key(item, message, header->key);
    if (message)
        hl7_done(message);
    return 0;
}

static bool goes_by_wal(const struct intake_request *request)
{
    return request->item->persistence.wal_enabled || request->body.len > MESSAGE_INLINE_MAX ||
           !uuid_is_none(request->dedup_key);
}

/* What Redis alone would keep cannot wait for a queue to open. */
static bool is_changing(const struct intake *intake, const struct item *item)
{
    return intake->fleet && !fleet_route(intake->fleet, item->id, intake->production->version);
}

static int check(struct intake *intake, const struct intake_request *request, struct err *err)
{
    if (!request->item->enabled)
        return err_set(err, ERR_NOT_FOUND, "the item is disabled");
    if (request->body.len == 0)
        return err_set(err, ERR_INVALID, "the message is empty");
    if (intake->fleet && !fleet_joined(intake->fleet))
        return err_set(err, ERR_UNAVAILABLE, "the fleet's version is not known yet");
    if (!goes_by_wal(request) && is_changing(intake, request->item))
        return err_set(err, ERR_UNAVAILABLE, "the item's queue is changing");
    if (request->content_type.len > META_CONTENT_TYPE_MAX ||
        request->traceparent.len > META_TRACEPARENT_MAX || request->chain.len > META_CHAIN_MAX ||
        request->ordering_key.len > ITEM_ORDERING_KEY_MAX)
        return err_set(err, ERR_INVALID, "what comes with the message is too long");
    if (goes_by_wal(request) && !intake->store_up)
        return err_set(err, ERR_UNAVAILABLE, "the database is away");
    if (intake->budget->bytes_in_hand + sizeof(struct message_intake) + request->body.len >
        intake->budget->bytes_max)
        return err_set(err, ERR_UNAVAILABLE, "too many bytes in hand");
    return 0;
}

static void on_slot(struct gate_waiter *waiter, enum gate_verdict verdict);

/* An empty message with `more` bytes behind it; NULL when memory is out. */
static struct message_intake *allocate(struct intake *intake, const struct intake_request *request,
                                       size_t more)
{
    size_t size = sizeof(struct message_intake) + more;
    struct message_intake *message = malloc(size);
    if (!message)
        return NULL;
    int64_t wall_us = clock_wall_us();
    *message = (struct message_intake){
        .intake = intake,
        .item = request->item,
        .waiter = {.told = on_slot},
        .by_wal = goes_by_wal(request),
        .membership = intake->fleet ? fleet_membership(intake->fleet) : 0,
        .accepted_us = clock_mono_us(),
        .row = {.id = uuid_new(wall_us / 1000),
                .item = request->item->id,
                .pattern = (enum messaging_pattern)request->item->messaging_pattern,
                .direction = DIRECTION_INBOUND,
                .received_us = wall_us,
                .partition = -1,
                .version = intake->production->version,
                .dedup_key = request->dedup_key,
                .dedup_fingerprint = request->dedup_fingerprint,
                .dedup_window_ms = request->dedup_window_ms < STORE_DEDUP_MAX_MS
                                       ? request->dedup_window_ms
                                       : STORE_DEDUP_MAX_MS},
        .answered = request->answered,
        .arg = request->arg,
        .size = size};
    message->waiter.queue_only = !message->by_wal;
    TAILQ_INIT(&message->followers);
    return message;
}

static struct slice keep(char **at, struct slice bytes)
{
    if (bytes.len)
        memcpy(*at, bytes.ptr, bytes.len);
    struct slice kept = slice_of(*at, bytes.len);
    *at += bytes.len;
    return kept;
}

static void pack_meta(const struct intake *intake, const struct intake_request *request,
                      struct buffer *out)
{
    bool waits = request->wait && intake->listener;
    meta_pack(&(struct meta){.content_type = request->content_type,
                             .traceparent = request->traceparent,
                             .reply = request->reply,
                             .in_wal = goes_by_wal(request),
                             .stored = request->body.len > MESSAGE_INLINE_MAX,
                             .reply_to = slice_text(waits ? intake->listener : NULL),
                             .deadline_ms = request->deadline_ms,
                             .chain = request->chain},
              out);
}

static struct message_intake *new_message(struct intake *intake,
                                          const struct intake_request *request,
                                          const struct header *header)
{
    char packed[META_PACKED_MAX];
    struct buffer meta = {.data = packed, .capacity = sizeof(packed), .max = sizeof(packed)};
    pack_meta(intake, request, &meta);
    struct slice key = request->ordering_key;
    if (!key.len)
        key = slice_of(header->key, header->key_len);
    struct slice control_id = slice_text(header->summary.control_id);
    struct slice message_type = slice_text(header->summary.message_type);
    struct slice sender = slice_text(header->summary.sender);
    struct message_intake *message =
        allocate(intake, request,
                 request->body.len + meta.len + request->content_type.len + key.len +
                     control_id.len + message_type.len + sender.len);
    if (!message)
        return NULL;
    char *at = message->bytes;
    struct store_message *row = &message->row;
    row->priority = header->priority;
    row->due_ms = request->delay_ms ? row->received_us / 1000 + request->delay_ms : 0;
    row->ordering_key = keep(&at, key);
    row->control_id = keep(&at, control_id);
    row->message_type = keep(&at, message_type);
    row->sender = keep(&at, sender);
    row->content_type = keep(&at, request->content_type);
    row->meta = keep(&at, buffer_slice(&meta));
    struct slice body = keep(&at, body_slice(request->body));
    row->body = body_of(body.ptr, body.len);
    if (request->item->queue_type == QUEUE_FIFO)
        row->partition = (int)item_partition(request->item, row->ordering_key, row->id);
    return message;
}

/* Into its first state. */
static void take_in_hand(struct message_intake *message, enum intake_state state)
{
    struct intake *intake = message->intake;
    message->state = state;
    TAILQ_INSERT_TAIL(&intake->lists[state], message, link);
    intake->budget->bytes_in_hand += message->size;
    if (intake->in_hand++ == 0)
        loop_timer_set(&intake->deadlines, DEADLINE_TICK_MS);
}

/* Of an admitted message in WRITING or SENDING. */
static void go(struct message_intake *message)
{
    if (message->by_wal)
        intake_write(message);
    else
        intake_send(message);
}

static void on_slot(struct gate_waiter *waiter, enum gate_verdict verdict)
{
    struct message_intake *message =
        (struct message_intake *)((char *)waiter - offsetof(struct message_intake, waiter));
    struct err error;
    if (verdict == GATE_ADMITTED) {
        intake_move(message, message->by_wal ? INTAKE_WRITING : INTAKE_SENDING);
        go(message);
        return;
    }
    if (verdict == GATE_FULL)
        err_set(&error, ERR_QUEUE_FULL, "the item's queue is full");
    else
        err_set(&error, ERR_UNAVAILABLE, "the queue is away or does not answer in time");
    intake_finish(message, &error);
}

static int follow(struct intake *intake, const struct intake_request *request,
                  struct message_intake *leader, struct uuid *ret_id, struct err *err)
{
    if (!uuid_equal(leader->row.dedup_fingerprint, request->dedup_fingerprint))
        return err_set(err, ERR_KEY_REUSED, "the key came before with another message");
    struct message_intake *message = allocate(intake, request, 0);
    if (!message)
        return err_set(err, ERR_UNAVAILABLE, "out of memory");
    take_in_hand(message, INTAKE_FOLLOWING);
    intake_follow(message, leader);
    *ret_id = leader->row.id;
    return 0;
}

static int enter(struct intake *intake, const struct intake_request *request,
                 const struct header *header, struct uuid *ret_id, struct err *err)
{
    struct message_intake *message = new_message(intake, request, header);
    if (!message)
        return err_set(err, ERR_UNAVAILABLE, "out of memory");
    enum gate_verdict verdict = gate_admit(&intake->gate, request->item, &message->waiter);
    if (verdict == GATE_FULL || verdict == GATE_AWAY) {
        free(message);
        return verdict == GATE_FULL
                   ? err_set(err, ERR_QUEUE_FULL, "the item's queue is full")
                   : err_set(err, ERR_UNAVAILABLE, "the queue is away or does not answer in time");
    }
    enum intake_state admitted = message->by_wal ? INTAKE_WRITING : INTAKE_SENDING;
    take_in_hand(message, verdict == GATE_WAITS ? INTAKE_RESERVING : admitted);
    if (!uuid_is_none(request->dedup_key))
        intake_hold_key(message);
    if (verdict == GATE_ADMITTED)
        go(message);
    *ret_id = message->row.id;
    return 0;
}

int intake_accept(struct intake *intake, const struct intake_request *request, struct uuid *ret_id,
                  struct err *err)
{
    struct header header;
    if (check(intake, request, err) == 0 && read_header(request, &header, err) == 0) {
        struct message_intake *leader = intake_find_key(intake, request->dedup_key);
        int failed = leader ? follow(intake, request, leader, ret_id, err)
                            : enter(intake, request, &header, ret_id, err);
        if (!failed)
            return 0;
    }
    intake_count_rejected(intake, request->item, err->code);
    return -1;
}

/* ---- life ---- */

static void init_metrics(struct intake *intake, struct metrics *metrics, const struct item *item)
{
    struct intake_metrics *own = &intake->metrics[item->index];
    struct metric_label labels[3] = {{"item", item->id},
                                     {"pattern", messaging_pattern_words[item->messaging_pattern]}};
    own->accepted = metrics_counter(metrics, "hie_messages_accepted_total",
                                    "Messages accepted at the door", labels, 2);
    own->repeated =
        metrics_counter(metrics, "hie_messages_repeated_total",
                        "Repeats that got the answer of a message accepted before", labels, 2);
    own->accept_seconds = metrics_histogram(metrics, "hie_accept_seconds",
                                            "From a whole message to its answer", labels, 2);
    own->wal_commit =
        metrics_histogram(metrics, "hie_wal_commit_seconds",
                          "Commit of the write-ahead log that a message went with", labels, 2);
    for (unsigned code = ERR_NONE + 1; code < ERR_COUNT; code++) {
        if (error_class_of(code) == ERROR_FATAL)
            continue;
        labels[2] = (struct metric_label){"reason", error_word(code)};
        own->rejected[code] = metrics_counter(metrics, "hie_messages_rejected_total",
                                              "Messages refused at the door", labels, 3);
    }
}

static void init_all_metrics(struct intake *intake, struct metrics *metrics)
{
    size_t count = intake->production->item_count;
    /* One more for messages of no item. */
    intake->metrics = mem_array(count + 1, sizeof(*intake->metrics));
    for (size_t i = 0; i < count; i++)
        init_metrics(intake, metrics, &intake->production->items[i]);
    struct metric_label labels[3] = {{"item", ""}, {"pattern", ""}};
    for (unsigned code = ERR_NONE + 1; code < ERR_COUNT; code++) {
        labels[2] = (struct metric_label){"reason", error_word(code)};
        intake->metrics[count].rejected[code] = metrics_counter(
            metrics, "hie_messages_rejected_total", "Messages refused at the door", labels, 3);
    }
}

void intake_init(struct intake *intake, struct loop *loop, const struct production *production,
                 struct queue *queue, struct store *store, struct metrics *metrics)
{
    *intake = (struct intake){.loop = loop,
                              .production = production,
                              .queue = queue,
                              .store = store,
                              .own_budget = {.bytes_max = BYTES_IN_HAND_MAX},
                              .budget = &intake->own_budget,
                              .least_ack_timeout_us = INT64_MAX};
    for (unsigned state = 0; state < INTAKE_STATE_COUNT; state++)
        TAILQ_INIT(&intake->lists[state]);
    gate_init(&intake->gate, loop, production, queue, store);
    loop_timer_init(&intake->deadlines, loop, on_deadlines, intake);
    intake->items = mem_array(production->item_count, sizeof(*intake->items));
    intake_wal_init(intake);
    intake_succession_init(intake);
    init_all_metrics(intake, metrics);
    for (size_t i = 0; i < production->item_count; i++) {
        int64_t ack_timeout_us = production->items[i].persistence.ack_timeout_ms * 1000;
        if (ack_timeout_us < intake->least_ack_timeout_us)
            intake->least_ack_timeout_us = ack_timeout_us;
    }
}

void intake_done(struct intake *intake)
{
    batcher_free(&intake->wal);
    intake_free_queues(intake);
    for (unsigned state = 0; state < INTAKE_STATE_COUNT; state++) {
        struct message_intake *message;
        while ((message = TAILQ_FIRST(&intake->lists[state]))) {
            TAILQ_REMOVE(&intake->lists[state], message, link);
            free(message);
        }
    }
    intake_free_keys(intake);
    gate_done(&intake->gate);
    loop_timer_done(&intake->deadlines);
    loop_task_done(&intake->let_go);
    free(intake->items);
    free(intake->metrics);
}

void intake_link_changed(struct intake *intake, bool queue_up, bool store_up)
{
    intake->queue_up = queue_up;
    intake->store_up = store_up;
    gate_link_changed(&intake->gate, queue_up, store_up);
    intake_ask_unknown(intake);
    intake_resend_unsure(intake);
}

bool intake_hold(struct intake *intake, size_t *held, size_t now)
{
    if (now > *held && intake->budget->bytes_in_hand + (now - *held) > intake->budget->bytes_max)
        return false;
    intake->budget->bytes_in_hand += now - *held; /* wraps to a subtraction when it is less */
    *held = now;
    return true;
}

void intake_count_rejected(struct intake *intake, const struct item *item, enum error_code code)
{
    size_t index = item ? item->index : intake->production->item_count;
    struct metric *rejected = intake->metrics[index].rejected[code];
    if (rejected)
        metric_add(rejected, 1);
}

bool intake_idle(const struct intake *intake)
{
    return intake->in_hand == 0;
}

bool intake_quiet(const struct intake *intake)
{
    return intake->in_hand == 0 && !intake->asking_unknown && !intake->held &&
           gate_is_quiet(&intake->gate);
}
