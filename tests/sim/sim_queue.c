#include "sim_queue.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "sim_fleet.h"
#include "sim_queue_call.h"

#include <stdio.h>
#include <stdlib.h>

#define EPOCH_US 2000000 /* how often a client looks at the epoch key */
#define FETCH_US 5000000 /* what was taken longer ago is not read: it may be another's */

static const struct err no_error = {.code = ERR_NONE};
static const struct err unknown = {.code = ERR_OUTCOME_UNKNOWN, .text = "its claim is lost"};

static struct sim_queue *of(struct queue *queue)
{
    return (struct sim_queue *)queue;
}

/* ---- a partition's owner looks for what it holds ---- */

static struct sim_hand *find_hand(struct sim_queue *queue, struct queue_name name)
{
    for (size_t i = 0; i < queue->hand_count; i++) {
        struct sim_hand *hand = &queue->hands[i];
        if (hand->partition == name.partition && strcmp(hand->item, name.item) == 0)
            return hand;
    }
    return NULL;
}

static void note_unsure(struct queue_call *call)
{
    struct sim_hand *hand = find_hand(call->queue, call->name);
    if (hand && call->name.type == QUEUE_FIFO)
        *hand = call->queue->hands[--call->queue->hand_count];
}

static void note_looked(struct queue_call *call)
{
    struct sim_hand *hand = find_hand(call->queue, call->name);
    if (!hand) {
        BUG_ON(call->queue->hand_count == SIM_HANDS_MAX);
        hand = &call->queue->hands[call->queue->hand_count++];
        snprintf(hand->item, sizeof(hand->item), "%s", call->name.item);
        hand->partition = call->name.partition;
    }
    hand->after = call->after;
}

static bool is_ordered(struct queue_name name)
{
    return name.type == QUEUE_PRIORITY || name.type == QUEUE_LIFO;
}

/* ---- a claim's steps, as common/queue/queue_redis_claim.c has them ---- */

static struct queue_call *name_call(struct queue *queue, enum queue_op op, struct queue_name name,
                                    const char *consumer, size_t count, void (*done)(void),
                                    void *arg);
static void send(struct queue *queue, struct queue_call *call);

static void end_claim(struct queue_call *call, const struct err *err, struct queue_claimed *claimed)
{
    if (err->code == ERR_OUTCOME_UNKNOWN)
        note_unsure(call);
    ((queue_claim_done *)call->done)(call->arg, claimed ? &no_error : err, claimed);
}

/* The next one, with what this one gave. */
static void go_on(struct queue_call *call, enum queue_op op)
{
    struct queue *queue = &call->queue->queue;
    struct queue_call *next =
        name_call(queue, op, call->name, call->consumer, 0, call->done, call->arg);
    next->max = call->max;
    next->before = call->claimed;
    call->claimed = NULL;
    send(queue, next);
}

/* Of these the server answers ids only: the entries are read by a call of its own. */
static bool only_takes(const struct queue_call *call)
{
    return call->op == OP_INHERIT || call->op == OP_PULL ||
           (call->op == OP_CLAIM && is_ordered(call->name));
}

static void complete_claim(struct queue_call *call, const struct err *err)
{
    struct queue_claimed *claimed = call->claimed;
    if (err->code != ERR_NONE) {
        end_claim(call, err, NULL);
        return;
    }
    if (call->looks)
        note_looked(call);
    if (only_takes(call) && claimed->count) {
        if (clock_mono_us() - call->asked_us > FETCH_US)
            end_claim(call, &unknown, NULL);
        else
            go_on(call, OP_FETCH);
    } else if (call->op == OP_CLAIM && call->wait && !is_ordered(call->name) &&
               claimed->count < call->max) {
        go_on(call, OP_CLAIM_AGAIN);
    } else {
        call->claimed = NULL; /* the receiver's */
        end_claim(call, err, claimed);
    }
}

static void complete_fetch(struct queue_call *call, const struct err *err)
{
    struct queue_claimed *claimed = call->claimed;
    if (err->code != ERR_NONE) {
        end_claim(call, &unknown, NULL); /* it is in our hand */
        return;
    }
    call->claimed = NULL;
    end_claim(call, err, claimed);
}

/* What was found before counts, whatever came of looking again. */
static void complete_claim_again(struct queue_call *call, const struct err *err)
{
    struct queue_claimed *found = call->before;
    if (err->code == ERR_NONE)
        found = redis_join(call->before, call->claimed);
    else if (found->count)
        queue_claimed_ref(found);
    else
        found = NULL;
    end_claim(call, err, found);
}

/* ---- completions ---- */

static void complete_read_replies(struct queue_call *call, const struct err *err)
{
    struct body *bodies = mem_array(call->count, sizeof(*bodies));
    for (size_t i = 0; i < call->count; i++)
        bodies[i] = redis_read_reply(call->given[i].id);
    ((queue_replies_read *)call->done)(call->arg, err, err->code == ERR_NONE ? bodies : NULL);
    free(bodies);
}

static void complete(struct sim_call *sim_call, const struct err *err)
{
    struct queue_call *call = (struct queue_call *)sim_call;
    bool well = err->code == ERR_NONE;
    switch (call->op) {
    case OP_ENQUEUE:
        ((queue_enqueued *)call->done)(call->arg, err, call->results[0]);
        return;
    case OP_CLAIM:
    case OP_TAKEOVER:
    case OP_INHERIT:
    case OP_PULL:
        complete_claim(call, err);
        return;
    case OP_FETCH:
        complete_fetch(call, err);
        return;
    case OP_CLAIM_AGAIN:
        complete_claim_again(call, err);
        return;
    case OP_PROMOTE:
        ((queue_promoted *)call->done)(call->arg, err, call->results[0],
                                       well ? call->results[1] : -1);
        return;
    case OP_SLOTS:
        ((queue_slots_done *)call->done)(call->arg, err, call->results[0], call->results[1]);
        return;
    case OP_DEPTH:
        ((queue_depth_done *)call->done)(call->arg, err, &call->depth);
        return;
    case OP_MISSING:
    case OP_HELD:
        ((queue_flags_done *)call->done)(call->arg, err, call->flags);
        return;
    case OP_COUNT_DEATHS:
        ((queue_deaths_done *)call->done)(call->arg, err, call->deaths);
        return;
    case OP_READ_REPLIES:
        complete_read_replies(call, err);
        return;
    case OP_HAND_BACK:
    case OP_LEAVE:
        note_unsure(call);
        break;
    case OP_RENEW:
    case OP_FINISH:
    case OP_RETRY:
    case OP_BURY:
    case OP_UNBURY:
    case OP_REPLIES:
    case OP_HEARTBEAT:
        break;
    }
    ((queue_done *)call->done)(call->arg, err);
}

static void free_call(struct sim_call *sim_call)
{
    struct queue_call *call = (struct queue_call *)sim_call;
    if (call->claimed)
        queue_claimed_unref(call->claimed);
    if (call->before)
        queue_claimed_unref(call->before);
    for (size_t i = 0; call->given && i < call->count; i++)
        redis_content_unref(call->given[i].content);
    free(call->given);
    free(call->flags);
    free(call->deaths);
    free(call);
}

static const struct sim_call_ops call_ops = {
    .execute = queue_call_execute, .complete = complete, .free = free_call};

/* ---- making calls ---- */

#define DONE(done) ((void (*)(void))(done))

static struct queue_call *new_call(struct queue *queue, enum queue_op op, const char *item,
                                   size_t count, void (*done)(void), void *arg)
{
    struct queue_call *call = mem_alloc(sizeof(*call));
    call->queue = of(queue);
    call->op = op;
    snprintf(call->client, sizeof(call->client), "%s", sim_loop_name_of(of(queue)->link.loop));
    snprintf(call->item, sizeof(call->item), "%s", item);
    call->count = count;
    call->given = count ? mem_array(count, sizeof(*call->given)) : NULL;
    call->done = done;
    call->arg = arg;
    return call;
}

static struct queue_call *name_call(struct queue *queue, enum queue_op op, struct queue_name name,
                                    const char *consumer, size_t count, void (*done)(void),
                                    void *arg)
{
    struct queue_call *call = new_call(queue, op, name.item, count, done, arg);
    BUG_ON(count > QUEUE_BATCH_MAX);
    call->name = name;
    call->name.item = call->item;
    call->asked_us = clock_mono_us();
    snprintf(call->consumer, sizeof(call->consumer), "%s", consumer ? consumer : "");
    return call;
}

static void send(struct queue *queue, struct queue_call *call)
{
    sim_link_call(&of(queue)->link, &call->call, &call_ops);
}

static void give_entries(struct queue_call *call, const struct queue_entry *entries)
{
    for (size_t i = 0; i < call->count; i++) {
        const struct queue_entry *entry = &entries[i];
        call->given[i] = (struct redis_given){
            .id = entry->id,
            .at_ms = entry->at_ms,
            .due_ms = entry->due_ms > clock_wall_ms() ? entry->due_ms : 0,
            .priority = entry->priority,
            .attempts = entry->attempts,
            .content = redis_content_new(entry->key, entry->meta, entry->body)};
    }
}

static void give_pointers(struct queue_call *call, const struct queue_entry *const *entries)
{
    for (size_t i = 0; i < call->count; i++)
        call->given[i] = (struct redis_given){.id = entries[i]->id,
                                              .number = strtoll(entries[i]->entry_id, NULL, 10)};
}

static void enqueue(struct queue *queue, struct queue_name name, const struct queue_entry *entries,
                    size_t count, queue_enqueued *done, void *arg)
{
    struct queue_call *call = name_call(queue, OP_ENQUEUE, name, NULL, count, DONE(done), arg);
    give_entries(call, entries);
    send(queue, call);
}

static void claim(struct queue *queue, struct queue_name name, const char *consumer, size_t max,
                  bool wait, queue_claim_done *done, void *arg)
{
    struct queue_call *call = name_call(queue, OP_CLAIM, name, consumer, 0, DONE(done), arg);
    const struct sim_hand *hand = find_hand(of(queue), name);
    call->max = max;
    call->wait = wait;
    call->looks = name.type == QUEUE_FIFO && (!hand || hand->after >= 0);
    call->after = hand ? hand->after : 0;
    send(queue, call);
}

static void takeover(struct queue *queue, struct queue_name name, const char *consumer,
                     int64_t min_idle_ms, size_t max, queue_claim_done *done, void *arg)
{
    struct queue_call *call = name_call(queue, OP_TAKEOVER, name, consumer, 0, DONE(done), arg);
    call->numbers[0] = min_idle_ms;
    call->max = max;
    send(queue, call);
}

static void inherit(struct queue *queue, struct queue_name name, const char *consumer, size_t max,
                    queue_claim_done *done, void *arg)
{
    struct queue_call *call = name_call(queue, OP_INHERIT, name, consumer, 0, DONE(done), arg);
    call->max = max;
    send(queue, call);
}

static void pull(struct queue *queue, struct queue_name name, const char *consumer,
                 const struct queue_entry *entries, size_t count, queue_claim_done *done, void *arg)
{
    struct queue_call *call = name_call(queue, OP_PULL, name, consumer, count, DONE(done), arg);
    give_entries(call, entries);
    send(queue, call);
}

static void renew(struct queue *queue, struct queue_name name, const char *consumer,
                  const struct queue_entry *const *entries, size_t count, queue_done *done,
                  void *arg)
{
    struct queue_call *call = name_call(queue, OP_RENEW, name, consumer, count, DONE(done), arg);
    give_pointers(call, entries);
    send(queue, call);
}

static void hand_back(struct queue *queue, struct queue_name name, const char *consumer,
                      const struct queue_entry *const *entries, size_t count, queue_done *done,
                      void *arg)
{
    struct queue_call *call =
        name_call(queue, OP_HAND_BACK, name, consumer, count, DONE(done), arg);
    give_pointers(call, entries);
    send(queue, call);
}

static void finish(struct queue *queue, struct queue_name name,
                   const struct queue_entry *const *entries, size_t count, queue_done *done,
                   void *arg)
{
    struct queue_call *call = name_call(queue, OP_FINISH, name, NULL, count, DONE(done), arg);
    give_pointers(call, entries);
    send(queue, call);
}

static void retry(struct queue *queue, struct queue_name name, const char *consumer,
                  const struct queue_retry *retries, size_t count, queue_done *done, void *arg)
{
    struct queue_call *call = name_call(queue, OP_RETRY, name, consumer, count, DONE(done), arg);
    for (size_t i = 0; i < count; i++)
        call->given[i] = (struct redis_given){.id = retries[i].id,
                                              .number = strtoll(retries[i].entry_id, NULL, 10),
                                              .due_ms = retries[i].due_ms,
                                              .attempts = retries[i].attempts};
    send(queue, call);
}

static void promote(struct queue *queue, struct queue_name name, int64_t now_ms, size_t max,
                    queue_promoted *done, void *arg)
{
    struct queue_call *call = name_call(queue, OP_PROMOTE, name, NULL, 0, DONE(done), arg);
    call->numbers[0] = now_ms;
    call->max = max;
    send(queue, call);
}

static void bury(struct queue *queue, const char *item, const struct queue_dead *dead, size_t count,
                 queue_done *done, void *arg)
{
    (void)dead; /* the mirror promises nothing */
    send(queue, new_call(queue, OP_BURY, item, count, DONE(done), arg));
}

static void unbury(struct queue *queue, const char *item, const struct uuid *ids, size_t count,
                   queue_done *done, void *arg)
{
    (void)ids;
    send(queue, new_call(queue, OP_UNBURY, item, count, DONE(done), arg));
}

static int64_t status_of(const char *word)
{
    int64_t status = 0;
    while (strcmp(queue_status_word(status), word) != 0)
        status++;
    return status;
}

static void replies(struct queue *queue, const char *item, const struct queue_reply *list,
                    size_t count, queue_done *done, void *arg)
{
    struct queue_call *call = new_call(queue, OP_REPLIES, item, count, DONE(done), arg);
    for (size_t i = 0; i < count; i++)
        call->given[i] = (struct redis_given){
            .id = list[i].id,
            .at_ms = list[i].ttl_ms,
            .due_ms = status_of(list[i].status),
            .content = redis_content_new(list[i].to, slice_of(NULL, 0), list[i].body)};
    send(queue, call);
}

static void give_ids(struct queue_call *call, const struct uuid *ids)
{
    for (size_t i = 0; i < call->count; i++)
        call->given[i].id = ids[i];
    call->flags = mem_array(call->count, sizeof(*call->flags));
}

static void read_replies(struct queue *queue, const char *item, const struct uuid *ids,
                         size_t count, queue_replies_read *done, void *arg)
{
    struct queue_call *call = new_call(queue, OP_READ_REPLIES, item, count, DONE(done), arg);
    give_ids(call, ids);
    send(queue, call);
}

static void slots(struct queue *queue, struct queue_name name, unsigned partitions,
                  const char *holder, int64_t limit, int64_t held, int64_t want, int64_t ttl_ms,
                  queue_slots_done *done, void *arg)
{
    struct queue_call *call = name_call(queue, OP_SLOTS, name, holder, 0, DONE(done), arg);
    call->max = partitions;
    call->numbers[0] = limit;
    call->numbers[1] = held;
    call->numbers[2] = want;
    call->numbers[3] = ttl_ms;
    send(queue, call);
}

static void depth(struct queue *queue, struct queue_name name, queue_depth_done *done, void *arg)
{
    send(queue, name_call(queue, OP_DEPTH, name, NULL, 0, DONE(done), arg));
}

static void missing(struct queue *queue, struct queue_name name, const struct uuid *ids,
                    size_t count, queue_flags_done *done, void *arg)
{
    struct queue_call *call = name_call(queue, OP_MISSING, name, NULL, count, DONE(done), arg);
    give_ids(call, ids);
    send(queue, call);
}

static void held(struct queue *queue, struct queue_name name, const struct uuid *ids, size_t count,
                 queue_flags_done *done, void *arg)
{
    struct queue_call *call = name_call(queue, OP_HELD, name, NULL, count, DONE(done), arg);
    give_ids(call, ids);
    send(queue, call);
}

static void count_deaths(struct queue *queue, struct queue_name name, const struct uuid *ids,
                         size_t count, queue_deaths_done *done, void *arg)
{
    struct queue_call *call = name_call(queue, OP_COUNT_DEATHS, name, NULL, count, DONE(done), arg);
    give_ids(call, ids);
    call->deaths = mem_array(count, sizeof(*call->deaths));
    send(queue, call);
}

/* No run changes its production. */
static void withdraw(struct queue *queue, struct queue_name name, const struct uuid *ids,
                     size_t count, queue_flags_done *done, void *arg)
{
    (void)queue;
    (void)name;
    (void)ids;
    (void)count;
    (void)done;
    (void)arg;
    BUG_ON(true);
}

static void heartbeat(struct queue *queue, const char *worker, const char *host, int64_t pid,
                      const char *items, int64_t in_hand, int64_t ttl_ms, queue_done *done,
                      void *arg)
{
    (void)worker;
    (void)host;
    (void)pid;
    (void)items;
    (void)in_hand;
    (void)ttl_ms;
    send(queue, new_call(queue, OP_HEARTBEAT, "", 0, DONE(done), arg));
}

static void leave(struct queue *queue, struct queue_name name, const char *consumer,
                  queue_done *done, void *arg)
{
    send(queue, name_call(queue, OP_LEAVE, name, consumer, 0, DONE(done), arg));
}

static void free_queue(struct queue *queue)
{
    (void)queue; /* its process has ended it (sim_queue_end) */
}

static const struct queue_ops queue_ops = {.enqueue = enqueue,
                                           .claim = claim,
                                           .takeover = takeover,
                                           .inherit = inherit,
                                           .pull = pull,
                                           .renew = renew,
                                           .hand_back = hand_back,
                                           .finish = finish,
                                           .retry = retry,
                                           .promote = promote,
                                           .bury = bury,
                                           .unbury = unbury,
                                           .replies = replies,
                                           .read_replies = read_replies,
                                           .slots = slots,
                                           .depth = depth,
                                           .missing = missing,
                                           .held = held,
                                           .count_deaths = count_deaths,
                                           .withdraw = withdraw,
                                           .heartbeat = heartbeat,
                                           .leave = leave,
                                           .free = free_queue};

/* ---- life ---- */

static void on_up(void *arg)
{
    struct sim_queue *queue = arg;
    bool fresh = queue->epoch != redis.epoch;
    queue->epoch = redis.epoch;
    sim_say("redis is up%s", fresh ? ", fresh" : "");
    queue->options.on_up(queue->options.arg, fresh);
}

static void on_down(void *arg, const struct err *err)
{
    struct sim_queue *queue = arg;
    sim_say("redis is down");
    queue->hand_count = 0;
    queue->options.on_down(queue->options.arg, err);
}

static void on_look(void *arg)
{
    struct sim_queue *queue = arg;
    if (queue->link.up && queue->link.open && queue->epoch != redis.epoch)
        on_up(queue);
}

void sim_queue_flushed(void)
{
    struct sim_queue *queue;
    TAILQ_FOREACH(queue, &redis.clients, entry)
    {
        sim_set(&queue->look, queue->link.loop, sim.now_us + sim_between(0, EPOCH_US), on_look,
                queue);
    }
}

struct queue *queue_redis_new(struct loop *loop, const struct queue_redis_options *options)
{
    struct sim_queue *queue = mem_alloc(sizeof(*queue));
    queue->queue.ops = &queue_ops;
    queue->options = *options;
    TAILQ_INSERT_TAIL(&redis.clients, queue, entry);
    sim_link_init(&queue->link, &redis.server, loop, on_up, on_down, queue);
    sim_process_links(queue, NULL);
    return &queue->queue;
}

bool queue_redis_is_up(const struct queue *queue)
{
    return ((const struct sim_queue *)queue)->link.up;
}

bool sim_queue_end(struct sim_queue *queue)
{
    sim_unset(&queue->look);
    return sim_link_end(&queue->link);
}

void sim_queue_done(struct sim_queue *queue)
{
    sim_link_done(&queue->link);
    TAILQ_REMOVE(&redis.clients, queue, entry);
    free(queue);
}
