/* Any bytes as a published reply: what is read lies within them, and packs to what reads the same. */
#include "base/bug.h"
#include "queue/queue_reply.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char error[QUEUE_REPLY_ERROR_MAX], error_again[QUEUE_REPLY_ERROR_MAX];
    struct queue_reply reply, again;
    if (!queue_reply_unpack(slice_of(data, size), error, &reply))
        return 0;
    struct buffer packed;
    buffer_init(&packed, 1u << 20);
    if (queue_reply_pack(&reply, &packed))
        buffer_append(&packed, reply.body.ptr, reply.body.len);
    BUG_ON(!queue_reply_unpack(buffer_slice(&packed), error_again, &again));
    BUG_ON(!uuid_equal(reply.id, again.id) || reply.status != again.status);
    BUG_ON(!slice_equal(body_slice(reply.body), body_slice(again.body)));
    buffer_done(&packed);
    return 0;
}
