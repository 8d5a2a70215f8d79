"""The system behind an HTTPSender: counts what it gets and answers as told."""

import collections
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """`status` is what it answers, or `judge(headers, body, times)` says it for the request that came `times` times before; `hang`
    makes it keep silent until `release`. `requests` are (headers, body)."""

    def __init__(self, port=0):
        self.status = 200
        self.judge = None
        self.times = collections.Counter()
        self.reply = b"received"
        self.requests = []
        self.lock = threading.Lock()
        self.free = threading.Event()
        self.free.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                if len(body) < length:
                    self.close_connection = True  # its sender died in the middle
                    return
                with outer.lock:
                    outer.requests.append((dict(self.headers.items()), body))
                    before = outer.times[body]
                    outer.times[body] += 1
                outer.free.wait(120)
                status = outer.judge(self.headers, body, before) if outer.judge else outer.status
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "text/plain")
                    self.send_header("Content-Length", str(len(outer.reply)))
                    self.end_headers()
                    self.wfile.write(outer.reply)
                except OSError:
                    self.close_connection = True  # the sender gave up waiting

            do_PUT = do_POST

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/in"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def hang(self):
        self.free.clear()

    def release(self):
        self.free.set()

    def bodies(self):
        """How often each body came."""
        with self.lock:
            return collections.Counter(body for _, body in self.requests)

    def of(self, body):
        """The headers of every request with this body."""
        with self.lock:
            return [headers for headers, seen in self.requests if seen == body]

    def close(self):
        self.release()
        self.server.shutdown()
        self.server.server_close()
