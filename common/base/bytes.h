/* A slice borrows bytes, a buffer owns them and has a hard maximum. HL7 is bytes, not strings: nothing here
 * stops at a NUL. */
#ifndef HIE_BASE_BYTES_H
#define HIE_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct slice {
    const char *ptr; /* borrowed; may be NULL when len is 0 */
    size_t len;
};

static inline struct slice slice_of(const void *ptr, size_t len)
{
    return (struct slice){.ptr = ptr, .len = len};
}

/* The slice of a NUL-terminated text; NULL gives the empty slice. */
static inline struct slice slice_text(const char *text)
{
    return slice_of(text, text ? strlen(text) : 0);
}

#define SLICE_LITERAL(text) ((struct slice){.ptr = (text), .len = sizeof(text) - 1})

bool slice_equal(struct slice a, struct slice b);
bool slice_is(struct slice a, const char *text);
bool slice_is_nocase(struct slice a, const char *text); /* ASCII */
struct slice slice_trim(struct slice a); /* without leading and trailing blanks and tabs */
/* A whole decimal number within [min, max]; false leaves *ret untouched. */
bool slice_to_int(struct slice a, int64_t min, int64_t max, int64_t *ret);

struct buffer {
    char *data;
    size_t len;
    size_t capacity;
    size_t max; /* never grows past it */
};

void buffer_init(struct buffer *b, size_t max);
void buffer_done(struct buffer *b);  /* frees; the buffer may be used again after buffer_init */
void buffer_clear(struct buffer *b); /* len = 0, keeps the memory */
/* Makes room for `more` bytes past len. False when that passes max or memory is out; nothing changes then. */
bool buffer_try_reserve(struct buffer *b, size_t more);
/* The same where we choose the size: going past max is a bug. */
void buffer_reserve(struct buffer *b, size_t more);
bool buffer_try_append(struct buffer *b, const void *ptr, size_t len);
void buffer_append(struct buffer *b, const void *ptr, size_t len);
void buffer_append_text(struct buffer *b, const char *text);
void buffer_append_byte(struct buffer *b, char byte);
void buffer_append_uint(struct buffer *b, uint64_t number); /* decimal */
void buffer_printf(struct buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Drops the first `len` bytes, moving the rest down. */
void buffer_consume(struct buffer *b, size_t len);

static inline struct slice buffer_slice(const struct buffer *b)
{
    return slice_of(b->data, b->len);
}

#endif
