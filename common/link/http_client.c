/* Outbound HTTP. Owns libcurl's multi handle with its connections, an easy handle for each call and
 * some spare ones; waits for sockets and curl's timer on the loop; every call ends once, by its
 * callback or its cancelling.
 *
 *   start ──▶ RUNNING ──curl is done, or could not begin──▶ ENDED ──callback, in a turn of its
 * own──▶ freed
 *
 * A request that is not safe to repeat goes out at most once. libcurl would send it again by itself
 * when a kept connection dies before any answer byte, even a POST that the receiver has acted on;
 * so bodies are sent through a read callback that cannot be rewound, and a POST without body gets a
 * connection of its own. What fails before a byte of the request was sent is ERR_UNAVAILABLE, after
 * that ERR_OUTCOME_UNKNOWN. */
#include "link/http_client.h"

#include "base/bug.h"
#include "base/mem.h"

#include <curl/curl.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/queue.h>

#define MAX_PER_HOST 64L /* connections */
#define MAX_KEPT 256L    /* idle connections of all hosts */
#define MAX_SPARE 64u    /* easy handles */
#define CONNECT_MS 5000L

TAILQ_HEAD(calls, http_call);

struct http_client {
    struct loop *loop;
    CURLM *multi;
    struct calls running; /* curl has them */
    struct calls ended;   /* wait for their callback */
    struct loop_timer timer;
    struct loop_task deliver;
    CURL *spare[MAX_SPARE];
    unsigned spare_count;
};

struct http_call {
    TAILQ_ENTRY(http_call)
    entry; /* in running while `easy` is in the multi handle, else in ended */
    struct http_client *client;
    CURL *easy; /* NULL when the call could not begin */
    struct curl_slist *headers;
    struct slice unsent; /* of the request's body */
    struct buffer body;
    char *content_type;
    char place[128]; /* host and port, for error texts */
    void (*done)(void *arg, const struct http_call_result *result);
    void *arg;
    bool running, too_large;
    bool has_head; /* of the final answer */
    struct http_call_result result;
};

/* ---- curl's sockets and timer on the loop ---- */

static void collect(struct http_client *client);

static void act(struct http_client *client, curl_socket_t fd, int what)
{
    int running;
    curl_multi_socket_action(client->multi, fd, what, &running);
    collect(client);
}

static void on_socket(evutil_socket_t fd, short what, void *arg)
{
    act(arg, fd, (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0));
}

static void on_timer(void *arg)
{
    act(arg, CURL_SOCKET_TIMEOUT, 0);
}

static int curl_wants_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *watched)
{
    struct http_client *client = arg;
    struct event *event = watched;
    (void)easy;
    if (event)
        event_free(event);
    if (what == CURL_POLL_REMOVE) {
        curl_multi_assign(client->multi, fd, NULL);
        return 0;
    }
    short events = EV_PERSIST;
    events |= what & CURL_POLL_IN ? EV_READ : 0;
    events |= what & CURL_POLL_OUT ? EV_WRITE : 0;
    event = event_new(loop_base(client->loop), fd, events, on_socket, client);
    BUG_ON(!event);
    event_add(event, NULL);
    curl_multi_assign(client->multi, fd, event);
    return 0;
}

static int curl_wants_timer(CURLM *multi, long ms, void *arg)
{
    struct http_client *client = arg;
    (void)multi;
    if (ms < 0)
        loop_timer_cancel(&client->timer);
    else
        loop_timer_set(&client->timer, ms);
    return 0;
}

/* ---- bytes of a call ---- */

static size_t on_send(char *to, size_t size, size_t count, void *arg)
{
    struct http_call *call = arg;
    size_t len = size * count < call->unsent.len ? size * count : call->unsent.len;
    if (len)
        memcpy(to, call->unsent.ptr, len);
    call->unsent = slice_of(call->unsent.ptr + len, call->unsent.len - len);
    return len;
}

static int on_rewind(void *arg, curl_off_t offset, int origin)
{
    (void)arg;
    (void)offset;
    (void)origin;
    return CURL_SEEKFUNC_FAIL; /* see the top: what was sent is not sent again */
}

/* libcurl takes a head that is cut off for a whole one. */
static size_t on_header(char *line, size_t size, size_t count, void *arg)
{
    struct http_call *call = arg;
    long status = 0;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    bool blank = size * count > 0 && (line[0] == '\r' || line[0] == '\n');
    call->has_head |= blank && status >= 200;
    return size * count;
}

static size_t on_answer(char *from, size_t size, size_t count, void *arg)
{
    struct http_call *call = arg;
    if (buffer_try_append(&call->body, from, size * count))
        return size * count;
    call->too_large = true;
    return CURL_WRITEFUNC_ERROR;
}

/* ---- ending ---- */

/* The easy handle is kept for another call, while there is room. */
static void give_back_easy(struct http_call *call)
{
    struct http_client *client = call->client;
    if (call->easy && client->spare_count < MAX_SPARE) {
        curl_easy_reset(call->easy);
        client->spare[client->spare_count++] = call->easy;
    } else if (call->easy) {
        curl_easy_cleanup(call->easy);
    }
    call->easy = NULL;
}

/* The call is in no list and has given its easy handle back; the client may be gone. */
static void free_call(struct http_call *call)
{
    curl_slist_free_all(call->headers);
    buffer_done(&call->body);
    free(call->content_type);
    free(call);
}

static void leave_list(struct http_call *call)
{
    struct http_client *client = call->client;
    if (call->running)
        curl_multi_remove_handle(client->multi, call->easy);
    TAILQ_REMOVE(call->running ? &client->running : &client->ended, call, entry);
    call->running = false;
}

/* From here on the callback is due. */
static void end_call(struct http_call *call)
{
    struct http_client *client = call->client;
    leave_list(call);
    TAILQ_INSERT_TAIL(&client->ended, call, entry);
    loop_task_set(&client->deliver);
}

/* The error of a call whose request may have left; `sent` counts its bytes. */
static void set_error(struct http_call *call, CURLcode code, long sent)
{
    struct err *err = &call->result.err;
    const char *why = curl_easy_strerror(code);
    if (sent == 0 && (code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL))
        err_set(err, ERR_INVALID, "the URL is no HTTP URL");
    else if (call->too_large || code == CURLE_FILESIZE_EXCEEDED)
        err_set(err, ERR_TOO_LARGE, "%s: the answer has more than %zu bytes", call->place,
                call->body.max);
    else if (sent == 0)
        err_set(err, ERR_UNAVAILABLE, "%s: cannot connect: %s", call->place, why);
    else if (code == CURLE_OPERATION_TIMEDOUT)
        err_set(err, ERR_TIMEOUT, "%s: no answer in time", call->place);
    else
        err_set(err, ERR_OUTCOME_UNKNOWN, "%s: cut off after sending: %s", call->place, why);
}

static void note_result(struct http_call *call, CURLcode code)
{
    long status = 0, sent = 0;
    const char *type = NULL;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(call->easy, CURLINFO_REQUEST_SIZE, &sent);
    if (code == CURLE_OK && !call->has_head)
        code = CURLE_GOT_NOTHING;
    call->result.status = (int)status; /* also where the rest of the answer failed */
    if (code != CURLE_OK) {
        set_error(call, code, sent);
        return;
    }
    curl_easy_getinfo(call->easy, CURLINFO_CONTENT_TYPE, &type);
    call->content_type = mem_strdup(type);
    call->result.content_type = slice_text(call->content_type);
    call->result.body = buffer_slice(&call->body);
}

static void collect(struct http_client *client)
{
    const CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(client->multi, &left))) {
        char *call;
        if (message->msg != CURLMSG_DONE)
            continue;
        CURLcode code = message->data.result; /* gone once the handle is removed */
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &call);
        note_result((struct http_call *)(void *)call, code);
        end_call((struct http_call *)(void *)call);
    }
}

/* The callback may start and cancel other calls, and free the client: nothing of it is touched
 * afterwards. */
static void on_deliver(void *arg)
{
    struct http_client *client = arg;
    struct http_call *call = TAILQ_FIRST(&client->ended);
    if (!call)
        return;
    leave_list(call);
    give_back_easy(call);
    if (!TAILQ_EMPTY(&client->ended))
        loop_task_set(&client->deliver);
    call->done(call->arg, &call->result);
    free_call(call);
}

/* ---- beginning ---- */

static bool clean(const char *text)
{
    for (; *text; text++) {
        unsigned char byte = (unsigned char)*text;
        if ((byte < 0x20 && byte != '\t') || byte == 0x7f)
            return false;
    }
    return true;
}

static bool has_header(const struct http_call_request *request, const char *name)
{
    size_t len = strlen(name);
    for (const char *const *line = request->headers; line && *line; line++) {
        if (strncasecmp(*line, name, len) == 0 && (*line)[len] == ':')
            return true;
    }
    return false;
}

/* "host:port" of the URL; nothing else of it may reach an error text. */
static bool note_place(struct http_call *call, const char *url)
{
    char *scheme = NULL, *host = NULL, *port = NULL;
    CURLU *parts = curl_url();
    BUG_ON(!parts);
    bool ok = !curl_url_set(parts, CURLUPART_URL, url, 0) &&
              !curl_url_get(parts, CURLUPART_SCHEME, &scheme, 0) &&
              (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0) &&
              !curl_url_get(parts, CURLUPART_HOST, &host, 0) &&
              !curl_url_get(parts, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT);
    if (ok)
        snprintf(call->place, sizeof(call->place), "%.100s:%.10s", host, port);
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(parts);
    return ok;
}

static void add_header(struct http_call *call, const char *line)
{
    struct curl_slist *longer = curl_slist_append(call->headers, line);
    BUG_ON(!longer);
    call->headers = longer;
}

static void set_headers(struct http_call *call, const struct http_call_request *request)
{
    for (const char *const *line = request->headers; line && *line; line++)
        add_header(call, *line);
    add_header(call, "Expect:"); /* no waiting for 100 (Continue) */
    if (!has_header(request, "Content-Type"))
        add_header(call, "Content-Type:"); /* else curl names one of its own */
    curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, call->headers);
}

static void set_method(struct http_call *call, const struct http_call_request *request)
{
    CURL *easy = call->easy;
    bool posts = strcmp(request->method, "POST") == 0 || strcmp(request->method, "PATCH") == 0;
    if (strcmp(request->method, "HEAD") == 0) {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    } else if (request->body.len) {
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body.len);
        curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_send);
        curl_easy_setopt(easy, CURLOPT_READDATA, call);
        curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, on_rewind);
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method);
    } else if (posts || strcmp(request->method, "PUT") == 0) {
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, "");
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, 0L);
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method);
        curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, posts ? 1L : 0L);
    } else {
        curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method);
    }
}

static void set_options(struct http_call *call, const struct http_call_request *request)
{
    CURL *easy = call->easy;
    long timeout_ms = request->timeout_ms < 1 ? 1 : (long)request->timeout_ms;
    curl_easy_setopt(easy, CURLOPT_URL, request->url);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PROXY, ""); /* none, whatever the environment says */
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout_ms);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                     timeout_ms < CONNECT_MS ? timeout_ms : CONNECT_MS);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, 60L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, 30L);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "hie-fleet/" HIE_VERSION);
    curl_easy_setopt(easy, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)call->body.max);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, call);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_answer);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
    set_method(call, request);
    set_headers(call, request);
}

static bool begin(struct http_call *call, const struct http_call_request *request)
{
    struct http_client *client = call->client;
    struct err *err = &call->result.err;
    for (const char *const *line = request->headers; line && *line; line++) {
        if (!clean(*line) || !strchr(*line, ':')) {
            err_set(err, ERR_INVALID, "a header line is malformed");
            return false;
        }
    }
    if (!clean(request->url) || !clean(request->method) || !note_place(call, request->url)) {
        err_set(err, ERR_INVALID, "the URL is no HTTP URL");
        return false;
    }
    call->easy = client->spare_count ? client->spare[--client->spare_count] : curl_easy_init();
    if (!call->easy) {
        err_set(err, ERR_UNAVAILABLE, "%s: no memory", call->place);
        return false;
    }
    set_options(call, request);
    if (curl_multi_add_handle(client->multi, call->easy)) {
        err_set(err, ERR_UNAVAILABLE, "%s: no memory", call->place);
        return false;
    }
    return true;
}

struct http_call *http_client_start(struct http_client *client,
                                    const struct http_call_request *request,
                                    void (*done)(void *arg, const struct http_call_result *result),
                                    void *arg)
{
    struct http_call *call = mem_alloc(sizeof(*call));
    call->client = client;
    call->done = done;
    call->arg = arg;
    call->unsent = request->body;
    buffer_init(&call->body, request->max_answer);
    call->running = begin(call, request);
    if (call->running) {
        TAILQ_INSERT_TAIL(&client->running, call, entry);
    } else {
        TAILQ_INSERT_TAIL(&client->ended, call, entry);
        loop_task_set(&client->deliver);
    }
    return call;
}

void http_call_cancel(struct http_call *call)
{
    leave_list(call);
    give_back_easy(call);
    free_call(call);
}

/* ---- life ---- */

static void init_curl(void)
{
    CURLcode failed = curl_global_init(CURL_GLOBAL_DEFAULT);
    BUG_ON(failed);
}

struct http_client *http_client_new(struct loop *loop)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_curl);
    struct http_client *client = mem_alloc(sizeof(*client));
    client->loop = loop;
    client->multi = curl_multi_init();
    BUG_ON(!client->multi);
    TAILQ_INIT(&client->running);
    TAILQ_INIT(&client->ended);
    loop_timer_init(&client->timer, loop, on_timer, client);
    loop_task_init(&client->deliver, loop, on_deliver, client);
    curl_multi_setopt(client->multi, CURLMOPT_SOCKETFUNCTION, curl_wants_socket);
    curl_multi_setopt(client->multi, CURLMOPT_SOCKETDATA, client);
    curl_multi_setopt(client->multi, CURLMOPT_TIMERFUNCTION, curl_wants_timer);
    curl_multi_setopt(client->multi, CURLMOPT_TIMERDATA, client);
    curl_multi_setopt(client->multi, CURLMOPT_MAX_HOST_CONNECTIONS, MAX_PER_HOST);
    curl_multi_setopt(client->multi, CURLMOPT_MAXCONNECTS, MAX_KEPT);
    return client;
}

struct http_client *http_client_free(struct http_client *client)
{
    struct http_call *call;
    if (!client)
        return NULL;
    while ((call = TAILQ_FIRST(&client->running)) || (call = TAILQ_FIRST(&client->ended)))
        http_call_cancel(call);
    while (client->spare_count)
        curl_easy_cleanup(client->spare[--client->spare_count]);
    curl_multi_cleanup(client->multi); /* calls back for the sockets of kept connections */
    loop_timer_done(&client->timer);
    loop_task_done(&client->deliver);
    free(client);
    return NULL;
}
