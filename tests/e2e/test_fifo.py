"""fifo: one message of a key after the other, over all workers, whatever happens; partitions that spread and move; keys that are
strange."""

import collections
import threading
import time

import pytest

from hiefleet import Fleet, Receiver, echo_item, hl7, item, production, wait_until
from hiefleet.guarantees import check_ended_once, check_key_order, check_never_older, check_one_end_each, runs

RETRY = {"max_attempts": 4, "backoff": 100, "max_backoff": 200}
PARTITIONS = 16


@pytest.fixture(scope="module")
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def fleet(receiver):
    fifo = {"queue_type": "fifo"}
    config = production(
        echo_item("ByPath", ordering_key="PID-3.1", **fifo),
        echo_item("Single", delay=2, **fifo),
        echo_item("SideBySide", delay=300, messaging_pattern="concurrent_async", **fifo),
        echo_item("Many", ordering_key="PID-3.1", queue_size=100000, concurrency=64, **fifo),
        echo_item("Slow", delay=20, partitions=PARTITIONS, **fifo),
        echo_item("Long", delay=10000, **fifo),
        echo_item("Twice", fail_attempts=1, partitions=4, retry=RETRY, **fifo),
        item("Late", "HTTPSender", {"url": receiver.url, "timeout": 20000}, messaging_pattern="concurrent_async",
             retry={"max_attempts": 3, "backoff": 40000, "max_backoff": 40000}, **fifo),
        item("Sender", "HTTPSender", {"url": receiver.url, "timeout": 20000}, partitions=8, retry=RETRY, **fifo),
        mllp=["ByPath"],
    )
    with Fleet(config, workers=2) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def whole_again(fleet, receiver):
    """Each test ends with two workers, nothing left over, and a receiver that takes everything."""
    yield
    receiver.judge = None
    receiver.release()
    for worker in list(fleet.workers):
        if worker.alive:
            worker.resume()
        else:
            fleet.replace_worker(worker)
    while len(fleet.workers) > 2:
        worker = fleet.workers.pop()
        worker.stop()
        fleet.retired.append(worker)
    fleet.wait_ready()
    fleet.wait_empty(60)


def keyed(fleet, item_id, key, body):
    return fleet.accept(item_id, body, {"X-Ordering-Key": key})


def patient(key):
    return hl7.adt().replace(b"9000000001", key)


def owners(fleet, item_id):
    """How many partitions each live owner has."""
    rows = fleet.sql("select worker, count(*) from hie.partitions where item = %s and expires_at > now() group by 1", item_id)
    return dict(rows)


def name_of(fleet, worker):
    return fleet.scalar("select worker from hie.partition_workers where worker like %s", f"%-{worker.pid}-%")


# ---- keys ----------------------------------------------------------------------------------------------------


def test_keys_by_path_and_by_header(fleet):
    with fleet.mllp("ByPath") as peer:
        peer.send(patient(b"A"), patient(b"B"))
        assert [hl7.Message(peer.receive()).code for _ in range(2)] == ["AA", "AA"]
    ids = {
        "A": fleet.accept("ByPath", patient(b"A")),
        "B": keyed(fleet, "ByPath", "B", patient(b"A")),  # the header wins
        "C": keyed(fleet, "ByPath", "C", b"not HL7"),
        "": fleet.accept("ByPath", b"not HL7, no key"),
    }
    for key, id_ in ids.items():
        fleet.wait_completed(id_)
        assert fleet.scalar("select coalesce(ordering_key, '') from hie.messages where correlation_id = %s", id_) == key
    keys = collections.Counter(run.key for run in runs(fleet, "ByPath"))
    assert keys["A"] == 2 and keys["B"] == 2
    partitions = fleet.sql("select ordering_key, count(distinct partition) from hie.messages where item = 'ByPath' group by 1")
    assert all(count == 1 for _, count in partitions), "one key, one partition"


def test_a_key_of_a_megabyte(fleet):
    huge, other = b"9" * (1 << 20), b"9" * (1 << 20) + b"1"
    ids = [fleet.accept("ByPath", patient(key)) for key in (huge, huge, other)]
    for id_ in ids:
        fleet.wait_completed(id_)
    stored = [fleet.scalar("select ordering_key from hie.messages where correlation_id = %s", id_) for id_ in ids]
    assert stored[0] == stored[1] != stored[2], "a hash of all of it"
    assert all(len(key) < 200 and key.isascii() and key.isprintable() for key in stored)


@pytest.mark.parametrize("key, status", [("k" * 199, 202), ("k" * 200, 400), ("", 400), ("\xe4\xf6\xfc", 202), ("a b", 202)])
def test_ordering_key_header(fleet, key, status):
    with fleet.wire() as wire:
        assert wire.exchange("ByPath", b"x", {"X-Ordering-Key": key}).status == status


@pytest.mark.parametrize("delay", ["0", "1000", "-1", "soon"])
def test_no_delay_for_fifo(fleet, delay):
    answer = fleet.post("Single", b"x", {"X-Delay": delay})
    assert answer.status == 400 and answer.headers.get_content_type() == "application/problem+json"


def test_ten_thousand_distinct_keys(fleet):
    """Two messages of each, so that there is an order to keep."""
    keys, senders = 10000, 8
    faults, ids = [], [[] for _ in range(senders)]

    def send(number):
        try:
            with fleet.wire() as wire:
                for key in [key for key in range(number, keys, senders) for _ in range(2)]:
                    reply = wire.exchange("Many", b"x", {"X-Ordering-Key": f"patient {key}"})
                    assert reply.status == 202, reply
                    ids[number].append(reply.id)
        except (OSError, AssertionError) as error:
            faults.append(error)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults[0]
    fleet.wait_empty(90)
    assert check_key_order(fleet, "Many") == keys
    check_one_end_each(fleet, "Many", [id_ for some in ids for id_ in some])


def test_without_a_key_one_runs_at_a_time(fleet):
    for number in range(100):
        fleet.accept("Single", b"%d" % number)
    fleet.wait_empty()
    assert check_key_order(fleet, "Single", of=lambda _: "all") == 1


def test_concurrent_without_a_key_side_by_side(fleet):
    ids = [fleet.accept("SideBySide", b"x") for _ in range(12)]
    for id_ in ids:
        fleet.wait_completed(id_)
    done = runs(fleet, "SideBySide")
    assert any(after.started < before.ended for before, after in zip(done, done[1:])), "nobody ran beside another"


# ---- failing heads -------------------------------------------------------------------------------------------


def test_a_failing_head_blocks_its_key_only(fleet, receiver):
    receiver.judge = lambda headers, body, times: 503 if body == b"A1" and times < 2 else 200
    ids = {name: keyed(fleet, "Sender", name[0], name.encode()) for name in ("A1", "A2", "B1", "B2", "C1")}
    for id_ in ids.values():
        fleet.wait_completed(id_)
    done = {run.id: run for run in runs(fleet, "Sender")}
    a1, a2 = done[ids["A1"]], done[ids["A2"]]
    assert a1.attempt == 3 and a2.started >= a1.ended
    assert all(done[ids[name]].ended < a1.ended for name in ("B1", "B2", "C1")), "others went on meanwhile"
    order = [body for _, body in receiver.requests if body[:1] == b"A"]
    assert order == [b"A1", b"A1", b"A1", b"A2"]


def test_a_dead_head_lets_the_next_one_go(fleet, receiver):
    receiver.judge = lambda headers, body, times: {b"D1": 503, b"D2": 404}.get(body, 200)
    ids = [keyed(fleet, "Sender", "D", name) for name in (b"D1", b"D2", b"D3")]
    states = [fleet.wait_end(id_) for id_ in ids]
    assert [state["status"] for state in states] == ["dead_lettered", "dead_lettered", "completed"]
    assert [state["attempts"] for state in states] == [4, 1, 1]
    order = [body for _, body in receiver.requests if body[:1] == b"D"]
    assert order == [b"D1"] * 4 + [b"D2", b"D3"]


def test_retries_keep_the_order(fleet):
    for number in range(60):
        keyed(fleet, "Twice", f"k{number % 6}", b"%d" % number)
    fleet.wait_empty(60)
    assert {run.attempt for run in runs(fleet, "Twice")} == {2}
    check_key_order(fleet, "Twice")


def test_waiting_heads_hold_no_room_for_large_bodies(fleet, receiver):
    """What they had fetched would fill their worker's budget of 64 MiB for as long as they wait."""
    receiver.judge = lambda headers, body, times: 503 if len(body) > 1 << 20 and times < 1 else 200
    heads = [fleet.accept("Late", bytes([number]) * (14 << 20)) for number in range(4)]
    retried = lambda: sum(fleet.metric(worker, "hie_messages_retried_total", "Late") for worker in fleet.workers)
    wait_until(lambda: retried() == len(heads), "all have failed once")
    ids = [keyed(fleet, "ByPath", f"large {number}", bytes(100000)) for number in range(12)]
    for id_ in ids:
        fleet.wait_completed(id_, timeout=8)
    assert not any(fleet.message(id_)["status"] == "completed" for id_ in heads), "they still wait"


# ---- partitions and their owners ------------------------------------------------------------------------------


def wait_even(fleet, item_id, workers, timeout=30):
    least = PARTITIONS // workers
    most = least + (PARTITIONS % workers > 0)

    def even():
        shares = sorted(owners(fleet, item_id).values())
        return len(shares) == workers and sum(shares) == PARTITIONS and shares[0] >= least and shares[-1] <= most

    wait_until(even, f"{PARTITIONS} partitions evenly with {workers} workers", timeout)


def test_partitions_spread_and_move(fleet):
    """Under load all the time, so that what moves has messages in hand."""
    stop = threading.Event()
    ids, faults = [], []

    def send(key):
        try:
            with fleet.wire() as wire:
                while not stop.is_set():
                    reply = wire.exchange("Slow", b"x", {"X-Ordering-Key": f"{key}"})
                    assert reply.status == 202, reply
                    ids.append(reply.id)
                    time.sleep(0.02)
        except (OSError, AssertionError) as error:
            faults.append(error)

    threads = [threading.Thread(target=send, args=(key,)) for key in range(6)]
    for thread in threads:
        thread.start()
    try:
        wait_even(fleet, "Slow", 2)
        fleet.start_worker()
        wait_even(fleet, "Slow", 3)
        fleet.start_worker()
        wait_even(fleet, "Slow", 4)
        leaving = fleet.workers.pop()
        assert leaving.stop() == 0
        fleet.retired.append(leaving)
        wait_even(fleet, "Slow", 3, timeout=5)  # given up, not waited for
        fleet.workers[2].kill()
        wait_even(fleet, "Slow", 2)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not faults, faults[0]
    fleet.wait_empty(60)
    check_one_end_each(fleet, "Slow", ids)
    check_key_order(fleet, "Slow")


def test_a_drain_keeps_its_leases(fleet):
    """A handler that takes longer than a lease lives ends in the worker that drains, and once; the next of its key starts after it."""
    ids = [fleet.accept("Long", b"%d" % number) for number in range(2)]
    name = next(iter(owners(fleet, "Long")))
    owner = next(worker for worker in fleet.workers if name_of(fleet, worker) == name)
    wait_until(lambda: fleet.metric(owner, "hie_in_flight", "Long") == 1, "the first one runs")
    assert owner.stop() == 0
    first = fleet.wait_completed(ids[0])
    for id_ in ids:
        fleet.wait_completed(id_)
    check_ended_once(fleet, ids)
    done = {run.id: run for run in runs(fleet, "Long")}
    assert first["attempts"] == 1 and done[ids[0]].worker == name, "another took it over"
    assert done[ids[1]].worker != name and done[ids[1]].started >= done[ids[0]].ended


def send_numbers(fleet, keys, numbers, prefix):
    """In turn over the keys, so that each key's numbers are accepted in order."""
    with fleet.wire() as wire:
        for number in numbers:
            for key in range(keys):
                reply = wire.exchange("Sender", f"{prefix} {key} {number}".encode(), {"X-Ordering-Key": f"{prefix}{key}"})
                assert reply.status == 202, reply
                yield reply.id


def seen_by(receiver, prefix):
    with receiver.lock:
        words = [body.decode().split() for _, body in receiver.requests]
    return [(key, int(number)) for name, key, number in (w for w in words if len(w) == 3) if name == prefix]


def test_an_owner_that_was_paused_past_its_lease_does_nothing_more(fleet, receiver):
    """It wakes up in the middle of its messages: what it held is others' by then, and was sent and ended by them."""
    keys, count = 8, 120
    for round_ in range(2):
        prefix = f"P{round_}"
        ids = list(send_numbers(fleet, keys, range(count), prefix))
        paused = fleet.workers[round_]
        name = name_of(fleet, paused)
        mine = {row[0] for row in fleet.sql("select partition from hie.partitions where item = 'Sender' and worker = %s", name)}
        assert mine
        wait_until(lambda: len(seen_by(receiver, prefix)) > keys * 4, "it is at work", interval=0.01)
        paused.pause()
        before = fleet.scalar("select count(*) from hie.ended where item = 'Sender' and worker = %s", name)
        # The other one is through with nearly all of it.
        wait_until(lambda: fleet.scalar("select count(*) from hie.wal where item = 'Sender'") <= keys, "the other one goes on", 60)
        wait_until(lambda: not owners(fleet, "Sender").get(name), "its leases are over")
        paused.resume()
        wait_until(lambda: owners(fleet, "Sender").get(name), "it has partitions again")
        fleet.wait_empty(60)
        check_ended_once(fleet, ids)
        after = fleet.scalar("select count(*) from hie.ended where item = 'Sender' and worker = %s", name)
        assert after == before, "it settled what was another's"
        seen = seen_by(receiver, prefix)
        assert set(seen) == {(str(key), number) for key in range(keys) for number in range(count)}
        check_never_older(seen, prefix)


def test_order_through_losses_of_redis(fleet, receiver):
    stop = threading.Event()
    ids = []

    def send():
        for id_ in send_numbers(fleet, 5, range(400), "F"):
            ids.append(id_)
            if stop.is_set():
                return

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for number in range(3):
            seen = len(ids)
            wait_until(lambda: len(ids) > seen + 150 or not sender.is_alive(), "some more", interval=0.01)
            fleet.redis.client.flushall()
    finally:
        stop.set()
        sender.join()
    fleet.wait_empty(90)
    check_ended_once(fleet, ids)
    seen = seen_by(receiver, "F")
    assert len(set(seen)) == len(ids)
    check_never_older(seen, "F")
    check_key_order(fleet, "Sender")


def test_order_through_the_death_of_owners(fleet, receiver):
    ids = list(send_numbers(fleet, 6, range(100), "K"))
    wait_until(lambda: len(seen_by(receiver, "K")) > 60, "it is at work", interval=0.01)
    fleet.workers[0].kill()
    fleet.redis.client.flushall()
    fleet.replace_worker(fleet.workers[0])
    fleet.wait_empty(90)
    check_ended_once(fleet, ids)
    seen = seen_by(receiver, "K")
    assert len(set(seen)) == 600
    check_never_older(seen, "K")
    check_key_order(fleet, "Sender")


def test_what_another_claims_late_is_found(fleet):
    """A claim of an owner before may be carried out after the next one's: what it took is in no living hand, and nothing new
    comes that would make the owner look back."""
    stream = "hie:{Single}:async_reliable"
    fleet.wait_completed(fleet.accept("Single", b"first"))
    for worker in fleet.workers:
        worker.pause()
    ids = [fleet.accept("Single", b"late %d" % number) for number in range(3)]
    taken = fleet.redis.client.xreadgroup("workers", "owner-before", {stream: ">"}, count=10)
    for worker in fleet.workers:
        worker.resume()
    assert len(taken[0][1]) == 3
    for id_ in ids:
        fleet.wait_completed(id_)
    check_ended_once(fleet, ids)
    check_key_order(fleet, "Single")
