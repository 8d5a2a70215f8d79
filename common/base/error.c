#include "base/error.h"

#include "base/bug.h"

#include <stdarg.h>
#include <stdio.h>

static const struct {
    const char *word;
    enum error_class class;
} table[ERR_COUNT] = {
#define X(code, word_, class_) [code] = {word_, class_},
    ERROR_TABLE(X)
#undef X
};

const char *error_word(enum error_code code)
{
    BUG_ON((unsigned)code >= ERR_COUNT);
    return table[code].word;
}

enum error_class error_class_of(enum error_code code)
{
    BUG_ON((unsigned)code >= ERR_COUNT);
    return table[code].class;
}

int err_set(struct err *err, enum error_code code, const char *format, ...)
{
    if (!err)
        return -1;
    err->code = code;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
    return -1;
}

void err_clear(struct err *err)
{
    err->code = ERR_NONE;
    err->text[0] = '\0';
}
