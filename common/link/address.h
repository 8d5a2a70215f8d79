/* "127.0.0.1:8080", "[::1]:8080", ":8080" (every IPv4 address): numeric addresses of our listeners. */
#ifndef HIE_LINK_ADDRESS_H
#define HIE_LINK_ADDRESS_H

#include "base/error.h"

#include <stdint.h>
#include <sys/socket.h>

/* 0, or -1 with ERR_CONFIG. */
int address_parse(const char *text, struct sockaddr_storage *ret_address, socklen_t *ret_len,
                  struct err *err);
/* The local port of a bound socket, 0 when there is none. */
uint16_t address_port_of_socket(int fd);

#endif
