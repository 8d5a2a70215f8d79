/* A call of a simulated store: made by sim_store.c, carried out by sim_store_server.c. */
#ifndef HIE_SIM_STORE_CALL_H
#define HIE_SIM_STORE_CALL_H

#include "sim_store.h"

enum store_op {
    OP_ACCEPT,
    OP_ADOPT,
    OP_KNOWN,
    OP_CLAIM,
    OP_EARLIER,
    OP_OWN,
    OP_DISOWN,
    OP_SETTLE,
    OP_FIND,
    OP_BODY,
    OP_REPLY,
    OP_ENDED,
    OP_CHILDREN,
    OP_UNFINISHED,
    OP_FETCH,
    OP_LEASE,
    OP_RELEASE,
    OP_LOW_MARK,
    OP_MAINTAIN,
    OP_COUNTS,
    OP_PUBLISH,
    OP_PRODUCTION_OF,
    OP_ATTEND,
    OP_OLDER,
    OP_REDRIVE,
};

struct store_op_info {
    const char *word;
    unsigned link;
    bool writes;
};
extern const struct store_op_info store_op_info[];

#define OWNED_MAX 64

struct store_call {
    struct sim_call call; /* first */
    enum store_op op;
    char client[16]; /* for the trace */
    char name[64], holder[96];
    struct redis_content *text; /* key: hash, body: text of a production */
    bool only_first;
    size_t count;
    int64_t number;
    size_t limit;
    /* copies of what was given; owned */
    struct pg_given *given;
    struct pg_outcome *outcomes;
    struct store_claim *claims;
    struct store_before *before;
    struct store_share *shares;
    struct store_owned *owned;
    char (*items)[REDIS_NAME_MAX]; /* of shares or owned */
    struct uuid *ids;              /* NULL: all */
    struct pg_write write;
    /* Which of the rows are in the transaction at hand: a row that is refused for its data is left out, those behind it have one of their
     * own. */
    size_t from, to;
    /* the client's, for what the completion sets */
    struct store_message *const *client_messages;
    struct store_outcome *const *client_outcomes;
    struct store_claim *client_claims;
    /* what came of it; owned */
    bool *flags;
    struct store_unfinished *rows;
    struct redis_content **contents; /* that the rows or the record borrow */
    struct store_earlier *earlier;
    struct uuid *ids_told, after;
    struct store_record record;
    char record_error[240];
    struct store_count *counts;
    size_t result_count;
    bool full, found;
    int64_t result;
    void (*done)(void);
    void *arg;
};

/* The server begins with it, does it, and goes on with it (sim_link.h). */
int64_t store_call_begin(struct sim_call *call);
void store_call_execute(struct sim_call *call);
int64_t store_call_more(struct sim_call *call);

#endif
