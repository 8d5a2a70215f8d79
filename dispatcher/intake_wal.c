/* The intake's WAL: commits, and the look-up of those whose outcome is unknown because the link broke between commit and reply. */
#include "intake_internal.h"

#include "base/clock.h"
#include "base/mem.h"

#include <stdlib.h>

#define BATCH_BYTES (4u << 20)
#define PATIENCE_US 5000     /* batch_writes: how long a commit waits for company */
#define LOOK_AGAIN_US 200000 /* for a message that the store did not know */

struct wal_batch {
    struct intake *intake;
    bool again; /* rewrites: beside the batcher */
    int64_t started_us;
    struct message_intake **list;
    size_t count;
    struct store_message *rows[];
};

/* ---- a commit has ended ---- */

/* The store may say of a row that it repeats itself: its first writing was committed after all. */
static bool is_repeat(const struct message_intake *message)
{
    return !uuid_is_none(message->row.repeats) &&
           !uuid_equal(message->row.repeats, message->row.id);
}

static struct err error_of_repeat(const struct message_intake *message)
{
    struct err error = {.code = ERR_NONE};
    if (message->row.repeats_otherwise)
        err_set(&error, ERR_KEY_REUSED, "the key came before with another message");
    return error;
}

/* It was answered as unknown meanwhile; those that follow it still wait. */
static void written_late(struct message_intake *message, enum error_code code)
{
    struct intake *intake = message->intake;
    struct intake_list followers;
    TAILQ_INIT(&followers);
    struct uuid first = message->row.id;
    struct err error = {.code = ERR_NONE};
    if (code == ERR_NONE)
        intake_drop_key(message, &followers);
    if (code == ERR_NONE && is_repeat(message)) {
        first = message->row.repeats;
        error = error_of_repeat(message);
        gate_cancelled(&intake->gate, message->item);
    } else if (code == ERR_NONE || code == ERR_OUTCOME_UNKNOWN) {
        intake_left_unqueued(message);
    } else {
        gate_cancelled(&intake->gate, message->item);
    }
    intake_release(message);
    intake_answer_followers(&followers, first, &error);
}

static void look_up(struct message_intake *message)
{
    struct intake_list *unknown = &message->intake->lists[INTAKE_UNKNOWN];
    bool first_time = message->state == INTAKE_WRITING;
    intake_move(message, INTAKE_UNKNOWN);
    if (first_time) { /* at once */
        TAILQ_REMOVE(unknown, message, link);
        TAILQ_INSERT_HEAD(unknown, message, link);
    } else {
        message->look_us = clock_mono_us() + LOOK_AGAIN_US;
    }
}

static void written(struct message_intake *message, const struct err *err)
{
    struct intake *intake = message->intake;
    enum error_code code = err->code != ERR_NONE ? err->code : message->row.error;
    message->in_batch = false;
    if (message->state == INTAKE_ANSWERED) {
        written_late(message, code);
    } else if (code == ERR_OUTCOME_UNKNOWN ||
               (code != ERR_NONE && message->state == INTAKE_REWRITING)) {
        look_up(message);
    } else if (code != ERR_NONE) {
        struct err error = *err;
        if (err->code == ERR_NONE)
            err_set(&error, code, "the message's data was refused by the database");
        gate_cancelled(&intake->gate, message->item);
        intake_finish(message, &error);
    } else if (is_repeat(message)) {
        struct err error = error_of_repeat(message);
        gate_cancelled(&intake->gate, message->item);
        intake_finish_repeat(message, message->row.repeats, &error);
    } else {
        intake_start_queueing(message);
    }
}

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
    if (!batch->again)
        batcher_done(&intake->wal);
    intake_moved_on(intake);
    free(batch);
    intake_ask_unknown(intake);
}

static struct wal_batch *new_batch(struct intake *intake, size_t room)
{
    struct wal_batch *batch =
        mem_alloc(sizeof(*batch) + room * (sizeof(batch->rows[0]) + sizeof(batch->list[0])));
    batch->intake = intake;
    batch->started_us = clock_mono_us();
    batch->list = (struct message_intake **)(batch->rows + room);
    return batch;
}

static void batch_add(struct wal_batch *batch, struct message_intake *message)
{
    batch->list[batch->count] = message;
    batch->rows[batch->count++] = &message->row;
}

static void commit(struct wal_batch *batch)
{
    struct store *store = batch->intake->store;
    store->ops->accept(store, batch->rows, batch->count, on_written, batch);
}

static void start_write(void *arg, struct batch_item **items, size_t count)
{
    struct wal_batch *batch = new_batch(arg, count);
    for (size_t i = 0; i < count; i++)
        batch_add(batch, intake_of_batch_item(items[i]));
    commit(batch);
}

void intake_wal_init(struct intake *intake)
{
    batcher_init(&intake->wal, intake->loop, STORE_BATCH_MAX, BATCH_BYTES, start_write, intake);
    batcher_set_patience(&intake->wal, intake->loop, PATIENCE_US);
    for (size_t i = 0; i < intake->production->item_count; i++) {
        const struct item *item = &intake->production->items[i];
        int64_t most = item->persistence.batch_size;
        if (most < 1 || most > STORE_BATCH_MAX)
            most = STORE_BATCH_MAX;
        batch_group_init(&intake->items[i].wal, (size_t)most, item->persistence.batch_writes);
    }
}

void intake_write(struct message_intake *message)
{
    message->in_batch = true;
    batcher_add_to(&message->intake->wal, &message->intake->items[message->item->index].wal,
                   &message->batch, message->size);
}

/* ---- outcomes unknown ---- */

/* The database may carry out a commit after its client is gone, so a row that is not there yet says nothing: it is looked
 * for again until ack_timeout. */
struct unknown_batch {
    struct intake *intake;
    size_t count;
    struct message_intake *list[STORE_BATCH_MAX];
    struct uuid ids[STORE_BATCH_MAX];
};

/* Timed out meanwhile: the gate counts it in any case. */
static void looked_up_late(struct message_intake *message, bool there)
{
    struct uuid id = message->row.id;
    struct intake_list followers;
    TAILQ_INIT(&followers);
    if (there)
        intake_drop_key(message, &followers);
    intake_release(message);
    intake_answer_followers(&followers, id, &intake_no_error);
}

/* Without its row. A lost commit that comes just now makes the second writing fail, and with it those beside it: so that is a
 * commit of its own, and who fails in it is looked up again. */
static void not_there(struct message_intake *message, struct wal_batch *again)
{
    if (message->row.error !=
        ERR_NONE) { /* the second writing was refused, and the first never came */
        struct err error;
        err_set(&error, message->row.error, "the message's data was refused by the database");
        gate_cancelled(&message->intake->gate, message->item);
        intake_finish(message, &error);
    } else if (uuid_is_none(message->row.dedup_key)) {
        intake_move(message, INTAKE_UNKNOWN);
        message->missed = true;
        message->look_us = clock_mono_us() + LOOK_AGAIN_US;
    } else {
        intake_move(message, INTAKE_REWRITING);
        message->in_batch = true;
        message->row.repeats = UUID_NONE;
        batch_add(again, message);
    }
}

static void on_known(void *arg, const struct err *err, const bool *known)
{
    struct unknown_batch *batch = arg;
    struct intake *intake = batch->intake;
    struct wal_batch *again = new_batch(intake, batch->count);
    again->again = true;
    intake->asking_unknown = false;
    for (size_t i = 0; i < batch->count; i++) {
        struct message_intake *message = batch->list[i];
        message->in_batch = false;
        if (message->state == INTAKE_ANSWERED) {
            looked_up_late(message, err->code == ERR_NONE && known[i]);
        } else if (err->code != ERR_NONE) {
            intake_move(message, INTAKE_UNKNOWN);
            message->look_us = clock_mono_us() + LOOK_AGAIN_US;
        } else if (known[i]) {
            intake_start_queueing(message);
        } else {
            not_there(message, again);
        }
    }
    free(batch);
    if (again->count)
        commit(again);
    else
        free(again);
    if (err->code == ERR_NONE)
        intake_ask_unknown(intake);
}

void intake_ask_unknown(struct intake *intake)
{
    struct intake_list *unknown = &intake->lists[INTAKE_UNKNOWN];
    int64_t now = clock_mono_us();
    if (intake->asking_unknown || !intake->store_up || TAILQ_EMPTY(unknown) ||
        TAILQ_FIRST(unknown)->look_us > now)
        return;
    struct unknown_batch *batch = mem_alloc(sizeof(*batch));
    batch->intake = intake;
    struct message_intake *message;
    TAILQ_FOREACH(message, unknown, link)
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
