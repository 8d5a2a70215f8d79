/* preference *( "," preference ); preference = token [ "=" word ] *( ";" [ parameter ] ); a word is a token or a quoted string.
 * One pass; a preference that breaks the grammar ends at the next comma that is not quoted. */
#include "prefer.h"

static bool is_token_byte(char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
           (byte >= '0' && byte <= '9') || (byte && strchr("!#$%&'*+-.^_`|~", byte));
}

static void advance(struct slice *rest, size_t len)
{
    *rest = slice_of(rest->ptr + len, rest->len - len);
}

static char peek(const struct slice *rest)
{
    return rest->len ? rest->ptr[0] : '\0';
}

static void skip_blanks(struct slice *rest)
{
    while (peek(rest) == ' ' || peek(rest) == '\t')
        advance(rest, 1);
}

static bool skip_byte(struct slice *rest, char byte)
{
    skip_blanks(rest);
    if (!rest->len || rest->ptr[0] != byte)
        return false;
    advance(rest, 1);
    return true;
}

static struct slice take_token(struct slice *rest)
{
    struct slice token = slice_of(rest->ptr, 0);
    while (token.len < rest->len && is_token_byte(rest->ptr[token.len]))
        token.len++;
    advance(rest, token.len);
    return token;
}

/* What stands between the quotes, escapes as they are: none of our values has one. False without the second quote. */
static bool take_quoted(struct slice *rest, struct slice *ret)
{
    advance(rest, 1);
    for (size_t i = 0; i < rest->len; i++) {
        if (rest->ptr[i] == '\\') {
            i++;
        } else if (rest->ptr[i] == '"') {
            *ret = slice_of(rest->ptr, i);
            advance(rest, i + 1);
            return true;
        }
    }
    *rest = slice_of(NULL, 0);
    return false;
}

/* [ "=" word ]; false when there is none after the sign. */
static bool take_value(struct slice *rest, struct slice *ret)
{
    *ret = slice_of(NULL, 0);
    if (!skip_byte(rest, '='))
        return true;
    skip_blanks(rest);
    if (peek(rest) == '"')
        return take_quoted(rest, ret);
    *ret = take_token(rest);
    return ret->len > 0;
}

/* To the next comma, which is skipped too. */
static void skip_preference(struct slice *rest)
{
    struct slice ignored;
    while (rest->len && rest->ptr[0] != ',') {
        if (rest->ptr[0] == '"')
            take_quoted(rest, &ignored);
        else
            advance(rest, 1);
    }
    if (rest->len)
        advance(rest, 1);
}

/* *( ";" [ parameter ] ) up to a comma or the end. */
static bool skip_parameters(struct slice *rest)
{
    struct slice ignored;
    while (skip_byte(rest, ';')) {
        skip_blanks(rest);
        if (take_token(rest).len && !take_value(rest, &ignored))
            return false;
    }
    skip_blanks(rest);
    return !rest->len || rest->ptr[0] == ',';
}

static bool is_digits(struct slice text)
{
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9')
            return false;
    }
    return text.len > 0;
}

static void note(struct prefer *prefer, struct slice name, struct slice value)
{
    int64_t seconds;
    if (slice_is_nocase(name, "respond-async") && value.len == 0) {
        prefer->respond_async = true;
    } else if (slice_is_nocase(name, "wait") && !prefer->has_wait && is_digits(value)) {
        if (!slice_to_int(value, 0, PREFER_WAIT_MAX_S, &seconds))
            seconds = PREFER_WAIT_MAX_S;
        prefer->has_wait = true;
        prefer->wait_s = seconds;
    }
}

void prefer_read(struct slice header, struct prefer *prefer)
{
    struct slice rest = header, value;
    while (rest.len) {
        skip_blanks(&rest);
        struct slice name = take_token(&rest);
        if (name.len && take_value(&rest, &value) && skip_parameters(&rest))
            note(prefer, name, value);
        skip_preference(&rest);
    }
}
