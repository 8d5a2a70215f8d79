"""A patient's name goes through everything, failing paths included, and then is looked for wherever it must not be."""

import contextlib
import json
import socket

import pytest

from hiefleet import (Fleet, Receiver, echo_item, file_item, free_port, hl7, item, production, router_item,
                      wait_until)

pytestmark = pytest.mark.sanitize

CANARY = "XQZCANARY"
RETRY = {"max_attempts": 2, "backoff": 50, "max_backoff": 100}


def bodies():
    """Messages with the canary where patients are, and some that are broken around it."""
    good = hl7.adt(family=CANARY)
    return {
        "adt": good,
        "oru": hl7.oru(family=CANARY),
        "unroutable": hl7.message("SIU", "S12", family=CANARY),
        "latin-header": good.replace(b"WARD", b"\xc4RD"),
        "nul-header": good.replace(b"HOSPITAL", b"HOS\0PITAL"),
        "not-hl7": f"{CANARY} is no HL7".encode(),
        "cut-msh": f"MSH|{CANARY}".encode(),
        "json": json.dumps({"name": CANARY}).encode(),
    }


def everything_written(fleet):
    """What people, logs and other systems see besides the bodies themselves."""
    yield "logs", fleet.logs()
    for program in [fleet.dispatcher] + fleet.workers:
        for path in ("/metrics", "/readyz", "/healthz"):
            yield path, program.http.get(path).body.decode()
    for statement in ("select string_agg(coalesce(error, ''), ' ') from hie.messages",
                      "select string_agg(coalesce(detail, ''), ' ') from hie.audit",
                      "select string_agg(coalesce(reason, ''), ' ') from hie.dead_letters"):
        yield statement, fleet.scalar(statement) or ""
    client = fleet.redis.client
    for key in client.scan_iter("hie:{*}:dead"):
        for _, fields in client.xrange(key):
            yield key.decode(), repr({name: value for name, value in fields.items() if name not in (b"body", b"meta")})
    for key in client.scan_iter("*"):
        yield "a key's name", key.decode("utf-8", "replace")


def test_no_patient_data_where_it_must_not_be():
    receiver = Receiver()
    receiver.status = 500
    receiver.reply = f"cannot take {CANARY}".encode()
    rules = [
        {"name": "adt", "when": {"MSH-9.1": "ADT"}, "to": ["Archive", "Sender", "Blocked", "Nowhere"]},
        {"name": "name", "when": {"PID-5.1": {"matches": "^(X|Q)+Z$"}}, "to": ["Archive"]},
        {"name": "oru", "when": {"MSH-9.1": "ORU"}, "to": ["Archive"]},
    ]
    config = production(
        router_item("Router", rules, retry=RETRY),
        file_item("Archive", "out", retry=RETRY),
        file_item("Blocked", "production.yaml/folder", retry=RETRY),
        item("Sender", "HTTPSender", {"url": receiver.url, "timeout": 500}, retry=RETRY),
        item("Nowhere", "HTTPSender", {"url": f"http://127.0.0.1:{free_port()}/", "timeout": 500}, retry=RETRY),
        echo_item("Strict", reject_matching=CANARY, retry=RETRY),
        echo_item("Broken", fail_attempts=9, retry=RETRY),
        mllp=["Router"],
        http={"max_body": "1MiB"},
    )
    answers = []
    with contextlib.closing(receiver), Fleet(config, workers=2, env={"HIE_LOG_LEVEL": "debug"}) as fleet:
        def send_all():
            for body in bodies().values():
                for target in ("Router", "Strict", "Broken"):
                    answers.append(fleet.post(target, body))
                with fleet.mllp() as peer:
                    answers.append(peer.exchange(body))

        send_all()
        answers.append(fleet.post("Router", bodies()["adt"], {"X-Ordering-Key": "k" * 300}))
        answers.append(fleet.post("Router", CANARY.encode() * 200000))
        with fleet.mllp() as peer:
            peer.send_raw(CANARY.encode() + b"\x0bMSH|^~\\&|" + CANARY.encode())
        with socket.create_connection(("127.0.0.1", fleet.http_port)) as sock:
            sock.sendall(f"BAD {CANARY}\r\n\r\n".encode())
            answers.append(sock.recv(65536))
        fleet.redis.client.xadd("hie:{Router}:async_reliable", {"body": CANARY, "meta": CANARY, "cid": "bad"})
        fleet.wait_empty()

        fleet.redis.stop()
        send_all()
        fleet.redis.start()
        fleet.wait_ready()
        fleet.postgres.stop()
        send_all()
        fleet.postgres.start()
        fleet.wait_ready()
        fleet.wait_empty()

        assert fleet.scalar("select count(*) from hie.dead_letters") > 20, "the failing paths were gone"
        assert wait_until(lambda: fleet.files("out"), "files are written")
        for place, text in everything_written(fleet):
            assert CANARY not in text, f"{place}: {text[max(0, text.index(CANARY) - 200):][:400]}"
        for answer in answers:
            text = answer if isinstance(answer, bytes) else answer.body
            assert CANARY.encode() not in text, text[:400]
