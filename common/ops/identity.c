#include "ops/identity.h"

#include "base/bug.h"
#include "base/uuid.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PREFIX_MAX 11u

static bool is_plain(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.';
}

void identity_host(char ret[static IDENTITY_HOST_SIZE])
{
    char name[256];
    if (gethostname(name, sizeof(name)) || !name[0])
        strcpy(name, "unknown");
    name[IDENTITY_HOST_SIZE - 1] = '\0';
    for (char *c = name; *c; c++) {
        if (!is_plain(*c))
            *c = '_';
    }
    memcpy(ret, name, strlen(name) + 1);
}

void identity_make(const char *prefix, char ret[static IDENTITY_SIZE])
{
    char host[IDENTITY_HOST_SIZE];
    identity_host(host);
    BUG_ON(strlen(prefix) > PREFIX_MAX);
    snprintf(ret, IDENTITY_SIZE, "%s%s-%d-%016llx", prefix, host, (int)getpid(),
             (unsigned long long)random_u64());
}
