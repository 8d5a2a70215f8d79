#include "sim_checked.h"

#include "base/bug.h"
#include "base/mem.h"
#include "model/item_class.h"
#include "sim_fleet.h"
#include "sim_productions.h"

#include <stdio.h>
#include <stdlib.h>

#define TAKEN_OVER_US (12 * SIM_SECOND) /* so long after a silence its entries may still be taken */

static const char *const end_words[] = {"completed", "dead_lettered", "expired", "cancelled"};

struct checked *checked_all;
const struct production *checked_production;

struct checked *checked_of(struct uuid id)
{
    struct checked *checked;
    HASH_FIND(hh, checked_all, &id, sizeof(id), checked);
    if (!checked) {
        checked = mem_alloc(sizeof(*checked));
        checked->id = id;
        HASH_ADD(hh, checked_all, id, sizeof(id), checked);
    }
    return checked;
}

const struct item *checked_item(const char *id)
{
    return production_find(checked_production, slice_text(id));
}

void check_begin(const struct production *production)
{
    checked_production = production;
}

void check_end(void)
{
    struct checked *checked, *next;
    HASH_ITER(hh, checked_all, checked, next)
    {
        HASH_DEL(checked_all, checked);
        free(checked);
    }
    check_order_end();
}

void check_sent(struct uuid id, const struct check_sending *sending)
{
    struct checked *checked = checked_of(id);
    if (checked->sent)
        return; /* a repeat of it */
    checked->sent = true;
    checked->sending = *sending;
}

void check_acknowledged(struct uuid id, bool wants_reply)
{
    struct checked *checked = checked_of(id);
    if (!checked->sent)
        sim_fail("%s is acknowledged, which was not sent", sim_name(id));
    checked->acknowledged = true;
    checked->wants_reply |= wants_reply;
}

/* ---- faults ---- */

static uint64_t faults_of(const enum sim_fault *faults, size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += sim.faults[faults[i]];
    return sum;
}
#define FAULTS_OF(list) faults_of(list, sizeof(list) / sizeof(list[0]))

static bool redis_kept_all(void)
{
    return !sim.faults[SIM_REDIS_FLUSHED] && !sim.faults[SIM_REDIS_LOST_WRITES] &&
           !sim.faults[SIM_ENTRY_DELETED];
}

bool check_is_logged(struct uuid id)
{
    const struct pg_row *row = pg_find(id);
    return row && pg_is_unfinished(row);
}

void check_died(struct uuid id)
{
    static const enum sim_fault silences[] = {SIM_WORKER_KILLED, SIM_WORKER_KILLED_BY_MESSAGE,
                                              SIM_WORKER_PAUSED, SIM_REDIS_CUT,
                                              SIM_REDIS_SLOW,    SIM_REDIS_AWAY,
                                              SIM_REDIS_FLUSHED, SIM_REDIS_LOST_WRITES,
                                              SIM_POSTGRES_CUT,  SIM_POSTGRES_SLOW,
                                              SIM_POSTGRES_AWAY};
    checked_of(id)->deaths++;
    if (FAULTS_OF(silences) == 0)
        sim_fail("an attempt of %s is counted as ended with its worker, and all are well",
                 sim_name(id));
}

static bool may_have_been_silent(int64_t until_us)
{
    return until_us && sim.now_us < until_us + TAKEN_OVER_US;
}

void check_taken_over(struct uuid id, int64_t number, const char *worker)
{
    const struct sim_process *process;
    if (may_have_been_silent(redis.silent_until_us))
        return;
    TAILQ_FOREACH(process, &sim_processes, entry)
    {
        if (strcmp(process->name, worker) == 0 && sim_holds(process, number) &&
            !may_have_been_silent(process->silent_until_us))
            sim_fail("%s is taken from %s, which is well and has it in hand", sim_name(id), worker);
    }
}

/* ---- room ---- */

/* Redis and the database were there all the time, and so were those who admit. Where they were not, architecture and gate let
 * more in. */
static bool is_calm(void)
{
    static const enum sim_fault disturbs[] = {
        SIM_DISPATCHER_KILLED, SIM_DISPATCHER_PAUSED, SIM_REDIS_CUT,         SIM_REDIS_SLOW,
        SIM_REDIS_AWAY,        SIM_REDIS_FLUSHED,     SIM_REDIS_LOST_WRITES, SIM_POSTGRES_CUT,
        SIM_POSTGRES_SLOW,     SIM_POSTGRES_AWAY,     SIM_ADMITTED_BLINDLY};
    return FAULTS_OF(disturbs) == 0;
}

void check_admitted(const char *item)
{
    int64_t size = checked_item(item)->queue_size, count = 0;
    const struct pg_row *row;
    if (!is_calm())
        return;
    TAILQ_FOREACH(row, &postgres.accepted, by_seq)
    {
        const struct checked *checked = checked_of(row->id);
        count += strcmp(row->item, item) == 0 && !row->ended && row->run == 1 && checked->sent &&
                 !checked->sending.by_hand;
    }
    if (count > size)
        sim_fail("%lld messages are admitted to %s, it has room for %lld", (long long)count, item,
                 (long long)size);
}

void check_admitted_unlogged(const char *item_id, int64_t depth)
{
    const struct item *item = checked_item(item_id);
    bool only_door = !item->persistence.wal_enabled && !sim.faults[SIM_BEGUN_AGAIN];
    if (only_door && is_calm() && depth > item->queue_size)
        sim_fail("%lld messages are in the queue of %s, it has room for %lld", (long long)depth,
                 item_id, (long long)item->queue_size);
}

/* ---- runs ---- */

void check_run_started(const struct check_start *start)
{
    struct checked *checked = checked_of(start->id);
    const struct pg_row *row = pg_find(start->id);
    sim_say("runs %s of %s, run %d, attempt %d", sim_name(start->id), start->item->id, start->run,
            start->attempt);
    if (row && row->ended && row->run == start->run && row->ended_us < start->claimed_us)
        sim_fail("%s runs %s, which had its end when it was claimed", start->worker,
                 sim_name(start->id));
    if (start->item->queue_type == QUEUE_FIFO && row && row->is_accepted)
        check_fifo_start(start->worker, row, start->lease_token);
    if (start->item->queue_type == QUEUE_PRIORITY || start->item->queue_type == QUEUE_LIFO)
        check_order_start(start->worker, checked, start->item);
    BUG_ON(checked->run_count == RUNS_MAX);
    struct check_run *run = &checked->runs[checked->run_count++];
    *run = (struct check_run){.run = start->run,
                              .attempt = start->attempt,
                              .token = start->lease_token,
                              .started_us = sim.now_us};
    snprintf(run->worker, sizeof(run->worker), "%s", start->worker);
}

void check_run_ended(const char *worker, struct uuid id, bool well)
{
    struct checked *checked = checked_of(id);
    for (size_t i = checked->run_count; i-- > 0;) {
        struct check_run *run = &checked->runs[i];
        if (run->over || strcmp(run->worker, worker) != 0)
            continue;
        run->over = true;
        run->well = well;
        run->ended_us = sim.now_us;
        return;
    }
}

/* ---- ends ---- */

static const struct check_run *find_run(const struct checked *checked,
                                        const struct pg_outcome *outcome)
{
    for (size_t i = checked->run_count; i-- > 0;) {
        const struct check_run *run = &checked->runs[i];
        if (run->over && run->well && run->run == outcome->run &&
            run->attempt == outcome->attempt && strcmp(run->worker, outcome->worker) == 0)
            return run;
    }
    return NULL;
}

void check_settled(struct pg_row *row, const struct pg_outcome *outcome)
{
    struct checked *checked = checked_of(row->id);
    if (!row->is_accepted)
        return;
    const struct item *item = checked_item(row->item);
    const struct pg_partition *lease = pg_partition_of(row->item, (unsigned)row->partition);
    if (item->queue_type == QUEUE_FIFO && (!lease || lease->token != outcome->lease_token))
        sim_fail("%s settles %s by a lease that nobody or another has", outcome->worker,
                 sim_name(row->id));
    if (outcome->end == STORE_RETRY)
        return;
    if (checked->ended_run >= outcome->run)
        sim_fail("run %d of %s ends twice", outcome->run, sim_name(row->id));
    checked->ended_run = outcome->run;
    checked->recorded = NULL;
    if (outcome->end == STORE_COMPLETED) {
        checked->recorded = find_run(checked, outcome);
        if (!checked->recorded)
            sim_fail("%s is completed by attempt %d of %s, which did not end well",
                     sim_name(row->id), outcome->attempt, outcome->worker);
    }
    if (item->queue_type == QUEUE_FIFO)
        check_fifo_end(row);
}

void check_refused(struct uuid id)
{
    checked_of(id)->refused = true;
}

void check_finished(struct uuid id)
{
    checked_of(id)->finished = true;
}

/* Nothing of the item's messages is kept in the store. */
static bool is_unrecorded(const struct item *item)
{
    return !item->persistence.wal_enabled && !item->persistence.store_enabled;
}

void check_published(const char *item, struct uuid id, const char *status, struct body body)
{
    const struct pg_row *row = pg_find(id);
    struct checked *checked = checked_of(id);
    checked->published++;
    checked->published_us = sim.now_us;
    if (is_unrecorded(checked_item(item)))
        return;
    if (row && row->run > 1 && strcmp(status, end_words[STORE_DEAD_LETTERED]) == 0)
        return; /* the end of a run before */
    if (!row || !row->ended)
        sim_fail("a reply of %s is published, which has no end", sim_name(id));
    else if (strcmp(end_words[row->end], status) != 0)
        sim_fail("%s is published as %s, it is %s", sim_name(id), status, end_words[row->end]);
    else if (row->reply && !slice_equal(body_slice(row->reply->body), body_slice(body)))
        sim_fail("%s is published with another reply than its own", sim_name(id));
}

/* ---- callers ---- */

void check_told(struct uuid id, const char *status, int64_t since_us)
{
    const struct checked *checked = checked_of(id);
    const struct pg_row *row = pg_find(id);
    if (checked->published && is_calm() && checked->published_us > since_us &&
        sim.now_us > checked->published_us + SIM_SECOND && !(row && row->is_forgotten))
        sim_fail("the caller of %s is told of its end long after it was published", sim_name(id));
    if (is_unrecorded(checked->sending.item) || (row && row->run > 1))
        return;
    if (!row || !row->ended)
        sim_fail("the caller of %s is told that it is %s, and it has no end", sim_name(id), status);
    else if (strcmp(end_words[row->end], status) != 0)
        sim_fail("the caller of %s is told that it is %s, and it is %s", sim_name(id), status,
                 end_words[row->end]);
}

/* Its end would have been found, unless its reply was published only, and that too large. */
void check_told_late(struct uuid id)
{
    const struct pg_row *row = pg_find(id);
    if (row && row->ended && row->run == 1 && !row->is_forgotten && is_calm() &&
        row->ended_us < sim.now_us - SIM_SECOND)
        sim_fail("the caller of %s is told that its time is up, long after its end", sim_name(id));
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

static void check_repeats(const struct checked *checked)
{
    const struct checked *other;
    const struct pg_row *row = pg_find(checked->id);
    if (uuid_is_none(checked->sending.key_of_repeats) || !row || !row->is_accepted)
        return;
    for (other = checked->hh.next; other; other = other->hh.next) {
        row = pg_find(other->id);
        if (row && row->is_accepted &&
            uuid_equal(other->sending.key_of_repeats, checked->sending.key_of_repeats))
            sim_fail("%s and %s are one message sent twice", sim_name(checked->id),
                     sim_name(other->id));
    }
}

/* Of a good message each attempt but the last was lost with its worker or while that slept, and they were too many. */
static bool may_be_given_up(const struct checked *checked, const struct pg_row *row)
{
    int lost = (int)checked->deaths, most = (int)checked_item(row->item)->retry.max_attempts;
    for (size_t i = 0; i < checked->run_count; i++)
        lost += checked->runs[i].over && !checked->runs[i].well;
    return row->ended_attempt >= most && lost >= most;
}

static void check_children(const struct pg_row *row)
{
    bool routes = checked_item(row->item)->class->id == CLASS_HL7_ROUTING_ENGINE;
    size_t due = routes && row->end == STORE_COMPLETED ? SIM_ROUTES : 0;
    if (row->children != due)
        sim_fail("%s ended as %d with %zu children", sim_name(row->id), (int)row->end,
                 row->children);
    if (children_of(row) != due)
        sim_fail("%s has %zu children, it is to have %zu", sim_name(row->id), children_of(row),
                 due);
}

static void check_row(const struct pg_row *row)
{
    const struct checked *checked = checked_of(row->id);
    bool good = row->run > 1 ? checked->sending.good_again : checked->sending.good;
    if (!row->ended)
        sim_fail("%s of %s has no end", sim_name(row->id), row->item);
    if (good && row->end != STORE_COMPLETED && !may_be_given_up(checked, row))
        sim_fail("%s, which is good, ended as %d in run %d: %s", sim_name(row->id), (int)row->end,
                 row->run, row->error);
    check_children(row);
    /* Without the store a reply goes with its end; an entry that Redis lost leads nobody to publish what has its end. */
    bool kept = checked_item(row->item)->persistence.store_enabled && redis_kept_all();
    if (kept && checked->wants_reply && row->end == STORE_COMPLETED && !checked->published)
        sim_fail("the reply of %s was never published", sim_name(row->id));
}

/* Redis alone keeps it until its end. */
static void check_unlogged(const struct checked *checked)
{
    const struct item *item = checked->sending.item;
    const struct pg_row *row = pg_find(checked->id);
    bool ended_well = false;
    for (size_t i = 0; i < checked->run_count; i++)
        ended_well |= checked->runs[i].over && checked->runs[i].well;
    if (!checked->finished)
        sim_fail("%s of %s was acknowledged, and its entry was never finished",
                 sim_name(checked->id), item->id);
    if (item->persistence.store_enabled && (!row || !row->ended))
        sim_fail("%s of %s was acknowledged, and its end is nowhere", sim_name(checked->id),
                 item->id);
    else if (item->persistence.store_enabled && !row->is_accepted && !checked->refused)
        sim_fail("%s of %s has its end, and its row is nowhere", sim_name(checked->id), item->id);
    if (!item->persistence.store_enabled && checked->sending.good && !ended_well)
        sim_fail("%s of %s, which is good, was finished and never ended well",
                 sim_name(checked->id), item->id);
}

void check_all(void)
{
    const struct checked *checked;
    const struct pg_row *row;
    for (checked = checked_all; checked; checked = checked->hh.next) {
        row = pg_find(checked->id);
        check_repeats(checked);
        if (!checked->acknowledged)
            continue;
        if (checked->sending.item->persistence.wal_enabled && (!row || !row->is_accepted))
            sim_fail("%s was acknowledged and is nowhere", sim_name(checked->id));
        if (!checked->sending.item->persistence.wal_enabled && redis_kept_all())
            check_unlogged(checked);
    }
    TAILQ_FOREACH(row, &postgres.accepted, by_seq)
    {
        check_row(row);
    }
}
