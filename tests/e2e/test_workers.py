"""Workers and dispatchers that die, freeze or leave: their work is taken over, and nothing ends twice."""

import re
import signal
import threading
import time

import pytest

from hiefleet import END_EVENTS, Fleet, echo_item, file_item, free_port, hl7, production, router_item, wait_until

pytestmark = pytest.mark.sanitize


def running(item, worker):
    """How many messages of an item the worker itself says to have in hand."""
    text = worker.http.get("/metrics").body.decode()
    found = re.search(rf'^hie_in_flight\{{[^}}]*item="{item}"[^}}]*\}} (\d+)', text, re.M)
    return int(found.group(1)) if found else 0


def wait_holder(fleet, item):
    """The worker that runs a message of this item. (An entry that Redis counts as its may still be on the way to it.)"""
    return wait_until(lambda: next((worker for worker in fleet.workers if running(item, worker)), None),
                      "a worker runs it", interval=0.01)


@pytest.fixture
def slow_fleet():
    """Messages take a while, so that workers have some in hand."""
    config = production(
        echo_item("Slow", delay=1000, concurrency=8),
        echo_item("VerySlow", delay=60000, timeout=120000),
        router_item("Router", [{"name": "all", "when": {"MSH-9.1": {"exists": True}}, "to": ["Archive", "Slow"]}]),
        file_item("Archive", "out"),
        mllp=["Router"],
        worker={"drain_timeout": 5000},
    )
    with Fleet(config, workers=3) as fleet:
        yield fleet


def in_hand(fleet, item, worker):
    """How many entries of an item's stream a worker holds; its id has its pid in it."""
    consumers = fleet.redis.client.xinfo_consumers(f"hie:{{{item}}}:async_reliable", "workers")
    return sum(entry["pending"] for entry in consumers if f"-{worker.pid}-" in entry["name"].decode())


def test_killed_and_frozen_workers(slow_fleet):
    """One is killed with work in hand, one is frozen for longer than the takeover and comes back believing in its claims."""
    fleet = slow_fleet
    killed, frozen, _ = fleet.workers
    ids = [fleet.accept("Slow", b"%d" % number) for number in range(60)]
    ids += [fleet.accept("Router", hl7.adt()) for _ in range(20)]
    wait_until(lambda: in_hand(fleet, "Slow", killed) and in_hand(fleet, "Slow", frozen), "both have work in hand",
               interval=0.01)
    frozen.pause()
    killed.kill()
    fleet.wait_empty(90)
    frozen.resume()
    # It now settles what it had; the fleet must not have changed when it is through with that.
    wait_until(lambda: frozen.http.get("/healthz").status == 200, "the frozen one goes on")
    later = [fleet.accept("Slow", b"later") for _ in range(16)]
    fleet.wait_empty(60)
    total = 60 + 20 + 2 * 20 + 16
    fleet.check_settled(completed=total)
    assert len(fleet.files("out")) == 20
    taken = fleet.scalar("select count(*) from hie.audit where event = 'taken_over'")
    assert taken >= 2, "what was in hand was taken over, and that is on record"
    assert set(ids) | set(later) <= {row[0] for row in fleet.sql("select correlation_id::text from hie.messages")}


def test_drain_finishes_what_is_in_hand(slow_fleet):
    fleet = slow_fleet
    leaving = fleet.workers[0]
    ids = [fleet.accept("Slow", b"%d" % number) for number in range(40)]
    wait_until(lambda: running("Slow", leaving), "it has work in hand", interval=0.01)
    leaving.send(signal.SIGTERM)
    assert leaving.wait(20) == 0
    for id_ in ids:
        assert fleet.wait_completed(id_)["attempts"] == 1, "handing back is no attempt"
    taken = fleet.scalar("select count(*) from hie.audit where event = 'taken_over'")
    assert taken == 0, "nothing had to be taken over"
    assert in_hand(fleet, "Slow", leaving) == 0


def test_drain_gives_up_what_takes_too_long(slow_fleet):
    fleet = slow_fleet
    only = fleet.workers[0]
    for worker in fleet.workers[1:]:
        worker.stop()
        fleet.retired.append(worker)
    del fleet.workers[1:]
    id_ = fleet.accept("VerySlow", b"a minute of work")
    assert wait_holder(fleet, "VerySlow") is only
    begin = time.monotonic()
    assert only.stop(timeout=30) == 0
    assert time.monotonic() - begin < 20
    assert fleet.message(id_)["status"] in ("accepted", "retrying")
    assert fleet.scalar("select count(*) from hie.wal where correlation_id = %s", id_) == 1, "nothing is lost"


def test_second_sigterm_ends_at_once(slow_fleet):
    fleet = slow_fleet
    fleet.accept("VerySlow", b"x")
    holder = wait_holder(fleet, "VerySlow")
    holder.send(signal.SIGTERM)
    wait_until(lambda: "draining" in holder.text(), "it drains")
    assert holder.alive
    holder.send(signal.SIGTERM)
    assert holder.wait(3) == 111


def test_draining_worker_is_not_ready(slow_fleet):
    fleet = slow_fleet
    fleet.accept("VerySlow", b"x")
    holder = wait_holder(fleet, "VerySlow")
    holder.send(signal.SIGTERM)
    wait_until(lambda: holder.http.get("/readyz").status == 503, "it says that it is not ready", timeout=4)
    assert holder.http.get("/healthz").status == 200
    assert holder.wait(20) == 0


# ---- the dispatcher ------------------------------------------------------------------------------------------


@pytest.fixture
def fleet():
    config = production(
        echo_item(),
        router_item("Router", [{"name": "all", "when": {"MSH-9.1": {"exists": True}}, "to": ["Archive"]}]),
        file_item("Archive", "out"),
        mllp=["Router"],
    )
    with Fleet(config, workers=1) as fleet:
        yield fleet


def test_dispatcher_killed_between_wal_and_queue(fleet):
    """Accepted, not enqueued, and the dispatcher is gone for good: a worker's reconciler brings the messages in."""
    fleet.redis.pause()
    ids = [fleet.accept("Echo", b"%d" % number) for number in range(20)]
    fleet.dispatcher.kill()
    fleet.redis.resume()
    wait_until(lambda: fleet.scalar("select count(*) from hie.wal") == 0, "all end without a dispatcher", 60)
    states = fleet.sql("select state, count(*) from hie.messages where correlation_id = any(%s::uuid[]) group by 1", ids)
    assert states == [("completed", 20)]
    fleet.restart_dispatcher()
    assert [fleet.ends(id_) for id_ in ids] == [["completed"]] * 20


@pytest.mark.parametrize("how", ["kill", "drain"])
def test_dispatcher_leaves_under_load(fleet, how):
    """Every AA that arrived names a stored message; a drain cuts nothing off that it answered."""
    accepted, codes = [], set()
    stop = threading.Event()

    def sender():
        try:
            with fleet.mllp(timeout=10) as peer:
                while not stop.is_set():
                    controls = [hl7.control_id() for _ in range(20)]
                    peer.send(*(hl7.adt(control=control) for control in controls))
                    for control in controls:
                        ack = hl7.Message(peer.receive())
                        codes.add(ack.code)
                        assert ack.echoed == control
                        accepted.append(control)
        except OSError:
            pass  # its end is what this is about

    threads = [threading.Thread(target=sender) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(accepted) > 500, "the load runs")
    if how == "kill":
        fleet.dispatcher.kill()
    else:
        assert fleet.dispatcher.stop(timeout=20) == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert codes == {"AA"}
    fleet.restart_dispatcher()
    fleet.wait_empty(60)
    stored = {row[0] for row in fleet.sql("select control_id from hie.messages where item = 'Router'")}
    assert set(accepted) <= stored
    if how == "drain":
        # A message without an answer is the sender's to repeat, but nobody accepts what he is not going to answer.
        assert len(stored - set(accepted)) == 0
    twice = fleet.sql("select correlation_id from hie.audit where event = any(%s) group by 1 having count(*) > 1",
                      list(END_EVENTS))
    assert not twice


def test_two_dispatchers_share_the_work(fleet):
    second = fleet.make_dispatcher("dispatcher-2", port=free_port(), HIE_MLLP_LISTEN=f"127.0.0.1:{free_port()}")
    fleet.retired.append(second)
    second.start()
    fleet.wait_program_ready(second)
    answers = [second.http.request("POST", "/v1/items/Echo/messages", b"%d" % number) for number in range(20)]
    ids = [answer.id for answer in answers] + [fleet.accept("Echo", b"first") for _ in range(20)]
    assert all(answer.status == 202 for answer in answers)
    for id_ in ids:
        fleet.wait_completed(id_)
    assert second.http.get(f"/v1/messages/{ids[-1]}").json()["status"] == "completed"
