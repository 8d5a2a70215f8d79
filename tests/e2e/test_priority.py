"""priority and lifo: which waiting message is next, where a priority comes from, ageing; the order after crashes, retries and the loss
of Redis. (The order of a plain backlog in every pattern and mode is in test_matrix.py.)"""

import itertools
import threading
import time

import pytest

from hiefleet import Fleet, echo_item, hl7, production, wait_until
from hiefleet.guarantees import in_order_of_start, runs

BY_PATH = {"path": "PV1-2", "values": {"E": 9, "U": 7}, "default": 3}
ORDERED = {"Urgent": "priority", "Newest": "lifo"}


@pytest.fixture(scope="module")
def fleet():
    priority = {"queue_type": "priority"}
    config = production(
        echo_item("ByPath", priority=BY_PATH, **priority),
        echo_item("Busy", delay=150, concurrency=1, **priority),
        echo_item("Starving", delay=100, concurrency=1, **priority),
        echo_item("Ageing", delay=100, concurrency=1, priority={"ageing": 50}, **priority),
        *(echo_item(id_, delay=5, concurrency=1, queue_type=type_, timeout=60000) for id_, type_ in ORDERED.items()),
        *(echo_item(f"{id_}-again", delay=10, concurrency=1, queue_type=type_, fail_attempts=1,
                    retry={"max_attempts": 3, "backoff": 300, "max_backoff": 300}) for id_, type_ in ORDERED.items()),
        mllp=["ByPath"],
    )
    with Fleet(config, workers=1) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def whole_again(fleet):
    """Each test ends with one worker and nothing left over."""
    yield
    worker = fleet.workers[0]
    if worker.alive:
        worker.resume()
    else:
        fleet.replace_worker(worker)
    fleet.wait_ready()
    fleet.wait_empty(60)


def ranked(fleet, item_id, priority, body=b"x"):
    return fleet.accept(item_id, body, {"X-Priority": str(priority)})


def millis(run):
    """The queue's clock."""
    return int(run.received.timestamp() * 1000 + 0.0005)


def check_order(fleet, item_id, ids, first_free=0):
    """Those of `ids` started in their queue's order; the first `first_free` were claimed before the others were there."""
    done = [run for run in in_order_of_start(fleet, item_id) if run.id in ids][first_free:]
    if item_id.startswith("Newest"):
        wanted = sorted(done, key=lambda run: -run.seq)
    else:
        wanted = sorted(done, key=lambda run: (-run.priority, run.seq))
    assert len(done) == len(ids) - first_free
    assert [(run.priority, run.seq) for run in done] == [(run.priority, run.seq) for run in wanted]


# ---- where a priority comes from --------------------------------------------------------------------------------


def visit(class_):
    return hl7.adt().replace(b"PV1|1|I", b"PV1|1|" + class_)


def test_priority_by_path_and_header(fleet):
    cases = [(visit(b"E"), {}, 9), (visit(b"U"), {}, 7), (visit(b"I"), {}, 3), (visit(b""), {}, 3), (b"not HL7", {}, 3),
             (visit(b"E"), {"X-Priority": "0"}, 0), (b"not HL7", {"X-Priority": "9"}, 9)]
    for body, headers, wanted in cases:
        id_ = fleet.accept("ByPath", body, headers)
        assert fleet.scalar("select priority from hie.messages where correlation_id = %s", id_) == wanted
        fleet.wait_completed(id_)
    with fleet.mllp() as peer:
        message = visit(b"E")
        assert peer.ack(message).code == "AA"
    control = hl7.Message(message)("MSH", 10)
    assert fleet.scalar("select priority from hie.messages where control_id = %s", control) == 9


@pytest.mark.parametrize("value", ["10", "11", "-1", "+1", "1.5", "high", "", "00000000000000000001", "9 9"])
def test_a_priority_out_of_range(fleet, value):
    answer = fleet.post("ByPath", b"x", {"X-Priority": value})
    assert answer.status == 400 and answer.headers.get_content_type() == "application/problem+json"


# ---- who is next -----------------------------------------------------------------------------------------------


def test_a_higher_one_is_next_once_a_slot_is_free(fleet):
    low = [ranked(fleet, "Busy", 1) for _ in range(12)]
    wait_until(lambda: fleet.scalar("select count(*) from hie.ended where item = 'Busy'") >= 2, "some have run")
    high = ranked(fleet, "Busy", 8)
    highest = ranked(fleet, "Busy", 9)
    for id_ in low + [high, highest]:
        fleet.wait_completed(id_)
    done = in_order_of_start(fleet, "Busy")
    places = {run.id: at for at, run in enumerate(done)}
    accepted = {run.id: run.received for run in done}
    for id_, above in ((high, 1), (highest, 0)):
        # Between its acceptance and its start only what had been claimed before, and what is above it.
        between = [run for run in done if accepted[id_] < run.started and places[run.id] < places[id_]]
        assert len(between) <= 1 + above, f"{len(between)} were run before it"


def test_starving_and_ageing(fleet):
    """Old low ones and a stream of new high ones: without ageing the low ones wait for the end of it."""
    for id_ in ("Starving", "Ageing"):
        ranked(fleet, id_, 9, b"keeps it busy")
    low = {id_: [ranked(fleet, id_, 0, b"low") for _ in range(3)] for id_ in ("Starving", "Ageing")}
    for _ in range(25):
        for id_ in ("Starving", "Ageing"):
            for _ in range(2):
                ranked(fleet, id_, 9, b"high")
        time.sleep(0.1)
    fleet.wait_empty()
    starving = [run.priority for run in in_order_of_start(fleet, "Starving")]
    assert starving[-3:] == [0, 0, 0] or starving[:4].count(0), starving
    assert 0 not in starving[4:-3], "a low one ran while higher ones waited"
    ageing = in_order_of_start(fleet, "Ageing")
    places = [at for at, run in enumerate(ageing) if run.id in low["Ageing"]]
    # 450 ms make up for nine levels: what came later than that stands behind them.
    assert max(places) < len(ageing) - 20, places
    for run in (run for run in ageing if run.id in low["Ageing"]):
        late = [other for other in ageing if (other.received - run.received).total_seconds() > 0.5 and other.started < run.started]
        assert len(late) <= 1, "those that came half a second later stand behind it"


@pytest.mark.parametrize("item_id", ORDERED)
def test_order_after_redis_lost_everything(fleet, item_id):
    worker = fleet.workers[0]
    worker.stop()
    ids = [ranked(fleet, item_id, (number * 7) % 10) for number in range(200)]
    fleet.redis.client.flushall()
    stream = f"hie:{{{item_id}}}:async_reliable"
    wait_until(lambda: fleet.redis.client.xlen(stream) == len(ids), "the dispatcher brought them back", 60)
    worker.start()
    fleet.wait_empty(60)
    check_order(fleet, item_id, ids)


@pytest.mark.parametrize("item_id", ORDERED)
def test_order_after_a_worker_died(fleet, item_id):
    """The others keep their order; what it had in hand comes back once it has been silent for long enough."""
    fleet.workers[0].pause()
    ids = [ranked(fleet, item_id, (number * 7) % 10) for number in range(300)]
    fleet.workers[0].resume()
    wait_until(lambda: fleet.scalar("select count(*) from hie.wal where item = %s", item_id) < 250, "it is at work", interval=0.01)
    fleet.workers[0].kill()
    before = {run.id for run in runs(fleet, item_id) if run.status}
    entries = fleet.redis.client.xpending(f"hie:{{{item_id}}}:async_reliable", "workers")
    assert entries["pending"] >= 1
    fleet.replace_worker(fleet.workers[0])
    fleet.wait_empty(60)
    after = [id_ for id_ in ids if id_ not in before]
    late = fleet.scalar("select count(*) from hie.attempts where kind = 1 and correlation_id = any(%s::uuid[])", ids)
    done = [run for run in in_order_of_start(fleet, item_id) if run.id in after and run.attempt == 1]
    wanted = sorted(done, key=(lambda run: -run.seq) if item_id == "Newest" else (lambda run: (-run.priority, run.seq)))
    assert [run.seq for run in done] == [run.seq for run in wanted]
    assert len(after) - len(done) == late <= 2


@pytest.mark.parametrize("item_id", ORDERED)
def test_a_retry_takes_its_place_again(fleet, item_id):
    """All fail once; when they are due again they come in the queue's order, whatever order they failed in."""
    again = f"{item_id}-again"
    worker = fleet.workers[0]
    ids = [ranked(fleet, again, (number * 7) % 10) for number in range(12)]
    wait_until(lambda: fleet.redis.client.zcard(f"hie:{{{again}}}:delayed") + len(
        [run for run in runs(fleet, again) if run.status]) == len(ids), "all have failed", interval=0.005)
    worker.stop()
    time.sleep(0.5)
    worker.start()
    fleet.wait_empty()
    done = [run for run in in_order_of_start(fleet, again) if run.id in ids]
    assert {run.attempt for run in done} == {2}
    # Those that were due together when the worker came: all that had not run again before it stopped.
    together = [run for run in done if run.worker == done[-1].worker]
    assert len(together) >= 6
    # Of one millisecond those that were promoted first are first.
    places = [-millis(run) if item_id == "Newest" else (-run.priority, millis(run)) for run in together]
    assert places == sorted(places)


def test_several_workers_share_one_order(fleet):
    """With four slots in two workers a message starts ahead of at most those that the other slots were taking just then."""
    fleet.start_worker()
    stop = threading.Event()

    def send(number):
        with fleet.wire() as wire:
            for priority in itertools.islice(itertools.cycle([0, 3, 9, 1, 7, 5]), number, None):
                if stop.is_set():
                    return
                assert wire.exchange("Urgent", b"x", {"X-Priority": str(priority)}).status == 202

    threads = [threading.Thread(target=send, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    stop.set()
    for thread in threads:
        thread.join()
    fleet.wait_empty(90)
    leaving = fleet.workers.pop()
    leaving.stop()
    fleet.retired.append(leaving)
    # Nothing lower is started well after a higher one was accepted and well before that one starts.
    done = in_order_of_start(fleet, "Urgent")
    waiting_high = [run for run in done if run.priority == 9]
    slack = 0.5
    for run in done:
        if run.priority == 0:
            passed = [high for high in waiting_high if (run.started - high.received).total_seconds() > slack
                      and (high.started - run.started).total_seconds() > slack]
            assert not passed, f"{run.id} was started while {passed[0].id} waited"
