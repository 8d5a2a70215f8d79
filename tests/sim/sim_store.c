#include "sim_store.h"

#include "base/bug.h"
#include "base/mem.h"
#include "sim_fleet.h"
#include "sim_store_call.h"

#include <stdio.h>
#include <stdlib.h>

static struct sim_store *of(struct store *store)
{
    return (struct sim_store *)store;
}

/* ---- completions ---- */

static void set_results(struct store_call *call)
{
    for (size_t i = 0; call->client_messages && i < call->count; i++) {
        struct store_message *message = call->client_messages[i];
        message->seq = call->given[i].seq;
        message->error = call->given[i].refused ? ERR_INVALID : ERR_NONE;
        message->repeats = call->given[i].repeats;
        message->repeats_otherwise = call->given[i].repeats_otherwise;
    }
    for (size_t i = 0; call->client_outcomes && i < call->count; i++) {
        call->client_outcomes[i]->recorded = call->outcomes[i].recorded;
        call->client_outcomes[i]->error_code = call->outcomes[i].refused ? ERR_INVALID : ERR_NONE;
    }
    for (size_t i = 0; call->client_claims && i < call->count; i++)
        call->client_claims[i] = call->claims[i];
}

static void complete_with_one(struct store_call *call, const struct err *err)
{
    struct redis_content *content = call->contents ? call->contents[0] : NULL;
    if (call->op == OP_FIND)
        ((store_found *)call->done)(call->arg, err, call->found ? &call->record : NULL);
    else
        ((store_body_done *)call->done)(call->arg, err, content ? content->body : body_of(NULL, 0),
                                        slice_of(NULL, 0), call->found);
}

static void complete_production(struct store_call *call, const struct err *err)
{
    int64_t version = err->code == ERR_NONE ? call->result : 0;
    const struct redis_content *content = pg_production(version);
    struct store_production published = {.version = version};
    if (content) {
        published.hash = content->key;
        published.text = body_slice(content->body);
    }
    ((store_production_done *)call->done)(call->arg, err, &published);
}

static void complete_attend(struct store_call *call, const struct err *err)
{
    struct store_standing standing = {.version = pg_version(), .all_applied = call->result};
    ((store_attended *)call->done)(call->arg, err, &standing);
}

static void complete_redrive(struct store_call *call, const struct err *err, size_t count)
{
    struct store_handled handled = {.ids = call->ids_told, .count = count};
    if (!call->ids && count == call->limit)
        handled.next = call->ids_told[count - 1];
    ((store_handled_done *)call->done)(call->arg, err, &handled);
}

static void complete(struct sim_call *sim_call, const struct err *err)
{
    struct store_call *call = (struct store_call *)sim_call;
    bool well = err->code == ERR_NONE;
    size_t results = well ? call->result_count : 0;
    switch (call->op) {
    case OP_ACCEPT:
    case OP_ADOPT:
    case OP_SETTLE:
    case OP_CLAIM:
        if (well)
            set_results(call);
        break;
    case OP_KNOWN:
    case OP_ENDED:
        ((store_ended *)call->done)(call->arg, err, call->flags);
        return;
    case OP_EARLIER:
        ((store_earlier_done *)call->done)(call->arg, err, call->earlier, results, call->full,
                                           call->result);
        return;
    case OP_OWN:
        ((store_owned_done *)call->done)(call->arg, err, call->owned, results);
        return;
    case OP_FIND:
    case OP_BODY:
    case OP_REPLY:
        call->found &= well;
        complete_with_one(call, err);
        return;
    case OP_CHILDREN:
    case OP_FETCH:
        ((store_rows *)call->done)(call->arg, err, call->rows, results);
        return;
    case OP_UNFINISHED:
        ((store_page *)call->done)(call->arg, err, call->rows, results, call->result, call->full);
        return;
    case OP_LEASE:
        ((store_leased *)call->done)(call->arg, err, well ? call->result : 0);
        return;
    case OP_LOW_MARK:
        ((store_mark_done *)call->done)(call->arg, err, well ? call->result : 0);
        return;
    case OP_COUNTS:
        ((store_counts_done *)call->done)(call->arg, err, call->counts, results);
        return;
    case OP_PUBLISH:
    case OP_PRODUCTION_OF:
        complete_production(call, err);
        return;
    case OP_ATTEND:
        complete_attend(call, err);
        return;
    case OP_OLDER:
        ((store_older_done *)call->done)(call->arg, err, call->found ? 1 : 0);
        return;
    case OP_REDRIVE:
        complete_redrive(call, err, results);
        return;
    case OP_DISOWN:
    case OP_RELEASE:
    case OP_MAINTAIN:
        break;
    }
    ((store_done *)call->done)(call->arg, err);
}

static void free_outcome(struct pg_outcome *outcome)
{
    redis_content_unref(outcome->reply);
    for (size_t i = 0; i < outcome->child_count; i++)
        pg_given_done(&outcome->children[i]);
    if (outcome->message)
        pg_given_done(outcome->message);
    free(outcome->children);
    free(outcome->message);
}

static void free_call(struct sim_call *sim_call)
{
    struct store_call *call = (struct store_call *)sim_call;
    for (size_t i = 0; call->given && i < call->count; i++)
        pg_given_done(&call->given[i]);
    for (size_t i = 0; call->outcomes && i < call->count; i++)
        free_outcome(&call->outcomes[i]);
    for (size_t i = 0; call->contents && call->contents[i]; i++)
        redis_content_unref(call->contents[i]);
    redis_content_unref(call->text);
    free(call->items);
    free(call->given);
    free(call->outcomes);
    free(call->claims);
    free(call->before);
    free(call->shares);
    free(call->owned);
    free(call->ids);
    free(call->ids_told);
    free(call->flags);
    free(call->rows);
    free(call->contents);
    free(call->earlier);
    free(call->counts);
    free(call);
}

static const struct sim_call_ops call_ops = {.begin = store_call_begin,
                                             .execute = store_call_execute,
                                             .more = store_call_more,
                                             .complete = complete,
                                             .free = free_call};

/* ---- making calls ---- */

#define DONE(done) ((void (*)(void))(done))

static struct store_call *new_call(struct store *store, enum store_op op, size_t count,
                                   void (*done)(void), void *arg)
{
    struct store_call *call = mem_alloc(sizeof(*call));
    call->op = op;
    call->count = count;
    call->done = done;
    call->arg = arg;
    snprintf(call->client, sizeof(call->client), "%s", sim_loop_name_of(of(store)->links[0].loop));
    return call;
}

static void send(struct store *store, struct store_call *call)
{
    sim_link_call(&of(store)->links[store_op_info[call->op].link], &call->call, &call_ops);
}

static void *copy(const void *from, size_t count, size_t size)
{
    void *to = mem_array(count ? count : 1, size);
    if (count)
        memcpy(to, from, count * size);
    return to;
}

static void write_messages(struct store *store, enum store_op op, struct store_message *const *rows,
                           size_t count, store_done *done, void *arg)
{
    struct store_call *call = new_call(store, op, count, DONE(done), arg);
    BUG_ON(count > STORE_BATCH_MAX);
    call->client_messages = rows;
    call->given = mem_array(count, sizeof(*call->given));
    for (size_t i = 0; i < count; i++)
        pg_give(&call->given[i], rows[i]);
    send(store, call);
}

static void accept_messages(struct store *store, struct store_message *const *rows, size_t count,
                            store_done *done, void *arg)
{
    write_messages(store, OP_ACCEPT, rows, count, done, arg);
}

static void adopt(struct store *store, struct store_message *const *rows, size_t count,
                  store_done *done, void *arg)
{
    write_messages(store, OP_ADOPT, rows, count, done, arg);
}

static void claim(struct store *store, const char *worker, struct store_claim *rows, size_t count,
                  store_done *done, void *arg)
{
    struct store_call *call = new_call(store, OP_CLAIM, count, DONE(done), arg);
    (void)worker;
    call->client_claims = rows;
    call->claims = copy(rows, count, sizeof(*rows));
    send(store, call);
}

static void give_outcome(struct pg_outcome *to, const struct store_outcome *from)
{
    *to = (struct pg_outcome){.id = from->id,
                              .run = from->run,
                              .attempt = from->attempt,
                              .end = from->end,
                              .due_ms = from->due_ms,
                              .lease_token = from->lease_token,
                              .child_count = from->child_count,
                              .forget = from->forget};
    snprintf(to->worker, sizeof(to->worker), "%s", from->worker);
    snprintf(to->error, sizeof(to->error), "%s", from->error ? from->error : "");
    if (from->end == STORE_COMPLETED)
        to->reply = redis_content_new(slice_of(NULL, 0), slice_of(NULL, 0),
                                      body_of(from->reply.ptr, from->reply.len));
    to->children = mem_array(from->child_count + 1, sizeof(*to->children));
    for (size_t i = 0; i < from->child_count; i++)
        pg_give(&to->children[i], &from->children[i]);
    if (from->message) {
        to->message = mem_alloc(sizeof(*to->message));
        pg_give(to->message, from->message);
    }
}

static void settle(struct store *store, struct store_outcome *const *rows, size_t count,
                   store_done *done, void *arg)
{
    struct store_call *call = new_call(store, OP_SETTLE, count, DONE(done), arg);
    BUG_ON(count > STORE_BATCH_MAX);
    call->client_outcomes = rows;
    call->outcomes = mem_array(count, sizeof(*call->outcomes));
    for (size_t i = 0; i < count; i++)
        give_outcome(&call->outcomes[i], rows[i]);
    send(store, call);
}

static void ask_flags(struct store *store, enum store_op op, const struct uuid *ids, size_t count,
                      store_ended *done, void *arg)
{
    struct store_call *call = new_call(store, op, count, DONE(done), arg);
    call->ids = copy(ids, count, sizeof(*ids));
    call->flags = mem_array(count, sizeof(*call->flags));
    send(store, call);
}

static void known(struct store *store, const struct uuid *ids, size_t count, store_ended *done,
                  void *arg)
{
    ask_flags(store, OP_KNOWN, ids, count, done, arg);
}

static void ended(struct store *store, const struct uuid *ids, size_t count, store_ended *done,
                  void *arg)
{
    ask_flags(store, OP_ENDED, ids, count, done, arg);
}

static void earlier(struct store *store, const char *item, enum messaging_pattern pattern,
                    const struct store_before *parts, size_t part_count, size_t limit,
                    store_earlier_done *done, void *arg)
{
    struct store_call *call = new_call(store, OP_EARLIER, part_count, DONE(done), arg);
    (void)pattern; /* an item has one here */
    snprintf(call->name, sizeof(call->name), "%s", item);
    call->before = copy(parts, part_count, sizeof(*parts));
    call->limit = limit;
    send(store, call);
}

static void own(struct store *store, const char *worker, const struct store_share *shares,
                size_t count, int64_t ttl_ms, store_owned_done *done, void *arg)
{
    struct store_call *call = new_call(store, OP_OWN, count, DONE(done), arg);
    snprintf(call->holder, sizeof(call->holder), "%s", worker);
    call->shares = copy(shares, count, sizeof(*shares));
    call->items = mem_array(count + 1, sizeof(*call->items));
    for (size_t i = 0; i < count; i++)
        snprintf(call->items[i], sizeof(call->items[i]), "%s", shares[i].item);
    call->number = ttl_ms;
    send(store, call);
}

static void disown(struct store *store, const char *worker, const struct store_owned *owned,
                   size_t count, store_done *done, void *arg)
{
    struct store_call *call = new_call(store, OP_DISOWN, count, DONE(done), arg);
    snprintf(call->holder, sizeof(call->holder), "%s", worker);
    call->owned = copy(owned, count, sizeof(*owned));
    call->items = mem_array(count + 1, sizeof(*call->items));
    for (size_t i = 0; i < count; i++)
        snprintf(call->items[i], sizeof(call->items[i]), "%s", owned[i].item);
    send(store, call);
}

static void ask_one(struct store *store, enum store_op op, struct uuid id, void (*done)(void),
                    void *arg)
{
    struct store_call *call = new_call(store, op, 1, done, arg);
    call->ids = copy(&id, 1, sizeof(id));
    send(store, call);
}

static void find(struct store *store, struct uuid id, store_found *done, void *arg)
{
    ask_one(store, OP_FIND, id, DONE(done), arg);
}

static void read_body(struct store *store, struct uuid id, store_body_done *done, void *arg)
{
    ask_one(store, OP_BODY, id, DONE(done), arg);
}

static void read_reply(struct store *store, struct uuid id, store_body_done *done, void *arg)
{
    ask_one(store, OP_REPLY, id, DONE(done), arg);
}

static void ask_rows(struct store *store, enum store_op op, const struct uuid *ids, size_t count,
                     store_rows *done, void *arg)
{
    struct store_call *call = new_call(store, op, count, DONE(done), arg);
    call->ids = copy(ids, count, sizeof(*ids));
    send(store, call);
}

static void children(struct store *store, const struct uuid *ids, size_t count, store_rows *done,
                     void *arg)
{
    ask_rows(store, OP_CHILDREN, ids, count, done, arg);
}

static void fetch(struct store *store, const struct uuid *ids, size_t count, store_rows *done,
                  void *arg)
{
    ask_rows(store, OP_FETCH, ids, count, done, arg);
}

static void unfinished(struct store *store, int64_t after_seq, size_t limit, store_page *done,
                       void *arg)
{
    struct store_call *call = new_call(store, OP_UNFINISHED, 0, DONE(done), arg);
    call->number = after_seq;
    call->limit = limit;
    send(store, call);
}

static void lease(struct store *store, const char *name, const char *holder, int64_t ttl_ms,
                  store_leased *done, void *arg)
{
    struct store_call *call = new_call(store, OP_LEASE, 0, DONE(done), arg);
    snprintf(call->name, sizeof(call->name), "%s", name);
    snprintf(call->holder, sizeof(call->holder), "%s", holder);
    call->number = ttl_ms;
    send(store, call);
}

static void release(struct store *store, const char *name, const char *holder, store_done *done,
                    void *arg)
{
    struct store_call *call = new_call(store, OP_RELEASE, 0, DONE(done), arg);
    snprintf(call->name, sizeof(call->name), "%s", name);
    snprintf(call->holder, sizeof(call->holder), "%s", holder);
    send(store, call);
}

static void move_low_mark(struct store *store, int64_t token, int64_t new_low,
                          store_mark_done *done, void *arg)
{
    (void)token;
    (void)new_low;
    send(store, new_call(store, OP_LOW_MARK, 0, DONE(done), arg));
}

static void maintain(struct store *store, store_done *done, void *arg)
{
    send(store, new_call(store, OP_MAINTAIN, 0, DONE(done), arg));
}

static void counts(struct store *store, store_counts_done *done, void *arg)
{
    send(store, new_call(store, OP_COUNTS, 0, DONE(done), arg));
}

static void publish(struct store *store, const struct store_publication *publication,
                    store_production_done *done, void *arg)
{
    struct store_call *call = new_call(store, OP_PUBLISH, 0, DONE(done), arg);
    struct slice text = publication->text;
    call->text =
        redis_content_new(publication->hash, slice_of(NULL, 0), body_of(text.ptr, text.len));
    call->only_first = publication->base < 0;
    send(store, call);
}

static void production_of(struct store *store, int64_t version, store_production_done *done,
                          void *arg)
{
    struct store_call *call = new_call(store, OP_PRODUCTION_OF, 0, DONE(done), arg);
    call->number = version;
    send(store, call);
}

/* No run changes its production. */
static void close_queue(struct store *store, const char *item, int64_t below, store_done *done,
                        void *arg)
{
    (void)store;
    (void)item;
    (void)below;
    (void)done;
    (void)arg;
    BUG_ON(true);
}

static void attend(struct store *store, const char *id, const char *kind, int64_t version,
                   int64_t step, int64_t ttl_ms, store_attended *done, void *arg)
{
    struct store_call *call = new_call(store, OP_ATTEND, 0, DONE(done), arg);
    (void)kind;
    (void)step;
    snprintf(call->holder, sizeof(call->holder), "%s", id);
    call->number = version;
    call->limit = (size_t)ttl_ms;
    send(store, call);
}

static void older(struct store *store, const char *item, int64_t version, int64_t after_seq,
                  store_older_done *done, void *arg)
{
    (void)after_seq;
    struct store_call *call = new_call(store, OP_OLDER, 0, DONE(done), arg);
    snprintf(call->name, sizeof(call->name), "%s", item);
    call->number = version;
    send(store, call);
}

static void redrive(struct store *store, const char *item, const struct uuid *ids, size_t count,
                    struct uuid after, store_handled_done *done, void *arg)
{
    struct store_call *call = new_call(store, OP_REDRIVE, ids ? count : 0, DONE(done), arg);
    snprintf(call->name, sizeof(call->name), "%s", item);
    call->ids = ids ? copy(ids, count, sizeof(*ids)) : NULL;
    call->limit = count;
    call->after = after;
    send(store, call);
}

static void free_store(struct store *store)
{
    (void)store; /* its process has ended it (sim_store_end) */
}

static const struct store_ops store_ops = {.accept = accept_messages,
                                           .adopt = adopt,
                                           .known = known,
                                           .claim = claim,
                                           .earlier = earlier,
                                           .own = own,
                                           .disown = disown,
                                           .settle = settle,
                                           .find = find,
                                           .body = read_body,
                                           .reply = read_reply,
                                           .ended = ended,
                                           .children = children,
                                           .unfinished = unfinished,
                                           .fetch = fetch,
                                           .lease = lease,
                                           .release = release,
                                           .low_mark = move_low_mark,
                                           .maintain = maintain,
                                           .counts = counts,
                                           .publish = publish,
                                           .production_of = production_of,
                                           .attend = attend,
                                           .older = older,
                                           .redrive = redrive,
                                           .close_queue = close_queue,
                                           .free = free_store};

/* ---- life ---- */

static void on_up(void *arg)
{
    struct sim_store *store = arg;
    for (unsigned i = 0; i < SIM_STORE_LINKS; i++) {
        if (!store->links[i].up)
            return;
    }
    sim_say("postgres is up");
    store->up = true;
    store->options.on_up(store->options.arg);
}

static void on_down(void *arg, const struct err *err)
{
    struct sim_store *store = arg;
    if (!store->up)
        return;
    sim_say("postgres is down");
    store->up = false;
    store->options.on_down(store->options.arg, err);
}

struct store *store_pg_new(struct loop *loop, const struct store_pg_options *options)
{
    struct sim_store *store = mem_alloc(sizeof(*store));
    store->store.ops = &store_ops;
    store->options = *options;
    for (unsigned i = 0; i < SIM_STORE_LINKS; i++)
        sim_link_init(&store->links[i], &postgres.server, loop, on_up, on_down, store);
    sim_process_links(NULL, store);
    return &store->store;
}

bool store_pg_is_up(const struct store *store)
{
    return ((const struct sim_store *)store)->up;
}

bool sim_store_end(struct sim_store *store)
{
    bool any = false;
    for (unsigned i = 0; i < SIM_STORE_LINKS; i++)
        any |= sim_link_end(&store->links[i]);
    return any;
}

void sim_store_done(struct sim_store *store)
{
    for (unsigned i = 0; i < SIM_STORE_LINKS; i++)
        sim_link_done(&store->links[i]);
    free(store);
}
