#include "answer.h"

#include <stdio.h>

#define VT '\x0b'
#define FS '\x1c'

static struct slice next_part(struct slice *rest, char separator)
{
    const char *end = rest->len ? memchr(rest->ptr, separator, rest->len) : NULL;
    size_t len = end ? (size_t)(end - rest->ptr) : rest->len;
    struct slice part = slice_of(rest->ptr, len);
    size_t used = end ? len + 1 : len;
    *rest = slice_of(rest->ptr + used, rest->len - used);
    return part;
}

/* MSH-10 of a message, empty where there is none. MSH-1 is the separator, so it is the tenth part. */
static struct slice control_of(struct slice message)
{
    if (message.len < 8 || memcmp(message.ptr, "MSH", 3) != 0)
        return slice_of(NULL, 0);
    char separator = message.ptr[3];
    struct slice segment = next_part(&message, '\r');
    for (int i = 0; i < 9; i++)
        next_part(&segment, separator);
    return next_part(&segment, separator);
}

/* ---- HTTP ---------------------------------------------------------------------------------------
 */

static int on_begin(http_parser *parser)
{
    struct answer_reader *reader = parser->data;
    memset(&reader->now, 0, sizeof(reader->now));
    reader->header_len = 0;
    reader->header_value = false;
    reader->body_len = 0;
    return 0;
}

static int on_header_field(http_parser *parser, const char *at, size_t len)
{
    struct answer_reader *reader = parser->data;
    if (reader->header_value)
        reader->header_len = 0;
    reader->header_value = false;
    for (size_t i = 0; i < len && reader->header_len < sizeof(reader->header); i++)
        reader->header[reader->header_len++] = at[i];
    return 0;
}

static int on_header_value(http_parser *parser, const char *at, size_t len)
{
    struct answer_reader *reader = parser->data;
    reader->header_value = true;
    if (!slice_is_nocase(slice_of(reader->header, reader->header_len), "X-Correlation-ID"))
        return 0;
    size_t have = strlen(reader->now.id);
    if (have + len > ANSWER_ID_MAX)
        return 1;
    memcpy(reader->now.id + have, at, len);
    return 0;
}

static int on_body(http_parser *parser, const char *at, size_t len)
{
    struct answer_reader *reader = parser->data;
    size_t room = sizeof(reader->body) - reader->body_len;
    size_t kept = len < room ? len : room;
    memcpy(reader->body + reader->body_len, at, kept);
    reader->body_len += kept;
    return 0;
}

static int on_complete(http_parser *parser)
{
    struct answer_reader *reader = parser->data;
    unsigned status = parser->status_code;
    if (status < 200 || status > 999)
        return 1;
    snprintf(reader->now.code, sizeof(reader->now.code), "%03u", status % 1000);
    reader->now.accepted = status < 300;
    if (reader->replies) {
        reader->now.control = control_of(slice_of(reader->body, reader->body_len));
        reader->now.accepted = status == 200 && reader->now.control.len > 0;
    }
    if (!http_should_keep_alive(parser))
        reader->closing = true;
    return reader->on_answer(reader->arg, &reader->now) ? 0 : 1;
}

static const struct http_parser_settings http_settings = {
    .on_message_begin = on_begin,
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

/* ---- MLLP ---------------------------------------------------------------------------------------
 */

/* HL7 v2 chapter 2: MSA-1 is the code, MSA-2 the control id of the message answered. */
static bool read_frame(struct answer_reader *reader, struct slice frame)
{
    memset(&reader->now, 0, sizeof(reader->now));
    reader->now.code[0] = '?';
    if (frame.len < 8 || memcmp(frame.ptr, "MSH", 3) != 0)
        return false;
    char separator = frame.ptr[3];
    struct slice message = frame;
    bool acknowledges = false;
    while (frame.len) {
        struct slice segment = next_part(&frame, '\r');
        if (segment.len < 4 || memcmp(segment.ptr, "MSA", 3) != 0 || segment.ptr[3] != separator)
            continue;
        next_part(&segment, separator);
        struct slice code = next_part(&segment, separator);
        if (code.len != 2)
            return false;
        memcpy(reader->now.code, code.ptr, 2);
        acknowledges = true;
        reader->now.accepted = !reader->replies && (slice_is(code, "AA") || slice_is(code, "CA"));
        reader->now.control = next_part(&segment, separator);
        break;
    }
    if (reader->replies && !acknowledges) {
        memcpy(reader->now.code, "MSG", 3);
        reader->now.control = control_of(message);
        reader->now.accepted = true;
    }
    return reader->on_answer(reader->arg, &reader->now);
}

/* Takes whole frames off the front of `data`; returns how many bytes they had, or -1. */
static ssize_t take_frames(struct answer_reader *reader, const char *data, size_t len)
{
    size_t used = 0;
    while (used < len) {
        if (data[used] != VT)
            return -1;
        const char *end = memchr(data + used, FS, len - used);
        size_t frame_len = end ? (size_t)(end - data) - used : len - used;
        if (frame_len > ANSWER_FRAME_MAX)
            return -1;
        if (!end || end + 1 == data + len)
            break;
        if (end[1] != '\r' || !read_frame(reader, slice_of(data + used + 1, frame_len - 1)))
            return -1;
        used += frame_len + 2;
    }
    return (ssize_t)used;
}

/* Usually whole frames arrive: they are read where they are, only a broken one is kept. */
static bool feed_mllp(struct answer_reader *reader, const char *data, size_t len)
{
    bool kept = reader->frame.len > 0;
    if (kept) {
        if (!buffer_try_append(&reader->frame, data, len))
            return false;
        data = reader->frame.data;
        len = reader->frame.len;
    }
    ssize_t used = take_frames(reader, data, len);
    if (used < 0)
        return false;
    if (kept) {
        buffer_consume(&reader->frame, (size_t)used);
        return true;
    }
    return buffer_try_append(&reader->frame, data + used, len - (size_t)used);
}

/* -------------------------------------------------------------------------------------------------
 */

void answer_reader_init(struct answer_reader *reader, bool mllp, bool replies,
                        bool (*on_answer)(void *arg, const struct answer *answer), void *arg)
{
    *reader = (struct answer_reader){
        .mllp = mllp, .replies = replies, .on_answer = on_answer, .arg = arg};
    http_parser_init(&reader->parser, HTTP_RESPONSE);
    reader->parser.data = reader;
    /* one frame that is not yet whole, and what one read brings behind it */
    buffer_init(&reader->frame, 8 * ANSWER_FRAME_MAX);
}

void answer_reader_done(struct answer_reader *reader)
{
    buffer_done(&reader->frame);
}

bool answer_reader_feed(struct answer_reader *reader, const char *data, size_t len)
{
    if (reader->failed)
        return false;
    if (reader->mllp)
        reader->failed = !feed_mllp(reader, data, len);
    else
        reader->failed = http_parser_execute(&reader->parser, &http_settings, data, len) != len;
    return !reader->failed;
}
