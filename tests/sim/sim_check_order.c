/* Guarantee 3: in which order handlers start, and ends are recorded. */
#include "sim_checked.h"

#include "base/mem.h"
#include "model/item_class.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- fifo ---- */

/* They stand in one line: of one key, or without a key where that is a line too. */
static bool is_one_line(const struct pg_row *a, const struct pg_row *b)
{
    if (a == b || a->partition != b->partition || strcmp(a->item, b->item) != 0 ||
        !slice_equal(a->content->key, b->content->key))
        return false;
    return b->content->key.len || !item_is_fair(checked_item(b->item));
}

/* `a` was accepted before `b`: in one transaction with it, or before that of `b` began. Of what was accepted at the same time nobody
 * can tell an order. One that is driven again has no place in it any more, nor one whose end the database refused: that has no effect. */
static bool goes_before(const struct pg_row *a, const struct pg_row *b)
{
    if (a->seq >= b->seq || a->run > 1 || b->run > 1 || checked_of(a->id)->refused ||
        !is_one_line(a, b))
        return false;
    return a->committed_us <= b->drawn_us || a->drawn_us == b->drawn_us;
}

static const struct check_run *last_run(const struct pg_row *row)
{
    const struct checked *checked = checked_of(row->id);
    return checked->run_count ? &checked->runs[checked->run_count - 1] : NULL;
}

/* Its handler has ended well, under this lease. */
static bool is_through(const struct pg_row *row, int64_t token)
{
    const struct check_run *run = last_run(row);
    return run && run->over && run->well && run->token == token;
}

static bool is_running(const struct pg_row *row, int64_t token)
{
    const struct check_run *run = last_run(row);
    return run && !run->over && run->token == token;
}

void check_fifo_start(const char *worker, const struct pg_row *row, int64_t token)
{
    const struct pg_partition *lease = pg_partition_of(row->item, (unsigned)row->partition);
    const struct pg_row *other;
    if (!lease || lease->token != token || strcmp(lease->holder, worker) != 0)
        sim_fail("%s runs %s of %s/%d by the lease %lld, which is '%s's %lld", worker,
                 sim_name(row->id), row->item, row->partition, (long long)token,
                 lease ? lease->holder : "", lease ? (long long)lease->token : 0);
    if (row->ended)
        sim_fail("%s runs %s, which has its end", worker, sim_name(row->id));
    bool outbound = checked_item(row->item)->class->outbound;
    TAILQ_FOREACH(other, &postgres.accepted, by_seq)
    {
        if (goes_before(other, row) && !other->ended && (outbound || !is_through(other, token)))
            sim_fail("%s runs %s (seq %lld) of %s before %s (seq %lld) is through", worker,
                     sim_name(row->id), (long long)row->seq, row->item, sim_name(other->id),
                     (long long)other->seq);
        if (is_one_line(other, row) && is_running(other, token))
            sim_fail("%s runs %s of %s while %s of its key runs", worker, sim_name(row->id),
                     row->item, sim_name(other->id));
    }
}

void check_fifo_end(const struct pg_row *row)
{
    const struct pg_row *before;
    const struct check_run *own = checked_of(row->id)->recorded;
    TAILQ_FOREACH(before, &postgres.accepted, by_seq)
    {
        if (!goes_before(before, row))
            continue;
        const struct check_run *earlier = checked_of(before->id)->recorded;
        if (!before->ended)
            sim_fail("%s (seq %lld) ends before %s (seq %lld)", sim_name(row->id),
                     (long long)row->seq, sim_name(before->id), (long long)before->seq);
        else if (earlier && own && own->started_us < earlier->ended_us)
            sim_fail("%s ran before %s was over", sim_name(row->id), sim_name(before->id));
    }
}

/* ---- priority and lifo ---- */

/* A claim of such a queue. */
struct taking {
    TAILQ_ENTRY(taking) link;
    char worker[REDIS_NAME_MAX];
    const struct checked *left; /* the first, by its order, of those that it left waiting */
    const struct checked
        *started; /* the last, by its order, of those that it took and that started */
    size_t count;
    const struct checked *taken[];
};
static TAILQ_HEAD(takings, taking) takings = TAILQ_HEAD_INITIALIZER(takings);

void check_order_end(void)
{
    struct taking *taking;
    while ((taking = TAILQ_FIRST(&takings))) {
        TAILQ_REMOVE(&takings, taking, link);
        free(taking);
    }
}

/* Its priority, and when it was accepted: as its sender knows it, of a child as the log does. */
static bool find_place(const struct checked *checked, int *ret_priority, int64_t *ret_at_ms)
{
    const struct pg_row *row = pg_find(checked->id);
    if (!checked->sent && (!row || !row->is_accepted))
        return false;
    *ret_priority = checked->sent ? checked->sending.priority : row->priority;
    *ret_at_ms = checked->sent ? checked->sending.at_ms : row->received_us / 1000;
    return true;
}

/* schemas/production.md: the newer; the higher level, that with ageing rises by one each time that `priority.ageing` has passed. Of
 * equal ones neither, and of equal levels without ageing the older. */
static bool is_first(const struct item *item, const struct checked *a, const struct checked *b)
{
    int of_a, of_b;
    int64_t a_ms, b_ms, ageing_ms = item->priority.ageing_ms;
    if (!find_place(a, &of_a, &a_ms) || !find_place(b, &of_b, &b_ms))
        return false;
    if (item->queue_type == QUEUE_LIFO)
        return a_ms > b_ms;
    if (ageing_ms) /* (now - at) / ageing + level, with a common denominator and without now */
        return of_a * ageing_ms - a_ms > of_b * ageing_ms - b_ms;
    return of_a > of_b || (of_a == of_b && a_ms < b_ms);
}

void check_claimed(const char *item_id, const char *consumer, const struct uuid *taken,
                   size_t taken_count, const struct uuid *left, size_t left_count)
{
    const struct item *item = checked_item(item_id);
    struct taking *taking = mem_alloc(sizeof(*taking) + taken_count * sizeof(taking->taken[0]));
    snprintf(taking->worker, sizeof(taking->worker), "%s", consumer);
    taking->count = taken_count;
    for (size_t i = 0; i < taken_count; i++)
        taking->taken[i] = checked_of(taken[i]);
    for (size_t i = 0; i < left_count; i++) {
        const struct checked *waits = checked_of(left[i]);
        if (!taking->left || is_first(item, waits, taking->left))
            taking->left = waits;
    }
    TAILQ_INSERT_TAIL(&takings, taking, link);
}

/* The worker's last claim that took it. */
static struct taking *find_taking(const char *worker, const struct checked *checked)
{
    struct taking *taking;
    TAILQ_FOREACH_REVERSE(taking, &takings, takings, link)
    {
        for (size_t i = 0; strcmp(taking->worker, worker) == 0 && i < taking->count; i++) {
            if (taking->taken[i] == checked)
                return taking;
        }
    }
    return NULL;
}

/* Before its handler starts, something has to be read or written for it and not for each of its item. */
static bool starts_late(const struct checked *checked, const struct item *item)
{
    const struct pg_row *row = pg_find(checked->id);
    bool has_row = row && row->is_accepted;
    bool logged = item->persistence.wal_enabled;
    return checked->sending.by_hand || (has_row && !logged) ||
           (has_row && row->content->body.len > MESSAGE_INLINE_MAX);
}

void check_order_start(const char *worker, struct checked *checked, const struct item *item)
{
    struct taking *taking = find_taking(worker, checked);
    if (!taking) {
        sim_fail("%s runs %s of %s, which it never claimed", worker, sim_name(checked->id),
                 item->id);
        return;
    }
    if (taking->left && is_first(item, taking->left, checked))
        sim_fail("%s runs %s of %s, claimed while %s waited, whose turn it was", worker,
                 sim_name(checked->id), item->id, sim_name(taking->left->id));
    if (taking->started && !starts_late(checked, item) && is_first(item, checked, taking->started))
        sim_fail("%s runs %s of %s after %s, with which it was claimed and whose turn comes later",
                 worker, sim_name(checked->id), item->id, sim_name(taking->started->id));
    if (!taking->started || is_first(item, taking->started, checked))
        taking->started = checked;
}
