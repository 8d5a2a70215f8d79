#include "sim_check.h"

#include "base/bug.h"
#include "base/mem.h"
#include "model/item_class.h"

#include <stdio.h>
#include <stdlib.h>

#define RUNS_MAX 64

struct run {
    char worker[REDIS_NAME_MAX];
    int attempt;
    int64_t token; /* of its partition's lease */
    int64_t started_us, ended_us;
    bool over, well;
};

/* A message as it is seen from outside. */
struct checked {
    struct uuid id;
    UT_hash_handle hh;
    bool acknowledged, good, wants_reply;
    const struct item *item;
    unsigned published;
    struct run runs[RUNS_MAX];
    size_t run_count;
    const struct run *recorded; /* the run that ended it */
};

static struct checked *all;
static const struct production *production;

static struct checked *checked_of(struct uuid id)
{
    struct checked *checked;
    HASH_FIND(hh, all, &id, sizeof(id), checked);
    if (!checked) {
        checked = mem_alloc(sizeof(*checked));
        checked->id = id;
        HASH_ADD(hh, all, id, sizeof(id), checked);
    }
    return checked;
}

void check_begin(const struct production *of)
{
    production = of;
}

void check_end(void)
{
    struct checked *checked, *next;
    HASH_ITER(hh, all, checked, next)
    {
        HASH_DEL(all, checked);
        free(checked);
    }
}

void check_acknowledged(struct uuid id, const struct item *item, bool good, bool wants_reply)
{
    struct checked *checked = checked_of(id);
    checked->acknowledged = true;
    checked->item = item;
    checked->good = good;
    checked->wants_reply = wants_reply;
}

/* ---- order ---- */

static const struct item *item_of(const struct pg_row *row)
{
    return production_find(production, slice_text(row->item));
}

/* Both are of one key, and `a` was accepted before `b`: in one transaction with it, or before that of `b` began. Of what was accepted
 * at the same time nobody can tell an order. */
static bool goes_before(const struct pg_row *a, const struct pg_row *b)
{
    if (a == b || a->seq >= b->seq || a->partition != b->partition ||
        strcmp(a->item, b->item) != 0 || !slice_equal(a->content->key, b->content->key))
        return false;
    if (b->content->key.len == 0 && item_is_fair(item_of(b)))
        return false;
    return a->committed_us <= b->drawn_us || a->drawn_us == b->drawn_us;
}

static const struct run *last_run(const struct checked *checked)
{
    return checked->run_count ? &checked->runs[checked->run_count - 1] : NULL;
}

/* Its handler has ended well in this worker, under this lease. */
static bool is_through(const struct pg_row *row, const char *worker, int64_t token)
{
    const struct run *run = last_run(checked_of(row->id));
    return run && run->over && run->well && run->token == token && strcmp(run->worker, worker) == 0;
}

static void check_fifo_start(const char *worker, const struct pg_row *row, int64_t token)
{
    const struct pg_partition *lease = pg_partition_of(row->item, (unsigned)row->partition);
    const struct pg_row *before;
    if (lease && strcmp(lease->holder, worker) != 0)
        sim_fail("%s runs %s of %s/%d, which is %s's", worker, sim_name(row->id), row->item,
                 row->partition, lease->holder);
    if (row->ended)
        sim_fail("%s runs %s, which has its end", worker, sim_name(row->id));
    bool outbound = item_of(row)->class->outbound;
    TAILQ_FOREACH(before, &postgres.accepted, by_seq)
    {
        if (goes_before(before, row) && !before->ended &&
            (outbound || !is_through(before, worker, token)))
            sim_fail("%s runs %s (seq %lld) of %s before %s (seq %lld) is through", worker,
                     sim_name(row->id), (long long)row->seq, row->item, sim_name(before->id),
                     (long long)before->seq);
    }
}

void check_run_started(const char *worker, const struct item *item, struct uuid id, int attempt)
{
    struct checked *checked = checked_of(id);
    const struct pg_row *row = pg_find(id);
    const struct pg_partition *lease = NULL;
    bool fifo = item->queue_type == QUEUE_FIFO && row && row->is_accepted;
    sim_say("runs %s of %s, attempt %d", sim_name(id), item->id, attempt);
    if (fifo) {
        lease = pg_partition_of(row->item, (unsigned)row->partition);
        check_fifo_start(worker, row, lease ? lease->token : 0);
    }
    BUG_ON(checked->run_count == RUNS_MAX);
    struct run *run = &checked->runs[checked->run_count++];
    *run = (struct run){
        .attempt = attempt, .token = lease ? lease->token : 0, .started_us = sim.now_us};
    snprintf(run->worker, sizeof(run->worker), "%s", worker);
}

void check_run_ended(const char *worker, struct uuid id, bool well)
{
    struct checked *checked = checked_of(id);
    for (size_t i = checked->run_count; i-- > 0;) {
        struct run *run = &checked->runs[i];
        if (run->over || strcmp(run->worker, worker) != 0)
            continue;
        run->over = true;
        run->well = well;
        run->ended_us = sim.now_us;
        return;
    }
}

/* ---- ends ---- */

static const struct run *find_run(const struct checked *checked, const struct pg_outcome *outcome)
{
    for (size_t i = checked->run_count; i-- > 0;) {
        const struct run *run = &checked->runs[i];
        if (run->over && run->well && run->attempt == outcome->attempt &&
            strcmp(run->worker, outcome->worker) == 0)
            return run;
    }
    return NULL;
}

static void check_end_order(const struct pg_row *row, const struct checked *checked)
{
    const struct pg_row *before;
    TAILQ_FOREACH(before, &postgres.accepted, by_seq)
    {
        if (!goes_before(before, row))
            continue;
        const struct run *earlier = checked_of(before->id)->recorded;
        if (!before->ended)
            sim_fail("%s (seq %lld) ends before %s (seq %lld)", sim_name(row->id),
                     (long long)row->seq, sim_name(before->id), (long long)before->seq);
        else if (earlier && checked->recorded && checked->recorded->started_us < earlier->ended_us)
            sim_fail("%s ran before %s was over", sim_name(row->id), sim_name(before->id));
    }
}

void check_settled(struct pg_row *row, const struct pg_outcome *outcome)
{
    struct checked *checked = checked_of(row->id);
    const struct item *item = item_of(row);
    if (!row->is_accepted)
        return;
    if (item->queue_type == QUEUE_FIFO && !outcome->lease_token)
        sim_fail("%s of a fifo item is settled without a lease", sim_name(row->id));
    if (outcome->end == STORE_RETRY)
        return;
    if (outcome->end == STORE_COMPLETED) {
        checked->recorded = find_run(checked, outcome);
        if (!checked->recorded)
            sim_fail("%s is completed by attempt %d of %s, which did not end well",
                     sim_name(row->id), outcome->attempt, outcome->worker);
    }
    if (item->queue_type == QUEUE_FIFO)
        check_end_order(row, checked);
}

/* Nothing of the item's messages is kept in the store. */
static bool is_unrecorded(const struct item *item)
{
    return !item->persistence.wal_enabled && !item->persistence.store_enabled;
}

void check_published(const char *item, struct uuid id, const char *status, struct body body)
{
    static const char *const words[] = {"completed", "dead_lettered", "expired", "cancelled"};
    const struct pg_row *row = pg_find(id);
    checked_of(id)->published++;
    if (is_unrecorded(production_find(production, slice_text(item))))
        return;
    if (!row || !row->ended)
        sim_fail("a reply of %s is published, which has no end", sim_name(id));
    else if (strcmp(words[row->end], status) != 0)
        sim_fail("%s is published as %s, it is %s", sim_name(id), status, words[row->end]);
    else if (row->reply && !slice_equal(body_slice(row->reply->body), body_slice(body)))
        sim_fail("%s is published with another reply than its own", sim_name(id));
}

void check_claimed(const struct queue_name *name, const struct redis_stream *stream,
                   const struct redis_entry *entry)
{
    const struct redis_entry *other;
    TAILQ_FOREACH(other, &stream->entries, link)
    {
        if (other->consumer[0] || other == entry)
            continue;
        if (name->type == QUEUE_PRIORITY && !name->ageing_ms && other->priority > entry->priority)
            sim_fail("%s of priority %d is claimed while %s of %d waits", sim_name(entry->id),
                     entry->priority, sim_name(other->id), other->priority);
        if (name->type == QUEUE_LIFO && other->number > entry->number)
            sim_fail("%s is claimed while the newer %s waits", sim_name(entry->id),
                     sim_name(other->id));
    }
}

/* ---- everything ---- */

static size_t children_of(const struct pg_row *parent)
{
    const struct pg_row *row;
    size_t count = 0;
    TAILQ_FOREACH(row, &postgres.accepted, by_seq)
    {
        count += uuid_equal(row->parent, parent->id);
    }
    return count;
}

static void check_repeats(const struct pg_row *row)
{
    const struct pg_row *other;
    TAILQ_FOREACH(other, &postgres.accepted, by_seq)
    {
        if (other != row && !uuid_is_none(row->dedup_key) &&
            uuid_equal(row->dedup_key, other->dedup_key))
            sim_fail("%s and %s are one message sent twice", sim_name(row->id),
                     sim_name(other->id));
    }
}

/* Who was in the hands of so many that died is taken for their killer. */
static bool may_be_given_up(void)
{
    return sim.faults[SIM_WORKER_KILLED] + sim.faults[SIM_WORKER_KILLED_BY_MESSAGE] +
               sim.faults[SIM_WORKER_PAUSED] >
           6;
}

static void check_row(const struct pg_row *row)
{
    struct checked *checked = checked_of(row->id);
    if (!row->ended)
        sim_fail("%s of %s has no end", sim_name(row->id), row->item);
    if (checked->good && row->end != STORE_COMPLETED && !may_be_given_up())
        sim_fail("%s, which is good, ended as %d: %s", sim_name(row->id), (int)row->end,
                 row->error);
    check_repeats(row);
    if (children_of(row) != row->children)
        sim_fail("%s has %zu children, its end has %zu", sim_name(row->id), children_of(row),
                 row->children);
    bool routes = item_of(row)->class->id == CLASS_HL7_ROUTING_ENGINE;
    if ((row->children > 0) != (routes && row->end == STORE_COMPLETED))
        sim_fail("%s ended as %d with %zu children", sim_name(row->id), (int)row->end,
                 row->children);
    /* Without the store a reply goes with its end; an entry that Redis lost leads nobody to publish what has its end. */
    bool kept = item_of(row)->persistence.store_enabled && !sim.faults[SIM_REDIS_FLUSHED] &&
                !sim.faults[SIM_REDIS_LOST_WRITES];
    if (kept && checked->wants_reply && row->end == STORE_COMPLETED && !checked->published)
        sim_fail("the reply of %s was never published", sim_name(row->id));
}

void check_all(void)
{
    const struct checked *checked;
    const struct pg_row *row;
    for (checked = all; checked; checked = checked->hh.next) {
        row = pg_find(checked->id);
        if (checked->acknowledged && checked->item->persistence.wal_enabled &&
            (!row || !row->is_accepted))
            sim_fail("%s was acknowledged and is nowhere", sim_name(checked->id));
    }
    TAILQ_FOREACH(row, &postgres.accepted, by_seq)
    {
        check_row(row);
    }
}
