"""The production file is read anew while messages flow: what changes, what stays, and that nothing is lost, doubled or out of order."""

import collections
import re
import signal
import socket
import threading
import time

import pytest
import yaml

from hiefleet import Fleet, Mllp, echo_item, file_item, free_port, hl7, production, router_item, wait_until

pytestmark = pytest.mark.sanitize

SOON = 15  # seconds that a change may take at most when nothing holds it up; sanitized programs on a busy machine are slow


# ---- helpers -------------------------------------------------------------------------------------------------


def metric(program, name):
    text = program.http.get("/metrics").body.decode()
    found = re.search(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+-]+)$", text, re.M)
    return float(found.group(1)) if found else None


def programs(fleet):
    return [program for program in [fleet.dispatcher] + fleet.workers if program.alive]


def version_of(program):
    return int(metric(program, "hie_production_version"))


def wait_version(fleet, version, timeout=SOON):
    wait_until(lambda: all(version_of(program) >= version for program in programs(fleet)),
               f"all have version {version}", timeout)


def wait_open(fleet, timeout=60):
    """Until no item's queue is changing any more, as every process sees it."""
    wait_until(lambda: all(metric(program, "hie_queues_changing") == 0 for program in programs(fleet))
               and fleet.scalar("select count(*) from hie.queue_changes") == 0, "all queues are open", timeout)


def reload(fleet, config=None, **over):
    """Writes the file, reloads it over HTTP and gives the answer; insists on a new version."""
    if config is not None:
        fleet.write(config)
    answer = fleet.http.request("POST", "/v1/reload")
    assert answer.status == 200, (answer.status, answer.body)
    assert answer.json()["changed"] is over.get("changed", True), answer.json()
    return answer.json()


class Senders:
    """Threads that post to an item without a pause, each with keys of its own, in the order of each key."""

    def __init__(self, fleet, item="In", count=3, keys=4, pause=0.004, headers=None, accepted=(202,)):
        self.fleet, self.item, self.pause = fleet, item, pause
        self.headers, self.accepted = headers or {}, accepted
        self.ids, self.answers, self.faults = [], collections.Counter(), []
        self.lock = threading.Lock()
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(number, keys)) for number in range(count)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        for thread in self.threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self.threads), "a sender waits for ever"
        if self.faults:
            raise AssertionError(f"{len(self.faults)} faults: {self.faults[:5]}")

    def run(self, number, keys):
        sent = 0
        while not self.ending.is_set():
            key = f"k{number}.{sent % keys}"
            headers = {"X-Ordering-Key": key, "X-Priority": str(sent % 10), **self.headers}
            try:
                answer = self.fleet.post(self.item, b"%s %d" % (key.encode(), sent), headers)
            except OSError as error:
                with self.lock:
                    self.answers["gone"] += 1
                    if "gone" not in self.accepted:
                        self.faults.append(repr(error))
                time.sleep(0.1)
                continue
            with self.lock:
                self.answers[answer.status] += 1
                if answer.status in (200, 202):
                    self.ids.append(answer.id)
                if answer.status not in self.accepted:
                    self.faults.append((answer.status, answer.body[:200]))
            sent += 1
            time.sleep(self.pause)

    def some(self, count=50, timeout=60):
        """Waits until so many more were accepted."""
        wanted = len(self.ids) + count
        wait_until(lambda: len(self.ids) >= wanted or self.faults, f"{count} more accepted", timeout)


ROWS = """
    select a.item, a.ordering_key, a.seq, a.version, extract(epoch from e.started_at)::float8,
           extract(epoch from e.at)::float8
      from hie.accepted a join hie.ended e using (correlation_id)
     where a.item = %s order by a.seq"""


def check_all(fleet, *senders, dead_lettered=0):
    """Everything that was accepted has exactly one end, and nothing is left anywhere."""
    fleet.wait_empty(90)
    ids = [id_ for sender in senders for id_ in sender.ids]
    assert len(ids) == len(set(ids))
    known = {row[0] for row in fleet.sql("select correlation_id::text from hie.messages")}
    assert set(ids) <= known, f"{len(set(ids) - known)} acknowledged messages are lost"
    fleet.check_settled(completed=len(known) - dead_lettered, dead_lettered=dead_lettered)


def check_change(fleet, version, item="In"):
    """What was accepted before the change had ended before anything accepted after it began."""
    rows = fleet.sql(ROWS, item)
    old = [row for row in rows if row[3] < version]
    new = [row for row in rows if row[3] >= version]
    assert old and new, (len(old), len(new))
    last, first = max(row[5] for row in old), min(row[4] for row in new)
    assert last <= first + 0.002, f"the last old one ended {last - first:.3f} s after the first new one began"


def check_order(fleet, item="In", versions=None):
    """fifo: each key's messages began in the order of their acceptance, of those versions or of all."""
    before = {}
    for _, key, seq, version, began, _ in fleet.sql(ROWS, item):
        if versions and version not in versions:
            continue
        assert before.get(key, (0, 0))[0] <= began, f"{key}: {seq} began before {before[key][1]}"
        before[key] = (began, seq)
    assert before, "nothing was compared"


def fifo(**over):
    return {"queue_type": "fifo", "ordering_key": "PID-3.1", "partitions": 4, **over}


def one_item(**over):
    over = {"delay": 2, "concurrency": 8, **over}
    return production(echo_item("In", **over), echo_item("Other"))


@pytest.fixture
def fleet():
    with Fleet(one_item(), workers=2) as running:
        yield running


# ---- what a reload says --------------------------------------------------------------------------------------


def test_what_it_answers(fleet):
    """A new version, the same one, a bad file, no file; by HTTP and by signal."""
    pids = [program.pid for program in programs(fleet)]
    before = fleet.http.get("/v1/items").json()
    assert before["version"] == 1
    assert {entry["id"]: (entry["version"], entry["queue"]) for entry in before["items"]} == \
        {"In": (1, "open"), "Other": (1, "open")}
    assert reload(fleet, changed=False)["version"] == 1
    answer = reload(fleet, production(echo_item("In"), echo_item("Other", concurrency=3)))
    assert answer == {"version": 2, "changed": True}
    assert fleet.item("Other")["concurrency"] == 3 and fleet.item("Other")["version"] == 2
    wait_version(fleet, 2)

    good = fleet.config_path.read_text()
    fleet.config_path.write_text(good.replace("concurrency: 3", "concurrency: 0") + "nonsense: 1\n")
    answer = fleet.http.request("POST", "/v1/reload")
    assert answer.status == 422 and answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["version"] == 2 and problem["status"] == 422
    assert [entry["line"] > 0 for entry in problem["errors"]] == [True, True], problem
    assert "concurrency" in problem["errors"][0]["message"] and "nonsense" in problem["errors"][1]["message"]
    for program in programs(fleet):
        program.send(signal.SIGHUP)
        wait_until(lambda: "event=reload_refused" in program.text(), f"{program.name} refuses", SOON)

    fleet.config_path.rename(fleet.folder / "away")
    answer = fleet.http.request("POST", "/v1/reload")
    assert answer.status == 422 and "cannot be read" in answer.json()["errors"][0]["message"]
    assert answer.json()["errors"][0]["line"] == 0
    fleet.config_path.write_bytes(b"items: [\xff\xfe")
    assert fleet.http.request("POST", "/v1/reload").status == 422
    fleet.config_path.write_bytes(b"#" * (4 << 20) + b"\n\n")
    assert fleet.http.request("POST", "/v1/reload").status == 422
    fleet.config_path.write_text("")
    assert fleet.http.request("POST", "/v1/reload").status == 422
    assert fleet.item("Other")["concurrency"] == 3
    assert fleet.http.request("GET", "/v1/reload").status == 405
    fleet.wait_completed(fleet.accept("Other", b"goes on"))

    fleet.config_path.write_text(good.replace("concurrency: 3", "concurrency: 5"))
    fleet.workers[0].send(signal.SIGHUP)  # any process publishes
    wait_version(fleet, 3)
    assert fleet.item("Other")["concurrency"] == 5
    fleet.config_path.write_text(good.replace("concurrency: 3", "concurrency: 7"))
    fleet.dispatcher.send(signal.SIGHUP)
    wait_version(fleet, 4)
    assert [program.pid for program in programs(fleet)] == pids
    by = dict(fleet.sql("select version, by like 'dispatcher-%%' from hie.productions where version > %s", 1))
    assert by == {2: True, 3: False, 4: True}


def test_settings_take_effect(fleet):
    """Of the next messages, in all workers."""
    def slowest(body):
        ids = [fleet.accept("In", body) for _ in range(12)]
        for id_ in ids:
            fleet.wait_completed(id_)
        return max(row[0] for row in fleet.sql(
            "select extract(epoch from e.at - e.started_at) from hie.ended e where correlation_id = any(%s::uuid[])", ids))

    assert slowest(b"before") < 0.5
    reload(fleet, one_item(delay=1000, concurrency=16))
    wait_version(fleet, 2)
    assert slowest(b"slow") >= 0.99
    rows = fleet.sql("select min(extract(epoch from at - started_at)), count(distinct worker) from hie.ended e"
                     " join hie.accepted a using (correlation_id) where a.version = 2")
    assert rows[0][0] >= 0.99 and rows[0][1] == 2, rows
    reload(fleet, one_item(delay=0, concurrency=1))
    wait_version(fleet, 3)
    assert slowest(b"fast again") < 0.5
    assert fleet.item("In")["settings"]["delay"] == 0


def test_routing_rules_and_new_items():
    """Rules and targets that were not there before; a listener follows its item."""
    rules = [{"name": "adt", "when": {"MSH-9.1": "ADT"}, "to": ["A"]}]
    first = production(router_item("Router", rules, default="A"), file_item("A", "a"), mllp=["Router"])
    second = production(router_item("Router", [dict(rules[0], to=["A", "B"])], default="A"), file_item("A", "a"),
                        file_item("B", "b"), mllp=["Router"])
    with Fleet(first, workers=2) as fleet:
        with fleet.mllp() as sender:
            assert sender.ack(hl7.adt()).code == "AA"
            assert fleet.post("B", hl7.adt()).status == 404
            reload(fleet, second)
            wait_version(fleet, 2)
            assert sender.ack(hl7.adt()).code == "AA"
            fleet.wait_completed(fleet.accept("B", hl7.adt()))
            fleet.wait_empty()
            assert (len(fleet.files("a")), len(fleet.files("b"))) == (2, 2)
            reload(fleet, first)
            wait_version(fleet, 3)
            assert sender.ack(hl7.adt()).code == "AA"
            fleet.wait_empty()
            assert fleet.post("B", hl7.adt()).status == 404
            wait_open(fleet)
            fleet.check_settled(completed=2 + 3 + 1 + 2)


def test_what_takes_a_restart(fleet):
    config = one_item()
    config["worker"]["drain_timeout"] = 7000
    config["production"]["name"] = "another"
    assert reload(fleet, config) == {"version": 2, "changed": True}
    config["redis"]["key_prefix"] = "other"
    answer = reload(fleet, config)
    assert answer["needs_restart"] == "redis.key_prefix", answer
    wait_until(lambda: "event=production_needs_restart" in fleet.workers[0].text(), "said in the log", SOON)
    fleet.wait_completed(fleet.accept("In", b"goes on"))


# ---- listeners ----------------------------------------------------------------------------------------------


def listener(port, item="In", **over):
    return {"listen": f"127.0.0.1:{port}", "item": item, **over}


def write_listeners(path, *listeners, http=None, worker=None, **over):
    """The file as it stands, with these listeners; Fleet.write chooses ports of its own."""
    config = one_item(**over)
    config["dispatcher"]["mllp"] = list(listeners)
    config["dispatcher"]["http"].update(http or {})
    config["worker"].update(worker or {})
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
        return True
    except ConnectionRefusedError:
        return False


def acknowledged(port):
    with Mllp("127.0.0.1", port) as sender:
        return sender.ack(hl7.adt()).code


def test_listeners_come_and_go(fleet):
    """An added one gets messages at once. A removed one gives the answers that it owes, and is no more."""
    one, two = free_port(), free_port()
    write_listeners(fleet.config_path, listener(one), listener(two, "Other"))
    assert "needs_restart" not in reload(fleet)
    assert acknowledged(one) == acknowledged(two) == "AA"
    write_listeners(fleet.config_path, listener(one), listener(two, "Other"), messaging_pattern="sync_reliable", delay=1500)
    reload(fleet)
    wait_version(fleet, 3)
    wait_open(fleet)
    busy, idle, stays = Mllp("127.0.0.1", one), Mllp("127.0.0.1", one), Mllp("127.0.0.1", two)
    sent = hl7.adt()
    busy.send(sent)
    wait_until(lambda: fleet.item("In")["depth"] == 1, "it is in hand", SOON, 0.02)
    write_listeners(fleet.config_path, listener(two, "Other"), messaging_pattern="sync_reliable", delay=1500)
    reload(fleet)
    assert not listens(one)
    assert idle.closed_by_peer() and not idle.buffer
    assert busy.receive() == sent  # what an Echo replies
    assert busy.closed_by_peer() and not busy.buffer
    assert stays.ack(hl7.adt()).code == "AA"
    write_listeners(fleet.config_path, listener(two, "Other"), listener(one, "Other"))
    reload(fleet)
    assert acknowledged(one) == "AA"
    fleet.wait_empty()
    fleet.check_settled(completed=5)


def test_an_open_connection_survives_changes(fleet):
    """Another item and another max_frame hold from its next message on."""
    port = free_port()
    write_listeners(fleet.config_path, listener(port))
    reload(fleet)
    with Mllp("127.0.0.1", port) as sender, Mllp("127.0.0.1", port) as half:
        assert sender.ack(hl7.adt()).code == "AA"
        message = hl7.adt()
        half.send_raw(b"\x0b" + message[:20])
        write_listeners(fleet.config_path, listener(port, "Other", max_frame=1024, duplicate_window=0))
        reload(fleet)
        assert sender.ack(hl7.adt()).code == "AA"
        half.send_raw(message[20:] + b"\x1c\r")
        assert hl7.Message(half.receive()).code == "AA"
        large = message + b"NTE|1||" + b"x" * 1500 + b"\r"
        sender.send(large)
        refused = hl7.Message(sender.receive())
        assert refused.code == "AR"
        assert sender.closed_by_peer()
        write_listeners(fleet.config_path, listener(port, "Other", max_frame=4096))
        reload(fleet)
        assert half.ack(large).code == "AA"
    fleet.wait_empty()
    assert dict(fleet.sql("select item, count(*) from hie.messages group by 1")) == {"In": 1, "Other": 3}


def test_the_http_listener_moves():
    """max_body changes for the next request; the address, with a request in hand that gets its answer."""
    with Fleet(one_item(delay=2000), workers=1, start=False) as fleet:
        before, after = fleet.http_port, free_port()
        write_listeners(fleet.config_path, http={"listen": f"127.0.0.1:{before}"}, delay=2000)
        fleet.dispatcher = fleet.make_dispatcher(HIE_HTTP_LISTEN="")
        fleet.start()
        write_listeners(fleet.config_path, http={"listen": f"127.0.0.1:{before}", "max_body": 2048}, delay=2000)
        reload(fleet)
        assert fleet.post("In", b"x" * 2049).status == 413
        id_, answers = fleet.accept("In", b"x" * 2048), []
        waiting = threading.Thread(target=lambda: answers.append(fleet.message(id_, wait=9000)))
        waiting.start()
        time.sleep(0.3)
        write_listeners(fleet.config_path, http={"listen": f"127.0.0.1:{after}"}, delay=2000)
        reload(fleet)
        assert listens(after) and not listens(before)
        waiting.join(30)
        assert answers[0]["status"] == "completed"
        fleet.http.close()
        fleet.http.port = fleet.dispatcher.http.port = after
        fleet.dispatcher.http.close()
        fleet.wait_completed(fleet.accept("In", b"x" * 2049))
        # The same port on other addresses: the old one gives way.
        write_listeners(fleet.config_path, http={"listen": f"0.0.0.0:{after}", "insecure": True}, delay=2000)
        reload(fleet)
        fleet.http.close()
        assert "insecure" in fleet.http.get("/readyz").body.decode()
        write_listeners(fleet.config_path, http={"listen": f"127.0.0.1:{after}"}, delay=2000)
        reload(fleet)
        fleet.http.close()
        assert "insecure" not in fleet.http.get("/readyz").body.decode()


def test_the_worker_listener_moves(fleet):
    """… and drain_timeout holds for the next drain."""
    before, after = free_port(), free_port()
    worker = fleet.add_worker(HIE_WORKER_LISTEN="")
    write_listeners(fleet.config_path, worker={"listen": f"127.0.0.1:{before}"})
    worker.http.port = before
    worker.start()
    fleet.wait_program_ready(worker)
    write_listeners(fleet.config_path, worker={"listen": f"127.0.0.1:{after}", "drain_timeout": 300}, delay=20000)
    worker.send(signal.SIGHUP)
    wait_until(lambda: listens(after), "it has moved", SOON)
    worker.http.close()
    worker.http.port = after
    wait_version(fleet, 2)
    assert not listens(before)
    ids = [fleet.accept("In", b"slow") for _ in range(8)]
    wait_until(lambda: fleet.item("In")["in_flight"] == 8, "in hand", SOON)
    began = time.monotonic()
    for program in fleet.workers:
        program.send(signal.SIGTERM)
    for program in fleet.workers:
        assert program.wait(30) == 0
    assert time.monotonic() - began < 10
    assert {fleet.message(id_)["status"] for id_ in ids}.isdisjoint({"completed"})


def test_an_address_that_is_taken(fleet):
    """It takes nothing down, is said once in the log and in /readyz, and is tried again until it is to be had."""
    free, port = free_port(), free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        write_listeners(fleet.config_path, listener(port), listener(free, "Other"))
        assert reload(fleet)["version"] == 2
        assert acknowledged(free) == "AA"
        ready = fleet.http.get("/readyz")
        assert ready.status == 200 and f"listen 127.0.0.1:{port}" in ready.body.decode(), ready.body
        write_listeners(fleet.config_path, listener(free, "Other"))
        reload(fleet)
        assert "listen 127" not in fleet.http.get("/readyz").body.decode()
        write_listeners(fleet.config_path, listener(port), listener(free, "Other"))
        reload(fleet)
        time.sleep(2)
        assert fleet.dispatcher.text().count("event=cannot_listen") == 2
        assert acknowledged(free) == "AA"
    wait_until(lambda: acknowledged_or_none(port) == "AA", "it is to be had", SOON)
    assert "listen 127" not in fleet.http.get("/readyz").body.decode()
    fleet.wait_empty()
    fleet.check_settled(completed=3)


def acknowledged_or_none(port):
    try:
        return acknowledged(port)
    except OSError:
        return None


def start_dispatcher(fleet, path, name="dispatcher-2", **env):
    dispatcher = fleet.make_dispatcher(name, port=free_port(), **env)
    dispatcher.command[2] = str(path)
    fleet.retired.append(dispatcher)
    dispatcher.start()
    fleet.wait_program_ready(dispatcher)
    return dispatcher


def test_a_reload_opens_the_listener_in_all(fleet):
    """Two dispatchers of one file, of which the second does not see the changed one yet."""
    ports = [free_port(), free_port()]
    late = fleet.folder / "late.yaml"
    late.write_text(fleet.config_path.read_text())
    start_dispatcher(fleet, late, NEW_LISTEN=f"127.0.0.1:{ports[1]}")
    write_listeners(fleet.config_path, {"listen": f"${{NEW_LISTEN:-127.0.0.1:{ports[0]}}}", "item": "In"})
    reload(fleet)
    assert acknowledged(ports[0]) == "AA"
    wait_until(lambda: acknowledged_or_none(ports[1]) == "AA", "the other listens, too", SOON)
    write_listeners(fleet.config_path)
    reload(fleet)
    assert not listens(ports[0])
    wait_until(lambda: not listens(ports[1]), "the other does not listen any more", SOON)


def test_two_dispatchers_with_a_file_each(fleet):
    """Neither gets the other's addresses, whoever reloads; each goes by its own file."""
    one, two, more, most = (free_port() for _ in range(4))
    own = fleet.folder / "own.yaml"
    write_listeners(own, listener(two, "Other"))
    write_listeners(fleet.config_path, listener(one))
    reload(fleet)
    second = start_dispatcher(fleet, own)
    assert listens(one) and listens(two)
    write_listeners(own, listener(two, "Other"), listener(more, "Other"), delay=3)
    second.send(signal.SIGHUP)  # the fleet's version is that of its file now
    wait_until(lambda: fleet.item("In")["settings"]["delay"] == 3, "in force", SOON)
    wait_until(lambda: listens(more), "its new one", SOON)
    assert listens(one) and listens(two)
    assert "event=section_kept section=dispatcher" in fleet.dispatcher.text()
    write_listeners(fleet.config_path, listener(one), listener(most))
    reload(fleet)
    wait_version(fleet, 4)
    time.sleep(1.5)
    assert all(listens(port) for port in (one, two, more, most))
    write_listeners(own, listener(two, "Other"), delay=4)
    second.send(signal.SIGHUP)
    wait_until(lambda: not listens(more), "what it dropped", SOON)
    wait_version(fleet, 5)
    assert all(listens(port) for port in (one, two, most))
    assert "event=cannot_listen" not in fleet.dispatcher.text() + second.text()


# ---- items that go -------------------------------------------------------------------------------------------


def test_a_removed_item_finishes_what_it_had():
    config = production(echo_item("Goes", delay=200, concurrency=2), echo_item("Stays"), mllp=["Goes"])
    config["dispatcher"]["mllp"].append({"item": "Stays"})
    with Fleet(config, workers=2) as fleet:
        ids = [fleet.accept("Goes", b"%d" % number) for number in range(40)]
        without = production(echo_item("Stays"), mllp=["Stays"])
        sender, other = fleet.mllp("Goes"), fleet.mllp("Stays")
        assert reload(fleet, without) == {"version": 2, "changed": True}
        assert fleet.post("Goes", b"late").status == 404
        assert fleet.http.get("/v1/items/Goes").status == 404
        assert sender.closed_by_peer() and not sender.buffer
        assert other.closed_by_peer()  # its listener has another address now
        assert fleet.mllp("Stays").ack(hl7.adt()).code == "AA"
        for id_ in ids:
            fleet.wait_completed(id_)
        wait_open(fleet)
        reload(fleet, config)  # and it is back
        assert fleet.mllp("Goes").ack(hl7.adt()).code == "AA"
        fleet.wait_empty()
        fleet.check_settled(completed=42)


def test_a_disabled_item_holds_up_no_other():
    """Nobody handles what it has, so its change waits; the others' do not, and it goes on when it is enabled."""
    config = production(echo_item("In", enabled=False, delay=1), echo_item("Other"))
    with Fleet(production(echo_item("In", delay=60000, timeout=90000, concurrency=1), echo_item("Other")), workers=1) as fleet:
        stuck = [fleet.accept("In", b"%d" % number) for number in range(3)]
        reload(fleet, config)
        wait_version(fleet, 2)
        fleet.workers[0].kill()  # what it had in hand
        fleet.replace_worker(fleet.workers[0])
        reload(fleet, production(echo_item("In", enabled=False, queue_type="lifo"), echo_item("Other", queue_type="priority")))
        fleet.wait_completed(fleet.accept("Other", b"1"), SOON)
        wait_until(lambda: fleet.item("Other")["queue"] == "open", "Other is open", SOON)
        assert fleet.item("In")["queue"] == "closing" and fleet.item("In")["depth"] == 3
        reload(fleet, production(echo_item("In", queue_type="lifo"), echo_item("Other", queue_type="priority")))
        # Its old queue has the settings of its last version: disabled, but finished for the sake of the new one.
        for id_ in stuck:
            fleet.wait_completed(id_, 60)
        wait_open(fleet)


# ---- queues that change --------------------------------------------------------------------------------------


TYPES = [
    {"queue_type": "unordered"},
    fifo(),
    {"queue_type": "priority"},
    {"queue_type": "lifo"},
    {"queue_type": "unordered"},
    fifo(partitions=7),
    {"queue_type": "lifo"},
    {"queue_type": "priority"},
    fifo(),
    {"queue_type": "unordered"},
    {"queue_type": "priority"},
    {"queue_type": "unordered"},
    {"queue_type": "lifo"},
    fifo(),
]


@pytest.mark.parametrize("part", [0, 1])
def test_each_queue_type_to_each(part):
    """While senders go on. What came before a change is finished before what came after it begins."""
    middle = len(TYPES) // 2
    types = TYPES[: middle + 1] if part == 0 else TYPES[middle:]
    with Fleet(one_item(**types[0]), workers=2) as fleet:
        with Senders(fleet) as senders:
            for number, type_ in enumerate(types[1:], 2):
                senders.some(30)
                assert reload(fleet, one_item(**type_))["version"] == number
                senders.some(30)
                wait_open(fleet)
            senders.some(30)
        check_all(fleet, senders)
        for number in range(2, len(types) + 1):
            check_change(fleet, number)
        ordered = [number for number, type_ in enumerate(types, 1) if type_["queue_type"] == "fifo"]
        for number in ordered:
            check_order(fleet, versions=[number])


def test_pattern_partitions_class_and_rule(fleet):
    """Order is held from one fifo queue to the next, too."""
    changes = [
        one_item(**fifo()),
        one_item(**fifo(partitions=9)),
        one_item(**fifo(partitions=2, messaging_pattern="concurrent_async")),
        production(file_item("In", "files", "${correlation_id}.hl7", concurrency=8,
                             **fifo(partitions=2, messaging_pattern="concurrent_async")), echo_item("Other")),
        one_item(**fifo(partitions=2, ordering_key="PID-5.1", messaging_pattern="concurrent_async")),
        one_item(messaging_pattern="async_reliable", **fifo(partitions=1, ordering_key="PID-5.1")),
    ]
    with Senders(fleet) as senders:
        for config in changes:
            senders.some(30)
            reload(fleet, config)
            senders.some(30)
            wait_open(fleet)
        senders.some(30)
    check_all(fleet, senders)
    for number in range(2, len(changes) + 2):
        check_change(fleet, number)
    check_order(fleet, versions=range(2, len(changes) + 2))
    assert len(fleet.files("files")) == fleet.scalar("select count(*) from hie.accepted where version = 5")


def test_sync_callers_get_their_answers():
    """They wait while the queue changes, and get the result, or what happened to their time."""
    sync = {"messaging_pattern": "sync_reliable", "blocking": {"max_wait_time": 20000}, "delay": 5}
    steps = [fifo(), {"messaging_pattern": "concurrent_sync"}, {"messaging_pattern": "async_reliable", "blocking": {}},
             {"queue_type": "priority"}]
    with Fleet(one_item(**sync), workers=2) as fleet:
        with Senders(fleet, count=6, accepted=(200, 202)) as senders:
            senders.some(60)
            for step in steps:
                reload(fleet, one_item(**{**sync, **step}))
                senders.some(30)
                wait_open(fleet)
                senders.some(60)
        assert senders.answers[200] and senders.answers[202], senders.answers
        check_all(fleet, senders)
        with Senders(fleet, count=2, headers={"X-Timeout": "600"}, accepted=(200, 504)) as hurried:
            hurried.some(20)
            reload(fleet, one_item(**{**sync, "delay": 0, "queue_type": "lifo"}))
            wait_open(fleet)
            hurried.some(20)
        fleet.wait_empty(60)


def test_a_backlog_is_finished_first(fleet):
    """Two thousand are waiting when the queue becomes fifo; what comes then waits for them."""
    reload(fleet, one_item(delay=10, concurrency=4))
    wait_version(fleet, 2)
    with Senders(fleet, count=4, pause=0, keys=8) as senders:
        senders.some(2000)
        reload(fleet, one_item(delay=0, **fifo()))
        senders.some(300)
        shape = fleet.item("In")
        assert shape["queue_type"] == "fifo" and shape["queue"] in ("closing", "closed", "open")
    wait_open(fleet, 90)
    check_all(fleet, senders)
    check_change(fleet, 3)
    check_order(fleet, versions=[3])


def test_reloads_in_a_row(fleet):
    """The second comes while the first one's changes are closing: each step in turn, none left out that anything was accepted in."""
    reload(fleet, one_item(delay=20, concurrency=2))
    wait_version(fleet, 2)
    with Senders(fleet, count=4, keys=3) as senders:
        senders.some(300)
        assert reload(fleet, one_item(**fifo()))["version"] == 3
        senders.some(40)
        assert reload(fleet, one_item(**fifo(partitions=11)))["version"] == 4
        senders.some(40)
        assert reload(fleet, one_item(queue_type="lifo"))["version"] == 5
        assert reload(fleet, one_item(**fifo(partitions=3)))["version"] == 6
        senders.some(40)
    wait_open(fleet, 90)
    check_all(fleet, senders)
    for number in (3, 4, 6):
        check_change(fleet, number)
    check_order(fleet, versions=[3, 4, 6])


def test_a_pipelined_connection_keeps_its_order():
    """A sender of one key that waits for no answer, while reload follows on reload: what came in under one version waits for its commit
    while what comes after it is taken in under the next. All of them are handled in the order of their sending."""
    count = 6000

    def config(attempts):
        return production(echo_item("In", retry={"max_attempts": attempts}, **fifo()), mllp=["In"])

    with Fleet(config(5), workers=2) as fleet, fleet.mllp() as connection:
        controls = [f"P{number:06d}" for number in range(count)]
        sent = [hl7.adt(control=control) for control in controls]

        def send():
            for at in range(0, count, 10):
                connection.send(*sent[at:at + 10])

        codes = []
        threads = [threading.Thread(target=send),
                   threading.Thread(target=lambda: codes.extend(hl7.Message(connection.receive()).code for _ in sent))]
        for thread in threads:
            thread.start()
        reloads = 0
        while threads[1].is_alive():
            reload(fleet, config(6 + reloads))
            reloads += 1
        for thread in threads:
            thread.join(60)
        assert codes == ["AA"] * count and reloads > 10, (collections.Counter(codes), reloads)
        fleet.wait_empty(120)
        order = [row[0] for row in fleet.sql("select control_id from hie.accepted where item = 'In' order by seq")]
        wrong = [at for at, (a, b) in enumerate(zip(order, controls)) if a != b]
        assert order == controls, f"{len(order)} of {count}, {len(wrong)} out of their place, first {wrong[:5]}"
        check_order(fleet)


# ---- in the midst of it --------------------------------------------------------------------------------------


def slow_start(fleet):
    """A backlog that takes some seconds, and a change of its queue under way."""
    reload(fleet, one_item(delay=30, concurrency=2))
    wait_version(fleet, 2)


def wait_closing(fleet, stage="closing"):
    wait_until(lambda: fleet.item("In")["queue"] == stage, f"In is {stage}", SOON, 0.01)


def test_a_worker_is_killed_and_one_joins(fleet):
    slow_start(fleet)
    with Senders(fleet, keys=3) as senders:
        senders.some(300)
        reload(fleet, one_item(**fifo()))
        wait_closing(fleet)
        killed = fleet.workers[0]
        killed.kill()
        fleet.replace_worker(killed)
        late = fleet.add_worker()
        late.start()
        fleet.wait_program_ready(late)
        assert version_of(late) == 3
        senders.some(50)
        wait_open(fleet, 90)
        senders.some(50)
    check_all(fleet, senders)
    check_change(fleet, 3)
    check_order(fleet, versions=[3])


def test_the_dispatcher_restarts(fleet):
    slow_start(fleet)
    with Senders(fleet, keys=3, accepted=(202, 503, "gone")) as senders:
        senders.some(300)
        reload(fleet, one_item(**fifo()))
        wait_closing(fleet)
        fleet.dispatcher.kill()
        fleet.restart_dispatcher()
        senders.some(50)
        assert fleet.item("In")["queue_type"] == "fifo"
        fleet.dispatcher.send(signal.SIGTERM)
        assert fleet.dispatcher.wait(30) == 0
        fleet.restart_dispatcher()
        senders.some(50)
        wait_open(fleet, 90)
        senders.some(50)
    check_all(fleet, senders)
    check_change(fleet, 3)
    check_order(fleet, versions=[3])


def test_a_process_sleeps_through_the_change(fleet):
    """One worker and then the dispatcher are stopped for longer than their membership lasts. They come back into another version, and do
    nothing by the one that they knew."""
    sleeper = fleet.workers[0]
    with Senders(fleet, keys=3, accepted=(202, 503)) as senders:
        senders.some(100)
        sleeper.pause()
        reload(fleet, one_item(**fifo()))
        wait_until(lambda: fleet.scalar("select count(*) from hie.queue_changes") == 0, "changed without it", 40)
        senders.some(100)
        sleeper.resume()
        wait_version(fleet, 2)
        senders.some(100)
    check_all(fleet, senders)
    check_change(fleet, 2)
    check_order(fleet, versions=[2])
    fleet.dispatcher.pause()
    fleet.write(one_item(**fifo(partitions=6)))
    fleet.workers[1].send(signal.SIGHUP)
    wait_until(lambda: fleet.scalar("select count(*) from hie.productions") == 3
               and fleet.scalar("select count(*) from hie.queue_changes") == 0, "changed without it", 40)
    fleet.dispatcher.resume()
    with Senders(fleet, keys=3, accepted=(202, 503)) as later:
        later.some(50)
    check_all(fleet, senders, later)
    check_order(fleet, versions=[3])


def test_servers_away(fleet):
    """PostgreSQL and then Redis are restarted in the midst of a change."""
    slow_start(fleet)
    with Senders(fleet, keys=3, accepted=(202, 503)) as senders:
        senders.some(200)
        reload(fleet, one_item(**fifo()))
        wait_closing(fleet)
        fleet.postgres.stop()
        assert fleet.http.request("POST", "/v1/reload").status == 503
        time.sleep(6)  # longer than a membership: nobody is one any more
        fleet.postgres.start()
        senders.some(50, 90)
        fleet.redis.kill()
        fleet.redis.start()
        senders.some(50, 90)
        wait_open(fleet, 90)
        senders.some(50)
    check_all(fleet, senders)
    check_order(fleet, versions=[3])


# ---- whose word counts ---------------------------------------------------------------------------------------


def test_two_files_that_differ(fleet):
    """A container with a file of its own keeps the fleet's version, and says so; so does one with another environment."""
    other = fleet.folder / "other.yaml"
    other.write_text(fleet.config_path.read_text().replace("queue_type: unordered", "queue_type: lifo"))
    worker = fleet.add_worker()
    worker.command[2] = str(other)
    worker.start()
    fleet.wait_program_ready(worker)
    ready = worker.http.get("/readyz").body.decode()
    assert "version 1" in ready and "file differs" in ready, ready
    assert metric(worker, "hie_production_file_differs") == 1
    assert metric(fleet.workers[0], "hie_production_file_differs") == 0
    assert "event=production_differs" in worker.text()

    strange = fleet.add_worker(QUEUE_TYPE="fifo", MESSAGING_PATTERN="concurrent_sync")
    strange.start()
    fleet.wait_program_ready(strange)
    with Senders(fleet) as senders:
        senders.some(200)
    check_all(fleet, senders)
    assert fleet.scalar("select count(distinct pattern) from hie.accepted") == 1
    assert fleet.scalar("select count(*) from hie.accepted where partition is not null") == 0

    worker.send(signal.SIGHUP)  # its file becomes the fleet's
    wait_version(fleet, 2)
    assert fleet.item("In")["queue_type"] == "lifo"
    wait_until(lambda: metric(worker, "hie_production_file_differs") == 0, "it is its own", SOON)
    wait_until(lambda: "file differs" in fleet.http.get("/readyz").body.decode(), "the others say so", SOON)
    wait_open(fleet)


def test_a_version_that_one_cannot_use(fleet):
    """It needs a variable that one worker lacks: that one says so and goes on as it was; no queue changes until it can."""
    text = fleet.config_path.read_text()
    fleet.config_path.write_text(text.replace("id: Other\n", "id: Other\n  reply_ttl: ${REPLY_TTL}\n")
                                 .replace("queue_type: unordered", "queue_type: lifo"))
    publisher = fleet.add_worker(REPLY_TTL="5000")
    publisher.start()
    fleet.wait_program_ready(publisher)
    assert version_of(publisher) == 1
    publisher.send(signal.SIGHUP)
    wait_until(lambda: version_of(publisher) == 2, "published", SOON)
    poor = fleet.workers[0]
    wait_until(lambda: poor.http.get("/readyz").status == 503, "it is not ready", SOON)
    assert "version 2 cannot be used here" in poor.http.get("/readyz").body.decode()
    assert "event=production_refused" in poor.text() and version_of(poor) == 1
    fleet.wait_completed(fleet.accept("In", b"the dispatcher lacks it, too"))
    time.sleep(2)
    assert fleet.sql("select item, versions, closed from hie.queue_changes order by item") == \
        [("In", [2], False), ("Other", [2], False)]
    assert metric(publisher, "hie_queues_changing") == 2
    fleet.config_path.write_text(text)
    poor.send(signal.SIGHUP)  # it can be mended from there, too
    wait_version(fleet, 3)
    wait_open(fleet)
    fleet.wait_completed(fleet.accept("In", b"goes on"))
    wait_until(lambda: poor.http.get("/readyz").status == 200, "it is ready", SOON)


# ---- what is counted, and what is not kept -------------------------------------------------------------------


def test_without_a_wal():
    """What Redis alone would keep cannot wait for a queue: it is refused meanwhile, and none that was accepted is lost."""
    def config(**over):
        return production(echo_item("In", delay=300, concurrency=4, persistence={"mode": "store_only"}, **over),
                          echo_item("Other"))

    with Fleet(config(), workers=2) as fleet:
        with Senders(fleet, accepted=(202, 503)) as senders:
            senders.some(100)
            reload(fleet, config(queue_type="priority"))
            wait_until(lambda: senders.answers[503], "refused while it changes", SOON)
            wait_open(fleet)
            senders.some(100)
            reload(fleet, config(messaging_pattern="concurrent_async", **fifo()))
            wait_open(fleet)
            senders.some(60)
        wait_until(lambda: not any(fleet.backlog().values()), "Redis holds no entry", 60, 0.2)
        ends = {row[0] for row in fleet.sql("select correlation_id::text from hie.ended where status = 0")}
        assert set(senders.ids) <= ends, f"{len(set(senders.ids) - ends)} are lost"


@pytest.mark.parametrize("change", [{"queue_type": "lifo"}, {"messaging_pattern": "concurrent_async"}], ids=["type", "pattern"])
def test_room_is_exact_across_a_change(change):
    """Old ones and parked ones count together, and nothing stays counted."""
    def config(**over):
        return production(echo_item("In", queue_size=60, concurrency=1, **over), echo_item("Other"))

    with Fleet(config(delay=500), workers=1) as fleet:
        statuses = collections.Counter(fleet.post("In", b"x").status for _ in range(50))
        assert statuses == {202: 50}
        reload(fleet, config(delay=0, **change))
        wait_closing(fleet)
        parked = collections.Counter(fleet.post("In", b"y").status for _ in range(60))
        assert 1 <= parked[202] <= 60 and set(parked) <= {202, 429}, parked
        assert fleet.scalar("select count(*) from hie.wal") <= 62
        fleet.wait_empty(90)
        wait_open(fleet)
        reload(fleet, config(delay=60000, **change))
        wait_version(fleet, 3)
        wait_until(lambda: fleet.scalar("select coalesce(sum(1), 0) from hie.wal") == 0, "empty", SOON)
        time.sleep(3)  # what is counted for the generation before lapses
        filled = collections.Counter(fleet.post("In", b"z").status for _ in range(70))
        assert filled[202] == 60 and filled[429] == 10, filled
        reload(fleet, config(delay=0, **change))
        fleet.workers[0].kill()
        fleet.replace_worker(fleet.workers[0])
        fleet.wait_empty(90)


def test_delayed_messages_do_not_hold_up_a_change(fleet):
    """They, and what waits for a retry, come when they are due, in the queue of that time."""
    late = [fleet.accept("In", b"later", {"X-Delay": "9000"}) for _ in range(5)]
    reload(fleet, one_item(messaging_pattern="concurrent_async", queue_type="priority"))
    fleet.wait_completed(fleet.accept("In", b"now"), 8)
    wait_open(fleet, 8)
    assert fleet.message(late[0])["status"] == "accepted"
    for id_ in late:
        fleet.wait_completed(id_)
    reload(fleet, one_item())
    wait_open(fleet)
    fleet.wait_empty()
    fleet.check_settled(completed=6)


def test_children_of_a_changing_or_missing_item():
    """They wait in the WAL, for their queue to open and for their item to come back."""
    def config(target, **over):
        items = [router_item("Router", [{"name": "all", "when": {"MSH-9.1": {"exists": True}}, "to": ["Target"]}], **over)]
        return production(*items, *target)

    slow, other = [echo_item("Target", delay=100, concurrency=2)], [echo_item("Target", queue_type="fifo")]
    with Fleet(config(slow), workers=2) as fleet:
        ids = [fleet.accept("Router", hl7.adt()) for _ in range(60)]
        reload(fleet, config(other))
        ids += [fleet.accept("Router", hl7.adt()) for _ in range(20)]
        for id_ in ids:
            fleet.wait_completed(id_, 60)
        wait_open(fleet)
        ids = [fleet.accept("Router", hl7.adt()) for _ in range(3)]
        for id_ in ids:
            fleet.wait_completed(id_)
        assert fleet.scalar("select count(*) from hie.ended where item = 'Target' and status = 0") == 83
        fleet.wait_empty()


def test_dead_letters_of_a_changed_item():
    """They are redriven into the queue of today."""
    bad = echo_item("In", reject_matching="bad")
    with Fleet(production(bad, echo_item("Other")), workers=2) as fleet:
        ids = [fleet.accept("In", b"bad %d" % number) for number in range(10)]
        for id_ in ids:
            assert fleet.wait_end(id_)["status"] == "dead_lettered"
        reload(fleet, production(echo_item("In", **fifo(messaging_pattern="concurrent_async")), echo_item("Other")))
        wait_open(fleet)
        answer = fleet.http.request("POST", "/v1/items/In/dead-letters/redrive")
        assert answer.status == 200 and answer.json()["redriven"] == 10, answer.body
        for id_ in ids:
            wait_until(lambda: fleet.message(id_)["status"] == "completed", "redriven", 30)
        fleet.wait_empty()


# ---- many of them --------------------------------------------------------------------------------------------


def memory(program):
    with open(f"/proc/{program.pid}/status", encoding="ascii") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) / 1024


def test_fifty_reloads_under_load(fleet):
    """Settings and queues, as fast as they are answered. Memory does not grow with them."""
    configs = [one_item(delay=number % 3, concurrency=2 + number % 5, **shape)
               for number in range(5) for shape in ({}, fifo(), {"queue_type": "lifo"})]
    with Senders(fleet, accepted=(202,)) as senders:
        senders.some(100)
        for number in range(50):
            reload(fleet, one_item(delay=number % 3, concurrency=1 + number % 7))
        wait_version(fleet, 51, 30)
        time.sleep(1)
        start = {program.name: memory(program) for program in programs(fleet)}
        for number in range(50):
            reload(fleet, configs[number % len(configs)])
        wait_version(fleet, 101, 30)
        senders.some(100)
        wait_open(fleet, 120)
        for number in range(100):
            reload(fleet, one_item(delay=number % 3, concurrency=1 + number % 7))
        wait_version(fleet, 201, 30)
    wait_open(fleet, 60)
    check_all(fleet, senders)
    time.sleep(13)  # longer than a generation stays
    for program in programs(fleet):
        if "hie-e2e" in str(program.folder) and not sanitized():
            grown = memory(program) - start[program.name]
            assert grown < 24, f"{program.name} grew by {grown:.1f} MiB over 150 reloads"


def sanitized():
    import os
    return "HIE_DISPATCHER" in os.environ
