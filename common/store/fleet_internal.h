/* Inside of the fleet: fleet.c has the process's side, fleet_change.c the items whose queues change. */
#ifndef HIE_STORE_FLEET_INTERNAL_H
#define HIE_STORE_FLEET_INTERNAL_H

#include "store/fleet.h"

#include <stdio.h>
#include <sys/queue.h>

/* The file's text and a line for each item. */
#define FLEET_TEXT_MAX (2u * PRODUCTION_TEXT_MAX)

/* An item whose queue changes its shape. */
struct fleet_change {
    struct fleet_change *next;
    struct fleet *fleet;
    char id[65];
    enum fleet_stage stage;
    int64_t version; /* what was accepted under a lower one is finished first */
    const struct item *old;
    struct production *old_production; /* a reference */
    unsigned asking;                   /* calls under way that look whether it is finished */
    bool unfinished;                   /* one of them found something, or failed */
    bool dropped;                      /* freed with the last of them */
};

struct fleet_retired {
    STAILQ_ENTRY(fleet_retired) link;
    struct production *production; /* a reference */
    int64_t at_us;                 /* monotonic */
};

struct fleet {
    struct fleet_options options;
    struct production *current; /* a reference */
    bool queue_up, store_up, joined;
    bool differs; /* this process's own file is another */
    bool looking, attending;
    unsigned
        recovering; /* 1: joined, and what is under way is to be found out; above: calls under way and 1; 0: done */
    int64_t asked_us, attended_us; /* monotonic */
    int64_t lowest;                /* stage number that all live processes have reached */
    int64_t said;                  /* our own, as last told */
    STAILQ_HEAD(, fleet_retired) retired;
    int64_t refused_version; /* said once */
    char own_hash[PRODUCTION_HASH_SIZE];
    struct buffer own_text; /* as it would be published */
    struct loop_timer timer;
    struct loop_task reload_task;
    fleet_reload_done *reload_done; /* NULL: none is under way */
    void *reload_arg;
    struct buffer restart_keys;
    struct fleet_change *changes;
    size_t change_count;
    struct metric *version_metric, *differs_metric;
};

/* ---- fleet.c ---- */
void fleet_take(struct fleet *fleet, const struct store_production *published);
/* What it knows by now shows in readiness and metrics. */
void fleet_tell_readiness(struct fleet *fleet);
/* Ticks at once. */
void fleet_hurry(struct fleet *fleet);

/* ---- fleet_change.c ---- */
struct fleet_change *fleet_find_change(const struct fleet *fleet, const char *item_id);
/* The lowest version of a change that is CLOSING; 0: there is none. */
int64_t fleet_closing_version(const struct fleet *fleet);
/* Begins what differs between the two. */
void fleet_changes_begin(struct fleet *fleet, struct production *before, struct production *after);
/* This process has joined and heard the fleet: begins those changes of the version in force that are still under way. */
void fleet_changes_recover(struct fleet *fleet);
/* Looks which changes may go on. */
void fleet_changes_look(struct fleet *fleet);
void fleet_changes_drop(struct fleet *fleet);

#endif
