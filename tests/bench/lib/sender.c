#include "sender.h"

#include "answer.h"
#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/queue.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_SIZE 262144
#define EVENTS 256
#define REOPEN_US 100000
#define SWEEP_US 100000
/* Paced messages are due in groups, on a grid: waking up for each one would cost several times what
 * sending it costs. The group is due at its tick, so the grid adds nothing to a latency. */
#define TICK_US 500
#define ALONE_US 60000000 /* a run ends early when no connection could be had for so long */

struct flight {
    uint64_t number;
    int64_t due_us;  /* latency counts from here */
    int64_t sent_us; /* and the time-out from here */
};

struct connection {
    struct sender *sender;
    int fd;
    enum { CONN_CLOSED, CONN_CONNECTING, CONN_OPEN } state;
    bool ready, writing;    /* in the ready list; waiting for EPOLLOUT */
    int64_t since_us;       /* of CLOSED and CONNECTING */
    struct flight *flights; /* a ring of `depth` */
    unsigned first, flying;
    struct answer_reader reader;
    struct buffer out; /* what the socket did not take yet */
    TAILQ_ENTRY(connection) link;
};

struct sender {
    const struct sender_options *options;
    struct addrinfo *address;
    int epoll;
    struct connection *connections;
    TAILQ_HEAD(, connection) ready;
    unsigned open;
    uint64_t limit; /* messages to send; UINT64_MAX: until stop_us */
    int64_t start_us, stop_us, now_us, wall_s;
    int64_t alone_us; /* since when no connection is open */
    uint64_t in_flight;
    struct histogram window;
    int64_t window_end_us;
    uint64_t window_accepted, window_rejected;
    struct sender_result result;
    char *read_buffer;
};

/* ---- windows and answers ------------------------------------------------------------------------
 */

static void close_window(struct sender *sender)
{
    struct sender_result *result = &sender->result;
    result->windows =
        mem_resize(result->windows, result->window_count + 1, sizeof(*result->windows));
    result->windows[result->window_count++] = (struct sender_window){
        .accepted = sender->window_accepted,
        .rejected = sender->window_rejected,
        .p50_us = histogram_percentile(&sender->window, 50),
        .p99_us = histogram_percentile(&sender->window, 99),
        .p999_us = histogram_percentile(&sender->window, 99.9),
        .max_us = sender->window.max,
    };
    histogram_add(&result->latency, &sender->window);
    histogram_clear(&sender->window);
    sender->window_accepted = sender->window_rejected = 0;
    sender->window_end_us += (int64_t)(sender->options->window * 1e6);
}

static void count_code(struct sender_result *result, const char *code)
{
    for (size_t i = 0; i < result->code_count; i++) {
        if (memcmp(result->codes[i].code, code, sizeof(result->codes[i].code)) == 0) {
            result->codes[i].count++;
            return;
        }
    }
    if (result->code_count < SENDER_CODES) {
        struct sender_code *entry = &result->codes[result->code_count++];
        memcpy(entry->code, code, sizeof(entry->code));
        entry->count = 1;
    }
}

static void make_ready(struct sender *sender, struct connection *conn)
{
    if (conn->ready || conn->state != CONN_OPEN || conn->writing || conn->reader.closing ||
        conn->flying == sender->options->depth)
        return;
    conn->ready = true;
    TAILQ_INSERT_TAIL(&sender->ready, conn, link);
}

static bool on_answer(void *arg, const struct answer *answer)
{
    struct connection *conn = arg;
    struct sender *sender = conn->sender;
    if (conn->flying == 0)
        return false; /* an answer to nothing */
    struct flight *flight = &conn->flights[conn->first];
    char control[STENCIL_CONTROL_LEN];
    const struct sender_options *options = sender->options;
    bool has_control = options->mllp || (options->replies && answer->accepted);
    if (has_control || options->ids)
        stencil_control(sender->options->run, flight->number, control);
    if (has_control && !slice_equal(answer->control, slice_of(control, sizeof(control)))) {
        sender->result.wrong_control++;
        return false;
    }
    conn->first = (conn->first + 1) % sender->options->depth;
    conn->flying--;
    sender->in_flight--;
    count_code(&sender->result, answer->code);
    if (answer->accepted) {
        sender->result.accepted++;
        sender->window_accepted++;
        histogram_record(&sender->window, sender->now_us - flight->due_us);
        if (sender->options->ids)
            fprintf(sender->options->ids, "%.*s %s\n", STENCIL_CONTROL_LEN, control,
                    answer->id[0] ? answer->id : "-");
    } else {
        sender->result.rejected++;
        sender->window_rejected++;
    }
    return true;
}

/* ---- connections --------------------------------------------------------------------------------
 */

static void conn_close(struct sender *sender, struct connection *conn)
{
    if (conn->state == CONN_CLOSED)
        return;
    if (conn->state == CONN_OPEN)
        sender->open--;
    if (conn->ready)
        TAILQ_REMOVE(&sender->ready, conn, link);
    sender->result.lost += conn->flying;
    sender->in_flight -= conn->flying;
    close(conn->fd);
    answer_reader_done(&conn->reader);
    buffer_clear(&conn->out);
    conn->fd = -1;
    conn->state = CONN_CLOSED;
    conn->ready = conn->writing = false;
    conn->first = conn->flying = 0;
    conn->since_us = clock_mono_us();
}

static void watch(struct sender *sender, struct connection *conn, int op, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = conn};
    if (epoll_ctl(sender->epoll, op, conn->fd, &event) < 0) {
        sender->result.connect_errors++;
        conn_close(sender, conn);
    }
}

static void conn_opened(struct sender *sender, struct connection *conn)
{
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error) {
        sender->result.connect_errors++;
        conn_close(sender, conn);
        return;
    }
    conn->state = CONN_OPEN;
    sender->open++;
    watch(sender, conn, EPOLL_CTL_MOD, EPOLLIN);
    make_ready(sender, conn);
}

static void conn_open(struct sender *sender, struct connection *conn)
{
    conn->since_us = clock_mono_us();
    conn->fd = socket(sender->address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (conn->fd < 0) {
        sender->result.connect_errors++;
        return;
    }
    int on = 1;
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    answer_reader_init(&conn->reader, sender->options->mllp, sender->options->replies, on_answer,
                       conn);
    conn->state = CONN_CONNECTING;
    if (connect(conn->fd, sender->address->ai_addr, sender->address->ai_addrlen) < 0 &&
        errno != EINPROGRESS) {
        sender->result.connect_errors++;
        conn_close(sender, conn);
        return;
    }
    watch(sender, conn, EPOLL_CTL_ADD, EPOLLOUT);
}

/* Writes what it can; the rest waits for EPOLLOUT. False: the connection is gone. */
static bool conn_write(struct sender *sender, struct connection *conn, struct slice bytes)
{
    ssize_t n = send(conn->fd, bytes.ptr, bytes.len, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        sender->result.closed_by_peer++;
        return false;
    }
    size_t done = n > 0 ? (size_t)n : 0;
    if (done == bytes.len)
        return true;
    buffer_append(&conn->out, bytes.ptr + done, bytes.len - done);
    conn->writing = true;
    watch(sender, conn, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    return true;
}

static void conn_flush(struct sender *sender, struct connection *conn)
{
    ssize_t n = send(conn->fd, conn->out.data, conn->out.len, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return;
        sender->result.closed_by_peer++;
        conn_close(sender, conn);
        return;
    }
    buffer_consume(&conn->out, (size_t)n);
    if (conn->out.len)
        return;
    conn->writing = false;
    watch(sender, conn, EPOLL_CTL_MOD, EPOLLIN);
    make_ready(sender, conn);
}

static void conn_read(struct sender *sender, struct connection *conn)
{
    ssize_t n = recv(conn->fd, sender->read_buffer, READ_SIZE, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        sender->result.closed_by_peer++;
        conn_close(sender, conn);
        return;
    }
    uint64_t wrong = sender->result.wrong_control;
    if (!answer_reader_feed(&conn->reader, sender->read_buffer, (size_t)n)) {
        if (sender->result.wrong_control == wrong)
            sender->result.bad_answers++;
        conn_close(sender, conn);
        return;
    }
    if (conn->reader.closing) {
        sender->result.closed_by_peer++;
        conn_close(sender, conn);
        return;
    }
    make_ready(sender, conn);
}

/* ---- the schedule -------------------------------------------------------------------------------
 */

static void send_one(struct sender *sender, int64_t due_us)
{
    const struct sender_options *options = sender->options;
    struct connection *conn = TAILQ_FIRST(&sender->ready);
    TAILQ_REMOVE(&sender->ready, conn, link);
    conn->ready = false;
    uint64_t number = sender->result.sent++;
    struct slice bytes = stencil_stamp(&options->templates[number % options->template_count],
                                       number, sender->wall_s);
    conn->flights[(conn->first + conn->flying++) % options->depth] =
        (struct flight){.number = number, .due_us = due_us, .sent_us = sender->now_us};
    sender->in_flight++;
    if (!conn_write(sender, conn, bytes))
        conn_close(sender, conn);
    else
        make_ready(sender, conn);
}

/* Message i at i / rate, put off to the next tick. */
static int64_t due_time(const struct sender *sender, uint64_t number)
{
    int64_t due = (int64_t)((double)number * 1e6 / sender->options->rate);
    return sender->start_us + (due + TICK_US - 1) / TICK_US * TICK_US;
}

/* Sends all that is due and has a connection. */
static void pump(struct sender *sender)
{
    bool paced = sender->options->rate > 0;
    while (!TAILQ_EMPTY(&sender->ready) && sender->result.sent < sender->limit) {
        int64_t due_us = paced ? due_time(sender, sender->result.sent) : sender->now_us;
        if (paced ? due_us > sender->now_us : due_us >= sender->stop_us)
            break;
        send_one(sender, due_us);
    }
    if (!paced)
        return;
    double due = (double)(sender->now_us - sender->start_us) * sender->options->rate / 1e6;
    if (due > (double)sender->limit)
        due = (double)sender->limit;
    double backlog = due - (double)sender->result.sent;
    if (backlog > (double)sender->result.peak_backlog)
        sender->result.peak_backlog = (uint64_t)backlog;
}

/* Late answers, connections to be opened again. */
static void sweep(struct sender *sender)
{
    int64_t timeout_us = sender->options->timeout_ms * 1000;
    if (sender->open)
        sender->alone_us = sender->now_us;
    for (unsigned i = 0; i < sender->options->connections; i++) {
        struct connection *conn = &sender->connections[i];
        if (conn->state == CONN_CLOSED) {
            if (sender->now_us - conn->since_us >= REOPEN_US)
                conn_open(sender, conn);
        } else if (conn->state == CONN_CONNECTING) {
            if (sender->now_us - conn->since_us >= timeout_us) {
                sender->result.connect_errors++;
                conn_close(sender, conn);
            }
        } else if (conn->flying &&
                   sender->now_us - conn->flights[conn->first].sent_us >= timeout_us) {
            sender->result.timeouts++;
            conn_close(sender, conn);
        }
    }
}

static void dispatch(struct sender *sender, const struct epoll_event *event)
{
    struct connection *conn = event->data.ptr;
    if (conn->state == CONN_CONNECTING) {
        conn_opened(sender, conn);
        return;
    }
    if (conn->state == CONN_OPEN && (event->events & EPOLLOUT))
        conn_flush(sender, conn);
    if (conn->state == CONN_OPEN && (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        conn_read(sender, conn);
}

/* Waits for events, `wait_us` at most, and deals with them. */
static void turn(struct sender *sender, int64_t wait_us)
{
    struct epoll_event events[EVENTS];
    if (wait_us < 0)
        wait_us = 0;
    struct timespec wait = {.tv_sec = wait_us / 1000000, .tv_nsec = wait_us % 1000000 * 1000};
    int n = epoll_pwait2(sender->epoll, events, EVENTS, &wait, NULL);
    sender->now_us = clock_mono_us();
    for (int i = 0; i < n; i++)
        dispatch(sender, &events[i]);
}

/* ---- a run --------------------------------------------------------------------------------------
 */

/* True when nothing is left to send. */
static bool all_sent(const struct sender *sender)
{
    if (sender->result.sent >= sender->limit)
        return true;
    return sender->options->rate == 0 && sender->now_us >= sender->stop_us;
}

static int64_t next_wait(const struct sender *sender, int64_t sweep_at)
{
    int64_t wait = sweep_at - sender->now_us;
    if (sender->options->rate > 0 && !TAILQ_EMPTY(&sender->ready) && !all_sent(sender)) {
        int64_t due = due_time(sender, sender->result.sent) - sender->now_us;
        if (due < wait)
            wait = due;
    }
    return wait;
}

/* Until all is sent and answered. Past the stop, a paced schedule has `timeout_ms` to send what is
 * late, and answers have theirs by the sweep. */
static void run(struct sender *sender)
{
    const struct sender_options *options = sender->options;
    int64_t sweep_at = 0, give_up_us = INT64_MAX;
    if (sender->stop_us != INT64_MAX)
        give_up_us = sender->stop_us + options->timeout_ms * 1000;
    while (!(all_sent(sender) && sender->in_flight == 0)) {
        if (!all_sent(sender) &&
            (sender->now_us >= give_up_us || sender->now_us - sender->alone_us >= ALONE_US)) {
            if (sender->limit != UINT64_MAX)
                sender->result.unsent = sender->limit - sender->result.sent;
            sender->limit = sender->result.sent;
        }
        pump(sender);
        turn(sender, next_wait(sender, sweep_at));
        if (sender->now_us >= sweep_at) {
            sweep_at = sender->now_us + SWEEP_US;
            sender->wall_s = clock_wall_us() / 1000000;
            sweep(sender);
        }
        while (options->window > 0 && sender->now_us >= sender->window_end_us)
            close_window(sender);
    }
}

/* Opens all connections; fails when none is open within the time-out. */
static int connect_all(struct sender *sender, struct err *err)
{
    for (unsigned i = 0; i < sender->options->connections; i++) {
        conn_open(sender, &sender->connections[i]);
        if (i % 64 == 63)
            turn(sender, 0); /* no more at once than a listener's backlog takes */
    }
    int64_t until = clock_mono_us() + sender->options->timeout_ms * 1000;
    while (sender->open < sender->options->connections && clock_mono_us() < until) {
        turn(sender, 10000);
        if (sender->open == 0)
            sweep(sender);
    }
    if (sender->open == 0)
        return err_set(err, ERR_UNAVAILABLE, "no connection to %s:%s", sender->options->host,
                       sender->options->port);
    return 0;
}

static int setup(struct sender *sender, const struct sender_options *options, struct err *err)
{
    *sender = (struct sender){.options = options, .epoll = -1};
    TAILQ_INIT(&sender->ready);
    if (options->connections == 0 || options->depth == 0 || options->depth > SENDER_DEPTH_MAX ||
        options->template_count == 0 || options->timeout_ms <= 0 || options->rate < 0 ||
        options->window < 0 || (options->count == 0 && options->seconds <= 0))
        return err_set(err, ERR_INVALID, "connections, depth, rate, count or seconds out of range");
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC};
    int status = getaddrinfo(options->host, options->port, &hints, &sender->address);
    if (status)
        return err_set(err, ERR_INVALID, "%s:%s: %s", options->host, options->port,
                       gai_strerror(status));
    sender->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (sender->epoll < 0)
        return err_set(err, ERR_IO, "epoll_create1: %s", strerror(errno));
    sender->read_buffer = mem_alloc(READ_SIZE);
    sender->connections = mem_array(options->connections, sizeof(*sender->connections));
    for (unsigned i = 0; i < options->connections; i++) {
        struct connection *conn = &sender->connections[i];
        conn->sender = sender;
        conn->fd = -1;
        conn->flights = mem_array(options->depth, sizeof(*conn->flights));
        buffer_init(&conn->out, SIZE_MAX / 2);
    }
    return 0;
}

static void teardown(struct sender *sender)
{
    for (unsigned i = 0; sender->connections && i < sender->options->connections; i++) {
        conn_close(sender, &sender->connections[i]);
        free(sender->connections[i].flights);
        buffer_done(&sender->connections[i].out);
    }
    free(sender->connections);
    free(sender->read_buffer);
    if (sender->epoll >= 0)
        close(sender->epoll);
    if (sender->address)
        freeaddrinfo(sender->address);
}

static void start_clock(struct sender *sender)
{
    const struct sender_options *options = sender->options;
    sender->start_us = sender->now_us = sender->alone_us = clock_mono_us();
    sender->result.started_us = clock_wall_us();
    sender->wall_s = sender->result.started_us / 1000000;
    sender->stop_us =
        options->seconds > 0 ? sender->start_us + (int64_t)(options->seconds * 1e6) : INT64_MAX;
    sender->limit = options->count ? options->count : UINT64_MAX;
    if (options->rate > 0 && options->seconds > 0) {
        uint64_t fits = (uint64_t)(options->rate * options->seconds);
        if (fits < sender->limit)
            sender->limit = fits;
    }
    sender->window_end_us = sender->start_us + (int64_t)(options->window * 1e6);
}

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

int sender_run(const struct sender_options *options, struct sender_result *ret, struct err *err)
{
    struct sender sender;
    int status = -1;
    if (setup(&sender, options, err) < 0)
        goto done;
    prctl(PR_SET_TIMERSLACK, 1000UL); /* the default of 50 µs would make paced messages late */
    if (connect_all(&sender, err) < 0)
        goto done;
    struct rusage before, after;
    getrusage(RUSAGE_THREAD, &before);
    start_clock(&sender);
    run(&sender);
    getrusage(RUSAGE_THREAD, &after);
    sender.result.elapsed = (double)(sender.now_us - sender.start_us) / 1e6;
    sender.result.ended_us = sender.result.started_us + (sender.now_us - sender.start_us);
    sender.result.cpu_user = seconds_of(after.ru_utime) - seconds_of(before.ru_utime);
    sender.result.cpu_system = seconds_of(after.ru_stime) - seconds_of(before.ru_stime);
    sender.result.body_len = options->templates[0].body_len;
    histogram_add(&sender.result.latency, &sender.window); /* of the last, unfinished window */
    *ret = sender.result;
    status = 0;
done:
    teardown(&sender);
    if (status < 0)
        free(sender.result.windows);
    return status;
}

void sender_result_done(struct sender_result *result)
{
    free(result->windows);
    result->windows = NULL;
}
