"""Two thousand idle and slow connections: the others do not notice."""

import resource
import socket
import threading
import time

from hiefleet import Fleet, echo_item, hl7, production, router_item

COUNT = 2000


def raise_descriptor_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(hard, 8192)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def test_idle_and_slow_connections_disturb_nobody():
    assert raise_descriptor_limit() >= COUNT + 500, "too few descriptors for this test"
    config = production(
        echo_item(),
        router_item("Router", [{"name": "all", "when": {"MSH-9.1": {"exists": True}}, "to": ["Echo"]}]),
        mllp=["Router"],
    )
    with Fleet(config, workers=1) as fleet:
        mllp_port = next(iter(fleet.listeners.values()))
        starts = {
            fleet.http_port: [b"", b"POST /v1/items/Echo/messages HTTP/1.1\r\n",
                              b"POST /v1/items/Echo/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc"],
            mllp_port: [b"", b"\x0b", b"\x0bMSH|^~\\&|SLOW", b"junk"],
        }
        connections = []
        try:
            for number in range(COUNT):
                port = (fleet.http_port, mllp_port)[number % 2]
                sock = socket.create_connection(("127.0.0.1", port), timeout=10)
                connections.append(sock)
                sock.sendall(starts[port][number // 2 % len(starts[port])])
            stop = threading.Event()

            def drip():
                """One more byte on one connection after the other."""
                while not stop.is_set():
                    for sock in connections[1::20]:
                        try:
                            sock.sendall(b"x")
                        except OSError:
                            pass
                    time.sleep(0.05)

            dripping = threading.Thread(target=drip)
            dripping.start()
            slowest = 0.0
            ids = []
            with fleet.mllp() as peer:
                for _ in range(200):
                    begin = time.monotonic()
                    assert peer.ack(hl7.adt()).code == "AA"
                    ids.append(fleet.accept("Echo", b"in between"))
                    slowest = max(slowest, time.monotonic() - begin)
            stop.set()
            dripping.join()
            # No measurement: only that nobody waits for a slow one's time-out.
            assert slowest < 5
            for id_ in ids:
                fleet.wait_completed(id_)
            with open(f"/proc/{fleet.dispatcher.pid}/status", encoding="ascii") as status:
                resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
            assert resident < 256 * 1024, f"{resident} KiB"
        finally:
            for sock in connections:
                sock.close()
        fleet.wait_completed(fleet.accept("Echo", b"afterwards"))


def test_sender_that_does_not_read_its_answers():
    config = production(router_item("Router", [{"name": "all", "when": {"MSH-9.1": {"exists": True}}, "to": ["Echo"]}]),
                        echo_item(), mllp=["Router"])
    with Fleet(config, workers=1) as fleet:
        with fleet.mllp(timeout=3) as deaf:
            sent = 0
            try:
                for _ in range(2000):
                    deaf.send(*(hl7.adt() for _ in range(20)))
                    sent += 20
            except (TimeoutError, OSError):
                pass  # it is not read from any more
            with fleet.mllp() as peer:
                assert peer.ack(hl7.adt()).code == "AA"
        fleet.wait_completed(fleet.accept("Echo", b"afterwards"))
        fleet.wait_empty(120)
