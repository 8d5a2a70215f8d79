/* Time, events, chance, and what is told. */
#include "sim.h"

#include "base/bug.h"
#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <uthash.h>

struct sim sim;

const char *const sim_fault_words[SIM_FAULT_COUNT] = {
#define X(name, words) [name] = words,
    SIM_FAULTS(X)
#undef X
};

/* ---- the queue of events: a heap ---- */

static struct sim_event **heap; /* from 1 */
static size_t heap_len, heap_capacity;
static uint64_t next_order;

static bool is_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

static void put(size_t place, struct sim_event *event)
{
    heap[place] = event;
    event->place = place;
}

static void rise(struct sim_event *event)
{
    size_t place = event->place;
    for (; place > 1 && is_before(event, heap[place / 2]); place /= 2)
        put(place, heap[place / 2]);
    put(place, event);
}

static void sink(struct sim_event *event)
{
    size_t place = event->place;
    for (size_t child = place * 2; child <= heap_len; place = child, child *= 2) {
        child += child < heap_len && is_before(heap[child + 1], heap[child]);
        if (!is_before(heap[child], event))
            break;
        put(place, heap[child]);
    }
    put(place, event);
}

void sim_unset(struct sim_event *event)
{
    if (!event->place)
        return;
    struct sim_event *last = heap[heap_len--];
    size_t place = event->place;
    event->place = 0;
    if (last == event)
        return;
    put(place, last);
    rise(last);
    sink(last);
}

void sim_set(struct sim_event *event, struct loop *loop, int64_t at_us, void (*fire)(void *),
             void *arg)
{
    sim_unset(event);
    *event = (struct sim_event){.at_us = at_us > sim.now_us ? at_us : sim.now_us,
                                .order = next_order++,
                                .loop = loop,
                                .fire = fire,
                                .arg = arg};
    if (heap_len + 2 > heap_capacity) {
        heap_capacity = heap_capacity ? heap_capacity * 2 : 1024;
        heap = mem_resize(heap, heap_capacity, sizeof(*heap));
    }
    put(++heap_len, event);
    rise(event);
}

bool sim_step(int64_t until_us)
{
    struct sim_event *event = heap_len ? heap[1] : NULL;
    if (!event || event->at_us > until_us) {
        sim.now_us = until_us > sim.now_us ? until_us : sim.now_us;
        return false;
    }
    sim.now_us = event->at_us;
    if (event->loop && sim_loop_paused(event->loop)) {
        sim_set(event, event->loop, sim_loop_paused_until(event->loop), event->fire, event->arg);
        return true;
    }
    sim_unset(event);
    sim.events++;
    sim_mix((uint64_t)event->at_us);
    sim.running = event->loop;
    event->fire(event->arg);
    sim.running = NULL;
    return true;
}

/* ---- names for ids ---- */

struct name {
    struct uuid id;
    UT_hash_handle hh;
    char text[16];
};
static struct name *names;

const char *sim_name(struct uuid id)
{
    struct name *name;
    HASH_FIND(hh, names, &id, sizeof(id), name);
    if (!name) {
        name = mem_alloc(sizeof(*name));
        name->id = id;
        snprintf(name->text, sizeof(name->text), "m%u", HASH_COUNT(names) + 1);
        HASH_ADD(hh, names, id, sizeof(id), name);
    }
    return name->text;
}

static void forget_names(void)
{
    struct name *name, *next;
    HASH_ITER(hh, names, name, next)
    {
        HASH_DEL(names, name);
        free(name);
    }
}

/* ---- a run ---- */

void sim_begin(uint64_t seed, bool trace)
{
    sim = (struct sim){.seed = seed, .trace = trace};
    next_order = 0;
    random_fix(seed);
}

void sim_end(void)
{
    BUG_ON(heap_len);
    free(heap);
    heap = NULL;
    heap_capacity = 0;
    forget_names();
}

bool sim_one_in(unsigned n)
{
    return random_below(n) == 0;
}

int64_t sim_between(int64_t least, int64_t most)
{
    return least + (int64_t)random_below((uint64_t)(most - least) + 1);
}

/* ---- telling ---- */

static void print_head(void)
{
    fprintf(stderr, "%10.6f %-4s ", (double)sim.now_us / SIM_SECOND,
            sim.running ? sim_loop_name_of(sim.running) : "-");
}

void sim_say(const char *format, ...)
{
    if (!sim.trace)
        return;
    va_list args;
    print_head();
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

void sim_fail(const char *format, ...)
{
    char text[900];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    sim_say("FAILURE %s", text);
    if (!sim.failure[0])
        snprintf(sim.failure, sizeof(sim.failure), "at %.6f s: %s", (double)sim.now_us / SIM_SECOND,
                 text);
}

void sim_count(enum sim_fault fault)
{
    sim.faults[fault]++;
}

void sim_mix(uint64_t number)
{
    sim.hash = (sim.hash ^ number) * 0x9e3779b97f4a7c15u;
    sim.hash ^= sim.hash >> 29;
}
