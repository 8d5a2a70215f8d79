"""The main job with the shipped production file: messages come in over MLLP and HTTP, are routed to files and to a
receiver, and every trace of them is where the documents say."""

import json
import re
import time
import uuid

import pytest

from hiefleet import END_EVENTS, Fleet, Receiver, hl7, wait_until
from hiefleet.process import ROOT

pytestmark = pytest.mark.sanitize


@pytest.fixture(scope="module")
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def fleet(receiver):
    with Fleet(ROOT / "compose/production.yaml", env={"HIE_ORU_URL": receiver.url}) as fleet:
        yield fleet


def only_child(fleet, id_):
    """The single child of a completed message, as its status says."""
    status = fleet.wait_completed(id_)
    assert len(status["children"]) == 1, status
    return fleet.message(status["children"][0])


# ---- acknowledgements ----------------------------------------------------------------------------------------


def test_mllp_message_gets_application_accept(fleet):
    message = hl7.adt()
    request = hl7.Message(message)
    with fleet.mllp() as peer:
        data = peer.exchange(message)
        assert peer.buffer == b"", "something follows the frame"
    assert len(data) < 4096
    ack = hl7.Message(data)
    assert ack.code == "AA"
    assert ack.echoed == request("MSH", 10)
    for ours, theirs in ((3, 5), (4, 6), (5, 3), (6, 4)):
        assert ack("MSH", ours) == request("MSH", theirs)
    assert ack("MSH", 5) == "WARD^1.2^ISO", "a sender field is swapped whole"
    assert ack("MSH", 9) == "ACK^A01^ACK"
    assert ack("MSH", 10) and ack("MSH", 10) != request("MSH", 10)
    assert (ack("MSH", 11), ack("MSH", 12)) == ("P", "2.5")
    assert not ack.has("ERR")


def test_old_versions_get_a_plain_ack(fleet):
    with fleet.mllp() as peer:
        ack = peer.ack(hl7.adt(version="2.3"))
    assert (ack.code, ack("MSH", 9), ack("MSH", 12)) == ("AA", "ACK", "2.3")


def test_enhanced_mode_gets_a_commit_accept(fleet):
    with fleet.mllp() as peer:
        ack = peer.ack(hl7.adt(accept="AL", application="NE"))
        assert ack.code == "CA"
        # "on error only" and "never": silence, so the next answer belongs to the next message.
        peer.send(hl7.adt(accept="ER", application="NE"), hl7.adt(accept="NE", application="NE"))
        control = hl7.control_id()
        assert peer.ack(hl7.adt(control=control)).echoed == control


def test_http_answers_202_with_the_id(fleet):
    answer = fleet.post("HL7_Router", hl7.adt(), {"Content-Type": "x-application/hl7-v2+er7"})
    assert answer.status == 202
    assert answer.headers.get_content_type() == "application/json"
    assert answer.json() == {"correlation_id": answer.id, "status": "accepted"}
    assert uuid.UUID(answer.id).version == 7
    assert abs(uuid.UUID(answer.id).int >> 80) - time.time() * 1000 < 60000


# ---- routing -------------------------------------------------------------------------------------------------


def test_adt_lands_in_its_file_byte_for_byte(fleet):
    control = hl7.control_id()
    message = hl7.adt("A04", control)
    child = only_child(fleet, fleet.accept("HL7_Router", message))
    assert child["item"] == "ADT_Archive"
    path = fleet.folder / "out/adt" / f"{control}-{child['correlation_id']}.hl7"
    assert path.read_bytes() == message


def test_oru_reaches_the_receiver_with_its_id(fleet, receiver):
    message = hl7.oru()
    child = only_child(fleet, fleet.accept("HL7_Router", message))
    assert child["item"] == "ORU_Sender"
    requests = receiver.of(message)
    assert len(requests) == 1, "delivered once"
    assert requests[0]["X-Correlation-ID"] == child["correlation_id"]
    assert requests[0]["Idempotency-Key"] == child["correlation_id"]
    reply = fleet.http.get(f"/v1/messages/{child['correlation_id']}/reply")
    assert (reply.status, reply.body) == (200, receiver.reply)


def test_everything_else_lands_in_the_default(fleet):
    message = hl7.message("SIU", "S12")
    child = only_child(fleet, fleet.accept("HL7_Router", message))
    assert child["item"] == "Other_Archive"
    assert (fleet.folder / "out/other" / f"{child['correlation_id']}.hl7").read_bytes() == message


def test_line_ends_and_separators_of_the_sender_are_kept(fleet):
    lf = hl7.adt().replace(b"\r", b"\n")
    strange = hl7.adt(separators="#*~!%")
    for message in (lf, strange):
        child = only_child(fleet, fleet.accept("HL7_Router", message))
        assert child["item"] == "ADT_Archive"
        assert message in fleet.files("out/adt")


def test_mllp_message_is_routed_too(fleet):
    control = hl7.control_id()
    message = hl7.adt(control=control)
    with fleet.mllp() as peer:
        assert peer.ack(message).code == "AA"
    wait_until(lambda: message in fleet.files("out/adt"), "the file is there")
    assert fleet.scalar("select count(*) from hie.messages where control_id = %s", control) == 2


# ---- what is known of a message --------------------------------------------------------------------------------


def test_status_tells_the_whole_story(fleet):
    id_ = fleet.accept("HL7_Router", hl7.adt())
    status = fleet.message(id_, wait=10000)
    assert status["correlation_id"] == id_
    assert status["status"] == "completed"
    assert (status["item"], status["pattern"]) == ("HL7_Router", "async_reliable")
    assert status["attempts"] == 1
    assert not status.get("error")
    for name in ("received_at", "finished_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", status[name])
    assert status["received_at"] <= status["finished_at"]
    child = fleet.wait_completed(status["children"][0])
    assert child["children"] == []


def test_stored_bodies_come_back(fleet):
    message = hl7.adt(family="UMLÄUT")
    id_ = fleet.accept("HL7_Router", message, {"Content-Type": "text/hl7; charset=utf-8"})
    fleet.wait_completed(id_)
    request = fleet.http.get(f"/v1/messages/{id_}/request")
    assert request.body == message
    assert request.headers["Content-Type"] == "text/hl7; charset=utf-8"
    reply = hl7.Message(fleet.http.get(f"/v1/messages/{id_}/reply").body)
    assert (reply.code, reply.echoed) == ("AA", hl7.Message(message)("MSH", 10))


def test_echo_takes_what_is_not_hl7(fleet):
    body = json.dumps({"text": "grüße", "zero": "\0"}).encode() + b"\0\xff"
    id_ = fleet.accept("Echo", body, {"Content-Type": "application/json"})
    fleet.wait_completed(id_)
    reply = fleet.http.get(f"/v1/messages/{id_}/reply")
    assert (reply.body, reply.headers["Content-Type"]) == (body, "application/json")


def test_unknown_message_is_404(fleet):
    for id_ in ("01980000-0000-7000-8000-000000000000", "nonsense", ""):
        assert fleet.http.get(f"/v1/messages/{id_}").status == 404
    assert fleet.http.get("/v1/messages/%00").status == 400


def test_waiting_for_a_message_without_end_comes_back_in_time(fleet, receiver):
    receiver.hang()
    try:
        status = fleet.wait_end(fleet.accept("HL7_Router", hl7.oru()))
        begin = time.monotonic()
        child = fleet.message(status["children"][0], wait=300)
        assert 0.25 < time.monotonic() - begin < 10
        assert child["status"] in ("accepted", "processing")
    finally:
        receiver.release()
    fleet.wait_completed(child["correlation_id"])


# ---- PostgreSQL and Redis --------------------------------------------------------------------------------------


def test_tables_tell_what_happened(fleet):
    message = hl7.adt()
    control = hl7.Message(message)("MSH", 10)
    id_ = fleet.accept("HL7_Router", message)
    child = fleet.wait_completed(id_)["children"][0]
    fleet.wait_completed(child)
    rows = fleet.sql("select correlation_id::text, parent_id::text, item, pattern, direction, state, control_id,"
                     " message_type, attempts, error, received_at <= finished_at from hie.messages"
                     " where correlation_id in (%s, %s) order by received_at", id_, child)
    parent_row, child_row = sorted(rows, key=lambda row: row[0] != id_)
    assert parent_row == (id_, None, "HL7_Router", "async_reliable", "inbound", "completed", control,
                          parent_row[7], 1, None, True)
    assert parent_row[7].startswith("ADT^A01")
    assert child_row[:6] == (child, id_, "ADT_Archive", "async_reliable", "outbound", "completed")
    sender = fleet.scalar("select sender from hie.messages where correlation_id = %s", id_)
    assert "WARD" in sender
    for each in (id_, child):
        assert fleet.ends(each) == ["completed"]
        assert fleet.scalar("select count(*) from hie.audit where correlation_id = %s and event = any(%s)"
                            " and worker is not null and attempt = 1", each, list(END_EVENTS)) == 1


def test_nothing_is_left_behind(fleet):
    fleet.wait_empty()
    assert fleet.backlog() == {"waiting": 0, "in_hand": 0, "delayed": 0}
    assert fleet.scalar("select count(*) from hie.dead_letters") == 0
    client = fleet.redis.client
    for item in ("HL7_Router", "ADT_Archive", "ORU_Sender", "Other_Archive", "Echo"):
        stream = f"hie:{{{item}}}:async_reliable"
        assert client.xlen(stream) == 0
        assert client.xpending(stream, "workers")["pending"] == 0


def test_workers_show_their_heartbeat(fleet):
    client = fleet.redis.client
    keys = wait_until(lambda: (found := list(client.scan_iter("hie:worker:*"))) and len(found) >= 2 and found,
                      "two heartbeats")
    pids = {client.hget(key, "pid").decode() for key in keys}
    assert {str(worker.pid) for worker in fleet.workers} <= pids
    assert all(0 < client.pttl(key) <= 60000 for key in keys)


# ---- health and metrics ----------------------------------------------------------------------------------------


def test_health_and_readiness_of_all_processes(fleet):
    for program in [fleet.dispatcher] + fleet.workers:
        assert program.http.get("/healthz").status == 200
        assert program.http.get("/readyz").status == 200
        assert program.http.get("/nothing-here").status == 404


def test_metrics_have_the_documented_names(fleet):
    fleet.wait_completed(fleet.accept("HL7_Router", hl7.adt()))
    texts = [program.http.get("/metrics").body.decode() for program in [fleet.dispatcher] + fleet.workers]
    text = "\n".join(texts)
    for name in ("hie_messages_accepted_total", "hie_messages_completed_total", "hie_queue_depth",
                 "hie_queue_oldest_seconds", "hie_in_flight", "hie_dead_letters", "hie_accept_seconds_bucket",
                 "hie_process_seconds_bucket", "hie_end_to_end_seconds_bucket", "hie_wal_commit_seconds_bucket"):
        assert re.search(rf"^{name}\{{[^}}]*item=\"HL7_Router\"[^}}]*pattern=\"async_reliable\"", text, re.M), name
    for part in texts:
        for line in part.splitlines():
            assert line.startswith("#") or re.fullmatch(r'[a-zA-Z_:][\w:]*(\{.*\})? [-+]?(\d[\d.e+-]*|Inf|NaN)', line), line


def test_accepted_metric_counts(fleet):
    def accepted():
        text = fleet.http.get("/metrics").body.decode()
        found = re.search(r'^hie_messages_accepted_total\{[^}]*item="Echo"[^}]*\} (\d+)', text, re.M)
        return int(found.group(1)) if found else 0

    before = accepted()
    for _ in range(5):
        fleet.accept("Echo", b"count me")
    assert accepted() == before + 5
