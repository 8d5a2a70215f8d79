/* One peer, as its bytes arrive:
 *
 *   frame ──intake──▶ a pending acknowledgement in the peer's row ──answered, and at the head──▶ written
 *             │                      ▲
 *             └──original mode, sync: the message's end is awaited
 *
 * Answers leave in the order of the frames. A peer with many unanswered frames, or one that does not read its answers, is
 * not read from: it waits in its own buffers and disturbs nobody. A peer ends (ENDING) when it closed its half, sent
 * what cannot be framed, stood still in a frame, or we drain: what it is owed, application acknowledgements too, is answered first.
 *
 * Bytes of unfinished frames count in the intake's budget; the peer whose frame grows past it is refused. So do replies, until the peer
 * has read them; one for which there is no room is told in an acknowledgement of ours. */
#include "mllp_front.h"

#include "application_ack.h"
#include "base/clock.h"
#include "base/mem.h"
#include "hl7/ack.h"
#include "hl7/message.h"
#include "hl7/mllp.h"
#include "model/item_class.h"
#include "repeat_key.h"

#include <stdlib.h>

#define PEERS_MAX 10000u
#define WRITE_TIMEOUT_MS 30000
#define PARTIAL_MS                                                                                 \
    60000 /* an unfinished frame that does not grow for so long ends its connection */
#define WATCH_MS 1000
#define UNANSWERED_MAX 128u       /* frames of one peer in hand */
#define UNSENT_MAX (256u * 1024u) /* bytes of answers that a peer has not read */
#define APPLICATION_MAX 4096u /* messages of one peer whose application acknowledgement is due */
#define HEADER_MAX 16384u     /* of the request's MSH, kept for its acknowledgement */
#define DEFAULT_HEADER                                                                             \
    "MSH|^~\\&|||||||||P|2.5" /* for the acknowledgement of what has none of its own */
#define CONTENT_TYPE "application/hl7-v2"

struct mllp_peer {
    TAILQ_ENTRY(mllp_peer) link;
    struct mllp_front *front;
    struct stream *stream; /* NULL: gone */
    struct mllp_reader reader;
    size_t held;                       /* of its bytes, counted by the intake */
    size_t unread;                     /* of replies written to it, counted by the intake */
    int64_t progress_us;               /* monotonic: bytes came, or it was not read from */
    TAILQ_HEAD(, pending_ack) pending; /* in the order of their frames */
    unsigned pending_count;
    struct application_acks application; /* of enhanced mode, once the message has ended */
    uint64_t junk_counted;
    bool ending; /* nothing more is read */
    bool paused;
};

struct pending_ack {
    TAILQ_ENTRY(pending_ack) link;
    struct mllp_peer *peer;
    const struct item *item; /* as it was when the frame came */
    struct caller caller;    /* of one that awaits the end */
    struct uuid id;
    bool in_intake;                      /* its callback is still to come */
    bool waits;                          /* for the end, not only until it is durable */
    bool ready;                          /* the answer is there */
    int64_t until_us;                    /* monotonic: how long it waits */
    struct hl7_ack_mode mode;            /* that the request asks for */
    struct application_ack *application; /* what is to follow the answer; NULL: nothing */
    struct buffer answer;                /* framed; empty: nothing is to be sent */
    size_t held;                         /* of a reply's bytes, counted by the intake */
    size_t header_len;
    char header[]; /* the request's MSH */
};

#define pending_of_caller(caller_)                                                                 \
    ((struct pending_ack *)((char *)(caller_)-offsetof(struct pending_ack, caller)))

/* By its id: a reload may have changed or removed it. */
static const struct item *item_of(const struct mllp_front *front)
{
    return production_find(front->intake->production, slice_text(front->listener->item_id));
}

static void free_peer_when_done(struct mllp_peer *peer)
{
    if (peer->stream || peer->pending_count)
        return;
    TAILQ_REMOVE(&peer->front->peers, peer, link);
    free(peer);
}

static void update_reading(struct mllp_peer *peer)
{
    bool pause = peer->ending || peer->pending_count >= UNANSWERED_MAX ||
                 peer->application.count >= APPLICATION_MAX ||
                 stream_unsent(peer->stream) >= UNSENT_MAX;
    if (pause != peer->paused) {
        peer->paused = pause;
        peer->progress_us = clock_mono_us();
        stream_read_pause(peer->stream, pause);
    }
}

/* One that ends is closed once it is owed nothing any more. */
static void read_on_or_close(struct mllp_peer *peer)
{
    update_reading(peer);
    if (peer->ending && peer->pending_count == 0 && peer->application.count == 0)
        stream_close(peer->stream);
}

/* Nothing more is read from it; what there is of a frame was never acknowledged. */
static void end_reading(struct mllp_peer *peer)
{
    peer->ending = true;
    mllp_reader_done(&peer->reader);
    intake_hold(peer->front->intake, &peer->held, 0);
}

static void free_pending(struct pending_ack *pending)
{
    struct mllp_peer *peer = pending->peer;
    TAILQ_REMOVE(&peer->pending, pending, link);
    peer->pending_count--;
    intake_hold(peer->front->intake, &pending->held, 0);
    buffer_done(&pending->answer);
    item_release(pending->item);
    free(pending);
}

/* Writes what is ready at the head of the row. The peer may be freed. */
static void flush(struct mllp_peer *peer)
{
    struct pending_ack *pending;
    while ((pending = TAILQ_FIRST(&peer->pending)) && pending->ready && !pending->in_intake) {
        struct application_ack *application = pending->application;
        if (peer->stream && pending->answer.len) {
            stream_write(peer->stream, buffer_slice(&pending->answer));
            peer->unread += pending->held;
            pending->held = 0;
        }
        free_pending(pending);
        if (application)
            application_ack_release(application);
    }
    if (peer->stream)
        read_on_or_close(peer);
    free_peer_when_done(peer);
}

/* ---- acknowledgements ---- */

static void build_answer(struct pending_ack *pending, struct uuid id, const struct err *error)
{
    struct hl7_message request;
    struct err ignored;
    bool readable =
        hl7_parse(slice_of(pending->header, pending->header_len), &request, &ignored) == 0;
    if (!readable &&
        error->code ==
            ERR_NONE) /* what its item takes though it is no HL7: accepted all the same */
        readable = hl7_parse(SLICE_LITERAL(DEFAULT_HEADER), &request, &ignored) == 0;
    struct hl7_ack_mode mode = pending->mode;
    char control_id[HL7_ACK_CONTROL_ID_MAX + 1];
    ack_control_id(id, mode.enhanced ? 'C' : 'A', control_id);
    struct hl7_ack ack = {.code = mode.enhanced ? HL7_CA : HL7_AA,
                          .control_id = slice_text(control_id),
                          .wall_ms = clock_wall_ms()};
    if (error->code != ERR_NONE)
        hl7_ack_from_error(error, mode.enhanced, &ack);
    if (error->code == ERR_UNSUPPORTED) { /* to send it again would not help */
        ack.code = mode.enhanced ? HL7_CE : HL7_AE;
        ack.condition = HL7_UNSUPPORTED_TYPE;
    }
    if (!mode.enhanced || hl7_ack_wanted(mode.accept, ack.code)) {
        char bytes[HL7_ACK_MAX];
        struct buffer plain = {.data = bytes, .capacity = sizeof(bytes), .max = sizeof(bytes)};
        if (hl7_ack_append(readable ? &request : NULL, &ack, &plain))
            mllp_frame_append(&pending->answer, buffer_slice(&plain));
    }
    if (readable)
        hl7_done(&request);
    pending->ready = true;
}

/* The same with the correlation id, by which the sender's people can ask later. */
static void build_error(struct pending_ack *pending, enum error_code code, const char *text)
{
    char id[UUID_TEXT_LEN + 1];
    struct err error;
    uuid_format(pending->id, id);
    err_set(&error, code, "%.180s; correlation id %s", text, id);
    build_answer(pending, pending->id, &error);
}

/* ---- the ends of messages whose senders wait ---- */

/* NULL: the answer is the reply, framed; else why it cannot be. */
static const char *frame_reply(struct pending_ack *pending, struct slice reply)
{
    struct mllp_front *front = pending->peer->front;
    if (memchr(reply.ptr, MLLP_START, reply.len) || memchr(reply.ptr, MLLP_END, reply.len))
        return "it has completed, but its reply cannot be framed";
    if (reply.len > (size_t)front->listener->max_frame)
        return "it has completed, but its reply is too large";
    if (!intake_hold(front->intake, &pending->held, reply.len))
        return "it has completed, but there is no room for its reply";
    if (pending->answer.max < reply.len + MLLP_FRAMING_LEN)
        pending->answer.max = reply.len + MLLP_FRAMING_LEN;
    return mllp_frame_append(&pending->answer, reply)
               ? NULL
               : "it has completed, but there is no memory for its reply";
}

/* Any HL7 message is handed on as it is; what is none becomes an acknowledgement. */
static void build_completed(struct pending_ack *pending, const struct queue_reply *end)
{
    static const struct err none = {.code = ERR_NONE};
    struct slice reply = body_slice(end->body);
    bool hl7 = reply.len >= 3 && memcmp(reply.ptr, "MSH", 3) == 0;
    const char *wrong = end->left_out ? "it has completed, but its reply was not kept"
                        : hl7         ? frame_reply(pending, reply)
                                      : NULL;
    if (wrong)
        build_error(pending, ERR_REJECTED, wrong);
    else if (!hl7)
        build_answer(pending, pending->id, &none);
    pending->ready = true;
}

/* AE where sending it again as it is would not help, AR where it may (a repeat within duplicate_window is no second message). */
static void build_end(struct pending_ack *pending, const struct queue_reply *end)
{
    if (strcmp(end->status, "completed") == 0)
        build_completed(pending, end);
    else if (strcmp(end->status, "expired") == 0)
        build_error(pending, ERR_TIMEOUT, "it expired before it was started");
    else if (strcmp(end->status, "cancelled") == 0)
        build_error(pending, ERR_REJECTED, "it was cancelled");
    else
        build_error(pending, ERR_REJECTED, end->error ? end->error : "the handler failed");
}

static void on_ended(struct caller *caller, enum caller_outcome outcome,
                     const struct queue_reply *end)
{
    struct pending_ack *pending = pending_of_caller(caller);
    struct mllp_front *front = pending->peer->front;
    if (outcome != CALLER_ENDED && pending->in_intake)
        return; /* it is told when the intake has said whether there is a message, and which */
    switch (outcome) {
    case CALLER_ENDED:
        build_end(pending, end);
        break;
    case CALLER_LATE:
        callers_count_late(front->callers, pending->item);
        build_error(pending, ERR_TIMEOUT, "it has not ended within max_wait_time");
        break;
    case CALLER_STOPPED:
        build_error(pending, ERR_UNAVAILABLE, "this dispatcher stops");
        break;
    }
    flush(pending->peer);
}

static void wait_for_end(struct pending_ack *pending, enum caller_kind kind)
{
    struct mllp_front *front = pending->peer->front;
    int64_t left_ms = (pending->until_us - clock_mono_us()) / 1000;
    callers_add(front->callers, &pending->caller, pending->item, pending->id,
                left_ms > 0 ? left_ms : 0, kind, on_ended);
}

/* ---- the intake's answers ---- */

static void on_refused_later(struct pending_ack *pending, const struct err *error)
{
    callers_remove(pending->peer->front->callers, &pending->caller);
    if (pending->application)
        application_ack_refused(pending->application);
    pending->application = NULL;
    if (error->code == ERR_OUTCOME_UNKNOWN)
        build_error(pending, error->code, "not known to be durable within ack_timeout");
    else
        build_answer(pending, pending->id, error);
}

static void on_answered(void *arg, struct uuid id, bool repeats, const struct err *error)
{
    struct pending_ack *pending = arg;
    struct mllp_peer *peer = pending->peer;
    pending->in_intake = false;
    if (!peer->stream) {
        pending->ready = true;
    } else if (pending->ready) {
        /* it has ended already */
    } else if (error->code != ERR_NONE) {
        on_refused_later(pending, error);
    } else {
        pending->id = id;
        if (repeats && pending->application)
            application_ack_repeats(pending->application, id);
        if (!pending->waits) {
            build_answer(pending, id, error);
        } else if (repeats || !caller_waits(&pending->caller)) { /* or its time was up already */
            callers_remove(peer->front->callers, &pending->caller);
            wait_for_end(pending, CALLER_LOOKS);
        }
    }
    flush(peer);
}

/* `ret_key` may be NULL: it is not asked for. */
static struct pending_ack *add_pending(struct mllp_peer *peer, struct slice frame,
                                       struct repeat_key *ret_key)
{
    const struct mllp_listener *listener = peer->front->listener;
    struct hl7_message message;
    struct err ignored;
    struct slice header = slice_of(frame.ptr, frame.len < HEADER_MAX ? frame.len : HEADER_MAX);
    bool parsed = hl7_parse(header, &message, &ignored) == 0;
    header = parsed ? hl7_segment(&message, 0) : slice_of(NULL, 0);
    struct pending_ack *pending = mem_alloc(sizeof(*pending) + header.len);
    pending->peer = peer;
    pending->item = item_hold(item_of(peer->front));
    pending->header_len = header.len;
    if (header.len)
        memcpy(pending->header, header.ptr, header.len);
    buffer_init(&pending->answer, HL7_ACK_MAX + MLLP_FRAMING_LEN);
    TAILQ_INSERT_TAIL(&peer->pending, pending, link);
    peer->pending_count++;
    if (!parsed)
        return pending;
    pending->mode = hl7_ack_mode(&message);
    if (ret_key && pending->item && listener->duplicate_window_ms)
        *ret_key = repeat_key_mllp(pending->item, &message, body_of(frame.ptr, frame.len));
    hl7_done(&message);
    return pending;
}

/* ---- bytes of a peer ---- */

/* Nobody can wait for a reply without Redis. */
static int check_waiting(const struct pending_ack *pending, struct err *err)
{
    const struct mllp_front *front = pending->peer->front;
    if (!pending->waits || front->intake->queue_up)
        return 0;
    err_set(err, ERR_UNAVAILABLE, "Redis is away");
    intake_count_rejected(front->intake, pending->item, err->code);
    return -1;
}

static void refuse_removed(struct pending_ack *pending)
{
    struct err err;
    err_set(&err, ERR_NOT_FOUND, "the item was removed");
    intake_count_rejected(pending->peer->front->intake, NULL, err.code);
    build_answer(pending, uuid_new(clock_wall_ms()), &err);
}

static void take_frame(struct mllp_peer *peer, struct slice frame)
{
    const struct mllp_listener *listener = peer->front->listener;
    struct repeat_key key = {.key = UUID_NONE};
    struct pending_ack *pending = add_pending(peer, frame, &key);
    const struct item *item = pending->item;
    if (!item) {
        refuse_removed(pending);
        return;
    }
    bool sync = item_senders_wait(item);
    pending->waits = sync && !pending->mode.enhanced;
    pending->until_us = clock_mono_us() + item->blocking.max_wait_time_ms * 1000;
    bool application = pending->mode.enhanced && pending->mode.application != HL7_NE;
    struct intake_request request = {
        .item = item,
        .body = body_of(frame.ptr, frame.len),
        .content_type = SLICE_LITERAL(CONTENT_TYPE),
        .priority = INTAKE_PRIORITY_BY_ITEM,
        .wait = pending->waits || application,
        .dedup_key = key.key,
        .dedup_fingerprint = key.fingerprint,
        .dedup_window_ms = listener->duplicate_window_ms,
        .answered = on_answered,
        .arg = pending,
    };
    struct err err;
    if (check_waiting(pending, &err) ||
        intake_accept(peer->front->intake, &request, &pending->id, &err)) {
        if (frame.len == 0)
            err.code = ERR_NOT_HL7; /* nothing to correct: there is no message */
        build_answer(pending, uuid_new(clock_wall_ms()), &err);
        return;
    }
    pending->in_intake = true;
    if (pending->waits)
        wait_for_end(pending, CALLER_TOLD);
    else if (application)
        pending->application = application_acks_add(&peer->application, item, pending->id,
                                                    slice_of(pending->header, pending->header_len),
                                                    pending->mode.application);
}

/* Where the frame ends is not awaited: its connection ends. */
static void refuse_frame(struct mllp_peer *peer, struct slice start, const struct err *err)
{
    struct pending_ack *pending = add_pending(peer, start, NULL);
    intake_count_rejected(peer->front->intake, pending->item, err->code);
    build_answer(pending, uuid_new(clock_wall_ms()), err);
    peer->ending = true;
}

static void refuse_large(struct mllp_peer *peer)
{
    struct err err;
    err_set(&err, ERR_TOO_LARGE, "the frame is larger than %lld bytes",
            (long long)peer->reader.max_frame);
    refuse_frame(peer, peer->reader.frame, &err);
}

/* The reader's memory, as it is now, is in the intake's budget. */
static void hold_partial(struct mllp_peer *peer)
{
    struct err err = {.code = ERR_UNAVAILABLE, .text = "too many bytes in hand"};
    if (!intake_hold(peer->front->intake, &peer->held, mllp_reader_held(&peer->reader)))
        refuse_frame(peer, mllp_reader_partial(&peer->reader), &err);
}

static void on_bytes(void *data, struct slice bytes)
{
    struct mllp_peer *peer = data;
    peer->progress_us = clock_mono_us();
    while (bytes.len && !peer->ending) {
        size_t used = 0;
        mllp_reader_limit(&peer->reader, (size_t)peer->front->listener->max_frame);
        enum mllp_event event = mllp_reader_feed(&peer->reader, bytes.ptr, bytes.len, &used);
        bytes = slice_of(bytes.ptr + used, bytes.len - used);
        switch (event) {
        case MLLP_NEED_MORE:
            break;
        case MLLP_FRAME:
            take_frame(peer, peer->reader.frame);
            break;
        case MLLP_TOO_LARGE:
            refuse_large(peer);
            break;
        case MLLP_TOO_MUCH_JUNK:
            peer->ending = true;
            break;
        }
    }
    metric_add(peer->front->junk, (int64_t)(peer->reader.junk_count - peer->junk_counted));
    peer->junk_counted = peer->reader.junk_count;
    mllp_reader_forget(&peer->reader); /* an idle peer holds no frame's memory */
    if (!peer->ending)
        hold_partial(peer);
    if (peer->ending)
        end_reading(peer);
    flush(peer);
}

static void on_end(void *data)
{
    struct mllp_peer *peer = data;
    end_reading(peer);
    flush(peer);
}

static void on_drained(void *data)
{
    struct mllp_peer *peer = data;
    intake_hold(peer->front->intake, &peer->unread, 0);
    update_reading(peer);
}

static void on_gone(void *data)
{
    struct mllp_peer *peer = data;
    peer->stream = NULL;
    end_reading(peer);
    intake_hold(peer->front->intake, &peer->unread, 0);
    application_acks_drop(&peer->application);
    struct pending_ack *pending, *next;
    for (pending = TAILQ_FIRST(&peer->pending); pending; pending = next) {
        next = TAILQ_NEXT(pending, link);
        pending->application = NULL;
        callers_remove(peer->front->callers, &pending->caller);
        if (!pending->in_intake)
            free_pending(pending);
    }
    free_peer_when_done(peer);
}

static bool write_application_ack(void *arg, struct slice frame)
{
    struct mllp_peer *peer = arg;
    if (frame.len > HL7_ACK_MAX && /* a small one is always written */
        !intake_hold(peer->front->intake, &peer->unread, peer->unread + frame.len))
        return false;
    stream_write(peer->stream, frame);
    return true;
}

static void on_application_over(void *arg)
{
    read_on_or_close(arg);
}

static void on_open(void *arg, struct stream *stream)
{
    struct mllp_front *front = arg;
    struct mllp_peer *peer = mem_alloc(sizeof(*peer));
    peer->front = front;
    peer->stream = stream;
    peer->progress_us = clock_mono_us();
    TAILQ_INIT(&peer->pending);
    application_acks_init(&peer->application, front->callers, write_application_ack,
                          on_application_over, peer);
    mllp_reader_init(&peer->reader, (size_t)front->listener->max_frame);
    TAILQ_INSERT_TAIL(&front->peers, peer, link);
    stream_set_data(stream, peer);
}

static void on_refused(void *arg)
{
    struct mllp_front *front = arg;
    intake_count_rejected(front->intake, NULL, ERR_UNAVAILABLE);
}

/* Ends what stands still in the midst of a frame. A peer that we do not read from cannot go on. */
static void on_watch(void *arg)
{
    struct mllp_front *front = arg;
    int64_t now = clock_mono_us();
    struct mllp_peer *peer, *next;
    for (peer = TAILQ_FIRST(&front->peers); peer; peer = next) {
        next = TAILQ_NEXT(peer, link);
        if (peer->ending || peer->paused || !mllp_reader_has_partial(&peer->reader) ||
            now - peer->progress_us < front->partial_ms * 1000)
            continue;
        end_reading(peer);
        flush(peer);
    }
    loop_timer_set(&front->watch, WATCH_MS);
}

/* ---- life ---- */

void mllp_front_change(struct mllp_front *front, const struct mllp_listener *listener)
{
    struct metric_label label = {"item", listener->item_id};
    front->listener = listener;
    front->junk = metrics_counter(front->metrics, "hie_mllp_junk_bytes_total",
                                  "Bytes between MLLP frames that were skipped", &label, 1);
}

int mllp_front_start(struct mllp_front *front, struct loop *loop,
                     const struct mllp_listener *listener, struct intake *intake,
                     struct callers *callers, struct metrics *metrics, struct err *err)
{
    *front = (struct mllp_front){
        .intake = intake, .callers = callers, .metrics = metrics, .partial_ms = PARTIAL_MS};
    TAILQ_INIT(&front->peers);
    mllp_front_change(front, listener);
    struct stream_server_options options = {
        .listen = listener->listen,
        .max_connections = PEERS_MAX,
        .write_timeout_ms = WRITE_TIMEOUT_MS,
        .on_open = on_open,
        .on_bytes = on_bytes,
        .on_end = on_end,
        .on_gone = on_gone,
        .on_drained = on_drained,
        .on_refused = on_refused,
        .arg = front,
    };
    if (stream_server_start(loop, &options, &front->server, err))
        return -1;
    loop_timer_init(&front->watch, loop, on_watch, front);
    loop_timer_set(&front->watch, WATCH_MS);
    return 0;
}

void mllp_front_drain(struct mllp_front *front)
{
    stream_server_close(front->server);
    struct mllp_peer *peer, *next;
    for (peer = TAILQ_FIRST(&front->peers); peer; peer = next) {
        next = TAILQ_NEXT(peer, link);
        end_reading(peer);
        flush(peer);
    }
}

bool mllp_front_idle(const struct mllp_front *front)
{
    return stream_server_connections(front->server) == 0 && TAILQ_EMPTY(&front->peers);
}

void mllp_front_free(struct mllp_front *front)
{
    struct mllp_peer *peer;
    struct pending_ack *pending;
    loop_timer_done(&front->watch);
    front->server = stream_server_free(front->server);
    while ((peer = TAILQ_FIRST(&front->peers))) { /* those with something in the intake */
        while ((pending = TAILQ_FIRST(&peer->pending)))
            free_pending(pending);
        free_peer_when_done(peer);
    }
}
