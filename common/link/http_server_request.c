/* What a handler asks of a request. Owns nothing, waits for nothing; the target was checked when
 * the head was whole, so decoding cannot fail here. */
#include "link/http_server_internal.h"

struct slice http_request_span(const struct http_request *request, struct http_span span)
{
    return slice_of(request->head.data ? request->head.data + span.at : NULL, span.len);
}

static int hex_digit(char byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    if (byte >= 'a' && byte <= 'f')
        return byte - 'a' + 10;
    if (byte >= 'A' && byte <= 'F')
        return byte - 'A' + 10;
    return -1;
}

/* Printable ASCII, each '%' followed by two hexadecimal digits, no encoded NUL. */
static bool target_valid(struct slice target)
{
    for (size_t i = 0; i < target.len; i++) {
        unsigned char byte = (unsigned char)target.ptr[i];
        if (byte <= 0x20 || byte >= 0x7f)
            return false;
        if (byte != '%')
            continue;
        if (target.len - i < 3 || hex_digit(target.ptr[i + 1]) < 0 ||
            hex_digit(target.ptr[i + 2]) < 0)
            return false;
        if (target.ptr[i + 1] == '0' && target.ptr[i + 2] == '0')
            return false;
    }
    return true;
}

/* Decodes to `out`, which may be where `text` is; returns the length. */
static size_t decode(struct slice text, bool plus_is_blank, char *out)
{
    size_t len = 0;
    for (size_t i = 0; i < text.len; i++) {
        char byte = text.ptr[i];
        if (byte == '%') {
            byte = (char)(hex_digit(text.ptr[i + 1]) << 4 | hex_digit(text.ptr[i + 2]));
            i += 2;
        } else if (byte == '+' && plus_is_blank) {
            byte = ' ';
        }
        out[len++] = byte;
    }
    return len;
}

static struct http_span span_within(struct http_span whole, size_t from, size_t to)
{
    return (struct http_span){.at = whole.at + (uint32_t)from, .len = (uint32_t)(to - from)};
}

static size_t find(struct slice text, size_t from, char byte)
{
    while (from < text.len && text.ptr[from] != byte)
        from++;
    return from;
}

/* RFC 9112 section 3.2: "/path?query", "http://host/path?query" as proxies write it, "*". */
bool http_request_set_target(struct http_request *request)
{
    struct slice target = http_request_span(request, request->target);
    if (!target_valid(target))
        return false;
    size_t from = 0;
    if (slice_is(target, "*")) {
        request->path = request->target;
        return request->method == HTTP_METHOD_OTHER;
    }
    if (target.len && target.ptr[0] != '/') {
        static const char *const schemes[] = {"http://", "https://"};
        for (size_t i = 0; i < 2 && from == 0; i++) {
            size_t len = strlen(schemes[i]);
            if (target.len > len && slice_is_nocase(slice_of(target.ptr, len), schemes[i]))
                from = find(target, len, '/');
        }
        if (from == 0)
            return false;
    }
    if (from >= target.len)
        return false;
    size_t end = find(target, 0, '#'); /* no client sends a fragment; none reaches a handler */
    size_t question = find(slice_of(target.ptr, end), from, '?');
    if (question < from || end < from)
        return false;
    request->path = span_within(request->target, from, question);
    request->query = span_within(request->target, question < end ? question + 1 : end, end);
    char *path = request->head.data + request->path.at;
    request->path.len = (uint32_t)decode(slice_of(path, request->path.len), false, path);
    return true;
}

enum http_method http_request_method(const struct http_request *request)
{
    return request->method;
}

struct slice http_request_path(const struct http_request *request)
{
    return http_request_span(request, request->path);
}

static bool key_is(struct slice key, const char *name)
{
    size_t len = strlen(name);
    char decoded[64];
    if (key.len > sizeof(decoded) || key.len < len)
        return false;
    return slice_equal(slice_of(decoded, decode(key, true, decoded)), slice_of(name, len));
}

bool http_request_query(const struct http_request *request, const char *name,
                        struct slice *ret_value)
{
    struct slice query = http_request_span(request, request->query);
    for (size_t from = 0; from < query.len;) {
        size_t end = find(query, from, '&');
        size_t equals = find(slice_of(query.ptr, end), from, '=');
        struct slice key = slice_of(query.ptr + from, equals - from);
        from = end + 1;
        if (!key_is(key, name))
            continue;
        struct slice value = slice_of(query.ptr + equals, end - equals);
        if (value.len)
            value = slice_of(value.ptr + 1, value.len - 1); /* without the '=' */
        /* Decoded texts live as long as the request; its arena is no part of what the caller sees
         * as constant. */
        char *decoded = arena_alloc((struct arena *)&request->arena, value.len + 1);
        *ret_value = slice_of(decoded, decode(value, true, decoded));
        return true;
    }
    return false;
}

bool http_request_next_header(const struct http_request *request, const char *name, unsigned *at,
                              struct slice *ret_value)
{
    while (*at < request->field_count) {
        const struct http_field *field = &request->fields[(*at)++];
        if (slice_is_nocase(http_request_span(request, field->name), name)) {
            *ret_value = slice_trim(http_request_span(request, field->value));
            return true;
        }
    }
    return false;
}

bool http_request_header(const struct http_request *request, const char *name,
                         struct slice *ret_value)
{
    unsigned at = 0;
    return http_request_next_header(request, name, &at, ret_value);
}

struct slice http_request_body(const struct http_request *request)
{
    return buffer_slice(&request->body);
}

void http_request_set_data(struct http_request *request, void *data)
{
    request->data = data;
}

void *http_request_data(const struct http_request *request)
{
    return request->data;
}
