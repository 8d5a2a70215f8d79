/* Answers: the head as text, RFC 9457 errors. Owns nothing but the server's scratch buffer while it
 * writes; values that handlers pass are capped and cleaned, so that no answer can be split in two.
 */
#include "link/http_server_internal.h"

#include "base/bug.h"
#include "base/clock.h"
#include "link/json_text.h"

#include <stdio.h>
#include <time.h>

enum { MAX_HEADERS = 32, MAX_VALUE = 8192 };

/* RFC 9110 section 5.6.7, made once a second. */
static const char *date_now(struct http_server *server)
{
    int64_t now_s = clock_wall_ms() / 1000;
    if (now_s != server->date_s) {
        time_t t = (time_t)now_s;
        struct tm tm;
        gmtime_r(&t, &tm);
        strftime(server->date, sizeof(server->date), "%a, %d %b %Y %H:%M:%S GMT", &tm);
        server->date_s = now_s;
    }
    return server->date;
}

static void append_value(struct buffer *out, struct slice value)
{
    if (value.len > MAX_VALUE)
        value.len = MAX_VALUE;
    buffer_append(out, value.ptr, value.len);
    for (size_t i = out->len - value.len; i < out->len; i++) {
        unsigned char byte = (unsigned char)out->data[i];
        if ((byte < 0x20 && byte != '\t') || byte == 0x7f)
            out->data[i] = ' ';
    }
}

static void append_header(struct buffer *out, const char *name, struct slice value)
{
    buffer_append_text(out, name);
    buffer_append(out, ": ", 2);
    append_value(out, value);
    buffer_append(out, "\r\n", 2);
}

static bool has_no_body(int status)
{
    return status < 200 || status == 204 || status == 304;
}

static const char *reason_of(int status)
{
    return http_status_str((enum http_status)status);
}

struct slice http_answer_compose(struct http_server *server, const struct http_answer_head *head)
{
    struct buffer *out = &server->scratch;
    BUG_ON(head->header_count > MAX_HEADERS || head->status < 200 || head->status > 599);
    buffer_clear(out);
    buffer_append_text(out, "HTTP/1.1 ");
    buffer_append_uint(out, (uint64_t)head->status);
    buffer_append_byte(out, ' ');
    buffer_append_text(out, reason_of(head->status));
    buffer_append_text(out, "\r\nDate: ");
    buffer_append_text(out, date_now(server));
    buffer_append(out, "\r\n", 2);
    if (head->content_type)
        append_header(out, "Content-Type", slice_text(head->content_type));
    if (!has_no_body(head->status)) {
        buffer_append_text(out, "Content-Length: ");
        buffer_append_uint(out, head->body_len);
        buffer_append(out, "\r\n", 2);
    }
    for (size_t i = 0; i < head->header_count; i++)
        append_header(out, head->headers[i].name, head->headers[i].value);
    if (!head->keep_alive)
        buffer_append_text(out, "Connection: close\r\n");
    else if (head->http_1_0)
        buffer_append_text(out, "Connection: keep-alive\r\n");
    buffer_append(out, "\r\n", 2);
    return buffer_slice(out);
}

/* An error takes as much as a small body does. The request's own memory is free again by then. */
static bool has_room(const struct http_server *server, const struct http_request *request,
                     struct slice body)
{
    return body.len <= HTTP_PROBLEM_MAX ||
           server->memory - request->charged + body.len <= server->options.memory_budget;
}

static void answer_no_room(struct http_request *request, const struct http_header *headers,
                           size_t header_count)
{
    char id[128] = "";
    for (size_t i = 0; i < header_count; i++) {
        if (strcmp(headers[i].name, "X-Correlation-ID") == 0)
            snprintf(id, sizeof(id), "%.*s", (int)headers[i].value.len, headers[i].value.ptr);
    }
    http_answer_problem(request, 503, "too many bytes of answers are unread; ask for it again",
                        id[0] ? id : NULL, 1);
}

void http_answer(struct http_request *request, int status, const char *content_type,
                 struct slice body, const struct http_header *headers, size_t header_count)
{
    struct http_conn *conn = request->conn;
    if (!conn) { /* nobody is there to read it */
        http_request_free(request);
        return;
    }
    if (request->method != HTTP_METHOD_HEAD && !has_room(conn->server, request, body)) {
        answer_no_room(request, headers, header_count);
        return;
    }
    struct http_answer_head head = {
        .status = status,
        .content_type = content_type,
        .body_len = body.len,
        .headers = headers,
        .header_count = header_count,
        .keep_alive = request->keep_alive && conn->server->listener,
        .http_1_0 = request->parser.http_minor == 0,
    };
    struct slice composed = http_answer_compose(conn->server, &head);
    if (request->method == HTTP_METHOD_HEAD || has_no_body(status))
        body = slice_of(NULL, 0);
    http_conn_answer(conn, composed, body, head.keep_alive);
}

void http_problem_body(struct buffer *ret_body, int status, const char *detail,
                       const char *correlation_id)
{
    struct slice text = slice_text(detail), id = slice_text(correlation_id);
    if (text.len > 1024)
        text.len = 1024;
    if (id.len > 128)
        id.len = 128;
    buffer_append_text(ret_body, "{\"type\":\"about:blank\",\"title\":");
    json_text_append(ret_body, slice_text(reason_of(status)));
    buffer_append_text(ret_body, ",\"status\":");
    buffer_append_uint(ret_body, (uint64_t)status);
    if (text.len) {
        buffer_append_text(ret_body, ",\"detail\":");
        json_text_append(ret_body, text);
    }
    if (id.len) {
        buffer_append_text(ret_body, ",\"correlation_id\":");
        json_text_append(ret_body, id);
    }
    buffer_append_byte(ret_body, '}');
}

void http_answer_problem(struct http_request *request, int status, const char *detail,
                         const char *correlation_id, int retry_after_s)
{
    http_answer_problem_with(request, status, detail, correlation_id, retry_after_s, NULL);
}

void http_answer_problem_with(struct http_request *request, int status, const char *detail,
                              const char *correlation_id, int retry_after_s,
                              const struct http_header *more)
{
    struct buffer body, seconds;
    struct http_header headers[3];
    size_t count = 0;
    buffer_init(&body, HTTP_PROBLEM_MAX);
    buffer_init(&seconds, 32);
    http_problem_body(&body, status, detail, correlation_id);
    if (retry_after_s > 0) {
        buffer_append_uint(&seconds, (uint64_t)retry_after_s);
        headers[count++] = (struct http_header){"Retry-After", buffer_slice(&seconds)};
    }
    if (correlation_id)
        headers[count++] = (struct http_header){"X-Correlation-ID", slice_text(correlation_id)};
    if (more)
        headers[count++] = *more;
    http_answer(request, status, "application/problem+json", buffer_slice(&body), headers, count);
    buffer_done(&body);
    buffer_done(&seconds);
}
