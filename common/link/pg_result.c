/* Parameters, results and errors of PostgreSQL. Owns nothing, waits for nothing. */
#include "link/pg_link_internal.h"

#include "base/bug.h"

#include <ctype.h>
#include <stdio.h>

/* ---- parameters --------------------------------------------- */

void pg_param_begin(struct pg_params *params)
{
    BUG_ON(params->count == PG_PARAMS_MAX);
    params->list[params->count].start = params->bytes.len;
}

void pg_param_put(struct pg_params *params, const void *ptr, size_t len)
{
    if (!buffer_try_append(&params->bytes, ptr, len))
        params->failed = true;
}

void pg_param_end(struct pg_params *params)
{
    size_t start = params->list[params->count].start;
    params->list[params->count++].len = (int)(params->bytes.len - start);
}

void pg_param_null(struct pg_params *params)
{
    pg_param_begin(params);
    params->list[params->count++].len = -1;
}

/* ---- results and errors ------------------------------------- */

size_t pg_result_rows(const struct pg_result *result)
{
    return (size_t)PQntuples(result);
}

bool pg_result_is_null(const struct pg_result *result, size_t row, unsigned column)
{
    return PQgetisnull(result, (int)row, (int)column);
}

struct slice pg_result_value(const struct pg_result *result, size_t row, unsigned column)
{
    return slice_of(PQgetvalue(result, (int)row, (int)column),
                    (size_t)PQgetlength(result, (int)row, (int)column));
}

bool pg_in_class(const char *sqlstate, const char *class)
{
    return strncmp(sqlstate, class, 2) == 0;
}

enum error_code pg_error_code(const char *sqlstate)
{
    if (pg_in_class(sqlstate, "22") || pg_in_class(sqlstate, "23") || pg_in_class(sqlstate, "54"))
        return ERR_INVALID;
    if (pg_in_class(sqlstate, "42") || pg_in_class(sqlstate, "3F") || pg_in_class(sqlstate, "0A"))
        return ERR_SCHEMA;
    return ERR_UNAVAILABLE;
}

bool pg_find_sqlstate(const char *text, char ret[static 6])
{
    bool found = false;
    for (const char *at = strchr(text, ':'); at; at = strchr(at + 1, ':')) {
        const char *code = at + 1;
        while (*code == ' ')
            code++;
        size_t len = 0;
        while (isdigit((unsigned char)code[len]) || isupper((unsigned char)code[len]))
            len++;
        if (len == 5 && (code[5] == '\n' || code[5] == '\0')) {
            memcpy(ret, code, 5);
            ret[5] = '\0';
            found = true;
        }
    }
    return found;
}

bool pg_is_error(const PGresult *result)
{
    ExecStatusType status = PQresultStatus(result);
    return status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK && status != PGRES_EMPTY_QUERY &&
           status != PGRES_SINGLE_TUPLE;
}

void pg_read_answer(const PGresult *result, struct pg_answer *ret_answer)
{
    *ret_answer = (struct pg_answer){.result = result};
    if (!result) {
        err_set(&ret_answer->err, ERR_OUTCOME_UNKNOWN, "PostgreSQL: no result");
        return;
    }
    if (!pg_is_error(result))
        return;
    ret_answer->result = NULL;
    const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
    const char *constraint = PQresultErrorField(result, PG_DIAG_CONSTRAINT_NAME);
    if (!sqlstate ||
        (severity && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0))) {
        err_set(&ret_answer->err, ERR_OUTCOME_UNKNOWN, "PostgreSQL: connection ended (SQLSTATE %s)",
                sqlstate ? sqlstate : "none");
        return;
    }
    snprintf(ret_answer->sqlstate, sizeof(ret_answer->sqlstate), "%s", sqlstate);
    err_set(&ret_answer->err, pg_error_code(sqlstate), "PostgreSQL: SQLSTATE %s%s%.63s", sqlstate,
            constraint ? " at " : "", constraint ? constraint : "");
}
