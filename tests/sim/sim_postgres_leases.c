/* Leases: by name, and of partitions with their even share (schemas/sql.md, hie.own). */
#include "sim_postgres.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- by name ---- */

static struct pg_lease *find_lease(const char *name)
{
    struct pg_lease *lease;
    TAILQ_FOREACH(lease, &postgres.leases, link)
    {
        if (strcmp(lease->name, name) == 0)
            return lease;
    }
    return NULL;
}

int64_t pg_lease(const char *name, const char *holder, int64_t ttl_ms)
{
    struct pg_lease *lease = find_lease(name);
    if (!lease) {
        lease = mem_alloc(sizeof(*lease));
        snprintf(lease->name, sizeof(lease->name), "%s", name);
        TAILQ_INSERT_TAIL(&postgres.leases, lease, link);
    }
    if (strcmp(lease->holder, holder) != 0) {
        if (sim.now_us < lease->until_us)
            return 0;
        snprintf(lease->holder, sizeof(lease->holder), "%s", holder);
        lease->token = ++postgres.last_token;
    }
    lease->until_us = sim.now_us + ttl_ms * SIM_MS;
    return lease->token;
}

void pg_release(const char *name, const char *holder)
{
    struct pg_lease *lease = find_lease(name);
    if (lease && strcmp(lease->holder, holder) == 0) {
        lease->holder[0] = '\0';
        lease->until_us = 0;
    }
}

/* ---- of partitions ---- */

bool pg_token_holds(int64_t token)
{
    const struct pg_partition *partition;
    TAILQ_FOREACH(partition, &postgres.partitions, link)
    {
        if (partition->token == token)
            return true;
    }
    return false;
}

const struct pg_partition *pg_partition_of(const char *item, unsigned number)
{
    const struct pg_partition *partition;
    TAILQ_FOREACH(partition, &postgres.partitions, link)
    {
        if (partition->number == number && strcmp(partition->item, item) == 0)
            return partition;
    }
    return NULL;
}

static bool is_live(const struct pg_member *member)
{
    return member->until_us > sim.now_us;
}

static bool has_share(const struct pg_member *member, const char *item)
{
    return is_live(member) && !member->leaves && strcmp(member->item, item) == 0;
}

static struct pg_member *find_member(const char *item, const char *worker)
{
    struct pg_member *member;
    TAILQ_FOREACH(member, &postgres.members, link)
    {
        if (strcmp(member->item, item) == 0 && strcmp(member->worker, worker) == 0)
            return member;
    }
    return NULL;
}

static int64_t count_of(const char *item, const char *worker)
{
    const struct pg_partition *partition;
    int64_t count = 0;
    TAILQ_FOREACH(partition, &postgres.partitions, link)
    {
        count += strcmp(partition->item, item) == 0 && strcmp(partition->holder, worker) == 0;
    }
    return count;
}

/* What `worker` may take and should give of an item: everybody has the floor or one more. */
struct balance {
    int64_t take, give;
};

static struct balance balance_of(const struct store_share *share, const char *worker)
{
    const struct pg_member *member;
    int64_t members = 0, all = 0, lacking = 0, lacking_others = 0, excess = 0, rank = 0;
    int64_t parts = share->partitions, mine = count_of(share->item, worker);
    if (share->leaves)
        return (struct balance){.give = mine};
    TAILQ_FOREACH(member, &postgres.members, link)
    {
        members += has_share(member, share->item);
    }
    int64_t lowest = parts / members, odd = parts % members > 0;
    TAILQ_FOREACH(member, &postgres.members, link)
    {
        if (!has_share(member, share->item))
            continue;
        int64_t have = count_of(share->item, member->worker);
        int64_t lacks = have < lowest ? lowest - have : 0;
        all += have;
        lacking += lacks;
        lacking_others += strcmp(member->worker, worker) == 0 ? 0 : lacks;
        excess += have > lowest + odd ? have - lowest - odd : 0;
        rank += odd && have > lowest && strcmp(member->worker, worker) <= 0;
    }
    int64_t unowned = parts - all, own_lack = mine < lowest ? lowest - mine : 0;
    struct balance balance = {.take = own_lack};
    balance.take += odd && mine <= lowest && unowned > lacking_others + own_lack;
    balance.take = balance.take < unowned ? balance.take : unowned;
    if (lacking > unowned) {
        balance.give = mine > lowest + odd ? mine - lowest - odd : 0;
        balance.give += odd && mine > lowest && rank <= lacking - unowned - excess;
    }
    return balance;
}

static struct pg_partition *partition_of(const struct store_share *share, unsigned number)
{
    struct pg_partition *partition;
    TAILQ_FOREACH(partition, &postgres.partitions, link)
    {
        if (partition->number == number && strcmp(partition->item, share->item) == 0)
            return partition;
    }
    partition = mem_alloc(sizeof(*partition));
    snprintf(partition->item, sizeof(partition->item), "%s", share->item);
    partition->pattern = share->pattern;
    partition->number = number;
    TAILQ_INSERT_TAIL(&postgres.partitions, partition, link);
    return partition;
}

static void take(const struct store_share *share, const char *worker, int64_t count)
{
    for (unsigned number = 0; number < share->partitions && count > 0; number++) {
        struct pg_partition *partition = partition_of(share, number);
        const struct pg_member *holder = find_member(share->item, partition->holder);
        if (holder && is_live(holder))
            continue;
        sim_say("  %s/%u is %s's by now (was '%s')", share->item, number, worker,
                partition->holder);
        snprintf(partition->holder, sizeof(partition->holder), "%s", worker);
        partition->token = ++postgres.last_token;
        count--;
    }
}

void pg_own(const char *worker, const struct store_share *shares, size_t count, int64_t ttl_ms)
{
    for (size_t i = 0; i < count; i++) {
        struct pg_member *member = find_member(shares[i].item, worker);
        if (!member) {
            member = mem_alloc(sizeof(*member));
            snprintf(member->item, sizeof(member->item), "%s", shares[i].item);
            snprintf(member->worker, sizeof(member->worker), "%s", worker);
            member->pattern = shares[i].pattern;
            TAILQ_INSERT_TAIL(&postgres.members, member, link);
        }
        member->until_us = sim.now_us + ttl_ms * SIM_MS;
        member->leaves = shares[i].leaves;
    }
    for (size_t i = 0; i < count; i++)
        take(&shares[i], worker, balance_of(&shares[i], worker).take);
}

size_t pg_owned(const char *worker, const struct store_share *shares, size_t count,
                struct store_owned *ret_owned, size_t max)
{
    size_t owned = 0;
    for (size_t i = 0; i < count; i++) {
        int64_t give = balance_of(&shares[i], worker).give;
        for (unsigned number = shares[i].partitions; number-- > 0 && owned < max;) {
            const struct pg_partition *partition = pg_partition_of(shares[i].item, number);
            if (!partition || strcmp(partition->holder, worker) != 0)
                continue;
            ret_owned[owned++] = (struct store_owned){.item = shares[i].item,
                                                      .pattern = partition->pattern,
                                                      .partition = number,
                                                      .token = partition->token,
                                                      .wanted = give-- > 0};
        }
    }
    return owned;
}

static void free_partition(struct pg_partition *partition)
{
    TAILQ_REMOVE(&postgres.partitions, partition, link);
    free(partition);
}

void pg_disown(const char *worker, const struct store_owned *owned, size_t count)
{
    struct pg_partition *partition, *next;
    struct pg_member *member, *following;
    for (partition = TAILQ_FIRST(&postgres.partitions); partition; partition = next) {
        bool named = count == 0;
        next = TAILQ_NEXT(partition, link);
        for (size_t i = 0; i < count; i++)
            named |= owned[i].partition == partition->number &&
                     strcmp(owned[i].item, partition->item) == 0;
        if (named && strcmp(partition->holder, worker) == 0)
            free_partition(partition);
    }
    for (member = TAILQ_FIRST(&postgres.members); member && count == 0; member = following) {
        following = TAILQ_NEXT(member, link);
        if (strcmp(member->worker, worker) == 0) {
            TAILQ_REMOVE(&postgres.members, member, link);
            free(member);
        }
    }
}

void pg_forget_leases(void)
{
    struct pg_lease *lease;
    struct pg_member *member;
    while ((lease = TAILQ_FIRST(&postgres.leases))) {
        TAILQ_REMOVE(&postgres.leases, lease, link);
        free(lease);
    }
    while ((member = TAILQ_FIRST(&postgres.members))) {
        TAILQ_REMOVE(&postgres.members, member, link);
        free(member);
    }
    while (!TAILQ_EMPTY(&postgres.partitions))
        free_partition(TAILQ_FIRST(&postgres.partitions));
}
