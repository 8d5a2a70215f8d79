#include "stencil.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const struct {
    const char *word;
    size_t width;
} fields[] = {
    [STENCIL_CONTROL] = {"{control}", STENCIL_CONTROL_LEN},
    [STENCIL_TIME] = {"{time}", 14},
    [STENCIL_PATIENT] = {"{patient}", 10},
    [STENCIL_VISIT] = {"{visit}", 10},
    [STENCIL_KEY] = {"{key}", 4},
    [STENCIL_PRIORITY] = {"{priority}", 1},
    [STENCIL_PAD] = {"{pad}", 0},
};
#define FIELD_COUNT (sizeof(fields) / sizeof(fields[0]))

static void put_digits(char *at, size_t width, uint64_t number)
{
    for (size_t i = width; i-- > 0; number /= 10)
        at[i] = (char)('0' + number % 10);
}

void stencil_control(const char run[STENCIL_RUN_LEN], uint64_t number,
                     char ret[STENCIL_CONTROL_LEN])
{
    memcpy(ret, run, STENCIL_RUN_LEN);
    put_digits(ret + STENCIL_RUN_LEN, STENCIL_CONTROL_LEN - STENCIL_RUN_LEN, number);
}

/* The field whose word stands here, or FIELD_COUNT. */
static size_t field_at(struct slice rest)
{
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        size_t len = strlen(fields[i].word);
        if (rest.len >= len && memcmp(rest.ptr, fields[i].word, len) == 0)
            return i;
    }
    return FIELD_COUNT;
}

/* Copies the text with every field as its width in zeros, notes where they are. */
static int expand(struct stencil *stencil, struct slice text, struct buffer *body, struct err *err)
{
    for (size_t i = 0; i < text.len;) {
        if (text.ptr[i] != '{') {
            buffer_append_byte(body, text.ptr[i]);
            i++;
            continue;
        }
        size_t field = field_at(slice_of(text.ptr + i, text.len - i));
        if (field == FIELD_COUNT)
            return err_set(err, ERR_INVALID, "unknown field at byte %zu of the template", i);
        if (stencil->slot_count == STENCIL_SLOTS)
            return err_set(err, ERR_INVALID, "more than %d fields in the template", STENCIL_SLOTS);
        stencil->slots[stencil->slot_count++] =
            (struct stencil_slot){.field = (enum stencil_field)field, .at = body->len};
        for (size_t k = 0; k < fields[field].width; k++)
            buffer_append_byte(body, '0');
        i += strlen(fields[field].word);
    }
    return 0;
}

/* Inserts what is missing to `size` at {pad}, moving the fields behind it. */
static int pad(struct stencil *stencil, size_t size, struct buffer *body, struct err *err)
{
    struct stencil_slot *at = NULL;
    for (size_t i = 0; i < stencil->slot_count; i++)
        if (stencil->slots[i].field == STENCIL_PAD)
            at = &stencil->slots[i];
    if (size <= body->len)
        return 0;
    if (!at)
        return err_set(err, ERR_INVALID, "the template has %zu bytes and no {pad}", body->len);
    size_t missing = size - body->len, behind = body->len - at->at;
    buffer_reserve(body, missing);
    memmove(body->data + at->at + missing, body->data + at->at, behind);
    for (size_t i = 0; i < missing; i++) /* words, so that it compresses like text and wraps */
        body->data[at->at + i] = i % 8 == 7 ? ' ' : (char)('a' + (i / 8 * 7 + i) % 26);
    body->len = size;
    for (size_t i = 0; i < stencil->slot_count; i++)
        if (&stencil->slots[i] > at)
            stencil->slots[i].at += missing;
    return 0;
}

static bool has(const struct stencil *stencil, enum stencil_field field)
{
    for (size_t i = 0; i < stencil->slot_count; i++)
        if (stencil->slots[i].field == field)
            return true;
    return false;
}

/* Segments end with CR. */
static void end_lines(struct buffer *body)
{
    for (size_t i = 0; i < body->len; i++)
        if (body->data[i] == '\n')
            body->data[i] = '\r';
}

/* Puts the head in front of where the body comes, whose fields move. */
static int add_head(struct stencil *stencil, const struct stencil_wrap *wrap, size_t body_len,
                    struct err *err)
{
    size_t of_body = stencil->slot_count;
    int status = 0;
    if (wrap->head) {
        struct buffer text;
        buffer_init(&text, 65536);
        wrap->head(wrap->arg, body_len, &text);
        status = expand(stencil, buffer_slice(&text), &stencil->bytes, err);
        buffer_done(&text);
    }
    for (size_t i = 0; i < of_body; i++)
        stencil->slots[i].at += stencil->bytes.len;
    for (size_t i = of_body; status == 0 && i < stencil->slot_count; i++)
        if (stencil->slots[i].field == STENCIL_PAD)
            status = err_set(err, ERR_INVALID, "{pad} has no place in a head");
    return status;
}

int stencil_parse(struct stencil *stencil, struct slice text, size_t size,
                  struct stencil_spread spread, const char run[STENCIL_RUN_LEN],
                  const struct stencil_wrap *wrap, struct err *err)
{
    struct stencil made = {.spread = spread, .stamped_s = -1};
    if (spread.patients == 0)
        made.spread.patients = 1;
    if (spread.keys == 0)
        made.spread.keys = 1;
    struct buffer body;
    buffer_init(&body, STENCIL_SIZE_MAX);
    buffer_init(&made.bytes, STENCIL_SIZE_MAX + 65536);
    int status = -1;
    if (size > STENCIL_SIZE_MAX || text.len > STENCIL_SIZE_MAX / STENCIL_CONTROL_LEN) {
        err_set(err, ERR_TOO_LARGE, "a message may have %u bytes", STENCIL_SIZE_MAX);
        goto done;
    }
    if (expand(&made, text, &body, err) < 0 || pad(&made, size, &body, err) < 0)
        goto done;
    if (!has(&made, STENCIL_CONTROL)) {
        err_set(err, ERR_INVALID, "the template has no {control}");
        goto done;
    }
    end_lines(&body);
    if (add_head(&made, wrap, body.len, err) < 0)
        goto done;
    buffer_append(&made.bytes, body.data, body.len);
    buffer_append(&made.bytes, wrap->tail.ptr, wrap->tail.len);
    for (size_t i = 0; i < made.slot_count; i++)
        if (made.slots[i].field == STENCIL_CONTROL)
            memcpy(made.bytes.data + made.slots[i].at, run, STENCIL_RUN_LEN);
    made.body_len = body.len;
    *stencil = made;
    status = 0;
done:
    buffer_done(&body);
    if (status < 0)
        buffer_done(&made.bytes);
    return status;
}

int stencil_load(struct stencil *stencil, const char *path, size_t size,
                 struct stencil_spread spread, const char run[STENCIL_RUN_LEN],
                 const struct stencil_wrap *wrap, struct err *err)
{
    FILE *file = fopen(path, "r");
    if (!file)
        return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    struct buffer text;
    buffer_init(&text, 1 << 20);
    char chunk[8192];
    size_t got;
    int status = 0;
    while (status == 0 && (got = fread(chunk, 1, sizeof(chunk), file)) > 0)
        if (!buffer_try_append(&text, chunk, got))
            status = err_set(err, ERR_TOO_LARGE, "%s: over 1 MiB", path);
    if (status == 0 && ferror(file))
        status = err_set(err, ERR_IO, "%s: cannot be read", path);
    if (status == 0)
        status = stencil_parse(stencil, buffer_slice(&text), size, spread, run, wrap, err);
    buffer_done(&text);
    fclose(file);
    return status;
}

void stencil_done(struct stencil *stencil)
{
    buffer_done(&stencil->bytes);
}

/* Knuth's multiplicative hash: neighbours in number are far apart in patient, and all are used
 * evenly. */
static uint64_t patient_of(const struct stencil *stencil, uint64_t number)
{
    return (uint32_t)(number * 2654435761u) % stencil->spread.patients;
}

/* As if drawn by lot, so that some keys have several messages under way and others none (the finalizer of
 * MurmurHash3). */
static uint64_t draw(uint64_t number, uint64_t count)
{
    number ^= number >> 33;
    number *= 0xff51afd7ed558ccdu;
    number ^= number >> 33;
    number *= 0xc4ceb9fe1a85ec53u;
    number ^= number >> 33;
    return number % count;
}

static void put_time(char *at, int64_t wall_s)
{
    time_t when = (time_t)wall_s;
    struct tm parts;
    char text[32];
    gmtime_r(&when, &parts);
    if (strftime(text, sizeof(text), "%Y%m%d%H%M%S", &parts) == 14)
        memcpy(at, text, 14);
}

struct slice stencil_stamp(struct stencil *stencil, uint64_t number, int64_t wall_s)
{
    char *data = stencil->bytes.data;
    for (size_t i = 0; i < stencil->slot_count; i++) {
        char *at = data + stencil->slots[i].at;
        switch (stencil->slots[i].field) {
        case STENCIL_CONTROL:
            put_digits(at + STENCIL_RUN_LEN, STENCIL_CONTROL_LEN - STENCIL_RUN_LEN, number);
            break;
        case STENCIL_TIME:
            if (wall_s != stencil->stamped_s)
                put_time(at, wall_s);
            break;
        case STENCIL_PATIENT:
            put_digits(at, 10, 1000000000 + patient_of(stencil, number));
            break;
        case STENCIL_VISIT:
            put_digits(at, 10, number);
            break;
        case STENCIL_KEY:
            put_digits(at, 4, draw(number, stencil->spread.keys));
            break;
        case STENCIL_PRIORITY:
            put_digits(at, 1, draw(~number, 10));
            break;
        case STENCIL_PAD:
            break;
        }
    }
    stencil->stamped_s = wall_s;
    return buffer_slice(&stencil->bytes);
}
