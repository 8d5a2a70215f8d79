"""What claiming costs with few messages queued and with very many, for each queue type.

The queue fills through the dispatcher while the worker is stopped. Then the worker works in turns: it goes on, until it has
finished TURN messages, and is stopped again; CPU time is read around each turn. With few messages the queue is filled up
before each turn. So both cases do the same work, and what they differ by is what the backlog costs."""

import json
import os
import signal
import subprocess
import time

import fleet as fleets
import procs
import targets

TURN = 1000
TEMPLATE = fleets.ROOT / "tests/data/bench/adt_a28_short.hl7"
POLL_S = 0.005
TURN_S = 30
FILL_S = 300
GROUPS = ("worker", "redis", "postgres")


class Backlog:
    def __init__(self, fleet):
        self.fleet = fleet
        (self.item,) = fleet.items
        self.signal(signal.SIGSTOP)
        # Rewriting the log of a million entries is no part of a claim.
        fleet.redis.config_set("auto-aof-rewrite-percentage", 0)

    def signal(self, number):
        for pid in self.fleet.pids["worker"]:
            os.kill(pid, number)

    def fill(self, count):
        """Through the dispatcher: every message has its row, as it is where senders wait for nobody."""
        command = [self.fleet.load_program, *self.fleet.target("http", self.item), "--count", str(count), "--size", "0"]
        command += ["--template", str(TEMPLATE)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=FILL_S, check=False)
        if done.returncode:
            raise fleets.Failed(f"filling the queue: {done.stderr.strip()}")
        load = json.loads(done.stdout)
        if load["accepted"] != count:
            raise fleets.Failed(f"filling the queue: {load['accepted']} of {count} accepted, {load['codes']}")

    def used(self):
        """Of PostgreSQL what serves the worker: vacuum, checkpoints, the dispatcher's reconciler are for what was written
        before."""
        served = self.fleet.query("select pid from pg_stat_activity where application_name = 'hie-worker'")
        pids = {**self.fleet.pids, "postgres": [pid for (pid,) in served]}
        return {group: procs.cpu_ns(pids[group]) for group in GROUPS}

    def turn(self):
        """(messages finished, CPU ns by group)"""
        before, depth = self.used(), self.fleet.depth()
        end = time.monotonic() + TURN_S
        self.signal(signal.SIGCONT)
        while self.fleet.depth() > depth - TURN:
            if time.monotonic() > end:
                raise fleets.Failed(f"{self.item}: {TURN} messages were not finished within {TURN_S} s")
            time.sleep(POLL_S)
        self.signal(signal.SIGSTOP)
        time.sleep(2 * POLL_S)  # the servers end what the worker had asked for
        after = self.used()
        return depth - self.fleet.depth(), {group: after[group] - before[group] for group in GROUPS}

    def turns(self, count, level=None):
        """CPU µs a message over `count` turns after two that warm up, with the queue filled up to `level` before each."""
        finished, used, depths = 0, dict.fromkeys(GROUPS, 0), []
        for number in range(-2, count):
            depths.append(self.fleet.depth())
            if level and depths[-1] < level:
                self.fill(level - depths[-1])
                depths[-1] = level
            messages, spent = self.turn()
            if number >= 0:
                finished += messages
                used = {group: used[group] + spent[group] for group in GROUPS}
        cost = {group: nanoseconds / 1000 / finished for group, nanoseconds in used.items()}
        return {"backlog": depths[2], "messages": finished, "cpu_us": {**cost, "total": sum(cost.values())}}


def measure(queue_type, options, paths):
    """{"few": …, "many": …} of one queue type, on a fleet of its own."""
    setting = {"queue_type": queue_type, "queue_size": 2 * options.backlog + 100000}
    if queue_type == "fifo":
        setting |= targets.KEYED
    item = fleets.item("Backlog", "Echo", "async_reliable", options, setting)
    fleet = fleets.Fleet(f"backlog-{queue_type}", [item], 1, paths)
    failed = True
    try:
        backlog = Backlog(fleet)
        turns = 8 if options.quick else 25
        result = {"few": backlog.turns(turns, targets.BACKLOG_FEW)}
        backlog.fill(options.backlog)
        result["many"] = backlog.turns(turns)
        failed = False
        return result
    finally:
        fleet.stop(keep_logs=failed)
