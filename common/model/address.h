/* Addresses and URLs as the production file writes them: their form only, nothing is looked up. */
#ifndef HIE_MODEL_ADDRESS_H
#define HIE_MODEL_ADDRESS_H

#include "base/bytes.h"
#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

/* The address of a listener: "127.0.0.1:8080", "[::1]:0": an IPv4 address or an IPv6 address in brackets, and a port
 * from 0 (any free one). *ret_loopback: only this machine reaches it. 0, or -1 with ERR_CONFIG. */
int address_check(struct slice text, bool *ret_loopback, struct err *err);

enum url_kind {
    URL_HTTP,     /* http://host[:port][/path…], https too */
    URL_REDIS,    /* redis://[[user]:password@]host[:port][/database] */
    URL_POSTGRES, /* postgresql://[user[:password]@][host][:port][/database][?…], postgres too */
};
/* 0, or -1 with ERR_CONFIG. The text never holds any part of the URL, which may carry a password.
 */
int url_check(enum url_kind kind, struct slice text, struct err *err);

#endif
