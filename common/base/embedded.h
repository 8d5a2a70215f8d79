/* Files of schemas/ compiled into the program; see schemas/embed.cmake. */
#ifndef HIE_BASE_EMBEDDED_H
#define HIE_BASE_EMBEDDED_H

#include <stddef.h>

struct embedded_file {
    const char *name; /* file name without folders, tables are sorted by it */
    const char *text; /* NUL-terminated */
    size_t len;       /* without the NUL */
};

extern const struct embedded_file redis_functions[];
extern const size_t redis_functions_count;
extern const struct embedded_file sql_migrations[];
extern const size_t sql_migrations_count;

#endif
