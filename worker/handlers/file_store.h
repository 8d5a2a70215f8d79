/* Files that are either wholly there or not at all, several at once: each is written under a
 * temporary name, brought to the disk and renamed, then the folder is synced once for all of them.
 * Blocking: for threads.
 *
 *   create .hie-….tmp ──▶ write ──▶ fdatasync ──▶ rename ──▶ fsync of the folder
 *        └───────────────┴──────────────┴───────────┴─▶ failed: the temporary file is removed
 *
 * The syncs of a batch overlap: all writes are under way before the first is waited for, so that
 * one journal commit of the file system serves many files. Measured on ext4: 700 files/s one by
 * one, 7,000 in batches of 64. (syncfs is twice that, but would wait for whatever else the disk has
 * to write, and is no sync at all on some network file systems.)
 *
 * All failures are ERR_IO, which is retried: a full disk, a folder without permission, one that
 * vanished. The texts name the folder and never a file, whose name may come from the message. */
#ifndef HIE_HANDLERS_FILE_STORE_H
#define HIE_HANDLERS_FILE_STORE_H

#include "base/bytes.h"
#include "base/error.h"
#include "handlers/file_name.h"

#include <stdatomic.h>
#include <stdbool.h>

#define FILE_TEMPORARY_SIZE 96

/* One file. */
struct file_write {
    struct slice body;                   /* borrowed */
    char temporary[FILE_TEMPORARY_SIZE]; /* ".hie-….tmp", unique */
    char name[FILE_NAME_SIZE];           /* in: the name wanted; out: the name written */
    char second_name[FILE_NAME_SIZE];    /* taken when `name` is another message's file */
    bool own_name; /* nobody else writes a file called `name`: what is there is an earlier attempt's
                      and is replaced */
    atomic_bool
        cancelled;  /* set by another thread: the file is not written if it is not yet there */
    struct err err; /* out: ERR_NONE when the file is on the disk under `name` */
    int fd;
};

/* Writes all of them into `folder`, which is made with its parents (mode 0750) when it is missing.
 * A file of that name with the same bytes is as good as written; one with others is left alone and
 * `second_name` is used. */
void file_store_write(const char *folder, struct file_write *const *writes, size_t count);
/* Removes temporary files that a crash left behind: those older than an hour. */
void file_store_sweep(const char *folder);

#endif
