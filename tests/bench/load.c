/* bench_load: sends HL7 messages to a dispatcher over HTTP or MLLP and says how it answered, as one
 * JSON object on standard output. Options below; how it measures: lib/sender.h. Exit code 0 when it
 * ran (also when messages were rejected or lost: the JSON says so), 1 when it could not, 2 for bad
 * usage. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/uuid.h"
#include "lib/sender.h"

#include <getopt.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/resource.h>

#define TEMPLATES_MAX 16
#define HEADERS_MAX 16

static const char usage[] =
    "bench_load --http URL --item ID | --mllp HOST:PORT   where to\n"
    "  --count N | --seconds S    how many messages, or for how long (default 10 s)\n"
    "  --rate R                   messages a second; latency counts from when one was due\n"
    "                             (default: as fast as answers come)\n"
    "  --connections N            default 64\n"
    "  --depth N                  unanswered messages on one connection, default 1\n"
    "  --size BYTES               of a message, default 700\n"
    "  --template FILE            again for a mix; default an ADT^A01\n"
    "  --patients N               different PID-3.1, default 100000\n"
    "  --keys N                   different {key}, default 1\n"
    "  --header 'Name: value'     HTTP, again for more; {key}, {priority}, … as in a template\n"
    "  --reply                    the answer has to be the message's reply (a sync item of class "
    "Echo)\n"
    "  --timeout MS               for an answer, default 10000\n"
    "  --window S                 also figures for every S seconds\n"
    "  --run TEXT                 8 characters that begin every MSH-10, default random\n"
    "  --ids FILE                 MSH-10 and correlation id of each accepted message\n";

struct arguments {
    struct sender_options sender;
    char *host, *port, *base; /* of URL or HOST:PORT */
    const char *item;
    const char *templates[TEMPLATES_MAX];
    size_t template_count;
    const char *headers[HEADERS_MAX];
    size_t header_count;
    size_t size;
    struct stencil_spread spread;
    char run[STENCIL_RUN_LEN + 1];
    const char *ids;
};

static void die(int code, const char *text, const char *what)
{
    fprintf(stderr, "bench_load: %s%s%s\n", text, what ? ": " : "", what ? what : "");
    exit(code);
}

static double number(const char *text, double min, double max)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= min && value <= max))
        die(2, "not a number in range", text);
    return value;
}

/* "http://HOST:PORT/base", "HOST:PORT", "[::1]:PORT" */
static void set_target(struct arguments *args, const char *text)
{
    if (strncmp(text, "http://", 7) == 0)
        text += 7;
    const char *slash = strchr(text, '/');
    size_t len = slash ? (size_t)(slash - text) : strlen(text);
    const char *colon = memrchr(text, ':', len);
    if (!colon || colon == text)
        die(2, "no HOST:PORT", text);
    size_t host_len = (size_t)(colon - text);
    bool brackets = text[0] == '[' && colon[-1] == ']';
    args->host = brackets ? mem_strndup(text + 1, host_len - 2) : mem_strndup(text, host_len);
    args->port = mem_strndup(colon + 1, len - host_len - 1);
    size_t base_len = slash ? strlen(slash) : 0;
    while (base_len && slash[base_len - 1] == '/')
        base_len--;
    args->base = mem_strndup(slash ? slash : "", base_len);
}

enum argument {
    OPTION_HTTP = 1,
    OPTION_MLLP,
    OPTION_ITEM,
    OPTION_COUNT,
    OPTION_SECONDS,
    OPTION_RATE,
    OPTION_CONNECTIONS,
    OPTION_DEPTH,
    OPTION_SIZE,
    OPTION_TEMPLATE,
    OPTION_PATIENTS,
    OPTION_KEYS,
    OPTION_HEADER,
    OPTION_REPLY,
    OPTION_TIMEOUT,
    OPTION_WINDOW,
    OPTION_RUN,
    OPTION_IDS,
    OPTION_HELP,
};

static const struct option long_options[] = {
    {"http", required_argument, NULL, OPTION_HTTP},
    {"mllp", required_argument, NULL, OPTION_MLLP},
    {"item", required_argument, NULL, OPTION_ITEM},
    {"count", required_argument, NULL, OPTION_COUNT},
    {"seconds", required_argument, NULL, OPTION_SECONDS},
    {"rate", required_argument, NULL, OPTION_RATE},
    {"connections", required_argument, NULL, OPTION_CONNECTIONS},
    {"depth", required_argument, NULL, OPTION_DEPTH},
    {"size", required_argument, NULL, OPTION_SIZE},
    {"template", required_argument, NULL, OPTION_TEMPLATE},
    {"patients", required_argument, NULL, OPTION_PATIENTS},
    {"keys", required_argument, NULL, OPTION_KEYS},
    {"header", required_argument, NULL, OPTION_HEADER},
    {"reply", no_argument, NULL, OPTION_REPLY},
    {"timeout", required_argument, NULL, OPTION_TIMEOUT},
    {"window", required_argument, NULL, OPTION_WINDOW},
    {"run", required_argument, NULL, OPTION_RUN},
    {"ids", required_argument, NULL, OPTION_IDS},
    {"help", no_argument, NULL, OPTION_HELP},
    {NULL, 0, NULL, 0},
};

static void set_option(struct arguments *args, int option)
{
    struct sender_options *sender = &args->sender;
    switch (option) {
    case OPTION_HTTP:
    case OPTION_MLLP:
        if (args->host)
            die(2, "two targets", optarg);
        sender->mllp = option == OPTION_MLLP;
        set_target(args, optarg);
        break;
    case OPTION_ITEM:
        args->item = optarg;
        break;
    case OPTION_COUNT:
        sender->count = (uint64_t)number(optarg, 1, 1e12);
        break;
    case OPTION_SECONDS:
        sender->seconds = number(optarg, 0.01, 1e6);
        break;
    case OPTION_RATE:
        sender->rate = number(optarg, 0, 1e7);
        break;
    case OPTION_CONNECTIONS:
        sender->connections = (unsigned)number(optarg, 1, 60000);
        break;
    case OPTION_DEPTH:
        sender->depth = (unsigned)number(optarg, 1, SENDER_DEPTH_MAX);
        break;
    case OPTION_SIZE:
        args->size = (size_t)number(optarg, 0, STENCIL_SIZE_MAX);
        break;
    case OPTION_TEMPLATE:
        if (args->template_count == TEMPLATES_MAX)
            die(2, "too many templates", optarg);
        args->templates[args->template_count++] = optarg;
        break;
    case OPTION_PATIENTS:
        args->spread.patients = (uint64_t)number(optarg, 1, 1e9);
        break;
    case OPTION_KEYS:
        args->spread.keys = (uint64_t)number(optarg, 1, 1e4);
        break;
    case OPTION_REPLY:
        sender->replies = true;
        break;
    case OPTION_HEADER:
        if (args->header_count == HEADERS_MAX)
            die(2, "too many headers", optarg);
        args->headers[args->header_count++] = optarg;
        break;
    case OPTION_TIMEOUT:
        sender->timeout_ms = (int64_t)number(optarg, 1, 1e7);
        break;
    case OPTION_WINDOW:
        sender->window = number(optarg, 0.01, 1e6);
        break;
    case OPTION_RUN:
        if (strlen(optarg) != STENCIL_RUN_LEN)
            die(2, "--run wants 8 characters", optarg);
        memcpy(args->run, optarg, STENCIL_RUN_LEN);
        break;
    case OPTION_IDS:
        args->ids = optarg;
        break;
    case OPTION_HELP:
        fputs(usage, stdout);
        exit(0);
    default:
        fputs(usage, stderr);
        exit(2);
    }
}

static void read_arguments(struct arguments *args, int argc, char **argv)
{
    *args = (struct arguments){
        .sender = {.connections = 64, .depth = 1, .timeout_ms = 10000},
        .size = 700,
        .spread = {.patients = 100000, .keys = 1},
    };
    snprintf(args->run, sizeof(args->run), "%08x", (unsigned)random_u64());
    int option;
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
        set_option(args, option);
    if (optind < argc)
        die(2, "unexpected", argv[optind]);
    if (!args->host)
        die(2, "--http or --mllp is missing", NULL);
    if (!args->sender.mllp && !args->item)
        die(2, "--item is missing", NULL);
    if (args->sender.count == 0 && args->sender.seconds <= 0)
        args->sender.seconds = 10;
    if (args->template_count == 0)
        args->templates[args->template_count++] = HIE_SOURCE_DIR "/tests/data/bench/adt_a01.hl7";
    args->sender.host = args->host;
    args->sender.port = args->port;
    args->sender.run = args->run;
}

static void http_head(void *arg, size_t body_len, struct buffer *out)
{
    const struct arguments *args = arg;
    buffer_printf(out, "POST %s/v1/items/%s/messages HTTP/1.1\r\nHost: %s:%s\r\n", args->base,
                  args->item, args->host, args->port);
    buffer_printf(out, "Content-Type: x-application/hl7-v2+er7\r\nContent-Length: %zu\r\n",
                  body_len);
    for (size_t i = 0; i < args->header_count; i++)
        buffer_printf(out, "%s\r\n", args->headers[i]);
    buffer_append_text(out, "\r\n");
}

static void mllp_head(void *arg, size_t body_len, struct buffer *out)
{
    (void)arg;
    (void)body_len;
    buffer_append_byte(out, '\x0b');
}

static void load_templates(struct arguments *args, struct stencil *templates)
{
    struct stencil_wrap wrap = {.head = http_head, .arg = args};
    if (args->sender.mllp)
        wrap = (struct stencil_wrap){.head = mllp_head, .tail = SLICE_LITERAL("\x1c\r")};
    struct err err;
    for (size_t i = 0; i < args->template_count; i++)
        if (stencil_load(&templates[i], args->templates[i], args->size, args->spread, args->run,
                         &wrap, &err) < 0)
            die(2, args->templates[i], err.text);
    args->sender.templates = templates;
    args->sender.template_count = args->template_count;
}

static void allow_descriptors(unsigned connections)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= connections + 64)
        return;
    limit.rlim_cur = connections + 64 < limit.rlim_max ? connections + 64 : limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit); /* what is then still too many shows as connect errors */
}

/* ---- the report ---------------------------------------------------------------------------------
 */

static json_t *ms(int64_t us)
{
    return json_real((double)us / 1000.0);
}

static double rounded(double value)
{
    return (double)(int64_t)(value * 1000 + 0.5) / 1000;
}

static json_t *latency_json(const struct histogram *h)
{
    return json_pack("{so so so so so so so}", "p50", ms(histogram_percentile(h, 50)), "p90",
                     ms(histogram_percentile(h, 90)), "p99", ms(histogram_percentile(h, 99)),
                     "p99.9", ms(histogram_percentile(h, 99.9)), "p99.99",
                     ms(histogram_percentile(h, 99.99)), "max", ms(h->max), "mean",
                     json_real(rounded(histogram_mean(h) / 1000.0)));
}

static json_t *windows_json(const struct sender_result *result)
{
    json_t *list = json_array();
    for (size_t i = 0; i < result->window_count; i++) {
        const struct sender_window *w = &result->windows[i];
        json_array_append_new(
            list, json_pack("{sI sI so so so so}", "accepted", (json_int_t)w->accepted, "rejected",
                            (json_int_t)w->rejected, "p50", ms(w->p50_us), "p99", ms(w->p99_us),
                            "p99.9", ms(w->p999_us), "max", ms(w->max_us)));
    }
    return list;
}

static json_t *report(const struct arguments *args, const struct sender_result *r)
{
    json_t *codes = json_object();
    for (size_t i = 0; i < r->code_count; i++)
        json_object_set_new(codes, r->codes[i].code, json_integer((json_int_t)r->codes[i].count));
    json_t *errors = json_pack("{sI sI sI sI sI}", "connect", (json_int_t)r->connect_errors,
                               "closed_by_peer", (json_int_t)r->closed_by_peer, "bad_answer",
                               (json_int_t)r->bad_answers, "wrong_control_id",
                               (json_int_t)r->wrong_control, "timeout", (json_int_t)r->timeouts);
    uint64_t answered = r->accepted + r->rejected;
    double cpu = r->cpu_user + r->cpu_system;
    json_t *cpu_json =
        json_pack("{sf sf sf}", "user", r->cpu_user, "system", r->cpu_system, "us_per_message",
                  answered ? rounded(cpu * 1e6 / (double)answered) : 0.0);
    return json_pack("{ss ss sI sf sI sI sI sI sI sI so so sf sf sf sf so so so}", "protocol",
                     args->sender.mllp ? "mllp" : "http", "run", args->run, "connections",
                     (json_int_t)args->sender.connections, "wanted_rate", args->sender.rate, "sent",
                     (json_int_t)r->sent, "accepted", (json_int_t)r->accepted, "rejected",
                     (json_int_t)r->rejected, "lost", (json_int_t)r->lost, "unsent",
                     (json_int_t)r->unsent, "body_len", (json_int_t)r->body_len, "codes", codes,
                     "errors", errors, "started_at", (double)r->started_us / 1e6, "ended_at",
                     (double)r->ended_us / 1e6, "elapsed", r->elapsed, "rate",
                     r->elapsed > 0 ? rounded((double)r->accepted / r->elapsed) : 0.0, "latency_ms",
                     latency_json(&r->latency), "cpu", cpu_json, "windows", windows_json(r));
}

int main(int argc, char **argv)
{
    static struct stencil templates[TEMPLATES_MAX];
    static struct sender_result result;
    struct arguments args;
    read_arguments(&args, argc, argv);
    load_templates(&args, templates);
    allow_descriptors(args.sender.connections);
    if (args.ids) {
        args.sender.ids = fopen(args.ids, "w");
        if (!args.sender.ids)
            die(1, "cannot be written", args.ids);
    }
    struct err err;
    if (sender_run(&args.sender, &result, &err) < 0)
        die(1, err.text, NULL);
    if (args.sender.ids && fclose(args.sender.ids) != 0)
        die(1, "cannot be written", args.ids);
    json_t *json = report(&args, &result);
    json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    fputc('\n', stdout);
    json_decref(json);
    sender_result_done(&result);
    for (size_t i = 0; i < args.template_count; i++)
        stencil_done(&templates[i]);
    free(args.host);
    free(args.port);
    free(args.base);
    return fflush(stdout) == 0 ? 0 : 1;
}
