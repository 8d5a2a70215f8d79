"""A full queue refuses at the door, exactly at its size, and takes messages again when there is room."""

import threading

import pytest

from hiefleet import Fleet, echo_item, hl7, production, router_item, wait_until

pytestmark = pytest.mark.sanitize

SIZE = 100


@pytest.fixture
def fleet():
    config = production(
        echo_item("Small", queue_size=SIZE),
        echo_item("Other"),
        router_item("Router", [{"name": "all", "when": {"MSH-9.1": {"exists": True}}, "to": ["Small"]}],
                    queue_size=SIZE),
        mllp=["Router"],
    )
    with Fleet(config, workers=1, start=False) as fleet:
        fleet.start_servers()
        fleet.dispatcher.start()  # and no worker yet
        fleet.wait_ready()
        yield fleet


def start_worker(fleet):
    fleet.workers[0].start()
    fleet.wait_ready()


def test_http_is_refused_exactly_at_the_size(fleet):
    statuses = [fleet.post("Small", b"x").status for _ in range(SIZE + 20)]
    assert statuses == [202] * SIZE + [429] * 20
    answer = fleet.post("Small", b"x")
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers.get_content_type() == "application/problem+json"
    assert fleet.scalar("select count(*) from hie.wal") == SIZE
    fleet.accept("Other", b"another item is not concerned")
    start_worker(fleet)
    fleet.wait_empty()
    wait_until(lambda: fleet.post("Small", b"x").status == 202, "there is room again")
    fleet.wait_empty()


def test_many_senders_at_once_do_not_pass_the_size(fleet):
    statuses = []

    def sender():
        for _ in range(50):
            statuses.append(fleet.post("Small", b"x").status)

    threads = [threading.Thread(target=sender) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 400
    assert statuses.count(202) == SIZE and statuses.count(429) == 300
    assert fleet.scalar("select count(*) from hie.messages") == SIZE


def test_mllp_is_refused_exactly_at_the_size(fleet):
    with fleet.mllp() as peer:
        peer.send(*(hl7.adt(control=f"Q{number}") for number in range(SIZE + 20)))
        acks = [hl7.Message(peer.receive()) for _ in range(SIZE + 20)]
    assert [ack.code for ack in acks] == ["AA"] * SIZE + ["AR"] * 20
    assert [ack.echoed for ack in acks] == [f"Q{number}" for number in range(SIZE + 20)]
    assert acks[-1].has("ERR")
    # Children always enter, also into a queue that is full.
    for _ in range(SIZE):
        fleet.accept("Small", b"x")
    start_worker(fleet)
    fleet.wait_empty()
    fleet.check_settled(completed=3 * SIZE)


def test_it_counts_what_is_left_after_restarts(fleet):
    for _ in range(SIZE - 10):
        fleet.accept("Small", b"x")
    fleet.dispatcher.kill()
    # The slot it may have reserved lapses after ten seconds.
    wait_until(lambda: not fleet.redis.client.exists("hie:{Small}:slots"), "nobody's slots count")
    fleet.restart_dispatcher()
    statuses = [fleet.post("Small", b"x").status for _ in range(30)]
    assert statuses == [202] * 10 + [429] * 20


def test_it_counts_while_redis_is_away(fleet):
    fleet.redis.stop()
    wait_until(lambda: fleet.http.get("/readyz").status == 503, "the dispatcher knows")
    statuses = [fleet.post("Small", b"x").status for _ in range(SIZE + 30)]
    assert statuses == [202] * SIZE + [429] * 30
    fleet.redis.start()
    start_worker(fleet)
    fleet.wait_empty()
    fleet.check_settled(completed=SIZE)


def test_rejections_are_counted(fleet):
    for _ in range(SIZE + 7):
        fleet.post("Small", b"x")
    text = fleet.http.get("/metrics").body.decode()
    lines = [line for line in text.splitlines()
             if line.startswith("hie_messages_rejected_total") and 'item="Small"' in line and 'reason="queue_full"' in line]
    assert len(lines) == 1 and lines[0].endswith(" 7"), lines
