#include "base/bytes.h"

#include "base/bug.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

bool slice_equal(struct slice a, struct slice b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

bool slice_is(struct slice a, const char *text)
{
    return slice_equal(a, slice_text(text));
}

bool slice_is_nocase(struct slice a, const char *text)
{
    return a.len == strlen(text) && (a.len == 0 || strncasecmp(a.ptr, text, a.len) == 0);
}

struct slice slice_trim(struct slice a)
{
    while (a.len && (a.ptr[0] == ' ' || a.ptr[0] == '\t')) {
        a.ptr++;
        a.len--;
    }
    while (a.len && (a.ptr[a.len - 1] == ' ' || a.ptr[a.len - 1] == '\t'))
        a.len--;
    return a;
}

bool slice_to_int(struct slice a, int64_t min, int64_t max, int64_t *ret)
{
    char text[24];
    if (a.len == 0 || a.len >= sizeof(text))
        return false;
    bool negative = a.ptr[0] == '-';
    if (negative && a.len == 1)
        return false;
    for (size_t i = negative; i < a.len; i++) {
        if (a.ptr[i] < '0' || a.ptr[i] > '9')
            return false;
    }
    if (a.len - negative > 18)
        return false;
    memcpy(text, a.ptr, a.len);
    text[a.len] = '\0';
    int64_t number = strtoll(text, NULL, 10);
    if (number < min || number > max)
        return false;
    *ret = number;
    return true;
}

void buffer_init(struct buffer *b, size_t max)
{
    *b = (struct buffer){.max = max};
}

void buffer_done(struct buffer *b)
{
    free(b->data);
    *b = (struct buffer){.max = b->max};
}

void buffer_clear(struct buffer *b)
{
    b->len = 0;
}

bool buffer_try_reserve(struct buffer *b, size_t more)
{
    if (more > b->max || b->len > b->max - more)
        return false;
    size_t need = b->len + more;
    if (need <= b->capacity)
        return true;
    size_t capacity = b->capacity ? b->capacity : 256;
    while (capacity < need)
        capacity *= 2;
    if (capacity > b->max)
        capacity = b->max;
    char *data = realloc(b->data, capacity);
    if (!data)
        return false;
    b->data = data;
    b->capacity = capacity;
    return true;
}

void buffer_reserve(struct buffer *b, size_t more)
{
    bool ok = buffer_try_reserve(b, more);
    BUG_ON(!ok);
}

bool buffer_try_append(struct buffer *b, const void *ptr, size_t len)
{
    if (!buffer_try_reserve(b, len))
        return false;
    if (len)
        memcpy(b->data + b->len, ptr, len);
    b->len += len;
    return true;
}

void buffer_append(struct buffer *b, const void *ptr, size_t len)
{
    bool ok = buffer_try_append(b, ptr, len);
    BUG_ON(!ok);
}

void buffer_append_text(struct buffer *b, const char *text)
{
    buffer_append(b, text, strlen(text));
}

void buffer_append_byte(struct buffer *b, char byte)
{
    buffer_append(b, &byte, 1);
}

void buffer_append_uint(struct buffer *b, uint64_t number)
{
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    buffer_append(b, digits + at, sizeof(digits) - at);
}

void buffer_printf(struct buffer *b, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    BUG_ON(len < 0);
    buffer_reserve(b, (size_t)len + 1);
    vsnprintf(b->data + b->len, (size_t)len + 1, format, again);
    va_end(again);
    b->len += (size_t)len;
}

void buffer_consume(struct buffer *b, size_t len)
{
    BUG_ON(len > b->len);
    b->len -= len;
    if (len && b->len)
        memmove(b->data, b->data + len, b->len);
}
