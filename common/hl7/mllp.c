/* The MLLP reader. It owns the bytes of one body that is not complete yet, growing as they arrive,
 * never past max_frame; it waits for nothing; it fails for good on a body that is too large and on
 * too much junk.
 *
 *                 ┌── other: junk, counted          ┌── VT: starts anew
 *                 ▼                                 ▼
 *            ┌─────────┐            VT          ┌──────┐  past max_frame
 *     ──────▶│ between │───────────────────────▶│ body │─────────────────▶ spent: large
 *            └─────────┘                        └──────┘
 *              ▲  ▲  └──▶ spent: junk          VT ▲  │ FS: a frame
 *              │  │                               │  ▼
 *              │  │ LF, other                 ┌───────┐
 *              │  └───────────────────────────│ ended │
 *              │                              └───────┘
 *              │ LF, other                        │ CR
 *         ┌──────────┐                            │
 *         │ ended cr │◀───────────────────────────┘
 *         └──────────┘──▶ VT: body
 *
 *     state      VT       FS              CR               LF          other
 *     between    → body   junk            junk             junk        junk; too much: → spent
 *     body       → body   → ended, frame  taken            taken       taken; too many: → spent
 *     ended      → body   → between, junk → ended cr       → between   → between, junk
 *     ended cr   → body   → between, junk → between, junk  → between   → between, junk
 *     spent      nothing leaves it: the same event again
 *
 * A frame ends at its FS, not at the CR after it: a peer that leaves the CR out would wait for an
 * answer for ever. CR, LF or CRLF after FS are part of the framing, not junk. */
#include "hl7/mllp.h"

#include "base/state.h"

/* What is kept of the memory for bodies once a larger one is gone. */
#define HELD_KEEP (64u * 1024u)

static const char *const words[MLLP_STATE_COUNT] = {
    [MLLP_BETWEEN] = "between",   [MLLP_BODY] = "body",         [MLLP_ENDED] = "ended",
    [MLLP_ENDED_CR] = "ended cr", [MLLP_SPENT_LARGE] = "large", [MLLP_SPENT_JUNK] = "junk",
};

static const uint32_t moves[MLLP_STATE_COUNT] = {
    [MLLP_BETWEEN] = STATE_BIT(MLLP_BODY) | STATE_BIT(MLLP_SPENT_JUNK),
    [MLLP_BODY] = STATE_BIT(MLLP_ENDED) | STATE_BIT(MLLP_SPENT_LARGE),
    [MLLP_ENDED] = STATE_BIT(MLLP_BODY) | STATE_BIT(MLLP_ENDED_CR) | STATE_BIT(MLLP_BETWEEN),
    [MLLP_ENDED_CR] = STATE_BIT(MLLP_BODY) | STATE_BIT(MLLP_BETWEEN),
};

static const struct state_table table = {"mllp reader", words, moves, MLLP_STATE_COUNT};

static void move_to(struct mllp_reader *reader, enum mllp_state state)
{
    state_move(&table, &reader->state, state);
}

void mllp_reader_init(struct mllp_reader *reader, size_t max_frame)
{
    *reader = (struct mllp_reader){.state = MLLP_BETWEEN, .max_frame = max_frame};
    buffer_init(&reader->held, max_frame);
}

void mllp_reader_done(struct mllp_reader *reader)
{
    buffer_done(&reader->held);
    reader->frame = slice_of(NULL, 0);
}

bool mllp_reader_has_partial(const struct mllp_reader *reader)
{
    return reader->state == MLLP_BODY;
}

struct slice mllp_reader_partial(const struct mllp_reader *reader)
{
    return mllp_reader_has_partial(reader) ? buffer_slice(&reader->held) : slice_of(NULL, 0);
}

size_t mllp_reader_held(const struct mllp_reader *reader)
{
    return reader->held.capacity;
}

static void empty_held(struct mllp_reader *reader)
{
    if (reader->held.capacity > HELD_KEEP)
        buffer_done(&reader->held);
    buffer_clear(&reader->held);
}

void mllp_reader_release(struct mllp_reader *reader)
{
    if (reader->state != MLLP_SPENT_LARGE)
        reader->frame = slice_of(NULL, 0);
    if (reader->held_given) {
        empty_held(reader);
        reader->held_given = false;
    }
}

void mllp_reader_forget(struct mllp_reader *reader)
{
    mllp_reader_release(reader);
    if (reader->state != MLLP_SPENT_LARGE && reader->held.len == 0)
        buffer_done(&reader->held);
}

void mllp_reader_limit(struct mllp_reader *reader, size_t max_frame)
{
    if (reader->state == MLLP_BODY || reader->state >= MLLP_SPENT_LARGE)
        return;
    mllp_reader_release(reader);
    reader->max_frame = max_frame;
    reader->held.max = max_frame;
}

/* Skips to the VT. */
static enum mllp_event feed_between(struct mllp_reader *reader, struct slice chunk, size_t *used)
{
    const char *start = memchr(chunk.ptr, MLLP_START, chunk.len);
    size_t junk = start ? (size_t)(start - chunk.ptr) : chunk.len;
    reader->junk_run += junk;
    reader->junk_count += junk;
    *used = start ? junk + 1 : junk;
    if (reader->junk_run > MLLP_JUNK_MAX) {
        *used = chunk.len;
        move_to(reader, MLLP_SPENT_JUNK);
        return MLLP_TOO_MUCH_JUNK;
    }
    if (start)
        move_to(reader, MLLP_BODY);
    return MLLP_NEED_MORE;
}

/* What follows a frame. */
static enum mllp_event feed_ended(struct mllp_reader *reader, struct slice chunk, size_t *used)
{
    char byte = chunk.ptr[0];
    if (byte == MLLP_START) {
        *used = 1;
        move_to(reader, MLLP_BODY);
    } else if (byte == MLLP_TRAILER && reader->state == MLLP_ENDED) {
        *used = 1;
        move_to(reader, MLLP_ENDED_CR);
    } else {
        *used = byte == '\n'; /* other bytes are junk, which is counted there */
        move_to(reader, MLLP_BETWEEN);
    }
    return MLLP_NEED_MORE;
}

/* Keeps `bytes` for later; false when the body is too large with them, and then what fits is kept.
 */
static bool hold(struct mllp_reader *reader, struct slice bytes)
{
    size_t room = reader->max_frame - reader->held.len;
    bool fits = bytes.len <= room;
    return buffer_try_append(&reader->held, bytes.ptr, fits ? bytes.len : room) && fits;
}

static enum mllp_event too_large(struct mllp_reader *reader)
{
    reader->frame = buffer_slice(&reader->held);
    move_to(reader, MLLP_SPENT_LARGE);
    return MLLP_TOO_LARGE;
}

/* Takes the body's bytes, up to its FS or the end of the chunk. Each byte is looked at twice at
 * most, whatever number of VTs there are. */
static enum mllp_event feed_body(struct mllp_reader *reader, struct slice chunk, size_t *used)
{
    const char *at = chunk.ptr, *fs = memchr(chunk.ptr, MLLP_END, chunk.len);
    const char *stop = fs ? fs : chunk.ptr + chunk.len, *vt;
    *used = chunk.len;
    while ((vt = memchr(at, MLLP_START, (size_t)(stop - at)))) {
        /* The lost beginning must not have been too large either, or the outcome would depend on
         * the chunks. */
        if ((size_t)(vt - at) > reader->max_frame - reader->held.len) {
            hold(reader, slice_of(at, (size_t)(vt - at)));
            return too_large(reader);
        }
        empty_held(reader);
        reader->restart_count++;
        at = vt + 1;
    }

    struct slice bytes = slice_of(at, (size_t)(stop - at));
    bool whole = fs && reader->held.len == 0 && bytes.len <= reader->max_frame;
    if (!whole && !hold(reader, bytes))
        return too_large(reader);
    if (!fs)
        return MLLP_NEED_MORE;
    *used = (size_t)(fs - chunk.ptr) + 1;
    reader->frame = whole ? bytes : buffer_slice(&reader->held);
    reader->held_given = !whole;
    reader->junk_run = 0;
    move_to(reader, MLLP_ENDED);
    return MLLP_FRAME;
}

enum mllp_event mllp_reader_feed(struct mllp_reader *reader, const char *data, size_t len,
                                 size_t *ret_used)
{
    mllp_reader_release(reader);
    size_t at = 0;
    enum mllp_event event = MLLP_NEED_MORE;
    while (at < len && event == MLLP_NEED_MORE) {
        struct slice chunk = slice_of(data + at, len - at);
        size_t used = 0;
        switch ((enum mllp_state)reader->state) {
        case MLLP_BETWEEN:
            event = feed_between(reader, chunk, &used);
            break;
        case MLLP_BODY:
            event = feed_body(reader, chunk, &used);
            break;
        case MLLP_ENDED:
        case MLLP_ENDED_CR:
            event = feed_ended(reader, chunk, &used);
            break;
        case MLLP_SPENT_LARGE:
            used = chunk.len;
            event = MLLP_TOO_LARGE;
            break;
        case MLLP_SPENT_JUNK:
            used = chunk.len;
            event = MLLP_TOO_MUCH_JUNK;
            break;
        case MLLP_STATE_COUNT:
            BUG_ON(true);
        }
        at += used;
    }
    *ret_used = at;
    return event;
}

bool mllp_frame_append(struct buffer *out, struct slice body)
{
    if (body.len > SIZE_MAX - MLLP_FRAMING_LEN ||
        !buffer_try_reserve(out, body.len + MLLP_FRAMING_LEN))
        return false;
    buffer_append_byte(out, MLLP_START);
    buffer_append(out, body.ptr, body.len);
    buffer_append_byte(out, MLLP_END);
    buffer_append_byte(out, MLLP_TRAILER);
    return true;
}
