/* A child process of a worker (multi_process), from inside: gets an item and its production over the socket CHILD_FD, opens the
 * item's handler on a loop of its own and handles one job at a time. It has no link to Redis or PostgreSQL, and leaves when the
 * socket closes: the worker ended, or wants it to. SIGTERM and its like are its worker's business. */
#ifndef HIE_CHILD_MAIN_H
#define HIE_CHILD_MAIN_H

#include "handler.h"

/* Whether a program was started as one, by its arguments. */
bool child_is_wanted(int argc, char *const *argv);
/* The exit code. `class_of` gives the code of an item's class. */
int child_main(const struct handler_class *(*class_of)(const struct item *item));

#endif
