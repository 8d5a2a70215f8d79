"""What senders must not send, and what looks wrong but is not. Nothing here may disturb the next message."""

import json
import socket
import time

import pytest

from hiefleet import Fleet, echo_item, file_item, hl7, production, router_item

pytestmark = pytest.mark.sanitize

MIB = 1 << 20
VT, END = b"\x0b", b"\x1c\r"


@pytest.fixture(scope="module")
def fleet():
    rules = [{"name": "adt", "when": {"MSH-9.1": "ADT"}, "to": ["Archive"]}]
    config = production(
        router_item("Router", rules),
        file_item("Archive", "out", name="${correlation_id}.hl7"),
        router_item("Big", [{"name": "all", "when": {"MSH-9.1": "ADT"}, "to": ["Archive"]}]),
        echo_item(),
        mllp=["Router", {"item": "Big", "max_frame": "32MiB"}, "Echo"],
        http={"max_body": "16MiB"},
    )
    with Fleet(config, workers=1) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def still_works(fleet):
    """After whatever was sent, an ordinary message passes on both fronts."""
    yield
    message = hl7.adt()
    fleet.wait_completed(fleet.accept("Router", message))
    assert message in fleet.files("out")
    with fleet.mllp("Router") as peer:
        assert peer.ack(hl7.adt()).code == "AA"


def assert_problem(answer, status):
    assert answer.status == status, (answer.status, answer.body[:300])
    assert answer.headers.get_content_type() == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status and problem["title"]
    return problem


NOT_HL7 = {
    "text": b"hello",
    "json": b'{"resourceType": "Patient"}',
    "nuls": b"\0" * 64,
    "segment-without-msh": b"PID|1||123\r",
    "msh-in-the-middle": b"PID|1\rMSH|^~\\&|A\r",
    "msh-cut-after-name": b"MSH",
    "msh-cut-after-separator": b"MSH|",
    "utf-16": hl7.adt().decode().encode("utf-16"),
    "binary": bytes(range(256)) * 4,
}


@pytest.mark.parametrize("name", NOT_HL7)
def test_http_refuses_what_is_not_hl7(fleet, name):
    before = fleet.scalar("select count(*) from hie.messages")
    problem = assert_problem(fleet.post("Router", NOT_HL7[name]), 422)
    assert "hello" not in json.dumps(problem)
    assert fleet.scalar("select count(*) from hie.messages") == before, "nothing is kept of it"


@pytest.mark.parametrize("name", [name for name, body in NOT_HL7.items() if b"\x0b" not in body])
def test_mllp_rejects_what_is_not_hl7(fleet, name):
    with fleet.mllp("Router") as peer:
        ack = peer.ack(NOT_HL7[name])
        assert ack.code == "AR" and ack.has("ERR")
        assert ack.echoed == ""
        assert peer.ack(hl7.adt()).code == "AA", "the connection goes on"


def test_empty_bodies(fleet):
    assert fleet.post("Router", b"").status in (400, 422)
    assert_problem(fleet.post("Echo", b""), 400)
    with fleet.mllp("Router") as peer:
        ack = peer.ack(b"")
        assert ack.code == "AR" and ack.has("ERR")


def test_eight_bit_and_nul_bytes_survive(fleet):
    latin = hl7.adt().replace(b"SYNTHETIC", "M\u00dcLLER".encode("latin-1"))
    invalid = hl7.adt().replace(b"SYNTHETIC", b"\xff\xfe\xc3\x28\x80")
    nul = hl7.adt().replace(b"SYNTHETIC", b"A\0B")
    # The control id is what goes into a text column.
    in_header = hl7.adt(control="LATIN").replace(b"LATIN", b"L\xe4\xff")
    for message in (latin, invalid, nul, in_header):
        id_ = fleet.accept("Router", message)
        fleet.wait_completed(id_)
        assert message in fleet.files("out")
        assert fleet.http.get(f"/v1/messages/{id_}/request").body == message
        with fleet.mllp("Router") as peer:
            ack = hl7.Message(peer.exchange(message))
            assert ack.code == "AA"


def test_control_id_is_echoed_byte_for_byte(fleet):
    message = hl7.adt(control="LATIN").replace(b"LATIN", b"L\xe4\xff")
    with fleet.mllp("Router") as peer:
        answer = peer.exchange(message)
    assert b"MSA|AA|L\xe4\xff" in answer


def test_strange_separators_are_understood(fleet):
    message = hl7.adt(separators="#*~!%")
    with fleet.mllp("Router") as peer:
        answer = peer.exchange(message)
    assert answer.startswith(b"MSH#*~!%#")
    assert hl7.Message(answer).code == "AA"


def test_unroutable_message_is_a_dead_letter(fleet):
    id_ = fleet.accept("Router", hl7.oru())
    status = fleet.wait_end(id_)
    assert status["status"] == "dead_lettered" and status["error"]
    assert fleet.sql("select item, attempts from hie.dead_letters where correlation_id = %s", id_) == [("Router", 1)]
    assert fleet.ends(id_) == ["dead_lettered"]


# ---- sizes ---------------------------------------------------------------------------------------------------


def big(size):
    return hl7.adt(extra=[["OBX", "1", "ED", "PDF", "", "J" * size]])


def test_http_body_over_the_maximum_is_413(fleet):
    try:
        answer = fleet.post("Echo", b"x" * (20 * MIB))
        assert_problem(answer, 413)
    except (BrokenPipeError, ConnectionResetError):
        # It may stop reading at the limit: then the answer is there for who looks before writing on.
        with socket.create_connection(("127.0.0.1", fleet.http_port), timeout=20) as sock:
            sock.sendall(b"POST /v1/items/Echo/messages HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (20 * MIB))
            assert sock.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_http_body_just_below_the_maximum_passes(fleet):
    body = b"x" * (16 * MIB)
    id_ = fleet.accept("Echo", body)
    fleet.wait_completed(id_)
    assert fleet.http.get(f"/v1/messages/{id_}/reply").body == body


def test_mllp_frame_over_the_maximum_is_rejected_and_closed(fleet):
    control = hl7.control_id()
    message = hl7.adt(control=control, extra=[["OBX", "1", "ED", "PDF", "", "J" * (20 * MIB)]])
    with fleet.mllp("Router", timeout=60) as peer:
        try:
            peer.send(message)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it need not be read to its end
        try:
            ack = hl7.Message(peer.receive())
            assert ack.code == "AR" and ack.has("ERR") and ack.echoed == control
        except ConnectionResetError:
            pytest.fail("closed without an answer")
        assert peer.closed_by_peer()


def test_mllp_frame_passes_where_the_listener_allows_it(fleet):
    message = big(20 * MIB)
    with fleet.mllp("Big", timeout=60) as peer:
        assert peer.ack(message).code == "AA"
    fleet.wait_empty(60)
    assert message in fleet.files("out")


# ---- frames --------------------------------------------------------------------------------------------------


def test_junk_between_frames_is_skipped(fleet):
    one, two = hl7.adt(control="JUNK1"), hl7.adt(control="JUNK2")
    with fleet.mllp("Router") as peer:
        peer.send_raw(b"GET / HTTP/1.1\r\n\r\n" + VT + one + END + b"\r\n\0\0" + VT + two + END)
        assert hl7.Message(peer.receive()).echoed == "JUNK1"
        assert hl7.Message(peer.receive()).echoed == "JUNK2"


def test_too_much_junk_closes_the_connection(fleet):
    with fleet.mllp("Router") as peer:
        try:
            for _ in range(20):
                peer.send_raw(b"x" * 8192)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert peer.closed_by_peer()


def test_start_inside_a_frame_starts_it_anew(fleet):
    with fleet.mllp("Router") as peer:
        peer.send_raw(VT + b"MSH|^~\\&|HALF" + VT + hl7.adt(control="ANEW") + END)
        ack = hl7.Message(peer.receive())
    assert (ack.code, ack.echoed) == ("AA", "ANEW")


def test_end_without_carriage_return(fleet):
    with fleet.mllp("Router") as peer:
        peer.send_raw(VT + hl7.adt(control="NOCR1") + b"\x1c" + VT + hl7.adt(control="NOCR2") + END)
        assert [hl7.Message(peer.receive()).echoed for _ in range(2)] == ["NOCR1", "NOCR2"]


def test_half_a_frame_and_a_close_leaves_nothing(fleet):
    before = fleet.scalar("select count(*) from hie.messages")
    for cut in (1, 5, 60, -1):
        with fleet.mllp("Router") as peer:
            peer.send_raw((VT + hl7.adt() + END)[:cut - 1 if cut < 0 else cut])
            peer.sock.shutdown(socket.SHUT_WR)
            assert peer.closed_by_peer() and peer.buffer == b""
    assert fleet.scalar("select count(*) from hie.messages") == before


def test_close_after_sending_still_gets_the_answer(fleet):
    with fleet.mllp("Router") as peer:
        peer.send(hl7.adt(control="SHUT"))
        peer.sock.shutdown(socket.SHUT_WR)
        assert hl7.Message(peer.receive()).echoed == "SHUT"


def test_frame_in_three_writes_and_byte_by_byte(fleet):
    with fleet.mllp("Router") as peer:
        message = hl7.adt(control="THREE")
        for part in (VT, message, END):
            peer.send_raw(part)
            time.sleep(0.05)
        assert hl7.Message(peer.receive()).echoed == "THREE"
        for byte in VT + hl7.adt(control="BYTES") + END:
            peer.send_raw(bytes([byte]))
        assert hl7.Message(peer.receive()).echoed == "BYTES"


def test_many_frames_in_one_write_are_answered_in_order(fleet):
    controls = [f"MANY{number}" for number in range(500)]
    with fleet.mllp("Router") as peer:
        peer.send(*(hl7.adt(control=control) for control in controls))
        assert [hl7.Message(peer.receive()).echoed for _ in controls] == controls


def test_good_and_bad_frames_are_answered_in_order(fleet):
    with fleet.mllp("Router") as peer:
        peer.send(hl7.adt(control="O1"), b"bad", hl7.adt(control="O2"), b"", hl7.adt(control="O3"))
        acks = [hl7.Message(peer.receive()) for _ in range(5)]
    assert [ack.code for ack in acks] == ["AA", "AR", "AA", "AR", "AA"]
    assert [ack.echoed for ack in acks] == ["O1", "", "O2", "", "O3"]


# ---- HTTP ----------------------------------------------------------------------------------------------------


def test_body_cut_off_leaves_nothing(fleet):
    before = fleet.scalar("select count(*) from hie.messages")
    with socket.create_connection(("127.0.0.1", fleet.http_port), timeout=20) as sock:
        sock.sendall(b"POST /v1/items/Echo/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nonly this")
        sock.shutdown(socket.SHUT_WR)
        answer = sock.recv(4096)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert fleet.scalar("select count(*) from hie.messages") == before


def test_unknown_item_is_404(fleet):
    assert_problem(fleet.post("Nobody", hl7.adt()), 404)
    assert_problem(fleet.post("%2e%2e%2f", hl7.adt()), 404)
    assert_problem(fleet.post("a" * 500, hl7.adt()), 404)


@pytest.mark.parametrize("header, value", [
    ("X-Priority", "11"), ("X-Priority", "-1"), ("X-Priority", "high"), ("X-Priority", ""), ("X-Priority", "5x"),
    ("X-Delay", "-1"), ("X-Delay", "soon"), ("X-Delay", "1.5"), ("X-Delay", "99999999999999999999"),
    ("X-Timeout", "0"), ("X-Timeout", "-5"), ("X-Ordering-Key", ""), ("X-Ordering-Key", "k" * 5000),
])
def test_header_values_out_of_range_are_400(fleet, header, value):
    assert_problem(fleet.post("Router", hl7.adt(), {header: value}), 400)


@pytest.mark.parametrize("request_, statuses", [
    (b"GARBAGE\r\n\r\n", {400}),
    (b"GET /healthz HTTP/9.9\r\n\r\n", {400, 505}),
    (b"POST /v1/items/Echo/messages HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", {400}),
    (b"POST /v1/items/Echo/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", {400}),
    (b"POST /v1/items/Echo/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
     b"5\r\nhello\r\n0\r\n\r\n", {400}),
    (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 100000 + b"\r\n\r\n", {431}),
    (b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", {414, 431}),
    (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404, 405, 501}),
], ids=["garbage", "version", "negative-length", "two-lengths", "length-and-chunked", "long-header", "long-path",
        "unknown-method"])
def test_broken_requests_are_refused_and_closed(fleet, request_, statuses):
    with socket.create_connection(("127.0.0.1", fleet.http_port), timeout=20) as sock:
        try:
            sock.sendall(request_)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = sock.recv(65536)
    assert int(answer.split(b" ")[1]) in statuses, answer[:200]


def test_chunked_bodies_are_taken(fleet):
    with socket.create_connection(("127.0.0.1", fleet.http_port), timeout=20) as sock:
        sock.sendall(b"POST /v1/items/Echo/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                     b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n")
        answer = sock.recv(65536)
    assert answer.startswith(b"HTTP/1.1 202 "), answer[:200]
    id_ = json.loads(answer.split(b"\r\n\r\n")[1])["correlation_id"]
    fleet.wait_completed(id_)
    assert fleet.http.get(f"/v1/messages/{id_}/request").body == b"hello world"


def test_pipelined_requests_are_answered_in_order(fleet):
    one = b"POST /v1/items/Echo/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", fleet.http_port), timeout=20) as sock:
        sock.sendall(one + b"a" + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + one + b"b"
                     + b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = b""
        while part := sock.recv(65536):
            data += part
    statuses = [int(line.split(b" ")[1]) for line in data.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert len(statuses) == 4 or data.count(b"HTTP/1.1 ") == 4, data
    order = [data.index(b"HTTP/1.1 202"), data.index(b"HTTP/1.1 200"), data.rindex(b"HTTP/1.1 202"),
             data.index(b"HTTP/1.1 404")]
    assert order == sorted(order)


def test_wrong_methods_and_paths(fleet):
    assert fleet.http.request("GET", "/v1/items/Echo/messages").status in (404, 405)
    assert fleet.http.request("DELETE", "/healthz").status in (404, 405)
    assert fleet.http.request("GET", "/../../etc/passwd").status in (400, 404)
    assert fleet.http.request("GET", "/v1/messages/" + "0" * 3000).status == 404
    assert fleet.http.get("/v1/messages/01980000-0000-7000-8000-000000000000?wait=soon").status == 400
