/* What both programs do before their work: the command line, the log, the production file. */
#ifndef HIE_OPS_PROGRAM_H
#define HIE_OPS_PROGRAM_H

#include "model/production.h"

enum {
    PROGRAM_EXIT_USAGE = 2,
    PROGRAM_EXIT_PERMANENT = 100,
    PROGRAM_EXIT_TEMPORARY = 111,
};

struct program {
    struct production *production;
    const char *config;
    const char *items; /* --items, NULL when absent */
};

/* Returns the exit code when there is nothing more to do (--help, --version, --check, bad usage or file), or -1 to go on.
 * `extra` names the one option with a value beyond the common ones, or NULL. */
int program_start(int argc, char **argv, const char *name, const char *usage, const char *extra,
                  struct program *ret_program);
void program_done(struct program *program);
/* A part of program_start, for a child process: the log by its variables, SIGPIPE, how memory is given back. False with a line on
 * standard error for an unknown word. */
bool program_set_up(const char *name);

#endif
