#include "ops/program.h"

#include "base/log.h"

#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool setup_log(const char *name)
{
    const char *level_word = getenv("HIE_LOG_LEVEL"), *format_word = getenv("HIE_LOG_FORMAT");
    enum log_level level = LOG_INFO;
    if (level_word && *level_word && !log_level_parse(level_word, &level)) {
        fprintf(stderr, "%s: HIE_LOG_LEVEL: debug, info, warn or error is wanted\n", name);
        return false;
    }
    bool json = format_word && strcmp(format_word, "json") == 0;
    if (format_word && *format_word && !json && strcmp(format_word, "logfmt") != 0) {
        fprintf(stderr, "%s: HIE_LOG_FORMAT: logfmt or json is wanted\n", name);
        return false;
    }
    log_setup(level, json ? LOG_JSON : LOG_LOGFMT);
    return true;
}

bool program_set_up(const char *name)
{
    if (!setup_log(name))
        return false;
    signal(SIGPIPE, SIG_IGN);
    /* Large bodies come from mmap and go back to the system; glibc would raise the threshold after the first one. */
    mallopt(M_MMAP_THRESHOLD, 256 * 1024);
    mallopt(M_TRIM_THRESHOLD, 1024 * 1024);
    return true;
}

static int bad_usage(const char *name, const char *why)
{
    fprintf(stderr, "%s: %s\nTry %s --help.\n", name, why, name);
    return PROGRAM_EXIT_USAGE;
}

static int load(const char *name, bool check, struct program *program)
{
    struct diagnostics diagnostics;
    program->production = production_load(program->config, &diagnostics);
    diagnostics_print(&diagnostics, program->config);
    if (check && program->production)
        printf("%s: %zu items, %zu warnings\n", program->config, program->production->item_count,
               diagnostics.count);
    if (!program->production && !check)
        fprintf(stderr, "%s: the production file has errors\n", name);
    diagnostics_done(&diagnostics);
    if (!program->production)
        return PROGRAM_EXIT_USAGE;
    return check ? 0 : -1;
}

int program_start(int argc, char **argv, const char *name, const char *usage, const char *extra,
                  struct program *ret_program)
{
    struct program program = {0};
    bool check = false;
    const struct option options[] = {
        {"config", required_argument, NULL, 'c'}, {"check", no_argument, NULL, 'k'},
        {"version", no_argument, NULL, 'v'},      {"help", no_argument, NULL, 'h'},
        {extra, required_argument, NULL, 'x'},    {0},
    };
    for (int choice; (choice = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (choice) {
        case 'c':
            program.config = optarg;
            break;
        case 'k':
            check = true;
            break;
        case 'x':
            program.items = optarg;
            break;
        case 'v':
            printf("%s %s\n", name, HIE_VERSION);
            return 0;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            return bad_usage(name, "unknown or incomplete option");
        }
    }
    if (optind < argc)
        return bad_usage(name, "there are no arguments besides options");
    if (!program.config)
        return bad_usage(name, "--config FILE is missing");
    if (!program_set_up(name))
        return PROGRAM_EXIT_USAGE;
    int code = load(name, check, &program);
    if (code < 0)
        *ret_program = program;
    else
        production_free(program.production);
    return code;
}

void program_done(struct program *program)
{
    production_free(program->production);
    program->production = NULL;
}
