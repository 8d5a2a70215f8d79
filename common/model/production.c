/* Owns the production file as a whole: reading its bytes, its top level, the listeners, the table
 * of items by id. Waits for the file system only. Fails by diagnostics; with any error there is no
 * production. */
#include "model/production.h"

#include "base/mem.h"
#include "base/uuid.h"
#include "model/diagnostics.h"
#include "model/environment.h"
#include "model/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define HASH_FUNCTION(key, len, hash) (hash) = (unsigned)hash_bytes(HASH_SEED, key, len)
#include <uthash.h>

#define LISTENERS_MAX 256u
#define ITEMS_MAX 10000u

struct item_entry {
    struct item *item;
    UT_hash_handle hh;
};

const struct item *production_find(const struct production *production, struct slice id)
{
    struct item_entry *entry = NULL;
    if (id.len)
        HASH_FIND(hh, production->by_id, id.ptr, id.len, entry);
    return entry ? entry->item : NULL;
}

static void index_item(struct reader *reader, struct item *item)
{
    struct production *production = reader->production;
    if (!item->id)
        return;
    const struct item *first = production_find(production, slice_text(item->id));
    if (first) {
        diagnostics_error(reader->out, item->line, "duplicate item id `%s` (first on line %zu)",
                          item->id, first->line);
        return;
    }
    struct item_entry *entry = arena_alloc(reader->keep, sizeof(*entry));
    entry->item = item;
    HASH_ADD_KEYPTR(hh, production->by_id, item->id, strlen(item->id), entry);
}

void items_read(struct reader *reader, struct object *object, const struct option *option,
                const struct yaml_node *value)
{
    struct production *production = object->base;
    if (value->kind != YAML_LIST) {
        report_kind(reader, option->path, value, "a list of items");
        return;
    }
    if (value->count == 0 || value->count > ITEMS_MAX) {
        diagnostics_error(reader->out, value->line, "`items` needs 1 to %u items", ITEMS_MAX);
        return;
    }
    production->items = arena_alloc(reader->keep, value->count * sizeof(*production->items));
    for (const struct yaml_node *node = value->first; node; node = node->next) {
        struct item *item = &production->items[production->item_count];
        item->index = (unsigned)production->item_count++;
        item->production = production;
        item_read(reader, item, node);
        index_item(reader, item);
    }
}

/* ---- listeners ---- */

#define MLLP_VARIABLE "HIE_MLLP_LISTEN"
#define WHY_INSECURE                                                                               \
    "is not a loopback address, and without TLS and access tokens everybody who reaches it could " \
    "send and read patient data; listen on 127.0.0.1, or set `insecure: true` "

/* `what` names the key, or the variable that gave the address; `at` says where `insecure` belongs.
 */
static void check_exposure(struct reader *reader, size_t line, const char *what, const char *listen,
                           bool insecure, const char *at)
{
    struct err err;
    bool loopback;
    if (!listen || insecure || address_check(slice_text(listen), &loopback, &err) || loopback)
        return;
    diagnostics_error(reader->out, line, "%s " WHY_INSECURE "%s", what, at);
}

static bool takes_free_port(const char *listen)
{
    size_t len = strlen(listen);
    return len > 2 && strcmp(listen + len - 2, ":0") == 0;
}

static void check_unique(struct reader *reader, const struct mllp_listener *listeners, size_t count,
                         size_t line)
{
    const char *listen = listeners[count - 1].listen;
    if (!listen || takes_free_port(listen))
        return;
    for (size_t i = 0; i + 1 < count; i++) {
        if (listeners[i].listen && strcmp(listeners[i].listen, listen) == 0)
            diagnostics_error(reader->out, line, "two MLLP listeners have the same address");
    }
}

/* The variable gives the first listener's address; true when it does. */
static bool override_listen(struct reader *reader, struct mllp_listener *listener)
{
    const char *text = environment_get(MLLP_VARIABLE);
    struct err err;
    bool loopback;
    if (!text || listener != reader->production->dispatcher.mllp)
        return false;
    if (address_check(slice_text(text), &loopback, &err))
        diagnostics_error(reader->out, 0, "the environment variable " MLLP_VARIABLE ": %s",
                          err.text);
    else
        listener->listen = arena_strdup(reader->keep, slice_text(text));
    return true;
}

static void listener_read(struct reader *reader, struct mllp_listener *listener,
                          const struct yaml_node *node)
{
    struct object object;
    object_read(reader, &object, SCOPE_LISTENER, listener, node, node->line);
    bool overridden = override_listen(reader, listener);
    check_exposure(reader, overridden ? 0 : object_line(&object, "listen"),
                   overridden ? "the environment variable " MLLP_VARIABLE : "`listen`",
                   listener->listen, listener->insecure, "beside it");
    const struct yaml_node *item = yaml_member(node, "item");
    struct scalar scalar;
    if (!item || !scalar_read(reader, "item", false, item, &scalar))
        return;
    listener->item_id = arena_strdup(reader->keep, scalar.text);
    reference_add(reader, &listener->item, scalar.text, item->line, NULL);
}

void listeners_read(struct reader *reader, struct object *object, const struct option *option,
                    const struct yaml_node *value)
{
    struct production *production = object->base;
    if (value->kind != YAML_LIST) {
        report_kind(reader, option->path, value, "a list of listeners");
        return;
    }
    if (value->count > LISTENERS_MAX) {
        diagnostics_error(reader->out, value->line, "more than %u MLLP listeners", LISTENERS_MAX);
        return;
    }
    struct mllp_listener *listeners = arena_alloc(reader->keep, value->count * sizeof(*listeners));
    production->dispatcher.mllp = listeners;
    for (const struct yaml_node *node = value->first; node; node = node->next) {
        size_t count = ++production->dispatcher.mllp_count;
        listener_read(reader, &listeners[count - 1], node);
        check_unique(reader, listeners, count, node->line);
    }
}

static void check_listen(struct reader *reader, const struct object *object, const char *path,
                         const char *variable, const char *listen, bool insecure, const char *at)
{
    struct buffer what;
    buffer_init(&what, 128);
    size_t line = object_line(object, path);
    if (environment_get(variable)) {
        line = 0;
        buffer_printf(&what, "the environment variable %s", variable);
    } else {
        buffer_printf(&what, "`%s`", path);
    }
    buffer_append_byte(&what, '\0');
    check_exposure(reader, line, what.data, listen, insecure, at);
    buffer_done(&what);
}

static void file_read(struct reader *reader, const struct yaml_node *root)
{
    struct production *production = reader->production;
    struct object object;
    object_read(reader, &object, SCOPE_FILE, production, root, root->line);
    if (root->kind != YAML_MAP)
        return;
    check_listen(reader, &object, "dispatcher.http.listen", "HIE_HTTP_LISTEN",
                 production->dispatcher.http_listen, production->dispatcher.http_insecure,
                 "in `dispatcher.http`");
    check_listen(reader, &object, "worker.listen", "HIE_WORKER_LISTEN", production->worker.listen,
                 production->worker.insecure, "in `worker`");
    references_resolve(reader);
}

/* ---- the whole ---- */

struct production *production_parse(struct slice yaml, struct diagnostics *ret_diagnostics)
{
    *ret_diagnostics = (struct diagnostics){0};
    struct production *production = mem_alloc(sizeof(*production));
    arena_init(&production->arena);
    production_hash(yaml, production->hash);
    struct arena scratch;
    arena_init(&scratch);
    struct reader *reader = mem_alloc(sizeof(*reader));
    reader->production = production;
    reader->out = ret_diagnostics;
    reader->keep = &production->arena;
    reader->scratch = &scratch;
    STAILQ_INIT(&reader->references);

    const struct yaml_node *root = yaml_tree_parse(yaml, &scratch, ret_diagnostics);
    if (root)
        file_read(reader, root);
    diagnostics_sort(ret_diagnostics);
    production->text = arena_copy(&production->arena, yaml);

    free(reader);
    arena_done(&scratch);
    return ret_diagnostics->error_count ? production_free(production) : production;
}

static int read_all(int fd, struct buffer *text, struct err *err)
{
    for (;;) {
        char bytes[16384];
        ssize_t count = read(fd, bytes, sizeof(bytes));
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return err_set(err, ERR_CONFIG, "cannot be read: %s", strerror(errno));
        if (count == 0)
            return 0;
        if (text->len + (size_t)count > PRODUCTION_TEXT_MAX)
            return err_set(err, ERR_CONFIG, "the file is larger than %u bytes",
                           PRODUCTION_TEXT_MAX);
        buffer_append(text, bytes, (size_t)count);
    }
}

int production_read(const char *path, struct buffer *ret_text, struct err *err)
{
    struct buffer text;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, ERR_CONFIG, "cannot be read: %s", strerror(errno));
    buffer_init(&text, PRODUCTION_TEXT_MAX);
    int failed = read_all(fd, &text, err);
    close(fd);
    if (failed)
        buffer_done(&text);
    else
        *ret_text = text;
    return failed;
}

struct production *production_load(const char *path, struct diagnostics *ret_diagnostics)
{
    struct buffer text;
    struct err err;
    if (production_read(path, &text, &err)) {
        *ret_diagnostics = (struct diagnostics){0};
        diagnostics_error(ret_diagnostics, 0, "%s", err.text);
        return NULL;
    }
    struct production *production = production_parse(buffer_slice(&text), ret_diagnostics);
    buffer_done(&text);
    return production;
}

struct production *production_ref(struct production *production)
{
    production->references++;
    return production;
}

struct production *production_free(struct production *production)
{
    if (!production || production->references-- > 0)
        return NULL;
    for (size_t i = 0; i < production->item_count; i++)
        item_settings_done(&production->items[i]);
    HASH_CLEAR(hh, production->by_id);
    arena_done(&production->arena);
    free(production);
    return NULL;
}

const struct item *item_hold(const struct item *item)
{
    if (item && item->production)
        production_ref(item->production);
    return item;
}

void item_release(const struct item *item)
{
    if (item)
        production_free(item->production);
}
