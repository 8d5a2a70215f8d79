#include "link/address.h"

#include "base/bytes.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>

int address_parse(const char *text, struct sockaddr_storage *ret_address, socklen_t *ret_len,
                  struct err *err)
{
    const char *colon = strrchr(text, ':');
    int64_t port;
    if (!colon || !slice_to_int(slice_text(colon + 1), 0, 65535, &port))
        return err_set(err, ERR_CONFIG, "address %.100s: no port (address:port)", text);
    char host[64];
    size_t len = (size_t)(colon - text);
    bool bracketed = len >= 2 && text[0] == '[' && colon[-1] == ']';
    if (bracketed) {
        text++;
        len -= 2;
    }
    snprintf(host, sizeof(host), "%.*s", (int)(len < sizeof(host) ? len : sizeof(host) - 1), text);
    *ret_address = (struct sockaddr_storage){0};
    struct sockaddr_in *v4 = (struct sockaddr_in *)ret_address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret_address;
    if (bracketed && inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        *ret_len = sizeof(*v6);
        return 0;
    }
    if (!bracketed && (len == 0 || inet_pton(AF_INET, host, &v4->sin_addr) == 1)) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        *ret_len = sizeof(*v4);
        return 0;
    }
    return err_set(err, ERR_CONFIG, "address %.64s: not a numeric IPv4 or [IPv6] address", host);
}

uint16_t address_port_of_socket(int fd)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof(address);
    if (getsockname(fd, (struct sockaddr *)&address, &len))
        return 0;
    if (address.ss_family == AF_INET6)
        return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
    return ntohs(((struct sockaddr_in *)&address)->sin_port);
}
