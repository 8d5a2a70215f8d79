/* Bytes of a peer through a whole connection of the HTTP server, over a socket pair: any input must end with the
 * connection closed and all memory given back. The first byte chooses how the rest is cut and how the handler
 * behaves. */
#include "base/bug.h"
#include "link/http_server_internal.h"

#include <event2/event.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct loop *loop;
static struct http_server *server;
static struct http_request *held;
static unsigned mode;

static void answer(struct http_request *request)
{
    struct slice value = {0};
    if (http_request_query(request, "a", &value) && value.len)
        BUG_ON(memchr(value.ptr, '\0', value.len));
    struct slice path = http_request_path(request);
    BUG_ON(path.len == 0 || memchr(path.ptr, '\0', path.len));
    http_request_header(request, "content-type", &value);
    struct http_header header = {.name = "X", .value = value};
    BUG_ON(http_request_body(request).len > 4096);
    if (path.len % 2)
        http_answer_problem(request, 404, "no", "id", 1);
    else
        http_answer(request, 200, "text/plain", http_request_body(request), &header, 1);
}

static void on_request(void *arg, struct http_request *request)
{
    (void)arg;
    BUG_ON(held);
    if (mode & 1)
        held = request;
    else
        answer(request);
}

static void on_gone(void *arg, struct http_request *request)
{
    (void)arg;
    BUG_ON(request != held);
    if (mode & 2) {
        held = NULL;
        answer(request);
    }
}

static void setup(void)
{
    const struct http_server_options options = {.listen = "127.0.0.1:0",
                                                .max_body = 4096,
                                                .max_head = 2048,
                                                .memory_budget = 8192,
                                                .on_request = on_request,
                                                .on_gone = on_gone};
    struct err err;
    loop = loop_new();
    BUG_ON(http_server_start(loop, &options, &server, &err));
}

/* Turns the loop and empties what the server answered. */
static void settle(int fd)
{
    char bytes[4096];
    for (int i = 0; i < 3; i++) {
        event_base_loop(loop_base(loop), EVLOOP_NONBLOCK);
        while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
        }
        struct http_request *request = held;
        held = NULL;
        if (request)
            answer(request);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fds[2];
    if (!server)
        setup();
    if (size < 1 || size > 65536)
        return 0;
    mode = data[0] & 3;
    size_t step = data[0] >> 2 ? data[0] >> 2 : size;
    BUG_ON(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds));
    http_server_adopt(server, fds[0]);
    for (size_t at = 1; at < size; at += step) {
        size_t len = size - at < step ? size - at : step;
        if (send(fds[1], data + at, len, MSG_NOSIGNAL) < 0)
            break;
        settle(fds[1]);
    }
    if (size % 2) {
        shutdown(fds[1], SHUT_WR);
        settle(fds[1]);
    }
    close(fds[1]);
    for (int i = 0; i < 100 && !http_server_idle(server); i++) {
        event_base_loop(loop_base(loop), EVLOOP_NONBLOCK);
        struct http_request *request = held;
        held = NULL;
        if (request)
            answer(request);
    }
    BUG_ON(!http_server_idle(server) || server->memory || !TAILQ_EMPTY(&server->requests));
    return 0;
}
