#include "queue_gauges.h"

#include "base/clock.h"
#include "base/mem.h"

#include <stdlib.h>

#define READ_MS 1000
#define COUNT_SHARE                                                                                \
    20 /* counting in the database walks the backlog: at most this part of the time */

#define ASK_MAX 512 /* partitions asked in a second; an item's are asked together, however many */

struct queue_gauge {
    const struct item *item;
    int64_t unanswered;  /* questions, one a partition */
    const bool *retired; /* the gauges are: what is answered now is no news */
    int64_t dead_letters;
    bool failed; /* one of them was not answered: the gauges stay as they are */
    struct queue_depth sum;
    struct metric *depth, *oldest, *in_hand, *delayed, *dead;
};

static void show(struct queue_gauge *gauge)
{
    const struct queue_depth *sum = &gauge->sum;
    metric_set(gauge->depth, (double)(sum->waiting + sum->in_hand + sum->delayed));
    metric_set(gauge->in_hand, (double)sum->in_hand);
    metric_set(gauge->delayed, (double)sum->delayed);
    int64_t now_ms = clock_wall_ms(), oldest_ms = sum->oldest_at_ms;
    bool aged = oldest_ms > 0 &&
                oldest_ms < now_ms; /* the entry's own word: a person may have written it */
    metric_set(gauge->oldest, aged ? (double)(now_ms - oldest_ms) / 1000 : 0);
}

static void on_depth(void *arg, const struct err *err, const struct queue_depth *depth)
{
    struct queue_gauge *gauge = arg;
    struct queue_depth *sum = &gauge->sum;
    if (err->code == ERR_NONE) {
        sum->waiting += depth->waiting;
        sum->in_hand += depth->in_hand;
        sum->delayed += depth->delayed;
        int64_t oldest_ms = depth->oldest_at_ms;
        if (oldest_ms > 0 && (sum->oldest_at_ms == 0 || oldest_ms < sum->oldest_at_ms))
            sum->oldest_at_ms = oldest_ms;
    }
    gauge->failed |= err->code != ERR_NONE;
    if (--gauge->unanswered == 0 && !gauge->failed && !*gauge->retired)
        show(gauge);
}

static void ask(struct queue_gauges *gauges, struct queue_gauge *gauge)
{
    const struct item *item = gauge->item;
    gauge->sum = (struct queue_depth){0};
    gauge->failed = false;
    gauge->unanswered = item->partitions;
    for (int64_t i = 0; i < item->partitions; i++)
        gauges->queue->ops->depth(gauges->queue, queue_name_of(item, (unsigned)i), on_depth, gauge);
}

/* As many items as a second allows; the next second goes on behind them. */
static void ask_some(struct queue_gauges *gauges)
{
    int64_t left = ASK_MAX;
    for (size_t i = 0; left > 0 && i < gauges->production->item_count; i++) {
        struct queue_gauge *gauge = &gauges->list[gauges->next];
        gauges->next = (gauges->next + 1) % gauges->production->item_count;
        left -= gauge->item->partitions;
        if (gauge->unanswered == 0)
            ask(gauges, gauge);
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
        double dead = 0;
        for (size_t j = 0; j < count; j++) {
            if (strcmp(counts[j].item, gauges->list[i].item->id) == 0)
                dead = (double)counts[j].count;
        }
        gauges->list[i].dead_letters = (int64_t)dead;
        if (!gauges->retired)
            metric_set(gauges->list[i].dead, dead);
    }
}

static void read_all(void *arg)
{
    struct queue_gauges *gauges = arg;
    loop_timer_set(&gauges->timer, READ_MS);
    if (gauges->queue_up)
        ask_some(gauges);
    int64_t now = clock_mono_us();
    if (gauges->store_up && !gauges->counting && now >= gauges->count_after_us) {
        gauges->counting = true;
        gauges->counted_us = now;
        gauges->store->ops->dead_counts(gauges->store, on_counts, gauges);
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
        gauge->retired = &gauges->retired;
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

static void show_empty(struct queue_gauge *gauge)
{
    gauge->sum = (struct queue_depth){0};
    show(gauge);
}

void queue_gauges_retire(struct queue_gauges *gauges, const struct production *next)
{
    loop_timer_cancel(&gauges->timer);
    gauges->retired = true;
    for (size_t i = 0; i < gauges->production->item_count; i++) {
        const struct item *item = &gauges->production->items[i];
        const struct item *now = production_find(next, slice_text(item->id));
        if (!now || now->messaging_pattern != item->messaging_pattern)
            show_empty(&gauges->list[i]);
    }
}

int64_t queue_gauges_dead_letters(const struct queue_gauges *gauges, const struct item *item)
{
    const struct item *own = production_find(gauges->production, slice_text(item->id));
    return own ? gauges->list[own->index].dead_letters : 0;
}

bool queue_gauges_quiet(const struct queue_gauges *gauges)
{
    bool quiet = !gauges->counting;
    for (size_t i = 0; i < gauges->production->item_count; i++)
        quiet = quiet && gauges->list[i].unanswered == 0;
    return quiet;
}

void queue_gauges_done(struct queue_gauges *gauges)
{
    loop_timer_done(&gauges->timer);
    free(gauges->list);
}
