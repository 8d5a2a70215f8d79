"""One HTTP/1.1 connection by hand, for thousands of requests or callers at once: far cheaper than http.client."""

import dataclasses
import socket


@dataclasses.dataclass
class Reply:
    status: int
    id: str  # the correlation id; "" without one
    head: bytes
    body: bytes


class Wire:
    """`exchange` posts and waits; `post` and `receive` are its halves. Requests of one connection are answered in turn."""

    def __init__(self, port, timeout=120):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def post(self, item_id, body, headers=None):
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"POST /v1/items/{item_id}/messages HTTP/1.1\r\nHost: fleet\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        self.sock.sendall(head.encode() + body)

    def read(self):
        part = self.sock.recv(65536)
        if not part:
            raise ConnectionError(f"closed by the peer with {self.buffer[:100]!r} left")
        self.buffer += part

    def receive(self):
        while b"\r\n\r\n" not in self.buffer:
            self.read()
        head, _, rest = self.buffer.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:] if b": " in line)
        length = int(headers[b"content-length"])
        self.buffer = rest
        while len(self.buffer) < length:
            self.read()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return Reply(int(lines[0].split()[1]), headers.get(b"x-correlation-id", b"").decode(), head, body)

    def exchange(self, item_id, body, headers=None):
        self.post(item_id, body, headers)
        return self.receive()
