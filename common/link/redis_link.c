/* Owns a socket, its output buffer and the list of calls that wait for replies; waits for the name server, the connect, replies
 * and its own timer; fails by going down, completing every call and connecting anew.
 *
 *            backoff over           connected            all setup replies well
 *   WAITING ─────────────▶ CONNECTING ──────▶ SETUP ───────────────────────────▶ UP
 *      ▲                       │                │  │                               │
 *      └───────────────────────┴────────────────┘  └─ refused for good ─▶ RESTING  │
 *      └──────────── broken, silent for too long, reset ───────────────────────────┘
 */
#include "link/redis_link.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/state.h"
#include "base/uuid.h"
#include "link/connector.h"
#include "link/redis_url.h"

#include <errno.h>
#include <event2/event.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define OUTPUT_MAX (64u << 20) /* unwritten bytes; past it calls are refused */
#define OUTPUT_KEEP (1u << 20) /* memory that an idle link keeps */
#define INPUT_MAX (1u << 30)   /* of a reply that is not complete yet, where the options leave it */
#define READ_SIZE (64u * 1024u)
#define READS_A_TURN 16 /* then others have their turn */
#define CONNECT_MS 5000 /* name, connect and setup */
#define SILENCE_MS 5000 /* an answer is due and no byte comes */
#define TICK_MS 1000
#define IDLE_PING_MS 5000 /* nothing went to and fro: is anybody there? */
#define BACKOFF_FIRST_MS 50
#define BACKOFF_MAX_MS 2000
#define STEADY_MS 2000 /* up for so long: the next backoff begins anew */
#define SETUP_CALLS 4

enum state { WAITING, CONNECTING, SETUP, UP, RESTING };

static const char *const state_words[] = {"waiting", "connecting", "setup", "up", "resting"};
static const uint32_t state_moves[] = {
    [WAITING] = STATE_BIT(CONNECTING) | STATE_BIT(RESTING),
    [CONNECTING] = STATE_BIT(SETUP) | STATE_BIT(WAITING),
    [SETUP] = STATE_BIT(UP) | STATE_BIT(WAITING) | STATE_BIT(RESTING),
    [UP] = STATE_BIT(WAITING),
    [RESTING] = 0,
};
static const struct state_table states = {"redis_link", state_words, state_moves, 5};

struct setup_call {
    struct redis_call call;
    struct redis_link *link;
    bool may_refuse; /* a plain error means wrong for good: AUTH and SELECT */
    bool last;
};

struct redis_link {
    unsigned state; /* enum state */
    struct loop *loop;
    struct redis_link_options options;
    struct redis_url url;
    struct err url_error; /* ERR_NONE: the URL is good */
    char *channel;

    struct loop_timer timer; /* WAITING: backoff; CONNECTING, SETUP: deadline; UP: tick */
    unsigned failures;       /* in a row: sets the backoff */
    int64_t up_since_ms, heard_ms, asked_ms;
    bool ping_asked; /* of a subscribed link: its answer is a message */

    struct connector *connector; /* CONNECTING */
    int fd;                      /* SETUP, UP; else -1 */
    struct event *readable, *writable;

    struct redisReader *reader;
    struct redis_reply *reply;                /* what the reader builds into */
    STAILQ_HEAD(call_list, redis_call) calls; /* written or to be written, in order, unanswered */
    struct buffer out;
    size_t out_done;   /* bytes of out that the kernel has */
    uint64_t out_base; /* place of out's first byte in all that this link was given */
    size_t opened_at;  /* out.len at redis_link_open */
    struct loop_task flush;
    bool in_callback;
    bool broken;    /* goes down as soon as it is not inside a callback */
    bool told_down; /* since it was last up */
    bool fatal;     /* broken, and not to be tried again */
    struct err broken_error;

    struct setup_call setup[SETUP_CALLS];
    struct redis_call ping;
};

/* ---- commands ---- */

/* "*3\r\n", "$12\r\n" */
static void put_head(struct buffer *out, char kind, size_t number)
{
    char digits[24];
    size_t at = sizeof(digits);
    digits[--at] = '\n';
    digits[--at] = '\r';
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    digits[--at] = kind;
    buffer_append(out, digits + at, sizeof(digits) - at);
}

void redis_put_array(struct buffer *out, size_t count)
{
    put_head(out, '*', count);
}

void redis_put_bulk(struct buffer *out, struct slice text)
{
    put_head(out, '$', text.len);
    buffer_append(out, text.ptr, text.len);
    buffer_append(out, "\r\n", 2);
}

void redis_put_text(struct buffer *out, const char *text)
{
    redis_put_bulk(out, slice_text(text));
}

void redis_put_int(struct buffer *out, int64_t number)
{
    char text[24];
    int len = snprintf(text, sizeof(text), "%lld", (long long)number);
    redis_put_bulk(out, slice_of(text, (size_t)len));
}

/* Drops what the kernel has, so that the buffer holds unwritten bytes only. */
static void drop_written(struct redis_link *link)
{
    link->out_base += link->out_done;
    buffer_consume(&link->out, link->out_done);
    link->out_done = 0;
}

static struct buffer *open_command(struct redis_link *link, size_t size)
{
    if (link->out_done > 0 && link->out_done >= link->out.len / 2)
        drop_written(link); /* moves no more than it drops */
    if (!buffer_try_reserve(&link->out, size))
        return NULL;
    link->opened_at = link->out.len;
    return &link->out;
}

struct buffer *redis_link_open(struct redis_link *link, size_t size)
{
    return link->state == UP && !link->channel && !link->broken ? open_command(link, size) : NULL;
}

void redis_link_send(struct redis_link *link, struct redis_call *call)
{
    BUG_ON(link->out.len == link->opened_at);
    if (STAILQ_EMPTY(&link->calls))
        link->asked_ms = clock_mono_ms();
    call->begins = link->out_base + link->opened_at;
    STAILQ_INSERT_TAIL(&link->calls, call, link);
    loop_task_set(&link->flush);
}

/* ---- going down ---- */

static void close_socket(struct redis_link *link)
{
    link->connector = connector_cancel(link->connector);
    if (link->readable)
        event_free(link->readable);
    if (link->writable)
        event_free(link->writable);
    link->readable = link->writable = NULL;
    if (link->fd >= 0)
        close(link->fd);
    link->fd = -1;
    if (link->reader)
        redisReaderFree(link->reader);
    link->reader = NULL;
    if (link->reply)
        redis_reply_reset(link->reply); /* it may be half built */
}

/* Completes the calls of a connection that is gone. Their callbacks find the link down. */
static void end_calls(struct redis_link *link, const struct err *why)
{
    struct call_list calls = STAILQ_HEAD_INITIALIZER(calls);
    STAILQ_CONCAT(&calls, &link->calls);
    uint64_t written = link->out_base + link->out_done;
    link->out_base += link->out.len;
    buffer_clear(&link->out);
    link->out_done = 0;
    struct err unsent = *why, unknown = *why;
    unsent.code = ERR_UNAVAILABLE;
    unknown.code = ERR_OUTCOME_UNKNOWN;
    struct redis_call *call;
    while ((call = STAILQ_FIRST(&calls))) {
        STAILQ_REMOVE_HEAD(&calls, link);
        call->done(call, call->begins >= written ? &unsent : &unknown, NULL);
    }
}

static int64_t backoff_ms(struct redis_link *link)
{
    int64_t longest = BACKOFF_MAX_MS;
    if (link->failures < 6 && (BACKOFF_FIRST_MS << link->failures) < BACKOFF_MAX_MS)
        longest = BACKOFF_FIRST_MS << link->failures;
    link->failures++;
    return longest / 2 + (int64_t)random_below((uint64_t)longest / 2 + 1);
}

static void go_down(struct redis_link *link, const struct err *err)
{
    const struct err why = *err; /* it may be what we clear */
    bool was_up = link->state == UP;
    if (was_up && clock_mono_ms() - link->up_since_ms >= STEADY_MS)
        link->failures = 0;
    link->broken = false;
    close_socket(link);
    state_move(&states, &link->state, WAITING);
    loop_timer_set(&link->timer, backoff_ms(link));
    end_calls(link, &why);
    if (was_up || !link->told_down) {
        link->told_down = true;
        link->options.on_down(link->options.arg, &why);
    }
}

static void give_up(struct redis_link *link, const struct err *err)
{
    const struct err why = *err;
    close_socket(link);
    state_move(&states, &link->state, RESTING);
    loop_timer_cancel(&link->timer);
    end_calls(link, &why);
    link->options.on_fatal(link->options.arg, &why);
}

void redis_link_reset(struct redis_link *link, const struct err *err)
{
    if (link->state != UP || link->broken)
        return;
    link->broken = true;
    link->broken_error = *err;
    loop_task_set(&link->flush); /* it goes down from there, or after the replies at hand */
}

/* ---- writing ---- */

static void flush(void *arg)
{
    struct redis_link *link = arg;
    if (link->broken) {
        go_down(link, &link->broken_error);
        return;
    }
    if (link->state != UP && link->state != SETUP)
        return;
    while (link->out_done < link->out.len) {
        ssize_t wrote = send(link->fd, link->out.data + link->out_done,
                             link->out.len - link->out_done, MSG_NOSIGNAL);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            event_add(link->writable, NULL);
            return;
        }
        if (wrote < 0) {
            struct err err;
            err_set(&err, ERR_UNAVAILABLE, "redis: write: %s", strerror(errno));
            go_down(link, &err);
            return;
        }
        link->out_done += (size_t)wrote;
    }
    drop_written(link);
    if (link->out.capacity > OUTPUT_KEEP)
        buffer_done(&link->out);
}

/* ---- reading ---- */

static void on_push(struct redis_link *link, const struct redis_value *push)
{
    const struct redis_value *kind = redis_item(push, 0), *message = redis_item(push, 2);
    if (kind->kind == REDIS_KIND_TEXT && slice_is(kind->text, "message") &&
        message->kind == REDIS_KIND_TEXT && link->state == UP)
        link->options.on_message(link->options.arg, message->text);
}

/* Gives the reply at hand to whom it belongs. False: there is nobody. */
static bool deliver(struct redis_link *link)
{
    struct redis_call *call = STAILQ_FIRST(&link->calls);
    struct redis_reply *reply = link->reply;
    if (!call && !link->channel)
        return false;
    if (redis_error_is(&reply->root, "READONLY")) {
        struct err err;
        err_set(&err, ERR_UNAVAILABLE, "redis answered READONLY: it is a replica now");
        redis_link_reset(link, &err);
    }
    bool kept = false;
    reply->kept = &kept;
    link->in_callback = true;
    if (call) {
        const struct err none = {.code = ERR_NONE};
        STAILQ_REMOVE_HEAD(&link->calls, link);
        call->done(call, &none, reply);
    } else {
        on_push(link, &reply->root);
    }
    link->in_callback = false;
    if (kept)
        link->reply = NULL;
    else
        redis_reply_reset(reply);
    return true;
}

/* Every reply that is complete by now. 0, or -1 with why the connection is of no use any more. */
static int take_replies(struct redis_link *link, struct err *err)
{
    while (!link->broken) {
        void *complete = NULL;
        if (!link->reply && !(link->reply = redis_reply_new()))
            return err_set(err, ERR_UNAVAILABLE, "redis: no memory for a reply");
        if (redisReaderGetReply(link->reader, &complete) != REDIS_OK)
            return err_set(err, ERR_UNAVAILABLE, "redis: a reply that cannot be read");
        if (!complete)
            return 0;
        if (!deliver(link))
            return err_set(err, ERR_UNAVAILABLE, "redis: a reply that nobody asked for");
    }
    *err = link->broken_error;
    return -1;
}

static int take_bytes(struct redis_link *link, const char *bytes, size_t len, struct err *err)
{
    link->heard_ms = clock_mono_ms();
    link->ping_asked = false;
    size_t most = link->options.input_max ? link->options.input_max : INPUT_MAX;
    if (redisReaderFeed(link->reader, bytes, len) != REDIS_OK || link->reader->len > most)
        return err_set(err, ERR_UNAVAILABLE, "redis: a reply that is too large");
    return take_replies(link, err);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct redis_link *link = arg;
    char bytes[READ_SIZE];
    struct err err;
    ssize_t got = sizeof(bytes);
    (void)what;
    for (int i = 0; i < READS_A_TURN && got == sizeof(bytes); i++) {
        got = recv(fd, bytes, sizeof(bytes), 0);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
            return; /* the event stays: it comes again when there is something */
        int taken = -1;
        if (got > 0)
            taken = take_bytes(link, bytes, (size_t)got, &err);
        else if (got == 0)
            err_set(&err, ERR_UNAVAILABLE, "redis: connection closed");
        else
            err_set(&err, ERR_UNAVAILABLE, "redis: read: %s", strerror(errno));
        if (taken != 0) {
            if (link->fatal)
                give_up(link, &err);
            else
                go_down(link, &err);
            return;
        }
    }
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    flush(arg);
}

/* ---- connecting and setup ---- */

static void rise(struct redis_link *link)
{
    state_move(&states, &link->state, UP);
    link->up_since_ms = link->heard_ms;
    loop_timer_set(&link->timer, TICK_MS);
    link->told_down = false;
    link->options.on_up(link->options.arg);
}

/* What an error reply during the setup means. A plain "ERR" to AUTH or SELECT: no password is set, no such database. But
 * a server that is full or still loading says so in reply to whatever came first. */
static bool is_final(const struct setup_call *setup, const struct redis_value *reply)
{
    return redis_error_is(reply, "WRONGPASS") || redis_error_is(reply, "NOAUTH") ||
           redis_error_is(reply, "NOPERM") ||
           (setup->may_refuse && redis_error_is(reply, "ERR ") &&
            !redis_error_is(reply, "ERR max number of clients"));
}

static void on_setup(struct redis_call *call, const struct err *err, struct redis_reply *reply)
{
    struct setup_call *setup = (struct setup_call *)call;
    struct redis_link *link = setup->link;
    if (err->code != ERR_NONE || link->broken)
        return;
    if (reply->root.kind == REDIS_KIND_ERROR) {
        redis_error_read(&reply->root, &link->broken_error);
        link->broken = true;
        link->fatal = is_final(setup, &reply->root);
        if (link->fatal)
            link->broken_error.code = ERR_AUTH;
    } else if (setup->last) {
        rise(link);
    }
}

static void send_setup(struct redis_link *link, size_t index, bool may_refuse,
                       const char *const *words, size_t count)
{
    struct buffer *out = open_command(link, 4096);
    BUG_ON(!out);
    redis_put_array(out, count);
    for (size_t i = 0; i < count; i++)
        redis_put_text(out, words[i]);
    link->setup[index] =
        (struct setup_call){.call = {.done = on_setup}, .link = link, .may_refuse = may_refuse};
    redis_link_send(link, &link->setup[index].call);
}

/* AUTH and SELECT where the URL asks for them; PING shows whether we may do anything; SUBSCRIBE. */
static void begin_setup(struct redis_link *link)
{
    const struct redis_url *url = &link->url;
    size_t count = 0;
    if (url->user[0])
        send_setup(link, count++, true, (const char *[]){"AUTH", url->user, url->password}, 3);
    else if (url->password[0])
        send_setup(link, count++, true, (const char *[]){"AUTH", url->password}, 2);
    if (strcmp(url->db, "0") != 0)
        send_setup(link, count++, true, (const char *[]){"SELECT", url->db}, 2);
    send_setup(link, count++, false, (const char *[]){"PING"}, 1);
    if (link->channel)
        send_setup(link, count++, false, (const char *[]){"SUBSCRIBE", link->channel}, 2);
    link->setup[count - 1].last = true;
}

static void on_connected(void *arg, int fd, const struct err *err)
{
    struct redis_link *link = arg;
    struct err why;
    link->connector = NULL;
    if (fd < 0) {
        err_set(&why, ERR_UNAVAILABLE, "redis: %.200s", err->text);
        go_down(link, &why);
        return;
    }
    link->fd = fd;
    link->reader = redis_reader_new(&link->reply);
    link->readable = event_new(loop_base(link->loop), fd, EV_READ | EV_PERSIST, on_readable, link);
    link->writable = event_new(loop_base(link->loop), fd, EV_WRITE, on_writable, link);
    if (!link->reader || !link->readable || !link->writable ||
        event_add(link->readable, NULL) != 0) {
        err_set(&why, ERR_UNAVAILABLE, "redis: no memory for a connection");
        go_down(link, &why);
        return;
    }
    state_move(&states, &link->state, SETUP);
    begin_setup(link);
}

/* ---- time ---- */

static void on_pong(struct redis_call *call, const struct err *err, struct redis_reply *reply)
{
    (void)call; /* the bytes counted when they came */
    (void)err;
    (void)reply;
}

static void ask_ping(struct redis_link *link)
{
    struct buffer *out = open_command(link, 64);
    if (!out)
        return; /* so much waits to be written that silence will tell */
    redis_put_array(out, 1);
    redis_put_text(out, "PING");
    if (!link->channel) {
        link->ping = (struct redis_call){.done = on_pong};
        redis_link_send(link, &link->ping);
        return;
    }
    link->asked_ms = clock_mono_ms(); /* its answer comes among the messages */
    link->ping_asked = true;
    loop_task_set(&link->flush);
}

static void tick(struct redis_link *link)
{
    int64_t now = clock_mono_ms();
    bool asked = link->ping_asked || !STAILQ_EMPTY(&link->calls);
    int64_t since = link->asked_ms > link->heard_ms ? link->asked_ms : link->heard_ms;
    if (asked && now - since >= SILENCE_MS) {
        struct err err;
        err_set(&err, ERR_UNAVAILABLE, "redis: no answer for %d ms", SILENCE_MS);
        go_down(link, &err);
        return;
    }
    if (!asked && now - link->heard_ms >= IDLE_PING_MS)
        ask_ping(link);
    loop_timer_set(&link->timer, TICK_MS);
}

static void on_timer(void *arg)
{
    struct redis_link *link = arg;
    struct err err;
    switch ((enum state)link->state) {
    case WAITING:
        if (link->url_error.code != ERR_NONE) {
            give_up(link, &link->url_error);
            break;
        }
        state_move(&states, &link->state, CONNECTING);
        loop_timer_set(&link->timer, CONNECT_MS);
        link->connector =
            connector_start(link->loop, link->url.host, link->url.port, on_connected, link);
        break;
    case CONNECTING:
    case SETUP:
        err_set(&err, ERR_UNAVAILABLE, "redis: not connected within %d ms", CONNECT_MS);
        go_down(link, &err);
        break;
    case UP:
        tick(link);
        break;
    case RESTING:
        break;
    }
}

/* ---- life ---- */

struct redis_link *redis_link_new(struct loop *loop, const struct redis_link_options *options)
{
    struct redis_link *link = mem_alloc(sizeof(*link));
    link->loop = loop;
    link->options = *options;
    link->options.url = link->options.channel = NULL; /* the caller's */
    link->channel = mem_strdup(options->channel);
    link->fd = -1;
    STAILQ_INIT(&link->calls);
    buffer_init(&link->out, OUTPUT_MAX);
    loop_timer_init(&link->timer, loop, on_timer, link);
    loop_task_init(&link->flush, loop, flush, link);
    redis_url_parse(options->url, &link->url, &link->url_error);
    loop_timer_set(&link->timer, 0);
    return link;
}

struct redis_link *redis_link_free(struct redis_link *link)
{
    if (!link)
        return NULL;
    BUG_ON(link->in_callback);
    const struct err err = {.code = ERR_UNAVAILABLE, .text = "redis: the link was closed"};
    close_socket(link);
    link->state = RESTING; /* the end of the machine: from any state, and calls find it down */
    end_calls(link, &err);
    redis_reply_free(link->reply);
    buffer_done(&link->out);
    loop_timer_done(&link->timer);
    loop_task_done(&link->flush);
    free(link->channel);
    explicit_bzero(&link->url, sizeof(link->url));
    free(link);
    return NULL;
}

bool redis_link_is_up(const struct redis_link *link)
{
    return link->state == UP && !link->broken;
}
