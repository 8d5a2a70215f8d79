/* A few threads for calls that block (file writes): work runs in a thread, its completion on the loop. */
#ifndef HIE_OFFLOAD_H
#define HIE_OFFLOAD_H

#include "link/loop.h"

struct offload;

struct offload_work {
    void (*run)(struct offload_work *work);  /* in a thread; touches nothing but its own work */
    void (*done)(struct offload_work *work); /* on the loop, later */
    struct offload_work *next;
};

struct offload *offload_new(struct loop *loop, unsigned threads);
/* Waits for work that runs; work not begun is dropped without its completion. */
struct offload *offload_free(struct offload *offload);
/* The work is the caller's and stays until done is called. */
void offload_submit(struct offload *offload, struct offload_work *work);

#endif
