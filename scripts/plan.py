"""Chooses the addresses of one `scripts/up`: reads what the production file asks for, what options demand and what
the folder used last time, and prints shell assignments.

A port that an option demands must be free. Otherwise the configured port is taken when it is free, then last
time's, then any free one, and standard error says which.
"""

import os
import re
import shlex
import socket
import sys

import yaml

DEFAULT_HTTP = "127.0.0.1:8080"
DEFAULT_WORKER = "127.0.0.1:9090"


class Refused(Exception):
    pass


def expand(text):
    """${NAME} and ${NAME:-default}, as the programs do in the file's values."""
    return re.sub(
        r"\$\{(\w+)(?::-([^}]*))?\}",
        lambda found: os.environ.get(found.group(1)) or found.group(2) or "",
        text,
    )


def split_listen(listen):
    host, _, port = expand(str(listen)).rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise Refused(f"not an address and port: {listen}")
    return host.strip("[]") or "127.0.0.1", int(port)


def take(host, port):
    """A listening socket, kept open so that no second one gets the same port; None where that is not possible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(1)
    except OSError:
        sock.close()
        return None
    return sock


class Plan:
    def __init__(self, last):
        self.last = last
        self.sockets = []
        self.chosen = {}

    def choose(self, name, host, demanded=0, configured=0, quiet=False):
        if demanded:
            sock = take(host, demanded)
            if sock is None:
                raise Refused(f"port {demanded}, asked for {name}, is taken on {host}")
        else:
            sock = None
            for port in (configured, self.last.get(name, 0)):
                sock = sock or (take(host, port) if port else None)
            sock = sock or take(host, 0)
            if sock is None:
                raise Refused(f"cannot listen on {host} for {name}")
        port = sock.getsockname()[1]
        if configured and not demanded and port != configured and not quiet:
            print(f"up: port {configured} is taken, {name} listens on {port}", file=sys.stderr)
        self.sockets.append(sock)
        self.chosen[name] = port
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def read_last(path):
    """Lines "name port"."""
    last = {}
    try:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                name, port = line.split()
                last[name] = int(port)
    except (OSError, ValueError):
        pass
    return last


def reachable(listen):
    """How this machine reaches a listener, also one on every address."""
    host, port = split_listen(listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def main(config, last_path, workers, http_port, mllp_port):
    with open(config, encoding="utf-8") as stream:
        production = yaml.safe_load(stream) or {}
    dispatcher = production.get("dispatcher") or {}
    http = (dispatcher.get("http") or {}).get("listen", DEFAULT_HTTP)
    listeners = dispatcher.get("mllp") or []
    items = production.get("items") or []
    worker = (production.get("worker") or {}).get("listen", DEFAULT_WORKER)

    plan = Plan(read_last(last_path))
    out = {}
    # An explicit demand first, so that nothing chosen freely takes its port.
    if mllp_port and not listeners:
        raise Refused("--mllp: the production file has no MLLP listener")
    host, port = split_listen(os.environ.get("HIE_HTTP_LISTEN") or http)
    out["HIE_HTTP_LISTEN"] = plan.choose("HTTP", host, http_port, port)
    out["HTTP_URL"] = "http://" + reachable(out["HIE_HTTP_LISTEN"])
    if listeners:
        host, port = split_listen(os.environ.get("HIE_MLLP_LISTEN") or listeners[0]["listen"])
        out["HIE_MLLP_LISTEN"] = plan.choose("MLLP", host, mllp_port, port)
    else:
        out["HIE_MLLP_LISTEN"] = ""
    out["MLLP"] = reachable(out["HIE_MLLP_LISTEN"]) if listeners else ""
    out["FIRST_ITEM"] = listeners[0]["item"] if listeners else items[0]["id"] if items else ""
    host, port = split_listen(os.environ.get("HIE_WORKER_LISTEN") or worker)
    # Only the first worker can have the configured port; that is nothing to report.
    listens = [plan.choose(f"worker-{n}", host, 0, port, quiet=n > 1) for n in range(1, workers + 1)]
    out["WORKER_LISTENS"] = " ".join(listens)
    out["WORKER_URLS"] = " ".join("http://" + reachable(listen) for listen in listens)
    for name in ("redis", "postgres"):
        plan.choose(name, "127.0.0.1")
        out[f"{name.upper()}_PORT"] = plan.chosen[name]

    with open(last_path, "w", encoding="utf-8") as lines:
        for name, port in {**plan.last, **plan.chosen}.items():
            lines.write(f"{name} {port}\n")
    for name, value in out.items():
        print(f"{name}={shlex.quote(str(value))}")


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], *(int(number) for number in sys.argv[3:6]))
    except (Refused, OSError, yaml.YAMLError, AttributeError, TypeError, KeyError) as error:
        sys.exit(f"up: {error}")
