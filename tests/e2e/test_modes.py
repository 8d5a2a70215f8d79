"""The three execution modes: the same flow in each, children that are killed with work in hand, a crash loop that shows, a worker that
drains or dies with children."""

import os
import pathlib
import re
import signal
import threading
import time

import pytest

from hiefleet import Fleet, Receiver, echo_item, file_item, hl7, item, production, router_item, wait_until

pytestmark = pytest.mark.sanitize

MODES = ("async", "thread_pool", "multi_process")


def children(worker, item_id=None):
    """The pids of a worker's child processes, by what ps shows of them."""
    wanted = b"hie-worker: item" + (b" " + item_id.encode() if item_id else b"")
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            title = (entry / "cmdline").read_bytes()
            parent = (entry / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == worker.pid and (title.startswith(wanted + b"\0") if item_id else title.startswith(wanted)):
            found.append(int(entry.name))
    return sorted(found)


def alive(pid):
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def metric(worker, name, item_id):
    text = worker.http.get("/metrics").body.decode()
    found = re.search(rf'^{name}\{{[^}}]*item="{item_id}"[^}}]*\}} (\d+)', text, re.M)
    return int(found.group(1)) if found else 0


@pytest.fixture(scope="module")
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module", params=MODES)
def mode_fleet(request, receiver):
    """Every class, all in one mode."""
    mode = {"execution_mode": request.param, "concurrency": 4}
    config = production(
        router_item("Router", [
            {"name": "all", "when": {"MSH-9.1": {"exists": True}}, "to": ["Archive", "Sender", "Echo"]},
        ], **mode),
        file_item("Archive", "out", **mode),
        item("Sender", "HTTPSender", {"url": receiver.url, "timeout": 5000}, **mode),
        echo_item("Echo", **mode),
        echo_item("Slow", delay=60000, timeout=300, retry={"max_attempts": 2, "backoff": 50, "max_backoff": 100}, **mode),
        echo_item("Picky", reject_matching="refuse", **mode),
    )
    with Fleet(config, workers=2) as fleet:
        fleet.mode = request.param
        yield fleet


def test_a_flow_through_every_class(mode_fleet, receiver):
    fleet = mode_fleet
    before = len(receiver.requests)
    ids = [fleet.accept("Router", hl7.adt()) for _ in range(50)]
    for id_ in ids:
        assert len(fleet.wait_completed(id_)["children"]) == 3
    assert len(fleet.files("out")) == 50
    sent = receiver.requests[before:]
    assert len(sent) == 50
    assert {headers.get("X-Call-Chain") for headers, _ in sent} == {"Router,Sender"}
    refused = fleet.accept("Picky", b"please refuse this")
    assert fleet.wait_end(refused)["status"] == "dead_lettered"
    with_children = sum(len(children(worker)) for worker in fleet.workers)
    assert bool(with_children) == (fleet.mode == "multi_process")


def test_a_large_body(mode_fleet):
    fleet = mode_fleet
    body = os.urandom(1 << 20) * 15
    id_ = fleet.accept("Echo", body)
    fleet.wait_completed(id_)
    assert fleet.http.get(f"/v1/messages/{id_}/reply").body == body


def test_a_timeout_ends_an_attempt(mode_fleet):
    fleet = mode_fleet
    status = fleet.wait_end(fleet.accept("Slow", b"x"))
    assert status["status"] == "dead_lettered" and status["attempts"] == 2
    assert "no end within 300 ms" in status["error"]


def test_what_ps_shows(mode_fleet):
    fleet = mode_fleet
    if fleet.mode != "multi_process":
        pytest.skip("no children in this mode")
    for worker in fleet.workers:
        for item_id in ("Router", "Archive", "Sender", "Echo"):
            pids = children(worker, item_id)
            assert 1 <= len(pids) <= 4, item_id
            assert metric(worker, "hie_children", item_id) == len(pids)
            for pid in pids:
                sockets = [os.readlink(entry) for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
                inodes = set(re.findall(r"socket:\[(\d+)\]", " ".join(sockets)))
                inet = pathlib.Path(f"/proc/{pid}/net/tcp").read_text(encoding="ascii")
                held = [line for line in inet.splitlines()[1:] if line.split()[9] in inodes]
                ports = {f"{port:04X}" for port in (fleet.redis.port, fleet.postgres.port)}
                assert not [line for line in held if line.split()[2].rpartition(":")[2] in ports], "it has a link"


@pytest.fixture
def processes():
    config = production(
        echo_item("Work", delay=30, execution_mode="multi_process", concurrency=4,
                  retry={"max_attempts": 50, "backoff": 50, "max_backoff": 200}),
        echo_item("Long", delay=60000, timeout=120000, execution_mode="multi_process", concurrency=2,
                  retry={"max_attempts": 8, "backoff": 50, "max_backoff": 100}),
        echo_item("Other", execution_mode="multi_process", concurrency=2),
        worker={"drain_timeout": 5000},
    )
    with Fleet(config, workers=2) as fleet:
        yield fleet


def test_killed_children_lose_and_double_nothing(processes):
    fleet = processes
    stop = threading.Event()
    killed = []

    def kill():
        while not stop.is_set():
            for worker in fleet.workers:
                for pid in children(worker, "Work")[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            time.sleep(0.15)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        ids = [fleet.accept("Work", b"%d" % number) for number in range(300)]
        wait_until(lambda: len(killed) >= 10, "some were killed", 60)
    finally:
        stop.set()
        killer.join()
    fleet.wait_empty(90)
    fleet.check_settled(completed=len(ids))
    logs = fleet.logs()
    assert logs.count("event=child_ended") >= 10 and "signal=9" in logs
    assert sum(metric(worker, "hie_child_restarts_total", "Work") for worker in fleet.workers) >= 5


def test_a_crash_loop_shows_and_is_over(processes):
    fleet = processes
    fleet.workers[1].stop()
    fleet.retired.append(fleet.workers.pop())
    worker = fleet.workers[0]
    id_ = fleet.accept("Long", b"kills its child each time")

    def kill():
        if metric(worker, "hie_in_flight", "Long"):
            for pid in children(worker, "Long"):
                os.kill(pid, signal.SIGKILL)
        ready = worker.http.get("/readyz")
        assert ready.status == 200, "others go on"
        checks = {check["name"]: check for check in ready.json()["checks"]}
        return "degraded" in checks.get("children:Long", {}).get("reason", "")

    wait_until(kill, "the crash loop shows", 30, 0.05)
    assert metric(worker, "hie_child_restarts_total", "Long") >= 2
    fleet.wait_completed(fleet.accept("Other", b"untouched"))
    wait_until(lambda: kill() and fleet.message(id_)["status"] == "dead_lettered", "a poison message ends", 120, 0.05)
    status = fleet.message(id_)
    assert status["attempts"] == 8 and "its process ended by signal 9" in status["error"]


def test_drain_with_children(processes):
    fleet = processes
    leaving = fleet.workers[0]
    ids = [fleet.accept("Work", b"%d" % number) for number in range(100)]
    wait_until(lambda: metric(leaving, "hie_in_flight", "Work"), "it has work in hand", interval=0.01)
    pids = children(leaving)
    assert pids
    os.killpg(leaving.pid, signal.SIGTERM)  # as a terminal or an engine does it: children get it too
    assert leaving.wait(20) == 0
    assert not [pid for pid in pids if alive(pid)]
    for id_ in ids:
        assert fleet.wait_completed(id_)["attempts"] == 1, "nothing was cut off"
    assert fleet.scalar("select count(*) from hie.audit where event = 'taken_over'") == 0


def test_children_die_with_their_worker(processes):
    fleet = processes
    killed = fleet.workers[0]
    ids = [fleet.accept("Work", b"%d" % number) for number in range(40)]
    wait_until(lambda: metric(killed, "hie_in_flight", "Work"), "it has work in hand", interval=0.01)
    pids = children(killed)
    assert pids
    os.kill(killed.pid, signal.SIGKILL)  # it alone, not its group
    killed.killed = True
    killed.popen.wait(10)
    wait_until(lambda: not [pid for pid in pids if alive(pid)], "its children are gone", 5)
    for id_ in ids:
        fleet.wait_completed(id_, 60)
    fleet.check_settled(completed=len(ids))
