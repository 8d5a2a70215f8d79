#include "base/mem.h"

#include "base/bug.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *mem_alloc(size_t size)
{
    void *ptr = calloc(1, size ? size : 1);
    BUG_ON(!ptr);
    return ptr;
}

void *mem_array(size_t count, size_t size)
{
    void *ptr = calloc(count ? count : 1, size);
    BUG_ON(!ptr);
    return ptr;
}

void *mem_resize(void *ptr, size_t count, size_t size)
{
    void *resized = reallocarray(ptr, count ? count : 1, size);
    BUG_ON(!resized);
    return resized;
}

char *mem_strdup(const char *text)
{
    return text ? mem_strndup(text, strlen(text)) : NULL;
}

char *mem_strndup(const char *text, size_t len)
{
    char *copy = mem_alloc(len + 1);
    if (len)
        memcpy(copy, text, len);
    return copy;
}

char *mem_printf(const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int len = vasprintf(&text, format, args);
    va_end(args);
    BUG_ON(len < 0);
    return text;
}
