"""Messages that other programs put straight into Redis: by the enqueue Function, or by hand with XADD."""

import time
import uuid

import msgpack
import pytest
import redis

from hiefleet import Fleet, echo_item, file_item, hl7, production, router_item, wait_until

pytestmark = pytest.mark.sanitize


@pytest.fixture(scope="module")
def fleet():
    rules = [{"name": "all", "when": {"MSH-9.1": "ADT"}, "to": ["Archive"]}]
    config = production(echo_item(), router_item("Router", rules), file_item("Archive", "out"))
    with Fleet(config, workers=2) as fleet:
        yield fleet


def keys(item):
    stream = f"hie:{{{item}}}:async_reliable"
    return [stream, f"{stream}:index", f"hie:{{{item}}}:delayed", f"hie:{{{item}}}:parked", f"hie:{{{item}}}:idle"]


def enqueue(fleet, item, *entries):
    """entries: (id, body) or (id, body, meta, due)."""
    arguments = []
    for id_, body, *more in entries:
        meta, due = (list(more) + [None, None])[:2]
        arguments += [id_, int(time.time() * 1000), due or "", "", "", msgpack.packb(meta) if meta else "", body]
    return fleet.redis.client.fcall("hie1_enqueue", 5, *keys(item), *arguments)


def new_id():
    """A UUIDv7, as a direct producer makes one."""
    millis = int(time.time() * 1000)
    value = (millis << 80) | (uuid.uuid4().int & ((1 << 80) - 1))
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    return str(uuid.UUID(int=value))


def wait_message(fleet, id_):
    """A direct producer's message is known once a worker has adopted it."""
    wait_until(lambda: fleet.message(id_), f"{id_} is adopted")
    return fleet.wait_end(id_)


def test_function_enqueues(fleet):
    id_ = new_id()
    assert uuid.UUID(id_).version == 7
    enqueue(fleet, "Echo", (id_, b"from a direct producer", {"content_type": "text/plain"}))
    assert wait_message(fleet, id_)["status"] == "completed"
    assert fleet.ends(id_) == ["completed"]
    reply = fleet.http.get(f"/v1/messages/{id_}/reply")
    assert (reply.body, reply.headers["Content-Type"]) == (b"from a direct producer", "text/plain")


def test_function_is_idempotent_and_takes_batches(fleet):
    entries = [(new_id(), b"%d" % number) for number in range(200)]
    for _ in range(3):
        enqueue(fleet, "Echo", *entries)
    for id_, _ in entries:
        assert wait_message(fleet, id_)["status"] == "completed"
    ids = [id_ for id_, _ in entries]
    assert fleet.scalar("select count(*) from hie.messages where correlation_id = any(%s::uuid[])", ids) == 200


def test_reply_key_is_left_when_asked_for(fleet):
    id_ = new_id()
    enqueue(fleet, "Echo", (id_, b"answer me", {"reply": 1}))
    key = f"hie:{{Echo}}:reply:{id_}"
    assert fleet.redis.client.blpop(key, 20) == (key.encode(), b"answer me")
    quiet = new_id()
    enqueue(fleet, "Echo", (quiet, b"do not answer"))
    wait_message(fleet, quiet)
    assert not fleet.redis.client.exists(f"hie:{{Echo}}:reply:{quiet}")


def test_http_sender_asks_for_the_reply_key(fleet):
    id_ = fleet.accept("Echo", b"to the key", {"X-Reply-Key": "1"})
    key = f"hie:{{Echo}}:reply:{id_}"
    assert fleet.redis.client.blpop(key, 20)[1] == b"to the key"


def test_routed_from_the_function(fleet):
    id_, message = new_id(), hl7.adt()
    enqueue(fleet, "Router", (id_, message))
    wait_message(fleet, id_)
    fleet.wait_completed(id_)
    assert message in fleet.files("out")
    assert fleet.scalar("select control_id from hie.messages where correlation_id = %s", id_) == \
        hl7.Message(message)("MSH", 10)


def test_xadd_by_hand_is_found(fleet):
    fleet.redis.client.xadd("hie:{Echo}:async_reliable", {"body": b"typed by a person"})
    rows = wait_until(lambda: fleet.sql("select correlation_id::text, state from hie.messages"
                                        " where request = %s and state = 'completed'", b"typed by a person"),
                      "it is adopted and done")
    assert len(rows) == 1
    assert fleet.ends(rows[0][0]) == ["completed"]


def test_xadd_with_its_own_id(fleet):
    id_ = new_id()
    fleet.redis.client.xadd("hie:{Echo}:async_reliable", {"cid": id_, "body": b"mine", "note": "unknown field"})
    assert wait_message(fleet, id_)["status"] == "completed"


@pytest.mark.parametrize("fields", [
    {"cid": "not-a-uuid", "body": b"malformed cid"},
    {"nonsense": "no body at all"},
    {"body": b"malformed meta", "meta": b"\xc1 this is no msgpack"},
    {"body": b"malformed at", "at": "yesterday", "pri": "urgent"},
], ids=["cid", "no-body", "meta", "numbers"])
def test_malformed_entries_end_and_block_nothing(fleet, fields):
    stream = "hie:{Echo}:async_reliable"
    before = fleet.scalar("select count(*) from hie.dead_letters")
    fleet.redis.client.xadd(stream, fields)
    wait_until(lambda: fleet.redis.client.xlen(stream) == 0, "the entry is gone")
    wait_until(lambda: fleet.scalar("select count(*) from hie.dead_letters") == before + 1, "it is a dead letter")
    fleet.wait_completed(fleet.accept("Echo", b"and the next one"))


def test_not_hl7_for_a_router_is_a_dead_letter(fleet):
    id_ = new_id()
    enqueue(fleet, "Router", (id_, b"no HL7"))
    status = wait_message(fleet, id_)
    assert status["status"] == "dead_lettered" and status["error"]


def test_function_refuses_nonsense(fleet):
    for arguments in ([], ["x"] * 7, [new_id(), "now", "", "", "", "", "body"],
                      [new_id(), "1", "", "77", "", "", "body"], [new_id(), "1", "", "", "", "", ""]):
        with pytest.raises(redis.ResponseError):
            fleet.redis.client.fcall("hie1_enqueue", 5, *keys("Echo"), *arguments)
    assert fleet.backlog()["waiting"] == 0
