/* Frames between a worker and its child processes: child_wire.h. */
#include "child_wire.h"

#include "base/bug.h"
#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define HEAD_LEN 8u
#define BORROWED_FROM 8192u /* shorter texts are copied: cheaper than a part of their own */
#define PARTS_AT_ONCE 64    /* of one call to the kernel */
#define GROWTH_MIN 65536u   /* a payload grows as it comes, whatever its head says */
#define SENT_LEAST                                                                                 \
    (2 + 2 * 1) /* bytes of one that was sent: an id's length and a letter, two texts */

enum { PLACE_HERE, PLACE_OWN_BODY, PLACE_OWN_CONTENT_TYPE };

struct wire_part {
    const char *borrowed; /* NULL: in `small` */
    size_t at, len;
};

/* ---- numbers ---- */

static void put_number(char ret[static 4], uint32_t number)
{
    for (int i = 0; i < 4; i++)
        ret[i] = (char)(number >> (8 * i));
}

static uint32_t get_number(const char bytes[static 4])
{
    uint32_t number = 0;
    for (int i = 0; i < 4; i++)
        number |= (uint32_t)(unsigned char)bytes[i] << (8 * i);
    return number;
}

/* ---- out: parts ---- */

void wire_out_init(struct wire_out *out)
{
    *out = (struct wire_out){0};
    buffer_init(&out->small, SIZE_MAX);
}

void wire_out_done(struct wire_out *out)
{
    buffer_done(&out->small);
    free(out->parts);
    wire_out_init(out);
}

bool wire_out_empty(const struct wire_out *out)
{
    return out->part_count == 0;
}

bool wire_out_borrows(const struct wire_out *out)
{
    for (size_t i = out->part; i < out->part_count; i++) {
        if (out->parts[i].borrowed)
            return true;
    }
    return false;
}

static void add_part(struct wire_out *out, struct wire_part part)
{
    if (out->part_count == out->part_capacity) {
        out->part_capacity = out->part_capacity ? out->part_capacity * 2 : 4;
        out->parts = mem_resize(out->parts, out->part_capacity, sizeof(*out->parts));
    }
    out->parts[out->part_count++] = part;
}

/* Once it is too long nothing is kept of it any more. */
static void put(struct wire_out *out, const void *ptr, size_t len)
{
    if (len > WIRE_PAYLOAD_MAX - out->payload || out->payload > WIRE_PAYLOAD_MAX) {
        out->payload = WIRE_PAYLOAD_MAX + 1;
        return;
    }
    out->payload += len;
    if (len == 0)
        return;
    if (len >= BORROWED_FROM) {
        add_part(out, (struct wire_part){.borrowed = ptr, .len = len});
        return;
    }
    struct wire_part *last = out->part_count ? &out->parts[out->part_count - 1] : NULL;
    if (last && !last->borrowed)
        last->len += len;
    else
        add_part(out, (struct wire_part){.at = out->small.len, .len = len});
    buffer_append(&out->small, ptr, len);
}

static void put_byte(struct wire_out *out, unsigned char byte)
{
    put(out, &byte, 1);
}

static void put_u32(struct wire_out *out, uint32_t number)
{
    char bytes[4];
    put_number(bytes, number);
    put(out, bytes, sizeof(bytes));
}

static void put_text(struct wire_out *out, struct slice text)
{
    put_byte(out, PLACE_HERE);
    put_u32(out, text.len > WIRE_PAYLOAD_MAX ? UINT32_MAX : (uint32_t)text.len);
    put(out, text.ptr, text.len);
}

/* A text that may be what the job was given. */
static void put_made(struct wire_out *out, const struct job *job, struct slice text)
{
    if (text.len && text.ptr == job->body.ptr && text.len == job->body.len)
        put_byte(out, PLACE_OWN_BODY);
    else if (text.len && text.ptr == job->content_type.ptr && text.len == job->content_type.len)
        put_byte(out, PLACE_OWN_CONTENT_TYPE);
    else
        put_text(out, text);
}

struct mark { /* of a frame's begin */
    size_t small_len, part_count, last_len;
};

static struct mark begin(struct wire_out *out, enum wire_type type)
{
    struct mark mark = {out->small.len, out->part_count,
                        out->part_count ? out->parts[out->part_count - 1].len : 0};
    const char head[HEAD_LEN] = {(char)type};
    put(out, head, sizeof(head));
    out->payload = 0;
    return mark;
}

/* Fills in the length, or takes back what is too long. */
static bool end(struct wire_out *out, struct mark mark)
{
    bool fits = out->payload <= WIRE_PAYLOAD_MAX;
    if (fits) {
        put_number(out->small.data + mark.small_len + 4, (uint32_t)out->payload);
    } else {
        out->small.len = mark.small_len;
        out->part_count = mark.part_count;
        if (mark.part_count)
            out->parts[mark.part_count - 1].len = mark.last_len;
    }
    out->payload = 0;
    return fits;
}

static size_t gather(const struct wire_out *out, struct iovec ret_parts[static PARTS_AT_ONCE])
{
    size_t count = 0;
    for (size_t i = out->part; i < out->part_count && count < PARTS_AT_ONCE; i++) {
        const struct wire_part *part = &out->parts[i];
        const char *from = part->borrowed ? part->borrowed : out->small.data + part->at;
        size_t done = i == out->part ? out->part_done : 0;
        ret_parts[count++] = (struct iovec){(void *)(from + done), part->len - done};
    }
    return count;
}

static void advance(struct wire_out *out, size_t sent)
{
    while (out->part < out->part_count && sent >= out->parts[out->part].len - out->part_done) {
        sent -= out->parts[out->part].len - out->part_done;
        out->part++;
        out->part_done = 0;
    }
    out->part_done += sent;
}

static void forget_sent(struct wire_out *out)
{
    out->part_count = out->part = out->part_done = 0;
    buffer_clear(&out->small);
}

int wire_out_flush(struct wire_out *out, int fd)
{
    while (out->part < out->part_count) {
        struct iovec parts[PARTS_AT_ONCE];
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = gather(out, parts)};
        ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return 0;
        if (sent < 0) {
            forget_sent(out);
            return -1;
        }
        advance(out, (size_t)sent);
    }
    forget_sent(out);
    return 1;
}

/* ---- out: frames ---- */

void wire_put_start(struct wire_out *out, struct slice item_id, struct slice production)
{
    struct mark mark = begin(out, WIRE_START);
    put_text(out, item_id);
    put_text(out, production);
    bool fits = end(out, mark);
    BUG_ON(!fits); /* a production file is far smaller */
}

void wire_put_job(struct wire_out *out, const struct job *job)
{
    struct mark mark = begin(out, WIRE_JOB);
    put(out, job->id.bytes, sizeof(job->id.bytes));
    put_u32(out, (uint32_t)job->attempt);
    put_text(out, job->content_type);
    put_text(out, job->chain);
    put_text(out, body_slice(job->body));
    bool fits = end(out, mark);
    BUG_ON(!fits); /* bodies are at most 256 MiB */
}

static void put_empty(struct wire_out *out, enum wire_type type)
{
    struct mark mark = begin(out, type);
    end(out, mark);
}

void wire_put_cancel(struct wire_out *out)
{
    put_empty(out, WIRE_CANCEL);
}

void wire_put_ready(struct wire_out *out)
{
    put_empty(out, WIRE_READY);
}

static void put_error(struct wire_out *out, const struct err *error)
{
    put_u32(out, (uint32_t)error->code);
    put_text(out, slice_text(error->text));
}

void wire_put_refused(struct wire_out *out, const struct err *error)
{
    struct mark mark = begin(out, WIRE_REFUSED);
    put_error(out, error);
    end(out, mark);
}

bool wire_put_done(struct wire_out *out, const struct job *job)
{
    struct mark mark = begin(out, WIRE_DONE);
    put(out, job->id.bytes, sizeof(job->id.bytes));
    put_made(out, job, job->reply_content_type);
    put_made(out, job, job->reply);
    put_u32(out, (uint32_t)job->sent_count);
    for (size_t i = 0; i < job->sent_count && out->payload <= WIRE_PAYLOAD_MAX; i++) {
        const struct job_sent *sent = &job->sent[i];
        struct slice id = slice_text(sent->target->id);
        put_byte(out, (unsigned char)id.len);
        put(out, id.ptr, id.len);
        put_made(out, job, sent->content_type);
        put_made(out, job, body_slice(sent->body));
    }
    return end(out, mark);
}

void wire_put_failed(struct wire_out *out, struct uuid id, const struct err *error)
{
    struct mark mark = begin(out, WIRE_FAILED);
    put(out, id.bytes, sizeof(id.bytes));
    put_error(out, error);
    end(out, mark);
}

/* ---- in: frames ---- */

void wire_in_init(struct wire_in *in)
{
    *in = (struct wire_in){0};
}

void wire_in_done(struct wire_in *in)
{
    free(in->frame.payload);
    wire_in_init(in);
}

static bool head_complete(struct wire_in *in)
{
    const char *head = (const char *)in->head;
    unsigned type = in->head[0];
    in->frame.type = (enum wire_type)type;
    in->frame.len = get_number(head + 4);
    return type >= WIRE_START && type < WIRE_TYPE_END && !head[1] && !head[2] && !head[3] &&
           in->frame.len <= WIRE_PAYLOAD_MAX;
}

static bool take_head(struct wire_in *in, struct slice *bytes)
{
    size_t n = HEAD_LEN - in->head_len;
    if (n == 0)
        return true;
    if (n > bytes->len)
        n = bytes->len;
    if (n)
        memcpy(in->head + in->head_len, bytes->ptr, n);
    *bytes = slice_of(bytes->ptr + n, bytes->len - n);
    in->head_len += n;
    return in->head_len < HEAD_LEN || head_complete(in);
}

/* The sizes are the other side's: memory grows with what has come, and may say no. */
static bool make_room(struct wire_in *in, size_t more)
{
    size_t need = in->have + more;
    if (need <= in->capacity)
        return true;
    size_t capacity = in->capacity * 2 > GROWTH_MIN ? in->capacity * 2 : GROWTH_MIN;
    if (capacity < need)
        capacity = need;
    if (capacity > in->frame.len)
        capacity = in->frame.len;
    char *payload = realloc(in->frame.payload, capacity);
    if (!payload)
        return false;
    in->frame.payload = payload;
    in->capacity = capacity;
    return true;
}

int wire_in_take(struct wire_in *in, struct slice *bytes, struct wire_frame *ret_frame)
{
    if (!take_head(in, bytes))
        return -1;
    if (in->head_len < HEAD_LEN)
        return 0;
    size_t n = in->frame.len - in->have;
    if (n > bytes->len)
        n = bytes->len;
    if (n) {
        if (!make_room(in, n))
            return -1;
        memcpy(in->frame.payload + in->have, bytes->ptr, n);
        *bytes = slice_of(bytes->ptr + n, bytes->len - n);
        in->have += n;
    }
    if (in->have < in->frame.len)
        return 0;
    *ret_frame = in->frame;
    wire_in_init(in);
    return 1;
}

char *wire_in_room(struct wire_in *in, size_t *ret_len)
{
    if (in->head_len < HEAD_LEN || in->frame.len - in->have < GROWTH_MIN)
        return NULL;
    if (in->capacity - in->have < GROWTH_MIN && !make_room(in, GROWTH_MIN))
        return NULL;
    *ret_len = in->capacity - in->have;
    return in->frame.payload + in->have;
}

void wire_in_filled(struct wire_in *in, size_t len)
{
    BUG_ON(len > in->capacity - in->have);
    in->have += len;
}

/* ---- in: payloads ---- */

struct cursor {
    struct slice rest;
    bool bad;
};

static struct cursor cursor_of(const struct wire_frame *frame)
{
    return (struct cursor){.rest = slice_of(frame->payload, frame->len)};
}

static struct slice get(struct cursor *cursor, size_t len)
{
    if (cursor->bad || len > cursor->rest.len) {
        cursor->bad = true;
        return slice_of(NULL, 0);
    }
    struct slice taken = slice_of(cursor->rest.ptr, len);
    cursor->rest = slice_of(cursor->rest.ptr + len, cursor->rest.len - len);
    return taken;
}

static unsigned get_byte(struct cursor *cursor)
{
    struct slice byte = get(cursor, 1);
    return byte.len ? (unsigned char)byte.ptr[0] : 0;
}

static uint32_t get_u32(struct cursor *cursor)
{
    struct slice bytes = get(cursor, 4);
    return bytes.len ? get_number(bytes.ptr) : 0;
}

static struct uuid get_id(struct cursor *cursor)
{
    struct uuid id = UUID_NONE;
    struct slice bytes = get(cursor, sizeof(id.bytes));
    if (bytes.len)
        memcpy(id.bytes, bytes.ptr, sizeof(id.bytes));
    return id;
}

/* `job` NULL: the text must be here. */
static struct slice get_text(struct cursor *cursor, const struct job *job)
{
    unsigned place = get_byte(cursor);
    if (place == PLACE_HERE)
        return get(cursor, get_u32(cursor));
    if (job && place == PLACE_OWN_BODY)
        return body_slice(job->body);
    if (job && place == PLACE_OWN_CONTENT_TYPE)
        return job->content_type;
    cursor->bad = true;
    return slice_of(NULL, 0);
}

static bool whole(const struct cursor *cursor)
{
    return !cursor->bad && cursor->rest.len == 0;
}

int wire_get_start(const struct wire_frame *frame, struct slice *ret_item_id,
                   struct slice *ret_production)
{
    struct cursor cursor = cursor_of(frame);
    struct slice item_id = get_text(&cursor, NULL), production = get_text(&cursor, NULL);
    if (!whole(&cursor))
        return -1;
    *ret_item_id = item_id;
    *ret_production = production;
    return 0;
}

int wire_get_job(const struct wire_frame *frame, struct job *job)
{
    struct cursor cursor = cursor_of(frame);
    struct uuid id = get_id(&cursor);
    uint32_t attempt = get_u32(&cursor);
    struct slice content_type = get_text(&cursor, NULL), chain = get_text(&cursor, NULL);
    struct slice body = get_text(&cursor, NULL);
    if (!whole(&cursor) || attempt < 1 || attempt > INT32_MAX)
        return -1;
    job->id = id;
    job->attempt = (int)attempt;
    job->content_type = content_type;
    job->chain = chain;
    job->body = body_of(body.ptr, body.len);
    return 0;
}

/* Its text goes to logs and the store: what is no plain letter is none of a handler's. */
static struct err get_error(struct cursor *cursor)
{
    uint32_t code = get_u32(cursor);
    struct slice text = get_text(cursor, NULL);
    struct err error = {.code = ERR_NONE};
    if (cursor->bad || code <= ERR_NONE || code >= ERR_COUNT || text.len >= sizeof(error.text)) {
        cursor->bad = true;
        return error;
    }
    error.code = (enum error_code)code;
    for (size_t i = 0; i < text.len; i++)
        error.text[i] = text.ptr[i] >= ' ' && text.ptr[i] < 0x7f ? text.ptr[i] : '?';
    return error;
}

int wire_get_refused(const struct wire_frame *frame, struct err *ret_error)
{
    struct cursor cursor = cursor_of(frame);
    struct err error = get_error(&cursor);
    if (!whole(&cursor))
        return -1;
    *ret_error = error;
    return 0;
}

int wire_get_failed(const struct wire_frame *frame, const struct job *job, struct err *ret_error)
{
    struct cursor cursor = cursor_of(frame);
    struct uuid id = get_id(&cursor);
    struct err error = get_error(&cursor);
    if (!whole(&cursor) || !uuid_equal(id, job->id))
        return -1;
    *ret_error = error;
    return 0;
}

static void get_sent(struct cursor *cursor, const struct production *production, struct job *job)
{
    const struct item *target = production_find(production, get(cursor, get_byte(cursor)));
    struct slice content_type = get_text(cursor, job), body = get_text(cursor, job);
    if (!target || cursor->bad ||
        !job_add_sent(job, target, content_type, body_of(body.ptr, body.len)))
        cursor->bad = true;
}

int wire_get_done(const struct wire_frame *frame, const struct production *production,
                  struct job *job)
{
    struct cursor cursor = cursor_of(frame);
    struct uuid id = get_id(&cursor);
    struct slice content_type = get_text(&cursor, job), reply = get_text(&cursor, job);
    uint32_t count = get_u32(&cursor);
    if (!uuid_equal(id, job->id) || count > cursor.rest.len / SENT_LEAST)
        cursor.bad = true;
    for (uint32_t i = 0; i < count && !cursor.bad; i++)
        get_sent(&cursor, production, job);
    if (!whole(&cursor)) {
        job_reset(job);
        return -1;
    }
    job->reply_content_type = content_type;
    job->reply = reply;
    job->brought = frame->payload;
    return 0;
}
