/* The store: PostgreSQL, where the truth is. Append only: a row when a message is accepted, a row for each attempt that did not
 * end it, a row for its end. Tables, views and the reasons: schemas/sql.md.
 *
 * All calls are asynchronous over batches; completions come later, exactly once, never from inside the call.
 * Each batch is one transaction. err->code is ERR_NONE, ERR_UNAVAILABLE (nothing was written) or ERR_OUTCOME_UNKNOWN (the link broke
 * after sending; look the ids up, or repeat where the call says it may be repeated). A row that the database refuses for
 * its data is refused alone, the rest goes through (its `error` is set).
 * Rows and what they borrow stay valid until the completion. Text columns are made valid UTF-8 without NUL and capped
 * here, bodies stay bytes.
 *
 * The functions are a table so that a simulation can put its own store behind the same machines. */
#ifndef HIE_STORE_STORE_H
#define HIE_STORE_STORE_H

#include "base/bytes.h"
#include "base/error.h"
#include "base/uuid.h"
#include "link/loop.h"
#include "message/message.h"
#include "model/production.h"

#include <stdbool.h>
#include <stdint.h>

#define STORE_BATCH_MAX 512 /* rows in one call */
#define STORE_LOOK_MAX 5000 /* rows a page of the reconciler looks at */
#define STORE_BATCH_BYTES                                                                          \
    (32u << 20) /* what callers gather into one batch at most, a single larger row aside */

/* A message at the door, or a child. */
struct store_message {
    struct uuid id;
    struct uuid parent; /* UUID_NONE: none */
    const char *item;
    enum messaging_pattern pattern;
    enum message_direction direction;
    int64_t received_us; /* wall clock */
    int64_t due_ms;      /* not to be run before; 0: at once */
    int priority;
    struct slice ordering_key, control_id, message_type, sender, content_type;
    struct slice meta; /* packed */
    struct body body;
    /* set by the completion */
    int64_t seq;           /* its order; 0: not written (refused, or already there) */
    enum error_code error; /* ERR_NONE, or ERR_INVALID: refused for its data */
};

/* What a worker asks about the entries it claimed, before it runs them. */
struct store_claim {
    struct uuid id;
    bool
        taken_over; /* it was in another's hand: recorded, and counted as an attempt that ended with its worker */
    /* set by the completion */
    bool known;  /* the store has the message */
    bool ended;  /* it has its end: only finish is left */
    int run;     /* from 1; a redrive is the next run */
    int attempt; /* the number of the attempt that begins now, from 1: this claim's number */
};

enum store_end {
    STORE_COMPLETED,
    STORE_DEAD_LETTERED,
    STORE_EXPIRED,
    STORE_CANCELLED,
    STORE_RETRY, /* no end: a failed attempt, the next is due at due_ms */
};

/* How an attempt ended. Conditional inside its transaction: refused (`recorded` false) when the run has an end already or a later
 * attempt has begun. Children are written in the same transaction, only when it is recorded. */
struct store_outcome {
    struct uuid id;
    int run, attempt;
    enum store_end end;
    const char *item;
    enum messaging_pattern pattern;
    const char *worker;
    int64_t started_us, finished_us; /* wall clock */
    int64_t due_ms;                  /* STORE_RETRY */
    const char *error;               /* NULL when completed; holds no message content */
    struct slice reply, reply_content_type;
    struct store_message *children; /* with ids from uuid_child; parent = id */
    size_t child_count;
    /* set by the completion */
    bool recorded;
    enum error_code
        error_code; /* ERR_NONE, or ERR_INVALID: refused for its data (then not recorded; settle it otherwise) */
};

/* One message as GET /v1/messages/{id} tells it. Slices are valid during the callback. */
struct store_record {
    struct uuid id, parent;
    const char *item, *pattern, *direction;
    const char *
        state; /* accepted processing retrying completed dead_lettered expired cancelled; `processing` is the queue's to know */
    int attempts;
    const char *error;                /* NULL: none */
    int64_t received_us, finished_us; /* finished 0: not yet */
    const char *control_id, *message_type, *sender;
    const struct uuid *children;
    size_t child_count;
};

/* A message without an end, for the reconciler and for publishing children. due_ms is that of its latest retry. */
struct store_unfinished {
    struct store_message
        message; /* body empty where it is larger than MESSAGE_INLINE_MAX, or where the bodies of one
                                     answer together pass STORE_BATCH_BYTES; meta as stored */
    uint64_t body_len; /* as it is in the store */
};

struct store_count {
    const char *item;
    int64_t unfinished, dead_letters;
};

struct store;
typedef void store_done(void *arg, const struct err *err);
typedef void store_found(void *arg, const struct err *err,
                         const struct store_record *record); /* NULL: not known */
typedef void store_rows(void *arg, const struct err *err, const struct store_unfinished *rows,
                        size_t count);
typedef void store_page(void *arg, const struct err *err, const struct store_unfinished *rows,
                        size_t count, int64_t next_seq, bool end);
typedef void store_body_done(void *arg, const struct err *err, struct body body,
                             struct slice content_type, bool found);
typedef void store_ended(void *arg, const struct err *err,
                         const bool *ended); /* as many as were asked */
typedef void store_leased(void *arg, const struct err *err,
                          int64_t token); /* 0: somebody else holds it */
typedef void store_mark_done(void *arg, const struct err *err, int64_t low_seq);
typedef void store_counts_done(void *arg, const struct err *err, const struct store_count *counts,
                               size_t count);

struct store_ops {
    /* The WAL: writes messages in the order of `rows`; seq rises in that order. Not repeatable: a row that is there already is an error
     * of its own (outcome unknown → known). */
    void (*accept)(struct store *, struct store_message *const *rows, size_t count,
                   store_done *done, void *arg);
    /* The same for entries of direct producers; rows that are there already are left alone (seq 0). Repeatable. */
    void (*adopt)(struct store *, struct store_message *const *rows, size_t count, store_done *done,
                  void *arg);
    /* Which of these ids are written? For outcomes that are unknown. known[i] through store_ended's flags. */
    void (*known)(struct store *, const struct uuid *ids, size_t count, store_ended *done,
                  void *arg);
    /* Before running: ends, attempts. Repeatable (a repeat of a taken-over claim may count once more). */
    void (*claim)(struct store *, const char *worker, struct store_claim *rows, size_t count,
                  store_done *done, void *arg);
    /* After running. Repeatable: a repeat reports recorded = false. */
    void (*settle)(struct store *, struct store_outcome *const *rows, size_t count,
                   store_done *done, void *arg);
    void (*find)(struct store *, struct uuid id, store_found *done, void *arg);
    void (*body)(struct store *, struct uuid id, store_body_done *done, void *arg);
    void (*reply)(struct store *, struct uuid id, store_body_done *done, void *arg);
    /* Which of these have an end? For those who wait. */
    void (*ended)(struct store *, const struct uuid *ids, size_t count, store_ended *done,
                  void *arg);
    /* The unfinished children of these parents. */
    void (*children)(struct store *, const struct uuid *parents, size_t count, store_rows *done,
                     void *arg);
    /* Unfinished messages with seq > after_seq in order of seq, light: id, item, pattern, seq, received_us,
     * due_ms (of the last failed attempt, or the message's own) and nothing else. At most `limit` rows, of at most STORE_LOOK_MAX looked at:
     * next_seq is what to go on after, also from an empty page; `end` tells that nothing follows. Start at 0 or at the low mark;
     * a writer that drew a lower seq may commit behind a page, so start over each time. */
    void (*unfinished)(struct store *, int64_t after_seq, size_t limit, store_page *done,
                       void *arg);
    /* The whole rows of those ids that are unfinished (body empty where it is larger than MESSAGE_INLINE_MAX), in order of seq. */
    void (*fetch)(struct store *, const struct uuid *ids, size_t count, store_rows *done,
                  void *arg);
    /* A lease row with a token that never repeats. Renewing is asking again with the same holder. */
    void (*lease)(struct store *, const char *name, const char *holder, int64_t ttl_ms,
                  store_leased *done, void *arg);
    void (*release)(struct store *, const char *name, const char *holder, store_done *done,
                    void *arg);
    /* Everything up to and including the mark is finished, for ever. Reads it (new_low 0), or moves it on under the lease's token: up to
     * new_low (INT64_MAX: as far as it goes), never past what is unfinished or may still be written with a lower seq, and over
     * 20,000 rows a call at most. The store looks at the rows itself, so it cannot be raised too far. A new mark is possible from
     * the second call on; a call a second keeps up with 20,000 messages a second. */
    void (*low_mark)(struct store *, int64_t token, int64_t new_low, store_mark_done *done,
                     void *arg);
    /* Creates the partitions that the next days need. */
    void (*maintain)(struct store *, store_done *done, void *arg);
    void (*counts)(struct store *, store_counts_done *done, void *arg);
    /* Calls under way end without their completion. May be called from inside a completion. */
    void (*free)(struct store *);
};

struct store {
    const struct store_ops *ops;
};

struct store_pg_options {
    const char *url;
    const char *application_name; /* "hie-dispatcher", "hie-worker" */
    /* The store is usable (migrations applied, links up) or not; told once each time it changes, and at the first failure to
     * connect. */
    void (*on_up)(void *arg);
    void (*on_down)(void *arg, const struct err *err);
    /* Wrong password, missing database, schema newer than the program: the process ends with exit code 100. */
    void (*on_fatal)(void *arg, const struct err *err);
    void *arg;
};
/* Connects and migrates in the background, reconnects by itself with backoff and jitter. Three links: one for commits (accept, adopt,
 * settle), one for look-ups, one for the reconciler's long ones, so that nobody waits for another's disk or scan. */
struct store *store_pg_new(struct loop *loop, const struct store_pg_options *options);
bool store_pg_is_up(const struct store *store);

#endif
