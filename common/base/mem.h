/* Allocation of small things whose size we choose: aborts when memory is out. Sizes that a peer chooses
 * go through buffer_try_reserve (bytes.h), which can say no. */
#ifndef HIE_BASE_MEM_H
#define HIE_BASE_MEM_H

#include <stddef.h>

void *mem_alloc(size_t size);                           /* zeroed */
void *mem_array(size_t count, size_t size);             /* zeroed, overflow checked */
void *mem_resize(void *ptr, size_t count, size_t size); /* as reallocarray */
char *mem_strdup(const char *text);                     /* NULL gives NULL */
char *mem_strndup(const char *text, size_t len);
char *mem_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
