"""Redis or PostgreSQL away, hanging, wiped or refusing: what was acknowledged ends, what cannot be durable is refused."""

import shutil
import threading
import time

import pytest

from hiefleet import Fleet, echo_item, file_item, hl7, production, router_item, wait_until

pytestmark = pytest.mark.sanitize


@pytest.fixture(scope="module")
def fleet():
    rules = [{"name": "all", "when": {"MSH-9.1": {"exists": True}}, "to": ["Archive"]}]
    config = production(
        router_item("Router", rules),
        file_item("Archive", "out"),
        echo_item(),
        echo_item("Hasty", persistence={"ack_timeout": 1000}),
        mllp=["Router"],
    )
    with Fleet(config, workers=2) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def whole_again(fleet):
    """Each test ends with everything up and nothing left over."""
    yield
    for server in (fleet.redis, fleet.postgres):
        server.resume()
        if not server.alive:
            server.start()
    for worker in fleet.workers:
        worker.resume()
    fleet.wait_ready()
    fleet.wait_empty()


def readiness(fleet):
    return fleet.http.get("/readyz").status


def test_redis_away_messages_go_into_the_wal(fleet):
    fleet.redis.stop()
    wait_until(lambda: readiness(fleet) == 503, "the dispatcher is not ready")
    assert fleet.http.get("/healthz").status == 200
    ids = [fleet.accept("Router", hl7.adt()) for _ in range(50)]
    with fleet.mllp() as peer:
        assert [peer.ack(hl7.adt()).code for _ in range(20)] == ["AA"] * 20
    assert fleet.scalar("select count(*) from hie.wal") >= 70
    assert fleet.message(ids[0])["status"] == "accepted"
    fleet.redis.start()
    for id_ in ids:
        fleet.wait_completed(id_)
        assert fleet.ends(id_) == ["completed"]


@pytest.mark.parametrize("how", ["flushall", "new-server", "kill"])
def test_redis_loses_everything(fleet, how):
    for worker in fleet.workers:
        worker.pause()
    ids = [fleet.accept("Router", hl7.adt()) for _ in range(100)]
    if how == "flushall":
        fleet.redis.client.flushall()
    else:
        fleet.redis.kill()
        if how == "new-server":
            shutil.rmtree(fleet.redis.data / "appendonlydir")
        fleet.redis.start()
    for worker in fleet.workers:
        worker.resume()
    for id_ in ids:
        fleet.wait_completed(id_, timeout=60)
        assert fleet.ends(id_) == ["completed"]
    assert len(fleet.files("out")) == len(set(fleet.files("out")))


def test_wiped_under_load(fleet):
    stop = threading.Event()
    ids, faults = [], []

    def sender():
        while not stop.is_set():
            try:
                ids.append(fleet.accept("Router", hl7.adt()))
            except AssertionError as error:
                faults.append(error)

    threads = [threading.Thread(target=sender) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.5)
        fleet.redis.client.flushall()
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults, faults[0]
    assert len(ids) > 100
    fleet.wait_empty(90)
    settled = fleet.scalar("select count(*) from hie.messages where state = 'completed' and correlation_id = any(%s::uuid[])",
                           ids)
    assert settled == len(ids)


def test_redis_hangs_messages_are_still_accepted(fleet):
    fleet.redis.pause()
    begin = time.monotonic()
    ids = [fleet.accept("Echo", b"while it hangs") for _ in range(5)]
    assert time.monotonic() - begin < 10
    fleet.redis.resume()
    for id_ in ids:
        fleet.wait_completed(id_, timeout=60)


def test_postgres_away_is_503_and_ar(fleet):
    fleet.postgres.stop()
    wait_until(lambda: readiness(fleet) == 503, "the dispatcher is not ready")
    assert fleet.http.get("/healthz").status == 200
    answer = fleet.post("Router", hl7.adt())
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers.get_content_type() == "application/problem+json"
    with fleet.mllp() as peer:
        ack = peer.ack(hl7.adt())
        assert ack.code == "AR" and ack.has("ERR")
    fleet.postgres.start()
    wait_until(lambda: readiness(fleet) == 200, "the dispatcher is ready again")
    fleet.wait_completed(fleet.accept("Router", hl7.adt()))


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_postgres_restarts_under_load(fleet, how):
    """What was answered 202 is there; what was not is not counted on."""
    stop = threading.Event()
    ids, others = [], set()

    def sender():
        while not stop.is_set():
            answer = fleet.post("Router", hl7.adt())
            if answer.status == 202:
                ids.append(answer.id)
            else:
                others.add(answer.status)
                time.sleep(0.02)

    threads = [threading.Thread(target=sender) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    getattr(fleet.postgres, how)()
    time.sleep(0.5)
    fleet.postgres.start()
    count = len(ids)
    wait_until(lambda: len(ids) > count + 50, "messages are accepted again")
    stop.set()
    for thread in threads:
        thread.join()
    assert others <= {503}, others
    fleet.wait_empty(60)
    found = fleet.scalar("select count(*) from hie.messages where state = 'completed' and correlation_id = any(%s::uuid[])",
                         ids)
    assert found == len(ids)
    twice = fleet.sql("select correlation_id from hie.audit where event = 'completed' group by 1 having count(*) > 1")
    assert not twice


def test_postgres_hangs_past_the_ack_timeout(fleet):
    """503 with the id, outcome unknown; the id tells the truth later."""
    fleet.postgres.pause()
    begin = time.monotonic()
    answer = fleet.post("Hasty", b"is it there?")
    assert answer.status == 503 and time.monotonic() - begin < 15
    id_ = answer.json()["correlation_id"]
    fleet.postgres.resume()
    wait_until(lambda: readiness(fleet) == 200, "the dispatcher is ready again")

    def known():
        reply = fleet.http.get(f"/v1/messages/{id_}?wait=1000")
        return reply.status == 404 or (reply.status == 200 and reply.json()["status"] == "completed")

    wait_until(known, "the id is known to be done, or not known at all")


def test_both_away_and_back(fleet):
    id_ = fleet.accept("Router", hl7.adt())
    fleet.redis.kill()
    fleet.postgres.kill()
    wait_until(lambda: readiness(fleet) == 503, "the dispatcher is not ready")
    assert fleet.post("Router", hl7.adt()).status == 503
    fleet.postgres.start()
    fleet.redis.start()
    fleet.wait_ready()
    fleet.wait_completed(id_)


# ---- at start ------------------------------------------------------------------------------------------------


def test_programs_wait_for_servers_that_are_away_at_start():
    with Fleet(production(echo_item()), workers=1, start=False) as fleet:
        fleet.start_programs()
        for program in (fleet.dispatcher, fleet.workers[0]):
            wait_until(lambda program=program: program.http.get("/healthz").status == 200, "it is alive")
            assert program.http.get("/readyz").status == 503
        assert fleet.post("Echo", b"too early").status == 503
        time.sleep(2.5)  # long enough for several attempts to connect
        for program in (fleet.dispatcher, fleet.workers[0]):
            for event in ("redis_down", "postgres_down"):
                assert program.text().count(f"event={event} ") == 1, f"it says {event} once\n{program.text()}"
        fleet.start_servers()
        fleet.wait_ready()
        fleet.wait_completed(fleet.accept("Echo", b"now"))


@pytest.fixture(scope="module")
def servers():
    with Fleet(production(echo_item()), workers=1, start=False) as fleet:
        fleet.start_servers()
        yield fleet


def assert_permanent(program):
    program.start()
    assert program.wait(30) == 100
    fatal = [line for line in program.text().splitlines() if "level=error" in line]
    assert len(fatal) == 1, program.text()
    return fatal[0]


@pytest.mark.parametrize("kind", ["dispatcher", "worker"])
@pytest.mark.parametrize("user, password, database", [("hie", "wrong-word", "hie"), ("nobody", "e2e-secret", "hie"),
                                                      ("hie", "e2e-secret", "missing")],
                         ids=["wrong-password", "unknown-user", "missing-database"])
def test_postgres_refuses_for_good(servers, kind, user, password, database):
    program = fresh(servers, kind, HIE_POSTGRES_URL=servers.postgres.url_for(user, password, database))
    line = assert_permanent(program)
    assert password not in line


@pytest.mark.parametrize("kind", ["dispatcher", "worker"])
def test_redis_refuses_for_good(servers, kind):
    client = servers.redis.client
    client.config_set("requirepass", "right-word")
    try:
        url = servers.redis.url.replace("127.0.0.1", "default:wrong-word@127.0.0.1")
        line = assert_permanent(fresh(servers, kind, HIE_REDIS_URL=url))
        assert "wrong-word" not in line
    finally:
        client.execute_command("AUTH", "right-word")
        client.config_set("requirepass", "")


def fresh(servers, kind, **env):
    """A program of its own log."""
    name = f"refused-{len(list((servers.folder / 'log').iterdir()))}"
    if kind == "dispatcher":
        return servers.make_dispatcher(name, **env)
    worker = servers.add_worker(**env)
    servers.workers.remove(worker)
    worker.log = servers.folder / f"log/{name}.log"
    return worker
