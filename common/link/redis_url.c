#include "link/redis_url.h"

#include "base/bytes.h"

#include <stdio.h>
#include <string.h>

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* False when it does not fit, or is wrongly encoded, or has a NUL. */
static bool decode(struct slice text, char *ret, size_t size)
{
    size_t len = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (c == '%') {
            int high = i + 2 < text.len ? hex(text.ptr[i + 1]) : -1;
            int low = i + 2 < text.len ? hex(text.ptr[i + 2]) : -1;
            if (high < 0 || low < 0)
                return false;
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (c == '\0' || len + 1 >= size)
            return false;
        ret[len++] = c;
    }
    ret[len] = '\0';
    return true;
}

static bool copy(struct slice text, char *ret, size_t size)
{
    if (text.len >= size)
        return false;
    memcpy(ret, text.ptr, text.len);
    ret[text.len] = '\0';
    return true;
}

static struct slice until(const char *start, const char *end)
{
    return slice_of(start, (size_t)(end - start));
}

/* "[[user]:password@]", returns where the host begins; NULL: wrong. */
static const char *parse_user(const char *at, const char *end, struct redis_url *url)
{
    const char *sign = memrchr(at, '@', (size_t)(end - at));
    if (!sign)
        return at;
    const char *colon = memchr(at, ':', (size_t)(sign - at));
    if (!colon || !decode(until(at, colon), url->user, sizeof(url->user)) ||
        !decode(until(colon + 1, sign), url->password, sizeof(url->password)))
        return NULL;
    return sign + 1;
}

static bool parse_host(const char *at, const char *end, struct redis_url *url)
{
    const char *host_end, *port = NULL;
    if (at < end && *at == '[') {
        host_end = memchr(at, ']', (size_t)(end - at));
        if (!host_end || (host_end + 1 < end && host_end[1] != ':'))
            return false;
        at++;
        port = host_end + 1 < end ? host_end + 2 : NULL;
    } else {
        host_end = memchr(at, ':', (size_t)(end - at));
        port = host_end ? host_end + 1 : NULL;
        host_end = host_end ? host_end : end;
    }
    int64_t number = 6379;
    if (port && !slice_to_int(until(port, end), 1, 65535, &number))
        return false;
    snprintf(url->port, sizeof(url->port), "%u", (unsigned)number % 65536u);
    return host_end > at && copy(until(at, host_end), url->host, sizeof(url->host));
}

int redis_url_parse(const char *text, struct redis_url *ret_url, struct err *err)
{
    struct redis_url url = {.db = "0"};
    if (strncmp(text, "rediss://", 9) == 0)
        return err_set(err, ERR_CONFIG, "redis.url: TLS (rediss://) is not yet supported");
    if (strncmp(text, "redis://", 8) != 0)
        return err_set(err, ERR_CONFIG, "redis.url does not begin with redis://");
    const char *at = text + 8;
    const char *end = at + strcspn(at, "/?#");
    const char *tail = end;
    if (memchr(end, '@', strlen(end)))
        return err_set(err, ERR_CONFIG, "redis.url: percent-encode / ? # in the password");
    at = parse_user(at, end, &url);
    if (!at)
        return err_set(err, ERR_CONFIG, "redis.url: the part before @ is not user:password");
    if (!parse_host(at, end, &url))
        return err_set(err, ERR_CONFIG, "redis.url: not a host and port");
    int64_t db = 0;
    if (*tail == '/' && tail[1] && !slice_to_int(slice_text(tail + 1), 0, 99999, &db))
        return err_set(err, ERR_CONFIG, "redis.url: not a database number");
    if (*tail && *tail != '/')
        return err_set(err, ERR_CONFIG, "redis.url takes no parameters");
    snprintf(url.db, sizeof(url.db), "%u", (unsigned)db % 100000u);
    *ret_url = url;
    return 0;
}
