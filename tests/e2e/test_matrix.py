"""Every messaging pattern × queue type × execution mode, all in one fleet under the same faults: a worker killed, one stopped past
its leases and resumed, one added. No loss, no double end, order per key; what a receiver sees; order of a queue with a backlog."""

import collections
import itertools
import os
import random
import signal
import threading
import time

import pytest

from hiefleet import Fleet, Receiver, echo_item, item, production, wait_until
from hiefleet.guarantees import check_key_order, check_never_older, check_one_end_each, runs

COUNT = int(os.environ.get("HIE_MATRIX", "120"))  # messages of each combination
LARGE = COUNT > 1000  # then one pattern after the other
KEYS = 4  # of each item, with a sender each
STOPPED_SECONDS = 13  # longer than any lease or idle time
WORKERS = 4

PATTERNS = ("async_reliable", "sync_reliable", "concurrent_async", "concurrent_sync")
TYPES = ("fifo", "priority", "unordered", "lifo")
MODES = ("async", "thread_pool", "multi_process")
GROUPS = [[pattern] for pattern in PATTERNS] if LARGE else [list(PATTERNS)]

pytestmark = pytest.mark.slow


def options(pattern, type_, mode):
    over = {"messaging_pattern": pattern, "queue_type": type_, "execution_mode": mode, "concurrency": 8,
            "queue_size": max(10000, 2 * COUNT * KEYS), "blocking": {"max_wait_time": 120000}, "timeout": 60000,
            "retry": {"max_attempts": 20, "backoff": 50, "max_backoff": 500}}
    if type_ == "fifo":
        over["partitions"] = 8
    return over


def name_of(*words):
    return "-".join(words)


def waits(id_):
    return id_.startswith(("sync_reliable", "concurrent_sync"))


class Senders:
    """A sender for each key of each item: one message after the other is acknowledged. They stop at a third and at two thirds
    until they are let on, so that each third meets its fault."""

    def __init__(self, fleet, items):
        self.fleet = fleet
        self.items = items
        self.ids = {id_: [[] for _ in range(KEYS)] for id_ in items}  # by key, in the order of sending
        self.faults = []
        self.let_on = [threading.Event() for _ in range(3)]
        self.let_on[0].set()
        self.threads = [threading.Thread(target=self.run, args=(id_, key)) for id_ in items for key in range(KEYS)]

    def run(self, id_, key):
        count = COUNT // KEYS
        try:
            with self.fleet.wire() as wire:
                for number in range(count):
                    if number * 3 % count < 3:
                        self.let_on[number * 3 // count].wait()
                    if self.faults:
                        return
                    self.send(wire, id_, key, number)
        except (OSError, AssertionError) as error:
            self.faults.append(f"{id_}, key {key}: {error!r}")

    def send(self, wire, id_, key, number):
        body = f"{id_} {key} {number}".encode()
        headers = {"X-Ordering-Key": f"k{key}", "X-Priority": str((number * 7 + key) % 10)}
        reply = wire.exchange(id_, body, headers)
        assert reply.status == (200 if waits(id_) else 202), (reply.status, reply.body[:300])
        assert reply.status == 202 or self.items[id_] != "Echo" or reply.body == body, "somebody else's reply"
        self.ids[id_][key].append(reply.id)

    def count(self):
        return sum(len(ids) for keys in self.ids.values() for ids in keys)

    def all_of(self, id_):
        return [one for key in self.ids[id_] for one in key]


def meet_the_faults(fleet, senders):
    """One killed and one stopped with work in hand, one added, the stopped one resumed after its leases."""
    killed, stopped = fleet.workers[0], fleet.workers[1]
    total = len(senders.threads) * (COUNT // KEYS)
    for thread in senders.threads:
        thread.start()
    wait_until(lambda: senders.faults or senders.count() > total // 8, "the load runs", 120)
    stopped.pause()
    killed.kill()
    stopped_at = time.monotonic()
    fleet.workers.remove(killed)
    fleet.retired.append(killed)
    wait_until(lambda: senders.faults or senders.count() > total // 4, "it runs on", 120)
    senders.let_on[1].set()
    fleet.start_worker()
    # At last what the stopped one had is others'; then there is work again for it to meet.
    wait_until(lambda: time.monotonic() - stopped_at > STOPPED_SECONDS, "its leases are over", 60)
    senders.let_on[2].set()
    stopped.resume()
    for thread in senders.threads:
        thread.join(60 + COUNT // 10)
    assert not any(thread.is_alive() for thread in senders.threads), "a sender waits for ever"
    assert not senders.faults, senders.faults[:3]
    fleet.wait_empty(60 + COUNT // 20)
    return killed, stopped


@pytest.fixture(scope="module")
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module", params=GROUPS, ids="+".join)
def fleet(request, receiver):
    if LARGE:
        signal.alarm(120 + COUNT // 2)  # the bound of a test is for the small ones
    items, classes = [], {}
    for pattern, type_, mode in itertools.product(request.param, TYPES, MODES):
        delay = 0 if pattern.startswith("concurrent") else 4  # with work in hand most of the time, and with none
        id_ = name_of(pattern, type_, mode)
        items.append(echo_item(id_, delay=delay, **options(pattern, type_, mode)))
        classes[id_] = "Echo"
    for pattern, mode in itertools.product(request.param, MODES):
        id_ = name_of(pattern, "fifo", mode, "sender")
        settings = {"url": receiver.url, "timeout": 20000}
        items.append(item(id_, "HTTPSender", settings, **options(pattern, "fifo", mode)))
        classes[id_] = "HTTPSender"
    with Fleet(production(*items), workers=WORKERS) as fleet:
        fleet.senders = Senders(fleet, classes)
        fleet.killed, fleet.stopped = meet_the_faults(fleet, fleet.senders)
        yield fleet


def test_no_loss_and_no_double_end(fleet):
    senders = fleet.senders
    for id_ in senders.items:
        ids = senders.all_of(id_)
        assert len(ids) == COUNT // KEYS * KEYS
        check_one_end_each(fleet, id_, ids)
    states = dict(fleet.sql("select state, count(*) from hie.messages group by 1"))
    assert states == {"completed": senders.count()}, states


def test_the_faults_were_met(fleet):
    """That is: work was taken from the killed and from the stopped one, and the stopped one went on afterwards."""
    taken = fleet.scalar("select count(*) from hie.attempts where kind = 1")
    assert taken > 0, "nothing was taken over"
    by_worker = dict(fleet.sql("select worker, count(*) from hie.ended group by 1"))
    names = {worker: [name for name in by_worker if f"-{worker.pid}-" in name] for worker in
             [fleet.killed] + fleet.workers}
    assert all(names.values()), f"who ended nothing: {[worker.name for worker, found in names.items() if not found]}"


def test_order_of_each_key(fleet):
    for id_ in fleet.senders.items:
        if "-fifo-" not in id_:
            continue
        assert check_key_order(fleet, id_) == KEYS
        stored = collections.defaultdict(list)
        for run in runs(fleet, id_):
            stored[run.key].append(run.id)
        for key in range(KEYS):
            assert stored[f"k{key}"] == fleet.senders.ids[id_][key], "accepted in the order of sending"


def test_a_receiver_sees_none_older_after_a_newer_one(fleet, receiver):
    seen = collections.defaultdict(list)
    with receiver.lock:
        bodies = [body.decode().split() for _, body in receiver.requests]
    for id_, key, number in bodies:
        seen[id_].append((key, int(number)))
    for id_, class_ in fleet.senders.items.items():
        if class_ != "HTTPSender":
            continue
        assert set(seen[id_]) == {(str(key), number) for key in range(KEYS) for number in range(COUNT // KEYS)}
        check_never_older(seen[id_], id_)


# ---- the order of a queue: one slot, a backlog, then one worker --------------------------------------------------

BACKLOG = 60
AGEING_MS = 200


def backlog_items():
    for pattern, mode in itertools.product(PATTERNS, MODES):
        for type_, more in (("priority", {}), ("lifo", {}), ("ageing", {"priority": {"ageing": AGEING_MS}})):
            over = options(pattern, "priority" if type_ == "ageing" else type_, mode)
            yield echo_item(name_of(pattern, type_, mode), **{**over, "concurrency": 1, **more})


@pytest.fixture(scope="module")
def backlog():
    config = production(*backlog_items())
    with Fleet(config, workers=1, start=False) as fleet:
        fleet.start_servers()
        fleet.dispatcher.start()
        fleet.wait_program_ready(fleet.dispatcher)
        rng = random.Random(20)
        fleet.sent = {}
        with fleet.wire() as wire:
            for number in range(BACKLOG):
                for entry in config["items"]:
                    headers = {"Prefer": "respond-async", "X-Priority": str(rng.randrange(10))}
                    reply = wire.exchange(entry["id"], b"%d" % number, headers)
                    assert reply.status == 202
                    fleet.sent.setdefault(entry["id"], []).append(reply.id)
        fleet.workers[0].start()
        fleet.wait_program_ready(fleet.workers[0])
        fleet.wait_empty(120)
        yield fleet


def wanted_order(type_, all_runs):
    if type_ == "lifo":
        return sorted(all_runs, key=lambda run: -run.seq)
    if type_ == "priority":
        return sorted(all_runs, key=lambda run: (-run.priority, run.seq))
    # The queue's clock is milliseconds.
    millis = {run.id: int(run.received.timestamp() * 1000 + 0.0005) for run in all_runs}
    return sorted(all_runs, key=lambda run: (millis[run.id] - run.priority * AGEING_MS, run.seq))


@pytest.mark.parametrize("type_", ["priority", "lifo", "ageing"])
def test_order_of_a_backlog(backlog, type_):
    for pattern, mode in itertools.product(PATTERNS, MODES):
        id_ = name_of(pattern, type_, mode)
        check_one_end_each(backlog, id_, backlog.sent[id_])
        wanted = wanted_order(type_, runs(backlog, id_))
        started = [run.started for run in wanted]  # several may start within one microsecond
        assert started == sorted(started), (id_, [(run.priority, run.seq) for run in wanted])
        if type_ == "priority":
            assert len({run.priority for run in wanted}) == 10
