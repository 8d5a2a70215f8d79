"""A burst over HTTP and MLLP while one of two workers is killed half way: every message and every child ends once."""

import collections
import os
import threading

import pytest

from hiefleet import END_EVENTS, Fleet, Receiver, file_item, hl7, item, production, router_item, wait_until

COUNT = int(os.environ.get("HIE_BURST", "20000"))
CONNECTIONS = 8
WINDOW = 64  # messages in flight on a connection


@pytest.fixture(scope="module")
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def fleet(receiver):
    rules = [
        {"name": "admissions", "when": {"MSH-9.1": "ADT"}, "to": ["Archive"]},
        {"name": "results", "when": {"MSH-9.1": "ORU"}, "to": ["Sender", "Archive"]},
    ]
    limit = 4 * COUNT
    config = production(
        router_item("Router", rules, concurrency=64, queue_size=limit),
        file_item("Archive", "out", queue_size=limit),
        item("Sender", "HTTPSender", {"url": receiver.url}, queue_size=limit,
             retry={"max_attempts": 8, "backoff": 100, "max_backoff": 1000}),
        mllp=["Router"],
    )
    with Fleet(config, workers=2) as fleet:
        yield fleet


def make(number):
    """One in fifty is a result, which goes to two places."""
    control = f"B{number}"
    return hl7.oru(control) if number % 50 == 0 else hl7.adt(control=control)


def send_all(fleet, numbers, accepted, faults):
    """One MLLP connection with a window; notes what was acknowledged."""
    try:
        with fleet.mllp(timeout=60) as peer:
            for at in range(0, len(numbers), WINDOW):
                part = numbers[at:at + WINDOW]
                peer.send(*(make(number) for number in part))
                for number in part:
                    ack = hl7.Message(peer.receive())
                    if ack.code != "AA" or ack.echoed != f"B{number}":
                        faults.append((number, ack.data))
                        return
                    accepted.append(number)
    except (OSError, AssertionError) as error:
        faults.append(repr(error))


def test_burst_with_a_killed_worker(fleet, receiver):
    accepted, faults = [], []
    over_http = list(range(0, COUNT, 20))
    over_mllp = [number for number in range(COUNT) if number % 20]
    threads = [threading.Thread(target=send_all, args=(fleet, over_mllp[n::CONNECTIONS], accepted, faults))
               for n in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    http_ids = [fleet.accept("Router", make(number)) for number in over_http[:len(over_http) // 2]]
    wait_until(lambda: faults or len(accepted) > len(over_mllp) // 2, "half of the burst is accepted", 120)
    fleet.workers[0].kill()
    http_ids += [fleet.accept("Router", make(number)) for number in over_http[len(over_http) // 2:]]
    for thread in threads:
        thread.join(180)
    assert not faults, faults[:3]
    assert len(accepted) == len(over_mllp)
    fleet.replace_worker(fleet.workers[0])
    fleet.wait_empty(120)

    results = sum(1 for number in range(COUNT) if number % 50 == 0)
    children = COUNT + results
    fleet.check_settled(completed=COUNT + children)
    assert len(set(http_ids)) == len(over_http)
    assert fleet.scalar("select count(distinct control_id) from hie.messages where item = 'Router'") == COUNT

    files = collections.Counter(fleet.files("out"))
    assert len(files) == COUNT and set(files.values()) == {1}, "each message makes one file"
    # A receiver may see a repeat after a crash, under the same key; never none.
    assert len(receiver.bodies()) == results
    keys = collections.defaultdict(set)
    for headers, body in receiver.requests:
        keys[body].add(headers["Idempotency-Key"])
    assert all(len(found) == 1 for found in keys.values())


def test_every_child_has_one_parent_and_one_end(fleet):
    assert fleet.scalar("select count(*) from hie.messages where parent_id is null and item <> 'Router'") == 0
    more = fleet.sql("select parent_id, item, count(*) from hie.messages where parent_id is not null"
                     " group by 1, 2 having count(*) > 1 limit 5")
    assert not more
    ends = fleet.scalar("select count(*) from hie.audit where event = any(%s)", list(END_EVENTS))
    assert ends == fleet.scalar("select count(*) from hie.messages")
