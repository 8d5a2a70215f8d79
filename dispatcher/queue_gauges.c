#include "queue_gauges.h"

#include "base/clock.h"
#include "base/mem.h"
#include "queue_sum.h"

#include <stdlib.h>

#define READ_MS 1000
#define COUNT_SHARE                                                                                \
    20 /* counting in the database walks the backlog: at most this part of the time */

#define ASK_MAX 512 /* partitions asked in a second; an item's are asked together, however many */

struct queue_gauge {
    const struct item *item;     /* held */
    unsigned partitions, shared; /* queue_sum_ask */
    bool dropped;                /* freed with its last answer */
    bool known;                  /* `last` was read */
    struct queue_depth last;
    int64_t dead_letters;
    struct queue_sum sum; /* being asked while `unanswered` */
    struct metric *depth, *oldest, *in_hand, *delayed, *dead;
};

/* ---- one of them ---- */

static struct queue_gauge *new_gauge(struct metrics *metrics, const struct item *item)
{
    struct queue_gauge *gauge = mem_alloc(sizeof(*gauge));
    struct metric_label labels[] = {{"item", item->id},
                                    {"pattern", messaging_pattern_words[item->messaging_pattern]}};
    gauge->item = item_hold(item);
    gauge->depth = metrics_gauge(metrics, "hie_queue_depth",
                                 "Accepted and unfinished messages in the queue", labels, 2);
    gauge->oldest =
        metrics_gauge(metrics, "hie_queue_oldest_seconds", "Age of the oldest of them", labels, 2);
    gauge->in_hand =
        metrics_gauge(metrics, "hie_queue_in_hand", "Entries that workers hold", labels, 2);
    gauge->delayed =
        metrics_gauge(metrics, "hie_queue_delayed", "Entries that wait for a retry", labels, 2);
    gauge->dead = metrics_gauge(metrics, "hie_dead_letters", "Dead letters", labels, 2);
    return gauge;
}

static void free_gauge(struct queue_gauge *gauge)
{
    item_release(gauge->item);
    free(gauge);
}

static void show(struct queue_gauge *gauge)
{
    const struct queue_depth *now = &gauge->last;
    metric_set(gauge->depth, (double)(now->waiting + now->in_hand + now->delayed));
    metric_set(gauge->in_hand, (double)now->in_hand);
    metric_set(gauge->delayed, (double)now->delayed);
    int64_t now_ms = clock_wall_ms(), oldest_ms = now->oldest_at_ms;
    bool aged = oldest_ms > 0 &&
                oldest_ms < now_ms; /* the entry's own word: a person may have written it */
    metric_set(gauge->oldest, aged ? (double)(now_ms - oldest_ms) / 1000 : 0);
}

/* Its queue is gone: the series stay, as empty. */
static void drop(struct queue_gauge *gauge)
{
    gauge->last = (struct queue_depth){0};
    show(gauge);
    metric_set(gauge->dead, 0);
    gauge->dropped = true;
    if (gauge->sum.unanswered == 0)
        free_gauge(gauge);
}

static void on_sum(void *arg)
{
    struct queue_gauge *gauge = arg;
    if (gauge->dropped) {
        free_gauge(gauge);
    } else if (!gauge->sum.failed) {
        gauge->known = true;
        gauge->last = gauge->sum.depth;
        show(gauge);
    }
}

/* ---- which ones ---- */

static bool is_of(const struct queue_gauge *gauge, const struct item *item)
{
    return gauge && gauge->item->messaging_pattern == item->messaging_pattern &&
           strcmp(gauge->item->id, item->id) == 0;
}

/* The list that is being replaced. */
struct former {
    const struct production *production;
    struct queue_gauge **list;
    size_t count;
};

static size_t place_in(const struct former *former, const struct item *item)
{
    const struct item *same =
        former->production ? production_find(former->production, slice_text(item->id)) : NULL;
    if (same && is_of(former->list[same->index], item))
        return same->index;
    size_t at = former->production ? former->production->item_count : 0;
    while (at < former->count && !is_of(former->list[at], item))
        at++;
    return at;
}

/* The former one, or a new one. */
static struct queue_gauge *add(struct queue_gauges *gauges, const struct former *former,
                               const struct item *item, unsigned partitions, unsigned shared)
{
    size_t at = place_in(former, item);
    struct queue_gauge *gauge = at < former->count ? former->list[at] : NULL;
    if (gauge) {
        const struct item *before = gauge->item;
        former->list[at] = NULL;
        gauge->item = item_hold(item);
        item_release(before);
    } else {
        gauge = new_gauge(gauges->metrics, item);
    }
    gauge->partitions = partitions;
    gauge->shared = shared;
    gauges->list[gauges->count++] = gauge;
    return gauge;
}

/* Dead letters are the item's, whatever its pattern. */
static void add_item(struct queue_gauges *gauges, const struct former *former,
                     const struct item *item, unsigned partitions)
{
    const struct item *same =
        former->production ? production_find(former->production, slice_text(item->id)) : NULL;
    int64_t dead_letters = 0;
    if (same && former->list[same->index])
        dead_letters = former->list[same->index]->dead_letters;
    struct queue_gauge *gauge = add(gauges, former, item, partitions, 0);
    gauge->dead_letters = dead_letters;
    metric_set(gauge->dead, (double)dead_letters);
}

static void add_finishing(struct queue_gauges *gauges, const struct former *former,
                          const struct queue_pair *pair)
{
    struct queue_gauge *gauge =
        add(gauges, former, pair->before, pair->before_partitions, pair->now_partitions);
    gauge->dead_letters = 0;
    metric_set(gauge->dead, 0);
}

/* Of items that were removed: what they had is being finished, or they are over. */
static void add_rest(struct queue_gauges *gauges, const struct former *former)
{
    for (size_t i = 0; i < former->count; i++) {
        if (!former->list[i])
            continue;
        const struct item *item = former->list[i]->item;
        struct queue_pair pair = queue_pair_of(gauges->fleet, NULL, item->id);
        bool is_finishing = !production_find(gauges->production, slice_text(item->id)) &&
                            pair.before && is_of(former->list[i], pair.before);
        if (is_finishing) {
            gauges->list[gauges->count++] = former->list[i];
            former->list[i]->partitions = pair.before_partitions;
        } else {
            drop(former->list[i]);
        }
    }
}

static void arrange(struct queue_gauges *gauges, struct production *production)
{
    struct production *before = gauges->production;
    struct former former = {before, gauges->list, gauges->count};
    gauges->rearrange = false;
    gauges->production = production_ref(production);
    gauges->list =
        mem_array(2 * production->item_count + former.count, sizeof(struct queue_gauge *));
    gauges->count = 0;
    for (size_t i = 0; i < production->item_count; i++) {
        const struct item *item = &production->items[i];
        struct queue_pair pair = queue_pair_of(gauges->fleet, item, item->id);
        add_item(gauges, &former, item, pair.now_partitions);
    }
    for (size_t i = 0; gauges->fleet && i < production->item_count; i++) {
        const struct item *item = &production->items[i];
        struct queue_pair pair = queue_pair_of(gauges->fleet, item, item->id);
        if (pair.before)
            add_finishing(gauges, &former, &pair);
    }
    add_rest(gauges, &former);
    free(former.list);
    production_free(before);
}

/* ---- reading ---- */

/* As many as a second allows; the next second goes on behind them. */
static void ask_some(struct queue_gauges *gauges)
{
    int64_t left = ASK_MAX;
    for (size_t i = 0; left > 0 && i < gauges->count; i++) {
        gauges->next = gauges->next < gauges->count ? gauges->next : 0;
        struct queue_gauge *gauge = gauges->list[gauges->next++];
        left -= gauge->partitions;
        if (gauge->sum.unanswered == 0)
            queue_sum_ask(&gauge->sum, gauges->queue, gauge->item, gauge->partitions, gauge->shared,
                          on_sum, gauge);
    }
}

static void on_counts(void *arg, const struct err *err, const struct store_count *counts,
                      size_t count)
{
    struct queue_gauges *gauges = arg;
    int64_t now = clock_mono_us();
    gauges->counting = false;
    gauges->count_after_us = now + (now - gauges->counted_us) * COUNT_SHARE;
    for (size_t i = 0; err->code == ERR_NONE && i < gauges->production->item_count; i++) {
        struct queue_gauge *gauge = gauges->list[i];
        gauge->dead_letters = 0;
        for (size_t j = 0; j < count; j++) {
            if (strcmp(counts[j].item, gauge->item->id) == 0)
                gauge->dead_letters = counts[j].count;
        }
        metric_set(gauge->dead, (double)gauge->dead_letters);
    }
}

static void read_all(void *arg)
{
    struct queue_gauges *gauges = arg;
    loop_timer_set(&gauges->timer, READ_MS);
    if (gauges->rearrange)
        arrange(gauges, gauges->production);
    if (gauges->queue_up)
        ask_some(gauges);
    int64_t now = clock_mono_us();
    if (gauges->store_up && !gauges->counting && now >= gauges->count_after_us) {
        gauges->counting = true;
        gauges->counted_us = now;
        gauges->store->ops->dead_counts(gauges->store, on_counts, gauges);
    }
}

/* ---- what others ask ---- */

static const struct queue_gauge *find(const struct queue_gauges *gauges, const struct item *item)
{
    const struct item *own = production_find(gauges->production, slice_text(item->id));
    return own ? gauges->list[own->index] : NULL;
}

int64_t queue_gauges_dead_letters(const struct queue_gauges *gauges, const struct item *item)
{
    const struct queue_gauge *gauge = find(gauges, item);
    return gauge ? gauge->dead_letters : 0;
}

bool queue_gauges_depth(const struct queue_gauges *gauges, const struct item *item,
                        struct queue_depth *ret)
{
    const struct queue_gauge *gauge = find(gauges, item);
    if (!gauges->queue_up || !gauge || !gauge->known)
        return false;
    struct queue_depth sum = gauge->last;
    for (size_t i = gauges->production->item_count; i < gauges->count; i++) {
        if (strcmp(gauges->list[i]->item->id, item->id) == 0)
            sum = queue_depth_add(sum, gauges->list[i]->last);
    }
    *ret = sum;
    return true;
}

/* ---- life ---- */

void queue_gauges_init(struct queue_gauges *gauges, struct loop *loop, struct fleet *fleet,
                       struct production *production, struct queue *queue, struct store *store,
                       struct metrics *metrics)
{
    *gauges =
        (struct queue_gauges){.fleet = fleet, .queue = queue, .store = store, .metrics = metrics};
    loop_timer_init(&gauges->timer, loop, read_all, gauges);
    loop_timer_set(&gauges->timer, READ_MS);
    arrange(gauges, production);
}

void queue_gauges_follow(struct queue_gauges *gauges, struct production *production)
{
    arrange(gauges, production);
}

void queue_gauges_shape(struct queue_gauges *gauges)
{
    gauges->rearrange = true;
}

void queue_gauges_done(struct queue_gauges *gauges)
{
    loop_timer_done(&gauges->timer);
    for (size_t i = 0; i < gauges->count; i++)
        free_gauge(gauges->list[i]);
    free(gauges->list);
    production_free(gauges->production);
}
