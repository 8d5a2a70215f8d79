#include "store/reconciler.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/state.h"
#include "store/reconciler_split.h"

#include <stdlib.h>

#define LEASE "reconciler"
#define LEASE_MS 10000
#define REST_MS 1000
#define NUDGED_MS 100
#define PAGE_PAUSE_MS 10
#define FULL_US                                                                                    \
    10000000          /* how often a round begins at the mark; others go on where the last ended */
#define FULL_SHARE 20 /* a full round takes at most this part of the time */
#define YOUNG_US 2000000 /* rows that were first seen a shorter time ago are still on their way */
#define SIGHTINGS 8u     /* of the log's top that wait to become old */
#define SIGHT_US 1000000 /* how often a round that is under way notes the top */
#define MAINTAIN_US                                                                                \
    3600000000 /* how often the owner of the lease sees to the coming days' partitions */
#define MAINTAIN_AGAIN_US 60000000      /* … after it failed; twice as long each time … */
#define MAINTAIN_AGAIN_MAX_US 600000000 /* … up to this: it takes locks that writers queue behind */

enum { RESTING, LEASING, READING, ASKING, FETCHING, MARKING, STATE_COUNT };
static const char *const state_words[] = {"resting", "leasing",  "reading",
                                          "asking",  "fetching", "marking"};
static const uint32_t state_moves[] = {
    [RESTING] = STATE_BIT(LEASING),
    [LEASING] = STATE_BIT(RESTING) | STATE_BIT(READING),
    [READING] = STATE_BIT(READING) | STATE_BIT(RESTING) | STATE_BIT(ASKING) | STATE_BIT(MARKING),
    [ASKING] = STATE_BIT(READING) | STATE_BIT(FETCHING) | STATE_BIT(RESTING) | STATE_BIT(MARKING),
    [FETCHING] = STATE_BIT(READING) | STATE_BIT(RESTING) | STATE_BIT(MARKING),
    [MARKING] = STATE_BIT(RESTING),
};
static const struct state_table states = {"reconciler", state_words, state_moves, STATE_COUNT};

/* Rows of a page that go to one queue. */
struct page_group {
    struct reconciler *reconciler;
    size_t count;
    struct uuid ids[];
};

/* Every seq up to this one was drawn before that moment of the monotonic clock. */
struct sighting {
    int64_t at_us, seq;
};

struct reconciler {
    struct reconciler_route route;
    struct queue *queue;
    struct store *store;
    const char *holder;
    unsigned state;
    bool queue_up, store_up;
    bool compare;   /* everything, the youngest rows too, without pauses */
    bool comparing; /* this round does */
    bool nudged;
    bool elsewhere; /* another process has the lease */
    struct loop_timer timer;
    int64_t token;
    int64_t leased_at_us;
    int64_t maintain_after_us, maintain_again_us;
    int64_t next_seq; /* all up to here is done; between rounds where the last ended */
    int64_t horizon;  /* rows with a higher seq are young */
    int64_t top;      /* the highest seq that was seen */
    struct sighting sightings[SIGHTINGS]; /* above the horizon, oldest first */
    size_t sighting_count;
    bool peeking; /* this round is past the horizon and looks for the top only */
    bool stopped;
    bool full;             /* this round began at the mark */
    int64_t full_after_us; /* the next full round is due then */
    int64_t began_us;      /* this round */
    bool last_page;
    unsigned calls; /* under way in ASKING or FETCHING */
    bool in_doubt;  /* one of them failed: its item's fault, or the link's? */
    bool failed;    /* this round cannot go on */
    struct uuid lacking[RECONCILER_PAGE_ROWS];
    size_t lacking_count;
    struct reconciler_split split; /* of the page in hand, while calls are being made for it */
    struct metric *enqueued, *rounds;
};

static void rest(struct reconciler *reconciler)
{
    state_move(&states, &reconciler->state, RESTING);
    if (reconciler->stopped)
        return;
    int64_t pause = reconciler->compare ? 0 : reconciler->nudged ? NUDGED_MS : REST_MS;
    if (reconciler->elsewhere)
        pause = REST_MS;
    loop_timer_set(&reconciler->timer, pause + (int64_t)random_below(REST_MS / 10));
}

/* ---- who is young ---- */

/* Rows have times of their own, but by other hosts' and producers' clocks: one that is ahead would keep its row, and all
 * behind it, young for as long. What this process saw some time ago is old by its own clock. */
static int64_t horizon_of(struct reconciler *reconciler)
{
    if (reconciler->comparing)
        return INT64_MAX;
    int64_t old_us = clock_mono_us() - YOUNG_US;
    size_t old = 0;
    while (old < reconciler->sighting_count && reconciler->sightings[old].at_us <= old_us)
        reconciler->horizon = reconciler->sightings[old++].seq;
    reconciler->sighting_count -= old;
    memmove(reconciler->sightings, reconciler->sightings + old,
            reconciler->sighting_count * sizeof(*reconciler->sightings));
    return reconciler->horizon;
}

static void note_top(struct reconciler *reconciler, int64_t seq, bool end)
{
    if (seq > reconciler->top)
        reconciler->top = seq;
    struct sighting now = {clock_mono_us(), reconciler->top}, *newest = NULL;
    if (reconciler->sighting_count)
        newest = &reconciler->sightings[reconciler->sighting_count - 1];
    if (newest ? newest->seq == now.seq || (!end && now.at_us - newest->at_us < SIGHT_US)
               : reconciler->horizon == now.seq)
        return;
    if (reconciler->sighting_count == SIGHTINGS)
        *newest = now; /* the older ones become old all the same, and make room */
    else
        reconciler->sightings[reconciler->sighting_count++] = now;
}

/* ---- the end of a round ---- */

static void on_marked(void *arg, const struct err *err, int64_t low_seq)
{
    struct reconciler *reconciler = arg;
    (void)err; /* the next round tries again */
    (void)low_seq;
    rest(reconciler);
}

static void mark(struct reconciler *reconciler)
{
    state_move(&states, &reconciler->state, MARKING);
    metric_add(reconciler->rounds, 1);
    reconciler->comparing = false;
    if (reconciler->full) {
        int64_t now = clock_mono_us(), pause = (now - reconciler->began_us) * FULL_SHARE;
        reconciler->full_after_us = now + (pause > FULL_US ? pause : FULL_US);
    }
    reconciler->store->ops->low_mark(reconciler->store, reconciler->token, INT64_MAX, on_marked,
                                     reconciler);
}

/* ---- a page ---- */

static void give_up(struct reconciler *reconciler)
{
    reconciler->compare |= reconciler->comparing; /* from the start again */
    reconciler->full_after_us = 0;
    rest(reconciler);
}

static void read_page(struct reconciler *reconciler);

static void next_page(struct reconciler *reconciler)
{
    if (reconciler->failed || !reconciler->queue_up || !reconciler->store_up) {
        give_up(reconciler);
    } else if (reconciler->last_page) {
        mark(reconciler);
    } else {
        state_move(&states, &reconciler->state, READING);
        if (reconciler->comparing)
            read_page(reconciler);
        else
            loop_timer_set(&reconciler->timer, PAGE_PAUSE_MS);
    }
}

static void fetch(struct reconciler *reconciler);

static void go_on(struct reconciler *reconciler)
{
    if (reconciler->state == ASKING)
        fetch(reconciler);
    else
        next_page(reconciler);
}

/* A queue that refuses a call (its key is of a wrong type) leaves its item's rows out until the next full round; the other
 * items go on. A link that broke ends the round, but it tells so only after it has ended its calls: wait for that. */
static void call_ended(struct reconciler *reconciler, const struct err *err)
{
    reconciler->in_doubt |= err->code != ERR_NONE;
    if (--reconciler->calls > 0)
        return;
    if (reconciler->in_doubt)
        loop_timer_set(&reconciler->timer, PAGE_PAUSE_MS);
    else
        go_on(reconciler);
}

/* ---- enqueueing ---- */

/* Rows of one queue in one call, with copies of what they borrow. */
struct enqueue_batch {
    struct reconciler *reconciler;
    struct arena arena;
    struct queue_name name;
    struct uuid ids[RECONCILER_PAGE_ROWS]; /* of misfits */
    size_t count;
    struct queue_entry entries[];
};

static void free_batch(struct enqueue_batch *batch)
{
    arena_done(&batch->arena);
    free(batch);
}

static void on_enqueued(void *arg, const struct err *err, int64_t depth)
{
    struct enqueue_batch *batch = arg;
    struct reconciler *reconciler = batch->reconciler;
    (void)depth;
    if (err->code == ERR_NONE)
        metric_add(reconciler->enqueued, (int64_t)batch->count);
    free_batch(batch);
    call_ended(reconciler, err);
}

static void enqueue_batch(struct enqueue_batch *batch)
{
    struct queue *queue = batch->reconciler->queue;
    queue->ops->enqueue(queue, batch->name, batch->entries, batch->count, on_enqueued, batch);
}

/* Of those that a worker holds where they were, it makes an end there. */
static void on_withdrawn(void *arg, const struct err *err, const bool *flags)
{
    struct enqueue_batch *batch = arg;
    struct reconciler *reconciler = batch->reconciler;
    size_t count = 0;
    for (size_t i = 0; err->code == ERR_NONE && i < batch->count; i++) {
        if (flags[i])
            batch->entries[count++] = batch->entries[i];
    }
    batch->count = count;
    if (count) {
        enqueue_batch(batch);
        return;
    }
    free_batch(batch);
    call_ended(reconciler, err);
}

/* A misfit leaves the queue that it was accepted for first: it may be delayed there, and would be run twice. */
static void withdraw_batch(struct enqueue_batch *batch, struct queue_name from)
{
    struct queue *queue = batch->reconciler->queue;
    for (size_t i = 0; i < batch->count; i++)
        batch->ids[i] = batch->entries[i].id;
    queue->ops->withdraw(queue, from, batch->ids, batch->count, on_withdrawn, batch);
}

static void add_row(struct enqueue_batch *batch, const struct store_message *message)
{
    struct slice body = arena_copy(&batch->arena, body_slice(message->body));
    batch->entries[batch->count++] =
        (struct queue_entry){.id = message->id,
                             .at_ms = message->received_us / 1000,
                             .priority = message->priority,
                             .due_ms = message->due_ms,
                             .key = arena_copy(&batch->arena, message->ordering_key),
                             .meta = arena_copy(&batch->arena, message->meta),
                             .body = body_of(body.ptr, body.len)};
}

static void enqueue_rows(struct reconciler *reconciler, const struct store_unfinished *rows,
                         size_t count)
{
    struct reconciler_split *split = &reconciler->split;
    struct enqueue_batch *batches[RECONCILER_PAGE_ROWS];
    reconciler_split(split, &reconciler->route, rows, count, true);
    for (size_t i = 0; i < split->count; i++) {
        batches[i] =
            mem_alloc(sizeof(*batches[i]) + split->queues[i].rows * sizeof(batches[i]->entries[0]));
        batches[i]->reconciler = reconciler;
        batches[i]->name = split->queues[i].name;
        arena_init(&batches[i]->arena);
    }
    for (size_t i = 0; i < count; i++) {
        if (split->of[i] != RECONCILER_NO_QUEUE)
            add_row(batches[split->of[i]], &rows[i].message);
    }
    reconciler->calls += (unsigned)split->count;
    for (size_t i = 0; i < split->count; i++) {
        if (split->queues[i].misfit)
            withdraw_batch(batches[i], split->queues[i].from);
        else
            enqueue_batch(batches[i]);
    }
}

static void on_fetched(void *arg, const struct err *err, const struct store_unfinished *rows,
                       size_t count)
{
    struct reconciler *reconciler = arg;
    BUG_ON(count > RECONCILER_PAGE_ROWS);
    if (err->code == ERR_NONE)
        enqueue_rows(reconciler, rows, count);
    reconciler->failed |= err->code != ERR_NONE;
    call_ended(reconciler, err);
}

static void fetch(struct reconciler *reconciler)
{
    if (reconciler->lacking_count == 0 || reconciler->failed) {
        next_page(reconciler);
        return;
    }
    state_move(&states, &reconciler->state, FETCHING);
    reconciler->calls = 1;
    reconciler->store->ops->fetch(reconciler->store, reconciler->lacking, reconciler->lacking_count,
                                  on_fetched, reconciler);
}

/* ---- asking ---- */

static void on_missing(void *arg, const struct err *err, const bool *flags)
{
    struct page_group *group = arg;
    struct reconciler *reconciler = group->reconciler;
    for (size_t i = 0; err->code == ERR_NONE && i < group->count; i++) {
        if (flags[i])
            reconciler->lacking[reconciler->lacking_count++] = group->ids[i];
    }
    free(group);
    call_ended(reconciler, err);
}

static void note_misfits(struct page_group *group)
{
    bool all[RECONCILER_PAGE_ROWS];
    memset(all, true, sizeof(all));
    on_missing(group, &(const struct err){.code = ERR_NONE}, all);
}

/* Splits a page and asks each queue. Where misfits are is seen once they are whole. */
static void ask(struct reconciler *reconciler, const struct store_unfinished *rows, size_t count)
{
    struct reconciler_split *split = &reconciler->split;
    struct page_group *groups[RECONCILER_PAGE_ROWS];
    reconciler->lacking_count = 0;
    state_move(&states, &reconciler->state, ASKING);
    reconciler_split(split, &reconciler->route, rows, count, false);
    for (size_t i = 0; i < split->count; i++) {
        groups[i] =
            mem_alloc(sizeof(*groups[i]) + split->queues[i].rows * sizeof(groups[i]->ids[0]));
        groups[i]->reconciler = reconciler;
    }
    for (size_t i = 0; i < count; i++) {
        if (split->of[i] != RECONCILER_NO_QUEUE) {
            struct page_group *group = groups[split->of[i]];
            group->ids[group->count++] = rows[i].message.id;
        }
    }
    /* One more, our own, so that the page does not end while it is being asked about. */
    reconciler->calls = (unsigned)split->count + 1;
    for (size_t i = 0; i < split->count; i++) {
        const struct reconciler_queue *queue = &split->queues[i];
        if (queue->misfit)
            note_misfits(groups[i]);
        else
            reconciler->queue->ops->missing(reconciler->queue, queue->name, groups[i]->ids,
                                            groups[i]->count, on_missing, groups[i]);
    }
    call_ended(reconciler, &(const struct err){.code = ERR_NONE});
}

static void on_page(void *arg, const struct err *err, const struct store_unfinished *rows,
                    size_t count, int64_t next_seq, bool end)
{
    struct reconciler *reconciler = arg;
    reconciler->failed = err->code != ERR_NONE;
    if (reconciler->failed || !reconciler->queue_up) {
        give_up(reconciler);
        return;
    }
    note_top(reconciler, next_seq, end);
    reconciler->last_page = end;
    if (reconciler->peeking) {
        next_page(reconciler);
        return;
    }
    int64_t horizon = horizon_of(reconciler);
    size_t old = 0;
    while (old < count && rows[old].message.seq <= horizon)
        old++;
    if (next_seq <= horizon) {
        reconciler->next_seq = next_seq;
    } else { /* the young ones are looked at again when they are old */
        reconciler->peeking = true;
        if (reconciler->next_seq < horizon)
            reconciler->next_seq = horizon;
    }
    if (old)
        ask(reconciler, rows, old);
    else
        next_page(reconciler);
}

static void on_leased(void *arg, const struct err *err, int64_t token);

/* Also renews the lease on the way through a long backlog. */
static void read_page(struct reconciler *reconciler)
{
    if (reconciler->stopped) {
        give_up(reconciler);
        return;
    }
    if (clock_mono_us() - reconciler->leased_at_us > LEASE_MS * 1000 / 3) {
        reconciler->leased_at_us = clock_mono_us();
        reconciler->store->ops->lease(reconciler->store, LEASE, reconciler->holder, LEASE_MS,
                                      on_leased, reconciler);
        return;
    }
    int64_t after_seq = reconciler->next_seq;
    if (reconciler->peeking && reconciler->top > after_seq)
        after_seq = reconciler->top;
    reconciler->store->ops->unfinished(reconciler->store, after_seq,
                                       reconciler->peeking ? STORE_LOOK_MAX : RECONCILER_PAGE_ROWS,
                                       on_page, reconciler);
}

/* ---- the start of a round ---- */

static void on_maintained(void *arg, const struct err *err)
{
    struct reconciler *reconciler = arg;
    int64_t again = reconciler->maintain_again_us;
    if (err->code == ERR_NONE) {
        reconciler->maintain_again_us = 0;
        return;
    }
    again = again ? again * 2 : MAINTAIN_AGAIN_US;
    reconciler->maintain_again_us = again < MAINTAIN_AGAIN_MAX_US ? again : MAINTAIN_AGAIN_MAX_US;
    reconciler->maintain_after_us = clock_mono_us() + reconciler->maintain_again_us;
}

static void maintain(struct reconciler *reconciler)
{
    int64_t now = clock_mono_us();
    if (now < reconciler->maintain_after_us)
        return;
    reconciler->maintain_after_us = now + MAINTAIN_US;
    reconciler->store->ops->maintain(reconciler->store, on_maintained, reconciler);
}

static void on_mark_read(void *arg, const struct err *err, int64_t low_seq)
{
    struct reconciler *reconciler = arg;
    if (err->code != ERR_NONE) {
        rest(reconciler);
        return;
    }
    reconciler->comparing = reconciler->compare;
    reconciler->began_us = clock_mono_us();
    reconciler->full = reconciler->comparing || reconciler->began_us >= reconciler->full_after_us ||
                       reconciler->next_seq < low_seq;
    if (reconciler->full)
        reconciler->next_seq = low_seq;
    reconciler->peeking = reconciler->next_seq >= horizon_of(reconciler);
    reconciler->compare = false;
    reconciler->nudged = false;
    state_move(&states, &reconciler->state, READING);
    maintain(reconciler);
    read_page(reconciler);
}

static void on_leased(void *arg, const struct err *err, int64_t token)
{
    struct reconciler *reconciler = arg;
    bool renewed = reconciler->state == READING;
    if (err->code != ERR_NONE || token == 0 || reconciler->stopped ||
        (renewed && token != reconciler->token)) {
        reconciler->nudged = false; /* the lease's owner will find it */
        reconciler->elsewhere = err->code == ERR_NONE && token == 0;
        if (renewed)
            give_up(reconciler);
        else
            rest(reconciler);
        return;
    }
    if (token != reconciler->token)
        reconciler->full_after_us = 0; /* others looked meanwhile */
    reconciler->token = token;
    reconciler->elsewhere = false;
    if (renewed)
        read_page(reconciler);
    else
        reconciler->store->ops->low_mark(reconciler->store, token, 0, on_mark_read, reconciler);
}

static void on_timer(void *arg)
{
    struct reconciler *reconciler = arg;
    if (reconciler->state == READING) {
        read_page(reconciler);
        return;
    }
    if (reconciler->in_doubt) {
        reconciler->in_doubt = false;
        go_on(reconciler);
        return;
    }
    if (reconciler->state != RESTING || reconciler->stopped || !reconciler->queue_up ||
        !reconciler->store_up)
        return; /* reconciler_links_changed sets it going */
    state_move(&states, &reconciler->state, LEASING);
    reconciler->leased_at_us = clock_mono_us();
    reconciler->store->ops->lease(reconciler->store, LEASE, reconciler->holder, LEASE_MS, on_leased,
                                  reconciler);
}

/* ---- what others say ---- */

void reconciler_links_changed(struct reconciler *reconciler, bool queue_up, bool store_up)
{
    reconciler->queue_up = queue_up;
    reconciler->store_up = store_up;
    reconciler->failed |= !queue_up;
    if (queue_up && store_up && reconciler->state == RESTING && !reconciler->stopped)
        loop_timer_set(&reconciler->timer, reconciler->compare ? 0 : REST_MS);
}

void reconciler_nudge(struct reconciler *reconciler)
{
    reconciler->nudged = true;
}

void reconciler_compare(struct reconciler *reconciler)
{
    reconciler->compare = true;
    if (reconciler->state == RESTING && !reconciler->stopped && reconciler->queue_up &&
        reconciler->store_up)
        loop_timer_set(&reconciler->timer, 0);
}

static void on_released(void *arg, const struct err *err)
{
    (void)arg;
    (void)err; /* what was not released lapses */
}

void reconciler_stop(struct reconciler *reconciler)
{
    if (reconciler->stopped)
        return;
    reconciler->stopped = true;
    loop_timer_cancel(&reconciler->timer);
    if (reconciler->store_up && (reconciler->token || reconciler->state == LEASING))
        reconciler->store->ops->release(reconciler->store, LEASE, reconciler->holder, on_released,
                                        NULL);
}

struct reconciler *reconciler_new(struct loop *loop, const struct reconciler_route *route,
                                  struct queue *queue, struct store *store, const char *holder,
                                  struct metrics *metrics)
{
    struct reconciler *reconciler = mem_alloc(sizeof(*reconciler));
    reconciler->route = *route;
    reconciler->queue = queue;
    reconciler->store = store;
    reconciler->holder = holder;
    reconciler->state = RESTING;
    loop_timer_init(&reconciler->timer, loop, on_timer, reconciler);
    reconciler->enqueued =
        metrics_counter(metrics, "hie_reconciler_enqueued_total",
                        "Unfinished messages brought back into their queue", NULL, 0);
    reconciler->rounds =
        metrics_counter(metrics, "hie_reconciler_rounds_total",
                        "Comparisons of the write-ahead log with the queues", NULL, 0);
    return reconciler;
}

struct reconciler *reconciler_free(struct reconciler *reconciler)
{
    if (reconciler) {
        loop_timer_done(&reconciler->timer);
        free(reconciler);
    }
    return NULL;
}
