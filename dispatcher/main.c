/* hie-dispatcher: takes messages in over HTTP and MLLP. */
#include "base/log.h"
#include "dispatcher.h"
#include "ops/program.h"

static const char usage[] =
    "usage: hie-dispatcher --config FILE [--check] [--version] [--help]\n"
    "\n"
    "Takes messages in over HTTP and MLLP, makes each durable in PostgreSQL, puts it into its "
    "item's queue in Redis and\n"
    "answers.\n"
    "\n"
    "  --config FILE   the production file (schemas/production.md)\n"
    "  --check         check the file, print every error as file:line: message, exit 2 if there is "
    "one\n"
    "  --version       print the version\n"
    "  --help          print this\n"
    "\n"
    "SIGTERM drains: nothing more is accepted, what is in hand gets its answer, exit 0; a second "
    "one exits at once.\n"
    "HIE_REDIS_URL, HIE_POSTGRES_URL, HIE_HTTP_LISTEN and HIE_MLLP_LISTEN (of the first listener) "
    "override the file,\n"
    "HIE_LOG_LEVEL (debug, info, warn, error) and HIE_LOG_FORMAT (logfmt, json) set the log.\n"
    "Exit codes: 0 drained, 2 bad usage or file, 100 permanent and 111 temporary failure.\n";

int main(int argc, char **argv)
{
    struct program program;
    int code = program_start(argc, argv, "hie-dispatcher", usage, NULL, &program);
    if (code >= 0)
        return code;
    struct dispatcher dispatcher;
    struct err err;
    if (dispatcher_init(&dispatcher, program.production, program.config, &err)) {
        log_error("start_failed", LOG_ERR(&err));
        code = err.code == ERR_CONFIG ? PROGRAM_EXIT_USAGE : PROGRAM_EXIT_TEMPORARY;
    } else {
        code = dispatcher_run(&dispatcher);
    }
    dispatcher_done(&dispatcher);
    program_done(&program);
    return code;
}
