/* Claiming: lane.h has the machine. What happens to claimed entries is in lane_run.c, what follows their end in
 * lane_publish.c. */
#include "lane.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/state.h"
#include "lane_fifo.h"
#include "worker.h"

#include <stdlib.h>

#define HELD_MAX 1024u         /* entries in hand of one lane, in all states */
#define SWEEP_MS 1000          /* how late a lost signal is noticed */
#define TAKEOVER_IDLE_MS 10000 /* an entry untouched for so long lost its worker */
#define RENEW_US 3000000       /* how often what is in hand is touched */
#define SLOW_US 2000000        /* in hand for so long: to be renewed */

enum { RESTING, CLAIMING, LOOKING, STATE_COUNT };
static const char *const state_words[] = {"resting", "claiming", "looking"};
static const uint32_t state_moves[] = {
    [RESTING] = STATE_BIT(CLAIMING),
    [CLAIMING] = STATE_BIT(RESTING) | STATE_BIT(LOOKING),
    [LOOKING] = STATE_BIT(RESTING),
};
static const struct state_table states = {"lane", state_words, state_moves, STATE_COUNT};

/* Entries that answers under way may bring. */
static size_t coming(const struct lane *lane)
{
    return lane->taking + (lane->state == CLAIMING ? lane->asked : 0);
}

/* Of the item's `concurrency`, by this lane and those that it takes the place of. */
static size_t used_slots(const struct lane *lane)
{
    const struct worker *worker = lane->worker;
    const struct lane *other;
    size_t used = lane->running_count + lane->starting + coming(lane);
    if (!loop_timer_pending(&worker->reap))
        return used; /* none retires */
    TAILQ_FOREACH(other, &worker->all_lanes, in_worker)
    {
        if (other != lane && other->retiring && strcmp(other->item->id, lane->item->id) == 0)
            used += other->running_count + other->starting + coming(other);
    }
    return used;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t room(const struct lane *lane)
{
    size_t most = QUEUE_BATCH_MAX, held = lane->held + coming(lane);
    if (!lane->immediate) {
        size_t used = used_slots(lane), concurrency = (size_t)lane->item->concurrency;
        most = smaller(most, used < concurrency ? concurrency - used : 0);
    }
    return smaller(most, held < HELD_MAX ? HELD_MAX - held : 0);
}

static void count_taken_over(struct lane *lane, const struct queue_claimed *claimed)
{
    int64_t count = 0;
    for (size_t i = 0; i < claimed->count; i++)
        count += claimed->entries[i].taken_over;
    if (count == 0)
        return;
    metric_add(lane->metrics.taken_over, count);
    log_info("taken_over", LOG_WORD("item", lane->item->id), LOG_INT("count", count));
}

static void on_looked_up(struct lane *lane, size_t count)
{
    state_move(&states, &lane->state, RESTING);
    lane->hungry = count >= lane->asked;
    lane_pump(lane);
}

static unsigned membership(const struct lane *lane)
{
    const struct fleet *fleet = lane->worker->fleet;
    return fleet ? fleet_membership(fleet) : 1;
}

/* This process slept so long that it counted no more: the queue may have been another's, of another type, when these were claimed. */
static void give_back(struct lane *lane, struct queue_claimed *claimed)
{
    for (size_t i = 0; i < claimed->count; i++)
        lane_return(claim_new(lane, claimed, &claimed->entries[i]));
    queue_claimed_unref(claimed);
}

static void on_claimed(void *arg, const struct err *err, struct queue_claimed *claimed)
{
    struct lane *lane = arg;
    if (err->code == ERR_NONE && lane->claimed_in != membership(lane)) {
        give_back(lane, claimed);
    } else if (err->code == ERR_NONE) {
        state_move(&states, &lane->state, LOOKING);
        count_taken_over(lane, claimed);
        size_t count = lane_take(lane, claimed, on_looked_up);
        queue_claimed_unref(claimed);
        if (count)
            return; /* on_looked_up follows, or has come */
    }
    state_move(&states, &lane->state, RESTING);
    if (lane->woken || lane->retiring)
        lane_slot_is_free(lane);
}

/* What needs no store goes on without one only for as long as this process counts in the fleet unheard (fleet_joined). */
bool lane_may_claim(const struct lane *lane)
{
    const struct worker *worker = lane->worker;
    bool needs_store = lane->item->persistence.wal_enabled || lane->item->persistence.store_enabled;
    if (!lane->runs || !lane->open || !worker->queue_up || worker->draining)
        return false;
    if (lane->executor && lane->executor->paused)
        return false; /* the sweep looks again */
    return (worker->store_up || !needs_store) && (!worker->fleet || fleet_joined(worker->fleet));
}

static void pump(void *arg)
{
    struct lane *lane = arg;
    if (lane->fifo) {
        lane_fifo_pump(lane);
        return;
    }
    if (lane->state != RESTING || !lane_may_claim(lane))
        return;
    if ((!lane->woken && !lane->hungry) || clock_mono_us() < lane->not_before_us)
        return; /* the sweep looks again */
    size_t most = room(lane);
    if (most == 0) {
        lane->hungry = true; /* goes on when a slot is free */
        return;
    }
    lane->woken = false;
    lane->hungry = false;
    lane->asked = most;
    lane->claimed_in = membership(lane);
    state_move(&states, &lane->state, CLAIMING);
    lane->worker->queue->ops->claim(lane->worker->queue, lane->name, lane->worker->id, most, true,
                                    on_claimed, lane);
}

void lane_pump(struct lane *lane)
{
    if (lane->runs)
        loop_task_set(&lane->pump);
}

void lane_slot_is_free(struct lane *lane)
{
    lane_pump(lane);
    if (!lane->retiring || lane->worker->stopped)
        return;
    struct lane *next = worker_lane(lane->worker, lane->item->id);
    if (next)
        lane_pump(next);
}

void lane_wake(struct lane *lane, unsigned partition)
{
    if (lane->fifo)
        lane_fifo_wake(lane, partition);
    else
        lane->woken = true;
    lane_pump(lane);
}

/* ---- the sweep ---- */

static void on_promoted(void *arg, const struct err *err, int64_t moved, int64_t next_due_ms)
{
    struct lane *lane = arg;
    lane->promoting--;
    if (err->code != ERR_NONE)
        return;
    if (moved && lane->fifo)
        lane_fifo_wake_all(lane);
    else if (moved)
        lane_wake(lane, 0);
    if (next_due_ms >= 0)
        lane_promote_at(lane, next_due_ms);
}

void lane_promote(struct lane *lane, unsigned partition)
{
    lane->promoting++;
    lane->worker->queue->ops->promote(lane->worker->queue, queue_name_of(lane->item, partition),
                                      clock_wall_ms(), QUEUE_BATCH_MAX, on_promoted, lane);
}

/* Something is due, in whatever partition. */
static void promote(void *arg)
{
    struct lane *lane = arg;
    const struct lane_part *part;
    if (lane->promoting || !lane_may_claim(lane))
        return;
    if (!lane->fifo) {
        lane_promote(lane, 0);
        return;
    }
    TAILQ_FOREACH(part, &lane->fifo->parts, link)
    {
        if (!part->lost)
            lane_promote(lane, part->number);
    }
}

void lane_promote_at(struct lane *lane, int64_t due_ms)
{
    int64_t delay = due_ms - clock_wall_ms();
    if (!loop_timer_pending(&lane->due) || due_ms < lane->due_ms) {
        lane->due_ms = due_ms;
        loop_timer_set(&lane->due, delay > 0 ? delay + 1 : 0);
    }
}

static void on_taken(void *arg, const struct err *err, struct queue_claimed *claimed)
{
    struct lane *lane = arg;
    lane->taking = 0;
    if (err->code == ERR_NONE && lane->taken_in != membership(lane)) {
        give_back(lane, claimed);
    } else if (err->code == ERR_NONE) {
        count_taken_over(lane, claimed);
        lane_take(lane, claimed, NULL);
        queue_claimed_unref(claimed);
    }
    lane_slot_is_free(lane); /* what it did not bring */
}

static void take_over(struct lane *lane)
{
    size_t most = room(lane);
    if (lane->taking || most == 0)
        return;
    lane->taking = most;
    lane->taken_in = membership(lane);
    lane->worker->queue->ops->takeover(lane->worker->queue, lane->name, lane->worker->id,
                                       TAKEOVER_IDLE_MS, most, on_taken, lane);
}

struct renewal {
    struct lane *lane;
    const struct queue_entry *entries[QUEUE_BATCH_MAX];
    struct queue_claimed *claimed[QUEUE_BATCH_MAX];
    size_t count;
};

static void on_renewed(void *arg, const struct err *err)
{
    struct renewal *renewal = arg;
    (void)err; /* the next one comes soon */
    for (size_t i = 0; i < renewal->count; i++)
        queue_claimed_unref(renewal->claimed[i]);
    free(renewal);
}

static void send_renewal(struct lane *lane, struct renewal *renewal)
{
    lane->worker->queue->ops->renew(lane->worker->queue, lane->name, lane->worker->id,
                                    renewal->entries, renewal->count, on_renewed, renewal);
}

/* Touches what has been in hand for long; all of it after Redis was away, since entries grow idle then too. */
static void renew(struct lane *lane, int64_t now_us, bool all)
{
    if (now_us < lane->renew_at_us && !all)
        return;
    lane->renew_at_us = now_us + RENEW_US;
    struct renewal *renewal = NULL;
    struct claim *claim;
    TAILQ_FOREACH(claim, &lane->claims, link)
    {
        if (now_us - claim->claimed_us < SLOW_US && !all)
            continue;
        if (!renewal)
            renewal = mem_alloc(sizeof(*renewal));
        queue_claimed_ref(claim->claimed);
        renewal->claimed[renewal->count] = claim->claimed;
        renewal->entries[renewal->count++] = claim->entry;
        if (renewal->count == QUEUE_BATCH_MAX) {
            send_renewal(lane, renewal);
            renewal = NULL;
        }
    }
    if (renewal)
        send_renewal(lane, renewal);
}

static void on_sweep(void *arg)
{
    struct lane *lane = arg;
    loop_timer_set(&lane->sweep, SWEEP_MS * 3 / 4 + (int64_t)random_below(SWEEP_MS / 2));
    if (lane->worker->queue_up && !lane->fifo) /* its owner alone may take what it holds */
        renew(lane, clock_mono_us(), false);
    if (!lane_may_claim(lane))
        return;
    if (lane->fifo) {
        lane_fifo_sweep(lane);
        return;
    }
    promote(lane);
    lane_wake(lane, 0);
    /* Idle times count on while Redis is away: everybody renews first. */
    if (clock_mono_us() - lane->worker->queue_up_us > TAKEOVER_IDLE_MS * 1000)
        take_over(lane);
}

/* ---- life ---- */

static void init_metrics(struct lane *lane)
{
    struct metrics *metrics = lane->worker->metrics;
    struct metric_label labels[3] = {
        {"item", lane->item->id},
        {"pattern", messaging_pattern_words[lane->item->messaging_pattern]}};
    static const char *const ends[] = {"completed", "dead_lettered", "expired", "cancelled"};
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        labels[2] = (struct metric_label){"status", ends[i]};
        lane->metrics.completed[i] = metrics_counter(metrics, "hie_messages_completed_total",
                                                     "Messages that reached their end", labels, 3);
    }
    lane->metrics.retried = metrics_counter(metrics, "hie_messages_retried_total",
                                            "Attempts that failed and are repeated", labels, 2);
    lane->metrics.in_flight =
        metrics_gauge(metrics, "hie_in_flight", "Messages whose handler runs", labels, 2);
    lane->metrics.superseded = metrics_counter(
        metrics, "hie_messages_superseded_total",
        "Attempts that recorded nothing: another had the message by then", labels, 2);
    lane->metrics.taken_over =
        metrics_counter(metrics, "hie_messages_taken_over_total",
                        "Messages taken from a worker that went silent", labels, 2);
    lane->metrics.process_seconds = metrics_histogram(
        metrics, "hie_process_seconds", "From a handler's start to its end", labels, 2);
    lane->metrics.end_to_end_seconds = metrics_histogram(
        metrics, "hie_end_to_end_seconds", "From acceptance to the recorded end", labels, 2);
}

void lane_init(struct lane *lane, struct worker *worker, struct production *production,
               const struct item *item, bool runs)
{
    *lane = (struct lane){
        .worker = worker, .production = production, .item = item, .runs = runs, .open = true};
    lane->name = queue_name_of(item, 0);
    const struct handler_class *handler = handler_class_of(item);
    lane->immediate =
        item->execution_mode == MODE_ASYNC && handler->immediate && handler->immediate(item);
    TAILQ_INIT(&lane->claims);
    TAILQ_INIT(&lane->running);
    lane_batches_init(lane);
    if (item->queue_type == QUEUE_FIFO && runs)
        lane_fifo_init(lane);
    loop_task_init(&lane->pump, worker->loop, pump, lane);
    loop_timer_init(&lane->sweep, worker->loop, on_sweep, lane);
    loop_timer_init(&lane->timeouts, worker->loop, lane_check_timeouts, lane);
    loop_timer_init(&lane->due, worker->loop, promote, lane);
    init_metrics(lane);
    if (runs)
        loop_timer_set(&lane->sweep, (int64_t)random_below(SWEEP_MS));
}

int lane_open(struct lane *lane, struct err *err)
{
    struct executor_env env = lane->worker->env;
    env.production = lane->production;
    lane->open = !lane->worker->fleet;
    lane->executor = executor_new(&env, lane->item, err);
    return lane->executor ? 0 : -1;
}

void lane_retire(struct lane *lane)
{
    lane->open = false;
    lane->retiring = true;
    if (lane->executor && lane->executor->ops->retire)
        lane->executor->ops->retire(lane->executor);
    lane_disown(lane);
}

bool lane_is_over(const struct lane *lane)
{
    bool over = lane->retiring && lane->held == 0 && lane_quiet(lane);
    for (size_t i = 0; i < BATCH_COUNT; i++)
        over = over && lane->batches[i].count == 0 && lane->batches[i].under_way == 0;
    return over;
}

bool lane_leave(struct lane *lane)
{
    struct executor *executor = lane->executor;
    return !executor || !executor->ops->leave || executor->ops->leave(executor);
}

void lane_close(struct lane *lane)
{
    lane->runs = false; /* what ends from here on pumps nothing */
    if (lane->executor)
        lane->executor->ops->free(lane->executor); /* ends what it still runs */
    lane->executor = NULL;
}

void lane_done(struct lane *lane)
{
    struct claim *claim;
    lane_close(lane);
    while ((claim = TAILQ_FIRST(&lane->claims)))
        claim_free(claim);
    lane_fifo_done(lane);
    loop_task_done(&lane->pump);
    lane_batches_done(lane);
    loop_timer_done(&lane->sweep);
    loop_timer_done(&lane->timeouts);
    loop_timer_done(&lane->due);
}

void lane_links_changed(struct lane *lane)
{
    lane_batches_link_changed(lane);
    if (lane->worker->queue_up && !lane->fifo)
        renew(lane, clock_mono_us(), true);
    if (lane->worker->queue_up && lane->fifo)
        lane_fifo_link_up(lane); /* also where claiming has to wait */
    else if (lane_may_claim(lane))
        lane_wake(lane, 0);
}

bool lane_quiet(const struct lane *lane)
{
    return lane->state == RESTING && !lane->taking && !lane->promoting && lane_fifo_quiet(lane);
}

bool lane_is_claiming(const struct lane *lane)
{
    return lane->state == CLAIMING || lane->taking || (lane->fifo && lane->fifo->cycle);
}
