"""The four messaging patterns over HTTP and MLLP: who waits, for what, how long, and what becomes of a caller when something
breaks meanwhile."""

import os
import resource
import time

import pytest

from hiefleet import Fleet, echo_item, hl7, production, router_item, wait_until

SYNC = ("sync_reliable", "concurrent_sync")
PATTERNS = ("async_reliable", "concurrent_async") + SYNC
CALLERS = 1200
ALL = [{"name": "all", "when": {"MSH-9.1": {"exists": True}}, "to": ["Echo-async_reliable"]}]


def items():
    for pattern in PATTERNS:
        yield echo_item(f"Echo-{pattern}", messaging_pattern=pattern)
        yield echo_item(f"Half-{pattern}", delay=500, concurrency=2048, messaging_pattern=pattern)
        yield router_item(f"Router-{pattern}", ALL, messaging_pattern=pattern)
    for pattern in SYNC:
        yield echo_item(f"Picky-{pattern}", reject_matching="refuse", messaging_pattern=pattern)
        yield echo_item(f"Late-{pattern}", delay=1500, messaging_pattern=pattern, blocking={"max_wait_time": 400})
    yield echo_item("Long", delay=2000, messaging_pattern="sync_reliable")
    yield echo_item("Unblocked", messaging_pattern="sync_reliable", blocking={"enabled": False})


@pytest.fixture(scope="module")
def fleet():
    listeners = [f"{name}-{pattern}" for name in ("Echo", "Router") for pattern in PATTERNS]
    listeners += [f"{name}-{pattern}" for name in ("Picky", "Late") for pattern in SYNC]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    with Fleet(production(*items(), mllp=listeners), workers=2) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def whole_again(fleet):
    """Each test ends with everything up, nobody waiting and nothing left over."""
    yield
    if not fleet.redis.alive:
        fleet.redis.start()
    for worker in fleet.workers:
        worker.resume()
    fleet.wait_ready()
    wait_until(lambda: waiting(fleet) == 0, "nobody waits")
    fleet.wait_empty()


def waiting(fleet):
    return fleet.metric(fleet.dispatcher, "hie_callers_waiting")


def wait_waiting(fleet, count):
    wait_until(lambda: waiting(fleet) == count, f"{count} callers wait", 60)


def send(fleet, item_id, body, **headers):
    return fleet.post(item_id, body, {name.replace("_", "-"): value for name, value in headers.items()})


# ---- HTTP ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
def test_http(fleet, pattern):
    answer = send(fleet, f"Echo-{pattern}", b"\x00any bytes\xff", Content_Type="x-made/up; a=b")
    if pattern in SYNC:
        assert (answer.status, answer.body) == (200, b"\x00any bytes\xff")
        assert answer.headers["Content-Type"] == "x-made/up; a=b"
        assert fleet.message(answer.id)["status"] == "completed", "its end was recorded before it was told"
    else:
        assert answer.status == 202 and answer.json() == {"correlation_id": answer.id, "status": "accepted"}
        fleet.wait_completed(answer.id)
    stored = fleet.http.get(f"/v1/messages/{answer.id}/reply")
    assert (stored.body, stored.headers["Content-Type"]) == (b"\x00any bytes\xff", "x-made/up; a=b")
    assert fleet.message(answer.id)["pattern"] == pattern


@pytest.mark.parametrize("pattern", SYNC)
def test_a_failing_handler_is_502(fleet, pattern):
    answer = fleet.post(f"Picky-{pattern}", b"please refuse")
    assert answer.status == 502 and answer.headers.get_content_type() == "application/problem+json"
    problem = answer.json()
    assert problem["correlation_id"] == answer.id and "refuse" not in problem["detail"]
    assert fleet.message(answer.id)["status"] == "dead_lettered"


@pytest.mark.parametrize("pattern", SYNC)
def test_504_and_the_id_resolves(fleet, pattern):
    item_id = f"Late-{pattern}"
    late = fleet.metric(fleet.dispatcher, "hie_callers_late_total", item_id)
    with fleet.wire() as wire:
        answer = wire.exchange(item_id, b"first")
        assert answer.status == 504 and answer.id
        # On the same connection the next caller gets his own, whatever becomes of the first one.
        reply = wire.exchange(item_id, b"second", {"Prefer": "respond-async"})
        assert reply.status == 202 and reply.id != answer.id
    assert fleet.metric(fleet.dispatcher, "hie_callers_late_total", item_id) == late + 1
    fleet.wait_completed(answer.id)
    assert fleet.http.get(f"/v1/messages/{answer.id}/reply").body == b"first"


PREFERENCES = [
    # item, Prefer, status, Preference-Applied
    ("Echo-async_reliable", "respond-async", 202, "respond-async"),
    ("Echo-async_reliable", "wait=10", 200, "wait=10"),
    ("Echo-concurrent_async", "wait=10", 200, "wait=10"),
    ("Long", "respond-async", 202, "respond-async"),
    ("Long", "wait=1", 504, None),
    ("Long", "respond-async, wait=1", 202, "respond-async, wait=1"),
    ("Long", "wait=0", 202, "wait=0"),
    ("Echo-sync_reliable", "respond-async, wait=10", 200, "respond-async, wait=10"),
    ("Echo-concurrent_sync", "respond-async", 202, "respond-async"),
    ("Echo-sync_reliable", "wait=nonsense", 200, None),
    ("Echo-sync_reliable", "wait=1000", 200, None),  # shortened to max_wait_time
    ("Unblocked", "wait=10", 200, "wait=10"),
    ("Unblocked", "handling=lenient", 202, None),
]


@pytest.mark.parametrize("item_id, prefer, status, applied", PREFERENCES)
def test_prefer(fleet, item_id, prefer, status, applied):
    answer = send(fleet, item_id, b"x", Prefer=prefer)
    assert answer.status == status
    assert status != 200 or answer.body == b"x"
    parts = {part.strip() for part in (answer.headers["Preference-Applied"] or "").split(",") if part}
    assert parts == {part.strip() for part in (applied or "").split(",") if part}
    fleet.wait_completed(answer.id)


def test_an_async_item_waited_for_in_vain_is_202(fleet):
    for worker in fleet.workers:
        worker.pause()
    answer = send(fleet, "Echo-async_reliable", b"x", Prefer="wait=1")
    assert answer.status == 202
    for worker in fleet.workers:
        worker.resume()
    fleet.wait_completed(answer.id)


def test_a_caller_that_hangs_up_frees_its_place(fleet):
    wires = [fleet.wire() for _ in range(20)]
    for number, wire in enumerate(wires):
        wire.post("Long", b"caller %d" % number)
    wait_waiting(fleet, 20)
    for wire in wires[:15]:
        wire.close()
    wait_waiting(fleet, 5)
    for number, wire in enumerate(wires[15:], 15):
        with wire:
            reply = wire.receive()
            assert (reply.status, reply.body) == (200, b"caller %d" % number)
    fleet.wait_empty()  # those of the gone ones have ended too
    counts = dict(fleet.sql("select state, count(*) from hie.messages where item = 'Long' and request like 'caller %%'"
                            " group by 1"))
    assert counts == {"completed": 20}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_more_than_a_thousand_callers_at_once(fleet, pattern):
    item_id = f"Half-{pattern}"
    for worker in fleet.workers:
        worker.pause()
    wires = [fleet.wire() for _ in range(CALLERS)]
    for number, wire in enumerate(wires):
        wire.post(item_id, b"%d" % number, {"Prefer": "wait=30"})
    wait_waiting(fleet, CALLERS)
    threads = len(os.listdir(f"/proc/{fleet.dispatcher.pid}/task"))
    assert threads < 20, "no caller has a thread"
    for worker in fleet.workers:
        worker.resume()
    for number, wire in enumerate(wires):
        with wire:
            reply = wire.receive()
            assert (reply.status, reply.body) == (200, b"%d" % number)


# ---- what breaks while callers wait ---------------------------------------------------------------------------


def answers_of(wires):
    for number, wire in enumerate(wires):
        with wire:
            reply = wire.receive()
            assert (reply.status, reply.body) == (200, b"caller %d" % number)


def callers(fleet, count):
    wires = [fleet.wire() for _ in range(count)]
    for number, wire in enumerate(wires):
        wire.post("Long", b"caller %d" % number)
    wait_waiting(fleet, count)
    stream = "hie:{Long}:sync_reliable"
    wait_until(lambda: fleet.redis.client.xlen(stream) == count, "their messages are in the queue", interval=0.01)
    return wires


def test_redis_restarts_while_callers_wait(fleet):
    wires = callers(fleet, 20)
    fleet.redis.stop()
    fleet.redis.start()
    answers_of(wires)


def test_redis_loses_everything_while_callers_wait(fleet):
    wires = callers(fleet, 20)
    fleet.redis.client.flushall()
    answers_of(wires)


def test_redis_is_away_when_the_handlers_end(fleet):
    wires = callers(fleet, 10)
    fleet.redis.stop()
    time.sleep(3)  # the handlers end meanwhile
    fleet.redis.start()
    answers_of(wires)


def test_missed_publications(fleet):
    """The dispatcher's ear is cut off, and it cannot listen again before all has been said."""
    found = fleet.metric(fleet.dispatcher, "hie_replies_found_total")
    wires = callers(fleet, 20)
    fleet.dispatcher.pause()
    try:
        fleet.redis.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        wait_until(lambda: fleet.scalar("select count(*) from hie.wal where item = 'Long'") == 0, "they ended")
    finally:
        fleet.dispatcher.resume()
    answers_of(wires)
    assert fleet.metric(fleet.dispatcher, "hie_replies_found_total") >= found + 20


def test_without_redis_nobody_waits(fleet):
    fleet.redis.stop()
    wait_until(lambda: fleet.http.get("/readyz").status == 503, "the dispatcher knows")
    before = fleet.scalar("select count(*) from hie.messages")
    for pattern in SYNC:
        begin = time.monotonic()
        answer = fleet.post(f"Echo-{pattern}", b"x")
        assert answer.status == 503 and int(answer.headers["Retry-After"]) > 0 and time.monotonic() - begin < 5
        with fleet.mllp(f"Echo-{pattern}") as peer:
            assert peer.ack(hl7.adt()).code == "AR"
    assert fleet.scalar("select count(*) from hie.messages") == before, "what is refused is not accepted"
    ids = [fleet.accept(f"Echo-{pattern}", b"x") for pattern in PATTERNS if pattern not in SYNC]
    ids.append(send(fleet, "Echo-sync_reliable", b"x", Prefer="respond-async").id)
    with fleet.mllp("Router-async_reliable") as peer:
        assert peer.ack(hl7.adt()).code == "AA"
    fleet.redis.start()
    for id_ in ids:
        if id_:
            fleet.wait_completed(id_)


# ---- MLLP ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
def test_mllp_original_mode(fleet, pattern):
    message = hl7.adt()
    with fleet.mllp(f"Echo-{pattern}") as peer:
        answer = peer.exchange(message)
        if pattern in SYNC:
            assert answer == message, "the reply as it is"
        else:
            assert hl7.Message(answer).code == "AA"
    with fleet.mllp(f"Router-{pattern}") as peer:
        messages = [hl7.adt() for _ in range(30)]
        peer.send(*messages)
        for message in messages:
            ack = hl7.Message(peer.receive())
            assert (ack.code, ack.echoed) == ("AA", hl7.Message(message)("MSH", 10)), "in the order of the frames"


@pytest.mark.parametrize("pattern", SYNC)
def test_mllp_failures(fleet, pattern):
    with fleet.mllp(f"Picky-{pattern}") as peer:
        ack = peer.ack(hl7.adt(family="refuse"))
        assert ack.code == "AE" and ack.has("ERR") and b"207" in ack.data and b"refuse" not in ack.data
        assert peer.exchange(hl7.adt())[:3] == b"MSH"
    with fleet.mllp(f"Late-{pattern}") as peer:
        first, second = hl7.adt(), hl7.adt()
        late = peer.ack(first)
        assert late.code == "AR" and b"207" in late.data
        assert late.echoed == hl7.Message(first)("MSH", 10)
        assert peer.ack(second).echoed == hl7.Message(second)("MSH", 10), "a late reply is nobody else's"
    control = hl7.Message(first)("MSH", 10)
    id_ = fleet.scalar("select correlation_id::text from hie.messages where control_id = %s", control)
    assert id_.encode() in late.data, "by which it is found later"
    fleet.wait_completed(id_)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("accept, application, codes", [("AL", "AL", ["CA", "AA"]), ("AL", "NE", ["CA"]), ("NE", "AL", ["AA"]),
                                                        ("SU", "SU", ["CA", "AA"]), ("ER", "ER", []), ("ER", "SU", ["AA"])])
def test_mllp_enhanced_mode(fleet, pattern, accept, application, codes):
    message = hl7.adt(accept=accept, application=application)
    last = hl7.adt(accept="AL", application="NE")
    with fleet.mllp(f"Router-{pattern}") as peer:
        peer.send(message)
        for code in codes:
            ack = hl7.Message(peer.receive())
            assert (ack.code, ack.echoed) == (code, hl7.Message(message)("MSH", 10))
        control = hl7.Message(message)("MSH", 10)
        wait_until(lambda: fleet.sql("select 1 from hie.messages where control_id = %s and state = 'completed'", control), "it ends")
        ack = peer.ack(last)
        assert (ack.code, ack.echoed) == ("CA", hl7.Message(last)("MSH", 10)), "and nothing before it"


def test_mllp_enhanced_mode_of_a_failure(fleet):
    with fleet.mllp("Picky-sync_reliable") as peer:
        peer.send(hl7.adt(accept="AL", application="ER", family="refuse"))
        assert [hl7.Message(peer.receive()).code for _ in range(2)] == ["CA", "AE"]


def test_mllp_callers_that_hang_up_free_their_places(fleet):
    peers = [fleet.mllp("Late-sync_reliable") for _ in range(10)]
    controls = []
    for peer in peers:
        message = hl7.adt()
        controls.append(hl7.Message(message)("MSH", 10))
        peer.send(message)
    wait_until(lambda: waiting(fleet) > 0, "somebody waits", interval=0.005)
    for peer in peers:
        peer.close()
    wait_waiting(fleet, 0)
    wait_until(lambda: fleet.scalar("select count(*) from hie.messages where state = 'completed' and control_id = any(%s)",
                                    controls) == 10, "their messages went on")
