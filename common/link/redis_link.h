/* One connection to Redis that keeps itself up: commands go out in order, each is completed exactly once.
 *
 * The protocol is parsed by hiredis's reader (0.14 and later); the socket is our own. hiredis's asynchronous half resolves names
 * blocking, knows no timeouts (0.14), moves its whole output after each partial write, and frees replies after the callback;
 * owning the socket also tells which commands were never handed to the kernel.
 *
 * A call that fails with the link says how far it came: ERR_UNAVAILABLE, no byte of it was written, or ERR_OUTCOME_UNKNOWN. */
#ifndef HIE_LINK_REDIS_LINK_H
#define HIE_LINK_REDIS_LINK_H

#include "base/bytes.h"
#include "base/error.h"
#include "link/loop.h"
#include "link/redis_reply.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

struct redis_link;

/* A command under way; embedded in what its sender waits with. `reply` is NULL when err is not ERR_NONE; an error
 * reply of Redis is a reply. The call is the sender's again when done is called. */
struct redis_call {
    void (*done)(struct redis_call *call, const struct err *err, struct redis_reply *reply);
    uint64_t begins; /* its first byte's place in all that this link was given */
    STAILQ_ENTRY(redis_call) link;
};

struct redis_link_options {
    const char *url;
    const char
        *channel; /* subscribe to it: then the link takes no commands; NULL: a link for commands */
    size_t input_max; /* bytes of a reply or message that is not complete yet; past it the link goes down. 0: 1 GiB */
    void (*on_up)(void *arg);
    void (*on_down)(void *arg, const struct err *err); /* after an on_up, and at the first failure */
    /* Refused for good (ERR_AUTH, ERR_CONFIG): the link rests. */
    void (*on_fatal)(void *arg, const struct err *err);
    void (*on_message)(void *arg, struct slice message); /* published on the channel */
    void *arg;
};

/* Connects in the background; nothing is called back from inside. The options' texts are copied. */
struct redis_link *redis_link_new(struct loop *loop, const struct redis_link_options *options);
/* Ends the calls that are under way, first. Not from inside one of its callbacks. Returns NULL. */
struct redis_link *redis_link_free(struct redis_link *link);
bool redis_link_is_up(const struct redis_link *link);

/* Gives the connection up and makes a new one after the backoff: for who sees that it leads to the wrong server. */
void redis_link_reset(struct redis_link *link, const struct err *err);

/* Room for one command of at most `size` bytes, or NULL: the link is down, or too much waits to be written. Append exactly one
 * command to it and call redis_link_send at once. */
struct buffer *redis_link_open(struct redis_link *link, size_t size);
/* Sends what was appended since redis_link_open. */
void redis_link_send(struct redis_link *link, struct redis_call *call);

/* ---- commands: an array of bulk strings ---- */
void redis_put_array(struct buffer *out, size_t count);
void redis_put_bulk(struct buffer *out, struct slice text);
void redis_put_text(struct buffer *out, const char *text);
void redis_put_int(struct buffer *out, int64_t number);
#define REDIS_BULK_OVERHEAD 32u /* bytes around a bulk string, at most; of an array's head too */

#endif
