/* Any bytes as Prefer and as X-Call-Chain: what is read from them is within its bounds, and a chain reads the same again. */
#include "base/bug.h"
#include "call_chain.h"
#include "prefer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice header = slice_of(data, size), rest, id;
    struct prefer prefer = {0};
    struct call_chain chain = {.len = 0}, again = {.len = 0};
    struct err err;
    prefer_read(header, &prefer);
    BUG_ON(prefer.wait_s < 0 || prefer.wait_s > PREFER_WAIT_MAX_S);
    BUG_ON(!prefer.has_wait && prefer.wait_s);
    if (call_chain_read(header, &chain, &err)) {
        BUG_ON(err.code != ERR_INVALID);
        return 0;
    }
    BUG_ON(chain.len > META_CHAIN_MAX);
    for (rest = call_chain_slice(&chain); call_chain_next(&rest, &id);)
        BUG_ON(id.len == 0 || !call_chain_has(&chain, id));
    BUG_ON(call_chain_read(call_chain_slice(&chain), &again, &err));
    BUG_ON(!slice_equal(call_chain_slice(&chain), call_chain_slice(&again)));
    return 0;
}
