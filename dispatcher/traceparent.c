#include "traceparent.h"

static bool is_hex(struct slice digits)
{
    for (size_t i = 0; i < digits.len; i++) {
        char c = digits.ptr[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
    }
    return true;
}

static bool is_zero(struct slice digits)
{
    size_t i = 0;
    while (i < digits.len && digits.ptr[i] == '0')
        i++;
    return i == digits.len;
}

bool traceparent_is_valid(struct slice value)
{
    static const size_t lengths[] = {2, 32, 16, 2};
    struct slice parts[4];
    size_t at = 0;
    for (size_t i = 0; i < 4; i++) {
        if (at + lengths[i] > value.len || (i > 0 && value.ptr[at - 1] != '-'))
            return false;
        parts[i] = slice_of(value.ptr + at, lengths[i]);
        if (!is_hex(parts[i]))
            return false;
        at += lengths[i] + 1;
    }
    return at == value.len + 1 && !slice_is(parts[0], "ff") && !is_zero(parts[1]) &&
           !is_zero(parts[2]);
}
