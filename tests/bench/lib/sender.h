/* The load generator: many connections on one epoll loop, one thread, a few system calls a message
 * (one write, one read, a share of an epoll_wait), so that measuring costs little beside what is
 * measured.
 *
 *   connection:  closed ──connect──▶ connecting ──▶ open ──error, close, late answer──▶ closed
 * (again after 100 ms) open and fewer than `depth` unanswered: in the ready list, first come first
 * served.
 *
 * Closed loop (rate 0): a message is sent as soon as a connection is ready. Paced: message i is due
 * at i / rate after the start whether or not a connection is ready, and its latency counts from
 * then, so a server that stalls is charged for all who had to wait (Gil Tene's "coordinated
 * omission" is what happens otherwise). What was due is sent even if late. A connection that ends
 * takes its unanswered messages along: they are counted as lost (outcome unknown to the sender) and
 * never sent again. */
#ifndef HIE_BENCH_SENDER_H
#define HIE_BENCH_SENDER_H

#include "base/error.h"
#include "histogram.h"
#include "stencil.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define SENDER_DEPTH_MAX 256
#define SENDER_CODES 16

struct sender_options {
    bool mllp;
    bool replies; /* each message is answered by its own reply: answer.h */
    const char *host, *port;
    unsigned connections;
    unsigned depth;            /* unanswered messages on one connection, 1 … SENDER_DEPTH_MAX */
    double rate;               /* messages a second; 0: as fast as answers come */
    uint64_t count;            /* messages; 0: as many as fit into `seconds` */
    double seconds;            /* 0: until `count` are sent */
    double window;             /* seconds a window of the result has; 0: no windows */
    int64_t timeout_ms;        /* for an answer and for connecting */
    const char *run;           /* STENCIL_RUN_LEN characters, as the templates were made with */
    struct stencil *templates; /* used in turn */
    size_t template_count;
    FILE *ids; /* "MSH-10 correlation-id" of each accepted message, a line each; NULL: none */
};

struct sender_code {
    char code[4];
    uint64_t count;
};

struct sender_window {
    uint64_t accepted, rejected;
    int64_t p50_us, p99_us, p999_us, max_us;
};

struct sender_result {
    uint64_t sent, accepted, rejected;
    uint64_t lost;   /* sent, and the connection ended before the answer */
    uint64_t unsent; /* due, but no connection was ready in time */
    uint64_t connect_errors, closed_by_peer, bad_answers, wrong_control, timeouts;
    uint64_t peak_backlog; /* paced: the most messages that were due and not sent */
    struct sender_code codes[SENDER_CODES];
    size_t code_count;
    int64_t started_us, ended_us; /* wall clock: first message due, last answer */
    double elapsed;               /* seconds between these, by the monotonic clock */
    double cpu_user, cpu_system;  /* seconds of this thread between these */
    size_t body_len;              /* of the first template */
    struct histogram latency;     /* µs, of accepted messages */
    struct sender_window *windows;
    size_t window_count;
};

/* Runs to the end. -1 with ERR_UNAVAILABLE when not one connection could be made at the start,
 * ERR_INVALID for bad options. *ret is then untouched. */
int sender_run(const struct sender_options *options, struct sender_result *ret, struct err *err);
void sender_result_done(struct sender_result *result);

#endif
