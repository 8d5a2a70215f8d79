/* The fake PostgreSQL: the tables of schemas/sql.md as far as the machines can see them, and what store.h's calls do to them. Each call
 * is one transaction that happens at once, at its commit; only the seq of what it accepts is drawn when it begins, so seqs become
 * visible out of their order, as they do in the real one. */
#ifndef HIE_SIM_POSTGRES_H
#define HIE_SIM_POSTGRES_H

#include "sim_link.h"
#include "sim_redis.h" /* contents */
#include "store/store.h"

struct pg_row {
    UT_hash_handle hh;
    TAILQ_ENTRY(pg_row) by_seq; /* of accepted ones */
    struct uuid id, parent;
    char item[REDIS_NAME_MAX];
    enum messaging_pattern pattern;
    int64_t seq, received_us, due_ms, version;
    int64_t drawn_us, committed_us; /* virtual time */
    int priority, partition;
    struct redis_content *content; /* key, meta, body; NULL: not accepted, or forgotten */
    struct uuid dedup_key, dedup_fingerprint;
    int64_t dedup_until_us;
    bool is_accepted, is_forgotten;
    int run;
    int attempt; /* the highest one that is over */
    bool ended;
    enum store_end end;
    int64_t ended_us, end_number; /* the how manieth end of all */
    int ended_attempt;
    char worker[REDIS_NAME_MAX]; /* who ended it */
    struct redis_content *reply; /* its body */
    char error[240];
    size_t children; /* accepted with its end */
};
TAILQ_HEAD(pg_rows, pg_row);

struct pg_lease {
    TAILQ_ENTRY(pg_lease) link;
    char name[64], holder[REDIS_NAME_MAX * 2];
    int64_t token, until_us;
};

struct pg_member { /* a worker that shares an item's partitions */
    TAILQ_ENTRY(pg_member) link;
    char worker[REDIS_NAME_MAX], item[REDIS_NAME_MAX];
    enum messaging_pattern pattern;
    int64_t until_us; /* of its worker */
    bool leaves;
};

struct pg_partition {
    TAILQ_ENTRY(pg_partition) link;
    char item[REDIS_NAME_MAX], holder[REDIS_NAME_MAX];
    enum messaging_pattern pattern;
    unsigned number;
    int64_t token;
};

struct pg_write { /* under way: what it drew is not visible yet */
    TAILQ_ENTRY(pg_write) link;
    int64_t least_seq, drawn_us;
};

struct postgres {
    struct sim_server server;
    struct pg_row *rows;
    struct pg_rows accepted; /* by seq */
    int64_t last_seq, last_token, last_end;
    TAILQ_HEAD(, pg_lease) leases;
    TAILQ_HEAD(, pg_member) members;
    TAILQ_HEAD(, pg_partition) partitions;
    TAILQ_HEAD(, pg_write) writes;
};
extern struct postgres postgres;

void pg_init(void);
void pg_done(void);
struct pg_row *pg_find(struct uuid id); /* NULL: nothing is known of it */
/* A row that is accepted and whose run has no end; its due time. */
bool pg_is_unfinished(const struct pg_row *row);
size_t pg_unfinished_count(void);

/* ---- writes (sim_postgres.c) ---- */

/* Draws `count` seqs; they stand in the way of the low mark until pg_committed. */
int64_t pg_draw(struct pg_write *write, size_t count);
void pg_committed(struct pg_write *write);

/* A message as a transaction brings it. */
struct pg_given {
    struct uuid id, parent;
    char item[REDIS_NAME_MAX];
    enum messaging_pattern pattern;
    int64_t received_us, due_ms, version, seq, drawn_us, dedup_window_ms;
    int priority, partition;
    struct redis_content *content;
    struct uuid dedup_key, dedup_fingerprint;
    struct uuid repeats; /* out */
    bool repeats_otherwise, refused;
};
void pg_give(struct pg_given *given, const struct store_message *message);
void pg_given_done(struct pg_given *given);
/* False: it is there already, or repeats another. */
bool pg_insert(struct pg_given *given);

struct pg_outcome {
    struct uuid id;
    int run, attempt;
    enum store_end end;
    char worker[REDIS_NAME_MAX], error[240];
    int64_t due_ms, lease_token;
    struct redis_content *reply;
    struct pg_given *children, *message; /* owned; message NULL: none */
    size_t child_count;
    bool forget;
    bool recorded, refused; /* out */
};
void pg_settle(struct pg_outcome *outcome);
void pg_claim(struct store_claim *claim);
/* The next run of dead letters of an item: of these, or of all. How many; their ids, at most `max`. */
size_t pg_redrive(const char *item, const struct uuid *ids, size_t count, struct uuid after,
                  struct uuid *ret_ids, size_t max);

/* ---- leases (sim_postgres_leases.c) ---- */

int64_t pg_lease(const char *name, const char *holder, int64_t ttl_ms);
void pg_release(const char *name, const char *holder);
bool pg_token_holds(int64_t token);
/* Who may run what is in that partition: NULL when nobody may. */
const struct pg_partition *pg_partition_of(const char *item, unsigned number);
void pg_own(const char *worker, const struct store_share *shares, size_t count, int64_t ttl_ms);
/* What it owns by now, at most `max`. */
size_t pg_owned(const char *worker, const struct store_share *shares, size_t count,
                struct store_owned *ret_owned, size_t max);
void pg_disown(const char *worker, const struct store_owned *owned, size_t count);
void pg_forget_leases(void);

/* ---- the fleet's production (sim_postgres_fleet.c) ---- */

void pg_publish(struct redis_content *text, bool only_first); /* key: its hash */
int64_t pg_version(void);
struct redis_content *pg_production(int64_t version); /* NULL: there is none */
/* The lowest number that a live process said. */
int64_t pg_attend(const char *id, int64_t number, int64_t ttl_ms);
bool pg_has_older(const char *item, int64_t version);
void pg_forget_fleet(void);

#endif
