/* One intake after another, at a reload: what came in earlier stays ahead. The next one takes in at once, and its gate admits; but its
 * writes to the WAL are held until what the one before has still to write is written or refused, or was looked for in vain, and what Redis alone keeps is held
 * until what the one before has still to send is sent or refused. Each of them looks at the one before it only, and is itself not
 * through as long as it is held. */
#include "intake_internal.h"

static bool any_reserving(const struct intake *intake, bool by_wal)
{
    const struct message_intake *message;
    TAILQ_FOREACH(message, &intake->lists[INTAKE_RESERVING], link)
    {
        if (message->by_wal == by_wal)
            return true;
    }
    return false;
}

/* A commit that was looked for and missed may still come, as late as its message's ack_timeout: that holds up nobody. */
static bool any_to_look_for(const struct intake *intake)
{
    const struct message_intake *message;
    TAILQ_FOREACH(message, &intake->lists[INTAKE_UNKNOWN], link)
    {
        if (!message->missed)
            return true;
    }
    return false;
}

/* Whatever has a place in the WAL has it, also what was answered as unknown while its commit is under way. */
static bool has_written(const struct intake *intake)
{
    return !intake->wal.held && batcher_idle(&intake->wal) && !any_to_look_for(intake) &&
           TAILQ_EMPTY(&intake->lists[INTAKE_REWRITING]) && !any_reserving(intake, true);
}

static bool has_sent(const struct intake *intake)
{
    return !intake->sends_held && TAILQ_EMPTY(&intake->lists[INTAKE_SENDING]) &&
           TAILQ_EMPTY(&intake->lists[INTAKE_UNSURE]) &&
           TAILQ_EMPTY(&intake->lists[INTAKE_RESENDING]) && !any_reserving(intake, false);
}

static void let_go(void *arg)
{
    struct intake *intake = arg, *next = intake->held;
    if (next->wal.held && has_written(intake))
        batcher_hold(&next->wal, false);
    if (next->sends_held && has_sent(intake))
        intake_hold_sends(next, false);
    if (!next->wal.held && !next->sends_held)
        intake->held = NULL;
    intake_moved_on(next);
}

void intake_succession_init(struct intake *intake)
{
    loop_task_init(&intake->let_go, intake->loop, let_go, intake);
}

void intake_moved_on(struct intake *intake)
{
    if (intake->held)
        loop_task_set(&intake->let_go);
}

void intake_succeed(struct intake *next, struct intake *before, bool recount)
{
    next->queue_up = before->queue_up;
    next->store_up = before->store_up;
    gate_succeed(&next->gate, &before->gate, recount);
    batcher_hold(&next->wal, true);
    intake_hold_sends(next, true);
    before->held = next;
    let_go(before);
}
