/* By whose `dispatcher` and `worker` sections this process goes. The rule:
 *
 *   A section of a new version is taken by each process whose own file says the same, and by each that had that section of the version before
 *   if the one that published it had it, too. All others keep theirs. What a process starts with is its own file's.
 *
 * So one reload reaches a whole fleet that shares a file, also where some containers see the changed file later than others; dispatchers on one machine
 * that have a file each do not get each other's addresses; and a process that reloads its own file always goes by it. Values are compared as this
 * process's environment has them: HIE_HTTP_LISTEN and its like stand above all files. */
#include "base/log.h"
#include "store/fleet_internal.h"

struct production *fleet_section(const struct fleet *fleet, enum production_section section)
{
    return fleet->sections[section];
}

static bool own_file_says_so(const struct fleet *fleet, enum production_section section)
{
    struct diagnostics diagnostics;
    struct production *file = production_load(fleet->options.path, &diagnostics);
    bool same = file && production_same_section(section, file, fleet->current);
    production_free(file);
    diagnostics_done(&diagnostics);
    return same;
}

static bool takes(const struct fleet *fleet, enum production_section section,
                  const struct production *before)
{
    if (strcmp(fleet->current->hash, fleet->own_hash) == 0)
        return true;
    if (before->version == 0)
        return false; /* at its start */
    return production_follows(section, fleet->sections[section], before, fleet->current) ||
           own_file_says_so(fleet, section);
}

/* Whether that changes anything. */
static bool take(struct fleet *fleet, enum production_section section,
                 const struct production *before)
{
    struct production *mine = fleet->sections[section];
    bool same = production_same_section(section, mine, fleet->current);
    if (!takes(fleet, section, before)) {
        if (!same)
            log_info("section_kept", LOG_WORD("section", production_section_words[section]),
                     LOG_INT("version", fleet->current->version));
        return false;
    }
    fleet->sections[section] = production_ref(fleet->current);
    production_free(mine);
    return !same;
}

void fleet_sections_look(struct fleet *fleet, const struct production *before)
{
    bool dispatcher = take(fleet, SECTION_DISPATCHER, before);
    bool worker = take(fleet, SECTION_WORKER, before);
    if ((dispatcher || worker) && fleet->options.on_section)
        fleet->options.on_section(fleet->options.arg);
}

void fleet_sections_append(const struct fleet *fleet, int64_t base, struct slice base_text,
                           struct buffer *out)
{
    int64_t since[SECTION_COUNT];
    struct diagnostics diagnostics;
    struct production *before = production_parse_published(base_text, &diagnostics);
    for (int i = 0; i < SECTION_COUNT; i++) {
        bool fleets = before && production_same_section(i, fleet->sections[i], before);
        since[i] = fleets ? before->since[i] : base + 1;
    }
    production_append_since(since, out);
    production_free(before);
    diagnostics_done(&diagnostics);
}

void fleet_sections_init(struct fleet *fleet)
{
    for (int i = 0; i < SECTION_COUNT; i++)
        fleet->sections[i] = production_ref(fleet->options.own);
}

void fleet_sections_done(struct fleet *fleet)
{
    for (int i = 0; i < SECTION_COUNT; i++)
        production_free(fleet->sections[i]);
}
