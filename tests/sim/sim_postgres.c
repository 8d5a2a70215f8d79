#include "sim_postgres.h"

#include "base/bug.h"
#include "base/mem.h"
#include "sim_check.h"

#include <stdio.h>
#include <stdlib.h>

struct postgres postgres;

void pg_init(void)
{
    postgres = (struct postgres){0};
    sim_server_init(&postgres.server);
    TAILQ_INIT(&postgres.accepted);
    TAILQ_INIT(&postgres.leases);
    TAILQ_INIT(&postgres.members);
    TAILQ_INIT(&postgres.partitions);
    TAILQ_INIT(&postgres.writes);
}

void pg_done(void)
{
    struct pg_row *row, *next;
    HASH_ITER(hh, postgres.rows, row, next)
    {
        HASH_DEL(postgres.rows, row);
        redis_content_unref(row->content);
        redis_content_unref(row->reply);
        free(row);
    }
    pg_forget_leases();
    pg_forget_fleet();
}

struct pg_row *pg_find(struct uuid id)
{
    struct pg_row *row;
    HASH_FIND(hh, postgres.rows, &id, sizeof(id), row);
    return row;
}

bool pg_is_unfinished(const struct pg_row *row)
{
    return row->is_accepted && !row->ended;
}

size_t pg_unfinished_count(void)
{
    const struct pg_row *row;
    size_t count = 0;
    TAILQ_FOREACH(row, &postgres.accepted, by_seq)
    {
        count += pg_is_unfinished(row);
    }
    return count;
}

static struct pg_row *row_of(struct uuid id)
{
    struct pg_row *row = pg_find(id);
    if (row)
        return row;
    row = mem_alloc(sizeof(*row));
    row->id = id;
    row->run = 1;
    HASH_ADD(hh, postgres.rows, id, sizeof(row->id), row);
    return row;
}

/* ---- order ---- */

int64_t pg_draw(struct pg_write *write, size_t count)
{
    write->least_seq = postgres.last_seq + 1;
    write->drawn_us = sim.now_us;
    postgres.last_seq += (int64_t)count;
    TAILQ_INSERT_TAIL(&postgres.writes, write, link);
    return write->least_seq;
}

void pg_committed(struct pg_write *write)
{
    TAILQ_REMOVE(&postgres.writes, write, link);
}

/* ---- messages ---- */

void pg_give(struct pg_given *given, const struct store_message *message)
{
    *given = (struct pg_given){
        .id = message->id,
        .parent = message->parent,
        .pattern = message->pattern,
        .received_us = message->received_us,
        .due_ms = message->due_ms,
        .version = message->version,
        .dedup_window_ms = message->dedup_window_ms,
        .priority = message->priority,
        .partition = message->partition,
        .content = redis_content_new(message->ordering_key, message->meta, message->body),
        .dedup_key = message->dedup_key,
        .dedup_fingerprint = message->dedup_fingerprint};
    snprintf(given->item, sizeof(given->item), "%s", message->item);
}

void pg_given_done(struct pg_given *given)
{
    redis_content_unref(given->content);
    given->content = NULL;
}

static bool repeats(struct pg_given *given)
{
    const struct pg_row *row;
    if (uuid_is_none(given->dedup_key))
        return false;
    TAILQ_FOREACH(row, &postgres.accepted, by_seq)
    {
        if (uuid_equal(row->dedup_key, given->dedup_key) && sim.now_us < row->dedup_until_us) {
            given->repeats = row->id;
            given->repeats_otherwise =
                !uuid_equal(row->dedup_fingerprint, given->dedup_fingerprint);
            return true;
        }
    }
    return false;
}

bool pg_insert(struct pg_given *given)
{
    const struct pg_row *known = pg_find(given->id);
    if ((known && known->is_accepted) || repeats(given))
        return false;
    struct pg_row *row = row_of(given->id), *before;
    row->parent = given->parent;
    memcpy(row->item, given->item, sizeof(row->item));
    row->pattern = given->pattern;
    row->seq = given->seq;
    row->drawn_us = given->drawn_us;
    row->committed_us = sim.now_us;
    row->received_us = given->received_us;
    row->due_ms = given->due_ms;
    row->version = given->version;
    row->priority = given->priority;
    row->partition = given->partition;
    row->content = redis_content_ref(given->content);
    row->dedup_key = given->dedup_key;
    row->dedup_fingerprint = given->dedup_fingerprint;
    row->dedup_until_us = sim.now_us + given->dedup_window_ms * SIM_MS;
    row->is_accepted = true;
    before = TAILQ_LAST(&postgres.accepted, pg_rows);
    while (before && before->seq > row->seq)
        before = TAILQ_PREV(before, pg_rows, by_seq);
    if (before)
        TAILQ_INSERT_AFTER(&postgres.accepted, before, row, by_seq);
    else
        TAILQ_INSERT_HEAD(&postgres.accepted, row, by_seq);
    sim_say("  accepted %s seq %lld for %s/%d key '%.*s'", sim_name(row->id), (long long)row->seq,
            row->item, row->partition, (int)row->content->key.len, row->content->key.ptr);
    return true;
}

/* ---- ends ---- */

static void forget(struct pg_row *row)
{
    row->is_forgotten = true;
    redis_content_unref(row->reply);
    row->reply = NULL;
}

static void end_row(struct pg_row *row, const struct pg_outcome *outcome)
{
    row->ended = true;
    row->end = outcome->end;
    row->ended_us = sim.now_us;
    row->end_number = ++postgres.last_end;
    row->ended_attempt = outcome->attempt;
    memcpy(row->worker, outcome->worker, sizeof(row->worker));
    memcpy(row->error, outcome->error, sizeof(row->error));
    if (outcome->reply)
        row->reply = redis_content_ref(outcome->reply);
    for (size_t i = 0; i < outcome->child_count; i++)
        row->children += pg_insert(&outcome->children[i]);
    if (row->children != outcome->child_count)
        sim_fail("%s has %zu children of %zu", sim_name(row->id), row->children,
                 outcome->child_count);
    if (outcome->forget && outcome->end == STORE_COMPLETED)
        forget(row);
}

void pg_settle(struct pg_outcome *outcome)
{
    struct pg_row *row = row_of(outcome->id);
    if (row->ended || row->run != outcome->run || row->attempt >= outcome->attempt ||
        (outcome->lease_token && !pg_token_holds(outcome->lease_token))) {
        sim_say("  %s attempt %d of %s is superseded", sim_name(row->id), outcome->attempt,
                outcome->worker);
        return;
    }
    if (outcome->message)
        pg_insert(outcome->message);
    outcome->recorded = true;
    row->attempt = outcome->attempt;
    if (outcome->end == STORE_RETRY)
        row->due_ms = outcome->due_ms;
    else
        end_row(row, outcome);
    sim_say("  %s attempt %d of %s ends as %d", sim_name(row->id), outcome->attempt,
            outcome->worker, (int)outcome->end);
    check_settled(row, outcome);
}

void pg_claim(struct store_claim *claim)
{
    struct pg_row *row = row_of(claim->id);
    bool counts = !claim->lease_token || pg_token_holds(claim->lease_token);
    if (claim->taken_over && counts && !row->ended) {
        row->attempt++;
        check_died(row->id);
    }
    claim->known = row->is_accepted || row->ended;
    claim->ended = row->ended;
    claim->run = row->run;
    claim->attempt = row->attempt + 1;
    claim->seq = row->is_accepted && !row->is_forgotten ? row->seq : 0;
}

static bool is_named(struct uuid id, const struct uuid *ids, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (uuid_equal(ids[i], id))
            return true;
    }
    return ids == NULL;
}

static struct pg_row *next_dead_letter(const char *item, const struct uuid *ids, size_t count,
                                       struct uuid after)
{
    struct pg_row *row, *lowest = NULL;
    TAILQ_FOREACH(row, &postgres.accepted, by_seq)
    {
        if (row->ended && row->end == STORE_DEAD_LETTERED && strcmp(row->item, item) == 0 &&
            is_named(row->id, ids, count) && memcmp(&row->id, &after, sizeof(after)) > 0 &&
            (!lowest || memcmp(&row->id, &lowest->id, sizeof(row->id)) < 0))
            lowest = row;
    }
    return lowest;
}

size_t pg_redrive(const char *item, const struct uuid *ids, size_t count, struct uuid after,
                  struct uuid *ret_ids, size_t max)
{
    struct pg_row *row;
    size_t found = 0;
    while (found < max && (row = next_dead_letter(item, ids, count, after))) {
        sim_say("  %s begins its run %d", sim_name(row->id), row->run + 1);
        sim_count(SIM_BEGUN_AGAIN);
        row->run++;
        row->ended = false;
        row->attempt = 0;
        row->due_ms = 0;
        after = row->id;
        ret_ids[found++] = row->id;
    }
    return found;
}
