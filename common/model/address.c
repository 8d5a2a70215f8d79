/* Owns what counts as a well-formed address or URL (RFC 3986 section 3.2 for the authority). Pure.
 */
#include "model/address.h"

#include <arpa/inet.h>

#define HOST_LEN_MAX 253

static bool alphanumeric(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* Labels of letters, digits, `-` and `_` between dots (RFC 1123; `_` is common in Compose service
 * names). */
static bool host_name(struct slice host)
{
    if (host.len == 0 || host.len > HOST_LEN_MAX)
        return false;
    size_t label = 0;
    for (size_t i = 0; i < host.len; i++) {
        char c = host.ptr[i];
        if (c == '.') {
            if (label == 0)
                return false;
            label = 0;
        } else if (alphanumeric(c) || c == '_' || (c == '-' && label > 0)) {
            if (++label > 63)
                return false;
        } else {
            return false;
        }
    }
    return label > 0;
}

/* A host name, an IPv4 address, or an IPv6 address when it stood in brackets. */
static bool host_check(struct slice host, bool brackets, bool *ret_loopback, bool *ret_name)
{
    char text[HOST_LEN_MAX + 1];
    if (host.len == 0 || host.len > HOST_LEN_MAX)
        return false;
    memcpy(text, host.ptr, host.len);
    text[host.len] = '\0';
    struct in_addr v4;
    struct in6_addr v6;
    if (brackets) {
        if (inet_pton(AF_INET6, text, &v6) != 1)
            return false;
        *ret_loopback =
            IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
        return true;
    }
    if (inet_pton(AF_INET, text, &v4) == 1) {
        *ret_loopback = (ntohl(v4.s_addr) >> 24) == 127;
        return true;
    }
    /* Digits and dots alone are a mistyped IPv4 address, never a name. */
    if (strspn(text, "0123456789.") == host.len || !host_name(host))
        return false;
    *ret_name = true;
    return true;
}

/* Splits "host:port" or "[v6]:port"; without a colon the port is empty. False when a bracket is not
 * closed or something else than a port follows it. */
static bool split(struct slice text, struct slice *ret_host, struct slice *ret_port,
                  bool *ret_brackets, bool *ret_has_port)
{
    const char *end = text.ptr + text.len;
    const char *colon;
    bool brackets = text.len && text.ptr[0] == '[';
    if (brackets) {
        const char *close = memchr(text.ptr, ']', text.len);
        if (!close || (close + 1 < end && close[1] != ':'))
            return false;
        *ret_host = slice_of(text.ptr + 1, (size_t)(close - text.ptr) - 1);
        colon = close + 1 < end ? close + 1 : NULL;
    } else {
        colon = text.len ? memchr(text.ptr, ':', text.len) : NULL;
        *ret_host = slice_of(text.ptr, colon ? (size_t)(colon - text.ptr) : text.len);
    }
    *ret_port = colon ? slice_of(colon + 1, (size_t)(end - colon) - 1) : slice_text("");
    *ret_brackets = brackets;
    *ret_has_port = colon != NULL;
    return true;
}

int address_check(struct slice text, bool *ret_loopback, struct err *err)
{
    struct slice host, port;
    bool brackets, has_port;
    int64_t number;
    if (!split(text, &host, &port, &brackets, &has_port) || !has_port)
        return err_set(err, ERR_CONFIG,
                       "expected address:port, as in 127.0.0.1:8080 or [::1]:8080");
    if (!brackets && port.len && memchr(port.ptr, ':', port.len))
        return err_set(err, ERR_CONFIG, "an IPv6 address stands in brackets, as in [::1]:8080");
    if (host.len == 0)
        return err_set(err, ERR_CONFIG, "the address before the port is missing");
    bool loopback = false, name = false;
    if (!host_check(host, brackets, &loopback, &name) || name)
        return err_set(err, ERR_CONFIG,
                       "a listener has a numeric address, as in 127.0.0.1:8080 or [::1]:8080");
    if (!slice_to_int(port, 0, 65535, &number))
        return err_set(err, ERR_CONFIG, "the port must be a number from 0 to 65535");
    *ret_loopback = loopback;
    return 0;
}

static bool starts_with(struct slice text, const char *prefix, struct slice *ret_rest)
{
    size_t len = strlen(prefix);
    if (text.len < len || memcmp(text.ptr, prefix, len) != 0)
        return false;
    *ret_rest = slice_of(text.ptr + len, text.len - len);
    return true;
}

static int strip_scheme(enum url_kind kind, struct slice text, struct slice *ret_rest,
                        struct err *err)
{
    switch (kind) {
    case URL_HTTP:
        if (starts_with(text, "http://", ret_rest) || starts_with(text, "https://", ret_rest))
            return 0;
        return err_set(err, ERR_CONFIG, "the URL must start with http:// or https://");
    case URL_REDIS:
        if (starts_with(text, "rediss://", ret_rest))
            return err_set(err, ERR_CONFIG, "TLS to Redis (rediss://) is not yet supported");
        if (starts_with(text, "redis://", ret_rest))
            return 0;
        return err_set(err, ERR_CONFIG, "the URL must start with redis://");
    case URL_POSTGRES:
        if (starts_with(text, "postgresql://", ret_rest) ||
            starts_with(text, "postgres://", ret_rest))
            return 0;
        return err_set(err, ERR_CONFIG, "the URL must start with postgresql://");
    }
    return err_set(err, ERR_CONFIG, "unknown kind of URL");
}

/* What stands before the first of `stops`; *text moves behind it, onto the stop. */
static struct slice take_until(struct slice *text, const char *stops)
{
    size_t len = 0;
    while (len < text->len && !strchr(stops, text->ptr[len]))
        len++;
    struct slice taken = slice_of(text->ptr, len);
    *text = slice_of(text->ptr + len, text->len - len);
    return taken;
}

static int host_and_port_check(enum url_kind kind, struct slice text, struct err *err)
{
    struct slice host, port;
    bool brackets, has_port, loopback, name;
    int64_t number;
    if (!split(text, &host, &port, &brackets, &has_port))
        return err_set(err, ERR_CONFIG, "the URL's host is malformed");
    if (has_port && !slice_to_int(port, 1, 65535, &number))
        return err_set(err, ERR_CONFIG, "the URL's port must be a number from 1 to 65535");
    /* libpq: no host is the local socket or named in the query, %2F… is a socket's folder. */
    if (kind == URL_POSTGRES && !brackets && (host.len == 0 || host.ptr[0] == '%'))
        return 0;
    if (!host_check(host, brackets, &loopback, &name))
        return err_set(err, ERR_CONFIG, "the URL's host is missing or malformed");
    return 0;
}

static int authority_check(enum url_kind kind, struct slice authority, struct err *err)
{
    /* The user part ends at the last @ (a password may hold an unescaped one). */
    for (size_t i = authority.len; i > 0; i--) {
        if (authority.ptr[i - 1] == '@') {
            if (kind == URL_REDIS && !memchr(authority.ptr, ':', i))
                return err_set(err, ERR_CONFIG, "a Redis URL's user part is [user]:password@");
            authority = slice_of(authority.ptr + i, authority.len - i);
            break;
        }
    }
    if (kind != URL_POSTGRES)
        return host_and_port_check(kind, authority, err);
    /* libpq takes several hosts between commas. */
    for (;;) {
        if (host_and_port_check(kind, take_until(&authority, ","), err))
            return -1;
        if (authority.len == 0)
            return 0;
        authority = slice_of(authority.ptr + 1, authority.len - 1);
    }
}

static bool hexadecimal(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* RFC 3986 section 2.1. */
static bool percent_encoded(struct slice text)
{
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] == '%' &&
            (i + 2 >= text.len || !hexadecimal(text.ptr[i + 1]) || !hexadecimal(text.ptr[i + 2])))
            return false;
    }
    return true;
}

int url_check(enum url_kind kind, struct slice text, struct err *err)
{
    for (size_t i = 0; i < text.len; i++) {
        unsigned char byte = (unsigned char)text.ptr[i];
        if (byte <= ' ' || byte == 0x7F)
            return err_set(err, ERR_CONFIG, "a URL holds no blanks or control characters");
    }
    if (!percent_encoded(text))
        return err_set(err, ERR_CONFIG, "a %% in a URL is followed by two hexadecimal digits");
    struct slice rest = text;
    if (strip_scheme(kind, text, &rest, err))
        return -1;
    struct slice authority = take_until(&rest, "/?#");
    if (authority_check(kind, authority, err))
        return -1;
    if (kind != URL_REDIS || rest.len == 0 || slice_is(rest, "/"))
        return 0;
    int64_t database;
    if (rest.ptr[0] != '/' ||
        !slice_to_int(slice_of(rest.ptr + 1, rest.len - 1), 0, 65535, &database))
        return err_set(err, ERR_CONFIG, "a Redis URL ends with /DATABASE, a number");
    return 0;
}
