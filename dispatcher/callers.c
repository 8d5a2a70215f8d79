#include "callers.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/state.h"

#include <stdlib.h>
#include <uthash.h>

#define TICK_MS 20
#define LAST_LOOK_US 300000 /* so long before a caller's time is up; half of a short time */
#define REST_LEAST_US 20000
#define REST_MOST_US 500000
#define REST_PER_COST 10   /* looking in a rhythm takes at most a tenth of the time */
#define PUBLISH_US 3000000 /* an end was first seen: so long its reply may be on its way still */

/* Pauses between two looks. At once; then for those whom nobody tells; then for those who missed it. */
enum { URGENT, QUICK, QUICK_LAST = 3, SLOW, SLOW_LAST = 7 };
static const int64_t pauses_us[CALLERS_RHYTHMS] = {0,       20000,   40000,   80000,
                                                   1000000, 2000000, 4000000, 8000000};
_Static_assert(SLOW_LAST + 1 == CALLERS_RHYTHMS, "one list for each pause");

enum { WAITING, ASKED, FETCHING, STATE_COUNT };
static const char *const state_words[] = {"waiting", "asked", "fetching"};
static const uint32_t state_moves[] = {
    [WAITING] = STATE_BIT(ASKED),
    [ASKED] = STATE_BIT(WAITING) | STATE_BIT(FETCHING),
    [FETCHING] = STATE_BIT(WAITING),
};
static const struct state_table states = {"waited", state_words, state_moves, STATE_COUNT};

struct waited {
    struct uuid id;
    const struct item *item; /* NULL: its reply key is not known */
    UT_hash_handle hh;
    struct caller_list callers;
    TAILQ_ENTRY(waited) link; /* in the list of `rhythm`, in WAITING alone */
    unsigned state;
    unsigned rhythm, pace; /* pace: the rhythm that comes next, once it was looked for */
    int64_t look_us;
    int64_t ended_us; /* monotonic: when its end was first seen without a reply; 0: not yet */
    bool again;       /* to be looked for at once, when the look under way is over */
    bool telling;     /* not to be forgotten now */
};

struct look_entry {
    struct look *look;
    struct waited *waited;
    bool ended; /* the store says */
    bool fresh; /* … and was not seen to before */
};

struct look_keys { /* of one item */
    struct look *look;
    size_t first, count; /* of the entries */
};

struct look {
    struct callers *callers;
    unsigned pending; /* questions under way */
    size_t count;
    struct look_entry entries[CALLERS_LOOK_MAX];
    struct uuid ids[CALLERS_LOOK_MAX]; /* as in entries */
    struct look_keys keys[CALLERS_LOOK_MAX];
};

/* ---- messages that are waited for ---- */

static struct waited *find(struct callers *callers, struct uuid id)
{
    struct waited *waited;
    HASH_FIND(hh, callers->table, &id, sizeof(id), waited);
    return waited;
}

static void enlist(struct callers *callers, struct waited *waited, unsigned rhythm)
{
    waited->rhythm = rhythm;
    waited->look_us = clock_mono_us() + pauses_us[rhythm];
    TAILQ_INSERT_TAIL(&callers->rhythms[rhythm], waited, link);
}

static struct waited *new_waited(struct callers *callers, const struct item *item, struct uuid id)
{
    struct waited *waited = mem_alloc(sizeof(*waited));
    waited->id = id;
    waited->item = item_hold(item);
    waited->state = WAITING;
    waited->pace = SLOW;
    LIST_INIT(&waited->callers);
    HASH_ADD(hh, callers->table, id, sizeof(waited->id), waited);
    enlist(callers, waited, SLOW);
    return waited;
}

static void forget_when_done(struct callers *callers, struct waited *waited)
{
    if (!LIST_EMPTY(&waited->callers) || waited->state != WAITING || waited->telling)
        return;
    TAILQ_REMOVE(&callers->rhythms[waited->rhythm], waited, link);
    HASH_DEL(callers->table, waited);
    item_release(waited->item);
    free(waited);
}

static void look_at_once(struct callers *callers, struct waited *waited)
{
    if (waited->state != WAITING) {
        waited->again = true;
    } else if (waited->rhythm != URGENT) {
        TAILQ_REMOVE(&callers->rhythms[waited->rhythm], waited, link);
        enlist(callers, waited, URGENT);
    }
}

/* ---- callers ---- */

static void count_callers(struct callers *callers, int more)
{
    callers->count += (size_t)more;
    metric_set(callers->waiting, (double)callers->count);
}

static void detach(struct callers *callers, struct caller *caller)
{
    LIST_REMOVE(caller, same);
    LIST_REMOVE(caller, slot);
    caller->waited = NULL;
    count_callers(callers, -1);
}

/* `done` may remove any caller, of this message too; those who come for it anew wait on. */
static void tell(struct callers *callers, struct waited *waited, const struct queue_reply *end,
                 bool by_look)
{
    struct caller_list told = LIST_HEAD_INITIALIZER(told);
    struct caller *caller = LIST_FIRST(&waited->callers);
    LIST_INIT(&waited->callers);
    if (caller) { /* the whole list moves over */
        told.lh_first = caller;
        caller->same.le_prev = &told.lh_first;
    }
    waited->telling = true;
    while ((caller = LIST_FIRST(&told))) {
        detach(callers, caller);
        if (by_look && caller->kind == CALLER_TOLD)
            metric_add(callers->found, 1);
        caller->done(caller, CALLER_ENDED, end);
    }
    waited->telling = false;
}

static void tell_body(struct callers *callers, struct waited *waited, struct slice content_type,
                      struct body body, bool left_out)
{
    struct queue_reply end = {.id = waited->id,
                              .status = "completed",
                              .content_type = content_type,
                              .body = body,
                              .left_out = left_out};
    tell(callers, waited, &end, true);
}

/* ---- looking ---- */

static void start_look(struct callers *callers);

/* A question is answered; with the last one all go back. */
static void answered(struct look *look)
{
    struct callers *callers = look->callers;
    if (--look->pending)
        return;
    for (size_t i = 0; i < look->count; i++) {
        struct waited *waited = look->entries[i].waited;
        state_move(&states, &waited->state, WAITING);
        enlist(callers, waited, waited->again ? (unsigned)URGENT : waited->pace);
        waited->again = false;
        if (waited->pace != QUICK_LAST && waited->pace != SLOW_LAST)
            waited->pace++;
        forget_when_done(callers, waited);
    }
    int64_t now = clock_mono_us();
    int64_t rest_us = (now - callers->look_started_us) * REST_PER_COST;
    rest_us = rest_us < REST_LEAST_US ? REST_LEAST_US : rest_us;
    callers->look_after_us = now + (rest_us > REST_MOST_US ? REST_MOST_US : rest_us);
    callers->look = NULL;
    free(look);
    start_look(callers);
}

/* The store has the end and nothing more of the message (wal_only). The key is written behind the end. */
static void on_key_of_forgotten(void *arg, const struct err *err, const struct body *bodies)
{
    struct look_entry *entry = arg;
    if (err->code == ERR_NONE && (bodies[0].ptr || !entry->fresh))
        tell_body(entry->look->callers, entry->waited, slice_of(NULL, 0), bodies[0],
                  !bodies[0].ptr);
    answered(entry->look);
}

static void on_reply(void *arg, const struct err *err, struct body body, struct slice content_type,
                     bool found)
{
    struct look_entry *entry = arg;
    if (err->code == ERR_NONE) /* not found: it completed without one */
        tell_body(entry->look->callers, entry->waited, content_type,
                  found ? body : body_of(NULL, 0), false);
    answered(entry->look);
}

static void on_found(void *arg, const struct err *err, const struct store_record *record)
{
    struct look_entry *entry = arg;
    struct waited *waited = entry->waited;
    struct callers *callers = entry->look->callers;
    bool kept = err->code == ERR_NONE && record && record->finished_us;
    bool forgotten = err->code == ERR_NONE && (!record || record->forgotten);
    bool well = !record || strcmp(record->state, "completed") == 0;
    if (kept && well && !forgotten) {
        callers->store->ops->reply(callers->store, entry->waited->id, on_reply, entry);
        return;
    }
    if (forgotten && well && waited->item) {
        if (!callers->queue_up) { /* looked for once it is back */
            answered(entry->look);
            return;
        }
        int64_t now = clock_mono_us();
        if (!waited->ended_us)
            waited->ended_us = now;
        entry->fresh = record && now - waited->ended_us < PUBLISH_US;
        callers->queue->ops->read_replies(callers->queue, waited->item->id, &waited->id, 1,
                                          on_key_of_forgotten, entry);
        return;
    }
    if (err->code == ERR_NONE && record && record->finished_us) {
        struct queue_reply end = {.id = entry->waited->id,
                                  .status = record->state,
                                  .error = record->error,
                                  .left_out = forgotten && well};
        tell(callers, waited, &end, true);
    }
    answered(entry->look);
}

static bool reply_is_wanted(const struct waited *waited)
{
    const struct caller *caller;
    LIST_FOREACH(caller, &waited->callers, same)
    {
        if (caller->kind != CALLER_ENDS)
            return true;
    }
    return false;
}

static void fetch(struct look_entry *entry)
{
    struct callers *callers = entry->look->callers;
    state_move(&states, &entry->waited->state, FETCHING);
    if (!reply_is_wanted(entry->waited)) {
        struct queue_reply end = {.id = entry->waited->id};
        tell(callers, entry->waited, &end, true);
        return;
    }
    entry->look->pending++;
    callers->store->ops->find(callers->store, entry->waited->id, on_found, entry);
}

static void on_keys(void *arg, const struct err *err, const struct body *bodies)
{
    struct look_keys *keys = arg;
    struct look *look = keys->look;
    for (size_t i = 0; err->code == ERR_NONE && i < keys->count; i++) {
        if (bodies[i].ptr)
            tell_body(look->callers, look->entries[keys->first + i].waited, slice_of(NULL, 0),
                      bodies[i], false);
    }
    answered(look);
}

/* Those without an end in the store first, by item. */
static int compare_entries(const void *left, const void *right)
{
    const struct look_entry *a = left, *b = right;
    uintptr_t first = (uintptr_t)a->waited->item, second = (uintptr_t)b->waited->item;
    if (a->ended != b->ended)
        return a->ended ? 1 : -1;
    return first < second ? -1 : first > second;
}

/* For those without an end in the store: one question for each item. */
static void ask_keys(struct look *look)
{
    struct callers *callers = look->callers;
    const struct item *item = NULL;
    size_t runs = 0;
    for (size_t i = 0; i < look->count && !look->entries[i].ended && callers->queue_up; i++) {
        struct waited *waited = look->entries[i].waited;
        look->ids[i] = waited->id;
        if (!waited->item)
            continue;
        if (waited->item != item)
            look->keys[runs++] = (struct look_keys){.look = look, .first = i};
        item = waited->item;
        look->keys[runs - 1].count++;
    }
    look->pending += (unsigned)runs;
    for (size_t i = 0; i < runs; i++) {
        struct look_keys *keys = &look->keys[i];
        item = look->entries[keys->first].waited->item;
        callers->queue->ops->read_replies(callers->queue, item->id, &look->ids[keys->first],
                                          keys->count, on_keys, keys);
    }
}

static void on_ended(void *arg, const struct err *err, const bool *ended)
{
    struct look *look = arg;
    for (size_t i = 0; err->code == ERR_NONE && i < look->count; i++)
        look->entries[i].ended = ended[i];
    /* Before anybody holds a pointer to an entry. */
    qsort(look->entries, look->count, sizeof(look->entries[0]), compare_entries);
    ask_keys(look);
    for (size_t i = 0; i < look->count; i++) {
        if (look->entries[i].ended)
            fetch(&look->entries[i]);
    }
    answered(look);
}

/* The message that has been due for the longest; `urgent` alone, or of any rhythm. */
static struct waited *next_due(struct callers *callers, int64_t now, bool urgent)
{
    struct waited *first = TAILQ_FIRST(&callers->rhythms[URGENT]);
    for (unsigned i = QUICK; !urgent && i < CALLERS_RHYTHMS; i++) {
        struct waited *waited = TAILQ_FIRST(&callers->rhythms[i]);
        if (waited && waited->look_us <= now && (!first || waited->look_us < first->look_us))
            first = waited;
    }
    return first;
}

static void start_look(struct callers *callers)
{
    int64_t now = clock_mono_us();
    bool urgent = now < callers->look_after_us;
    struct waited *waited;
    if (callers->look || !(callers->store_up || callers->queue_up) ||
        !next_due(callers, now, urgent))
        return;
    struct look *look = mem_alloc(sizeof(*look));
    look->callers = callers;
    while (look->count < CALLERS_LOOK_MAX && (waited = next_due(callers, now, urgent))) {
        TAILQ_REMOVE(&callers->rhythms[waited->rhythm], waited, link);
        state_move(&states, &waited->state, ASKED);
        look->entries[look->count] = (struct look_entry){.look = look, .waited = waited};
        look->ids[look->count++] = waited->id;
    }
    callers->look = look;
    callers->look_started_us = now;
    look->pending = 1;
    if (callers->store_up) {
        callers->store->ops->ended(callers->store, look->ids, look->count, on_ended, look);
        return;
    }
    qsort(look->entries, look->count, sizeof(look->entries[0]), compare_entries);
    ask_keys(look);
    answered(look);
}

/* ---- the wheel: callers by the time at which something is due for them ---- */

static void put_on_wheel(struct callers *callers, struct caller *caller, int64_t due_us)
{
    caller->due_us = due_us;
    LIST_INSERT_HEAD(&callers->wheel[due_us / CALLERS_SLOT_US % CALLERS_SLOTS], caller, slot);
}

static void make_due(struct callers *callers, struct caller *caller)
{
    LIST_REMOVE(caller, slot);
    LIST_INSERT_HEAD(&callers->due, caller, slot);
}

static void turn_wheel(struct callers *callers, int64_t now)
{
    int64_t last = now / CALLERS_SLOT_US - 1; /* the slots up to here are over */
    int64_t first = callers->turned + 1;
    if (first <= last - (int64_t)CALLERS_SLOTS)
        first = last - (int64_t)CALLERS_SLOTS + 1;
    for (int64_t slot = first; slot <= last; slot++) {
        struct caller *caller, *next;
        for (caller = LIST_FIRST(&callers->wheel[slot % CALLERS_SLOTS]); caller; caller = next) {
            next = LIST_NEXT(caller, slot);
            if (caller->due_us / CALLERS_SLOT_US <= last) /* else in a later turn */
                make_due(callers, caller);
        }
    }
    if (last > callers->turned)
        callers->turned = last;
}

static bool is_stopped(const struct callers *callers, const struct caller *caller)
{
    return callers->stopped || (callers->draining && caller->kind == CALLER_ENDS);
}

static void serve_due(struct callers *callers, int64_t now)
{
    struct caller *caller;
    while ((caller = LIST_FIRST(&callers->due))) {
        struct waited *waited = caller->waited;
        bool stopped = is_stopped(callers, caller);
        if (!stopped && caller->until_us > now) { /* the last look */
            LIST_REMOVE(caller, slot);
            put_on_wheel(callers, caller, caller->until_us);
            look_at_once(callers, waited);
            continue;
        }
        detach(callers, caller);
        forget_when_done(callers, waited);
        caller->done(caller, stopped ? CALLER_STOPPED : CALLER_LATE, NULL);
    }
}

static void on_tick(void *arg)
{
    struct callers *callers = arg;
    int64_t now = clock_mono_us();
    turn_wheel(callers, now);
    serve_due(callers, now);
    start_look(callers);
    if (callers->count)
        loop_timer_set(&callers->tick, TICK_MS);
}

/* ---- the door ---- */

void callers_add(struct callers *callers, struct caller *caller, const struct item *item,
                 struct uuid id, int64_t wait_ms, enum caller_kind kind,
                 void (*done)(struct caller *, enum caller_outcome, const struct queue_reply *))
{
    int64_t now = clock_mono_us(), wait_us = wait_ms * 1000;
    int64_t early_us = wait_us / 2 < LAST_LOOK_US ? wait_us / 2 : LAST_LOOK_US;
    struct waited *waited = find(callers, id);
    if (!waited)
        waited = new_waited(callers, item, id);
    *caller =
        (struct caller){.waited = waited, .kind = kind, .until_us = now + wait_us, .done = done};
    LIST_INSERT_HEAD(&waited->callers, caller, same);
    if (callers->count == 0)
        callers->turned = now / CALLERS_SLOT_US - 1;
    count_callers(callers, 1);
    put_on_wheel(callers, caller, caller->until_us - (kind == CALLER_ENDS ? 0 : early_us));
    if (kind != CALLER_TOLD) {
        if (waited->pace >= SLOW)
            waited->pace = QUICK;
        look_at_once(callers, waited);
    }
    if (is_stopped(callers, caller))
        make_due(callers, caller);
    if (is_stopped(callers, caller) || kind != CALLER_TOLD)
        loop_timer_set(&callers->tick, 0);
    else if (!loop_timer_pending(&callers->tick))
        loop_timer_set(&callers->tick, TICK_MS);
}

void callers_remove(struct callers *callers, struct caller *caller)
{
    struct waited *waited = caller->waited;
    if (!waited)
        return;
    detach(callers, caller);
    forget_when_done(callers, waited);
}

bool caller_waits(const struct caller *caller)
{
    return caller->waited != NULL;
}

void callers_replied(struct callers *callers, const struct queue_reply *reply)
{
    struct waited *waited = find(callers, reply->id);
    if (!waited)
        return; /* hung up, told already, or a repeat */
    if (reply->left_out) {
        look_at_once(callers, waited);
        loop_timer_set(&callers->tick, 0);
        return;
    }
    tell(callers, waited, reply, false);
    forget_when_done(callers, waited);
}

void callers_link_changed(struct callers *callers, bool queue_up, bool store_up)
{
    bool back = (queue_up && !callers->queue_up) || (store_up && !callers->store_up);
    callers->queue_up = queue_up;
    callers->store_up = store_up;
    struct waited *waited, *next;
    if (!back || !callers->count)
        return;
    HASH_ITER(hh, callers->table, waited, next)
    look_at_once(callers, waited);
    loop_timer_set(&callers->tick, 0);
}

/* Nobody is told in the walk. */
static void make_stopped_due(struct callers *callers)
{
    struct caller *caller, *next;
    for (size_t i = 0; i < CALLERS_SLOTS; i++) {
        for (caller = LIST_FIRST(&callers->wheel[i]); caller; caller = next) {
            next = LIST_NEXT(caller, slot);
            if (is_stopped(callers, caller))
                make_due(callers, caller);
        }
    }
    loop_timer_set(&callers->tick, 0);
}

void callers_drain(struct callers *callers)
{
    callers->draining = true;
    make_stopped_due(callers);
}

void callers_stop(struct callers *callers)
{
    callers->stopped = true;
    make_stopped_due(callers);
}

/* ---- life ---- */

static struct metric *late_of(struct callers *callers, const struct item *item)
{
    struct metric_label labels[2] = {{"item", item->id},
                                     {"pattern", messaging_pattern_words[item->messaging_pattern]}};
    return metrics_counter(callers->metrics, "hie_callers_late_total",
                           "Callers whose time was up before the end", labels, 2);
}

void callers_init(struct callers *callers, struct loop *loop, const struct production *production,
                  struct queue *queue, struct store *store, struct metrics *metrics)
{
    *callers = (struct callers){.queue = queue, .store = store};
    LIST_INIT(&callers->due);
    for (size_t i = 0; i < CALLERS_SLOTS; i++)
        LIST_INIT(&callers->wheel[i]);
    for (size_t i = 0; i < CALLERS_RHYTHMS; i++)
        TAILQ_INIT(&callers->rhythms[i]);
    loop_timer_init(&callers->tick, loop, on_tick, callers);
    callers->waiting =
        metrics_gauge(metrics, "hie_callers_waiting", "Callers that wait for an end", NULL, 0);
    callers->found = metrics_counter(
        metrics, "hie_replies_found_total",
        "Ends whose publication was missed and that were found by looking", NULL, 0);
    callers->metrics = metrics;
    for (size_t i = 0; i < production->item_count; i++)
        (void)late_of(callers, &production->items[i]);
}

void callers_done(struct callers *callers)
{
    struct waited *waited, *next;
    HASH_ITER(hh, callers->table, waited, next)
    {
        HASH_DEL(callers->table, waited);
        item_release(waited->item);
        free(waited);
    }
    free(callers->look);
    loop_timer_done(&callers->tick);
}

void callers_count_late(struct callers *callers, const struct item *item)
{
    metric_add(late_of(callers, item), 1);
}
