/* Owns the replacement of ${NAME} in one value. Reads the environment and nothing else; fails on a
 * variable that is not set, on a malformed ${…} and on a value past its bound. */
#include "model/environment.h"

#include <stdlib.h>

#define NAME_MAX_LEN 128

const char *environment_get(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static bool name_byte(char c, bool first)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' ||
           (!first && c >= '0' && c <= '9');
}

/* The value of what stands between `${` and `}`. */
static int look_up(struct slice inside, struct slice *ret_value, struct err *err)
{
    char name[NAME_MAX_LEN + 1];
    size_t len = 0;
    while (len < inside.len && len < NAME_MAX_LEN && name_byte(inside.ptr[len], len == 0)) {
        name[len] = inside.ptr[len];
        len++;
    }
    name[len] = '\0';
    struct slice rest = slice_of(inside.ptr + len, inside.len - len);
    bool fallback = rest.len >= 2 && memcmp(rest.ptr, ":-", 2) == 0;
    if (len == 0 || (rest.len && !fallback))
        return err_set(err, ERR_CONFIG, "malformed ${…}: expected ${NAME} or ${NAME:-default}");
    if (fallback && memmem(rest.ptr, rest.len, "${", 2))
        return err_set(err, ERR_CONFIG, "a ${…} cannot stand in the default of another");
    const char *value = getenv(name);
    if (fallback && (!value || !*value)) {
        *ret_value = slice_of(rest.ptr + 2, rest.len - 2);
        return 0;
    }
    if (!value)
        return err_set(err, ERR_CONFIG, "the environment variable %s is not set", name);
    *ret_value = slice_text(value);
    return 0;
}

static int expand(struct slice text, struct buffer *out, bool *ret_replaced, struct err *err)
{
    for (size_t at = 0; at < text.len;) {
        size_t left = text.len - at;
        const char *here = text.ptr + at;
        struct slice piece = slice_of(here, 1);
        if (left >= 3 && memcmp(here, "$${", 3) == 0) {
            piece = slice_text("${");
            at += 3;
        } else if (left >= 2 && memcmp(here, "${", 2) == 0) {
            const char *close = memchr(here, '}', left);
            if (!close)
                return err_set(err, ERR_CONFIG, "malformed ${…}: there is no closing }");
            struct slice inside = slice_of(here + 2, (size_t)(close - here) - 2);
            if (look_up(inside, &piece, err))
                return -1;
            *ret_replaced = true;
            at += inside.len + 3;
        } else {
            at++;
        }
        if (!buffer_try_append(out, piece.ptr, piece.len))
            return err_set(err, ERR_CONFIG, "longer than %u bytes", VALUE_BYTES_MAX);
    }
    return 0;
}

int environment_expand(struct slice text, struct arena *arena, struct slice *ret_text,
                       bool *ret_replaced, struct err *err)
{
    if (text.len > VALUE_BYTES_MAX)
        return err_set(err, ERR_CONFIG, "longer than %u bytes", VALUE_BYTES_MAX);
    struct slice result = text;
    bool replaced = false;
    if (text.len && memmem(text.ptr, text.len, "${", 2)) {
        struct buffer out;
        buffer_init(&out, VALUE_BYTES_MAX);
        if (expand(text, &out, &replaced, err)) {
            buffer_done(&out);
            return -1;
        }
        result = arena_copy(arena, buffer_slice(&out));
        buffer_done(&out);
    }
    *ret_text = result;
    *ret_replaced = replaced;
    return 0;
}
