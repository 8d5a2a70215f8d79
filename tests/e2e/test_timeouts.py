"""Time that runs out: of an attempt, of a message, of a caller; and calls that would wait for themselves."""

import json
import threading
import time

import pytest

from hiefleet import Fleet, Receiver, Wire, echo_item, hl7, item, production, wait_until

pytestmark = pytest.mark.sanitize

MODES = ("async", "thread_pool", "multi_process")
TYPES = ("unordered", "fifo", "priority", "lifo")
ENDLESS = {"max_attempts": 1000, "backoff": 150, "max_backoff": 150}


@pytest.fixture(scope="module")
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(autouse=True)
def takes_everything(receiver):
    yield
    receiver.judge = None
    receiver.release()


@pytest.fixture(scope="module")
def fleet(receiver):
    two = {"max_attempts": 2, "backoff": 50, "max_backoff": 50}
    url = {"url": receiver.url, "timeout": 60000}
    items = [
        echo_item("Late", delay=900, messaging_pattern="sync_reliable", blocking={"max_wait_time": 250}),
        echo_item("Late-fifo", delay=900, messaging_pattern="sync_reliable", queue_type="fifo", blocking={"max_wait_time": 250}),
        echo_item("Fast", messaging_pattern="sync_reliable"),
        item("Patient", "HTTPSender", url, timeout=400, retry={**two, "max_attempts": 5}),
        item("Stubborn", "HTTPSender", {"url": receiver.url, "retry_on": ["503"]}, retry=ENDLESS, messaging_pattern="sync_reliable"),
        item("Stubborn-fifo", "HTTPSender", {"url": receiver.url, "retry_on": ["503"]}, retry=ENDLESS, queue_type="fifo"),
    ]
    for mode in MODES:
        items.append(echo_item(f"Slow-{mode}", delay=60000, timeout=300, execution_mode=mode, retry=two))
        items.append(echo_item(f"Running-{mode}", delay=60000, timeout=60000, execution_mode=mode,
                               messaging_pattern="sync_reliable"))
    for type_ in TYPES:
        items.append(echo_item(f"Busy-{type_}", delay=1200, concurrency=1, queue_type=type_, messaging_pattern="sync_reliable"))
    with Fleet(production(*items, mllp=["Late", "Fast"]), workers=1) as fleet:
        yield fleet


def events(fleet, id_):
    return [row[0] for row in fleet.sql("select event from hie.audit where correlation_id = %s order by at", id_)]


# ---- an attempt's time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_an_attempt_takes_no_longer_than_its_timeout(fleet, mode):
    status = fleet.wait_end(fleet.accept(f"Slow-{mode}", b"x"))
    assert status["status"] == "dead_lettered" and status["attempts"] == 2
    assert "no end within 300 ms" in status["error"]
    assert events(fleet, status["correlation_id"]) == ["accepted", "retried", "dead_lettered"]


def test_a_timed_out_attempt_is_repeated(fleet, receiver):
    receiver.judge = lambda headers, body, times: time.sleep(0 if times else 3) or 200
    id_ = fleet.accept("Patient", b"slow at first")
    status = fleet.wait_completed(id_)
    assert status["attempts"] == 2
    requests = receiver.of(b"slow at first")
    assert len({headers["Idempotency-Key"] for headers in requests}) == 1 and len(requests) == 2
    time.sleep(0.1)
    assert events(fleet, id_) == ["accepted", "retried", "completed"], "what comes late from the first attempt ends nothing"


# ---- a message's time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", TYPES)
def test_expired_before_it_started(fleet, type_):
    item_id = f"Busy-{type_}"
    busy = fleet.accept(item_id, b"keeps the only slot", {"Prefer": "respond-async"})
    wait_until(lambda: fleet.message(busy)["status"] == "processing", "it runs", interval=0.01)
    async_id = fleet.accept(item_id, b"async", {"Prefer": "respond-async", "X-Timeout": "200"})
    with fleet.wire() as wire:
        answer = wire.exchange(item_id, b"sync", {"X-Timeout": "300"})
        assert answer.status == 504 and answer.id
    for id_ in (async_id, answer.id):
        status = fleet.wait_end(id_)
        assert status["status"] == "expired" and fleet.ends(id_) == ["expired"]
        assert not fleet.sql("select 1 from hie.ended where correlation_id = %s and attempt > 1", id_)
    fleet.wait_completed(busy)
    assert fleet.http.get(f"/v1/messages/{async_id}/reply").status == 404


@pytest.mark.parametrize("mode", MODES)
def test_cancelled_while_it_runs(fleet, mode):
    item_id = f"Running-{mode}"
    answer = fleet.post(item_id, b"x", {"X-Timeout": "500"})
    assert answer.status == 504
    status = fleet.wait_end(answer.id, 10)
    assert status["status"] == "expired" and "while it ran" in status["error"]
    wait_until(lambda: fleet.metric(fleet.workers[0], "hie_in_flight", item_id) == 0, "its slot is free")


@pytest.mark.parametrize("value", ["0", "-1", "86400001", "1.5", "soon", ""])
def test_a_timeout_out_of_range(fleet, value):
    assert fleet.post("Fast", b"x", {"X-Timeout": value}).status == 400


@pytest.mark.parametrize("item_id", ["Stubborn", "Stubborn-fifo"])
def test_retries_end_by_the_deadline(fleet, receiver, item_id):
    receiver.judge = lambda headers, body, times: 503
    begin = time.monotonic()
    answer = fleet.post(item_id, item_id.encode(), {"X-Timeout": "1200"})
    assert answer.status == (504 if item_id == "Stubborn" else 202)
    status = fleet.wait_end(answer.id)
    assert status["status"] == "expired" and 1 < status["attempts"] < 20
    assert time.monotonic() - begin < 20
    sent = len(receiver.of(item_id.encode()))
    assert sent == status["attempts"]
    receiver.judge = None
    fleet.wait_completed(fleet.accept("Stubborn-fifo", b"the next one of its key"))
    assert len(receiver.of(item_id.encode())) == sent, "nothing is sent any more"


def test_a_deadline_in_time_changes_nothing(fleet):
    answer = fleet.post("Fast", b"x", {"X-Timeout": "20000"})
    assert (answer.status, answer.body) == (200, b"x")


# ---- a caller's time ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item_id", ["Late", "Late-fifo"])
def test_late_results_are_recorded_and_delivered_to_nobody_else(fleet, item_id):
    answers = {}

    def call(number):
        with fleet.wire() as wire:
            late = wire.exchange(item_id, b"late %d" % number)
            # The same connection goes on, past the time at which the late reply comes.
            others = [wire.exchange("Fast", b"%d in between %d" % (number, at)) for at in range(150)]
            answers[number] = (late, others)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, (late, others) in answers.items():
        assert late.status == 504
        assert [(reply.status, reply.body) for reply in others] == [(200, b"%d in between %d" % (number, at)) for at in range(150)]
        fleet.wait_completed(late.id)
        assert fleet.http.get(f"/v1/messages/{late.id}/reply").body == b"late %d" % number


def test_late_replies_over_mllp(fleet):
    with fleet.mllp("Late") as late, fleet.mllp("Fast") as fast:
        messages = [hl7.adt() for _ in range(3)]
        late.send(*messages)
        for message in messages:
            ack = hl7.Message(late.receive())
            assert (ack.code, ack.echoed) == ("AR", hl7.Message(message)("MSH", 10))
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            message = hl7.adt()
            assert fast.exchange(message) == message
        another = hl7.adt()
        assert late.ack(another).echoed == hl7.Message(another)("MSH", 10)


# ---- calls that wait for themselves ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def circle(receiver):
    """A calls B, B calls A; Self calls itself; Blind does not look."""
    sync = {"messaging_pattern": "sync_reliable", "blocking": {"max_wait_time": 3000}, "timeout": 20000,
            "retry": {"max_attempts": 1}}

    def caller(fleet, id_, target, **over):
        url = f"http://127.0.0.1:{fleet.http_port}/v1/items/{target}/messages"
        return item(id_, "HTTPSender", {"url": url, "timeout": 10000, "retry_on": []}, **{**sync, **over})

    with Fleet(production(echo_item()), workers=2, start=False) as fleet:
        blind = {"blocking": {"max_wait_time": 1500, "deadlock_detection": False}}
        fleet.write(production(
            caller(fleet, "A", "B"), caller(fleet, "B", "A"), caller(fleet, "Self", "Self"),
            caller(fleet, "Blind", "Blind", concurrency=1, **blind),
            caller(fleet, "First", "Second"), caller(fleet, "Second", "Last"), echo_item("Last", **sync),
            caller(fleet, "Through", "Post"), caller(fleet, "Post", "Through", messaging_pattern="async_reliable",
                                                     blocking={"max_wait_time": 3000}),
        ))
        fleet.start()
        yield fleet


def test_a_chain_without_a_circle(circle):
    answer = circle.post("First", b"through three items")
    assert (answer.status, answer.body) == (200, b"through three items")


@pytest.mark.parametrize("item_id, ends", [("A", ["A", "B"]), ("Self", ["Self"])])
def test_a_circle_is_refused(circle, item_id, ends):
    """At once, not by a time-out: the last of them is told 508, the others that the one behind them failed."""
    answer = circle.post(item_id, b"round and round")
    assert answer.status == 502
    # The last one's reason is the 508.
    reasons = dict(circle.sql("select item, error from hie.messages where item = any(%s)", ends))
    assert set(reasons) == set(ends)
    assert "508" in reasons[ends[-1]] and all("502" in reasons[name] for name in ends[:-1])
    assert circle.scalar("select count(*) from hie.messages where item = any(%s)", ends) == len(ends)
    assert circle.metric(circle.dispatcher, "hie_messages_rejected_total", ends[0], reason="deadlock") >= 1


def test_the_problem_names_the_chain(circle):
    with Wire(circle.http_port) as wire:
        reply = wire.exchange("A", b"x", {"X-Call-Chain": "A, B"})
        assert reply.status == 508
        answer = circle.post("A", b"x", {"X-Call-Chain": "A,B"})
        problem = answer.json()
        assert answer.status == problem["status"] == 508 and problem["chain"] == ["A", "B", "A"]
        assert answer.headers.get_content_type() == "application/problem+json"
        # Who does not wait cannot wait for himself.
        assert wire.exchange("Last", b"x", {"X-Call-Chain": "Last", "Prefer": "respond-async"}).status == 202
        assert wire.exchange("Last", b"x", {"X-Call-Chain": "First,Second"}).status == 200
        assert wire.exchange("Last", b"x", {"X-Call-Chain": "L,a,s,t," * 200}).status == 400


def test_an_async_link_breaks_the_wait(circle):
    """Through is answered once Post has accepted. Post then would wait for Through, which is on its chain: it is refused."""
    answer = circle.post("Through", b"x")
    assert answer.status == 200 and b"accepted" in answer.body
    status = circle.wait_end(json.loads(answer.body)["correlation_id"])
    assert status["status"] == "dead_lettered" and "508" in status["error"]


def test_without_detection_the_wait_ends_it(circle):
    """The last test of this fleet: each message that is told 504 was followed by one that goes round again."""
    answer = circle.post("Blind", b"x")
    assert answer.status in (502, 504)
    circle.wait_end(answer.id, 30)
