/* The fleet's production and who runs by it. */
#include "sim_postgres.h"

#include "base/bug.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>

#define VERSIONS_MAX 16

struct attendant {
    TAILQ_ENTRY(attendant) link;
    char id[REDIS_NAME_MAX];
    int64_t number, until_us;
};

static struct redis_content *versions[VERSIONS_MAX]; /* from 1 */
static int64_t version_count;
static TAILQ_HEAD(, attendant) attendants = TAILQ_HEAD_INITIALIZER(attendants);

int64_t pg_version(void)
{
    return version_count;
}

struct redis_content *pg_production(int64_t version)
{
    return version > 0 && version <= version_count ? versions[version] : NULL;
}

void pg_publish(struct redis_content *text, bool only_first)
{
    const struct redis_content *current = pg_production(version_count);
    if (current && (only_first || slice_equal(current->key, text->key)))
        return;
    BUG_ON(version_count + 1 == VERSIONS_MAX);
    versions[++version_count] = redis_content_ref(text);
}

static struct attendant *attendant_of(const char *id)
{
    struct attendant *attendant;
    TAILQ_FOREACH(attendant, &attendants, link)
    {
        if (strcmp(attendant->id, id) == 0)
            return attendant;
    }
    attendant = mem_alloc(sizeof(*attendant));
    snprintf(attendant->id, sizeof(attendant->id), "%s", id);
    TAILQ_INSERT_TAIL(&attendants, attendant, link);
    return attendant;
}

int64_t pg_attend(const char *id, int64_t number, int64_t ttl_ms)
{
    struct attendant *attendant = attendant_of(id);
    int64_t lowest = number;
    attendant->number = number;
    attendant->until_us = sim.now_us + ttl_ms * SIM_MS;
    TAILQ_FOREACH(attendant, &attendants, link)
    {
        if (attendant->until_us > sim.now_us && attendant->number < lowest)
            lowest = attendant->number;
    }
    return lowest;
}

bool pg_has_older(const char *item, int64_t version)
{
    const struct pg_row *row;
    TAILQ_FOREACH(row, &postgres.accepted, by_seq)
    {
        if (pg_is_unfinished(row) && row->version < version && strcmp(row->item, item) == 0)
            return true;
    }
    return false;
}

void pg_forget_fleet(void)
{
    struct attendant *attendant;
    while (version_count)
        redis_content_unref(versions[version_count--]);
    while ((attendant = TAILQ_FIRST(&attendants))) {
        TAILQ_REMOVE(&attendants, attendant, link);
        free(attendant);
    }
}
