"""What is sent twice makes one message: Idempotency-Key over HTTP, the duplicate window over MLLP; at once, on two dispatchers, after
restarts. And queue_size, which two dispatchers share to the message."""

import concurrent.futures
import threading
import time
import uuid

import pytest

from hiefleet import Fleet, Mllp, Wire, echo_item, hl7, production, router_item, wait_until

TYPES = ("unordered", "fifo", "priority", "lifo")
MODES = ("wal_and_store", "wal_only", "store_only", "none")
SIZE = 200
ROUTE = [{"name": "all", "when": {"MSH-9.1": {"exists": True}}, "to": ["Async"]}]
LISTENERS = ("Router", "SyncRouter", "Open", "Slow")


@pytest.fixture(scope="module")
def fleet():
    sync = {"messaging_pattern": "sync_reliable"}
    config = production(
        echo_item("Async"),
        echo_item("Sync", **sync),
        echo_item("Slow", delay=700, **sync),
        echo_item("Picky", reject_matching="refuse", **sync),
        echo_item("Brief", idempotency_window=1500),
        echo_item("Unminded", idempotency_window=0),
        echo_item("Open"),
        *(echo_item(f"type-{type_}", queue_type=type_) for type_ in TYPES),
        *(echo_item(f"mode-{mode}", persistence={"mode": mode}, **sync) for mode in MODES),
        router_item("Router", ROUTE),
        router_item("SyncRouter", ROUTE, **sync),
        mllp=[{"item": name, **({"duplicate_window": 0} if name == "Open" else {})} for name in LISTENERS],
    )
    with Fleet(config, workers=2) as fleet:
        fleet.second = fleet.add_dispatcher()
        yield fleet


@pytest.fixture(autouse=True)
def whole_again(fleet):
    yield
    for worker in fleet.workers:
        worker.resume()
    if not fleet.dispatcher.alive:
        fleet.restart_dispatcher()
    fleet.wait_ready()


def new_key():
    return f"key {uuid.uuid4()}"


def keyed(fleet, item_id, key, body, dispatcher=None, **headers):
    http = dispatcher.http if dispatcher else fleet.http
    return http.request("POST", f"/v1/items/{item_id}/messages", body, {"Idempotency-Key": key, **headers})


def replayed(answer):
    return answer.headers["Idempotency-Replayed"] == "true"


def count_of(fleet, item_id, body):
    return fleet.scalar("select count(*) from hie.messages where item = %s and request = %s", item_id, body)


# ---- Idempotency-Key ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item_id", [f"type-{type_}" for type_ in TYPES])
def test_a_repeat_of_an_async_message(fleet, item_id):
    key, body = new_key(), item_id.encode()
    first = keyed(fleet, item_id, key, body)
    assert first.status == 202 and not replayed(first)
    at_once = keyed(fleet, item_id, key, body)
    fleet.wait_completed(first.id)
    later = keyed(fleet, item_id, key, body, fleet.second)
    for again in (at_once, later):
        assert (again.status, again.id) == (202, first.id) and replayed(again)
        assert again.json() == {"correlation_id": first.id, "status": "accepted"}
    assert count_of(fleet, item_id, body) == 1
    assert keyed(fleet, item_id, new_key(), body).id != first.id, "another key is another message"


@pytest.mark.parametrize("mode", MODES)
def test_a_repeat_of_a_sync_message(fleet, mode):
    key, item_id = new_key(), f"mode-{mode}"
    first = keyed(fleet, item_id, key, b"its reply")
    assert (first.status, first.body) == (200, b"its reply")
    again = keyed(fleet, item_id, key, b"its reply")
    assert again.id == first.id and replayed(again)
    assert (again.status, again.body) == (200, b"its reply"), "within reply_ttl the reply is there in every mode"
    assert fleet.scalar("select count(*) from hie.dedup_keys where correlation_id = %s", first.id) == 1


def test_a_repeat_waits_for_the_first_ones_end(fleet):
    key = new_key()
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(keyed, fleet, "Slow", key, b"slow", fleet.second if number % 2 else None) for number in range(6)]
        answers = [call.result() for call in calls]
    assert {(answer.status, answer.body, answer.id) for answer in answers} == {(200, b"slow", answers[0].id)}
    assert sum(not replayed(answer) for answer in answers) == 1
    assert count_of(fleet, "Slow", b"slow") == 1


def test_a_repeat_of_a_failure(fleet):
    key = new_key()
    first, again = (keyed(fleet, "Picky", key, b"please refuse") for _ in range(2))
    assert first.status == again.status == 502 and first.id == again.id and replayed(again)
    assert count_of(fleet, "Picky", b"please refuse") == 1


def test_another_body_is_422(fleet):
    key = new_key()
    first = keyed(fleet, "Async", key, b"one body")
    for body in (b"another body", b"one body ", b"one bod"):
        for dispatcher in (None, fleet.second):
            answer = keyed(fleet, "Async", key, body, dispatcher)
            assert answer.status == 422 and answer.headers.get_content_type() == "application/problem+json"
        assert count_of(fleet, "Async", body) == 0
    assert keyed(fleet, "Async", key, b"one body").id == first.id
    other_item = keyed(fleet, "Sync", key, b"another body")
    assert other_item.status == 200, "keys are the item's"


def test_the_window(fleet):
    key = new_key()
    first = keyed(fleet, "Brief", key, b"brief")
    assert keyed(fleet, "Brief", key, b"brief").id == first.id
    time.sleep(1.7)
    second = keyed(fleet, "Brief", key, b"brief, later")
    assert second.status == 202 and second.id != first.id and not replayed(second)
    assert len({keyed(fleet, "Unminded", key, b"x").id for _ in range(3)}) == 3


@pytest.mark.parametrize("key, status", [("k" * 255, 202), ("k" * 256, 400), ("", 400)])
@pytest.mark.parametrize("item_id", ["Async", "Unminded"])
def test_strange_keys(fleet, item_id, key, status):
    assert keyed(fleet, item_id, key, b"x").status == status


@pytest.mark.parametrize("body", [b"same", None], ids=["same-body", "other-bodies"])
def test_at_once_on_many_connections_of_two_dispatchers(fleet, body):
    """Each key by eight senders at the same moment: one message; with other bodies one wins and the others are told 422."""
    keys = [new_key() for _ in range(40)]
    senders = 8
    barrier = threading.Barrier(senders)
    answers = {key: [] for key in keys}
    faults = []

    def send(number):
        port = fleet.http_port if number % 2 else fleet.second.http.port
        try:
            with Wire(port) as wire:
                for key in keys:
                    barrier.wait(30)
                    text = body or b"body of %d" % number
                    answers[key].append(wire.exchange("Async", key.encode() + text, {"Idempotency-Key": key}))
        except Exception as error:
            faults.append(error)
            barrier.abort()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults[0]
    for key, replies in answers.items():
        taken = [reply for reply in replies if reply.status == 202]
        assert len({reply.id for reply in taken}) == 1, key
        assert len(taken) == (senders if body else 1)
        assert {reply.status for reply in replies} == ({202} if body else {202, 422})
        assert sum(b"idempotency-replayed" not in reply.head.lower() for reply in taken) == 1
    like = "key %same" if body else "key %body of %"
    rows = fleet.scalar("select count(*) from hie.messages where item = 'Async' and convert_from(request, 'UTF8') like %s", like)
    assert rows == len(keys)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_after_a_restart_of_the_dispatcher(fleet, how):
    """A caller whose dispatcher goes sends again with the same key: it gets the end of the first one."""
    key = new_key()
    wire = fleet.wire()
    wire.post("Slow", b"restart " + how.encode(), {"Idempotency-Key": key})
    wait_until(lambda: count_of(fleet, "Slow", b"restart " + how.encode()) == 1, "it is accepted", interval=0.01)
    done = keyed(fleet, "Sync", key, b"done before")
    assert done.status == 200
    getattr(fleet.dispatcher, how)()
    wire.close()
    other = keyed(fleet, "Slow", key, b"restart " + how.encode(), fleet.second)
    fleet.restart_dispatcher()
    again = keyed(fleet, "Slow", key, b"restart " + how.encode())
    assert (other.status, other.body) == (again.status, again.body) == (200, b"restart " + how.encode())
    assert other.id == again.id and replayed(other) and replayed(again)
    assert count_of(fleet, "Slow", b"restart " + how.encode()) == 1
    replay = keyed(fleet, "Sync", key, b"done before")
    assert (replay.status, replay.body, replay.id) == (200, b"done before", done.id) and replayed(replay)


def test_after_the_loss_of_redis(fleet):
    key = new_key()
    first = keyed(fleet, "Sync", key, b"still known")
    fleet.redis.client.flushall()
    again = keyed(fleet, "Sync", key, b"still known")
    assert (again.status, again.body, again.id) == (200, b"still known", first.id) and replayed(again)


def test_a_redrive_is_the_end_that_a_repeat_gets(fleet):
    key = new_key()
    first = keyed(fleet, "Picky", key, b"refuse for ever")
    assert first.status == 502
    fleet.http.request("POST", "/v1/items/Picky/dead-letters/redrive", b'{"ids": ["%s"]}' % first.id.encode())
    wait_until(lambda: len(fleet.ends(first.id)) == 2, "it ended again")
    again = keyed(fleet, "Picky", key, b"refuse for ever")
    assert again.status == 502 and again.id == first.id


# ---- MLLP --------------------------------------------------------------------------------------------------------------


def peers(fleet, item_id):
    """A connection to each dispatcher's listener of that item."""
    return [fleet.mllp(item_id), Mllp("127.0.0.1", fleet.second.mllp_ports[LISTENERS.index(item_id)])]


def control_count(fleet, message):
    return fleet.scalar("select count(*) from hie.messages where control_id = %s and parent_id is null",
                        hl7.Message(message)("MSH", 10))


@pytest.mark.parametrize("item_id", ["Router", "SyncRouter"])
def test_the_same_message_again(fleet, item_id):
    message = hl7.adt()
    first, second = peers(fleet, item_id)
    with first, second:
        ack = first.ack(message)
        assert ack.code == "AA"
        for peer in (first, second, first):
            again = peer.ack(message)
            assert (again.code, again.echoed) == ("AA", ack.echoed)
        assert control_count(fleet, message) == 1
        # Pipelined: both in one write.
        twice = hl7.adt()
        first.send(twice, twice, twice)
        assert [hl7.Message(first.receive()).code for _ in range(3)] == ["AA"] * 3
        assert control_count(fleet, twice) == 1
        # Another body, control id or sender is another message.
        control = hl7.Message(message)("MSH", 10)
        assert first.ack(hl7.adt(control=control, family="ANOTHER")).code == "AA"
        assert control_count(fleet, message) == 2
        assert first.ack(message.replace(b"HOSPITAL", b"CLINIC")).code == "AA"
        assert control_count(fleet, message) == 3
        # Without a control id nothing is a repeat.
        blank = message.replace(control.encode(), b"")
        before = fleet.scalar("select count(*) from hie.messages where item = %s", item_id)
        codes = {first.ack(blank).code for _ in range(2)}
        after = fleet.scalar("select count(*) from hie.messages where item = %s", item_id)
        assert codes == {"AE"} and after == before or codes == {"AA"} and after == before + 2


def test_a_repeat_of_a_sync_message_waits(fleet):
    message = hl7.adt()
    first, second = peers(fleet, "Slow")
    with first, second:
        first.send(message)
        second.send(message)
        assert first.receive() == second.receive() == message, "the reply as it is"
        assert second.exchange(message) == message
        assert control_count(fleet, message) == 1


def test_the_window_off(fleet):
    message = hl7.adt()
    first, second = peers(fleet, "Open")
    with first, second:
        for peer in (first, first, second):
            assert peer.ack(message).code == "AA"
    assert control_count(fleet, message) == 3


def test_a_repeat_after_a_restart(fleet):
    message = hl7.adt()
    with fleet.mllp("SyncRouter") as peer:
        assert peer.ack(message).code == "AA"
    fleet.dispatcher.kill()
    fleet.restart_dispatcher()
    with fleet.mllp("SyncRouter") as peer:
        assert peer.ack(message).code == "AA"
    assert control_count(fleet, message) == 1


def test_a_repeat_after_an_unknown_outcome(fleet):
    """The acknowledgement is lost with the connection: the sender sends again."""
    messages = [hl7.adt() for _ in range(40)]
    for message in messages:
        with fleet.mllp("Router") as peer:
            peer.send(message)
    with fleet.mllp("Router") as peer:
        peer.send(*messages)
        assert [hl7.Message(peer.receive()).code for _ in messages] == ["AA"] * 40
    wait_until(lambda: all(control_count(fleet, message) == 1 for message in messages), "each is there once")


# ---- queue_size with two dispatchers --------------------------------------------------------------------------------------


@pytest.fixture
def two_doors():
    config = production(
        *(echo_item(f"Small-{type_}", queue_type=type_, queue_size=SIZE, **({"partitions": 8} if type_ == "fifo" else {}))
          for type_ in TYPES),
        echo_item("Killed", queue_size=SIZE), mllp=["Small-unordered"])
    with Fleet(config, workers=1, start=False) as fleet:
        fleet.start_servers()
        fleet.dispatcher.start()  # and no worker yet
        fleet.wait_ready()
        fleet.second = fleet.add_dispatcher()
        yield fleet


def flood(ports, item_id, count):
    """The statuses and the ids of those that were accepted, from eight senders at once; None for a broken connection."""
    statuses, ids = [], []

    def send(number):
        try:
            with Wire(ports[number % len(ports)]) as wire:
                for at in range(count // 8):
                    reply = wire.exchange(item_id, b"x", {"X-Ordering-Key": f"{at}"})
                    statuses.append(reply.status)
                    if reply.status == 202:
                        ids.append(reply.id)
        except OSError:
            statuses.append(None)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses, ids


def test_two_dispatchers_share_queue_size_exactly(two_doors):
    fleet = two_doors
    ports = [fleet.http_port, fleet.second.http.port]
    for type_ in TYPES:
        statuses, ids = flood(ports, f"Small-{type_}", 2 * SIZE)
        assert statuses.count(202) == len(set(ids)) == SIZE, type_
        assert statuses.count(429) == SIZE
    for port in (next(iter(fleet.listeners.values())), fleet.second.mllp_ports[0]):
        with Mllp("127.0.0.1", port) as peer:
            assert peer.ack(hl7.adt()).code == "AR"
    assert fleet.scalar("select count(*) from hie.wal") == SIZE * len(TYPES)
    # One of them dies in the middle of a flood; what it had reserved and not used is free again after its slots' time.
    killer = threading.Timer(0.15, fleet.second.kill)
    killer.start()
    statuses, ids = flood(ports, "Killed", 8 * (SIZE // 10))
    killer.join()
    more, more_ids = flood(ports[:1], "Killed", SIZE)
    stored = fleet.scalar("select count(*) from hie.wal where item = 'Killed'")
    # Those of the dead one that were committed and never answered are stored too.
    assert len(ids) + len(more_ids) <= stored <= SIZE
    wait_until(lambda: fleet.post("Killed", b"x").status == 429 and not 0 < stored_room(fleet), "it is full to the last place", 30, 0.2)
    assert fleet.scalar("select count(*) from hie.wal where item = 'Killed'") == SIZE
    fleet.workers[0].start()
    fleet.wait_program_ready(fleet.workers[0])
    fleet.wait_empty()
    fleet.check_settled(completed=SIZE * (len(TYPES) + 1))


def stored_room(fleet):
    return SIZE - fleet.scalar("select count(*) from hie.wal where item = 'Killed'")
