"""Receivers and folders that hang, fail, refuse or fill up: retries with backoff, then a dead letter with the reason;
and all goes on when they recover."""

import os
import subprocess
import time

import pytest

from hiefleet import (Fleet, Receiver, echo_item, file_item, free_port, hl7, item, production, router_item,
                      wait_until)

pytestmark = pytest.mark.sanitize

RETRY = {"max_attempts": 3, "backoff": 100, "max_backoff": 400}


@pytest.fixture(scope="module")
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def closed_port():
    return free_port()


@pytest.fixture(scope="module")
def fleet(receiver, closed_port):
    def sender(id_, url, **settings):
        return item(id_, "HTTPSender", {"url": url, "timeout": 500, **settings}, retry=RETRY)

    config = production(
        sender("Sender", receiver.url, headers={"X-Source": "hie"}),
        item("Patient", "HTTPSender", {"url": receiver.url, "timeout": 500},
             retry={"max_attempts": 50, "backoff": 100, "max_backoff": 300}),
        sender("Picky", receiver.url, retry_on=[418]),
        sender("Nowhere", f"http://127.0.0.1:{closed_port}/in"),
        file_item("Writer", "out", name="${MSH-10}.hl7", retry=RETRY),
        file_item("Blocked", "blocked/folder", retry={"max_attempts": 50, "backoff": 100, "max_backoff": 300}),
        router_item("Router", [{"name": "all", "when": {"MSH-9.1": {"exists": True}}, "to": ["Sender", "Writer"]}]),
        echo_item("Flaky", fail_attempts=2, retry=RETRY),
        echo_item("Broken", fail_attempts=3, retry=RETRY),
        echo_item("Strict", reject_matching="reject me", retry=RETRY),
    )
    with Fleet(config, workers=2) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def receiver_is_well(receiver):
    yield
    receiver.release()
    receiver.status = 200


def assert_dead(fleet, id_, attempts):
    """A dead letter everywhere where dead letters are, with a reason."""
    status = fleet.wait_end(id_)
    assert (status["status"], status["attempts"]) == ("dead_lettered", attempts), status
    assert status["error"]
    item_id = status["item"]
    rows = fleet.sql("select item, reason, attempts, at is not null from hie.dead_letters where correlation_id = %s", id_)
    assert rows == [(item_id, status["error"], attempts, True)]
    assert fleet.ends(id_) == ["dead_lettered"]
    retried = fleet.scalar("select count(*) from hie.audit where correlation_id = %s and event = 'retried'", id_)
    assert retried == attempts - 1
    key = f"hie:{{{item_id}}}:dead"
    wait_until(lambda: any(fields[b"cid"].decode() == id_ for _, fields in fleet.redis.client.xrange(key)),
               "the mirror in Redis has it")
    return status["error"]


def test_hanging_receiver(fleet, receiver):
    receiver.hang()
    body = hl7.oru()
    id_ = fleet.accept("Sender", body)
    assert_dead(fleet, id_, 3)
    tries = receiver.of(body)
    assert len(tries) == 3
    assert {headers["Idempotency-Key"] for headers in tries} == {id_}
    assert {headers["X-Source"] for headers in tries} == {"hie"}


def test_failing_receiver(fleet, receiver):
    receiver.status = 500
    body = hl7.oru()
    reason = assert_dead(fleet, fleet.accept("Sender", body), 3)
    assert "500" in reason
    assert len(receiver.of(body)) == 3


@pytest.mark.parametrize("status", [400, 404, 301, 418])
def test_refusing_receiver_is_not_asked_again(fleet, receiver, status):
    receiver.status = status
    body = hl7.oru()
    reason = assert_dead(fleet, fleet.accept("Sender", body), 1)
    assert str(status) in reason
    assert len(receiver.of(body)) == 1


def test_retry_on_decides(fleet, receiver):
    receiver.status = 418
    assert_dead(fleet, fleet.accept("Picky", hl7.oru()), 3)
    receiver.status = 503
    assert_dead(fleet, fleet.accept("Picky", hl7.oru()), 1)


def test_unreachable_receiver(fleet):
    assert_dead(fleet, fleet.accept("Nowhere", hl7.oru()), 3)


def test_receiver_that_recovers_gets_everything(fleet, receiver):
    receiver.status = 503
    bodies = [hl7.oru() for _ in range(30)]
    ids = [fleet.accept("Patient", body) for body in bodies]
    wait_until(lambda: fleet.message(ids[0])["status"] == "retrying", "the first is being retried")
    wait_until(lambda: fleet.backlog()["delayed"] > 0, "Redis holds delayed entries")
    assert fleet.message(ids[0])["error"]
    receiver.status = 200
    for id_ in ids:
        assert fleet.wait_completed(id_)["attempts"] > 1
        assert fleet.ends(id_) == ["completed"]
    assert set(bodies) <= set(receiver.bodies())


def test_failing_branch_does_not_hold_the_other(fleet, receiver):
    receiver.status = 500
    body = hl7.adt(control="BRANCH")
    parent = fleet.wait_end(fleet.accept("Router", body))
    assert parent["status"] == "completed" and len(parent["children"]) == 2
    states = {fleet.wait_end(child)["item"]: fleet.wait_end(child)["status"] for child in parent["children"]}
    assert states == {"Sender": "dead_lettered", "Writer": "completed"}
    assert (fleet.folder / "out/BRANCH.hl7").read_bytes() == body


def test_handler_that_fails_twice_completes_at_the_third(fleet):
    id_ = fleet.accept("Flaky", b"third time")
    assert fleet.wait_completed(id_)["attempts"] == 3
    assert fleet.http.get(f"/v1/messages/{id_}/reply").body == b"third time"


def test_handler_that_always_fails_and_one_that_refuses(fleet):
    assert_dead(fleet, fleet.accept("Broken", b"never"), 3)
    assert_dead(fleet, fleet.accept("Strict", b"please reject me"), 1)
    fleet.wait_completed(fleet.accept("Strict", b"please take me"))


def test_delay_postpones(fleet):
    begin = time.time()
    id_ = fleet.accept("Strict", b"later", {"X-Delay": "1500"})
    assert fleet.message(id_)["status"] == "accepted"
    status = fleet.wait_completed(id_)
    assert time.time() - begin >= 1.4
    assert status["attempts"] == 1


# ---- files ---------------------------------------------------------------------------------------------------


def test_file_name_cannot_leave_its_folder(fleet):
    for control in ("../../evil", "/tmp/evil", "..", ".", "a/b", "nul\0", "x" * 180, "-rf", "C:\\evil", "é" * 60):
        body = hl7.adt(control="PLACE").replace(b"|PLACE|", b"|" + control.encode() + b"|")
        id_ = fleet.accept("Writer", body)
        fleet.wait_completed(id_)
        reply = fleet.http.get(f"/v1/messages/{id_}/reply").body.decode()
        path = (fleet.folder / reply).resolve() if "/" in reply else (fleet.folder / "out" / reply).resolve()
        assert path.parent == (fleet.folder / "out").resolve(), reply
        assert path.read_bytes() == body
    assert not any(path.name.endswith("evil.hl7") for path in fleet.folder.iterdir())


def test_two_messages_of_one_name_are_both_kept(fleet):
    one, two = (hl7.adt(control="SAME", family=name) for name in ("FIRST", "SECOND"))
    for body in (one, two):
        fleet.wait_completed(fleet.accept("Writer", body))
    assert {one, two} <= set(fleet.files("out"))


def test_folder_that_cannot_be_made_is_retried(fleet):
    blocker = fleet.folder / "blocked"
    blocker.write_text("a file where a folder is wanted")
    id_ = fleet.accept("Blocked", hl7.adt())
    wait_until(lambda: fleet.message(id_)["status"] == "retrying", "it is being retried")
    blocker.unlink()
    fleet.wait_completed(id_)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_full_disk_is_retried_until_there_is_room(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode != 0:
        pytest.skip("no mounting here")
    try:
        config = production(file_item("Writer", disk, name="${correlation_id}.hl7",
                                      retry={"max_attempts": 100, "backoff": 100, "max_backoff": 300}))
        with Fleet(config, workers=1) as fleet:
            body = hl7.adt(extra=[["OBX", "1", "ED", "PDF", "", "J" * 600000]])
            first = fleet.accept("Writer", body)
            fleet.wait_completed(first)
            second = fleet.accept("Writer", body)
            wait_until(lambda: fleet.message(second)["status"] == "retrying", "the second does not fit")
            assert [path.name for path in disk.iterdir()] == [f"{first}.hl7"], "no half file is left"
            (disk / f"{first}.hl7").unlink()
            fleet.wait_completed(second)
            assert (disk / f"{second}.hl7").read_bytes() == body
    finally:
        subprocess.run(["umount", disk], check=False)
