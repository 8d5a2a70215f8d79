/* Atomic, durable files in batches; see file_store.h. It owns the descriptors it opens until a call
 * returns. */
#include "handlers/file_store.h"

#include "base/bug.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FOLDER_MODE = 0750, FILE_MODE = 0640, COMPARE_BYTES = 16384, STALE_SECONDS = 3600 };

/* strerror gives each thread its own text (glibc from 2.32 on, musl). */
static int fail(struct err *err, const char *folder, const char *step, int error)
{
    return err_set(err, ERR_IO, "folder %s: %s: %s", folder, step, strerror(error));
}

/* ---- the folder ---- */

static int open_folder(const char *folder)
{
    return open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* A new folder lives as long as its parent knows of it. */
static void sync_parent(const char *folder)
{
    char *parent = mem_strdup(folder);
    char *slash = strrchr(parent, '/');
    if (slash == parent)
        slash++; /* "/" itself */
    if (slash)
        *slash = '\0';
    int fd = open_folder(slash ? parent : ".");
    if (fd >= 0) {
        fsync(fd); /* a failure shows again with the files themselves */
        close(fd);
    }
    free(parent);
}

/* 0, or -1 with errno. */
static int make_one(const char *folder)
{
    if (mkdir(folder, FOLDER_MODE) == 0) {
        sync_parent(folder);
        return 0;
    }
    return errno == EEXIST ? 0 : -1;
}

static int make_folder(const char *folder)
{
    char *path = mem_strdup(folder);
    int result = 0;
    for (char *at = path + 1; *path && *at && result == 0; at++) {
        if (*at != '/' || at[1] == '/' || at[1] == '\0')
            continue;
        *at = '\0';
        result = make_one(path);
        *at = '/';
    }
    for (size_t len = strlen(path); len > 1 && path[len - 1] == '/'; len--)
        path[len - 1] = '\0';
    if (result == 0)
        result = make_one(path);
    int error = errno;
    free(path);
    errno = error;
    return result;
}

/* A descriptor, or -1 with errno. */
static int open_or_make_folder(const char *folder)
{
    int fd = open_folder(folder);
    if (fd >= 0 || errno != ENOENT)
        return fd;
    if (make_folder(folder) != 0)
        return -1;
    return open_folder(folder);
}

/* ---- one file ---- */

/* 0, or -1 with errno. */
static int write_all(int fd, struct slice bytes)
{
    while (bytes.len) {
        ssize_t n = write(fd, bytes.ptr, bytes.len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (n == 0)
                errno = ENOSPC;
            return -1;
        }
        bytes.ptr += n;
        bytes.len -= (size_t)n;
    }
    return 0;
}

static void discard(int dir, struct file_write *file)
{
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
    unlinkat(dir, file->temporary, 0);
}

static bool is_given_up(struct file_write *file)
{
    if (atomic_load(&file->cancelled))
        err_set(&file->err, ERR_CANCELLED, "cancelled before the file was written");
    return file->err.code != ERR_NONE;
}

static void create(int dir, const char *folder, struct file_write *file)
{
    if (is_given_up(file))
        return;
    file->fd = openat(dir, file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                      FILE_MODE);
    if (file->fd < 0) {
        fail(&file->err, folder, "create", errno);
        return;
    }
    if (write_all(file->fd, file->body) != 0) {
        fail(&file->err, folder, "write", errno);
        discard(dir, file);
        return;
    }
    /* Only a hint that starts the writing; the sync that counts follows. */
    sync_file_range(file->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

static void bring_to_disk(int dir, const char *folder, struct file_write *file)
{
    if (file->err.code != ERR_NONE)
        return;
    int result = fdatasync(file->fd);
    int error = errno;
    /* Network file systems report a failed write here at the latest. */
    if (close(file->fd) != 0 && result == 0) {
        result = -1;
        error = errno;
    }
    file->fd = -1;
    if (result != 0) {
        fail(&file->err, folder, "sync", error);
        discard(dir, file);
    }
}

/* ---- giving it its name ---- */

/* Renames unless the name is taken: 0, or -1 with errno (EEXIST). */
static int rename_new(int dir, const char *from, const char *to)
{
    if (renameat2(dir, from, dir, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    /* A file system without that flag (NFS): a hard link refuses a taken name as well. */
    if (linkat(dir, from, dir, to, 0) != 0)
        return -1;
    return unlinkat(dir, from, 0);
}

static bool fd_holds(int fd, struct slice bytes)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != bytes.len)
        return false;
    char chunk[COMPARE_BYTES];
    while (bytes.len) {
        ssize_t n = read(fd, chunk, sizeof(chunk));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 || (size_t)n > bytes.len || memcmp(chunk, bytes.ptr, (size_t)n) != 0)
            return false;
        bytes.ptr += n;
        bytes.len -= (size_t)n;
    }
    /* Whoever wrote it may not have synced it. */
    return fdatasync(fd) == 0;
}

static bool file_holds(int dir, const char *name, struct slice bytes)
{
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool same = fd_holds(fd, bytes);
    close(fd);
    return same;
}

/* 0, or -1 with errno. */
static int give_name(int dir, struct file_write *file)
{
    if (!file->own_name) {
        if (rename_new(dir, file->temporary, file->name) == 0)
            return 0;
        if (errno != EEXIST)
            return -1;
        if (file_holds(dir, file->name, file->body))
            return unlinkat(dir, file->temporary, 0);
        memcpy(file->name, file->second_name, sizeof(file->name));
    }
    return renameat(dir, file->temporary, dir, file->name);
}

static void publish(int dir, const char *folder, struct file_write *file)
{
    if (file->err.code != ERR_NONE)
        return;
    if (is_given_up(file)) {
        discard(dir, file);
    } else if (give_name(dir, file) != 0) {
        fail(&file->err, folder, "rename", errno);
        discard(dir, file);
    }
}

/* ---- the batch ---- */

static void fail_rest(const char *folder, const char *step, int error,
                      struct file_write *const *writes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (writes[i]->err.code == ERR_NONE)
            fail(&writes[i]->err, folder, step, error);
    }
}

void file_store_write(const char *folder, struct file_write *const *writes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        err_clear(&writes[i]->err);
        writes[i]->fd = -1;
    }
    int dir = open_or_make_folder(folder);
    if (dir < 0) {
        fail_rest(folder, "open", errno, writes, count);
        return;
    }
    for (size_t i = 0; i < count; i++)
        create(dir, folder, writes[i]);
    for (size_t i = 0; i < count; i++)
        bring_to_disk(dir, folder, writes[i]);
    for (size_t i = 0; i < count; i++)
        publish(dir, folder, writes[i]);
    if (fsync(dir) != 0)
        fail_rest(folder, "sync of the folder", errno, writes, count);
    close(dir);
}

/* ---- leftovers ---- */

static bool is_temporary(const char *name)
{
    static const char head[] = ".hie-", tail[] = ".tmp";
    size_t len = strlen(name);
    return len >= sizeof(head) + sizeof(tail) - 2 && strncmp(name, head, sizeof(head) - 1) == 0 &&
           strcmp(name + len - (sizeof(tail) - 1), tail) == 0;
}

static void remove_stale(int dir, const char *name, time_t now)
{
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
        st.st_mtime < now - STALE_SECONDS)
        unlinkat(dir, name, 0);
}

void file_store_sweep(const char *folder)
{
    DIR *dir = opendir(folder);
    if (!dir)
        return;
    time_t now = time(NULL);
    struct dirent *entry;
    while ((entry = readdir(dir))) {
        if (is_temporary(entry->d_name))
            remove_stale(dirfd(dir), entry->d_name, now);
    }
    closedir(dir);
}
