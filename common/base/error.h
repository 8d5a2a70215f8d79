/* One table of error codes. A code's class alone decides what happens to a message: retry, dead letter
 * (reject) or the end of the process (fatal). */
#ifndef HIE_BASE_ERROR_H
#define HIE_BASE_ERROR_H

enum error_class {
    ERROR_NONE,
    ERROR_RETRY,  /* may go well later */
    ERROR_REJECT, /* never will: the message or the request is at fault */
    ERROR_FATAL,  /* this process cannot do its work: exit code 100 */
};

/* code, word in logs and answers, class */
#define ERROR_TABLE(X)                                                                             \
    X(ERR_NONE, "none", ERROR_NONE)                                                                \
    X(ERR_INVALID, "invalid", ERROR_REJECT)         /* malformed bytes or values */                \
    X(ERR_NOT_HL7, "not_hl7", ERROR_REJECT)         /* the class needs HL7, the body is none */    \
    X(ERR_UNROUTABLE, "unroutable", ERROR_REJECT)   /* no rule holds and there is no default */    \
    X(ERR_TOO_LARGE, "too_large", ERROR_REJECT)     /* past a configured maximum */                \
    X(ERR_NOT_FOUND, "not_found", ERROR_REJECT)     /* unknown item, id, path */                   \
    X(ERR_REJECTED, "rejected", ERROR_REJECT)       /* the handler or its receiver said no */      \
    X(ERR_UNSUPPORTED, "unsupported", ERROR_REJECT) /* known, not yet built */                     \
    X(ERR_KEY_REUSED, "key_reused", ERROR_REJECT)   /* Idempotency-Key with another body */        \
    X(ERR_DEADLOCK, "deadlock", ERROR_REJECT)       /* a call that would wait for itself */        \
    X(ERR_QUEUE_FULL, "queue_full", ERROR_RETRY)    /* queue_size reached */                       \
    X(ERR_UNAVAILABLE, "unavailable", ERROR_RETRY)  /* a server is away; nothing was done */       \
    X(ERR_OUTCOME_UNKNOWN, "outcome_unknown", ERROR_RETRY) /* it may have been done */             \
    X(ERR_TIMEOUT, "timeout", ERROR_RETRY)                                                         \
    X(ERR_IO, "io", ERROR_RETRY)               /* file system, disk full */                        \
    X(ERR_RECEIVER, "receiver", ERROR_RETRY)   /* the receiver answered: later */                  \
    X(ERR_CANCELLED, "cancelled", ERROR_RETRY) /* given up on our side */                          \
    X(ERR_CRASHED, "crashed", ERROR_RETRY)     /* the process that handled it died */              \
    X(ERR_CONFIG, "config", ERROR_FATAL)                                                           \
    X(ERR_AUTH, "auth", ERROR_FATAL)     /* wrong password, no such database */                    \
    X(ERR_SCHEMA, "schema", ERROR_FATAL) /* unusable database schema */

enum error_code {
#define X(code, word, class) code,
    ERROR_TABLE(X)
#undef X
        ERR_COUNT,
};

/* Texts never hold message content: they reach logs, answers and the store. */
struct err {
    enum error_code code;
    char text[240];
};

const char *error_word(enum error_code code);
enum error_class error_class_of(enum error_code code);

/* Fills err (may be NULL) and returns -1, so that `return err_set(err, …)` reads as one thought. */
int err_set(struct err *err, enum error_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void err_clear(struct err *err);

#endif
