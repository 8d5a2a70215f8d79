/* How claims come into a fifo lane: one cycle at a time, over all of its partitions that have something.
 *
 *            woken, more there                  all answered                    nothing earlier is missing
 *   RESTING ───────────────────▶ CLAIMING ─────────────────▶ LOOKING ─────────────────────────────────────▶ RESTING
 *      ▲                            │ nothing came              │ some are                                     ▲
 *      └────────────────────────────┘                           ▼                                              │
 *                                                            FETCHING ──rows──▶ PULLING ──claims──▶ LINING_UP ─┘
 *
 * CLAIMING is one call for each partition: what other owners left (inherit) before what is new (claim). LOOKING looks the claims up and, side
 * by side, asks the store which messages of the partition are unfinished: order is seq, not the place in the stream, which a
 * rebuild or a late enqueue changes. The partition's gate moves up to the first of them that is not in hand, and what is behind it waits.
 * What is missing is pulled out of turn, the lowest first; the next look finds it in hand and moves the gate on. What comes after all
 * that was ever in hand is left to the queue, which brings it soon. */
#include "lane_fifo.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/state.h"
#include "worker.h"

#include <stdlib.h>

/* Claims in hand of one lane, in all states; one more for each partition whose claims all wait for one that is missing. */
#define HELD_MAX 1024u
#define PARTS_MAX 64u  /* in one cycle */
#define REST_US 500000 /* after a call that failed */
#define MISSING_MAX 8u /* of a partition, that a look for those before a claim expects */

enum { RESTING, CLAIMING, LOOKING, FETCHING, PULLING, LINING_UP, STATE_COUNT };
static const char *const state_words[] = {"resting",  "claiming", "looking",
                                          "fetching", "pulling",  "lining_up"};
static const uint32_t state_moves[] = {
    [RESTING] = STATE_BIT(CLAIMING),
    [CLAIMING] = STATE_BIT(RESTING) | STATE_BIT(LOOKING),
    [LOOKING] = STATE_BIT(RESTING) | STATE_BIT(FETCHING),
    [FETCHING] = STATE_BIT(RESTING) | STATE_BIT(PULLING),
    [PULLING] = STATE_BIT(RESTING) | STATE_BIT(LINING_UP),
    [LINING_UP] = STATE_BIT(RESTING),
};
static const struct state_table states = {"fifo", state_words, state_moves, STATE_COUNT};

/* One partition in the cycle. */
struct cycle_part {
    struct fifo_cycle *cycle;
    struct lane_part *part;
    size_t asked;
    bool inherits;
    bool came;                        /* something new did */
    bool looks;                       /* the store is asked for unfinished ones */
    size_t most, told;                /* rows it asks for, and got */
    int64_t began_seq;                /* the gate, when the store was asked */
    int64_t sure_seq;                 /* the store was asked after all up to here was there */
    int64_t known_seq;                /* the answer had all up to here; 0: there was none */
    int64_t clear_seq;                /* where the gate comes to */
    size_t missing_count, pull_count; /* of its missing ones, in cycle->missing and cycle->pulled */
};

struct fifo_cycle {
    struct lane *lane;
    unsigned calls; /* under way */
    bool failed;    /* one of them did */
    size_t part_count, claim_count, before_count, unheld_count, missing_count;
    struct cycle_part parts[PARTS_MAX];
    struct claim *claims[QUEUE_BATCH_MAX];
    struct store_before before[PARTS_MAX];
    struct store_earlier *unheld; /* earlier ones that are not in hand, by seq; in the arena */
    struct uuid missing[QUEUE_BATCH_MAX];
    struct arena arena; /* and what pulled entries borrow */
    struct queue_entry pulled[QUEUE_BATCH_MAX];
};

static void move_to(struct fifo_cycle *cycle, unsigned state)
{
    state_move(&states, &cycle->lane->fifo->state, state);
}

void fifo_cycle_free(struct fifo_cycle *cycle)
{
    if (!cycle)
        return;
    arena_done(&cycle->arena);
    free(cycle);
}

/* What is accepted under a version that this process has not heard of may be for another queue: nothing that comes later runs until it
 * has. */
static int64_t heard_version(const struct lane *lane)
{
    return lane->worker->fleet ? fleet_heard_version(lane->worker->fleet) : INT64_MAX;
}

static void rest(struct fifo_cycle *cycle)
{
    struct lane *lane = cycle->lane;
    move_to(cycle, RESTING);
    lane->fifo->cycle = NULL;
    if (cycle->failed)
        lane->not_before_us = clock_mono_us() + REST_US;
    for (size_t i = 0; i < cycle->part_count; i++) {
        struct cycle_part *at = &cycle->parts[i];
        struct lane_part *part = at->part;
        part->futile |= at->looks && !at->came && part->clear_seq <= at->began_seq &&
                        part->unheard_version <= heard_version(lane);
        part->in_cycle--;
        lane_part_settle(part);
    }
    fifo_cycle_free(cycle);
    lane_pump(lane);
}

/* New claims of a partition; what it holds already stays as it is. */
static void take(struct cycle_part *at, struct queue_claimed *claimed)
{
    struct fifo_cycle *cycle = at->cycle;
    struct lane_part *part = at->part;
    for (size_t i = 0; i < claimed->count; i++) {
        struct queue_entry *entry = &claimed->entries[i];
        struct claim *held = NULL;
        HASH_FIND(by_id, part->by_id, &entry->id, sizeof(entry->id), held);
        if (held) { /* brought once more after a loss: that entry is the one to finish */
            held->found_again |= strcmp(held->entry->entry_id, entry->entry_id) != 0;
            memcpy(held->entry->entry_id, entry->entry_id, sizeof(entry->entry_id));
        } else if (cycle->claim_count < QUEUE_BATCH_MAX) {
            cycle->claims[cycle->claim_count++] = lane_part_claim(part, claimed, entry);
            at->came = true;
        } else {
            part->look_back = true; /* more than was asked for: it stays in our name */
        }
    }
}

/* ---- LINING_UP ---- */

static void on_pulled_looked_up(struct lane *lane, size_t count)
{
    (void)count;
    rest(lane->fifo->cycle);
}

static void line_up_pulled(struct fifo_cycle *cycle)
{
    if (cycle->claim_count == 0) {
        rest(cycle);
        return;
    }
    move_to(cycle, LINING_UP);
    lane_look_up(cycle->lane, cycle->claims, cycle->claim_count, on_pulled_looked_up);
}

/* ---- PULLING ---- */

static void on_pulled(void *arg, const struct err *err, struct queue_claimed *claimed)
{
    struct cycle_part *at = arg;
    struct fifo_cycle *cycle = at->cycle;
    size_t came = 0;
    if (err->code == ERR_NONE) {
        came = claimed->count;
        take(at, claimed);
        queue_claimed_unref(claimed);
    }
    if (came < at->pull_count) /* Redis lost some, or all, between taking and reading them */
        cycle->failed = true;
    if (--cycle->calls == 0)
        line_up_pulled(cycle);
}

static void pull(struct fifo_cycle *cycle)
{
    struct worker *worker = cycle->lane->worker;
    size_t from = 0;
    cycle->claim_count = 0; /* those of CLAIMING are in their lines */
    move_to(cycle, PULLING);
    cycle->calls = 1; /* our own */
    for (size_t i = 0; i < cycle->part_count; i++) {
        struct cycle_part *at = &cycle->parts[i];
        if (at->pull_count == 0)
            continue;
        cycle->calls++;
        worker->queue->ops->pull(worker->queue, queue_name_of(cycle->lane->item, at->part->number),
                                 worker->id, &cycle->pulled[from], at->pull_count, on_pulled, at);
        from += at->pull_count;
    }
    if (--cycle->calls == 0)
        line_up_pulled(cycle);
}

/* ---- FETCHING ---- */

static void add_pulled(struct fifo_cycle *cycle, size_t at, const struct store_message *row)
{
    struct slice body = arena_copy(&cycle->arena, body_slice(row->body));
    cycle->pulled[at] = (struct queue_entry){.id = row->id,
                                             .at_ms = row->received_us / 1000,
                                             .priority = row->priority,
                                             .key = arena_copy(&cycle->arena, row->ordering_key),
                                             .meta = arena_copy(&cycle->arena, row->meta),
                                             .body = body_of(body.ptr, body.len)};
}

static void wait_for_version(struct lane_part *part, int64_t version)
{
    part->unheard_version = version;
    fleet_hurry(part->lane->worker->fleet);
}

static void on_fetched(void *arg, const struct err *err, const struct store_unfinished *rows,
                       size_t count)
{
    struct fifo_cycle *cycle = arg;
    size_t total = 0;
    cycle->failed |= err->code != ERR_NONE;
    for (size_t i = 0; i < cycle->part_count; i++) {
        struct cycle_part *at = &cycle->parts[i];
        for (size_t j = 0; err->code == ERR_NONE && j < count; j++) {
            const struct store_message *row = &rows[j].message;
            if (row->partition != (int)at->part->number || total == QUEUE_BATCH_MAX)
                continue;
            if (row->version > heard_version(cycle->lane)) {
                wait_for_version(at->part, row->version);
                continue;
            }
            if (row->body.len == 0 && rows[j].body_len > 0 &&
                rows[j].body_len <= MESSAGE_INLINE_MAX)
                continue; /* left out of an answer that grew too large: the next time */
            add_pulled(cycle, total++, row);
            at->pull_count++;
        }
    }
    if (err->code != ERR_NONE)
        rest(cycle);
    else
        pull(cycle);
}

static void fetch(struct fifo_cycle *cycle)
{
    struct store *store = cycle->lane->worker->store;
    move_to(cycle, FETCHING);
    store->ops->fetch(store, cycle->missing, cycle->missing_count, on_fetched, cycle);
}

/* ---- LOOKING ---- */

static bool is_held(const struct lane_part *part, const struct uuid *id, struct claim **ret)
{
    struct claim *held = NULL;
    HASH_FIND(by_id, part->by_id, id, sizeof(*id), held);
    *ret = held;
    return held && held->state != CLAIM_RETURNING;
}

static struct cycle_part *find_part(struct fifo_cycle *cycle, unsigned number)
{
    for (size_t i = 0; i < cycle->part_count; i++) {
        if (cycle->parts[i].known_seq && cycle->parts[i].part->number == number)
            return &cycle->parts[i];
    }
    return NULL;
}

/* A message that is not in hand and has no end. The lowest one of a partition comes whatever else is in hand, for all of that may wait
 * for it. */
static void judge_row(struct fifo_cycle *cycle, struct cycle_part *at,
                      const struct store_earlier *row)
{
    struct lane_part *part = at->part;
    size_t in_hand = cycle->lane->held + cycle->missing_count;
    struct claim *held;
    if (is_held(part, &row->id, &held))
        return;
    if (row->seq <= at->clear_seq)
        at->clear_seq = row->seq - 1;
    if (held || row->seq > part->top_seq || cycle->missing_count == QUEUE_BATCH_MAX)
        return;
    if (in_hand >= HELD_MAX && at->missing_count > 0)
        return;
    at->missing_count++;
    cycle->missing[cycle->missing_count++] = row->id;
}

/* Once claims have their seqs: where the gates come to, and what is missing, the lowest first. */
static void judge(struct fifo_cycle *cycle)
{
    for (size_t i = 0; i < cycle->unheld_count; i++)
        judge_row(cycle, find_part(cycle, cycle->unheld[i].partition), &cycle->unheld[i]);
    for (size_t i = 0; i < cycle->part_count; i++) {
        struct cycle_part *at = &cycle->parts[i];
        struct lane_part *part = at->part;
        if (!at->known_seq)
            continue;
        if (part->look_back && at->clear_seq > part->clear_seq)
            at->clear_seq = part->clear_seq; /* something went back since it was asked */
        lane_part_clear(part, at->clear_seq);
    }
}

static void end_call(struct fifo_cycle *cycle)
{
    if (--cycle->calls > 0)
        return;
    judge(cycle);
    if (cycle->missing_count)
        fetch(cycle);
    else
        rest(cycle);
}

static void on_looked_up(struct lane *lane, size_t count)
{
    (void)count;
    end_call(lane->fifo->cycle);
}

/* Keeps of the answer what is not in hand. What was adopted since the store was asked is not in it: it waits for the next one. */
static void keep_unheld(struct fifo_cycle *cycle, const struct store_earlier *rows, size_t count)
{
    struct claim *held;
    cycle->unheld = arena_alloc(&cycle->arena, (count + 1) * sizeof(*cycle->unheld));
    for (size_t i = 0; i < count; i++) {
        struct cycle_part *at = find_part(cycle, rows[i].partition);
        if (!at)
            continue;
        if (!is_held(at->part, &rows[i].id, &held))
            cycle->unheld[cycle->unheld_count++] = rows[i];
        if (++at->told == at->most)
            at->known_seq = rows[i].seq;
        if (rows[i].seq > at->sure_seq)
            at->sure_seq = rows[i].seq;
    }
    for (size_t i = 0; i < cycle->part_count; i++) {
        struct cycle_part *at = &cycle->parts[i];
        at->clear_seq = at->known_seq < at->sure_seq ? at->known_seq : at->sure_seq;
        if (at->clear_seq < at->began_seq)
            at->clear_seq = at->began_seq;
    }
}

static void on_earlier(void *arg, const struct err *err, const struct store_earlier *rows,
                       size_t count, bool full, int64_t whole_seq)
{
    struct fifo_cycle *cycle = arg;
    bool failed = err->code != ERR_NONE;
    cycle->failed |= failed;
    for (size_t i = 0; i < cycle->part_count; i++) {
        struct cycle_part *at = &cycle->parts[i];
        if (!at->looks)
            continue;
        at->part->look_back |= failed;
        at->known_seq = failed ? 0 : full ? rows[count - 1].seq : INT64_MAX;
        if (!failed && whole_seq > at->part->whole_seq)
            at->part->whole_seq = whole_seq;
    }
    if (!failed)
        keep_unheld(cycle, rows, count);
    end_call(cycle);
}

/* All up to here has ended: what is in hand and has no end yet comes after it, and so does what is missing, or what was drawn and could
 * not be seen yet. */
static int64_t ended_up_to(const struct lane_part *part)
{
    const struct claim *claim;
    int64_t seq = part->clear_seq < part->whole_seq ? part->clear_seq : part->whole_seq;
    TAILQ_FOREACH(claim, &part->claims, in_part)
    {
        if (claim->seq && claim->state != CLAIM_PUBLISHING)
            return claim->seq - 1 < seq ? claim->seq - 1 : seq;
    }
    return seq;
}

/* New ones wait for the answer; those that are known already had theirs. */
static void look_back(struct fifo_cycle *cycle)
{
    struct lane *lane = cycle->lane;
    struct store *store = lane->worker->store;
    size_t limit = 0;
    for (size_t i = 0; i < cycle->part_count; i++) {
        struct cycle_part *at = &cycle->parts[i];
        struct lane_part *part = at->part;
        if (!at->looks)
            continue;
        at->most = part->held + (lane_part_must_look(part) ? QUEUE_BATCH_MAX : MISSING_MAX);
        at->began_seq = part->clear_seq;
        at->sure_seq = part->top_seq;
        part->look_back = false;
        cycle->before[cycle->before_count++] =
            (struct store_before){.partition = part->number,
                                  .after_seq = ended_up_to(part),
                                  .upto_seq = INT64_MAX,
                                  .below_version = lane->below_version,
                                  .most = at->most};
        limit += at->most;
    }
    if (cycle->before_count == 0)
        return;
    cycle->calls++;
    store->ops->earlier(store, lane->item->id, lane->name.pattern, cycle->before,
                        cycle->before_count, limit < STORE_LOOK_MAX ? limit : STORE_LOOK_MAX,
                        on_earlier, cycle);
}

static void look(struct fifo_cycle *cycle)
{
    move_to(cycle, LOOKING);
    cycle->calls = 1; /* our own */
    look_back(cycle);
    if (cycle->claim_count) {
        cycle->calls++;
        lane_look_up(cycle->lane, cycle->claims, cycle->claim_count, on_looked_up);
    }
    end_call(cycle);
}

/* ---- CLAIMING ---- */

static void on_claimed(void *arg, const struct err *err, struct queue_claimed *claimed)
{
    struct cycle_part *at = arg;
    struct fifo_cycle *cycle = at->cycle;
    struct lane_part *part = at->part;
    if (err->code == ERR_NONE) {
        size_t came = claimed->count;
        take(at, claimed);
        queue_claimed_unref(claimed);
        part->woken |= came == at->asked || at->inherits;
        if (at->inherits && came < at->asked)
            part->inheriting = false;
    } else {
        part->inheriting = cycle->failed = true; /* claims may be ours whose answer was lost */
    }
    at->looks =
        (at->came || lane_part_must_look(part)) && lane_is_logged(cycle->lane) && !part->lost;
    if (--cycle->calls > 0)
        return;
    bool looks = cycle->claim_count > 0;
    for (size_t i = 0; i < cycle->part_count; i++)
        looks |= cycle->parts[i].looks;
    if (looks)
        look(cycle);
    else
        rest(cycle);
}

/* All of it that is in hand waits for one that is missing. */
static bool is_stuck(const struct lane_part *part)
{
    const struct claim *first = TAILQ_FIRST(&part->claims);
    return first && first->seq > part->clear_seq;
}

/* `room`: for claims. One that has to catch up takes a batch at a time, since each look costs as much as there is in hand. */
static bool has_something(const struct lane_part *part, size_t room)
{
    bool must_look = lane_part_must_look(part);
    if (part->lost || part->leaving || part->returning || !lane_part_is_sure(part) ||
        part->unheard_version > heard_version(part->lane))
        return false;
    if (must_look && !part->futile && is_stuck(part))
        return true;
    if (must_look ? room < QUEUE_BATCH_MAX : room == 0)
        return false;
    return part->woken || part->inheriting || (must_look && !part->futile);
}

/* The partitions of the next cycle, those longest not claimed from first. */
static void choose(struct fifo_cycle *cycle, size_t room)
{
    struct lane_fifo *fifo = cycle->lane->fifo;
    struct lane_part *part, *next, *last = TAILQ_LAST(&fifo->parts, part_list);
    for (part = TAILQ_FIRST(&fifo->parts); part; part = next) {
        next = part == last ? NULL : TAILQ_NEXT(part, link);
        if (!has_something(part, room))
            continue;
        if (cycle->part_count == PARTS_MAX || (room && cycle->part_count == room))
            break;
        cycle->parts[cycle->part_count++] = (struct cycle_part){.cycle = cycle, .part = part};
        part->in_cycle++;
        TAILQ_REMOVE(&fifo->parts, part, link);
        TAILQ_INSERT_TAIL(&fifo->parts, part, link);
    }
}

static void claim_from(struct cycle_part *at, size_t max)
{
    struct worker *worker = at->part->lane->worker;
    struct queue_name name = queue_name_of(at->part->lane->item, at->part->number);
    at->asked = max;
    at->inherits = at->part->inheriting;
    at->part->woken = false;
    if (at->inherits)
        worker->queue->ops->inherit(worker->queue, name, worker->id, max, on_claimed, at);
    else
        worker->queue->ops->claim(worker->queue, name, worker->id, max, true, on_claimed, at);
}

void lane_fifo_pump(struct lane *lane)
{
    struct lane_fifo *fifo = lane->fifo;
    size_t room = lane->held < HELD_MAX ? HELD_MAX - lane->held : 0;
    if (!TAILQ_EMPTY(&fifo->runnable))
        loop_task_set(&fifo->turn); /* a slot may be free */
    if (fifo->state != RESTING || !lane_may_claim(lane) || clock_mono_us() < lane->not_before_us)
        return;
    room = room < QUEUE_BATCH_MAX ? room : QUEUE_BATCH_MAX;
    struct fifo_cycle *cycle = mem_alloc(sizeof(*cycle));
    cycle->lane = lane;
    arena_init(&cycle->arena);
    choose(cycle, room);
    if (cycle->part_count == 0) {
        free(cycle);
        return;
    }
    fifo->cycle = cycle;
    move_to(cycle, CLAIMING);
    cycle->calls = (unsigned)cycle->part_count;
    for (size_t i = 0; i < cycle->part_count; i++)
        claim_from(&cycle->parts[i], room / cycle->part_count);
}
