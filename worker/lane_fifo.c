/* fifo: strict order within each ordering key, by partitions of which each has one owner in the fleet.
 *
 *   a partition:  owned ──store says another's──▶ lost ──nothing in hand──▶ freed
 *                   └──wanted elsewhere, drain──▶ leaving ──nothing in hand──▶ disowning ──▶ freed
 *
 * Looked-up claims stand in the line of their key: by seq, or, where messages have no row before their end, by their place in the stream. The head of a line runs when the one before it is through: when its handler
 * has ended well, or, where it failed or its class has effects outside, when its end is recorded. A failed head keeps its line
 * and runs again in place. What is left of a lost partition settles nothing: its lease's token is another by then. How
 * claims come in is in fifo_cycle.c. */
#include "lane_fifo.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "worker.h"

#include <stdlib.h>

#define TURN_MAX 256u      /* claims that one turn of the loop starts */
#define FETCH_AGAIN_MS 500 /* after a large body that did not come */
/* A partition is looked at in every tenth sweep. All that comes is told, so what is found then is rare: the signal was lost, a person
 * added it, or a claim of an owner before was carried out after ours, since the network held it up. */
#define SWEEPS 10

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

static bool comes_before(const struct claim *a, const struct claim *b)
{
    return lane_is_logged(a->lane)
               ? a->seq < b->seq
               : queue_entry_id_compare(a->entry->entry_id, b->entry->entry_id) < 0;
}

/* Behind its equals; what comes in order is there at once. */
static void insert_in_line(struct lane_key *key, struct claim *claim)
{
    struct claim *before = TAILQ_LAST(&key->line, claim_line);
    while (before && comes_before(claim, before))
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

static void drop(struct claim *claim)
{
    metric_add(claim->lane->metrics.superseded, 1);
    claim_free(claim);
}

void lane_line_up(struct claim *claim)
{
    struct lane_part *part = claim->part;
    claim_move(claim, CLAIM_READY);
    if (part->lost) {
        drop(claim);
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

static void turn(void *arg)
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

static void settle_keys(struct lane_part *part)
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
        settle_keys(part);
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
        drop(claim);
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
        drop(claim);
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

/* ---- partitions ---- */

struct lane_part *lane_part_find(struct lane *lane, unsigned number)
{
    struct lane_part *part;
    TAILQ_FOREACH(part, &lane->fifo->parts, link)
    {
        if (part->number == number && !part->lost)
            return part;
    }
    return NULL;
}

static void on_told(void *arg, const struct err *err)
{
    (void)arg;
    (void)err; /* a wake signal that comes in vain costs the sender a second */
}

static void free_part(struct lane_part *part)
{
    struct lane *lane = part->lane;
    TAILQ_REMOVE(&lane->fifo->parts, part, link);
    free(part);
}

static void on_disowned(void *arg, const struct err *err)
{
    struct lane_part *part = arg;
    struct lane *lane = part->lane;
    (void)err; /* what was not given up lapses, or is told again as wanted */
    part->disowning = false;
    part->lost = true;
    free_part(part);
    lane_pump(lane);
}

static void leave_queue(struct lane_part *part)
{
    struct worker *worker = part->lane->worker;
    if (worker->queue_up && !worker->stopped)
        worker->queue->ops->leave(worker->queue, queue_name_of(part->lane->item, part->number),
                                  worker->id, on_told, NULL);
}

/* Gives a lease up. False: the store is away. */
static bool tell_store(struct lane *lane, const struct store_owned *owned, store_done *done,
                       void *arg)
{
    struct worker *worker = lane->worker;
    bool there = worker->store_up && !worker->stopped;
    if (there)
        worker->store->ops->disown(worker->store, worker->id, owned, 1, done, arg);
    return there;
}

void lane_part_settle(struct lane_part *part)
{
    if (part->held || part->in_cycle || part->disowning)
        return;
    if (part->lost) {
        free_part(part);
    } else if (part->leaving) {
        part->given_up = (struct store_owned){.item = part->lane->item->id,
                                              .pattern = part->lane->name.pattern,
                                              .partition = part->number,
                                              .token = part->token};
        part->disowning = true;
        leave_queue(part);
        if (!tell_store(part->lane, &part->given_up, on_disowned, part))
            on_disowned(part, &(const struct err){.code = ERR_UNAVAILABLE});
    }
}

/* Those that do not run yet go; `let_go` frees the claim. */
static void let_idle_go(struct lane_part *part, void (*let_go)(struct claim *))
{
    struct claim *claim, *next;
    part->in_cycle++; /* stays while its claims go */
    for (claim = TAILQ_FIRST(&part->claims); claim; claim = next) {
        next = TAILQ_NEXT(claim, in_part);
        if (claim->state == CLAIM_READY || claim->state == CLAIM_WAITING || claim->fetch_waits) {
            claim_cancel_timer(claim);
            let_go(claim);
        }
    }
    part->in_cycle--;
}

/* What they do would be recorded by nobody, and is done once more elsewhere. */
static void take_running_back(struct lane_part *part)
{
    struct claim *claim, *next;
    for (claim = TAILQ_FIRST(&part->claims); claim; claim = next) {
        next = TAILQ_NEXT(claim, in_part);
        if (claim->state == CLAIM_RUNNING)
            lane_take_back(claim);
    }
}

static void lose(struct lane_part *part)
{
    log_info("partition_lost", LOG_WORD("item", part->lane->item->id),
             LOG_INT("partition", part->number));
    part->lost = true;
    leave_queue(part);
    part->in_cycle++; /* stays while its claims go */
    let_idle_go(part, drop);
    take_running_back(part);
    part->in_cycle--;
    lane_part_settle(part);
}

void lane_refused_by_lease(struct claim *claim)
{
    struct lane_part *part = claim->part;
    part->in_cycle++; /* stays while its claims go */
    if (!part->lost)
        lose(part); /* the store will say so */
    drop(claim);
    part->in_cycle--;
    lane_part_settle(part);
}

static void leave(struct lane_part *part)
{
    if (part->leaving)
        return;
    part->leaving = true;
    let_idle_go(part, lane_return);
    lane_part_settle(part);
}

/* It is still ours. */
static void keep(struct lane_part *part, int64_t until_us)
{
    bool was_sure = lane_part_is_sure(part);
    part->until_us = until_us;
    if (!was_sure)
        settle_keys(part); /* what stands before the gate may run again */
}

static void gain(struct lane *lane, const struct store_owned *owned, int64_t until_us)
{
    struct lane_part *part = mem_alloc(sizeof(*part));
    part->lane = lane;
    part->number = owned->partition;
    part->token = owned->token;
    part->until_us = until_us;
    part->woken = part->inheriting = true;
    part->look_back = lane_is_logged(lane);
    part->clear_seq = part->look_back ? 0 : INT64_MAX;
    TAILQ_INIT(&part->claims);
    TAILQ_INIT(&part->keys);
    TAILQ_INSERT_TAIL(&lane->fifo->parts, part, link);
    log_debug("partition_owned", LOG_WORD("item", lane->item->id),
              LOG_INT("partition", part->number));
}

static const struct store_owned *find_owned(const struct store_owned *owned, size_t count,
                                            const struct lane_part *part)
{
    for (size_t i = 0; i < count; i++) {
        if (owned[i].partition == part->number && owned[i].token == part->token)
            return &owned[i];
    }
    return NULL;
}

void lane_own(struct lane *lane, const struct store_owned *owned, size_t count, int64_t until_us)
{
    struct lane_fifo *fifo = lane->fifo;
    struct lane_part *part, *next;
    if (!fifo)
        return;
    for (part = TAILQ_FIRST(&fifo->parts); part; part = next) {
        next = TAILQ_NEXT(part, link);
        const struct store_owned *ours = find_owned(owned, count, part);
        if (part->lost || part->disowning)
            continue;
        if (!ours) {
            lose(part);
            continue;
        }
        keep(part, until_us); /* what is in hand goes on until it has gone */
        if (ours->wanted)
            leave(part);
    }
    for (size_t i = 0; i < count && !fifo->leaving; i++) {
        if (lane_part_find(lane, owned[i].partition))
            continue;
        if (owned[i].wanted)
            tell_store(lane, &owned[i], on_told, NULL); /* it did not hear of it */
        else
            gain(lane, &owned[i], until_us);
    }
    lane_pump(lane);
}

void lane_look_anew(struct lane *lane)
{
    struct lane_part *part;
    if (!lane->fifo)
        return;
    TAILQ_FOREACH(part, &lane->fifo->parts, link)
    {
        part->look_back = lane_is_logged(lane);
        part->clear_seq = part->look_back ? 0 : INT64_MAX;
        part->whole_seq = 0;
    }
}

bool lane_has_parts(const struct lane *lane)
{
    return lane->fifo && !TAILQ_EMPTY(&lane->fifo->parts);
}

bool lane_leaves_parts(const struct lane *lane)
{
    return lane->fifo && lane->fifo->leaving;
}

void lane_disown(struct lane *lane)
{
    struct lane_part *part, *next;
    if (!lane->fifo)
        return;
    lane->fifo->leaving = true;
    for (part = TAILQ_FIRST(&lane->fifo->parts); part; part = next) {
        next = TAILQ_NEXT(part, link);
        if (!part->lost)
            leave(part);
    }
}

/* ---- life ---- */

void lane_fifo_wake(struct lane *lane, unsigned partition)
{
    struct lane_part *part = lane_part_find(lane, partition);
    if (part)
        part->woken = true;
}

void lane_fifo_sweep(struct lane *lane)
{
    struct lane_fifo *fifo = lane->fifo;
    struct lane_part *part;
    fifo->sweeps++;
    TAILQ_FOREACH(part, &fifo->parts, link)
    {
        part->futile = false;
        if (part->lost || (fifo->sweeps + part->number) % SWEEPS)
            continue;
        part->woken = part->inheriting = true;
        lane_promote(lane, part->number);
    }
    lane_pump(lane);
}

void lane_fifo_wake_all(struct lane *lane)
{
    struct lane_part *part;
    TAILQ_FOREACH(part, &lane->fifo->parts, link)
    {
        part->woken = true;
        part->futile = false;
    }
    lane_pump(lane);
}

/* Answers that the lost link owed us may have been claims. */
void lane_fifo_link_up(struct lane *lane)
{
    struct lane_part *part;
    TAILQ_FOREACH(part, &lane->fifo->parts, link)
    {
        part->inheriting = true;
        part->look_back = lane_is_logged(lane);
    }
    lane_fifo_wake_all(lane);
}

void lane_fifo_init(struct lane *lane)
{
    lane->fifo = mem_alloc(sizeof(*lane->fifo));
    TAILQ_INIT(&lane->fifo->parts);
    TAILQ_INIT(&lane->fifo->runnable);
    lane->fifo->sweeps = (unsigned)random_below(SWEEPS);
    loop_task_init(&lane->fifo->turn, lane->worker->loop, turn, lane);
}

/* After the last claim is gone. */
void lane_fifo_done(struct lane *lane)
{
    struct lane_part *part;
    if (!lane->fifo)
        return;
    while ((part = TAILQ_FIRST(&lane->fifo->parts)))
        free_part(part);
    loop_task_done(&lane->fifo->turn);
    fifo_cycle_free(lane->fifo->cycle);
    free(lane->fifo);
    lane->fifo = NULL;
}

bool lane_fifo_quiet(const struct lane *lane)
{
    return !lane->fifo ||
           (!lane->fifo->cycle && (!lane->fifo->leaving || TAILQ_EMPTY(&lane->fifo->parts)));
}
