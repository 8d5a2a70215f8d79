/* What the fake PostgreSQL does with the calls of store.h: table look-ups here, changes in sim_postgres.c. */
#include "sim_store_call.h"

#include "base/mem.h"
#include "sim_check.h"
#include "sim_fleet.h"

#include <stdio.h>
#include <stdlib.h>

const struct store_op_info store_op_info[] = {
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
    [OP_PUBLISH] = {"publish", SIM_SCANS, true},
    [OP_PRODUCTION_OF] = {"production_of", SIM_SCANS, false},
    [OP_ATTEND] = {"attend", SIM_SCANS, true},
    [OP_OLDER] = {"older", SIM_SCANS, false},
    [OP_REDRIVE] = {"redrive", SIM_SCANS, true},
};

#define RACE_ONE_IN 1500

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

/* ---- rows that are refused for their data ---- */

static bool is_poisoned(const struct pg_given *given, enum sim_kind kind)
{
    return sim_kind_of(given->content->body) == kind;
}

/* An end without what poisons it is taken. */
static bool poisons(const struct pg_outcome *outcome)
{
    bool refused = outcome->message && is_poisoned(outcome->message, KIND_POISONS_ROW);
    for (size_t i = 0; i < outcome->child_count; i++)
        refused |= is_poisoned(&outcome->children[i], KIND_POISONS_END);
    return refused || (outcome->reply && sim_kind_of(outcome->reply->body) == KIND_POISONS_END);
}

static bool is_refused(const struct store_call *call, size_t at)
{
    return call->given ? is_poisoned(&call->given[at], KIND_POISONS_ROW)
                       : call->outcomes && poisons(&call->outcomes[at]);
}

static void refuse(struct store_call *call, size_t at)
{
    sim_count(SIM_ROW_REFUSED);
    sim_say("  refuses %s", sim_name(call->given ? call->given[at].id : call->outcomes[at].id));
    if (call->given) {
        call->given[at].refused = true;
        return;
    }
    call->outcomes[at].refused = true;
    check_refused(call->outcomes[at].id);
}

/* ---- a call begins ---- */

/* A transaction of the rows from here to the next refused one. */
static int64_t begin_write(struct store_call *call, size_t from)
{
    size_t count = 0;
    call->from = call->to = from;
    while (call->to < call->count && !is_refused(call, call->to)) {
        const struct pg_outcome *outcome = call->outcomes ? &call->outcomes[call->to] : NULL;
        count += outcome ? outcome->child_count + (outcome->message != NULL) : call->given != NULL;
        call->to++;
    }
    int64_t seq = pg_draw(&call->write, count);
    for (size_t i = from; call->given && i < call->to; i++)
        draw(&call->given[i], &seq);
    for (size_t i = from; call->outcomes && i < call->to; i++) {
        struct pg_outcome *outcome = &call->outcomes[i];
        if (outcome->message)
            draw(outcome->message, &seq);
        for (size_t j = 0; j < outcome->child_count; j++)
            draw(&outcome->children[j], &seq);
    }
    return sim_between(300, sim_one_in(20) ? commit_most_us * 10 : commit_most_us);
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

/* What the client knows of it lags behind, as long as it likes. */
static int64_t known_whole_seq(void)
{
    int64_t seq = whole_seq();
    return sim_one_in(2) ? seq : sim_between(0, seq);
}

int64_t store_call_begin(struct sim_call *sim_call)
{
    struct store_call *call = (struct store_call *)sim_call;
    if (store_op_info[call->op].writes)
        return begin_write(call, 0);
    if (call->op == OP_EARLIER)
        call->result = known_whole_seq();
    return sim_between(50, 1000);
}

int64_t store_call_more(struct sim_call *sim_call)
{
    struct store_call *call = (struct store_call *)sim_call;
    if (sim_call->refused.code != ERR_NONE || call->to == call->count ||
        (!call->given && !call->outcomes))
        return 0;
    refuse(call, call->to);
    return call->to + 1 < call->count ? begin_write(call, call->to + 1) : 0;
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
    call->record = (struct store_record){
        .id = row->id,
        .state = row->ended     ? states[row->end]
                 : row->attempt ? "retrying"
                                : "accepted",
        .attempts = row->attempt,
        .finished_us = row->ended ? sim_wall_us() + row->ended_us - sim.now_us : 0,
        .error = row->error[0] ? call->record_error : NULL,
        .forgotten = row->is_forgotten};
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
        call->counts[i].count++;
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
    for (size_t i = call->from; call->given && i < call->to; i++) {
        if (!pg_insert(&call->given[i]))
            call->given[i].seq = 0;
        else if (call->op == OP_ACCEPT)
            check_admitted(call->given[i].item);
    }
    for (size_t i = call->from; call->outcomes && i < call->to; i++)
        pg_settle(&call->outcomes[i]);
    for (size_t i = 0; call->claims && i < call->count; i++)
        pg_claim(&call->claims[i]);
}

/* A deadlock, say: it is rolled back, and the client's own repeats have met the like. What it had committed before stays. */
static bool loses_race(struct store_call *call)
{
    if (!store_op_info[call->op].writes || !sim_one_in(RACE_ONE_IN))
        return false;
    sim_count(SIM_RACE_LOST);
    sim_say("  is rolled back");
    err_set(&call->call.refused, call->from ? ERR_OUTCOME_UNKNOWN : ERR_UNAVAILABLE,
            "another transaction was in its way");
    pg_committed(&call->write);
    return true;
}

void store_call_execute(struct sim_call *sim_call)
{
    struct store_call *call = (struct store_call *)sim_call;
    sim_say("postgres %s by %s, %zu", store_op_info[call->op].word, call->client, call->count);
    if (loses_race(call))
        return;
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
        for (size_t i = 0; i < call->count; i++)
            call->shares[i].item = call->items[i]; /* its process may be gone */
        pg_own(call->holder, call->shares, call->count, call->number);
        call->owned = mem_array(OWNED_MAX, sizeof(*call->owned));
        call->result_count =
            pg_owned(call->holder, call->shares, call->count, call->owned, OWNED_MAX);
        break;
    case OP_DISOWN:
        for (size_t i = 0; i < call->count; i++)
            call->owned[i].item = call->items[i];
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
    case OP_PUBLISH:
        pg_publish(call->text, call->only_first);
        call->result = pg_version();
        break;
    case OP_PRODUCTION_OF:
        call->result = call->number <= pg_version() ? call->number : 0;
        break;
    case OP_ATTEND:
        call->result = pg_attend(call->holder, call->number, (int64_t)call->limit);
        break;
    case OP_OLDER:
        call->found = pg_has_older(call->name, call->number);
        break;
    case OP_REDRIVE:
        call->ids_told = mem_array(STORE_BATCH_MAX, sizeof(*call->ids_told));
        call->result_count = pg_redrive(call->name, call->ids, call->count, call->after,
                                        call->ids_told, call->limit);
        break;
    case OP_LOW_MARK:
    case OP_MAINTAIN:
        break;
    }
    if (store_op_info[call->op].writes)
        pg_committed(&call->write);
    if (call->op == OP_LOW_MARK)
        call->result = low_mark();
}
