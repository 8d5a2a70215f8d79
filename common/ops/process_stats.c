/* Reads /proc/self (proc(5)). Owns nothing; a file that cannot be read leaves its numbers 0. */
#include "ops/process_stats.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static bool read_text(const char *path, char *ret, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t len = read(fd, ret, size - 1);
    close(fd);
    if (len <= 0)
        return false;
    ret[len] = '\0';
    return true;
}

/* Seconds since 1970 at which the kernel started. */
static double boot_seconds(void)
{
    FILE *file = fopen("/proc/stat", "re");
    char line[256];
    double at = 0;
    while (file && fgets(line, sizeof(line), file)) {
        if (strncmp(line, "btime ", 6) == 0)
            at = strtod(line + 6, NULL);
    }
    if (file)
        fclose(file);
    return at;
}

/* Field 22 of /proc/self/stat, in clock ticks since boot; the name in field 2 may hold blanks and
 * parentheses. */
static double start_ticks(void)
{
    char text[2048];
    if (!read_text("/proc/self/stat", text, sizeof(text)))
        return 0;
    char *at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at ? strtod(at + 1, NULL) : 0;
}

static double count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    double count = 0;
    if (!dir)
        return 0;
    for (const struct dirent *entry; (entry = readdir(dir));)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count - 1; /* without the folder's own */
}

void process_stats_read(struct process_stats *ret)
{
    static double start; /* does not change */
    struct rusage usage = {0};
    struct rlimit limit = {0};
    char text[256];
    *ret = (struct process_stats){0};
    if (start == 0 && start_ticks() > 0)
        start = boot_seconds() + start_ticks() / (double)sysconf(_SC_CLK_TCK);
    ret->start_seconds = start;
    getrusage(RUSAGE_SELF, &usage);
    ret->cpu_seconds = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    if (read_text("/proc/self/statm", text, sizeof(text))) {
        char *second = strchr(text, ' ');
        ret->resident_bytes = second ? strtod(second, NULL) * (double)sysconf(_SC_PAGESIZE) : 0;
    }
    ret->open_fds = count_fds();
    getrlimit(RLIMIT_NOFILE, &limit);
    ret->max_fds = (double)limit.rlim_cur;
}
