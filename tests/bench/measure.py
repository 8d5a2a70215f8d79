"""The measurements of one pattern against a running fleet.

Throughput is read from PostgreSQL after the fact, from what stands in its rows: a message counts when its end is
committed. So nothing is asked of the servers while they are measured."""

import json
import os
import statistics
import subprocess
import time

import fleet as fleets
import procs
import targets

WARM_S = 1.0  # at the front of a run, left out
# More than this share of what a window completed, and more than is completed in so many seconds (a short stall just
# before the window's end), and the backlog counts as growing.
GROWTH, GROWTH_S = 0.02, 0.25
SEARCH_PASSES = 4
CALLERS, MLLP_SENDERS = 64, 32  # connections, one message in flight on each
DRAIN_S = 60


def percentile(ordered, percent):
    if not ordered:
        return None
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def percentiles(values):
    """Of milliseconds."""
    ordered = sorted(values)
    names = {"p50": 50, "p99": 99, "p99.9": 99.9}
    return {
        **{name: percentile(ordered, percent) for name, percent in names.items()},
        "max": ordered[-1] if ordered else None,
    }


def throughput(rows, begin, end):
    """`rows`: (received, finished or None), seconds since the epoch, finished for completed ones only. What was
    completed in the window, and whether that could have gone on."""
    duration = end - begin
    completed = sum(1 for _, done in rows if done is not None and begin <= done < end)
    accepted = sum(1 for came, _ in rows if begin <= came < end)

    def backlog(moment):
        return sum(1 for came, done in rows if came < moment and (done is None or done >= moment))

    slots = [0] * max(1, int(duration))
    for _, done in rows:
        if done is not None and begin <= done < begin + len(slots):
            slots[int(done - begin)] += 1
    at_begin, at_end = backlog(begin), backlog(end)
    return {
        "seconds": duration,
        "accepted_rate": accepted / duration,
        "completed_rate": completed / duration,
        "per_second": {"min": min(slots), "median": statistics.median(slots), "max": max(slots)},
        "backlog": [at_begin, at_end],
        "growing": at_end - at_begin > completed * max(GROWTH, GROWTH_S / duration),
    }


class Bench:
    def __init__(self, fleet, seconds):
        self.fleet = fleet
        self.seconds = seconds
        self.problems = []  # what makes the figures wrong, whatever the targets say

    # ---- parts of a run ----

    def load(self, protocol, item, connections, seconds, rate=0):
        command = [
            self.fleet.load_program,
            *self.fleet.target(protocol, item),
            "--connections",
            str(connections),
            "--seconds",
            str(seconds),
            "--window",
            str(max(1, seconds // 5)),
            "--rate",
            str(rate),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90, check=False)
        if done.returncode:
            raise fleets.Failed(f"{' '.join(command[:1])}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def drain(self):
        """Waits until the queues are empty; the seconds it took, None when they were not in time."""
        begin = time.monotonic()
        while time.monotonic() - begin < DRAIN_S:
            if self.fleet.depth() == 0:
                return time.monotonic() - begin
            time.sleep(0.05)
        return None

    def rows(self, since, item):
        """Of the messages that came to an item since then; for the router, of what it sent on, from the sender on."""
        if item == fleets.ROUTER:
            table = "hie.messages p left join hie.messages m on m.parent_id = p.correlation_id"
        else:
            table = "hie.messages p join lateral (select p.finished_at, p.state) m on true"
        return self.fleet.query(
            "select extract(epoch from p.received_at)::float8,"
            " extract(epoch from case when m.state = 'completed' then m.finished_at end)::float8"
            f" from {table} where p.item = %s and p.received_at >= to_timestamp(%s)",
            item,
            since,
        )

    def ends(self, since):
        """How messages ended, for a person who asks why they are not completed. Errors hold no message content."""
        counted = self.fleet.query(
            "select item, state, coalesce(error, ''), count(*) from hie.messages"
            " where received_at >= to_timestamp(%s) group by 1, 2, 3 order by 4 desc limit 5",
            since,
        )
        return ", ".join(f"{count} of {item} {state}{error and f' ({error})'}" for item, state, error, count in counted)

    def run(self, name, protocol, item, connections, seconds, rate=0):
        """One run of load, and what became of every message of it."""
        clock, busy, own = time.monotonic(), procs.busy_seconds(), sum(os.times()[:4])
        cpu = {group: procs.cpu_seconds(pids) for group, pids in self.fleet.pids.items()}
        load = self.load(protocol, item, connections, seconds, rate)
        drained = self.drain()
        used = {group: procs.cpu_seconds(pids) - cpu[group] for group, pids in self.fleet.pids.items()}
        others = procs.busy_seconds() - busy - sum(used.values()) - (sum(os.times()[:4]) - own)
        others /= (time.monotonic() - clock) * (os.cpu_count() or 1)
        used["load"] = load["cpu"]["user"] + load["cpu"]["system"]
        rows = self.rows(load["started_at"] - 0.01, item)
        completed = sum(1 for _, done in rows if done is not None)
        self.check(name, load, drained, completed)
        if completed < load["accepted"]:
            self.problems.append(f"{name}: {self.ends(load['started_at'] - 0.01)}")
        # A short run has no second to give away.
        begin = load["started_at"] + min(WARM_S, seconds / 4)
        result = throughput(rows, begin, load["started_at"] + seconds)
        result |= {
            "name": name,
            "protocol": protocol,
            "item": item,
            "connections": connections,
            "wanted_rate": rate,
            "sent": load["sent"],
            "accepted": load["accepted"],
            "rejected": load["rejected"],
            "lost": load["lost"],
            "unsent": load["unsent"],
            "codes": load["codes"],
            "errors": load["errors"],
            "completed": completed,
            "drain_s": drained,
            "answer_ms": self.answer(load),
            "completion_ms": percentiles((done - came) * 1000 for came, done in rows if done is not None),
            "cpu_us": {group: seconds_used * 1e6 / max(completed, 1) for group, seconds_used in used.items()},
            "cpu_s": used,
            "others_share": max(0.0, others),
        }
        result["cpu_us"]["total"] = sum(result["cpu_us"].values())
        return result

    def answer(self, load):
        """p50 and p99 are medians over the run's windows, so that a neighbour's burst does not decide; the rest is of
        the whole run."""
        windows = [w for w in load["windows"] if w["accepted"]] or [load["latency_ms"]]
        medians = {name: statistics.median(w[name] for w in windows) for name in ("p50", "p99")}
        whole = load["latency_ms"]
        return {
            **medians,
            "p99.9": whole["p99.9"],
            "max": whole["max"],
            "run_p50": whole["p50"],
            "run_p99": whole["p99"],
        }

    def check(self, name, load, drained, completed):
        if drained is None:
            self.problems.append(f"{name}: the queues were not empty {DRAIN_S} s after the load ended")
        if completed < load["accepted"]:
            self.problems.append(
                f"{name}: {load['accepted'] - completed} of {load['accepted']} accepted messages are not completed"
            )
        if load["accepted"] == 0:
            self.problems.append(f"{name}: nothing was accepted ({load['codes']}, {load['errors']})")
        unwanted = {key: load[key] for key in ("rejected", "lost", "unsent") if load[key]}
        if unwanted:
            self.problems.append(f"{name}: {unwanted} {load['codes']} {load['errors']}")

    # ---- measurements ----

    def sustained(self, name, protocol, item, connections, seconds):
        """As fast as answers come. Where more is accepted than completed, the rate is searched at which the backlog
        stays; `sustained` is None when there was none."""
        result = self.run(name, protocol, item, connections, seconds)
        result["search"] = []
        low, high = result["completed_rate"], result["accepted_rate"]
        best = None if result["growing"] else result
        while best is None and result["completed"] and len(result["search"]) < SEARCH_PASSES:
            # Halfway; the last try is below all that was completed.
            last = len(result["search"]) == SEARCH_PASSES - 1
            rate = 0.95 * low if last else (low + high) / 2
            tried = self.run(name, protocol, item, connections, max(3, seconds // 2), round(rate))
            result["search"].append(tried)
            if tried["growing"]:
                high = rate
                low = min(low, tried["completed_rate"])
            else:
                best = tried
        result["sustained"] = best["completed_rate"] if best else None
        result["sustained_per_second"] = best["per_second"] if best else None
        return result

    def idle(self, wanted):
        """What connections cost that only wait."""
        limit = procs.raise_descriptors()
        count = min(wanted, limit - 200)
        pids = self.fleet.pids["dispatcher"]
        before = procs.memory_mib(pids)
        host, port = self.fleet.http_address()
        begin = time.monotonic()
        try:
            connections = procs.idle_connections(host, port, count)
        except OSError as error:
            self.problems.append(f"idle connections: {error}")
            return None
        took = time.monotonic() - begin
        time.sleep(1)
        cpu = procs.cpu_seconds(pids)
        time.sleep(2)
        cpu = (procs.cpu_seconds(pids) - cpu) / 2
        after = procs.memory_mib(pids)
        for sock in connections:
            sock.close()
        return {
            "connections": count,
            "wanted": wanted,
            "open_s": took,
            "rss_before_mib": before["rss"],
            "rss_mib": after["rss"],
            "kib_each": (after["rss"] - before["rss"]) * 1024 / count,
            "idle_cpu_share": cpu,
        }

    def pattern(self, target, options):
        """Everything about one pattern, as the JSON has it."""
        seconds, fleet = self.seconds, self.fleet
        mllp = CALLERS if fleet.items[fleets.ECHO]["messaging_pattern"] in targets.SYNC else MLLP_SENDERS
        result = {"memory_at_start": self.memory()}
        self.run("warm-up", "http", fleets.ECHO, CALLERS, 2 if options.quick else 4)
        result["http"] = self.sustained("HTTP", "http", fleets.ECHO, CALLERS, seconds)
        result["mllp"] = self.sustained("MLLP", "mllp", fleets.ECHO, mllp, seconds)
        result["paced"] = self.run("paced", "http", fleets.ECHO, CALLERS, seconds, target.spec.rate)
        half = (result["http"]["sustained"] or result["http"]["completed_rate"]) / 2
        result["half"] = self.run("half", "http", fleets.ECHO, CALLERS, seconds, max(1, round(half)))
        result["beside"] = {}
        for number, label in enumerate(target.beside if options.beside else (), 1):
            name = f"{fleets.BESIDE}_{number}"
            result["beside"][label] = self.sustained(label, "http", name, CALLERS, seconds * 2 // 3)
        if options.beside and fleets.ROUTER in fleet.items:
            result["beside"]["routed"] = self.sustained("routed", "http", fleets.ROUTER, CALLERS, seconds * 2 // 3)
        result["memory"] = self.memory()
        result["problems"] = self.problems
        return result

    def memory(self):
        return {group: procs.memory_mib(pids) for group, pids in self.fleet.pids.items()}
