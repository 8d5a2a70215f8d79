#include "sim_link.h"

#include "base/bug.h"

#define NOTICE_US 20000      /* a break is noticed within */
#define HALF_OPEN_US 4000000 /* … when nothing says so */
#define RECONNECT_US 300000

static const struct err unknown = {.code = ERR_OUTCOME_UNKNOWN, .text = "the link broke"};
static const struct err unavailable = {.code = ERR_UNAVAILABLE, .text = "the link is down"};

/* How long bytes are under way: now and then long. */
static int64_t latency(const struct sim_link *link)
{
    int64_t us = sim_one_in(50) ? sim_between(1000, 30000) : sim_between(50, 500);
    return us + (sim.now_us < link->slow_until_us ? sim_between(0, link->slow_us) : 0);
}

/* ---- a call ---- */

/* The client hears of it. What the server has not done yet goes on without a client. */
static void end_call(struct sim_call *call, const struct err *err)
{
    bool goes_on = call->state == SIM_ARRIVING || call->state == SIM_WORKING;
    TAILQ_REMOVE(&call->link->calls, call, entry);
    call->link = NULL;
    call->ops->complete(call, err);
    if (!goes_on) {
        sim_unset(&call->event);
        call->ops->free(call);
    }
}

static void deliver(void *arg)
{
    struct sim_call *call = arg;
    const struct err answer = call->state == SIM_REFUSED ? unavailable : call->refused;
    end_call(call, &answer);
}

static void reply(struct sim_call *call)
{
    struct sim_link *link = call->link;
    int64_t at_us = sim.now_us + latency(link);
    call->state = SIM_REPLYING;
    link->reply_us = at_us > link->reply_us ? at_us : link->reply_us;
    sim_set(&call->event, link->loop, link->reply_us, deliver, call);
}

static void execute(void *arg)
{
    struct sim_call *call = arg;
    call->ops->execute(call);
    bool heard = call->link && call->link->open;
    int64_t more_us = heard && call->ops->more ? call->ops->more(call) : 0;
    if (more_us) {
        call->link->busy_us = sim.now_us + more_us;
        sim_set(&call->event, NULL, call->link->busy_us, execute, call);
    } else if (!call->link) {
        sim_count(SIM_DONE_LATE);
        call->ops->free(call);
    } else if (call->link->open) {
        reply(call);
    } else { /* the client will notice */
        sim_count(SIM_DONE_UNANSWERED);
        call->state = SIM_LOST;
    }
}

static void arrive(void *arg)
{
    struct sim_call *call = arg;
    struct sim_link *link = call->link;
    if (link && sim.now_us < link->busy_us) { /* behind the one before it */
        sim_set(&call->event, NULL, link->busy_us, arrive, call);
        return;
    }
    int64_t takes_us = call->ops->begin ? call->ops->begin(call) : 0;
    call->state = SIM_WORKING;
    if (link)
        link->busy_us = sim.now_us + takes_us;
    if (takes_us)
        sim_set(&call->event, NULL, sim.now_us + takes_us, execute, call);
    else
        execute(call);
}

void sim_link_call(struct sim_link *link, struct sim_call *call, const struct sim_call_ops *ops)
{
    call->ops = ops;
    call->link = link;
    TAILQ_INSERT_TAIL(&link->calls, call, entry);
    if (link->dead || (link->up && !link->open)) {
        call->state = SIM_LOST;
    } else if (!link->up) {
        call->state = SIM_REFUSED;
        sim_set(&call->event, link->loop, sim.now_us, deliver, call);
    } else {
        int64_t at_us = sim.now_us + latency(link);
        call->state = SIM_ARRIVING;
        link->arrive_us = at_us > link->arrive_us ? at_us : link->arrive_us;
        sim_set(&call->event, NULL, link->arrive_us, arrive, call);
    }
}

void sim_link_tell(struct sim_link *link, struct sim_call *call, const struct sim_call_ops *ops)
{
    call->ops = ops;
    call->link = link;
    TAILQ_INSERT_TAIL(&link->calls, call, entry);
    call->state = SIM_LOST;
    if (link->open)
        reply(call);
}

/* ---- breaks ---- */

/* What becomes of the calls under way: those the server has begun with it carries out; of the others, the first few. */
static void lose_calls(struct sim_link *link)
{
    struct sim_call *call;
    bool goes_on = !sim_one_in(3), is_busy = false;
    TAILQ_FOREACH(call, &link->calls, entry)
    {
        is_busy |= call->state == SIM_WORKING;
        if (call->state == SIM_ARRIVING) {
            goes_on = goes_on && !sim_one_in(4) && !is_busy;
            is_busy |= call->ops->begin != NULL;
        }
        bool is_lost = call->state == SIM_ARRIVING && !goes_on;
        if (is_lost)
            sim_count(SIM_NOT_DONE);
        if (call->state == SIM_REPLYING)
            sim_count(SIM_DONE_UNANSWERED);
        if (is_lost || call->state == SIM_REPLYING) {
            sim_unset(&call->event);
            call->state = SIM_LOST;
        }
    }
    link->open = false;
}

static void connect_link(void *arg)
{
    struct sim_link *link = arg;
    if (sim.now_us < link->away_until_us || sim.now_us < link->server->away_until_us) {
        sim_set(&link->change, link->loop, sim.now_us + sim_between(1000, RECONNECT_US),
                connect_link, link);
        return;
    }
    link->open = link->up = true;
    link->busy_us = link->arrive_us = link->reply_us = sim.now_us;
    link->on_up(link->arg);
}

static void notice(void *arg)
{
    struct sim_link *link = arg;
    struct sim_call *call;
    link->up = false;
    while ((call = TAILQ_FIRST(&link->calls)) && call->state != SIM_REFUSED)
        end_call(call, &unknown);
    sim_set(&link->change, link->loop, sim.now_us + sim_between(1000, RECONNECT_US), connect_link,
            link);
    link->on_down(link->arg, &unknown);
}

void sim_link_cut(struct sim_link *link, int64_t until_us)
{
    link->away_until_us = until_us > link->away_until_us ? until_us : link->away_until_us;
    if (!link->open || link->dead)
        return;
    lose_calls(link);
    int64_t most_us = sim_one_in(4) ? HALF_OPEN_US : NOTICE_US;
    sim_set(&link->change, link->loop, sim.now_us + sim_between(0, most_us), notice, link);
}

void sim_link_slow(struct sim_link *link, int64_t until_us, int64_t most_us)
{
    link->slow_until_us = until_us;
    link->slow_us = most_us;
}

/* ---- life ---- */

void sim_server_init(struct sim_server *server)
{
    server->away_until_us = 0;
    TAILQ_INIT(&server->links);
}

void sim_server_away(struct sim_server *server, int64_t until_us)
{
    struct sim_link *link;
    server->away_until_us = until_us;
    TAILQ_FOREACH(link, &server->links, entry)
    {
        sim_link_cut(link, 0);
    }
}

void sim_link_init(struct sim_link *link, struct sim_server *server, struct loop *loop,
                   void (*on_up)(void *arg), void (*on_down)(void *arg, const struct err *err),
                   void *arg)
{
    *link = (struct sim_link){
        .server = server, .loop = loop, .on_up = on_up, .on_down = on_down, .arg = arg};
    TAILQ_INIT(&link->calls);
    TAILQ_INSERT_TAIL(&server->links, link, entry);
    sim_set(&link->change, loop, sim.now_us + sim_between(0, RECONNECT_US), connect_link, link);
}

bool sim_link_end(struct sim_link *link)
{
    struct sim_call *call;
    bool any = !TAILQ_EMPTY(&link->calls);
    if (!link->dead && link->open)
        lose_calls(link);
    link->dead = true;
    link->up = link->open = false;
    sim_unset(&link->change);
    while ((call = TAILQ_FIRST(&link->calls)))
        end_call(call, &unknown);
    return any;
}

void sim_link_done(struct sim_link *link)
{
    BUG_ON(!link->dead || !TAILQ_EMPTY(&link->calls));
    TAILQ_REMOVE(&link->server->links, link, entry);
}
