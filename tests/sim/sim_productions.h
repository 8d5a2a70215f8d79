/* The productions that runs choose from. An item whose name begins with an underscore only gets children. */
#ifndef HIE_SIM_PRODUCTIONS_H
#define HIE_SIM_PRODUCTIONS_H

#define SIM_ROUTES 2 /* where a router sends each message */
#define SIM_RETRY "retry: {max_attempts: 4, backoff: 20, max_backoff: 300}, timeout: 2000"

static const char *const sim_productions[] = {
    /* strict order by key, from the door to the children */
    "items:\n"
    "  - {id: Router, class: HL7RoutingEngine, queue_type: fifo, ordering_key: PID-3.1,\n"
    "     partitions: 4, " SIM_RETRY ", settings: {default: [Keyed, _Plain]}}\n"
    "  - {id: Keyed, class: Echo, queue_type: fifo, ordering_key: PID-3.1, partitions: 4,\n"
    "     concurrency: 4, queue_size: 40, " SIM_RETRY ", settings: {delay: 3}}\n"
    "  - {id: _Plain, class: Echo, queue_type: unordered, " SIM_RETRY "}\n",
    /* the other kinds of fifo: one line, no order among those without a key, effects outside */
    "items:\n"
    "  - {id: Strict, class: Echo, messaging_pattern: sync_reliable, queue_type: fifo,\n"
    "     concurrency: 1, " SIM_RETRY "}\n"
    "  - {id: Fair, class: Echo, messaging_pattern: concurrent_async, queue_type: fifo,\n"
    "     partitions: 3, concurrency: 4, " SIM_RETRY ", settings: {delay: 5}}\n"
    "  - {id: Sender, class: HTTPSender, queue_type: fifo, ordering_key: PID-3.1, partitions: 4,\n"
    "     concurrency: 8, " SIM_RETRY ", settings: {url: 'http://receiver/'}}\n",
    /* no order, priority and lifo, and what is forgotten once it is done */
    "items:\n"
    "  - {id: Router, class: HL7RoutingEngine, queue_type: unordered, " SIM_RETRY ",\n"
    "     settings: {default: [Urgent, Stack]}}\n"
    "  - {id: Urgent, class: Echo, messaging_pattern: concurrent_async, queue_type: priority,\n"
    "     concurrency: 2, " SIM_RETRY ", settings: {delay: 4}}\n"
    "  - {id: Aged, class: Echo, messaging_pattern: concurrent_async, queue_type: priority,\n"
    "     priority: {default: 3, ageing: 50}, concurrency: 2, " SIM_RETRY ",\n"
    "     settings: {delay: 2}}\n"
    "  - {id: Stack, class: Echo, messaging_pattern: concurrent_async, queue_type: lifo,\n"
    "     concurrency: 2, " SIM_RETRY ", settings: {delay: 4}}\n"
    "  - {id: Logged, class: Echo, queue_type: unordered, concurrency: 8,\n"
    "     persistence: {mode: wal_only}, " SIM_RETRY ", settings: {delay: 1}}\n"
    "  - {id: Stored, class: Echo, queue_type: unordered, queue_size: 20,\n"
    "     persistence: {mode: store_only}, " SIM_RETRY ", settings: {delay: 1}}\n"
    "  - {id: Fleeting, class: Echo, queue_type: lifo, persistence: {mode: none}, " SIM_RETRY "}\n",
    /* what Redis alone keeps, and handlers that run for longer than a silence */
    "items:\n"
    "  - {id: Fleeting, class: Echo, queue_type: unordered, persistence: {mode: none},\n"
    "     queue_size: 10, concurrency: 4, " SIM_RETRY ", settings: {delay: 20}}\n"
    "  - {id: Urgent, class: Echo, queue_type: priority, persistence: {mode: none},\n"
    "     concurrency: 2, " SIM_RETRY ", settings: {delay: 4}}\n"
    "  - {id: Stored, class: Echo, queue_type: unordered, persistence: {mode: store_only},\n"
    "     queue_size: 10, concurrency: 2, " SIM_RETRY ", settings: {delay: 20}}\n"
    "  - {id: Long, class: Echo, queue_type: unordered, concurrency: 4,\n"
    "     retry: {max_attempts: 4, backoff: 20, max_backoff: 300}, timeout: 20000,\n"
    "     settings: {delay: 20}}\n",
};

#define SIM_PRODUCTION_COUNT (sizeof(sim_productions) / sizeof(sim_productions[0]))

#endif
