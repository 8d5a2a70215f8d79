/* BUG_ON: what can only be a mistake of ours aborts in every build. Never reachable from bytes that a
 * peer sends. A crash loses nothing: unfinished messages are taken over. */
#ifndef HIE_BASE_BUG_H
#define HIE_BASE_BUG_H

#define BUG_ON(condition)                                                                          \
    do {                                                                                           \
        if (__builtin_expect(!!(condition), 0))                                                    \
            bug_abort(#condition, __FILE__, __LINE__);                                             \
    } while (0)

_Noreturn void bug_abort(const char *condition, const char *file, int line);

#endif
