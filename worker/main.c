/* hie-worker: one worker container's process. */
#include "base/log.h"
#include "child_main.h"
#include "ops/program.h"
#include "worker.h"

static const char usage[] =
    "usage: hie-worker --config FILE [--items A,B] [--check] [--version] [--help]\n"
    "\n"
    "Claims messages of the production's items from Redis, runs their handler classes and records "
    "how each\n"
    "ended in PostgreSQL.\n"
    "\n"
    "  --config FILE   the production file (schemas/production.md)\n"
    "  --items A,B     claim for these items only; without it for all that are enabled\n"
    "  --check         check the file, print every error as file:line: message, exit 2 if there is "
    "one\n"
    "  --version       print the version\n"
    "  --help          print this\n"
    "\n"
    "SIGTERM drains: nothing more is claimed, what is in hand is finished within "
    "worker.drain_timeout or handed\n"
    "back, exit 0; a second one exits at once. HIE_REDIS_URL, HIE_POSTGRES_URL and "
    "HIE_WORKER_LISTEN override the file,\n"
    "HIE_LOG_LEVEL (debug, info, warn, error) and HIE_LOG_FORMAT (logfmt, json) set the log.\n"
    "Exit codes: 0 drained, 2 bad usage or file, 100 permanent and 111 temporary failure.\n";

int main(int argc, char **argv)
{
    if (child_is_wanted(argc, argv))
        return child_main(handler_class_of);
    struct program program;
    int code = program_start(argc, argv, "hie-worker", usage, "items", &program);
    if (code >= 0)
        return code;
    struct worker worker;
    struct err err;
    if (worker_init(&worker, program.production, program.config, program.items, &err)) {
        log_error("start_failed", LOG_ERR(&err));
        code = err.code == ERR_CONFIG ? PROGRAM_EXIT_USAGE : PROGRAM_EXIT_TEMPORARY;
    } else {
        code = worker_run(&worker);
    }
    worker_done(&worker);
    program_done(&program);
    return code;
}
