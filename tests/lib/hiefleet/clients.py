"""What senders use: HTTP with keep-alive and MLLP on a bare socket."""

import dataclasses
import http.client
import json
import socket
import threading

from . import hl7

VT, FS, CR = b"\x0b", b"\x1c", b"\r"


@dataclasses.dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self):
        return json.loads(self.body)

    @property
    def id(self):
        """The correlation id of the header that every accepted message's answer has."""
        return self.headers["X-Correlation-ID"]


class Http:
    """A client of one address; every thread has a connection of its own, kept open."""

    def __init__(self, host, port, timeout=60):
        self.host, self.port, self.timeout = host, port, timeout
        self.local = threading.local()

    def request(self, method, path, body=None, headers=None):
        for attempt in (1, 2):
            connection = getattr(self.local, "connection", None)
            fresh = connection is None
            if fresh:
                connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
                self.local.connection = connection
            try:
                connection.request(method, path, body, headers or {})
                response = connection.getresponse()
                answer = Answer(response.status, response.headers, response.read())
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.close()
                # Only a kept connection may have been closed meanwhile without the request being read, and only
                # requests that change nothing are repeated.
                if fresh or attempt == 2 or method != "GET":
                    raise
                continue
            except Exception:
                self.close()
                raise
            if response.will_close:
                self.close()
            return answer
        raise AssertionError("not reached")

    def get(self, path, **headers):
        return self.request("GET", path, headers=headers)

    def close(self):
        connection = getattr(self.local, "connection", None)
        self.local.connection = None
        if connection is not None:
            connection.close()


class Mllp:
    """One connection. `exchange` sends a message and gives its acknowledgement's bytes."""

    def __init__(self, host, port, timeout=30):
        self.sock = socket.create_connection((host, port), timeout=timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def send_raw(self, data):
        self.sock.sendall(data)

    def send(self, *messages):
        self.sock.sendall(b"".join(VT + message + FS + CR for message in messages))

    def receive(self):
        """The next frame's content; it must be framed exactly. ConnectionError when the peer closes first."""
        while FS + CR not in self.buffer:
            part = self.sock.recv(65536)
            if not part:
                raise ConnectionError(f"closed by the peer with {self.buffer[:100]!r} left")
            self.buffer += part
        frame, _, self.buffer = self.buffer.partition(FS + CR)
        assert frame[:1] == VT, f"no frame: {frame[:100]!r}"
        return frame[1:]

    def exchange(self, message):
        self.send(message)
        return self.receive()

    def ack(self, message):
        return hl7.Message(self.exchange(message))

    def closed_by_peer(self):
        """Waits for the peer's close (bounded by the time-out)."""
        try:
            while True:
                part = self.sock.recv(65536)
                if not part:
                    return True
                self.buffer += part
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
