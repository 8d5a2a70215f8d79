/* What unpacks also packs and unpacks again to the same; nothing that comes in may crash. */
#include "base/bug.h"
#include "message/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct meta first, second;
    struct err err;
    if (meta_unpack(slice_of(data, size), &first, &err) != 0)
        return 0;
    struct buffer packed;
    buffer_init(&packed, 1u << 20);
    meta_pack(&first, &packed);
    int read = meta_unpack(buffer_slice(&packed), &second, &err);
    BUG_ON(read != 0);
    BUG_ON(!slice_equal(first.content_type, second.content_type));
    BUG_ON(!slice_equal(first.traceparent, second.traceparent));
    BUG_ON(!uuid_equal(first.parent, second.parent));
    BUG_ON(first.reply != second.reply || first.in_wal != second.in_wal);
    BUG_ON(first.stored != second.stored);
    buffer_done(&packed);
    return 0;
}
