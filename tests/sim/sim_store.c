#include "sim_store.h"

#include "base/bug.h"
#include "base/mem.h"
#include "sim_fleet.h"

#include <stdio.h>
#include <stdlib.h>

enum store_op {
    OP_ACCEPT,
    OP_ADOPT,
    OP_KNOWN,
    OP_CLAIM,
    OP_EARLIER,
    OP_OWN,
    OP_DISOWN,
    OP_SETTLE,
    OP_FIND,
    OP_BODY,
    OP_REPLY,
    OP_ENDED,
    OP_CHILDREN,
    OP_UNFINISHED,
    OP_FETCH,
    OP_LEASE,
    OP_RELEASE,
    OP_LOW_MARK,
    OP_MAINTAIN,
    OP_COUNTS,
    OP_PRODUCTION,
};
static const struct {
    const char *word;
    unsigned link;
    bool writes;
} ops_table[] = {
    [OP_ACCEPT] = {"accept", SIM_COMMITS, true},
    [OP_ADOPT] = {"adopt", SIM_COMMITS, true},
    [OP_KNOWN] = {"known", SIM_LOOKUPS, false},
    [OP_CLAIM] = {"claim", SIM_LOOKUPS, true},
    [OP_EARLIER] = {"earlier", SIM_LOOKUPS, false},
    [OP_OWN] = {"own", SIM_SCANS, true},
    [OP_DISOWN] = {"disown", SIM_SCANS, true},
    [OP_SETTLE] = {"settle", SIM_COMMITS, true},
    [OP_FIND] = {"find", SIM_LOOKUPS, false},
    [OP_BODY] = {"body", SIM_LOOKUPS, false},
    [OP_REPLY] = {"reply", SIM_LOOKUPS, false},
    [OP_ENDED] = {"ended", SIM_LOOKUPS, false},
    [OP_CHILDREN] = {"children", SIM_LOOKUPS, false},
    [OP_UNFINISHED] = {"unfinished", SIM_SCANS, false},
    [OP_FETCH] = {"fetch", SIM_SCANS, false},
    [OP_LEASE] = {"lease", SIM_SCANS, true},
    [OP_RELEASE] = {"release", SIM_SCANS, true},
    [OP_LOW_MARK] = {"low_mark", SIM_SCANS, true},
    [OP_MAINTAIN] = {"maintain", SIM_SCANS, true},
    [OP_COUNTS] = {"counts", SIM_SCANS, false},
    [OP_PRODUCTION] = {"production", SIM_SCANS, false},
};

#define OWNED_MAX 64

struct store_call {
    struct sim_call call; /* first */
    enum store_op op;
    char client[16]; /* for the trace */
    char name[64], holder[96];
    size_t count;
    int64_t number;
    size_t limit;
    /* copies of what was given; owned */
    struct pg_given *given;
    struct pg_outcome *outcomes;
    struct store_claim *claims;
    struct store_before *before;
    struct store_share *shares;
    struct store_owned *owned;
    struct uuid *ids;
    struct pg_write write;
    /* the client's, for what the completion sets */
    struct store_message *const *client_messages;
    struct store_outcome *const *client_outcomes;
    struct store_claim *client_claims;
    /* what came of it; owned */
    bool *flags;
    struct store_unfinished *rows;
    struct redis_content **contents; /* that the rows or the record borrow */
    struct store_earlier *earlier;
    struct store_record record;
    char record_error[240];
    struct store_count *counts;
    size_t result_count;
    bool full, found;
    int64_t result;
    void (*done)(void);
    void *arg;
};

static struct sim_store *of(struct store *store)
{
    return (struct sim_store *)store;
}

/* ---- the server's side ---- */

static int64_t commit_most_us = 3000;

void sim_store_commit_time(int64_t most_us)
{
    commit_most_us = most_us;
}

static void draw(struct pg_given *given, int64_t *seq)
{
    given->seq = (*seq)++;
    given->drawn_us = sim.now_us;
}

static size_t messages_in(const struct store_call *call)
{
    size_t count = call->given ? call->count : 0;
    for (size_t i = 0; call->outcomes && i < call->count; i++)
        count += call->outcomes[i].child_count + (call->outcomes[i].message != NULL);
    return count;
}

/* No transaction is open that drew a seq up to here. */
static int64_t whole_seq(void)
{
    const struct pg_write *write;
    int64_t seq = postgres.last_seq;
    TAILQ_FOREACH(write, &postgres.writes, link)
    {
        seq = write->least_seq - 1 < seq ? write->least_seq - 1 : seq;
    }
    return seq;
}

static int64_t begin(struct sim_call *sim_call)
{
    struct store_call *call = (struct store_call *)sim_call;
    call->result = whole_seq(); /* of earlier */
    if (!ops_table[call->op].writes)
        return sim_between(50, 1000);
    int64_t seq = pg_draw(&call->write, messages_in(call));
    for (size_t i = 0; call->given && i < call->count; i++)
        draw(&call->given[i], &seq);
    for (size_t i = 0; call->outcomes && i < call->count; i++) {
        struct pg_outcome *outcome = &call->outcomes[i];
        if (outcome->message)
            draw(outcome->message, &seq);
        for (size_t j = 0; j < outcome->child_count; j++)
            draw(&outcome->children[j], &seq);
    }
    return sim_between(300, sim_one_in(20) ? commit_most_us * 10 : commit_most_us);
}

static void execute_earlier(struct store_call *call)
{
    struct pg_row *row;
    call->earlier = mem_array(call->limit + 1, sizeof(*call->earlier));
    TAILQ_FOREACH(row, &postgres.accepted, by_seq)
    {
        struct store_before *of = NULL;
        if (!pg_is_unfinished(row) || strcmp(row->item, call->name) != 0)
            continue;
        for (size_t i = 0; !of && i < call->count; i++)
            of = (int)call->before[i].partition == row->partition ? &call->before[i] : NULL;
        if (!of || row->seq <= of->after_seq || row->seq >= of->upto_seq || of->most == 0)
            continue;
        of->most--;
        if (call->result_count == call->limit) {
            call->full = true;
            return;
        }
        call->earlier[call->result_count++] = (struct store_earlier){
            .id = row->id, .partition = (unsigned)row->partition, .seq = row->seq};
    }
}

static void add_row(struct store_call *call, const struct pg_row *row, bool light)
{
    struct store_unfinished *to = &call->rows[call->result_count];
    to->message = (struct store_message){.id = row->id,
                                         .parent = row->parent,
                                         .item = row->item,
                                         .pattern = row->pattern,
                                         .received_us = row->received_us,
                                         .due_ms = row->due_ms,
                                         .priority = row->priority,
                                         .partition = row->partition,
                                         .version = row->version,
                                         .seq = row->seq};
    to->body_len = row->content->body.len;
    call->contents[call->result_count++] = redis_content_ref(row->content);
    if (light)
        return;
    to->message.ordering_key = row->content->key;
    to->message.meta = row->content->meta;
    if (row->content->body.len <= MESSAGE_INLINE_MAX)
        to->message.body = row->content->body;
}

static void make_rows(struct store_call *call, size_t most)
{
    call->rows = mem_array(most + 1, sizeof(*call->rows));
    call->contents = mem_array(most + 1, sizeof(struct redis_content *));
}

static void execute_unfinished(struct store_call *call)
{
    struct pg_row *row;
    size_t looked = 0;
    make_rows(call, call->limit);
    call->full = true; /* the end */
    call->result = call->number;
    TAILQ_FOREACH(row, &postgres.accepted, by_seq)
    {
        if (row->seq <= call->number)
            continue;
        if (call->result_count == call->limit || looked++ == STORE_LOOK_MAX) {
            call->full = false;
            return;
        }
        call->result = row->seq;
        if (pg_is_unfinished(row))
            add_row(call, row, true);
    }
}

static bool is_asked(const struct store_call *call, struct uuid id)
{
    for (size_t i = 0; i < call->count; i++) {
        if (uuid_equal(call->ids[i], id))
            return true;
    }
    return false;
}

static void execute_rows(struct store_call *call)
{
    struct pg_row *row;
    make_rows(call, HASH_COUNT(postgres.rows));
    TAILQ_FOREACH(row, &postgres.accepted, by_seq)
    {
        if (pg_is_unfinished(row) && is_asked(call, call->op == OP_FETCH ? row->id : row->parent))
            add_row(call, row, false);
    }
}

static int64_t low_mark(void)
{
    const struct pg_row *row;
    int64_t low = whole_seq();
    TAILQ_FOREACH(row, &postgres.accepted, by_seq)
    {
        if (pg_is_unfinished(row))
            return row->seq - 1 < low ? row->seq - 1 : low;
    }
    return low;
}

static void execute_find(struct store_call *call)
{
    static const char *const states[] = {"completed", "dead_lettered", "expired", "cancelled"};
    const struct pg_row *row = pg_find(call->ids[0]);
    call->found = row && (row->is_accepted || row->ended);
    if (!call->found)
        return;
    snprintf(call->record_error, sizeof(call->record_error), "%s", row->error);
    call->record = (struct store_record){.id = row->id,
                                         .state = row->ended     ? states[row->end]
                                                  : row->attempt ? "retrying"
                                                                 : "accepted",
                                         .attempts = row->attempt,
                                         .error = row->error[0] ? call->record_error : NULL};
    call->contents = mem_array(2, sizeof(struct redis_content *));
    if (row->reply)
        call->contents[0] = redis_content_ref(row->reply);
}

static void execute_body(struct store_call *call)
{
    const struct pg_row *row = pg_find(call->ids[0]);
    struct redis_content *content = !row ? NULL : call->op == OP_BODY ? row->content : row->reply;
    call->found = content != NULL;
    call->contents = mem_array(2, sizeof(struct redis_content *));
    if (content)
        call->contents[0] = redis_content_ref(content);
}

static void execute_counts(struct store_call *call)
{
    const struct pg_row *row;
    call->counts = mem_array(call->count + 32, sizeof(*call->counts));
    TAILQ_FOREACH(row, &postgres.accepted, by_seq)
    {
        size_t i = 0;
        if (!pg_is_unfinished(row))
            continue;
        while (i < call->result_count && strcmp(call->counts[i].item, row->item) != 0)
            i++;
        if (i == call->result_count)
            call->counts[call->result_count++].item = row->item;
        call->counts[i].unfinished++;
    }
}

static void execute_flags(struct store_call *call)
{
    for (size_t i = 0; i < call->count; i++) {
        const struct pg_row *row = pg_find(call->ids[i]);
        call->flags[i] = row && (call->op == OP_KNOWN ? row->is_accepted : row->ended);
    }
}

static void execute_write(struct store_call *call)
{
    for (size_t i = 0; call->given && i < call->count; i++) {
        if (!pg_insert(&call->given[i]))
            call->given[i].seq = 0;
    }
    for (size_t i = 0; call->outcomes && i < call->count; i++)
        pg_settle(&call->outcomes[i]);
    for (size_t i = 0; call->claims && i < call->count; i++)
        pg_claim(&call->claims[i]);
}

static void execute(struct sim_call *sim_call)
{
    struct store_call *call = (struct store_call *)sim_call;
    sim_say("postgres %s by %s, %zu", ops_table[call->op].word, call->client, call->count);
    switch (call->op) {
    case OP_ACCEPT:
    case OP_ADOPT:
    case OP_SETTLE:
    case OP_CLAIM:
        execute_write(call);
        break;
    case OP_KNOWN:
    case OP_ENDED:
        execute_flags(call);
        break;
    case OP_EARLIER:
        execute_earlier(call);
        break;
    case OP_OWN:
        pg_own(call->holder, call->shares, call->count, call->number);
        call->owned = mem_array(OWNED_MAX, sizeof(*call->owned));
        call->result_count =
            pg_owned(call->holder, call->shares, call->count, call->owned, OWNED_MAX);
        break;
    case OP_DISOWN:
        pg_disown(call->holder, call->owned, call->count);
        break;
    case OP_FIND:
        execute_find(call);
        break;
    case OP_BODY:
    case OP_REPLY:
        execute_body(call);
        break;
    case OP_CHILDREN:
    case OP_FETCH:
        execute_rows(call);
        break;
    case OP_UNFINISHED:
        execute_unfinished(call);
        break;
    case OP_LEASE:
        call->result = pg_lease(call->name, call->holder, call->number);
        break;
    case OP_RELEASE:
        pg_release(call->name, call->holder);
        break;
    case OP_COUNTS:
        execute_counts(call);
        break;
    case OP_LOW_MARK:
    case OP_MAINTAIN:
    case OP_PRODUCTION:
        break;
    }
    if (ops_table[call->op].writes)
        pg_committed(&call->write);
    if (call->op == OP_LOW_MARK)
        call->result = low_mark();
}

/* ---- the client's side ---- */

static void set_results(struct store_call *call)
{
    for (size_t i = 0; call->client_messages && i < call->count; i++) {
        struct store_message *message = call->client_messages[i];
        message->seq = call->given[i].seq;
        message->error = ERR_NONE;
        message->repeats = call->given[i].repeats;
        message->repeats_otherwise = call->given[i].repeats_otherwise;
    }
    for (size_t i = 0; call->client_outcomes && i < call->count; i++) {
        call->client_outcomes[i]->recorded = call->outcomes[i].recorded;
        call->client_outcomes[i]->error_code = ERR_NONE;
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
    case OP_PRODUCTION:
        ((store_production_done *)call->done)(call->arg, err, &(const struct store_production){0});
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
    free(call->given);
    free(call->outcomes);
    free(call->claims);
    free(call->before);
    free(call->shares);
    free(call->owned);
    free(call->ids);
    free(call->flags);
    free(call->rows);
    free(call->contents);
    free(call->earlier);
    free(call->counts);
    free(call);
}

static const struct sim_call_ops call_ops = {
    .begin = begin, .execute = execute, .complete = complete, .free = free_call};

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
    sim_link_call(&of(store)->links[ops_table[call->op].link], &call->call, &call_ops);
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
    call->shares = copy(shares, count, sizeof(*shares)); /* items' names outlive all of it */
    call->number = ttl_ms;
    send(store, call);
}

static void disown(struct store *store, const char *worker, const struct store_owned *owned,
                   size_t count, store_done *done, void *arg)
{
    struct store_call *call = new_call(store, OP_DISOWN, count, DONE(done), arg);
    snprintf(call->holder, sizeof(call->holder), "%s", worker);
    call->owned = copy(owned, count, sizeof(*owned));
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

static void production(struct store *store, int64_t version, store_production_done *done, void *arg)
{
    (void)version;
    send(store, new_call(store, OP_PRODUCTION, 0, DONE(done), arg));
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
                                           .production = production,
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
