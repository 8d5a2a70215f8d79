/* What the files of the PostgreSQL store share. store_pg.c: the links and the life of an operation; store_pg_setup.c:
 * migrations; store_pg_write.c with store_pg_rows.c: accept, adopt, settle; store_pg_claim.c: claims and flags; store_pg_find.c: one
 * message; store_pg_scan.c: unfinished ones and counts; store_pg_fifo.c: owners of partitions; store_pg_dead.c: dead letters;
 * store_pg_lease.c: leases, the mark, tables by the day; store_pg_fleet.c: the production and who runs by it. */
#ifndef HIE_STORE_STORE_PG_H
#define HIE_STORE_STORE_PG_H

#include "base/arena.h"
#include "link/pg_link.h"
#include "store/pg_encode.h"
#include "store/store.h"

#include <sys/queue.h>

enum store_statement {
    STATEMENT_ACCEPT,
    STATEMENT_ACCEPT_KEYED,
    STATEMENT_ACCEPT_CAREFUL,
    STATEMENT_ADOPT,
    STATEMENT_SETTLE_ENDS,
    STATEMENT_SETTLE_LEASED,
    STATEMENT_SETTLE_REST,
    STATEMENT_SETTLE_WHOLE,
    STATEMENT_SETTLE_CAREFUL,
    STATEMENT_KNOWN,
    STATEMENT_ENDED,
    STATEMENT_CLAIM,
    STATEMENT_TAKE_OVER,
    STATEMENT_FIND,
    STATEMENT_BODY,
    STATEMENT_REPLY,
    STATEMENT_UNFINISHED,
    STATEMENT_CHILDREN,
    STATEMENT_FETCH,
    STATEMENT_COUNT_DEAD,
    STATEMENT_COUNT_OPEN,
    STATEMENT_EARLIER,
    STATEMENT_OWN,
    STATEMENT_DISOWN,
    STATEMENT_DEAD_LETTERS,
    STATEMENT_REDRIVE,
    STATEMENT_DISMISS,
    STATEMENT_LEASE,
    STATEMENT_RELEASE,
    STATEMENT_MARK_READ,
    STATEMENT_MARK_RAISE,
    STATEMENT_MAINTAIN,
    STATEMENT_MAINTAIN_KEYS,
    STATEMENT_DROP_KEYS,
    STATEMENT_FORGET_GONE,
    STATEMENT_PUBLISH,
    STATEMENT_PRODUCTION_OF,
    STATEMENT_ATTEND,
    STATEMENT_CLOSE_QUEUE,
    STATEMENT_OLDER,
    STATEMENT_COUNT,
};

struct store_pg;

/* The set-up of one link: the schema is brought up to date, or found to be so. */
struct store_setup {
    struct store_pg *store;
    struct pg_link *link;
    bool locked; /* in a transaction that holds the migration lock */
    struct buffer script;
};
void store_setup_start(struct store_setup *setup);

/* One link for what waits for the disk, one for look-ups that messages wait for, one for the long ones that
 * nobody waits for: so none of them delays another. */
enum store_link { LINK_COMMITS, LINK_LOOKUPS, LINK_SCANS, LINK_COUNT };

/* How far the log is whole: store_pg_fifo.c. */
struct store_whole {
    int64_t seq;                      /* no row up to here can still appear */
    int64_t closing_seq, closing_xid; /* the next one, once nobody below that id is open; 0: none */
    int64_t drawn;                    /* as the last answer saw it */
};

struct store_pg {
    struct store base;
    struct store_pg_options options;
    struct pg_link *links[LINK_COUNT];
    struct store_setup setups[LINK_COUNT];
    bool up;        /* all links are, and the owner knows */
    bool told_down; /* since it was last up */
    bool refused;
    struct store_whole whole;
    LIST_HEAD(, store_op) ops;
};

/* One operation under way; embedded first in its own struct, freed as a whole. */
struct store_op {
    struct pg_request request; /* first */
    struct store_pg *store;
    struct arena arena; /* what else belongs to it */
    LIST_ENTRY(store_op) entry;
};
/* Zeroed memory of `size` bytes that starts with a store_op. */
void *store_op_new(struct store *store, size_t size);
void store_op_free(struct store_op *op);
/* Before a callback that borrows from the op: it may free the store, and not the op with it. */
void store_op_detach(struct store_op *op);
void store_op_send(struct store_op *op, enum store_link link, const struct pg_statement *statement,
                   void (*encode)(struct pg_request *, struct pg_params *),
                   void (*done)(struct pg_request *, const struct pg_answer *));
/* The error of an answer as store.h promises it: none, unavailable or outcome unknown. */
struct err store_err(const struct pg_answer *answer);

/* The lowest and the highest of `count` ids (none: UUID_NONE twice): they let PostgreSQL prune partitions before it starts. */
struct id_range {
    struct uuid low, high;
};
void id_range_add(struct id_range *range, struct uuid id, bool first);
/* Every id that shares this one's 48 bits of time, so the children of a message and itself. */
struct id_range id_range_same_time(struct uuid id);

/* ---- SQL that several statements share ---- */
/* clang-format off */
/* The current run of a message; ids between parameters `low` and `high`. Most batches have no redriven one. */
#define STORE_RUN(id, low, high)                                                                   \
    "CASE WHEN (SELECT true FROM hie.dead_letter_actions d WHERE d.correlation_id"                 \
    " BETWEEN $" low " AND $" high " LIMIT 1) THEN " STORE_RUN_OF(id) " ELSE 1 END"
#define STORE_RUN_OF(id)                                                                           \
    "(coalesce((SELECT d.run FROM hie.dead_letter_actions d WHERE d.correlation_id = " id          \
    " AND d.action = 0 ORDER BY d.run DESC LIMIT 1), 0) + 1)"

/* ---- columns of hie.accepted as array parameters and as results (store_pg_rows.c) ---- */
#define MESSAGE_COLUMNS                                                                            \
    "correlation_id, parent_id, item, pattern, direction, received_at, due_at, priority, "         \
    "partition, version, ordering_key, control_id, message_type, sender, content_type, meta, body"
#define MESSAGE_UNNEST(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q)                          \
    "SELECT unnest($" a "::uuid[]) AS correlation_id, unnest($" b "::uuid[]) AS parent_id, "       \
    "unnest($" c "::text[]) AS item, unnest($" d "::int2[]) AS pattern, "                          \
    "unnest($" e "::int2[]) AS direction, unnest($" f "::timestamptz[]) AS received_at, "          \
    "unnest($" g "::timestamptz[]) AS due_at, unnest($" h "::int2[]) AS priority, "                \
    "unnest($" i "::int2[]) AS partition, unnest($" j "::int8[]) AS version, "                     \
    "unnest($" k "::text[]) AS ordering_key, unnest($" l "::text[]) AS control_id, "               \
    "unnest($" m "::text[]) AS message_type, unnest($" n "::text[]) AS sender, "                   \
    "unnest($" o "::text[]) AS content_type, unnest($" p "::bytea[]) AS meta, "                    \
    "unnest($" q "::bytea[]) AS body"
/* clang-format on */
/* Puts the seventeen parameters of MESSAGE_UNNEST. */
void store_put_messages(struct pg_params *params, struct store_message *const *rows, size_t count);
/* Puts four parameters: of the rows that have a dedup key, sorted by key, id, key, fingerprint and window; with_flags: and which
 * rows have one. `order` holds the indices of the rows with a key, in that order: store_sort_keys. */
void store_put_keys(struct pg_params *params, struct store_message *const *rows, size_t count,
                    const size_t *order, size_t key_count, bool with_flags);
/* How many of the rows have a dedup key; *ret_twins: two have the same. */
size_t store_sort_keys(struct store_message *const *rows, size_t count, size_t *order,
                       bool *ret_twins);
/* Puts three parameters: the ids, the lowest and the highest of them. */
void store_put_ids(struct pg_params *params, const struct uuid *ids, size_t count);

/* What the outcomes of a batch have, so which statement records them. */
enum settle_shape {
    SETTLE_ENDS,   /* ends alone */
    SETTLE_LEASED, /* the same, under leases */
    SETTLE_REST,   /* retries or children too */
    SETTLE_WHOLE,  /* whatever there is */
};
enum settle_shape store_settle_shape(struct store_outcome *const *rows, size_t count);
/* Puts the parameters of a settle; sorts `order` (indices of rows) by id. */
void store_put_outcomes(struct pg_params *params, struct store_outcome *const *rows, size_t *order,
                        size_t count, enum settle_shape shape);
/* Walks the messages that a settle writes in the order in which they were put: each outcome's own one, then its children. */
struct outcome_messages {
    struct store_outcome *const *rows;
    size_t count, row, at;
};
/* The next one; NULL past the last. ret_owner: whose it is, ret_child: as a child. */
const struct store_message *store_next_message(struct outcome_messages *walk,
                                               const struct store_outcome **ret_owner,
                                               struct store_message **ret_child);

/* ---- operations ---- */
void store_pg_accept(struct store *, struct store_message *const *rows, size_t count,
                     store_done *done, void *arg);
void store_pg_adopt(struct store *, struct store_message *const *rows, size_t count,
                    store_done *done, void *arg);
void store_pg_settle(struct store *, struct store_outcome *const *rows, size_t count,
                     store_done *done, void *arg);
void store_pg_known(struct store *, const struct uuid *ids, size_t count, store_ended *done,
                    void *arg);
void store_pg_ended(struct store *, const struct uuid *ids, size_t count, store_ended *done,
                    void *arg);
void store_pg_claim(struct store *, const char *worker, struct store_claim *rows, size_t count,
                    store_done *done, void *arg);
void store_pg_find(struct store *, struct uuid id, store_found *done, void *arg);
void store_pg_body(struct store *, struct uuid id, store_body_done *done, void *arg);
void store_pg_reply(struct store *, struct uuid id, store_body_done *done, void *arg);
void store_pg_children(struct store *, const struct uuid *parents, size_t count, store_rows *done,
                       void *arg);
void store_pg_unfinished(struct store *, int64_t after_seq, size_t limit, store_page *done,
                         void *arg);
void store_pg_fetch(struct store *, const struct uuid *ids, size_t count, store_rows *done,
                    void *arg);
void store_pg_counts(struct store *, store_counts_done *done, void *arg);
void store_pg_dead_counts(struct store *, store_counts_done *done, void *arg);
void store_pg_lease(struct store *, const char *name, const char *holder, int64_t ttl_ms,
                    store_leased *done, void *arg);
void store_pg_release(struct store *, const char *name, const char *holder, store_done *done,
                      void *arg);
void store_pg_low_mark(struct store *, int64_t token, int64_t new_low, store_mark_done *done,
                       void *arg);
void store_pg_maintain(struct store *, store_done *done, void *arg);
void store_pg_earlier(struct store *, const char *item, enum messaging_pattern pattern,
                      const struct store_before *parts, size_t part_count, size_t limit,
                      store_earlier_done *done, void *arg);
void store_pg_own(struct store *, const char *worker, const struct store_share *shares,
                  size_t count, int64_t ttl_ms, store_owned_done *done, void *arg);
void store_pg_disown(struct store *, const char *worker, const struct store_owned *owned,
                     size_t count, store_done *done, void *arg);
void store_pg_dead_letters(struct store *, const char *item, struct uuid before, size_t limit,
                           store_dead_letters_done *done, void *arg);
void store_pg_redrive(struct store *, const char *item, const struct uuid *ids, size_t count,
                      struct uuid after, store_handled_done *done, void *arg);
void store_pg_dismiss(struct store *, const char *item, const struct uuid *ids, size_t count,
                      struct uuid after, store_handled_done *done, void *arg);
void store_pg_publish(struct store *, const struct store_publication *publication,
                      store_production_done *done, void *arg);
void store_pg_production_of(struct store *, int64_t version, store_production_done *done,
                            void *arg);
void store_pg_attend(struct store *, const char *id, const char *kind, int64_t version,
                     int64_t step, int64_t ttl_ms, store_attended *done, void *arg);
void store_pg_close_queue(struct store *, const char *item, int64_t below, store_done *done,
                          void *arg);
void store_pg_older(struct store *, const char *item, int64_t version, int64_t after_seq,
                    store_older_done *done, void *arg);

#endif
