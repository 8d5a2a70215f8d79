/* A TCP server of byte streams on the event loop: it listens, accepts, reads and writes, and tells its user what happened
 * through a closed set of events. It knows no protocol.
 *
 *   on_open ──▶ on_bytes … ──▶ on_end (the peer closed its half: no more bytes; answers may still be written)
 *                   └────────────▶ on_gone (the stream is no more; also after stream_close) — last, exactly once
 *
 * A close lingers: what was written leaves, our half is shut, and what the peer still sends is read and dropped for a
 * while, since closing a socket with unread bytes would take back the answer that the peer has not read yet. */
#ifndef HIE_LINK_STREAM_SERVER_H
#define HIE_LINK_STREAM_SERVER_H

#include "base/bytes.h"
#include "base/error.h"
#include "link/loop.h"

#include <stdbool.h>
#include <stdint.h>

struct stream;
struct stream_server;

struct stream_server_options {
    const char *listen; /* "127.0.0.1:2575", "[::1]:0"; port 0 takes a free one */
    unsigned max_connections; /* above it a connection is closed, after on_refused */
    int64_t write_timeout_ms; /* a peer that does not read its answers for so long is cut off */
    void (*on_open)(void *arg, struct stream *stream); /* stream_set_data belongs here */
    void (*on_bytes)(void *data, struct slice bytes);  /* all of them are taken */
    void (*on_end)(void *data);
    void (*on_gone)(void *data);
    void (*on_drained)(void *data); /* all that was written has left */
    void (*on_refused)(void *arg);  /* may be NULL */
    void *arg;
};

/* 0, or -1 with ERR_CONFIG for a bad address, ERR_IO when it cannot listen there. */
int stream_server_start(struct loop *loop, const struct stream_server_options *options,
                        struct stream_server **ret_server, struct err *err);
uint16_t stream_server_port(const struct stream_server *server);
unsigned stream_server_connections(const struct stream_server *server);
/* Stops listening; open streams stay. */
void stream_server_close(struct stream_server *server);
/* Cuts what is still open. */
struct stream_server *stream_server_free(struct stream_server *server);

void stream_set_data(struct stream *stream, void *data);
void stream_write(struct stream *stream, struct slice bytes); /* copies */
/* Bytes written and not yet taken by the peer's side of the connection. */
size_t stream_unsent(const struct stream *stream);
void stream_read_pause(struct stream *stream, bool paused);
/* Closes once everything written has left. on_gone follows later, never from inside. */
void stream_close(struct stream *stream);

#endif
