/* The request header X-Call-Chain: ids of the items that a message went through on its way here, oldest first, separated by
 * commas. A handler that calls an item over HTTP sends what it was given and its own item behind it. */
#ifndef HIE_CALL_CHAIN_H
#define HIE_CALL_CHAIN_H

#include "base/error.h"
#include "message/message.h"

struct call_chain {
    char text[META_CHAIN_MAX]; /* ids and commas, nothing else */
    size_t len;
};

/* Appends one header's ids; a request may have several headers. 0, or -1 with ERR_INVALID: what stands between two commas is
 * no item id, or all of it is longer than META_CHAIN_MAX. Empty elements are skipped (RFC 9110 section 5.6.1). */
int call_chain_read(struct slice header, struct call_chain *chain, struct err *err);
bool call_chain_has(const struct call_chain *chain, struct slice item_id);
/* The first id, which is taken off *rest; false when there is none. */
bool call_chain_next(struct slice *rest, struct slice *ret_id);
struct slice call_chain_slice(const struct call_chain *chain);

#endif
