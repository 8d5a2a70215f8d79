#include "call_chain.h"

#define ITEM_ID_MAX 64u

static bool is_item_id(struct slice text)
{
    if (text.len == 0 || text.len > ITEM_ID_MAX)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        char byte = text.ptr[i];
        if (!((byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
              (byte >= '0' && byte <= '9') || byte == '_' || byte == '.' || byte == '-'))
            return false;
    }
    return true;
}

bool call_chain_next(struct slice *rest, struct slice *ret_id)
{
    if (rest->len == 0)
        return false;
    const char *comma = memchr(rest->ptr, ',', rest->len);
    size_t len = comma ? (size_t)(comma - rest->ptr) : rest->len, taken = comma ? len + 1 : len;
    *ret_id = slice_trim(slice_of(rest->ptr, len));
    *rest = slice_of(rest->ptr + taken, rest->len - taken);
    return true;
}

int call_chain_read(struct slice header, struct call_chain *chain, struct err *err)
{
    struct slice id;
    while (call_chain_next(&header, &id)) {
        if (id.len == 0)
            continue;
        if (!is_item_id(id))
            return err_set(err, ERR_INVALID,
                           "X-Call-Chain: item ids separated by commas are wanted");
        if (chain->len + (chain->len > 0) + id.len > sizeof(chain->text))
            return err_set(err, ERR_INVALID, "X-Call-Chain: longer than %u bytes", META_CHAIN_MAX);
        if (chain->len)
            chain->text[chain->len++] = ',';
        memcpy(chain->text + chain->len, id.ptr, id.len);
        chain->len += id.len;
    }
    return 0;
}

bool call_chain_has(const struct call_chain *chain, struct slice item_id)
{
    struct slice rest = call_chain_slice(chain), id;
    while (call_chain_next(&rest, &id)) {
        if (slice_equal(id, item_id))
            return true;
    }
    return false;
}

struct slice call_chain_slice(const struct call_chain *chain)
{
    return slice_of(chain->text, chain->len);
}
