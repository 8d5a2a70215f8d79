"""What is left in a queue that changes: delayed messages, messages without rows, producers that have not heard of it."""

import time

import pytest

from hiefleet import Fleet, Receiver, echo_item, item, production, wait_until
from hiefleet.guarantees import check_never_older
from test_direct_producers import enqueue, new_id
from test_reload import SOON, fifo, one_item, reload, wait_open

pytestmark = pytest.mark.sanitize

UNORDERED = {"queue_type": "unordered"}


def nothing_left(fleet):
    """Neither entries, nor what belongs to them."""
    client = fleet.redis.client
    wait_until(lambda: not any(fleet.backlog().values()), "Redis holds no entry", 60, 0.2)
    for key in client.scan_iter("hie:{*}:parked"):
        assert not client.hlen(key), client.hgetall(key)
    for key in client.scan_iter("hie:{*}:index"):
        left = [field for field in client.hkeys(key) if field != b":order"]
        assert not left, (key, left)


@pytest.mark.parametrize("after", [
    {"queue_type": "fifo", "partitions": 4},
    {"messaging_pattern": "concurrent_async", "queue_type": "priority"},
    {"messaging_pattern": "concurrent_async", **fifo(partitions=3)},
], ids=["partitions", "pattern", "both"])
def test_delayed_messages_run_once(after):
    """They are in one queue at a time, whichever it is when they are due."""
    with Fleet(one_item(delay=1500, **UNORDERED), workers=2) as fleet:
        late = [fleet.accept("In", b"later", {"X-Delay": "14000", "X-Ordering-Key": f"k{number}"}) for number in range(12)]
        reload(fleet, one_item(delay=1500, **after))
        wait_open(fleet, SOON)
        for _ in range(20):  # a full round of the reconciler
            assert fleet.backlog()["delayed"] <= len(late)
            time.sleep(0.5)
        for id_ in late:
            fleet.wait_completed(id_)
        fleet.wait_empty()
        fleet.check_settled(completed=len(late))
        assert fleet.scalar("select max(attempts) from hie.messages") == 1
        nothing_left(fleet)


def test_messages_without_rows_are_finished():
    """They were accepted while the item had no WAL, two versions before its pattern changes."""
    def config(mode, **over):
        return production(echo_item("In", persistence={"mode": mode}, **UNORDERED, **over), echo_item("Other"))

    with Fleet(config("none"), workers=0) as fleet:
        for number in range(40):
            assert fleet.post("In", b"%d" % number).status == 202
        reload(fleet, config("wal_and_store"))
        reload(fleet, config("wal_and_store", messaging_pattern="concurrent_async"))
        time.sleep(3)
        assert fleet.item("In")["queue"] == "closing"
        assert fleet.item("In")["depth"] == 40
        fleet.start_worker()
        wait_open(fleet)
        nothing_left(fleet)


@pytest.mark.parametrize("before, after", [("store_only", "wal_and_store"), ("none", "wal_only"), ("wal_and_store", "store_only")])
def test_the_wal_of_a_fifo_item(before, after):
    """Its order is the rows' or the stream's, so the one is finished before the other begins."""
    receiver = Receiver()

    def config(mode):
        return production(item("In", "HTTPSender", {"url": receiver.url}, persistence={"mode": mode},
                               **fifo(partitions=2)),
                          echo_item("Other"))

    def send(number):
        headers = {"X-Ordering-Key": f"k{number % 3}"}
        wait_until(lambda: fleet.post("In", b"k%d %d" % (number % 3, number), headers).status == 202, "accepted", 60)

    with Fleet(config(before), workers=0) as fleet:
        for number in range(60):
            send(number)
        reload(fleet, config(after))
        wait_until(lambda: fleet.item("In")["queue"] == "closing", "its queue changes", SOON)
        for number in range(60, 90) if after.startswith("wal") else ():
            send(number)
        fleet.start_worker()
        for number in range(90, 120):
            send(number)
        wait_open(fleet)
        wait_until(lambda: not any(fleet.backlog().values()), "Redis holds no entry", 60, 0.2)
        with receiver.lock:
            seen = [(key, int(number)) for key, number in (body.decode().split() for _, body in receiver.requests)]
        assert len(set(seen)) == (120 if after.startswith("wal") else 90)
        check_never_older(seen, before)
    receiver.close()


def test_delayed_messages_without_rows():
    """They hold up nothing, and are not left behind."""
    def config(**over):
        return production(echo_item("In", persistence={"mode": "store_only"}, **over), echo_item("Other"))

    with Fleet(config(**UNORDERED), workers=1) as fleet:
        far = fleet.accept("In", b"tomorrow", {"X-Delay": "80000000"})
        late = [fleet.accept("In", b"later", {"X-Delay": "9000"}) for _ in range(5)]
        reload(fleet, config(messaging_pattern="concurrent_async", queue_type="priority"))
        wait_open(fleet, SOON)
        for id_ in late:
            fleet.wait_completed(id_)
        assert fleet.redis.client.zcard("hie:{In}:delayed") == 1
        assert fleet.scalar("select count(*) from hie.messages where correlation_id = %s", far) == 0


def test_a_redriven_message_is_where_the_item_is_today():
    receiver = Receiver()

    def config(**over):
        return production(item("In", "HTTPSender", {"url": receiver.url, "timeout": 60000}, retry={"max_attempts": 1}, **UNORDERED, **over),
                          echo_item("Other"))

    with Fleet(config(), workers=1) as fleet:
        receiver.status = 400
        id_ = fleet.accept("In", b"dies once")
        assert fleet.wait_end(id_)["status"] == "dead_lettered"
        reload(fleet, config(messaging_pattern="concurrent_async"))
        wait_open(fleet)
        receiver.status = 200
        receiver.free.clear()
        assert fleet.http.request("POST", "/v1/items/In/dead-letters/redrive").json() == {"redriven": 1}
        wait_until(lambda: fleet.message(id_)["status"] == "processing", "it runs", SOON)
        receiver.release()
        fleet.wait_completed(id_)
    receiver.close()


def test_a_producer_that_has_not_heard_of_it():
    with Fleet(one_item(**UNORDERED), workers=1) as fleet:
        reload(fleet, one_item(messaging_pattern="concurrent_async", **UNORDERED))
        wait_open(fleet)
        id_ = new_id()
        enqueue(fleet, "In", (id_, b"to the stream of before"))
        fleet.redis.client.xadd("hie:{In}:async_reliable", {"body": b"by hand"})
        wait_until(lambda: fleet.scalar("select count(*) from hie.messages where state = 'completed'") == 2,
                   "both are done", SOON)
        fleet.wait_completed(id_)
        nothing_left(fleet)


def test_an_exported_version(tmp_path):
    """What it says of the queues is of no account when it is edited and published again."""
    with Fleet(one_item(**fifo(partitions=3)), workers=1) as fleet:
        text = bytes(fleet.scalar("select text from hie.productions where version = 1"))
        assert b"#hie-queue In" in text
        fleet.config_path.write_bytes(text)
        assert reload(fleet, changed=False)["version"] == 1
        fleet.config_path.write_bytes(text.replace(b"partitions: 3", b"partitions: 5"))
        reload(fleet)
        wait_until(lambda: fleet.scalar("select count(*) from hie.queue_changes") == 0, "it is through", SOON)
        wait_open(fleet)
        assert fleet.item("In")["partitions"] == 5
        assert "queue_closing" in fleet.dispatcher.text()
