#include "queue_gauges.h"

#include "base/clock.h"
#include "base/mem.h"

#include <stdlib.h>

#define READ_MS 1000
#define COUNT_SHARE                                                                                \
    20 /* counting in the database walks the backlog: at most this part of the time */

struct queue_gauge {
    const struct item *item;
    bool asking;
    struct metric *depth, *oldest, *in_hand, *delayed, *dead;
};

static void on_depth(void *arg, const struct err *err, const struct queue_depth *depth)
{
    struct queue_gauge *gauge = arg;
    gauge->asking = false;
    if (err->code != ERR_NONE)
        return;
    metric_set(gauge->depth, (double)(depth->waiting + depth->in_hand + depth->delayed));
    metric_set(gauge->in_hand, (double)depth->in_hand);
    metric_set(gauge->delayed, (double)depth->delayed);
    int64_t now_ms = clock_wall_ms(), oldest_ms = depth->oldest_at_ms;
    bool aged = oldest_ms > 0 &&
                oldest_ms < now_ms; /* the entry's own word: a person may have written it */
    metric_set(gauge->oldest, aged ? (double)(now_ms - oldest_ms) / 1000 : 0);
}

static void on_counts(void *arg, const struct err *err, const struct store_count *counts,
                      size_t count)
{
    struct queue_gauges *gauges = arg;
    int64_t now = clock_mono_us();
    gauges->counting = false;
    gauges->count_after_us = now + (now - gauges->counted_us) * COUNT_SHARE;
    for (size_t i = 0; err->code == ERR_NONE && i < gauges->production->item_count; i++) {
        double dead = 0;
        for (size_t j = 0; j < count; j++) {
            if (strcmp(counts[j].item, gauges->list[i].item->id) == 0)
                dead = (double)counts[j].dead_letters;
        }
        metric_set(gauges->list[i].dead, dead);
    }
}

static void read_all(void *arg)
{
    struct queue_gauges *gauges = arg;
    loop_timer_set(&gauges->timer, READ_MS);
    for (size_t i = 0; gauges->queue_up && i < gauges->production->item_count; i++) {
        struct queue_gauge *gauge = &gauges->list[i];
        if (gauge->asking)
            continue;
        gauge->asking = true;
        struct queue_name name = {.item = gauge->item->id,
                                  .pattern = gauge->item->messaging_pattern};
        gauges->queue->ops->depth(gauges->queue, name, on_depth, gauge);
    }
    int64_t now = clock_mono_us();
    if (gauges->store_up && !gauges->counting && now >= gauges->count_after_us) {
        gauges->counting = true;
        gauges->counted_us = now;
        gauges->store->ops->counts(gauges->store, on_counts, gauges);
    }
}

void queue_gauges_init(struct queue_gauges *gauges, struct loop *loop,
                       const struct production *production, struct queue *queue,
                       struct store *store, struct metrics *metrics)
{
    *gauges = (struct queue_gauges){.production = production, .queue = queue, .store = store};
    gauges->list = mem_array(production->item_count, sizeof(*gauges->list));
    for (size_t i = 0; i < production->item_count; i++) {
        const struct item *item = &production->items[i];
        struct queue_gauge *gauge = &gauges->list[i];
        struct metric_label labels[] = {
            {"item", item->id}, {"pattern", messaging_pattern_words[item->messaging_pattern]}};
        gauge->item = item;
        gauge->depth = metrics_gauge(metrics, "hie_queue_depth",
                                     "Accepted and unfinished messages in the queue", labels, 2);
        gauge->oldest = metrics_gauge(metrics, "hie_queue_oldest_seconds",
                                      "Age of the oldest of them", labels, 2);
        gauge->in_hand =
            metrics_gauge(metrics, "hie_queue_in_hand", "Entries that workers hold", labels, 2);
        gauge->delayed =
            metrics_gauge(metrics, "hie_queue_delayed", "Entries that wait for a retry", labels, 2);
        gauge->dead = metrics_gauge(metrics, "hie_dead_letters", "Dead letters", labels, 2);
    }
    loop_timer_init(&gauges->timer, loop, read_all, gauges);
    loop_timer_set(&gauges->timer, 1000);
}

void queue_gauges_done(struct queue_gauges *gauges)
{
    loop_timer_done(&gauges->timer);
    free(gauges->list);
}
