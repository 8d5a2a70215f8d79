/* The store: PostgreSQL, where the truth is. A row when a message is accepted, a row for each attempt that did not
 * end it, a row for the end of each run; none is changed. Tables, views and the reasons: schemas/sql.md.
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

#define STORE_BATCH_MAX 512         /* rows in one call */
#define STORE_LOOK_MAX 5000         /* rows a page of the reconciler looks at */
#define STORE_DEDUP_MAX_MS 86400000 /* the longest window for repeats: a day */
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
    int partition;   /* fifo: which; -1: not a fifo item's */
    int64_t version; /* of the production under which it was accepted; 0: none is published */
    struct slice ordering_key, control_id, message_type, sender, content_type;
    struct slice meta; /* packed */
    struct body body;
    /* A repeat of the same key within the window is no second message. UUID_NONE: it has none. No two rows of one batch share a
     * key. */
    struct uuid dedup_key;         /* hash of item, kind of key and key */
    struct uuid dedup_fingerprint; /* hash of the body */
    int64_t dedup_window_ms;       /* at most STORE_DEDUP_MAX_MS */
    /* set by the completion */
    int64_t seq;            /* its order; 0: not written (refused, or already there) */
    enum error_code error;  /* ERR_NONE, or ERR_INVALID: refused for its data */
    struct uuid repeats;    /* accept: not written, it repeats this message; UUID_NONE: it does not.
                            The window is that of the first one, by the database's clock. */
    bool repeats_otherwise; /* … but with another body */
};

/* What a worker asks about the entries it claimed, before it runs them. */
struct store_claim {
    struct uuid id;
    bool
        taken_over; /* it was in another's hand: recorded, and counted as an attempt that ended with its worker */
    /* fifo: counted only while the partition's lease still has this token, or who lost it would supersede its owner. 0: no lease. */
    int64_t lease_token;
    /* set by the completion */
    bool known;  /* the store has the message, or its end */
    bool ended;  /* it has its end: only finish is left */
    int run;     /* from 1; a redrive is the next run */
    int attempt; /* the number of the attempt that begins now, from 1: this claim's number */
    int64_t seq; /* its order; 0: not known, or forgotten */
};

/* fifo: an owner asks which unfinished messages of a partition come before those it claimed. */
struct store_before {
    unsigned partition;
    int64_t
        after_seq; /* all up to here has ended, and was whole (store_earlier_done); 0: from the low mark on */
    int64_t upto_seq; /* below this one; INT64_MAX: whatever there is */
    size_t most;      /* rows of this one; it may have more when it has as many */
    int64_t
        below_version; /* accepted under a lower version of the production, or under none; 0: any */
};
struct store_earlier {
    struct uuid id;
    unsigned partition;
    int64_t seq;
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
    /* fifo: recorded only while the lease that this token came with (store_owned) is nobody else's; that it expired does not
     * matter. 0: no lease. */
    int64_t lease_token;
    /* store_only: the message itself, written with its end, or with its first failed attempt (then it is known). NULL: it
     * is there already. Its seq is not told. */
    const struct store_message *message;
    /* wal_only: with a good end the message's row and its reply go; the end itself stays. With any other end nothing goes, so
     * that a dead letter can be redriven. */
    bool forget;
    /* set by the completion */
    bool recorded;
    enum error_code
        error_code; /* ERR_NONE, or ERR_INVALID: refused for its data (then not recorded; settle it otherwise) */
};

/* One message as GET /v1/messages/{id} tells it, in its current run. Slices are valid during the callback. Of a forgotten one
 * (store_outcome.forget) its end is told: the time is that of its id, the direction and the other texts are empty. */
struct store_record {
    struct uuid id, parent;
    const char *item, *pattern, *direction;
    enum messaging_pattern queue_pattern; /* of the queue that it was accepted for */
    int partition;                        /* -1: not a fifo item's */
    const char *
        state; /* accepted processing retrying completed dead_lettered expired cancelled; `processing` is the queue's to know */
    int attempts;
    const char *error;                /* NULL: none */
    int64_t received_us, finished_us; /* finished 0: not yet */
    const char *control_id, *message_type, *sender;
    const struct uuid *children;
    size_t child_count;
    bool forgotten; /* it was not to be kept: its end is all that there is, no bodies */
};

/* A message whose current run has no end, for the reconciler and for publishing children. due_ms is that of its latest retry. */
struct store_unfinished {
    struct store_message
        message; /* body empty where it is larger than MESSAGE_INLINE_MAX, or where the bodies of one
                                     answer together pass STORE_BATCH_BYTES; meta as stored */
    uint64_t body_len; /* as it is in the store */
};

struct store_count {
    const char *item;
    int64_t count;
};

/* fifo: a partition that this worker owns. */
struct store_owned {
    const char *item;
    enum messaging_pattern pattern;
    unsigned partition;
    int64_t token;
    bool
        wanted; /* another worker has too few: let it go (store_ops.disown) once nothing of it is in hand */
};
/* fifo: an item whose partitions this worker would own. */
struct store_share {
    const char *item;
    enum messaging_pattern pattern;
    unsigned partitions;
    bool leaves; /* it takes none any more: those that it has it keeps until it gives them up */
};

/* A dead letter as the API lists it. Slices and texts are valid during the callback. */
struct store_dead_letter {
    struct uuid id;
    int run, attempts;
    const char *pattern, *reason, *control_id, *message_type;
    int64_t at_us, received_us;
};

/* What a redrive or a dismissal did. Valid during the callback. */
struct store_handled {
    const struct uuid *ids; /* were dead letters and are none any more */
    size_t count;
    size_t left;      /* stay dead letters: they cannot run again, their message is gone */
    struct uuid next; /* to go on behind; UUID_NONE: nothing follows */
};

/* The fleet's production: what a reload published. */
struct store_production {
    int64_t version;   /* 0: none was published */
    struct slice text; /* valid during the callback; empty where only the version was asked for */
    struct slice hash; /* of the text */
    int64_t at_us;
};

/* What a reload publishes. Borrowed until the completion. */
struct store_publication {
    struct slice text, hash;
    const char *by;
    int64_t base; /* the version that it follows; -1: it is to be the first one */
    struct slice
        changed; /* ids of the items whose queues it changes or takes away, separated by commas */
};

/* An item whose queue is changing. */
struct store_change {
    const char *item;
    int64_t
        version; /* what was accepted below it is finished in the queue as the version before had it */
    int64_t last_version; /* changed it too, or the same */
    bool closed;          /* that is done */
    int64_t step;         /* when it last moved */
};
/* How the fleet stands. Valid during the callback. */
struct store_standing {
    int64_t version; /* the current one; 0: none is published */
    int64_t step;    /* the last move of any change */
    int64_t
        all_applied; /* the version up to which all live processes have come, this one included */
    const struct store_change *changes;
    size_t count;
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
/* full: there are more than `count`. whole_seq: no row with a seq up to here can still appear; may lag behind. Transactions end in another
 * order than they draw their seqs, so above it a lower one may follow a higher one that was told. */
typedef void store_earlier_done(void *arg, const struct err *err, const struct store_earlier *rows,
                                size_t count, bool full, int64_t whole_seq);
typedef void store_owned_done(void *arg, const struct err *err, const struct store_owned *owned,
                              size_t count);
typedef void store_dead_letters_done(void *arg, const struct err *err,
                                     const struct store_dead_letter *rows, size_t count);
typedef void store_handled_done(void *arg, const struct err *err,
                                const struct store_handled *handled);
typedef void store_production_done(void *arg, const struct err *err,
                                   const struct store_production *production);
typedef void store_attended(void *arg, const struct err *err,
                            const struct store_standing *standing);
typedef void store_older_done(void *arg, const struct err *err, int64_t seq); /* 0: there is none */

struct store_ops {
    /* The WAL: writes messages in the order of `rows`; seq rises in that order. Not repeatable: a row that is there already is an error
     * of its own (outcome unknown → known). A row whose dedup_key was accepted within its window is not written (`repeats`); of two
     * that come at the same moment one waits for the other's commit. */
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
    /* fifo: the unfinished messages before those claimed, the lowest `limit` in order of seq. What the asker holds is among them. No
     * more than STORE_BATCH_MAX parts, each partition once. Looks at every row of a partition between the bounds until it has its
     * `most`: about a microsecond each. */
    void (*earlier)(struct store *, const char *item, enum messaging_pattern pattern,
                    const struct store_before *parts, size_t part_count, size_t limit,
                    store_earlier_done *done, void *arg);
    /* fifo: says that this worker lives, renews the leases that it has, and takes its even share of what is free, of these items'
     * partitions. Called every second or so; a lease not renewed for ttl_ms is free. What it leaves (store_share) it has no share in: all of that is
     * wanted. Leases of items that are not named any
     * more, and of partitions above an item's count, are given up. A lease is of an item, a pattern and a partition's number,
     * whatever the count, so two versions of a production never own one stream twice. Each item and pattern is named once. */
    void (*own)(struct store *, const char *worker, const struct store_share *shares, size_t count,
                int64_t ttl_ms, store_owned_done *done, void *arg);
    /* Gives up leases of this worker: the named partitions (copied), or (count 0) all and its membership: it leaves. */
    void (*disown)(struct store *, const char *worker, const struct store_owned *owned,
                   size_t count, store_done *done, void *arg);
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
    /* Unfinished messages with seq > after_seq in order of seq, light: id, item, pattern, partition, seq, received_us,
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
    /* Everything up to and including the mark is finished; a redrive lowers it. Reads it (new_low 0), or moves it on under the lease's token: up to
     * new_low (INT64_MAX: as far as it goes), never past what is unfinished or may still be written with a lower seq, and over
     * 20,000 rows a call at most. The store looks at the rows itself, so it cannot be raised too far. A new mark is possible from
     * the second call on; a call a second keeps up with 20,000 messages a second. */
    void (*low_mark)(struct store *, int64_t token, int64_t new_low, store_mark_done *done,
                     void *arg);
    /* Creates the partitions that the next days need; drops dedup keys and forgets processes of days gone by. */
    void (*maintain)(struct store *, store_done *done, void *arg);
    /* Unfinished messages, and dead letters, of each item that has some. In steps of a bounded size, so that others come in between. */
    void (*counts)(struct store *, store_counts_done *done, void *arg);
    void (*dead_counts)(struct store *, store_counts_done *done, void *arg);
    /* An item's dead letters, newest first; at most `limit` (no more than STORE_BATCH_MAX), those after `before` in the list where
     * it is not UUID_NONE: its last dead letter counts, redriven and dismissed or not; of an unknown one nothing follows. */
    void (*dead_letters)(struct store *, const char *item, struct uuid before, size_t limit,
                         store_dead_letters_done *done, void *arg);
    /* Starts the next run of these dead letters of the item (ids NULL: of the first `count` behind `after`, in the order of their ids,
     * so by age): they are unfinished again, with their id and history. Or takes them off the list for good. At most STORE_BATCH_MAX
     * a call. Repeatable: what is no dead letter is left alone. */
    void (*redrive)(struct store *, const char *item, const struct uuid *ids, size_t count,
                    struct uuid after, store_handled_done *done, void *arg);
    void (*dismiss)(struct store *, const char *item, const struct uuid *ids, size_t count,
                    struct uuid after, store_handled_done *done, void *arg);
    /* Publishes a production as the fleet's next version, unless the current one is not its base or has the same hash; tells the
     * current one. Its changes begin with it. */
    void (*publish)(struct store *, const struct store_publication *publication,
                    store_production_done *done, void *arg);
    /* That version, version 0 when there is none. */
    void (*production_of)(struct store *, int64_t version, store_production_done *done, void *arg);
    /* Says that this process lives, which version it has applied and up to which step it follows the changes; tells how the fleet
     * stands. A closed change that all live processes follow goes on: to its next one, or the queue is open, and the change is not
     * told any more. Called every second or so; who has not called for ttl_ms is gone. ttl_ms 0: it leaves. `kind`: "dispatcher",
     * "worker". */
    void (*attend)(struct store *, const char *id, const char *kind, int64_t version, int64_t step,
                   int64_t ttl_ms, store_attended *done, void *arg);
    /* What was accepted for the item below that version is finished: its changes up to it are closed. Nothing happens while a live
     * process has not applied it, or when it is none of the change's versions. Repeatable. */
    void (*close_queue)(struct store *, const char *item, int64_t below, store_done *done,
                        void *arg);
    /* The first unfinished message of the item, behind after_seq, that was accepted under a version below this one, or under none.
     * Those that are not due yet do not count, but for those of fifo queues. */
    void (*older)(struct store *, const char *item, int64_t version, int64_t after_seq,
                  store_older_done *done, void *arg);
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
