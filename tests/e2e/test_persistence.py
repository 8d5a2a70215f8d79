"""What each persistence mode survives and leaves behind (the table of schemas/production.md), the flags, batches and ack_timeout."""

import threading
import time

import pytest

from hiefleet import Fleet, echo_item, hl7, production, wait_until

pytestmark = pytest.mark.sanitize

MODES = ("wal_and_store", "wal_only", "store_only", "none")
LOGGED = MODES[:2]
STORED = ("wal_and_store", "store_only")
# The same said by flags, nested and flat.
FLAGS = {
    "wal_and_store": {"persistence": {"mode": "none", "wal_enabled": True, "store_enabled": True}},
    "wal_only": {"store_enabled": False},
    "store_only": {"persistence": {"wal_enabled": False}},
    "none": {"persistence_mode": "none"},
}
QUEUES = ("unordered", "fifo", "priority", "lifo")


def name_of(mode, kind="Echo"):
    return f"{kind}-{mode}"


@pytest.fixture(scope="module")
def fleet():
    items = []
    for mode in MODES:
        kept = {"persistence": {"mode": mode}}
        items += [
            echo_item(name_of(mode), reject_matching="refuse", **kept),
            echo_item(name_of(mode, "Sync"), messaging_pattern="sync_reliable", reject_matching="refuse", **kept),
            echo_item(name_of(mode, "Flags"), **FLAGS[mode]),
            echo_item(name_of(mode, "Slow"), delay=1500, concurrency=32, retry={"max_attempts": 3, "backoff": 100}, **kept),
            echo_item(name_of(mode, "Small"), queue_size=20, **kept),
        ]
        items += [echo_item(f"{type_}-{mode}", queue_type=type_, **kept) for type_ in QUEUES]
    items += [
        echo_item("One", persistence={"batch_size": 1}),
        echo_item("Seven", persistence={"batch_size": 7, "batch_writes": True}),
        echo_item("Gathered", persistence={"batch_writes": True}),
        echo_item("Hasty", persistence={"ack_timeout": 500}),
    ]
    with Fleet(production(*items, mllp=["Hasty"]), workers=2) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def whole_again(fleet):
    yield
    fleet.dispatcher.resume()
    for server in (fleet.redis, fleet.postgres):
        server.resume()
        if not server.alive:
            server.start()
    for worker in list(fleet.workers):
        if worker.alive:
            worker.resume()
        else:
            fleet.replace_worker(worker)
    fleet.wait_ready()
    fleet.wait_empty(60)


def known(fleet, id_):
    return fleet.http.get(f"/v1/messages/{id_}").status == 200


def body_status(fleet, id_, which):
    return fleet.http.get(f"/v1/messages/{id_}/{which}").status


def rows(fleet, id_):
    return {table: fleet.scalar(f"select count(*) from hie.{table} where correlation_id = %s", id_)
            for table in ("accepted", "ended", "attempts")}


def pause_workers(fleet):
    for worker in fleet.workers:
        worker.pause()


def resume_workers(fleet):
    for worker in fleet.workers:
        worker.resume()


def queue_is_empty(fleet, item_id):
    return fleet.item(item_id)["depth"] == 0


# ---- what stays after a good end --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Echo", "Flags"])
@pytest.mark.parametrize("mode", MODES)
def test_what_stays_after_a_good_end(fleet, mode, kind):
    item_id = name_of(mode, kind)
    id_ = fleet.accept(item_id, b"its body")
    if mode == "none":
        wait_until(lambda: queue_is_empty(fleet, item_id), "it ended")
        assert not known(fleet, id_)
        assert rows(fleet, id_) == {"accepted": 0, "ended": 0, "attempts": 0}
        return
    wait_until(lambda: known(fleet, id_), "it is known")
    status = fleet.wait_end(id_)
    assert status["status"] == "completed" and status["item"] == item_id and status["finished_at"]
    assert fleet.ends(id_) == ["completed"]
    stays = 200 if mode in STORED else 404
    assert body_status(fleet, id_, "request") == body_status(fleet, id_, "reply") == stays
    if mode in STORED:
        assert fleet.http.get(f"/v1/messages/{id_}/request").body == b"its body"
        assert fleet.http.get(f"/v1/messages/{id_}/reply").body == b"its body"
    else:
        bodies = fleet.sql("select request, reply from hie.messages where correlation_id = %s", id_)
        assert bodies == [(None, None)]
        wait_until(lambda: rows(fleet, id_)["accepted"] == 0, "its row is gone from the log")


@pytest.mark.parametrize("mode", MODES)
def test_sync_in_each_mode(fleet, mode):
    item_id = name_of(mode, "Sync")
    answer = fleet.post(item_id, b"who waits", {"Content-Type": "text/plain"})
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b"who waits", "text/plain")
    answer = fleet.post(item_id, b"refuse")
    assert answer.status == 502


@pytest.mark.parametrize("mode", MODES)
def test_a_large_reply_in_each_mode(fleet, mode):
    """It does not stand in the publication: it is fetched."""
    body = b"large" * 30000
    answer = fleet.post(name_of(mode, "Sync"), body)
    assert (answer.status, len(answer.body), answer.body == body) == (200, len(body), True)


@pytest.mark.parametrize("mode", MODES)
def test_a_missed_publication_in_each_mode(fleet, mode):
    """The dispatcher cannot listen when all is said: it looks, and finds the reply where its mode keeps it."""
    pause_workers(fleet)
    with fleet.wire() as wire:
        wire.post(name_of(mode, "Sync"), b"missed")
        stream = f"hie:{{{name_of(mode, 'Sync')}}}:sync_reliable"
        wait_until(lambda: fleet.redis.client.xlen(stream) == 1, "its message is in the queue")
        fleet.dispatcher.pause()
        try:
            fleet.redis.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            resume_workers(fleet)
            wait_until(lambda: fleet.redis.client.xlen(stream) == 0, "it ended")
        finally:
            fleet.dispatcher.resume()
        reply = wire.receive()
        assert (reply.status, reply.body) == (200, b"missed")


@pytest.mark.parametrize("mode", MODES)
def test_dead_letters_in_each_mode(fleet, mode):
    item_id = name_of(mode)
    id_ = fleet.accept(item_id, b"please refuse", {"Content-Type": "text/plain"})
    mirror = f"hie:{{{item_id}}}:dead"
    letter = wait_until(lambda: fleet.redis.client.xrevrange(mirror, count=1), "it is in the mirror")[0][1]
    assert (letter[b"cid"].decode(), letter[b"body"]) == (id_, b"please refuse")
    listed = fleet.http.get(f"/v1/items/{item_id}/dead-letters").json()["dead_letters"]
    if mode == "none":
        assert not listed and not known(fleet, id_)
        return
    assert [entry["correlation_id"] for entry in listed] == [id_]
    assert fleet.wait_end(id_)["status"] == "dead_lettered"
    answer = fleet.http.get(f"/v1/messages/{id_}/request")
    assert (answer.status, answer.body) == (200, b"please refuse")


# ---- Redis ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", QUEUES)
def test_flushall_loses_what_is_documented(fleet, type_):
    pause_workers(fleet)
    ids = {mode: [fleet.accept(f"{type_}-{mode}", b"x") for _ in range(20)] for mode in MODES}
    fleet.redis.client.flushall()
    resume_workers(fleet)
    for mode in LOGGED:
        for id_ in ids[mode]:
            wait_until(lambda id_=id_: known(fleet, id_), "it is known")
            assert fleet.wait_end(id_, 60)["status"] == "completed"
    for mode in MODES:
        wait_until(lambda mode=mode: queue_is_empty(fleet, f"{type_}-{mode}"), "the queue is empty")
        found = fleet.scalar("select count(*) from hie.ended where item = %s and correlation_id = any(%s::uuid[])",
                             f"{type_}-{mode}", ids[mode])
        # One that a worker had claimed without the log goes its way; the others are gone with Redis.
        assert found == 20 if mode in LOGGED else found <= 20
    assert not any(known(fleet, id_) for id_ in ids["none"])
    lost = [id_ for id_ in ids["store_only"] if not known(fleet, id_)]
    assert lost, "store_only does not survive the loss of Redis"


def test_lost_messages_leave_their_places(fleet):
    """queue_size counts what there is: what Redis lost counts no more, what the log has does."""
    pause_workers(fleet)
    for mode in MODES:
        statuses = [fleet.post(name_of(mode, "Small"), b"x").status for _ in range(25)]
        assert statuses == [202] * 20 + [429] * 5
    fleet.redis.client.flushall()
    for mode in MODES:
        wanted = 429 if mode in LOGGED else 202  # once the loss was noticed
        wait_until(lambda mode=mode: fleet.post(name_of(mode, "Small"), b"x").status == wanted, f"{mode}: {wanted}")
    resume_workers(fleet)


def test_a_restart_of_redis_loses_nothing(fleet):
    pause_workers(fleet)
    ids = {mode: [fleet.accept(name_of(mode), b"x") for _ in range(20)] for mode in MODES}
    assert fleet.item(name_of("none"))["depth"] == 20
    fleet.redis.stop()
    fleet.redis.start()
    assert fleet.redis.client.xlen(f"hie:{{{name_of('none')}}}:async_reliable") == 20
    resume_workers(fleet)
    fleet.wait_ready()
    for mode in MODES[:3]:
        for id_ in ids[mode]:
            wait_until(lambda id_=id_: known(fleet, id_), "it is known")
            fleet.wait_completed(id_)
    wait_until(lambda: queue_is_empty(fleet, name_of("none")), "and those without a trace are through")


@pytest.mark.parametrize("mode", ["store_only", "none"])
def test_without_redis_unlogged_messages_are_refused(fleet, mode):
    fleet.redis.stop()
    wait_until(lambda: fleet.http.get("/readyz").status == 503, "the dispatcher knows")
    answer = fleet.post(name_of(mode), b"x")
    assert answer.status == 503 and int(answer.headers["Retry-After"]) > 0


# ---- PostgreSQL ---------------------------------------------------------------------------------------------------


def test_without_postgres(fleet):
    """none goes on as ever, store_only is accepted and ends later, the others are refused."""
    fleet.postgres.stop()
    wait_until(lambda: fleet.http.get("/readyz").status == 503, "the dispatcher knows")
    for mode in LOGGED:
        assert fleet.post(name_of(mode), b"x").status == 503
    for number in range(50):
        answer = fleet.post(name_of("none", "Sync"), b"%d" % number)
        assert (answer.status, answer.body) == (200, b"%d" % number)
    ids = [fleet.accept(name_of("store_only"), b"x") for _ in range(20)]
    accepted = [fleet.accept(name_of("none"), b"x") for _ in range(20)]
    stream = f"hie:{{{name_of('none')}}}:async_reliable"
    wait_until(lambda: fleet.redis.client.xlen(stream) == 0, "none is handled")
    assert len(set(accepted)) == 20
    fleet.postgres.start()
    fleet.wait_ready()
    for id_ in ids:
        wait_until(lambda id_=id_: known(fleet, id_), "it is known")
        fleet.wait_completed(id_)


@pytest.mark.parametrize("mode", MODES)
def test_a_large_body_goes_through_the_log_in_every_mode(fleet, mode):
    body = b"large" * 20000
    pause_workers(fleet)
    ids = [fleet.accept(name_of(mode), body) for _ in range(3)]
    fleet.redis.client.flushall()
    assert fleet.scalar("select count(*) from hie.wal where correlation_id = any(%s::uuid[])", ids) == 3
    resume_workers(fleet)
    for id_ in ids:
        fleet.wait_end(id_, 60)
        assert fleet.ends(id_) == ["completed"]
        if mode in STORED:
            assert fleet.http.get(f"/v1/messages/{id_}/reply").body == body
        else:
            assert body_status(fleet, id_, "request") == 404, "it leaves no more than its mode says"


# ---- workers ------------------------------------------------------------------------------------------------------


def test_a_killed_worker_loses_nothing_in_any_mode(fleet):
    ids = {mode: [fleet.accept(name_of(mode, "Slow"), b"x") for _ in range(20)] for mode in MODES}
    time.sleep(0.5)
    fleet.workers[0].kill()
    fleet.replace_worker(fleet.workers[0])
    for mode in MODES:
        wait_until(lambda mode=mode: queue_is_empty(fleet, name_of(mode, "Slow")), "all are through", 60)
    for mode in MODES[:3]:
        for id_ in ids[mode]:
            assert fleet.ends(id_) == ["completed"]
    assert fleet.redis.client.xlen(f"hie:{{{name_of('none', 'Slow')}}}:dead") == 0


def test_who_has_nothing_to_do_asks_little(fleet):
    """Of the workers' calls: a sweep of each queue a second, not a circle."""
    fleet.wait_empty()

    def calls():
        stats = fleet.redis.client.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("xreadgroup", "fcall"))

    before = calls()
    time.sleep(2)
    queues = len(fleet.config["items"])
    assert calls() - before < 2 * 2 * queues * 10


# ---- commits ------------------------------------------------------------------------------------------------------


def flood(fleet, item_id, senders, count):
    faults = []

    def send():
        try:
            with fleet.wire() as wire:
                for _ in range(count):
                    assert wire.exchange(item_id, b"x").status == 202
        except (OSError, AssertionError) as error:
            faults.append(error)

    threads = [threading.Thread(target=send) for _ in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults[0]


@pytest.mark.parametrize("item_id, most", [("One", 1), ("Seven", 7), ("Gathered", 100)])
def test_batches_are_no_larger_than_batch_size(fleet, item_id, most):
    """Rows of one commit have one transaction id."""
    flood(fleet, item_id, 24, 20)
    sizes = [row[0] for row in fleet.sql("select count(*) from hie.accepted where item = %s group by xmin::text", item_id)]
    assert sum(sizes) == 480
    assert max(sizes) <= most
    assert most == 1 or max(sizes) > 1, "under load messages share commits"


def test_batch_writes_gather(fleet):
    before = fleet.scalar("select count(*) from hie.accepted where item = 'Gathered'")
    flood(fleet, "Gathered", 32, 10)
    commits = fleet.scalar("select count(distinct xmin::text) from hie.accepted where item = 'Gathered'")
    assert fleet.scalar("select count(*) from hie.accepted where item = 'Gathered'") - before == 320
    assert commits < 400, "several messages share a commit"


def test_ack_timeout(fleet):
    """503 and AR with the id; what was committed after all ends as ever, once."""
    fleet.wait_completed(fleet.accept("Hasty", b"first"))
    fleet.postgres.pause()
    answer = fleet.post("Hasty", b"how long?")
    assert answer.status == 503 and answer.headers["Retry-After"]
    assert answer.json()["correlation_id"] == answer.id
    message = hl7.adt()
    with fleet.mllp("Hasty") as peer:
        ack = peer.ack(message)
        assert ack.code == "AR"
    fleet.postgres.resume()
    fleet.wait_ready()
    fleet.wait_empty()
    control = hl7.Message(message)("MSH", 10)
    found = fleet.sql("select correlation_id::text, state from hie.messages where correlation_id = %s or control_id = %s", answer.id,
                      control)
    for id_, state in found:
        assert state == "completed" and fleet.ends(id_) == ["completed"]
        assert id_ == answer.id or id_.encode() in ack.data
