/* Connects to a host and port: resolves the name without blocking, tries its addresses in turn. */
#ifndef HIE_LINK_CONNECTOR_H
#define HIE_LINK_CONNECTOR_H

#include "base/error.h"
#include "link/loop.h"

struct connector;

/* `done` is called once, later: with a connected, non-blocking socket that the receiver owns, or with -1 and err. The connector is
 * gone then. There is no deadline: the caller has one and cancels. */
struct connector *connector_start(struct loop *loop, const char *host, const char *port,
                                  void (*done)(void *arg, int fd, const struct err *err),
                                  void *arg);
/* Nothing is called any more. Returns NULL. */
struct connector *connector_cancel(struct connector *connector);

#endif
