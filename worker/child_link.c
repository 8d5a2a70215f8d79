/* The socket between a worker and a child process: child_link.h. */
#include "child_link.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_MAX 65536u
#define READS_AT_ONCE 16 /* then others have their turn */

static void close_fd(struct child_link *link)
{
    if (link->writable.event)
        loop_watch_done(&link->writable);
    loop_watch_done(&link->readable);
    close(link->fd);
    link->fd = -1;
}

static void gone(struct child_link *link, bool corrupt)
{
    child_link_close(link);
    link->on_gone(link->arg, corrupt);
}

/* False when the link is closed. */
static bool take(struct child_link *link, struct slice bytes)
{
    for (;;) {
        struct wire_frame frame;
        int result = wire_in_take(&link->in, &bytes, &frame);
        if (result < 0) {
            gone(link, true);
            return false;
        }
        if (result == 0)
            return true;
        link->on_frame(link->arg, &frame);
        free(frame.payload);
        if (link->fd < 0)
            return false;
    }
}

/* 1: something came; 0: nothing is there now; -1: the link is closed. */
static int receive(struct child_link *link)
{
    char bytes[READ_MAX];
    size_t room = sizeof(bytes);
    char *place = wire_in_room(&link->in, &room);
    ssize_t n = recv(link->fd, place ? place : bytes, room, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR)
        return 1;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return 0;
    if (n <= 0) {
        gone(link, false);
        return -1;
    }
    if (place)
        wire_in_filled(&link->in, (size_t)n);
    if (!take(link, place ? slice_of(NULL, 0) : slice_of(bytes, (size_t)n)))
        return -1;
    return (size_t)n < room ? 0 : 1;
}

static void on_readable(void *arg)
{
    struct child_link *link = arg;
    for (int i = 0; i < READS_AT_ONCE && receive(link) > 0; i++)
        ;
}

static void on_writable(void *arg)
{
    struct child_link *link = arg;
    if (wire_out_flush(&link->out, link->fd) == 0)
        return;
    loop_watch_done(&link->writable);
    if (link->on_sent)
        link->on_sent(link->arg);
}

void child_link_open(struct child_link *link, struct loop *loop, int fd,
                     void (*on_frame)(void *, struct wire_frame *), void (*on_gone)(void *, bool),
                     void *arg)
{
    *link = (struct child_link){
        .loop = loop, .fd = fd, .on_frame = on_frame, .on_gone = on_gone, .arg = arg};
    wire_in_init(&link->in);
    wire_out_init(&link->out);
    loop_watch_init(&link->readable, loop, fd, on_readable, link);
}

void child_link_close(struct child_link *link)
{
    if (link->fd < 0)
        return;
    close_fd(link);
    wire_in_done(&link->in);
    wire_out_done(&link->out);
}

bool child_link_is_open(const struct child_link *link)
{
    return link->fd >= 0;
}

bool child_link_send(struct child_link *link)
{
    if (link->writable.event)
        return true; /* it goes with what waits already */
    int result = wire_out_flush(&link->out, link->fd);
    if (result == 0)
        loop_watch_writable(&link->writable, link->loop, link->fd, on_writable, link);
    return result >= 0;
}

bool child_link_sent(const struct child_link *link)
{
    return wire_out_empty(&link->out);
}

void child_link_drain(struct child_link *link)
{
    while (link->fd >= 0) {
        int result = receive(link);
        if (result == 0) {
            /* Nothing more, and no end: something it started holds the socket. */
            gone(link, false);
            return;
        }
    }
}
