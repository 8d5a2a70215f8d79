/* The line of each ordering key, and who runs next.
 *
 * Looked-up claims stand in the line of their key: by seq, or, where messages have no row before their end, by their place in the
 * stream. The head of a line runs when the one before it is through: when its handler has ended well, or, where it failed, ran when
 * its worker was lost, or its class has effects outside, when its end is recorded. A failed head keeps its line and runs again in place. */
#include "lane_fifo.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "worker.h"

#include <stdlib.h>

#define TURN_MAX 256u      /* claims that one turn of the loop starts */
#define FETCH_AGAIN_MS 500 /* after a large body that did not come */

/* ---- keys ---- */

static struct lane_key *find_key(struct lane_part *part, struct slice name)
{
    struct lane_key *key = NULL;
    bool no_name = name.len == 0 && item_is_fair(part->lane->item);
    if (name.len == 0)
        name = SLICE_LITERAL(""); /* memcmp is not given NULL */
    if (!no_name)
        HASH_FIND(hh, part->named, name.ptr, name.len, key);
    if (key)
        return key;
    key = mem_alloc(sizeof(*key) + name.len + 1);
    key->part = part;
    key->no_name = no_name;
    key->len = name.len;
    if (name.len)
        memcpy(key->name, name.ptr, name.len);
    TAILQ_INIT(&key->line);
    TAILQ_INSERT_TAIL(&part->keys, key, in_part);
    if (!no_name)
        HASH_ADD(hh, part->named, name, key->len, key);
    return key;
}

static void unrunnable(struct lane_key *key)
{
    if (key->is_runnable)
        TAILQ_REMOVE(&key->part->lane->fifo->runnable, key, in_runnable);
    key->is_runnable = false;
}

/* Frees a key that nobody stands in, or lets its head run. */
static void settle_key(struct lane_key *key)
{
    struct lane_part *part = key->part;
    struct lane_fifo *fifo = part->lane->fifo;
    if (TAILQ_EMPTY(&key->line) && !key->busy) {
        unrunnable(key);
        TAILQ_REMOVE(&part->keys, key, in_part);
        if (!key->no_name)
            HASH_DEL(part->named, key);
        free(key);
    } else if (!key->busy && !key->is_runnable && !TAILQ_EMPTY(&key->line)) {
        key->is_runnable = true;
        TAILQ_INSERT_TAIL(&fifo->runnable, key, in_runnable);
        loop_task_set(&fifo->turn);
    }
}

bool lane_is_logged(const struct lane *lane)
{
    return lane->item->persistence.wal_enabled;
}

bool lane_comes_before(const struct claim *a, const struct claim *b)
{
    return lane_is_logged(a->lane)
               ? a->seq < b->seq
               : queue_entry_id_compare(a->entry->entry_id, b->entry->entry_id) < 0;
}

/* Behind its equals; what comes in order is there at once. */
static void insert_in_line(struct lane_key *key, struct claim *claim)
{
    struct claim *before = TAILQ_LAST(&key->line, claim_line);
    while (before && lane_comes_before(claim, before))
        before = TAILQ_PREV(before, claim_line, in_line);
    if (before)
        TAILQ_INSERT_AFTER(&key->line, before, claim, in_line);
    else
        TAILQ_INSERT_HEAD(&key->line, claim, in_line);
}

/* By seq; those whose seq is not known yet come last. */
static void insert_in_part(struct lane_part *part, struct claim *claim)
{
    struct claim *before = TAILQ_LAST(&part->claims, claim_line);
    while (before && (!before->seq || before->seq > claim->seq))
        before = TAILQ_PREV(before, claim_line, in_part);
    if (before)
        TAILQ_INSERT_AFTER(&part->claims, before, claim, in_part);
    else
        TAILQ_INSERT_HEAD(&part->claims, claim, in_part);
}

/* ---- claims in a line ---- */

struct claim *lane_part_claim(struct lane_part *part, struct queue_claimed *claimed,
                              struct queue_entry *entry)
{
    struct claim *claim = claim_new(part->lane, claimed, entry);
    claim->part = part;
    claim->partition = part->number;
    claim->outcome.lease_token = part->token;
    TAILQ_INSERT_TAIL(&part->claims, claim, in_part);
    HASH_ADD(by_id, part->by_id, entry->id, sizeof(entry->id), claim);
    part->held++;
    part->futile = false;
    return claim;
}

void lane_line_drop(struct claim *claim)
{
    metric_add(claim->lane->metrics.superseded, 1);
    claim_free(claim);
}

void lane_line_up(struct claim *claim)
{
    struct lane_part *part = claim->part;
    claim_move(claim, CLAIM_READY);
    if (part->lost) {
        lane_line_drop(claim);
        return;
    }
    if (part->leaving) {
        lane_return(claim);
        return;
    }
    TAILQ_REMOVE(&part->claims, claim, in_part);
    insert_in_part(part, claim);
    if (claim->seq > part->top_seq)
        part->top_seq = claim->seq;
    if (claim->seq > part->clear_seq)
        lane_pump(claim->lane); /* adopted: the store knew nothing of it when it was asked */
    claim->key = find_key(part, claim->entry->key);
    insert_in_line(claim->key, claim);
    settle_key(claim->key);
}

void lane_turn_over(struct claim *claim)
{
    struct lane_key *key = claim->key;
    if (!key)
        return;
    if (key->busy == claim)
        key->busy = NULL;
    else
        TAILQ_REMOVE(&key->line, claim, in_line);
    claim->key = NULL;
    settle_key(key);
}

void lane_gap(struct claim *claim)
{
    struct lane_part *part = claim->part;
    if (!part)
        return;
    part->returning++;
    if (!lane_is_logged(claim->lane))
        return;
    part->look_back = true;
    if (claim->seq && claim->seq <= part->clear_seq)
        part->clear_seq = claim->seq - 1;
}

void lane_line_leave(struct claim *claim)
{
    struct lane_part *part = claim->part;
    if (!part)
        return;
    if (claim->state == CLAIM_RETURNING) {
        part->returning--;
        part->woken = true; /* its entry is to be found again */
    }
    lane_turn_over(claim);
    TAILQ_REMOVE(&part->claims, claim, in_part);
    HASH_DELETE(by_id, part->by_id, claim);
    part->held--;
    part->futile = false;
    claim->part = NULL;
    lane_part_settle(part);
}

/* ---- turns ---- */

static bool has_slot(const struct lane *lane)
{
    size_t used = lane->running_count + lane->fetching;
    if (!lane->executor || lane->executor->paused)
        return false;
    return lane->immediate || used < (size_t)lane->item->concurrency;
}

void lane_fifo_turn(void *arg)
{
    struct lane *lane = arg;
    struct lane_fifo *fifo = lane->fifo;
    struct lane_key *key;
    for (unsigned n = 0; n < TURN_MAX && has_slot(lane); n++) {
        key = TAILQ_FIRST(&fifo->runnable);
        if (!key)
            return;
        struct claim *claim = TAILQ_FIRST(&key->line);
        unrunnable(key);
        if (claim->seq > key->part->clear_seq || !lane_part_is_sure(key->part))
            continue; /* until the gate moves, the lease is renewed */
        TAILQ_REMOVE(&key->line, claim, in_line);
        key->busy = claim;
        lane_start(claim);
    }
    if (has_slot(lane) && !TAILQ_EMPTY(&fifo->runnable))
        loop_task_set(&fifo->turn);
}

bool lane_part_is_sure(const struct lane_part *part)
{
    return clock_mono_us() < part->until_us;
}

void lane_part_settle_keys(struct lane_part *part)
{
    struct lane_key *key, *next;
    for (key = TAILQ_FIRST(&part->keys); key; key = next) {
        next = TAILQ_NEXT(key, in_part);
        settle_key(key);
    }
}

void lane_part_clear(struct lane_part *part, int64_t seq)
{
    bool moves_on = seq > part->clear_seq;
    part->clear_seq = seq;
    if (moves_on)
        lane_part_settle_keys(part);
}

bool lane_part_must_look(const struct lane_part *part)
{
    return part->look_back || part->top_seq > part->clear_seq;
}

/* To the head of its line, which it is. */
static void stand_again(struct claim *claim)
{
    struct lane_key *key = claim->key;
    BUG_ON(key->busy != claim);
    claim_move(claim, CLAIM_READY);
    key->busy = NULL;
    TAILQ_INSERT_HEAD(&key->line, claim, in_line);
    settle_key(key);
}

static void on_backoff_over(void *arg)
{
    stand_again(arg);
}

bool lane_may_start(const struct claim *claim)
{
    const struct lane_part *part = claim->part;
    return !part || (!part->lost && lane_part_is_sure(part));
}

bool lane_stands_back(struct claim *claim)
{
    struct lane_part *part = claim->part;
    if (!part || (lane_may_start(claim) && !part->leaving))
        return false;
    if (part->lost) {
        lane_line_drop(claim);
    } else if (part->leaving) {
        lane_return(claim);
    } else {
        stand_again(claim);
        lane_fetch_over(claim);
    }
    return true;
}

/* In front of its line; its large body does not wait with it, for that is room in a budget of the whole worker. */
static void wait_for(struct claim *claim, int64_t delay_ms)
{
    claim_move(claim, CLAIM_WAITING);
    if (claim->part->lost) {
        lane_line_drop(claim);
    } else if (claim->part->leaving || !claim->key) {
        lane_return(claim);
    } else {
        lane_fetch_over(claim);
        claim_set_timer(claim, delay_ms, on_backoff_over);
    }
}

void lane_fetch_again(struct claim *claim)
{
    wait_for(claim, FETCH_AGAIN_MS);
}

void lane_wait(struct claim *claim)
{
    struct store_outcome *outcome = &claim->outcome;
    outcome->attempt++;
    outcome->message = NULL;
    claim->unwritten = false;
    claim->settle_repeated = claim->timed_out = false;
    job_reset(&claim->job);
    wait_for(claim, outcome->due_ms - clock_wall_ms());
}
