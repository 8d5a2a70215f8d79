/* Inside of the fleet: fleet.c has the process's side, fleet_change.c the items whose queues change, fleet_reload.c what publishes,
 * fleet_sections.c by whose word this process listens. */
#ifndef HIE_STORE_FLEET_INTERNAL_H
#define HIE_STORE_FLEET_INTERNAL_H

#include "store/fleet.h"

#include <stdio.h>
#include <sys/queue.h>

/* An item whose queue changes, as the store told it. */
struct fleet_change {
    TAILQ_ENTRY(fleet_change) link;
    char id[65];
    enum fleet_stage stage;
    int64_t version, last_version, step; /* store.h: store_change */
    bool old_sought;                     /* `old` is what there is */
    const struct item *old;              /* CLOSING; NULL: this process cannot read that version */
    struct production *old_production;   /* a reference, or NULL */
};
TAILQ_HEAD(fleet_changes, fleet_change);

/* Looks whether what is older has ended, one after the other, while an item's queue is closing. */
struct fleet_look {
    LIST_ENTRY(fleet_look) link;
    struct fleet *fleet;
    char id[65];
    int64_t version, last_version; /* what is asked about; the same: there is nothing more to ask */
    const struct item *old;
    struct production *old_production; /* a reference */
    bool asking;                       /* one is under way */
    bool empty;                        /* nothing below `version` is left: now below last_version */
    int64_t after_seq;         /* where the last one found something; 0: begin at the start */
    unsigned calls;            /* about depths, under way */
    bool occupied;             /* one of them found something, or failed */
    int64_t began_us, next_us; /* monotonic */
};

struct fleet_reload_state {
    struct loop_task task;
    fleet_reload_done *done; /* NULL: none is under way */
    void *arg;
    struct store_publication publication;
    struct buffer text, changed, restart_keys;
    size_t text_len; /* of the text, without its last line: which sections it has */
    char hash[PRODUCTION_HASH_SIZE];
    int64_t began_version;
    int64_t version;  /* published, and not yet in force here; 0: not published yet */
    int64_t until_us; /* monotonic */
};

struct fleet {
    struct fleet_options options;
    unsigned state;
    unsigned joins;             /* how often it has joined */
    struct production *current; /* a reference */
    struct production
        *sections[SECTION_COUNT]; /* whose sections this process goes by: references */
    bool queue_up, store_up;
    bool asking;                /* the store is: from a tick to what follows from its answer */
    int64_t asked_us, heard_us; /* monotonic: the last question, the last one that was answered */
    int64_t settled_version;    /* as last told: nothing is under way from before it */
    int64_t heard_version;      /* the fleet's, as followed */
    int64_t standing_version;   /* the fleet's, as last heard */
    int64_t all_applied;        /* … and up to where all are */
    int64_t sought_version;     /* while asking: that production_of is asked for */
    int64_t step, next_step;    /* followed; as last heard */
    int64_t told_step;          /* our own, as last told */
    int64_t refused_version;    /* that one this process cannot use; 0: none */
    struct production *coming;  /* while asking: the next one in force, a reference */
    struct fleet_changes changes, next; /* next: while asking */
    size_t change_count;
    LIST_HEAD(, fleet_look) looks;
    struct store_publication first; /* ALONE: our own */
    struct buffer own_text;         /* as it would be published */
    char own_hash[PRODUCTION_HASH_SIZE];
    struct loop_timer timer;
    struct fleet_reload_state reload;
    struct metric *version_metric, *differs_metric, *changing_metric;
};

/* ---- fleet.c ---- */
void fleet_changes_free(struct fleet_changes *changes);
struct fleet_change *fleet_change_find(const struct fleet_changes *changes, const char *item_id);

/* ---- fleet_change.c ---- */
/* Looks which queues are finished, and has them closed. */
void fleet_look(struct fleet *fleet);
void fleet_looks_free(struct fleet *fleet);

/* ---- fleet_reload.c ---- */
void fleet_reload_init(struct fleet *fleet);
void fleet_reload_done_with(struct fleet *fleet);
/* Another version is in force, or some time went by. */
void fleet_reload_look(struct fleet *fleet);

/* ---- fleet_sections.c ---- */
void fleet_sections_init(struct fleet *fleet);
void fleet_sections_done(struct fleet *fleet);
/* Another version is in force, or a reload found that this process's own file says what is. */
void fleet_sections_look(struct fleet *fleet, const struct production *before);
/* Appends what is said of the sections when this process publishes on top of that version. */
void fleet_sections_append(const struct fleet *fleet, int64_t base, struct slice base_text,
                           struct buffer *out);

#endif
