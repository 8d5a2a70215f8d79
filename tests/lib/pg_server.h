/* A private PostgreSQL for tests: its own cluster in a folder of /tmp, a free loopback port, fsync on. Run as root it becomes
 * `postgres` or `nobody`, since the server refuses root. It ends with the process that started it. Any failure here aborts: a
 * test without its server has nothing to say. */
#ifndef HIE_TESTS_PG_SERVER_H
#define HIE_TESTS_PG_SERVER_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <libpq-fe.h>
#include <netinet/in.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct pg_server {
    char bin[256];
    char dir[64];
    int port;
    pid_t pid; /* of the postmaster; 0: not running */
};

#define PG_SERVER_DIE(...)                                                                         \
    do {                                                                                           \
        fprintf(stderr, "pg_server: " __VA_ARGS__);                                                \
        fputc('\n', stderr);                                                                       \
        abort();                                                                                   \
    } while (0)

static inline void pg_server_find_bin(char *ret, size_t size)
{
    glob_t found;
    if (glob("/usr/lib/postgresql/*/bin/initdb", 0, NULL, &found) != 0 || found.gl_pathc == 0)
        PG_SERVER_DIE("no initdb below /usr/lib/postgresql");
    const char *path = found.gl_pathv[found.gl_pathc - 1]; /* the newest */
    snprintf(ret, size, "%.*s", (int)(strlen(path) - strlen("/initdb")), path);
    globfree(&found);
}

static inline const struct passwd *pg_server_user(void)
{
    if (geteuid() != 0)
        return NULL;
    const struct passwd *user = getpwnam("postgres");
    user = user ? user : getpwnam("nobody");
    if (!user)
        PG_SERVER_DIE("no user to run it as");
    return user;
}

/* Forks and runs a program of PostgreSQL as the unprivileged user; output goes to dir/log. */
static inline pid_t pg_server_spawn(const struct pg_server *server, const char *program,
                                    char *const argv[])
{
    const struct passwd *user = pg_server_user();
    char path[320], log[96];
    snprintf(path, sizeof(path), "%s/%s", server->bin, program);
    snprintf(log, sizeof(log), "%s/log", server->dir);
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        PG_SERVER_DIE("fork: %s", strerror(errno));
    if (pid > 0)
        return pid;
    if (user && (setgid(user->pw_gid) || setuid(user->pw_uid)))
        _exit(126);
    prctl(PR_SET_PDEATHSIG, SIGQUIT);
    if (getppid() != parent)
        _exit(126);
    setpgid(0, 0);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(fd, 1);
    dup2(fd, 2);
    unsetenv("LD_PRELOAD");
    char *args[64] = {path}; /* initdb finds its companions by a whole path only */
    for (size_t i = 1; i < 63 && argv[i]; i++)
        args[i] = argv[i];
    execv(path, args);
    _exit(127);
}

static inline int pg_server_free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, len) ||
        getsockname(fd, (struct sockaddr *)&address, &len))
        PG_SERVER_DIE("no free port: %s", strerror(errno));
    close(fd);
    return ntohs(address.sin_port);
}

/* "postgresql://hie@127.0.0.1:PORT/DATABASE" in one of four rotating buffers. */
static inline const char *pg_server_url(const struct pg_server *server, const char *database)
{
    static char urls[4][160];
    static unsigned next;
    char *url = urls[next++ % 4];
    snprintf(url, sizeof(urls[0]), "postgresql://hie@127.0.0.1:%d/%s", server->port, database);
    return url;
}

/* Starts the server on its folder and waits until it answers. */
static inline void pg_server_run(struct pg_server *server)
{
    char data[96], port[16], sockets[96];
    snprintf(data, sizeof(data), "%s/data", server->dir);
    snprintf(port, sizeof(port), "%d", server->port);
    snprintf(sockets, sizeof(sockets), "unix_socket_directories=%s", server->dir);
    char *const argv[] = {(char *)"postgres",
                          (char *)"-D",
                          data,
                          (char *)"-p",
                          port,
                          (char *)"-c",
                          (char *)"listen_addresses=127.0.0.1",
                          (char *)"-c",
                          sockets,
                          (char *)"-c",
                          (char *)"max_connections=60",
                          (char *)"-c",
                          (char *)"shared_buffers=32MB",
                          (char *)"-c",
                          (char *)"log_error_verbosity=terse",
                          NULL};
    for (int i = 0; i < 600; i++) {
        int status;
        if (server->pid == 0)
            server->pid = pg_server_spawn(server, "postgres", argv);
        if (PQping(pg_server_url(server, "postgres")) == PQPING_OK)
            return;
        /* After a kill the last processes of the server before hold its memory for a moment. */
        if (waitpid(server->pid, &status, WNOHANG) == server->pid)
            server->pid = 0;
        usleep(50000);
    }
    PG_SERVER_DIE("it does not start, see %s/log", server->dir);
}

static inline void pg_server_start(struct pg_server *server)
{
    const struct passwd *user = pg_server_user();
    char data[96];
    int status;
    memset(server, 0, sizeof(*server));
    pg_server_find_bin(server->bin, sizeof(server->bin));
    snprintf(server->dir, sizeof(server->dir), "/tmp/hie-pg-XXXXXX");
    if (!mkdtemp(server->dir))
        PG_SERVER_DIE("mkdtemp: %s", strerror(errno));
    if (user && chown(server->dir, user->pw_uid, user->pw_gid))
        PG_SERVER_DIE("chown: %s", strerror(errno));
    snprintf(data, sizeof(data), "%s/data", server->dir);
    char *const argv[] = {(char *)"initdb", (char *)"-D",         data,
                          (char *)"-U",     (char *)"hie",        (char *)"-A",
                          (char *)"trust",  (char *)"-E",         (char *)"UTF8",
                          (char *)"-N",     (char *)"--locale=C", NULL};
    pid_t pid = pg_server_spawn(server, "initdb", argv);
    if (waitpid(pid, &status, 0) != pid || status != 0)
        PG_SERVER_DIE("initdb failed, see %s/log", server->dir);
    server->port = pg_server_free_port();
    pg_server_run(server);
}

/* SIGINT: fast shutdown, SIGKILL: as if the machine lost power (for the server's processes). Waits for its end. */
static inline void pg_server_end(struct pg_server *server, int signal)
{
    if (server->pid == 0)
        return;
    kill(signal == SIGKILL ? -server->pid : server->pid, signal);
    waitpid(server->pid, NULL, 0);
    server->pid = 0;
}

/* Ends it and removes its folder. */
static inline void pg_server_stop(struct pg_server *server)
{
    char command[96];
    pg_server_end(server, SIGINT);
    snprintf(command, sizeof(command), "rm -rf '%s'", server->dir);
    if (strncmp(server->dir, "/tmp/hie-pg-", 12) != 0 || system(command) != 0)
        PG_SERVER_DIE("cannot remove %s", server->dir);
}

/* Runs SQL on a connection of its own; the first column of the first row in a static buffer, "" when there is none. */
static inline const char *pg_server_sql(const struct pg_server *server, const char *database,
                                        const char *format, ...)
{
    static char value[4096];
    char sql[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(sql, sizeof(sql), format, args);
    va_end(args);
    PGconn *conn = PQconnectdb(pg_server_url(server, database));
    PGresult *result = PQexec(conn, sql);
    ExecStatusType status = PQresultStatus(result);
    if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
        PG_SERVER_DIE("%s: %s", sql, PQerrorMessage(conn));
    bool any = status == PGRES_TUPLES_OK && PQntuples(result) > 0;
    snprintf(value, sizeof(value), "%s", any ? PQgetvalue(result, 0, 0) : "");
    PQclear(result);
    PQfinish(conn);
    return value;
}

static inline long pg_server_number(const struct pg_server *server, const char *database,
                                    const char *sql)
{
    return atol(pg_server_sql(server, database, "%s", sql));
}

/* A fresh database; its name is valid until the fourth call after this. */
static inline const char *pg_server_database(const struct pg_server *server)
{
    static char names[4][32];
    static unsigned next;
    char *name = names[next % 4];
    snprintf(name, sizeof(names[0]), "test_%d_%u", (int)getpid(), next++);
    pg_server_sql(server, "postgres", "CREATE DATABASE %s", name);
    return name;
}

#endif
