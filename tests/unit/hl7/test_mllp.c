/* The MLLP reader: every rule of its table, and that the cuts between chunks never show. */
#include "hl7/mllp.h"

#include "hl7_test.h"

#define VT "\x0b"
#define FS "\x1c"

/* What a stream came to: "F<body>" for a frame, 'L' and 'J' for the errors. */
struct outcome {
    struct buffer log;
    bool partial;
    uint64_t junk, restarts;
};

static void note(struct outcome *outcome, enum mllp_event event, const struct mllp_reader *reader)
{
    switch (event) {
    case MLLP_NEED_MORE:
        break;
    case MLLP_FRAME:
        buffer_append_byte(&outcome->log, 'F');
        buffer_append_byte(&outcome->log, '<');
        buffer_append(&outcome->log, reader->frame.ptr, reader->frame.len);
        buffer_append_byte(&outcome->log, '>');
        break;
    case MLLP_TOO_LARGE:
        buffer_append_byte(&outcome->log, 'L');
        ck_assert_uint_le(reader->frame.len, reader->max_frame);
        break;
    case MLLP_TOO_MUCH_JUNK:
        buffer_append_byte(&outcome->log, 'J');
        break;
    }
}

/* Feeds the stream in chunks of `step` bytes, each on the heap and exactly that large, up to the first error. */
static struct outcome run(struct slice stream, size_t step, size_t max_frame)
{
    struct outcome outcome = {0};
    buffer_init(&outcome.log, 4 * stream.len + 64);
    struct mllp_reader reader;
    mllp_reader_init(&reader, max_frame);
    enum mllp_event event = MLLP_NEED_MORE;
    for (size_t at = 0; at < stream.len && event <= MLLP_FRAME; at += step) {
        size_t len = stream.len - at < step ? stream.len - at : step;
        struct slice chunk = exact(slice_of(stream.ptr + at, len));
        for (size_t done = 0, used; done < len && event <= MLLP_FRAME; done += used) {
            event = mllp_reader_feed(&reader, chunk.ptr + done, len - done, &used);
            ck_assert(used > 0 && used <= len - done);
            ck_assert(event != MLLP_NEED_MORE || used == len - done);
            note(&outcome, event, &reader);
        }
        mllp_reader_release(&reader);
        ck_assert_uint_le(reader.held.capacity, max_frame);
        free((char *)chunk.ptr);
    }
    outcome.partial = mllp_reader_has_partial(&reader);
    outcome.junk = reader.junk_count;
    outcome.restarts = reader.restart_count;
    mllp_reader_done(&reader);
    return outcome;
}

static const struct {
    struct slice stream;
    const char *log;
    bool partial;
    uint64_t junk, restarts;
} streams[] = {
    {{"", 0}, "", false, 0, 0},
    {{VT "MSH" FS "\r", 6}, "F<MSH>", false, 0, 0},
    {{VT FS "\r", 3}, "F<>", false, 0, 0},
    {{VT "a" FS "\r" VT "b" FS "\r" VT "c" FS "\r", 12}, "F<a>F<b>F<c>", false, 0, 0},
    {{VT "a\rb\nc" FS "\r", 8}, "F<a\rb\nc>", false, 0, 0},
    /* FS alone ends a frame; CR, LF and CRLF after it are swallowed once */
    {{VT "a" FS, 3}, "F<a>", false, 0, 0},
    {{VT "a" FS VT "b" FS, 6}, "F<a>F<b>", false, 0, 0},
    {{VT "a" FS "\n" VT "b" FS "\r\n" VT "c" FS "\r", 13}, "F<a>F<b>F<c>", false, 0, 0},
    {{VT "a" FS "\r\r" VT "b" FS, 8}, "F<a>F<b>", false, 1, 0},
    {{VT "a" FS "\n\n" VT "b" FS, 8}, "F<a>F<b>", false, 1, 0},
    {{VT "a" FS "\r\n\r\n" VT "b" FS, 10}, "F<a>F<b>", false, 2, 0},
    {{VT "a" FS FS "\r" VT "b" FS, 8}, "F<a>F<b>", false, 2, 0},
    {{VT "a" FS "\r" FS VT "b" FS, 8}, "F<a>F<b>", false, 1, 0},
    {{VT "a" FS "x\r" VT "b" FS, 8}, "F<a>F<b>", false, 2, 0},
    /* junk in front */
    {{"\r\n" VT "a" FS "\r", 6}, "F<a>", false, 2, 0},
    {{"junk " FS "\r" VT "a" FS "\r", 11}, "F<a>", false, 7, 0},
    {{"GET / HTTP/1.1\r\n\r\n", 18}, "", false, 18, 0},
    /* VT inside starts anew */
    {{VT "lost" VT "a" FS "\r", 9}, "F<a>", false, 0, 1},
    {{VT VT VT "a" FS "\r", 6}, "F<a>", false, 0, 2},
    {{VT "a" VT "b" VT FS "\r", 7}, "F<>", false, 0, 2},
    {{VT "a" VT "b", 4}, "", true, 0, 1},
    /* a half one */
    {{VT, 1}, "", true, 0, 0},
    {{VT "half", 5}, "", true, 0, 0},
    {{VT "a" FS "\r" VT "half\r", 10}, "F<a>", true, 0, 0},
    /* the maximum is 8 here */
    {{VT "12345678" FS "\r", 11}, "F<12345678>", false, 0, 0},
    {{VT "123456789" FS "\r", 12}, "L", false, 0, 0},
    {{VT "a" FS "\r" VT "123456789", 14}, "F<a>L", false, 0, 0},
    {{VT "12345" VT "12345678" FS "\r", 17}, "F<12345678>", false, 0, 1},
    {{VT "123456789" VT "a" FS "\r", 14}, "L", false, 0, 0},
    {{VT "1" VT "123456789" VT "a" FS "\r", 16}, "L", false, 0, 1},
    {{VT "12345678" VT "12345678" VT FS "\r", 21}, "F<>", false, 0, 2},
    {{VT "\0\0\0" FS "\r", 6}, "F<\0\0\0>", false, 0, 0},
};

START_TEST(rules)
{
    for (size_t i = 0; i < sizeof(streams) / sizeof(streams[0]); i++) {
        struct slice log = slice_text(streams[i].log);
        if (streams[i].stream.len > 1 && streams[i].stream.ptr[1] == '\0')
            log = SLICE_LITERAL("F<\0\0\0>");
        for (size_t step = 1; step <= streams[i].stream.len + 1; step++) {
            struct outcome got = run(streams[i].stream, step, 8);
            ck_assert_msg(slice_equal(buffer_slice(&got.log), log), "stream %zu by %zu: %.*s", i,
                          step, (int)got.log.len, got.log.data);
            ck_assert_int_eq(got.partial, streams[i].partial);
            ck_assert_uint_eq(got.junk, streams[i].junk);
            ck_assert_uint_eq(got.restarts, streams[i].restarts);
            buffer_done(&got.log);
        }
    }
}
END_TEST

/* A stream of all that happens, cut everywhere: in chunks of every size and into two at every place. */
START_TEST(cuts_never_show)
{
    struct slice stream = SLICE_LITERAL("xx" VT "MSH|one\rPID" FS "\r" VT "two" FS "\r" VT FS
                                        "\n" VT "lost\r" VT "three" FS VT "four" FS "\r\nyy\r" VT
                                        "five" FS FS "\r" VT "six" FS "\r" VT "half");
    struct outcome whole = run(stream, stream.len, 64);
    ck_slice(buffer_slice(&whole.log), "F<MSH|one\rPID>F<two>F<>F<three>F<four>F<five>F<six>");
    ck_assert(whole.partial);
    for (size_t step = 1; step < stream.len; step++) {
        struct outcome cut = run(stream, step, 64);
        ck_assert(slice_equal(buffer_slice(&cut.log), buffer_slice(&whole.log)));
        ck_assert_uint_eq(cut.junk, whole.junk);
        ck_assert_uint_eq(cut.restarts, whole.restarts);
        ck_assert(cut.partial);
        buffer_done(&cut.log);
    }
    buffer_done(&whole.log);
}
END_TEST

START_TEST(borrows_and_gives_back)
{
    char chunk[] = VT "abc" FS "\r" VT "def" FS "\r" VT "gh";
    struct mllp_reader reader;
    size_t used;
    mllp_reader_init(&reader, 100);
    ck_assert_int_eq(mllp_reader_feed(&reader, chunk, sizeof(chunk) - 1, &used), MLLP_FRAME);
    ck_assert_ptr_eq(reader.frame.ptr, chunk + 1); /* not copied */
    ck_assert_uint_eq(used, 5);
    ck_assert_int_eq(mllp_reader_feed(&reader, chunk + 5, sizeof(chunk) - 6, &used), MLLP_FRAME);
    ck_assert_ptr_eq(reader.frame.ptr, chunk + 7);
    ck_assert_uint_eq(reader.held.capacity, 0);
    ck_assert_int_eq(mllp_reader_feed(&reader, chunk + 11, sizeof(chunk) - 12, &used),
                     MLLP_NEED_MORE);
    ck_assert_uint_eq(reader.frame.len, 0);
    ck_assert_uint_eq(reader.held.len, 2);
    ck_assert_int_eq(mllp_reader_feed(&reader, "i" FS, 2, &used), MLLP_FRAME);
    ck_slice(reader.frame, "ghi");
    mllp_reader_release(&reader);
    ck_assert_uint_eq(reader.frame.len, 0);
    ck_assert_uint_eq(reader.held.len, 0);
    ck_assert_int_eq(mllp_reader_feed(&reader, NULL, 0, &used), MLLP_NEED_MORE);
    ck_assert_uint_eq(used, 0);
    /* VT in one chunk and the body in the next: borrowed again */
    ck_assert_int_eq(mllp_reader_feed(&reader, VT, 1, &used), MLLP_NEED_MORE);
    ck_assert_int_eq(mllp_reader_feed(&reader, chunk + 1, 4, &used), MLLP_FRAME);
    ck_assert_ptr_eq(reader.frame.ptr, chunk + 1);
    mllp_reader_done(&reader);
}
END_TEST

/* Memory follows the bytes that have come, and goes again after a large frame. */
START_TEST(memory)
{
    size_t size = 20u << 20, used;
    char *chunk = malloc(1 << 16);
    ck_assert_ptr_nonnull(chunk);
    memset(chunk, 'A', 1 << 16);
    struct mllp_reader reader;
    mllp_reader_init(&reader, size);
    ck_assert_int_eq(mllp_reader_feed(&reader, VT, 1, &used), MLLP_NEED_MORE);
    ck_assert_uint_eq(reader.held.capacity, 0);
    for (size_t at = 0; at < size; at += 1 << 16) {
        ck_assert_int_eq(mllp_reader_feed(&reader, chunk, 1 << 16, &used), MLLP_NEED_MORE);
        ck_assert_uint_le(reader.held.capacity, 2 * (at + (1 << 16)));
    }
    ck_assert_uint_eq(reader.held.capacity, size);
    ck_assert_int_eq(mllp_reader_feed(&reader, FS "\r", 2, &used), MLLP_FRAME);
    ck_assert_uint_eq(reader.frame.len, size);
    ck_assert_int_eq(reader.frame.ptr[size - 1], 'A');
    ck_assert_int_eq(mllp_reader_feed(&reader, "\r" VT, 2, &used), MLLP_NEED_MORE);
    ck_assert_uint_eq(reader.held.capacity, 0);

    /* and what a VT drops */
    for (int i = 0; i < 100; i++)
        mllp_reader_feed(&reader, chunk, 1 << 16, &used);
    ck_assert_int_eq(mllp_reader_feed(&reader, VT "a", 2, &used), MLLP_NEED_MORE);
    ck_assert_uint_le(reader.held.capacity, 1 << 16);
    /* a small one stays for the next frame */
    ck_assert_int_eq(mllp_reader_feed(&reader, FS, 1, &used), MLLP_FRAME);
    mllp_reader_release(&reader);
    ck_assert_uint_gt(reader.held.capacity, 0);
    mllp_reader_done(&reader);
    free(chunk);
}
END_TEST

START_TEST(byte_by_byte_is_linear)
{
    size_t size = 20u << 20, used;
    struct mllp_reader reader;
    mllp_reader_init(&reader, size);
    mllp_reader_feed(&reader, VT, 1, &used);
    for (size_t i = 0; i < size; i++) {
        if (mllp_reader_feed(&reader, "x", 1, &used) != MLLP_NEED_MORE)
            ck_abort_msg("at %zu", i);
    }
    ck_assert_int_eq(mllp_reader_feed(&reader, FS, 1, &used), MLLP_FRAME);
    ck_assert_uint_eq(reader.frame.len, size);
    mllp_reader_done(&reader);
}
END_TEST

/* A chunk of nothing but VTs in front of one FS, and one of empty frames. */
START_TEST(many_in_a_chunk_is_linear)
{
    size_t size = 8u << 20, used, at = 0, frames = 0;
    char *chunk = malloc(size);
    ck_assert_ptr_nonnull(chunk);
    memset(chunk, MLLP_START, size);
    chunk[size - 1] = MLLP_END;
    struct mllp_reader reader;
    mllp_reader_init(&reader, 1000);
    ck_assert_int_eq(mllp_reader_feed(&reader, chunk, size, &used), MLLP_FRAME);
    ck_assert_uint_eq(used, size);
    ck_assert_uint_eq(reader.restart_count, size - 2);

    for (size_t i = 0; i < size; i += 2) {
        chunk[i] = MLLP_START;
        chunk[i + 1] = MLLP_END;
    }
    while (at < size) {
        ck_assert_int_eq(mllp_reader_feed(&reader, chunk + at, size - at, &used), MLLP_FRAME);
        at += used;
        frames++;
    }
    ck_assert_uint_eq(frames, size / 2);
    mllp_reader_done(&reader);
    free(chunk);
}
END_TEST

START_TEST(too_large_keeps_the_start)
{
    char body[300];
    memset(body, 'x', sizeof(body));
    memcpy(body, "MSH|^~\\&|A||||||ADT|77|P|2.5\r", 29);
    for (size_t step = 1; step <= 303; step += 7) {
        struct mllp_reader reader;
        size_t used;
        mllp_reader_init(&reader, 200);
        mllp_reader_feed(&reader, VT, 1, &used);
        enum mllp_event event = MLLP_NEED_MORE;
        for (size_t at = 0; at < sizeof(body) && event == MLLP_NEED_MORE; at += step) {
            size_t len = sizeof(body) - at < step ? sizeof(body) - at : step;
            event = mllp_reader_feed(&reader, body + at, len, &used);
            ck_assert_uint_eq(used, len);
        }
        ck_assert_int_eq(event, MLLP_TOO_LARGE);
        ck_assert_uint_eq(reader.frame.len, 200);
        ck_assert_mem_eq(reader.frame.ptr, body, 200);
        struct hl7_message m = parse(reader.frame);
        ck_value(&m, "MSH-10", HL7_VALUE, "77");
        hl7_done(&m);
        /* and nothing follows */
        ck_assert_int_eq(mllp_reader_feed(&reader, VT "a" FS "\r", 4, &used), MLLP_TOO_LARGE);
        ck_assert_uint_eq(used, 4);
        ck_assert_uint_eq(reader.frame.len, 200);
        ck_assert(!mllp_reader_has_partial(&reader));
        mllp_reader_done(&reader);
    }
}
END_TEST

static enum mllp_event feed_junk(struct mllp_reader *reader, size_t count, size_t step)
{
    static char junk[MLLP_JUNK_MAX + 1];
    memset(junk, '.', sizeof(junk));
    enum mllp_event event = MLLP_NEED_MORE;
    size_t used;
    for (size_t at = 0; at < count && event == MLLP_NEED_MORE; at += step) {
        size_t len = count - at < step ? count - at : step;
        event = mllp_reader_feed(reader, junk, len, &used);
        ck_assert_uint_eq(used, len);
    }
    return event;
}

/* Another limit holds from the next frame on. */
START_TEST(another_limit)
{
    struct mllp_reader reader;
    size_t used;
    mllp_reader_init(&reader, 8);
    ck_assert_int_eq(mllp_reader_feed(&reader, "\01312345", 6, &used), MLLP_NEED_MORE);
    mllp_reader_limit(&reader, 4);
    ck_assert_int_eq(mllp_reader_feed(&reader, "678\x1c", 4, &used), MLLP_FRAME);
    mllp_reader_limit(&reader, 4);
    ck_assert_int_eq(mllp_reader_feed(&reader, "\r\0131234\x1c\r", 8, &used), MLLP_FRAME);
    mllp_reader_limit(&reader, 16);
    ck_assert_int_eq(mllp_reader_feed(&reader, "\013123456789\x1c", 11, &used), MLLP_FRAME);
    ck_assert(slice_is(reader.frame, "123456789"));
    mllp_reader_limit(&reader, 4);
    ck_assert_int_eq(mllp_reader_feed(&reader, "\01312345", 6, &used), MLLP_TOO_LARGE);
    mllp_reader_limit(&reader, 100); /* spent for good */
    ck_assert_int_eq(mllp_reader_feed(&reader, "6\x1c", 2, &used), MLLP_TOO_LARGE);
    ck_assert(slice_is(reader.frame, "1234"));
    mllp_reader_done(&reader);
}
END_TEST

START_TEST(junk_is_limited)
{
    static const size_t steps[] = {1, 1000, MLLP_JUNK_MAX + 1};
    for (size_t i = 0; i < 3; i++) {
        struct mllp_reader reader;
        size_t used;
        mllp_reader_init(&reader, 100);
        /* Exactly the limit, before each of two frames, is allowed. */
        for (int frame = 0; frame < 2; frame++) {
            ck_assert_int_eq(feed_junk(&reader, MLLP_JUNK_MAX, steps[i]), MLLP_NEED_MORE);
            ck_assert_int_eq(mllp_reader_feed(&reader, VT "a" FS, 3, &used), MLLP_FRAME);
        }
        ck_assert_uint_eq(reader.junk_count, 2 * MLLP_JUNK_MAX);
        ck_assert_int_eq(feed_junk(&reader, MLLP_JUNK_MAX + 1, steps[i]), MLLP_TOO_MUCH_JUNK);
        ck_assert_int_eq(mllp_reader_feed(&reader, VT "a" FS, 3, &used), MLLP_TOO_MUCH_JUNK);
        ck_assert_uint_eq(used, 3);
        ck_assert(!mllp_reader_has_partial(&reader));
        mllp_reader_done(&reader);
    }
}
END_TEST

/* The VT in the same chunk does not save too much junk. */
START_TEST(junk_then_frame_in_a_chunk)
{
    size_t used;
    char *chunk = malloc(MLLP_JUNK_MAX + 4);
    ck_assert_ptr_nonnull(chunk);
    memset(chunk, '.', MLLP_JUNK_MAX + 4);
    memcpy(chunk + MLLP_JUNK_MAX + 1, VT "a" FS, 3);
    struct mllp_reader reader;
    mllp_reader_init(&reader, 100);
    ck_assert_int_eq(mllp_reader_feed(&reader, chunk, MLLP_JUNK_MAX + 4, &used),
                     MLLP_TOO_MUCH_JUNK);
    mllp_reader_done(&reader);
    mllp_reader_init(&reader, 100);
    ck_assert_int_eq(mllp_reader_feed(&reader, chunk + 1, MLLP_JUNK_MAX + 3, &used), MLLP_FRAME);
    mllp_reader_done(&reader);
    free(chunk);
}
END_TEST

START_TEST(framing)
{
    struct buffer out;
    buffer_init(&out, 8);
    ck_assert(mllp_frame_append(&out, SLICE_LITERAL("abc")));
    ck_slice(buffer_slice(&out), VT "abc" FS "\r");
    ck_assert(!mllp_frame_append(&out, SLICE_LITERAL("")));
    ck_assert_uint_eq(out.len, 6);
    buffer_clear(&out);
    ck_assert(mllp_frame_append(&out, slice_of(NULL, 0)));
    ck_slice(buffer_slice(&out), VT FS "\r");
    ck_assert(!mllp_frame_append(&out, slice_of("", SIZE_MAX)));
    ck_assert_uint_eq(out.len, 3);
    buffer_done(&out);
}
END_TEST

RUN_TESTS("hl7 mllp", rules, cuts_never_show, borrows_and_gives_back, memory,
          byte_by_byte_is_linear, many_in_a_chunk_is_linear, too_large_keeps_the_start,
          another_limit, junk_is_limited, junk_then_frame_in_a_chunk, framing)
