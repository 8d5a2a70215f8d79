/* What the files of the PostgreSQL store share. store_pg.c: the two links and the life of an operation; store_pg_setup.c:
 * migrations; store_pg_write.c with store_pg_rows.c: accept, adopt, settle; store_pg_claim.c: claims and flags; store_pg_find.c: one
 * message; store_pg_scan.c: unfinished ones and counts; store_pg_lease.c: leases, the mark, partitions. */
#ifndef HIE_STORE_STORE_PG_H
#define HIE_STORE_STORE_PG_H

#include "base/arena.h"
#include "link/pg_link.h"
#include "store/pg_encode.h"
#include "store/store.h"

#include <sys/queue.h>

enum store_statement {
    STATEMENT_ACCEPT,
    STATEMENT_ADOPT,
    STATEMENT_SETTLE_ENDS,
    STATEMENT_SETTLE,
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
    STATEMENT_LEASE,
    STATEMENT_RELEASE,
    STATEMENT_MARK_READ,
    STATEMENT_MARK_RAISE,
    STATEMENT_MAINTAIN,
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

struct store_pg {
    struct store base;
    struct store_pg_options options;
    struct pg_link *links[LINK_COUNT];
    struct store_setup setups[LINK_COUNT];
    bool up;        /* all links are, and the owner knows */
    bool told_down; /* since it was last up */
    bool refused;
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

/* ---- columns of hie.accepted as array parameters and as results (store_pg_rows.c) ---- */
/* clang-format off */
#define MESSAGE_COLUMNS                                                                            \
    "correlation_id, parent_id, item, pattern, direction, received_at, due_at, priority, "         \
    "ordering_key, control_id, message_type, sender, content_type, meta, body"
#define MESSAGE_UNNEST(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o)                                \
    "SELECT unnest($" a "::uuid[]) AS correlation_id, unnest($" b "::uuid[]) AS parent_id, "       \
    "unnest($" c "::text[]) AS item, unnest($" d "::int2[]) AS pattern, "                          \
    "unnest($" e "::int2[]) AS direction, unnest($" f "::timestamptz[]) AS received_at, "          \
    "unnest($" g "::timestamptz[]) AS due_at, unnest($" h "::int2[]) AS priority, "                \
    "unnest($" i "::text[]) AS ordering_key, unnest($" j "::text[]) AS control_id, "               \
    "unnest($" k "::text[]) AS message_type, unnest($" l "::text[]) AS sender, "                   \
    "unnest($" m "::text[]) AS content_type, unnest($" n "::bytea[]) AS meta, "                    \
    "unnest($" o "::bytea[]) AS body"
/* clang-format on */
/* Puts the fifteen parameters of MESSAGE_UNNEST. */
void store_put_messages(struct pg_params *params, struct store_message *const *rows, size_t count);
/* Puts three parameters: the ids, the lowest and the highest of them. */
void store_put_ids(struct pg_params *params, const struct uuid *ids, size_t count);
/* Puts the parameters of a settle; sorts `order` (indices of rows) by id. */
void store_put_outcomes(struct pg_params *params, struct store_outcome *const *rows, size_t *order,
                        size_t count, bool with_rest);

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
void store_pg_lease(struct store *, const char *name, const char *holder, int64_t ttl_ms,
                    store_leased *done, void *arg);
void store_pg_release(struct store *, const char *name, const char *holder, store_done *done,
                      void *arg);
void store_pg_low_mark(struct store *, int64_t token, int64_t new_low, store_mark_done *done,
                       void *arg);
void store_pg_maintain(struct store *, store_done *done, void *arg);

#endif
