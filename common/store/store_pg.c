/* The PostgreSQL store: owns its links and the operations under way. It is up while all links are; an operation
 * sent meanwhile ends with ERR_UNAVAILABLE. Refused for good by any link, it tells so once. */
#include "store/store_pg.h"

#include "base/bug.h"
#include "base/mem.h"

#include <stdlib.h>

/* Every look-up is an index probe; a plan made while a table was empty or its statistics old must not become a scan. */
#define SESSION                                                                                    \
    "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"                         \
    " -c enable_bitmapscan=off -c plan_cache_mode=force_generic_plan"                              \
    " -c max_parallel_workers_per_gather=0"

_Static_assert(STATEMENT_COUNT <= PG_STATEMENTS_MAX, "statement ids are bits of a word");

static struct store_pg *of(struct store *store)
{
    return (struct store_pg *)store;
}

/* ---- operations ---- */

void *store_op_new(struct store *store, size_t size)
{
    struct store_op *op = mem_alloc(size);
    op->store = of(store);
    arena_init(&op->arena);
    LIST_INSERT_HEAD(&op->store->ops, op, entry);
    return op;
}

void store_op_detach(struct store_op *op)
{
    LIST_REMOVE(op, entry);
    op->store = NULL;
}

void store_op_free(struct store_op *op)
{
    if (op->store)
        LIST_REMOVE(op, entry);
    arena_done(&op->arena);
    free(op);
}

void store_op_send(struct store_op *op, enum store_link link, const struct pg_statement *statement,
                   void (*encode)(struct pg_request *, struct pg_params *),
                   void (*done)(struct pg_request *, const struct pg_answer *))
{
    op->request.statement = statement;
    op->request.encode = encode;
    op->request.done = done;
    pg_link_send(op->store->links[link], &op->request);
}

struct err store_err(const struct pg_answer *answer)
{
    struct err err = answer->err;
    if (err.code != ERR_NONE && err.code != ERR_OUTCOME_UNKNOWN)
        err.code = ERR_UNAVAILABLE;
    return err;
}

void id_range_add(struct id_range *range, struct uuid id, bool first)
{
    if (first || memcmp(id.bytes, range->low.bytes, sizeof(id.bytes)) < 0)
        range->low = id;
    if (first || memcmp(id.bytes, range->high.bytes, sizeof(id.bytes)) > 0)
        range->high = id;
}

struct id_range id_range_same_time(struct uuid id)
{
    struct id_range range = {id, id};
    memset(range.low.bytes + 6, 0, 10);
    memset(range.high.bytes + 6, 0xff, 10);
    return range;
}

/* ---- links ---- */

static void on_setup(void *arg)
{
    store_setup_start(arg);
}

static void on_link_up(void *arg)
{
    struct store_setup *setup = arg;
    struct store_pg *store = setup->store;
    bool up = true;
    for (unsigned i = 0; i < LINK_COUNT; i++)
        up = up && store->links[i] && pg_link_is_up(store->links[i]);
    if (store->up || !up)
        return;
    store->up = true;
    store->told_down = false;
    store->options.on_up(store->options.arg);
}

static void on_link_down(void *arg, const struct err *err)
{
    struct store_setup *setup = arg;
    struct store_pg *store = setup->store;
    store->up = false;
    store->whole = (struct store_whole){0}; /* another server may come */
    if (store->refused || store->told_down)
        return;
    store->told_down = true;
    store->options.on_down(store->options.arg, err);
}

static void on_link_fatal(void *arg, const struct err *err)
{
    struct store_setup *setup = arg;
    struct store_pg *store = setup->store;
    store->up = false;
    if (store->refused)
        return;
    store->refused = true;
    store->options.on_fatal(store->options.arg, err);
}

static void store_pg_free(struct store *base)
{
    struct store_pg *store = of(base);
    for (unsigned i = 0; i < LINK_COUNT; i++)
        store->links[i] = pg_link_free(store->links[i]);
    while (!LIST_EMPTY(&store->ops))
        store_op_free(LIST_FIRST(&store->ops));
    for (unsigned i = 0; i < LINK_COUNT; i++)
        buffer_done(&store->setups[i].script);
    free(store);
}

static const struct store_ops ops = {
    .accept = store_pg_accept,
    .adopt = store_pg_adopt,
    .known = store_pg_known,
    .claim = store_pg_claim,
    .settle = store_pg_settle,
    .find = store_pg_find,
    .body = store_pg_body,
    .reply = store_pg_reply,
    .ended = store_pg_ended,
    .children = store_pg_children,
    .unfinished = store_pg_unfinished,
    .fetch = store_pg_fetch,
    .lease = store_pg_lease,
    .release = store_pg_release,
    .low_mark = store_pg_low_mark,
    .maintain = store_pg_maintain,
    .counts = store_pg_counts,
    .dead_counts = store_pg_dead_counts,
    .earlier = store_pg_earlier,
    .own = store_pg_own,
    .disown = store_pg_disown,
    .dead_letters = store_pg_dead_letters,
    .redrive = store_pg_redrive,
    .dismiss = store_pg_dismiss,
    .publish = store_pg_publish,
    .production_of = store_pg_production_of,
    .attend = store_pg_attend,
    .close_queue = store_pg_close_queue,
    .older = store_pg_older,
    .free = store_pg_free,
};

struct store *store_pg_new(struct loop *loop, const struct store_pg_options *options)
{
    struct store_pg *store = mem_alloc(sizeof(*store));
    store->base.ops = &ops;
    store->options = *options;
    store->options.url = store->options.application_name = NULL; /* the links keep copies */
    LIST_INIT(&store->ops);
    for (unsigned i = 0; i < LINK_COUNT; i++) {
        struct store_setup *setup = &store->setups[i];
        struct pg_link_options link = {
            .url = options->url,
            .application_name = options->application_name,
            .session = SESSION,
            .on_setup = on_setup,
            .on_up = on_link_up,
            .on_down = on_link_down,
            .on_fatal = on_link_fatal,
            .arg = setup,
        };
        setup->store = store;
        buffer_init(&setup->script, 1 << 20);
        store->links[i] = setup->link = pg_link_new(loop, &link);
    }
    return &store->base;
}

bool store_pg_is_up(const struct store *store)
{
    return ((const struct store_pg *)store)->up;
}
