"""What is measured and against what: one line a messaging pattern."""

from collections import namedtuple

# rate: messages a second, completed with their rows committed, the backlog not growing; at least.
# p50, p99: milliseconds of the answer to the sender (async patterns: the acknowledgement); below.
Target = namedtuple("Target", "rate p50 p99")

# spec: the specification's targets. Latency is taken at spec.rate. Missing one fails the benchmark.
# goal: what we want on two cores that carry everything, load generator included. Latency is taken at half of
#       the sustained rate. Missing one is reported.
# queue_type, item: how the measured item is set, beside the options of scripts/bench.
Pattern = namedtuple("Pattern", "spec goal queue_type item")

PATTERNS = {
    "async_reliable": Pattern(Target(5000, 10, 50), Target(20000, 3, 15), "unordered", {}),
}

# MiB of resident memory, at most.
DISPATCHER_IDLE_MIB = 64  # with IDLE_CONNECTIONS open
WORKER_MIB = 32
IDLE_CONNECTIONS = 10000
