/* Bytes to a request. Owns the request while it grows: its head and body buffers, counted in the
 * server's memory; nothing grows faster than bytes arrive. What is wrong with a request is noted in
 * `refused`; the connection answers it.
 *
 * The parser library finds the structure (RFC 9112). Distributions build it without its strict
 * checks, so what two parsers could read in two ways is checked here, before a handler sees
 * anything: CR and LF only as pairs, no folded lines, no control bytes, field names of token
 * characters, one Host, one framing header, chunked as the only transfer coding. */
#include "link/http_server_internal.h"

#include "base/bug.h"
#include "base/mem.h"

#include <stdlib.h>

static struct http_request *owner(http_parser *parser)
{
    return parser->data;
}

enum http_parse_step http_parse_refuse(struct http_request *request, int status, const char *why)
{
    if (!request->refused) {
        request->refused = status;
        request->refused_why = why;
    }
    return PARSE_REFUSED;
}

/* The callbacks' form of it: the parser stops. */
static int refuse(struct http_request *request, int status, const char *why)
{
    http_parse_refuse(request, status, why);
    return -1;
}

/* ---- memory ---- */

static void charge(struct http_request *request)
{
    size_t now = sizeof(*request) + request->head.capacity + request->body.capacity;
    request->server->memory += now - request->charged;
    request->charged = now;
}

struct http_request *http_request_new(struct http_conn *conn)
{
    struct http_request *request = mem_alloc(sizeof(*request));
    request->server = conn->server;
    request->conn = conn;
    buffer_init(&request->head, conn->server->options.max_head);
    buffer_init(&request->body, conn->server->options.max_body);
    arena_init(&request->arena);
    http_parser_init(&request->parser, HTTP_REQUEST);
    request->parser.data = request;
    request->framing = FRAMING_LINE;
    request->in_request_line = true;
    charge(request);
    TAILQ_INSERT_TAIL(&conn->server->requests, request, entry);
    return request;
}

void http_request_free(struct http_request *request)
{
    if (request->server) {
        request->server->memory -= request->charged;
        TAILQ_REMOVE(&request->server->requests, request, entry);
    }
    arena_done(&request->arena);
    buffer_done(&request->head);
    buffer_done(&request->body);
    free(request);
}

/* Room for the next bytes of the body, within the budget of all requests. A known length is
 * allocated at once as far as HTTP_BODY_STEP, from there on the buffer doubles. */
static bool reserve_body(struct http_request *request, size_t len)
{
    const struct http_server *server = request->server;
    struct buffer *body = &request->body;
    if (body->len + len <= body->capacity)
        return true;
    size_t more = len;
    if (body->len == 0 && !request->chunked) {
        size_t step = body->max < HTTP_BODY_STEP ? body->max : HTTP_BODY_STEP;
        more = step > len ? step : len;
    }
    size_t growth = body->capacity > more ? body->capacity : more;
    if (server->memory + growth > server->options.memory_budget || !buffer_try_reserve(body, more))
        return false;
    charge(request);
    return true;
}

/* ---- framing: every byte that is not body ---- */

static bool framing_byte(struct http_request *request, unsigned char byte)
{
    switch (request->framing) {
    case FRAMING_CR:
        request->framing = FRAMING_LINE_START;
        return byte == '\n';
    case FRAMING_AFTER_CHUNK:
        request->framing = FRAMING_CR;
        return byte == '\r';
    case FRAMING_LINE_START:
        if (byte == ' ' || byte == '\t')
            return false; /* a folded line */
        break;
    case FRAMING_LINE:
        break;
    }
    request->framing = FRAMING_LINE;
    if (byte == '\r') {
        request->framing = FRAMING_CR;
        if (request->in_request_line) {
            request->in_request_line = false;
            return request->line_tail >> 24 == 0x485454502fu; /* "HTTP/" before the version */
        }
        return true;
    }
    if (request->in_request_line)
        request->line_tail = request->line_tail << 8 | byte;
    return byte == '\t' || (byte >= 0x20 && byte != 0x7f);
}

/* Checks from `unchecked` to `end`. */
static bool check_framing(struct http_request *request, const char *end)
{
    size_t len = (size_t)(end - request->unchecked);
    for (const char *at = request->unchecked; at < end; at++) {
        if (!framing_byte(request, (unsigned char)*at))
            return false;
    }
    request->unchecked = end;
    if (!request->head_done) {
        request->head_len += len;
        return true;
    }
    /* A chunk of one byte has five bytes around it; more than that is extensions and trailers. */
    request->framing_len += len;
    return request->framing_len <= request->server->options.max_head + 8 * request->body.len;
}

/* ---- the parser's callbacks ---- */

static int append(struct http_request *request, struct http_span *span, const char *at, size_t len)
{
    if (!buffer_try_append(&request->head, at, len))
        return refuse(request, 431, "the request line and the header fields are too large");
    span->len += (uint32_t)len;
    return 0;
}

static int on_url(http_parser *parser, const char *at, size_t len)
{
    struct http_request *request = owner(parser);
    return append(request, &request->target, at, len);
}

/* RFC 9110 section 5.6.2 */
static bool is_token_byte(unsigned char byte)
{
    return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') ||
           (byte >= 'A' && byte <= 'Z') || (byte && strchr("!#$%&'*+-.^_`|~", byte));
}

static int on_field(http_parser *parser, const char *at, size_t len)
{
    struct http_request *request = owner(parser);
    if (request->head_done)
        return 0; /* a trailer: bounded by check_framing, not kept */
    for (size_t i = 0; i < len; i++) {
        if (!is_token_byte((unsigned char)at[i]))
            return refuse(request, 400, "a header field's name has an invalid character");
    }
    if (request->part != PART_NAME) {
        if (request->field_count == HTTP_MAX_FIELDS)
            return refuse(request, 431, "too many header fields");
        request->fields[request->field_count++].name.at = (uint32_t)request->head.len;
        request->part = PART_NAME;
    }
    return append(request, &request->fields[request->field_count - 1].name, at, len);
}

static int on_value(http_parser *parser, const char *at, size_t len)
{
    struct http_request *request = owner(parser);
    if (request->head_done)
        return 0;
    struct http_span *value = &request->fields[request->field_count - 1].value;
    if (request->part != PART_VALUE) {
        value->at = (uint32_t)request->head.len;
        request->part = PART_VALUE;
    }
    return append(request, value, at, len);
}

static int on_head(http_parser *parser)
{
    owner(parser)->head_done = true;
    parser->upgrade = 0; /* an offer to change the protocol is not taken up: RFC 9110 section 7.8 */
    http_parser_pause(parser, 1);
    return 0;
}

static int on_chunk(http_parser *parser)
{
    struct http_request *request = owner(parser);
    if (parser->content_length > request->body.max - request->body.len)
        return refuse(request, 413, "the body is too large");
    return 0;
}

static int on_body(http_parser *parser, const char *at, size_t len)
{
    struct http_request *request = owner(parser);
    if (!check_framing(request, at))
        return refuse(request, 400, "the chunked body is malformed");
    request->unchecked = at + len;
    if (request->chunked)
        request->framing = FRAMING_AFTER_CHUNK;
    if (len > request->body.max - request->body.len)
        return refuse(request, 413, "the body is too large");
    if (!reserve_body(request, len))
        return refuse(request, 503, "too many requests are being received");
    buffer_append(&request->body, at, len);
    return 0;
}

static int on_whole(http_parser *parser)
{
    owner(parser)->whole = true;
    http_parser_pause(parser, 1);
    return 0;
}

static const http_parser_settings callbacks = {
    .on_url = on_url,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_headers_complete = on_head,
    .on_chunk_header = on_chunk,
    .on_body = on_body,
    .on_message_complete = on_whole,
};

/* ---- the head as a whole ---- */

static unsigned count_fields(const struct http_request *request, const char *name,
                             struct slice *ret_value)
{
    unsigned count = 0;
    for (unsigned i = 0; i < request->field_count; i++) {
        if (slice_is_nocase(http_request_span(request, request->fields[i].name), name)) {
            *ret_value = slice_trim(http_request_span(request, request->fields[i].value));
            count++;
        }
    }
    return count;
}

static enum http_method method_of(const http_parser *parser)
{
    switch (parser->method) {
    case HTTP_GET:
        return HTTP_METHOD_GET;
    case HTTP_POST:
        return HTTP_METHOD_POST;
    case HTTP_PUT:
        return HTTP_METHOD_PUT;
    case HTTP_DELETE:
        return HTTP_METHOD_DELETE;
    case HTTP_HEAD:
        return HTTP_METHOD_HEAD;
    default:
        return HTTP_METHOD_OTHER;
    }
}

/* How long the body is and whether it is wanted: RFC 9112 section 6.3, RFC 9110 section 10.1.1. */
static enum http_parse_step check_body(struct http_request *request)
{
    const http_parser *parser = &request->parser;
    const struct http_server *server = request->server;
    struct slice value;
    unsigned codings = count_fields(request, "transfer-encoding", &value);
    if (codings && parser->http_minor == 0)
        return http_parse_refuse(request, 400, "HTTP/1.0 has no transfer codings");
    if (codings && (codings > 1 || !slice_is_nocase(value, "chunked")))
        return http_parse_refuse(request, 501, "chunked is the only transfer coding here");
    request->chunked = codings;
    uint64_t len = parser->flags & F_CONTENTLENGTH ? parser->content_length : 0;
    bool has_body = codings || len > 0;

    unsigned expectations = count_fields(request, "expect", &value);
    if (expectations && parser->http_minor > 0) {
        if (expectations > 1 || !slice_is_nocase(value, "100-continue"))
            return http_parse_refuse(request, 417, "100-continue is the only expectation here");
        request->expects_continue = has_body;
    }
    if (len > server->options.max_body)
        return http_parse_refuse(request, 413, "the body is too large");
    if (has_body && server->memory + len > server->options.memory_budget)
        return http_parse_refuse(request, 503, "too many requests are being received");
    if (!request->chunked)
        request->body.max = (size_t)len;
    return PARSE_HEAD;
}

static enum http_parse_step check_head(struct http_request *request)
{
    const http_parser *parser = &request->parser;
    struct slice value;
    request->method = method_of(parser);
    request->keep_alive = http_should_keep_alive(parser);
    if (parser->http_major != 1 || parser->http_minor > 1)
        return http_parse_refuse(request, 505, "HTTP/1.1 and HTTP/1.0 are spoken here");
    unsigned hosts = count_fields(request, "host", &value);
    if (hosts > 1 || (hosts == 0 && parser->http_minor > 0))
        return http_parse_refuse(request, 400, "there must be one Host header field");
    if (!http_request_set_target(request))
        return http_parse_refuse(request, 400, "the request target is malformed");
    return check_body(request);
}

enum http_parse_step http_parse_feed(struct http_request *request, const char *data, size_t len,
                                     size_t *ret_used)
{
    BUG_ON(request->whole || request->refused);
    bool in_head = !request->head_done;
    size_t left = request->server->options.max_head - request->head_len;
    if (in_head && len > left)
        len = left;
    request->unchecked = data;
    size_t used = http_parser_execute(&request->parser, &callbacks, data, len);
    *ret_used = used;
    charge(request);
    if (request->refused)
        return PARSE_REFUSED;
    enum http_errno failed = HTTP_PARSER_ERRNO(&request->parser);
    if (failed == HPE_HEADER_OVERFLOW)
        return http_parse_refuse(request, 431,
                                 "the request line and the header fields are too large");
    if (failed != HPE_OK && failed != HPE_PAUSED)
        return http_parse_refuse(request, 400, "this is not a request of HTTP/1.1");
    http_parser_pause(&request->parser, 0);
    if (!check_framing(request, data + used))
        return http_parse_refuse(request, 400,
                                 in_head ? "the head has an invalid line end or byte"
                                         : "the chunked body is malformed");
    if (request->whole)
        return PARSE_WHOLE;
    if (in_head && request->head_done)
        return check_head(request);
    if (in_head && request->head_len >= request->server->options.max_head)
        return http_parse_refuse(request, 431,
                                 "the request line and the header fields are too large");
    return PARSE_MORE;
}
