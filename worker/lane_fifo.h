/* Inside of a fifo lane: partitions that this worker owns, and the line of each ordering key. */
#ifndef HIE_LANE_FIFO_H
#define HIE_LANE_FIFO_H

#include "lane_parts.h"

TAILQ_HEAD(claim_line, claim);

/* Messages of one ordering key, one after the other. Of a fair item's messages without a key each has a line of its own. */
struct lane_key {
    struct lane_part *part;
    UT_hash_handle hh;                 /* in part->named; not of one without a name */
    TAILQ_ENTRY(lane_key) in_part;     /* in part->keys */
    TAILQ_ENTRY(lane_key) in_runnable; /* in fifo->runnable */
    struct claim_line line;            /* READY, in order */
    struct claim *busy; /* the one that runs, or whose commit or backoff is waited for */
    bool is_runnable;
    bool no_name;
    size_t len;
    char name[];
};

/* A partition under one lease. Once lost it only waits for the end of what it still has in hand. */
struct lane_part {
    TAILQ_ENTRY(lane_part) link; /* in fifo->parts */
    struct lane *lane;
    unsigned number;
    int64_t token;
    struct store_owned given_up; /* what the store is told while `disowning` */
    int64_t until_us;  /* monotonic: from then on the lease may be another's, nothing starts */
    bool lost;         /* another owns it, or nobody */
    bool leaving;      /* given up as soon as nothing of it is in hand */
    bool disowning;    /* the store is being told */
    unsigned in_cycle; /* who borrows it just now: it is not freed */
    bool woken;        /* there is something to claim, or may be */
    bool inheriting;   /* what its owners before claimed is not all taken yet */
    bool
        look_back; /* the store is to be asked for earlier ones: something changed since it was asked */
    bool
        futile; /* the last look brought nothing and let nothing go: the next one waits for something new */
    size_t
        returning; /* claims on their way back to the queue: until they are there nothing is claimed */
    /* The gate. Nothing unfinished with a seq up to here is missing in hand, so these may run; what stands behind it waits for a look.
     * Only a look moves it on (fifo_cycle.c), what goes back moves it down. INT64_MAX: without rows nobody looks. */
    int64_t clear_seq;
    int64_t top_seq;          /* the highest that it ever had in hand */
    int64_t whole_seq;        /* no message with a seq up to here can still appear */
    int64_t unheard_version;  /* of the production: it waits until this process has heard of that */
    struct claim_line claims; /* all in hand, by seq once it is known */
    size_t held;
    struct claim *by_id;
    TAILQ_HEAD(, lane_key) keys;
    struct lane_key *named;
};

struct fifo_cycle;

struct lane_fifo {
    unsigned state;                         /* of the cycle */
    TAILQ_HEAD(part_list, lane_part) parts; /* the one to be claimed from next first */
    TAILQ_HEAD(, lane_key) runnable; /* whose head may run, in the order in which it became so */
    struct loop_task turn;           /* runs what may run */
    struct fifo_cycle *cycle;        /* NULL while RESTING */
    bool leaving;                    /* all partitions are given up, no more are taken */
    unsigned sweeps;
};

/* fifo_cycle.c */
void fifo_cycle_free(struct fifo_cycle *cycle); /* NULL: nothing */

/* fifo_line.c */
/* Of a lost partition: it is forgotten. */
void lane_line_drop(struct claim *claim);
/* What may run does, as far as there are slots. */
void lane_fifo_turn(void *lane);
/* Their heads may run, if nothing else is in the way. */
void lane_part_settle_keys(struct lane_part *part);
bool lane_part_is_sure(const struct lane_part *part);
/* A look is over: the gate is here. */
void lane_part_clear(struct lane_part *part, int64_t seq);
/* The store has to be asked: what is in hand, or was, stands behind the gate. */
bool lane_part_must_look(const struct lane_part *part);
/* Only messages that have a row before they are in the queue have their order by seq. All others have the stream's. */
bool lane_is_logged(const struct lane *lane);
/* In their partition, once their seqs are known. */
bool lane_comes_before(const struct claim *a, const struct claim *b);
/* A new claim of this part. */
struct claim *lane_part_claim(struct lane_part *part, struct queue_claimed *claimed,
                              struct queue_entry *entry);

/* lane_fifo.c */
struct lane_part *lane_part_find(struct lane *lane, unsigned number);
/* Frees it where nothing needs it any more; tells the store where it is left on purpose. */
void lane_part_settle(struct lane_part *part);

#endif
