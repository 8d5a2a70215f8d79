/* Any bytes as a connection: what comes out is the same in one chunk, byte by byte and in chunks of mixed sizes, and
 * what a machine that looks at one byte after the other says. The first two bytes choose the maximum and the cuts. */
#include "base/bug.h"
#include "hl7/mllp.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
    struct buffer log; /* 'F', the length in two bytes and the body; 'L', 'J' */
    uint64_t restarts;
    bool partial;
};

static void log_frame(struct buffer *log, struct slice body)
{
    buffer_append_byte(log, 'F');
    buffer_append_uint(log, body.len);
    buffer_append_byte(log, ':');
    buffer_append(log, body.ptr, body.len);
}

static void feed(struct mllp_reader *reader, struct slice bytes, struct buffer *log,
                 enum mllp_event *event)
{
    /* A copy of just that size, freed at once: the reader must not keep the chunk. */
    char *chunk = malloc(bytes.len ? bytes.len : 1);
    BUG_ON(!chunk);
    if (bytes.len)
        memcpy(chunk, bytes.ptr, bytes.len);
    for (size_t at = 0, used; at < bytes.len && *event <= MLLP_FRAME; at += used) {
        *event = mllp_reader_feed(reader, chunk + at, bytes.len - at, &used);
        BUG_ON(used == 0 || used > bytes.len - at);
        BUG_ON(reader->held.capacity > reader->max_frame || reader->held.len > reader->max_frame);
        if (*event == MLLP_FRAME)
            log_frame(log, reader->frame);
        else if (*event == MLLP_TOO_LARGE)
            buffer_append_byte(log, 'L');
        else if (*event == MLLP_TOO_MUCH_JUNK)
            buffer_append_byte(log, 'J');
    }
    free(chunk);
}

/* step 0: sizes from `seed`. */
static struct outcome run(struct slice stream, size_t max_frame, size_t step, unsigned seed)
{
    struct outcome outcome = {0};
    struct mllp_reader reader;
    enum mllp_event event = MLLP_NEED_MORE;
    buffer_init(&outcome.log, 16 * stream.len + 64);
    mllp_reader_init(&reader, max_frame);
    for (size_t at = 0, len; at < stream.len && event <= MLLP_FRAME; at += len) {
        seed = seed * 1103515245 + 12345;
        len = step ? step : (seed >> 16) % 9 + 1;
        if (len > stream.len - at)
            len = stream.len - at;
        feed(&reader, slice_of(stream.ptr + at, len), &outcome.log, &event);
    }
    outcome.restarts = reader.restart_count;
    outcome.partial = mllp_reader_has_partial(&reader);
    mllp_reader_done(&reader);
    return outcome;
}

static struct outcome plain(struct slice stream, size_t max_frame)
{
    struct outcome outcome = {0};
    struct buffer body;
    size_t junk = 0;
    int after = 0; /* 2: an FS was just read, 1: its CR */
    buffer_init(&outcome.log, 16 * stream.len + 64);
    buffer_init(&body, stream.len);
    for (size_t i = 0; i < stream.len; i++) {
        char byte = stream.ptr[i];
        int was = after;
        after = 0;
        if (byte == '\x0b') {
            outcome.restarts += outcome.partial;
            outcome.partial = true;
            buffer_clear(&body);
        } else if (outcome.partial && byte == '\x1c') {
            log_frame(&outcome.log, buffer_slice(&body));
            outcome.partial = false;
            junk = 0;
            after = 2;
        } else if (outcome.partial && body.len == max_frame) {
            buffer_append_byte(&outcome.log, 'L');
            outcome.partial = false;
            break;
        } else if (outcome.partial) {
            buffer_append_byte(&body, byte);
        } else if (was == 2 && byte == '\r') {
            after = 1;
        } else if (was && byte == '\n') {
            continue;
        } else if (++junk > MLLP_JUNK_MAX) {
            buffer_append_byte(&outcome.log, 'J');
            break;
        }
    }
    buffer_done(&body);
    return outcome;
}

static void same(const struct outcome *a, const struct outcome *b)
{
    BUG_ON(!slice_equal(buffer_slice(&a->log), buffer_slice(&b->log)));
    BUG_ON(a->restarts != b->restarts || a->partial != b->partial);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct slice stream = slice_of(data + 2, size - 2);
    size_t max_frame = data[0] < 64 ? data[0] : (size_t)data[0] * 16;
    struct outcome expected = plain(stream, max_frame);
    const size_t steps[] = {stream.len + 1, 1, 0};
    for (size_t i = 0; i < 3; i++) {
        struct outcome got = run(stream, max_frame, steps[i], data[1]);
        same(&got, &expected);
        buffer_done(&got.log);
    }
    buffer_done(&expected.log);

    /* What we frame is read back. */
    if (stream.len &&
        (memchr(stream.ptr, '\x0b', stream.len) || memchr(stream.ptr, '\x1c', stream.len)))
        return 0;
    struct buffer framed;
    buffer_init(&framed, stream.len + MLLP_FRAMING_LEN);
    BUG_ON(!mllp_frame_append(&framed, stream));
    struct mllp_reader reader;
    size_t used;
    mllp_reader_init(&reader, stream.len);
    BUG_ON(mllp_reader_feed(&reader, framed.data, framed.len, &used) != MLLP_FRAME);
    BUG_ON(!slice_equal(reader.frame, stream));
    mllp_reader_done(&reader);
    buffer_done(&framed);
    return 0;
}
