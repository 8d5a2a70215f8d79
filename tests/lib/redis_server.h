/* A private redis-server for a test: on a free loopback port, append-only, its data in a folder of its own under /tmp. It dies
 * with the process that started it. Header-only; link with hiredis. */
#ifndef HIE_TESTS_REDIS_SERVER_H
#define HIE_TESTS_REDIS_SERVER_H

#include <arpa/inet.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct redis_server {
    pid_t pid; /* 0: not running */
    int port;
    char dir[64];
    char password[32]; /* "": none */
    char url[128];
};

static inline void redis_server_die(const char *what)
{
    fprintf(stderr, "redis_server: %s\n", what);
    abort();
}

static inline int redis_server_free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, len) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) != 0)
        redis_server_die("no free port");
    close(fd);
    return ntohs(address.sin_port);
}

/* A blocking connection for what the test looks at itself; NULL: not there. Free with redisFree. */
static inline redisContext *redis_server_connect(const struct redis_server *server)
{
    redisContext *context = redisConnect("127.0.0.1", server->port);
    if (context && context->err) {
        redisFree(context);
        context = NULL;
    }
    if (context && server->password[0]) {
        redisReply *reply = (redisReply *)redisCommand(context, "AUTH %s", server->password);
        if (reply)
            freeReplyObject(reply);
    }
    return context;
}

static inline bool redis_server_answers(const struct redis_server *server)
{
    redisContext *context = redis_server_connect(server);
    if (!context)
        return false;
    redisReply *reply = (redisReply *)redisCommand(context, "PING");
    bool pong = reply && reply->type == REDIS_REPLY_STATUS;
    if (reply)
        freeReplyObject(reply);
    redisFree(context);
    return pong;
}

/* Starts it where it was, with the data that is there. */
static inline void redis_server_restart(struct redis_server *server)
{
    char port[16], log[96];
    pid_t parent = getpid();
    snprintf(port, sizeof(port), "%d", server->port);
    snprintf(log, sizeof(log), "%s/log", server->dir);
    server->pid = fork();
    if (server->pid < 0)
        redis_server_die("fork");
    if (server->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        execlp("redis-server", "redis-server", "--port", port, "--bind", "127.0.0.1", "--dir",
               server->dir, "--appendonly", "yes", "--save", "", "--logfile", log, "--requirepass",
               server->password, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 1000; i++) {
        if (redis_server_answers(server))
            return;
        if (waitpid(server->pid, NULL, WNOHANG) == server->pid)
            redis_server_die("redis-server ended at once; is it installed?");
        nanosleep(&(const struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
    }
    redis_server_die("redis-server does not answer");
}

static inline void redis_server_start_with_password(struct redis_server *server,
                                                    const char *password)
{
    *server = (struct redis_server){.port = redis_server_free_port()};
    snprintf(server->password, sizeof(server->password), "%s", password);
    snprintf(server->dir, sizeof(server->dir), "/tmp/hie-test-redis-XXXXXX");
    if (!mkdtemp(server->dir))
        redis_server_die("mkdtemp");
    snprintf(server->url, sizeof(server->url), "redis://%s%s%s127.0.0.1:%d/0",
             password[0] ? ":" : "", password, password[0] ? "@" : "", server->port);
    redis_server_restart(server);
}

static inline void redis_server_start(struct redis_server *server)
{
    redis_server_start_with_password(server, "");
}

static inline void redis_server_kill(struct redis_server *server, int signal)
{
    if (server->pid == 0)
        return;
    kill(server->pid, signal);
    waitpid(server->pid, NULL, 0);
    server->pid = 0;
}

static inline void redis_server_remove(const char *dir)
{
    pid_t pid = fork();
    if (pid == 0) {
        execlp("rm", "rm", "-rf", "--", dir, (char *)NULL);
        _exit(127);
    }
    waitpid(pid, NULL, 0);
}

/* Removes its data; only while it does not run. */
static inline void redis_server_wipe(const struct redis_server *server)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/appendonlydir", server->dir);
    redis_server_remove(path);
    snprintf(path, sizeof(path), "%s/dump.rdb", server->dir);
    redis_server_remove(path);
}

static inline void redis_server_stop(struct redis_server *server)
{
    redis_server_kill(server, SIGKILL);
    redis_server_remove(server->dir);
}

/* One command; the reply is the caller's (freeReplyObject), never NULL. */
static inline redisReply *redis_server_vcommand(const struct redis_server *server,
                                                const char *format, va_list args)
{
    redisContext *context = redis_server_connect(server);
    redisReply *reply = context ? (redisReply *)redisvCommand(context, format, args) : NULL;
    if (!reply)
        redis_server_die("no reply");
    redisFree(context);
    return reply;
}

/* redisCommand's formats: %s, %b (pointer, size_t), %d, %lld … */
static inline redisReply *redis_server_command(const struct redis_server *server,
                                               const char *format, ...)
{
    va_list args;
    va_start(args, format);
    redisReply *reply = redis_server_vcommand(server, format, args);
    va_end(args);
    return reply;
}

/* The reply's integer, or -1 when it is none. */
static inline long long redis_server_integer(const struct redis_server *server, const char *format,
                                             ...)
{
    va_list args;
    va_start(args, format);
    redisReply *reply = redis_server_vcommand(server, format, args);
    va_end(args);
    long long integer = reply->type == REDIS_REPLY_INTEGER ? reply->integer : -1;
    freeReplyObject(reply);
    return integer;
}

#endif
