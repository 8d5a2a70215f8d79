/* How a reply is published: one msgpack map, read from whoever can publish. Keys: schemas/redis.md. */
#ifndef HIE_QUEUE_QUEUE_REPLY_H
#define HIE_QUEUE_QUEUE_REPLY_H

#include "queue/queue.h"

#define QUEUE_REPLY_ERROR_MAX 512u /* with its NUL; longer ones are cut */
/* What comes before the body. */
#define QUEUE_REPLY_HEAD_MAX (QUEUE_REPLY_ERROR_MAX + META_CONTENT_TYPE_MAX + 256u)

/* Appends the map but for the body's own bytes, which stand last. False: the body is left out. */
bool queue_reply_pack(const struct queue_reply *reply, struct buffer *out);
/* Borrows from `packed` and `error`. False: it is none of ours. */
bool queue_reply_unpack(struct slice packed, char error[static QUEUE_REPLY_ERROR_MAX],
                        struct queue_reply *ret);

#endif
