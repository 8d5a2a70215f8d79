/* Brings the schema up to date before a link carries requests. Waits for the migration lock, which other processes hold while
 * they do the same; each migration is one transaction. A schema newer than the program, or a migration changed after it was
 * applied, ends the program; so does a right that is missing.
 *
 *   read ──current──▶ open                 read (locked) ──next one missing──▶ apply, commit ──▶ read
 *     └──behind──▶ begin, lock ──▶ read (locked) ──current by now──▶ commit ──▶ read
 */
#include "store/store_pg.h"

#include "base/bug.h"
#include "base/embedded.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define SCRIPT_MS 15000
#define LOCK_MS 600000      /* others migrate a large database */
#define MIGRATE_MS 86400000 /* … or we: an index of a large table takes its time */
#define LOCK_KEY "hashtextextended('hie.migrate', 0)"

static void on_versions(void *arg, const struct pg_answer *answer);

static void read_versions(struct store_setup *setup)
{
    pg_link_script(setup->link, "SELECT version, hash FROM hie.schema_versions ORDER BY version",
                   SCRIPT_MS, on_versions, setup);
}

static void hash_of(const struct embedded_file *file, char ret[static 17])
{
    snprintf(ret, 17, "%016" PRIx64, hash_bytes(HASH_SEED, file->text, file->len));
}

/* Undefined table, undefined schema: nothing was applied yet. */
static bool no_schema(const struct pg_answer *answer)
{
    return strcmp(answer->sqlstate, "42P01") == 0 || strcmp(answer->sqlstate, "3F000") == 0;
}

/* An answer that ends the set-up: what is the schema's or the data's fault is for good. */
static void give_up(struct store_setup *setup, const struct pg_answer *answer, const char *doing)
{
    struct err err;
    bool unlucky = answer->err.code == ERR_UNAVAILABLE || answer->err.code == ERR_OUTCOME_UNKNOWN;
    err_set(&err, unlucky ? ERR_UNAVAILABLE : ERR_SCHEMA, "%s: %.180s", doing, answer->err.text);
    if (answer->sqlstate[0] == '\0' && unlucky)
        return; /* the link went away by itself */
    if (unlucky)
        pg_link_fail(setup->link, &err);
    else
        pg_link_refuse(setup->link, &err);
}

static void on_committed(void *arg, const struct pg_answer *answer)
{
    struct store_setup *setup = arg;
    if (answer->err.code != ERR_NONE) {
        give_up(setup, answer, "migrating the schema");
        return;
    }
    setup->locked = false;
    read_versions(setup);
}

static void apply(struct store_setup *setup, size_t index)
{
    const struct embedded_file *file = &sql_migrations[index];
    char hash[17];
    hash_of(file, hash);
    buffer_clear(&setup->script);
    buffer_append(&setup->script, file->text, file->len);
    buffer_printf(
        &setup->script,
        "\n;INSERT INTO hie.schema_versions (version, name, hash) VALUES (%zu, '%s', '%s');"
        "COMMIT",
        index + 1, file->name, hash);
    buffer_append_byte(&setup->script, '\0');
    pg_link_script(setup->link, setup->script.data, MIGRATE_MS, on_committed, setup);
}

static void on_locked(void *arg, const struct pg_answer *answer)
{
    struct store_setup *setup = arg;
    if (answer->err.code != ERR_NONE) {
        give_up(setup, answer, "preparing to migrate the schema");
        return;
    }
    setup->locked = true;
    read_versions(setup);
}

static void lock(struct store_setup *setup)
{
    pg_link_script(
        setup->link,
        "BEGIN; SET LOCAL statement_timeout = 0;"
        "SELECT pg_advisory_xact_lock(" LOCK_KEY ");"
        "SET LOCAL lock_timeout = '5s';" /* others queue behind a lock that we wait for */
        "CREATE SCHEMA IF NOT EXISTS hie;"
        "CREATE TABLE IF NOT EXISTS hie.schema_versions (version integer PRIMARY KEY,"
        " name text NOT NULL, hash text NOT NULL, at timestamptz NOT NULL DEFAULT now())",
        LOCK_MS, on_locked, setup);
}

/* The versions applied must be the first ones of ours. */
static int check_versions(const struct pg_result *result, size_t count, struct err *err)
{
    if (count > sql_migrations_count)
        return err_set(
            err, ERR_SCHEMA,
            "the database's schema (version %zu) is newer than this program (version %zu)", count,
            sql_migrations_count);
    for (size_t i = 0; i < count; i++) {
        int64_t version = 0;
        char hash[17];
        slice_to_int(pg_result_value(result, i, 0), 0, INT32_MAX, &version);
        hash_of(&sql_migrations[i], hash);
        if (version != (int64_t)i + 1 || !slice_is(pg_result_value(result, i, 1), hash))
            return err_set(
                err, ERR_SCHEMA,
                "the database's schema is another one: migration %s was changed after it was "
                "applied",
                sql_migrations[i].name);
    }
    return 0;
}

static void on_versions(void *arg, const struct pg_answer *answer)
{
    struct store_setup *setup = arg;
    struct err err;
    size_t count = 0;
    if (answer->err.code == ERR_NONE) {
        count = pg_result_rows(answer->result);
        if (check_versions(answer->result, count, &err)) {
            pg_link_refuse(setup->link, &err);
            return;
        }
    } else if (setup->locked || !no_schema(answer)) {
        give_up(setup, answer, "reading the schema's version");
        return;
    }
    if (count == sql_migrations_count) {
        if (setup->locked)
            pg_link_script(setup->link, "COMMIT", SCRIPT_MS, on_committed, setup);
        else
            pg_link_open(setup->link);
    } else if (setup->locked) {
        apply(setup, count);
    } else {
        lock(setup);
    }
}

void store_setup_start(struct store_setup *setup)
{
    setup->locked = false;
    read_versions(setup);
}
