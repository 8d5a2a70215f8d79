/* A few threads for calls that block (file writes): work runs in a thread, its completion on the
 * loop.
 *
 *   offload_submit ──▶ queued ──▶ running (a thread) ──▶ finished ──▶ done (the loop)
 *                         └───────────── offload_withdraw ────┘  instead of done
 *
 * Everything but `run` is called from the loop's thread. */
#ifndef HIE_OFFLOAD_H
#define HIE_OFFLOAD_H

#include "link/loop.h"

struct offload;

struct offload_work {
    void (*run)(struct offload_work *work);  /* in a thread; touches nothing but its own work */
    void (*done)(struct offload_work *work); /* on the loop, later */
    struct offload_work *next;
};

/* The threads start with the first work. 0: it runs inside offload_submit, for a loop that may block. */
struct offload *offload_new(struct loop *loop, unsigned threads);
/* Waits for work that runs and calls its completion; work not begun is dropped without its
 * completion. Not to be called from inside a completion. */
struct offload *offload_free(struct offload *offload);
/* The work is the caller's and stays until done is called. */
void offload_submit(struct offload *offload, struct offload_work *work);
/* Takes submitted work back before its completion was called, which then never is: false when it
 * had not begun, true when it has run — a run under way is waited for. For owners that close. */
bool offload_withdraw(struct offload *offload, struct offload_work *work);

#endif
