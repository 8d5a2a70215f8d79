/* The fleet's production in this process: which version is in force, and how an item's queue changes its shape while messages flow.
 *
 *   a process:  ALONE ──a version is published, and it can use it──▶ JOINING ──it has heard how the fleet stands──▶ JOINED
 *                                                                       ▲                                            │
 *                                                                       └──────silent for too long───────────────────┘
 *
 *   ALONE and JOINING it claims nothing and takes nothing in. The first process of a fleet publishes its own file.
 *
 *   an item whose pattern, queue type, partitions, class or ordering rule a new version changes, or that it leaves out:
 *
 *      OPEN ──published──▶ CLOSING ──all have applied it, what is older has ended──▶ CLOSED ──all follow──▶ OPEN
 *                             ▲                                                        │
 *                             └──────────────changed once more meanwhile───────────────┘
 *
 * While CLOSING the workers finish what was accepted below that version, in its queue; what comes in waits in the WAL (what
 * has none is refused) and enters the new queue, in order, once it is OPEN. Where an item stands is a row in the store, moved on there,
 * and each item moves on its own: one whose messages nobody handles (it is disabled, its receiver is down) holds up no other. A
 * process tells which version it has applied and which moves it follows, and hears in the same transaction how things stand, so that
 * nobody does anything to a queue that all others have left. One that was silent for nearly as long as its membership lasts stops working
 * until it has heard the fleet's word again.
 *
 * A reload publishes this process's file; a file that does not parse is refused and nothing changes. A version that a process cannot use
 * (a variable of its environment is missing) leaves it with the one before, and not ready; no queue changes until it can. */
#ifndef HIE_STORE_FLEET_H
#define HIE_STORE_FLEET_H

#include "model/production.h"
#include "ops/health.h"
#include "ops/metrics.h"
#include "queue/queue.h"
#include "store/reconciler_split.h"
#include "store/store.h"

struct fleet;

struct fleet_options {
    struct loop *loop;
    struct queue *queue;
    struct store *store;
    const char *id;         /* this process */
    const char *kind;       /* "dispatcher", "worker" */
    const char *path;       /* of its production file */
    struct production *own; /* read from it; the fleet takes a reference */
    struct health *health;
    struct metrics *metrics;
    /* Another production is in force: fleet_production. What was borrowed from the one before stays valid for those who have a
     * reference. on_shape follows for the items whose queues change. */
    void (*on_production)(void *arg);
    /* Follows on_production where this process goes by another `dispatcher` or `worker` section: fleet_section. May be NULL. */
    void (*on_section)(void *arg);
    /* Nothing is under way any more that was begun under the version before: it counts as applied from then on. */
    bool (*is_settled)(void *arg);
    /* It has joined: work may begin. May be NULL. */
    void (*on_joined)(void *arg);
    /* An item's shape has moved on: look at fleet_shape again. */
    void (*on_shape)(void *arg, const char *item_id);
    /* Nothing is being claimed any more from the closed queue of that item. NULL: this process claims nothing. */
    bool (*has_left)(void *arg, const char *item_id);
    void *arg;
};

enum fleet_stage { FLEET_OPEN, FLEET_CLOSING, FLEET_CLOSED };

struct fleet_shape {
    enum fleet_stage stage;
    int64_t version;        /* CLOSING: what was accepted below it is finished */
    const struct item *old; /* CLOSING: whose queue is being finished; NULL: not known here */
    struct production *old_production; /* owns it */
};

struct fleet *fleet_new(const struct fleet_options *options);
struct fleet *fleet_free(struct fleet *fleet);
void fleet_links_changed(struct fleet *fleet, bool queue_up, bool store_up);
/* This process ends: the others need not wait until its membership lapses. Waits for nothing. */
void fleet_leave(struct fleet *fleet);

/* The one in force; borrowed until on_production. */
struct production *fleet_production(const struct fleet *fleet);
/* By whose section of that kind this process goes: where it listens, how it ends. At its start its own file's, then as fleet_sections.c
 * says. Borrowed until on_section; a reference keeps it. */
struct production *fleet_section(const struct fleet *fleet, enum production_section section);
struct fleet_shape fleet_shape(const struct fleet *fleet, const char *item_id);
/* Where a message belongs that was accepted under `version`: an item of the production in force, or the one that is being finished.
 * NULL: it waits in the WAL, also for this process to hear of that version, or there is no such item. */
const struct item *fleet_route(const struct fleet *fleet, const char *item_id, int64_t version);
/* The same, for the reconciler. */
struct reconciler_route fleet_reconciler_route(const struct fleet *fleet);
/* It knows the fleet's version and its word is fresh: claims and intake may go on. */
bool fleet_joined(const struct fleet *fleet);
/* Which time it is that it joined, from 1; 0: it is not. What was begun in another membership may be for a queue that is another by now. */
unsigned fleet_membership(const struct fleet *fleet);
/* The last version of the fleet's that this process follows, if it cannot use it. */
int64_t fleet_heard_version(const struct fleet *fleet);
/* Somebody has seen a newer one: asks at once. */
void fleet_hurry(struct fleet *fleet);
/* Any item's queue is changing. */
bool fleet_is_changing(const struct fleet *fleet);

struct fleet_reloaded {
    bool refused;                          /* the file is invalid, or cannot be read */
    const struct diagnostics *diagnostics; /* what it says */
    int64_t version;                       /* published by now, and as a rule in force here */
    bool changed;
    struct slice restart_keys; /* changed keys that take a restart: "redis.url, postgres.url" */
};
typedef void fleet_reload_done(void *arg, const struct err *err,
                               const struct fleet_reloaded *result);
/* Reads the file anew and publishes it. `done` follows, later; err other than ERR_NONE: the store is away. One at a time: another
 * one meanwhile ends with ERR_UNAVAILABLE. */
void fleet_reload(struct fleet *fleet, fleet_reload_done *done, void *arg);

#endif
