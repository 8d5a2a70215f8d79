"""Dead letters: the list, its mirror in Redis, redriving some or all with id and history kept, deleting; and messages that kill their
workers."""

import concurrent.futures
import time

import pytest

from hiefleet import Fleet, Receiver, echo_item, item, production, wait_until
from hiefleet.guarantees import runs

TYPES = ("unordered", "fifo", "priority", "lifo")
RETRY = {"max_attempts": 2, "backoff": 50, "max_backoff": 50}


@pytest.fixture(scope="module")
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(autouse=True)
def refuses_everything(receiver):
    receiver.judge = None
    receiver.status = 503
    yield


@pytest.fixture(scope="module")
def fleet(receiver):
    config = production(
        *(item(type_, "HTTPSender", {"url": receiver.url}, queue_type=type_, retry=RETRY) for type_ in TYPES),
        item("Listed", "HTTPSender", {"url": receiver.url}, retry={"max_attempts": 1}),
        item("Named", "HTTPSender", {"url": receiver.url}, retry={"max_attempts": 1}),
        item("Many", "HTTPSender", {"url": receiver.url}, retry={"max_attempts": 1}, concurrency=64),
        item("Sync", "HTTPSender", {"url": receiver.url}, retry={"max_attempts": 1}, messaging_pattern="sync_reliable"),
        echo_item("Echo"),
    )
    with Fleet(config, workers=2) as fleet:
        yield fleet


def dead(fleet, item_id, body=b"x", headers=None):
    id_ = fleet.post(item_id, body, headers).id
    assert fleet.wait_end(id_)["status"] == "dead_lettered"
    return id_


def listed(fleet, item_id, **query):
    text = "&".join(f"{name}={value}" for name, value in query.items())
    answer = fleet.http.get(f"/v1/items/{item_id}/dead-letters?{text}")
    assert answer.status == 200, answer.body
    return answer.json()


def ids_of(page):
    return [letter["correlation_id"] for letter in page["dead_letters"]]


def mirror(fleet, item_id):
    entries = fleet.redis.client.xrange(f"hie:{{{item_id}}}:dead")
    return {fields[b"cid"].decode(): fields for _, fields in entries}


def redrive(fleet, item_id, ids=None):
    body = b"" if ids is None else ('{"ids": [%s]}' % ", ".join(f'"{id_}"' for id_ in ids)).encode()
    answer = fleet.http.request("POST", f"/v1/items/{item_id}/dead-letters/redrive", body)
    assert answer.status == 200, answer.body
    return answer.json()["redriven"]


def delete(fleet, item_id, ids=None):
    body = b"" if ids is None else ('{"ids": [%s]}' % ", ".join(f'"{id_}"' for id_ in ids)).encode()
    answer = fleet.http.request("DELETE", f"/v1/items/{item_id}/dead-letters", body)
    assert answer.status == 200, answer.body
    return answer.json()["deleted"]


def history(fleet, id_):
    return fleet.sql("select event, run, attempt from hie.audit where correlation_id = %s order by at, run", id_)


# ---- list, mirror ------------------------------------------------------------------------------------------------


def test_list_and_paging(fleet):
    ids = [dead(fleet, "Listed", b"%d" % number) for number in range(25)]
    page = listed(fleet, "Listed")
    assert sorted(ids_of(page)) == sorted(ids) and "cursor" not in page
    letter = next(letter for letter in page["dead_letters"] if letter["correlation_id"] == ids[0])
    assert letter["reason"] == "receiver answered 503" and letter["attempts"] == 1 and letter["run"] == 1
    assert letter["pattern"] == "async_reliable" and letter["at"] >= letter["received_at"]
    seen, cursor = [], None
    for _ in range(10):
        page = listed(fleet, "Listed", limit=7, **({"cursor": cursor} if cursor else {}))
        assert len(page["dead_letters"]) <= 7
        seen += ids_of(page)
        cursor = page.get("cursor")
        if not cursor:
            break
    assert sorted(seen) == sorted(ids), "each page goes on where the one before ended"
    wait_until(lambda: fleet.item("Listed")["dead_letters"] == 25, "the item counts them")
    wait_until(lambda: fleet.metric(fleet.dispatcher, "hie_dead_letters", "Listed") == 25, "and the metric")
    for query in ("limit=0", "limit=513", "limit=x", "cursor=x"):
        assert fleet.http.get(f"/v1/items/Listed/dead-letters?{query}").status == 400
    assert fleet.http.get("/v1/items/Nobody/dead-letters").status == 404
    assert fleet.http.request("PUT", "/v1/items/Listed/dead-letters").status == 405
    assert listed(fleet, "Echo") == {"dead_letters": []}


def test_some_are_redriven_some_deleted(fleet, receiver):
    ids = [dead(fleet, "Named", b"%d" % number) for number in range(12)]
    stays = set(ids[8:])
    wait_until(lambda: set(mirror(fleet, "Named")) == set(ids), "the mirror has all of them")
    letter = mirror(fleet, "Named")[ids[3]]
    assert (letter[b"body"], letter[b"attempts"], letter[b"error"]) == (b"3", b"1", b"receiver answered 503")
    receiver.status = 200
    assert redrive(fleet, "Named", ids[:5]) == 5
    for id_ in ids[:5]:
        fleet.wait_completed(id_)
    assert delete(fleet, "Named", ids[5:8]) == 3
    assert set(ids_of(listed(fleet, "Named"))) == stays
    wait_until(lambda: set(mirror(fleet, "Named")) == stays, "the mirror follows")
    for id_ in ids[5:8]:
        assert [event for event, *_ in history(fleet, id_)] == ["accepted", "dead_lettered", "dismissed"]
        assert fleet.message(id_)["status"] == "dead_lettered", "it stays in the store"
    # What is done, unknown or another's is passed over.
    others = ids[:8] + ["01900000-0000-7000-8000-000000000000", fleet.accept("Echo", b"x")]
    assert redrive(fleet, "Named", others) == 0 and delete(fleet, "Named", others) == 0
    assert redrive(fleet, "Named", []) == 0
    assert set(ids_of(listed(fleet, "Named"))) == stays


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"ids": 1}', b'{"ids": ["x"]}', b'{"ids": [1]}', b'{"id": []}',
                                  b'{"ids": [%s]}' % b",".join([b'"01900000-0000-7000-8000-000000000000"'] * 513),
                                  b'{"ids": []}' + b" " * 70000])
@pytest.mark.parametrize("method, path", [("POST", "/redrive"), ("DELETE", "")])
def test_bodies_that_name_nothing(fleet, method, path, body):
    before = fleet.scalar("select count(*) from hie.dead_letters")
    assert fleet.http.request(method, f"/v1/items/Listed/dead-letters{path}", body).status == 400
    assert fleet.scalar("select count(*) from hie.dead_letters") == before


def test_all_are_redriven(fleet, receiver):
    """More than a batch of the store and of the queue."""
    receiver.status = 404
    with fleet.wire() as wire:
        ids = [wire.exchange("Many", b"%d" % number).id for number in range(1300)]
    fleet.wait_empty(60)
    assert fleet.scalar("select count(*) from hie.dead_letters where item = 'Many'") == 1300
    wait_until(lambda: len(mirror(fleet, "Many")) <= 1100, "the mirror is capped, about")
    receiver.status = 200
    assert redrive(fleet, "Many") == 1300
    fleet.wait_empty(60)
    states = fleet.sql("select state, run, attempts, count(*) from hie.messages where item = 'Many' group by 1, 2, 3")
    assert states == [("completed", 2, 1, 1300)]
    assert len(set(ids)) == 1300
    assert listed(fleet, "Many") == {"dead_letters": []} and not mirror(fleet, "Many")
    assert redrive(fleet, "Many") == 0


def test_redriven_twice_at_once(fleet, receiver):
    """Two calls for the same letters: each letter gets one new run."""
    ids = [dead(fleet, "Named", b"twice %d" % number) for number in range(30)]
    before = len(receiver.requests)
    receiver.status = 200
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        counts = list(pool.map(lambda _: redrive(fleet, "Named", ids), range(6)))
    assert sum(counts) == 30
    for id_ in ids:
        fleet.wait_completed(id_)
        assert [event for event, *_ in history(fleet, id_)].count("redriven") == 1
    assert len(receiver.requests) - before == 30


# ---- id and history --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", TYPES)
def test_redrive_keeps_id_and_history(fleet, receiver, type_):
    headers = {"X-Ordering-Key": f"key of {type_}", "X-Priority": "5", "Content-Type": "x-test/x"}
    body = f"history of {type_}".encode()
    id_ = dead(fleet, type_, body, headers)
    first = fleet.message(id_)
    assert first["attempts"] == 2
    assert redrive(fleet, type_, [id_]) == 1
    wait_until(lambda: len(fleet.ends(id_)) == 2, "it died again")
    assert fleet.message(id_)["attempts"] == 2, "attempts began anew"
    receiver.status = 200
    assert redrive(fleet, type_) >= 1
    status = fleet.wait_completed(id_)
    assert (status["correlation_id"], status["received_at"]) == (id_, first["received_at"])
    assert status["attempts"] == 1 and not status.get("error")
    assert history(fleet, id_) == [
        ("accepted", 1, None), ("retried", 1, 1), ("dead_lettered", 1, 2), ("redriven", 1, None),
        ("retried", 2, 1), ("dead_lettered", 2, 2), ("redriven", 2, None), ("completed", 3, 1)]
    requests = receiver.of(body)
    assert len(requests) == 5
    assert {headers["Idempotency-Key"] for headers in requests} == {id_}
    assert {headers["Content-Type"] for headers in requests} == {"x-test/x"}
    kept = fleet.sql("select ordering_key, priority from hie.messages where correlation_id = %s", id_)
    assert kept == [(headers["X-Ordering-Key"], 5)]


def test_fifo_goes_on_while_a_redriven_one_comes_back(fleet, receiver):
    receiver.judge = lambda headers, body, times: 404 if body == b"old" and times == 0 else 200
    headers = {"X-Ordering-Key": "line"}
    old = dead(fleet, "fifo", b"old", headers)
    later = [fleet.accept("fifo", b"later %d" % number, headers) for number in range(20)]
    assert redrive(fleet, "fifo", [old]) == 1
    for id_ in [old] + later:
        fleet.wait_completed(id_)
    done = [run for run in runs(fleet, "fifo") if run.id in later]
    assert all(after.started >= before.ended for before, after in zip(done, done[1:]))


def test_redriven_after_redis_lost_everything(fleet, receiver):
    ids = [dead(fleet, type_, b"lost mirror") for type_ in TYPES]
    fleet.redis.client.flushall()
    receiver.status = 200
    for type_, id_ in zip(TYPES, ids):
        assert redrive(fleet, type_, [id_]) == 1
        fleet.wait_completed(id_, 60)


def test_redriven_while_redis_is_away(fleet, receiver):
    """The row of its next run suffices: the reconciler brings it."""
    ids = [dead(fleet, type_, b"while away") for type_ in TYPES]
    receiver.status = 200
    fleet.redis.stop()
    wait_until(lambda: fleet.http.get("/readyz").status == 503, "the dispatcher knows")
    try:
        counts = [redrive(fleet, type_, [id_]) for type_, id_ in zip(TYPES, ids)]
    finally:
        fleet.redis.start()
    fleet.wait_ready()
    assert counts == [1] * len(TYPES)
    for id_ in ids:
        fleet.wait_completed(id_, 60)
        assert [event for event, *_ in history(fleet, id_)].count("redriven") == 1


def test_a_dead_letter_of_a_sync_caller(fleet, receiver):
    answer = fleet.post("Sync", b"sync")
    assert answer.status == 502 and answer.id in ids_of(listed(fleet, "Sync"))
    receiver.status = 200
    assert redrive(fleet, "Sync") == 1
    fleet.wait_completed(answer.id)
    assert fleet.http.get(f"/v1/messages/{answer.id}/reply").body == b"received"


# ---- poison ------------------------------------------------------------------------------------------------------------


def test_messages_that_kill_their_workers(receiver):
    """max_attempts is 1, four deaths are forgiven beyond it. In every queue type, and where nothing is kept. Those that stood behind one in
    its line are none."""
    over = {"delay": 60000, "timeout": 120000, "retry": {"max_attempts": 1}}
    poison = [echo_item(type_, queue_type=type_, **over) for type_ in TYPES]
    poison += [echo_item(f"none-{type_}", queue_type=type_, persistence={"mode": "none"}, **over) for type_ in TYPES]
    poison += [echo_item("processes", execution_mode="multi_process", **over)]
    with Fleet(production(*poison, echo_item("Others"), worker={"drain_timeout": 1000}), workers=1) as fleet:
        names = [entry["id"] for entry in poison]
        logged = {name: fleet.accept(name, b"poison") for name in names if "none" not in name}
        for name in names:
            if "none" in name:
                fleet.accept(name, b"poison")
        behind = [fleet.accept("fifo", b"behind it") for _ in range(20)]
        for _ in range(20):
            fleet.accept("none-fifo", b"behind it")
        left, deaths = set(names), 0
        end = time.monotonic() + 200

        def is_dead(name):
            return fleet.redis.client.xlen(f"hie:{{{name}}}:dead") > 0

        while left and time.monotonic() < end:
            worker = fleet.workers[0]
            wait_until(lambda: all(is_dead(name) or fleet.metric(worker, "hie_in_flight", name) for name in names),
                       "all run, or are given up", 40)
            left = {name for name in names if not is_dead(name)}
            if left:
                worker.kill()
                deaths += 1
                fleet.replace_worker(worker)
        assert not left, f"{left} after {deaths} deaths"
        assert 4 <= deaths <= 8
        for name, id_ in logged.items():
            status = fleet.wait_end(id_)
            assert status["status"] == "dead_lettered" and "death of their worker" in status["error"]
            assert fleet.ends(id_) == ["dead_lettered"]
            taken = fleet.scalar("select count(*) from hie.audit where correlation_id = %s and event = 'taken_over'", id_)
            assert taken == 5, name
        assert fleet.redis.client.xlen("hie:{fifo}:dead") == fleet.redis.client.xlen("hie:{none-fifo}:dead") == 1
        assert all(not fleet.ends(id_) for id_ in behind)
        taken = fleet.sql("select distinct correlation_id::text from hie.audit where event = 'taken_over' and item = 'fifo'")
        assert {row[0] for row in taken} <= {logged["fifo"], behind[0]}
        fleet.wait_completed(fleet.accept("Others", b"x"))
