"""What is measured and against what: one entry a messaging pattern."""

from collections import namedtuple

# rate: messages a second, completed with their rows committed, the backlog not growing; at least.
# p50, p99: milliseconds of the answer to the sender (async patterns: the acknowledgement, sync: the reply); below.
Target = namedtuple("Target", "rate p50 p99")

# spec: the specification's targets. Latency is taken at spec.rate. Missing one fails the benchmark.
# goal: what we want on two cores that carry everything, load generator included. Latency is taken at half of
#       the sustained rate. Missing one is reported.
# item: how the measured item is set, beside the options of scripts/bench: the queue type is the one that the
#       specification has in its example of the pattern.
# beside: what else is measured, by name: how its item differs from the measured one.
Pattern = namedtuple("Pattern", "spec goal item beside")

KEYS = 64  # different ordering keys, where messages have them
KEYED = {"queue_type": "fifo", "ordering_key": "PID-3.1"}  # HTTP: by the header X-Ordering-Key
CHILDREN = {"execution_mode": "multi_process", "concurrency": 16}
THREADS = {"execution_mode": "thread_pool", "concurrency": 32}

PATTERNS = {
    "async_reliable": Pattern(
        Target(5000, 10, 50),
        Target(20000, 3, 15),
        {"queue_type": "unordered"},
        {"fifo, 64 keys": KEYED},
    ),
    "sync_reliable": Pattern(
        Target(1000, 100, 500),
        Target(8000, 8, 40),
        KEYED,
        {"unordered": {"queue_type": "unordered", "ordering_key": None}},
    ),
    "concurrent_async": Pattern(
        Target(10000, 5, 20),
        Target(25000, 3, 15),
        {"queue_type": "priority"},
        {
            "unordered": {"queue_type": "unordered"},
            "multi_process 16": CHILDREN,
            "thread_pool 32": THREADS,
        },
    ),
    "concurrent_sync": Pattern(
        Target(3000, 50, 200),
        Target(12000, 8, 40),
        {"queue_type": "fifo"},  # fair: messages without a key run side by side
        {
            "unordered": {"queue_type": "unordered"},
            "multi_process 16": CHILDREN,
            "thread_pool 32": THREADS,
        },
    ),
}


SYNC = ("sync_reliable", "concurrent_sync")


# Claiming: CPU time of worker, Redis and PostgreSQL a message with BACKLOG messages queued, over that with few, at most.
BACKLOG = 1000000
BACKLOG_FEW = 2000
BACKLOG_RATIO = 1.25
QUEUE_TYPES = ("unordered", "fifo", "priority", "lifo")

# MiB of resident memory, at most.
DISPATCHER_IDLE_MIB = 64  # with IDLE_CONNECTIONS open
WORKER_MIB = 32
IDLE_CONNECTIONS = 10000
