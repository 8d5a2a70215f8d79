#include "intake.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/state.h"
#include "hl7/batch.h"
#include "hl7/message.h"
#include "model/item_class.h"

#include <stdlib.h>

#define WAL_BATCH_BYTES (4u << 20)
#define QUEUE_WAIT_US 50000            /* the answer waits no longer for the enqueue */
#define BYTES_IN_HAND_MAX (256u << 20) /* past it new messages are refused as unavailable */
#define DEADLINE_TICK_MS 10
#define TIMEOUT_TICK_US 100000 /* ack_timeout is exact to this; its walk may be long */
#define LOOK_AGAIN_US 200000   /* for a message that the store did not know */

enum { WRITING, UNKNOWN, QUEUEING, ANSWERED, STATE_COUNT };
static const char *const state_words[] = {"writing", "unknown", "queueing", "answered"};
static const uint32_t state_moves[] = {
    [WRITING] = STATE_BIT(UNKNOWN) | STATE_BIT(QUEUEING) | STATE_BIT(ANSWERED),
    [UNKNOWN] = STATE_BIT(QUEUEING) | STATE_BIT(ANSWERED),
    [QUEUEING] = STATE_BIT(ANSWERED),
    [ANSWERED] = 0,
};
static const struct state_table states = {"intake", state_words, state_moves, STATE_COUNT};

/* One message on its way; one allocation, its bytes follow it. */
struct message_intake {
    TAILQ_ENTRY(message_intake) link; /* in its state's list, none in ANSWERED */
    struct batch_item batch;          /* in the WAL's batcher, then in its queue's */
    struct intake *intake;
    const struct item *item;
    unsigned state;
    bool told;                                 /* the front has its answer */
    bool in_batch;                             /* a batcher or a call holds it: not to be freed */
    int64_t accepted_us, queueing_us, look_us; /* monotonic */
    struct store_message row;
    void (*answered)(void *arg, struct uuid id, bool repeats, const struct err *error);
    void *arg;
    size_t size; /* with the bytes that follow */
    char bytes[];
};

struct intake_queue {
    struct intake *intake;
    const struct item *item;
    struct batcher batcher;
};

struct wal_batch {
    struct intake *intake;
    int64_t started_us;
    size_t count;
    struct message_intake *list[BATCHER_MAX_COUNT];
    struct store_message *rows[BATCHER_MAX_COUNT];
};

struct queue_batch {
    struct intake_queue *queue;
    size_t count;
    struct message_intake *list[QUEUE_BATCH_MAX];
    struct queue_entry entries[QUEUE_BATCH_MAX];
};

struct intake_metrics {
    struct metric *accepted, *rejected[ERR_COUNT];
    struct histogram *accept_seconds, *wal_commit;
};

#define message_of_batch_item(item_)                                                               \
    ((struct message_intake *)((char *)(item_)-offsetof(struct message_intake, batch)))

/* ---- the end of a message's intake ---- */

static void release(struct message_intake *message)
{
    if (message->state != ANSWERED || message->in_batch)
        return;
    struct intake *intake = message->intake;
    intake->in_hand--;
    intake->bytes_in_hand -= message->size;
    free(message);
}

static struct intake_list *list_of(struct message_intake *message)
{
    struct intake *intake = message->intake;
    switch (message->state) {
    case WRITING:
        return &intake->writing;
    case UNKNOWN:
        return &intake->unknown;
    default:
        return &intake->queueing;
    }
}

/* Out of its list; into that of the state, at its end. */
static void move_to(struct message_intake *message, unsigned state)
{
    TAILQ_REMOVE(list_of(message), message, link);
    state_move(&states, &message->state, state);
    if (state != ANSWERED)
        TAILQ_INSERT_TAIL(list_of(message), message, link);
}

static void tell(struct message_intake *message, const struct err *error)
{
    if (message->told)
        return;
    message->told = true;
    struct intake_metrics *metrics = &message->intake->metrics[message->item->index];
    if (error->code == ERR_NONE) {
        metric_add(metrics->accepted, 1);
        histogram_observe(metrics->accept_seconds, clock_mono_us() - message->accepted_us);
    } else {
        intake_count_rejected(message->intake, message->item, error->code);
    }
    message->answered(message->arg, message->row.id, false, error);
}

/* Into the last state; what a batch still holds is freed by the batch. */
static void finish(struct message_intake *message, const struct err *error)
{
    move_to(message, ANSWERED);
    tell(message, error);
    release(message);
}

static const struct err no_error = {.code = ERR_NONE};

/* ---- enqueue ---- */

static void start_queueing(struct message_intake *message)
{
    struct intake *intake = message->intake;
    move_to(message, QUEUEING);
    message->queueing_us = clock_mono_us();
    if (!intake->queue_up) {
        gate_unqueued(&intake->gate, message->item, 1);
        finish(message, &no_error);
        return;
    }
    message->in_batch = true;
    batcher_add(&intake->queues[message->item->index].batcher, &message->batch, message->size);
}

static void on_enqueued(void *arg, const struct err *err, int64_t depth)
{
    struct queue_batch *batch = arg;
    struct intake *intake = batch->queue->intake;
    const struct item *item = batch->queue->item;
    if (err->code == ERR_NONE) {
        gate_queued(&intake->gate, item, (int64_t)batch->count, depth);
    } else {
        gate_unqueued(&intake->gate, item, (int64_t)batch->count);
        intake->on_unqueued(intake->on_unqueued_arg);
    }
    for (size_t i = 0; i < batch->count; i++) {
        struct message_intake *message = batch->list[i];
        message->in_batch = false;
        if (message->state == QUEUEING)
            finish(message, &no_error);
        else
            release(message);
    }
    batcher_done(&batch->queue->batcher);
    free(batch);
}

static void start_enqueue(void *arg, struct batch_item **items, size_t count)
{
    struct intake_queue *queue = arg;
    struct intake *intake = queue->intake;
    struct queue_batch *batch = mem_alloc(sizeof(*batch));
    batch->queue = queue;
    batch->count = count;
    for (size_t i = 0; i < count; i++) {
        struct message_intake *message = message_of_batch_item(items[i]);
        bool inline_body = message->row.body.len <= MESSAGE_INLINE_MAX;
        batch->list[i] = message;
        batch->entries[i] = (struct queue_entry){
            .id = message->row.id,
            .at_ms = message->row.received_us / 1000,
            .priority = message->row.priority,
            .due_ms = message->row.due_ms,
            .key = message->row.ordering_key,
            .meta = message->row.meta,
            .body = inline_body ? message->row.body : body_of(NULL, 0),
        };
    }
    struct queue_name name = {.item = queue->item->id, .pattern = queue->item->messaging_pattern};
    intake->queue->ops->enqueue(intake->queue, name, batch->entries, count, on_enqueued, batch);
}

/* ---- the WAL ---- */

static void written(struct message_intake *message, const struct err *err)
{
    struct intake *intake = message->intake;
    message->in_batch = false;
    if (err->code == ERR_NONE && message->row.error == ERR_NONE) {
        if (message->state == WRITING) {
            start_queueing(message);
        } else { /* answered as unknown meanwhile; it is accepted all the same */
            gate_unqueued(&intake->gate, message->item, 1);
            intake->on_unqueued(intake->on_unqueued_arg);
            release(message);
        }
    } else if (err->code == ERR_OUTCOME_UNKNOWN && message->state == WRITING) {
        state_move(&states, &message->state, UNKNOWN);
        TAILQ_REMOVE(&intake->writing, message, link);
        TAILQ_INSERT_HEAD(&intake->unknown, message, link); /* to be looked up at once */
    } else if (err->code == ERR_OUTCOME_UNKNOWN) {          /* the row may be there */
        gate_unqueued(&intake->gate, message->item, 1);
        intake->on_unqueued(intake->on_unqueued_arg);
        release(message);
    } else if (message->state != WRITING) {
        gate_cancelled(&intake->gate, message->item);
        release(message);
    } else {
        struct err error = *err;
        if (error.code == ERR_NONE)
            err_set(&error, message->row.error, "the message's data was refused by the database");
        gate_cancelled(&intake->gate, message->item);
        finish(message, &error);
    }
}

static void ask_unknown(struct intake *intake);

static void on_written(void *arg, const struct err *err)
{
    struct wal_batch *batch = arg;
    struct intake *intake = batch->intake;
    int64_t took_us = clock_mono_us() - batch->started_us;
    for (size_t i = 0; i < batch->count; i++) {
        if (err->code == ERR_NONE)
            histogram_observe(intake->metrics[batch->list[i]->item->index].wal_commit, took_us);
        written(batch->list[i], err);
    }
    batcher_done(&intake->wal);
    free(batch);
    ask_unknown(intake);
}

static void start_write(void *arg, struct batch_item **items, size_t count)
{
    struct intake *intake = arg;
    struct wal_batch *batch = mem_alloc(sizeof(*batch));
    batch->intake = intake;
    batch->started_us = clock_mono_us();
    batch->count = count;
    for (size_t i = 0; i < count; i++) {
        batch->list[i] = message_of_batch_item(items[i]);
        batch->rows[i] = &batch->list[i]->row;
    }
    intake->store->ops->accept(intake->store, batch->rows, count, on_written, batch);
}

/* ---- outcomes unknown: the link broke between commit and reply ---- */

/* The database may carry out a commit after its client is gone, so a row that is not there yet says nothing: it is looked
 * for again until ack_timeout. */
struct unknown_batch {
    struct intake *intake;
    size_t count;
    struct message_intake *list[STORE_BATCH_MAX];
    struct uuid ids[STORE_BATCH_MAX];
};

static void on_known(void *arg, const struct err *err, const bool *known)
{
    struct unknown_batch *batch = arg;
    struct intake *intake = batch->intake;
    int64_t look_us = clock_mono_us() + LOOK_AGAIN_US;
    intake->asking_unknown = false;
    for (size_t i = 0; i < batch->count; i++) {
        struct message_intake *message = batch->list[i];
        message->in_batch = false;
        if (message->state != UNKNOWN) { /* timed out meanwhile: the gate counts it in any case */
            release(message);
        } else if (err->code == ERR_NONE && known[i]) {
            start_queueing(message);
        } else {
            TAILQ_REMOVE(&intake->unknown, message, link);
            TAILQ_INSERT_TAIL(&intake->unknown, message, link);
            message->look_us = look_us;
        }
    }
    free(batch);
    if (err->code == ERR_NONE)
        ask_unknown(intake);
}

static void ask_unknown(struct intake *intake)
{
    int64_t now = clock_mono_us();
    if (intake->asking_unknown || !intake->store_up || TAILQ_EMPTY(&intake->unknown) ||
        TAILQ_FIRST(&intake->unknown)->look_us > now)
        return;
    struct unknown_batch *batch = mem_alloc(sizeof(*batch));
    batch->intake = intake;
    struct message_intake *message;
    TAILQ_FOREACH(message, &intake->unknown, link)
    {
        if (batch->count == STORE_BATCH_MAX || message->look_us > now)
            break;
        message->in_batch = true;
        batch->list[batch->count] = message;
        batch->ids[batch->count++] = message->row.id;
    }
    intake->asking_unknown = true;
    intake->store->ops->known(intake->store, batch->ids, batch->count, on_known, batch);
}

/* ---- deadlines ---- */

/* The list of UNKNOWN is not in the order of accepted_us, so its walk goes to the end. */
static void check_ack_timeouts(struct intake *intake, struct intake_list *list, int64_t now)
{
    struct err unknown = {.code = ERR_OUTCOME_UNKNOWN,
                          .text =
                              "not known to be durable within ack_timeout; ask for the id later"};
    struct message_intake *message, *next;
    for (message = TAILQ_FIRST(list); message; message = next) {
        next = TAILQ_NEXT(message, link);
        int64_t age = now - message->accepted_us;
        if (message->state == WRITING && age < intake->least_ack_timeout_us)
            break; /* so are all behind it */
        if (age < message->item->persistence.ack_timeout_ms * 1000)
            continue;
        if (message->state == UNKNOWN) {
            gate_unqueued(&intake->gate, message->item, 1);
            intake->on_unqueued(intake->on_unqueued_arg);
        }
        finish(message, &unknown);
    }
}

static void on_deadlines(void *arg)
{
    struct intake *intake = arg;
    struct message_intake *message;
    int64_t now = clock_mono_us();
    while ((message = TAILQ_FIRST(&intake->queueing)) &&
           now - message->queueing_us >= QUEUE_WAIT_US)
        finish(message, &no_error);
    if (now - intake->timeouts_checked_us >= TIMEOUT_TICK_US) {
        intake->timeouts_checked_us = now;
        check_ack_timeouts(intake, &intake->writing, now);
        check_ack_timeouts(intake, &intake->unknown, now);
    }
    ask_unknown(intake);
    if (intake->in_hand)
        loop_timer_set(&intake->deadlines, DEADLINE_TICK_MS);
}

/* ---- the door ---- */

/* What the store keeps of an HL7 header beside the body. */
static int read_header(const struct intake_request *request, struct hl7_summary *summary,
                       struct err *err)
{
    bool needs_hl7 = request->item->class->needs_hl7;
    struct hl7_message parsed;
    *summary = (struct hl7_summary){0};
    if (hl7_parse(body_slice(request->body), &parsed, err)) {
        if (!needs_hl7)
            return 0;
        if (hl7_is_batch(body_slice(request->body)))
            return err_set(err, ERR_UNSUPPORTED, "HL7 batches are not yet supported by this item");
        err->code = err->code == ERR_INVALID ? ERR_NOT_HL7 : err->code;
        return -1;
    }
    bool batch = parsed.rest.len > 0;
    if (batch && needs_hl7) {
        hl7_done(&parsed);
        return err_set(err, ERR_UNSUPPORTED, "HL7 batches are not yet supported by this item");
    }
    hl7_summary(&parsed, summary);
    hl7_done(&parsed);
    return 0;
}

static int check(struct intake *intake, const struct intake_request *request, struct err *err)
{
    if (!request->item->enabled)
        return err_set(err, ERR_NOT_FOUND, "the item is disabled");
    if (request->body.len == 0)
        return err_set(err, ERR_INVALID, "the message is empty");
    if (!intake->store_up)
        return err_set(err, ERR_UNAVAILABLE, "the database is away");
    if (intake->bytes_in_hand + sizeof(struct message_intake) + request->body.len >
        intake->bytes_max)
        return err_set(err, ERR_UNAVAILABLE, "too many bytes in hand");
    return 0;
}

static struct slice keep(char **at, struct slice bytes)
{
    if (bytes.len)
        memcpy(*at, bytes.ptr, bytes.len);
    struct slice kept = slice_of(*at, bytes.len);
    *at += bytes.len;
    return kept;
}

static struct message_intake *new_message(const struct intake *intake,
                                          const struct intake_request *request,
                                          const struct hl7_summary *summary)
{
    char packed[META_PACKED_MAX];
    struct buffer meta = {.data = packed, .capacity = sizeof(packed), .max = sizeof(packed)};
    meta_pack(&(struct meta){.content_type = request->content_type,
                             .traceparent = request->traceparent,
                             .reply = request->reply,
                             .in_wal = true,
                             .stored = request->body.len > MESSAGE_INLINE_MAX,
                             .reply_to = slice_text(request->wait ? intake->listener : NULL),
                             .deadline_ms = request->deadline_ms,
                             .chain = request->chain},
              &meta);
    struct slice control_id = slice_text(summary->control_id);
    struct slice message_type = slice_text(summary->message_type);
    struct slice sender = slice_text(summary->sender);
    size_t size = sizeof(struct message_intake) + request->body.len + meta.len +
                  request->content_type.len + request->ordering_key.len + control_id.len +
                  message_type.len + sender.len;
    struct message_intake *message = malloc(size);
    if (!message)
        return NULL;
    char *at = message->bytes;
    *message = (struct message_intake){
        .item = request->item, .answered = request->answered, .arg = request->arg, .size = size};
    message->row = (struct store_message){
        .item = request->item->id,
        .pattern = request->item->messaging_pattern,
        .direction = DIRECTION_INBOUND,
        .priority =
            request->priority >= 0 ? request->priority : (int)request->item->priority.fallback,
        .ordering_key = keep(&at, request->ordering_key),
        .control_id = keep(&at, control_id),
        .message_type = keep(&at, message_type),
        .sender = keep(&at, sender),
        .content_type = keep(&at, request->content_type),
        .meta = keep(&at, buffer_slice(&meta)),
    };
    struct slice body = keep(&at, body_slice(request->body));
    message->row.body = body_of(body.ptr, body.len);
    return message;
}

int intake_accept(struct intake *intake, const struct intake_request *request, struct uuid *ret_id,
                  struct err *err)
{
    struct hl7_summary summary;
    struct message_intake *message = NULL;
    if (check(intake, request, err) || read_header(request, &summary, err))
        goto refuse;
    if (!gate_admit(&intake->gate, request->item)) {
        err_set(err, ERR_QUEUE_FULL, "the item's queue is full");
        goto refuse;
    }
    message = new_message(intake, request, &summary);
    if (!message) {
        gate_cancelled(&intake->gate, request->item);
        err_set(err, ERR_UNAVAILABLE, "out of memory");
        goto refuse;
    }
    message->intake = intake;
    message->accepted_us = clock_mono_us();
    message->row.received_us = clock_wall_us();
    message->row.due_ms =
        request->delay_ms ? message->row.received_us / 1000 + request->delay_ms : 0;
    message->row.id = uuid_new(message->row.received_us / 1000);
    message->state = WRITING;
    message->in_batch = true;
    TAILQ_INSERT_TAIL(&intake->writing, message, link);
    intake->bytes_in_hand += message->size;
    if (intake->in_hand++ == 0)
        loop_timer_set(&intake->deadlines, DEADLINE_TICK_MS);
    batcher_add(&intake->wal, &message->batch, message->size);
    *ret_id = message->row.id;
    return 0;
refuse:
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

void intake_init(struct intake *intake, struct loop *loop, const struct production *production,
                 struct queue *queue, struct store *store, struct metrics *metrics)
{
    *intake = (struct intake){.loop = loop,
                              .production = production,
                              .queue = queue,
                              .store = store,
                              .bytes_max = BYTES_IN_HAND_MAX,
                              .least_ack_timeout_us = INT64_MAX};
    TAILQ_INIT(&intake->writing);
    TAILQ_INIT(&intake->queueing);
    TAILQ_INIT(&intake->unknown);
    gate_init(&intake->gate, loop, production, queue, store);
    batcher_init(&intake->wal, loop, STORE_BATCH_MAX, WAL_BATCH_BYTES, start_write, intake);
    loop_timer_init(&intake->deadlines, loop, on_deadlines, intake);
    intake->queues = mem_array(production->item_count, sizeof(*intake->queues));
    /* One more for messages of no item. */
    intake->metrics = mem_array(production->item_count + 1, sizeof(*intake->metrics));
    for (size_t i = 0; i < production->item_count; i++) {
        struct intake_queue *own = &intake->queues[i];
        own->intake = intake;
        own->item = &production->items[i];
        batcher_init(&own->batcher, loop, QUEUE_BATCH_MAX, WAL_BATCH_BYTES, start_enqueue, own);
        own->batcher.max_under_way = 4; /* pipelined: a Redis round trip need not end first */
        init_metrics(intake, metrics, own->item);
        int64_t ack_timeout_us = own->item->persistence.ack_timeout_ms * 1000;
        if (ack_timeout_us < intake->least_ack_timeout_us)
            intake->least_ack_timeout_us = ack_timeout_us;
    }
    struct metric_label labels[3] = {{"item", ""}, {"pattern", ""}};
    for (unsigned code = ERR_NONE + 1; code < ERR_COUNT; code++) {
        labels[2] = (struct metric_label){"reason", error_word(code)};
        intake->metrics[production->item_count].rejected[code] = metrics_counter(
            metrics, "hie_messages_rejected_total", "Messages refused at the door", labels, 3);
    }
}

static void free_list(struct intake_list *list)
{
    struct message_intake *message;
    while ((message = TAILQ_FIRST(list))) {
        TAILQ_REMOVE(list, message, link);
        free(message);
    }
}

void intake_done(struct intake *intake)
{
    free_list(&intake->writing);
    free_list(&intake->queueing);
    free_list(&intake->unknown);
    for (size_t i = 0; i < intake->production->item_count; i++)
        batcher_free(&intake->queues[i].batcher);
    batcher_free(&intake->wal);
    gate_done(&intake->gate);
    loop_timer_done(&intake->deadlines);
    free(intake->queues);
    free(intake->metrics);
}

void intake_link_changed(struct intake *intake, bool queue_up, bool store_up)
{
    intake->queue_up = queue_up;
    intake->store_up = store_up;
    gate_link_changed(&intake->gate, queue_up, store_up);
    ask_unknown(intake);
}

bool intake_hold(struct intake *intake, size_t *held, size_t now)
{
    if (now > *held && intake->bytes_in_hand + (now - *held) > intake->bytes_max)
        return false;
    intake->bytes_in_hand += now - *held; /* wraps to a subtraction when it is less */
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
