/* redis://[[user]:password@]host[:port][/db]; user and password percent-encoded, an IPv6 address in brackets. */
#ifndef HIE_LINK_REDIS_URL_H
#define HIE_LINK_REDIS_URL_H

#include "base/error.h"

struct redis_url {
    char host[256];
    char port[6];
    char user[128]; /* "": none */
    char password[512];
    char db[8]; /* "0" */
};

/* 0, or -1 with ERR_CONFIG; the text never holds the password. */
int redis_url_parse(const char *text, struct redis_url *ret_url, struct err *err);

#endif
